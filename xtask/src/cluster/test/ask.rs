//! How the steps reach what is on the cluster: a pod by its label, an api behind a port-forward, and a request whose trace can
//! be found again.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use wayspan_tests::{Jaeger, PATIENCE, Process, Span, Trace, private_loopback, wait_until};

use super::super::credentials::random_hex;
use super::super::place::Place;
use super::super::tools::{json, kubectl, output};
use super::Stage;
use crate::demo::HOST;
use crate::demo::checks::OURS;

/// `kubectl port-forward` to a loopback address of its own, so that no port is in anyone's way.
pub(super) fn forward(place: &Place, namespace: &str, what: &str, port: u16) -> Result<(Process, SocketAddr)> {
    let host = private_loopback(&[port])?;
    let (address, ports) = (host.to_string(), format!("{port}:{port}"));
    let command = kubectl(place, &["-n", namespace, "port-forward", "--address", &address, what, &ports]);
    let mut process = Process::start("kubectl port-forward", command)?;
    process.wait_for_line("Forwarding from", |line| line.starts_with("Forwarding from").then_some(()))?;
    Ok((process, SocketAddr::from((host, port))))
}

/// Jaeger's query API.
pub(super) fn jaeger(place: &Place) -> Result<Jaeger> {
    let (process, address) = forward(place, "default", "service/jaeger-query", 16686)?;
    Ok(Jaeger::forwarded(process, address.ip()))
}

/// A pod in `default` with that label that is not about to end, on that node or on any.
pub(super) fn pod(place: &Place, label: &str, node: Option<&str>) -> Result<Value> {
    let pods = json(place, &["get", "pods", "-l", label])?;
    let fits = |pod: &&Value| {
        pod["metadata"]["deletionTimestamp"].is_null() && node.is_none_or(|node| pod["spec"]["nodeName"] == node)
    };
    let found = pods["items"].as_array().into_iter().flatten().find(fits).cloned();
    found.with_context(|| format!("no pod has the label {label}"))
}

/// A text of an object, such as `metadata.name`.
pub(super) fn text<'o>(object: &'o Value, path: &str) -> &'o str {
    path.split('.').fold(object, |at, key| &at[key]).as_str().unwrap_or_default()
}

/// The agent's pod on the first node, through which the lab's requests go.
pub(super) fn agent_pod(stage: &Stage<'_>) -> Result<String> {
    let pod = pod(stage.place, "app.kubernetes.io/name=wayspan", Some("node1"))?;
    Ok(text(&pod, "metadata.name").to_owned())
}

/// curl of the lab's host, from outside through port 8000 of a node.
pub(super) fn through(node: Ipv4Addr, target: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "30", "--resolve", &format!("{HOST}:8000:{node}")]);
    curl.arg(format!("http://{HOST}:8000{target}"));
    curl
}

/// What Jaeger knows of the request that `curl` is. The request carries a trace of its own.
pub(super) fn traced(jaeger: &Jaeger, mut curl: Command) -> Result<Trace> {
    let (id, parent) = (random_hex(16)?, random_hex(8)?);
    curl.args(["-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("traceparent: 00-{id}-{parent}-01")]);
    let status = output(&mut curl)?;
    if status != "200" {
        bail!("a request was answered {status}");
    }
    // Hot R.O.D.'s spans come by another way than ours.
    let complete = || {
        let trace = jaeger.trace(&id).ok()?;
        let has = |service: &str| trace.of(service).next().is_some();
        (has(OURS) && has("frontend")).then_some(trace)
    };
    wait_until(PATIENCE, complete).with_context(|| format!("Jaeger has no trace {id} of a request"))
}

/// Our span of that kind in a trace.
pub(super) fn ours<'t>(trace: &'t Trace, kind: &str) -> Result<&'t Span> {
    let found = trace.of(OURS).find(|span| span.kind() == kind);
    found.with_context(|| format!("trace {} has no {kind} span of ours", trace.id))
}
