//! The names of the pods at both ends of a request that comes from a pod.

use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;
use wayspan_tests::{PATIENCE, Span, wait_until};

use super::super::tools::json;
use super::lab::{self, TARGETS};
use super::{Stage, ask, rights};
use crate::demo::HOST;
use crate::demo::checks::OURS;

/// Asks from within the network of a pod of the echo servers, through the ingress' Service.
pub(super) fn both_ends(stage: &mut Stage<'_>) -> Result<String> {
    let place = stage.place;
    lab::apply_peer(stage, "echo.yaml")?;
    lab::rollout(place, "default", "deployment/echo")?;
    let (caller, backend) = (ask::pod(place, "app=echo", None)?, ask::pod(place, "app=hotrod", None)?);
    let service = json(place, &["get", "service", "wayspan"])?;
    let url = format!("http://{}{}", ask::text(&service, "spec.clusterIP"), TARGETS[0]);
    let process = rights::process_of(&caller)?.to_string();
    let jaeger = ask::jaeger(place)?;
    let mut last = String::new();
    let named = wait_until(PATIENCE, || {
        let mut curl = Command::new("nsenter");
        curl.args(["--target", &process, "--net", "--", "curl", "-sS", "--max-time", "30"]);
        curl.args(["-H", &format!("host: {HOST}"), &url]);
        let looked = ask::traced(&jaeger, curl).and_then(|trace| {
            names(ask::ours(&trace, "server")?, &caller, "echo")?;
            names(ask::ours(&trace, "client")?, &backend, "hotrod")?;
            own_pod(&jaeger.get(&format!("/api/traces/{}", trace.id))?)
        });
        // A pod is not named before it is certain to have had the address: a pod that has just started is, soon.
        looked.inspect_err(|error| last = format!("{error:#}")).ok()
    });
    match named {
        Some(own) => {
            Ok(format!("{} -> {own} -> {}", ask::text(&caller, "metadata.name"), ask::text(&backend, "metadata.name")))
        }
        None => bail!("{last}"),
    }
}

/// Whether the span names this pod of that Deployment.
fn names(span: &Span, pod: &Value, deployment: &str) -> Result<()> {
    for (key, wanted) in [
        ("peer.k8s.namespace.name", "default"),
        ("peer.k8s.pod.name", ask::text(pod, "metadata.name")),
        ("peer.k8s.pod.uid", ask::text(pod, "metadata.uid")),
        ("peer.k8s.node.name", ask::text(pod, "spec.nodeName")),
        ("peer.k8s.deployment.name", deployment),
    ] {
        if span.tag(key) != Some(wanted) {
            bail!("{key} of the {} span is {:?}, not {wanted}", span.kind(), span.tag(key));
        }
    }
    Ok(())
}

/// The pod that the agent's resource names; it is on a node and in a DaemonSet.
fn own_pod(traces: &Value) -> Result<String> {
    let processes = traces[0]["processes"].as_object().cloned().unwrap_or_default();
    let ours = processes.values().find(|process| process["serviceName"] == OURS).cloned().unwrap_or_default();
    let tag = |key: &str| {
        let tags = ours["tags"].as_array().into_iter().flatten();
        tags.filter(|tag| tag["key"] == key).find_map(|tag| tag["value"].as_str()).unwrap_or_default().to_owned()
    };
    for key in ["k8s.node.name", "k8s.daemonset.name", "k8s.pod.uid", "k8s.cluster.uid"] {
        if tag(key).is_empty() {
            bail!("our resource lacks {key}: {ours}");
        }
    }
    Ok(tag("k8s.pod.name"))
}
