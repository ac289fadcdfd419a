//! Installs what the commands need, by name, and only what is missing: Debian packages, Cargo tools, npm packages. What
//! comes from Go modules is [`crate::peers`]'s. Where it cannot, it says what to do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress;

/// The version that the LLVM of Debian's rustc-web agrees with.
const BPF_LINKER: &str = "0.13.0";

/// Reads advisories, licences and bans; see deny.toml.
pub const CARGO_DENY: &str = "0.20.2";

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A toolchain with the sources of core, and bpf-linker.
    Ebpf,
    /// What bpf-linker is built with.
    BpfLinker,
    /// What the tests of the whole node call: strace, ip, setcap, systemd-analyze.
    NodeTests,
    /// The peers of the bench.
    Bench,
    /// Chromium, Node, playwright-core.
    Browser,
    /// cargo-deny.
    Deny,
    /// QEMU and what the machines in it start with.
    Vm,
    /// What a Kubernetes node consists of beside Kubernetes.
    Cluster,
}

impl Need {
    /// Everything.
    pub const ALL: &'static [Self] =
        &[Self::Ebpf, Self::NodeTests, Self::Bench, Self::Browser, Self::Deny, Self::Vm, Self::Cluster];

    /// Debian packages, each with the command that makes it unnecessary.
    fn packages(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Self::Ebpf => &[("rustc-web", None), ("cargo-web", None), ("rust-web-src", None)],
            Self::BpfLinker => &[
                // It links against LLVM, and that against the others.
                ("llvm-22-dev", None),
                ("libzstd-dev", None),
                ("zlib1g-dev", None),
                ("libxml2-dev", None),
                ("g++", Some("g++")),
            ],
            Self::NodeTests => &[
                ("iproute2", Some("ss")),
                ("strace", Some("strace")),
                ("libcap2-bin", Some("setcap")),
                // Its tools read the unit; nothing of it is started.
                ("systemd", Some("systemd-analyze")),
            ],
            Self::Bench => &[("nginx-light", Some("nginx")), ("haproxy", Some("haproxy")), ("wrk", Some("wrk"))],
            Self::Browser => &[("chromium", Some("chromium")), ("nodejs", Some("node")), ("npm", Some("npm"))],
            Self::Deny => &[],
            Self::Vm => &[
                ("qemu-system-x86", Some("qemu-system-x86_64")),
                ("busybox-static", None),
                ("cpio", Some("cpio")),
                ("iproute2", Some("ip")),
            ],
            Self::Cluster => &[
                ("etcd-server", Some("etcd")),
                ("containerd", Some("containerd")),
                ("runc", Some("runc")),
                ("containernetworking-plugins", None),
                ("iproute2", Some("ip")),
                // The plugin of hostPorts and kube-proxy call them.
                ("iptables", Some("iptables")),
                ("nftables", Some("nft")),
                ("conntrack", Some("conntrack")),
                // Makes the key of service accounts.
                ("openssl", Some("openssl")),
                ("procps", Some("sysctl")),
                ("curl", Some("curl")),
            ],
        }
    }
}

/// Installs what is missing of `needs`.
pub fn ensure(root: &Path, needs: &[Need]) -> Result<()> {
    let wanted = |need: &&Need| match need {
        Need::Ebpf => !nightly_has_core(),
        _ => true,
    };
    let linker = needs.contains(&Need::Ebpf) && !has_tool("bpf-linker", BPF_LINKER);
    let missing: Vec<&str> = needs
        .iter()
        .filter(wanted)
        .chain(linker.then_some(&Need::BpfLinker))
        .flat_map(|need| need.packages())
        .filter(|(package, command)| !command.is_some_and(|name| find_program(name).is_some()) && !installed(package))
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    if needs.contains(&Need::Ebpf) {
        // Named without a feature, it would look for the newest LLVM there is.
        let mut install = Command::new("cargo");
        install.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", "/usr/lib/llvm-22");
        cargo_tool(root, "bpf-linker", BPF_LINKER, &install)?;
    }
    if needs.contains(&Need::Deny) {
        // Unoptimised: built in half the time, and it runs for seconds.
        let mut install = Command::new("cargo");
        install.arg("--debug");
        cargo_tool(root, "cargo-deny", CARGO_DENY, &install)?;
    }
    if needs.contains(&Need::Browser) {
        browser_modules(root)?;
    }
    Ok(())
}

/// Where a program is, in PATH or in Cargo's directory.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = wayspan_tests::environment("PATH").unwrap_or_default();
    let cargo = cargo_home().map(|home| home.join("bin"));
    std::env::split_paths(&path).chain(cargo).map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn cargo_home() -> Option<PathBuf> {
    let home = || wayspan_tests::environment("HOME").map(|home| Path::new(&home).join(".cargo"));
    wayspan_tests::environment("CARGO_HOME").map(PathBuf::from).or_else(home)
}

fn installed(package: &str) -> bool {
    let output =
        Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let has_apt = find_program("apt-get").is_some();
    if let Some(obstacle) = obstacle(&names, has_apt, rustix::process::geteuid().is_root()) {
        bail!(obstacle);
    }
    update_lists()?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-qq", "-y", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    progress::uninterrupted(&format!("apt-get install {names}"), install).context("packages could not be installed")?;
    Ok(())
}

/// Fetches the lists of packages.
pub fn update_lists() -> Result<()> {
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]);
    progress::uninterrupted("apt-get update", update)
        .context("the package lists could not be fetched (are the registries of /etc/apt reachable?)")?;
    Ok(())
}

/// Why packages cannot be installed here, and what to do instead.
fn obstacle(names: &str, has_apt: bool, root: bool) -> Option<String> {
    if !has_apt {
        return Some(format!(
            "missing: {names}. These are names of Debian packages and this machine has no apt-get: install their like, \
             then run this command again"
        ));
    }
    (!root).then(|| {
        format!(
            "missing Debian packages, and only root can install them. Run\n    \
             sudo apt-get install --no-install-recommends -y {names}\nthen this command again"
        )
    })
}

/// `cargo install` of a tool unless that version is there; `extra` gives further arguments and environment.
fn cargo_tool(root: &Path, name: &str, version: &str, extra: &Command) -> Result<()> {
    if has_tool(name, version) {
        return Ok(());
    }
    let mut install = cargo(root);
    install.args(["install", name, "--version", version, "--locked"]).args(extra.get_args());
    for (variable, value) in extra.get_envs() {
        install.env(variable, value.unwrap_or_default());
    }
    // Not the workspace's target directory: that would block builds that run meanwhile.
    install.env("CARGO_TARGET_DIR", wayspan_tests::target_dir().join("tools"));
    progress::command(&format!("cargo install {name} {version}"), &install)
        .with_context(|| format!("{name} could not be built (is the crates registry reachable?)"))?;
    Ok(())
}

fn has_tool(name: &str, version: &str) -> bool {
    let Some(program) = find_program(name) else { return false };
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == version))
}

/// Whether rustup has a nightly with the sources of core, which the eBPF build prefers.
fn nightly_has_core() -> bool {
    let output = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    output.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
    })
}

/// Cargo of this repository's toolchain, at its root, as a shell would call it. What `cargo run` tells this program of its own
/// package is taken away: build scripts that ask for it (ring's) would run, and all behind them be built, once more for
/// each change of the caller.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(wayspan_tests::environment("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    command
}

fn browser_modules(root: &Path) -> Result<()> {
    let directory = root.join("tests/browser");
    let lock = directory.join("package-lock.json");
    // npm leaves a copy of the lock that it has carried out, in its own words: compare by age.
    let done = directory.join("node_modules/.package-lock.json");
    let age = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if !lock.exists() || age(&done).is_some_and(|done| Some(done) >= age(&lock)) {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&directory).env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
    progress::command("npm ci in tests/browser", &npm)
        .context("the browser test's modules could not be installed (is the npm registry reachable?)")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_hear_of_the_package_that_calls_it() {
        // Cargo has told this test, as it tells xtask.
        assert!(std::env::vars_os().any(|(name, _)| name == "CARGO_MANIFEST_DIR"));
        let command = cargo(Path::new("/"));
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
            assert!(removed.iter().any(|removed| *removed == name), "{removed:?}");
        }
    }

    #[test]
    fn a_package_that_dpkg_does_not_know_is_not_installed() {
        assert!(!installed("no-such-package-of-wayspan"));
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_the_remedy() {
        assert_eq!(obstacle("one two", true, true), None);
        let user = obstacle("one two", true, false).unwrap();
        assert!(user.contains("sudo apt-get install") && user.contains("one two"), "{user}");
        let elsewhere = obstacle("one two", false, true).unwrap();
        assert!(elsewhere.contains("no apt-get") && elsewhere.contains("one two"), "{elsewhere}");
    }
}
