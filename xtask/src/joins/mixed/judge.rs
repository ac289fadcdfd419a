//! Whether each request has exactly one SERVER span, whose stretches lie end to end, whose points lie in the request's windows
//! and whose coverage is what its kind must have. Pure.
//!
//! A span's points were put in order: one that would lie before its neighbour lies on it. So where no time passed before a
//! point, it is no later than it seems, and only its window's begin can be held against it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::book::{Id, Window};
use super::super::judge::{ACCEPT, FULL, FULL_OF_A_THOUSAND, TOLERANCE_NS};
use super::book::{Book, Stamps, Windows};
use super::script::Kind;
use super::sink::{Received, Seen, Stretch};
use crate::accuracy::DIVIDED;

/// A kind that is played in fewer of its requests shows nothing.
const PLAYED_OF_TEN: u64 = 7;
/// Of a hundred answers that are acknowledged, so many must be known to be.
const ACKNOWLEDGED_OF_HUNDRED: u64 = 99;
/// Of a hundred early answers that took the backend this long, so many must be told as the documentation says. Where the worker loses
/// its core within such an upload, its own time shows as waiting for the upstream: of forty answers two, on a crowded machine.
const TOLD_OF_HUNDRED: u64 = 90;
const WORKED_US: u64 = 1_000;
/// What the backend's work before an early answer may be: the upload's, while the proxy waits for more of it or has not come back from
/// writing, or the backend's by its own points.
const BEFORE_EARLY: [&str; 7] =
    ["upstream_write", "body", "client_body", "read_wait", "upstream_drain", "proxy_request", "backend_app"];
const UNACCEPTED: &str = "accept not visible";

/// What came of one kind of requests.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line {
    pub(super) requests: u64,
    /// Requests that went as the kind is meant to.
    pub(super) as_meant: u64,
    /// Requests of which everything was seen, the backend's side too.
    pub(super) full: u64,
    /// All was seen but when a new connection to the backend was accepted.
    pub(super) unaccepted: u64,
    /// Others by their coverage, as the kind may have it.
    pub(super) hidden: BTreeMap<String, u64>,
    /// And as it may not.
    pub(super) unexplained: BTreeMap<String, u64>,
    /// Requests whose answer the client has acknowledged on a connection that lasted, and those of which is known when.
    pub(super) acknowledges: u64,
    pub(super) acknowledged: u64,
    /// Requests that were answered early and took the backend a millisecond, those of which its work is told, and the ones that are
    /// divided.
    pub(super) early: u64,
    pub(super) early_told: u64,
    pub(super) early_divided: u64,
    /// Points that were held against both ends of their window, and sums against their bound.
    pub(super) points: u64,
    /// Points that were held against its begin only.
    pub(super) on_neighbour: u64,
    /// Requests with something wrong.
    pub(super) wrong: u64,
    /// The first of them and what it is.
    pub(super) first: Option<(Id, String)>,
    /// The first whose coverage is not explained.
    pub(super) first_unexplained: Option<(Id, String)>,
}

/// The judgement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Verdict {
    pub(super) lines: BTreeMap<Kind, Line>,
    /// SERVER spans of none of our requests.
    pub(super) strange: u64,
}

impl Verdict {
    pub(super) fn wrong(&self) -> u64 {
        self.lines.values().map(|line| line.wrong).sum()
    }

    /// Whether the coverage is as stated beforehand, in all but one of a thousand.
    pub(super) fn covers(&self) -> bool {
        let requests: u64 = self.lines.values().map(|line| line.requests).sum();
        let unexplained: u64 = self.lines.values().flat_map(|line| line.unexplained.values()).sum();
        (requests - unexplained) * 1000 >= requests * FULL_OF_A_THOUSAND
    }

    /// Whether each kind was played in most of its requests.
    pub(super) fn is_played(&self) -> bool {
        self.lines.values().all(|line| line.as_meant * 10 >= line.requests * PLAYED_OF_TEN)
    }

    /// Whether the acknowledgements that must be known are, in all but one of a hundred.
    pub(super) fn is_acknowledged(&self) -> bool {
        let [all, known] = self.sums(|line| [line.acknowledges, line.acknowledged]);
        known * 100 >= all * ACKNOWLEDGED_OF_HUNDRED
    }

    /// Whether early answers are told as the documentation says, in nine of ten.
    pub(super) fn tells_early(&self) -> bool {
        let [all, told] = self.sums(|line| [line.early, line.early_told]);
        told * 100 >= all * TOLD_OF_HUNDRED
    }

    fn sums(&self, of: impl Fn(&Line) -> [u64; 2]) -> [u64; 2] {
        self.lines.values().map(of).fold([0, 0], |[all, some], [more, of_them]| [all + more, some + of_them])
    }

    pub(super) fn passed(&self) -> bool {
        let is_told = self.covers() && self.is_acknowledged() && self.tells_early();
        self.wrong() == 0 && self.strange == 0 && is_told && self.is_played()
    }
}

/// Judges all requests; the wall clock is so far ahead.
pub(super) fn judge(book: &Book, received: &Received, wall_ns: i64) -> Verdict {
    let mut verdict = Verdict { strange: received.strange, ..Verdict::default() };
    for id in book.ids() {
        let (stamps, seen) = (book.of(id), received.of(id));
        let line = verdict.lines.entry(stamps.kind).or_default();
        line.requests += 1;
        line.as_meant += u64::from(book.is_as_meant(id));
        count_told(book, id, &seen, wall_ns, line);
        let unexplained = line.unexplained.values().sum::<u64>();
        let fault = book.overlap(id).or_else(|| hold(&stamps, book.windows(id), &seen, wall_ns, line));
        if line.unexplained.values().sum::<u64>() > unexplained {
            line.first_unexplained.get_or_insert_with(|| (id, format!("{stamps:?}, {seen:?}")));
        }
        if let Some(fault) = fault {
            line.wrong += 1;
            let [before, after] = [stamps.before, stamps.after].map(|id| book.of(id));
            line.first.get_or_insert_with(|| (id, format!("{fault}; the one before: {before:?}, behind: {after:?}")));
        }
    }
    verdict
}

/// A point, wall clock.
struct Point {
    name: &'static str,
    at_us: u64,
    window: Window,
    /// Time passed before it, so that it is where it seems.
    is_exact: bool,
}

/// Holds a request's points against its windows; what is wrong.
fn hold(stamps: &Stamps, windows: Windows, seen: &Seen, wall_ns: i64, line: &mut Line) -> Option<String> {
    if seen.servers != 1 {
        return Some(format!("it has {} SERVER spans", seen.servers));
    }
    let attempts = if stamps.closing > 0 { 2 } else { 1 };
    if seen.attempts != attempts {
        return Some(format!("it has {} CLIENT spans instead of {attempts}; {stamps:?}, {seen:?}", seen.attempts));
    }
    if let Some(gap) = gap(seen) {
        return Some(format!("its phases are not the whole: {gap}; {seen:?}"));
    }
    count(stamps, seen, line);
    // Where the head's last byte has no mark, `client_send` is in it.
    let head_ns = if lacks_client(seen) { stamps.head_sending - stamps.first_sending } else { 0 };
    let unread = [("read_wait", stamps.up, head_ns), ("upstream_read_wait", stamps.down, 0)];
    let bounds = unread.into_iter().filter_map(|(phase, unread, more)| Some((phase, unread.most_ns()? + more)));
    for (phase, most_ns) in bounds {
        line.points += 1;
        let us = seen.phase(phase);
        if us * 1000 > most_ns + TOLERANCE_NS {
            return Some(format!("{phase} of {us} us, and bytes lay unread for {most_ns} ns; {stamps:?}, {seen:?}"));
        }
    }
    for Point { name, at_us, window: Window { from, to }, is_exact } in points(stamps, windows, seen) {
        *(if is_exact { &mut line.points } else { &mut line.on_neighbour }) += 1;
        let Some(at) = (at_us * 1000).checked_add_signed(-wall_ns) else {
            return Some(format!("{name}: at {at_us} us, before this machine was started; {seen:?}"));
        };
        if at + TOLERANCE_NS < from || (is_exact && at > to.saturating_add(TOLERANCE_NS)) {
            let (by, side) = if at < from { (from - at, "before") } else { (at - to, "after") };
            return Some(format!("{name}: {by} ns {side} its window; {stamps:?}; at {at}, {seen:?}"));
        }
    }
    None
}

/// Counts what must be told of nearly all, beside points and coverage.
fn count_told(book: &Book, id: Id, seen: &Seen, wall_ns: i64, line: &mut Line) {
    if book.is_acknowledged(id) {
        line.acknowledges += 1;
        line.acknowledged += u64::from(seen.acknowledged_us.is_some());
    }
    let stamps = book.of(id);
    let is_early = stamps.kind == Kind::Early && book.is_as_meant(id);
    if let Some(is_told) = is_early_told(&stamps, seen, wall_ns).filter(|_| is_early) {
        line.early += 1;
        line.early_told += u64::from(is_told);
        line.early_divided += u64::from(DIVIDED.iter().any(|phase| seen.phase(phase) > 0));
    }
}

/// Whether the backend's work before an early answer lies where it may, if there was any to speak of. From when it has heard what had
/// come until it answers the proxy waits for the client too: what is in no clock and not divided is not told.
fn is_early_told(stamps: &Stamps, seen: &Seen, wall_ns: i64) -> Option<bool> {
    let us = |at: u64| at.checked_add_signed(wall_ns).map_or(0, |ns| ns / 1000);
    let (from, to) = (us(stamps.heard), us(stamps.answering));
    let told = seen.stretches.iter().filter(|stretch| BEFORE_EARLY.contains(&stretch.name.as_str()));
    let told_us: u64 = told.map(|stretch| stretch.to_us.min(to).saturating_sub(stretch.from_us.max(from))).sum();
    let worked_us = to.saturating_sub(from);
    // A body's stretch may hide some of what is not.
    let is_told = told_us + TOLERANCE_NS / 1000 >= worked_us && seen.phase("upstream_wait") <= worked_us / 2;
    (worked_us >= WORKED_US).then_some(is_told)
}

/// Counts a coverage.
fn count(stamps: &Stamps, seen: &Seen, line: &mut Line) {
    let is_divided = DIVIDED.iter().any(|phase| seen.phase(phase) > 0) || seen.stretch("upstream_wait").is_none();
    if seen.coverage == FULL && (is_divided || stamps.answering == 0) {
        line.full += 1;
        return;
    }
    if seen.coverage == ACCEPT && !seen.reused {
        line.unaccepted += 1;
        return;
    }
    let may = |reason: &str| stamps.kind.may_lack().contains(&reason) || (reason == UNACCEPTED && !seen.reused);
    let is_explained = reasons(seen).is_some_and(|mut reasons| reasons.all(may));
    let told = if seen.coverage == FULL { "full, backend not found" } else { &seen.coverage };
    let counts = if is_explained { &mut line.hidden } else { &mut line.unexplained };
    *counts.entry(told.to_owned()).or_default() += 1;
}

/// Why its coverage is partial.
fn reasons(seen: &Seen) -> Option<impl Iterator<Item = &str>> {
    Some(seen.coverage.strip_prefix("partial: ")?.split(", "))
}

/// Whether marks of the client's side are missing.
fn lacks_client(seen: &Seen) -> bool {
    reasons(seen).is_some_and(|mut reasons| {
        reasons.any(|reason| reason.starts_with("client ") || reason == "no slot for the client connection")
    })
}

/// Where a span's phases are not all of its time, or its stretches do not lie end to end.
fn gap(seen: &Seen) -> Option<String> {
    let duration = seen.ended_us.checked_sub(seen.begun_us)?;
    let sum: u64 = seen.phases.values().sum();
    if sum != duration {
        return Some(format!("phases of {sum} us in {duration}"));
    }
    let mut at = seen.begun_us;
    for Stretch { name, from_us, to_us } in &seen.stretches {
        if *from_us != at {
            return Some(format!("{name} begins at {from_us}, and what is before it ends at {at}"));
        }
        at = *to_us;
    }
    (at != seen.ended_us).then(|| format!("it ends at {}, and its last stretch at {at}", seen.ended_us))
}

fn points(stamps: &Stamps, windows: Windows, seen: &Seen) -> Vec<Point> {
    let mut points = Vec::with_capacity(9);
    let mut add = |name, at_us, window, is_exact| points.push(Point { name, at_us, window, is_exact });
    let end_of = |name: &str| seen.stretch(name).map(|stretch| stretch.to_us);
    add("first byte readable", seen.begun_us, windows.first, true);
    if !lacks_client(seen) {
        // The only other point before it, the connection's accept, is in the window too, where it puts this one off.
        let at_us = end_of("client_send").or(end_of("accept_wait")).unwrap_or(seen.begun_us);
        add("head readable", at_us, windows.head, true);
    }
    if stamps.closing > 0 {
        add("sent again", end_of("retry_wait").unwrap_or(seen.begun_us), windows.attempt, true);
    }
    let is_answered = stamps.answering > 0;
    let unread = seen.stretch("upstream_read_wait").filter(|_| is_answered);
    let [out, pickup, app, back] = DIVIDED.map(|name| seen.stretch(name));
    let first_known = [out, pickup, app, back].into_iter().flatten().next();
    if let Some(first) = first_known {
        // Those whose phase took no time lie on their neighbour.
        let readable = out.map(|stretch| stretch.to_us);
        let read = pickup.map(|stretch| stretch.to_us);
        let sent = app.map(|stretch| stretch.to_us);
        if out.or(pickup).or(app).is_some() {
            add("readable at the backend", readable.unwrap_or(first.from_us), windows.backend, readable.is_some());
        }
        if pickup.or(app).is_some() {
            let at_us = read.or(readable).unwrap_or(first.from_us);
            add("read by the backend", at_us, windows.backend, read.is_some());
        }
        if is_answered && app.or(back).is_some() {
            let begins = back.map_or(first.from_us, |stretch| stretch.from_us);
            // What is not divided ends there.
            let is_behind_wait = sent.is_none() && ends_with(seen, "upstream_wait", begins);
            add("sent by the backend", sent.unwrap_or(begins), windows.sent, sent.is_some() || is_behind_wait);
        }
    }
    let last_known = [back, app, pickup, out].into_iter().flatten().next();
    if let Some(at_us) =
        unread.map(|stretch| stretch.from_us).or(last_known.filter(|_| is_answered).map(|last| last.to_us))
    {
        let is_exact = last_known.is_some() || ends_with(seen, "upstream_wait", at_us);
        add("answer readable", at_us, windows.answer, is_exact);
    }
    if let Some(unread) = unread {
        add("answer read", unread.to_us, windows.answer, true);
    }
    add("end", seen.ended_us, windows.end, true);
    if let Some(us) = seen.acknowledged_us {
        add("acknowledged", seen.ended_us + us, windows.acknowledged, true);
    }
    points
}

/// Whether a stretch of that name ends there.
fn ends_with(seen: &Seen, name: &str, at_us: u64) -> bool {
    seen.stretches.iter().any(|stretch| stretch.name == name && stretch.to_us == at_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microseconds that the wall clock is ahead.
    const WALL_US: u64 = 1_000_000;

    /// An upload whose every point lies in the middle of its window; microseconds times a thousand.
    fn stamps() -> Stamps {
        let mut stamps = Stamps {
            first_sending: 100,
            head_sending: 110,
            head_read: 130,
            asked: 130,
            heard: 220,
            last_sending: 200,
            whole_read: 220,
            answering: 240,
            answered: 250,
            ending: 240,
            received_first: 270,
            received: 300,
            ..Stamps::default()
        };
        stamps.up.add(110, 130);
        stamps.up.add(200, 220);
        stamps.down.add(240, 270);
        stamps
    }

    /// Every number in microseconds instead of nanoseconds.
    fn in_us(mut stamps: Stamps) -> Stamps {
        let Stamps { first_sending, head_sending, last_sending, head_read, closing, asked, whole_read, .. } =
            &mut stamps;
        for at in [first_sending, head_sending, last_sending, head_read, closing, asked, whole_read] {
            *at *= 1000;
        }
        let Stamps { heard, answering, answered, ending, received_first, received, leaving, .. } = &mut stamps;
        for at in [heard, answering, answered, ending, received_first, received, leaving] {
            *at *= 1000;
        }
        let [mut up, mut down] = [super::super::book::Unread::default(); 2];
        up.add(0, stamps.up.most_ns().unwrap() * 1000);
        down.add(0, stamps.down.most_ns().unwrap() * 1000);
        Stamps { up, down, ..stamps }
    }

    /// A span that begins at 105, of these stretches.
    fn seen(stretches: &[(&str, u64)]) -> Seen {
        let mut seen = Seen {
            servers: 1,
            attempts: 1,
            reused: true,
            begun_us: WALL_US + 105,
            coverage: FULL.to_owned(),
            ..Seen::default()
        };
        let mut at = seen.begun_us;
        for (name, us) in stretches {
            seen.stretches.push(Stretch { name: (*name).to_owned(), from_us: at, to_us: at + us });
            let phase = if *name == "body" { "proxy_response" } else { name };
            *seen.phases.entry(phase.to_owned()).or_default() += us;
            at += us;
        }
        seen.ended_us = at;
        seen
    }

    const WHOLE: [(&str, u64); 9] = [
        ("client_send", 10),        // 115: head readable
        ("read_wait", 5),           // 120
        ("upstream_write", 5),      // 125
        ("client_body", 77),        // 202: written
        ("upstream_path_out", 8),   // 210
        ("backend_pickup", 5),      // 215
        ("backend_app", 30),        // 245
        ("upstream_path_back", 10), // 255
        ("upstream_read_wait", 5),  // 260
    ];

    fn whole(change: impl FnOnce(&mut Vec<(&'static str, u64)>)) -> Seen {
        let mut stretches = [&WHOLE[..], &[("body", 30)]].concat();
        change(&mut stretches);
        seen(&stretches)
    }

    fn held(stamps: Stamps, seen: &Seen) -> (Line, Option<String>) {
        let mut book = Book::new(1);
        book.note(1, |page| *page = in_us(stamps));
        let mut line = Line::default();
        let wall_ns = i64::try_from(WALL_US * 1000).unwrap();
        let fault = book.overlap(1).or_else(|| hold(&book.of(1), book.windows(1), seen, wall_ns, &mut line));
        (line, fault)
    }

    #[test]
    fn a_request_whose_points_lie_in_their_windows_passes() {
        let (line, fault) = held(stamps(), &whole(|_| {}));
        assert_eq!(fault, None);
        // Eight points and two sums.
        assert_eq!((line.full, line.points, line.on_neighbour), (1, 10, 0));
    }

    #[test]
    fn a_point_outside_its_window_is_told_by_name() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Vec<(&'static str, u64)>), told: &str) {
            let (_, fault) = held(stamps(), &whole(change));
            let fault = fault.unwrap();
            assert!(fault.starts_with(told), "{fault}");
        }
        check(|stretches| stretches[0].1 = 2, "head readable: 3000 ns before");
        check(|stretches| stretches[0].1 = 40, "head readable: 15000 ns after");
        check(|stretches| stretches[3].1 = 60, "readable at the backend: 7000 ns before");
        check(|stretches| stretches[4].1 = 24, "readable at the backend: 6000 ns after");
        check(|stretches| stretches[5].1 = 15, "read by the backend: 5000 ns after");
        check(|stretches| stretches[6].1 = 15, "sent by the backend: 10000 ns before");
        check(|stretches| stretches[7].1 = 30, "answer readable: 5000 ns after");
        check(|stretches| stretches[8].1 = 20, "answer read: 5000 ns after");
        check(|stretches| stretches[1].1 = 50, "read_wait of 50 us, and bytes lay unread for 40000 ns");
        check(|stretches| stretches[8] = ("upstream_read_wait", 33), "upstream_read_wait of 33 us");
    }

    #[test]
    fn spans_that_are_not_one_whole_are_told() {
        let check = |change: fn(&mut Seen), told: &str| {
            let mut seen = whole(|_| {});
            change(&mut seen);
            let fault = held(stamps(), &seen).1.unwrap();
            assert!(fault.starts_with(told), "{fault}");
        };
        check(|seen| seen.servers = 2, "it has 2 SERVER spans");
        check(|seen| seen.servers = 0, "it has 0 SERVER spans");
        check(|seen| seen.attempts = 2, "it has 2 CLIENT spans instead of 1");
        check(|seen| *seen.phases.get_mut("read_wait").unwrap() += 1, "its phases are not the whole");
        check(|seen| seen.stretches[2].from_us += 1, "its phases are not the whole");
        check(
            |seen| {
                let last = seen.stretches.pop().unwrap();
                seen.phases.remove("proxy_response");
                seen.ended_us -= last.to_us - last.from_us + 30;
                seen.stretches.truncate(6);
                *seen.phases.get_mut("backend_app").unwrap() = 0;
            },
            "its phases are not the whole",
        );
    }

    #[test]
    fn an_acknowledgement_has_come_with_the_next_request() {
        let acknowledged = |us| {
            let mut book = Book::new(2);
            book.note(1, |page| *page = Stamps { after: 2, ..in_us(stamps()) });
            book.note(2, |page| (page.first_sending, page.head_read) = (310_000, 320_000));
            let seen = Seen { acknowledged_us: Some(us), ..whole(|_| {}) };
            let wall_ns = i64::try_from(WALL_US * 1000).unwrap();
            hold(&book.of(1), book.windows(1), &seen, wall_ns, &mut Line::default())
        };
        assert_eq!(acknowledged(30), None);
        assert!(acknowledged(40).unwrap().starts_with("acknowledged: 10000 ns after"));
    }

    #[test]
    fn what_was_sent_again_is_held_against_the_second_connection() {
        let stamps = Stamps { kind: Kind::Retried, closing: 150, asked: 220, last_sending: 110, ..stamps() };
        let again = |retry: u64| {
            let mut seen = whole(|stretches| stretches[3] = ("retry_wait", retry));
            seen.attempts = 2;
            held(stamps, &seen).1
        };
        assert_eq!(again(77), None);
        assert!(again(20).unwrap().starts_with("sent again: 5000 ns before"));
    }

    #[test]
    fn what_was_answered_early_or_given_up_has_fewer_points() {
        let early = Stamps { kind: Kind::Early, whole_read: 0, last_sending: 260, ..stamps() };
        let undivided = whole(|stretches| {
            stretches.drain(4..8);
            stretches[3] = ("client_body", 130);
        });
        let (line, fault) = held(early, &undivided);
        assert_eq!((fault, line.full, line.points), (None, 1, 6));
        let gone = Stamps {
            kind: Kind::Cancelled,
            answering: 0,
            answered: 0,
            ending: 0,
            received_first: 0,
            received: 0,
            leaving: 240,
            ..stamps()
        };
        let given_up = whole(|stretches| stretches.truncate(7));
        assert_eq!(held(gone, &given_up).1, None);
        let too_soon = whole(|stretches| {
            stretches.truncate(7);
            stretches[6].1 = 10;
        });
        assert!(held(gone, &too_soon).1.unwrap().starts_with("end: 15000 ns before"));
    }

    /// The verdict on requests with these stamps and spans.
    fn verdict(requests: &[(Stamps, Seen)]) -> Verdict {
        let mut verdict = Verdict::default();
        let wall_ns = i64::try_from(WALL_US * 1000).unwrap();
        for (stamps, seen) in requests {
            let mut book = Book::new(1);
            book.note(1, |page| *page = in_us(*stamps));
            let line = verdict.lines.entry(stamps.kind).or_default();
            line.requests += 1;
            line.as_meant += u64::from(book.is_as_meant(1));
            count_told(&book, 1, seen, wall_ns, line);
            count(&book.of(1), seen, line);
        }
        verdict
    }

    #[test]
    fn an_acknowledgement_may_be_missing_of_one_request_of_a_hundred() {
        let whole = |acknowledged: bool| Seen { acknowledged_us: acknowledged.then_some(9), ..whole(|_| {}) };
        let of = |known: usize, unknown: usize| {
            let requests = [vec![(stamps(), whole(true)); known], vec![(stamps(), whole(false)); unknown]].concat();
            let verdict = verdict(&requests);
            (verdict.is_acknowledged(), verdict.passed())
        };
        assert_eq!((of(99, 1), of(98, 2)), ((true, true), (false, false)));
        // Of a client that has gone nobody knows, nor behind an answer that ended the connection.
        let gone = Stamps { leaving: 290, ..stamps() };
        let over = Stamps { kind: Kind::Early, whole_read: 0, last_sending: 260, ..stamps() };
        assert!(verdict(&[(gone, whole(false)), (over, whole(false))]).is_acknowledged());
    }

    #[test]
    fn an_early_answer_that_is_neither_in_the_clock_nor_divided_is_not_told() {
        // Heard at 220, answered 1,000 later; the head was with the server at 125, and the answer readable at 1,235.
        let (answering, answered) = (1_220, 1_230);
        let (ending, received_first, received) = (1_220, 1_250, 1_280);
        let early = Stamps { kind: Kind::Early, whole_read: 0, last_sending: 1_240, ..stamps() };
        let early = Stamps { answering, answered, ending, received_first, received, ..early };
        #[track_caller]
        fn check(early: Stamps, stretches: &[(&'static str, u64)], told: bool) {
            let seen = whole(|all| {
                all.drain(3..8);
                for (at, stretch) in stretches.iter().enumerate() {
                    all.insert(3 + at, *stretch);
                }
            });
            assert_eq!(stretches.iter().map(|(_, us)| us).sum::<u64>(), 1_110);
            let verdict = verdict(&[(early, seen)]);
            assert_eq!((verdict.tells_early(), verdict.passed()), (told, told), "{stretches:?}: {verdict:?}");
        }
        check(early, &[("client_body", 1_110)], true);
        check(early, &[("upstream_drain", 30), ("client_body", 1_080)], true);
        let back = ("upstream_path_back", 7);
        check(early, &[("client_body", 77), ("backend_pickup", 16), ("backend_app", 1_010), back], true);
        check(early, &[("client_body", 77), ("upstream_wait", 1_033)], false);
        check(early, &[("upstream_wait", 1_110)], false);
        check(early, &[("client_body", 77), ("backend_pickup", 1_026), back], false);
        // A body's stretch hides it, and the span's sum does not.
        let mut seen = whole(|all| {
            all.drain(3..8);
            all.insert(3, ("body", 1_110));
        });
        assert!(verdict(&[(early, seen.clone())]).tells_early());
        seen.phases.insert("upstream_wait".to_owned(), 501);
        assert!(!verdict(&[(early, seen)]).tells_early());
        // What was answered at once tells nothing of it.
        let at_once = Stamps { heard: 1_210, ..early };
        let seen = whole(|all| {
            all.drain(3..8);
            all.insert(3, ("upstream_wait", 1_110));
        });
        assert_eq!(verdict(&[(at_once, seen)]).lines[&Kind::Early].early, 0);
    }

    #[test]
    fn an_early_answer_with_a_wait_that_is_not_divided_is_not_full() {
        let early = Stamps { kind: Kind::Early, whole_read: 0, last_sending: 260, ..stamps() };
        let undivided = whole(|stretches| {
            stretches.drain(4..8);
            stretches[3] = ("upstream_wait", 130);
        });
        let verdict = verdict(&[(early, undivided)]);
        let line = &verdict.lines[&Kind::Early];
        assert_eq!((line.full, verdict.covers()), (0, false), "{line:?}");
    }

    #[test]
    fn coverage_is_what_was_stated_beforehand_or_not() {
        let told = |kind: Kind, coverage: &str, reused: bool| {
            let seen = Seen { coverage: coverage.to_owned(), reused, ..whole(|_| {}) };
            let mut line = Line::default();
            count(&Stamps { kind, ..stamps() }, &seen, &mut line);
            [line.full, line.unaccepted, line.hidden.len() as u64, line.unexplained.len() as u64]
        };
        let overwritten = "partial: client marks overwritten";
        assert_eq!(told(Kind::Upload, FULL, true), [1, 0, 0, 0]);
        assert_eq!(told(Kind::Upload, ACCEPT, false), [0, 1, 0, 0]);
        assert_eq!(told(Kind::Upload, ACCEPT, true), [0, 0, 0, 1], "it was accepted long ago");
        assert_eq!(told(Kind::Upload, overwritten, true), [0, 0, 0, 1]);
        assert_eq!(told(Kind::Burst, overwritten, true), [0, 0, 1, 0]);
        assert_eq!(told(Kind::Burst, "partial: client marks overwritten, accept not visible", false), [0, 0, 1, 0]);
        assert_eq!(told(Kind::Burst, "partial: client marks overwritten, client bytes unseen", true), [0, 0, 0, 1]);
        assert_eq!(told(Kind::Early, "none: probes off", true), [0, 0, 0, 1]);
        let line = |unexplained| Line {
            requests: 1_000,
            unexplained: [("partial: x".to_owned(), unexplained)].into(),
            ..Line::default()
        };
        for (unexplained, covers) in [(1, true), (2, false)] {
            let verdict = Verdict { lines: [(Kind::Upload, line(unexplained))].into(), strange: 0 };
            assert_eq!(verdict.covers(), covers);
        }
        for (as_meant, played) in [(700, true), (699, false)] {
            let verdict = Verdict { lines: [(Kind::Early, Line { as_meant, ..line(0) })].into(), strange: 0 };
            assert_eq!((verdict.is_played(), verdict.passed()), (played, played));
        }
    }
}
