//! The chart against the real API server: what it renders over a matrix of values is taken by strict validation, and the
//! restricted form runs in a namespace that enforces it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use wayspan_tests::{PATIENCE, http, wait_until};

use super::super::programs;
use super::super::tools::{self, helm, json, kubectl, output};
use super::lab::TARGETS;
use super::{Stage, ask, update};
use crate::demo::HOST;

/// Values that are set together, over each other's alternatives.
const MATRIX: [&[&str]; 5] = [
    &[
        "deployment.kind=DaemonSet",
        "seamless=true",
        "hostNetwork=true",
        "deployment.kind=Deployment,ports.web.hostPort=null",
    ],
    &[
        "ebpf.enabled=true",
        "ebpf.enabled=false",
        "ebpf.backends=true,ebpf.ack=true,ebpf.timestamps=true,ebpf.required=true",
    ],
    &[
        "kubernetesMetadata.enabled=false",
        "kubernetesMetadata.enabled=true,providers.kubernetesCRD.enabled=true,providers.kubernetesIngress.enabled=true,\
         providers.kubernetesGateway.enabled=true",
        "providers.kubernetesIngress.enabled=true,rbac.namespaced=true,ingressClass.isDefaultClass=true",
    ],
    &[
        "service.type=ClusterIP",
        "service.type=LoadBalancer",
        "service.type=NodePort,networkPolicy.enabled=true,podDisruptionBudget.enabled=true,grafanaDashboard.enabled=true",
    ],
    &[
        "tracing.sampleRate=0.5,metrics.prometheus.serviceMonitor.enabled=true,metrics.prometheus.prometheusRule.enabled=true",
        "tracing.otlp.enabled=true,tracing.otlp.grpc.enabled=true,tracing.otlp.grpc.endpoint=c:4317,\
         tracing.otlp.grpc.insecure=true",
    ],
];

/// Sets of values in which every two choices of different rows meet.
fn combinations() -> Vec<String> {
    let all = MATRIX.iter().fold(vec![Vec::new()], |all: Vec<Vec<&str>>, choices| {
        all.iter().flat_map(|set| choices.iter().map(move |choice| [&set[..], &[*choice]].concat())).collect()
    });
    let mut apart: BTreeSet<_> = all.iter().flat_map(|set| pairs(set)).collect();
    let mut chosen = Vec::new();
    while !apart.is_empty()
        && let Some(best) = all.iter().max_by_key(|set| pairs(set).filter(|pair| apart.contains(pair)).count())
    {
        for pair in pairs(best) {
            apart.remove(&pair);
        }
        chosen.push(best.join(","));
    }
    chosen
}

/// Every two of a set of values.
fn pairs<'s>(set: &'s [&'static str]) -> impl Iterator<Item = (&'static str, &'static str)> + use<'s> {
    set.iter().enumerate().flat_map(|(index, one)| set.iter().skip(index + 1).map(|other| (*one, *other)))
}

pub(super) fn dry_run(stage: &mut Stage<'_>) -> Result<String> {
    let place = stage.place;
    output(kubectl(place, &["apply", "--server-side", "-f"]).arg(stage.chart().join("crds")))?;
    for definition in programs::operator_definitions(stage.root)? {
        output(kubectl(place, &["apply", "--server-side", "-f"]).arg(&definition))?;
        let known = ["wait", "--for=condition=Established", "--timeout=30s", "-f"];
        output(kubectl(place, &known).arg(&definition))?;
    }
    let file = place.path("rendered.yaml");
    let combinations = combinations();
    for values in &combinations {
        let mut template = Command::new(programs::directory().join("helm"));
        template.args(["template", "wayspan"]).arg(stage.chart()).args(["--kube-version", "1.35.4", "--set", values]);
        std::fs::write(&file, output(&mut template)?)?;
        output(kubectl(place, &["apply", "--dry-run=server", "--validate=strict", "-f"]).arg(&file))
            .with_context(|| values.clone())?;
    }
    for manifest in std::fs::read_dir(stage.root.join("deploy/manifests"))?.flatten() {
        // A dry run makes no namespace that another object of it could be in.
        let text = std::fs::read_to_string(manifest.path())?.replace("namespace: wayspan\n", "namespace: default\n");
        std::fs::write(&file, text)?;
        output(kubectl(place, &["apply", "--dry-run=server", "--validate=strict", "-f"]).arg(&file))?;
    }
    Ok(format!("{} sets of values, and the plain manifests", combinations.len()))
}

/// Installs the restricted form where Pod Security enforces it, with rights in the lab's namespace alone, and asks it through its
/// Service.
pub(super) fn restricted(stage: &mut Stage<'_>) -> Result<String> {
    const NAMESPACE: &str = "restricted";
    let place = stage.place;
    tools::apply(
        place,
        NAMESPACE,
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: restricted\n  labels: \
         {pod-security.kubernetes.io/enforce: restricted}\n",
    )?;
    let no_host_ports = "ports.web.hostPort=null,ports.websecure.hostPort=null";
    let of_one_namespace = "rbac.namespaced=true,rbac.namespaces={default}";
    let values =
        ["ebpf.enabled=false", "deployment.kind=Deployment", no_host_ports, of_one_namespace, "service.type=NodePort"];
    let mut install = helm(place, &["upgrade", "--install", "restricted", "--namespace", NAMESPACE]);
    install.arg(stage.chart());
    for value in values {
        install.args(["--set", value]);
    }
    output(&mut install)?;
    let rollout = ["-n", NAMESPACE, "rollout", "status", "deployment/restricted-wayspan", "--timeout=60s"];
    if let Err(error) = output(&mut kubectl(place, &rollout)) {
        bail!("{error:#}\n{}", output(&mut kubectl(place, &["-n", NAMESPACE, "get", "events"]))?);
    }
    let service = json(place, &["-n", NAMESPACE, "get", "service", "restricted-wayspan"])?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    let asked = |host: &str, target: &str, wanted: &str| {
        let (url, host) = (format!("http://{address}{target}"), format!("host: {host}"));
        let arguments = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "-H", &host, &url];
        wait_until(PATIENCE, || {
            output(&mut tools::inside(stage.holder, "curl", &arguments)).ok().filter(|status| status == wanted)
        })
    };
    // Nothing is routed there, and it is Wayspan that says so.
    asked("nobody.example", "/", "404").context("its Service does not answer")?;
    asked(HOST, TARGETS[0], "200").context("it does not serve the lab's route, with rights in its namespace alone")?;
    let selector = "app.kubernetes.io/instance=restricted";
    let wide = json(place, &["get", "clusterroles,clusterrolebindings", "-l", selector])?;
    if wide["items"].as_array().is_none_or(|all| !all.is_empty()) {
        bail!("it has rights in the whole cluster: {wide:.300}");
    }
    let (_forward, api) = ask::forward(place, NAMESPACE, "deployment/restricted-wayspan", 9000)?;
    let told = http::get(api, &api.to_string(), "/api/status")?.text();
    let port = service["spec"]["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "web");
    let port = port.and_then(|port| u16::try_from(port["nodePort"].as_u64()?).ok());
    let port = port.context("its Service has no port of the nodes")?;
    let updated = update::behind_a_service(stage, NAMESPACE, "deployment/restricted-wayspan", port)?;
    output(&mut helm(place, &["uninstall", "restricted", "--namespace", NAMESPACE, "--wait"]))?;
    if !told.contains("\"probes\"") {
        bail!("its api says: {told:.300}");
    }
    Ok(format!("uid 65532, no capability, rights in one namespace; updated under load: {updated}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_choices_of_the_matrix_meet_in_few_sets() {
        let all = combinations();
        for (index, row) in MATRIX.iter().enumerate() {
            for (one, other) in row
                .iter()
                .flat_map(|one| MATRIX[index + 1..].iter().flat_map(|row| row.iter()).map(move |other| (one, other)))
            {
                assert!(all.iter().any(|set| set.contains(one) && set.contains(other)), "{one} and {other}");
            }
        }
        assert!(all.len() < 20, "{}", all.len());
    }
}
