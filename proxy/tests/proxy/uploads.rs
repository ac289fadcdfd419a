//! Requests that come slowly, go bad or are given up: who waited for whom, and what the client and the record get.

use std::sync::mpsc;

use super::*;

const PAUSE: Duration = Duration::from_millis(120);
const PAUSE_NS: u64 = 120_000_000;

fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: app.localhost\r\n{fields}\r\n\r\n")
}

/// A server that reads a request's head and four bytes of its body, answers, and goes on.
fn reading_upstream() -> SocketAddr {
    upstream(|_, stream| {
        let mut body = [0; 4];
        stream.read_exact(&mut body).is_ok() && ok("done")("", stream)
    })
}

#[test]
fn a_body_that_comes_after_its_head_is_waited_for_by_the_clients_clock() {
    let mut world = Setup::to(reading_upstream()).start();
    let mut client = world.connect();
    client.write_all(post("/lone", "content-length: 4").as_bytes()).unwrap();
    std::thread::sleep(PAUSE);
    client.write_all(b"ab").unwrap();
    std::thread::sleep(PAUSE);
    client.write_all(b"cd").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
    let body = world.records(1)[0].head.body;
    assert!(body.client_body > 2 * PAUSE_NS - PAUSE_NS / 10, "{body:?}");
    assert!(body.proxy_request < PAUSE_NS / 2, "{body:?}");
}

#[test]
fn a_client_that_gives_up_leaves_what_its_server_had() {
    let (told, heard) = mpsc::channel();
    let (_keep, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = upstream(move |_, _| {
        told.send(()).unwrap();
        wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).is_ok()
    });
    let mut world = Setup::to(server).start();
    let mut client = world.connect();
    client.write_all(get("/slow").as_bytes()).unwrap();
    heard.recv_timeout(Duration::from_secs(10)).unwrap();
    drop(client);
    let record = &world.records(1)[0];
    assert_eq!(record.head.end, End::ClientGone);
    assert!(record.attempts[0].head_written.known().is_some(), "{record:?}");
}

#[test]
fn a_client_that_closes_within_its_body_is_not_the_servers_fault() {
    let mut world = Setup::to(reading_upstream()).start();
    let mut client = world.connect();
    client.write_all((post("/cut", "content-length: 4") + "ab").as_bytes()).unwrap();
    std::thread::sleep(PAUSE);
    drop(client);
    let record = &world.records(1)[0];
    assert_eq!((record.head.end, record.head.error), (End::ClientGone, ErrorKind::ClientGone), "{record:?}");
    assert_ne!(record.attempts[0].error, ErrorKind::UpstreamClosed, "{record:?}");
}

#[test]
fn a_bad_chunk_gets_its_400_whether_it_comes_with_its_head_or_later() {
    for pause in [false, true] {
        let mut world = Setup::to(reading_upstream()).start();
        let mut client = world.connect();
        client.write_all(post("/chunk", "transfer-encoding: chunked").as_bytes()[..].as_ref()).unwrap();
        if pause {
            std::thread::sleep(PAUSE);
        }
        client.write_all(b"1\nx\n0\n\n").unwrap();
        let (head, _) = response(&mut client);
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        let record = &world.records(1)[0];
        assert_eq!((record.head.status, record.head.error), (400, ErrorKind::BadRequest), "{record:?}");
        assert_eq!(record.head.end, End::Refused, "{record:?}");
    }
    let mut world = Setup::to(reading_upstream()).start();
    let mut client = world.connect();
    client.write_all((post("/chunk", "transfer-encoding: chunked") + "1\nx\n0\n\n").as_bytes()).unwrap();
    let (head, _) = response(&mut client);
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert_eq!(world.records(1)[0].head.status, 400);
    assert_eq!(world.proxy.counters().read().1.refused_requests, 1);
}

#[test]
fn a_target_that_hyper_takes_for_none_is_a_400_in_the_record_too() {
    let mut world = Setup::to(reading_upstream()).start();
    let mut client = world.connect();
    client.write_all(b"GET /a<b HTTP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 400"));
    drop(client);
    let record = &world.records(1)[0];
    assert_eq!((record.head.status, record.head.end), (400, End::Refused), "{record:?}");
}

#[test]
fn a_refused_request_has_the_bytes_of_its_own_answer() {
    // Refused by the framer, by hyper, and for want of its end.
    for bad in ["GET / HTTP/1.1\nHost: a\n\n", "GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTT"] {
        for answered in [1, 0] {
            let mut setup = Setup::to(upstream(ok("hello")));
            setup.limits.head_timeout = Duration::from_millis(300);
            let mut world = setup.start();
            let mut client = world.connect();
            let mut from = 0;
            for _ in 0..answered {
                client.write_all(get("/").as_bytes()).unwrap();
                let (head, body) = response(&mut client);
                from += u64::try_from(head.len() + body.len()).unwrap();
            }
            client.write_all(bad.as_bytes()).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 4"), "{bad:?}");
            drop(client);
            let records = world.records(answered + 1);
            let ranges: Vec<_> = records.iter().map(|left| left.head.response_start..left.head.response_end).collect();
            let own = from..from + u64::try_from(answer.len()).unwrap();
            assert_eq!(ranges, [0..from, own][1 - answered..], "{bad:?}");
            let head = records.last().unwrap().head;
            assert!(head.first_read < head.head_written && head.head_written <= head.ended, "{bad:?}: {head:?}");
        }
    }
}

#[test]
fn refused_and_half_sent_heads_are_traced() {
    let mut world = Setup::to(reading_upstream()).start();
    let mut client = world.connect();
    client.write_all(b"GET / HTTP/1.1\nHost: app.localhost\n\n").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 400"));
    let mut half = world.connect();
    half.write_all(b"GET / HTT").unwrap();
    std::thread::sleep(PAUSE);
    drop(half);
    for record in world.records(2) {
        assert!(record.head.sampled && record.head.trace_id.0 != [0; 16], "{record:?}");
    }
}

#[test]
fn a_request_whose_time_is_up_ends_also_while_its_client_does_not_read() {
    let server = upstream(|_, stream| {
        let part = vec![b'x'; 1 << 20];
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20);
        (0..64).all(|_| stream.write_all(&part).is_ok())
    });
    let mut setup = Setup::to(server);
    setup.timeouts.request = Duration::from_millis(500);
    let mut world = setup.start();
    let mut client = world.connect();
    client.write_all(get("/large").as_bytes()).unwrap();
    let record = &world.records(1)[0];
    assert_eq!(record.head.end, End::TimedOut, "{record:?}");
    assert!(record.head.body.client_drain > 0, "{record:?}");
}

#[test]
fn what_comes_behind_an_early_answer_is_not_the_uploads_time() {
    const SIZE: usize = 32 << 20;
    // The server lets the upload fill the sockets, answers, and is silent; it may read on meanwhile.
    for reads in [false, true] {
        let sent = Arc::new(AtomicUsize::new(0));
        let so_far = Arc::clone(&sent);
        let (answering, answered) = std::sync::mpsc::channel();
        let server = upstream(move |_, stream| {
            let (mut before, begun) = (None, patience());
            while before != Some(so_far.load(Ordering::Relaxed)) {
                before = Some(so_far.load(Ordering::Relaxed));
                std::thread::sleep(PAUSE);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").unwrap();
            answering.send(patience().saturating_duration_since(begun)).unwrap();
            let until = patience() + 3 * PAUSE;
            let mut left = if reads { SIZE / 2 } else { 0 };
            while left > 0 {
                left = left.saturating_sub(stream.read(&mut vec![0; 1 << 20]).unwrap());
            }
            std::thread::sleep(until.saturating_duration_since(patience()));
            stream.write_all(b"done").unwrap();
            std::io::copy(stream, &mut std::io::sink()).is_ok()
        });
        let mut world = Setup::to(server).start();
        let mut client = world.connect();
        let mut sender = client.try_clone().unwrap();
        let uploading = std::thread::spawn(move || {
            sender.write_all(post("/early", &format!("content-length: {SIZE}")).as_bytes()).unwrap();
            for part in vec![b'x'; SIZE].chunks(64 << 10) {
                if sender.write_all(part).is_err() {
                    return;
                }
                sent.fetch_add(part.len(), Ordering::Relaxed);
            }
        });
        assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
        let body = world.records(1)[0].head.body;
        assert!(body.upstream_body > 3 * PAUSE_NS - PAUSE_NS / 2, "{reads}: {body:?}");
        // Only what came before the answer: the server was still for as long, and a worker may come late to it.
        let still_ns = u64::try_from(answered.recv().unwrap().as_nanos()).unwrap();
        assert!((PAUSE_NS / 2..still_ns + PAUSE_NS).contains(&body.upstream_drain), "{reads}: {still_ns} {body:?}");
        assert!(body.client_body < PAUSE_NS, "{reads}: {body:?}");
        let _ = client.shutdown(std::net::Shutdown::Both);
        uploading.join().unwrap();
    }
}

#[test]
fn a_client_that_stops_while_the_server_is_behind_is_waited_for() {
    const SIZE: usize = 8 << 20;
    let (reading, caught_up) = std::sync::mpsc::channel();
    // It reads more slowly than the client sends, so that the client's last bytes wait for the server's socket.
    let server = upstream(move |_, stream| {
        let mut part = vec![0; 64 << 10];
        let mut left = SIZE;
        while left > 0 {
            let room = part.len().min(left);
            left -= stream.read(&mut part[..room]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        reading.send(()).unwrap();
        stream.read_exact(&mut part[..1]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    let mut world = Setup::to(server).start();
    // Whether the end of that or the client's silence is noticed first differs from time to time.
    let mut was_behind = false;
    for round in 0..8 {
        let mut client = world.connect();
        client.write_all(post("/slow", &format!("content-length: {}", SIZE + 1)).as_bytes()).unwrap();
        client.write_all(&vec![b'x'; SIZE]).unwrap();
        caught_up.recv().unwrap();
        std::thread::sleep(2 * PAUSE);
        client.write_all(b"x").unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
        let body = world.records(1)[0].head.body;
        was_behind |= body.upstream_drain > 0;
        assert!(body.client_body >= 2 * PAUSE_NS && body.proxy_request < PAUSE_NS, "round {round}: {body:?}");
    }
    assert!(was_behind, "the server read as fast as the client sent");
}

#[test]
fn the_servers_time_for_its_head_begins_when_it_has_the_request() {
    let mut setup = Setup::to(reading_upstream());
    setup.timeouts.response_head = Duration::from_millis(600);
    let mut world = setup.start();
    let mut client = world.connect();
    client.write_all((post("/slow", "content-length: 4") + "ab").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    client.write_all(b"cd").unwrap();
    let (head, _) = response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(world.records(1)[0].head.status, 200);
}

#[test]
fn no_head_timeout_is_no_timeout_on_a_kept_connection_either() {
    let mut setup = Setup::to(upstream(ok("a")));
    setup.limits.head_timeout = Duration::ZERO;
    setup.limits.idle_timeout = Duration::from_millis(500);
    let world = setup.start();
    let mut client = world.connect();
    client.write_all(get("/one").as_bytes()).unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
    client.write_all(b"GET /two HT").unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    client.write_all(b"TP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
    assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
}

#[test]
fn an_answer_of_our_own_before_the_body_was_here_says_that_it_is_the_last() {
    let mut world = Setup::to(upstream(ok("fine"))).start();
    for (body, last) in [("", true), ("0123456789", false)] {
        let mut client = world.connect();
        let head = "POST / HTTP/1.1\r\nHost: nobody.localhost\r\ncontent-length: 10\r\n\r\n";
        client.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let head = response(&mut client).0.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 404"), "{head}");
        assert_eq!(head.contains("\r\nconnection: close\r\n"), last, "{head}");
        drop(client);
        assert_eq!(world.records(1)[0].head.status, 404);
    }
}

#[test]
fn a_whole_request_of_a_client_that_has_closed_its_side_is_traced_by_its_name() {
    let mut world = Setup::to(upstream(ok("fine"))).start();
    let mut client = world.connect();
    // Held back until its end is known, so that both come in one segment.
    rustix::net::send(&client, get("/half").as_bytes(), rustix::net::SendFlags::MORE).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(closed(&mut client));
    let record = &world.records(1)[0];
    assert_eq!((record.head.end, record.path.as_str()), (End::ClientGone, "/half"));
    assert!(record.head.sampled);
}
