//! The probes on the running kernel: real programs, real loopback connections. Needs root and a built object.
//!
//! Its own harness, for three reasons: a test that cannot run says `ignored` and why instead of `ok` (under CI it
//! fails); the tests run one after another, since they share the kernel; and some start this binary again as a child.
#![expect(clippy::unwrap_used, reason = "a test's own harness: clippy.toml's exception knows `#[test]` only")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{CapabilitySet, CapabilitySets};
use socket2::{Domain, Socket, Type};
use wayspan_agent::config::model;
use wayspan_agent::merge::late::{Ask, Facts, Late};
use wayspan_agent::probes::{Observer, Probes, Reason, Set, cost, doctor};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, SocketObserver, Token};

mod bursts;
mod leftovers;
mod pairs;
mod switches;
mod windows;

const TESTS: &[(&str, fn())] = &[
    ("a_requests_first_and_last_byte_have_their_own_times", a_requests_first_and_last_byte_have_their_own_times),
    ("bytes_that_came_before_accept_are_seen", bytes_that_came_before_accept_are_seen),
    ("a_listeners_own_events_are_no_bytes", a_listeners_own_events_are_no_bytes),
    ("a_burst_longer_than_the_ring_keeps_its_first_byte", bursts::a_burst_longer_than_the_ring_keeps_its_first_byte),
    (
        "a_burst_behind_any_number_of_reads_keeps_its_first_byte",
        bursts::a_burst_behind_any_number_of_reads_keeps_its_first_byte,
    ),
    ("an_upstreams_response_has_its_times", an_upstreams_response_has_its_times),
    ("a_socket_that_never_connected_gives_its_slot_back", a_socket_that_never_connected_gives_its_slot_back),
    (
        "a_closed_connection_is_still_told_of_while_its_slot_rests",
        a_closed_connection_is_still_told_of_while_its_slot_rests,
    ),
    ("a_reused_slot_answers_its_new_token_only", a_reused_slot_answers_its_new_token_only),
    (
        "a_slot_that_an_upstream_takes_answers_its_new_token_only",
        a_slot_that_an_upstream_takes_answers_its_new_token_only,
    ),
    ("a_freed_slot_rests", a_freed_slot_rests),
    ("exhausted_slots_are_counted_and_told_once_in_the_log", exhausted_slots_are_counted_and_told_once_in_the_log),
    (
        "every_slot_comes_back_whatever_became_of_its_connection",
        every_slot_comes_back_whatever_became_of_its_connection,
    ),
    ("foreign_sockets_count_as_misses", foreign_sockets_count_as_misses),
    (
        "where_no_probe_tells_of_bytes_the_sockets_themselves_are_asked",
        where_no_probe_tells_of_bytes_the_sockets_themselves_are_asked,
    ),
    (
        "a_core_that_cannot_be_attached_again_leaves_what_a_start_without_it_leaves",
        switches::a_core_that_cannot_be_attached_again_leaves_what_a_start_without_it_leaves,
    ),
    (
        "a_core_that_cannot_be_attached_again_has_reads_stamped_where_that_is_asked_for",
        switches::a_core_that_cannot_be_attached_again_has_reads_stamped_where_that_is_asked_for,
    ),
    ("what_is_left_out_of_one_programs_runs_another_one_sees", what_is_left_out_of_one_programs_runs_another_one_sees),
    (
        "runs_that_the_kernel_left_out_are_told_of_each_probe_that_is_on",
        runs_that_the_kernel_left_out_are_told_of_each_probe_that_is_on,
    ),
    ("a_backends_reading_and_answering_have_their_times", pairs::a_backends_reading_and_answering_have_their_times),
    ("a_backend_that_accepts_late_is_told", pairs::a_backend_that_accepts_late_is_told),
    ("a_backend_in_another_namespace_is_found", pairs::a_backend_in_another_namespace_is_found),
    ("a_backends_slot_comes_back", pairs::a_backends_slot_comes_back),
    ("a_backend_without_a_free_slot_is_told", pairs::a_backend_without_a_free_slot_is_told),
    ("an_answer_of_many_writes_keeps_its_first", pairs::an_answer_of_many_writes_keeps_its_first),
    ("acknowledgements_are_seen_where_they_are_watched", pairs::acknowledgements_are_seen_where_they_are_watched),
    (
        "an_acknowledgement_is_known_when_the_next_request_comes_however_many_follow",
        pairs::an_acknowledgement_is_known_when_the_next_request_comes_however_many_follow,
    ),
    (
        "a_window_that_is_shut_is_told_of_the_bytes_that_waited",
        windows::a_window_that_is_shut_is_told_of_the_bytes_that_waited,
    ),
    (
        "a_window_that_our_own_bytes_fill_is_shut_from_then_on",
        windows::a_window_that_our_own_bytes_fill_is_shut_from_then_on,
    ),
    ("a_window_is_not_told_of_while_nobody_watched", windows::a_window_is_not_told_of_while_nobody_watched),
    (
        "what_a_shut_window_kept_back_leaves_when_it_is_opened",
        windows::what_a_shut_window_kept_back_leaves_when_it_is_opened,
    ),
    (
        "windows_that_are_shut_for_several_answers_are_told_of_each",
        windows::windows_that_are_shut_for_several_answers_are_told_of_each,
    ),
    (
        "a_shut_window_is_told_of_all_that_waited_since_it_did",
        windows::a_shut_window_is_told_of_all_that_waited_since_it_did,
    ),
    (
        "a_long_time_of_a_request_under_way_is_known_behind_many_short_ones",
        windows::a_long_time_of_a_request_under_way_is_known_behind_many_short_ones,
    ),
    ("what_lived_through_a_gap_joined_late", pairs::what_lived_through_a_gap_joined_late),
    (
        "slots_come_back_from_connections_that_end_while_the_probes_are_off",
        pairs::slots_come_back_from_connections_that_end_while_the_probes_are_off,
    ),
    (
        "what_began_while_the_probes_were_attached_joined_late",
        pairs::what_began_while_the_probes_were_attached_joined_late,
    ),
    ("all_sets_off_and_on_again_are_what_was_configured", pairs::all_sets_off_and_on_again_are_what_was_configured),
    (
        "nothing_stays_in_the_kernel_after_kill_9_and_the_neighbours_go_on",
        leftovers::nothing_stays_in_the_kernel_after_kill_9_and_the_neighbours_go_on,
    ),
    ("two_capabilities_are_enough_and_their_lack_is_named", two_capabilities_are_enough_and_their_lack_is_named),
    ("the_cost_of_a_hit_is_measured", the_cost_of_a_hit_is_measured),
];

/// First argument of a child: holds loaded probes until it is killed.
const HOLD: &str = "--hold-probes";
/// Says that the CPU is emulated, so that nanoseconds mean nothing.
const EMULATED: &str = "--emulated";
/// First argument of a child: prints the doctor's report with these capabilities only.
const DOCTOR: &str = "--doctor-with";

#[expect(clippy::disallowed_methods, reason = "a test's own environment")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(HOLD) => return hold(),
        Some(DOCTOR) => return print_report(&arguments),
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        for (name, _) in TESTS {
            println!("test {name} ... {}: needs root", if is_ci { "FAILED" } else { "ignored" });
        }
        return ExitCode::from(u8::from(is_ci));
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str()))) {
        // A panic ends the process with the test's name as the last line.
        print!("test {name} ... ");
        std::io::stdout().flush().unwrap();
        test();
        println!("ok");
    }
    ExitCode::SUCCESS
}

/// The probes of our own sockets.
fn load(slots: u32, rest: Duration) -> Probes {
    load_with(&model::Probes { slots, backends: false, ..model::Probes::default() }, rest)
}

fn load_with(config: &model::Probes, rest: Duration) -> Probes {
    let probes = Probes::load_resting(config, rest);
    let lacking: Vec<String> =
        probes.states().iter().filter(|probe| probe.is_lacking()).map(ToString::to_string).collect();
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
    probes
}

/// A listener that the probes watch.
fn watched(observer: &Observer) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    observer.listening(socket.as_fd());
    socket.listen(64).unwrap();
    socket.into()
}

fn connect(listener: &TcpListener) -> TcpStream {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

fn accept(listener: &TcpListener, observer: &Observer) -> (TcpStream, Token) {
    let (server, _) = listener.accept().unwrap();
    let token = observer.accepted(server.as_fd());
    (server, token)
}

/// Waits for what the kernel does on its own, a closing handshake above all.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = MonoNs::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(MonoNs::now() < deadline, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

/// Waits until so many sockets of ours are gone; their slots rest.
fn ended(probes: &Probes, sockets: u64) {
    eventually("the kernel's sockets are gone", || probes.counters().of("tcp_destroy_sock").hits >= sockets);
    assert_eq!(probes.counters().of("tcp_destroy_sock").hits, sockets);
}

/// What is asked of a client's connection after its end.
fn of_client(client: Token, response: std::ops::Range<u64>) -> Ask {
    let (never, none) = (MonoNs(0), Token::NONE);
    Ask {
        client,
        response,
        responding: never,
        ended: never,
        upstream: none,
        request: 0..0,
        requesting: never,
        answer: 0..0,
    }
}

#[track_caller]
fn assert_order(times: &[(&str, MonoNs)]) {
    for pair in times.windows(2) {
        let [(before, from), (after, to)] = pair else { unreachable!("windows of two") };
        assert!(from <= to, "{before} at {} is after {after} at {}: {times:?}", from.0, to.0);
    }
}

fn a_requests_first_and_last_byte_have_their_own_times() {
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let connecting = MonoNs::now();
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    let accepted = MonoNs::now();
    assert_ne!(token, Token::NONE);
    let rest = b"ET / HTTP/1.1\r\nHost: a\r\n\r\n";

    let sending_first = MonoNs::now();
    client.write_all(b"G").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let read_first = MonoNs::now();
    let sending_rest = MonoNs::now();
    client.write_all(rest).unwrap();
    server.read_exact(&mut vec![0; rest.len()]).unwrap();
    let read_rest = MonoNs::now();

    let end = 1 + u64::try_from(rest.len()).unwrap();
    let marks = observer.marks(token, 0..end);
    assert_eq!(marks.missing, Missing::NOTHING, "{marks:?}");
    assert_order(&[("connect", connecting), ("established", marks.established), ("accept", accepted)]);
    assert_order(&[("send of G", sending_first), ("first", marks.first), ("read of G", read_first)]);
    assert_order(&[("send of the rest", sending_rest), ("last", marks.last), ("read of the rest", read_rest)]);
    assert!(marks.first < marks.last);
    // The border between the segments is exact to the byte.
    assert_eq!(observer.marks(token, 0..1).last, marks.first);
    assert_eq!(observer.marks(token, 1..2).first, marks.last);
    assert_eq!(observer.marks(token, end..end + 1).missing, Missing::UNSEEN);
}

fn bytes_that_came_before_accept_are_seen() {
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let sending = MonoNs::now();
    client.write_all(b"early").unwrap();
    // Without data to wait for here, the sender's own state tells that the kernel has taken them.
    eventually("the listener's child has a mark", || probes.counters().of("sk_data_ready").hits >= 2);
    let (_server, token) = accept(&listener, &observer);
    let marks = observer.marks(token, 0..5);
    assert_eq!(marks.missing, Missing::NOTHING);
    assert_order(&[
        ("established", marks.established),
        ("send", sending),
        ("first", marks.first),
        ("now", MonoNs::now()),
    ]);
}

fn a_listeners_own_events_are_no_bytes() {
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let _client = connect(&listener);
    let (server, token) = accept(&listener, &observer);
    assert_eq!(probes.counters().of("sk_data_ready").hits, 1, "the listener's, when the connection was acceptable");
    let marks = observer.marks(token, 0..1);
    assert_eq!(marks.missing, Missing::UNSEEN);
    assert!(marks.established.known().is_some());
    assert_eq!(observer.accepted(listener.as_fd()).slot, Token::NONE.slot, "a listener has no slot of its own");
    drop(server);
}

fn an_upstreams_response_has_its_times() {
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let token = observer.connecting(socket.as_fd());
    assert_ne!(token, Token::NONE);
    let connecting = MonoNs::now();
    socket.connect(&backend.local_addr().unwrap().into()).unwrap();
    let connected = MonoNs::now();
    let mut upstream = TcpStream::from(socket);
    let (mut server, _) = backend.accept().unwrap();

    let mut times = Vec::new();
    for part in [b"HTTP".as_slice(), b"/1.1 200 OK\r\n\r\n"] {
        let sending = MonoNs::now();
        server.write_all(part).unwrap();
        upstream.read_exact(&mut vec![0; part.len()]).unwrap();
        times.push((sending, MonoNs::now()));
    }
    let marks = observer.marks(token, 0..19);
    assert_eq!(marks.missing, Missing::NOTHING);
    assert_order(&[("connect", connecting), ("established", marks.established), ("connected", connected)]);
    assert_order(&[("send", times[0].0), ("first", marks.first), ("read", times[0].1)]);
    assert_order(&[("send", times[1].0), ("last", marks.last), ("read", times[1].1)]);
    drop((upstream, server));
    ended(&probes, 1);
}

fn a_socket_that_never_connected_gives_its_slot_back() {
    let probes = load(1, Duration::ZERO);
    let observer = probes.observer();
    let connecting = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let token = observer.connecting(socket.as_fd());
        (socket, token)
    };
    let (first, old) = connecting();
    assert_eq!((old.slot, connecting().1), (0, Token::NONE), "there is one slot");
    drop(first);
    ended(&probes, 1);
    assert_eq!(connecting().1, Token { generation: old.generation + 1, slot: old.slot });
}

fn a_closed_connection_is_still_told_of_while_its_slot_rests() {
    let probes = load(8, Duration::from_secs(3600));
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let (marks, late) = (observer.marks(token, 0..1), observer.late(&of_client(token, 0..0)));
    assert_eq!(marks.missing, Missing::NOTHING);
    assert!(late.handshake_rtt_us > 0, "{late:?}");
    drop((client, server));
    ended(&probes, 1);
    let after = observer.marks(token, 0..1);
    assert_eq!((after.first, after.established, after.missing), (marks.first, marks.established, Missing::NOTHING));
    assert_eq!(observer.late(&of_client(token, 0..0)), late);
}

/// What is known of the one slot's old owner, with another in its place.
#[track_caller]
fn assert_unknown(observer: &Observer, old: Token) {
    let marks = observer.marks(old, 0..3);
    assert_eq!((marks.missing, marks.first, marks.established), (Missing::REUSED, MonoNs(0), MonoNs(0)));
    assert_eq!(observer.late(&of_client(old, 0..3)), Late::default());
}

/// The token of a connection that has carried three bytes and is over, the first of these probes.
fn used_and_ended(probes: &Probes, observer: &Observer, listener: &TcpListener) -> Token {
    let mut client = connect(listener);
    let (mut server, token) = accept(listener, observer);
    client.write_all(b"old").unwrap();
    server.read_exact(&mut [0; 3]).unwrap();
    drop((client, server));
    ended(probes, 1);
    token
}

fn a_reused_slot_answers_its_new_token_only() {
    let probes = load(1, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let old = used_and_ended(&probes, &observer, &listener);
    assert_eq!(observer.marks(old, 0..3).missing, Missing::NOTHING, "nobody has taken it yet");

    let mut client = connect(&listener);
    let (mut server, new) = accept(&listener, &observer);
    assert_eq!(new, Token { generation: old.generation + 1, slot: old.slot });
    assert_unknown(&observer, old);
    assert_eq!(observer.marks(new, 0..1).missing, Missing::UNSEEN, "the old connection's marks are gone");
    let sending = MonoNs::now();
    client.write_all(b"new").unwrap();
    server.read_exact(&mut [0; 3]).unwrap();
    assert_unknown(&observer, old);
    let marks = observer.marks(new, 0..3);
    assert_eq!(marks.missing, Missing::NOTHING);
    assert_order(&[("established", marks.established), ("send", sending), ("first", marks.first)]);
}

fn a_slot_that_an_upstream_takes_answers_its_new_token_only() {
    let probes = load(1, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let old = used_and_ended(&probes, &observer, &listener);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let new = observer.connecting(socket.as_fd());
    assert_eq!(new, Token { generation: old.generation + 1, slot: old.slot });
    assert_unknown(&observer, old);
    // The kernel believes the new token: what it sees of the socket goes into the slot.
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(&backend.local_addr().unwrap().into()).unwrap();
    assert!(observer.marks(new, 0..0).established.known().is_some());
    assert_unknown(&observer, old);
}

fn a_freed_slot_rests() {
    let probes = load(1, Duration::from_secs(3600));
    let observer = probes.observer();
    let listener = watched(&observer);
    let client = connect(&listener);
    let (server, old) = accept(&listener, &observer);
    drop((client, server));
    ended(&probes, 1);
    let _client = connect(&listener);
    let (_server, token) = accept(&listener, &observer);
    assert_eq!(token, Token::NONE);
    let upstream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert_eq!(observer.connecting(upstream.as_fd()), Token::NONE);
    assert_eq!(probes.counters().no_slot, 2);
    assert_eq!(probes.counters().lost_slots, 0);
    assert!(observer.marks(old, 0..0).established.known().is_some(), "whoever was refused has changed nothing");
}

fn every_slot_comes_back_whatever_became_of_its_connection() {
    const SLOTS: u32 = 8;
    let probes = load(SLOTS, Duration::ZERO);
    let observer = probes.observer();
    for round in 1..=5 {
        let listener = watched(&observer);
        let clients: Vec<_> = (0..SLOTS).map(|_| connect(&listener)).collect();
        // Half are accepted and closed by either side first; the rest are reset with the listener, never accepted.
        let mut servers: Vec<_> = (0..SLOTS / 2).map(|_| accept(&listener, &observer)).collect();
        assert!(servers.iter().all(|(_, token)| token.slot < SLOTS), "round {round}: {servers:?}");
        servers.truncate(2);
        drop((clients, servers, listener));
        let ends = u64::from(round * (SLOTS + 1));
        eventually("each connection's end, and the listener's", || {
            probes.counters().of("tcp_destroy_sock").hits == ends
        });
    }
    assert_eq!((probes.counters().no_slot, probes.counters().lost_slots), (0, 0));
}

/// What the agent's log holds, and a bell at each line.
#[derive(Clone, Default)]
struct Lines {
    text: Arc<Mutex<Vec<u8>>>,
    bell: Arc<tokio::sync::Notify>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.lock().unwrap().extend_from_slice(bytes);
        self.bell.notify_one();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn exhausted_slots_are_counted_and_told_once_in_the_log() {
    let mut probes = load(2, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let pairs: Vec<_> = (0..6).map(|_| (connect(&listener), accept(&listener, &observer))).collect();
    let without = pairs.iter().filter(|(_, (_, token))| *token == Token::NONE).count();
    assert!(pairs[2].1.1 == Token::NONE && without == 4, "two slots serve two connections: {without}");
    assert_eq!(observer.marks(Token::NONE, 0..1).missing, Missing::NO_SLOT);
    assert_eq!(probes.counters().no_slot, 4);

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let log = probes.take_log().unwrap();
    assert!(probes.take_log().is_none());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let told = tokio::time::timeout(Duration::from_secs(10), lines.bell.notified());
            tokio::select! {
                told = told => told.expect("a message within 10 s"),
                end = log.run() => panic!("the log ended: {end:?}"),
            }
        });
    });
    let text = String::from_utf8(lines.text.lock().unwrap().clone()).unwrap();
    assert!(text.contains("WARN wayspan::probes: no free slot"), "{text}");
    assert_eq!(text.lines().count(), 1, "a flood of connections is not one of messages: {text}");
}

fn foreign_sockets_count_as_misses() {
    let probes = load(2, Duration::ZERO);
    let observer = probes.observer();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    assert_eq!(token.slot, Token::NONE.slot);
    assert_eq!(observer.marks(token, 0..1).missing, Missing::JOINED_LATE);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drop((client, server));
    // The acceptable connection, the byte, the FIN; at least, for the machine has other sockets too.
    eventually("misses of each probe", || {
        let counters = probes.counters();
        counters.of("sk_data_ready").misses >= 2
            && counters.of("inet_sock_set_state").misses >= 4
            && counters.of("tcp_destroy_sock").misses >= 2
    });
    let counters = probes.counters();
    for events in &counters.events {
        assert_eq!(events.hits, 0, "{events:?}");
    }
    assert_eq!(counters.no_slot, 0);
}

/// What is left of the probes on a kernel without these, and why they are off.
#[track_caller]
fn sockets_are_asked_without(absent: &[&str], lacking: &'static str) {
    let config = model::Probes { slots: 8, backends: true, ..model::Probes::default() };
    let probes = Probes::load_without(&config, Duration::ZERO, absent);
    let observer = probes.observer();
    assert_eq!(observer.absence(), Missing::UNAVAILABLE.with(Missing::TCP_INFO), "{absent:?}");
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(observer.marks(token, 0..1).missing, observer.absence());
    assert!(observer.keeps_accounts() && observer.account(server.as_fd()).is_some_and(|account| account.srtt_us > 0));
    assert!(matches!(probes.reason(), Some(Reason::NoTracepoint(_))), "{:?}", probes.reason());
    for probe in probes.states() {
        let off = probe.off.clone().expect("nothing runs for nothing");
        let is_absent = absent.contains(&probe.row.tracepoint);
        let is_told = match off {
            Reason::NoTracepoint(_) => is_absent,
            Reason::Useless(name) => !is_absent && name == lacking,
            _ => !is_absent && !probe.is_lacking(),
        };
        assert!(is_told, "{absent:?}: {probe}");
    }
    assert_eq!(probes.counters().of("inet_sock_set_state").hits, 0);
}

fn where_no_probe_tells_of_bytes_the_sockets_themselves_are_asked() {
    sockets_are_asked_without(&["sk_data_ready", "again_sk_data_ready", "enter_sock_def_readable"], "sk_data_ready");
}

fn what_is_left_out_of_one_programs_runs_another_one_sees() {
    let config = model::Probes { slots: 4, ..model::Probes::default() };
    let is_on = |probes: &Probes| {
        let again = probes.states().into_iter().find(|probe| probe.row.tracepoint == "again_sk_data_ready").unwrap();
        assert!(!again.is_lacking() || matches!(again.off, Some(Reason::NoTracepoint(_))), "{again}");
        again.off.is_none()
    };
    // None of the one's runs come, as if each had come within another; both run; only the usual one does.
    for (absent, make_up) in [(&["sk_data_ready"][..], false), (&[], true), (&[], false)] {
        let probes = Probes::load_without(&config, Duration::ZERO, absent);
        if make_up {
            probes.make_up();
            probes.switch(Set::Core, false);
            probes.switch(Set::Core, true);
        }
        // Before 6.3 neither is there.
        let has_tracepoint =
            probes.states().iter().any(|probe| probe.row.tracepoint == "sk_data_ready" && probe.off.is_none());
        assert!(is_on(&probes) == (make_up && has_tracepoint || !absent.is_empty()) || !has_tracepoint, "{absent:?}");
        let observer = probes.observer();
        let listener = watched(&observer);
        let mut client = connect(&listener);
        let (mut server, token) = accept(&listener, &observer);
        for round in 0..20_u64 {
            let sending = MonoNs::now();
            client.write_all(b"abc").unwrap();
            server.read_exact(&mut [0; 3]).unwrap();
            let marks = observer.marks(token, round * 3..round * 3 + 3);
            assert_eq!(marks.missing, Missing::NOTHING, "{absent:?}, round {round}");
            assert_order(&[("send", sending), ("first", marks.first), ("now", MonoNs::now())]);
        }
        // The acceptable connection, and each message, once.
        assert_eq!(probes.counters().of("sk_data_ready").hits, 21, "{absent:?}, {make_up}");
    }
}

fn runs_that_the_kernel_left_out_are_told_of_each_probe_that_is_on() {
    let probes = load(2, Duration::ZERO);
    let skipped = probes.skipped();
    let is_told = |name: &str| skipped.iter().any(|(probe, _)| *probe == name);
    for probe in probes.states().iter().filter(|probe| probe.off.is_none()) {
        assert!(is_told(probe.row.tracepoint), "{}: {skipped:?}", probe.row.tracepoint);
    }
    let observer = probes.observer();
    let of_points = |skipped: &[(&'static str, u64)]| -> u64 {
        // What else is loaded tells what is beside the phases, or gives slots back.
        let others =
            ["tcp_retransmit_skb", "tcp_retransmit_synack", "tcp_destroy_sock", "tcp_probe", "again_sk_data_ready"];
        skipped.iter().filter(|(probe, _)| !others.contains(probe)).map(|(_, runs)| runs).sum()
    };
    let (before, told, after) = (of_points(&skipped), observer.skipped().unwrap(), of_points(&probes.skipped()));
    assert!((before..=after).contains(&told.points) && told.connections <= told.points, "{before}, {told:?}, {after}");
    // Asked for once in a turn of the merge, of 5 ms at least.
    let begun = MonoNs::now();
    (0..100).for_each(|_| assert!(observer.skipped().is_some()));
    println!("\n    a look at what was left out takes {} ns", MonoNs::now().since(begun) / 100);
    drop(probes);
    assert_eq!(observer.skipped(), None, "nobody counts any more");
}

fn child(arguments: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn hold() -> ExitCode {
    let every_set = model::Probes { slots: 64, backends: true, ack: true, ..model::Probes::default() };
    let _probes = load_with(&every_set, Duration::ZERO);
    println!("ready");
    // The parent kills this process; where the parent died, its end of the pipe closes.
    let _read = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

fn print_report(arguments: &[String]) -> ExitCode {
    let held = arguments.iter().fold(CapabilitySet::empty(), |held, name| match name.as_str() {
        "bpf" => held | CapabilitySet::BPF,
        "perfmon" => held | CapabilitySet::PERFMON,
        _ => held,
    });
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).unwrap();
    println!("{}", serde_json::to_string(&doctor::report(&model::Probes::default())).unwrap());
    ExitCode::SUCCESS
}

fn two_capabilities_are_enough_and_their_lack_is_named() {
    let check = |capabilities: &[&str], reason: Option<&str>| {
        let arguments = [&[DOCTOR], capabilities].concat();
        let output = child(&arguments).wait_with_output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for probe in report["probes"].as_array().unwrap() {
            assert_eq!(probe["lacking"], reason.is_some(), "with {capabilities:?}: {report:#}");
            if let Some(reason) = reason {
                assert_eq!(probe["reason"]["detail"], reason, "with {capabilities:?}: {report:#}");
            }
        }
    };
    check(&["bpf", "perfmon"], None);
    check(&["bpf"], Some("CAP_PERFMON"));
    check(&["perfmon"], Some("CAP_BPF"));
    check(&[], Some("CAP_BPF, CAP_PERFMON"));
}

fn the_cost_of_a_hit_is_measured() {
    let costs = cost::measure().unwrap();
    costs.iter().for_each(|cost| println!("\n    {cost}"));
    // Before 6.3 there is no tracepoint, and the function behind it does the same.
    let readable = ["sk_data_ready", "enter_sock_def_readable"];
    let of = |whose: cost::Whose| {
        costs.iter().find(|cost| readable.contains(&cost.tracepoint) && cost.whose == whose).copied().unwrap()
    };
    let (own, foreign) = (of(cost::Whose::Own), of(cost::Whose::Foreign));
    assert!(own.runs >= 40_000 && foreign.runs >= 40_000, "each message is an event: {own}, {foreign}");
    // Ten times what was measured on a small VM: absolute figures are the bench's, this one finds a program gone wild. An
    // emulated CPU tells nothing of either.
    let is_emulated = std::env::args().any(|argument| argument == EMULATED);
    assert!(is_emulated || (own.run_ns < 2_000 && foreign.run_ns < 1_000), "{own}, {foreign}");
    let prices = cost::prices(&costs);
    prices.iter().for_each(|price| println!("\n    {price}"));
    let core = prices.iter().find(|price| price.set == "core" && price.whose == cost::Whose::Own).unwrap();
    // The programs run for all of the node's sockets, and others may have theirs.
    assert!(core.runs >= 2.0, "a request is readable once on each of its two sockets: {core}");
}
