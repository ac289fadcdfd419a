//! `cargo xtask accuracy`: faults with known truth are injected into requests, and what the agent says of each request
//! is compared with what was done to it. The table of [`rows`] is stated beforehand; [`judge`] decides.

mod backend;
mod client;
mod flows;
mod judge;
mod ledger;
mod machine;
mod otlp;
mod packet;
mod pauses;
mod picture;
mod plan;
mod report;
mod rows;
mod space;
mod stage;
mod unread;
mod wire;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::progress::Stopwatch;
use crate::setup;
use judge::{Case, Line};
use ledger::Ledger;
use pauses::Pauses;
pub(crate) use plan::DIVIDED;
use plan::{Row, Running};
use report::Report;
use world::World;

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Fewer requests per row, for a look.
    #[arg(long)]
    pub(crate) quick: bool,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only rows whose name contains this.
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Chooses which requests are disturbed, and by how much.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write the picture and the table of docs/accuracy.md.
    #[arg(long)]
    pub(crate) write: bool,
    /// A few rows with long delays, and nothing is installed or built: inside the machines of `cargo xtask vm`.
    #[arg(long, hide = true)]
    pub(crate) emulated: bool,
}

/// Requests per row.
const REQUESTS: u64 = 400;
const REQUESTS_QUICK: u64 = 100;
const REQUESTS_EMULATED: u64 = 16;
/// Spans are sent every 50 ms, and a late fact is waited for no longer than a second.
const SPANS_WITHIN: Duration = Duration::from_secs(10);

impl Options {
    /// Whether errors must be small: a look, or a machine whose CPU is emulated, has not got the requests or the clock for it.
    fn judges_errors(&self) -> bool {
        !self.quick && !self.emulated
    }

    /// How many requests a row asks.
    fn requests(&self) -> u64 {
        match (self.emulated, self.quick) {
            (true, _) => REQUESTS_EMULATED,
            (false, true) => REQUESTS_QUICK,
            (false, false) => REQUESTS,
        }
    }
}

/// Measures the table; fails where a row misses.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces, TUN devices and probes need root");
    }
    if !options.emulated {
        setup::ensure(root, &[setup::Need::Ebpf, setup::Need::NodeTests])?;
        if wayspan_tests::environment("WAYSPAN_BIN").is_none() {
            crate::agent::build(root)?;
        }
    }
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let all = if options.emulated { rows::emulated() } else { rows::all() };
    let mut rows: Vec<Row> = all.into_iter().filter(|row| wanted(&row.name)).collect();
    if rows.is_empty() {
        bail!("no row is called like that");
    }
    // One agent after the other, rows in the order of the table.
    rows.sort_by_key(|row| row.agent);
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second time, as if nobody listened.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&ending))?;
        signal_hook::flag::register(signal, Arc::clone(&ending))?;
    }
    let _awake = if options.emulated { None } else { Some(machine::awake()?) };
    // On an emulated machine all is late, as the injectors see.
    let pauses = if options.emulated { None } else { Some(Pauses::watch()?) };
    let mut world = World::new().context("the world of the table needs root, iproute2 and /dev/net/tun")?;
    let mut lines = Vec::new();
    let mut next = 1;
    for row in rows {
        world.agent(row.agent)?;
        let count = options.requests() * row.percent / 100;
        let line = measure(&world, row, options, next..next + count, pauses.as_ref(), &ending)?;
        next += count;
        if ending.load(Ordering::Relaxed) {
            eprintln!("ended before all rows were measured");
            return Ok(ExitCode::FAILURE);
        }
        eprintln!("{}", report::short(&line));
        lines.push(line);
    }
    let report = Report::new(lines, pauses.map(|pauses| pauses.stood()), options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}\n{}", report.table(), report.notes());
    }
    if options.write {
        report.write(root)?;
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays a row to the agent that runs.
fn measure(
    world: &World,
    row: Row,
    options: &Options,
    ids: std::ops::Range<u64>,
    pauses: Option<&Pauses>,
    ending: &AtomicBool,
) -> Result<Line> {
    let watch = Stopwatch::start();
    let asked = world.prepare(&row.shape)?;
    let running = Arc::new(Running { row, seed: options.seed, ledger: Ledger::default(), response: OnceLock::new() });
    world.stage.set(Some(Arc::clone(&running)));
    let is_ending = || ending.load(Ordering::Relaxed);
    let asking = client::run(&world.clients, &world.stage, &running, &asked, ids.clone(), &is_ending)?;
    let here = || ids.clone().all(|id| !world.sink.spans_of(id).is_empty()).then_some(());
    if !is_ending() {
        // Those that do not come are counted by the judge.
        let _all = wayspan_tests::wait_until(SPANS_WITHIN, here);
    }
    world.stage.set(None);
    let injections = running.row.injections.len();
    let seen = |id| (0..injections).map(|index| running.ledger.seen(id, index)).collect();
    let stood = |id| Some(pauses?.within(running.ledger.asked_at(id)?));
    let case = |id| {
        let stood_ns = stood(id).unwrap_or(0);
        Case {
            id,
            done: (0..injections).map(|index| running.ledger.of(id, index)).collect(),
            noise_ns: running.ledger.noise_of(id) + stood_ns,
            stood_ns,
            away_ns: running.ledger.away_ns(id),
            // Elsewhere a place is held to what it takes on a machine that is on time.
            seen_ns: if options.emulated { seen(id) } else { Vec::new() },
            spans: world.sink.spans_of(id),
        }
    };
    let cases: Vec<Case> = ids.map(case).collect();
    let mut line = judge::judge(&running.row, &cases, asking.faults);
    line.seconds = watch.elapsed().as_secs_f64();
    Ok(line)
}
