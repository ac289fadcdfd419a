//! Times in which the other end's window had no room.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use wayspan_agent::config::model;
use wayspan_agent::merge::late::{Ask, Facts};
use wayspan_agent::probes::{Observer, Probes, Set};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{SocketObserver, Token};

use super::pairs::{backend, connect_watched};
use super::{accept, assert_order, connect, eventually, load_with, of_client, watched};

/// What is sent where nobody reads it in time: more than a window has room for.
const MUCH: usize = 8 << 20;

fn with_ack() -> Probes {
    load_with(&model::Probes { slots: 8, ack: true, ..model::Probes::default() }, Duration::ZERO)
}

/// What is told of a client's connection from its second byte on.
fn client_stalled_ns(observer: &Observer, client: Token, response: std::ops::Range<u64>) -> u64 {
    observer.late(&of_client(client, response)).client_stalled_ns
}

/// Both ways: a response to a client that does not read, and a request to a server that does not.
pub(super) fn a_window_that_is_shut_is_told_of_the_bytes_that_waited() {
    let probes = with_ack();
    let observer = probes.observer();
    let listener = watched(&observer);
    let client = connect(&listener);
    let (server, token) = accept(&listener, &observer);
    let begun = MonoNs::now();
    let (shut, _) = stall(&server, &client);
    assert_eq!(client_stalled_ns(&observer, token, 0..1), 0, "the first byte left at once");
    let stalled_ns = client_stalled_ns(&observer, token, 1..u64::MAX);
    assert!(stalled_ns >= shut.1.since(shut.0), "{stalled_ns} ns, shut for certain in {shut:?}");
    assert!(stalled_ns <= MonoNs::now().since(begun), "{stalled_ns} ns");

    let backend = backend();
    let (ours, token) = connect_watched(&observer, backend.local_addr().unwrap());
    let (theirs, _) = backend.accept().unwrap();
    let begun = MonoNs::now();
    let (shut, _) = stall(&ours, &theirs);
    let told =
        |request| observer.late(&Ask { upstream: token, request, ..of_client(Token::NONE, 0..0) }).upstream_stalled_ns;
    assert_eq!(told(0..1), 0, "the first byte left at once");
    let stalled_ns = told(1..u64::MAX);
    assert!(stalled_ns >= shut.1.since(shut.0), "{stalled_ns} ns, shut for certain in {shut:?}");
    assert!(stalled_ns <= MonoNs::now().since(begun), "{stalled_ns} ns");
}

/// The request is the last that was heard; what its answer had to wait for is not the client's doing.
pub(super) fn a_window_that_our_own_bytes_fill_is_shut_from_then_on() {
    let probes = with_ack();
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    for round in 0..3_u64 {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        pass(200_000_000);
        let start = round * u64::try_from(MUCH).unwrap();
        observer.answers(token, start);
        let begun = MonoNs::now();
        std::thread::scope(|scope| {
            scope.spawn(|| client.read_exact(&mut vec![0; MUCH]).unwrap());
            server.write_all(&vec![0; MUCH]).unwrap();
        });
        let ended = MonoNs::now();
        let response = start + 1..start + u64::try_from(MUCH).unwrap();
        let stalled_ns = observer.late(&Ask { responding: begun, ..of_client(token, response) }).client_stalled_ns;
        assert!(stalled_ns <= ended.since(begun), "{stalled_ns} ns of {} ns", ended.since(begun));
    }
}

pub(super) fn a_window_is_not_told_of_while_nobody_watched() {
    let probes = with_ack();
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (server, token) = accept(&listener, &observer);
    let mut left = fill(&server).0;
    probes.switch(Set::Ack, false);
    let before_ns = client_stalled_ns(&observer, token, 0..u64::MAX);
    pass(200_000_000);
    probes.switch(Set::Ack, true);
    let since = MonoNs::now();
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        left -= client.read(&mut buffer).unwrap();
    }
    let watched_ns = MonoNs::now().since(since);
    let told_ns = client_stalled_ns(&observer, token, 0..u64::MAX) - before_ns;
    assert!(told_ns <= watched_ns, "{told_ns} ns in {watched_ns} ns of watching");
}

/// Both of the sender's ends: what is sent fits into its socket, and not into the client's.
fn cramped(listener: &TcpListener, observer: &Observer, room: usize) -> (TcpStream, TcpStream, Token) {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(room).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (server, token) = accept(listener, observer);
    server.set_nodelay(true).unwrap();
    SockRef::from(&server).set_send_buffer_size(1 << 20).unwrap();
    server.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    (client.into(), server, token)
}

/// The client has acknowledged all that came before its window was shut, and says nothing but that it is open again.
pub(super) fn what_a_shut_window_kept_back_leaves_when_it_is_opened() {
    const PIECE: usize = 8 << 10;
    let probes = with_ack();
    let observer = probes.observer();
    let (mut client, mut server, token) = cramped(&watched(&observer), &observer, 64 << 10);
    let (mut seen, mut written) = (vec![0; 1 << 20], 0);
    let mut came = |client: &TcpStream, all: usize| {
        let since = MonoNs::now();
        while MonoNs::now().since(since) < FULL_NS {
            if client.peek(&mut seen).unwrap() == all {
                return true;
            }
        }
        false
    };
    loop {
        server.write_all(&[0; PIECE]).unwrap();
        written += PIECE;
        if !came(&client, written) {
            break;
        }
    }
    let ended = MonoNs::now();
    pass(FULL_NS);
    let reading = MonoNs::now();
    client.read_exact(&mut vec![0; written]).unwrap();
    let ask = Ask { ended, ..of_client(token, 0..u64::try_from(written).unwrap()) };
    eventually("the response is acknowledged", || !observer.late(&ask).may_come);
    let late = observer.late(&ask);
    assert_order(&[("ended", ended), ("reading", reading), ("left", late.left), ("acknowledged", late.acked)]);
}

/// The client has asked for all of them before, and its window is shut in the first and in the last.
pub(super) fn windows_that_are_shut_for_several_answers_are_told_of_each() {
    let probes = with_ack();
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    let mut start = 0;
    let mut answers = Vec::new();
    for is_stalled in [true, false, false, true] {
        let responding = MonoNs::now();
        observer.answers(token, start);
        let (shut, length) = if is_stalled {
            stall(&server, &client)
        } else {
            server.write_all(&[0; 100]).unwrap();
            client.read_exact(&mut [0; 100]).unwrap();
            ((responding, responding), 100)
        };
        let response = start..start + u64::try_from(length).unwrap();
        start = response.end;
        answers.push((Ask { responding, ..of_client(token, response) }, shut, MonoNs::now()));
    }
    for (ask, (from, to), read) in answers {
        let stalled_ns = observer.late(&ask).client_stalled_ns;
        let all_ns = read.since(ask.responding);
        assert!(
            (to.since(from)..=all_ns).contains(&stalled_ns),
            "{stalled_ns} ns of {all_ns}, shut from {from:?} to {to:?}"
        );
    }
}

/// An answer that was written behind another one while the window was shut has waited since then.
pub(super) fn a_shut_window_is_told_of_all_that_waited_since_it_did() {
    const LONG: usize = 256 << 10;
    let probes = with_ack();
    let observer = probes.observer();
    let (mut client, mut server, token) = cramped(&watched(&observer), &observer, 16 << 10);
    let first = MonoNs::now();
    observer.answers(token, 0);
    server.write_all(&[0; LONG]).unwrap();
    pass(FULL_NS);
    let second = MonoNs::now();
    let end = u64::try_from(LONG).unwrap();
    observer.answers(token, end);
    server.write_all(&[0; 100]).unwrap();
    pass(FULL_NS);
    let reading = MonoNs::now();
    // The window is shut again and again, for a moment each: of so many the long one is known still.
    for piece in vec![0; LONG + 100].chunks_mut(4 << 10) {
        client.read_exact(piece).unwrap();
        pass(500_000);
    }
    let read = MonoNs::now();
    for (responding, response) in [(first, 0..end), (second, end..end + 100)] {
        let stalled_ns = observer.late(&Ask { responding, ..of_client(token, response) }).client_stalled_ns;
        let shut_ns = reading.since(responding.max(MonoNs(first.0 + SETTLED_NS)));
        assert!((shut_ns..=read.since(responding)).contains(&stalled_ns), "{stalled_ns} ns, {shut_ns} ns for certain");
    }
}

/// A server that goes on answering while it is being asked: what waits then has times of their own, though it is one request.
pub(super) fn a_long_time_of_a_request_under_way_is_known_behind_many_short_ones() {
    let probes = with_ack();
    let observer = probes.observer();
    let backend = backend();
    let (ours, token) = connect_watched(&observer, backend.local_addr().unwrap());
    let (theirs, _) = backend.accept().unwrap();
    let requesting = MonoNs::now();
    observer.under_way(token, requesting);
    let answers = || {
        ours.set_nonblocking(false).unwrap();
        (&theirs).write_all(b"x").unwrap();
        (&ours).read_exact(&mut [0]).unwrap();
    };
    let (shut, _) = stall_for(3 * FULL_NS, &ours, &theirs);
    answers();
    pass(TOLD_NS);
    for _ in 0..abi::STALLS + 1 {
        stall_for(SHORT_NS, &ours, &theirs);
        answers();
    }
    let ask = Ask { upstream: token, request: 1..u64::MAX, requesting, ..of_client(Token::NONE, 0..0) };
    let stalled_ns = observer.late(&ask).upstream_stalled_ns;
    assert!(stalled_ns >= shut.1.since(shut.0), "{stalled_ns} ns, shut for certain in {shut:?}");
}

/// Lets time go by: it is the fault that is tried.
fn pass(ns: u64) {
    let begun = MonoNs::now();
    while MonoNs::now().since(begun) < ns {
        std::thread::yield_now();
    }
}

/// Nothing fits any more for so long before it is believed.
const FULL_NS: u64 = 400_000_000;
/// At first it may be the congestion window, while acknowledgements are delayed (40 ms each); from then on it is the other end's.
const SETTLED_NS: u64 = 250_000_000;
/// Who was over for so long has been told of.
const TOLD_NS: u64 = abi::STALL_TOLD_NS + 100_000_000;
/// A time that is shorter than others.
const SHORT_NS: u64 = 60_000_000;

/// Writes until nothing fits any more; how much, and since when it was so.
fn fill(from: &TcpStream) -> (usize, MonoNs) {
    fill_for(FULL_NS, from)
}

/// The same, where it is full for so long.
fn fill_for(full_ns: u64, mut from: &TcpStream) -> (usize, MonoNs) {
    from.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut full_since = MonoNs::now();
    while MonoNs::now().since(full_since) < full_ns {
        if let Ok(more) = from.write(&[0; 1 << 16]) {
            written += more;
            full_since = MonoNs::now();
        }
        std::thread::yield_now();
    }
    (written, full_since)
}

/// Lets what nobody reads be for a while and reads all. When the window was shut for certain, and how much it was.
fn stall(from: &TcpStream, to: &TcpStream) -> ((MonoNs, MonoNs), usize) {
    stall_for(FULL_NS, from, to)
}

/// The same, where it is full for so long.
fn stall_for(full_ns: u64, from: &TcpStream, mut to: &TcpStream) -> ((MonoNs, MonoNs), usize) {
    let (written, full_since) = fill_for(full_ns, from);
    let reading = MonoNs::now();
    let (mut buffer, mut left) = (vec![0; 1 << 16], written);
    while left > 0 {
        left -= to.read(&mut buffer).unwrap();
    }
    ((MonoNs(full_since.0 + SETTLED_NS), reading), written)
}
