//! Which pod answers, where a Service asks for the one on the client's node: it needs two nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use wayspan_tests::{PATIENCE, http, wait_until};

use super::super::tools::json;
use super::lab;
use super::{Stage, ask};

/// Led to the pod of the node that is asked.
const NEAR: &str = "near.localhost";
/// Led to all pods.
const FAR: &str = "far.localhost";
/// Requests to each node: by turns, half of them would be the other pod's.
const ASKED: usize = 20;

/// `trafficDistribution: PreferSameNode`: each node's agent asks the pod of its node alone. A Service without it shows that the
/// other pod could have answered.
pub(super) fn same_node(stage: &mut Stage<'_>) -> Result<String> {
    let place = stage.place;
    lab::apply_peer(stage, "near.yaml")?;
    lab::rollout(place, "default", "daemonset/near")?;
    // An API server that does not know the wish drops it.
    let service = json(place, &["get", "service", "near"])?;
    if service["spec"]["trafficDistribution"] != "PreferSameNode" {
        bail!("this Kubernetes has no PreferSameNode: {}", service["spec"]);
    }
    let mut told = Vec::new();
    for number in 1..=stage.record.nodes {
        let web = SocketAddr::new(IpAddr::from(stage.record.node(number)), 8000);
        let node = format!("node{number}");
        let own = ask::pod(place, "app=near", Some(&node))?;
        let own = ask::text(&own, "metadata.name").to_owned();
        let mut seen = BTreeSet::new();
        wait_until(PATIENCE, || {
            seen.extend(answers(web, FAR));
            (seen.len() == usize::from(stage.record.nodes)).then_some(())
        })
        .with_context(|| format!("without the wish {node} should ask every pod, and asks {seen:?}"))?;
        // The pods were not ready at once, and who is alone answers for all.
        wait_until(PATIENCE, || answers(web, NEAR).filter(|pod| *pod == own))
            .with_context(|| format!("{node} does not ask its own pod, {own}"))?;
        let all: Vec<Option<String>> = (0..ASKED).map(|_| answers(web, NEAR)).collect();
        judge(&node, &own, &all)?;
        told.push(format!("{node}: {own}"));
    }
    Ok(format!("{}, each {ASKED} times", told.join(", ")))
}

/// The pod that answers a request.
fn answers(web: SocketAddr, host: &str) -> Option<String> {
    let answer = http::get(web, host, "/").ok().filter(|answer| answer.status == 200)?;
    Some(answer.json().ok()?["pod"].as_str()?.to_owned())
}

/// Whether every request of a node was answered by its own pod.
fn judge(node: &str, own: &str, answers: &[Option<String>]) -> Result<()> {
    match answers.iter().find(|pod| pod.as_deref() != Some(own)) {
        Some(other) => bail!("{node} was answered by {}, not by its own {own}", other.as_deref().unwrap_or("nobody")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_another_node_or_from_nobody_is_told() {
        let check = |answers: &[Option<&str>]| {
            let answers: Vec<_> = answers.iter().map(|pod| pod.map(str::to_owned)).collect();
            judge("node1", "a", &answers).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[Some("a"), Some("a")]), Ok(()));
        assert_eq!(check(&[Some("a"), Some("b")]).unwrap_err(), "node1 was answered by b, not by its own a");
        assert!(check(&[None]).unwrap_err().contains("by nobody"));
    }
}
