//! Attribution against the clock of the test: bytes are sent at known times while the agent is stopped, so only the
//! kernel's marks, joined by the exact byte offset, can tell when they came. Needs attached probes.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wayspan_tests::http::Connection;
use wayspan_tests::{Agent, Jaeger, Part, Reply, Span, Upstream, config, eventually};

// Long against scheduling on two busy cores, short against patience.
const PAUSE: Duration = Duration::from_millis(80);

// How late a sleep may end, a segment may travel, a stopped process may run on.
const SLACK_US: u64 = 60_000;

fn pid(agent: &Agent) -> Pid {
    Pid::from_raw(i32::try_from(agent.process.pid()).unwrap()).unwrap()
}

/// The SERVER span of the request with that path, once Jaeger has it.
fn server_span(jaeger: &Jaeger, path: &str) -> Span {
    eventually(&format!("the span of {path} is in Jaeger"), || {
        let traces = jaeger.traces("wayspan", 50).ok()?;
        let spans = traces.into_iter().flat_map(|trace| trace.spans);
        spans.into_iter().find(|span| span.kind() == "server" && span.tag("url.path") == Some(path))
    })
}

#[track_caller]
fn about(span: &Span, phase: &str, expected: Duration) {
    let expected = u64::try_from(expected.as_micros()).unwrap();
    let got = span.phases().iter().find(|(name, _)| *name == phase).map_or(0, |(_, micros)| *micros);
    let range = expected.saturating_sub(1_000)..=expected + SLACK_US;
    assert!(range.contains(&got), "{phase} is {got} us, expected {range:?}; all: {:?}", span.phases());
}

#[track_caller]
fn exact_and_full(span: &Span) {
    assert_eq!(span.tag("wayspan.coverage"), Some("full"), "{:?}", span.tags);
    let sum: u64 = span.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, span.duration_us, "{:?}", span.phases());
}

#[test]
fn first_and_last_byte_of_a_request_are_timed_by_the_kernel_to_the_byte() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    assert_eq!(connection.get("h", "/first").unwrap().status, 200);

    // All of the second request comes while the agent is stopped: its own reads see one burst at the very end.
    agent.process.signal(Signal::STOP).unwrap();
    let request = b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n";
    let (first, rest) = request.split_at(1);
    let (middle, last) = rest.split_at(rest.len() - 1);
    for part in [first, middle, last] {
        connection.send(part).unwrap();
        std::thread::sleep(PAUSE);
    }
    agent.process.signal(Signal::CONT).unwrap();
    assert_eq!(connection.read_response("GET").unwrap().status, 200);

    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    // From the first byte alone to the last byte alone: one byte off at either end makes it half or less.
    about(&span, "client_send", 2 * PAUSE);
    about(&span, "read_wait", PAUSE);
}

#[test]
fn a_response_that_waits_unread_is_the_proxys_time_and_not_the_backends() {
    let jaeger = Jaeger::start().unwrap();
    let stopped: Arc<Mutex<Option<Pid>>> = Arc::default();
    let upstream = Upstream::start({
        let stopped = Arc::clone(&stopped);
        move |request| {
            let agent = *stopped.lock().unwrap();
            let Some(agent) = agent.filter(|_| request.target == "/timed") else { return Reply::ok("") };
            // Stops the agent while the backend works; it runs on one pause after the response is there.
            kill_process(agent, Signal::STOP).unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(2 * PAUSE);
                kill_process(agent, Signal::CONT).unwrap();
            });
            Reply::ok("late").after(PAUSE)
        }
    })
    .unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    assert_eq!(connection.get("h", "/first").unwrap().status, 200);
    *stopped.lock().unwrap() = Some(pid(&agent));
    assert_eq!(connection.get("h", "/timed").unwrap().text(), "late");

    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    about(&span, "backend_app", PAUSE);
    about(&span, "upstream_read_wait", PAUSE);
}

#[test]
fn a_request_cut_off_by_its_upstream_leaves_a_span_too() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::default().then(Part::Pause(PAUSE)).then(Part::Reset)).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    let answer = connection.request("POST", "h", "/cut", &[], b"body").unwrap();
    assert_eq!(answer.status, 502);
    let span = server_span(&jaeger, "/cut");
    assert_eq!(span.tag("http.response.status_code"), Some("502"));
    assert_eq!(span.tag("error"), Some("true"), "{:?}", span.tags);
    about(&span, "upstream_wait", PAUSE);
}

#[test]
fn a_request_that_was_sent_again_shows_both_attempts() {
    let jaeger = Jaeger::start().unwrap();
    // The first connection ends with its second request, as if its server had closed it just then.
    let upstream = Upstream::start(|request| match (request.connection, request.target.as_str()) {
        (0, "/again") => Reply::default().then(Part::Pause(PAUSE)).then(Part::Close),
        _ => Reply::ok("here"),
    })
    .unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    for path in ["/first", "/again"] {
        assert_eq!(connection.get("h", path).unwrap().status, 200);
    }
    let span = server_span(&jaeger, "/again");
    exact_and_full(&span);
    about(&span, "retry_wait", PAUSE);
    let traces = jaeger.traces("wayspan", 50).unwrap();
    let trace = traces.iter().find(|trace| trace.spans.iter().any(|other| other.id == span.id)).unwrap();
    let attempts: Vec<_> = trace.children(&span).filter(|child| child.kind() == "client").collect();
    let resent: Vec<_> = attempts.iter().map(|attempt| attempt.tag("http.request.resend_count")).collect();
    assert_eq!(resent.len(), 2, "{attempts:?}");
    assert!(resent.contains(&None) && resent.contains(&Some("1")), "{attempts:?}");
}
