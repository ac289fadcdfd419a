//! The objects of the cluster as the watches last told of them: what translation reads. A plain store with one owner, so
//! that a translation sees one moment of it. Where objects come from is [`super::watch`]'s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::parts::Object;
use super::refusals::Refused;

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
    /// Shared with who looks at a part of the cluster.
    held: Arc<BTreeMap<Key, Arc<K>>>,
    /// Lists under way, by the namespace they are of; `None`: of all.
    listed: BTreeMap<Option<Box<str>>, BTreeMap<Key, Arc<K>>>,
    /// What became another.
    pub changes: Log,
    /// What was told of, also where nothing but a status is another.
    pub touches: Log,
}

impl<K> Default for Set<K> {
    fn default() -> Self {
        Self { held: Arc::default(), listed: BTreeMap::new(), changes: Log::default(), touches: Log::default() }
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

impl<K: Resource + PartialEq> Set<K> {
    /// Takes what a watch of a namespace, or of all, says; whether anything is another than before. Until a list is
    /// whole, what was known stays.
    pub fn apply(&mut self, scope: Option<&str>, event: Event<K>) -> bool {
        match event {
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => {
                let key = Key::of(&object);
                let was = Arc::make_mut(&mut self.held).remove(&key).is_some();
                if was {
                    self.note(key);
                }
                was
            }
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
                let gone = self.held.keys().filter(|key| within(key) && !listed.contains_key(key));
                let gone: Vec<Key> = gone.cloned().collect();
                let mut changed = !gone.is_empty();
                for key in gone {
                    Arc::make_mut(&mut self.held).remove(&key);
                    self.note(key);
                }
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
        let held = Arc::make_mut(&mut self.held);
        match held.get_mut(&key) {
            // A status, of which no route is made, is no change.
            Some(old) if same(&**old, &*object) || **old == *object => {
                *old = object;
                self.touches.note(key);
                false
            }
            _ => {
                held.insert(key.clone(), object);
                self.note(key);
                true
            }
        }
    }

    fn note(&mut self, key: Key) {
        self.touches.note(key.clone());
        self.changes.note(key);
    }
}

/// What happened to a set, for readers who come by now and then and want to look only at what is new.
#[derive(Debug)]
pub struct Log {
    /// Of which set it is.
    lineage: u64,
    /// Entries since the beginning.
    count: u64,
    /// The last ones.
    recent: VecDeque<Key>,
}

/// Up to where a reader has read; the default has read nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    lineage: u64,
    count: u64,
}

/// Who missed more than this looks at everything.
const RECENT_MAX: usize = 1024;

impl Default for Log {
    fn default() -> Self {
        static LINEAGES: AtomicU64 = AtomicU64::new(1);
        Self { lineage: LINEAGES.fetch_add(1, Ordering::Relaxed), count: 0, recent: VecDeque::new() }
    }
}

/// A copy goes its own way: its readers begin anew.
impl Clone for Log {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Log {
    fn note(&mut self, key: Key) {
        self.count += 1;
        self.recent.push_back(key);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// For a reader who has read everything.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { lineage: self.lineage, count: self.count }
    }

    /// What is new since the mark, which moves to the end; some keys may come twice. `None`: too much to be told, or this is
    /// another set than the mark's.
    pub fn since(&self, mark: &mut Mark) -> Option<Vec<Key>> {
        let before = std::mem::replace(mark, self.mark());
        let missed = self.count.checked_sub(before.count).filter(|_| before.lineage == self.lineage)?;
        let skipped = self.recent.len().checked_sub(usize::try_from(missed).ok()?)?;
        Some(self.recent.iter().skip(skipped).cloned().collect())
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

/// How far all sets were read.
#[derive(Debug, Default)]
pub(super) struct Marks([Mark; 19]);

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
    pub listener_sets: Set<DynamicObject>,
    pub http_routes: Set<DynamicObject>,
    pub reference_grants: Set<DynamicObject>,
    pub backend_tls_policies: Set<DynamicObject>,
    /// Kinds that may not be read.
    pub(super) refused: Refused,
}

impl Objects {
    /// The objects that are others since the marks, which move to the end; some may come twice. `None`: too much to be told. What is
    /// refused has none, and is compared.
    pub(super) fn changed(&self, marks: &mut Marks) -> Option<Vec<Object>> {
        // Each field by its name: a new one must be thought of.
        let Self {
            ingresses,
            ingress_classes,
            services,
            slices,
            secrets,
            namespaces,
            nodes,
            ingress_routes,
            middlewares,
            traefik_services,
            servers_transports,
            tls_options,
            tls_stores,
            gateway_classes,
            gateways,
            listener_sets,
            http_routes,
            reference_grants,
            backend_tls_policies,
            refused: _,
        } = self;
        let logs = [
            ("Ingress", &ingresses.changes),
            ("IngressClass", &ingress_classes.changes),
            ("Service", &services.changes),
            ("EndpointSlice", &slices.changes),
            ("Secret", &secrets.changes),
            ("Namespace", &namespaces.changes),
            ("Node", &nodes.changes),
            ("IngressRoute", &ingress_routes.changes),
            ("Middleware", &middlewares.changes),
            ("TraefikService", &traefik_services.changes),
            ("ServersTransport", &servers_transports.changes),
            ("TLSOption", &tls_options.changes),
            ("TLSStore", &tls_stores.changes),
            ("GatewayClass", &gateway_classes.changes),
            ("Gateway", &gateways.changes),
            ("ListenerSet", &listener_sets.changes),
            ("HTTPRoute", &http_routes.changes),
            ("ReferenceGrant", &reference_grants.changes),
            ("BackendTLSPolicy", &backend_tls_policies.changes),
        ];
        let mut all = Some(Vec::new());
        for ((kind, log), mark) in logs.into_iter().zip(&mut marks.0) {
            // Each log is read to its end, whatever the others say.
            let keys = log.since(mark);
            all = all.zip(keys).map(|(mut all, keys): (Vec<Object>, _)| {
                all.extend(keys.into_iter().map(|key| Object { kind, key }));
                all
            });
        }
        all
    }

    /// An object of a kind that has no type here.
    pub(super) fn dynamic(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<DynamicObject>> {
        self.all(kind)?.get(namespace, name)
    }

    /// All of a kind that has no type here.
    pub(super) fn all(&self, kind: &str) -> Option<&Set<DynamicObject>> {
        Some(match kind {
            "GatewayClass" => &self.gateway_classes,
            "Gateway" => &self.gateways,
            "ListenerSet" => &self.listener_sets,
            "HTTPRoute" => &self.http_routes,
            "IngressRoute" => &self.ingress_routes,
            "Middleware" => &self.middlewares,
            "TraefikService" => &self.traefik_services,
            "ServersTransport" => &self.servers_transports,
            "TLSOption" => &self.tls_options,
            "TLSStore" => &self.tls_stores,
            "ReferenceGrant" => &self.reference_grants,
            "BackendTLSPolicy" => &self.backend_tls_policies,
            _ => return None,
        })
    }

    /// When an object was made whose parts have names.
    pub(super) fn created(&self, kind: &str, namespace: &str, name: &str) -> Option<Time> {
        let metadata = match kind {
            "Ingress" => self.ingresses.get(namespace, name)?.meta(),
            "Service" => self.services.get(namespace, name)?.meta(),
            _ => self.dynamic(kind, namespace, name)?.meta(),
        };
        metadata.creation_timestamp.clone()
    }
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

    #[test]
    fn a_reader_is_told_what_is_new_and_looks_at_everything_where_it_missed_too_much() {
        let keys = |told: Option<Vec<Key>>| told.map(|keys| keys.iter().map(Key::to_string).collect::<Vec<_>>());
        let mut set = Set::default();
        let (mut mark, mut touched) = (Mark::default(), set.touches.mark());
        assert_eq!(keys(set.changes.since(&mut mark)), None);
        set.put(service("a", "one", "7"));
        set.put(service("a", "one", "7"));
        set.apply(None, Event::Delete(service("a", "one", "7")));
        assert_eq!(keys(set.changes.since(&mut mark)), Some(vec!["a/one".to_owned(), "a/one".to_owned()]));
        assert_eq!(keys(set.touches.since(&mut touched)).unwrap().len(), 3);
        assert_eq!(keys(set.changes.since(&mut mark)), Some(Vec::new()));
        let copy = set.clone();
        assert_eq!(copy.changes.since(&mut { mark }), None);
        for version in 0..=RECENT_MAX {
            set.put(service("a", "one", &version.to_string()));
        }
        assert_eq!(set.changes.since(&mut mark), None);
        set.apply(None, Event::Init);
        set.apply(None, Event::InitDone);
        assert_eq!(keys(set.changes.since(&mut mark)), Some(vec!["a/one".to_owned()]));
    }
}
