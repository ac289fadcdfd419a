//! The command line of the repository.

#![expect(unreachable_pub, reason = "a binary has no outside: `pub` marks what a module offers the others")]

mod ebpf;

use std::path::Path;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF object from source.
    Ebpf,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    match Arguments::parse().command {
        Command::Ebpf => ebpf::build(&root).map(drop),
    }
}
