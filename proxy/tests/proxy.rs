//! The proxy over real sockets: a scripted upstream behind it, a plain client before it, and the records it leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "proxy/accounts.rs"]
mod accounts;
#[path = "proxy/cap.rs"]
mod cap;
#[path = "proxy/copies.rs"]
mod copies;
#[path = "proxy/drain.rs"]
mod drain;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/marks.rs"]
mod marks;
#[path = "proxy/middlewares.rs"]
mod middlewares;
#[path = "proxy/pipelined.rs"]
mod pipelined;
#[path = "proxy/pool.rs"]
mod pool;
#[path = "proxy/resend.rs"]
mod resend;
#[path = "proxy/semantics.rs"]
mod semantics;
#[path = "proxy/stamps.rs"]
mod stamps;
#[path = "proxy/tls.rs"]
mod tls;
#[path = "proxy/tunnel.rs"]
mod tunnel;
#[path = "proxy/uploads.rs"]
mod uploads;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use wayspan_proxy::cap::Cap;
use wayspan_proxy::counters::Bounds;
use wayspan_proxy::middleware::Middleware;
use wayspan_proxy::observer::{Missing, Off, SocketObserver};
use wayspan_proxy::record::{End, ErrorKind, Head, Record};
use wayspan_proxy::ring::RecordReader;
use wayspan_proxy::route::RouteTable;
use wayspan_proxy::rule::Rule;
use wayspan_proxy::sampling::Policy;
use wayspan_proxy::server::{Proxy, Settings};
use wayspan_proxy::snapshot::{EntryPoint, Limits, Route, Server, Service, Snapshot, Target, Timeouts, turn};
use wayspan_proxy::tls::Tls;

/// What a test needs to remember of a record.
#[derive(Debug, Clone)]
struct Left {
    head: Head,
    attempts: Vec<wayspan_proxy::record::Attempt>,
    calls: Vec<wayspan_proxy::record::Attempt>,
    path: String,
}

struct World {
    proxy: Proxy,
    readers: Vec<RecordReader>,
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
}

struct Setup {
    rule: &'static str,
    upstreams: Vec<(SocketAddr, u32)>,
    /// How many addresses a server's name has, all alike.
    addresses_each: usize,
    limits: Limits,
    timeouts: Timeouts,
    traced: bool,
    middlewares: Vec<Middleware>,
    workers: usize,
    cap: Option<Arc<Cap>>,
    /// How TLS is spoken, if it is: with the one route that plain requests have.
    tls: Option<Arc<wayspan_proxy::tls::Choice>>,
    give_back: fn() -> bool,
}

impl Setup {
    fn to(upstream: SocketAddr) -> Self {
        let (limits, timeouts) = (Limits::default(), Timeouts::default());
        let rule = "Host(`app.localhost`)";
        let (upstreams, middlewares) = (vec![(upstream, 1)], Vec::new());
        let (traced, tls, workers, cap) = (true, None, 1, None);
        let (addresses_each, give_back): (_, fn() -> bool) = (1, || true);
        Self { rule, upstreams, addresses_each, limits, timeouts, traced, middlewares, workers, cap, tls, give_back }
    }

    fn snapshot(&self) -> Snapshot {
        let servers = self.upstreams.iter().enumerate().map(|(index, (address, _))| {
            Arc::new(Server {
                id: u32::try_from(index).unwrap(),
                url: format!("http://{address}").into(),
                authority: address.to_string().into(),
                host: address.ip().to_string().into(),
                path_prefix: "".into(),
                addresses: vec![*address; self.addresses_each].into(),
                request_headers: None,
                cap: self.cap.clone(),
            })
        });
        let weights: Vec<u32> = self.upstreams.iter().map(|(_, weight)| *weight).collect();
        let service = Arc::new(Service {
            id: 7,
            name: "app".into(),
            servers: servers.collect(),
            turn: turn(&weights),
            pass_host: true,
            timeouts: self.timeouts,
            idle_max: 16,
        });
        let route = Arc::new(Route {
            id: 5,
            name: "app".into(),
            tls_options: None,
            traced: self.traced,
            metered: true,
            middlewares: self.middlewares.clone().into(),
            target: Target::Service(0),
        });
        let rule = Rule::parse(self.rule).unwrap();
        let routes = Arc::new(RouteTable::build(vec![(rule, 0.into(), route)]));
        Snapshot {
            entry_points: vec![Arc::new(EntryPoint {
                id: 1,
                name: "web".into(),
                addresses: vec!["127.0.0.1:0".parse().unwrap()],
                limits: self.limits,
                trusted: Vec::new(),
                trust_all: false,
                sanitize_path: true,
                traced: self.traced,
                metered: true,
                tls: self.tls.clone().map(|choice| Arc::new(Tls { routes: Arc::clone(&routes), choice })),
                routes,
            })],
            services: [service].into_iter().collect(),
            ..Snapshot::default()
        }
    }

    fn start(&self) -> World {
        self.start_with(Off(Missing::OFF))
    }

    fn start_with(&self, observer: impl SocketObserver + Sync) -> World {
        let settings = Settings {
            workers: self.workers,
            pin: false,
            hostname: "test".to_owned(),
            bounds: Bounds::default(),
            give_back: self.give_back,
        };
        let policy = Arc::new(ArcSwap::from_pointee(Policy::ratio(1.0)));
        let (mut proxy, readers) = Proxy::start(&settings, observer, policy).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(proxy.apply(self.snapshot())).is_empty());
        let address = proxy.addresses()[0].1;
        World { proxy, readers, runtime, address }
    }
}

impl World {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Waits for the next `count` records.
    fn records(&mut self, count: usize) -> Vec<Left> {
        let until = patience() + Duration::from_secs(10);
        let (mut all, mut scratch) = (Vec::new(), Vec::new());
        while all.len() < count {
            for reader in &mut self.readers {
                while let Some(bytes) = reader.next(&mut scratch) {
                    let record = Record::decode(bytes).unwrap();
                    let path = record.texts.path.to_owned();
                    all.push(Left { head: record.head, attempts: record.attempts, calls: record.calls, path });
                }
            }
            assert!(patience() < until, "only {} of {count} records came: {all:#?}", all.len());
            std::thread::yield_now();
        }
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }

    fn drain(self) {
        let Self { proxy, runtime, .. } = self;
        runtime.block_on(proxy.drain(Duration::from_secs(5)));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own patience")]
fn patience() -> Instant {
    Instant::now()
}

/// An upstream that answers every request head with what `answer` makes of it, on as many connections as come.
fn upstream(answer: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || {
                while let Some(head) = read_head(&mut stream)
                    && answer(&head, &mut stream)
                {}
            });
        }
    });
    address
}

fn ok(body: &'static str) -> impl Fn(&str, &mut TcpStream) -> bool + Send + Sync {
    move |_, stream| write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).is_ok()
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads one response with a content-length; the head and the body.
fn response(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_head(stream).expect("the connection closed before a response");
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
}

fn closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    matches!(stream.read_to_end(&mut rest), Ok(0)) || rest.is_empty()
}

#[test]
fn requests_on_one_connection_leave_records_whose_points_are_in_order() {
    let mut world = Setup::to(upstream(ok("hello"))).start();
    let mut client = world.connect();
    for path in ["/one", "/two?x=1"] {
        client.write_all(get(path).as_bytes()).unwrap();
        assert_eq!(response(&mut client).1, b"hello");
    }
    let records = world.records(2);
    for (index, record) in records.iter().enumerate() {
        let (head, attempt) = (&record.head, &record.attempts[0]);
        assert_eq!((head.status, head.end, head.request_index), (200, End::Complete, u32::try_from(index).unwrap()));
        assert_eq!(attempt.reused, index == 1);
        let points = [
            head.first_read,
            head.head_read,
            head.upstream_wanted,
            attempt.chosen,
            attempt.connected,
            attempt.head_written,
            attempt.first_read,
            head.head_written,
            head.ended,
        ];
        assert!(points.is_sorted() && points[0].0 > 0, "{points:?}");
        // The server's last byte may come before or after the client has the head.
        assert!((attempt.first_read..=head.ended).contains(&attempt.ended), "{attempt:?} {points:?}");
        assert_eq!(head.response_body_bytes, 5);
    }
    // The second goes over the first one's connection, which is as old as it is.
    let [first, second] = [&records[0].attempts[0], &records[1].attempts[0]];
    assert!((first.chosen..=first.connected).contains(&first.opened), "{first:?}");
    assert_eq!((second.opened, second.connected), (first.opened, second.chosen));
    assert_eq!(records[1].head.request_start, records[0].head.request_head_end);
    assert_eq!(records[1].path, "/two");
    drop(client);
    world.drain();
}

#[test]
fn pipelined_requests_are_answered_in_order_with_exact_boundaries() {
    let mut world = Setup::to(upstream(|head, stream| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).is_ok()
    }))
    .start();
    let mut client = world.connect();
    let heads = [get("/a"), get("/bb"), get("/ccc")];
    client.write_all(heads.concat().as_bytes()).unwrap();
    for body in [b"/a".as_slice(), b"/bb", b"/ccc"] {
        assert_eq!(response(&mut client).1, body);
    }
    let mut at = 0;
    for (record, head) in world.records(3).iter().zip(&heads) {
        let end = at + u64::try_from(head.len()).unwrap();
        assert_eq!((record.head.request_start, record.head.request_head_end), (at, end));
        at = end;
    }
}

#[test]
fn the_path_that_is_routed_is_the_path_that_is_forwarded() {
    let setup = Setup::to(upstream(|head, stream| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).is_ok()
    }));
    let mut world = setup.start();
    let mut client = world.connect();
    client.write_all(get("/a/%2e%2e//b?x=/../y").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"/b?x=/../y");
    assert_eq!(world.records(1)[0].path, "/a/%2e%2e//b", "the record keeps what came");
    let mut unsafe_paths = setup.snapshot();
    Arc::get_mut(&mut unsafe_paths.entry_points[0]).unwrap().sanitize_path = false;
    assert!(world.runtime.block_on(world.proxy.apply(unsafe_paths)).is_empty());
    client.write_all(get("/%61/%2e%2e//b?x=/../y").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"/a/..//b?x=/../y");
}

#[test]
fn bodies_stream_both_ways() {
    const SIZE: usize = 3_000_000;
    let mut world = Setup::to(upstream(|head, stream| {
        assert!(head.to_ascii_lowercase().contains("content-length: 3000000"), "{head}");
        let mut body = vec![0; SIZE];
        stream.read_exact(&mut body).unwrap();
        assert!(body.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        for part in body.chunks(100_000) {
            write!(stream, "{:x}\r\n", part.len()).unwrap();
            stream.write_all(part).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").is_ok()
    }))
    .start();
    let client = world.connect();
    let mut sender = client.try_clone().unwrap();
    let upload = std::thread::spawn(move || {
        write!(sender, "POST /up HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: {SIZE}\r\n\r\n").unwrap();
        let body: Vec<u8> = (0..SIZE).map(|i| u8::try_from(i % 251).unwrap()).collect();
        sender.write_all(&body).unwrap();
    });
    let mut client = client;
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 200"));
    let mut got = 0;
    loop {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            client.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        client.read_exact(&mut chunk).unwrap();
        for byte in &chunk[..size] {
            assert_eq!(usize::from(*byte), got % 251);
            got += 1;
        }
        if size == 0 {
            break;
        }
    }
    upload.join().unwrap();
    assert_eq!(got, SIZE);
    let record = &world.records(1)[0];
    let size = u64::try_from(SIZE).unwrap();
    assert_eq!((record.head.request_body_bytes, record.head.response_body_bytes), (size, size));
}

#[test]
fn our_own_answers_say_what_is_wrong() {
    // A port that refuses: bound once, then closed.
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut world = Setup::to(refusing).start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 502"));
    client.write_all(b"GET / HTTP/1.1\r\nHost: other.localhost\r\n\r\n").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 404"));
    let records = world.records(2);
    assert_eq!((records[0].head.error, records[0].attempts.len()), (ErrorKind::ConnectionRefused, 1));
    assert_eq!((records[1].head.error, records[1].attempts.len()), (ErrorKind::NoRoute, 0));

    let mut none = Setup { upstreams: vec![], ..Setup::to(refusing) }.start();
    let mut client = none.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 503"));
    assert_eq!(none.records(1)[0].head.error, ErrorKind::NoServer);
}

#[test]
fn a_server_that_does_not_answer_is_a_504() {
    let setup = Setup {
        timeouts: Timeouts { response_head: Duration::from_millis(100), ..Timeouts::default() },
        ..Setup::to(upstream(|_, stream| stream.read(&mut [0]).is_ok_and(|n| n > 0)))
    };
    let mut world = setup.start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 504"));
    let record = &world.records(1)[0];
    assert_eq!((record.head.status, record.head.error), (504, ErrorKind::ResponseTimeout));
}

#[test]
fn whoever_cuts_a_request_off_is_named() {
    let mut world = Setup::to(upstream(|head, stream| {
        if head.starts_with("GET /cut") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
            return false;
        }
        // Says nothing until the other side closes.
        stream.read(&mut [0]).is_ok_and(|n| n > 0)
    }))
    .start();
    let mut client = world.connect();
    client.write_all(get("/cut").as_bytes()).unwrap();
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    assert!(all.ends_with(b"half"));
    let cut = &world.records(1)[0];
    assert_eq!((cut.head.end, cut.head.status), (End::UpstreamCut, 200));
    let mut client = world.connect();
    client.write_all(get("/wait").as_bytes()).unwrap();
    // The upstream has the request when its side of the connection shows up as an attempt; closing is enough here.
    client.shutdown(std::net::Shutdown::Both).unwrap();
    drop(client);
    let gone = &world.records(1)[0];
    assert_eq!((gone.head.end, gone.head.error, gone.head.status), (End::ClientGone, ErrorKind::ClientGone, 0));
}

#[test]
fn a_bad_message_is_refused_after_the_good_ones_before_it() {
    let mut world = Setup::to(upstream(ok("fine"))).start();
    let mut client = world.connect();
    let bad = "POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc";
    client.write_all((get("/good") + bad).as_bytes()).unwrap();
    let (head, body) = response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200") && body == b"fine");
    assert!(response(&mut client).0.starts_with("HTTP/1.1 400"));
    assert!(closed(&mut client));
    let records = world.records(2);
    assert_eq!((records[0].head.status, records[1].head.status), (200, 400));
    assert_eq!(records[1].head.end, End::Refused);
}

#[test]
fn a_bad_message_alone_in_a_read_is_refused_too() {
    let mut world = Setup::to(upstream(ok("fine"))).start();
    for served_before in [0, 1] {
        let mut client = world.connect();
        for _ in 0..served_before {
            client.write_all(get("/good").as_bytes()).unwrap();
            assert_eq!(response(&mut client).1, b"fine");
        }
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
        let head = response(&mut client).0.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 400") && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(closed(&mut client));
        let records = world.records(served_before + 1);
        let head = &records[served_before].head;
        assert_eq!((head.status, head.end, head.error), (400, End::Refused, ErrorKind::BadRequest));
        assert_eq!(head.request_index, u32::try_from(served_before).unwrap());
    }
}

#[test]
fn a_slow_head_gets_408_and_an_idle_connection_is_closed() {
    let limits = Limits {
        head_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let world = Setup { limits, ..Setup::to(upstream(ok("x"))) }.start();
    let mut client = world.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: app").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 408"));
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"x");
    assert!(closed(&mut client));
}

#[test]
fn a_pooled_connection_that_died_is_replaced_without_the_client_knowing() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let mut world = Setup::to(upstream(move |_, stream| {
        count.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx").unwrap();
        false
    }))
    .start();
    let mut client = world.connect();
    for _ in 0..20 {
        client.write_all(get("/").as_bytes()).unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
        // The upstream has closed by the time its record is there, or closes while the next request is on its way.
        world.records(1);
    }
    assert_eq!(served.load(Ordering::SeqCst), 20);
}

#[test]
fn heads_without_bodies_and_interim_responses_pass() {
    let mut world = Setup::to(upstream(|head, stream| {
        let answer = match head.split(' ').next().unwrap() {
            "HEAD" => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
            "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        stream.write_all(answer.as_bytes()).is_ok()
    }))
    .start();
    let mut client = world.connect();
    client.write_all(b"HEAD / HTTP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
    assert!(read_head(&mut client).unwrap().to_ascii_lowercase().contains("content-length: 1234"));
    client.write_all(b"DELETE / HTTP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 204"));
    client.write_all(get("/").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"ok");
    let records = world.records(3);
    assert!(records.iter().all(|record| record.head.end == End::Complete));
    assert!(records[2].attempts[0].reused && records[2].attempts[0].response_start > 0);
}

#[test]
fn servers_share_by_weight() {
    let name = |text: &'static str| upstream(ok(text));
    let setup = Setup { upstreams: vec![(name("a"), 3), (name("b"), 1)], ..Setup::to(name("")) };
    let world = setup.start();
    let mut client = world.connect();
    let mut counts = [0, 0];
    for _ in 0..40 {
        client.write_all(get("/").as_bytes()).unwrap();
        counts[usize::from(response(&mut client).1 == b"b")] += 1;
    }
    assert_eq!(counts, [30, 10]);
}

#[test]
fn a_connection_that_was_folded_while_idle_serves_on() {
    let mut world = Setup::to(upstream(ok("x"))).start();
    let mut client = world.connect();
    for round in 0..2 {
        client.write_all(get("/").as_bytes()).unwrap();
        assert_eq!(response(&mut client).1, b"x");
        let record = &world.records(1)[0];
        assert_eq!((record.head.request_index, record.head.end), (round, End::Complete));
        // Time itself is the condition: connections fold after a second without a request, at the next sweep.
        std::thread::sleep(Duration::from_millis(1400));
    }
    let bytes = u64::try_from(get("/").len()).unwrap();
    client.write_all((get("/a") + &get("/b")).as_bytes()).unwrap();
    response(&mut client);
    response(&mut client);
    assert_eq!(world.records(2)[0].head.request_start, 2 * bytes, "offsets count on");
}

#[test]
fn listeners_open_and_close_with_the_snapshot() {
    let setup = Setup::to(upstream(ok("x")));
    let mut world = setup.start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    response(&mut client);
    let old = world.address;
    assert!(world.runtime.block_on(world.proxy.apply(Snapshot::default())).is_empty());
    let until = patience() + Duration::from_secs(5);
    while TcpStream::connect(old).is_ok() {
        assert!(world.runtime.block_on(world.proxy.settle()).is_empty());
        assert!(patience() < until, "the listener is still open");
    }
    assert!(world.runtime.block_on(world.proxy.apply(setup.snapshot())).is_empty());
    world.address = world.proxy.addresses()[0].1;
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"x");
}

#[test]
fn a_taken_port_is_a_fault_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::to(upstream(ok("x")));
    let mut world = setup.start();
    let mut snapshot = setup.snapshot();
    let mut entry = (*snapshot.entry_points[0]).clone();
    entry.addresses.push(taken.local_addr().unwrap());
    snapshot.entry_points = vec![Arc::new(entry)];
    let faults = world.runtime.block_on(world.proxy.apply(snapshot));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].to_string().starts_with("entryPoints.web.address: cannot listen on"), "{}", faults[0]);
}

#[test]
fn draining_answers_what_is_open_and_says_close() {
    let world = Setup::to(upstream(|_, stream| {
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").is_ok()
    }))
    .start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    let answered = std::thread::spawn(move || {
        let (head, body) = response(&mut client);
        (head.to_ascii_lowercase(), body, closed(&mut client))
    });
    // The request is under way when a connection to the upstream was counted.
    let until = patience() + Duration::from_secs(5);
    while world.proxy.counters().read().1.connected == 0 {
        assert!(patience() < until, "the request did not reach the upstream");
    }
    world.drain();
    let (head, body, closed) = answered.join().unwrap();
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    assert!(body == b"done" && closed);
}

#[test]
fn silent_connections_cost_little() {
    let resident_kb = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let world = Setup::to(upstream(ok("x"))).start();
    let before = resident_kb();
    let silent: Vec<_> = (0..2000).map(|_| world.connect()).collect();
    let until = patience() + Duration::from_secs(5);
    while world.proxy.counters().read().1.accepted < 2000 {
        assert!(patience() < until, "not all were accepted");
    }
    let each = resident_kb().saturating_sub(before) * 1024 / silent.len();
    // hyper's buffers alone are 16 KiB; other tests of this process allocate, too.
    assert!(each < 12_000, "{each} bytes for each silent connection");
}
