//! Sets that are switched on while the agent runs, where the kernel says no.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wayspan_agent::config::model;
use wayspan_agent::merge::late::{Facts, RoundTrip};
use wayspan_agent::probes::{Reason, Set};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, SocketObserver};

use super::{accept, connect, load, load_with, of_client, watched};

/// Runs while the process may open no descriptor: a program's link is one.
fn without_descriptors(run: impl FnOnce()) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    run();
    setrlimit(Resource::Nofile, limit).unwrap();
}

pub(super) fn a_core_that_cannot_be_attached_again_leaves_what_a_start_without_it_leaves() {
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut old = connect(&listener);
    let (mut older, token) = accept(&listener, &observer);
    old.write_all(b"x").unwrap();
    older.read_exact(&mut [0]).unwrap();
    assert_eq!(observer.marks(token, 0..1).missing, Missing::NOTHING);
    assert!(!observer.keeps_accounts());
    probes.switch(Set::Core, false);
    assert!(!observer.keeps_accounts(), "what is off by wish leaves the sockets alone");

    without_descriptors(|| probes.switch(Set::Core, true));
    let refused = |name: &str| {
        let states = probes.states();
        let probe = states.iter().find(|probe| probe.row.tracepoint == name).unwrap();
        matches!(probe.off, Some(Reason::Refused(_)))
    };
    assert!(refused("inet_sock_set_state"), "{:?}", probes.states());

    assert_eq!(observer.absence(), Missing::UNAVAILABLE.with(Missing::TCP_INFO));
    let mut young = connect(&listener);
    let (mut younger, another) = accept(&listener, &observer);
    young.write_all(b"x").unwrap();
    younger.read_exact(&mut [0]).unwrap();
    // Of both, whatever their tokens were when they began.
    for (socket, token) in [(older.as_fd(), token), (younger.as_fd(), another)] {
        assert_eq!(observer.marks(token, 0..1).missing, observer.absence());
        assert!(observer.keeps_accounts() && observer.account(socket).is_some_and(|account| account.srtt_us > 0));
        let of_slot = observer.late(&of_client(token, 0..0)).client_rtt;
        assert_eq!(of_slot, RoundTrip::default(), "nobody keeps what a slot says");
    }

    // Another time the kernel says yes.
    probes.switch(Set::Core, true);
    let lacking: Vec<_> = probes.states().into_iter().filter(|probe| probe.is_lacking()).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    assert_eq!(observer.absence(), Missing::NOTHING);
    let mut last = connect(&listener);
    let (mut newest, token) = accept(&listener, &observer);
    last.write_all(b"x").unwrap();
    newest.read_exact(&mut [0]).unwrap();
    assert_eq!(observer.marks(token, 0..1).missing, Missing::NOTHING);
}

pub(super) fn a_core_that_cannot_be_attached_again_has_reads_stamped_where_that_is_asked_for() {
    let probes = load_with(&model::Probes { slots: 8, timestamps: true, ..model::Probes::default() }, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    assert!(!observer.stamps(), "the kernel's marks tell more");
    probes.switch(Set::Core, false);
    assert!(!observer.stamps(), "what is off by wish leaves the sockets alone");
    without_descriptors(|| probes.switch(Set::Core, true));
    assert_eq!(observer.absence(), Missing::UNAVAILABLE.with(Missing::TIMESTAMPS));
    assert!(observer.stamps() && observer.keeps_accounts());

    // The listener is older than the need for it: each connection asks for itself, and the kernel begins a moment after.
    let mut client = connect(&listener);
    let (server, _) = accept(&listener, &observer);
    let until = MonoNs::now() + Duration::from_secs(10);
    let stamped = || {
        client.write_all(b"x").unwrap();
        let (count, came) = observer.receive(server.as_fd(), &mut [0], &mut 0).unwrap();
        assert_eq!(count, 1);
        came.known().is_some() || until < MonoNs::now()
    };
    std::iter::repeat_with(stamped).find(|is_stamped| *is_stamped).unwrap();
    assert!(MonoNs::now() < until, "nothing is stamped");
}
