//! The table, and whether the bars were met.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Options;
use super::measure::{Absence, Churn, Cost, Times};

/// An endpoint change takes effect within this, at p99.
const EFFECT_MS_MAX: f64 = 100.0;
/// All routes may take this much more memory than one.
const MEMORY_MB_MAX: f64 = 200.0;
/// Two rounds of one agent differ by this much on a quiet machine.
const COST_NOISE: f64 = 1.05;

/// All that was measured.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) binary: String,
    pub(super) loaded: Duration,
    pub(super) memory: [f64; 2],
    pub(super) after: [f64; 2],
    pub(super) cost: Cost,
    pub(super) endpoints: Times,
    pub(super) routes: Times,
    pub(super) churn: Churn,
    pub(super) absence: Absence,
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
struct Line {
    what: &'static str,
    value: String,
    bar: String,
    passed: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    routes: usize,
    endpoints: usize,
    /// Optimised, or a build for tests: its times say little then.
    optimised: bool,
    pub(super) passed: bool,
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn new(options: &Options, seen: &Seen) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let line = |what, value: String| Line { what, value, bar: String::new(), passed: true };
        let held = |what, value: String, bar: String, passed| Line { what, value, bar, passed };
        let [p50, p99, most] = [50, 99, 100].map(|percent| ms(seen.endpoints.percentile(percent)));
        let more = |memory: [f64; 2]| memory[1] - memory[0];
        let Cost { one_us, many_us, few_us, spread_us } = seen.cost;
        let no_more = || format!("no more, within {:.0} %", (COST_NOISE - 1.0) * 100.0);
        let Absence { away, requests, failed, caught_up } = seen.absence;
        let lines = vec![
            line("all routes served after a start", format!("{:.1} s", seen.loaded.as_secs_f64())),
            held(
                "an endpoint change to its effect",
                format!("p50 {p50:.1}, p99 {p99:.1}, most {most:.1} ms"),
                format!("p99 at most {EFFECT_MS_MAX:.0} ms"),
                p99 <= EFFECT_MS_MAX,
            ),
            line(
                "a new route to its effect",
                format!("p50 {:.1}, most {:.1} ms", ms(seen.routes.percentile(50)), ms(seen.routes.percentile(100))),
            ),
            held(
                "CPU per request, one route and all",
                format!("{one_us:.1} and {many_us:.1} us"),
                no_more(),
                many_us <= one_us * COST_NOISE,
            ),
            held(
                "the same with servers of their own: of 64 routes, and of all, of which 64 are asked",
                format!("{few_us:.1} and {spread_us:.1} us"),
                no_more(),
                spread_us <= few_us * COST_NOISE,
            ),
            held(
                "memory beyond that with one route",
                format!("{:.0} MB ({:.0} with one)", more(seen.memory), seen.memory[0]),
                format!("at most {MEMORY_MB_MAX:.0} MB"),
                more(seen.memory) <= MEMORY_MB_MAX,
            ),
            held(
                "the same after all changes",
                format!("{:.0} MB", more(seen.after)),
                format!("at most {MEMORY_MB_MAX:.0} MB"),
                more(seen.after) <= MEMORY_MB_MAX,
            ),
            line(
                "endpoint changes in a stream",
                format!(
                    "{:.0} a second take {:.1} % of a CPU, {:.2} ms each",
                    seen.churn.per_second,
                    seen.churn.share * 100.0,
                    seen.churn.ms_each
                ),
            ),
            held(
                "the API server away",
                format!("{:.0} s: {failed} of {requests} requests failed", away.as_secs_f64()),
                "none".to_owned(),
                failed == 0 && requests > 0,
            ),
            line("its return to the effect of a change", format!("{:.1} s", caught_up.as_secs_f64())),
        ];
        Self {
            routes: options.routes,
            endpoints: options.endpoints,
            optimised: seen.binary.contains("release"),
            passed: lines.iter().all(|line| line.passed),
            lines,
        }
    }

    /// For people, and for Markdown.
    pub(super) fn table(&self) -> String {
        let build = if self.optimised { "the release build" } else { "a build that is not optimised" };
        let mut out = format!("{} routes, {} endpoints, {build}\n\n", self.routes, self.endpoints);
        out.push_str("| | measured | bar | |\n|---|---|---|---|\n");
        for Line { what, value, bar, passed } in &self.lines {
            let verdict = match (bar.is_empty(), passed) {
                (true, _) => "",
                (false, true) => "met",
                (false, false) => "MISSED",
            };
            let _written = writeln!(out, "| {what} | {value} | {bar} | {verdict} |");
        }
        out
    }
}
