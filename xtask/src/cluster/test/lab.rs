//! The lab on the cluster: its parts, its requests, what Jaeger was told of them, and what the running container may do.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use wayspan_tests::{PATIENCE, http, wait_until};

use super::super::place::Place;
use super::super::tools::{self, helm, inside, json, kubectl, output};
use super::{Stage, ask, rights};
use crate::demo::checks::{self, Names};
use crate::demo::{HOST, Sent};

/// The lab's two requests.
pub(super) const TARGETS: [&str; 2] = ["/dispatch?customer=392", "/dispatch?customer=123"];

/// The DaemonSet of the release `wayspan`.
pub(super) const WORKLOAD: &str = "daemonset/wayspan";

pub(super) fn start(stage: &mut Stage<'_>) -> Result<String> {
    output(kubectl(stage.place, &["apply", "--server-side", "-f"]).arg(stage.chart().join("crds")))?;
    for name in ["jaeger", "hotrod", "hotrod-ingressroute"] {
        output(kubectl(stage.place, &["apply", "-f"]).arg(stage.lab_file(&format!("{name}.yaml"))))?;
    }
    for name in ["jaeger", "hotrod"] {
        rollout(stage.place, "default", &format!("deployment/{name}"))?;
    }
    Ok(String::new())
}

/// Waits until a workload's pods are those of its last change.
pub(super) fn rollout(place: &Place, namespace: &str, workload: &str) -> Result<()> {
    let arguments = ["-n", namespace, "rollout", "status", workload, "--timeout=90s"];
    output(&mut kubectl(place, &arguments)).map(drop).or_else(|error| {
        let pods = output(&mut kubectl(place, &["-n", namespace, "get", "pods", "-o", "wide"])).unwrap_or_default();
        let log = output(&mut kubectl(place, &["-n", namespace, "logs", workload, "--tail=20"])).unwrap_or_default();
        bail!("{error:#}\n{pods}{log}")
    })
}

/// Installs or changes the release with the lab's values and further ones.
pub(super) fn install(stage: &Stage<'_>, namespace: &str, values: &[&str]) -> Result<()> {
    let mut install = helm(stage.place, &["upgrade", "--install", "wayspan", "--namespace", namespace]);
    install.arg(stage.chart()).arg("-f").arg(stage.lab_file("values.yaml"));
    install.args(["--set", "ebpf.required=true,providers.kubernetesGateway.enabled=true"]);
    for value in values {
        install.args(["--set", value]);
    }
    output(&mut install)?;
    rollout(stage.place, namespace, WORKLOAD)
}

pub(super) fn install_in_default(stage: &mut Stage<'_>) -> Result<String> {
    install(stage, "default", &[])?;
    let doctor = output(&mut kubectl(stage.place, &["exec", WORKLOAD, "--", "/usr/local/bin/wayspan", "doctor"]))?;
    for line in ["CAP_BPF                   yes", "CAP_PERFMON               yes"] {
        if !doctor.contains(line) {
            bail!("wayspan doctor in the pod lacks {line:?}:\n{doctor}");
        }
    }
    let on = doctor.lines().filter(|line| line.split_whitespace().nth(1) == Some("on")).count();
    Ok(format!("{on} probes on under seccomp RuntimeDefault"))
}

/// The lab's commands as they are, and a note for what is later said of all requests.
pub(super) fn curls(stage: &mut Stage<'_>) -> Result<String> {
    let answered = curls_are_answered(stage)?;
    for target in TARGETS {
        for _ in 0..2 {
            stage.sent.push(Sent { method: "HEAD", target: target.to_owned(), status: 200 });
        }
    }
    Ok(answered)
}

/// The commands, run on the node, whose port 8000 is the pod's; then from outside by the node's address.
pub(super) fn curls_are_answered(stage: &Stage<'_>) -> Result<String> {
    let mut statuses = Vec::new();
    for target in TARGETS {
        let url = format!("http://{HOST}:8000{target}");
        let mut on_the_node = inside(stage.holder, "curl", &["-sS", "--max-time", "30", "-I", &url]);
        statuses.push(first_line(&output(&mut on_the_node)?));
        statuses.push(first_line(&output(ask::through(stage.node(), target).arg("-I"))?));
    }
    if let Some(other) = statuses.iter().find(|status| *status != "HTTP/1.1 200 OK") {
        bail!("a curl of the lab was answered {other:?}");
    }
    Ok(format!("{} times HTTP/1.1 200 OK", statuses.len()))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

pub(super) fn services(stage: &mut Stage<'_>) -> Result<String> {
    let listed = json(stage.place, &["get", "services", "-l", "app=jaeger"])?;
    let names: Vec<&str> =
        listed["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    if names != ["jaeger-agent", "jaeger-collector", "jaeger-query"] {
        bail!("they are {names:?}");
    }
    Ok(names.join(", "))
}

/// The lab's own words: to the pod by its label, not to a Service.
pub(super) fn dashboard(stage: &mut Stage<'_>) -> Result<String> {
    let name = ask::agent_pod(stage)?;
    let (_forward, api) = ask::forward(stage.place, "default", &format!("pod/{name}"), 9000)?;
    let page = http::get(api, &format!("localhost:{}", api.port()), "/dashboard/")?;
    let overview = http::get(api, "localhost", "/api/overview")?.json()?;
    let tracing = overview["features"]["tracing"].as_str().unwrap_or_default().to_owned();
    if page.status != 200 || tracing.is_empty() {
        bail!("the dashboard answers {}, its features are {}", page.status, overview["features"]);
    }
    Ok(format!("{name}, tracing: {tracing}"))
}

/// More requests and an added route, then the demo's checks over all that went through so far.
pub(super) fn jaeger(stage: &mut Stage<'_>) -> Result<String> {
    let place = stage.place;
    let jaeger = ask::jaeger(stage.place)?;
    for target in TARGETS {
        send(stage, "GET", target)?;
    }
    send(stage, "GET", "/")?;
    let (_forward, api) = ask::forward(place, "default", &format!("pod/{}", ask::agent_pod(stage)?), 9000)?;
    http::get(api, "localhost", "/dashboard/")?;
    let operations = || jaeger.operations(checks::OURS).ok().filter(|all| all.iter().any(|(kind, _)| kind == "server"));
    let before = wait_until(PATIENCE, operations).context("Jaeger knows no operation of ours")?;
    add_route(stage, api)?;
    send(stage, "GET", checks::ADDED_PATH)?;
    // Their names have a hash in them, as Traefik's do.
    let routers = routers(api)?;
    let named = |key: &str| -> Vec<String> {
        let with_provider = |router: &Value| -> Option<String> {
            let (name, provider) = (router[key].as_str()?, router["provider"].as_str()?);
            Some(if name.contains('@') { name.to_owned() } else { format!("{name}@{provider}") })
        };
        routers.iter().filter_map(with_provider).collect()
    };
    let (names, services) = (named("name"), named("service"));
    let routers: Vec<&str> = names.iter().map(String::as_str).collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let names = Names { routers: &routers, services: &services };
    let outcome = checks::settled(&jaeger, &stage.sent, &before, false, names);
    let failed: Vec<String> = outcome
        .iter()
        .filter_map(|check| check.fault.as_ref().map(|fault| format!("{}: {fault}", check.name)))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(format!("{} checks, {} requests", outcome.len(), stage.sent.len()))
}

/// One request through the node's port.
fn send(stage: &mut Stage<'_>, method: &'static str, target: &str) -> Result<()> {
    let web = SocketAddr::new(IpAddr::from(stage.node()), 8000);
    let status = http::request(web, method, &format!("{HOST}:8000"), target)?.status;
    stage.sent.push(Sent { method, target: target.to_owned(), status });
    Ok(())
}

/// Adds an IngressRoute for one path while the agent runs.
fn add_route(stage: &Stage<'_>, api: SocketAddr) -> Result<()> {
    let path = checks::ADDED_PATH;
    let route = format!(
        "apiVersion: traefik.io/v1alpha1\nkind: IngressRoute\nmetadata: {{name: added, namespace: default}}\nspec:\n  \
         routes:\n    - {{kind: Rule, match: \"Host(`{HOST}`) && Path(`{path}`)\", services: [{{name: hotrod, port: \
         8080}}]}}\n"
    );
    tools::apply(stage.place, "added", &route)?;
    let shows = |router: &Value| router["rule"].as_str().is_some_and(|rule| rule.contains(path));
    wait_until(PATIENCE, || routers(api).ok()?.iter().any(shows).then_some(()))
        .context("the added route does not show in /api/http/routers")
}

/// The routers that lead to Hot R.O.D., from the agent's own api.
pub(super) fn routers(api: SocketAddr) -> Result<Vec<Value>> {
    let all = http::get(api, "localhost", "/api/http/routers")?.json()?;
    let leads = |router: &&Value| router["rule"].as_str().is_some_and(|rule| rule.contains(HOST));
    Ok(all.as_array().into_iter().flatten().filter(leads).cloned().collect())
}

/// With backends watched: what the kernel tells of the backend's own socket, in its pod's network namespace.
pub(super) fn backend_points(stage: &mut Stage<'_>) -> Result<String> {
    install(stage, "default", &["ebpf.backends=true"])?;
    let jaeger = ask::jaeger(stage.place)?;
    // The agent of a node sees the backends of that node.
    let backend = ask::pod(stage.place, "app=hotrod", None)?;
    let node = ask::text(&backend, "status.hostIP").parse()?;
    rights::is_apart(stage, &backend)?;
    let mut last = String::new();
    let outcome = wait_until(2 * PATIENCE, || {
        // The first request of a connection to a backend that listened before the probes came lacks its accept.
        let trace = ask::traced(&jaeger, ask::through(node, TARGETS[0])).ok()?;
        let span = ask::ours(&trace, "server").ok()?;
        last = format!("{:?}, {:?}", span.tag("wayspan.coverage"), span.phases());
        (span.tag("wayspan.coverage") == Some("full") && span.tag("wayspan.phase.backend_app").is_some()).then_some(())
    });
    outcome.with_context(|| format!("no span has backend_app and full coverage; the last: {last}"))?;
    Ok("backend_app with full coverage, in a network namespace that is neither the node's nor the agent's".to_owned())
}

pub(super) fn uninstall_from_default(stage: &mut Stage<'_>) -> Result<String> {
    output(&mut helm(stage.place, &["uninstall", "wayspan", "--namespace", "default", "--wait"]))?;
    let place = stage.place;
    let kinds =
        "daemonsets,pods,services,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    let left = || -> Option<Vec<String>> {
        let all = json(place, &["get", kinds, "-A", "-l", "app.kubernetes.io/name=wayspan"]).ok()?;
        let name = |item: &Value| format!("{} {}", item["kind"], item["metadata"]["name"]);
        Some(all["items"].as_array()?.iter().map(name).collect())
    };
    match wait_until(PATIENCE, || left().filter(Vec::is_empty)) {
        Some(_) => Ok(String::new()),
        None => bail!("left: {}", left().unwrap_or_default().join(", ")),
    }
}

pub(super) fn install_in_kube_system(stage: &mut Stage<'_>) -> Result<String> {
    install(stage, "kube-system", &[])?;
    let outcome = curls(stage);
    let uninstalled = output(&mut helm(stage.place, &["uninstall", "wayspan", "--namespace", "kube-system", "--wait"]));
    uninstalled?;
    outcome
}

/// How long an update may take: pods end within their grace period, and two cores start them.
pub(super) const UPDATE: Duration = Duration::from_secs(120);

/// Waits until a workload has no pod left that is about to end.
pub(super) fn gone(stage: &Stage<'_>, namespace: &str, workload: &str) -> Result<()> {
    let name = workload.rsplit('/').next().unwrap_or_default();
    let ending = || -> Option<()> {
        let pods = json(stage.place, &["-n", namespace, "get", "pods"]).ok()?;
        let of = |pod: &&Value| pod["metadata"]["name"].as_str().is_some_and(|pod| pod.starts_with(name));
        let ends = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        (!pods["items"].as_array()?.iter().filter(of).any(ends)).then_some(())
    };
    wait_until(UPDATE, ending).context("old pods do not end")
}

/// Applies a file of tests/peers/kubernetes.
pub(super) fn apply_peer(stage: &Stage<'_>, name: &str) -> Result<()> {
    let text = fs::read_to_string(stage.root.join("tests/peers/kubernetes").join(name))?;
    tools::apply(stage.place, name.trim_end_matches(".yaml"), &text)
}
