//! The programs of a cluster that come from Go modules, built once for each state of the go.mod that pins them: the node's
//! parts, and what works on a cluster from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::tools::output;
use crate::{peers, progress};

/// The version that tests/peers/kubernetes/go.mod pins; programs of another one would be refused by clients that read it.
const KUBERNETES: &str = "1.35.4";

/// A Go module of ours and what is built in it.
struct Module {
    directory: &'static str,
    what: &'static str,
    go_minor_min: u32,
    packages: &'static [&'static str],
}

const NODE: Module = Module {
    directory: "tests/peers/kubernetes",
    what: "Kubernetes' parts from their Go module, 10 min the first time",
    go_minor_min: 25,
    packages: &[
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kube-proxy",
        "k8s.io/kubernetes/cmd/kubectl",
    ],
};

const TOOLS: Module = Module {
    directory: "tests/peers/kubernetes/tools",
    what: "Helm, its chart tests, CoreDNS and the echo server from their Go modules, 4 min the first time",
    go_minor_min: 26,
    packages: &[
        "helm.sh/helm/v3/cmd/helm",
        "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
        "sigs.k8s.io/gateway-api/conformance/echo-basic",
        "./coredns",
        "./pause",
    ],
};

/// Where the programs are put.
#[must_use]
pub fn directory() -> PathBuf {
    wayspan_tests::target_dir().join("peers/kubernetes")
}

/// Builds what is missing of the node's parts and of the tools, and gives their directory.
///
/// # Errors
/// No suitable Go, or a build failed.
pub fn ensure(root: &Path) -> Result<PathBuf> {
    build(root, &NODE)?;
    ensure_tools(root)
}

/// The same for the node's parts alone.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_node(root: &Path) -> Result<PathBuf> {
    build(root, &NODE)?;
    Ok(directory())
}

/// The same for Helm and the other tools alone.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_tools(root: &Path) -> Result<PathBuf> {
    build(root, &TOOLS)?;
    Ok(directory())
}

/// The resource definitions of Gateway API, from the module.
///
/// # Errors
/// Go does not know the module.
pub fn gateway_definitions(root: &Path) -> Result<PathBuf> {
    Ok(module_directory(root, TOOLS.directory, "sigs.k8s.io/gateway-api")?.join("config/crd/standard"))
}

/// The resource definitions of the kinds of the Prometheus operator that the chart has objects of.
///
/// # Errors
/// Go does not get the module.
pub fn operator_definitions(root: &Path) -> Result<Vec<PathBuf>> {
    const MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
    const DIRECTORY: &str = "tests/peers/prometheus-operator";
    let mut download = Command::new(peers::find_go(TOOLS.go_minor_min)?);
    output(download.current_dir(root.join(DIRECTORY)).args(["mod", "download", MODULE]))?;
    let all = module_directory(root, DIRECTORY, MODULE)?.join("example/prometheus-operator-crd");
    Ok(["servicemonitors", "prometheusrules"].map(|kind| all.join(format!("monitoring.coreos.com_{kind}.yaml"))).into())
}

/// Where Go has put a module that a go.mod of ours, in this directory, requires.
///
/// # Errors
/// Go does not know it.
pub fn module_directory(root: &Path, directory: &str, module: &str) -> Result<PathBuf> {
    let mut list = Command::new(peers::find_go(TOOLS.go_minor_min)?);
    list.current_dir(root.join(directory)).args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module]);
    Ok(PathBuf::from(output(&mut list)?.trim()))
}

fn build(root: &Path, module: &Module) -> Result<()> {
    let (source, target) = (root.join(module.directory), directory());
    let wanted = state(&source)?;
    let stamp = target.join(format!("{}.built", module.directory.replace('/', "-")));
    let names: Vec<&str> = module.packages.iter().filter_map(|package| package.rsplit('/').next()).collect();
    let complete = names.iter().all(|name| target.join(name).is_file());
    if complete && fs::read(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    let go = peers::find_go(module.go_minor_min)?;
    // Built beside and moved, so that what runs meanwhile keeps its file and a broken build leaves none.
    let fresh = target.join("new");
    fs::create_dir_all(&fresh)?;
    let mut build = Command::new(go);
    let version = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}");
    build.current_dir(&source).args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", &version]);
    // As Kubernetes' own release is built: without what only its tests and gRPC's tracing pages need.
    build.args(["-tags", "notest,grpcnotrace"]);
    // Static: most of them are put into images that hold nothing else.
    build.env("CGO_ENABLED", "0").arg("-o").arg(format!("{}/", fresh.display())).args(module.packages);
    progress::command(&format!("building {}", module.what), &build).with_context(|| {
        format!("{} could not be built (is the Go module proxy of `go env GOPROXY` reachable?)", module.directory)
    })?;
    for name in names {
        fs::rename(fresh.join(name), target.join(name))?;
    }
    fs::remove_dir_all(&fresh)?;
    fs::write(stamp, wanted)?;
    Ok(())
}

/// Everything of ours that decides what is built: go.mod, go.sum and our own few programs.
fn state(source: &Path) -> Result<Vec<u8>> {
    let mut state = fs::read(source.join("go.mod")).with_context(|| source.join("go.mod").display().to_string())?;
    for program in ["coredns/main.go", "pause/main.go"] {
        state.extend(fs::read(source.join(program)).unwrap_or_default());
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_told_to_clients_is_the_one_that_is_pinned() {
        let text = fs::read_to_string(wayspan_tests::root().join(NODE.directory).join("go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes v{KUBERNETES}\n")), "not {KUBERNETES}");
    }
}
