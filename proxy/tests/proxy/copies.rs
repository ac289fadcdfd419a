//! Requests that are copied, and requests that are sent again, over real sockets.

use std::sync::mpsc;

use wayspan_proxy::counters::Totals;
use wayspan_proxy::middleware::{HeaderModifier, Mirror, Retry, Share};

use super::*;

fn service(id: u32, address: Option<SocketAddr>, request_headers: Option<HeaderModifier>) -> Arc<Service> {
    let host = address.map(|address| address.ip().to_string()).unwrap_or_default();
    let server = Server {
        id: 40 + id,
        url: "http://".into(),
        authority: "copies.localhost".into(),
        host: host.into(),
        path_prefix: "".into(),
        addresses: address.into_iter().collect(),
        request_headers: request_headers.map(Arc::new),
        cap: None,
    };
    Arc::new(Service {
        id,
        name: "copies".into(),
        servers: [Arc::new(server)].into(),
        turn: [0].into(),
        pass_host: true,
        timeouts: Timeouts::default(),
        idle_max: 4,
    })
}

fn mirror(place: u32) -> Middleware {
    Middleware::Mirror(Arc::new(Mirror { service: place, share: Share::ALL }))
}

/// A world whose further services, from place 1, get copies.
fn copying(setup: &Setup, copies: &[SocketAddr]) -> World {
    let mut world = setup.start();
    let mut snapshot = setup.snapshot();
    for (place, address) in (1..).zip(copies) {
        snapshot.services.put(place, Some(service(20 + place, Some(*address), None)));
    }
    assert!(world.runtime.block_on(world.proxy.apply(snapshot)).is_empty());
    world
}

fn totals(world: &World) -> Totals {
    world.proxy.counters().read().1
}

/// An upstream that tells what it got, head and body, and answers slowly or not at all as `answer` says.
fn telling(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let (told, tells) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let address = upstream(move |head, stream| {
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        told.lock().unwrap().send(format!("{head}{}", String::from_utf8(body).unwrap())).unwrap();
        stream.write_all(answer.as_bytes()).is_ok()
    });
    (address, tells)
}

const WAIT: Duration = Duration::from_secs(10);

#[test]
fn a_copy_has_the_body_and_nobody_waits_for_its_answer() {
    let (silent, tells) = telling("");
    let (answering, tells_too) = telling("HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\nno");
    let middlewares = vec![mirror(1), mirror(2)];
    // Who answers early gets no more of a body, and nobody has a whole one.
    let server = upstream(|head, stream| {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap());
        let (mut body, mut byte) = (Vec::new(), [0]);
        while match length {
            Some(length) => body.len() < length,
            None => head.contains("chunked") && !body.ends_with(b"0\r\n\r\n"),
        } {
            stream.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        ok("hi")(head, stream)
    });
    let mut world = copying(&Setup { middlewares, ..Setup::to(server) }, &[silent, answering]);
    let mut client = world.connect();
    let chunked =
        "POST /c HTTP/1.1\r\nHost: app.localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let asks = [
        (get("/a?b"), "GET /a?b HTTP/1.1\r\n", "\r\n\r\n"),
        (
            "PUT /b HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 3\r\n\r\nxyz".to_owned(),
            "PUT /b HTTP/1.1\r\n",
            "\r\n\r\nxyz",
        ),
        (chunked.to_owned(), "POST /c HTTP/1.1\r\n", "\r\n\r\nabcde"),
    ];
    for (ask, line, end) in asks {
        client.write_all(ask.as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == b"hi", "{head}");
        for tells in [&tells, &tells_too] {
            let got = tells.recv_timeout(WAIT).unwrap();
            assert!(got.starts_with(line) && got.ends_with(end), "{got}");
            assert!(got.contains("host: app.localhost\r\n") && !got.contains("transfer-encoding"), "{got}");
        }
    }
    assert_eq!(world.records(3).iter().map(|left| left.attempts.len()).sum::<usize>(), 3, "a copy is no attempt");
    let until = patience() + WAIT;
    while totals(&world).mirrored < 3 {
        assert!(patience() < until, "{:?}", totals(&world));
        std::thread::yield_now();
    }
    // The silent one's copies are cut off with the worker.
    assert_eq!(totals(&world).mirrors_lost, 0);
    world.drain();
}

#[test]
fn a_copy_that_cannot_be_had_is_counted_and_the_request_is_served() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = upstream(|head, stream| {
        let length = if head.starts_with("PUT") { 2 << 20 } else { 0 };
        stream.read_exact(&mut vec![0; length]).unwrap();
        ok("hi")(head, stream)
    });
    let mut world = copying(&Setup { middlewares: vec![mirror(1)], ..Setup::to(server) }, &[gone]);
    let mut client = world.connect();
    let long =
        format!("PUT / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: {}\r\n\r\n{}", 2 << 20, "x".repeat(2 << 20));
    for ask in [get("/"), long] {
        client.write_all(ask.as_bytes()).unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    world.records(2);
    let until = patience() + WAIT;
    while totals(&world).mirrors_lost < 2 {
        assert!(patience() < until, "{:?}", totals(&world));
        std::thread::yield_now();
    }
    world.drain();
}

/// A server that fails so often first.
fn failing(times: usize, failure: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let address = upstream(move |head, stream| {
        if counted.fetch_add(1, Ordering::Relaxed) >= times {
            return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()).is_ok();
        }
        stream.write_all(failure.as_bytes()).is_ok() && !failure.is_empty()
    });
    (address, asked)
}

fn retry(attempts: u16) -> Middleware {
    let (codes, backoff) = (vec![500, 503], Duration::from_millis(1));
    Middleware::Retry(Arc::new(Retry { attempts, codes, backoff, each: Duration::ZERO }))
}

#[test]
fn what_fails_is_sent_again_as_often_as_is_said() {
    const FAILURE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
    for (failures, failure, ask, status, asked) in [
        (2, FAILURE, "GET /x", 200, 3),
        (4, FAILURE, "GET /x", 503, 4),
        (1, "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "GET /x", 502, 1),
        (1, FAILURE, "POST /x", 200, 2),
        (2, "", "GET /x", 200, 3),
    ] {
        let (server, counted) = failing(failures, failure);
        let mut world = Setup { middlewares: vec![retry(3)], ..Setup::to(server) }.start();
        let mut client = world.connect();
        let ask = format!("{ask} HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 0\r\n\r\n");
        client.write_all(ask.as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{ask} {failure}: {head}");
        assert_eq!(counted.load(Ordering::Relaxed), asked, "{ask} {failure}");
        let left = &world.records(1)[0];
        assert_eq!((left.head.status, left.attempts.len()), (status, asked), "{ask} {failure}");
        if status == 200 {
            // The server's spans hang under the attempt that reached it.
            let id: String = left.attempts.last().unwrap().span_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains(&format!("-{id}-01\r\n")), "{id}: {body}");
        }
        world.drain();
    }
}

#[test]
fn each_try_has_its_own_time_and_all_together_have_theirs() {
    // Long against what a busy machine takes for the second.
    const EACH: Duration = Duration::from_millis(300);
    for (whole, status, asked) in [(Duration::ZERO, 200, 2), (Duration::from_millis(1), 504, 1)] {
        let counts = AtomicUsize::new(0);
        let server = upstream(move |head, stream| {
            // The first is silent until the proxy gives it up.
            if counts.fetch_add(1, Ordering::Relaxed) == 0 {
                stream.read(&mut [0]).is_err()
            } else {
                ok("hi")(head, stream)
            }
        });
        let retry = Retry { attempts: 1, codes: Vec::new(), backoff: Duration::ZERO, each: EACH };
        let timeouts = Timeouts { request: whole, ..Timeouts::default() };
        let middlewares = vec![Middleware::Retry(Arc::new(retry))];
        let mut world = Setup { middlewares, timeouts, ..Setup::to(server) }.start();
        let mut client = world.connect();
        client.write_all(get("/").as_bytes()).unwrap();
        let (head, _) = response(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        // The server may not have come to count it by then.
        let record = &world.records(1)[0];
        assert_eq!((record.attempts.len(), record.attempts[0].error), (asked, ErrorKind::ResponseTimeout));
        world.drain();
    }
}

#[test]
fn a_request_with_a_body_is_sent_once() {
    let (server, counted) =
        failing(1, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let world = Setup { middlewares: vec![retry(3)], ..Setup::to(server) }.start();
    let mut client = world.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 1\r\n\r\nx").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 503 "));
    assert_eq!(counted.load(Ordering::Relaxed), 1);
    world.drain();
}

/// The one route's service is another.
fn leading_to(service: Arc<Service>) -> World {
    let setup = Setup::to(upstream(ok("hi")));
    let mut world = setup.start();
    let mut snapshot = setup.snapshot();
    snapshot.services.put(0, Some(service));
    assert!(world.runtime.block_on(world.proxy.apply(snapshot)).is_empty());
    world
}

#[test]
fn the_share_of_a_backend_that_is_not_there_is_an_error_of_the_configuration() {
    let mut world = leading_to(service(7, None, None));
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 500 Internal Server Error\r\n"));
    assert_eq!(world.records(1)[0].head.error, ErrorKind::NoServer);
    world.drain();
}

#[test]
fn a_server_s_own_headers_are_its_requests_alone() {
    let (name, value) = (http::HeaderName::from_static("x-own"), http::HeaderValue::from_static("1"));
    let modifier = HeaderModifier {
        set: vec![(name, value)],
        add: Vec::new(),
        remove: vec![http::HeaderName::from_static("x-gone")],
    };
    let (server, tells) = telling("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let world = leading_to(service(7, Some(server), Some(modifier)));
    let mut client = world.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nX-Gone: 1\r\n\r\n").unwrap();
    response(&mut client);
    let got = tells.recv_timeout(WAIT).unwrap();
    assert!(got.contains("x-own: 1\r\n") && !got.contains("x-gone"), "{got}");
    world.drain();
}
