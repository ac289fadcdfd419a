//! Builds the eBPF object from source with Debian's toolchain, which carries the sources of core.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::progress;

/// Builds the object; its path.
pub fn build(root: &Path) -> Result<PathBuf> {
    let package = root.join("agent-ebpf");
    if !package.join("Cargo.toml").is_file() {
        bail!("agent-ebpf has no Cargo.toml");
    }
    let mut build = Command::new("/usr/bin/cargo");
    build.current_dir(&package).args(["build", "--release", "-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    build.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    build.env("RUSTFLAGS", "-C linker=bpf-linker -C link-arg=--btf -C debuginfo=2");
    progress::command("building the eBPF object", &build)?;
    Ok(wayspan_tests::target_dir().join("bpfel-unknown-none/release/wayspan-ebpf"))
}
