//! Prints what the pure parts of a request's way cost, in nanoseconds each. Run in release; figures of one machine are
//! comparable only among themselves.

use std::hint::black_box;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::framer::{Framer, Limits};
use wayspan_proxy::headers::{PeerHeaders, Trust, prepare_request, receive_request};
use wayspan_proxy::trace_context::{TraceParent, inject};

const HEAD: &[u8] = b"GET /dispatch?customer=392&nonse=0.7294 HTTP/1.1\r\n\
    Host: hotrod.localhost:8000\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n\
    Accept: text/html,application/json;q=0.9,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef\r\n\
    Cache-Control: no-cache\r\n\
    Pragma: no-cache\r\n\
    Referer: http://hotrod.localhost/\r\n\r\n";

fn main() {
    println!("head of {} bytes", HEAD.len());
    let limits = Limits { head_bytes: 64 * 1024, headers: 100 };
    let mut framer = Framer::requests(limits);
    let mut at = 0;
    let mut events = 0_u64;
    measure("framer: one request head", || {
        let scanned = framer.feed(black_box(HEAD), at, &mut |_| events += 1);
        at += HEAD.len() as u64;
        black_box(scanned.is_ok());
    });
    assert!(events > 0);
    measure("for comparison, httparse: the same head", || {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        black_box(request.parse(black_box(HEAD)).is_ok());
    });
    rewriting();
}

/// The rewriting of the same head's fields, less what it costs to copy them for each turn.
fn rewriting() {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    assert!(request.parse(HEAD).is_ok());
    let mut came = http::HeaderMap::new();
    for field in request.headers.iter() {
        let name = http::HeaderName::from_bytes(field.name.as_bytes()).expect("the head above is valid");
        came.append(name, http::HeaderValue::from_bytes(field.value).expect("the head above is valid"));
    }
    let trust = Trust { networks: &[], all: false };
    let server = Some(http::HeaderValue::from_static("node-1"));
    let peer = PeerHeaders::new(std::net::Ipv4Addr::LOCALHOST.into(), 8000, trust, false, server);
    let copy = measure("copy of the header map, contained in the next two", || {
        black_box(came.clone());
    });
    let prepared = measure("headers: receive_request and prepare_request", || {
        let mut headers = came.clone();
        let received = receive_request(&mut headers, &peer);
        black_box(prepare_request(&mut headers, &peer, received));
        black_box(headers);
    });
    let mut random = fastrand::Rng::with_seed(1);
    let injected = measure("trace_context: new root and inject", || {
        let mut headers = came.clone();
        inject(&mut headers, TraceParent::root(&mut random), None);
        black_box(headers);
    });
    println!("without the copy: {:.1} ns and {:.1} ns", prepared - copy, injected - copy);
    measure("trace_context: parse", || {
        black_box(TraceParent::parse(black_box(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")));
    });
}

/// The best of several rounds: what the code costs when nobody else uses the processor.
fn measure(what: &str, mut work: impl FnMut()) -> f64 {
    const TURNS: u64 = 5_000;
    let best = (0..200)
        .map(|_| {
            let begun = MonoNs::now();
            (0..TURNS).for_each(|_| work());
            MonoNs::now().since(begun)
        })
        .min()
        .unwrap_or_default();
    let each = best as f64 / TURNS as f64;
    println!("{what}: {each:.1} ns");
    each
}
