//! The lab on the cluster: its parts, its requests, what Jaeger was told of them, and what the running container may do.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use wayspan_tests::{Jaeger, PATIENCE, Process, http, private_loopback, wait_until};

use super::super::image::AGENT;
use super::super::place::Place;
use super::super::tools::{self, helm, inside, json, kubectl, output, processes};
use super::Stage;
use crate::demo::checks::{self, Names};
use crate::demo::{HOST, Sent};

/// The lab's two requests.
const TARGETS: [&str; 2] = ["/dispatch?customer=392", "/dispatch?customer=123"];

/// CAP_PERFMON and CAP_BPF (linux/capability.h: 38 and 39).
const CAPABILITIES: u64 = 1 << 38 | 1 << 39;

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
    install.args(["--set", &format!("image.tag={},ebpf.required=true", AGENT.1)]);
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

/// The lab's commands as they are, run on the node, whose port 8000 is the pod's; then from outside by the node's address.
pub(super) fn curls(stage: &mut Stage<'_>) -> Result<String> {
    let mut statuses = Vec::new();
    for target in TARGETS {
        let url = format!("http://{HOST}:8000{target}");
        statuses.push(first_line(&output(&mut inside(
            stage.holder,
            "curl",
            &["-sS", "--max-time", "30", "-I", &url],
        ))?));
        let resolve = format!("{HOST}:8000:{}", stage.node());
        let mut curl = Command::new("curl");
        statuses.push(first_line(&output(curl.args(["-sS", "--max-time", "30", "--resolve", &resolve, "-I", &url]))?));
        for _ in 0..2 {
            stage.sent.push(Sent { method: "HEAD", target: target.to_owned(), status: 200 });
        }
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

/// `kubectl port-forward` to a loopback address of its own, so that no port is in anyone's way.
pub(super) fn forward(place: &Place, namespace: &str, what: &str, port: u16) -> Result<(Process, SocketAddr)> {
    let host = private_loopback(&[port])?;
    let (address, ports) = (host.to_string(), format!("{port}:{port}"));
    let command = kubectl(place, &["-n", namespace, "port-forward", "--address", &address, what, &ports]);
    let mut process = Process::start("kubectl port-forward", command)?;
    process.wait_for_line("Forwarding from", |line| line.starts_with("Forwarding from").then_some(()))?;
    Ok((process, SocketAddr::from((host, port))))
}

/// The lab's own words: to the pod by its label, not to a Service.
pub(super) fn dashboard(stage: &mut Stage<'_>) -> Result<String> {
    let pods = json(stage.place, &["get", "pods", "-l", "app.kubernetes.io/name=wayspan"])?;
    let name = pods["items"][0]["metadata"]["name"].as_str().context("no pod has the label")?.to_owned();
    let (_forward, api) = forward(stage.place, "default", &format!("pod/{name}"), 9000)?;
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
    let (process, address) = forward(place, "default", "service/jaeger-query", 16686)?;
    let jaeger = Jaeger::forwarded(process, address.ip());
    for target in TARGETS {
        send(stage, "GET", target)?;
    }
    send(stage, "GET", "/")?;
    let (_forward, api) = forward(place, "default", WORKLOAD, 9000)?;
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
fn routers(api: SocketAddr) -> Result<Vec<Value>> {
    let all = http::get(api, "localhost", "/api/http/routers")?.json()?;
    let leads = |router: &&Value| router["rule"].as_str().is_some_and(|rule| rule.contains(HOST));
    Ok(all.as_array().into_iter().flatten().filter(leads).cloned().collect())
}

/// With backends watched: what the kernel tells of the backend's own socket, in its pod's network namespace.
pub(super) fn backend_points(stage: &mut Stage<'_>) -> Result<String> {
    install(stage, "default", &["ebpf.backends=true"])?;
    let (process, address) = forward(stage.place, "default", "service/jaeger-query", 16686)?;
    let jaeger = Jaeger::forwarded(process, address.ip());
    let outcome = wait_until(2 * PATIENCE, || {
        // The first request of a connection to a backend that listened before the probes came lacks its accept.
        send(stage, "GET", TARGETS[0]).ok()?;
        let traces = jaeger.traces(checks::OURS, 100).ok()?;
        let mut spans = traces.iter().flat_map(|trace| trace.of(checks::OURS));
        spans.find(|span| {
            span.kind() == "server"
                && span.tag("wayspan.coverage") == Some("full")
                && span.tag("wayspan.phase.backend_app").is_some()
        })?;
        Some(())
    });
    outcome.context("no span has backend_app and full coverage")?;
    Ok("backend_app with full coverage".to_owned())
}

/// The agent's processes in this cluster's containers.
fn agents(place: &Place) -> Vec<u32> {
    let (program, cgroup) = ("/usr/local/bin/wayspan\0run\0", place.cgroup());
    let runs = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        command.starts_with(program) && groups.contains(&cgroup)
    };
    processes().into_iter().filter(runs).collect()
}

pub(super) fn capabilities(stage: &mut Stage<'_>) -> Result<String> {
    let agents = agents(stage.place);
    if agents.len() != usize::from(stage.record.nodes) {
        bail!("{} processes of the agent in containers, one per node was expected", agents.len());
    }
    for pid in &agents {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        judge_status(&status)?;
    }
    // The port of the node is the CNI plugin's affair: the pod itself listens on 8000 whatever it is.
    Ok("CapEff 000000c000000000, no new privileges, seccomp filter; a hostPort below 1024 needs no more".to_owned())
}

/// What `/proc/PID/status` must say of the agent.
fn judge_status(status: &str) -> Result<()> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().next().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let wanted = format!("{CAPABILITIES:016x}");
    for (name, wanted) in [
        ("CapEff", wanted.as_str()),
        ("CapPrm", &wanted),
        ("CapBnd", &wanted),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        if field(name) != wanted {
            bail!("{name} is {:?}, not {wanted}", field(name));
        }
    }
    Ok(())
}

/// Takes one capability away: the pod runs, serves, and doctor and api name what is lacking.
pub(super) fn without_a_capability(stage: &mut Stage<'_>) -> Result<String> {
    let fewer = ["ebpf.required=false", "securityContext.capabilities.add[0]=BPF"];
    install(stage, "default", &fewer)?;
    let doctor = kubectl(stage.place, &["exec", WORKLOAD, "--", "/usr/local/bin/wayspan", "doctor"]).output()?;
    // It fails where a probe is lacking.
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let status = curls(stage);
    let told = doctor.lines().find(|line| line.starts_with("CAP_PERFMON")).unwrap_or_default().to_owned();
    install(stage, "default", &[])?;
    status?;
    if !told.contains("no") {
        bail!("wayspan doctor says {told:?}");
    }
    Ok(told.split_whitespace().collect::<Vec<_>>().join(" "))
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
pub(super) fn gone(stage: &Stage<'_>, workload: &str) -> Result<()> {
    let name = workload.rsplit('/').next().unwrap_or_default();
    let ending = || -> Option<()> {
        let pods = json(stage.place, &["get", "pods"]).ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_capability_more_or_less_is_told() {
        let status = |effective: &str| {
            format!(
                "Name:\twayspan\nCapInh:\t0000000000000000\nCapPrm:\t000000c000000000\nCapEff:\t{effective}\n\
                 CapBnd:\t000000c000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
            )
        };
        judge_status(&status("000000c000000000")).unwrap();
        for other in ["0000008000000000", "000000c000000400"] {
            assert!(judge_status(&status(other)).unwrap_err().to_string().contains("CapEff"));
        }
        assert!(judge_status("").is_err());
    }
}
