//! A pod as the API tells it to what is kept of it: its attributes, its addresses, and since and until when it certainly had
//! them. Pure; who had an address when is `cache`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use opentelemetry_semantic_conventions::attribute as otel;
use serde::Deserialize;
use wayspan_proxy::clock::MonoNs;

use crate::export::clock::WallOffset;
use crate::export::peer::{Encoded, Writer};

/// The name that a service gives itself, by OpenTelemetry's rules for Kubernetes.
const SERVICE_NAME: &str = "resource.opentelemetry.io/service.name";
/// On every pod of a Deployment: what its ReplicaSet's name has behind the Deployment's.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// How long after the minute that its Job was due a CronJob's pod may be made, be it that the Job tries again. Numbers that are
/// no minutes, a date such as 20240101 among them, are years away.
const LATE_S: i64 = 24 * 60 * 60;
/// The API's times are whole seconds, rounded down.
const ROUNDED_NS: i128 = 1_000_000_000;
/// How far the nodes' clocks may differ.
const SKEW_NS: i128 = 1_000_000_000;

/// A pod with only those fields that are used: nothing else of the API's answer is kept for a moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodObject {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    /// `Always` makes an init container one that runs beside the others.
    restart_policy: String,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    container_port: u16,
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    start_time: Option<Time>,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
    #[serde(rename = "hostIP")]
    host_ip: String,
    #[serde(rename = "hostIPs")]
    host_ips: Vec<Address>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    state: ContainerState,
    last_state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerState {
    running: Option<Running>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Running {
    started_at: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    finished_at: Option<Time>,
}

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is told of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: Box<str>,
    /// Its node.
    pub node: Box<str>,
    /// Namespace, name, uid, node, workload, labels, annotations.
    pub(crate) attributes: Encoded,
    /// For the one who calls it.
    pub(crate) called: Encoded,
    pub(super) containers: Box<[PodContainer]>,
}

/// A container of a pod that runs as long as the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodContainer {
    /// At the pod's own address,
    pub(super) ports: Box<[u16]>,
    /// and at its node's.
    pub(super) host_ports: Box<[u16]>,
    pub(super) name: Encoded,
}

/// An address: of a pod, or of a node with a port that leads to one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Never an IPv4 address in IPv6's clothes.
    pub ip: IpAddr,
    /// 0: all of it is the pod's.
    pub port: u16,
}

/// One state of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its uid; none ever comes back.
    pub uid: Box<str>,
    /// Of two states, the one with the higher number is the later. 0: not known.
    pub version: u64,
    /// What is told of it.
    pub pod: Pod,
    /// Where it is.
    pub places: Vec<Place>,
    /// Since when at least it has been there: by when its longest-running container ran.
    pub since: Option<MonoNs>,
    /// Until when at least it was there: its end was asked for or had come.
    pub until: Option<MonoNs>,
    /// Until when at least it was where it has been before this state, if it moved.
    pub moved: Option<MonoNs>,
    /// It has run to its end, and its addresses are others'.
    pub is_over: bool,
}

/// What becomes attributes: whole keys, or beginnings of keys that end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Of labels.
    pub labels: Vec<String>,
    /// Of annotations.
    pub annotations: Vec<String>,
}

fn allows(list: &[String], key: &str) -> bool {
    list.iter().any(|allowed| match allowed.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning),
        None => key == allowed,
    })
}

/// Reads pods.
#[derive(Debug, Default)]
pub struct Reader {
    allowed: Allowed,
    writer: Writer,
}

impl Reader {
    /// With these allowed.
    #[must_use]
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, writer: Writer::default() }
    }

    /// What is kept of a pod. `None` for one without a uid: no server sends that.
    pub fn read(&mut self, object: &PodObject, wall: WallOffset) -> Option<Facts> {
        let PodObject { metadata, spec, status } = object;
        let uid = metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
        let times = Times { wall };
        let is_over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        let states = || status.container_statuses.iter();
        let finished = |state: &ContainerState| times.at_least_until(state.terminated.as_ref()?.finished_at.as_ref());
        let over = is_over.then(|| states().filter_map(|status| finished(&status.state)).max()).flatten();
        let started = states().filter_map(|status| status.state.running.as_ref()?.started_at.as_ref());
        Some(Facts {
            uid: uid.into(),
            version: metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0),
            places: places(spec, status),
            since: started.map(|at| times.at_latest_since(at)).min(),
            until: over.into_iter().chain(times.end_asked(metadata)).min(),
            moved: states().filter_map(|status| finished(&status.last_state)).min(),
            is_over,
            pod: self.pod(metadata, spec),
        })
    }

    fn pod(&mut self, metadata: &ObjectMeta, spec: &Spec) -> Pod {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (text(&metadata.namespace), text(&metadata.name));
        let empty = BTreeMap::new();
        let (labels, annotations) =
            (metadata.labels.as_ref().unwrap_or(&empty), metadata.annotations.as_ref().unwrap_or(&empty));
        let workload = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let workloads =
            workload.map(|owner| workloads(owner, labels, metadata.creation_timestamp.as_ref())).unwrap_or_default();
        let writer = &mut self.writer;
        writer.own(otel::K8S_NAMESPACE_NAME, &namespace);
        writer.own(otel::K8S_POD_NAME, &name);
        writer.own(otel::K8S_POD_UID, metadata.uid.as_deref().unwrap_or_default());
        writer.own(otel::K8S_NODE_NAME, &spec.node_name);
        for (key, value) in &workloads {
            writer.own(key, value);
        }
        for (allowed, kind, all) in [
            (&self.allowed.labels, otel::K8S_POD_LABEL, labels),
            (&self.allowed.annotations, otel::K8S_POD_ANNOTATION, annotations),
        ] {
            for (key, value) in all.iter().filter(|(key, _)| allows(allowed, key)) {
                writer.keyed(kind, key, value);
            }
        }
        let attributes = writer.take();
        let called = annotations.get(SERVICE_NAME).filter(|name| !name.is_empty());
        let called = called.or(workloads.last().map(|(_, name)| name)).unwrap_or(&name);
        writer.called(&namespace, called);
        let called = writer.take();
        let containers = running(spec).map(|container| {
            writer.own(otel::K8S_CONTAINER_NAME, &container.name);
            let ports = || container.ports.iter().filter(|port| is_tcp(port));
            let host_ports = ports().map(|port| on_node(spec, port)).filter(|port| *port != 0).collect();
            PodContainer { ports: ports().map(|port| port.container_port).collect(), host_ports, name: writer.take() }
        });
        let containers = containers.collect();
        Pod { name: name.into(), node: spec.node_name.as_str().into(), attributes, called, containers }
    }
}

fn running(spec: &Spec) -> impl Iterator<Item = &Container> {
    let beside = spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
    spec.containers.iter().chain(beside)
}

fn is_tcp(port: &Port) -> bool {
    matches!(port.protocol.as_str(), "" | "TCP")
}

/// Where a port is at the node's addresses; 0: nowhere.
fn on_node(spec: &Spec, port: &Port) -> u16 {
    if spec.host_network { port.container_port } else { port.host_port }
}

/// The workload that a pod is of, and the one that this one is of: the outermost last. By the names that Kubernetes gives
/// them, so that nobody has to watch ReplicaSets and Jobs.
fn workloads(
    owner: &OwnerReference,
    labels: &BTreeMap<String, String>,
    created: Option<&Time>,
) -> Vec<(&'static str, String)> {
    let name = owner.name.clone();
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = labels.get(TEMPLATE_HASH);
            let deployment = hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            let deployment = deployment.filter(|name| !name.is_empty()).map(str::to_owned);
            let replica_set = (otel::K8S_REPLICASET_NAME, name.clone());
            [Some(replica_set), deployment.map(|name| (otel::K8S_DEPLOYMENT_NAME, name))]
                .into_iter()
                .flatten()
                .collect()
        }
        "Job" => {
            let cron = cron_job(&name, created).map(|cron| (otel::K8S_CRONJOB_NAME, cron.to_owned()));
            [Some((otel::K8S_JOB_NAME, name.clone())), cron].into_iter().flatten().collect()
        }
        "StatefulSet" => vec![(otel::K8S_STATEFULSET_NAME, name)],
        "DaemonSet" => vec![(otel::K8S_DAEMONSET_NAME, name)],
        "ReplicationController" => vec![(otel::K8S_REPLICATIONCONTROLLER_NAME, name)],
        _ => Vec::new(),
    }
}

/// The CronJob of a Job, whose controller names its Jobs by it and by when they were due, in minutes since 1970. A pod does not
/// say whose its Job is: where the number is not a time shortly before it was made, it may be anything.
fn cron_job<'n>(job: &'n str, created: Option<&Time>) -> Option<&'n str> {
    let (cron, due) = job.rsplit_once('-').filter(|(cron, due)| !cron.is_empty() && !due.starts_with(['0', '+']))?;
    let due_s = due.parse::<i64>().ok()?.checked_mul(60)?;
    let created_s = created?.0.as_second();
    let skew_s = i64::try_from(SKEW_NS / 1_000_000_000).ok()?;
    (created_s - LATE_S..=created_s + skew_s).contains(&due_s).then_some(cron)
}

/// The DaemonSet that a pod is of, by its owner.
pub(super) fn daemon_set(metadata: &ObjectMeta) -> Option<&str> {
    let owners = metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet").map(|o| &*o.name)
}

impl PodObject {
    pub(super) fn only_container(&self) -> Option<&str> {
        let mut all = running(&self.spec);
        all.next().filter(|_| all.next().is_none()).map(|container| &*container.name)
    }

    pub(super) fn started(&self) -> Option<String> {
        self.status.start_time.as_ref().map(|time| time.0.to_string())
    }
}

/// Where a pod is. In the node's network it has no address of its own, but ports; without, it may have ports there too.
fn places(spec: &Spec, status: &Status) -> Vec<Place> {
    let of = |one: &str, all: &[Address]| {
        let texts = all.iter().map(|address| address.ip.as_str()).chain([one]);
        let mut ips: Vec<_> = texts.filter_map(|text| text.parse().ok()).map(|ip: IpAddr| ip.to_canonical()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    };
    let (own, host) = (of(&status.pod_ip, &status.pod_ips), of(&status.host_ip, &status.host_ips));
    let mut places: Vec<_> =
        if spec.host_network { Vec::new() } else { own.iter().map(|ip| Place { ip: *ip, port: 0 }).collect() };
    // Without an address it does not run yet, and its ports are nobody's.
    if own.is_empty() {
        return places;
    }
    for port in running(spec).flat_map(|container| &container.ports).filter(|port| is_tcp(port)) {
        let number = on_node(spec, port);
        let bound = port.host_ip.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
        if number != 0 {
            places.extend(
                host.iter().filter(|ip| bound.is_none_or(|b| b == **ip)).map(|ip| Place { ip: *ip, port: number }),
            );
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// The API's wall times on the agent's clock, rounded to the side on which they are certain.
struct Times {
    wall: WallOffset,
}

impl Times {
    fn at_latest_since(&self, at: &Time) -> MonoNs {
        self.mono(at, ROUNDED_NS + SKEW_NS)
    }

    fn at_least_until(&self, at: Option<&Time>) -> Option<MonoNs> {
        at.map(|at| self.mono(at, -SKEW_NS))
    }

    /// When somebody asked for the pod's end: the time that it has is counted from then.
    fn end_asked(&self, metadata: &ObjectMeta) -> Option<MonoNs> {
        let by = metadata.deletion_timestamp.as_ref()?;
        let grace = metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
        Some(self.mono(by, -SKEW_NS - i128::from(grace) * 1_000_000_000))
    }

    fn mono(&self, at: &Time, shift_ns: i128) -> MonoNs {
        let ns = at.0.as_nanosecond() + shift_ns - i128::from(self.wall.0);
        MonoNs(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
