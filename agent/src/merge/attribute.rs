//! From a record to phases that sum exactly: pure, no clock, no IO. The vocabulary is `phase`'s, spans are `export`'s.
//!
//! Points form one ordered list; each is clamped into [previous present point, end] and rounded to a microsecond
//! relative to the start before it is subtracted, so the phases telescope to the duration. Whatever a peer, the kernel
//! or a fault of ours wrote into the times, nothing underflows and nothing lies outside the request.

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{Attempt, BodyClock, End, ErrorKind, Head, Record};

use super::backend;
use super::coverage::coverage;
use super::late::Late;
use super::phase::{Attributed, Blame, Part, Phase, Stretch, rounded_us};

/// Stretches of an ordinary request: one allocation holds them.
const STRETCHES_USUAL: usize = 16;

/// Divides a request's time among phases.
#[must_use]
pub fn attribute<'a>(record: &'a Record<'a>) -> Attributed<'a> {
    let head = &record.head;
    let first = [head.first_readable, head.first_read, head.head_readable, head.head_read, head.accepted];
    let start = first.into_iter().find_map(MonoNs::known).unwrap_or(head.ended);
    let end = head.ended.max(start);
    let mut walk = Walk::new(start, end, head.early);
    // What the clock counted and no earlier phase has taken yet.
    let mut clock = head.body;
    if client_side(&mut walk, head) {
        match (record.attempts.first(), record.attempts.last()) {
            (Some(first), Some(last)) => {
                let wanted = head.upstream_wanted.known().unwrap_or(first.begun);
                walk.asking(wanted, head.middleware_wait_ns, Phase::ProxyRequest);
                if head.attempts_made > 1 || record.attempts.len() > 1 {
                    walk.to(last.begun, Phase::RetryWait);
                }
                upstream_side(&mut walk, head, last, &mut clock);
                no_other(&mut walk, head);
            }
            _ => without_upstream(&mut walk, head),
        }
    }
    response(&mut walk, head, &clock);
    let (blame, dominant) =
        (largest(&Blame::ALL, &walk.groups, Blame::Proxy), largest(&Phase::ALL, &walk.phases, Phase::ProxyResponse));
    Attributed {
        record,
        start,
        end,
        duration_us: walk.at_us,
        phases: walk.phases,
        stretches: walk.stretches,
        blame,
        dominant,
        coverage: coverage(record),
        late: Late::default(),
    }
}

/// p0 to p3 and p4, whichever comes first. `false` when the request ended before its head was whole.
fn client_side(walk: &mut Walk, head: &Head) -> bool {
    if head.request_index == 0 && head.first_readable.known().is_some() {
        walk.to(head.accepted, Phase::AcceptWait);
    }
    // A refused head is never whole: what was read of it decided.
    let read = head.head_read.known().or((head.end == End::Refused).then_some(head.first_read));
    walk.to(head.head_readable, Phase::ClientSend);
    let Some(read) = read else {
        let open = if head.head_readable.known().is_some() { Phase::ReadWait } else { Phase::ClientSend };
        walk.to(walk.end, open);
        return false;
    };
    // Nobody reads on while the response before it is made, but once.
    walk.to(head.previous_write, Phase::PipelineWait);
    walk.to(read, Phase::ReadWait);
    true
}

/// From p4 on, where nothing was tried: answers of our own, or cut off before.
fn without_upstream(walk: &mut Walk, head: &Head) {
    let cut = head.head_written.known().is_none() && !matches!(head.end, End::Complete | End::Refused);
    if let Some(wanted) = head.upstream_wanted.known() {
        walk.asking(wanted, head.middleware_wait_ns, Phase::ProxyRequest);
        if cut {
            walk.to(walk.end, Phase::PoolWait);
        } else if head.error == ErrorKind::TooManyConnections {
            // It waited for a connection until its time was up, which our own answer's head tells.
            walk.to(head.head_written.known().unwrap_or(walk.end), Phase::PoolWait);
        }
    } else if cut {
        walk.asking(walk.end, head.middleware_wait_ns, Phase::ProxyRequest);
    } else {
        // A middleware answered, and nothing was asked after it.
        walk.to(MonoNs(walk.at.0.saturating_add(head.middleware_wait_ns)), Phase::MiddlewareWait);
    }
}

/// p5 to p14, by the last attempt.
fn upstream_side(walk: &mut Walk, head: &Head, attempt: &Attempt, clock: &mut BodyClock) {
    // A reused connection was ready when it was chosen.
    let ready = |at: MonoNs, before: MonoNs| if attempt.reused { at.known().unwrap_or(before) } else { at };
    let connected = ready(attempt.connected, attempt.chosen);
    let secured = ready(attempt.secured, connected);
    let points = [
        (attempt.chosen, Phase::PoolWait),
        (connected, Phase::UpstreamConnect),
        (secured, Phase::UpstreamTls),
        (backend::taken(attempt), Phase::UpstreamWrite),
    ];
    for (point, phase) in points {
        walk.to(point, phase);
    }
    let is_seen = attempt.first_readable.known().is_some();
    if attempt.first_read.known().is_some() {
        if is_seen {
            walk.wait(attempt, attempt.first_readable, Until::Readable, clock);
            walk.to(attempt.first_read, Phase::UpstreamReadWait);
        } else {
            walk.wait(attempt, attempt.first_read, Until::Read, clock);
        }
        return;
    }
    // No answer: the open phase runs until the attempt was given up, which our own answer's head tells at the latest.
    let given_up = attempt.ended.known().or(head.head_written.known()).unwrap_or(walk.end);
    let open = points.iter().rposition(|(point, _)| point.known().is_some()).map_or(0, |last| last + 1);
    match points.get(open) {
        Some((_, phase)) => walk.to(given_up, *phase),
        None if is_seen => {
            walk.wait(attempt, attempt.first_readable, Until::Readable, clock);
            walk.to(given_up, Phase::UpstreamReadWait);
        }
        None => walk.wait(attempt, given_up, Until::GivenUp, clock),
    }
}

/// From the last attempt's end on, where another one was to come and did not.
fn no_other(walk: &mut Walk, head: &Head) {
    if head.again.known().is_some() {
        walk.to(head.again, Phase::RetryWait);
        let open = if head.paused { Phase::RetryWait } else { Phase::PoolWait };
        walk.to(head.head_written.known().unwrap_or(walk.end), open);
    }
}

/// What ended the wait for a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// p13.
    Readable,
    /// p14, where p13 is not known.
    Read,
    /// Nothing: there is no response.
    GivenUp,
}

/// What is left until p16, by the body's state clock.
fn response(walk: &mut Walk, head: &Head, clock: &BodyClock) {
    let mut rest = Phase::ProxyResponse;
    if head.status == 101 {
        walk.to(head.head_written, Phase::ProxyResponse);
        rest = Phase::Tunnel;
    }
    let parts = [
        (Phase::UpstreamBody, clock.upstream_body),
        (Phase::UpstreamReadWait, clock.upstream_read_wait),
        (Phase::ClientDrain, clock.client_drain),
        // An upload may go on while the response comes.
        (Phase::ClientBody, clock.client_body),
        (Phase::ReadWait, clock.read_wait),
        (Phase::UpstreamDrain, clock.upstream_drain),
    ];
    walk.share(walk.end, parts, rest);
}

/// Goes along the points.
struct Walk {
    start: MonoNs,
    end: MonoNs,
    at: MonoNs,
    at_us: u64,
    phases: [u64; Phase::COUNT],
    groups: [u64; Blame::COUNT],
    stretches: Vec<Stretch>,
    /// The answer, or the end, was there before the upload was over.
    early: bool,
}

impl Walk {
    fn new(start: MonoNs, end: MonoNs, early: bool) -> Self {
        let (phases, groups) = ([0; Phase::COUNT], [0; Blame::COUNT]);
        Self { start, end, at: start, at_us: 0, phases, groups, stretches: Vec::with_capacity(STRETCHES_USUAL), early }
    }

    /// Where a point lies, if it is known.
    fn clamped(&self, point: MonoNs) -> Option<MonoNs> {
        point.known().map(|point| point.max(self.at).min(self.end))
    }

    /// Goes on to a point and says between which microseconds that was; nothing if the point is unknown.
    fn advance(&mut self, point: MonoNs) -> Option<(u64, u64)> {
        let at = self.clamped(point)?;
        let from_us = self.at_us;
        self.at = at;
        self.at_us = rounded_us(at.since(self.start));
        (self.at_us > from_us).then_some((from_us, self.at_us))
    }

    fn add(&mut self, phase: Phase, us: u64) {
        if let Some(sum) = self.phases.get_mut(phase as usize) {
            *sum += us;
        }
        if let Some(sum) = self.groups.get_mut(phase.blame() as usize) {
            *sum += us;
        }
    }

    /// The time up to a point is one phase.
    fn to(&mut self, point: MonoNs, phase: Phase) {
        if let Some((from_us, to_us)) = self.advance(point) {
            self.add(phase, to_us - from_us);
            self.stretches.push(Stretch { phase, part: Part::Whole, from_us, to_us });
        }
    }

    /// The time up to a point, at the end of which other services were asked for so long.
    fn asking(&mut self, point: MonoNs, asked_ns: u64, rest: Phase) {
        if asked_ns == 0 {
            return self.to(point, rest);
        }
        let Some(to) = self.clamped(point) else { return };
        self.to(MonoNs(to.0.saturating_sub(asked_ns).max(1)), rest);
        self.to(to, Phase::MiddlewareWait);
    }

    /// The time up to a point is divided among parts of known length and a rest.
    fn share<const N: usize>(&mut self, point: MonoNs, parts: [(Phase, u64); N], rest: Phase) {
        if parts.iter().all(|(_, ns)| *ns == 0) {
            return self.to(point, rest);
        }
        let Some((from_us, to_us)) = self.advance(point) else { return };
        let (shares, rest_us) = divide(to_us - from_us, parts.map(|(_, ns)| ns));
        let (mut at_us, mut part) = (from_us, Part::First);
        for (phase, us) in parts.into_iter().map(|(phase, _)| phase).zip(shares).chain([(rest, rest_us)]) {
            if us == 0 {
                continue;
            }
            self.add(phase, us);
            part = if us == to_us - from_us { Part::Whole } else { part };
            self.stretches.push(Stretch { phase, part, from_us: at_us, to_us: at_us + us });
            (at_us, part) = (at_us + us, Part::Next);
        }
    }

    /// p9 to p13: the request's body, then waiting for the upstream. Takes from the clock what it has used.
    fn wait(&mut self, attempt: &Attempt, to: MonoNs, until: Until, clock: &mut BodyClock) {
        let Some(to) = self.clamped(to) else { return };
        let written = self.clamped(backend::taken_whole(attempt)).unwrap_or(to).min(to);
        clock.upstream_drain = clock.upstream_drain.saturating_sub(self.drained_late(attempt, written, clock));
        let upload = [clock.client_body, clock.read_wait, clock.upstream_drain, clock.proxy_request];
        let has_upload = upload.iter().any(|ns| *ns != 0);
        if has_upload {
            if !self.upload(to, written, clock) {
                return;
            }
        } else if attempt.request_written.known().is_some_and(|at| at < to) && backend::points(attempt) != [None; 3] {
            // The backend's points are those of the last byte. Of the head, where the last was written after the answer.
            self.to(written, Phase::UpstreamWait);
        }
        self.divided(attempt, to, until);
    }

    /// For how long the clock took the socket for full after the backend could read all of it: while the worker, whose write that was,
    /// did not run.
    fn drained_late(&self, attempt: &Attempt, written: MonoNs, clock: &BodyClock) -> u64 {
        let taken = clock.client_body.saturating_add(clock.read_wait).saturating_add(clock.upstream_drain);
        let late = taken.saturating_sub(written.since(self.at));
        let is_of_write = late <= attempt.request_written.since(written).min(clock.upstream_drain);
        if is_of_write { late } else { 0 }
    }

    /// The part of an upload before the response. Says whether waiting for the response was apart from it.
    fn upload(&mut self, to: MonoNs, written: MonoNs, clock: &mut BodyClock) -> bool {
        let room_ns = to.since(self.at);
        let waited = clock.client_body.saturating_add(clock.read_wait).saturating_add(clock.upstream_drain);
        let body_ns = scaled(clock.client_body, room_ns, waited);
        let unread_ns = scaled(clock.read_wait, room_ns, waited);
        let drain_ns = if waited > room_ns {
            room_ns.saturating_sub(body_ns).saturating_sub(unread_ns)
        } else {
            clock.upstream_drain
        };
        let taken_ns = body_ns.saturating_add(unread_ns).saturating_add(drain_ns);
        // The proxy is busy with the body only until its last byte was written; and to the end, where that was not the last.
        let last = if self.early { to } else { written };
        let busy_ns = clock.proxy_request.min(last.since(self.at).saturating_sub(taken_ns));
        clock.client_body -= body_ns.min(clock.client_body);
        clock.read_wait -= unread_ns.min(clock.read_wait);
        clock.upstream_drain -= drain_ns.min(clock.upstream_drain);
        let parts = [
            (Phase::ClientBody, body_ns),
            (Phase::ReadWait, unread_ns),
            (Phase::UpstreamDrain, drain_ns),
            (Phase::ProxyRequest, busy_ns),
        ];
        // The upload is a stretch of its own where all its states lie before its last byte. They do not where that never came: a
        // client that stops half-way is waited for after the last write.
        let is_apart = !self.early && taken_ns <= written.since(self.at);
        self.share(if is_apart { written } else { to }, parts, Phase::UpstreamWait);
        is_apart
    }

    /// The rest until p13. Between two neighbouring points that are both known lies their phase; what lies between others
    /// stays whole.
    fn divided(&mut self, attempt: &Attempt, to: MonoNs, until: Until) {
        const PHASES: [Phase; 4] =
            [Phase::UpstreamPathOut, Phase::BackendPickup, Phase::BackendApp, Phase::UpstreamPathBack];
        let [readable, read, sent] = backend::in_order(attempt, to);
        let written = attempt.head_written.known().map(|_| self.at);
        let answered = (until == Until::Readable).then_some(to);
        let points = [written, readable, read, sent, answered];
        for (neighbours, phase) in points.windows(2).zip(PHASES) {
            if let [Some(from), Some(to)] = *neighbours {
                self.to(from, Phase::UpstreamWait);
                self.to(to, phase);
            }
        }
        let rest = match until {
            Until::GivenUp => backend::open_phase(attempt),
            Until::Readable if attempt.first_read.known().is_none() => backend::unread_phase(attempt),
            Until::Readable | Until::Read => Phase::UpstreamWait,
        };
        self.to(to, rest);
    }
}

/// `part`, or where the `sum` of parts is more than the room, its share of the room (rounded down).
fn scaled(part: u64, room: u64, sum: u64) -> u64 {
    if sum <= room {
        return part;
    }
    u64::try_from(u128::from(part) * u128::from(room) / u128::from(sum)).unwrap_or(room).min(room)
}

/// Divides microseconds among parts of so many nanoseconds and a rest, by the largest remainder: the sum is exact.
/// Parts that are longer together than the whole are scaled down.
fn divide<const N: usize>(total_us: u64, parts_ns: [u64; N]) -> ([u64; N], u64) {
    let sum_ns: u128 = parts_ns.iter().map(|ns| u128::from(*ns)).sum();
    let room_ns = u128::from(total_us) * 1000;
    let mut left = total_us;
    let mut quota = |ns: u64| {
        let (us, remainder) = if sum_ns <= room_ns {
            (ns / 1000, u128::from(ns % 1000))
        } else {
            let product = u128::from(ns) * u128::from(total_us);
            (u64::try_from(product / sum_ns).unwrap_or(0), product % sum_ns)
        };
        left = left.saturating_sub(us);
        (us, remainder)
    };
    let mut quotas = parts_ns.map(&mut quota);
    let rest_ns = u64::try_from(room_ns.saturating_sub(sum_ns)).unwrap_or(u64::MAX);
    let mut rest = if sum_ns <= room_ns { quota(rest_ns) } else { (0, 0) };
    // At most one microsecond a part is left; the rest stands first in ties, then the earlier part.
    while left > 0 {
        let mut largest = &mut rest;
        for candidate in &mut quotas {
            if candidate.1 > largest.1 {
                largest = candidate;
            }
        }
        if largest.1 == 0 {
            largest.0 += left;
            break;
        }
        *largest = (largest.0 + 1, 0);
        left -= 1;
    }
    (quotas.map(|(us, _)| us), rest.0)
}

/// The one with the most time; of equals the one that stands first, `instant` where nothing took any.
fn largest<T: Copy, const N: usize>(all: &[T; N], us: &[u64; N], instant: T) -> T {
    let mut most = (0, instant);
    for (one, us) in all.iter().zip(us) {
        if *us > most.0 {
            most = (*us, *one);
        }
    }
    most.1
}

#[cfg(test)]
mod tests;
