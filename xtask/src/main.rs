//! The command line of the repository: set-up, eBPF build, demo, tests. Each command is a module that does its work and
//! reports by [`progress`]; this file only reads the arguments.

#![expect(unreachable_pub, reason = "a binary has no outside: `pub` marks what a module offers the others")]

mod accuracy;
mod agent;
mod bench;
mod chart;
mod cluster;
mod conformance;
mod demo;
mod deny;
mod ebpf;
mod fixtures;
mod full;
mod joins;
mod outage;
mod page;
mod peers;
mod progress;
mod release;
mod scale;
mod setup;
mod steps;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, builds, demo and tests of Wayspan")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need, by name, only what is missing.
    Setup,
    /// Build the eBPF object from source.
    Ebpf,
    /// The lab: Jaeger, Hot R.O.D. and Wayspan in front of it; a trace in the terminal, then links.
    Demo(demo::Options),
    /// Build the program that is shipped: compiled with a profile of itself at work. Prints its path.
    Release,
    /// What a proxied request costs, beside HAProxy, nginx, Envoy and Traefik.
    Bench(bench::Options),
    /// What requests notice and what becomes of spans while Jaeger is stopped under load: 12 minutes, --quick 1.5.
    Outage(outage::Options),
    /// Injects faults with known truth and compares what the agent says of each request.
    Accuracy(accuracy::Options),
    /// A million requests whose every joined mark must lie in its request's own window.
    Joins(joins::Options),
    /// Thousands of routes: time from a change to its effect, CPU, memory, and the API server away.
    Scale(scale::Options),
    /// The whole gate: format, lints, tests, demo, browser, licences.
    Test(test::Options),
    /// Gateway API's own suite against the agent on a real node.
    Conformance(conformance::Options),
    /// Traefik's own fixtures against our translation and rules.
    Fixtures(fixtures::Options),
    /// All that the gate has no time for; the outcomes go to docs/conformance.md.
    Full(full::Options),
    /// The probes on Debian's kernels in virtual machines: `vm 6.1 6.12`; the matrix of kernel and probe.
    Vm(vm::Options),
    /// A real Kubernetes on this machine: `cluster up`, `cluster test`, `cluster down`, or all at once: `cluster run`.
    Cluster(cluster::Options),
    /// The Helm chart: lint, its tests, and the plain manifests that are rendered from it.
    Chart(chart::Options),
    /// Build the agent's container image without an engine. Prints the archive's path.
    Image,
    /// Check the repository's own rules: documentation, sizes, borders.
    Tidy,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let root = wayspan_tests::root();
    match command {
        Command::Setup => setup::ensure(&root, setup::Need::ALL)?,
        Command::Ebpf => {
            setup::ensure(&root, &[setup::Need::Ebpf])?;
            let object = ebpf::build(&root)?;
            println!("{}", object.display());
        }
        Command::Demo(options) => return demo::run(&root, &options),
        Command::Bench(options) => {
            setup::ensure(&root, &[setup::Need::Ebpf, setup::Need::Bench])?;
            return bench::run(&root, &options);
        }
        Command::Release => {
            setup::ensure(&root, &[setup::Need::Ebpf, setup::Need::Bench])?;
            println!("{}", release::build(&root)?.join("wayspan").display());
        }
        Command::Chart(options) => chart::run(&root, &options)?,
        Command::Cluster(options) => return cluster::run(&root, &options),
        Command::Image => {
            setup::ensure(&root, &[setup::Need::Ebpf])?;
            let (folder, archive) = cluster::image::agent_image(&root)?;
            eprintln!("  its files are in {}", folder.display());
            println!("{}", archive.display());
        }
        Command::Vm(options) => return vm::run(&root, &options),
        Command::Outage(options) => {
            setup::ensure(&root, &[setup::Need::Ebpf, setup::Need::Bench])?;
            return outage::run(&root, options);
        }
        Command::Accuracy(options) => return accuracy::run(&root, &options),
        Command::Conformance(options) => return conformance::run(&root, &options),
        Command::Fixtures(options) => return fixtures::run(&root, &options),
        Command::Full(options) => return full::run(&root, &options),
        Command::Joins(options) => return joins::run(&root, &options),
        Command::Scale(options) => return scale::run(&root, &options),
        Command::Test(options) => return test::run(&root, &options),
        Command::Tidy => return tidy::run(&root),
    }
    Ok(ExitCode::SUCCESS)
}
