//! `cargo xtask joins`: a million requests at full load over kept, pipelined and short-lived connections, in which client and
//! backend stamp each on the kernel's own clock. Whatever the agent joined from the kernel's marks must lie in the window of
//! its own request, and the windows of a connection's requests are disjoint: a mark of another request is seen.

mod book;
mod churn;
mod judge;
mod load;
mod memory;
mod mixed;
mod receiver;
mod sink;
mod site;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::bench::measure::ticks;
use book::Kind;
use judge::{Share, Verdict};
use load::{Plan, Quota};
use site::{Site, is_even};

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// A twentieth of the requests.
    #[arg(long)]
    pub(crate) quick: bool,
    /// 5,000 new connections a second for a minute instead (--quick: 20 s): slots, refusals and memory.
    #[arg(long)]
    pub(crate) churn: bool,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Chooses where segments end, how long connections last, and what the other kinds' requests are.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A warm-up, then requests over kept connections to the backend; over fresh ones besides.
const QUOTA: Quota = quota(1_000_000);
const QUOTA_QUICK: Quota = quota(50_000);
const WARM_UP: u32 = 2_000;
/// Requests of other kinds, by an agent of their own.
const MIXED: u32 = 60_000;
const MIXED_QUICK: u32 = 3_000;

const fn quota(requests: u32) -> Quota {
    Quota { warm_up: WARM_UP, kept: WARM_UP + requests, fresh: requests / 50 }
}

/// Clients by kind, for the full load.
const CLIENTS: [(Kind, usize); 4] =
    [(Kind::KeepAlive, 24), (Kind::Pipelined, 10), (Kind::ShortLived, 10), (Kind::FreshUpstream, 1)];

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    seed: u64,
    seconds: f64,
    requests_per_second: f64,
    /// CPUs that the agent had busy, and the client, the backends and the receiver.
    agent_cpus: f64,
    our_cpus: f64,
    spans_made: u64,
    spans_sent: u64,
    spans_lost: u64,
    records_lost: u64,
    resident_mb: u64,
    #[serde(flatten)]
    verdict: Verdict,
    /// Of the requests that the requirement is of, and of those that are counted apart.
    coverage: [Share; 2],
    passed: bool,
}

/// All figures.
#[derive(Serialize)]
struct All<'a> {
    #[serde(flatten)]
    small: &'a Report,
    mixed: &'a mixed::Report,
}

/// Builds the agent, asks, judges.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    site::build(root)?;
    if options.churn {
        return churn::run(options);
    }
    let (quota, mixed) = if options.quick { (QUOTA_QUICK, MIXED_QUICK) } else { (QUOTA, MIXED) };
    let report = measure(quota, options.seed)?;
    let others = mixed::measure(mixed, options.seed)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&All { small: &report, mixed: &others })?);
    } else {
        report.print();
        others.print();
    }
    Ok(if report.passed && others.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The gate's step, --quick, once the agent is built. What it came to, in a line.
pub(crate) fn check() -> Result<String> {
    let report = measure(QUOTA_QUICK, 1)?;
    let others = mixed::measure(MIXED_QUICK, 1)?;
    if !report.passed || !others.passed {
        report.print();
        others.print();
        bail!("marks that are not their request's, or too few: see above");
    }
    let [requests, points] = report
        .verdict
        .lines
        .values()
        .fold([0, 0], |[requests, points], line| [requests + line.requests, points + line.points]);
    Ok(format!("{points} points of {requests} requests and {}, each in its own window", others.told()))
}

fn measure(quota: Quota, seed: u64) -> Result<Report> {
    let site = Site::start(quota.all(), true)?;
    let pid = site.agent.process.pid();
    let cpu = || -> Result<[u64; 2]> { Ok([ticks(&[pid])?, ticks(&[std::process::id()])?]) };
    let before = cpu()?;
    let plan = Plan { clients: CLIENTS.to_vec(), quota, per_second: None, seed };
    let (verdict, account, _, seconds) = site.play(plan)?;
    let after = cpu()?;
    site.stop()?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let cpus = |index: usize| {
        // USER_HZ is 100 on every Linux that exposes these files.
        let [from, to] = [before, after].map(|ticks| ticks.get(index).copied().unwrap_or(0));
        to.saturating_sub(from) as f64 / 100.0 / seconds
    };
    Ok(Report {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        seed,
        seconds,
        requests_per_second: f64::from(quota.all()) / seconds,
        agent_cpus: cpus(0),
        our_cpus: cpus(1),
        spans_made: account.made,
        spans_sent: account.sent,
        spans_lost: account.lost,
        records_lost: account.records_lost,
        resident_mb: account.resident_bytes >> 20,
        coverage: verdict.coverages(),
        passed: verdict.passed() && is_even(&account, quota.all()),
        verdict,
    })
}

impl Report {
    /// For people.
    fn print(&self) {
        println!(
            "Linux {}, seed {}: {:.0} requests/s for {:.1} s; CPUs busy: agent {:.2}, client, backends and receiver {:.2}; \
             agent {} MB",
            self.kernel,
            self.seed,
            self.requests_per_second,
            self.seconds,
            self.agent_cpus,
            self.our_cpus,
            self.resident_mb
        );
        println!("| connections | requests | full | others | points in both bounds | points on their neighbour |");
        println!("|---|---|---|---|---|---|");
        for (kind, line) in &self.verdict.lines {
            println!(
                "| {} | {} | {} | {:?} | {} | {} |",
                kind.name(),
                line.requests,
                line.full,
                line.others,
                line.points,
                line.on_neighbour
            );
        }
        println!(
            "spans: {} made, {} sent, {} lost; records lost: {}; strange spans: {}; coverage {}",
            self.spans_made,
            self.spans_sent,
            self.spans_lost,
            self.records_lost,
            self.verdict.strange,
            if self.verdict.covers() { "is enough" } else { "is TOO LITTLE" }
        );
        let [kept, apart] = self.coverage;
        println!("coverage over kept connections to the backend: {kept}");
        println!("counted apart, the warm-up and backends that close with each answer: {apart}");
        println!("requests with a mark outside its window, or not exactly one span: {}", self.verdict.wrong);
        if let Some((id, fault)) = &self.verdict.first {
            println!("the first is request {id}: {fault}");
        }
        println!("{}", if self.passed { "passed" } else { "FAILED" });
    }
}
