//! Times in which the other end's window had no room.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use wayspan_agent::config::model;
use wayspan_agent::merge::late::{Ask, Facts};
use wayspan_agent::probes::{Observer, Probes, Set};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::Token;

use super::pairs::{backend, connect_watched};
use super::{accept, connect, load_with, watched};

/// What is sent where nobody reads it in time: more than a window has room for.
const MUCH: usize = 8 << 20;

fn with_ack() -> Probes {
    load_with(&model::Probes { slots: 8, ack: true, ..model::Probes::default() }, Duration::ZERO)
}

/// What is told of a client's connection from its second byte on.
fn client_stalled_ns(observer: &Observer, client: Token, response: std::ops::Range<u64>) -> u64 {
    let ask = Ask { client, response, ended: MonoNs(0), upstream: Token::NONE, request: 0..0, answer: 0..0 };
    observer.late(&ask).client_stalled_ns
}

/// Both ways: a response to a client that does not read, and a request to a server that does not.
pub(super) fn a_window_that_is_shut_is_told_of_the_bytes_that_waited() {
    let probes = with_ack();
    let observer = probes.observer();
    let listener = watched(&observer);
    let client = connect(&listener);
    let (server, token) = accept(&listener, &observer);
    let begun = MonoNs::now();
    let shut = stall(&server, &client);
    assert_eq!(client_stalled_ns(&observer, token, 0..1), 0, "the first byte left at once");
    let stalled_ns = client_stalled_ns(&observer, token, 1..u64::MAX);
    assert!(stalled_ns >= shut.1.since(shut.0), "{stalled_ns} ns, shut for certain in {shut:?}");
    assert!(stalled_ns <= MonoNs::now().since(begun), "{stalled_ns} ns");

    let backend = backend();
    let (ours, token) = connect_watched(&observer, backend.local_addr().unwrap());
    let (theirs, _) = backend.accept().unwrap();
    let begun = MonoNs::now();
    let shut = stall(&ours, &theirs);
    let told = |request| {
        let ask = Ask { client: Token::NONE, response: 0..0, ended: MonoNs(0), upstream: token, request, answer: 0..0 };
        observer.late(&ask).upstream_stalled_ns
    };
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
        let begun = MonoNs::now();
        std::thread::scope(|scope| {
            scope.spawn(|| client.read_exact(&mut vec![0; MUCH]).unwrap());
            server.write_all(&vec![0; MUCH]).unwrap();
        });
        let ended = MonoNs::now();
        let start = round * u64::try_from(MUCH).unwrap();
        let stalled_ns = client_stalled_ns(&observer, token, start + 1..start + u64::try_from(MUCH).unwrap());
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
    let before_ns = client_stalled_ns(&observer, token, 0..u64::MAX);
    probes.switch(Set::Ack, false);
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

/// Lets time go by: it is the fault that is tried.
fn pass(ns: u64) {
    let begun = MonoNs::now();
    while MonoNs::now().since(begun) < ns {
        std::thread::yield_now();
    }
}

/// Nothing fits any more for so long before it is believed.
const FULL_NS: u64 = 200_000_000;

/// Writes until nothing fits any more; how much, and since when it was so.
fn fill(mut from: &TcpStream) -> (usize, MonoNs) {
    from.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut full_since = MonoNs::now();
    while MonoNs::now().since(full_since) < FULL_NS {
        if let Ok(more) = from.write(&[0; 1 << 16]) {
            written += more;
            full_since = MonoNs::now();
        }
        std::thread::yield_now();
    }
    (written, full_since)
}

/// Lets what nobody reads be for a while and reads all. When the window was shut for certain: at first it may be the congestion
/// window, while acknowledgements are delayed (40 ms each).
fn stall(from: &TcpStream, mut to: &TcpStream) -> (MonoNs, MonoNs) {
    let (mut written, full_since) = fill(from);
    let reading = MonoNs::now();
    let mut buffer = vec![0; 1 << 16];
    while written > 0 {
        written -= to.read(&mut buffer).unwrap();
    }
    (MonoNs(full_since.0 + FULL_NS / 2), reading)
}
