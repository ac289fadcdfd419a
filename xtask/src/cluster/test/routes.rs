//! The lab's route in the words of the other two APIs: the same requests, and the router's name in the span says whose it was.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use wayspan_tests::{PATIENCE, wait_until};

use super::super::tools::{self, json, kubectl, output};
use super::lab::{self, TARGETS};
use super::{Stage, ask};
use crate::demo::HOST;
use crate::demo::checks::OURS;

/// The route's files, each in another API.
const FILES: [&str; 3] = ["hotrod-ingressroute", "hotrod-ingress", "hotrod-httproute"];

/// An Ingress is for every entry point, so that it is also reached by TLS.
pub(super) fn ingress(stage: &mut Stage<'_>) -> Result<String> {
    let told = by(stage, "hotrod-ingress", "@kubernetes")?;
    let nodes = all_nodes_are_in_the_status(stage)?;
    let mut curl = Command::new("curl");
    // The certificate is the agent's own: no Secret names one.
    curl.args(["-sS", "--insecure", "--max-time", "30", "--resolve", &format!("{HOST}:443:{}", stage.node()), "-I"]);
    let head = output(curl.arg(format!("https://{HOST}{}", TARGETS[0])))?;
    if !head.starts_with("HTTP/1.1 200 OK") {
        bail!("websecure answers {head:?}");
    }
    Ok(format!("{told}, and by TLS at port 443; its status names {nodes}"))
}

/// Clients reach each node: an agent is on all of them.
fn all_nodes_are_in_the_status(stage: &Stage<'_>) -> Result<String> {
    let place = stage.place;
    let mut nodes: Vec<Ipv4Addr> = Vec::new();
    for node in json(place, &["get", "nodes"])?["items"].as_array().into_iter().flatten() {
        let all = node["status"]["addresses"].as_array().into_iter().flatten();
        let mut internal = all.filter(|one| one["type"] == "InternalIP").filter_map(|one| one["address"].as_str());
        nodes.push(internal.next().context("a node has no address")?.parse()?);
    }
    nodes.sort_unstable();
    let wanted = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
    let mut last = String::new();
    let told = wait_until(PATIENCE, || {
        last = output(&mut kubectl(place, &["get", "ingress", "hotrod", "-o", path])).ok()?;
        (last == wanted).then_some(())
    });
    told.with_context(|| format!("the Ingress's status names {last:?}, and the nodes are {wanted}"))?;
    Ok(wanted)
}

/// A Gateway at a port that cannot be had must not say that it is served.
pub(super) fn is_unavailable(stage: &Stage<'_>, port: u16) -> Result<()> {
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: nowhere, namespace: default}}\n\
         spec: {{gatewayClassName: wayspan, listeners: [{{name: web, protocol: HTTP, port: {port}}}]}}\n"
    );
    let place = stage.place;
    tools::apply(place, "nowhere", &gateway)?;
    let path = "jsonpath={.status.listeners[0].conditions[?(@.type==\"Programmed\")].reason}";
    let mut last = String::new();
    let told = wait_until(PATIENCE, || {
        last = output(&mut kubectl(place, &["get", "gateway", "nowhere", "-o", path])).ok()?;
        (last == "PortUnavailable").then_some(())
    });
    output(&mut kubectl(place, &["delete", "gateway", "nowhere"]))?;
    told.with_context(|| format!("a listener at port {port}, which cannot be had, says {last:?}"))
}

/// Afterwards the lab's own route is back.
pub(super) fn http_route(stage: &mut Stage<'_>) -> Result<String> {
    let outcome =
        by(stage, "hotrod-httproute", "@kubernetesgateway").and_then(|told| is_unavailable(stage, 8081).map(|()| told));
    let back = by(stage, "hotrod-ingressroute", "@kubernetescrd");
    let told = outcome?;
    back?;
    Ok(told)
}

/// Replaces the route by that of a file, and asks through it.
fn by(stage: &Stage<'_>, file: &str, provider: &str) -> Result<String> {
    let place = stage.place;
    output(&mut kubectl(place, &["delete", "ingressroute", "added", "--ignore-not-found"]))?;
    for other in FILES.into_iter().filter(|other| *other != file) {
        output(kubectl(place, &["delete", "--ignore-not-found", "-f"]).arg(stage.lab_file(&format!("{other}.yaml"))))?;
    }
    output(kubectl(place, &["apply", "-f"]).arg(stage.lab_file(&format!("{file}.yaml"))))?;
    let (_forward, api) = ask::forward(place, "default", &format!("pod/{}", ask::agent_pod(stage)?), 9000)?;
    let mut last = Vec::new();
    let is_of_it = |router: &Value| {
        let named = router["name"].as_str().is_some_and(|name| name.ends_with(provider));
        named || provider.strip_prefix('@') == router["provider"].as_str()
    };
    let served = wait_until(PATIENCE, || {
        last = lab::routers(api).ok()?;
        (!last.is_empty() && last.iter().all(is_of_it)).then_some(())
    });
    served.with_context(|| format!("the routers to Hot R.O.D. are not those of {file}: {last:?}"))?;
    lab::curls_are_answered(stage)?;
    let trace = ask::traced(&ask::jaeger(place)?, ask::through(stage.node(), TARGETS[0]))?;
    let name = trace.of(OURS).find_map(|span| span.tag("traefik.router.name")).unwrap_or_default();
    if !name.ends_with(provider) {
        bail!("the span's router is {name:?}, not one of {provider}");
    }
    Ok(name.to_owned())
}
