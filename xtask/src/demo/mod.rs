//! `cargo xtask demo`: the lab in one command. Starts Jaeger, Hot R.O.D. and Wayspan in front of it, replays the lab's
//! requests, prints a trace with its phases, and stays up; with `--check` it verifies the outcome instead and ends.

pub mod checks;
mod embedded;
mod embedded_checks;
mod lab;
mod tree;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use wayspan_tests::{Trace, wait_until};

use crate::{agent, peers, progress, setup};
use checks::Check;
pub use lab::{HOST, Lab, Place, Sent};

/// `--check` went well, but not with the real parts, or not with all probes.
const EXIT_FALLBACK: u8 = 3;

/// Options of the demo.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Verify the outcome through Jaeger's API and end: 0 all well, 1 a check failed, 3 well but with a fallback.
    #[arg(long)]
    check: bool,
    /// Use the embedded upstream and the agent's own trace view in place of Hot R.O.D. and Jaeger.
    #[arg(long)]
    embedded: bool,
    /// Print the outcome of --check as JSON.
    #[arg(long, requires = "check")]
    json: bool,
}

/// Runs it.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let (lab, trace) = start(root, options)?;
    if options.check { check(lab, trace.as_ref(), options) } else { stay_up(lab, trace.as_ref()) }
}

/// Builds, starts and drives the lab.
fn start(root: &Path, options: &Options) -> Result<(Lab, Option<Trace>)> {
    let (place, peers) = prepare(root, options)?;
    let binary = build_agent(root)?;
    let mut lab = progress::step("starting the lab", || Lab::start(root, &binary, peers, place))?;
    if options.embedded {
        // Asked for, so no fallback.
        lab.fallbacks.clear();
    }
    if let Some(lacking) = lab.lacking_probes()? {
        eprintln!("fallback: {lacking}");
        lab.fallbacks.push(lacking);
    }
    eprintln!("The lab's requests, through Wayspan at {}:", lab.web);
    lab.replay()?;
    let trace = match lab.jaeger() {
        Some(jaeger) => progress::step("waiting for the whole trace in Jaeger", || {
            Ok(wait_until(Duration::from_secs(20), || whole_trace(jaeger)))
        })?,
        None => None,
    };
    Ok((lab, trace))
}

/// Where the lab runs, and the real parts if they can be had.
fn prepare(root: &Path, options: &Options) -> Result<(Place, Result<peers::Peers, String>)> {
    let place = if options.check { Place::Private } else { Place::WellKnown };
    if options.embedded {
        return Ok((place, Err("asked for by --embedded".to_owned())));
    }
    let peers = peers::ensure(root).map_err(|error| format!("{error:#}"));
    if let Err(reason) = &peers {
        eprintln!("fallback: an embedded upstream instead of Hot R.O.D., the agent's own trace view instead of Jaeger");
        eprintln!("          because {reason}");
    }
    Ok((place, peers))
}

/// The agent, with probes wherever their toolchain can be had.
fn build_agent(root: &Path) -> Result<std::path::PathBuf> {
    agent::named_or(|| match setup::ensure(root, &[setup::Need::Ebpf]) {
        Ok(()) => agent::build(root),
        Err(error) => {
            eprintln!("fallback: Wayspan without its kernel probes, because their toolchain is missing:\n{error:#}");
            agent::build_binary(root)
        }
    })
}

/// A trace of one `GET /dispatch` in which ours and all of Hot R.O.D.'s services have arrived.
fn whole_trace(jaeger: &wayspan_tests::Jaeger) -> Option<Trace> {
    let traces = jaeger.traces(checks::OURS, 50).ok()?;
    traces.into_iter().find(|trace| {
        let ours = trace.of(checks::OURS).find(|span| span.kind() == "server");
        ours.is_some_and(|span| span.tag("http.request.method") == Some("GET") && trace.roots().count() == 1)
            && wayspan_tests::HotRod::SERVICES.iter().all(|name| trace.of(name).next().is_some())
    })
}

/// `--check`: verifies, reports, ends everything.
fn check(mut lab: Lab, trace: Option<&Trace>, options: &Options) -> Result<ExitCode> {
    let checks = progress::step("checking the outcome", || checks::all(&mut lab))?;
    let fallback = (!lab.fallbacks.is_empty()).then(|| lab.fallbacks.join("; "));
    let stopped = lab.shut_down();
    let failed = checks.iter().filter(|check| check.fault.is_some()).count();
    if options.json {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| json!({"name": check.name, "ok": check.fault.is_none(), "detail": check.fault}))
            .collect();
        let trace = trace.map(|trace| trace.id.as_str());
        println!("{}", json!({"checks": rows, "failed": failed, "fallback": fallback, "trace": trace}));
    } else {
        if let Some(trace) = trace {
            println!("{}", tree::render(trace));
        }
        checks.iter().for_each(report);
        println!("{} of {} checks ok", checks.len() - failed, checks.len());
    }
    stopped?;
    if failed > 0 {
        return Ok(ExitCode::FAILURE);
    }
    match fallback {
        Some(fallback) => {
            eprintln!("well, but with a fallback: {fallback}");
            Ok(ExitCode::from(EXIT_FALLBACK))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn report(check: &Check) {
    match &check.fault {
        None => println!("ok     {}", check.name),
        Some(fault) => println!("failed {}: {fault}", check.name),
    }
}

/// The interactive end: trace, links, and up until a signal.
fn stay_up(mut lab: Lab, trace: Option<&Trace>) -> Result<ExitCode> {
    match trace {
        Some(trace) => println!("{}", tree::render(trace)),
        None if lab.jaeger().is_some() => {
            eprintln!("no whole trace has arrived in Jaeger; `--check` says what is missing")
        }
        None => {}
    }
    lab.print_links(trace);
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second of a kind ends us at once; the kernel then ends our children.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&ending))?;
        signal_hook::flag::register(signal, Arc::clone(&ending))?;
    }
    println!("Up until Ctrl-C.");
    loop {
        let day = Duration::from_secs(24 * 60 * 60);
        let event = wait_until(day, || if ending.load(Ordering::SeqCst) { Some(None) } else { lab.ended().map(Some) });
        match event {
            Some(None) => break,
            Some(Some(fault)) => bail!("{fault}"),
            None => {}
        }
    }
    eprintln!();
    progress::step("stopping the lab", || lab.shut_down())?;
    eprintln!("Stopped; nothing is left behind.");
    Ok(ExitCode::SUCCESS)
}
