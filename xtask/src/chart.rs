//! `cargo xtask chart`: what can be said of the Helm chart without a cluster: Helm's own lint, the chart's tests, and that
//! the plain manifests under deploy/manifests are what the chart renders. On a cluster it is `cluster test`'s.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cluster::programs;
use crate::progress;

/// Where the chart is.
pub const CHART: &str = "deploy/helm/wayspan";

// Helm believes itself in front of an old cluster otherwise.
const KUBERNETES: [&str; 2] = ["--kube-version", "1.35.4"];

/// The plain manifests: file, what it is for, and the values that are set.
const MANIFESTS: [(&str, &str, &[&str]); 2] = [
    ("wayspan.yaml", "On every node, with probes, on ports 80 and 443.", &[]),
    (
        "restricted.yaml",
        "Two pods behind a Service that keep to the Restricted controls: no probes, no hostPort.",
        &[
            "ebpf.enabled=false",
            "deployment.kind=Deployment",
            "ports.web.hostPort=null",
            "ports.websecure.hostPort=null",
        ],
    ),
];

/// Options of the chart's checks.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Write the plain manifests anew instead of comparing them.
    #[arg(long)]
    update: bool,
}

/// Checks the chart, and prints how many tests of it passed.
///
/// # Errors
/// A check failed.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    println!("{}", check(root, options.update)?);
    Ok(())
}

/// The same, for the gate.
///
/// # Errors
/// As [`run`].
pub fn check(root: &Path, update: bool) -> Result<String> {
    let programs = programs::ensure_tools(root)?;
    let chart = root.join(CHART);
    let mut lint = Command::new(programs.join("helm"));
    progress::command("helm lint --strict", lint.args(["lint", "--strict"]).args(KUBERNETES).arg(&chart))?;
    let mut unit = Command::new(programs.join("helm-unittest"));
    let output = progress::command("the chart's tests", unit.arg("--strict").arg(&chart))?;
    let tests = output.lines().find(|line| line.starts_with("Tests:")).context("the chart's tests say no number")?;
    for (name, purpose, values) in MANIFESTS {
        let path = root.join("deploy/manifests").join(name);
        let rendered = render(&programs.join("helm"), &chart, purpose, values)?;
        if update {
            fs::write(&path, rendered)?;
        } else if fs::read_to_string(&path).is_ok_and(|held| held == rendered) {
            continue;
        } else {
            bail!("{} is not what the chart renders: run `cargo xtask chart --update`", path.display());
        }
    }
    Ok(tests.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
}

fn render(helm: &Path, chart: &Path, purpose: &str, values: &[&str]) -> Result<String> {
    let mut template = Command::new(helm);
    template.args(["template", "wayspan"]).arg(chart).args(["--namespace", "wayspan"]).args(KUBERNETES);
    for value in values {
        template.args(["--set", value]);
    }
    let output = template.output().context("helm could not be started")?;
    if !output.status.success() {
        bail!("helm template {}: {}", values.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    let rendered = String::from_utf8(output.stdout)?;
    let head = format!(
        "# {purpose}\n# Rendered from {CHART} by `cargo xtask chart --update`: change it there.\n\
         # kubectl create namespace wayspan && kubectl apply -f {CHART}/crds -f deploy/manifests/NAME\n"
    );
    // Whoever applies it with kubectl has no Helm that manages it.
    Ok(head + &rendered.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl"))
}
