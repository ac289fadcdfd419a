//! Middlewares over real sockets: what the server gets, what the client gets, and what the record says. What each of them
//! decides is tested where it stands.

use wayspan_proxy::middleware::{HeaderEdits, RedirectScheme, StripPrefix};

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
    Middleware::Headers(Arc::new(HeaderEdits { request: Vec::new(), response }))
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
