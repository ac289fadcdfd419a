//! The backend's side of one attempt, p10 to p12: which of its points lie on the way to the answer, the order they must
//! have, and what was open when an attempt was given up. Pure.

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::Attempt;

use super::phase::Phase;

/// Times from before the attempt are none of its own: where a backend's write was not noted yet, the kernel tells of the
/// one before, which brought the connection's previous answer.
fn own(attempt: &Attempt) -> [Option<MonoNs>; 3] {
    [attempt.backend_readable, attempt.backend_read, attempt.backend_sent]
        .map(|point| point.known().filter(|at| *at >= attempt.chosen))
}

/// Whether the backend had begun its answer before it read what its other times are of: they are not on the answer's way.
pub(super) fn is_early(attempt: &Attempt) -> bool {
    let [readable, read, sent] = own(attempt);
    read.or(readable).zip(sent).is_some_and(|(came, sent)| came > sent)
}

/// p10 to p12 as far as they are known.
pub(super) fn points(attempt: &Attempt) -> [Option<MonoNs>; 3] {
    let [readable, read, sent] = own(attempt);
    if is_early(attempt) { [None, None, sent] } else { [readable, read, sent] }
}

/// p9: when the upstream's socket had taken the request's head. That is when the write returned, but the write may return
/// after what it caused: it wakes the backend, which takes the worker's core, works and answers. Then it was at the latest
/// when the backend could read it; where nobody looks there, when the write began.
pub(super) fn taken(attempt: &Attempt) -> MonoNs {
    let written = attempt.head_written;
    let (Some(_), Some(caused)) = (written.known(), caused(attempt).filter(|caused| *caused < written)) else {
        return written;
    };
    points(attempt)[0].unwrap_or(attempt.write_begun).max(attempt.write_begun).min(caused)
}

/// The same of the request's last byte.
pub(super) fn taken_whole(attempt: &Attempt) -> MonoNs {
    // Where the backend answered before the last byte had come, the point is an earlier byte's.
    let is_last = |readable: &MonoNs| attempt.last_write_begun.known().is_some_and(|begun| begun <= *readable);
    let readable = points(attempt)[0].filter(is_last);
    readable.map_or(attempt.request_written, |readable| readable.min(attempt.request_written))
}

/// The earliest of what happened because the request came.
fn caused(attempt: &Attempt) -> Option<MonoNs> {
    let after_begun = |at: &MonoNs| *at >= attempt.write_begun;
    points(attempt).into_iter().flatten().chain(attempt.first_readable.known()).filter(after_begun).min()
}

/// The same, none after `end` or after the one behind it: a write may be stamped when it returns, and what it wrote was
/// read by then.
pub(super) fn in_order(attempt: &Attempt, end: MonoNs) -> [Option<MonoNs>; 3] {
    let mut points = points(attempt);
    let mut behind = end;
    for point in points.iter_mut().rev().flatten() {
        behind = behind.min(*point);
        *point = behind;
    }
    points
}

/// Whether the points exist: the backend is on this node, and somebody looks.
pub(super) fn is_watched(attempt: &Attempt) -> bool {
    !attempt.backend_missing.has(Missing::ELSEWHERE.with(Missing::NOT_SOUGHT))
}

/// The phase in which an attempt without an answer was given up, where its points leave no doubt: what the kernel had not
/// reported by then had not happened.
pub(super) fn open_phase(attempt: &Attempt) -> Phase {
    let points = points(attempt);
    let reached = points.iter().take_while(|point| point.is_some()).count();
    let has_gap = points.iter().skip(reached).any(Option::is_some);
    let otherwise = Missing(attempt.backend_missing.0 & !Missing::UNSEEN.with(Missing::ACCEPT).0);
    let unseen = attempt.backend_missing.has(Missing::UNSEEN);
    // A write from before the attempt was the last.
    let unsent = unseen || attempt.backend_sent.known().is_some();
    match reached {
        _ if has_gap || otherwise != Missing::NOTHING => Phase::UpstreamWait,
        0 if unseen => Phase::UpstreamPathOut,
        1 if unseen => Phase::BackendPickup,
        2 if unsent => Phase::BackendApp,
        3 => Phase::UpstreamPathBack,
        _ => Phase::UpstreamWait,
    }
}

/// The same where something came back that nobody has read as an answer: the end of the connection, most often, since the
/// backend has written nothing.
pub(super) fn unread_phase(attempt: &Attempt) -> Phase {
    match open_phase(attempt) {
        phase @ (Phase::BackendPickup | Phase::BackendApp) => phase,
        _ => Phase::UpstreamWait,
    }
}
