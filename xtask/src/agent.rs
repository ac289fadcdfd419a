//! Builds the agent, with the eBPF object inside: as it is shipped, or quickly.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{ebpf, progress, setup};

/// Builds the eBPF object and the agent; the binary's path.
///
/// # Errors
/// A build failed.
pub fn build(root: &Path) -> Result<PathBuf> {
    ebpf::build(root)?;
    build_binary(root)
}

/// Builds the agent around the eBPF object that is there, if any.
///
/// # Errors
/// The build failed.
pub fn build_binary(root: &Path) -> Result<PathBuf> {
    let mut build = setup::cargo(root);
    build.args(["build", "--release", "--locked", "-p", "wayspan-agent"]);
    progress::command("building wayspan (release)", &build)?;
    Ok(wayspan_tests::target_dir().join("release/wayspan"))
}

/// Builds the eBPF object and the agent without optimising it much, in a quarter of the time: where it is tried what it does, and
/// nothing is measured.
///
/// # Errors
/// A build failed.
pub fn build_quick(root: &Path) -> Result<PathBuf> {
    ebpf::build(root)?;
    let mut build = setup::cargo(root);
    build.args(["build", "--locked", "-p", "wayspan-agent"]);
    progress::command("building wayspan (quickly)", &build)?;
    Ok(wayspan_tests::target_dir().join("debug/wayspan"))
}

/// The agent that `WAYSPAN_BIN` names, else built so.
///
/// # Errors
/// The build failed, or nothing is there.
pub fn named_or(build: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    match wayspan_tests::environment("WAYSPAN_BIN") {
        Some(named) => std::fs::canonicalize(&named).with_context(|| format!("WAYSPAN_BIN={named}")),
        None => build(),
    }
}
