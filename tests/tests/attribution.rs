//! Attribution against the clock of the test: bytes are sent at known times while the agent is stopped, so only the
//! kernel's marks, joined by the exact byte offset, can tell when they came. Needs attached probes, but for what goes by stamps.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

#[path = "attribution/far.rs"]
mod far;
#[path = "attribution/pipelined.rs"]
mod pipelined;
#[path = "attribution/stamped.rs"]
mod stamped;
#[path = "attribution/tls.rs"]
mod tls;
#[path = "attribution/unanswered.rs"]
mod unanswered;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wayspan_tests::http::Connection;
use wayspan_tests::{Agent, Jaeger, PATIENCE, Part, Reply, Span, Upstream, config, eventually};

// Between two segments that must be told apart.
const PAUSE: Duration = Duration::from_millis(80);

// How late the kernel may hand a segment over on a busy machine. Far below a pause, so one byte off is told.
const SLACK: Duration = Duration::from_millis(30);

/// When a call of the test's began and when it had returned: what it did happened in between, however busy the machine is.
#[derive(Clone, Copy, Debug)]
struct At(Instant, Instant);

fn at(call: impl FnOnce()) -> At {
    let begun = now();
    call();
    At(begun, now())
}

#[expect(clippy::disallowed_methods, reason = "the clock that the kernel's marks are held against")]
fn now() -> Instant {
    Instant::now()
}

/// Sends each part in a segment of its own, a pause behind each.
fn send_apart(stream: &mut impl Write, parts: &[&[u8]]) -> Vec<At> {
    let send = |part: &&[u8]| {
        let sent = at(|| stream.write_all(part).unwrap());
        std::thread::sleep(PAUSE);
        sent
    };
    parts.iter().map(send).collect()
}

fn pid(agent: &Agent) -> Pid {
    Pid::from_raw(i32::try_from(agent.process.pid()).unwrap()).unwrap()
}

/// Waits until the kernel shows all of the agent's workers in that state (proc_pid_stat(5)).
fn workers_are(agent: Pid, state: char) {
    eventually(&format!("the workers are {state}"), || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", agent.as_raw_pid())).unwrap();
        let stats: Vec<String> =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()).collect();
        let states: Vec<&str> =
            stats.iter().filter_map(|stat| stat.split_once("(worker-")?.1.split(") ").nth(1)).collect();
        assert!(!states.is_empty(), "no worker among {stats:?}");
        states.iter().all(|is| is.starts_with(state)).then_some(())
    });
}

/// Stops the agent when its workers sleep: they do so only to wait for events, so that whatever they have read and written
/// is stamped. It runs on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(agent: Pid) -> Self {
        workers_are(agent, 'S');
        kill_process(agent, Signal::STOP).unwrap();
        let stopped = Self(agent);
        // One thread takes the signal and stops the others.
        workers_are(agent, 'T');
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A server that hands each request's path and its connection to `answer`.
fn scripted(answer: impl Fn(&str, &mut TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                while let Some(head) = read_until(&mut stream, b"\r\n\r\n") {
                    answer(head.split(' ').nth(1).unwrap(), &mut stream);
                }
            });
        }
    });
    address
}

/// Reads up to and with these bytes; `None` where the peer has closed before.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    Some(String::from_utf8(text).unwrap())
}

const SHORT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
const BODY: &[u8] = b"late";

/// The SERVER span of the request with that path, once Jaeger has it.
fn server_span(jaeger: &Jaeger, path: &str) -> Span {
    eventually(&format!("the span of {path} is in Jaeger"), || {
        let traces = jaeger.traces("wayspan", 50).ok()?;
        let spans = traces.into_iter().flat_map(|trace| trace.spans);
        spans.into_iter().find(|span| span.kind() == "server" && span.tag("url.path") == Some(path))
    })
}

fn phase_us(span: &Span, phase: &str) -> u64 {
    span.phases().iter().find(|(name, _)| *name == phase).map_or(0, |(_, micros)| *micros)
}

/// The phase is the time from one call to the other.
#[track_caller]
fn lasts(span: &Span, phase: &str, from: At, to: At) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
    let shortest = micros(to.0.saturating_duration_since(from.1).saturating_sub(SLACK));
    let longest = micros(to.1.duration_since(from.0) + SLACK);
    let got = phase_us(span, phase);
    assert!(
        (shortest..=longest).contains(&got),
        "{phase} is {got} us, not {shortest}..={longest}; all: {:?}",
        span.phases()
    );
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
    let stopped = Stopped::new(pid(&agent));
    let request = b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n";
    let (first, rest) = request.split_at(1);
    let (middle, last) = rest.split_at(rest.len() - 1);
    let sent = send_apart(&mut connection.stream(), &[first, middle, last]);
    let read = at(|| {
        drop(stopped);
        assert_eq!(connection.read_response("GET").unwrap().status, 200);
    });

    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    // From the first byte alone to the last byte alone: one byte off at either end makes it a pause less.
    lasts(&span, "client_send", sent[0], sent[2]);
    lasts(&span, "read_wait", sent[2], read);
}

/// Starts an agent in front of a server that answers `/timed` with `begin` at once, and with the rest, its first byte
/// alone, while the agent is stopped, once the client has seen `begin`. The span; when the rest's first byte was sent; when
/// it was read.
fn answered_while_stopped(begin: &'static [u8], rest: &'static [u8]) -> (Span, At, At) {
    let jaeger = Jaeger::start().unwrap();
    let (tell, agent_of) = mpsc::channel::<Pid>();
    let (times, told) = mpsc::channel();
    let agent_of = Arc::new(Mutex::new(agent_of));
    let upstream = scripted(move |path, stream| {
        if path != "/timed" {
            return stream.write_all(SHORT).unwrap();
        }
        stream.write_all(begin).unwrap();
        let stopped = Stopped::new(agent_of.lock().unwrap().recv_timeout(PATIENCE).unwrap());
        let (first, others) = rest.split_at(1);
        let sent = send_apart(stream, &[first, others]);
        times.send((sent[0], now())).unwrap();
        drop(stopped);
    });
    let config = config::forward("PathPrefix(`/`)", upstream) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /first HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    read_until(&mut client, BODY).unwrap();
    client.write_all(b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    if !begin.is_empty() {
        read_until(&mut client, &begin[begin.len() - 5..]).unwrap();
    }
    tell.send(pid(&agent)).unwrap();
    read_until(&mut client, &BODY[BODY.len() - 3..]).unwrap();
    let (first, on) = told.recv_timeout(PATIENCE).unwrap();
    let read = At(on, now());
    (server_span(&jaeger, "/timed"), first, read)
}

#[test]
fn a_response_that_waits_unread_is_the_proxys_time_from_its_first_byte_on() {
    let (span, first, read) = answered_while_stopped(b"", SHORT);
    exact_and_full(&span);
    // One byte off, and one of the proxy's pauses would be the backend's or the network's.
    lasts(&span, "upstream_read_wait", first, read);
}

#[test]
fn a_body_that_waits_unread_is_the_proxys_time_from_its_first_byte_on() {
    let (begin, rest) = SHORT.split_at(SHORT.len() - 3);
    let (span, first, read) = answered_while_stopped(begin, rest);
    exact_and_full(&span);
    lasts(&span, "upstream_read_wait", first, read);
}

#[test]
fn a_request_cut_off_by_its_upstream_leaves_a_span_too() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::default().then(Part::Pause(PAUSE)).then(Part::Reset)).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    let asked = at(|| {
        let answer = connection.request("POST", "h", "/cut", &[], b"body").unwrap();
        assert_eq!(answer.status, 502);
    });
    let span = server_span(&jaeger, "/cut");
    assert_eq!(span.tag("http.response.status_code"), Some("502"));
    assert_eq!(span.tag("error"), Some("true"), "{:?}", span.tags);
    let longest = u64::try_from((asked.1 - asked.0).as_micros()).unwrap();
    let pause = u64::try_from(PAUSE.as_micros()).unwrap();
    assert!((pause..=longest).contains(&phase_us(&span, "upstream_wait")), "{:?}", span.phases());
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
    assert_eq!(connection.get("h", "/first").unwrap().status, 200);
    let asked = at(|| assert_eq!(connection.get("h", "/again").unwrap().status, 200));
    let span = server_span(&jaeger, "/again");
    exact_and_full(&span);
    let longest = u64::try_from((asked.1 - asked.0).as_micros()).unwrap();
    let pause = u64::try_from(PAUSE.as_micros()).unwrap();
    assert!((pause..=longest).contains(&phase_us(&span, "retry_wait")), "{:?}", span.phases());
    let traces = jaeger.traces("wayspan", 50).unwrap();
    let trace = traces.iter().find(|trace| trace.spans.iter().any(|other| other.id == span.id)).unwrap();
    let attempts: Vec<_> = trace.children(&span).filter(|child| child.kind() == "client").collect();
    let resent: Vec<_> = attempts.iter().map(|attempt| attempt.tag("http.request.resend_count")).collect();
    assert_eq!(resent.len(), 2, "{attempts:?}");
    assert!(resent.contains(&None) && resent.contains(&Some("1")), "{attempts:?}");
}
