//! `cargo xtask cluster`: a real Kubernetes of one or more nodes on this machine, each node in namespaces of its own: `up`
//! makes it, `test` runs the lab on it, `down` leaves nothing; `run` is all three. How it is made: docs/cluster.md.

mod credentials;
mod down;
mod host;
pub mod image;
mod place;
mod plan;
pub mod programs;
mod supervise;
mod test;
pub mod tools;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::progress;
pub use place::Place;
pub use up::tail;

/// Options of the cluster.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
    /// Where its state is; a second directory is a second cluster. Default: `cluster` in cargo's target directory.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Print the outcome as JSON, too.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug, Clone)]
enum Action {
    /// Build, start, and print KUBECONFIG.
    Up {
        /// How many nodes; none: one, or as many as are up.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: Option<u8>,
    },
    /// The chart and the lab on a cluster that is up.
    Test,
    /// `up`, `test` and `down` of a cluster of its own, which is gone afterwards in any case.
    Run {
        /// How many nodes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
    },
    /// End it and remove everything, also after a crash.
    Down,
    /// The first process of a node; `up` starts it.
    #[command(hide = true)]
    Supervise {
        /// What to run.
        plan: PathBuf,
    },
}

/// Makes a cluster at `place`, with the lab's images where they are wanted, or takes the one that is up there.
///
/// # Errors
/// It did not come up.
pub fn bring_up(root: &Path, place: &Place, nodes: u8, with_lab: bool) -> Result<()> {
    let up = up::run(root, place, Some(nodes), with_lab)?;
    eprintln!("  the cluster is ready after {}", progress::seconds(up.took));
    Ok(())
}

/// Ends it and removes everything.
///
/// # Errors
/// Something is left.
pub fn take_down(place: &Place) -> Result<()> {
    down::run(place).map(drop)
}

/// Runs it.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    if let Action::Supervise { plan } = &options.action {
        supervise::run(plan)?;
        return Ok(ExitCode::FAILURE);
    }
    // Another than a person's, which stays.
    let name = if matches!(options.action, Action::Run { .. }) { "cluster-run" } else { "cluster" };
    let directory = options.dir.clone().unwrap_or_else(|| wayspan_tests::target_dir().join(name));
    let place = Place::new(&directory)?;
    match options.action {
        Action::Up { nodes } => {
            let up = up::run(root, &place, nodes, true)?;
            let names: Vec<String> = place.nodes(&up.record).into_iter().map(|node| node.name).collect();
            if options.json {
                println!(
                    "{}",
                    json!({"kubeconfig": place.kubeconfig(), "nodes": names, "seconds": up.took.as_secs_f64()})
                );
            }
            eprintln!("{} ready after {}", names.join(", "), progress::seconds(up.took));
            println!("export KUBECONFIG={}", place.kubeconfig().display());
        }
        Action::Test => return test::run(root, &place, options.json),
        Action::Run { nodes } => {
            // What a run that was cut off has left may be of another state of the source.
            take_down(&place)?;
            let tested = bring_up(root, &place, nodes, true).and_then(|()| test::run(root, &place, options.json));
            let removed = take_down(&place);
            let code = tested?;
            removed?;
            return Ok(code);
        }
        Action::Down => {
            let removed = down::run(&place)?;
            if options.json {
                println!("{}", json!({"removed": removed}));
            }
            match removed.as_slice() {
                [] => println!("nothing was there"),
                removed => println!("removed: {}", removed.join(", ")),
            }
        }
        Action::Supervise { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
