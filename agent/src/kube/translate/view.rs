//! What a translation sees of the cluster, which notes all that it looks at: there is no other way to an object, so what hangs on
//! what is never a matter of remembering to say so. When something of it is another, who saw it is translated again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::core::DynamicObject;

use super::backends::Slices;
use super::collected::OwnDefaults;
use super::gateway::{Gateway, Grants, Policies};
use super::ingress::Classes;
use super::owners;
use crate::config::model::Holder;
use crate::kube::objects::{Key, Objects, Set};
use crate::kube::parts::Object;
use crate::kube::refusals::Refused;

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Read {
    /// An object, whether there is one or not.
    Object(Object),
    /// All of a kind.
    All(&'static str),
    /// The EndpointSlices of a Service.
    Slices(Key),
    /// Which Ingress objects are ours.
    Classes,
    /// What Gateways there are, and where they listen.
    Gateways,
    /// Who may refer from where to what.
    Grants,
    /// The policies that a Service is under.
    Policy(Key),
    /// Whether a Middleware, by its key, can be used.
    Usable(String),
    /// Whose a name is.
    Name(Sort, String),
    /// What is behind the name of a Middleware or of a chain.
    Middleware(String),
    /// Whether there are TLS options of this name.
    Options(String),
    /// The default TLS options of a namespace's routes alone.
    OwnDefault(Box<str>),
    /// Whether an entry point has been opened.
    EntryPoint(String),
    /// Whose the default backend is.
    Default,
}

/// What has names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sort {
    Routers,
    Services,
    Middlewares,
    Options,
}

/// What one part of the translation found and others look at.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub classes: Classes,
    pub gateways: Vec<Gateway>,
    pub grants: Grants,
    pub policies: Policies,
    /// Middlewares that can be used, by their keys.
    pub usable: BTreeSet<String>,
    pub own_defaults: OwnDefaults,
}

/// For the translation of one thing.
#[derive(Debug)]
pub(super) struct View<'o> {
    objects: &'o Objects,
    slices: &'o Slices,
    found: &'o Found,
    reads: RefCell<BTreeSet<Read>>,
}

impl<'o> View<'o> {
    pub(super) fn new(objects: &'o Objects, slices: &'o Slices, found: &'o Found) -> Self {
        Self { objects, slices, found, reads: RefCell::default() }
    }

    /// All that was looked at.
    pub(super) fn into_reads(self) -> BTreeSet<Read> {
        self.reads.into_inner()
    }

    /// Notes what something hangs on.
    pub(super) fn note(&self, read: Read) {
        #[cfg(test)]
        if deaf::is_to(&read) {
            return;
        }
        self.reads.borrow_mut().insert(read);
    }

    fn one(&self, kind: &'static str, namespace: &str, name: &str) {
        self.note(Read::Object(Object { kind, key: Key::new(namespace, name) }));
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&'o Service> {
        self.one("Service", namespace, name);
        self.objects.services.get(namespace, name).map(|service| &**service)
    }

    /// Those of a Service, in the order of their names.
    pub(super) fn slices(&self, service: &Key) -> impl Iterator<Item = &'o Arc<EndpointSlice>> + use<'o> {
        self.note(Read::Slices(service.clone()));
        self.slices.of(service)
    }

    pub(super) fn secret(&self, namespace: &str, name: &str) -> Option<&'o Secret> {
        self.one("Secret", namespace, name);
        self.objects.secrets.get(namespace, name).map(|secret| &**secret)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&'o Namespace> {
        self.one("Namespace", "", name);
        self.objects.namespaces.get("", name).map(|namespace| &**namespace)
    }

    pub(super) fn traefik_service(&self, key: &Key) -> Option<&'o Arc<DynamicObject>> {
        self.one("TraefikService", &key.namespace, &key.name);
        self.objects.traefik_services.get(&key.namespace, &key.name)
    }

    pub(super) fn servers_transport(&self, key: &Key) -> Option<&'o Arc<DynamicObject>> {
        self.one("ServersTransport", &key.namespace, &key.name);
        self.objects.servers_transports.get(&key.namespace, &key.name)
    }

    /// All of a kind, in the order of their names.
    pub(super) fn all(&self, kind: &'static str) -> impl Iterator<Item = (&'o Key, &'o Arc<DynamicObject>)> + use<'o> {
        self.note(Read::All(kind));
        self.objects.all(kind).into_iter().flat_map(Set::iter)
    }

    /// All classes of Ingress objects.
    pub(super) fn ingress_classes(&self) -> &'o Set<IngressClass> {
        self.note(Read::All("IngressClass"));
        &self.objects.ingress_classes
    }

    pub(super) fn classes(&self) -> &'o Classes {
        self.note(Read::Classes);
        &self.found.classes
    }

    pub(super) fn gateways(&self) -> &'o [Gateway] {
        self.note(Read::Gateways);
        &self.found.gateways
    }

    pub(super) fn grants(&self) -> &'o Grants {
        self.note(Read::Grants);
        &self.found.grants
    }

    /// The policy that a Service's port is under.
    pub(super) fn policy(&self, service: &Key, port: Option<&str>) -> Option<&'o Key> {
        self.note(Read::Policy(service.clone()));
        self.found.policies.of(service, port)
    }

    /// Whether there is such a Middleware that can be used.
    pub(super) fn is_usable(&self, key: &str) -> bool {
        self.note(Read::Usable(key.to_owned()));
        self.found.usable.contains(key)
    }

    /// The key of the TLS options that the routes of a namespace have where others have the default ones.
    pub(super) fn own_default(&self, namespace: &str) -> Option<&'o str> {
        self.note(Read::OwnDefault(namespace.into()));
        self.found.own_defaults.get(namespace).map(String::as_str)
    }

    /// Kinds that may not be read. When these are others, everything is made again.
    pub(super) fn refused(&self) -> &'o Refused {
        &self.objects.refused
    }

    /// Who brings the parts of an object. Of itself it hears anyhow.
    pub(super) fn holder(&self, object: &Object) -> Holder {
        owners::holder(self.objects, object)
    }
}

/// For tests: what happens if something is looked at and not noted.
#[cfg(test)]
pub(super) mod deaf {
    use std::cell::Cell;

    use super::Read;

    thread_local! {
        static TO: Cell<fn(&Read) -> bool> = const { Cell::new(|_| false) };
    }

    pub(in super::super) fn to<T>(what: fn(&Read) -> bool, run: impl FnOnce() -> T) -> T {
        let before = TO.replace(what);
        let done = run();
        TO.set(before);
        done
    }

    pub(super) fn is_to(read: &Read) -> bool {
        TO.get()(read)
    }
}
