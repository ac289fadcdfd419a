//! `cargo xtask outage`: what requests notice while Jaeger is away, and what becomes of the spans. A constant load at
//! half of what the machine can do goes through the agent without a pause, every request traced, while the real Jaeger
//! is stopped and brought back, frozen and ended by turns. What the load saw is in [`load`], what the agent says in
//! [`account`], the judgement in [`report`].

pub(crate) mod account;
mod cpu;
mod load;
mod report;
mod site;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use wayspan_tests::wait_until;

use crate::bench::measure::resident_kb;
use crate::progress::{self, Stopwatch};
use crate::{agent, peers};
use account::Account;
use cpu::{Meter, Shares};
use load::{Outcome, Pace};
use site::{Site, Stop};

/// How to run it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Three rounds of seconds, for a look: 1.5 minutes instead of 12.
    #[arg(long)]
    pub(crate) quick: bool,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How long everything takes.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// The closed loop that finds the full load.
    full_load: Duration,
    /// Jaeger up, measured.
    up: Duration,
    /// Jaeger stopped, measured.
    stopped: Duration,
    /// After its return, before anything else is measured.
    back: Duration,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let seconds = Duration::from_secs;
        if quick {
            // Longer than a request to the collector may take (10 s), so that a frozen Jaeger has its whole effect.
            Self { rounds: 3, full_load: seconds(4), up: seconds(8), stopped: seconds(12), back: seconds(6) }
        } else {
            Self { rounds: 5, full_load: seconds(8), up: seconds(60), stopped: seconds(60), back: seconds(10) }
        }
    }

    fn load_time(&self) -> Duration {
        let rounds = u32::try_from(self.rounds).unwrap_or(u32::MAX);
        self.back + (self.up + self.stopped + self.back) * rounds
    }
}

/// How often the agent is asked for its account.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the last spans may be on their way: a batch is tried for a minute.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// A stretch of the load, and who took the CPU in it.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Duration,
    to: Duration,
    cpu: Shares,
}

/// One round.
#[derive(Debug, Clone, Copy)]
struct Round {
    how: Stop,
    stopped_first: bool,
    up: Window,
    stopped: Window,
    back: Window,
}

/// All that was seen.
#[derive(Debug)]
struct Seen {
    full_load: f64,
    interval: Duration,
    /// What was answered before the rounds, to find the full load.
    before: Outcome,
    /// The load over all rounds.
    load: Outcome,
    rounds: Vec<Round>,
    /// The agent's accounts, the last with nothing pending.
    looks: Vec<Account>,
    jaeger_resident_kb: u64,
    /// Spans that Jaeger says it was given.
    received: u64,
}

/// Builds the parts, runs the rounds, prints the outcome; fails where a check does.
pub(crate) fn run(root: &Path, options: Options) -> Result<ExitCode> {
    let peers = peers::ensure(root)?;
    if wayspan_tests::environment("WAYSPAN_BIN").is_none() {
        agent::build(root)?;
    }
    let plan = Plan::new(options.quick);
    let scratch = wayspan_tests::target_dir().join("outage");
    let mut site = progress::step("starting nginx, Jaeger and Wayspan", || Site::start(&scratch, peers.jaeger))?;
    let watch = Stopwatch::start();
    let mut conductor = Conductor { site: &mut site, plan, watch, looks: Vec::new(), jaeger_resident_kb: 0 };
    let (before, full_load) = conductor.full_load()?;
    let interval = Duration::from_secs_f64(2.0 / full_load);
    eprintln!("full load {full_load:.0} requests/s; from now on half of it");
    let (load, rounds) = conductor.under_load(interval)?;
    conductor.settle()?;
    let Conductor { looks, jaeger_resident_kb, .. } = conductor;
    let received = progress::step("ending Wayspan and Jaeger", || site.finish())?;
    let seen = Seen { full_load, interval, before, load, rounds, looks, jaeger_resident_kb, received };
    let report = report::judge(&seen, &plan)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(if report.all_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Stops and returns Jaeger while the load runs, and keeps asking the agent for its account.
struct Conductor<'a> {
    site: &'a mut Site,
    plan: Plan,
    watch: Stopwatch,
    looks: Vec<Account>,
    jaeger_resident_kb: u64,
}

impl Conductor<'_> {
    /// Closed loop with Jaeger up: what came of it, and requests per second.
    fn full_load(&mut self) -> Result<(Outcome, f64)> {
        let warmed = self.while_loaded(Pace::AtOnce, 0, |conductor| conductor.pass(Duration::from_secs(2)))?.0;
        let (mut full, window) =
            self.while_loaded(Pace::AtOnce, 0, |conductor| conductor.pass(conductor.plan.full_load))?;
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let per_second = full.shots.len() as f64 / (window.to - window.from).as_secs_f64();
        full.shots.extend(warmed.shots);
        full.failed += warmed.failed;
        full.first_fault = warmed.first_fault.or(full.first_fault);
        Ok((full, per_second))
    }

    /// All rounds under one open loop.
    fn under_load(&mut self, interval: Duration) -> Result<(Outcome, Vec<Round>)> {
        let shots = self.plan.load_time().as_nanos() / interval.as_nanos().max(1);
        self.while_loaded(Pace::Every(interval), usize::try_from(shots)?, |conductor| {
            conductor.pass(conductor.plan.back)?;
            (0..conductor.plan.rounds).map(|number| conductor.round(number)).collect()
        })
    }

    fn round(&mut self, number: usize) -> Result<Round> {
        // Each way of stopping meets both orders.
        let how = if matches!(number % 4, 0 | 3) { Stop::Frozen } else { Stop::Ended };
        let stopped_first = number % 2 == 1;
        eprintln!("round {}/{}: Jaeger will be {how:?}", number + 1, self.plan.rounds);
        let before = if stopped_first { None } else { Some(self.pass(self.plan.up)?) };
        let from = self.watch.elapsed();
        self.site.stop_jaeger(how)?;
        let stopped = Window { from, ..self.pass(self.plan.stopped)? };
        let from = self.watch.elapsed();
        self.site.return_jaeger()?;
        let back = Window { from, ..self.pass(self.plan.back)? };
        let up = before.map_or_else(|| self.pass(self.plan.up), Ok)?;
        Ok(Round { how, stopped_first, up, stopped, back })
    }

    /// Runs the generator while `work` is done.
    fn while_loaded<T>(
        &mut self,
        pace: Pace,
        shots: usize,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Outcome, T)> {
        let (target, watch, stop) = (self.site.target.clone(), self.watch, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| load::run(&target, pace, shots, watch, &stop));
            let done = work(self);
            stop.store(true, Ordering::Relaxed);
            let outcome = load.join().map_err(|_| anyhow!("the load generator panicked"))?;
            // Where the agent is gone, the load says so first.
            Ok((outcome?, done?))
        })
    }

    /// Lets time pass, and looks at the agent meanwhile.
    fn pass(&mut self, span: Duration) -> Result<Window> {
        let from = self.watch.elapsed();
        let meter = Meter::start(self.site.processes())?;
        loop {
            self.look()?;
            let left = (from + span).saturating_sub(self.watch.elapsed());
            if left.is_zero() {
                let to = self.watch.elapsed();
                return Ok(Window { from, to, cpu: meter.shares(to - from)? });
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn look(&mut self) -> Result<Account> {
        let account = Account::read(self.site.api, self.watch.elapsed())?;
        self.looks.push(account);
        if let Some(pid) = self.site.processes().jaeger {
            self.jaeger_resident_kb = self.jaeger_resident_kb.max(resident_kb(&[pid])?);
        }
        Ok(account)
    }

    /// Waits until every span's fate is known. No more are made then. Where some stay open, a check will say so.
    fn settle(&mut self) -> Result<()> {
        let settled = wait_until(SETTLED_WITHIN, || match self.look() {
            Ok(account) => (account.pending == 0).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        settled.unwrap_or(Ok(()))
    }
}
