//! What HTTP asks of a proxy beyond framing: which targets there are, who speaks which version, who may switch protocols.

use std::sync::Mutex;

use super::*;

/// A server that answers everything with what it was sent, and keeps it.
fn keeping_upstream() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heads);
    let address = upstream(move |head, stream| {
        kept.lock().unwrap().push(head.to_owned());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    (address, heads)
}

#[test]
fn a_target_that_is_not_what_it_seems_is_refused() {
    let (address, heads) = keeping_upstream();
    let mut world = Setup { rule: "Host(`app.localhost`) || Host(`*`)", ..Setup::to(address) }.start();
    let mut client = world.connect();
    for (target, status) in [
        ("http://app.localhost/", 200),
        ("http://app.localhost:80/", 200),
        // RFC 9110, 4.2.4: in front of an @ stands a user, who may look like a host.
        ("http://app.localhost:x@other.localhost/", 400),
        ("http://app.localhost@other.localhost/", 400),
        ("http://@app.localhost/", 400),
        ("http://a:b@app.localhost/", 400),
        ("https://a@app.localhost/", 400),
        // RFC 9112, 3.2.3 and 3.2.4: forms of CONNECT and of OPTIONS.
        ("app.localhost:80", 400),
        ("app.localhost", 400),
        ("*", 400),
        ("/a@b", 200),
        ("http://app.localhost/a@b?c@d", 200),
    ] {
        client.write_all(format!("GET {target} HTTP/1.1\r\nHost: app.localhost\r\n\r\n").as_bytes()).unwrap();
        let head = response(&mut client).0;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{target}: {head}");
        let record = &world.records(1)[0].head;
        assert_eq!((record.status, record.end == End::Refused), (status, status == 400), "{target}");
        let reached = heads.lock().unwrap().drain(..).count();
        assert_eq!(reached, usize::from(status == 200), "{target}");
    }
}

#[test]
fn a_question_to_the_server_as_a_whole_is_answered_by_none_of_those_behind_it() {
    let (address, heads) = keeping_upstream();
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    for host in ["app.localhost", "other.localhost"] {
        client.write_all(format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-length: 0"), "{head}");
        let record = &world.records(1)[0].head;
        assert_eq!((record.status, record.end, record.error), (200, End::Complete, ErrorKind::None));
    }
    assert!(heads.lock().unwrap().is_empty());
}

#[test]
fn an_answer_has_our_version_and_not_the_servers() {
    let mut world = Setup::to(upstream(|head, stream| {
        let answer = match head.split(' ').nth(1).unwrap() {
            "/length" => "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nbody",
            _ => "HTTP/1.0 200 OK\r\n\r\nbody",
        };
        stream.write_all(answer.as_bytes()).is_ok() && head.contains("/length")
    }))
    .start();
    let mut client = world.connect();
    for path in ["/length", "/close", "/length"] {
        client.write_all(get(path).as_bytes()).unwrap();
        let (head, mut body) = response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("connection: close"), "{head}");
        if path == "/close" {
            // It has no length, so it comes in chunks, behind which the connection goes on.
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            body = vec![0; b"4\r\nbody\r\n0\r\n\r\n".len()];
            client.read_exact(&mut body).unwrap();
            assert_eq!(body, b"4\r\nbody\r\n0\r\n\r\n");
        } else {
            assert_eq!(body, b"body");
        }
    }
    // A client of HTTP/1.0 gets its own version, and keeps the connection where it asks to.
    for _ in 0..2 {
        let request = "GET /length HTTP/1.0\r\nHost: app.localhost\r\nConnection: keep-alive\r\n\r\n";
        client.write_all(request.as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n") && head.contains("connection: keep-alive"), "{head}");
        assert_eq!(body, b"body");
    }
    assert!(world.records(5).iter().all(|record| record.head.end == End::Complete));
}

#[test]
fn a_server_that_switches_protocols_unasked_is_a_502() {
    let mut world = Setup::to(upstream(|_, stream| {
        let switching = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: Upgrade\r\n\r\nHELLO";
        stream.write_all(switching.as_bytes()).is_ok()
    }))
    .start();
    let mut client = world.connect();
    for request in [get("/"), "POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 1\r\n\r\nx".to_owned()] {
        client.write_all(request.as_bytes()).unwrap();
        let (head, body) = response(&mut client);
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n") && body == b"Bad Gateway\n", "{head}");
        let record = &world.records(1)[0];
        assert_eq!((record.head.status, record.head.error), (502, ErrorKind::UpstreamProtocol));
        assert_eq!((record.attempts[0].status, record.attempts[0].error), (101, ErrorKind::UpstreamProtocol));
    }
}

#[test]
fn rules_see_a_request_as_it_came() {
    let (address, heads) = keeping_upstream();
    for (rule, headers, matches) in [
        ("Header(`Upgrade`, `websocket`)", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true),
        ("Header(`Upgrade`, `websocket`)", "Connection: Upgrade\r\n", false),
        ("Header(`Connection`, `Upgrade`)", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true),
        ("Header(`Connection`, `Upgrade`)", "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", true),
        ("Header(`TE`, `gzip`)", "TE: gzip\r\n", true),
        ("Header(`Proxy-Authorization`, `Basic x`)", "Proxy-Authorization: Basic x\r\n", true),
        ("Header(`Keep-Alive`, `timeout=5`)", "Keep-Alive: timeout=5\r\n", true),
        ("!HeaderRegexp(`Proxy-Authorization`, `.`)", "Proxy-Authorization: Basic x\r\n", false),
        // What only a proxy may set is what this one says, even to itself.
        ("Header(`X-Forwarded-Proto`, `https`)", "X-Forwarded-Proto: https\r\n", false),
        ("Header(`X-Forwarded-Proto`, `http`)", "X-Forwarded-Proto: https\r\n", true),
        ("HeaderRegexp(`X-Forwarded-For`, `1`)", "X-Forwarded-For: 192.0.2.1\r\n", false),
        ("HeaderRegexp(`X-Forwarded-Prefix`, `.`)", "X-Forwarded-Prefix: /x\r\n", false),
        ("Header(`Mine`, `1`)", "Mine: 1\r\n", true),
        ("Header(`Mine`, `1`)", "Mine: 1\r\nConnection: mine\r\n", false),
    ] {
        let world = Setup { rule, ..Setup::to(address) }.start();
        let mut client = world.connect();
        client.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).unwrap();
        let head = response(&mut client).0;
        assert!(head.starts_with(if matches { "HTTP/1.1 200" } else { "HTTP/1.1 404" }), "{rule} {headers}: {head}");
    }
    let heads = heads.lock().unwrap();
    let lines: Vec<String> = heads.iter().flat_map(|head| head.lines()).map(str::to_ascii_lowercase).collect();
    for hop_by_hop in ["te:", "proxy-authorization:", "keep-alive:"] {
        assert!(!lines.iter().any(|line| line.starts_with(hop_by_hop)), "{hop_by_hop} was passed on: {lines:#?}");
    }
}

#[test]
fn a_response_with_trailers_ends_with_them() {
    let answer =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    let mut world = Setup::to(upstream(move |_, stream| stream.write_all(answer.as_bytes()).is_ok())).start();
    let mut client = world.connect();
    for (wanted, end, is_reused) in [("", "0\r\n\r\n", false), ("TE: trailers\r\n", "x-sum: 1\r\n\r\n", true)] {
        client.write_all(format!("GET / HTTP/1.1\r\nHost: app.localhost\r\n{wanted}\r\n").as_bytes()).unwrap();
        read_head(&mut client).unwrap();
        let mut body = Vec::new();
        while !body.ends_with(end.as_bytes()) {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        // While the connection is open.
        let record = &world.records(1)[0];
        assert_eq!((record.head.end, record.head.error), (End::Complete, ErrorKind::None));
        assert_eq!((record.head.status, record.head.response_body_bytes), (200, 2));
        assert_eq!(record.attempts[0].reused, is_reused, "the server's connection serves on");
    }
    world.drain();
}

#[test]
fn where_nothing_is_traced_a_context_passes_as_it_came_and_none_is_made() {
    let (address, heads) = keeping_upstream();
    let mut world = Setup { traced: false, ..Setup::to(address) }.start();
    let mut client = world.connect();
    let context = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n";
    for came in ["", context] {
        client.write_all(format!("GET / HTTP/1.1\r\nHost: app.localhost\r\n{came}\r\n").as_bytes()).unwrap();
        response(&mut client);
        let head = heads.lock().unwrap().remove(0).to_ascii_lowercase();
        assert_eq!(head.contains("traceparent"), !came.is_empty(), "{head}");
        assert!(came.lines().all(|line| head.contains(line)), "{head}");
        assert!(!world.records(1)[0].head.sampled);
    }
}

#[test]
fn what_cannot_become_a_request_is_refused_without_waiting_for_its_end() {
    let mut world = Setup::to(upstream(ok("fine"))).start();
    for bytes in [b"\x16\x03\x01\x02\x00\x01".as_slice(), b"(((("] {
        let mut client = world.connect();
        client.write_all(bytes).unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 400"), "{bytes:?}");
        assert!(closed(&mut client));
        let record = &world.records(1)[0].head;
        assert_eq!((record.status, record.end, record.error), (400, End::Refused, ErrorKind::BadRequest), "{bytes:?}");
    }
}
