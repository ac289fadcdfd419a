//! The same without probes, by an agent that runs as nobody: the kernel's stamps of what was read tell what waited for the agent.

use std::net::Ipv4Addr;
use std::process::Command;

use wayspan_tests::otlp::{self, Value};

use super::*;

/// Debian's nobody; any id without rights does.
const NOBODY: [&str; 6] = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
const STAMPED: &str = "partial: probes unavailable, timestamps";

/// The SERVER spans, as they come.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl Spans {
    fn receive(&self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let spans = self.clone();
        otlp::receive(listener, move |message| {
            // Field 6 is the kind, of which 2 is SERVER; 7 and 8 are start and end.
            let servers = otlp::spans(message).filter(|span| otlp::number(span, 6) == Some(2));
            spans.0.lock().unwrap().extend(servers.map(|span| {
                let at_us = |field| otlp::number(span, field).unwrap() / 1000;
                let tags = otlp::attributes(span).map(|(key, _, value)| {
                    let value = match value {
                        Value::Number(number) => number.to_string(),
                        Value::Bytes(text) => String::from_utf8_lossy(text).into_owned(),
                    };
                    (key.to_owned(), value)
                });
                let (start_us, duration_us) = (at_us(7), at_us(8) - at_us(7));
                Span { start_us, duration_us, tags: tags.collect(), ..Span::default() }
            }));
        });
        address
    }

    fn of(&self, path: &str) -> Span {
        eventually(&format!("the span of {path} has come"), || {
            self.0.lock().unwrap().iter().find(|span| span.tag("url.path") == Some(path)).cloned()
        })
    }
}

/// An agent of nobody's before that server. What it is told is stamped.
struct Nobodys {
    agent: Agent,
    spans: Spans,
    client: TcpStream,
    /// Its binary's, where nobody may run it.
    _directory: tempfile::TempDir,
}

impl Nobodys {
    fn start(server: SocketAddr) -> Self {
        let spans = Spans::default();
        let config = config::forward("PathPrefix(`/`)", server)
            + &format!(
                "probes: {{timestamps: true}}
tracing: {{sampleRate: 1.0, otlp: {{interval: 50ms, http: {{endpoint: \"http://{}\"}}}}}}
",
                spans.receive()
            );
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut agent = Agent::start_with(&config, |binary| {
            let copy = directory.path().join("wayspan");
            std::fs::copy(binary, &copy)?;
            let mut command = Command::new("setpriv");
            command.args(NOBODY).arg(copy);
            Ok(command)
        })
        .unwrap();
        let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"GET /first HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
        read_until(&mut client, BODY).unwrap();
        // It has waited until the kernel stamped what comes.
        assert_eq!(spans.of("/first").tag("wayspan.coverage"), Some(STAMPED), "{}", agent.process.log_tail());
        Self { agent, spans, client, _directory: directory }
    }
}

#[track_caller]
fn sums(span: &Span) {
    let sum: u64 = span.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, span.duration_us, "{:?}", span.phases());
}

#[test]
fn a_request_that_waits_for_a_stopped_agent_is_its_time_and_nobody_elses() {
    let mut nobodys = Nobodys::start(scripted(|_, stream| stream.write_all(SHORT).unwrap()));
    let posted = b"POST /posted HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n";
    let unseen = format!("{STAMPED}, client bytes unseen");
    for (path, request, coverage) in [
        ("/timed", b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n".as_slice(), STAMPED),
        ("/posted", posted, STAMPED),
        // Of what has bytes behind it in its read only the latest beginning is known.
        ("/one", b"GET /one HTTP/1.1\r\nhost: h\r\n\r\nGET /two HTTP/1.1\r\nhost: h\r\n\r\n", unseen.as_str()),
    ] {
        let stopped = Stopped::new(pid(&nobodys.agent));
        let [sent] = send_apart(&mut nobodys.client, &[request])[..] else { panic!("one part was sent") };
        let read = at(|| {
            drop(stopped);
            read_until(&mut nobodys.client, BODY).unwrap();
        });
        let span = nobodys.spans.of(path);
        assert_eq!(span.tag("wayspan.coverage"), Some(coverage), "{path}: {:?}", span.tags);
        sums(&span);
        lasts(&span, "read_wait", sent, read);
        assert_eq!(span.tag("wayspan.blame"), Some("proxy_queue"), "{path}: {:?}", span.phases());
    }
}

#[test]
fn a_head_in_two_reads_is_the_clients_time_between_their_stamps() {
    let mut nobodys = Nobodys::start(scripted(|_, stream| stream.write_all(SHORT).unwrap()));
    let (first, rest) = b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n".split_at(9);
    let sent = send_apart(&mut nobodys.client, &[first]);
    let last = at(|| nobodys.client.write_all(rest).unwrap());
    read_until(&mut nobodys.client, BODY).unwrap();
    let span = nobodys.spans.of("/timed");
    assert_eq!(span.tag("wayspan.coverage"), Some(STAMPED), "{:?}", span.tags);
    sums(&span);
    lasts(&span, "client_send", sent[0], last);
}

#[test]
fn a_response_that_waits_for_a_stopped_agent_is_its_time_and_nobody_elses() {
    let (tell, agent_of) = mpsc::channel::<Pid>();
    let (times, told) = mpsc::channel();
    let agent_of = Arc::new(Mutex::new(agent_of));
    let mut nobodys = Nobodys::start(scripted(move |path, stream| {
        if path != "/timed" {
            return stream.write_all(SHORT).unwrap();
        }
        let stopped = Stopped::new(agent_of.lock().unwrap().recv_timeout(PATIENCE).unwrap());
        let [sent] = send_apart(stream, &[SHORT])[..] else { panic!("one part was sent") };
        times.send((sent, now())).unwrap();
        drop(stopped);
    }));
    tell.send(pid(&nobodys.agent)).unwrap();
    nobodys.client.write_all(b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    read_until(&mut nobodys.client, BODY).unwrap();
    let (sent, on) = told.recv_timeout(PATIENCE).unwrap();
    let span = nobodys.spans.of("/timed");
    assert_eq!(span.tag("wayspan.coverage"), Some(STAMPED), "{:?}", span.tags);
    sums(&span);
    lasts(&span, "upstream_read_wait", sent, At(on, now()));
    assert_eq!(span.tag("wayspan.blame"), Some("proxy_queue"), "{:?}", span.phases());
}
