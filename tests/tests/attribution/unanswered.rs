//! Requests that no answer came to: the backend had read them, so the time is its own.

use std::net::Shutdown;

use super::*;

const BACKENDS: &str = "probes: {backends: true}\n";

/// A request that a server on a kept connection has read and does not answer.
struct Silent {
    jaeger: Jaeger,
    _agent: Agent,
    client: TcpStream,
    sent: Instant,
    /// When the server had it, and the server's connection.
    taken: mpsc::Receiver<(Instant, TcpStream)>,
    /// When that connection was over.
    over: mpsc::Receiver<Instant>,
}

impl Silent {
    fn start(timeouts: &str) -> Self {
        let jaeger = Jaeger::start().unwrap();
        let ((tell, taken), (ends, over)) = (mpsc::channel(), mpsc::channel());
        let upstream = scripted(move |path, stream| {
            if path != "/timed" {
                return stream.write_all(SHORT).unwrap();
            }
            tell.send((now(), stream.try_clone().unwrap())).unwrap();
            let _ = stream.read(&mut [0]);
            ends.send(now()).unwrap();
        });
        let config = config::forward("PathPrefix(`/`)", upstream) + timeouts + BACKENDS + &config::traced(&jaeger);
        let mut agent = Agent::start(&config).unwrap();
        let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server's connection is accepted from now on.
        client.write_all(b"GET /first HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
        read_until(&mut client, BODY).unwrap();
        let sent = now();
        // A POST is not sent again.
        client.write_all(b"POST /timed HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").unwrap();
        Self { jaeger, _agent: agent, client, sent, taken, over }
    }

    fn taken(&self) -> (At, TcpStream) {
        let (at, server) = self.taken.recv_timeout(PATIENCE).unwrap();
        (At(self.sent, at), server)
    }

    fn over(&self) -> Instant {
        self.over.recv_timeout(PATIENCE).unwrap()
    }

    fn answer(&mut self) -> String {
        read_until(&mut self.client, b"\r\n\r\n").unwrap()
    }
}

/// All the time from the server's reading to the end is the server's.
#[track_caller]
fn is_the_backends(jaeger: &Jaeger, taken: At, end: At) {
    let span = server_span(jaeger, "/timed");
    exact_and_full(&span);
    lasts(&span, "backend_app", taken, end);
    assert_eq!(span.tag("wayspan.blame"), Some("backend"), "{:?}", span.phases());
}

#[test]
fn a_client_that_gives_up_leaves_the_time_to_the_backend_that_works() {
    let silent = Silent::start("");
    let (taken, _server) = silent.taken();
    std::thread::sleep(PAUSE);
    let going = now();
    silent.client.shutdown(Shutdown::Both).unwrap();
    is_the_backends(&silent.jaeger, taken, At(going, silent.over()));
}

#[test]
fn a_backend_that_closes_without_an_answer_has_the_time_until_then() {
    let mut silent = Silent::start("");
    let (taken, server) = silent.taken();
    std::thread::sleep(PAUSE);
    let closing = now();
    server.shutdown(Shutdown::Both).unwrap();
    let answer = silent.answer();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    is_the_backends(&silent.jaeger, taken, At(closing, now()));
}

#[test]
fn a_backend_that_never_answers_has_the_time_until_it_is_up() {
    let mut silent = Silent::start("serversTransport: {forwardingTimeouts: {responseHeaderTimeout: 100ms}}\n");
    let (taken, _server) = silent.taken();
    let answer = silent.answer();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    is_the_backends(&silent.jaeger, taken, At(silent.sent + Duration::from_millis(100), now()));
}
