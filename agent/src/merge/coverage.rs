//! How much of the kernel's part of a request was seen, and why not the rest. Pure.

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::{Attempt, Record};

use super::backend;
use super::phase::Coverage;

/// Texts per reason: on the client's side, on the upstream's, on the backend's.
const REASONS: [(Missing, &str, &str, &str); 9] = [
    (Missing::OFF, "probes off", "probes off", "probes off"),
    (Missing::UNAVAILABLE, "probes unavailable", "probes unavailable", "probes unavailable"),
    // Not reasons, but the degree that is left: what the connections' own counts tell, and stamps of what was read.
    (Missing::TCP_INFO, "tcp_info", "tcp_info", "tcp_info"),
    (Missing::TIMESTAMPS, "timestamps", "timestamps", "timestamps"),
    (
        Missing::NO_SLOT,
        "no slot for the client connection",
        "no slot for the upstream connection",
        "no slot for the backend connection",
    ),
    (Missing::OVERWRITTEN, "client marks overwritten", "upstream marks overwritten", "backend marks overwritten"),
    (Missing::REUSED, "client slot reused", "upstream slot reused", "backend slot reused"),
    (
        Missing::JOINED_LATE,
        "client connection older than the probes",
        "upstream connection older than the probes",
        "backend connection older than the probes",
    ),
    (Missing::UNSEEN, "client bytes unseen", "upstream bytes unseen", "backend bytes unseen"),
];

/// What is known of one side's points.
#[derive(Clone, Copy)]
struct Side {
    seen: usize,
    lacks: bool,
    why: Missing,
}

impl Side {
    /// Nothing was to be seen.
    const NONE: Self = Self { seen: 0, lacks: false, why: Missing::NOTHING };

    /// A head's points are counted; of what a body's reads lack there is the reason alone.
    fn of(seen: usize, expected: usize, missing: Missing) -> Self {
        let lacks = seen < expected || missing != Missing::NOTHING;
        Self { seen, lacks, why: if lacks { missing } else { Missing::NOTHING } }
    }

    /// Both.
    fn with(self, other: Self) -> Self {
        Self { seen: self.seen + other.seen, lacks: self.lacks || other.lacks, why: self.why.with(other.why) }
    }
}

/// Which of the kernel's points that this request can have are known, and why others are not.
pub(super) fn coverage(record: &Record<'_>) -> Coverage {
    let (head, attempt) = (&record.head, record.attempts.last());
    let count = |points: &[MonoNs]| points.iter().filter(|point| point.known().is_some()).count();
    // The last byte of a head that never was whole has no point, nor has a response that never came.
    let last = if head.head_read.known().is_some() { head.head_readable } else { MonoNs::UNKNOWN };
    let client = Side::of(count(&[head.first_readable, last]), 1 + count(&[head.head_read]), head.client_missing);
    let upstream = attempt.map_or(Side::NONE, upstream_side);
    let backend = attempt.map_or(Side::NONE, |attempt| backend_side(attempt, upstream.why));
    let sides = [client, upstream, backend];
    // For how long an answer to a middleware lay unread is known by its mark.
    let calls = record.calls.iter().map(upstream_side).fold(Side::NONE, Side::with);
    if sides.iter().all(|side| !side.lacks) && !calls.lacks {
        return Coverage::Full;
    }
    let text = reasons(&sides, calls, attempt.is_some_and(backend::is_early));
    if sides.iter().all(|side| side.seen == 0) { Coverage::None(text) } else { Coverage::Partial(text) }
}

/// A server's answer has its first byte's point, where one came.
fn upstream_side(attempt: &Attempt) -> Side {
    match (attempt.first_read.known(), attempt.first_readable.known()) {
        (None, _) => Side::NONE,
        (Some(_), readable) => Side::of(usize::from(readable.is_some()), 1, attempt.missing),
    }
}

/// The backend's side has all its points, or says why not; both may be true of its accept.
fn backend_side(attempt: &Attempt, upstream_why: Missing) -> Side {
    let points = backend::points(attempt);
    let seen = points.iter().flatten().count();
    // While the probes are off there is nothing to say of the backend that the upstream's side does not say.
    let off = upstream_why.has(Missing::OFF.with(Missing::UNAVAILABLE));
    if !backend::is_watched(attempt) || off || (seen == 0 && attempt.backend_missing == Missing::NOTHING) {
        return Side::of(seen, seen, Missing::NOTHING);
    }
    let mut why = attempt.backend_missing;
    let is_answered = attempt.first_read.known().is_some();
    let mut without = |reason: Missing| why = Missing(why.0 & !reason.0);
    if !matches!(points, [Some(_), Some(_), _]) {
        // Nothing to divide.
        without(Missing::ACCEPT);
    }
    if !is_answered {
        // What had not happened was not missed.
        without(Missing::UNSEEN);
    }
    let lacks = is_answered && seen < points.len();
    if is_answered && !lacks {
        why = Missing(why.0 & Missing::ACCEPT.0);
    }
    Side { seen, lacks: lacks || why != Missing::NOTHING, why }
}

/// Why it is not known when a response was acknowledged, in the words of coverage; `None` where nobody looked.
pub(crate) fn unacknowledged(missing: Missing) -> Option<&'static str> {
    if missing.has(Missing::NOT_WAITED) {
        return Some("acknowledgement not waited for");
    }
    let first = REASONS.iter().find(|(reason, ..)| missing.has(*reason))?;
    Some(match first.0 {
        Missing::UNSEEN => "acknowledgement unseen",
        Missing::OVERWRITTEN => "acknowledgement overwritten",
        Missing::JOINED_LATE => "request older than the probe",
        _ => first.1,
    })
}

fn reasons([client, upstream, backend]: &[Side; 3], calls: Side, is_early: bool) -> String {
    let mut text = String::new();
    let mut say = |reason: &str| {
        if !text.contains(reason) {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(reason);
        }
    };
    for (reason, of_client, of_upstream, of_backend) in REASONS {
        for (side, told) in [(client, of_client), (upstream, of_upstream), (backend, of_backend)] {
            if side.why.has(reason) {
                say(told);
            }
        }
    }
    for (reason, _, of_upstream, _) in REASONS {
        // What holds for the others too is said.
        if calls.why.has(reason) && ![client, upstream, backend].iter().any(|side| side.why.has(reason)) {
            say(&format!("middleware's call: {of_upstream}"));
        }
    }
    if backend.why.has(Missing::ACCEPT) {
        say("accept not visible");
    }
    let of_backend = if is_early { "backend answered before the whole request" } else { "backend marks missing" };
    let unexplained = [
        (client, "client marks missing"),
        (upstream, "upstream marks missing"),
        (backend, of_backend),
        (&calls, "middleware's call: upstream marks missing"),
    ];
    for (side, told) in unexplained {
        if side.lacks && side.why == Missing::NOTHING {
            say(told);
        }
    }
    text
}
