//! Whether each request has exactly one span, whose points lie in the request's windows. Pure.
//!
//! A span tells its points only after they were put in order: one that would lie before its neighbour lies on it. So a
//! point with a phase of zero before it is no later than it seems, and only its window's begin can be held against it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::book::{Book, Id, Kind, Window};
use super::sink::{PHASES, Received, Seen, place};

/// Start and phases are rounded to a microsecond each, and the wall clock's offset is measured on both sides.
pub(super) const TOLERANCE_NS: u64 = 2_000;
/// The requirement on coverage, of a thousand.
pub(super) const FULL_OF_A_THOUSAND: u64 = 999;
pub(super) const FULL: &str = "full";
/// What a request must be told that was there before the backend had accepted its connection; all its points are known.
pub(super) const ACCEPT: &str = "partial: accept not visible";

/// What came of one kind of requests.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line {
    pub(super) requests: u64,
    /// Requests of which everything was seen, the backend's side too.
    pub(super) full: u64,
    /// Others by their coverage.
    pub(super) others: BTreeMap<String, u64>,
    /// Points that were held against both ends of their window.
    pub(super) points: u64,
    /// Points that were held against its begin only.
    pub(super) on_neighbour: u64,
}

/// How many of some requests have full coverage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Share {
    pub(super) requests: u64,
    pub(super) full: u64,
    /// All else is known of them.
    pub(super) unaccepted: u64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, full, unaccepted } = self;
        let others = requests.saturating_sub(full + unaccepted);
        write!(f, "{full} of {requests} full, {unaccepted} accept not visible, {others} others")
    }
}

/// The judgement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Verdict {
    pub(super) lines: BTreeMap<Kind, Line>,
    /// Requests with something wrong.
    pub(super) wrong: u64,
    /// The first of them and what it is.
    pub(super) first: Option<(Id, String)>,
    /// SERVER spans of none of our requests.
    pub(super) strange: u64,
}

impl Verdict {
    /// Full coverage of the requests that the requirement is of, and of those that are counted apart: of a warm-up, and to
    /// backends that close with each answer. A backend's connection that has just been made is no matter of joins: whether it
    /// was accepted in time cannot be seen.
    pub(super) fn coverages(&self) -> [Share; 2] {
        let mut shares = [Share::default(); 2];
        for (kind, line) in &self.lines {
            let [kept, apart] = &mut shares;
            let is_apart = kind.has_fresh_upstream() || *kind == Kind::WarmUp;
            let share = if is_apart { apart } else { kept };
            share.requests += line.requests;
            share.full += line.full;
            share.unaccepted += line.others.get(ACCEPT).copied().unwrap_or(0);
        }
        shares
    }

    /// Whether full coverage is as frequent as it must be.
    pub(super) fn covers(&self) -> bool {
        let [kept, _] = self.coverages();
        kept.full * 1000 >= kept.requests * FULL_OF_A_THOUSAND
    }

    /// Whether all is well.
    pub(super) fn passed(&self) -> bool {
        self.wrong == 0 && self.strange == 0 && self.covers()
    }
}

/// What is known beforehand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// What the wall clock is ahead.
    pub(super) wall_ns: i64,
    /// Whether the agent watches backends: then it must have seen them.
    pub(super) backends: bool,
}

/// Judges all requests.
pub(super) fn judge(book: &Book, received: &Received, given: Given) -> Verdict {
    let mut verdict = Verdict { strange: received.strange, ..Verdict::default() };
    for id in book.ids() {
        let (kind, seen) = (book.of(id).kind, received.of(id));
        let line = verdict.lines.entry(kind).or_default();
        line.requests += 1;
        let coverage = received.coverages.get(seen.coverage).map_or("", String::as_str);
        let fault = book.overlap(id).or_else(|| hold(book, id, &seen, coverage, given, line));
        if let Some(fault) = fault {
            verdict.wrong += 1;
            verdict.first.get_or_insert((id, fault));
        }
    }
    verdict
}

/// Holds a request's points against its windows; what is wrong.
fn hold(book: &Book, id: Id, seen: &Seen, coverage: &str, given: Given, line: &mut Line) -> Option<String> {
    if seen.spans != 1 {
        return Some(format!("it has {} SERVER spans", seen.spans));
    }
    let sum: u64 = seen.phases.iter().map(|us| u64::from(*us)).sum();
    if sum != u64::from(seen.took_us) {
        return Some(format!("its phases are {sum} us together, and it took {}", seen.took_us));
    }
    let us = |phase: &str| seen.phases.get(place(phase)).copied().unwrap_or(0);
    let is_divided = us("upstream_wait") == 0;
    if coverage == FULL && (is_divided || !given.backends) {
        line.full += 1;
    } else {
        let told = if coverage == FULL { "full, backend not found" } else { coverage };
        *line.others.entry(told.to_owned()).or_default() += 1;
    }
    let windows = book.windows(id);
    let mut points = vec![("first byte readable", None, windows.first, true)];
    if matches!(coverage, FULL | ACCEPT) {
        // The only other point before it, the connection's accept, is in the window too, where it puts this one off.
        points.push(("head readable", Some("client_send"), windows.last, true));
    }
    if given.backends && is_divided && matches!(coverage, FULL | ACCEPT) {
        let lasts = |phases: &[&str]| phases.iter().any(|phase| us(phase) > 0);
        let [out, pickup, app, back] = ["upstream_path_out", "backend_pickup", "backend_app", "upstream_path_back"];
        points.push(("readable at the backend", Some(out), windows.backend, lasts(&[out])));
        points.push(("read by the backend", Some(pickup), windows.backend, lasts(&[pickup])));
        points.push(("sent by the backend", Some(app), windows.sent, lasts(&[app])));
        points.push(("answer readable", Some(back), windows.answer, lasts(&[out, pickup, app, back])));
    }
    let begun_ns = (seen.begun_us * 1000).checked_add_signed(-given.wall_ns)?;
    for (name, phase, Window { from, to }, is_exact) in points {
        let last = phase.map_or(0, |phase| place(phase) + 1);
        let passed_us: u64 = seen.phases.iter().take(last).map(|us| u64::from(*us)).sum();
        let at = begun_ns + passed_us * 1000;
        *(if is_exact { &mut line.points } else { &mut line.on_neighbour }) += 1;
        if at + TOLERANCE_NS < from || (is_exact && at > to.saturating_add(TOLERANCE_NS)) {
            let by = if at < from { from - at } else { at - to };
            let side = if at < from { "before" } else { "after" };
            let phases: Vec<_> = PHASES.iter().zip(seen.phases).filter(|(_, us)| *us > 0).collect();
            return Some(format!(
                "{name}: {by} ns {side} its window of {} ns; {coverage}; {:?}; begun {begun_ns}, {phases:?}",
                to - from,
                book.of(id)
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joins::book::Stamps;

    /// Milliseconds.
    const MS: u64 = 1_000_000;

    /// One request whose every point lies in the middle of its window.
    fn book() -> Book {
        let mut book = Book::new(1);
        book.note(1, |stamps| {
            *stamps = Stamps {
                first_sending: 100 * MS,
                last_sending: 110 * MS,
                head_read: 120 * MS,
                answering: 130 * MS,
                answered: 140 * MS,
                received: 150 * MS,
                ..Stamps::default()
            };
        });
        book
    }

    const WALL_NS: i64 = 1_000_000_000_000;

    fn received(change: impl FnOnce(&mut Seen, &mut Vec<String>)) -> Received {
        let mut seen = Seen { spans: 1, begun_us: 1_000_000_000 + 105_000, ..Seen::default() };
        let points = [
            ("client_send", 6_000),         // 111: last byte readable
            ("read_wait", 1_000),           // 112
            ("upstream_write", 1_000),      // 113
            ("upstream_path_out", 1_000),   // 114
            ("backend_pickup", 2_000),      // 116
            ("backend_app", 15_000),        // 131
            ("upstream_path_back", 10_000), // 141
        ];
        for (phase, us) in points {
            seen.phases[place(phase)] = us;
        }
        let mut coverages = vec![FULL.to_owned()];
        change(&mut seen, &mut coverages);
        seen.took_us += seen.phases.iter().sum::<u32>();
        Received::with(1, seen, coverages)
    }

    fn verdict(change: impl FnOnce(&mut Seen, &mut Vec<String>)) -> Verdict {
        judge(&book(), &received(change), Given { wall_ns: WALL_NS, backends: true })
    }

    #[test]
    fn a_request_whose_points_lie_in_their_windows_passes() {
        let verdict = verdict(|_, _| {});
        assert!(verdict.passed(), "{verdict:?}");
        let line = &verdict.lines[&Kind::KeepAlive];
        assert_eq!((line.requests, line.full, line.points, line.on_neighbour), (1, 1, 6, 0));
    }

    #[test]
    fn a_point_outside_its_window_is_told_by_name_and_distance() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Seen, &mut Vec<String>), told: &str) {
            let verdict = verdict(change);
            let (id, fault) = verdict.first.clone().unwrap();
            assert!(id == 1 && verdict.wrong == 1 && !verdict.passed());
            assert!(fault.starts_with(told), "{fault}");
        }
        let phase =
            |name: &'static str, us: u32| move |seen: &mut Seen, _: &mut Vec<String>| seen.phases[place(name)] = us;
        check(|seen, _| seen.begun_us -= 5_003, "first byte readable: 3000 ns before");
        check(|seen, _| seen.begun_us += 20_000, "first byte readable: 5000000 ns after");
        check(phase("client_send", 4_000), "head readable: 1000000 ns before");
        check(phase("client_send", 20_000), "head readable: 5000000 ns after");
        check(phase("upstream_path_out", 8_000), "readable at the backend: 1000000 ns after");
        check(phase("backend_pickup", 8_000), "read by the backend: 2000000 ns after");
        check(phase("backend_app", 10_000), "sent by the backend: 4000000 ns before");
        check(phase("upstream_path_back", 20_000), "answer readable: 1000000 ns after");
        check(|seen, _| seen.took_us = 1, "its phases are 36000 us together, and it took 36001");
        check(|seen, _| seen.spans = 2, "it has 2 SERVER spans");
        check(|seen, _| seen.spans = 0, "it has 0 SERVER spans");
    }

    #[test]
    fn a_point_that_lies_on_its_neighbour_may_have_been_earlier() {
        // The proxy's write returned after the backend had read: the backend's first points lie on its end.
        let late = verdict(|seen, _| {
            seen.phases[place("upstream_write")] = 12_000;
            seen.phases[place("upstream_path_out")] = 0;
            seen.phases[place("backend_pickup")] = 0;
            seen.phases[place("backend_app")] = 8_000;
        });
        assert!(late.passed(), "{late:?}");
        assert_eq!(late.lines[&Kind::KeepAlive].on_neighbour, 2);
    }

    #[test]
    fn requests_to_backends_that_close_are_counted_apart() {
        let line = |full, unaccepted, others| Line {
            requests: full + unaccepted + others,
            full,
            others: [(ACCEPT.to_owned(), unaccepted), ("partial: x".to_owned(), others)].into(),
            ..Line::default()
        };
        let lines = [
            (Kind::KeepAlive, line(1_999, 1, 0)),
            (Kind::WarmUp, line(5, 3, 2)),
            (Kind::FreshUpstream, line(10, 30, 1)),
        ];
        let verdict = Verdict { lines: lines.into(), ..Verdict::default() };
        let told = verdict.coverages().map(|share| share.to_string());
        assert_eq!(told[0], "1999 of 2000 full, 1 accept not visible, 0 others");
        assert_eq!(told[1], "15 of 51 full, 33 accept not visible, 3 others");
        assert!(verdict.covers());
    }

    #[test]
    fn coverage_is_counted_by_what_was_seen() {
        let of = |change: fn(&mut Seen, &mut Vec<String>)| {
            let verdict = verdict(change);
            assert_eq!(verdict.wrong, 0, "{verdict:?}");
            (verdict.covers(), verdict.lines[&Kind::KeepAlive].others.keys().next().cloned().unwrap())
        };
        let accept = of(|_, coverages| coverages[0] = ACCEPT.to_owned());
        assert_eq!(accept, (false, ACCEPT.to_owned()));
        let elsewhere = of(|seen, _| {
            let phases = ["upstream_path_out", "backend_pickup", "backend_app", "upstream_path_back"].map(place);
            seen.phases[place("upstream_wait")] =
                phases.map(|phase| std::mem::take(&mut seen.phases[phase])).iter().sum();
        });
        assert_eq!(elsewhere, (false, "full, backend not found".to_owned()));
    }
}
