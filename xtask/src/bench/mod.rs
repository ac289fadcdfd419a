//! `cargo xtask bench`: what a proxied request costs, for Wayspan and its peers in one run. Same upstream, same headers
//! added, alternating order, ratios within the run. What each program is told stands in [`contenders`].

mod bars;
mod contenders;
pub(crate) mod measure;
pub(crate) mod probes;
pub(crate) mod train;
pub(crate) mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use bars::Bar;
use contenders::{Contender, Site};
use measure::Sample;

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds, for a look.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only contenders whose name contains this, and HAProxy; may be given again.
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Vec<String>,
    /// The programs in this directory, as `cargo xtask release` left them, and the plain build beside: nothing is built.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) built: Option<PathBuf>,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Open connections from the load generator, as in the published figures.
const CONNECTIONS: u32 = 64;
/// A control that moves more than this between its rounds makes the run doubtful.
const CONTROL_DRIFT_MAX: f64 = 0.10;
/// The contenders whose steadiness is watched.
const CONTROLS: [&str; 2] = [BASE, "nginx"];
/// The contender that the others are held against.
const BASE: &str = "haproxy";

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    cpu_us_per_request: f64,
    cpu_us_spread: f64,
    machine_us_per_request: f64,
    ratio_to_haproxy: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    context_switches_per_request: f64,
    resident_mb: f64,
    syscalls_per_request: Option<BTreeMap<String, f64>>,
    spans_received: u64,
    requests: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    rounds: u32,
    seconds_per_round: u64,
    connections: u32,
    lines: Vec<Line>,
    /// Of each contender with probes.
    probes: Vec<probes::Cost>,
    bars: Vec<Bar>,
    not_run: Vec<String>,
    doubts: Vec<String>,
}

/// Builds what is measured, in release, and measures it. Fails where a promise is missed.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let bin = &match &options.built {
        Some(built) => built.clone(),
        None => {
            let built = crate::release::build(root)?;
            // For comparison.
            crate::agent::build_binary(root)?;
            built
        }
    };
    let (rounds, seconds) = if options.quick { (2, 2) } else { (5, 4) };
    let scratch = root.join("target/bench");
    std::fs::create_dir_all(&scratch)?;
    let site = Site::start(&scratch, bin).context("starting the upstream and the span receiver")?;
    let (mut contenders, not_run) = contenders::all(&site)?;
    if !options.only.is_empty() {
        contenders.retain(|one| one.name == BASE || options.only.iter().any(|text| one.name.contains(text)));
    }
    let (probes, prices) = probes::cost(&site, &contenders, CONNECTIONS)?;
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        let mut order: Vec<&Contender> = contenders.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            let sample = measure::round(&site, contender, Duration::from_secs(seconds), CONNECTIONS)
                .with_context(|| format!("measuring {}", contender.name))?;
            eprintln!(
                "round {}/{rounds}  {:<28} {:>6.1} us CPU/request  {:>7.0} requests/s",
                round + 1,
                contender.name,
                sample.cpu_us,
                sample.per_second
            );
            samples.entry(contender.name).or_default().push(sample);
        }
    }
    let mut syscalls = BTreeMap::new();
    for contender in &contenders {
        if contender.count_syscalls {
            syscalls.insert(contender.name, measure::syscalls(&site, contender, CONNECTIONS)?);
        }
    }
    let mut report = summarise(&contenders, &samples, &mut syscalls, (rounds, seconds), not_run, probes)?;
    let everything = report.lines.iter().find(|line| line.name == contenders::EVERYTHING);
    report.bars = bars::all(&prices, everything.map(|line| line.ratio_to_haproxy));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.bars.iter().all(Bar::is_met) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summarise(
    contenders: &[Contender],
    samples: &BTreeMap<&str, Vec<Sample>>,
    syscalls: &mut BTreeMap<&str, BTreeMap<String, f64>>,
    (rounds, seconds): (u32, u64),
    not_run: Vec<String>,
    probes: Vec<probes::Cost>,
) -> Result<Report> {
    let Some(base) = samples.get(BASE) else { bail!("haproxy did not run: there is nothing to compare with") };
    let base = median(base.iter().map(|sample| sample.cpu_us));
    let mut doubts = Vec::new();
    let mut lines = Vec::new();
    for contender in contenders {
        let Some(all) = samples.get(contender.name) else { continue };
        let of = |field: fn(&Sample) -> f64| median(all.iter().map(field));
        let cpu = of(|sample| sample.cpu_us);
        let low = all.iter().map(|sample| sample.cpu_us).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|sample| sample.cpu_us).fold(0.0, f64::max);
        let spread = (high - low) / cpu;
        if CONTROLS.contains(&contender.name) && spread > CONTROL_DRIFT_MAX {
            doubts.push(format!("{} moved by {:.0} % between rounds: noisy machine", contender.name, spread * 100.0));
        }
        let failed: u64 = all.iter().map(|sample| sample.failed).sum();
        if failed > 0 {
            doubts.push(format!("{}: {failed} requests failed", contender.name));
        }
        lines.push(Line {
            name: contender.name.to_owned(),
            cpu_us_per_request: cpu,
            cpu_us_spread: spread,
            machine_us_per_request: of(|sample| sample.machine_us),
            ratio_to_haproxy: cpu / base,
            requests_per_second: of(|sample| sample.per_second),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            context_switches_per_request: of(|sample| sample.switches),
            resident_mb: of(|sample| sample.resident_mb),
            syscalls_per_request: syscalls.remove(contender.name),
            spans_received: all.iter().map(|sample| sample.spans).sum(),
            requests: all.iter().map(|sample| sample.requests).sum(),
        });
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let (seconds_per_round, connections, bars) = (seconds, CONNECTIONS, Vec::new());
    Ok(Report { kernel, rounds, seconds_per_round, connections, lines, probes, bars, not_run, doubts })
}

/// The middle one, the upper of two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(report: &Report) {
    println!(
        "Linux {}, {} connections, {} rounds of {} s, medians; CPU is the proxy's whole process",
        report.kernel, report.connections, report.rounds, report.seconds_per_round
    );
    println!(
        "| proxy | CPU us/request | x HAProxy | machine us/request | requests/s | p50 us | p99 us | switches/request | MB | spans/request |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for line in &report.lines {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let spans = line.spans_received as f64 / line.requests.max(1) as f64;
        println!(
            "| {} | {:.1} | {:.2} | {:.1} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} |",
            line.name,
            line.cpu_us_per_request,
            line.ratio_to_haproxy,
            line.machine_us_per_request,
            line.requests_per_second,
            line.p50_us,
            line.p99_us,
            line.context_switches_per_request,
            line.resident_mb,
            spans
        );
    }
    for line in &report.lines {
        if let Some(calls) = &line.syscalls_per_request {
            let mut calls: Vec<_> = calls.iter().collect();
            calls.sort_by(|a, b| b.1.total_cmp(a.1));
            let text: Vec<_> = calls.iter().take(6).map(|(name, count)| format!("{name} {count:.2}")).collect();
            println!("system calls per request, {}: {}", line.name, text.join(", "));
        }
    }
    for cost in &report.probes {
        println!("probes, {cost}");
    }
    for bar in &report.bars {
        println!("{bar}");
    }
    for missing in &report.not_run {
        println!("not run: {missing}");
    }
    for doubt in &report.doubts {
        println!("doubtful: {doubt}");
    }
}
