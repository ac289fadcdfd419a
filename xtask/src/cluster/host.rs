//! What of the host a cluster could change: interfaces, packet filter tables, mounts, kernel parameters, named network
//! namespaces. `up` looks before it begins, `down` after it is done; what is new then has been left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Kernel parameters that a kubelet, kube-proxy or a CNI plugin writes.
const PARAMETERS: [&str; 11] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/default/rp_filter",
    "net/netfilter/nf_conntrack_max",
    "net/bridge/bridge-nf-call-iptables",
];

/// Folders that the components would make or fill if they saw the host's.
const FOLDERS: [&str; 9] = [
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/pods",
];

/// One look at the host; each entry says what it is.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Host {
    entries: BTreeSet<String>,
}

impl Host {
    /// Looks.
    #[must_use]
    pub fn look() -> Self {
        let mut entries = BTreeSet::new();
        for name in names("/sys/class/net") {
            entries.insert(format!("interface {name}"));
        }
        let tables = Command::new("nft").args(["list", "tables"]).output();
        for line in tables.map(|output| output.stdout).unwrap_or_default().split(|byte| *byte == b'\n') {
            entries.insert(format!("packet filter {}", String::from_utf8_lossy(line)));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            entries.insert(format!("mount {target}"));
        }
        for name in PARAMETERS {
            // One that a module brings is not there before the module is.
            if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
                entries.insert(format!("kernel parameter {} = {}", name.replace('/', "."), value.trim()));
            }
        }
        for folder in FOLDERS {
            for name in names(folder) {
                entries.insert(format!("file {folder}/{name}"));
            }
        }
        Self { entries }
    }

    /// Keeps the look in a file.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec(self)?).with_context(|| path.display().to_string())
    }

    /// The look that a file holds.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// What is there now and was not then, but for what another cluster's run has made meanwhile.
    #[must_use]
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        self.entries.difference(&before.entries).filter(|entry| !of_another_run(entry)).cloned().collect()
    }
}

/// Cables of other clusters come and go as they like.
fn of_another_run(entry: &str) -> bool {
    entry.strip_prefix("interface ws").is_some_and(|rest| {
        let digits = rest.trim_end_matches('n');
        digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(entries: &[&str]) -> Host {
        Host { entries: entries.iter().map(|entry| (*entry).to_owned()).collect() }
    }

    #[test]
    fn what_is_new_is_named_and_another_clusters_cable_is_not() {
        let before = host(&["interface lo", "kernel parameter kernel.panic = 0"]);
        let after =
            host(&["interface lo", "kernel parameter kernel.panic = 10", "interface ws00aa11bb", "mount /run/x"]);
        assert_eq!(after.new_since(&before), ["kernel parameter kernel.panic = 10", "mount /run/x"]);
        assert!(host(&["interface wsx"]).new_since(&before) == ["interface wsx"]);
    }

    #[test]
    fn a_look_survives_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let look = Host::look();
        look.keep(file.path()).unwrap();
        assert_eq!(Host::read(file.path()), Some(look));
    }
}
