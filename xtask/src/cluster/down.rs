//! `cluster down`: ends everything of a cluster, whole or half or crashed, removes what it made outside its namespaces, and
//! fails where something is left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use wayspan_tests::wait_until;

use super::host::Host;
use super::place::Place;
use super::tools::{cgroups, marked, output};

// Killed processes go at once; the kernel takes its time with their namespaces.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes the cluster; the names of what was there to remove.
///
/// # Errors
/// Something is left: each of it by name.
pub fn run(place: &Place) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let before = Host::read(&place.path("host.json"));
    let processes = marked(place).len();
    end_processes(place);
    if processes > 0 {
        removed.push(format!("{processes} processes and all that ran in their namespaces"));
    }
    let cable = Path::new("/sys/class/net").join(place.cable());
    if cable.exists() {
        // Its other end, or the kernel as it ends the first node's network, may be quicker.
        let _gone = output(Command::new("ip").args(["link", "delete", &place.cable()]));
    }
    if remove_cgroups(place) {
        removed.push("cgroups".to_owned());
    }
    let left = wait_until(PATIENCE, || left(place, before.as_ref()).is_empty().then_some(()))
        .map_or_else(|| left(place, before.as_ref()), |()| Vec::new());
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    if place.directory.exists() {
        fs::remove_dir_all(&place.directory)?;
        removed.push(place.directory.display().to_string());
    }
    Ok(removed)
}

/// Kills by process id until none is left: what holds a node's namespaces first, with which the node goes.
fn end_processes(place: &Place) {
    wait_until(PATIENCE, || {
        let processes = marked(place);
        let (holders, others): (Vec<_>, Vec<_>) =
            processes.into_iter().partition(|(_, command)| command.starts_with("unshare "));
        let first = if holders.is_empty() { others } else { holders };
        for (pid, _) in &first {
            let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { continue };
            let _gone = kill_process(pid, Signal::KILL);
        }
        first.is_empty().then_some(())
    });
}

/// Removes the cgroups, deepest first; whether there were any.
fn remove_cgroups(place: &Place) -> bool {
    let there = !cgroups(place).is_empty();
    wait_until(PATIENCE, || {
        let all = cgroups(place);
        for cgroup in &all {
            remove_tree(cgroup);
        }
        all.is_empty().then_some(())
    });
    there
}

/// A cgroup's files cannot be removed, its folders can when they hold no process.
fn remove_tree(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    for child in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        remove_tree(&child);
    }
    let _busy = fs::remove_dir(cgroup);
}

/// Everything that should not be there any longer.
fn left(place: &Place, before: Option<&Host>) -> Vec<String> {
    let mut left: Vec<String> =
        marked(place).into_iter().map(|(pid, command)| format!("process {pid} {command}")).collect();
    left.extend(cgroups(place).iter().map(|path| format!("cgroup {}", path.display())));
    let now = Host::look();
    let cable = format!("interface {}", place.cable());
    // Without a look from before, what carries our name or lies in our folder is ours.
    let own = |entry: &String| *entry == cable || entry.contains(&*place.directory.to_string_lossy());
    left.extend(now.new_since(&Host::default()).into_iter().filter(own));
    if let Some(before) = before {
        left.extend(now.new_since(before));
    }
    if Path::new("/sys/class/net").join(place.cable()).exists() {
        left.push(cable);
    }
    left.dedup();
    left
}
