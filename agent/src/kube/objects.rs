//! The objects of the cluster as the watches last told of them: what translation reads. A plain store with one owner, so
//! that a translation sees one moment of it. Where objects come from is [`super::watch`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// Namespace and name; the namespace of a cluster's object is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where it is.
    pub namespace: Box<str>,
    /// What it is called there.
    pub name: Box<str>,
}

impl Key {
    /// Of an object by its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Self::new(object.meta().namespace.as_deref().unwrap_or_default(), &object.name_any())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// All objects of one kind, in the order of their names.
#[derive(Debug, Clone)]
pub struct Set<K> {
    held: BTreeMap<Key, Arc<K>>,
    /// Lists under way, by the namespace they are of; `None`: of all.
    listed: BTreeMap<Option<Box<str>>, BTreeMap<Key, Arc<K>>>,
}

impl<K> Default for Set<K> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), listed: BTreeMap::new() }
    }
}

impl<K> Set<K> {
    /// One object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.held.get(&Key::new(namespace, name))
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.held.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl<K: Resource> Set<K> {
    /// Takes what a watch of a namespace, or of all, says; whether anything is another than before. Until a list is
    /// whole, what was known stays.
    pub fn apply(&mut self, scope: Option<&str>, event: Event<K>) -> bool {
        match event {
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => self.held.remove(&Key::of(&object)).is_some(),
            Event::Init => {
                self.listed.insert(scope.map(Box::from), BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.listed.entry(scope.map(Box::from)).or_default().insert(Key::of(&object), Arc::new(object));
                false
            }
            Event::InitDone => {
                let listed = self.listed.remove(&scope.map(Box::from)).unwrap_or_default();
                let within = |key: &Key| scope.is_none_or(|scope| *key.namespace == *scope);
                let before = self.held.len();
                self.held.retain(|key, _| !within(key) || listed.contains_key(key));
                let mut changed = self.held.len() != before;
                for (key, object) in listed {
                    changed |= self.put_as(key, object);
                }
                changed
            }
        }
    }

    /// Adds or replaces one object; whether it is another than before.
    pub fn put(&mut self, object: K) -> bool {
        self.put_as(Key::of(&object), Arc::new(object))
    }

    fn put_as(&mut self, key: Key, object: Arc<K>) -> bool {
        match self.held.get_mut(&key) {
            // A status, of which no route is made, is taken without a word.
            Some(old) if same(&**old, &*object) => {
                *old = object;
                false
            }
            _ => {
                self.held.insert(key, object);
                true
            }
        }
    }
}

/// Whether two versions of an object differ in nothing but their status: the API server counts what else changes.
fn same<K: Resource>(old: &K, new: &K) -> bool {
    let (old, new) = (old.meta(), new.meta());
    if old.resource_version.is_some() && old.resource_version == new.resource_version {
        return true;
    }
    old.generation.is_some()
        && (old.generation, &old.uid) == (new.generation, &new.uid)
        && (&old.labels, &old.annotations) == (&new.labels, &new.annotations)
}

/// All that routes are made from. What has a schema of someone else's is kept as it came: one object that cannot be
/// read must not hide the others.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "named like the kinds they hold")]
pub struct Objects {
    pub ingresses: Set<Ingress>,
    pub ingress_classes: Set<IngressClass>,
    pub services: Set<Service>,
    pub slices: Set<EndpointSlice>,
    pub secrets: Set<Secret>,
    pub namespaces: Set<Namespace>,
    /// Our own node.
    pub nodes: Set<Node>,
    pub ingress_routes: Set<DynamicObject>,
    pub middlewares: Set<DynamicObject>,
    pub traefik_services: Set<DynamicObject>,
    pub servers_transports: Set<DynamicObject>,
    pub tls_options: Set<DynamicObject>,
    pub tls_stores: Set<DynamicObject>,
    pub gateway_classes: Set<DynamicObject>,
    pub gateways: Set<DynamicObject>,
    pub http_routes: Set<DynamicObject>,
    pub reference_grants: Set<DynamicObject>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, version: &str) -> Service {
        let mut service = Service::default();
        service.metadata.namespace = Some(namespace.to_owned());
        service.metadata.name = Some(name.to_owned());
        service.metadata.resource_version = Some(version.to_owned());
        service
    }

    fn names(set: &Set<Service>) -> Vec<String> {
        set.iter().map(|(key, _)| key.to_string()).collect()
    }

    #[test]
    fn a_list_replaces_what_was_known_when_it_is_whole_and_only_in_its_namespace() {
        let mut set = Set::default();
        assert!(set.apply(None, Event::Apply(service("a", "old", "1"))));
        assert!(set.apply(None, Event::Apply(service("b", "other", "1"))));
        assert!(!set.apply(Some("a"), Event::Init));
        assert!(!set.apply(Some("a"), Event::InitApply(service("a", "new", "2"))));
        assert_eq!(names(&set), ["a/old", "b/other"]);
        assert!(set.apply(Some("a"), Event::InitDone));
        assert_eq!(names(&set), ["a/new", "b/other"]);
    }

    #[test]
    fn a_list_of_what_is_known_changes_nothing() {
        let mut set = Set::default();
        for round in 0..2 {
            set.apply(None, Event::Init);
            set.apply(None, Event::InitApply(service("a", "one", "7")));
            assert_eq!(set.apply(None, Event::InitDone), round == 0);
        }
        assert!(!set.apply(None, Event::Apply(service("a", "one", "7"))));
        assert!(set.apply(None, Event::Apply(service("a", "one", "8"))));
        assert!(set.apply(None, Event::Delete(service("a", "one", "8"))));
        assert!(!set.apply(None, Event::Delete(service("a", "one", "8"))));
    }
}
