//! The same below TLS: what the kernel saw are records, and times are theirs.

use wayspan_tests::tls::{Client, settings};

use super::*;

fn secure(server: SocketAddr, jaeger: &Jaeger) -> String {
    config::forward("PathPrefix(`/`)", server).replace("service: up}", "service: up, tls: {}}")
        + &config::traced(jaeger)
}

#[test]
fn first_and_last_byte_of_a_request_within_tls_are_timed_by_their_records() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let mut agent = Agent::start(&secure(upstream.address(), &jaeger)).unwrap();
    let web = agent.address("web").unwrap();
    let mut client = Client::open(web, "h", &settings(None, false).unwrap()).unwrap();
    assert_eq!(client.get("h", "/first").unwrap().status, 200);

    // Two records, of each the first byte and the last alone: all of it comes while the agent is stopped.
    let head = client.sealed(b"GET /timed HTTP/1.1\r\n").unwrap();
    let rest = client.sealed(b"host: h\r\n\r\n").unwrap();
    let (first, head) = head.split_at(1);
    let (middle, last) = rest.split_at(rest.len() - 1);
    let stopped = Stopped::new(pid(&agent));
    let sent = send_apart(&mut client.stream(), &[first, head, middle, last]);
    let read = at(|| {
        drop(stopped);
        assert_eq!(client.read_response().unwrap().status, 200);
    });

    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    lasts(&span, "client_send", sent[0], sent[3]);
    lasts(&span, "read_wait", sent[3], read);
    assert_eq!((span.tag("url.scheme"), span.tag("server.port")), (Some("https"), Some("443")));
    assert_eq!((span.tag("tls.protocol.version"), span.tag("tls.resumed")), (Some("1.3"), Some("false")));
    assert!(span.tag("tls.cipher").unwrap().starts_with("TLS_"), "{:?}", span.tags);
    assert_eq!(span.tag("wayspan.connection.tls_handshake"), None, "it is the first request's");
}

#[test]
fn a_slow_handshake_is_told_beside_the_first_request_and_is_none_of_its_phases() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let mut agent = Agent::start(&secure(upstream.address(), &jaeger)).unwrap();
    let web = agent.address("web").unwrap();
    let mut client = Client::connect(web, "h", &settings(None, false).unwrap()).unwrap();
    let hello = client.sealed(b"").unwrap();
    let (first, rest) = hello.split_at(1);
    // From the greeting's first byte on, while the agent sleeps.
    let sent = send_apart(&mut client.stream(), &[first, rest]);
    let shaken = at(|| client.shake().unwrap());
    std::thread::sleep(PAUSE);
    assert_eq!(client.get("h", "/timed").unwrap().status, 200);
    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    let told: u64 = span.tag("wayspan.connection.tls_handshake").unwrap().parse().unwrap();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
    let shortest = micros(shaken.0.saturating_duration_since(sent[0].1).saturating_sub(SLACK));
    // The client is done before its last words have come.
    let longest = micros(shaken.1.duration_since(sent[0].0) + SLACK);
    assert!((shortest..=longest).contains(&told), "{told} us, not {shortest}..={longest}");
    assert!(span.duration_us < micros(PAUSE), "{:?}", span.phases());
}
