//! Compares what the agent said with what was done: pure. A delay is named right where its place holds it; a larger one
//! elsewhere, which nobody injected, is the machine's, and is counted apart.

use serde::Serialize;

use super::ledger::{Done, Truth};
use super::otlp::Span;
use super::plan::{Agent, BLAMES, Coverage, Injection, Place, Row, blame_of};

/// What is judged: shorter delays are none that was promised to be found.
const DELAY_MIN_NS: u64 = 1_000_000;
/// The target: an error of so much, or of a hundredth.
const TOLERANCE_NS: u64 = 100_000;
/// Of a thousand requests so many may have another coverage than the row expects.
const COVERAGE_MISSES_PER_THOUSAND: u64 = 1;
/// Of a hundred disturbed requests one may lack its count, and one of fewer: on a busy machine the kernel's tracepoint leaves out
/// a repetition in about a thousand, which its own counter (`RetransSegs`) has.
const UNCOUNTED_OF: u64 = 100;
/// Of fifty disturbed requests one may be outweighed by what nobody injected.
const OUTWEIGHED_OF: u64 = 50;
/// Of twenty requests one may say that a run of a probe was left out: it says so of all that are under way then.
const SKIPPED_OF: u64 = 20;
/// An undisturbed request's phase may be twice as long as is usual, and so much longer: in whichever phase.
const STRAY_NS: u64 = 2_000_000;
/// Of a hundred undisturbed requests one may show more than that elsewhere than in the row's place: a machine has its own delays.
const STRAYS_OF: u64 = 100;
/// Faults told in words.
const EXAMPLES_MAX: usize = 3;

/// A request, as the injectors and the agent saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct Case {
    pub(super) id: u64,
    /// By injection.
    pub(super) done: Vec<Done>,
    /// Meanwhile the agent's workers ran or waited for a core for so long, less what was meant.
    pub(super) noise_ns: u64,
    /// Of that, what the machine stood still.
    pub(super) stood_ns: u64,
    /// A relay had it, or who is behind it, for so long.
    pub(super) away_ns: u64,
    /// By injection, of a machine that may be late itself: for how long its place can have lasted by what whoever injects has seen.
    pub(super) seen_ns: Vec<u64>,
    /// Exactly one is right.
    pub(super) spans: Vec<Span>,
}

/// What became of a row.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) injected: String,
    pub(super) expected: String,
    pub(super) expected_coverage: String,
    pub(super) requests: u64,
    pub(super) disturbed: u64,
    pub(super) named_right: u64,
    /// Of those named right: something that nobody injected took longer still.
    pub(super) outweighed: u64,
    /// Right, or undisturbed, only because the kernel says that the agent was busy or without a core meanwhile.
    pub(super) excused: u64,
    /// Of those named right: what happened was not counted.
    pub(super) uncounted: u64,
    /// Of the disturbed, those with an error of at most max(1 %, 100 us).
    pub(super) within_tolerance: u64,
    pub(super) delay_p50_us: u64,
    /// What the places take by themselves: the median of the undisturbed. So much longer is no error.
    pub(super) by_itself_us: u64,
    /// What the injector cannot know of a delay: so much less than the truth is no error.
    pub(super) unknown_us: u64,
    /// Whether there is a place that can be off.
    pub(super) has_error: bool,
    pub(super) error_p50_us: u64,
    pub(super) error_p99_us: u64,
    pub(super) undisturbed: u64,
    pub(super) stayed_undisturbed: u64,
    /// Of those that did: another phase than the row's was unusually long.
    pub(super) strays: u64,
    pub(super) coverage_right: u64,
    /// Of those, the ones whose backend had perhaps not accepted its connection yet: all is known but that.
    pub(super) unaccepted: u64,
    /// Requests that were under way, or about to be, when the kernel left out a run of a probe, whosever that was: all else is known.
    pub(super) skipped: u64,
    /// Requests that clients say failed, or that have no span or several.
    pub(super) faults: u64,
    pub(super) seconds: f64,
    /// Some of what is wrong, in words.
    pub(super) examples: Vec<String>,
    pub(super) passed: bool,
}

/// The injections of a row that show in one place.
struct Group {
    place: Place,
    injections: Vec<usize>,
    /// What it takes by itself, beyond what injectors have measured.
    by_itself_ns: u64,
    /// Half of the smallest delay: what an undisturbed request may not show.
    half_ns: u64,
}

/// Judges a row; `faults` are requests that failed for their clients, in words.
pub(super) fn judge(row: &Row, cases: &[Case], faults: Vec<String>) -> Line {
    let groups = groups(row);
    let mut line = Line {
        name: row.name.clone(),
        injected: row.injected.to_owned(),
        expected: groups.iter().map(|group| place_text(group.place)).collect::<Vec<_>>().join(" + "),
        expected_coverage: coverage_text(row.coverage).to_owned(),
        requests: u64::try_from(cases.len()).unwrap_or(0),
        unknown_us: row.shape.unknown_us,
        faults: u64::try_from(faults.len()).unwrap_or(0),
        examples: faults,
        ..Line::default()
    };
    let (mut errors, mut delays) = (Vec::new(), Vec::new());
    let mut groups = groups;
    for group in &mut groups {
        group.by_itself_ns = by_itself(row, group, cases);
    }
    let quiet_ns = quiet(row, &groups, cases);
    let usual = usual(row, &groups, cases);
    line.by_itself_us = groups.iter().map(|group| group.by_itself_ns).max().unwrap_or(0) / 1000;
    for case in cases {
        let [span] = case.spans.as_slice() else {
            line.faults += 1;
            line.examples.push(format!("request {}: {} spans", case.id, case.spans.len()));
            continue;
        };
        if covered(row.coverage, case, span) {
            line.coverage_right += 1;
            line.unaccepted += u64::from(span.coverage == UNACCEPTED);
        } else if span.coverage == SKIPPED {
            line.skipped += 1;
        } else {
            line.examples.push(format!("request {}: coverage {:?}", case.id, span.coverage));
        }
        let stray = stray(row, &groups, case, span, &usual);
        judge_case(row, &groups, case, span, quiet_ns, stray, &mut line, &mut errors, &mut delays);
    }
    errors.sort_unstable();
    delays.sort_unstable();
    line.delay_p50_us = percentile(&delays, 50) / 1000;
    line.has_error = !errors.is_empty();
    line.error_p50_us = percentile(&errors, 50) / 1000;
    line.error_p99_us = percentile(&errors, 99) / 1000;
    line.passed = line.faults == 0
        && line.disturbed > 0
        && line.named_right == line.disturbed
        && line.uncounted <= line.disturbed.div_ceil(UNCOUNTED_OF)
        && line.outweighed <= line.disturbed.div_ceil(OUTWEIGHED_OF)
        && line.stayed_undisturbed == line.undisturbed
        && line.strays <= line.undisturbed.div_ceil(STRAYS_OF)
        && (line.requests - line.coverage_right - line.skipped) * 1000 <= line.requests * COVERAGE_MISSES_PER_THOUSAND
        && line.skipped <= line.requests.div_ceil(SKIPPED_OF);
    line.examples.truncate(EXAMPLES_MAX);
    line
}

#[expect(clippy::too_many_arguments, reason = "three of them are what it adds to")]
fn judge_case(
    row: &Row,
    groups: &[Group],
    case: &Case,
    span: &Span,
    quiet_ns: Option<u64>,
    stray: bool,
    line: &mut Line,
    errors: &mut Vec<u64>,
    delays: &mut Vec<u64>,
) {
    let mut seen = Seen { right: true, stayed: true, within: true, ..Seen::default() };
    let mut blames: Vec<(&str, u64)> = Vec::new();
    for group in groups {
        let (hit, truth) = group.truth(row, case);
        if let Some(blame) = only_blame(group.place) {
            match blames.iter_mut().find(|(name, _)| *name == blame) {
                Some((_, sum)) => *sum += truth.least_ns,
                None => blames.push((blame, truth.least_ns)),
            }
        }
        if hit && truth.least_ns < DELAY_MIN_NS {
            seen.short = true;
        } else if hit {
            delays.push(truth.least_ns);
            let unusual_ns = quiet_ns.map_or(case.stood_ns, |quiet_ns| case.noise_ns.saturating_sub(quiet_ns));
            // A machine that may be late itself lengthens what it likes: there a place holds the delay, or not.
            let most_ns = if case.seen_ns.is_empty() { 0 } else { u64::MAX };
            errors.extend(seen.disturbed(group, truth, span, case.noise_ns, unusual_ns, most_ns));
        } else {
            seen.undisturbed(group, truth, span, case.noise_ns, group.seen_ns(case));
        }
    }
    let largest = blames.iter().max_by_key(|(_, ns)| *ns).map(|(blame, _)| *blame);
    seen.right &= span.blame == largest_blame(span);
    line.excused += u64::from(seen.excused && seen.right && seen.stayed);
    if seen.hit {
        line.disturbed += 1;
        line.named_right += u64::from(seen.right);
        line.within_tolerance += u64::from(seen.right && seen.within);
        line.uncounted += u64::from(seen.right && seen.uncounted);
        line.outweighed += u64::from(seen.right && largest.is_some_and(|blame| span.blame != blame));
    } else if !seen.short {
        line.undisturbed += 1;
        line.stayed_undisturbed += u64::from(seen.stayed);
        line.strays += u64::from(seen.stayed && stray);
    }
    if !(seen.right && seen.stayed) || seen.uncounted || stray {
        line.examples.push(told(row, groups, case, span));
    }
}

/// What is to be said of one request.
#[derive(Default)]
struct Seen {
    hit: bool,
    /// Something was injected that is too short to be judged.
    short: bool,
    right: bool,
    stayed: bool,
    within: bool,
    excused: bool,
    uncounted: bool,
}

impl Seen {
    /// A place that was hit; how far off it is, where it can be.
    fn disturbed(
        &mut self,
        group: &Group,
        truth: Truth,
        span: &Span,
        noise_ns: u64,
        unusual_ns: u64,
        most_ns: u64,
    ) -> Option<u64> {
        self.hit = true;
        let value_ns = value_us(group.place, span) * 1000;
        if let Place::Nowhere(_) = group.place {
            self.right &= value_ns < group.half_ns + noise_ns;
            self.excused |= value_ns >= group.half_ns;
            return None;
        }
        if let Place::Not(_) = group.place {
            self.right &= value_ns < group.half_ns + noise_ns;
            return None;
        }
        if let Place::Count(_) = group.place {
            self.uncounted |= value_ns == 0;
            return None;
        }
        let tolerance_ns = (truth.least_ns / 100).max(TOLERANCE_NS * truth.stretches.max(1));
        let more_ns = value_ns.saturating_sub(truth.most_ns).saturating_sub(group.by_itself_ns);
        let error_ns = (truth.least_ns.saturating_sub(value_ns) + more_ns).saturating_sub(unusual_ns);
        self.within &= error_ns <= tolerance_ns;
        self.right &= value_ns + tolerance_ns + noise_ns >= truth.least_ns;
        self.right &= more_ns <= group.half_ns + noise_ns || value_ns <= most_ns;
        self.excused |= value_ns + tolerance_ns < truth.least_ns;
        Some(error_ns)
    }

    /// A place that was not. As long as the injectors have seen it last, on a machine that is late, it may be.
    fn undisturbed(&mut self, group: &Group, truth: Truth, span: &Span, noise_ns: u64, seen_ns: u64) {
        let value_ns = value_us(group.place, span) * 1000;
        match group.place {
            Place::Nowhere(_) | Place::Not(_) => return,
            Place::Count(_) => return self.stayed &= value_ns == 0,
            Place::Phase(_) | Place::Phases(_) | Place::Attribute(_) => {}
        }
        let most_ns = truth.most_ns + group.half_ns;
        self.stayed &= value_ns < most_ns + noise_ns || value_ns <= seen_ns;
        self.excused |= value_ns >= most_ns;
    }
}

/// What each phase takes of an undisturbed request: the median.
fn usual(row: &Row, groups: &[Group], cases: &[Case]) -> Vec<u64> {
    let untouched = cases.iter().filter(|case| groups.iter().all(|group| !group.truth(row, case).0));
    let spans: Vec<&Span> = untouched.filter_map(|case| case.spans.first()).collect();
    let median = |(phase, _): &(&str, &str)| {
        let mut all: Vec<u64> = spans.iter().map(|span| span.phase(phase) * 1000).collect();
        all.sort_unstable();
        percentile(&all, 50)
    };
    BLAMES.iter().map(median).collect()
}

/// Whether a request that nothing was done to shows a delay in a phase other than the row's.
fn stray(row: &Row, groups: &[Group], case: &Case, span: &Span, usual: &[u64]) -> bool {
    // A machine that may be late itself is so in any phase.
    let untouched = case.seen_ns.is_empty() && groups.iter().all(|group| !group.truth(row, case).0);
    let other = |phase: &str| groups.iter().all(|group| !group.place.has(phase));
    untouched
        && BLAMES.iter().zip(usual).any(|((phase, _), usual_ns)| {
            other(phase) && span.phase(phase) * 1000 > 2 * usual_ns + STRAY_NS + case.noise_ns
        })
}

/// A request in words: what was done, and what its span says.
fn told(row: &Row, groups: &[Group], case: &Case, span: &Span) -> String {
    let mut phases: Vec<_> = span.phases().filter(|(_, us)| *us >= 100).collect();
    phases.sort_by_key(|(_, us)| std::cmp::Reverse(*us));
    let injected = groups.iter().map(|group| {
        let (hit, truth) = group.truth(row, case);
        let by_itself = if hit { "" } else { "by itself " };
        format!("{by_itself}{} us, found {}", truth.least_ns / 1000, value_us(group.place, span))
    });
    let injected: Vec<_> = injected.collect();
    format!(
        "request {}: {}; {} us busy; blame {}, {phases:?}",
        case.id,
        injected.join("; "),
        case.noise_ns / 1000,
        span.blame
    )
}

impl Group {
    /// What was done to a request in this place, and whether on purpose.
    fn truth(&self, row: &Row, case: &Case) -> (bool, Truth) {
        let (mut hit, mut sum) = (false, Truth::default());
        for done in self.injections.iter().filter_map(|index| case.done.get(*index)) {
            let truth = done.truth();
            hit |= done.disturbed;
            sum.least_ns += truth.least_ns;
            sum.most_ns += truth.most_ns;
            sum.stretches += truth.stretches;
        }
        // All of it is the place's where nothing divides the wait: the way there and back, and what waking up took whoever was there.
        if row.agent == Agent::Elsewhere && self.place == Place::Phase("upstream_wait") {
            sum.most_ns = sum.most_ns.max(case.away_ns);
        }
        let hidden_ns = if row.shape.streamed { case.noise_ns } else { 0 };
        sum.least_ns = sum.least_ns.saturating_sub(row.shape.unknown_us * 1000 + hidden_ns);
        (hit, sum)
    }

    /// How long this place can have lasted by what the injectors have seen.
    fn seen_ns(&self, case: &Case) -> u64 {
        self.injections.iter().filter_map(|index| case.seen_ns.get(*index)).max().copied().unwrap_or(0)
    }
}

fn groups(row: &Row) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let places = |(index, injection): (usize, &Injection)| {
        let half_ns = injection.delay_us.0 * 1000 / 2;
        injection.places.clone().into_iter().map(move |place| (index, place, half_ns))
    };
    for (index, place, half_ns) in row.injections.iter().enumerate().flat_map(places) {
        match groups.iter_mut().find(|group| group.place == place) {
            Some(group) => {
                group.injections.push(index);
                group.half_ns = group.half_ns.min(half_ns);
            }
            None => groups.push(Group { place, injections: vec![index], by_itself_ns: 0, half_ns }),
        }
    }
    groups
}

/// The median of what the undisturbed show in a place beyond what injectors have measured there.
fn by_itself(row: &Row, group: &Group, cases: &[Case]) -> u64 {
    let own = cases.iter().filter_map(|case| {
        let [span] = case.spans.as_slice() else { return None };
        let (hit, truth) = group.truth(row, case);
        let moved = row.shape.moved.iter().map(|name| span.phase(name) + span.number(name));
        let moved: u64 = moved.sum();
        (!hit).then(|| ((value_us(group.place, span) + moved) * 1000).saturating_sub(truth.most_ns))
    });
    let mut own: Vec<u64> = own.collect();
    own.sort_unstable();
    if matches!(group.place, Place::Phase(_) | Place::Phases(_) | Place::Attribute(_)) {
        percentile(&own, 50)
    } else {
        0
    }
}

/// How long the agent works on a request that nothing was done to, where one request is under way at a time: then what it takes
/// beyond that is the machine's. Else the account is that of several requests.
fn quiet(row: &Row, groups: &[Group], cases: &[Case]) -> Option<u64> {
    let untouched = |case: &&Case| groups.iter().all(|group| !group.truth(row, case).0);
    let mut noise: Vec<u64> = cases.iter().filter(untouched).map(|case| case.noise_ns).collect();
    noise.sort_unstable();
    (row.shape.lanes == 1 && !noise.is_empty()).then(|| percentile(&noise, 50))
}

/// Microseconds that a span shows in a place. Nowhere is any phase: its largest.
fn value_us(place: Place, span: &Span) -> u64 {
    match place {
        Place::Phase(name) => span.phase(name),
        Place::Phases(names) | Place::Not(names) => names.iter().map(|name| span.phase(name)).sum(),
        Place::Attribute(name) | Place::Count(name) => span.number(name),
        Place::Nowhere(_) => span.phases().map(|(_, us)| us).max().unwrap_or(0),
    }
}

fn only_blame(place: Place) -> Option<&'static str> {
    match place {
        Place::Phase(name) => blame_of(name),
        _ => None,
    }
}

/// The group with the largest share by the span's own phases; of equals any that the span names.
fn largest_blame(span: &Span) -> &str {
    let sum = |blame: &str| -> u64 {
        let phases = BLAMES.iter().filter(|(_, group)| *group == blame);
        phases.map(|(phase, _)| span.phase(phase)).sum()
    };
    let most = BLAMES.iter().map(|(_, blame)| sum(blame)).max().unwrap_or(0);
    if sum(&span.blame) == most {
        return &span.blame;
    }
    BLAMES.iter().find(|(_, blame)| sum(blame) == most).map_or("", |(_, blame)| blame)
}

const UNACCEPTED: &str = "partial: accept not visible";
const SKIPPED: &str = "partial: probe skipped";
/// The same beside `full`.
const ACCEPT_UNSEEN: &str = "accept not visible";

impl Line {
    /// The coverage of the requests, in words. That an accept is not visible is lawful on new connections, and told apart.
    pub(super) fn coverage(&self) -> String {
        let Self { coverage_right: right, requests, unaccepted, expected_coverage, .. } = self;
        let full = right - unaccepted;
        let skipped = if self.skipped == 0 { String::new() } else { format!(", {} probe skipped", self.skipped) };
        let told = match (*unaccepted, full) {
            (0, _) if expected_coverage == UNACCEPTED => format!("{right}/{requests} full"),
            (0, _) => format!("{right}/{requests} {expected_coverage}"),
            (_, 0) => format!("{right}/{requests} {ACCEPT_UNSEEN}"),
            (unaccepted, full) => format!("{right}/{requests}: {full} full, {unaccepted} {ACCEPT_UNSEEN}"),
        };
        told + &skipped
    }
}

/// Whether coverage is as expected.
fn covered(expected: Coverage, case: &Case, span: &Span) -> bool {
    // A connection that was accepted before its request came was not accepted late.
    let delayed = |ns| case.done.iter().any(|done| done.disturbed && done.truth().least_ns >= ns);
    let disturbed = delayed(TOLERANCE_NS);
    match expected {
        Coverage::Text(text) => span.coverage == text,
        // A stamp is doubted from 100 us on, by the agent's clock readings and not by the injector's.
        Coverage::Texts(usual, of_disturbed) => {
            span.coverage == of_disturbed || (!delayed(2 * TOLERANCE_NS) && span.coverage == usual)
        }
        Coverage::Unaccepted if disturbed => span.coverage == UNACCEPTED,
        Coverage::Full | Coverage::Unaccepted => {
            span.coverage == "full" || (span.connected() && span.coverage == UNACCEPTED)
        }
    }
}

fn coverage_text(expected: Coverage) -> &'static str {
    match expected {
        Coverage::Full => "full",
        Coverage::Unaccepted => UNACCEPTED,
        Coverage::Text(text) | Coverage::Texts(text, _) => text,
    }
}

/// A place in words.
pub(super) fn place_text(place: Place) -> String {
    match place {
        Place::Phase(name) | Place::Attribute(name) | Place::Count(name) => name.to_owned(),
        Place::Phases(names) => names.join(", "),
        Place::Nowhere(reason) => format!("not observable: {reason}"),
        Place::Not(names) => format!("not {}", names.join(", ")),
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * percent).div_ceil(100)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::super::otlp::Attempt;
    use super::super::plan::{How, Shape};
    use super::*;

    fn row() -> Row {
        let injection = Injection {
            how: How::BackendCode,
            delay_us: (2_000, 9_000),
            places: vec![Place::Phase("upstream_wait")],
            share: 50,
        };
        Row {
            name: "backend".to_owned(),
            injected: "",
            agent: Agent::Watching,
            shape: Shape::SMALL,
            injections: vec![injection],
            coverage: Coverage::Full,
            percent: 100,
        }
    }

    fn span(phases: &[(&str, u64)], blame: &str, coverage: &str) -> Span {
        let numbers = phases.iter().map(|(name, us)| (format!("wayspan.phase.{name}"), *us)).collect();
        Span { coverage: coverage.to_owned(), blame: blame.to_owned(), numbers, ..Span::default() }
    }

    fn case(disturbed: bool, delay_us: u64, spans: Vec<Span>) -> Case {
        let ledger = Ledger::default();
        ledger.add(1, 0, disturbed, 5_000, 5_000 + delay_us * 1000);
        Case { id: 1, done: vec![ledger.of(1, 0)], spans, ..Case::default() }
    }

    /// What stands in the line: disturbed, named right, outweighed, within tolerance, undisturbed, stayed; passed.
    #[track_caller]
    fn check(cases: &[Case], expected: [u64; 6], passed: bool) {
        let line = judge(&row(), cases, Vec::new());
        let got = [
            line.disturbed,
            line.named_right,
            line.outweighed,
            line.within_tolerance,
            line.undisturbed,
            line.stayed_undisturbed,
        ];
        assert_eq!((got, line.passed), (expected, passed), "{:?}", line.examples);
    }

    #[test]
    fn a_delay_in_its_place_is_named_right() {
        let right = || span(&[("upstream_wait", 5_050), ("read_wait", 20)], "upstream", "full");
        let idle = || span(&[("upstream_wait", 90)], "upstream", "full");
        check(&[case(true, 5_000, vec![right()]), case(false, 10, vec![idle()])], [1, 1, 0, 1, 1, 1], true);
        check(&[case(false, 10, vec![idle()])], [0, 0, 0, 0, 1, 1], false);
    }

    #[test]
    fn a_delay_in_another_place_or_too_small_is_not() {
        let elsewhere = span(&[("upstream_wait", 90), ("read_wait", 5_000)], "proxy_queue", "full");
        check(&[case(true, 5_000, vec![elsewhere])], [1, 0, 0, 0, 0, 0], false);
        let short = span(&[("upstream_wait", 4_899)], "upstream", "full");
        check(&[case(true, 5_000, vec![short])], [1, 0, 0, 0, 0, 0], false);
        let lying = span(&[("upstream_wait", 5_000), ("read_wait", 20)], "proxy_queue", "full");
        check(&[case(true, 5_000, vec![lying])], [1, 0, 0, 0, 0, 0], false);
    }

    #[test]
    fn a_larger_delay_of_the_machine_outweighs_and_a_late_one_is_out_of_tolerance() {
        let noise = span(&[("upstream_wait", 5_050), ("read_wait", 8_000)], "proxy_queue", "full");
        check(&[case(true, 5_000, vec![noise])], [1, 1, 1, 1, 0, 0], true);
        let late = span(&[("upstream_wait", 5_200)], "upstream", "full");
        check(&[case(true, 5_000, vec![late])], [1, 1, 0, 0, 0, 0], true);
    }

    #[test]
    fn what_a_place_takes_by_itself_is_no_error_and_a_short_delay_is_not_judged() {
        let waited = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let idle = || case(false, 10, waited(310));
        let line = judge(&row(), &[case(true, 5_000, waited(5_390)), idle(), idle()], Vec::new());
        assert_eq!((line.by_itself_us, line.error_p99_us, line.within_tolerance), (300, 90, 1));
        let line = judge(&row(), &[case(true, 5_000, waited(4_950)), idle(), idle()], Vec::new());
        assert_eq!((line.error_p99_us, line.within_tolerance), (50, 1));
        check(&[case(true, 999, waited(5))], [0, 0, 0, 0, 0, 0], false);
    }

    #[test]
    fn where_nothing_divides_the_wait_all_that_a_request_was_away_is_known() {
        let waited = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let away = |us: u64, case: Case| Case { away_ns: us * 1000, ..case };
        let cases = || [away(5_400, case(true, 5_000, waited(5_480))), away(40, case(false, 0, waited(90)))];
        let row = Row { agent: Agent::Elsewhere, ..row() };
        let line = judge(&row, &cases(), Vec::new());
        assert_eq!((line.by_itself_us, line.error_p99_us, line.passed), (50, 30, true));
        let line = judge(&Row { agent: Agent::Watching, ..row }, &cases(), Vec::new());
        assert_eq!((line.by_itself_us, line.error_p99_us), (90, 390), "a divided wait has places for the rest");
    }

    #[test]
    fn what_the_machine_stood_still_is_excused_also_where_several_requests_run() {
        let waited = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let stood = |us: u64, case: Case| Case { noise_ns: us * 1000, stood_ns: us * 1000, ..case };
        let mut row = row();
        row.shape.lanes = 4;
        let idle = || case(false, 10, waited(10));
        let line = judge(&row, &[stood(9_000, case(true, 5_000, waited(14_000))), idle(), idle()], Vec::new());
        assert_eq!((line.passed, line.within_tolerance), (true, 1));
        let line = judge(&row, &[case(true, 5_000, waited(14_000)), idle(), idle()], Vec::new());
        assert!(!line.passed);
    }

    #[test]
    fn what_kept_the_agent_busy_is_excused_and_no_more() {
        let noisy = |noise_ns| {
            let spans = vec![span(&[("upstream_wait", 4_000), ("read_wait", 900)], "upstream", "full")];
            Case { noise_ns, ..case(true, 5_000, spans) }
        };
        check(&[noisy(900_000)], [1, 1, 0, 0, 0, 0], true);
        check(&[noisy(899_000)], [1, 0, 0, 0, 0, 0], false);
        assert_eq!(judge(&row(), &[noisy(900_000)], Vec::new()).excused, 1);
    }

    #[test]
    fn what_the_machine_took_beyond_the_usual_is_no_error_where_one_request_runs_at_a_time() {
        let waited = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let case = |hit, us, noise_us: u64| Case { noise_ns: noise_us * 1000, ..case(hit, 5_000, waited(us)) };
        let error = |lanes, noise_us| {
            let mut row = row();
            row.shape.lanes = lanes;
            let cases = [case(true, 5_700, noise_us), case(false, 10, 80), case(false, 10, 80)];
            judge(&row, &cases, Vec::new()).error_p99_us
        };
        assert_eq!((error(1, 80), error(1, 580), error(1, 900)), (700, 200, 0));
        assert_eq!(error(4, 900), 700);
    }

    #[test]
    fn what_is_delayed_while_the_agent_works_on_earlier_parts_may_hide_so_much() {
        let waited = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let case = |us| Case { noise_ns: 400_000, ..case(true, 5_000, waited(us)) };
        let line = |streamed, us| {
            let mut row = row();
            (row.shape.streamed, row.shape.lanes) = (streamed, 4);
            judge(&row, &[case(us)], Vec::new()).error_p99_us
        };
        assert_eq!((line(false, 4_500), line(true, 4_500), line(true, 4_600)), (500, 100, 0));
    }

    #[test]
    fn an_undisturbed_request_with_the_delay_and_a_wrong_coverage_fail_the_row() {
        let right = || case(true, 5_000, vec![span(&[("upstream_wait", 5_050)], "upstream", "full")]);
        let blamed = case(false, 10, vec![span(&[("upstream_wait", 1_100)], "upstream", "full")]);
        check(&[right(), blamed], [1, 1, 0, 1, 1, 0], false);
        let partial = case(false, 10, vec![span(&[("upstream_wait", 10)], "upstream", "partial: x")]);
        check(&[right(), partial], [1, 1, 0, 1, 1, 1], false);
        check(&[right(), case(false, 10, vec![])], [1, 1, 0, 1, 0, 0], false);
    }

    #[test]
    fn more_than_was_done_is_wrong_and_so_is_a_delay_of_an_undisturbed_request_in_any_phase() {
        let told = |us| vec![span(&[("upstream_wait", us)], "upstream", "full")];
        let elsewhere = |us| vec![span(&[("upstream_wait", 20), ("client_send", us)], "client", "full")];
        let usual = || case(false, 10, elsewhere(30));
        // Half of the smallest delay, 1 ms, may be too much.
        check(&[case(true, 5_000, told(5_900)), usual()], [1, 1, 0, 0, 1, 1], true);
        check(&[case(true, 5_000, told(6_200)), usual()], [1, 0, 0, 0, 1, 1], false);
        let right = || case(true, 5_000, told(5_050));
        check(&[right(), usual(), usual(), case(false, 10, elsewhere(2_000))], [1, 1, 0, 1, 3, 3], true);
        let stray = || case(false, 10, elsewhere(2_100));
        check(&[right(), usual(), usual(), usual(), stray()], [1, 1, 0, 1, 4, 4], true);
        check(&[right(), usual(), usual(), usual(), stray(), stray()], [1, 1, 0, 1, 5, 5], false);
    }

    #[test]
    fn a_late_machines_undisturbed_request_is_laid_to_a_fault_beyond_what_was_seen_of_it() {
        let right = || case(true, 5_000, vec![span(&[("upstream_wait", 5_050)], "upstream", "full")]);
        let late = |us, seen_us: &[u64]| {
            let spans = vec![span(&[("upstream_wait", us)], "upstream", "full")];
            Case { seen_ns: seen_us.iter().map(|us| us * 1000).collect(), ..case(false, 10, spans) }
        };
        check(&[right(), late(85_000, &[85_000])], [1, 1, 0, 1, 1, 1], true);
        check(&[right(), late(85_000, &[84_999])], [1, 1, 0, 1, 1, 0], false);
        check(&[right(), late(85_000, &[])], [1, 1, 0, 1, 1, 0], false);
        assert_eq!(judge(&row(), &[right(), late(85_000, &[85_000])], Vec::new()).excused, 1, "and that is told");
    }

    #[test]
    fn a_run_that_was_left_out_may_concern_one_request_of_twenty() {
        let right = || case(true, 5_000, vec![span(&[("upstream_wait", 5_050)], "upstream", "full")]);
        let skipped = || case(false, 10, vec![span(&[("upstream_wait", 20)], "proxy", SKIPPED)]);
        check(&[right(), skipped()], [1, 1, 0, 1, 1, 1], true);
        check(&[right(), skipped(), skipped()], [1, 1, 0, 1, 2, 2], false);
    }

    #[test]
    fn an_accept_may_be_invisible_on_a_new_connection_only() {
        let late = |reused| {
            let attempt = Some(Attempt { reused, ..Attempt::default() });
            Span { attempt, ..span(&[("upstream_wait", 5_050)], "upstream", UNACCEPTED) }
        };
        check(&[case(true, 5_000, vec![late(false)])], [1, 1, 0, 1, 0, 0], true);
        check(&[case(true, 5_000, vec![late(true)])], [1, 1, 0, 1, 0, 0], false);
    }

    #[test]
    fn an_invisible_accept_is_told_apart_from_full_coverage() {
        #[track_caller]
        fn check(coverages: &[&str], expected: &str) {
            let case = |coverage: &&str| {
                // Over a connection of its own.
                let attempt = Some(Attempt::default());
                case(false, 10, vec![Span { attempt, ..span(&[("upstream_wait", 10)], "upstream", coverage) }])
            };
            let line = judge(&row(), &coverages.iter().map(case).collect::<Vec<_>>(), Vec::new());
            assert_eq!(line.coverage(), expected);
        }
        check(&["full", "full"], "2/2 full");
        check(&["full", UNACCEPTED, "full"], "3/3: 2 full, 1 accept not visible");
        check(&["full", UNACCEPTED, "partial: x"], "2/3: 1 full, 1 accept not visible");
        check(&["full", SKIPPED, "full"], "2/3 full, 1 probe skipped");
        check(&[UNACCEPTED], "1/1 accept not visible");
        check(&["partial: x"], "0/1 full");
    }

    #[test]
    fn what_is_laid_to_somebody_who_had_no_part_in_it_is_wrong() {
        let mut row = row();
        row.injections.iter_mut().for_each(|injection| {
            injection.places = vec![Place::Phase("upstream_wait"), Place::Not(&["upstream_body", "backend_app"])];
        });
        let passed = |hit, body, app| {
            let phases =
                [("upstream_wait", if hit { 5_050 } else { 20 }), ("upstream_body", body), ("backend_app", app)];
            let hits = case(hit, 5_000, vec![span(&phases, if hit { "upstream" } else { "backend" }, "full")]);
            let right = case(true, 5_000, vec![span(&[("upstream_wait", 5_050)], "upstream", "full")]);
            judge(&row, &[right, hits], Vec::new()).passed
        };
        assert!(passed(true, 500, 499) && !passed(true, 500, 500), "half of the smallest delay, 1 ms");
        assert!(passed(false, 600, 600), "what it takes by itself is the judge's of strays");
    }

    #[test]
    fn what_is_counted_must_be_counted_where_it_was_done_and_nowhere_else() {
        let row = || {
            let mut row = row();
            row.injections.iter_mut().for_each(|injection| injection.places = vec![Place::Count("again")]);
            row
        };
        let counted = |count| {
            let mut span = span(&[("upstream_wait", 5_050)], "upstream", "full");
            span.attempt = Some(Attempt { numbers: [("again".to_owned(), count)].into(), ..Attempt::default() });
            vec![span]
        };
        let passed = |hit, count| {
            // One of so few may be uncounted.
            let again = || case(hit, 5_000, counted(count));
            judge(&row(), &[case(true, 5_000, counted(1)), again(), again()], Vec::new()).passed
        };
        assert!(passed(true, 1) && passed(false, 0) && !passed(true, 0) && !passed(false, 1));
    }
}
