//! Rolling updates under load.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use wayspan_tests::{Load, PATIENCE, http, wait_until};

use super::super::tools::{kubectl, output};
use super::lab::{self, UPDATE};
use super::{Stage, rights};

/// The name that leads to the echo servers.
const HOST: &str = "echo.localhost";

// What must have been answered before and after a change for it to have happened under load.
const SETTLED: u64 = 200;

/// Starts the echo servers and waits until a request reaches them through a port of the node.
fn ready(stage: &Stage<'_>, port: u16) -> Result<SocketAddr> {
    lab::apply_peer(stage, "echo.yaml")?;
    lab::rollout(stage.place, "default", "deployment/echo")?;
    let web = SocketAddr::new(IpAddr::from(stage.node()), port);
    wait_until(PATIENCE, || http::get(web, HOST, "/").ok().filter(|answer| answer.status == 200))
        .context("the echo servers are not reached through the node")?;
    Ok(web)
}

/// Restarts a workload while requests go through; how many were answered, all of them.
fn restart(stage: &Stage<'_>, web: SocketAddr, namespace: &str, workload: &str) -> Result<String> {
    let load = Load::start(web, HOST);
    let outcome = load.settle(SETTLED, UPDATE).and_then(|()| {
        output(&mut kubectl(stage.place, &["-n", namespace, "rollout", "restart", workload]))?;
        lab::rollout(stage.place, namespace, workload)?;
        // The last old pod ends after the rollout is told to be complete.
        lab::gone(stage, namespace, workload)?;
        load.settle(SETTLED, UPDATE)
    });
    let answered = load.stop()?;
    outcome?;
    Ok(format!("{answered} requests, all answered with 200"))
}

pub(super) fn backend(stage: &mut Stage<'_>) -> Result<String> {
    let web = ready(stage, 8000)?;
    restart(stage, web, "default", "deployment/echo")
}

/// The pod of an update starts beside the one before, takes its sockets over, and only then that one ends.
pub(super) fn agent(stage: &mut Stage<'_>) -> Result<String> {
    lab::install(stage, "default", &["seamless=true"])?;
    lab::gone(stage, "default", lab::WORKLOAD)?;
    let web = ready(stage, 8000)?;
    let outcome = rights::with_low_ports(stage)
        .and_then(|told| Ok(format!("{}; {told}", restart(stage, web, "default", lab::WORKLOAD)?)));
    lab::install(stage, "default", &[])?;
    outcome
}

/// A Deployment behind a Service, by a port of the nodes that is the Service's: who still asks the old pod is answered by it.
pub(super) fn behind_a_service(stage: &Stage<'_>, namespace: &str, workload: &str, port: u16) -> Result<String> {
    let web = ready(stage, port)?;
    restart(stage, web, namespace, workload)
}
