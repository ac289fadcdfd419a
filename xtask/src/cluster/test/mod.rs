//! `cluster test`: the chart against the real API server, then the lab on the cluster: Wayspan by Helm, Jaeger and Hot
//! R.O.D. as pods, the lab's requests through a node's port, what Jaeger was told, the capabilities of the running
//! container, and updates of backend and agent under load.

mod ask;
mod chart;
mod lab;
mod near;
mod pods;
mod rights;
mod routes;
mod update;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::place::{Place, Record};
use super::{tools, up};
use crate::demo::Sent;
use crate::progress::{self, Stopwatch};

/// What the steps share.
pub struct Stage<'a> {
    root: &'a Path,
    place: &'a Place,
    record: Record,
    /// The outer process that holds the first node.
    holder: u32,
    /// What went through the route to Hot R.O.D. so far.
    sent: Vec<Sent>,
}

impl Stage<'_> {
    /// The first node's address.
    fn node(&self) -> Ipv4Addr {
        self.record.node(1)
    }

    fn chart(&self) -> PathBuf {
        self.root.join(crate::chart::CHART)
    }

    fn lab_file(&self, name: &str) -> PathBuf {
        self.root.join("deploy/lab/kubernetes").join(name)
    }
}

/// A step: its name and what it tells when it passes. Those that others build on end the run when they fail.
struct Step {
    name: &'static str,
    base: bool,
    /// On fewer nodes it has nothing to show, and is no part of the run.
    nodes: u8,
    run: fn(&mut Stage<'_>) -> Result<String>,
}

const fn step(name: &'static str, run: fn(&mut Stage<'_>) -> Result<String>) -> Step {
    Step { name, base: false, nodes: 1, run }
}

const STEPS: [Step; 19] = [
    step("the API server takes what the chart renders, over a matrix of values", chart::dry_run),
    Step { base: true, ..step("Jaeger and Hot R.O.D. run as pods", lab::start) },
    Step { base: true, ..step("helm install in default, every probe on", lab::install_in_default) },
    Step { base: true, ..step("the lab's curls, on the node and through its port 8000", lab::curls) },
    step("kubectl get services -l app=jaeger lists the lab's Services", lab::services),
    step("port-forward to the pod, 9000: dashboard and api", lab::dashboard),
    step("what Jaeger was told, as in the demo's checks", lab::jaeger),
    step("spans name the pods at both ends, and our own", pods::both_ends),
    step("the same route as an Ingress", routes::ingress),
    step("the same route as an HTTPRoute, and back", routes::http_route),
    step("the container's capabilities are BPF and PERFMON", rights::capabilities),
    step("without each of those that there are it runs, and says what it lacks", rights::without_each),
    step("with backends watched, a pod's own socket is seen in its namespace", lab::backend_points),
    step("a backend is updated under load, no request fails", update::backend),
    step("the agent is updated under load, no request fails", update::agent),
    Step {
        nodes: 2,
        ..step("a Service that prefers the same node is answered by the pod of the node that is asked", near::same_node)
    },
    Step { base: true, ..step("helm uninstall leaves nothing", lab::uninstall_from_default) },
    step("helm install in kube-system, the lab's curls again", lab::install_in_kube_system),
    step(
        "the restricted pods pass the namespace's Restricted policy, serve one namespace with rights there alone, and are updated \
         under load, no request fails",
        chart::restricted,
    ),
];

/// Runs all steps and prints what became of each.
///
/// # Errors
/// There is no cluster.
pub fn run(root: &Path, place: &Place, as_json: bool) -> Result<ExitCode> {
    let record = place.record().context("no cluster is up: `cargo xtask cluster up` makes one")?;
    if up::nodes_ready(place, &record).is_none() {
        bail!("the cluster's nodes are not ready: `cargo xtask cluster down`, then `up`");
    }
    let holder = tools::holder(place, 1).context("the first node is gone: `cargo xtask cluster down`, then `up`")?;
    let mut stage = Stage { root, place, record, holder, sent: Vec::new() };
    let mut rows = Vec::new();
    let steps: Vec<Step> = STEPS.into_iter().filter(|step| step.nodes <= stage.record.nodes).collect();
    for step in &steps {
        let watch = Stopwatch::start();
        let outcome = progress::step(step.name, || (step.run)(&mut stage));
        let failed = outcome.is_err();
        let detail = match outcome {
            Ok(detail) => detail,
            Err(error) => format!("{error:#}"),
        };
        rows.push((step.name, !failed, detail, watch.elapsed()));
        if failed && step.base {
            break;
        }
    }
    let failed = rows.iter().filter(|(_, passed, ..)| !passed).count();
    if as_json {
        let steps: Vec<_> = rows
            .iter()
            .map(|(name, passed, detail, took)| {
                json!({"step": name, "passed": passed, "detail": detail, "seconds": took.as_secs_f64()})
            })
            .collect();
        println!("{}", json!({"steps": steps, "failed": failed}));
    }
    for (name, passed, detail, took) in &rows {
        println!("{:<6} {:>7}  {name}: {detail}", if *passed { "ok" } else { "FAILED" }, progress::seconds(*took));
    }
    let skipped = steps.len() - rows.len();
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    println!("{} passed, {failed} failed{skipped}", rows.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
