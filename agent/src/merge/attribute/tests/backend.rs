//! The wait for a backend on this node, divided by its own points.

use super::*;
use Phase::{
    BackendApp, BackendPickup, ProxyResponse, UpstreamPathBack, UpstreamPathOut, UpstreamReadWait, UpstreamWait,
    UpstreamWrite,
};

/// p9 at 80, p10 to p12 as given, p13 at 180 and p14 at 200.
fn near(head: &mut Head, attempt: &mut Attempt, [readable, read, sent]: [u64; 3]) {
    let point = |us: u64| if us == 0 { MonoNs::UNKNOWN } else { at(us) };
    (attempt.backend_readable, attempt.backend_read, attempt.backend_sent) =
        (point(readable), point(read), point(sent));
    (attempt.first_readable, attempt.first_read, attempt.ended) = (at(180), at(200), at(205));
    (head.head_written, head.ended) = (at(210), at(220));
}

/// What the wait, its neighbours and the rest come to.
fn divided(name: &str, points: [u64; 3], edit: impl FnOnce(&mut Head, &mut Attempt), expected: &[(Phase, u64)]) {
    let usual = [(UpstreamWait, 0), (UpstreamReadWait, 20), (ProxyResponse, 20)];
    let others = usual.into_iter().filter(|(phase, _)| expected.iter().all(|(other, _)| other != phase));
    let all: Vec<_> = others.chain(expected.iter().copied()).collect();
    check(
        name,
        |h, a| {
            near(h, a, points);
            edit(h, a);
        },
        &but(&all),
    );
}

/// A phase of the backend's side took time only where both its points are known and not in the wrong order.
pub(super) fn check_known(a: &Attributed<'_>) {
    let taken = |phase: Phase| a.phases[phase as usize] > 0;
    let Some(last) = a.record.attempts.last() else {
        assert!(![UpstreamPathOut, BackendPickup, BackendApp, UpstreamPathBack].into_iter().any(taken));
        return;
    };
    let answered = last.first_read.known().is_some();
    let known = |point: MonoNs| point.known().is_some_and(|at| at >= last.chosen);
    let [readable, read, sent] = [last.backend_readable, last.backend_read, last.backend_sent].map(known);
    assert!(!taken(UpstreamPathOut) || readable || !answered);
    assert!(!taken(BackendPickup) || readable && (read || !answered));
    assert!(!taken(BackendApp) || read && (sent || !answered));
    assert!(!taken(UpstreamPathBack) || sent && (last.first_readable.known().is_some() || !answered));
    assert!(!answered || !taken(BackendApp) || last.backend_read <= last.backend_sent);
}

const WHOLE: &[(Phase, u64)] = &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 40), (UpstreamPathBack, 10)];

#[test]
fn the_wait_for_a_backend_on_this_node_is_divided() {
    divided("all known", [100, 130, 170], |_, _| (), WHOLE);
    divided("its accept is hidden", [100, 130, 170], |_, a| a.backend_missing = Missing::ACCEPT, WHOLE);
    divided("a reused connection", [100, 130, 170], |_, a| a.reused = true, WHOLE);
    divided(
        "it took our core when our write woke it, and our write returned after its answer",
        [74, 76, 170],
        |_, a| (a.head_written, a.request_written) = (at(190), at(190)),
        &[(UpstreamWrite, 4), (BackendPickup, 2), (BackendApp, 94), (UpstreamPathBack, 10)],
    );
    divided(
        "the same, and when it could read is not known",
        [0, 76, 170],
        |_, a| (a.head_written, a.request_written) = (at(190), at(190)),
        &[(UpstreamWrite, 2), (UpstreamWait, 4), (BackendApp, 94), (UpstreamPathBack, 10)],
    );
    divided(
        "its write returned after we had read",
        [100, 130, 190],
        |_, _| (),
        &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 50)],
    );
    divided(
        "the clock that readable bytes are stamped with ran ahead",
        [131, 130, 170],
        |_, _| (),
        &[(UpstreamPathOut, 50), (BackendApp, 40), (UpstreamPathBack, 10)],
    );
    let (mut head, mut attempt) = ordinary();
    near(&mut head, &mut attempt, [100, 130, 170]);
    let record = record(head, vec![attempt]);
    let a = attribute(&record);
    let stretches: Vec<_> = a.stretches.iter().filter(|s| WHOLE.iter().any(|(p, _)| *p == s.phase)).copied().collect();
    let expected =
        [(UpstreamPathOut, 80, 100), (BackendPickup, 100, 130), (BackendApp, 130, 170), (UpstreamPathBack, 170, 180)];
    assert_eq!(stretches, expected.map(|(phase, from_us, to_us)| Stretch { phase, part: Part::Whole, from_us, to_us }));
    assert_eq!(a.coverage, Coverage::Full);
}

#[test]
fn a_slow_backend_and_its_queue_have_the_blame() {
    let blamed = |points| {
        let (mut head, mut attempt) = ordinary();
        near(&mut head, &mut attempt, points);
        let record = record(head, vec![attempt]);
        let a = attribute(&record);
        (a.blame, a.dominant)
    };
    assert_eq!(blamed([85, 90, 170]), (Blame::Backend, BackendApp));
    assert_eq!(blamed([85, 165, 170]), (Blame::BackendQueue, BackendPickup));
    assert_eq!(blamed([85, 90, 95]), (Blame::UpstreamNetwork, UpstreamPathBack));
    assert_eq!(blamed([0; 3]), (Blame::Upstream, UpstreamWait));
}

#[test]
fn only_neighbours_that_are_known_are_divided() {
    divided("readable only", [100, 0, 0], |_, _| (), &[(UpstreamPathOut, 20), (UpstreamWait, 80)]);
    divided("read only", [0, 130, 0], |_, _| (), &[(UpstreamWait, 100)]);
    divided("sent only", [0, 0, 170], |_, _| (), &[(UpstreamWait, 90), (UpstreamPathBack, 10)]);
    divided("not readable", [0, 130, 170], |_, _| (), &[(UpstreamWait, 50), (BackendApp, 40), (UpstreamPathBack, 10)]);
    divided("not read", [100, 0, 170], |_, _| (), &[(UpstreamPathOut, 20), (UpstreamWait, 70), (UpstreamPathBack, 10)]);
    divided("not sent", [100, 130, 0], |_, _| (), &[(UpstreamPathOut, 20), (BackendPickup, 30), (UpstreamWait, 50)]);
    divided(
        "not readable here: the way back and our own wait are one",
        [100, 130, 170],
        |_, a| a.first_readable = MonoNs::UNKNOWN,
        &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 40), (UpstreamWait, 30), (UpstreamReadWait, 0)],
    );
    divided(
        "not written: the way out and our own write are one",
        [100, 130, 170],
        |_, a| (a.head_written, a.request_written) = (MonoNs(0), MonoNs(0)),
        &[(UpstreamWrite, 0), (UpstreamWait, 30), (BackendPickup, 30), (BackendApp, 40), (UpstreamPathBack, 10)],
    );
    // What is not divided is one stretch.
    let (mut head, mut attempt) = ordinary();
    near(&mut head, &mut attempt, [0, 130, 0]);
    let record = record(head, vec![attempt]);
    assert_eq!(attribute(&record).stretches.iter().filter(|s| s.phase == UpstreamWait).count(), 1);
}

#[test]
fn times_of_another_answer_are_not_taken() {
    divided(
        "the write that brought the answer before",
        [100, 130, 45],
        |_, _| (),
        &[(UpstreamPathOut, 20), (BackendPickup, 30), (UpstreamWait, 50)],
    );
    divided(
        "answered before the last byte had come",
        [150, 160, 120],
        |_, _| (),
        &[(UpstreamWait, 40), (UpstreamPathBack, 60)],
    );
}

#[test]
fn an_upload_ends_before_the_way_out_begins() {
    use Phase::{ClientBody, ProxyRequest, UpstreamDrain};
    let upload = |client_body, upstream_drain, proxy_request| BodyClock {
        client_body: client_body * US,
        upstream_drain: upstream_drain * US,
        proxy_request: proxy_request * US,
        ..BodyClock::default()
    };
    divided(
        "each state gets its time, and the backend the rest",
        [125, 130, 170],
        |h, a| (a.request_written, h.body) = (at(120), upload(15, 10, 20)),
        &[
            (ClientBody, 15),
            (UpstreamDrain, 10),
            (ProxyRequest, 25),
            (UpstreamPathOut, 5),
            (BackendPickup, 5),
            (BackendApp, 40),
            (UpstreamPathBack, 10),
        ],
    );
    divided(
        "readable before the last write returned",
        [110, 130, 170],
        |h, a| (a.last_write_begun, a.request_written, h.body) = (at(105), at(120), upload(25, 0, 15)),
        &[(ClientBody, 25), (ProxyRequest, 15), (BackendPickup, 20), (BackendApp, 40), (UpstreamPathBack, 10)],
    );
    divided(
        "answered without the body: the points are the head's",
        [82, 84, 170],
        |h, a| (a.last_write_begun, a.request_written, h.body) = (at(110), at(112), upload(28, 0, 4)),
        &[(ClientBody, 28), (ProxyRequest, 14), (BackendApp, 58), (UpstreamPathBack, 10)],
    );
    divided(
        "two writes and no state",
        [125, 130, 170],
        |_, a| a.request_written = at(120),
        &[(UpstreamWait, 40), (UpstreamPathOut, 5), (BackendPickup, 5), (BackendApp, 40), (UpstreamPathBack, 10)],
    );
    divided(
        "answered in the middle of it",
        [100, 130, 170],
        |h, a| (a.request_written, h.body) = (at(215), upload(110, 0, 0)),
        // Ten of it while the response is passed on.
        &[(ClientBody, 110), (ProxyResponse, 10)],
    );
    divided("written on after the answer", [100, 130, 170], |_, a| a.request_written = at(215), WHOLE);
}

#[test]
fn without_an_answer_the_open_phase_has_the_rest() {
    let given_up = |name: &str, points: [u64; 3], missing: Missing, expected: &[(Phase, u64)]| {
        divided(
            name,
            points,
            |h, a| {
                (a.first_readable, a.first_read, a.ended) = (MonoNs(0), MonoNs(0), MonoNs(0));
                (a.error, a.backend_missing, h.status) = (ErrorKind::ResponseTimeout, missing, 504);
            },
            &[expected, &[(UpstreamReadWait, 0), (ProxyResponse, 10)]].concat(),
        );
    };
    let unseen = Missing::UNSEEN;
    given_up("nobody asked", [0; 3], Missing::NOTHING, &[(UpstreamWait, 130)]);
    given_up("elsewhere", [0; 3], Missing::ELSEWHERE, &[(UpstreamWait, 130)]);
    given_up("on its way", [0; 3], unseen, &[(UpstreamPathOut, 130)]);
    given_up("not read", [100, 0, 0], unseen, &[(UpstreamPathOut, 20), (BackendPickup, 110)]);
    given_up("not accepted", [100, 0, 0], unseen.with(Missing::ACCEPT), &[(UpstreamPathOut, 20), (BackendPickup, 110)]);
    given_up("not answered", [100, 130, 0], unseen, &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 80)]);
    given_up(
        "not answered since the answer before",
        [100, 130, 45],
        Missing::NOTHING,
        &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 80)],
    );
    given_up(
        "lost on its way back",
        [100, 130, 170],
        Missing::NOTHING,
        &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 40), (UpstreamPathBack, 40)],
    );
    given_up("a gap", [100, 0, 170], unseen, &[(UpstreamPathOut, 20), (UpstreamWait, 110)]);
    given_up(
        "marks gone",
        [100, 0, 0],
        unseen.with(Missing::OVERWRITTEN),
        &[(UpstreamPathOut, 20), (UpstreamWait, 110)],
    );
}

#[test]
fn what_came_back_and_was_no_answer_ends_the_open_phase() {
    let closed = |name: &str, points: [u64; 3], missing: Missing, expected: &[(Phase, u64)]| {
        divided(
            name,
            points,
            |h, a| {
                (a.first_read, a.ended) = (MonoNs(0), MonoNs(0));
                (a.error, a.backend_missing, h.status) = (ErrorKind::UpstreamClosed, missing, 502);
            },
            &[expected, &[(UpstreamReadWait, 30), (ProxyResponse, 10)]].concat(),
        );
    };
    let unseen = Missing::UNSEEN;
    closed("not answered", [100, 130, 0], unseen, &[(UpstreamPathOut, 20), (BackendPickup, 30), (BackendApp, 50)]);
    closed("not read", [100, 0, 0], unseen, &[(UpstreamPathOut, 20), (BackendPickup, 80)]);
    closed("nothing seen", [0; 3], unseen, &[(UpstreamWait, 100)]);
    closed("elsewhere", [0; 3], Missing::ELSEWHERE, &[(UpstreamWait, 100)]);
    closed("an answer that nobody read", [100, 130, 170], Missing::NOTHING, WHOLE);
}

#[test]
fn only_the_last_attempt_is_divided() {
    let (mut head, mut last) = ordinary();
    near(&mut head, &mut last, [100, 130, 170]);
    head.attempts_made = 2;
    let first = Attempt { error: ErrorKind::UpstreamReset, first_read: MonoNs(0), ended: at(46), ..last };
    last.begun = at(47);
    let record = record(head, vec![first, last]);
    let a = attribute(&record);
    check_sound(&a);
    let expected = [&[(Phase::RetryWait, 7), (Phase::PoolWait, 3)], WHOLE].concat();
    for (phase, us) in expected {
        assert_eq!(a.phases[phase as usize], us, "{phase:?}");
    }
}

#[test]
fn coverage_says_what_is_missing_of_the_backend() {
    let check = |points: [u64; 3], missing: Missing, edit: &dyn Fn(&mut Head, &mut Attempt), expected: &str| {
        let (mut head, mut attempt) = ordinary();
        near(&mut head, &mut attempt, points);
        attempt.backend_missing = missing;
        edit(&mut head, &mut attempt);
        assert_eq!(attribute(&record(head, vec![attempt])).coverage.to_string(), expected, "{points:?} {missing:?}");
    };
    let as_is = |_: &mut Head, _: &mut Attempt| ();
    let all = [100, 130, 170];
    check(all, Missing::NOTHING, &as_is, "full");
    check(all, Missing::ACCEPT, &as_is, "partial: accept not visible");
    for nothing_to_see in [Missing::NOTHING, Missing::ELSEWHERE, Missing::NOT_SOUGHT] {
        check([0; 3], nothing_to_see, &as_is, "full");
    }
    check([0; 3], Missing::JOINED_LATE, &as_is, "partial: backend connection older than the probes");
    check([0; 3], Missing::REUSED, &as_is, "partial: backend slot reused");
    check([0; 3], Missing::NO_SLOT, &as_is, "partial: no slot for the backend connection");
    check([0, 130, 170], Missing::OVERWRITTEN, &as_is, "partial: backend marks overwritten");
    check([100, 130, 0], Missing::UNSEEN, &as_is, "partial: backend bytes unseen");
    check(
        [100, 130, 0],
        Missing::UNSEEN.with(Missing::ACCEPT),
        &as_is,
        "partial: backend bytes unseen, accept not visible",
    );
    check([100, 0, 170], Missing::OVERWRITTEN.with(Missing::ACCEPT), &as_is, "partial: backend marks overwritten");
    check([100, 130, 45], Missing::NOTHING, &as_is, "partial: backend marks missing");
    check([150, 160, 120], Missing::NOTHING, &as_is, "partial: backend answered before the whole request");
    let unseen_here = |_: &mut Head, a: &mut Attempt| (a.first_readable, a.missing) = (MonoNs(0), Missing::OVERWRITTEN);
    check(all, Missing::NOTHING, &unseen_here, "partial: upstream marks overwritten");
    let off = |h: &mut Head, a: &mut Attempt| {
        (h.first_readable, h.head_readable, a.first_readable) = (MonoNs(0), MonoNs(0), MonoNs(0));
        (h.client_missing, a.missing) = (Missing::OFF, Missing::OFF);
    };
    check([0; 3], Missing::JOINED_LATE, &off, "none: probes off");
    check(all, Missing::NOTHING, &off, "partial: probes off");
    let unanswered = |_: &mut Head, a: &mut Attempt| (a.first_readable, a.first_read) = (MonoNs(0), MonoNs(0));
    check([100, 0, 0], Missing::UNSEEN, &unanswered, "full");
    check([0; 3], Missing::NO_SLOT, &unanswered, "partial: no slot for the backend connection");
    check([100, 130, 0], Missing::UNSEEN.with(Missing::ACCEPT), &unanswered, "partial: accept not visible");
}
