//! Connections of which it is known when each byte came, and to whom it belongs, go through the proxy's own counting and asking,
//! the reading of the kernel's slots, and the dividing of a request's time. What comes out is held against what is true: a time
//! is right or said to be missing for a reason that holds. A failure prints its seed.

mod conversation;
mod site;
mod upstream;

use std::cell::RefCell;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::{Record, Texts, encode};

use self::conversation::{Conversation, Ended};
use self::site::Site;
use super::attribute::attribute;
use super::late::Ask;
use super::phase::{Attributed, Coverage, Phase};
use super::seed::Seed;
use crate::probes::Set;

/// Worlds in the ordinary run.
const SEEDS: u64 = 3_000;
/// Worlds in the run by hand.
const SEEDS_BY_HAND: u64 = 300_000;

/// What the worlds of a run had in them, so that none of it is missed unnoticed.
#[derive(Debug, Default)]
struct Seen {
    full: usize,
    partial: usize,
    none: usize,
    acknowledged: usize,
    /// Why times were missing, of any side.
    missing: Missing,
    far: usize,
}

/// The reasons that coverage names, of the client's side, the upstream's and the backend's.
const SIDES: [&str; 3] = ["client", "upstream", "backend"];

fn run(seed: u64, seen: &mut Seen) {
    let site = RefCell::new(Site::new(seed));
    let connections = site.borrow_mut().random.u8(1..4);
    for _ in 0..connections {
        let mut conversation = Conversation::new(&site);
        let mut all = Vec::new();
        while let Some(ended) = conversation.next() {
            check(&ended, seen);
            all.push(ended);
        }
        check_bytes(&all, conversation.is_secured());
        rest(&mut site.borrow_mut());
        check_late(&site, &conversation, &all, seen);
        conversation.ends();
        rest(&mut site.borrow_mut());
        check_late(&site, &conversation, &all, seen);
    }
}

/// Nothing happens here for a while.
fn rest(site: &mut Site) {
    for _ in 0..site.random.u8(..12) {
        site.pass();
    }
}

/// One request, as its record tells of it.
fn check(ended: &Ended, seen: &mut Seen) {
    let mut bytes = Vec::new();
    encode(&mut bytes, &ended.head, &[ended.attempt], &Texts::default(), [], []);
    let record = Record::decode(&bytes).unwrap();
    let attributed = attribute(&record);
    check_times(ended);
    check_clocks(ended);
    check_coverage(ended, &attributed.coverage);
    let sum: u64 = attributed.phases.iter().sum();
    assert_eq!(sum, attributed.duration_us, "the phases' sum");
    match attributed.coverage {
        Coverage::Full => {
            seen.full += 1;
            seen.far += usize::from(ended.head.request_start > u64::from(u32::MAX));
            if !ended.truth.answer.is_early {
                check_phases(ended, &attributed);
            }
        }
        Coverage::Partial(_) => seen.partial += 1,
        Coverage::None(_) => seen.none += 1,
    }
    let Ended { head, attempt, .. } = ended;
    seen.missing =
        [head.client_missing, attempt.missing, attempt.backend_missing].into_iter().fold(seen.missing, Missing::with);
}

/// Each time that is told is the true one.
fn check_times(Ended { head, attempt, truth }: &Ended) {
    let [readable, read, sent] = truth.answer.backend;
    for (name, told, truth) in [
        ("first readable", head.first_readable, truth.first_readable),
        ("head readable", head.head_readable, truth.head_readable),
        ("answer readable", attempt.first_readable, truth.answer.first_readable),
        ("backend readable", attempt.backend_readable, readable),
        ("backend read", attempt.backend_read, read),
        ("backend sent", attempt.backend_sent, sent),
    ] {
        assert!(told == MonoNs::UNKNOWN || told == truth, "{name}: {told:?}, not {truth:?}");
    }
    assert_eq!(head.request_start..head.request_head_end, truth.head, "the head's bytes");
}

/// What a body waited for is divided as it was; where marks are missing, what lay unread did so at least as long.
fn check_clocks(Ended { head, attempt, truth }: &Ended) {
    let (body, answer) = (&head.body, &truth.answer);
    for (is_known, waited, unread, [true_waited, true_unread]) in [
        (
            head.client_missing == Missing::NOTHING,
            body.client_body,
            body.read_wait,
            [truth.client_body_ns, truth.read_wait_ns],
        ),
        (
            attempt.missing == Missing::NOTHING,
            body.upstream_body,
            body.upstream_read_wait,
            [answer.upstream_body_ns, answer.read_wait_ns],
        ),
    ] {
        if answer.is_early {
            continue;
        }
        assert_eq!(waited + unread, true_waited + true_unread, "the waits of a body: {body:?} {truth:?}");
        assert!(unread <= true_unread, "unread too long: {body:?} {truth:?}");
        assert!(!is_known || unread == true_unread, "unread: {body:?} {truth:?}");
    }
}

/// What is missing has a reason that holds, and where nothing may be missing all is known.
fn check_coverage(Ended { head, attempt, truth }: &Ended, coverage: &Coverage) {
    let lawful = [truth.lawful, truth.answer.lawful, truth.answer.lawful_backend];
    let is_early = truth.answer.is_early;
    let missing = [head.client_missing, attempt.missing, attempt.backend_missing];
    for ((side, missing), lawful) in SIDES.into_iter().zip(missing).zip(lawful) {
        let lawful = if is_early && side == "backend" { lawful.with(Missing::UNSEEN) } else { lawful };
        assert_eq!(missing.0 & !lawful.0, 0, "{side}: {missing:?} but {lawful:?}");
    }
    let unwatched = Missing::ELSEWHERE.with(Missing::NOT_SOUGHT);
    let [of_client, of_upstream, of_backend] = lawful;
    let is_free = of_client == Missing::NOTHING && of_upstream == Missing::NOTHING;
    if is_free && !is_early && (of_backend == Missing::NOTHING || of_backend == Missing::ELSEWHERE) {
        assert_eq!(*coverage, Coverage::Full, "{missing:?}");
    }
    let known = [head.first_readable, head.head_readable, attempt.first_readable];
    let backend = [attempt.backend_readable, attempt.backend_read, attempt.backend_sent];
    let is_known = |times: &[MonoNs]| times.iter().all(|at| at.0 != 0);
    let is_full = is_known(&known)
        && (is_known(&backend) || attempt.backend_missing.has(unwatched))
        && missing.iter().all(|missing| missing.0 & !unwatched.0 == 0);
    match coverage {
        Coverage::Full => assert!(is_full, "full: {known:?} {backend:?} {missing:?}"),
        Coverage::Partial(why) | Coverage::None(why) => {
            why.split(", ").for_each(|reason| check_reason(reason, lawful, is_early));
        }
    }
}

/// A reason in words is one that holds of its side.
fn check_reason(reason: &str, [client, upstream, backend]: [Missing; 3], is_early: bool) {
    let of = |side: &str| match side {
        "client" => client,
        "upstream" => upstream,
        _ => backend,
    };
    let any = client.with(upstream).with(backend);
    let side = SIDES.into_iter().find(|side| reason.contains(side)).unwrap_or("no side");
    let is_lawful = match reason.replacen(side, "_", 1).as_str() {
        "probes off" => any.has(Missing::OFF),
        "no slot for the _ connection" => of(side).has(Missing::NO_SLOT),
        "_ marks overwritten" => of(side).has(Missing::OVERWRITTEN),
        "_ slot reused" => of(side).has(Missing::REUSED),
        "_ connection older than the probes" => of(side).has(Missing::JOINED_LATE),
        "_ bytes unseen" => side == "backend" && (is_early || backend.has(Missing::UNSEEN)),
        "_ answered before the whole request" => is_early,
        _ => reason == "accept not visible" && backend.has(Missing::ACCEPT),
    };
    assert!(is_lawful, "{reason:?} of {client:?} {upstream:?} {backend:?}");
}

/// Where all is known each phase is as long as it was.
fn check_phases(Ended { head, attempt, truth }: &Ended, attributed: &Attributed<'_>) {
    let mut phases = [0; Phase::COUNT];
    let (start, end) = (truth.first_readable, head.ended);
    let mut at = start;
    let mut to = |point: MonoNs, phase: Phase| {
        let next = point.max(at).min(end);
        phases[phase as usize] += next.since(at) / 1000;
        at = next;
    };
    if head.request_index == 0 {
        to(head.accepted, Phase::AcceptWait);
    }
    to(truth.head_readable, Phase::ClientSend);
    to(head.previous_write, Phase::PipelineWait);
    to(head.head_read, Phase::ReadWait);
    to(head.upstream_wanted, Phase::ProxyRequest);
    to(attempt.connected, Phase::UpstreamConnect);
    // What a write brought may have been there before it returned.
    let is_seen = attempt.backend_missing == Missing::NOTHING;
    let by = |written: MonoNs| if is_seen { written.min(truth.answer.backend[0]) } else { written };
    to(by(attempt.head_written), Phase::UpstreamWrite);
    // An upload's waits lie between.
    to(by(attempt.request_written), Phase::ProxyRequest);
    let readable = truth.answer.first_readable;
    if attempt.backend_missing == Missing::NOTHING {
        // A write may be noted when what it wrote was readable.
        let [came, read, sent] = truth.answer.backend;
        let sent = sent.min(readable);
        to(came.min(sent), Phase::UpstreamPathOut);
        to(read.min(sent), Phase::BackendPickup);
        to(sent, Phase::BackendApp);
        to(readable, Phase::UpstreamPathBack);
    } else {
        to(readable, Phase::UpstreamWait);
    }
    to(attempt.first_read, Phase::UpstreamReadWait);
    to(end, Phase::ProxyResponse);
    for (from, phase, ns) in [
        (Phase::ProxyRequest, Phase::ClientBody, truth.client_body_ns),
        (Phase::ProxyRequest, Phase::ReadWait, truth.read_wait_ns),
        (Phase::ProxyResponse, Phase::UpstreamBody, truth.answer.upstream_body_ns),
        (Phase::ProxyResponse, Phase::UpstreamReadWait, truth.answer.read_wait_ns),
    ] {
        let us = phases[from as usize].checked_sub(ns / 1000);
        phases[from as usize] =
            us.unwrap_or_else(|| panic!("{ns} ns of {}: {head:?} {attempt:?} {truth:?}", from.name()));
        phases[phase as usize] += ns / 1000;
    }
    let named = |phases: &[u64; Phase::COUNT]| -> Vec<(&str, u64)> {
        Phase::ALL.iter().zip(phases).map(|(phase, us)| (phase.name(), *us)).filter(|(_, us)| *us > 0).collect()
    };
    assert_eq!(named(&attributed.phases), named(&phases), "{head:?} {attempt:?} {truth:?}");
}

/// No byte is laid to two requests, neither of what came nor of what went.
fn check_bytes(all: &[Ended], is_secured: bool) {
    for pair in all.windows(2) {
        let [before, after] = pair else { continue };
        assert!(before.head.response_end <= after.head.response_start, "answers overlap");
        let is_apart = before.head.request_head_end <= after.head.request_start;
        // Of TLS a record holds the bytes of both.
        assert!(is_apart || is_secured, "requests overlap");
        let (one, other) = (&before.attempt, &after.attempt);
        if one.token == other.token && other.reused {
            assert!(one.request_end <= other.request_start && one.response_end <= other.response_start);
        }
    }
}

/// The acknowledgement of a response is its own, or said to be missing for a reason that holds.
fn check_late(site: &RefCell<Site>, conversation: &Conversation<'_>, all: &[Ended], seen: &mut Seen) {
    let site = site.borrow();
    let stream = conversation.stream.borrow();
    let acked = |last: u64| conversation.acks.iter().find(|ack| ack.end > last).map(|ack| ack.at);
    for Ended { head, attempt, .. } in all {
        let (attempts, calls, texts) = (vec![*attempt], Vec::new(), Texts::default());
        let (request_headers, response_headers) = (Vec::new(), Vec::new());
        let record = Record { head: *head, attempts, calls, texts, request_headers, response_headers };
        let late = site.kernel.reader.late(&Ask::of(&record));
        let last = head.response_end - 1;
        let truth = acked(last);
        let is_watched = site.kernel.is_attached(Set::Ack);
        let holds = match late.ack_missing {
            Missing::NOTHING => late.acked.0 != 0 || !is_watched,
            Missing::UNSEEN => truth.is_none() || site.has_gap(Set::Ack, head.head_read),
            Missing::OVERWRITTEN => conversation.acks.iter().filter(|ack| ack.end > last).count() >= 14,
            Missing::JOINED_LATE => {
                site.has_gap(Set::Ack, head.head_read) || site.lawful(&stream).has(Missing::JOINED_LATE)
            }
            Missing::REUSED => stream.is_gone(),
            reason => site.lawful(&stream).has(reason),
        };
        assert!(holds, "{late:?}, acknowledged {truth:?}");
        for told in [late.acked, head.previous.acked] {
            let last = if told == late.acked { last } else { head.previous.end.saturating_sub(1) };
            assert!(told.0 == 0 || Some(told) == acked(last), "{told:?}, not {:?}", acked(last));
        }
        let held =
            conversation.acks.iter().rev().find(|ack| ack.at >= head.ended && ack.left <= last).map(|ack| ack.at);
        assert!(late.left.0 == 0 || Some(late.left) == held, "left {:?}, not {held:?}", late.left);
        seen.acknowledged += usize::from(late.acked.0 != 0);
    }
}

fn run_all(seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let _seed = Seed(seed);
        run(seed, &mut seen);
    }
    seen
}

#[test]
fn a_time_is_the_true_one_or_its_lack_has_a_reason_that_holds() {
    let seen = run_all(0..SEEDS);
    let every = [
        Missing::OFF,
        Missing::NO_SLOT,
        Missing::OVERWRITTEN,
        Missing::REUSED,
        Missing::JOINED_LATE,
        Missing::UNSEEN,
        Missing::ELSEWHERE,
        Missing::ACCEPT,
        Missing::NOT_SOUGHT,
    ];
    assert!(every.into_iter().all(|reason| seen.missing.has(reason)), "{seen:?}");
    assert!(seen.full > 1000 && seen.partial > 1000 && seen.none > 100, "{seen:?}");
    assert!(seen.acknowledged > 1000 && seen.far > 100, "{seen:?}");
}

#[test]
#[ignore = "takes minutes: cargo test --release -p wayspan-agent -- --ignored many_connections"]
fn in_many_connections_too() {
    run_all(SEEDS..SEEDS_BY_HAND);
}
