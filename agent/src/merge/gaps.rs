//! When runs of the probes were left out, and whom that may concern: the kernel counts them, but does not say whose they were. So every
//! request that was under way while the count moved is said to have been seen in part. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::Missing;

use super::phase::{Attributed, Coverage};

/// A request's first bytes may lie unread this long, and then its first mark is that of later ones, if theirs was left out. A worker that
/// comes later still reads them by a mark that is too late.
const UNREAD: Duration = Duration::from_millis(10);
/// Gaps that are told apart; longer ago they are one. Of those that wait for late facts none is older than this many looks.
const GAPS_MAX: usize = 128;
/// The same of those in which a connection may have been made that still lives: one a minute is told apart for eleven days.
const CONNECTION_GAPS_MAX: usize = 16_384;

/// How many runs have been left out since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Of all programs that give a request its points.
    pub points: u64,
    /// Of these, of the one that finds a backend's end of a connection.
    pub connections: u64,
    /// When all of this had been read: what was left out later is not in it.
    pub by: MonoNs,
}

/// Times between two looks at the counts, in which they moved.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// When the newest look began: some of the counts may have moved while others were read.
    looked: MonoNs,
    skipped: Skipped,
    points: Times,
    connections: Times,
}

#[derive(Debug, Default)]
struct Times(VecDeque<(MonoNs, MonoNs)>);

impl Gaps {
    /// What the kernel counted from `now` on. What ended before is known from then on.
    pub(super) fn on_look(&mut self, now: MonoNs, skipped: Skipped) {
        let by = skipped.by.max(now);
        if skipped.points != self.skipped.points {
            self.points.add(self.looked, by, GAPS_MAX);
        }
        if skipped.connections != self.skipped.connections {
            self.connections.add(self.looked, by, CONNECTION_GAPS_MAX);
        }
        (self.looked, self.skipped) = (now, skipped);
    }

    /// Whether a run that was left out may have been one for this request, or for the connection that its last attempt took.
    fn concerns(&self, request: &Attributed<'_>) -> bool {
        let from = |at: MonoNs| MonoNs(at.0.saturating_sub(u64::try_from(UNREAD.as_nanos()).unwrap_or_default()));
        let attempt = request.record.attempts.last();
        // A backend that is not on this node has no end here, nor has one whose end was not found.
        let found_none = attempt.filter(|attempt| attempt.backend_missing.has(Missing::ELSEWHERE));
        self.points.meet(from(request.start), request.end)
            || found_none.is_some_and(|attempt| self.connections.meet(from(attempt.opened), attempt.opened + UNREAD))
    }

    /// Says so in the request's coverage.
    pub(super) fn tell(&self, request: &mut Attributed<'_>) {
        if self.points.0.is_empty() || !self.concerns(request) {
            return;
        }
        match &mut request.coverage {
            Coverage::Full => request.coverage = Coverage::Partial("probe skipped".to_owned()),
            Coverage::Partial(reasons) => reasons.push_str(", probe skipped"),
            Coverage::None(_) => {}
        }
    }
}

impl Times {
    /// In order: none begins before the one before it has ended.
    fn add(&mut self, from: MonoNs, to: MonoNs, most: usize) {
        match self.0.back_mut() {
            Some(newest) if newest.1 >= from => newest.1 = to,
            _ => self.0.push_back((from, to)),
        }
        if self.0.len() > most
            && let Some((from, _)) = self.0.pop_front()
            && let Some(next) = self.0.front_mut()
        {
            next.0 = from;
        }
    }

    fn meet(&self, from: MonoNs, to: MonoNs) -> bool {
        let first = self.0.partition_point(|gap| gap.1 < from);
        self.0.get(first).is_some_and(|gap| gap.0 <= to)
    }
}

#[cfg(test)]
mod tests {
    use wayspan_proxy::record::{Attempt, Head, Record, Texts};

    use super::*;
    use crate::merge::attribute::attribute;

    const S: u64 = 1_000_000_000;

    /// What is told of a request from `from` to `to`, over a connection that was made at `opened`.
    fn told(gaps: &Gaps, (from, to): (u64, u64), opened: u64, backend_missing: Missing) -> String {
        let at = |ns| MonoNs(ns);
        let head = Head {
            first_readable: at(from),
            first_read: at(from),
            head_readable: at(from),
            head_read: at(from),
            ended: at(to),
            attempts_made: 1,
            ..Head::default()
        };
        let attempt = Attempt { opened: at(opened), chosen: at(from), backend_missing, ..Attempt::default() };
        let (request_headers, response_headers, calls) = (Vec::new(), Vec::new(), Vec::new());
        let attempts = vec![attempt];
        let record = Record { head, attempts, calls, texts: Texts::default(), request_headers, response_headers };
        let mut request = attribute(&record);
        gaps.tell(&mut request);
        request.coverage.to_string()
    }

    fn looks(looks: &[(u64, u64, u64)]) -> Gaps {
        let mut gaps = Gaps::default();
        for (at, points, connections) in looks {
            gaps.on_look(MonoNs(*at), Skipped { points: *points, connections: *connections, by: MonoNs(*at) });
        }
        gaps
    }

    #[test]
    fn whoever_was_under_way_while_a_count_moved_was_seen_in_part() {
        let gaps = looks(&[(10 * S, 0, 0), (11 * S, 0, 0), (12 * S, 3, 0), (13 * S, 3, 0)]);
        let of = |from, to| told(&gaps, (from, to), 0, Missing::NOT_SOUGHT);
        for (from, to, expected) in [
            (9 * S, 11 * S - 1, "full"),
            (9 * S, 11 * S, "partial: probe skipped"),
            (9 * S, 13 * S, "partial: probe skipped"),
            (11 * S + 5, 11 * S + 6, "partial: probe skipped"),
            (12 * S + 9_000_000, 13 * S, "partial: probe skipped"),
            (12 * S + 11_000_000, 13 * S, "full"),
        ] {
            assert_eq!(of(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn what_is_left_out_while_the_counts_are_read_concerns_those_who_began_meanwhile() {
        let mut gaps = looks(&[(10 * S, 0, 0)]);
        gaps.on_look(MonoNs(11 * S), Skipped { points: 1, connections: 0, by: MonoNs(12 * S) });
        gaps.on_look(MonoNs(13 * S), Skipped { points: 1, connections: 0, by: MonoNs(13 * S) });
        let of = |from, to| told(&gaps, (from, to), 0, Missing::NOT_SOUGHT);
        assert_eq!(of(11 * S + S / 2, 12 * S), "partial: probe skipped");
        assert_eq!(of(12 * S + S / 2, 13 * S), "full");
    }

    #[test]
    fn a_backend_that_was_not_found_then_may_be_here() {
        let gaps = looks(&[(10 * S, 0, 0), (11 * S, 1, 1), (12 * S, 2, 1), (40 * S, 2, 1)]);
        let of = |opened, missing| told(&gaps, (30 * S, 31 * S), opened, missing);
        assert_eq!(of(10 * S + 5, Missing::ELSEWHERE), "partial: probe skipped");
        assert_eq!(of(10 * S + 5, Missing::NOT_SOUGHT), "full");
        assert_eq!(of(11 * S + 500_000_000, Missing::ELSEWHERE), "full");
    }

    #[test]
    fn a_connection_that_was_made_between_two_gaps_long_ago_is_in_neither() {
        let every_other: Vec<_> = (1..=8 * GAPS_MAX as u64).map(|look| (look * S, look / 2, look / 2)).collect();
        let gaps = looks(&every_other);
        // No request is under way in the newest look's second.
        let of = |opened| told(&gaps, (9999 * S, 9999 * S + 1), opened, Missing::ELSEWHERE);
        assert_eq!(of(10 * S + S / 2), "full");
        assert_eq!(of(11 * S + S / 2), "partial: probe skipped");
    }

    #[test]
    fn what_is_long_ago_is_one_gap() {
        let every_other: Vec<_> = (1..=4 * GAPS_MAX as u64).map(|look| (look * S, look / 2, 0)).collect();
        let gaps = looks(&every_other);
        assert_eq!(gaps.points.0.len(), GAPS_MAX);
        let of = |at| told(&gaps, (at, at + 1), 0, Missing::NOT_SOUGHT);
        // In the newest the look tells.
        let newest = 4 * GAPS_MAX as u64 * S;
        assert_eq!(
            (of(newest - S / 2), of(newest - S - S / 2)),
            ("partial: probe skipped".to_owned(), "full".to_owned())
        );
        assert_eq!(
            (of(2 * S + S / 2), of(3 * S + S / 2)),
            ("partial: probe skipped".to_owned(), "partial: probe skipped".to_owned())
        );
    }
}
