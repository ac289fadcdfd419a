//! Backends on this node, acknowledgements, and probes that are switched while connections live.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use wayspan_agent::config::model;
use wayspan_agent::merge::late::{Ask, Facts};
use wayspan_agent::probes::{Observer, Probe, Probes, Set};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Acknowledged, BackendAsk, Missing, SocketObserver, Token};

use super::{accept, assert_order, connect, eventually, load_with, of_client, watched};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn with_backends(slots: u32) -> Probes {
    load_with(&model::Probes { slots, backends: true, ..model::Probes::default() }, Duration::ZERO)
}

/// A server that nobody told the probes of.
pub(super) fn backend() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

pub(super) fn connect_watched(observer: &Observer, address: SocketAddr) -> (TcpStream, Token) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let token = observer.connecting(socket.as_fd());
    socket.connect(&address.into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    (socket.into(), token)
}

fn ask(request_end: usize, response_start: u64) -> BackendAsk {
    let request_end = u64::try_from(request_end).unwrap();
    BackendAsk { head_end: request_end, request_end, response_start }
}

pub(super) fn a_backends_reading_and_answering_have_their_times() {
    let probes = with_backends(8);
    let observer = probes.observer();
    let listener = backend();
    let (mut ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
    let (mut theirs, _) = listener.accept().unwrap();
    let mut answered = 0;
    for round in 1..=3 {
        let sending = MonoNs::now();
        ours.write_all(REQUEST).unwrap();
        let reading = MonoNs::now();
        theirs.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
        let read = MonoNs::now();
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        let sent = MonoNs::now();
        ours.read_exact(&mut [0; 27]).unwrap();
        let seen = observer.backend(token, ask(REQUEST.len() * round, answered));
        assert_eq!(seen.missing, Missing::NOTHING, "round {round}");
        assert_order(&[
            ("sending", sending),
            ("readable", seen.readable),
            ("reading", reading),
            ("read", seen.read),
            ("read returned", read),
            ("sent", seen.sent),
            ("sent returned", sent),
        ]);
        answered += 27;
    }
    assert_eq!(probes.counters().paired, 1);
}

pub(super) fn a_backend_that_accepts_late_is_told() {
    let probes = with_backends(8);
    let observer = probes.observer();
    let listener = backend();
    let (mut ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
    ours.write_all(REQUEST).unwrap();
    let accepting = MonoNs::now();
    let (mut theirs, _) = listener.accept().unwrap();
    theirs.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
    theirs.write_all(b"x").unwrap();
    let seen = observer.backend(token, ask(REQUEST.len(), 0));
    assert_eq!(seen.missing, Missing::ACCEPT);
    assert_order(&[("readable", seen.readable), ("accepting", accepting), ("read", seen.read), ("sent", seen.sent)]);
    ours.write_all(REQUEST).unwrap();
    theirs.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
    theirs.write_all(b"y").unwrap();
    assert_eq!(
        observer.backend(token, ask(REQUEST.len() * 2, 1)).missing,
        Missing::NOTHING,
        "the next one is not hidden"
    );
}

/// The backend listens in a namespace of its own; a socket keeps the namespace of the thread that made it.
pub(super) fn a_backend_in_another_namespace_is_found() {
    let probes = with_backends(8);
    let observer = probes.observer();
    let connected = std::thread::spawn(move || {
        // The connection crosses no namespace here, but lives in one that is not the agent's: the programs see all.
        #[expect(deprecated, reason = "its successor is unsafe for flags that this is not called with")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        loopback_up();
        let listener = backend();
        let (mut ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(REQUEST).unwrap();
        theirs.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
        theirs.write_all(b"x").unwrap();
        observer.backend(token, ask(REQUEST.len(), 0))
    });
    let seen = connected.join().unwrap();
    assert_eq!(seen.missing, Missing::NOTHING);
    assert!(seen.read.known().is_some() && seen.sent.known().is_some());
}

fn loopback_up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(status.success());
}

pub(super) fn a_backends_slot_comes_back() {
    let probes = with_backends(2);
    let observer = probes.observer();
    let listener = backend();
    for round in 1..=5 {
        let (ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
        assert_ne!(token, Token::NONE, "round {round}");
        let (theirs, _) = listener.accept().unwrap();
        eventually("the backend's socket has its slot", || probes.counters().paired == round);
        drop((ours, theirs));
        // Two slots: the next round needs both back.
        eventually("both ends are gone", || probes.counters().of("tcp_destroy_sock").hits == round * 2);
    }
    assert_eq!((probes.counters().no_slot, probes.counters().lost_slots), (0, 0));
}

pub(super) fn a_backend_without_a_free_slot_is_told() {
    let probes = with_backends(1);
    let observer = probes.observer();
    let listener = backend();
    let (_ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
    let _theirs = listener.accept().unwrap();
    assert_eq!(observer.backend(token, ask(10, 0)).missing, Missing::NO_SLOT);
    assert_eq!(probes.counters().peer_no_slot, 1);
}

pub(super) fn an_answer_of_many_writes_keeps_its_first() {
    let probes = with_backends(8);
    let observer = probes.observer();
    let listener = backend();
    let (mut ours, token) = connect_watched(&observer, listener.local_addr().unwrap());
    let (mut theirs, _) = listener.accept().unwrap();
    ours.write_all(REQUEST).unwrap();
    theirs.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
    theirs.write_all(b"x").unwrap();
    let first = MonoNs::now();
    for _ in 0..40 {
        theirs.write_all(b"y").unwrap();
    }
    let seen = observer.backend(token, ask(REQUEST.len(), 0));
    assert_eq!(seen.missing, Missing::NOTHING);
    assert!(seen.sent < first);
    let middle = observer.backend(token, ask(REQUEST.len(), 3));
    assert_eq!((middle.sent, middle.missing), (MonoNs::UNKNOWN, Missing::OVERWRITTEN));
}

pub(super) fn acknowledgements_are_seen_where_they_are_watched() {
    let probes = load_with(&model::Probes { slots: 8, ack: true, ..model::Probes::default() }, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    client.write_all(REQUEST).unwrap();
    server.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
    let before = MonoNs::now();
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    let ask = Ask { responding: before, ended: before, ..of_client(token, 0..27) };
    client.read_exact(&mut [0; 27]).unwrap();
    // An idle receiver may delay its acknowledgement by 40 ms; the next request carries it.
    client.write_all(REQUEST).unwrap();
    eventually("the response is acknowledged", || !observer.late(&ask).may_come);
    let late = observer.late(&ask);
    assert!(late.acked >= before, "{late:?}");
    assert!(late.handshake_rtt_us > 0, "{late:?}");
    assert_eq!(late.client_resent, 0);
}

pub(super) fn an_acknowledgement_is_known_when_the_next_request_comes_however_many_follow() {
    let probes = load_with(&model::Probes { slots: 8, ack: true, ..model::Probes::default() }, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    let ask = |byte: u64| {
        let now = MonoNs::now();
        Ask { responding: now, ended: now, ..of_client(token, byte..byte + 1) }
    };
    assert!(observer.late(&ask(0)).may_come, "nothing was sent");
    assert!(observer.watches_acknowledgements());
    // Each question acknowledges the answer before.
    let mut ended = MonoNs::UNKNOWN;
    for byte in 0..40_u64 {
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        if byte > 0 {
            let Acknowledged { at, left } = observer.acknowledged(token, byte - 1, ended);
            assert!(at >= ended && at <= MonoNs::now(), "{byte}: {at:?}, {ended:?}");
            assert_eq!(left, MonoNs::UNKNOWN, "{byte}");
        }
        ended = MonoNs::now();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    let late = observer.late(&ask(1));
    let told = (late.acked, late.ack_missing, late.may_come);
    assert_eq!(told, (MonoNs::UNKNOWN, Missing::OVERWRITTEN, true), "its ring has gone on: {late:?}");
    assert_eq!(observer.acknowledged(token, 1, MonoNs(1)), Acknowledged::default());
    eventually("the newest but one is still there", || observer.late(&ask(38)).acked.known().is_some());
}

pub(super) fn what_lived_through_a_gap_joined_late() {
    let probes = with_backends(8);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    let mut send = |server: &mut TcpStream| {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    };
    send(&mut server);
    assert_eq!(observer.marks(token, 0..1).missing, Missing::NOTHING);
    probes.switch(Set::Core, false);
    assert_eq!(observer.marks(token, 0..1).missing, Missing::OFF);
    send(&mut server);
    let backend = backend();
    let mut others = vec![connect(&listener)];
    let (_server, later) = accept(&listener, &observer);
    assert_eq!(observer.marks(later, 0..1).missing, Missing::OFF, "not that it is old");
    let (ours, upstream) = connect_watched(&observer, backend.local_addr().unwrap());
    others.push(ours);
    assert_eq!(observer.backend(upstream, ask(1, 0)).missing, Missing::OFF, "nor this one");
    probes.switch(Set::Core, true);
    assert_eq!(observer.marks(later, 0..1).missing, Missing::JOINED_LATE, "it is, since now");
    assert_eq!(observer.backend(upstream, ask(1, 0)).missing, Missing::JOINED_LATE, "this too");
    send(&mut server);
    assert_eq!(observer.marks(token, 2..3).missing, Missing::JOINED_LATE, "the byte before has no mark");

    let mut young = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    young.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(observer.marks(token, 0..1).missing, Missing::NOTHING);

    let (_ours, token) = connect_watched(&observer, backend.local_addr().unwrap());
    probes.switch(Set::Backends, false);
    assert_eq!(observer.backend(token, ask(1, 0)).missing, Missing::NOT_SOUGHT);
    probes.switch(Set::Backends, true);
    assert_eq!(observer.backend(token, ask(1, 0)).missing, Missing::JOINED_LATE);
}

pub(super) fn all_sets_off_and_on_again_are_what_was_configured() {
    let on = |probes: &Probes| -> Vec<Set> {
        let runs = |set: &Set| {
            let of_set = |probe: &Probe| {
                probe.row.set == *set && probe.off.is_none() && probe.row.tracepoint != "tcp_destroy_sock"
            };
            probes.states().iter().any(of_set)
        };
        Set::ALL.into_iter().filter(runs).collect()
    };
    for (backends, ack, configured) in [
        (false, false, vec![Set::Core]),
        (true, false, vec![Set::Core, Set::Backends]),
        (false, true, vec![Set::Core, Set::Ack]),
    ] {
        let probes = load_with(&model::Probes { slots: 8, backends, ack, ..model::Probes::default() }, Duration::ZERO);
        assert_eq!(on(&probes), configured);
        probes.switch_all(false);
        assert_eq!(on(&probes), []);
        probes.switch_all(true);
        assert_eq!(on(&probes), configured);
        // One alone is as it is wanted, until all are what they were.
        Set::ALL.into_iter().for_each(|set| probes.switch(set, true));
        assert_eq!(on(&probes), Set::ALL);
        probes.switch_all(true);
        assert_eq!(on(&probes), configured);
    }
}

/// Connections of each kind hold every slot when sets are switched off, others come and go, then all end: every slot must be
/// free again.
fn every_slot_is_free_after_a_gap(off: &[Set]) {
    const SLOTS: u32 = 6;
    let probes = with_backends(SLOTS);
    let observer = probes.observer();
    let (listener, elsewhere) = (watched(&observer), backend());
    // A client and our end, ours to a backend and its end: all but the client's own have a slot.
    let exchange = || {
        let client = connect(&listener);
        let (server, _) = accept(&listener, &observer);
        let (ours, _) = connect_watched(&observer, elsewhere.local_addr().unwrap());
        let (theirs, _) = elsewhere.accept().unwrap();
        [client, server, ours, theirs]
    };
    let held = [exchange(), exchange()];
    eventually("each kind has its slots", || probes.counters().paired == 2);
    let another = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert_eq!(observer.connecting(another.as_fd()), Token::NONE, "all slots are held");
    let refused = || (probes.counters().no_slot, probes.counters().peer_no_slot);
    let (refused_before, mut ended) = (refused(), probes.counters().of("tcp_destroy_sock").hits + u64::from(SLOTS));
    off.iter().for_each(|set| probes.switch(*set, false));
    if off.contains(&Set::Core) {
        for _ in 0..SLOTS {
            drop(exchange());
            // The listener's tag is on its child still.
            ended += 1;
        }
        assert_eq!(refused(), refused_before, "{off:?}: nobody asks for a slot");
    }
    drop(held);
    eventually("what held slots is gone", || probes.counters().of("tcp_destroy_sock").hits == ended);
    off.iter().for_each(|set| probes.switch(*set, true));
    let again: Vec<_> = (0..SLOTS).map(|_| (connect(&listener), accept(&listener, &observer))).collect();
    assert!(again.iter().all(|(_, (_, token))| token.slot < SLOTS), "{off:?}: slots are lost: {again:?}");
    assert_eq!(probes.counters().lost_slots, 0);
}

pub(super) fn slots_come_back_from_connections_that_end_while_the_probes_are_off() {
    for off in [&[Set::Core][..], &[Set::Backends], &[Set::Backends, Set::Core]] {
        every_slot_is_free_after_a_gap(off);
    }
}

pub(super) fn what_began_while_the_probes_were_attached_joined_late() {
    let probes = super::load(4096, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut young = 0;
    for _ in 0..5 {
        probes.switch(Set::Core, false);
        let is_on = AtomicBool::new(false);
        // Those that have a slot; each has sent a byte, and it was read by then.
        let begun: Vec<_> = std::thread::scope(|scope| {
            let switching = scope.spawn(|| {
                probes.switch(Set::Core, true);
                is_on.store(true, Ordering::Release);
            });
            let mut begun = Vec::new();
            let mut more = 5;
            while more > 0 {
                let after = is_on.load(Ordering::Acquire);
                more -= i32::from(after);
                let mut client = connect(&listener);
                let (mut server, token) = accept(&listener, &observer);
                client.write_all(b"x").unwrap();
                server.read_exact(&mut [0]).unwrap();
                if token.slot != Token::NONE.slot && (after || begun.len() < 300) {
                    begun.push((client, server, token, MonoNs::now()));
                }
            }
            switching.join().unwrap();
            begun
        });
        for (mut client, mut server, token, read) in begun {
            client.write_all(b"y").unwrap();
            server.read_exact(&mut [0]).unwrap();
            let marks = observer.marks(token, 0..1);
            assert!(marks.first <= read, "the first byte has the second's time: {marks:?}, read {read:?}");
            young += usize::from(marks.missing == Missing::NOTHING);
        }
    }
    assert!(young >= 5, "what began later is seen");
}
