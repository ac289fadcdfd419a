//! Which reads ask for a stamp where nobody watches, and what the stamps become in the record.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Mutex;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{BackendAsk, BackendMarks, Marks, SocketObserver, Token};

use super::*;

const CLIENT: Token = Token { generation: 0, slot: 1 };
const UPSTREAM: Token = Token { generation: 0, slot: 2 };
const STAMPED: Missing = Missing(Missing::UNAVAILABLE.0 | Missing::TIMESTAMPS.0);
const UNSAMPLED: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";

/// Says of all that a read brings that it had come just now, and notes whose it was.
#[derive(Clone, Default)]
struct Stamper(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    sockets: HashMap<RawFd, Token>,
    stamps: Vec<(Token, MonoNs)>,
}

impl Stamper {
    fn names(&self, socket: BorrowedFd<'_>, token: Token) -> Token {
        self.0.lock().unwrap().sockets.insert(socket.as_raw_fd(), token);
        token
    }

    /// Those of a side since the last time.
    fn take(&self) -> Vec<(Token, MonoNs)> {
        std::mem::take(&mut self.0.lock().unwrap().stamps)
    }

    /// Waits until so many reads of a client's have been stamped.
    fn wait_for(&self, count: usize) {
        let until = patience() + Duration::from_secs(10);
        while self.0.lock().unwrap().stamps.iter().filter(|(token, _)| *token == CLIENT).count() < count {
            assert!(patience() < until, "no {count} reads were stamped");
            std::thread::yield_now();
        }
    }
}

impl SocketObserver for Stamper {
    fn listening(&self, _: BorrowedFd<'_>) {}
    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        self.names(socket, CLIENT)
    }
    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        self.names(socket, UPSTREAM)
    }
    fn marks(&self, _: Token, _: Range<u64>) -> Marks {
        Marks { missing: STAMPED, ..Marks::default() }
    }
    fn backend(&self, _: Token, _: BackendAsk) -> BackendMarks {
        BackendMarks { missing: Missing::NOT_SOUGHT, ..BackendMarks::default() }
    }
    fn closed(&self, _: Token) {}
    fn stamps(&self) -> bool {
        true
    }
    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], _: &mut u32) -> io::Result<(usize, MonoNs)> {
        let count = rustix::io::read(socket, buffer)?;
        let came = MonoNs::now();
        if count > 0 {
            let mut noted = self.0.lock().unwrap();
            let token = noted.sockets[&socket.as_raw_fd()];
            noted.stamps.push((token, came));
        }
        Ok((count, came))
    }
    fn absence(&self) -> Missing {
        STAMPED
    }
}

#[test]
fn heads_are_stamped_and_of_responses_those_to_sampled_requests() {
    let stamper = Stamper::default();
    let mut world = Setup::to(upstream(ok("hello"))).start_with(stamper.clone());
    let mut client = world.connect();
    for headers in ["", UNSAMPLED, ""] {
        let request = format!("GET / HTTP/1.1\r\nHost: app.localhost\r\n{headers}\r\n");
        client.write_all(request.as_bytes()).unwrap();
        assert_eq!(response(&mut client).1, b"hello");
        let (left, stamps) = (world.records(1).remove(0), stamper.take());
        let (head, attempt) = (left.head, left.attempts.first().unwrap());
        assert_eq!(head.sampled, headers.is_empty());
        let of = |side: Token| stamps.iter().find(|(token, _)| *token == side).map_or(MonoNs::UNKNOWN, |(_, at)| *at);
        // It came whole, and nothing behind it.
        assert_eq!((head.first_readable, head.head_readable), (of(CLIENT), of(CLIENT)), "{stamps:?}");
        assert_eq!(head.client_missing, STAMPED);
        if head.sampled {
            assert_eq!((attempt.first_readable, attempt.missing), (of(UPSTREAM), STAMPED), "{stamps:?}");
            assert!(attempt.first_readable.known().is_some_and(|at| at <= attempt.first_read), "{attempt:?}");
        } else {
            assert_eq!(stamps.len(), 1, "nobody is told of an answer to a request that is not sampled");
        }
    }
}

#[test]
fn a_head_begins_with_its_first_reads_stamp_and_is_whole_with_its_lasts() {
    let stamper = Stamper::default();
    let mut world = Setup::to(upstream(ok("hello"))).start_with(stamper.clone());
    let mut client = world.connect();
    client.set_nodelay(true).unwrap();
    for (count, part) in ["GET / HT", "TP/1.1\r\nHost: app.lo", "calhost\r\n\r\n"].iter().enumerate() {
        client.write_all(part.as_bytes()).unwrap();
        stamper.wait_for(count + 1);
    }
    assert_eq!(response(&mut client).1, b"hello");
    let (head, stamps) = (world.records(1).remove(0).head, stamper.take());
    assert_eq!([head.first_readable, head.head_readable], [stamps[0].1, stamps[2].1]);
    assert_eq!(head.client_missing, STAMPED);
}

#[test]
fn of_a_head_with_bytes_behind_it_only_the_latest_beginning_is_known() {
    let stamper = Stamper::default();
    let address = upstream(|_, stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        ok("hello")("", stream)
    });
    let mut world = Setup::to(address).start_with(stamper.clone());
    let mut client = world.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 4\r\n\r\nbody").unwrap();
    assert_eq!(response(&mut client).1, b"hello");
    let (head, stamps) = (world.records(1).remove(0).head, stamper.take());
    assert_eq!([head.first_readable, head.head_readable], [stamps[0].1, MonoNs::UNKNOWN]);
    assert_eq!(head.client_missing, STAMPED.with(Missing::UNSEEN));
}

#[test]
fn the_body_of_an_upload_is_stamped_where_its_request_is_sampled() {
    for headers in ["", UNSAMPLED] {
        let stamper = Stamper::default();
        let (got, was_got) = std::sync::mpsc::channel();
        let address = upstream(move |_, stream| {
            stream.read_exact(&mut [0; 2]).unwrap();
            got.send(()).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            ok("hello")("", stream)
        });
        let mut world = Setup::to(address).start_with(stamper.clone());
        let mut client = world.connect();
        let begin = format!("POST / HTTP/1.1\r\nHost: app.localhost\r\n{headers}content-length: 4\r\n\r\nbo");
        client.write_all(begin.as_bytes()).unwrap();
        was_got.recv_timeout(Duration::from_secs(10)).unwrap();
        client.write_all(b"dy").unwrap();
        assert_eq!(response(&mut client).1, b"hello");
        world.records(1);
        let of_client = stamper.take().iter().filter(|(token, _)| *token == CLIENT).count();
        assert_eq!(of_client, if headers.is_empty() { 2 } else { 1 }, "{headers:?}");
    }
}

#[test]
fn below_tls_the_read_counts_that_made_the_record_whole() {
    let stamper = Stamper::default();
    let setup = Setup { tls: Some(super::tls::choice()), ..Setup::to(upstream(ok("hello"))) };
    let mut world = setup.start_with(stamper.clone());
    let mut client = super::tls::Client::connect(&world, "app.localhost");
    client.record(get("/").as_bytes());
    assert_eq!(client.response().1, b"hello");
    let (head, stamps) = (world.records(1).remove(0).head, stamper.take());
    // The handshake's reads are stamped as well.
    let (_, last) = *stamps.iter().rfind(|(token, _)| *token == CLIENT).unwrap();
    assert_eq!([head.first_readable, head.head_readable], [last; 2], "{stamps:?}");
    assert_eq!(head.client_missing, STAMPED);
}

#[test]
fn what_goes_through_a_tunnel_is_not_stamped() {
    let stamper = Stamper::default();
    let address = upstream(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|count| count > 0) {
            stream.write_all(&byte).unwrap();
        }
        false
    });
    let world = Setup::to(address).start_with(stamper.clone());
    let mut client = world.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
    read_head(&mut client).unwrap();
    let before = stamper.take().len();
    for byte in b"echo" {
        client.write_all(&[*byte]).unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!((before, stamper.take().len()), (2, 0));
}
