//! `cargo xtask joins --churn`: connections that come and go at 5,000 a second. Afterwards every slot of the probes must be
//! free again, to the last one; each connection that found none must have been counted and its span must say so; and memory
//! must show no trend.

use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use wayspan_tests::wait_until;

use super::book::Kind;
use super::judge::Verdict;
use super::load::{Outcome, Plan, Quota};
use super::memory::Memory;
use super::site::{Site, is_even};
use super::{Options, WARM_UP};
use crate::outage::account::{Account, page, value};
use crate::progress::Stopwatch;

const SECONDS: u32 = 60;
const SECONDS_QUICK: u32 = 20;
/// Each has one connection at a time: enough for a pace that holds while connections take 40 ms.
const CLIENTS: usize = 192;
/// `probes.slots` here, as `site` configures it: 5,000 connections a second that rest for 2 s each need more than the 8,192 of
/// the default.
const SLOTS: usize = 16_384;
/// A freed slot rests for 2 s before it is used again.
const REST: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);
/// Connections beyond the last slot.
const BEYOND: usize = 16;
/// Descriptors beside the connections.
const DESCRIPTORS: usize = 500;
/// Connections opened before the agent is asked whether it has them: fewer than wait to be accepted.
const AT_ONCE: usize = 512;

/// One minute.
#[derive(Clone, Copy, Debug, Serialize)]
struct Stage {
    name: &'static str,
    /// New connections of clients.
    per_second: u32,
    /// Whether `probes.backends` is on.
    backends: bool,
    #[serde(skip)]
    kind: Kind,
}

const STAGES: [Stage; 3] = [
    Stage { name: "kept upstream connections", per_second: 5_000, backends: false, kind: Kind::ShortLived },
    Stage {
        name: "kept upstream connections, backends watched",
        per_second: 5_000,
        backends: true,
        kind: Kind::ShortLived,
    },
    // 7,000 connections with those to the backend, three slots for each pair, which rest for two seconds: more than there
    // are.
    Stage {
        name: "fresh upstream connections, backends watched",
        per_second: 3_500,
        backends: true,
        kind: Kind::ShortBoth,
    },
];

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    stage: Stage,
    connections_per_second: f64,
    /// Connections that found no slot, by the agent's counter and by the spans.
    refused: u64,
    refused_by_spans: u64,
    /// Slots that the connections left to the upstream hold, and how many more were found free after the rest.
    slots_held: usize,
    slots_free: usize,
    /// Of [`BEYOND`] connections more, those that the counter told.
    refused_beyond: u64,
    /// Before the load, after its warm-up and at its end.
    resident_mb: [u64; 3],
    /// By its trend after the warm-up.
    resident_growth_bytes_per_minute: u64,
    full: u64,
    requests: u64,
    wrong: u64,
    faults: Vec<String>,
}

/// All stages, a new agent each.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (SLOTS + BEYOND + DESCRIPTORS) as u64;
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        bail!("`ulimit -Hn` must be {wanted}: every slot is filled with a connection");
    }
    // The agent inherits it.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let seconds = if options.quick { SECONDS_QUICK } else { SECONDS };
    let lines = STAGES.map(|stage| measure(stage, seconds, options.seed));
    let lines = lines.into_iter().collect::<Result<Vec<_>>>()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print(&lines);
    }
    let passed = lines.iter().all(|line| line.faults.is_empty());
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(stage: Stage, seconds: u32, seed: u64) -> Result<Line> {
    let requests = stage.per_second * seconds;
    let quota = match stage.kind.has_fresh_upstream() {
        true => Quota { warm_up: 0, kept: 0, fresh: requests },
        false => Quota { warm_up: WARM_UP, kept: requests, fresh: 0 },
    };
    let site = Site::start(quota.all(), stage.backends)?;
    let plan = Plan { clients: vec![(stage.kind, CLIENTS)], quota, per_second: Some(stage.per_second), seed };
    let ended = AtomicBool::new(false);
    let (played, looks) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_memory(&site, &ended));
        let played = site.play(plan);
        std::thread::sleep(REST);
        ended.store(true, Ordering::Relaxed);
        (played, watcher.join())
    });
    let (verdict, account, outcome, took) = played?;
    let looks = looks.map_err(|_| anyhow::anyhow!("the watch over memory ended"))?;
    let load = Duration::from_secs_f64(took);
    let memory = Memory::of(&looks, load);
    let refused = page_value(&site, "wayspan_probe_refusals_total")?;
    let slots_held = held(&outcome) * if stage.backends { 2 } else { 1 };
    let (slots_free, refused_beyond) = fill(&site, SLOTS.saturating_sub(slots_held), refused)?;
    site.stop()?;
    let (full, all) = verdict.lines.values().fold((0, 0), |(full, all), line| (full + line.full, all + line.requests));
    let mut line = Line {
        stage,
        connections_per_second: f64::from(requests) / took,
        refused,
        refused_by_spans: refused_by_spans(&verdict),
        slots_held,
        slots_free,
        refused_beyond,
        resident_mb: [memory.begin, memory.settled, memory.end].map(|bytes| bytes >> 20),
        resident_growth_bytes_per_minute: memory.per_minute,
        full,
        requests: all,
        wrong: verdict.wrong,
        faults: Vec::new(),
    };
    line.faults = faults(&line, &verdict, is_even(&account, quota.all()));
    let memory = memory.faults(u64::from(stage.per_second) * 60, load);
    line.faults.extend(memory.into_iter().map(str::to_owned));
    Ok(line)
}

fn faults(line: &Line, verdict: &Verdict, is_even: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |is_well: bool, told: &str| {
        if !is_well {
            faults.push(told.to_owned());
        }
    };
    check(
        line.connections_per_second >= f64::from(line.stage.per_second) * 0.98,
        "fewer connections came than were due",
    );
    check(line.refused == line.refused_by_spans, "the counter of refusals and the spans do not agree");
    check(line.slots_free + line.slots_held == SLOTS, "slots have leaked");
    check(line.refused_beyond == BEYOND as u64, "connections beyond the last slot were not counted as refused");
    check(is_even, "spans were lost");
    let is_kept = !line.stage.kind.has_fresh_upstream();
    check(!is_kept || line.refused == 0, "connections were refused although there are enough slots");
    check(!is_kept || verdict.covers(), "too few spans have full coverage");
    if let Some((id, fault)) = &verdict.first {
        check(false, &format!("{} requests are wrong, first {id}: {fault}", verdict.wrong));
    }
    faults
}

/// Looks at memory until the load has ended and rested.
fn watch_memory(site: &Site, ended: &AtomicBool) -> Vec<(Duration, u64)> {
    let watch = Stopwatch::start();
    let mut looks = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        if let Ok(look) = Account::read(site.api, watch.elapsed()) {
            looks.push((look.at, look.resident_bytes));
        }
        std::thread::sleep(LOOK);
    }
    looks
}

/// Connections that got no slot, as their spans say: each connection has one request, and a fresh one to the upstream.
fn refused_by_spans(verdict: &Verdict) -> u64 {
    let others = verdict.lines.values().flat_map(|line| &line.others);
    let sides = ["no slot for the client connection", "no slot for the upstream connection"];
    others.map(|(told, count)| count * sides.iter().filter(|side| told.contains(*side)).count() as u64).sum()
}

/// Connections of the backends that the agent has not closed.
fn held(outcome: &Outcome) -> usize {
    let is_open = |socket: &&TcpStream| matches!(socket.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    outcome.servers.iter().filter(is_open).count()
}

/// Fills so many slots with connections that do nothing. How many got one, and how many of a few more were refused.
fn fill(site: &Site, free: usize, refused_before: u64) -> Result<(usize, u64)> {
    let accepted_before = page_value(site, "wayspan_accepted_connections_total")?;
    let mut connections = Vec::with_capacity(free + BEYOND);
    let mut open = |count: usize| -> Result<u64> {
        while connections.len() < count {
            for _ in 0..AT_ONCE.min(count - connections.len()) {
                let host = Ipv4Addr::new(127, 200, 0, 1 + u8::try_from(connections.len() / AT_ONCE)?);
                connections
                    .push(TcpStream::connect((host, site.web.port())).context("a connection that does nothing")?);
            }
            let wanted = accepted_before + connections.len() as u64;
            let accepted = || page_value(site, "wayspan_accepted_connections_total").ok();
            wait_until(wayspan_tests::PATIENCE, || accepted().filter(|accepted| *accepted >= wanted))
                .context("connections that are not accepted")?;
        }
        page_value(site, "wayspan_probe_refusals_total")
    };
    let refused_meanwhile = open(free)? - refused_before;
    let refused_beyond = open(free + BEYOND)? - refused_before - refused_meanwhile;
    Ok((free.saturating_sub(usize::try_from(refused_meanwhile)?), refused_beyond))
}

fn page_value(site: &Site, name: &str) -> Result<u64> {
    value(&page(site.api)?, name)
}

fn print(lines: &[Line]) {
    println!(
        "| | connections/s | refused: counter, spans | slots held + found free of {SLOTS} | refused of {BEYOND} beyond | MB before, after the warm-up, at the end; growth a minute | full | wrong |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for line in lines {
        let [before, settled, end] = line.resident_mb;
        println!(
            "| {} | {:.0} | {}, {} | {} + {} | {} | {}, {}, {}; {:.1} | {} of {} | {} |",
            line.stage.name,
            line.connections_per_second,
            line.refused,
            line.refused_by_spans,
            line.slots_held,
            line.slots_free,
            line.refused_beyond,
            before,
            settled,
            end,
            line.resident_growth_bytes_per_minute as f64 / f64::from(1 << 20),
            line.full,
            line.requests,
            line.wrong
        );
        for fault in &line.faults {
            println!("FAILED {}: {fault}", line.stage.name);
        }
    }
}
