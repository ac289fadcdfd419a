//! The real parts by themselves: Jaeger and Hot R.O.D. come up on private addresses and show the traces that the other
//! tests build on. Leaves the agent to those.

use wayspan_tests::{HotRod, Jaeger, eventually, http};

#[test]
fn hot_rod_leaves_a_trace_over_six_services_in_jaeger() {
    let jaeger = Jaeger::start().unwrap();
    let hotrod = HotRod::start(&jaeger).unwrap();
    let answer = http::get(hotrod.frontend(), "hotrod.localhost", "/dispatch?customer=392").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.json().unwrap()["Driver"].is_string(), "{}", answer.text());
    let trace = eventually("a trace over all of Hot R.O.D.'s services", || {
        let traces = jaeger.traces("frontend", 20).ok()?;
        traces.into_iter().find(|trace| HotRod::SERVICES.iter().all(|name| trace.of(name).next().is_some()))
    });
    let root = trace.roots().next().unwrap();
    assert_eq!((root.service.as_str(), root.kind()), ("frontend", "server"));
    assert!(trace.children(root).count() > 0 && trace.spans.len() > 20, "{} spans", trace.spans.len());
    let edges = jaeger.dependencies().unwrap();
    assert!(edges.iter().any(|edge| edge.parent == "frontend" && edge.child == "customer" && edge.calls == 1));
}

#[test]
fn jaeger_reads_its_sampling_strategies_again_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("strategies.json");
    let write = |rate: f64| {
        let text = format!(r#"{{"default_strategy": {{"type": "probabilistic", "param": {rate}}}}}"#);
        std::fs::write(&file, text).unwrap();
    };
    write(0.25);
    let jaeger = Jaeger::start_with_strategies(&file).unwrap();
    let rate = || {
        let answer = http::get(jaeger.sampling(), "localhost", "/api/sampling?service=wayspan").ok()?.json().ok()?;
        answer["probabilisticSampling"]["samplingRate"].as_f64()
    };
    eventually("the first strategy", || (rate() == Some(0.25)).then_some(()));
    write(0.75);
    eventually("the second strategy", || (rate() == Some(0.75)).then_some(()));
}
