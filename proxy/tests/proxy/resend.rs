//! A server that ends a pooled connection while a request is on its way: what is sent again, and what is not.

use std::sync::mpsc;

use wayspan_proxy::trace_context::TraceParent;

use super::*;

const WAIT: Duration = Duration::from_secs(10);

/// How a server ends a connection.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// It has read everything, and closes: FIN.
    Politely,
    /// It resets: RST.
    Reset,
    /// It has begun an answer.
    MidAnswer,
    /// It has sent an interim response and nothing more.
    AfterInterim,
}

fn end(stream: &mut TcpStream, how: Ends) -> bool {
    match how {
        Ends::Politely => {}
        Ends::Reset => socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap(),
        Ends::MidAnswer => stream.write_all(b"HT").unwrap(),
        Ends::AfterInterim => stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap(),
    }
    false
}

/// A server that answers, with the head that it got, every request but the `nth` of a connection. Tells of all heads.
fn ending_upstream(nth: usize, how: Ends) -> (SocketAddr, mpsc::Receiver<String>) {
    let (heads, told) = mpsc::channel();
    let address = upstream_by_turn(move |turn, head, stream| {
        heads.send(head.to_owned()).unwrap();
        if turn == nth {
            return end(stream, how);
        }
        let length =
            head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    (address, told)
}

fn upstream_by_turn(answer: impl Fn(usize, &str, &mut TcpStream) -> bool + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut turn = 0;
                while let Some(head) = read_head(&mut stream)
                    && answer(turn, &head, &mut stream)
                {
                    turn += 1;
                }
            });
        }
    });
    address
}

fn head(method: &str, more: &str) -> String {
    format!("{method} /it HTTP/1.1\r\nHost: app.localhost\r\nx-mine: 1\r\nx-mine: 2\r\n{more}\r\n")
}

fn status(client: &mut TcpStream) -> u16 {
    let head = read_head(client).expect("the connection closed before a response");
    let length = head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    client.read_exact(&mut vec![0; length.unwrap_or(0)]).unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Sends a first request, so that its connection is pooled, and then this one. The status, and the second's record.
fn second(request: &str, how: Ends) -> (u16, Left, mpsc::Receiver<String>) {
    let (address, heads) = ending_upstream(1, how);
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    client.write_all(get("/first").as_bytes()).unwrap();
    assert_eq!(status(&mut client), 200);
    assert!(heads.recv_timeout(WAIT).unwrap().starts_with("GET /first"));
    client.write_all(request.as_bytes()).unwrap();
    let status = status(&mut client);
    (status, world.records(2).remove(1), heads)
}

#[test]
fn an_idempotent_request_without_a_body_is_sent_once_more_on_a_new_connection() {
    for how in [Ends::Politely, Ends::Reset] {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            for more in ["", "content-length: 0\r\n"] {
                let (status, record, heads) = second(&head(method, more), how);
                assert_eq!(status, 200, "{method} {how:?}");
                assert_eq!((record.head.status, record.head.end), (200, End::Complete));
                assert_eq!((record.head.error, record.head.attempts_made), (ErrorKind::None, 2));
                let [first, last] = record.attempts.as_slice() else { panic!("{record:?}") };
                assert!(first.reused && !last.reused, "{record:?}");
                assert!(matches!(first.error, ErrorKind::UpstreamClosed | ErrorKind::UpstreamReset), "{record:?}");
                assert_eq!((first.status, last.status, last.error), (0, 200, ErrorKind::None));
                assert!(first.ended.0 != 0 && first.ended <= last.begun && last.begun <= last.connected, "{record:?}");
                let both: Vec<String> = heads.try_iter().collect();
                let [sent, again] = both.as_slice() else { panic!("{both:#?}") };
                let parent = |head: &str| {
                    let line = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap().to_owned();
                    TraceParent::parse(line.as_bytes()).unwrap()
                };
                assert_eq!((parent(sent).parent_id, parent(again).parent_id), (first.span_id, last.span_id));
                let others = |head: &str| {
                    let mut lines: Vec<_> =
                        head.lines().filter(|line| !line.starts_with("traceparent")).map(str::to_owned).collect();
                    lines.sort();
                    lines
                };
                assert_eq!(others(sent), others(again), "the same but for the caller's span");
            }
        }
    }
}

#[test]
fn what_may_have_been_processed_is_not_sent_again() {
    let post = head("POST", "content-length: 0\r\n");
    let patch = head("PATCH", "");
    let unknown = head("FROBNICATE", "");
    let put = head("PUT", "content-length: 3\r\n") + "abc";
    let chunked = head("PUT", "transfer-encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n";
    let get = head("GET", "");
    for (request, how) in [
        (&post, Ends::Politely),
        (&post, Ends::Reset),
        (&patch, Ends::Politely),
        (&unknown, Ends::Politely),
        (&put, Ends::Politely),
        (&chunked, Ends::Politely),
        (&get, Ends::MidAnswer),
        (&get, Ends::AfterInterim),
    ] {
        let (status, record, heads) = second(request, how);
        assert_eq!(status, 502, "{request} {how:?}");
        assert_eq!((record.head.attempts_made, record.attempts.len()), (1, 1), "{request} {how:?}");
        assert!(record.attempts[0].reused);
        assert_ne!(record.attempts[0].error, ErrorKind::None);
        assert_eq!(heads.try_iter().count(), 1, "{request} {how:?}");
    }
}

#[test]
fn a_new_connection_that_ends_without_an_answer_is_a_502() {
    for how in [Ends::Politely, Ends::Reset] {
        let (address, heads) = ending_upstream(0, how);
        let mut world = Setup { addresses_each: 2, ..Setup::to(address) }.start();
        let mut client = world.connect();
        client.write_all(head("GET", "").as_bytes()).unwrap();
        assert_eq!(status(&mut client), 502);
        let record = &world.records(1)[0];
        assert_eq!((record.head.attempts_made, record.attempts[0].reused), (1, false));
        assert_eq!(heads.try_iter().count(), 1);
    }
}

#[test]
fn a_request_is_not_sent_again_over_another_pooled_connection() {
    let both = std::sync::Barrier::new(2);
    let address = upstream_by_turn(move |turn, head, stream| {
        if head.starts_with("GET /first") {
            both.wait();
        }
        turn == 0 && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    let mut world = Setup::to(address).start();
    let mut clients = [world.connect(), world.connect()];
    for client in &mut clients {
        client.write_all(get("/first").as_bytes()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(status(client), 200);
    }
    clients[0].write_all(head("GET", "").as_bytes()).unwrap();
    assert_eq!(status(&mut clients[0]), 200);
    let records = world.records(3);
    let reused: Vec<_> = records[2].attempts.iter().map(|attempt| attempt.reused).collect();
    assert_eq!(reused, [true, false]);
}

#[test]
fn a_request_is_sent_again_once_and_not_twice() {
    // Every connection after the first ends without an answer, new ones too.
    let first = AtomicUsize::new(0);
    let address = upstream_by_turn(move |_, _, stream| {
        first.fetch_add(1, Ordering::SeqCst) == 0
            && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    let mut world = Setup { addresses_each: 3, ..Setup::to(address) }.start();
    let mut client = world.connect();
    for expected in [200, 502] {
        client.write_all(head("GET", "").as_bytes()).unwrap();
        assert_eq!(status(&mut client), expected);
    }
    let records = world.records(2);
    assert_eq!(records[1].head.attempts_made, 2);
    assert_eq!((records[1].head.status, records[1].head.error), (502, ErrorKind::UpstreamClosed));
}

#[test]
fn a_body_that_nobody_has_taken_goes_with_the_request_when_it_is_sent_again() {
    for (framing, body) in
        [("content-length: 5\r\n", "hello"), ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let (heads, told) = mpsc::channel();
        let address = upstream_by_turn(move |turn, head, stream| {
            heads.send(turn).unwrap();
            match turn {
                // Ends as soon as it has the head, before the client has sent any of the body.
                1 => return false,
                _ if head.starts_with("PUT") => {
                    let chunked = head.contains("transfer-encoding: chunked");
                    let mut got = vec![0; if chunked { 15 } else { 5 }];
                    stream.read_exact(&mut got).unwrap();
                    assert_eq!(got, if chunked { b"5\r\nhello\r\n0\r\n\r\n".as_slice() } else { b"hello" });
                }
                _ => {}
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
        });
        let mut world = Setup::to(address).start();
        let mut client = world.connect();
        client.write_all(get("/first").as_bytes()).unwrap();
        assert_eq!(status(&mut client), 200);
        client.write_all(head("PUT", framing).as_bytes()).unwrap();
        // The first request, the one that was cut off, and the one that was sent again.
        assert_eq!([(); 3].map(|()| told.recv_timeout(WAIT).unwrap()), [0, 1, 0]);
        client.write_all(body.as_bytes()).unwrap();
        assert_eq!(status(&mut client), 200);
        let record = &world.records(2)[1];
        assert_eq!((record.head.attempts_made, record.head.request_body_bytes), (2, 5));
        assert_eq!(record.head.error, ErrorKind::None);
        // The clock of the body is the last attempt's: what the one before waited for is in that one's time already.
        let (body, last) = (record.head.body, &record.attempts[1]);
        let upload = body.client_body + body.read_wait + body.upstream_drain + body.proxy_request;
        assert_eq!(upload, last.first_read.since(last.head_written), "{record:?}");
    }
}

#[test]
fn a_body_goes_with_any_method() {
    for method in ["GET", "HEAD", "DELETE", "POST", "FROBNICATE"] {
        let (bodies, told) = mpsc::channel();
        let address = upstream(move |head, stream| {
            assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
            let mut body = [0; 13];
            stream.read_exact(&mut body).unwrap();
            bodies.send(body).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok()
        });
        let world = Setup::to(address).start();
        let mut client = world.connect();
        let chunks = "3\r\nabc\r\n0\r\n\r\n";
        client.write_all((head(method, "transfer-encoding: chunked\r\n") + chunks).as_bytes()).unwrap();
        assert_eq!(told.recv_timeout(WAIT).unwrap(), chunks.as_bytes(), "{method}");
        assert_eq!(status(&mut client), 204);
    }
}

#[test]
fn a_server_that_closes_while_the_request_is_on_its_way_costs_no_client_an_answer() {
    // The server closes after its first answer, now with a request unread and now before it came: whichever side wins
    // the race, there is an answer.
    let mut world = Setup::to(upstream_by_turn(|_, head, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        let spins: usize = head.split(' ').nth(1).unwrap().trim_start_matches('/').parse().unwrap();
        for _ in 0..spins {
            std::hint::spin_loop();
        }
        false
    }))
    .start();
    let mut client = world.connect();
    const ROUNDS: usize = 500;
    for round in 0..ROUNDS {
        client.write_all(get(&format!("/{}", round * 37 % 10_000)).as_bytes()).unwrap();
        assert_eq!(status(&mut client), 200, "round {round}");
    }
    let records = world.records(ROUNDS);
    let again = records.iter().filter(|record| record.head.attempts_made == 2).count();
    println!("{again} of {ROUNDS} were sent again");
    assert!(records.iter().all(|record| record.head.error == ErrorKind::None && record.head.attempts_made <= 2));
}
