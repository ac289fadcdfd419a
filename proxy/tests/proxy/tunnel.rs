//! Upgrades: what is relayed and what is not, and what an upgraded connection carries until it ends.

use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver, Sender};

use tungstenite::Message;

use super::*;

const WAIT: Duration = Duration::from_secs(10);
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n";

/// A server that hands over every connection with the head of its first request.
fn scripted() -> (SocketAddr, Receiver<(String, TcpStream)>) {
    let (sender, arrivals) = mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender): (_, Sender<_>) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(WAIT)).unwrap();
                if let Some(head) = read_head(&mut stream) {
                    let _ = sender.send((head.to_ascii_lowercase(), stream));
                }
            });
        }
    });
    (address, arrivals)
}

fn asking(more: &str) -> String {
    format!("GET /t HTTP/1.1\r\nHost: app.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n{more}\r\n")
}

/// Both ends of a tunnel.
struct Ends {
    world: World,
    client: TcpStream,
    server: TcpStream,
    /// The server's further connections.
    arrivals: Receiver<(String, TcpStream)>,
}

fn tunnel(setup: impl FnOnce(SocketAddr) -> Setup) -> Ends {
    let (address, arrivals) = scripted();
    let world = setup(address).start();
    let mut client = world.connect();
    client.write_all(asking("").as_bytes()).unwrap();
    let (_, mut server) = arrivals.recv_timeout(WAIT).unwrap();
    server.write_all(format!("{SWITCHED}\r\n").as_bytes()).unwrap();
    let head = read_head(&mut client).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: x\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("content-length"), "{head}");
    Ends { world, client, server, arrivals }
}

impl Ends {
    fn record(&mut self) -> Left {
        self.world.records(1).remove(0)
    }

    /// Says something each way, so that the tunnel is known to be there.
    fn greet(&mut self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            (&*from).write_all(b"hello").unwrap();
            assert_eq!(take(to, 5), b"hello");
        }
    }
}

fn take(mut from: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

fn rest(mut from: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Bytes in which every misplaced one shows.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| u8::try_from((i / 7 + i) % 251).unwrap()).collect()
}

#[test]
#[expect(clippy::result_large_err, reason = "the library's callback refuses with a whole response")]
fn a_websocket_carries_a_megabyte_each_way() {
    const SIZE: usize = 1 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut world = Setup::to(listener.local_addr().unwrap()).start();
    let server = std::thread::spawn(move || {
        let mut headers = http::HeaderMap::new();
        let stream = listener.accept().unwrap().0;
        let keep = |request: &tungstenite::handshake::server::Request, response| {
            headers.clone_from(request.headers());
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, keep).unwrap();
        loop {
            match socket.read() {
                Ok(message) if message.is_text() || message.is_binary() => socket.send(message).unwrap(),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return headers,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let (mut socket, answer) = tungstenite::client("ws://app.localhost/socket?q=1", world.connect()).unwrap();
    assert_eq!(answer.status(), 101);
    socket.send(Message::Ping("are you there".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()));
    for message in [Message::text("hi"), Message::binary(pattern(SIZE)), Message::text("bye")] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    let headers = server.join().unwrap();
    assert_eq!(headers["x-forwarded-proto"], "ws");
    assert_eq!(
        (&headers["upgrade"], &headers["connection"]),
        (&"websocket".parse().unwrap(), &"Upgrade".parse().unwrap())
    );
    let record = &world.records(1)[0];
    assert_eq!((record.head.status, record.head.end, record.head.error), (101, End::Complete, ErrorKind::None));
    assert_eq!((record.path.as_str(), record.attempts[0].status), ("/socket", 101));
    let size = u64::try_from(SIZE).unwrap();
    for bytes in [record.head.request_body_bytes, record.head.response_body_bytes] {
        assert!((size..size + 100).contains(&bytes), "{bytes}");
    }
    let attempt = &record.attempts[0];
    let points = [attempt.head_written, attempt.first_read, record.head.head_written, attempt.ended, record.head.ended];
    assert!(points.is_sorted() && points[0].0 > 0, "{points:?}");
}

#[test]
fn bytes_that_came_with_the_heads_come_first() {
    let (address, arrivals) = scripted();
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    // They would be refused as HTTP, and must not be looked at so.
    client.write_all((asking("") + "\0early\r\n\r\n").as_bytes()).unwrap();
    let (_, mut server) = arrivals.recv_timeout(WAIT).unwrap();
    client.write_all(b"later").unwrap();
    server.write_all(format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCHED}\r\n\0welcome").as_bytes()).unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(take(&client, 8), b"\0welcome");
    assert_eq!(take(&server, 15), b"\0early\r\n\r\nlater");
    drop(client);
    assert_eq!(rest(&server), b"");
    drop(server);
    let record = &world.records(1)[0];
    assert_eq!((record.head.request_body_bytes, record.head.response_body_bytes), (15, 8));
}

#[test]
fn what_a_tunnel_carries_lies_in_the_records_ranges_on_both_sides() {
    let size = |bytes: usize| u64::try_from(bytes).unwrap();
    let (address, arrivals) = scripted();
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    client.write_all((asking("") + "early").as_bytes()).unwrap();
    let (request, mut server) = arrivals.recv_timeout(WAIT).unwrap();
    let switched = format!("{SWITCHED}\r\n");
    server.write_all(format!("{switched}welcome").as_bytes()).unwrap();
    let answer = read_head(&mut client).unwrap();
    assert_eq!((take(&client, 7), take(&server, 5)), (b"welcome".to_vec(), b"early".to_vec()));
    for (from, to, count) in [(&client, &server, 300_000), (&server, &client, 500_000)] {
        (&*from).write_all(&pattern(count)).unwrap();
        assert!(take(to, count) == pattern(count));
    }
    drop((client, server));
    let Left { head, attempts, .. } = world.records(1).remove(0);
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((head.response_start, head.response_end), (0, size(answer.len()) + 500_007));
    assert_eq!((attempt.request_start, attempt.request_head_end), (0, size(request.len())));
    assert_eq!(attempt.request_end, size(request.len()) + 300_005);
    assert_eq!((attempt.response_start, attempt.response_end), (0, size(switched.len()) + 500_007));
}

#[test]
fn a_client_that_does_not_wait_for_the_answer_loses_nothing() {
    const SIZE: usize = 8_000_000;
    let (address, arrivals) = scripted();
    let world = Setup::to(address).start();
    let mut client = world.connect();
    let mut sender = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&[asking("").into_bytes(), pattern(SIZE)].concat()).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let (_, mut server) = arrivals.recv_timeout(WAIT).unwrap();
    server.write_all(format!("{SWITCHED}\r\n").as_bytes()).unwrap();
    assert!(rest(&server) == pattern(SIZE));
    sending.join().unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 101"));
}

#[test]
fn both_ways_carry_at_once_and_a_slow_reader_slows_the_writer() {
    const SIZE: usize = 20_000_000;
    let mut ends = tunnel(Setup::to);
    let ways = [(&ends.client, &ends.server), (&ends.server, &ends.client)];
    let all = pattern(SIZE);
    std::thread::scope(|scope| {
        for (from, to) in ways {
            let all = &all;
            scope.spawn(move || {
                (&*from).write_all(all).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (mut to, mut got) = (to, 0);
                let mut bytes = vec![0; 300_000];
                loop {
                    let count = to.read(&mut bytes).unwrap();
                    assert!(bytes[..count] == all[got..got + count], "other bytes behind {got}");
                    got += count;
                    if count == 0 {
                        break;
                    }
                    std::thread::yield_now();
                }
                assert_eq!(got, SIZE);
            });
        }
    });
    let record = ends.record();
    let size = u64::try_from(SIZE).unwrap();
    assert_eq!((record.head.request_body_bytes, record.head.response_body_bytes), (size, size));
    assert_eq!(record.head.end, End::Complete);
}

#[test]
fn a_side_that_has_ended_can_still_be_talked_to() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    (&ends.client).write_all(b"that is all").unwrap();
    ends.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.server), b"that is all");
    (&ends.server).write_all(b"and that is all I know").unwrap();
    ends.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.client), b"and that is all I know");
    assert_eq!(ends.record().head.end, End::Complete);

    let mut ends = tunnel(Setup::to);
    ends.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.client), b"");
    (&ends.client).write_all(b"one way").unwrap();
    ends.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.server), b"one way");
    assert_eq!(ends.record().head.end, End::Complete);
}

#[test]
fn whoever_breaks_a_tunnel_is_named() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    let Ends { world, client, server, .. } = &mut ends;
    (&*server).write_all(&pattern(1000)).unwrap();
    // The proxy has them when the client has.
    assert_eq!(take(client, 1000), pattern(1000));
    (&*client).write_all(b"unheard").unwrap();
    reset(std::mem::replace(server, client.try_clone().unwrap()));
    assert_eq!(rest(client), b"");
    let record = &world.records(1)[0];
    assert_eq!((record.head.status, record.head.end), (101, End::UpstreamCut));
    assert_eq!((record.head.error, record.attempts[0].error), (ErrorKind::UpstreamReset, ErrorKind::UpstreamReset));

    let mut ends = tunnel(Setup::to);
    ends.greet();
    let Ends { world, client, server, .. } = ends;
    reset(client);
    let mut end = Vec::new();
    assert_eq!((&server).read_to_end(&mut end).unwrap_or(0), 0);
    let mut world = world;
    let record = &world.records(1)[0];
    assert_eq!((record.head.end, record.head.error), (End::ClientGone, ErrorKind::ClientGone));
    assert_eq!(record.attempts[0].error, ErrorKind::None);
}

#[test]
fn what_is_said_to_a_side_that_has_closed_is_nobodys_fault() {
    for server_closes in [true, false] {
        let mut ends = tunnel(Setup::to);
        ends.greet();
        let Ends { mut world, client, server, .. } = ends;
        let (closing, talking) = if server_closes { (server, client) } else { (client, server) };
        drop(closing);
        assert_eq!(rest(&talking), b"");
        // Until the reset has come back, it seems to be taken.
        let until = patience() + WAIT;
        while (&talking).write_all(b"and another thing").is_ok() {
            assert!(patience() < until, "the tunnel does not end");
        }
        let record = &world.records(1)[0];
        assert_eq!((record.head.end, record.head.error), (End::Complete, ErrorKind::None), "{server_closes}");
    }
}

#[test]
fn a_client_that_is_gone_before_the_answer_leaves_a_record() {
    let (address, arrivals) = scripted();
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    client.write_all(asking("").as_bytes()).unwrap();
    let (_, server) = arrivals.recv_timeout(WAIT).unwrap();
    drop(client);
    let record = &world.records(1)[0];
    assert_eq!((record.head.status, record.head.end), (0, End::ClientGone));
    assert_eq!(rest(&server), b"");
}

#[test]
fn draining_leaves_a_tunnel_its_time_and_then_cuts_it() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    let Ends { world, client, server, .. } = ends;
    let idle = world.connect();
    let World { proxy, mut readers, runtime, .. } = world;
    let drain = std::thread::spawn(move || runtime.block_on(proxy.drain(Duration::from_secs(4))));
    // What is idle is closed while it drains; the tunnel carries on.
    assert_eq!(rest(&idle), b"");
    for (from, to) in [(&client, &server), (&server, &client)] {
        (&*from).write_all(b"still here").unwrap();
        assert_eq!(take(to, 10), b"still here");
    }
    assert_eq!(rest(&client), b"");
    assert_eq!(rest(&server), b"");
    drop((client, server));
    drain.join().unwrap();
    let mut scratch = Vec::new();
    let head = Record::decode(readers[0].next(&mut scratch).unwrap()).unwrap().head;
    assert_eq!((head.status, head.end, head.error), (101, End::Shutdown, ErrorKind::None));
}

#[test]
fn draining_ends_with_the_last_tunnel() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    let Ends { world, client, server, .. } = ends;
    let World { proxy, runtime, .. } = world;
    let begun = patience();
    drop((client, server));
    runtime.block_on(proxy.drain(Duration::from_secs(60)));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn no_timeout_of_requests_ends_a_tunnel() {
    let short = Duration::from_millis(50);
    let mut ends = tunnel(|address| Setup {
        limits: Limits { head_timeout: short, read_timeout: short, idle_timeout: short, ..Limits::default() },
        timeouts: Timeouts { connect: WAIT, response_head: WAIT, request: Duration::from_secs(1), idle: short },
        ..Setup::to(address)
    });
    // Time itself is the condition: all of them are over, and several sweeps have passed.
    std::thread::sleep(Duration::from_millis(1800));
    ends.greet();
    drop((ends.client, ends.server));
    assert_eq!(ends.world.records(1)[0].head.end, End::Complete);
}

#[test]
fn a_silent_peer_is_probed() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    for (near, far) in [
        (ends.world.address, ends.client.local_addr().unwrap()),
        (ends.server.peer_addr().unwrap(), ends.server.local_addr().unwrap()),
    ] {
        let wanted = format!("{} {}", hex(near), hex(far));
        let until = patience() + WAIT;
        // proc_net_tcp.rst: timer 2 is the one of keepalive. It runs when nothing is on its way.
        let is_probed = || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let line = table.lines().find(|line| line.contains(&wanted)).expect("the proxy's socket");
            line.split_whitespace().nth(5).unwrap().starts_with("02:")
        };
        while !is_probed() {
            assert!(patience() < until, "no timer on {near} to {far}");
        }
    }
}

#[test]
fn an_answer_that_does_not_switch_is_an_ordinary_one() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: y\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nno",
    ] {
        let mut world = Setup::to(upstream(move |_, stream| stream.write_all(answer.as_bytes()).is_ok())).start();
        let mut client = world.connect();
        // The next ones come at once, and are the next requests.
        client.write_all([asking(""), asking(""), get("/next")].concat().as_bytes()).unwrap();
        for _ in 0..3 {
            let (head, body) = response(&mut client);
            assert_eq!(head.split(' ').nth(1), answer.split(' ').nth(1));
            assert!(!head.to_ascii_lowercase().contains("upgrade: "), "{head}");
            assert!(answer.as_bytes().ends_with(&body));
        }
        let starts: Vec<_> =
            world.records(3).iter().map(|record| (record.head.end, record.head.request_start)).collect();
        let length = u64::try_from(asking("").len()).unwrap();
        assert_eq!(starts, [0, 1, 2].map(|nth| (End::Complete, nth * length)));
        client.write_all((asking("") + "\0 whatever\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(response(&mut client).0.split(' ').nth(1), answer.split(' ').nth(1));
        assert!(response(&mut client).0.starts_with("HTTP/1.1 400"), "what is no request is refused now");
        assert!(closed(&mut client));
        assert_eq!(world.records(2)[1].head.end, End::Refused);
    }
}

#[test]
fn an_upgrade_that_no_server_was_asked_for_holds_nothing_up() {
    let mut world = Setup::to(upstream(ok("next"))).start();
    let mut client = world.connect();
    let nowhere = asking("").replace("app.localhost", "nowhere.localhost");
    client.write_all([nowhere, get("/next")].concat().as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 404"));
    assert_eq!(response(&mut client).1, b"next");
    assert_eq!(world.records(2).iter().map(|record| record.head.status).collect::<Vec<_>>(), [404, 200]);
}

#[test]
fn what_may_not_be_asked_for_is_not() {
    for head in [
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade;q=1\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let (address, arrivals) = scripted();
        let mut world = Setup::to(address).start();
        let mut client = world.connect();
        client.write_all(head.as_bytes()).unwrap();
        let (got, mut server) = arrivals.recv_timeout(WAIT).unwrap();
        for gone in ["\r\nupgrade:", "\r\nconnection:", "\r\nhttp2-settings:"] {
            assert!(!got.contains(gone), "{head} {got}");
        }
        // A server that switches all the same is not followed.
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n").unwrap();
        assert!(response(&mut client).0.split(' ').nth(1) == Some("502"), "{head}");
        assert_eq!(rest(&server), b"", "{head}");
        let record = &world.records(1)[0];
        assert_eq!((record.head.status, record.attempts[0].error), (502, ErrorKind::UpstreamProtocol));
    }
}

#[test]
fn a_server_that_switches_to_something_else_is_a_502() {
    for upgrade in ["upgrade: y\r\n", "upgrade: x, y\r\n", "upgrade: x\r\nupgrade: y\r\n", ""] {
        let (address, arrivals) = scripted();
        let mut world = Setup::to(address).start();
        let mut client = world.connect();
        client.write_all(asking("").as_bytes()).unwrap();
        let (_, mut server) = arrivals.recv_timeout(WAIT).unwrap();
        server.write_all(format!("HTTP/1.1 101 \r\nconnection: upgrade\r\n{upgrade}\r\nbytes").as_bytes()).unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 502"), "{upgrade}");
        assert_eq!(world.records(1)[0].head.error, ErrorKind::UpstreamProtocol);
        client.write_all(asking("").as_bytes()).unwrap();
        assert!(arrivals.recv_timeout(WAIT).is_ok(), "the connection goes on as HTTP");
    }
}

#[test]
fn a_body_goes_before_the_tunnel() {
    for (framing, body) in
        [("content-length: 5\r\n", "hello"), ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let (address, arrivals) = scripted();
        let mut world = Setup::to(address).start();
        let mut client = world.connect();
        client.write_all(asking(framing).replacen("GET", "POST", 1).as_bytes()).unwrap();
        let (head, mut server) = arrivals.recv_timeout(WAIT).unwrap();
        assert!(head.contains("\r\nupgrade: x\r\n"), "{head}");
        client.write_all(format!("{body}raw").as_bytes()).unwrap();
        assert_eq!(take(&server, body.len()), body.as_bytes());
        server.write_all(format!("{SWITCHED}\r\n").as_bytes()).unwrap();
        assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 101"));
        assert_eq!(take(&server, 3), b"raw");
        drop(client);
        assert_eq!(rest(&server), b"");
        drop(server);
        let record = &world.records(1)[0];
        assert_eq!((record.head.request_body_bytes, record.head.end), (8, End::Complete));
    }
}

#[test]
fn a_server_that_switches_in_the_middle_of_a_request_is_a_502() {
    let (address, arrivals) = scripted();
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    let head = asking("content-length: 5\r\n").replacen("GET", "POST", 1);
    client.write_all((head + "he").as_bytes()).unwrap();
    let (_, mut server) = arrivals.recv_timeout(WAIT).unwrap();
    server.write_all(format!("{SWITCHED}\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 502"));
    assert_eq!(world.records(1)[0].head.error, ErrorKind::UpstreamProtocol);
}

#[test]
fn a_tunnels_connections_serve_nobody_else() {
    let mut ends = tunnel(Setup::to);
    ends.greet();
    let totals = |world: &World| world.proxy.counters().read().1;
    let open = |world: &World| world.proxy.open_connections().read().iter().map(|(_, open)| open).sum::<usize>();
    assert_eq!((totals(&ends.world).accepted, open(&ends.world)), (1, 1));
    assert_eq!((totals(&ends.world).tunnels_begun, totals(&ends.world).tunnels_ended), (1, 0));
    let mut other = ends.world.connect();
    other.write_all(get("/other").as_bytes()).unwrap();
    let (head, mut server) = ends.arrivals.recv_timeout(WAIT).unwrap();
    assert!(head.starts_with("get /other"));
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(response(&mut other).0.starts_with("HTTP/1.1 200"));
    assert_eq!(ends.record().head.status, 200);
    let Ends { mut world, client, server, .. } = ends;
    drop((client, server));
    assert_eq!(world.records(1)[0].head.status, 101);
    assert_eq!(totals(&world).tunnels_ended, 1);
    let until = patience() + WAIT;
    while open(&world) > 1 {
        assert!(patience() < until, "the client's connection stays open");
    }
    assert_eq!(totals(&world).reused, 0);
}

#[test]
fn connect_is_refused_and_nothing_behind_it_is_read() {
    let mut world = Setup::to(upstream(ok("never"))).start();
    let mut client = world.connect();
    client
        .write_all(
            ("CONNECT app.localhost:80 HTTP/1.1\r\nHost: app.localhost\r\n\r\n".to_owned() + &get("/")).as_bytes(),
        )
        .unwrap();
    let (head, _) = response(&mut client);
    assert!(head.starts_with("HTTP/1.1 501") && head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert!(closed(&mut client));
    assert_eq!(world.records(1)[0].head.end, End::Refused);
}
