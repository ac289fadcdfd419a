//! Requests that came before the response of the one before them: they waited for it, and nobody else kept them.

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
