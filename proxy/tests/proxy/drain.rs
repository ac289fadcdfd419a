//! Draining while requests have arrived that are not answered yet.

use std::sync::mpsc;

use super::*;

const WAIT: Duration = Duration::from_secs(10);

/// A server that keeps the first request waiting: it tells of each head, and answers that one when it may.
fn holding_upstream() -> (SocketAddr, mpsc::Receiver<String>, mpsc::Sender<()>) {
    let (heads, told) = mpsc::channel();
    let (may, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let address = upstream(move |head, stream| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        heads.send(path.clone()).unwrap();
        if path == "/first" {
            wait.lock().unwrap().recv_timeout(WAIT).unwrap();
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
        stream.write_all(answer.as_bytes()).is_ok()
    });
    (address, told, may)
}

/// Sends `before`, and once the first request is with the server drains, sends `after`, and lets it be answered. What the
/// client got until the connection ended in order, and what has the records.
fn drained(before: &[String], after: &str) -> (Vec<(String, Vec<u8>)>, World) {
    let (address, told, may) = holding_upstream();
    let world = Setup::to(address).start();
    let mut client = world.connect();
    client.write_all(before[0].as_bytes()).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), "/first");
    for part in &before[1..] {
        client.write_all(part.as_bytes()).unwrap();
    }
    let World { proxy, readers, runtime, address } = world;
    let (answers, client) = std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            // Nobody listens any more: the drain has begun. Asked with pauses, since a listener first serves its backlog.
            let until = patience() + WAIT;
            while TcpStream::connect(address).is_ok() {
                assert!(patience() < until, "the drain has not begun");
                std::thread::sleep(Duration::from_millis(5));
            }
            client.write_all(after.as_bytes()).unwrap();
            may.send(()).unwrap();
            let mut answers = Vec::new();
            while client.peek(&mut [0]).unwrap() > 0 {
                answers.push(response(&mut client));
            }
            // Fails where there was a reset.
            let _ = client.shutdown(std::net::Shutdown::Write);
            (answers, client)
        });
        runtime.block_on(proxy.drain(WAIT));
        client.join().unwrap()
    });
    // A reset could take the last answer away from a client.
    assert!(client.take_error().unwrap().is_none());
    (answers, World { readers, ..Setup::to(address).start() })
}

fn says_close(answer: &(String, Vec<u8>)) -> bool {
    answer.0.to_ascii_lowercase().contains("connection: close")
}

#[track_caller]
fn all_are_answered(before: &[String], after: &str, paths: &[&str]) {
    let (answers, mut world) = drained(before, after);
    let got: Vec<_> = answers.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect();
    assert_eq!(got, paths);
    let (last, others) = answers.split_last().unwrap();
    assert!(says_close(last) && !others.iter().any(says_close), "{answers:?}");
    let records = world.records(paths.len());
    assert!(records.iter().all(|record| (record.head.status, record.head.end) == (200, End::Complete)), "{records:?}");
}

#[test]
fn pipelined_requests_that_were_read_are_all_answered() {
    all_are_answered(&[get("/first") + &get("/2") + &get("/3")], "", &["/first", "/2", "/3"]);
}

#[test]
fn requests_that_wait_unread_are_answered_too() {
    let many: Vec<String> = (0..200).map(|n| get(&format!("/{n}"))).collect();
    let before = [get("/first"), get("/2"), get("/3"), many.concat()];
    let paths: Vec<String> = (0..200).map(|n| format!("/{n}")).collect();
    let paths: Vec<&str> = ["/first", "/2", "/3"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    all_are_answered(&before, "", &paths);
}

#[test]
fn requests_held_back_behind_one_for_another_protocol_are_answered_too() {
    let first = "GET /first HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\n";
    all_are_answered(&[first.to_owned() + &get("/2") + &get("/3")], "", &["/first", "/2", "/3"]);
}

#[test]
fn a_request_that_has_half_arrived_is_answered_when_the_rest_has() {
    let second = get("/2");
    for at in [1, 20, second.len() - 1] {
        let (half, rest) = second.split_at(at);
        all_are_answered(&[get("/first") + half], rest, &["/first", "/2"]);
        all_are_answered(&[get("/first"), get("/x") + half], rest, &["/first", "/x", "/2"]);
    }
}

#[test]
fn a_request_that_comes_later_is_not_served_and_the_client_told() {
    let (answers, mut world) = drained(&[get("/first")], &get("/later"));
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].1 == b"/first" && says_close(&answers[0]), "{answers:?}");
    let records = world.records(2);
    assert_eq!((records[0].head.status, records[0].head.end), (200, End::Complete));
    assert_eq!((records[1].head.status, records[1].head.end), (0, End::Shutdown));
}

#[test]
fn what_comes_later_and_stays_unread_does_not_reset_the_connection() {
    // More than is read at once, less than a receive buffer.
    let (answers, _) = drained(&[get("/first")], &get("/later").repeat(1000));
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(says_close(&answers[0]));
}

#[test]
fn a_bad_request_behind_the_last_good_one_is_refused() {
    let bad = "GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let (answers, mut world) = drained(&[get("/first") + &get("/2") + bad], "");
    let statuses: Vec<_> = answers.iter().map(|(head, _)| head.split(' ').nth(1).unwrap()).collect();
    assert_eq!(statuses, ["200", "200", "400"]);
    assert_eq!(world.records(3)[2].head.end, End::Refused);
}
