//! Requests behind others on one connection: whose the bytes of an answer are, where its client does not read.

use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

/// Requests that are sent at once.
const REQUESTS: usize = 600;
/// Bytes of each answer's head: together more than a socket takes that nobody reads from.
const FILLING: usize = 24 << 10;
/// Nothing more is asked for this long: nobody can take an answer.
const STUCK: Duration = Duration::from_millis(500);

/// Of a head alone: hyper would put one behind the other, where it puts none behind a body.
fn filled() -> String {
    format!("HTTP/1.1 200 OK\r\nx-filling: {}\r\ncontent-length: 0\r\n\r\n", "f".repeat(FILLING))
}

/// The lengths of all answers, by a client that reads them only when nothing more is asked for.
fn lengths(client: &mut TcpStream, requests: &str, asked: &mpsc::Receiver<()>) -> Vec<u64> {
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sending.write_all(requests.as_bytes()).unwrap());
        let mut before_reading = 0;
        while asked.recv_timeout(STUCK).is_ok() {
            before_reading += 1;
        }
        assert!(before_reading < REQUESTS, "all answers went into the socket");
        let mut reading = std::io::BufReader::new(client);
        (0..REQUESTS)
            .map(|_| {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    std::io::BufRead::read_until(&mut reading, b'\n', &mut head).unwrap();
                }
                assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
                u64::try_from(head.len()).unwrap()
            })
            .collect()
    })
}

/// The server answers when it has a request's head; then it reads the body.
fn check(request: &str, body: usize) {
    let (ask, asked) = mpsc::channel();
    let ask = Mutex::new(ask);
    let filled = filled();
    let address = upstream(move |_, stream| {
        ask.lock().unwrap().send(()).unwrap();
        stream.write_all(filled.as_bytes()).is_ok() && stream.read_exact(&mut vec![0; body]).is_ok()
    });
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    let lengths = lengths(&mut client, &request.repeat(REQUESTS), &asked);
    let mut at = 0;
    for (index, (record, length)) in world.records(REQUESTS).iter().zip(lengths).enumerate() {
        let Head { response_start, response_end, end, .. } = record.head;
        assert_eq!((response_start..response_end, end), (at..at + length, End::Complete), "answer {index}");
        at = response_end;
    }
}

#[test]
fn answers_that_wait_for_room_in_the_socket_have_bytes_of_their_own() {
    check(&get("/"), 0);
}

#[test]
fn answers_to_uploads_have_bytes_of_their_own() {
    check("POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 4\r\n\r\nbody", 4);
}
