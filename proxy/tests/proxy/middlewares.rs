//! Middlewares over real sockets: what the server gets, what the client gets, and what the record says. What each of them
//! decides is tested where it stands.

use std::sync::Mutex;

use http::HeaderName;
use wayspan_proxy::middleware::{
    AuthServer, Authenticator, BasicAuth, ForwardAuth, HeaderEdits, Headers, InFlightLimiter, InFlightReq, RateLimit,
    RateLimiter, RedirectScheme, Source, StripPrefix, User,
};

use super::*;

fn strip(prefix: &str) -> Middleware {
    Middleware::StripPrefix(Arc::new(StripPrefix { prefixes: vec![prefix.to_owned()] }))
}

fn to_https() -> Middleware {
    let (scheme, port) = ("https".to_owned(), String::new());
    Middleware::RedirectScheme(Arc::new(RedirectScheme { scheme, port, permanent: false }))
}

fn set_on_response(name: &'static str) -> Middleware {
    let response = vec![(http::HeaderName::from_static(name), Some(http::HeaderValue::from_static("1")))];
    let custom = HeaderEdits { request: Vec::new(), response };
    Middleware::Headers(Arc::new(Headers { custom, ..Headers::default() }))
}

/// An upstream that answers with the head that it got.
fn echo() -> SocketAddr {
    upstream(|head, stream| write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()).is_ok())
}

#[test]
fn a_prefix_is_stripped_on_the_way_and_the_record_keeps_the_path_that_was_asked_for() {
    let setup = Setup { middlewares: vec![strip("/api")], ..Setup::to(echo()) };
    let mut world = setup.start();
    let mut client = world.connect();
    let ask = "GET /api/x?y HTTP/1.1\r\nHost: app.localhost\r\nX-Forwarded-Prefix: /forged\r\n\r\n";
    client.write_all(ask.as_bytes()).unwrap();
    let (_, got) = response(&mut client);
    let got = String::from_utf8(got).unwrap();
    assert!(got.starts_with("GET /x?y HTTP/1.1\r\n"), "{got}");
    // An outsider is not believed (GHSA-6384-m2mw-rf54).
    assert!(got.contains("x-forwarded-prefix: /api\r\n") && !got.contains("forged"), "{got}");
    assert_eq!(world.records(1)[0].path, "/api/x");
    world.drain();
}

#[test]
fn what_a_middleware_answers_no_server_sees_and_those_before_it_still_edit() {
    let server = upstream(|head, _| panic!("the server got {head}"));
    let middlewares = vec![set_on_response("x-before"), to_https(), set_on_response("x-behind")];
    let mut world = Setup { middlewares, ..Setup::to(server) }.start();
    let mut client = world.connect();
    for (method, status) in [("GET", "302 Found"), ("POST", "307 Temporary Redirect")] {
        let ask = format!("{method} /a?b HTTP/1.1\r\nHost: app.localhost:8000\r\ncontent-length: 0\r\n\r\n");
        client.write_all(ask.as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        assert!(head.contains("location: https://app.localhost/a?b\r\n"), "{head}");
        assert!(head.contains("x-before: 1\r\n") && !head.contains("x-behind"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), status[4..], "{head}");
    }
    for (left, status) in world.records(2).iter().zip([302, 307]) {
        assert_eq!((left.head.status, left.head.end, left.head.error), (status, End::Complete, ErrorKind::None));
        assert_eq!((left.attempts.len(), left.head.route), (0, 5));
    }
    world.drain();
}

#[test]
fn a_path_that_leads_elsewhere_once_its_prefix_is_gone_is_refused() {
    let server = upstream(|head, _| panic!("the server got {head}"));
    let mut world = Setup { middlewares: vec![strip("/api")], ..Setup::to(server) }.start();
    let mut client = world.connect();
    client.write_all(get("/api..%2fadmin").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    assert_eq!(world.records(1)[0].head.status, 400);
    world.drain();
}

fn limited(average: u64, burst: u64) -> Middleware {
    let limit = RateLimit { average, period: Duration::from_secs(3600), burst, source: Source::Host };
    Middleware::RateLimit(Arc::new(RateLimiter::new(&limit)))
}

#[test]
fn a_rate_limit_is_one_for_all_workers() {
    let mut world = Setup { middlewares: vec![limited(1, 5)], workers: 2, ..Setup::to(upstream(ok("hi"))) }.start();
    // Connections spread over the workers by the kernel's hash.
    let statuses: Vec<String> = (0..40)
        .map(|_| {
            let mut client = world.connect();
            client.write_all(get("/").as_bytes()).unwrap();
            let (head, _) = response(&mut client);
            if head.starts_with("HTTP/1.1 429") {
                assert!(head.contains("retry-after: 36") || head.contains("retry-after: 35"), "{head}");
            }
            head[9..12].to_owned()
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| *status == "200").count(), 5, "{statuses:?}");
    let left = world.records(40);
    let workers: std::collections::HashSet<u16> = left.iter().map(|left| left.head.worker).collect();
    assert_eq!(workers.len(), 2, "all connections came to one worker");
    assert_eq!(left.iter().filter(|left| left.head.status == 429 && left.attempts.is_empty()).count(), 35);
    world.drain();
}

#[test]
fn who_is_a_little_early_waits_and_the_record_says_so() {
    let limit = RateLimit { average: 4, period: Duration::from_secs(1), burst: 1, source: Source::Host };
    let limit = Middleware::RateLimit(Arc::new(RateLimiter::new(&limit)));
    let mut world = Setup { middlewares: vec![limit], ..Setup::to(upstream(ok("hi"))) }.start();
    let mut client = world.connect();
    // Half an interval of 250 ms may be waited for: who comes 150 ms behind the last waits the rest.
    client.write_all(get("/1").as_bytes()).unwrap();
    response(&mut client);
    std::thread::sleep(Duration::from_millis(150));
    client.write_all(get("/2").as_bytes()).unwrap();
    let head = response(&mut client).0;
    let left = world.records(2);
    if head.starts_with("HTTP/1.1 200") && left[1].head.middleware_wait_ns == 0 {
        // The machine was so busy that it came in time.
        assert!(left[1].head.head_read.since(left[0].head.head_read) >= 250_000_000);
    } else {
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let waited = left[1].head.upstream_wanted.since(left[1].head.head_read);
        assert!((1..=waited).contains(&left[1].head.middleware_wait_ns), "{:?}", left[1].head);
    }
    world.drain();
}

#[test]
fn requests_under_way_are_limited_until_their_last_byte_or_their_clients_end() {
    let (answer, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = upstream(move |head, stream| {
        if head.starts_with("GET /held") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").unwrap();
            if held.lock().unwrap().recv().is_err() {
                return false;
            }
            return stream.write_all(b"lf").is_ok();
        }
        ok("hi")(head, stream)
    });
    let limit = Arc::new(InFlightLimiter::new(&InFlightReq { amount: 1, source: Source::Host }));
    let mut world =
        Setup { middlewares: vec![Middleware::InFlightReq(limit)], workers: 2, ..Setup::to(server) }.start();
    let status = |world: &World| {
        let mut client = world.connect();
        client.write_all(get("/").as_bytes()).unwrap();
        response(&mut client).0[9..12].to_owned()
    };
    let mut holder = world.connect();
    holder.write_all(get("/held").as_bytes()).unwrap();
    assert!(read_head(&mut holder).unwrap().starts_with("HTTP/1.1 200"));
    // Its head is here, its body is not.
    assert_eq!((status(&world), status(&world)), ("429".to_owned(), "429".to_owned()));
    world.records(2);
    answer.send(()).unwrap();
    let mut body = [0; 4];
    holder.read_exact(&mut body).unwrap();
    world.records(1);
    assert_eq!(status(&world), "200");
    world.records(1);
    // A client that leaves gives its place back.
    let mut holder = world.connect();
    holder.write_all(get("/held").as_bytes()).unwrap();
    read_head(&mut holder).unwrap();
    assert_eq!(status(&world), "429");
    drop(holder);
    world.records(2);
    assert_eq!(status(&world), "200");
    drop(answer);
    world.drain();
}

/// A middleware that asks that server.
pub(super) fn asks(server: SocketAddr, settings: ForwardAuth) -> Middleware {
    let named = Server {
        id: 42,
        url: format!("http://{server}/verify").into(),
        authority: server.to_string().into(),
        host: server.ip().to_string().into(),
        path_prefix: "".into(),
        addresses: [server].into(),
        request_headers: None,
        cap: None,
    };
    let service = Service {
        id: 9,
        name: "auth".into(),
        servers: [Arc::new(named)].into(),
        turn: [0].into(),
        pass_host: false,
        timeouts: Timeouts { request: Duration::from_secs(1), ..Timeouts::default() },
        idle_max: 8,
    };
    let target = http::uri::PathAndQuery::from_static("/verify");
    let settings = Arc::new(ForwardAuth { body_max: 8, ..settings });
    Middleware::ForwardAuth(Arc::new(AuthServer { settings, service: Arc::new(service), target }))
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn an_authentication_server_is_asked_in_the_requests_trace_and_what_it_says_goes_on() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let auth = {
        let asked = Arc::clone(&asked);
        upstream(move |head, stream| {
            asked.lock().unwrap().push(head.to_owned());
            std::thread::sleep(Duration::from_millis(30));
            let reply = "HTTP/1.1 200 OK\r\nx-user: ann\r\nset-cookie: s=1\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(reply.as_bytes()).is_ok()
        })
    };
    let settings = ForwardAuth {
        passed_on: vec![HeaderName::from_static("x-user")],
        cookies: vec!["s".to_owned()],
        ..ForwardAuth::default()
    };
    let mut world = Setup { middlewares: vec![strip("/a"), asks(auth, settings)], ..Setup::to(echo()) }.start();
    let mut client = world.connect();
    for _ in 0..2 {
        let ask = "POST /a/b?c HTTP/1.1\r\nHost: app.localhost\r\nx-user: forged\r\ncontent-length: 3\r\n\r\nxyz";
        client.write_all(ask.as_bytes()).unwrap();
        let (head, got) = response(&mut client);
        let got = String::from_utf8(got).unwrap();
        assert!(head.contains("set-cookie: s=1\r\n"), "{head}");
        assert!(got.contains("x-user: ann\r\n") && !got.contains("forged"), "{got}");
    }
    let left = world.records(2);
    for (left, asked) in left.iter().zip(asked.lock().unwrap().iter()) {
        assert!(asked.starts_with("GET /verify HTTP/1.1\r\n"), "{asked}");
        let said = |name| field(asked, name).unwrap();
        assert_eq!((said("x-forwarded-method"), said("x-forwarded-uri")), ("POST", "/b?c"));
        assert_eq!((said("host"), said("x-forwarded-host")), (auth.to_string().as_str(), "app.localhost"));
        assert_eq!(field(asked, "content-length"), None, "{asked}");
        let (head, call) = (&left.head, &left.calls[0]);
        let id: String = call.span_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let trace: String = head.trace_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(said("traceparent"), format!("00-{trace}-{id}-01"));
        assert_ne!(call.span_id, left.attempts[0].span_id);
        assert_eq!((call.server, call.status, left.calls.len(), left.attempts.len()), (42, 200, 1, 1));
        let wait = head.upstream_wanted.since(head.head_read);
        assert!((30_000_000..=wait).contains(&head.middleware_wait_ns), "{} of {wait}", head.middleware_wait_ns);
        assert_eq!((head.answered_by, head.request_body_bytes), (0, 3));
        assert!(call.begun >= head.head_read && call.ended <= head.upstream_wanted, "{call:?}");
    }
    assert!(!left[0].calls[0].reused && left[1].calls[0].reused, "the second call opened a connection of its own");
    world.drain();
}

#[test]
fn what_an_authentication_server_refuses_no_server_sees() {
    let auth = upstream(|_, stream| {
        let reply =
            "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\nset-cookie: a=1\r\ncontent-length: 3\r\n\r\nno!";
        stream.write_all(reply.as_bytes()).is_ok()
    });
    let server = upstream(|head, _| panic!("the server got {head}"));
    let mut world = Setup { middlewares: vec![asks(auth, ForwardAuth::default())], ..Setup::to(server) }.start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    let (head, body) = response(&mut client);
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n") && body == b"no!", "{head}");
    assert!(head.contains("www-authenticate: Basic\r\n") && head.contains("set-cookie: a=1\r\n"), "{head}");
    let left = &world.records(1)[0];
    assert_eq!((left.head.status, left.head.answered_by, left.attempts.len()), (401, 1, 0));
    assert_eq!((left.calls[0].status, left.head.error), (401, ErrorKind::None));
    world.drain();
}

#[test]
fn an_authentication_server_that_gives_no_answer_lets_nobody_on() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let long = upstream(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789").is_ok());
    let cut = upstream(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n12").is_err());
    for (auth, status, error) in [
        (gone, 500, ErrorKind::ConnectionRefused),
        (silent.local_addr().unwrap(), 500, ErrorKind::ResponseTimeout),
        (cut, 500, ErrorKind::UpstreamClosed),
        (long, 401, ErrorKind::None),
    ] {
        let server = upstream(|head, _| panic!("the server got {head}"));
        let mut world = Setup { middlewares: vec![asks(auth, ForwardAuth::default())], ..Setup::to(server) }.start();
        let mut client = world.connect();
        client.write_all(get("/").as_bytes()).unwrap();
        let (head, _) = response(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let left = &world.records(1)[0];
        assert_eq!((left.head.status, left.attempts.len(), left.calls[0].error), (status, 0, error));
        world.drain();
    }
}

#[test]
fn a_client_that_leaves_during_a_call_leaves_its_record() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let auth = asks(silent.local_addr().unwrap(), ForwardAuth::default());
    let mut world = Setup { middlewares: vec![auth], ..Setup::to(echo()) }.start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    let mut called = silent.accept().unwrap().0;
    read_head(&mut called).unwrap();
    drop(client);
    let left = &world.records(1)[0];
    assert_eq!((left.head.end, left.attempts.len(), left.calls.len()), (End::ClientGone, 0, 1));
    assert!(left.head.middleware_wait_ns > 0, "{:?}", left.head);
    assert!(closed(&mut called), "the call went on");
    world.drain();
}

#[test]
fn a_password_is_checked_once_away_from_the_worker() {
    // A hash of cost 10: whether a password is its own takes tens of milliseconds to find out.
    let hash = "$2b$10$abcdefghijklmnopqrstuu5s8Qbg1AMjX5Nq5yhP1tvmMByfzrdVK";
    let users = vec![
        User::parse("ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").unwrap(),
        User::parse(&format!("slow:{hash}")).unwrap(),
    ];
    let settings = BasicAuth {
        users,
        realm: "lab".to_owned(),
        remove_header: true,
        header_field: Some(HeaderName::from_static("x-user")),
    };
    let auth = Middleware::BasicAuth(Arc::new(Authenticator::new(&settings)));
    let mut world = Setup { middlewares: vec![auth], ..Setup::to(echo()) }.start();
    let mut client = world.connect();
    let mut ask = |credentials: &str| {
        let header =
            if credentials.is_empty() { String::new() } else { format!("authorization: Basic {credentials}\r\n") };
        client.write_all(format!("GET / HTTP/1.1\r\nHost: app.localhost\r\n{header}\r\n").as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        (head, String::from_utf8(body).unwrap())
    };
    // base64 of ann:test, ann:wrong, slow:wrong.
    let (head, _) = ask("");
    assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("www-authenticate: Basic realm=\"lab\"\r\n"), "{head}");
    for _ in 0..2 {
        let (head, got) = ask("YW5uOnRlc3Q=");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(got.contains("x-user: ann\r\n") && !got.contains("authorization"), "{got}");
    }
    assert!(ask("YW5uOndyb25n").0.starts_with("HTTP/1.1 401 "));
    assert!(ask("c2xvdzp3cm9uZw==").0.starts_with("HTTP/1.1 401 "));
    let left = world.records(5);
    let waited: Vec<bool> = left.iter().map(|left| left.head.middleware_wait_ns > 0).collect();
    assert_eq!(waited, [false, true, false, true, true], "what was right once is checked again");
    assert!(left[4].head.middleware_wait_ns > 5_000_000, "{}", left[4].head.middleware_wait_ns);
    assert_eq!(left.iter().map(|left| left.head.answered_by).collect::<Vec<_>>(), [1, 0, 0, 1, 1]);
    world.drain();
}
