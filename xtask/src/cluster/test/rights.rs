//! What the running container may do, and what is left of the spans without each of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::super::place::Place;
use super::super::tools::{self, kubectl, processes};
use super::lab::{self, TARGETS};
use super::{Stage, ask, routes};

/// CAP_PERFMON and CAP_BPF (linux/capability.h: 38 and 39).
const CAPABILITIES: u64 = 1 << 38 | 1 << 39;
/// CAP_NET_BIND_SERVICE.
const LOW_PORTS: u64 = 1 << 10;

/// A process of a pod, seen from outside: its cgroup has the pod's uid in its name.
pub(super) fn process_of(pod: &Value) -> Result<u32> {
    let uid = ask::text(pod, "metadata.uid");
    let within = |pid: &u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        !uid.is_empty() && groups.contains(&format!("pod{uid}"))
    };
    processes().into_iter().find(within).with_context(|| format!("no process is in the cgroup of pod {uid}"))
}

/// The network namespace of a pod.
pub(super) fn network_of(pod: &Value) -> Result<PathBuf> {
    Ok(fs::read_link(format!("/proc/{}/ns/net", process_of(pod)?))?)
}

/// Whether a pod's network is neither its node's nor that of the agent there. Not ours: a node's is another in any case.
pub(super) fn is_apart(stage: &Stage<'_>, pod: &Value) -> Result<()> {
    let name = ask::text(pod, "spec.nodeName");
    let number = name.trim_start_matches("node").parse().with_context(|| format!("{name} is no node of ours"))?;
    let holder = tools::holder(stage.place, number).with_context(|| format!("{name} is gone"))?;
    let node = fs::read_link(format!("/proc/{holder}/ns/net"))?;
    let agent = network_of(&ask::pod(stage.place, "app.kubernetes.io/name=wayspan", Some(name))?)?;
    judge_networks(&network_of(pod)?, &node, &agent)
}

fn judge_networks(pod: &Path, node: &Path, agent: &Path) -> Result<()> {
    for (whose, other) in [("its node's", node), ("the agent's", agent)] {
        if pod == other {
            bail!("the backend's network namespace, {}, is {whose}", pod.display());
        }
    }
    Ok(())
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
    all_have(stage, CAPABILITIES)?;
    // The port of the node is the CNI plugin's affair: the pod itself listens on 8000 whatever it is.
    Ok("CapEff 000000c000000000, no new privileges, seccomp filter; a hostPort below 1024 needs no more".to_owned())
}

/// In the node's network, where the agent listens on 443 itself.
pub(super) fn with_low_ports(stage: &Stage<'_>) -> Result<String> {
    all_have(stage, CAPABILITIES | LOW_PORTS)?;
    Ok("CapEff 000000c000000400 where it opens 443 itself".to_owned())
}

/// Whether the agents of all nodes have these and no others.
fn all_have(stage: &Stage<'_>, capabilities: u64) -> Result<()> {
    let agents = agents(stage.place);
    if agents.len() != usize::from(stage.record.nodes) {
        bail!("{} processes of the agent in containers, one per node was expected", agents.len());
    }
    for pid in &agents {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        judge_status(&status, capabilities)?;
    }
    Ok(())
}

/// What `/proc/PID/status` must say of the agent.
fn judge_status(status: &str, capabilities: u64) -> Result<()> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().next().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let wanted = format!("{capabilities:016x}");
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

/// Takes each capability away in turn: the pod runs and serves, `wayspan doctor` names what is lacking, and spans say to which
/// degree that has brought them.
pub(super) fn without_each(stage: &mut Stage<'_>) -> Result<String> {
    let outcome = [("PERFMON", "CAP_BPF"), ("BPF", "CAP_PERFMON")].map(|(kept, lacking)| without(stage, kept, lacking));
    let low_ports = without_low_ports(stage);
    lab::install(stage, "default", &[])?;
    let told: Vec<String> = outcome.into_iter().chain([low_ports]).collect::<Result<_>>()?;
    Ok(told.join("; "))
}

fn without(stage: &mut Stage<'_>, kept: &str, lacking: &str) -> Result<String> {
    let only = format!("securityContext.capabilities.add[0]={kept}");
    lab::install(stage, "default", &["ebpf.required=false", &only])?;
    let why = judge_doctor(&doctor(stage)?, lacking)?;
    let trace = ask::traced(&ask::jaeger(stage.place)?, ask::through(stage.node(), TARGETS[0]))?;
    let coverage = ask::ours(&trace, "server")?.tag("wayspan.coverage");
    if coverage != Some("none: probes unavailable, tcp_info") {
        bail!("without {lacking} a span's coverage is {coverage:?}");
    }
    Ok(format!("{why}: tcp_info"))
}

/// In the node's network a Gateway may ask for any port, and one below 1024 is then refused.
fn without_low_ports(stage: &Stage<'_>) -> Result<String> {
    const NAME: &str = "CAP_NET_BIND_SERVICE";
    let only = "securityContext.capabilities.add={BPF,PERFMON}";
    lab::install(stage, "default", &["hostNetwork=true", "ports.websecure.hostPort=8443", only])?;
    let doctor = doctor(stage)?;
    let all = doctor["capabilities"].as_array().into_iter().flatten();
    let held: Vec<(&str, bool)> =
        all.filter_map(|one| Some((one["name"].as_str()?, one["held"].as_bool()?))).filter(|(_, held)| !held).collect();
    if held != [(NAME, false)] {
        bail!("without {NAME} wayspan doctor says that these are lacking: {held:?}");
    }
    routes::is_unavailable(stage, 81)?;
    Ok(format!("without {NAME} a Gateway's port 81 is PortUnavailable"))
}

/// What `wayspan doctor` says in the pod. It fails where a probe is lacking.
fn doctor(stage: &Stage<'_>) -> Result<Value> {
    let pod = ask::agent_pod(stage)?;
    let doctor = kubectl(stage.place, &["exec", &pod, "--", "/usr/local/bin/wayspan", "doctor", "--json"]).output()?;
    serde_json::from_slice(&doctor.stdout).context("wayspan doctor --json")
}

/// What `wayspan doctor` must say: this one is not there, the others are, and all probes are off for it.
fn judge_doctor(doctor: &Value, lacking: &str) -> Result<String> {
    let all = |key: &str| doctor[key].as_array().cloned().unwrap_or_default();
    for capability in all("capabilities") {
        // A hostPort is the CNI plugin's: the pod has no port below 1024 of its own, and so not the capability for one.
        let is_lacking = capability["name"] == lacking || capability["name"] == "CAP_NET_BIND_SERVICE";
        if capability["held"].as_bool() != Some(!is_lacking) {
            bail!("without {lacking} wayspan doctor says {capability}");
        }
    }
    let wanted = format!("the process lacks {lacking}");
    let lacks: Vec<Value> = all("probes").into_iter().filter(|probe| probe["lacking"] == true).collect();
    if lacks.is_empty() || lacks.iter().any(|probe| probe["on"] != false || probe["why"] != wanted.as_str()) {
        bail!("without {lacking} wayspan doctor says of the probes {lacks:?}");
    }
    Ok(wanted)
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
        judge_status(&status("000000c000000000"), CAPABILITIES).unwrap();
        assert!(judge_status(&status("000000c000000000"), CAPABILITIES | LOW_PORTS).is_err());
        for other in ["0000008000000000", "000000c000000400"] {
            assert!(judge_status(&status(other), CAPABILITIES).unwrap_err().to_string().contains("CapEff"));
        }
        assert!(judge_status("", CAPABILITIES).is_err());
    }

    #[test]
    fn a_backend_in_the_network_of_its_node_or_of_the_agent_is_told() {
        let judge = |pod: &str, node: &str, agent: &str| {
            judge_networks(Path::new(pod), Path::new(node), Path::new(agent)).map_err(|error| error.to_string())
        };
        assert_eq!(judge("net:[1]", "net:[2]", "net:[3]"), Ok(()));
        assert!(judge("net:[1]", "net:[1]", "net:[3]").unwrap_err().ends_with("is its node's"));
        assert!(judge("net:[1]", "net:[2]", "net:[1]").unwrap_err().ends_with("is the agent's"));
    }

    #[test]
    fn doctor_is_held_to_the_capability_that_was_taken_away() {
        let told = |held: bool, why: &str| {
            serde_json::json!({
                "capabilities": [{"name": "CAP_BPF", "held": held}, {"name": "CAP_PERFMON", "held": true}],
                "probes": [{"on": false, "lacking": true, "why": why}, {"on": false, "lacking": false, "why": "x"}],
            })
        };
        assert!(judge_doctor(&told(false, "the process lacks CAP_BPF"), "CAP_BPF").is_ok());
        assert!(judge_doctor(&told(true, "the process lacks CAP_BPF"), "CAP_BPF").is_err());
        assert!(judge_doctor(&told(false, "the kernel shows no BTF"), "CAP_BPF").is_err());
        assert!(judge_doctor(&told(false, "the process lacks CAP_BPF"), "CAP_PERFMON").is_err());
        assert!(judge_doctor(&Value::Null, "CAP_BPF").is_err());
    }
}
