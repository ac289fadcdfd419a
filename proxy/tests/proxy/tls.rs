//! TLS at an entry point: a client that makes its own records, so that it knows where on the wire each of its bytes lies.

use std::collections::HashMap;
use std::ops::Range;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, ServerConfig};
use wayspan_proxy::tls::{Choice, Options};

use super::marks::Watcher;
use super::*;

/// One certificate for whoever asks.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn options(name: &str) -> Arc<Options> {
    let made = rcgen::generate_simple_self_signed(vec!["app.localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(One(Arc::new(key))));
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    Arc::new(Options { name: name.into(), config: Arc::new(config) })
}

pub(super) fn choice() -> Arc<Choice> {
    let strict = ("strict.localhost".to_owned(), options("strict"));
    Arc::new(Choice::new(options("default"), [strict]))
}

fn client_config() -> Arc<ClientConfig> {
    wayspan_tests::tls::settings(None, false).unwrap()
}

/// A client that counts what it has on the wire.
pub(super) struct Client {
    tls: ClientConnection,
    stream: TcpStream,
    sent: u64,
    received: u64,
}

impl Client {
    pub(super) fn connect(world: &World, name: &str) -> Self {
        Self::with(world, name, client_config())
    }

    fn with(world: &World, name: &str, config: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        let mut client = Self { tls, stream: world.connect(), sent: 0, received: 0 };
        while client.tls.is_handshaking() {
            client.flush();
            if client.tls.wants_read() {
                client.receive().unwrap();
            }
        }
        client.flush();
        client
    }

    /// Sends what rustls has, and says where on the wire it lies.
    fn flush(&mut self) -> Range<u64> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        self.stream.write_all(&bytes).unwrap();
        let start = self.sent;
        self.sent += u64::try_from(bytes.len()).unwrap();
        start..self.sent
    }

    /// Sends these bytes in a record of their own.
    pub(super) fn record(&mut self, plain: &[u8]) -> Range<u64> {
        self.tls.writer().write_all(plain).unwrap();
        self.flush()
    }

    fn receive(&mut self) -> std::io::Result<usize> {
        let count = self.tls.read_tls(&mut self.stream)?;
        self.received += u64::try_from(count).unwrap();
        self.tls.process_new_packets().map_err(std::io::Error::other)?;
        Ok(count)
    }

    /// One response with a length.
    pub(super) fn response(&mut self) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.read_exact(&mut body).unwrap();
        (head, body)
    }
}

impl Read for Client {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.tls.reader().read(out) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.receive()?;
                }
                read => return read,
            }
        }
    }
}

fn secure(upstream: SocketAddr) -> Setup {
    Setup { tls: Some(choice()), ..Setup::to(upstream) }
}

/// What was asked of the client's side behind the greeting: its first byte is asked for, too.
fn asked(watcher: &Watcher) -> Vec<Range<u64>> {
    let mut asked = std::mem::take(&mut watcher.0.lock().unwrap().client);
    if asked.first() == Some(&(0..1)) {
        asked.remove(0);
    }
    asked
}

fn first(record: &Range<u64>) -> Range<u64> {
    record.start..record.start + 1
}

fn last(record: &Range<u64>) -> Range<u64> {
    record.end - 1..record.end
}

#[test]
fn times_are_asked_for_by_the_records_that_the_bytes_came_in() {
    let watcher = Watcher::default();
    let world = secure(upstream(ok("x"))).start_with(watcher.clone());
    let request = get("/a");
    for cut in 1..request.len() {
        let mut client = Client::connect(&world, "app.localhost");
        let (begin, end) = request.as_bytes().split_at(cut);
        let (begin, end) = (client.record(begin), client.record(end));
        client.response();
        assert_eq!(asked(&watcher), [first(&begin), last(&end)], "cut at {cut}");
    }
    let mut client = Client::connect(&world, "app.localhost");
    // Several requests in a record, the last of them over three.
    let both = client.record((get("/a") + &get("/b") + "GET ").as_bytes());
    client.record(b"/c HTTP/1.1\r\nHost: app.local");
    let end = client.record(b"host\r\n\r\n");
    for _ in 0..3 {
        client.response();
    }
    let expected = [first(&both), last(&both), first(&both), last(&both), first(&both), last(&end)];
    assert_eq!(asked(&watcher), expected);
}

#[test]
fn a_record_says_what_the_connection_is_and_where_on_the_wire_its_bytes_are() {
    let mut world = secure(upstream(ok("hello"))).start();
    let mut client = Client::connect(&world, "app.localhost");
    for round in 0..2 {
        let request = client.record(get("/").as_bytes());
        assert_eq!(client.response().1, b"hello");
        let head = world.records(1)[0].head;
        assert_eq!((head.request_start, head.request_head_end), (request.start, request.end));
        assert!(0 < head.response_start && head.response_start < head.response_end, "{head:?}");
        assert_eq!(head.response_end, client.received, "{round}");
        assert!(head.head_written <= head.ended && head.head_written.0 > 0);
        assert_eq!(head.request_index, round);
        assert!(head.https && head.tls.handshake_ns > 0 && head.tls.version == 0x0304, "{head:?}");
        assert_eq!((head.tls.resumed, head.tls.cipher >> 8), (false, 0x13));
    }
    let config = client_config();
    for resumed in [false, true] {
        let mut client = Client::with(&world, "app.localhost", Arc::clone(&config));
        client.record(get("/").as_bytes());
        client.response();
        assert_eq!(world.records(1)[0].head.tls.resumed, resumed);
    }
    let (_, totals) = world.proxy.counters().read();
    assert_eq!((totals.tls_handshakes, totals.tls_resumed, totals.tls_failed), (3, 1, [0; 7]));
}

#[test]
fn a_refused_request_has_the_bytes_of_its_own_answer_on_the_wire() {
    for bad in ["GET / HTTP/1.1\nHost: a\n\n", "GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTT"] {
        for answered in [1, 0] {
            let mut setup = secure(upstream(ok("hello")));
            setup.limits.head_timeout = Duration::from_millis(300);
            let mut world = setup.start();
            let mut client = Client::connect(&world, "app.localhost");
            for _ in 0..answered {
                client.record(get("/").as_bytes());
                client.response();
            }
            client.record(bad.as_bytes());
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 4"), "{bad:?}");
            let records = world.records(answered + 1);
            let head = records.last().unwrap().head;
            // Behind it the goodbye, a record of 2 bytes in 22 of its own.
            assert_eq!(head.response_end, client.received - 24, "{bad:?}");
            assert_eq!(head.response_end - head.response_start, u64::try_from(answer.len()).unwrap() + 22, "{bad:?}");
            for before in &records[..answered] {
                assert_eq!(before.head.response_end, head.response_start, "{bad:?}");
            }
        }
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    const SIZE: usize = 3_000_000;
    let mut world = secure(upstream(|_, stream| {
        let mut body = vec![0; SIZE];
        stream.read_exact(&mut body).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").unwrap();
        stream.write_all(&body).is_ok()
    }))
    .start();
    let mut client = Client::connect(&world, "app.localhost");
    let body: Vec<u8> = (0..SIZE).map(|i| u8::try_from(i % 251).unwrap()).collect();
    client.record(format!("POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes());
    for part in body.chunks(50_000) {
        client.record(part);
    }
    assert!(client.response().1 == body);
    let head = world.records(1)[0].head;
    let size = u64::try_from(SIZE).unwrap();
    assert_eq!((head.request_body_bytes, head.response_body_bytes), (size, size));
    assert!(head.response_end == client.received && head.response_end > size);
    client.record(get("/").as_bytes());
    drop(client);
}

#[test]
fn a_response_ends_when_nothing_of_it_is_left_to_write() {
    const SIZE: usize = 12_000_000;
    let mut world = secure(upstream(|_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").unwrap();
        stream.write_all(&vec![7; SIZE]).is_ok()
    }))
    .start();
    let mut client = Client::connect(&world, "app.localhost");
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(128 * 1024).unwrap();
    client.record(get("/").as_bytes());
    // The proxy's socket is full when what waits here does not grow any more.
    let waiting = || rustix::io::ioctl_fionread(&client.stream).unwrap();
    let mut before = 0;
    while before == 0 || waiting() > before {
        before = waiting();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.response().1.len(), SIZE);
    let head = world.records(1)[0].head;
    assert_eq!(head.response_end, client.received);
    assert!(head.body.client_drain > 0, "{head:?}");
}

#[test]
fn a_body_that_is_cut_off_is_not_taken_for_whole() {
    for goodbye in [true, false] {
        let mut world = secure(upstream(|_, stream| {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            assert!(!all.windows(5).any(|end| end == b"0\r\n\r\n"), "it looked whole");
            false
        }))
        .start();
        let mut client = Client::connect(&world, "app.localhost");
        client.record(b"POST / HTTP/1.1\r\nHost: app.localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        if goodbye {
            client.tls.send_close_notify();
            client.flush();
        }
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let head = world.records(1)[0].head;
        assert_eq!((head.error, head.request_body_bytes), (ErrorKind::ClientGone, 5), "{goodbye}");
    }
}

#[test]
fn the_client_is_told_that_nothing_more_comes() {
    let world = secure(upstream(ok("x"))).start();
    let mut client = Client::connect(&world, "app.localhost");
    client.record(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nconnection: close\r\n\r\n");
    client.response();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "a close without a goodbye is an error");
    // Of an answer of our own, too.
    let mut client = Client::connect(&world, "app.localhost");
    client.record(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert!(client.response().0.starts_with("HTTP/1.1 400"));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_greeting_that_does_not_come_is_waited_for_as_long_as_a_head() {
    let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = Setup { limits, ..secure(upstream(ok("x"))) }.start();
    for (bytes, timed_out) in [(0, 0), (1, 1), (8, 2)] {
        let mut client = world.connect();
        client.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1][..bytes]).unwrap();
        assert!(closed(&mut client), "{bytes}");
        assert_eq!(world.proxy.counters().read().1.tls_failed[0], timed_out, "{bytes}");
    }
    // Half of a handshake.
    let tls = ClientConnection::new(client_config(), "app.localhost".try_into().unwrap()).unwrap();
    let mut client = Client { tls, stream: world.connect(), sent: 0, received: 0 };
    client.flush();
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).unwrap();
    assert!(!answer.is_empty());
    assert_eq!(world.proxy.counters().read().1.tls_failed[0], 3);
    // Half of a record, long after the handshake.
    let mut client = Client::connect(&world, "app.localhost");
    client.record(get("/").as_bytes());
    client.response();
    client.tls.writer().write_all(get("/").as_bytes()).unwrap();
    let mut record = Vec::new();
    client.tls.write_tls(&mut record).unwrap();
    client.stream.write_all(&record[..9]).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // A head behind a handshake.
    let mut client = Client::connect(&world, "app.localhost");
    client.record(b"GET / HTTP/1.1\r\nHost: app");
    assert!(client.response().0.starts_with("HTTP/1.1 408"));
}

#[test]
fn handshakes_that_fail_are_counted_by_reason_and_leave_no_record() {
    let mut world = secure(upstream(ok("x"))).start();
    let counted = |world: &World| {
        let failed = world.proxy.counters().read().1.tls_failed;
        wayspan_proxy::counters::TLS_FAILURES.into_iter().zip(failed).filter(|(_, n)| *n > 0).collect::<HashMap<_, _>>()
    };
    let mut client = world.connect();
    client.write_all(b"\x16\x03\x01\xff\xff").unwrap();
    assert!(closed(&mut client));
    let mut client = world.connect();
    client.write_all(b"\x16\x03\x01\x00\x04\x14\x00\x00\x00").unwrap();
    assert!(closed(&mut client));
    assert_eq!(counted(&world), [("malformed", 2)].into());
    let mut client = world.connect();
    client.write_all(b"\x16\x03\x01").unwrap();
    client.shutdown(std::net::Shutdown::Both).unwrap();
    let until = patience() + Duration::from_secs(5);
    while !counted(&world).contains_key("client_gone") {
        assert!(patience() < until, "{:?}", counted(&world));
    }
    // The next record is that of a request.
    let mut client = Client::connect(&world, "app.localhost");
    client.record(get("/only").as_bytes());
    client.response();
    assert_eq!(world.records(1)[0].path, "/only");
}

#[test]
fn one_address_takes_both_and_each_has_its_own_routes() {
    let setup = secure(upstream(ok("x")));
    let mut world = setup.start();
    let mut snapshot = setup.snapshot();
    Arc::get_mut(&mut snapshot.entry_points[0]).unwrap().routes = Arc::default();
    assert!(world.runtime.block_on(world.proxy.apply(snapshot)).is_empty());
    let mut plain = world.connect();
    plain.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut plain).0.starts_with("HTTP/1.1 404"));
    let mut client = Client::connect(&world, "app.localhost");
    client.record(get("/").as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 200"));
    let records = world.records(2);
    assert_eq!((records[0].head.https, records[1].head.https), (false, true));
    // Where TLS is gone, what still speaks it gets nothing that was meant for plain requests.
    let plain_only = Setup { tls: None, ..setup }.snapshot();
    assert!(world.runtime.block_on(world.proxy.apply(plain_only)).is_empty());
    client.record(get("/").as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 404"));
    plain.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut plain).0.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_host_of_other_options_than_the_server_name_chose_is_misdirected() {
    let setup = Setup { rule: "HostRegexp(`.*`)", ..secure(upstream(ok("x"))) };
    let mut world = setup.start();
    for (name, host, status) in [
        ("app.localhost", "app.localhost", 200),
        ("app.localhost", "other.localhost", 200),
        ("app.localhost", "strict.localhost", 421),
        ("strict.localhost", "strict.localhost", 200),
        ("strict.localhost", "app.localhost", 421),
        ("127.0.0.1", "strict.localhost", 421),
    ] {
        let mut client = Client::connect(&world, name);
        client.record(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let head = client.response().0;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{name} {host}: {head}");
        let head = world.records(1)[0].head;
        assert_eq!(head.error == ErrorKind::Misdirected, status == 421);
    }
}

#[test]
fn a_connection_that_was_folded_while_idle_speaks_on() {
    let mut world = secure(upstream(ok("x"))).start();
    let mut client = Client::connect(&world, "app.localhost");
    for round in 0..2 {
        client.record(get("/").as_bytes());
        client.response();
        assert_eq!(world.records(1)[0].head.request_index, round);
        // Time itself is the condition: connections fold after a second without a request, at the next sweep.
        std::thread::sleep(Duration::from_millis(1400));
    }
}

#[test]
fn a_tunnel_carries_bytes_through_tls() {
    const SWITCHED: u64 = 77;
    let mut world = secure(upstream(|_, stream| {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly";
        assert_eq!(switched.len(), usize::try_from(SWITCHED).unwrap() + "early".len());
        stream.write_all(switched.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..count]).unwrap();
        }
        false
    }))
    .start();
    let mut client = Client::connect(&world, "app.localhost");
    let head = "GET / HTTP/1.1\r\nHost: app.localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.record((head.to_owned() + "held").as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 101"));
    let mut got = [0; 9];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"earlyheld");
    let body: Vec<u8> = (0..300_000).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut back = vec![0; body.len()];
    for (part, back) in body.chunks(30_000).zip(back.chunks_mut(30_000)) {
        client.record(part);
        client.read_exact(back).unwrap();
    }
    assert!(body == back);
    client.tls.send_close_notify();
    client.flush();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut got).unwrap(), 0, "the server's end is passed on with a goodbye");
    let Left { head, attempts, .. } = world.records(1).remove(0);
    assert_eq!((head.status, head.request_body_bytes, head.response_body_bytes), (101, 300_004, 300_009));
    assert_eq!(head.end, End::Complete);
    // All of it on the wire, the goodbye too.
    assert_eq!(head.response_end, client.received);
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!(attempt.request_end - attempt.request_head_end, 300_004, "{attempt:?}");
    assert_eq!(attempt.response_end - attempt.response_start, SWITCHED + 300_009, "{attempt:?}");
}

#[test]
fn a_tunnel_whose_client_does_not_read_is_one_phase() {
    const SIZE: usize = 12_000_000;
    let mut world = secure(upstream(|_, stream| {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(switched.as_bytes()).unwrap();
        let _ = stream.write_all(&vec![7; SIZE]);
        false
    }))
    .start();
    let mut client = Client::connect(&world, "app.localhost");
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(128 * 1024).unwrap();
    let head = "GET / HTTP/1.1\r\nHost: app.localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.record(head.as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 101"));
    // The proxy's socket is full when what waits here does not grow any more.
    let waiting = || rustix::io::ioctl_fionread(&client.stream).unwrap();
    let mut before = 0;
    while before == 0 || waiting() > before {
        before = waiting();
        std::thread::sleep(Duration::from_millis(50));
    }
    client.read_exact(&mut vec![0; SIZE]).unwrap();
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let head = world.records(1)[0].head;
    assert_eq!((head.status, head.body.client_drain), (101, 0), "{head:?}");
}
