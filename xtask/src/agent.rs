//! Builds the agent as it is shipped: release, with the eBPF object inside.

use std::path::{Path, PathBuf};

use anyhow::Result;

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
