//! What of an object is kept: what somebody reads. Every agent holds all Secrets that it may read, so of them no entry stays that
//! nothing is made of; and what changes elsewhere in an object is no change.

use std::fmt::Debug;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Node, NodeStatus, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::translate::backends::ZONE;

/// Bytes of one Secret that are kept: a chain of certificates with its key has ten thousand, a bundle of all roots 220 KiB.
const SECRET_MAX: usize = 256 * 1024;
/// Entries of a Secret that somebody reads by their name.
const ENTRIES: [&str; 6] = ["tls.crt", "tls.key", "ca.crt", "tls.ca", "username", "password"];
/// Instead of entries that nobody reads. No entry of a Secret can be called so, nor as the next.
const LEFT_OUT: &str = "(left out)";
/// Instead of everything.
const TOO_LARGE: &str = "(too large)";
const REGION: &str = "topology.kubernetes.io/region";

/// What is watched.
pub(super) trait Light: Resource + Clone + PartialEq + DeserializeOwned + Debug + Send + Sync + 'static {
    /// Takes away what nobody reads: at least who wrote which field.
    fn lighten(&mut self) {
        self.managed_fields_mut().clear();
        self.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

impl Light for Service {}
impl Light for EndpointSlice {}
impl Light for Ingress {}
impl Light for IngressClass {}
impl Light for DynamicObject {}

impl Light for Secret {
    fn lighten(&mut self) {
        self.metadata = named(&mut self.metadata);
        (self.immutable, self.string_data) = (None, None);
        let Some(data) = &mut self.data else { return };
        let there = data.len();
        // An only entry may hold users, whatever it is called.
        data.retain(|name, _| there == 1 || ENTRIES.contains(&name.as_str()));
        if data.values().map(|entry| entry.0.len()).sum::<usize>() > SECRET_MAX {
            data.clear();
            data.insert(TOO_LARGE.to_owned(), ByteString::default());
        } else if data.len() < there {
            data.insert(LEFT_OUT.to_owned(), ByteString::default());
        }
    }
}

impl Light for Node {
    fn lighten(&mut self) {
        let mut labels = self.metadata.labels.take();
        labels.iter_mut().for_each(|labels| labels.retain(|name, _| [ZONE, REGION].contains(&name.as_str())));
        self.metadata = ObjectMeta { labels, ..named(&mut self.metadata) };
        let status = self.status.take();
        self.status = status.map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
        self.spec = None;
    }
}

impl Light for Namespace {
    fn lighten(&mut self) {
        let labels = self.metadata.labels.take();
        self.metadata = ObjectMeta { labels, ..named(&mut self.metadata) };
        (self.spec, self.status) = (None, None);
    }
}

/// Without its version: who has the same is the same.
fn named(of: &mut ObjectMeta) -> ObjectMeta {
    ObjectMeta { name: of.name.take(), namespace: of.namespace.take(), ..ObjectMeta::default() }
}

/// An entry of a Secret. An error: it was not kept.
pub(super) fn entry<'s>(secret: &'s Secret, name: &str) -> Result<Option<&'s [u8]>, String> {
    let Some(data) = &secret.data else { return Ok(None) };
    if data.contains_key(TOO_LARGE) {
        return Err(format!("is too large: what could be read of it has more than {} KiB", SECRET_MAX / 1024));
    }
    Ok(data.get(name).map(|bytes| bytes.0.as_slice()))
}

/// The entry of a Secret that has no other.
pub(super) fn only_entry(secret: &Secret) -> Option<&[u8]> {
    let data = secret.data.as_ref().filter(|data| data.len() == 1)?;
    let (name, bytes) = data.first_key_value()?;
    (name != LEFT_OUT).then_some(bytes.0.as_slice())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::objects::Set;

    fn read<K: Light>(value: Value) -> K {
        let mut object: K = serde_json::from_value(value).unwrap();
        object.lighten();
        object
    }

    fn secret(version: &str, data: &[(&str, usize)]) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "resourceVersion": version, "uid": "u", "annotations": {"a": "b"}},
            "type": "Opaque",
        }))
        .unwrap();
        let data = data.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(vec![b'x'; *bytes])));
        secret.data = Some(data.collect());
        secret.lighten();
        secret
    }

    #[test]
    fn of_a_secret_the_entries_are_kept_that_somebody_reads() {
        for (data, kept) in [
            (&[("tls.crt", 1), ("tls.key", 2), ("ca.crt", 3)][..], &["ca.crt", "tls.crt", "tls.key"][..]),
            (&[("username", 1), ("password", 2)], &["password", "username"]),
            (&[("anything", 5)], &["anything"]),
            (&[("tls.ca", 5), ("token", 900_000)], &[LEFT_OUT, "tls.ca"]),
            (&[("one", 5), ("other", 5)], &[LEFT_OUT]),
            (&[("users", SECRET_MAX)], &["users"]),
            (&[("users", SECRET_MAX + 1)], &[TOO_LARGE]),
            (&[("tls.crt", 200_000), ("tls.key", 100_000)], &[TOO_LARGE]),
        ] {
            let secret = secret("1", data);
            assert_eq!(secret.data.as_ref().unwrap().keys().collect::<Vec<_>>(), kept, "{data:?}");
            let is_large = kept == [TOO_LARGE];
            assert_eq!(entry(&secret, "tls.crt").is_err(), is_large, "{data:?}");
            let is_only = data.len() == 1 && !is_large;
            assert_eq!(only_entry(&secret).is_some_and(|bytes| !bytes.is_empty()), is_only, "{data:?}");
        }
    }

    #[test]
    fn of_a_node_and_a_namespace_what_nobody_reads_is_left_out() {
        let node = |condition: &str, address: &str| -> Node {
            read(json!({
                "metadata": {"name": "n", "resourceVersion": condition, "labels": {ZONE: "east", REGION: "r", "x": condition}},
                "spec": {"podCIDR": condition},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": address}],
                    "conditions": [{"type": "Ready", "status": condition}],
                },
            }))
        };
        assert_eq!(node("1", "10.0.0.1"), node("2", "10.0.0.1"));
        assert_ne!(node("1", "10.0.0.1"), node("1", "10.0.0.2"));
        let labels = node("1", "10.0.0.1").metadata.labels.unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), [REGION, ZONE]);
        let namespace = |team: &str, annotation: &str| -> Namespace {
            let metadata = json!({"name": "n", "labels": {"team": team}, "annotations": {"a": annotation}});
            read(json!({ "metadata": metadata }))
        };
        assert_eq!(namespace("a", "1"), namespace("a", "2"));
        assert_ne!(namespace("a", "1"), namespace("b", "1"));
    }

    #[test]
    fn what_changes_in_that_alone_is_no_change() {
        let mut set = Set::default();
        assert!(set.put(secret("1", &[("tls.crt", 1), ("token", 1)])));
        assert!(!set.put(secret("2", &[("tls.crt", 1), ("token", 2)])));
        assert!(set.put(secret("3", &[("tls.crt", 2), ("token", 2)])));
    }
}
