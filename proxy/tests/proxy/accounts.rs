//! When a connection's own account is asked for: where nobody watches it once on either side of a sampled request, else behind
//! a long answer, and never for another; and where it is watched, which answer was the one before.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Mutex;

use wayspan_proxy::observer::{Account, BackendAsk, BackendMarks, Marks, SocketObserver, Token};

use super::*;

const CLIENT: Token = Token { generation: 0, slot: 1 };
const UPSTREAM: Token = Token { generation: 0, slot: 2 };
const MISSING: Missing = Missing::UNAVAILABLE;

/// Notes whose sockets are asked about. Of the upstream's one segment more has been sent again with each look.
#[derive(Clone, Default)]
struct Accountant(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    sockets: HashMap<RawFd, Token>,
    asked: Vec<Token>,
    /// The connections are watched, as old as that may be.
    watched: bool,
}

impl Accountant {
    fn names(&self, socket: BorrowedFd<'_>, token: Token) -> Token {
        self.0.lock().unwrap().sockets.insert(socket.as_raw_fd(), token);
        token
    }
}

impl SocketObserver for Accountant {
    fn listening(&self, _: BorrowedFd<'_>) {}
    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        self.names(socket, CLIENT)
    }
    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        self.names(socket, UPSTREAM)
    }
    fn marks(&self, _: Token, _: Range<u64>) -> Marks {
        Marks { missing: MISSING, ..Marks::default() }
    }
    fn backend(&self, _: Token, _: BackendAsk) -> BackendMarks {
        BackendMarks { missing: Missing::NOT_SOUGHT, ..BackendMarks::default() }
    }
    fn closed(&self, _: Token) {}
    fn keeps_accounts(&self) -> bool {
        !self.0.lock().unwrap().watched
    }
    fn watches_acknowledgements(&self) -> bool {
        !self.keeps_accounts()
    }
    fn round_trips_age(&self) -> bool {
        true
    }
    fn account(&self, socket: BorrowedFd<'_>) -> Option<Account> {
        let mut guard = self.0.lock().unwrap();
        let Asked { sockets, asked, .. } = &mut *guard;
        let token = sockets[&socket.as_raw_fd()];
        asked.push(token);
        let resent = u32::try_from(asked.iter().filter(|asked| **asked == token).count()).unwrap();
        let srtt_us = 100 * token.slot;
        Some(Account { srtt_us, rttvar_us: srtt_us / 10, resent })
    }
    fn absence(&self) -> Missing {
        MISSING
    }
}

#[test]
fn a_sampled_request_asks_once_on_either_side_and_another_never() {
    let accountant = Accountant::default();
    let mut world = Setup::to(upstream(ok("hello"))).start_with(accountant.clone());
    let mut client = world.connect();
    let unsampled = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
    for headers in ["", "", unsampled, "", ""] {
        write!(client, "GET / HTTP/1.1\r\nHost: app.localhost\r\n{headers}\r\n").unwrap();
        read_head(&mut client).unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    let records = world.records(5);
    let attempt =
        |left: &Left| left.attempts.first().map(|attempt| (attempt.srtt_us, attempt.rttvar_us, attempt.resent));
    let sampled: Vec<bool> = records.iter().map(|left| left.head.sampled).collect();
    assert_eq!(sampled, [true, true, false, true, true]);
    let client: Vec<u32> = records.iter().map(|left| left.head.srtt_us).collect();
    assert_eq!(client, [100, 100, 0, 100, 100]);
    // Of the first nobody knows what was the handshake's, of the fourth what was the third's.
    let attempts: Vec<_> = records.iter().filter(|left| left.head.sampled).filter_map(attempt).collect();
    assert_eq!(attempts, [(200, 20, 0), (200, 20, 1), (200, 20, 0), (200, 20, 1)]);
    assert_eq!(accountant.0.lock().unwrap().asked, [UPSTREAM, CLIENT].repeat(4));
}

#[test]
fn behind_a_long_answer_the_kernel_is_asked_for_what_nobody_heard() {
    let accountant = Accountant::default();
    accountant.0.lock().unwrap().watched = true;
    // The head of an answer is in its length, too.
    let server = upstream(|head, stream| {
        let size = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").unwrap();
        stream.write_all(&vec![b'x'; size]).is_ok()
    });
    let mut world = Setup::to(server).start_with(accountant.clone());
    let mut client = world.connect();
    let unsampled = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
    // Small ones do not add up.
    for (size, headers) in [(60_000, ""), (60_000, ""), (65_536, ""), (65_536, unsampled), (5, "")] {
        write!(client, "GET /{size} HTTP/1.1\r\nHost: app.localhost\r\n{headers}\r\n").unwrap();
        assert_eq!(response(&mut client).1.len(), size);
    }
    let told: Vec<_> = world.records(5).iter().map(|left| (left.head.asked_at_end, left.head.srtt_us)).collect();
    assert_eq!(told, [(false, 0), (false, 0), (true, 100), (false, 0), (false, 0)]);
    assert_eq!(accountant.0.lock().unwrap().asked, [CLIENT]);
}

#[test]
fn a_refused_request_says_where_the_answer_before_it_ended() {
    for bad in ["GET / HTTP/1.1\nHost: a\n\n", "GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTT"] {
        let accountant = Accountant::default();
        accountant.0.lock().unwrap().watched = true;
        let mut setup = Setup::to(upstream(ok("hello")));
        setup.limits.head_timeout = Duration::from_millis(300);
        let mut world = setup.start_with(accountant);
        let mut client = world.connect();
        client.write_all(get("/").as_bytes()).unwrap();
        response(&mut client);
        client.write_all(bad.as_bytes()).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        drop(client);
        let records = world.records(2);
        assert_eq!(records[1].head.previous.end, records[0].head.response_end, "{bad:?}");
    }
}
