//! One synthetic record with known truth per phase, then any record at all.

use proptest::prelude::*;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::{ErrorKind, Texts, encode};

use super::super::phase::Coverage;
use super::*;

mod backend;

const US: u64 = 1000;
const T0: u64 = 1_000_000_000_000;

/// A point so many microseconds after the start.
fn at(us: u64) -> MonoNs {
    MonoNs(T0 + us * US)
}

fn record(head: Head, attempts: Vec<Attempt>) -> Record<'static> {
    Record {
        head,
        attempts,
        calls: Vec::new(),
        texts: Texts::default(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    }
}

/// A GET on a new client and a new upstream connection: every point present and 10 us after the one before.
fn ordinary() -> (Head, Attempt) {
    let head = Head {
        first_readable: at(0),
        accepted: at(10),
        head_readable: at(20),
        first_read: at(30),
        head_read: at(30),
        upstream_wanted: at(40),
        head_written: at(110),
        ended: at(120),
        status: 200,
        attempts_made: 1,
        ..Head::default()
    };
    let attempt = Attempt {
        begun: at(40),
        chosen: at(50),
        connected: at(60),
        secured: at(70),
        write_begun: at(72),
        head_written: at(80),
        request_written: at(80),
        first_readable: at(90),
        first_read: at(100),
        ended: at(105),
        status: 200,
        ..Attempt::default()
    };
    (head, attempt)
}

const ORDINARY: &[(Phase, u64)] = &[
    (Phase::AcceptWait, 10),
    (Phase::ClientSend, 10),
    (Phase::ReadWait, 10),
    (Phase::ProxyRequest, 10),
    (Phase::PoolWait, 10),
    (Phase::UpstreamConnect, 10),
    (Phase::UpstreamTls, 10),
    (Phase::UpstreamWrite, 10),
    (Phase::UpstreamWait, 10),
    (Phase::UpstreamReadWait, 10),
    (Phase::ProxyResponse, 20),
];

/// `ORDINARY` with other amounts for some phases; zero leaves one out.
fn but(changes: &[(Phase, u64)]) -> Vec<(Phase, u64)> {
    let mut all: Vec<_> = ORDINARY.iter().filter(|(p, _)| changes.iter().all(|(c, _)| c != p)).copied().collect();
    all.extend(changes.iter().filter(|(_, us)| *us > 0));
    all.sort();
    all
}

fn nonzero(attributed: &Attributed<'_>) -> Vec<(Phase, u64)> {
    Phase::ALL.into_iter().zip(attributed.phases).filter(|(_, us)| *us > 0).collect()
}

fn check_sound(a: &Attributed<'_>) {
    assert_eq!(a.phases.iter().map(|us| u128::from(*us)).sum::<u128>(), u128::from(a.duration_us), "sum");
    assert!(a.end >= a.start);
    let mut before = 0;
    for s in &a.stretches {
        assert!(before <= s.from_us && s.from_us < s.to_us && s.to_us <= a.duration_us, "{s:?} after {before}");
        before = s.to_us;
    }
    assert_eq!(before, a.duration_us, "the stretches cover the request");
}

fn check(name: &str, edit: impl FnOnce(&mut Head, &mut Attempt), expected: &[(Phase, u64)]) {
    let (mut head, mut attempt) = ordinary();
    edit(&mut head, &mut attempt);
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    check_sound(&a);
    assert_eq!(nonzero(&a), expected, "{name}");
}

#[test]
fn an_ordinary_request_has_each_phase_once_and_full_coverage() {
    let (head, attempt) = ordinary();
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    check_sound(&a);
    assert_eq!(nonzero(&a), ORDINARY);
    assert_eq!((a.duration_us, a.start, a.end), (120, at(0), at(120)));
    assert_eq!(a.coverage, Coverage::Full);
    assert!(a.stretches.iter().all(|s| s.part == Part::Whole));
    let order: Vec<_> = a.stretches.iter().map(|s| s.phase).collect();
    assert_eq!(order, ORDINARY.iter().map(|(phase, _)| *phase).collect::<Vec<_>>());
}

#[test]
fn a_stamp_of_the_whole_head_begins_the_request_and_divides_what_it_waited_for() {
    use Phase::{AcceptWait, ClientSend, ReadWait, UpstreamReadWait, UpstreamWait};
    // One stamp for the first byte and the last.
    let by_stamp = |head: &mut Head| (head.first_readable, head.head_readable) = (at(0), at(0));
    check("before it was accepted", |h, _| by_stamp(h), &but(&[(ClientSend, 0), (ReadWait, 20)]));
    let later = but(&[(AcceptWait, 0), (ClientSend, 0), (ReadWait, 30)]);
    let kept = |h: &mut Head| (h.first_readable, h.head_readable, h.request_index) = (at(0), at(0), 1);
    check("on a kept connection", |h, _| kept(h), &later);
    check("with bytes behind it", |h, _| (h.request_index, h.head_readable) = (1, MonoNs(0)), &later);
    check(
        "its answer was not stamped",
        |_, a| a.first_readable = MonoNs(0),
        &but(&[(UpstreamReadWait, 0), (UpstreamWait, 20)]),
    );
}

#[test]
fn the_clients_side_is_read_from_its_points() {
    use Phase::{AcceptWait, ClientSend, PipelineWait, ProxyRequest, ReadWait};
    check("a later request was not accepted", |h, _| h.request_index = 1, &but(&[(AcceptWait, 0), (ClientSend, 20)]));
    check("data after accept", |h, _| h.accepted = MonoNs(T0 - 5), &but(&[(AcceptWait, 0), (ClientSend, 20)]));
    check("whole head before accept", |h, _| h.head_readable = at(5), &but(&[(ClientSend, 0), (ReadWait, 20)]));
    check("last byte unknown", |h, _| h.head_readable = MonoNs(0), &but(&[(ClientSend, 0), (ReadWait, 20)]));
    check(
        "pipelined, and read ahead",
        |h, _| h.previous_write = at(36),
        &but(&[(ReadWait, 0), (PipelineWait, 16), (ProxyRequest, 4)]),
    );
    check("pipelined", |h, _| h.previous_write = at(25), &but(&[(PipelineWait, 5), (ReadWait, 5)]));
    check("its head ends behind the answer before", |h, _| h.previous_write = at(15), ORDINARY);
    check(
        "pipelined, last byte unknown",
        |h, _| (h.previous_write, h.head_readable) = (at(25), MonoNs(0)),
        &but(&[(ClientSend, 0), (PipelineWait, 15), (ReadWait, 5)]),
    );
    check(
        "no mark at all: starts with the first read",
        |h, _| {
            (h.first_readable, h.head_readable) = (MonoNs(0), MonoNs(0));
            h.first_read = at(25);
        },
        &but(&[(AcceptWait, 0), (ClientSend, 0), (ReadWait, 5)]),
    );
}

#[test]
fn the_upstreams_side_is_read_from_its_points() {
    use Phase::*;
    check("authentication", |h, _| h.middleware_wait_ns = 7 * US, &but(&[(MiddlewareWait, 7), (ProxyRequest, 3)]));
    check(
        "more than there is",
        |h, _| h.middleware_wait_ns = 70 * US,
        &but(&[(MiddlewareWait, 10), (ProxyRequest, 0)]),
    );
    check(
        "reused",
        |_, a| {
            a.reused = true;
            (a.connected, a.secured) = (MonoNs(0), MonoNs(0));
        },
        &but(&[(UpstreamConnect, 0), (UpstreamTls, 0), (UpstreamWrite, 30)]),
    );
    check(
        "retried",
        |h, a| {
            h.attempts_made = 2;
            a.begun = at(47);
        },
        &but(&[(RetryWait, 7), (PoolWait, 3)]),
    );
    check("no upstream mark", |_, a| a.first_readable = MonoNs(0), &but(&[(UpstreamWait, 20), (UpstreamReadWait, 0)]));
    check(
        "the peer answers before our write returns: others had our core",
        |_, a| a.first_readable = at(75),
        &but(&[(UpstreamWrite, 2), (UpstreamWait, 3), (UpstreamReadWait, 25)]),
    );
    check(
        "what was readable before our write is no answer to it",
        |_, a| a.first_readable = at(71),
        &but(&[(UpstreamWait, 0), (UpstreamReadWait, 20)]),
    );
}

#[test]
fn the_bodys_clock_divides_the_response() {
    use Phase::{ClientDrain, ProxyResponse, Tunnel, UpstreamBody, UpstreamReadWait, UpstreamWait};
    let clock = |upstream_body, upstream_read_wait, client_drain| BodyClock {
        upstream_body,
        upstream_read_wait,
        client_drain,
        proxy_response: 3 * US,
        ..BodyClock::default()
    };
    check(
        "each state gets its time",
        |h, _| h.body = clock(8 * US, 5 * US, 4 * US),
        &but(&[(UpstreamReadWait, 15), (ProxyResponse, 3), (UpstreamBody, 8), (ClientDrain, 4)]),
    );
    check(
        "a clock that ran too long is scaled",
        |h, _| h.body = clock(60 * US, 0, 20 * US),
        &but(&[(ProxyResponse, 0), (UpstreamBody, 15), (ClientDrain, 5)]),
    );
    check(
        "halves go by the largest remainder",
        |h, _| h.body = clock(7_600, 0, 4_300),
        &but(&[(ProxyResponse, 8), (UpstreamBody, 8), (ClientDrain, 4)]),
    );
    check("tunnel", |h, _| h.status = 101, &but(&[(ProxyResponse, 10), (Tunnel, 10)]));
    check("no clock", |h, _| h.body = BodyClock::default(), &but(&[(UpstreamWait, 10)]));
    let (mut head, attempt) = ordinary();
    head.body = clock(15 * US, 0, 0);
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    let last_two = a.stretches.last_chunk::<2>().map(|two| two.map(|s| (s.phase, s.part, s.from_us, s.to_us)));
    let divided = [(UpstreamBody, Part::First, 100, 115), (ProxyResponse, Part::Next, 115, 120)];
    assert_eq!(last_two, Some(divided));
}

#[test]
fn an_upload_is_taken_out_of_the_wait() {
    use Phase::{ClientBody, ProxyRequest, ProxyResponse, UpstreamDrain, UpstreamWait};
    let upload = |client_body, upstream_drain, proxy_request| BodyClock {
        client_body: client_body * US,
        upstream_drain: upstream_drain * US,
        proxy_request: proxy_request * US,
        ..BodyClock::default()
    };
    let longer = |h: &mut Head, a: &mut Attempt, clock| {
        (a.request_written, a.first_readable, a.first_read) = (at(180), at(190), at(200));
        (h.head_written, h.ended, h.body) = (at(210), at(220), clock);
    };
    check(
        "each state gets its time",
        |h, a| longer(h, a, upload(50, 20, 25)),
        &but(&[(ClientBody, 50), (UpstreamDrain, 20), (ProxyRequest, 35), (UpstreamWait, 15)]),
    );
    check(
        "what ran on after the last byte is waiting",
        |h, a| longer(h, a, upload(50, 20, 40)),
        &but(&[(ClientBody, 50), (UpstreamDrain, 20), (ProxyRequest, 40), (UpstreamWait, 10)]),
    );
    check(
        "the response came in the middle of the upload",
        |h, a| {
            longer(h, a, upload(115, 0, 0));
            h.early = true;
        },
        &but(&[(ClientBody, 115), (UpstreamWait, 0), (ProxyResponse, 15)]),
    );
    check(
        "the client stalls and leaves",
        |h, a| {
            (a.request_written, a.first_readable, a.first_read, a.ended) = (at(100), MonoNs(0), MonoNs(0), MonoNs(0));
            (h.head_written, h.ended, h.end) = (MonoNs(0), at(1080), End::ClientGone);
            (h.body, h.early) = (upload(990, 0, 8), true);
        },
        &but(&[
            (ClientBody, 990),
            (ProxyRequest, 18),
            (UpstreamWait, 2),
            (Phase::UpstreamReadWait, 0),
            (ProxyResponse, 0),
        ]),
    );
    // The last byte so far was written at 180, and the client, whose body it is not the last of, was waited for from then on.
    check(
        "the answer came while the client was waited for, after much of the proxy's work",
        |h, a| {
            longer(h, a, upload(10, 0, 100));
            (a.backend_readable, a.backend_read, a.backend_sent) = (at(95), at(96), at(185));
            h.early = true;
        },
        &but(&[(ClientBody, 10), (ProxyRequest, 110), (UpstreamWait, 0)]),
    );
}

#[test]
fn a_failed_attempt_leaves_its_time_to_the_open_phase() {
    use Phase::*;
    let unanswered = |a: &mut Attempt| {
        (a.first_readable, a.first_read, a.ended) = (MonoNs(0), MonoNs(0), MonoNs(0));
        a.error = ErrorKind::ResponseTimeout;
    };
    let none_after_connect = [(UpstreamTls, 0), (UpstreamWrite, 0), (UpstreamWait, 0), (UpstreamReadWait, 0)];
    check(
        "504: waited until our answer",
        |_, a| unanswered(a),
        &but(&[(UpstreamWait, 30), (UpstreamReadWait, 0), (ProxyResponse, 10)]),
    );
    check(
        "502: connecting until it failed",
        |_, a| {
            unanswered(a);
            (a.connected, a.secured, a.head_written, a.request_written) = (MonoNs(0), MonoNs(0), MonoNs(0), MonoNs(0));
            a.ended = at(95);
        },
        &but(&[&none_after_connect[..], &[(UpstreamConnect, 45), (ProxyResponse, 25)]].concat()),
    );
    check(
        "the client left while we connected",
        |h, a| {
            unanswered(a);
            (a.connected, a.secured, a.head_written, a.request_written) = (MonoNs(0), MonoNs(0), MonoNs(0), MonoNs(0));
            (h.head_written, h.end) = (MonoNs(0), End::ClientGone);
        },
        &but(&[&none_after_connect[..], &[(UpstreamConnect, 70), (ProxyResponse, 0)]].concat()),
    );
    check(
        "readable and never read",
        |h, a| {
            a.first_read = MonoNs(0);
            (a.ended, h.head_written, h.end) = (MonoNs(0), MonoNs(0), End::ClientGone);
        },
        &but(&[(UpstreamReadWait, 30), (ProxyResponse, 0)]),
    );
}

#[test]
fn without_an_upstream_the_rest_is_the_proxys() {
    use Phase::*;
    let client = [(AcceptWait, 10), (ClientSend, 10), (ReadWait, 10)];
    let alone = |name: &str, edit: &dyn Fn(&mut Head), rest: &[(Phase, u64)]| {
        let (mut head, _) = ordinary();
        head.attempts_made = 0;
        edit(&mut head);
        let record = record(head, Vec::new());
        let a = attribute(&record);
        check_sound(&a);
        assert_eq!(nonzero(&a), [&client[..], rest].concat(), "{name}");
    };
    let none = MonoNs::UNKNOWN;
    alone("no route", &|h| h.upstream_wanted = none, &[(ProxyResponse, 90)]);
    alone("no server", &|_| (), &[(ProxyRequest, 10), (ProxyResponse, 80)]);
    let denied = |h: &mut Head| (h.upstream_wanted, h.middleware_wait_ns) = (none, 50 * US);
    alone("denied", &denied, &[(MiddlewareWait, 50), (ProxyResponse, 40)]);
    let left = |h: &mut Head| (h.upstream_wanted, h.head_written, h.end) = (none, none, End::ClientGone);
    alone("left before a route", &left, &[(ProxyRequest, 90)]);
    let capped = |h: &mut Head| (h.head_written, h.end) = (none, End::ClientGone);
    alone("left while all connections were busy", &capped, &[(ProxyRequest, 10), (PoolWait, 80)]);
    let waited = |h: &mut Head| h.error = wayspan_proxy::record::ErrorKind::TooManyConnections;
    alone("no connection in time", &waited, &[(ProxyRequest, 10), (PoolWait, 70), (ProxyResponse, 10)]);
    let slow = |h: &mut Head| {
        h.upstream_wanted = none;
        h.body.client_drain = 60 * US;
    };
    alone("a client that does not take our answer", &slow, &[(ProxyResponse, 30), (ClientDrain, 60)]);
    let refused = |h: &mut Head| (h.upstream_wanted, h.head_read, h.end) = (none, none, End::Refused);
    alone("a refused head", &refused, &[(ProxyResponse, 90)]);
}

#[test]
fn a_head_that_never_was_whole_is_the_clients_time() {
    let head = Head {
        first_readable: at(0),
        first_read: at(10),
        accepted: at(5),
        ended: at(500),
        end: End::TimedOut,
        ..Head::default()
    };
    let record = record(head, Vec::new());
    let a = attribute(&record);
    assert_eq!(nonzero(&a), [(Phase::AcceptWait, 5), (Phase::ClientSend, 495)]);
    assert_eq!((a.blame, a.dominant, a.coverage), (Blame::Client, Phase::ClientSend, Coverage::Full));
}

#[test]
fn points_are_rounded_before_they_are_subtracted() {
    let (mut head, mut attempt) = ordinary();
    // 0.4 us a phase: durations rounded one by one would be lost, all of them.
    head.first_readable = MonoNs(T0);
    head.request_index = 1;
    head.head_readable = MonoNs(T0 + 400);
    head.head_read = MonoNs(T0 + 800);
    head.upstream_wanted = MonoNs(T0 + 1200);
    attempt.chosen = MonoNs(T0 + 1600);
    head.ended = MonoNs(T0 + 1600);
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    check_sound(&a);
    assert_eq!(nonzero(&a), [(Phase::ReadWait, 1), (Phase::PoolWait, 1)]);
}

#[test]
fn blame_is_the_group_with_the_largest_sum_and_ties_are_settled() {
    // Two phases of the proxy's queue beat one longer phase of the client.
    check_blame(
        &[(Phase::ReadWait, 6), (Phase::UpstreamReadWait, 5), (Phase::ClientSend, 10)],
        Blame::ProxyQueue,
        Phase::ClientSend,
    );
    check_blame(&[(Phase::ClientSend, 5), (Phase::UpstreamWait, 5)], Blame::Client, Phase::ClientSend);
    check_blame(&[], Blame::Proxy, Phase::ProxyResponse);
}

fn check_blame(times: &[(Phase, u64)], blame: Blame, dominant: Phase) {
    let mut walk = Walk::new(at(0), at(100), false);
    for (phase, us) in times {
        walk.to(MonoNs(walk.at.0 + us * US), *phase);
    }
    assert_eq!(largest(&Blame::ALL, &walk.groups, Blame::Proxy), blame);
    assert_eq!(largest(&Phase::ALL, &walk.phases, Phase::ProxyResponse), dominant);
}

#[test]
fn coverage_says_what_is_missing_and_why() {
    let check = |client: Missing, upstream: Missing, known: [bool; 3], expected: &str| {
        let (mut head, mut attempt) = ordinary();
        (head.client_missing, attempt.missing) = (client, upstream);
        for (known, point) in
            known.into_iter().zip([&mut head.first_readable, &mut head.head_readable, &mut attempt.first_readable])
        {
            if !known {
                *point = MonoNs::UNKNOWN;
            }
        }
        assert_eq!(attribute(&record(head, vec![attempt])).coverage.to_string(), expected);
    };
    let none = Missing::NOTHING;
    check(none, none, [true; 3], "full");
    // Of bytes behind the heads: of the bodies.
    check(Missing::OVERWRITTEN, none, [true; 3], "partial: client marks overwritten");
    check(none, Missing::OVERWRITTEN, [true; 3], "partial: upstream marks overwritten");
    check(Missing::OFF, Missing::OFF, [true; 3], "partial: probes off");
    check(Missing::OFF, Missing::OFF, [false; 3], "none: probes off");
    check(Missing::UNAVAILABLE, Missing::UNAVAILABLE, [false; 3], "none: probes unavailable");
    let info = Missing::UNAVAILABLE.with(Missing::TCP_INFO);
    check(info, info, [false; 3], "none: probes unavailable, tcp_info");
    // Of a head with bytes behind it in its last read, and of reads without a stamp.
    let stamped = Missing::UNAVAILABLE.with(Missing::TIMESTAMPS);
    let unseen = stamped.with(Missing::UNSEEN);
    check(stamped, stamped, [true; 3], "partial: probes unavailable, timestamps");
    check(unseen, stamped, [true, false, true], "partial: probes unavailable, timestamps, client bytes unseen");
    check(
        unseen,
        unseen,
        [false; 3],
        "none: probes unavailable, timestamps, client bytes unseen, upstream bytes unseen",
    );
    check(Missing::OVERWRITTEN, none, [false, true, true], "partial: client marks overwritten");
    check(none, Missing::NO_SLOT, [true, true, false], "partial: no slot for the upstream connection");
    check(
        Missing::JOINED_LATE,
        Missing::REUSED,
        [false, false, false],
        "none: upstream slot reused, client connection older than the probes",
    );
    check(none, none, [true, false, true], "partial: client marks missing");
}

#[test]
fn an_answer_to_a_middleware_without_a_mark_lowers_the_coverage() {
    let check = |first_read: MonoNs, first_readable: MonoNs, missing: Missing, client: Missing, expected: &str| {
        let (head, attempt) = ordinary();
        let mut record = record(Head { client_missing: client, ..head }, vec![attempt]);
        record.calls = vec![Attempt { first_read, first_readable, missing, ..Attempt::default() }];
        assert_eq!(attribute(&record).coverage.to_string(), expected);
    };
    let (none, late) = (Missing::NOTHING, Missing::JOINED_LATE);
    check(at(38), at(35), none, none, "full");
    check(MonoNs::UNKNOWN, MonoNs::UNKNOWN, late, none, "full");
    check(at(38), MonoNs::UNKNOWN, late, none, "partial: middleware's call: upstream connection older than the probes");
    check(at(38), MonoNs::UNKNOWN, none, none, "partial: middleware's call: upstream marks missing");
    // What holds for everything is said once.
    check(at(38), MonoNs::UNKNOWN, Missing::OFF, Missing::OFF, "partial: probes off");
}

#[test]
fn a_wait_for_another_attempt_that_never_came_is_no_response() {
    for (paused, dead, open) in [
        (false, true, Phase::PoolWait),
        (true, true, Phase::RetryWait),
        (false, false, Phase::PoolWait),
        (true, false, Phase::RetryWait),
    ] {
        let change = |head: &mut Head, attempt: &mut Attempt| {
            // A connection that was dead, or an answer that is not to be passed on.
            if dead {
                (attempt.first_readable, attempt.first_read) = (MonoNs::UNKNOWN, MonoNs::UNKNOWN);
                attempt.ended = at(90);
            }
            (head.again, head.paused) = (at(105), paused);
            (head.head_written, head.ended) = (at(900), at(910));
        };
        let rest = [(Phase::RetryWait, if dead { 15 } else { 5 }), (Phase::ProxyResponse, 10)];
        let mut expected = but(&rest);
        if dead {
            expected.retain(|(phase, _)| *phase != Phase::UpstreamReadWait);
        }
        match expected.iter_mut().find(|(phase, _)| *phase == open) {
            Some((_, us)) => *us += 795,
            None => expected.push((open, 795)),
        }
        check(&format!("paused {paused}, dead {dead}"), change, &expected);
    }
}

#[test]
fn the_backend_may_read_an_uploads_end_before_the_write_returns() {
    let (mut head, mut attempt) = ordinary();
    // 300 us of drain, the last 100 of them within a write during which the backend worked on the worker's core.
    head.body = BodyClock { client_body: 200 * US, upstream_drain: 300 * US, ..BodyClock::default() };
    (attempt.request_written, attempt.request_head_end, attempt.request_end) = (at(580), 10, 100);
    (attempt.backend_readable, attempt.backend_read, attempt.backend_sent) = (at(480), at(490), at(690));
    (attempt.last_write_begun, attempt.first_readable, attempt.first_read) = (at(470), at(700), at(710));
    (head.head_written, head.ended) = (at(720), at(730));
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    check_sound(&a);
    let of = |phase: Phase| a.phases[phase as usize];
    assert_eq!((of(Phase::ClientBody), of(Phase::UpstreamDrain)), (200, 200), "{a:?}");
    assert_eq!((of(Phase::BackendPickup), of(Phase::BackendApp), of(Phase::UpstreamPathBack)), (10, 200, 10), "{a:?}");
}

#[test]
fn a_response_that_never_came_lowers_no_coverage() {
    let (head, mut attempt) = ordinary();
    (attempt.first_readable, attempt.first_read) = (MonoNs(0), MonoNs(0));
    attempt.missing = Missing::UNSEEN;
    assert_eq!(attribute(&record(head, vec![attempt])).coverage, Coverage::Full);
}

/// Any time: near each other, anywhere, absent, or at the ends of the range.
fn any_ns() -> impl Strategy<Value = u64> {
    prop_oneof![4 => T0..T0 + 20_000, 2 => Just(0), 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(1)]
}

fn any_length() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 4 => 0..20_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let times = (prop::array::uniform9(any_ns()), prop::array::uniform3(any_ns()));
    (times, any::<bool>(), any::<[u16; 2]>()).prop_map(|((t, near), reused, [missing, backend_missing])| Attempt {
        reused,
        begun: MonoNs(t[0]),
        chosen: MonoNs(t[1]),
        connected: MonoNs(t[2]),
        secured: MonoNs(t[3]),
        head_written: MonoNs(t[4]),
        request_written: MonoNs(t[5]),
        first_readable: MonoNs(t[6]),
        first_read: MonoNs(t[7]),
        ended: MonoNs(t[8]),
        backend_readable: MonoNs(near[0]),
        backend_read: MonoNs(near[1]),
        backend_sent: MonoNs(near[2]),
        missing: Missing(missing),
        backend_missing: Missing(backend_missing & 0x3ff),
        ..Attempt::default()
    })
}

fn any_head() -> impl Strategy<Value = Head> {
    let end = prop_oneof![Just(End::Complete), Just(End::ClientGone), Just(End::Refused), Just(End::UpstreamCut)];
    let status = prop_oneof![Just(0_u16), Just(200), Just(101)];
    let times = prop::array::uniform9(any_ns());
    let lengths = prop::array::uniform9(any_length());
    (times, lengths, end, status, 0..2_u32, any::<u16>(), 0..=255_u16).prop_map(
        |(t, l, end, status, request_index, attempts_made, missing)| Head {
            first_readable: MonoNs(t[0]),
            first_read: MonoNs(t[1]),
            accepted: MonoNs(t[2]),
            head_readable: MonoNs(t[3]),
            head_read: MonoNs(t[4]),
            previous_write: MonoNs(t[5]),
            upstream_wanted: MonoNs(t[6]),
            head_written: MonoNs(t[7]),
            ended: MonoNs(t[8]),
            middleware_wait_ns: l[0],
            body: BodyClock {
                upstream_body: l[1],
                upstream_read_wait: l[2],
                client_drain: l[3],
                proxy_response: l[4],
                client_body: l[5],
                read_wait: l[8],
                upstream_drain: l[6],
                proxy_request: l[7],
            },
            end,
            status,
            request_index,
            attempts_made,
            client_missing: Missing(missing & 0x3ff),
            ..Head::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_record_sums_exactly_and_stays_inside(head in any_head(), attempts in prop::collection::vec(any_attempt(), 0..4)) {
        let record = record(head, attempts);
        let a = attribute(&record);
        check_sound(&a);
        backend::check_known(&a);
        let again = attribute(&record);
        prop_assert_eq!((a.phases, a.stretches, a.blame, a.coverage), (again.phases, again.stretches, again.blame, again.coverage));
    }

    #[test]
    fn any_division_is_exact(total in prop_oneof![0..50_000_u64, any::<u64>()], parts in prop::array::uniform6(any_length())) {
        let (shares, rest) = divide(total, parts);
        let sum: u128 = shares.iter().chain([&rest]).map(|us| u128::from(*us)).sum();
        prop_assert_eq!(sum, u128::from(total));
        for (us, ns) in shares.into_iter().zip(parts) {
            prop_assert!(us <= ns / 1000 + 1, "{} us for {} ns", us, ns);
        }
    }
}

/// Run by hand, optimised: `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p wayspan-agent cost_per_record -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_per_record() {
    const ROUNDS: u64 = 300_000;
    let texts = Texts {
        host: "hotrod.localhost:8000",
        path: "/dispatch",
        query: "customer=392",
        user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ..Texts::default()
    };
    let plain = ordinary();
    let mut relayed = plain;
    relayed.0.body = BodyClock { upstream_body: 8_000, client_drain: 3_300, ..BodyClock::default() };
    let mut unseen = plain;
    (unseen.0.client_missing, unseen.1.missing) = (Missing::OFF, Missing::OFF);
    (unseen.0.first_readable, unseen.0.head_readable, unseen.1.first_readable) = (MonoNs(0), MonoNs(0), MonoNs(0));
    for (name, (head, attempt)) in [("plain", plain), ("body", relayed), ("probes off", unseen)] {
        let mut bytes = Vec::new();
        encode(&mut bytes, &head, &[attempt], &texts, [], []);
        let best = |work: &dyn Fn(&[u8]) -> u64| {
            let round = || {
                let begun = MonoNs::now();
                let sum = (0..ROUNDS).fold(0_u64, |sum, _| sum.wrapping_add(work(std::hint::black_box(&bytes))));
                std::hint::black_box(sum);
                MonoNs::now().since(begun) / ROUNDS
            };
            (0..7).map(|_| round()).min().unwrap()
        };
        let decode = best(&|bytes| Record::decode(bytes).unwrap().head.connection_id);
        let both = best(&|bytes| attribute(&Record::decode(bytes).unwrap()).duration_us);
        let cell = std::cell::RefCell::new(crate::metrics::PhaseWriter::default());
        let all = best(&|bytes| {
            let record = Record::decode(bytes).unwrap();
            let attributed = attribute(&record);
            cell.borrow_mut().observe(&attributed);
            attributed.duration_us
        });
        println!(
            "{name}, {} bytes: decode {decode} ns, with attribute {both} ns, with histograms {all} ns",
            bytes.len()
        );
    }
}
