//! Requests that came before the response of the one before them: they waited for it, and nobody else kept them.

use rustix::net::{AddressFamily, SocketType};

use super::*;

/// A server that answers `/slow` when it is told to, and what it has read of it.
fn slow() -> (SocketAddr, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((tell, taken), (enough, wait)) = (mpsc::channel(), mpsc::channel());
    let wait = Arc::new(Mutex::new(wait));
    let upstream = scripted(move |path, stream| {
        if path == "/slow" {
            tell.send(()).unwrap();
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        stream.write_all(SHORT).unwrap();
    });
    (upstream, taken, enough)
}

#[track_caller]
fn waited_for_the_one_before(span: &Span, from: At, to: At) {
    exact_and_full(span);
    lasts(span, "pipeline_wait", from, to);
    assert_eq!(span.tag("wayspan.blame"), Some("client"), "{:?}", span.phases());
    let number = |name| span.tag(name).map_or(0, |text| text.parse::<u128>().unwrap());
    let delay = number("wayspan.worker.wakeup") + number("wayspan.worker.backlog");
    assert!(delay < SLACK.as_micros(), "the worker was not late by {delay} us");
}

#[test]
fn a_request_in_pieces_behind_another_waits_for_that_ones_response() {
    let jaeger = Jaeger::start().unwrap();
    let (upstream, taken, enough) = slow();
    let config = config::forward("PathPrefix(`/`)", upstream) + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The first piece of the second request comes with the first request, the last and a third request later.
    client.write_all(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\nGET /second HTTP/1.1\r\n").unwrap();
    taken.recv_timeout(PATIENCE).unwrap();
    let sent = at(|| client.write_all(b"host: h\r\n\r\n").unwrap());
    let third = at(|| client.write_all(b"GET /third HTTP/1.1\r\nhost: h\r\n\r\n").unwrap());
    std::thread::sleep(PAUSE);
    let ending = now();
    enough.send(()).unwrap();
    read_until(&mut client, BODY).unwrap();
    let first = At(ending, now());
    read_until(&mut client, BODY).unwrap();
    let second = At(ending, now());
    read_until(&mut client, BODY).unwrap();

    waited_for_the_one_before(&server_span(&jaeger, "/second"), sent, first);
    waited_for_the_one_before(&server_span(&jaeger, "/third"), third, second);
    assert_eq!(phase_us(&server_span(&jaeger, "/slow"), "pipeline_wait"), 0);
}

/// A client that has sent all its requests reads nothing for a while in the first response, and then in the last.
#[test]
fn responses_behind_a_shut_window_say_so_each() {
    // More than both ends of the connection keep: tcp_wmem's 4 MiB, and what the client's is told to.
    const LONG: usize = 8 << 20;
    const KEPT: usize = 256 << 10;
    let unread = Duration::from_millis(1_500);
    let jaeger = Jaeger::start().unwrap();
    let upstream = scripted(|path, stream| {
        let length = if path.starts_with("/long") { LONG } else { 4 };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").unwrap();
        stream.write_all(&vec![b'x'; length]).unwrap();
    });
    let config = config::forward("PathPrefix(`/`)", upstream) + &config::traced(&jaeger) + "probes:\n  ack: true\n";
    let mut agent = Agent::start(&config).unwrap();
    let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // Before it is connected: what a window has promised is not taken back.
    rustix::net::sockopt::set_socket_recv_buffer_size(&client, KEPT).unwrap();
    rustix::net::connect(&client, &agent.address("web").unwrap()).unwrap();
    let mut client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let paths = ["/long/first", "/second", "/third", "/long/last"];
    let requests: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).collect();
    client.write_all(requests.as_bytes()).unwrap();
    let mut took = Vec::new();
    for path in paths {
        let begun = now();
        if path.starts_with("/long") {
            std::thread::sleep(unread);
        }
        read_until(&mut client, b"\r\n\r\n").unwrap();
        client.read_exact(&mut vec![0; if path.starts_with("/long") { LONG } else { 4 }]).unwrap();
        took.push(now().duration_since(begun));
    }
    for (path, took) in paths.into_iter().zip(took) {
        let span = server_span(&jaeger, path);
        let us = span.tag("wayspan.client.zero_window").map_or(0, |text| text.parse().unwrap());
        let told = Duration::from_micros(us);
        // At first the congestion window waits, for acknowledgements that are delayed (40 to 200 ms each).
        let shortest = if path.starts_with("/long") { unread / 2 } else { Duration::ZERO };
        assert!((shortest..=took + SLACK).contains(&told), "{path}: {told:?} of {took:?}; {:?}", span.tags);
    }
}
