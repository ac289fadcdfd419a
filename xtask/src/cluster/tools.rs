//! How the commands reach a cluster: kubectl and Helm with its kubeconfig, programs inside a node's namespaces, and the
//! processes that are marked as the cluster's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::place::{MARK, Place};
use super::programs;

/// kubectl of this cluster.
#[must_use]
pub fn kubectl(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::directory().join("kubectl"));
    command.arg("--kubeconfig").arg(place.kubeconfig()).args(arguments);
    command
}

/// Helm of this cluster, with its caches in the state directory.
#[must_use]
pub fn helm(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::directory().join("helm"));
    command.arg("--kubeconfig").arg(place.kubeconfig()).args(arguments);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, place.path("helm"));
    }
    command
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// It could not be started, or failed: then with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let name = words.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} could not be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{name} {}: {said}", words.get(1..).unwrap_or_default().join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What kubectl prints as JSON.
///
/// # Errors
/// As [`output`].
pub fn json(place: &Place, arguments: &[&str]) -> Result<Value> {
    let text = output(kubectl(place, arguments).args(["-o", "json"]))?;
    serde_json::from_str(&text).with_context(|| format!("kubectl {}: no JSON", arguments.join(" ")))
}

/// Applies a manifest that is given as text.
///
/// # Errors
/// As [`output`].
pub fn apply(place: &Place, name: &str, manifest: &str) -> Result<()> {
    let file = place.path(&format!("{name}.yaml"));
    fs::write(&file, manifest)?;
    output(kubectl(place, &["apply", "--server-side", "-f"]).arg(&file))?;
    Ok(())
}

/// A program in the mounts and the network of a node, whose outer process is `holder`.
#[must_use]
pub fn inside(holder: u32, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &holder.to_string(), "--mount", "--net", "--", program]).args(arguments);
    command
}

/// The processes that carry the mark of `place`, with their command lines; ourselves left out.
#[must_use]
pub fn marked(place: &Place) -> Vec<(u32, String)> {
    with_environment(&format!("{MARK}={}", place.mark()))
}

/// The processes whose environment holds this entry, `NAME=value`, with their command lines; ourselves left out.
#[must_use]
pub fn with_environment(mark: &str) -> Vec<(u32, String)> {
    processes()
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            // Gone or somebody else's: not ours.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environment.split(|byte| *byte == 0).find(|entry| *entry == mark.as_bytes())?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned()))
        })
        .collect()
}

/// All processes.
#[must_use]
pub fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process outside a node's namespaces that holds them.
#[must_use]
pub fn holder(place: &Place, node: u8) -> Option<u32> {
    let plan = place.path(&format!("node{node}/plan.json")).display().to_string();
    marked(place)
        .into_iter()
        .find(|(_, command)| command.starts_with("unshare ") && command.contains(&plan))
        .map(|(pid, _)| pid)
}

/// The cgroups of `place` that there are, in all hierarchies.
#[must_use]
pub fn cgroups(place: &Place) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let below = entries.flatten().map(|entry| entry.path().join(place.cgroup()));
    std::iter::once(base.join(place.cgroup())).chain(below).filter(|path| path.is_dir()).collect()
}
