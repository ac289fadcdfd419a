//! What was seen, as figures and as checks that hold or do not.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::account::Account;
use super::cpu::Shares;
use super::load::Shot;
use super::site::Stop;
use super::{Plan, Round, Seen, Window};
use crate::bench::median;

/// How much slower the slowest hundredth may be without Jaeger, in the median of the rounds.
const RATIO_MAX: f64 = 1.10;
/// What the agent may take beyond the least that it was seen with: the 64 MiB of spans that may be pending
/// (`PENDING_BYTES_MAX` in the agent's export), and half as much for connections, batches under way and the allocator.
const MEMORY_BYTES_MAX: u64 = (64 + 32) << 20;
/// SERVER and CLIENT; phases are attributes here.
const SPANS_PER_REQUEST: u64 = 2;
/// The share of a CPU above which other programs disturb the latencies.
const OTHERS_CPU_MAX: f64 = 0.15;
/// How long after Jaeger's stop an answer that it gave before may still arrive.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The latencies of a stretch of the load, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    requests: usize,
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    /// How late the generator itself was.
    generator_p99_us: u32,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    jaeger: Stop,
    stopped_first: bool,
    up: Latency,
    stopped: Latency,
    back: Latency,
    p99_ratio: f64,
    resident_mb_max: f64,
    pending_max: u64,
    lost_while_up: u64,
    lost_while_stopped: u64,
    lost_while_back: u64,
    cpu_while_up: Shares,
    cpu_while_stopped: Shares,
}

/// Something that has to hold.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// The outcome.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kernel: String,
    full_load_per_second: f64,
    load_per_second: f64,
    seconds_up: u64,
    seconds_stopped: u64,
    rounds: Vec<Line>,
    p99_ratio_median: f64,
    requests: usize,
    resident_mb_min: f64,
    resident_mb_max: f64,
    resident_mb_end: f64,
    jaeger_resident_mb_max: f64,
    spans_made: u64,
    spans_sent: u64,
    spans_lost: u64,
    spans_received_by_jaeger: u64,
    checks: Vec<Check>,
    doubts: Vec<String>,
}

/// Works out the figures and the checks.
pub(super) fn judge(seen: &Seen, plan: &Plan) -> Result<Report> {
    let lines: Vec<Line> = seen.rounds.iter().map(|round| line(seen, round)).collect();
    let last = *seen.looks.last().context("the agent was never asked")?;
    let p99_ratio_median = median(lines.iter().map(|line| line.p99_ratio));
    let resident = || seen.looks.iter().map(|look| look.resident_bytes);
    let (resident_min, resident_max) = (resident().min().unwrap_or(0), resident().max().unwrap_or(0));
    let requests = seen.before.shots.len() + seen.load.shots.len();
    let checks = vec![
        no_request_failed(seen, requests),
        Check {
            name: "requests are as fast without Jaeger",
            ok: p99_ratio_median <= RATIO_MAX,
            detail: format!("p99 stopped / p99 up: {p99_ratio_median:.2} in the median, at most {RATIO_MAX:.2}"),
        },
        Check {
            name: "memory is bounded",
            ok: resident_max <= resident_min + MEMORY_BYTES_MAX,
            detail: format!(
                "{:.0} MB resident at most, {:.0} MB at least; {:.0} MB between them are allowed",
                megabytes(resident_max),
                megabytes(resident_min),
                megabytes(MEMORY_BYTES_MAX)
            ),
        },
        Check {
            name: "made = sent + lost + pending",
            ok: seen.looks.iter().all(Account::is_even),
            detail: match seen.looks.iter().find(|look| !look.is_even()) {
                None => format!("at each of {} looks", seen.looks.len()),
                Some(uneven) => format!("not in {uneven:?}"),
            },
        },
        every_request_has_its_spans(&last, requests as u64),
        jaeger_agrees(&last, seen.received),
        nothing_was_sent_while_stopped(seen),
        sent_again(seen),
    ];
    Ok(Report {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        full_load_per_second: seen.full_load,
        load_per_second: 1.0 / seen.interval.as_secs_f64(),
        seconds_up: plan.up.as_secs(),
        seconds_stopped: plan.stopped.as_secs(),
        rounds: lines,
        p99_ratio_median,
        requests,
        resident_mb_min: megabytes(resident_min),
        resident_mb_max: megabytes(resident_max),
        resident_mb_end: megabytes(last.resident_bytes),
        jaeger_resident_mb_max: megabytes(seen.jaeger_resident_kb << 10),
        spans_made: last.made,
        spans_sent: last.sent,
        spans_lost: last.lost,
        spans_received_by_jaeger: seen.received,
        checks,
        doubts: doubts(seen),
    })
}

/// What makes the latencies doubtful; the checks are what they are.
fn doubts(seen: &Seen) -> Vec<String> {
    let mut doubts = Vec::new();
    let windows = || seen.rounds.iter().flat_map(|round| [round.up, round.stopped]);
    let others = windows().map(|window| window.cpu.others).fold(0.0, f64::max);
    if others > OTHERS_CPU_MAX {
        doubts.push(format!("other programs took up to {:.0} % of a CPU: noisy machine", others * 100.0));
    }
    doubts
}

fn line(seen: &Seen, round: &Round) -> Line {
    let [up, stopped, back] = [round.up, round.stopped, round.back].map(|window| latency(&seen.load.shots, window));
    let whole = [round.up, round.stopped, round.back];
    let looks = || whole.iter().flat_map(|window| looks(seen, *window));
    let lost = |window| change(seen, window, |look| look.lost);
    Line {
        jaeger: round.how,
        stopped_first: round.stopped_first,
        up,
        stopped,
        back,
        p99_ratio: f64::from(stopped.p99_us) / f64::from(up.p99_us.max(1)),
        resident_mb_max: megabytes(looks().map(|look| look.resident_bytes).max().unwrap_or(0)),
        pending_max: looks().map(|look| look.pending).max().unwrap_or(0),
        lost_while_up: lost(round.up),
        lost_while_stopped: lost(round.stopped),
        lost_while_back: lost(round.back),
        cpu_while_up: round.up.cpu,
        cpu_while_stopped: round.stopped.cpu,
    }
}

fn no_request_failed(seen: &Seen, requests: usize) -> Check {
    let failed = seen.before.failed + seen.load.failed;
    let fault = seen.load.first_fault.as_ref().or(seen.before.first_fault.as_ref());
    Check {
        name: "no request failed",
        ok: failed == 0,
        detail: match fault {
            None => format!("{requests} answers, each 200 and whole"),
            Some(fault) => format!("{failed} failed beside {requests} whole answers; the first: {fault}"),
        },
    }
}

fn every_request_has_its_spans(last: &Account, requests: u64) -> Check {
    Check {
        name: "every request has its spans",
        ok: last.made + SPANS_PER_REQUEST * last.records_lost == SPANS_PER_REQUEST * requests,
        detail: format!(
            "{} made of {SPANS_PER_REQUEST} x {requests} requests; {} requests' records were lost to full rings",
            last.made, last.records_lost
        ),
    }
}

/// What was sent is what Jaeger was given. A batch that a frozen Jaeger took, but answered too late, counts as lost: its
/// fate is unknown to the agent.
fn jaeger_agrees(last: &Account, received: u64) -> Check {
    let unknown = received.checked_sub(last.sent);
    Check {
        name: "Jaeger was given what was sent",
        ok: last.pending == 0 && unknown.is_some_and(|unknown| unknown <= last.lost),
        detail: format!(
            "{} sent, {received} received; {} lost, of which {} reached a Jaeger that did not answer in time; {} pending",
            last.sent,
            last.lost,
            unknown.unwrap_or(0),
            last.pending
        ),
    }
}

fn nothing_was_sent_while_stopped(seen: &Seen) -> Check {
    let sent = |round: &Round| {
        let window = Window { from: round.stopped.from + LAST_ANSWERS, ..round.stopped };
        change(seen, window, |look| look.sent)
    };
    let sent: u64 = seen.rounds.iter().map(sent).sum();
    Check { name: "Jaeger was away", ok: sent == 0, detail: format!("{sent} spans were sent while it was stopped") }
}

fn sent_again(seen: &Seen) -> Check {
    let silent = seen.rounds.iter().filter(|round| change(seen, round.back, |look| look.sent) == 0).count();
    Check {
        name: "spans are sent again after its return",
        ok: silent == 0,
        detail: format!("{} of {} returns", seen.rounds.len() - silent, seen.rounds.len()),
    }
}

fn looks(seen: &Seen, window: Window) -> impl Iterator<Item = &Account> {
    seen.looks.iter().filter(move |look| look.at >= window.from && look.at <= window.to)
}

/// How much a counter grew from the first look in a stretch to the last.
fn change(seen: &Seen, window: Window, counter: impl Fn(&Account) -> u64) -> u64 {
    let first = looks(seen, window).next().map_or(0, &counter);
    looks(seen, window).last().map_or(0, &counter).saturating_sub(first)
}

/// Of a stretch in which nothing was answered, all is as slow as can be.
fn latency(shots: &[Shot], window: Window) -> Latency {
    let (from, to) = (window.from.as_micros(), window.to.as_micros());
    let inside = || shots.iter().filter(|shot| (from..to).contains(&u128::from(shot.due_us)));
    let mut latencies: Vec<u32> = inside().map(|shot| shot.latency_us).collect();
    let mut late: Vec<u32> = inside().map(|shot| shot.late_us).collect();
    latencies.sort_unstable();
    late.sort_unstable();
    let of = |sorted: &[u32], percent| percentile(sorted, percent).unwrap_or(u32::MAX);
    Latency {
        requests: latencies.len(),
        p50_us: of(&latencies, 50),
        p99_us: of(&latencies, 99),
        max_us: of(&latencies, 100),
        generator_p99_us: of(&late, 99),
    }
}

/// Of sorted values, the smallest that so many percent do not exceed.
fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Report {
    /// Whether every check holds.
    pub(super) fn all_well(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    /// For people.
    pub(super) fn print(&self) {
        println!(
            "Linux {}; full load {:.0} requests/s, load {:.0}; Jaeger up {} s, stopped {} s in each round; microseconds",
            self.kernel, self.full_load_per_second, self.load_per_second, self.seconds_up, self.seconds_stopped
        );
        println!(
            "| Jaeger | order | p50 up | p50 stopped | p99 up | p99 stopped | ratio | p99 back | generator p99 up, stopped | CPU up: agent, Jaeger, nginx, generator, others | MB max | pending max | lost up | lost stopped | lost back |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for line in &self.rounds {
            println!(
                "| {:?} | {} | {} | {} | {} | {} | {:.2} | {} | {}, {} | {} | {:.0} | {} | {} | {} | {} |",
                line.jaeger,
                if line.stopped_first { "stopped, up" } else { "up, stopped" },
                line.up.p50_us,
                line.stopped.p50_us,
                line.up.p99_us,
                line.stopped.p99_us,
                line.p99_ratio,
                line.back.p99_us,
                line.up.generator_p99_us,
                line.stopped.generator_p99_us,
                percents(&line.cpu_while_up),
                line.resident_mb_max,
                line.pending_max,
                line.lost_while_up,
                line.lost_while_stopped,
                line.lost_while_back
            );
        }
        println!(
            "resident at the end {:.0} MB; Jaeger {:.0} MB at most",
            self.resident_mb_end, self.jaeger_resident_mb_max
        );
        for doubt in &self.doubts {
            println!("doubtful: {doubt}");
        }
        for check in &self.checks {
            println!("{} {}: {}", if check.ok { "ok    " } else { "failed" }, check.name, check.detail);
        }
    }
}

fn percents(cpu: &Shares) -> String {
    let Shares { agent, jaeger, upstream, generator, others } = *cpu;
    let all = [agent, jaeger, upstream, generator, others].map(|share| format!("{:.0}", share * 100.0));
    format!("{} %", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outage::load::Outcome;

    fn window(from: u64) -> Window {
        Window { from: Duration::from_secs(from), to: Duration::from_secs(from + 10), cpu: Shares::default() }
    }

    /// One round: up from 0 to 10 s, stopped to 20 s, back to 30 s; a request a second, four spans lost.
    fn seen() -> Seen {
        let shot = |second: u32| Shot { due_us: second * 1_000_000, latency_us: 1000 + second, late_us: 3 };
        let round =
            Round { how: Stop::Frozen, stopped_first: false, up: window(0), stopped: window(10), back: window(20) };
        let look = |at: u64, sent: u64, lost: u64, pending: u64| Account {
            at: Duration::from_secs(at),
            made: sent + lost + pending,
            sent,
            lost,
            pending,
            resident_bytes: 30 << 20,
            ..Account::default()
        };
        Seen {
            full_load: 2.0,
            interval: Duration::from_secs(1),
            before: Outcome::default(),
            load: Outcome { shots: (0..30).map(shot).collect(), ..Outcome::default() },
            rounds: vec![round],
            looks: vec![look(0, 0, 0, 0), look(12, 20, 0, 4), look(20, 20, 4, 16), look(29, 56, 4, 0)],
            jaeger_resident_kb: 1,
            received: 56,
        }
    }

    /// The names of the checks that fail after `change`.
    fn failing(change: impl FnOnce(&mut Seen)) -> Vec<&'static str> {
        let mut seen = seen();
        change(&mut seen);
        let report = judge(&seen, &Plan::new(true)).unwrap();
        let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        assert_eq!(report.all_well(), failed.is_empty());
        failed
    }

    #[test]
    fn each_check_fails_by_what_it_is_for_and_by_nothing_else() {
        assert_eq!(failing(|_| {}), Vec::<&str>::new());
        assert_eq!(failing(|seen| seen.load.failed = 1), ["no request failed"]);
        let slower = |seen: &mut Seen, factor: u32| {
            let stopped = seen.load.shots.iter_mut().filter(|shot| (10..20).contains(&(shot.due_us / 1_000_000)));
            stopped.for_each(|shot| shot.latency_us = shot.latency_us * factor / 100);
        };
        assert_eq!(failing(|seen| slower(seen, 108)), Vec::<&str>::new());
        assert_eq!(failing(|seen| slower(seen, 112)), ["requests are as fast without Jaeger"]);
        assert_eq!(failing(|seen| seen.looks[2].resident_bytes = 126 << 20), Vec::<&str>::new());
        assert_eq!(failing(|seen| seen.looks[2].resident_bytes = (126 << 20) + 1), ["memory is bounded"]);
        assert_eq!(failing(|seen| seen.looks[1].pending += 1), ["made = sent + lost + pending"]);
        assert_eq!(failing(|seen| seen.load.shots.truncate(29)), ["every request has its spans"]);
        assert_eq!(failing(|seen| seen.received = 55), ["Jaeger was given what was sent"]);
        // It may have taken what it did not answer.
        assert_eq!(failing(|seen| seen.received = 60), Vec::<&str>::new());
        assert_eq!(failing(|seen| seen.received = 61), ["Jaeger was given what was sent"]);
        let sent_meanwhile = |seen: &mut Seen| (seen.looks[2].sent, seen.looks[2].pending) = (21, 15);
        assert_eq!(failing(sent_meanwhile), ["Jaeger was away"]);
        let silent = |seen: &mut Seen| seen.rounds[0].back.to = Duration::from_secs(28);
        assert_eq!(failing(silent), ["spans are sent again after its return"]);
    }

    #[test]
    fn a_request_whose_record_was_lost_has_no_spans() {
        let lost_record = |seen: &mut Seen| {
            seen.looks[3].records_lost = 1;
            seen.load.shots.push(seen.load.shots[0]);
        };
        assert_eq!(failing(lost_record), Vec::<&str>::new());
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let sorted: Vec<u32> = (1..=200).collect();
        assert_eq!(
            [0, 1, 50, 99, 100].map(|percent| percentile(&sorted, percent)),
            [None, Some(2), Some(100), Some(198), Some(200)]
        );
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[], 99), None);
    }
}
