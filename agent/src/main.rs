//! The `wayspan` command: reads its arguments, hands over to the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use wayspan_agent::{app, config, probes};

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
            println!("{}: ok", file.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            for fault in &faults {
                println!("{fault}");
            }
            println!("{} faults", faults.len());
            Ok(ExitCode::FAILURE)
        }
    }
}

fn doctor(json: bool, cost: bool) -> anyhow::Result<ExitCode> {
    let report = probes::doctor::report(&config::model::Probes::default());
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if cost {
        match probes::cost::measure() {
            Ok(costs) => {
                for cost in costs {
                    let whose = match cost.whose {
                        probes::cost::Whose::Own => "watched",
                        probes::cost::Whose::Backend => "backend",
                        probes::cost::Whose::Foreign => "foreign",
                    };
                    println!(
                        "{:<21} {:>4} ns a hit on a {whose} socket, {} hits",
                        cost.tracepoint, cost.run_ns, cost.runs
                    );
                }
            }
            Err(error) => println!("cost: not measured: {error}"),
        }
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
