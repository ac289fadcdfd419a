//! Sampling by the real Jaeger's strategies: obeyed per operation, changed while both run, kept when Jaeger is gone.
//! What was decided is read where it matters: in the traceparent that the backend gets.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use wayspan_tests::http::Connection;
use wayspan_tests::{Agent, Jaeger, Reply, Upstream, config, eventually};

const RULE: &str = "Host(`a.example`) || Host(`b.example`)";

/// Sends a request and tells whether the backend was told that it is sampled.
fn is_sampled(connection: &mut Connection, upstream: &Upstream, host: &str) -> bool {
    assert_eq!(connection.get(host, "/").unwrap().status, 200);
    let request = upstream.requests().pop().unwrap();
    let traceparent = request.header("traceparent").unwrap().to_owned();
    let flags = traceparent.rsplit('-').next().unwrap();
    u8::from_str_radix(flags, 16).unwrap() & 1 == 1
}

#[test]
fn jaegers_strategies_are_obeyed_per_operation_while_they_change_and_kept_when_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("strategies.json");
    let write = |a: f64, b: f64| {
        let text = format!(
            r#"{{"service_strategies": [{{"service": "wayspan", "type": "probabilistic", "param": 0,
                "operation_strategies": [
                    {{"operation": "GET a.example/", "type": "probabilistic", "param": {a}}},
                    {{"operation": "GET b.example/", "type": "probabilistic", "param": {b}}}]}}]}}"#
        );
        std::fs::write(&file, text).unwrap();
    };
    write(1.0, 0.0);
    let jaeger = Jaeger::start_with_strategies(&file).unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = config::forward(RULE, upstream.address())
        + &config::traced(&jaeger)
        + &format!("  jaeger: {{samplingServerURL: \"http://{}/sampling\"}}\n", jaeger.sampling())
        + "sampling: {pollInterval: 200ms}\n";
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    let mut both =
        || (is_sampled(&mut connection, &upstream, "a.example"), is_sampled(&mut connection, &upstream, "b.example"));

    eventually("a is sampled, b is not", || (both() == (true, false)).then_some(()));
    write(0.0, 1.0);
    eventually("b is sampled, a is not", || (both() == (false, true)).then_some(()));

    let span = eventually("a sampled root span is in Jaeger", || {
        let traces = jaeger.traces("wayspan", 20).ok()?;
        traces.into_iter().flat_map(|trace| trace.spans).find(|span| span.kind() == "server")
    });
    assert_eq!(span.tag("sampler.type"), Some("probabilistic"), "{:?}", span.tags);
    assert_eq!(span.tag("sampler.param").and_then(|param| param.parse().ok()), Some(1.0), "{:?}", span.tags);

    drop(jaeger);
    // Longer than a few polls: the last good answer holds.
    for _ in 0..20 {
        assert_eq!(both(), (false, true));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
