//! Who sends the spans: the OTLP resource and scope. Read from the machine once at start; encoded once.

use std::path::Path;

use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute as otel};

use super::proto::{self, Attributes, length_tag};
use crate::config::model::Tracing;

/// The scope of all our spans.
const SCOPE: &str = "wayspan";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `ExportTraceServiceRequest.resource_spans`.
const RESOURCE_SPANS: u8 = length_tag(1);
/// `ResourceSpans.resource`, `.scope_spans`, `.schema_url`.
const RESOURCE: u8 = length_tag(1);
const SCOPE_SPANS: u8 = length_tag(2);
const RESOURCE_SCHEMA_URL: u8 = length_tag(3);
/// `Resource.attributes`.
const ATTRIBUTES: u8 = length_tag(1);
/// `ScopeSpans.scope`, `.schema_url`; `InstrumentationScope.name`, `.version`.
const SCOPE_FIELD: u8 = length_tag(1);
const SCOPE_SCHEMA_URL: u8 = length_tag(3);
const SCOPE_NAME: u8 = length_tag(1);
const SCOPE_VERSION: u8 = length_tag(2);

/// What the machine says of itself; empty texts where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's name.
    pub host_name: String,
    /// systemd's machine id: Jaeger adjusts clocks between spans whose hosts differ or are not known.
    pub host_id: String,
    /// The kernel's release.
    pub os_version: String,
    /// Unique per process.
    pub instance_id: String,
    /// Our process id.
    pub pid: u32,
}

impl HostFacts {
    /// Asks the machine. Reads five small files.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default().trim().to_owned();
        let host_name = text("/proc/sys/kernel/hostname");
        let ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"].map(text);
        let host_id = ids.into_iter().find(|id| !id.is_empty()).unwrap_or_else(|| host_name.clone());
        Self {
            host_name,
            host_id,
            os_version: text("/proc/sys/kernel/osrelease"),
            instance_id: text("/proc/sys/kernel/random/uuid"),
            pid: std::process::id(),
        }
    }
}

/// What is known of the agent's own pod; empty texts where nothing is, all of them outside of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are OpenTelemetry's")]
pub struct OwnPod {
    pub namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub pod_ip: String,
    pub node_name: String,
    pub container_name: String,
    pub daemon_set: String,
    pub start_time: String,
    pub cluster_uid: String,
}

impl OwnPod {
    /// OpenTelemetry's for Kubernetes: unique among all pods' containers, and one name for each.
    fn instance_id(&self) -> Option<String> {
        let parts = [&self.namespace, &self.pod_name, &self.container_name].map(String::as_str);
        (!parts.contains(&"")).then(|| parts.join("."))
    }
}

/// The resource of all our spans.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    attributes: Vec<KeyValue>,
}

impl Resource {
    /// From what the machine and the cluster say, `OTEL_RESOURCE_ATTRIBUTES` (its text, empty if unset) and the
    /// configuration; the later ones win. `service.name` is `serviceName` in any case: remote sampling and the dashboard ask by it.
    #[must_use]
    pub fn new(tracing: &Tracing, facts: &HostFacts, own: &OwnPod, environment: &str) -> Self {
        let mut resource = Self { attributes: Vec::new() };
        let instance_id = own.instance_id();
        // A pod has a host name of its own, which is not the host's.
        let host_name = if own.node_name.is_empty() { &facts.host_name } else { &own.node_name };
        // Where the machine's id is not to be seen, its name stands for it.
        let host_id = if facts.host_id == facts.host_name { host_name } else { &facts.host_id };
        for (key, value) in [
            (otel::SERVICE_VERSION, VERSION),
            (otel::SERVICE_INSTANCE_ID, instance_id.as_deref().unwrap_or(&facts.instance_id)),
            (otel::HOST_NAME, host_name),
            (otel::HOST_ID, host_id),
            (otel::HOST_ARCH, architecture()),
            (otel::OS_TYPE, std::env::consts::OS),
            (otel::OS_VERSION, &facts.os_version),
            (otel::PROCESS_EXECUTABLE_NAME, "wayspan"),
            // The name "opentelemetry" is reserved for its own SDKs.
            (otel::TELEMETRY_SDK_NAME, SCOPE),
            (otel::TELEMETRY_SDK_LANGUAGE, "rust"),
            (otel::TELEMETRY_SDK_VERSION, VERSION),
            (otel::K8S_NAMESPACE_NAME, &own.namespace),
            (otel::K8S_POD_NAME, &own.pod_name),
            (otel::K8S_POD_UID, &own.pod_uid),
            (otel::K8S_POD_IP, &own.pod_ip),
            (otel::K8S_POD_START_TIME, &own.start_time),
            (otel::K8S_CONTAINER_NAME, &own.container_name),
            (otel::K8S_DAEMONSET_NAME, &own.daemon_set),
            (otel::K8S_NODE_NAME, &own.node_name),
            (otel::K8S_CLUSTER_UID, &own.cluster_uid),
        ] {
            if !value.is_empty() {
                resource.set(key, value.to_owned().into());
            }
        }
        resource.set(otel::PROCESS_PID, i64::from(facts.pid).into());
        for (key, value) in pairs(environment) {
            resource.set(&key, value.into());
        }
        for (key, value) in &tracing.resource_attributes {
            resource.set(key, value.clone().into());
        }
        resource.set(otel::SERVICE_NAME, tracing.service_name.clone().into());
        resource
    }

    fn set(&mut self, key: &str, value: Value) {
        match self.attributes.iter_mut().find(|known| known.key.as_str() == key) {
            Some(known) => known.value = value,
            None => self.attributes.push(KeyValue::new(key.to_owned(), value)),
        }
    }

    /// The same for opentelemetry's exporter.
    pub(super) fn to_sdk(&self) -> opentelemetry_sdk::Resource {
        opentelemetry_sdk::Resource::builder_empty()
            .with_schema_url(self.attributes.iter().cloned(), SCHEMA_URL)
            .build()
    }
}

/// The scope for opentelemetry's exporter.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(SCOPE).with_version(VERSION).with_schema_url(SCHEMA_URL).build()
}

/// The parts of an `ExportTraceServiceRequest` around its spans.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// `ResourceSpans` but for `scope_spans`.
    resource: Vec<u8>,
    /// `ScopeSpans` but for `spans`.
    scope: Vec<u8>,
}

impl Envelope {
    pub(super) fn new(resource: &Resource) -> Self {
        let mut around = Vec::new();
        proto::message(&mut around, RESOURCE, |out| {
            let mut attributes = Attributes::new(out, ATTRIBUTES);
            for KeyValue { key, value, .. } in &resource.attributes {
                match value {
                    Value::I64(value) => attributes.int(key.as_str(), u64::try_from(*value).unwrap_or(0)),
                    other => attributes.text(key.as_str(), &other.as_str()),
                }
            }
        });
        proto::bytes(&mut around, RESOURCE_SCHEMA_URL, SCHEMA_URL.as_bytes());
        let mut scope = Vec::new();
        proto::message(&mut scope, SCOPE_FIELD, |out| {
            proto::bytes(out, SCOPE_NAME, SCOPE.as_bytes());
            proto::bytes(out, SCOPE_VERSION, VERSION.as_bytes());
        });
        proto::bytes(&mut scope, SCOPE_SCHEMA_URL, SCHEMA_URL.as_bytes());
        Self { resource: around, scope }
    }

    /// What goes before `spans_len` bytes of `ScopeSpans.spans` fields to make them a request.
    pub(super) fn open(&self, spans_len: usize) -> Vec<u8> {
        let scope_spans = (self.scope.len() + spans_len) as u64;
        let rest = self.resource.len() + 1 + proto::varint_len(scope_spans);
        let mut out = Vec::with_capacity(rest + self.scope.len() + 12);
        out.push(RESOURCE_SPANS);
        proto::varint(&mut out, rest as u64 + scope_spans);
        out.extend_from_slice(&self.resource);
        out.push(SCOPE_SPANS);
        proto::varint(&mut out, scope_spans);
        out.extend_from_slice(&self.scope);
        out
    }
}

/// OpenTelemetry's names for processors (host.arch).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `key=value,key=value` with percent-encoded values; parts without `=` are no attributes.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), percent_decoded(value.trim())))
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = text.as_bytes().iter();
    let mut out = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        let rest = bytes.as_slice();
        let code = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                bytes.nth(1);
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
    use prost::Message;

    use super::*;
    use crate::export::testing::{span_data, tracing};

    fn resource(environment: &str, configured: &[(&str, &str)]) -> Resource {
        let resource_attributes = configured.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let facts = HostFacts { host_name: "node".into(), host_id: "id".into(), pid: 7, ..HostFacts::default() };
        let tracing = crate::config::model::Tracing { resource_attributes, ..tracing() };
        Resource::new(&tracing, &facts, &OwnPod::default(), environment)
    }

    fn value(resource: &Resource, key: &str) -> Option<String> {
        resource.attributes.iter().find(|known| known.key.as_str() == key).map(|known| known.value.to_string())
    }

    #[test]
    fn later_sources_win_and_the_service_name_is_the_configurations() {
        let environment = "a=1,b=2%2C3, host.name = other ,service.name=x,=,junk,c=%zz";
        let resource = resource(environment, &[("a", "configured"), ("service.name", "y")]);
        for (key, expected) in [
            ("a", "configured"),
            ("b", "2,3"),
            ("c", "%zz"),
            ("host.name", "other"),
            ("host.id", "id"),
            ("process.pid", "7"),
            ("service.name", "wayspan"),
        ] {
            assert_eq!(value(&resource, key).as_deref(), Some(expected), "{key}");
        }
        assert_eq!(value(&resource, "os.version"), None);
    }

    #[test]
    fn a_pod_says_which_one_it_is_and_outside_of_a_cluster_nothing_is_said() {
        let facts = HostFacts { host_name: "pod-x".into(), host_id: "pod-x".into(), ..HostFacts::default() };
        let own = OwnPod {
            namespace: "default".into(),
            pod_name: "wayspan-x2v9k".into(),
            pod_uid: "u".into(),
            pod_ip: "10.0.0.7".into(),
            node_name: "node-1".into(),
            container_name: "wayspan".into(),
            daemon_set: "wayspan".into(),
            start_time: "2026-11-24T19:00:00Z".into(),
            cluster_uid: "c".into(),
        };
        let resource = Resource::new(&tracing(), &facts, &own, "");
        for (key, expected) in [
            ("k8s.namespace.name", "default"),
            ("k8s.pod.name", "wayspan-x2v9k"),
            ("k8s.pod.uid", "u"),
            ("k8s.pod.ip", "10.0.0.7"),
            ("k8s.pod.start_time", "2026-11-24T19:00:00Z"),
            ("k8s.container.name", "wayspan"),
            ("k8s.daemonset.name", "wayspan"),
            ("k8s.node.name", "node-1"),
            ("k8s.cluster.uid", "c"),
            ("service.instance.id", "default.wayspan-x2v9k.wayspan"),
            ("host.name", "node-1"),
            ("host.id", "node-1"),
        ] {
            assert_eq!(value(&resource, key).as_deref(), Some(expected), "{key}");
        }
        let seen = HostFacts { host_id: "machine".into(), ..facts.clone() };
        assert_eq!(value(&Resource::new(&tracing(), &seen, &own, ""), "host.id").as_deref(), Some("machine"));
        let outside = Resource::new(&tracing(), &facts, &OwnPod::default(), "");
        assert!(outside.attributes.iter().all(|known| !known.key.as_str().starts_with("k8s.")));
    }

    #[test]
    fn the_machine_has_a_name_an_id_and_a_kernel() {
        let facts = HostFacts::read();
        assert!(![&facts.host_name, &facts.host_id, &facts.os_version, &facts.instance_id].contains(&&String::new()));
        assert_ne!(facts.instance_id, HostFacts::read().instance_id);
    }

    #[test]
    fn our_envelope_is_the_sdks() {
        let resource = resource("k=v", &[]);
        let span = span_data();
        let theirs = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(vec![span], &(&resource.to_sdk()).into()),
        };
        let mut spans = Vec::new();
        theirs.resource_spans[0].scope_spans[0].spans.iter().for_each(|span| {
            proto::bytes(&mut spans, length_tag(2), &span.encode_to_vec());
        });
        let mut bytes = Envelope::new(&resource).open(spans.len());
        bytes.extend_from_slice(&spans);
        let mut ours = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        let by_key = |request: &mut ExportTraceServiceRequest| {
            request.resource_spans[0].resource.as_mut().unwrap().attributes.sort_by(|a, b| a.key.cmp(&b.key));
        };
        let mut theirs = theirs;
        by_key(&mut ours);
        by_key(&mut theirs);
        assert_eq!(ours, theirs);
    }
}
