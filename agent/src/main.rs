//! The `wayspan` command: reads its arguments, hands over to the library.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use wayspan_agent::kube::pods::doctor as cluster;
use wayspan_agent::{app, config, handover, probes};

// Measured in the bench: the proxy's allocations are small and short-lived, and cross no threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An ingress that says, for every request, where its time went.
#[derive(Debug, Parser)]
#[command(name = "wayspan", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration file: prints every fault, exits 1 if there is one.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Ask the agent of this pod, which POD_UID names, whether it is up: for two agents that share their ports (handOver.name).
    Healthcheck,
    /// Say what this kernel and these capabilities give: each probe on, or off and why.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Measure what a hit costs here (needs CAP_SYS_ADMIN).
        #[arg(long)]
        cost: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config } => app::run(&config),
        Command::Check { file } => check(&file),
        Command::Healthcheck => healthcheck(),
        Command::Doctor { json, cost } => doctor(json, cost),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wayspan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    match config::check(file) {
        Ok(_) => {
            say(&format!("{}: ok\n", file.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            let told: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            say(&format!("{told}{}\n", config::counted(&faults)))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the downward API's variable, read once, here")]
fn healthcheck() -> anyhow::Result<ExitCode> {
    let pod = std::env::var("POD_UID").context("POD_UID is not set: outside of a pod ask /ping at api.address")?;
    let (ready, told) = runtime()?.block_on(handover::ask_health(&pod)).context("the agent of this pod is not up")?;
    say(&format!("{told}\n"))?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn doctor(json: bool, cost: bool) -> anyhow::Result<ExitCode> {
    let report = probes::doctor::report(&config::model::Probes::default());
    let cluster = runtime()?.block_on(cluster::report());
    let costs = cost.then(|| probes::cost::measure().map_err(|error| error.to_string()));
    let prices = costs.as_ref().and_then(|costs| costs.as_deref().ok()).map(probes::cost::prices);
    let mut told = String::new();
    if json {
        let mut all = serde_json::to_value(&report)?;
        if let Some(fields) = all.as_object_mut() {
            fields.insert("kubernetes".to_owned(), serde_json::to_value(&cluster)?);
        }
        if let (Some(costs), Some(fields)) = (&costs, all.as_object_mut()) {
            fields.insert("costs".to_owned(), serde_json::to_value(costs)?);
            fields.insert("prices".to_owned(), serde_json::to_value(&prices)?);
        }
        writeln!(told, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        writeln!(told, "{report}{cluster}")?;
        match &costs {
            Some(Ok(costs)) => costs.iter().try_for_each(|cost| writeln!(told, "{cost}"))?,
            Some(Err(error)) => writeln!(told, "cost: not measured: {error}")?,
            None => {}
        }
        prices.iter().flatten().try_for_each(|price| writeln!(told, "{price}"))?;
    }
    say(&told)?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints. A reader that has seen enough, such as `head`, is no fault.
fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
