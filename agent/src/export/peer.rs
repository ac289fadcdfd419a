//! What spans say of the pod at a connection's other end: encoded once, when the pod is heard of, and copied into each span.
//! Which pod that is, is `kube::pods`'s.

use std::fmt;

use opentelemetry_semantic_conventions::attribute as otel;
use wayspan_proxy::record::{Attempt, Head};

use super::proto::{Attributes, length_tag};
use crate::kube::pods::Pods;
use crate::kube::pods::cache::Found;

/// `Span.attributes`.
const ATTRIBUTES: u8 = length_tag(9);
/// Before OpenTelemetry's names for one's own pod, which are not defined for somebody else's.
const PREFIX: &str = "peer.";
/// OpenTelemetry has no name for a node's zone in Kubernetes.
const ZONE: &str = "peer.k8s.zone";
/// Of the backend, known by its EndpointSlice.
pub(super) const SERVICE: &str = "peer.k8s.service.name";
/// Bytes of one value: names and labels are shorter by their own rules, annotations may have 256 KiB.
const VALUE_MAX: usize = 1024;

/// Attributes of a span, as they stand in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Encoded(Box<[u8]>);

impl Encoded {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Encodes attributes, `peer.` before OpenTelemetry's names.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    key: String,
}

impl Writer {
    /// An attribute by OpenTelemetry's name for one's own; an empty value is none.
    pub fn own(&mut self, key: &str, value: &str) {
        self.parts(&[PREFIX, key], value);
    }

    /// A label or annotation: `kind` is OpenTelemetry's name before the key.
    pub fn keyed(&mut self, kind: &str, key: &str, value: &str) {
        self.parts(&[PREFIX, kind, ".", key], value);
    }

    /// The zone of the pod's node.
    pub fn zone(&mut self, value: &str) {
        self.parts(&[ZONE], value);
    }

    /// Whom a CLIENT span calls: OpenTelemetry's name, and the older one that service graphs go by.
    pub fn called(&mut self, namespace: &str, name: &str) {
        self.parts(&[otel::SERVICE_PEER_NAME], name);
        self.parts(&[otel::SERVICE_PEER_NAMESPACE], namespace);
        self.parts(&["peer.service"], name);
    }

    fn parts(&mut self, key: &[&str], value: &str) {
        if value.is_empty() {
            return;
        }
        self.key.clear();
        self.key.extend(key.iter().copied());
        let end = value.floor_char_boundary(VALUE_MAX);
        Attributes::new(&mut self.out, ATTRIBUTES).text(&self.key, value.get(..end).unwrap_or_default());
    }

    /// What was written since the last time.
    pub fn take(&mut self) -> Encoded {
        let bytes = self.out.as_slice().into();
        self.out.clear();
        Encoded(bytes)
    }
}

/// The pod that a request came from, if it came from one.
pub(super) fn client(a: &mut Attributes<'_>, pods: &Pods, head: &Head) {
    if let Some(found) = pods.of_client(head) {
        pod(a, &found);
    }
}

/// The pod that an attempt went to, and by what name one knows it.
pub(super) fn server(a: &mut Attributes<'_>, pods: &Pods, attempt: &Attempt) {
    if let Some(found) = pods.of_attempt(attempt) {
        pod(a, &found);
        a.encoded(&found.pod.called);
    }
}

fn pod(a: &mut Attributes<'_>, found: &Found<'_>) {
    a.encoded(&found.pod.attributes);
    found.zone.into_iter().chain(found.container).for_each(|encoded| a.encoded(encoded));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let mut writer = Writer::default();
        writer.own("k", &"ä".repeat(600));
        assert_eq!(writer.take().bytes().iter().filter(|byte| **byte == 0xa4).count(), VALUE_MAX / 2);
        writer.own("k", "");
        assert!(writer.take().bytes().is_empty());
    }
}
