//! What translation gives: parts of the configuration, certificates, and what is wrong with which object. Whom a part
//! comes from is in its name, as in Traefik: `default-shop-80@kubernetes`.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use wayspan_proxy::tls::hosts;

use super::objects::Key;
use super::translate::owners::Names;
use crate::config::model::{
    self, Dynamic, EntryPoint, HostOwner, HostOwners, Middleware, Router, RouterTls, Service, TlsOptions,
};
use crate::config::{Dispute, Fault};

/// Where a router leads whose object cannot be served as it was meant: it answers 500, as the Gateway API asks, instead
/// of leaving its requests to a wider route that may do without what this one asked for.
pub const UNUSABLE: &str = "unusable@kubernetes";

/// What is said of such a router's requests.
pub const GET_500: &str = "its requests are answered with 500";

/// TLS options of whoever names none.
const DEFAULT_OPTIONS: &str = "default";

/// An object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// `Ingress`, `HTTPRoute`.
    pub kind: &'static str,
    /// Which.
    pub key: Key,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// What is wrong with an object, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Which object.
    pub object: Object,
    /// The field's path; empty where it is the whole object.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault().fmt(f)
    }
}

impl Problem {
    /// As a fault of the configuration, for logs and the dashboard.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::at(Path::new(&self.object.to_string()), self.path.clone(), 0, self.message.clone())
    }
}

/// A certificate with its key, from a Secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The Secret.
    pub secret: Key,
    /// What it holds.
    pub certificate: model::Certificate,
}

/// All that the cluster's objects ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    /// Of Gateways that listen on ports of their own.
    pub entry_points: Vec<EntryPoint>,
    /// By name, as are the others. What did not change is the same `Arc` as before.
    pub routers: Vec<Arc<Router>>,
    /// Backends.
    pub services: Vec<Arc<Service>>,
    /// Of Middleware objects and of filters.
    pub middlewares: Vec<Arc<Middleware>>,
    /// For every server name that they hold.
    pub certificates: Vec<Arc<Certificate>>,
    /// Whose hosts are that certificates are for.
    pub host_owners: Arc<HostOwners>,
    /// What is wrong with objects by themselves.
    pub problems: Vec<Problem>,
    /// What is wrong beside other objects: certificates that are not shown, requests that another one gets.
    pub disputes: Vec<Problem>,
    /// What statuses should say.
    pub statuses: Vec<Arc<Status>>,
    /// Whom routers come from, in their order.
    pub origins: Vec<Arc<Object>>,
    /// For server names that no certificate is for, where the file has none.
    pub default_certificate: Option<model::Certificate>,
    /// Of TLSOption objects.
    pub tls_options: Vec<TlsOptions>,
    /// Somebody asks for default options that cannot be had: nobody is to be served by others.
    pub default_options_lost: bool,
}

impl Parts {
    /// The file's configuration with these parts. A router that names what is nowhere answers 500: without a middleware
    /// that it asks for it must not be served. Gives the names of such routers with what they miss.
    #[must_use]
    pub fn merged(&self, file: &Dynamic) -> (Dynamic, Vec<(String, String)>) {
        let mut all = file.clone();
        all.entry_points.extend(self.entry_points.iter().cloned());
        all.services.extend(self.services.iter().cloned());
        all.middlewares.extend(self.middlewares.iter().cloned());
        all.certificates.extend(self.certificates.iter().map(|one| one.certificate.clone()));
        all.host_owners = self.contested(file, &all.certificates);
        all.default_certificate = all.default_certificate.or_else(|| self.default_certificate.clone());
        let has_default = all.tls_options.iter().any(|one| one.name == DEFAULT_OPTIONS);
        // Of two defaults the file's counts.
        let options = self.tls_options.iter().filter(|one| !has_default || one.name != DEFAULT_OPTIONS);
        all.tls_options.extend(options.cloned());
        let (services, middlewares, options): (HashSet<&str>, HashSet<&str>, HashSet<&str>) = (
            all.services.iter().map(|one| one.name.as_str()).collect(),
            all.middlewares.iter().map(|one| one.name.as_str()).collect(),
            all.tls_options.iter().map(|one| one.name.as_str()).collect(),
        );
        let mut missing = Vec::new();
        let routers = self.routers.iter().map(|router| {
            let service = Some(router.service.as_str());
            let service = service.filter(|name| !is_own_answer(name) && !services.contains(name));
            let lost = router.middlewares.iter().map(String::as_str).find(|name| !middlewares.contains(name));
            let named = router.tls.as_ref().and_then(|tls| tls.options.as_deref());
            let own_default = router.default_options.as_deref();
            let unknown = named.or(own_default.filter(|_| has_default_options(router, &all.entry_points)));
            let unknown = unknown.filter(|name| !options.contains(name) && *name != DEFAULT_OPTIONS);
            let what = match (service, lost, unknown) {
                (None, None, None) => return Arc::clone(router),
                (_, Some(name), _) => no_middleware(name),
                (_, None, Some(name)) => no_options(name),
                (Some(name), None, None) => format!("there is no service `{name}`"),
            };
            missing.push((router.name.clone(), what));
            Arc::new(Router { service: UNUSABLE.to_owned(), middlewares: Vec::new(), ..Router::clone(router) })
        });
        let routers: Vec<_> = routers.collect();
        all.routers.extend(routers);
        if self.default_options_lost && !has_default {
            let Dynamic { routers, entry_points, .. } = &mut all;
            let of_all = |router: &&mut Arc<Router>| router.default_options.is_none();
            for router in routers.iter_mut().filter(of_all).filter(|router| has_default_options(router, entry_points)) {
                missing.push((router.name.clone(), "the default TLS options cannot be used".to_owned()));
                let refused = Router { service: UNUSABLE.to_owned(), middlewares: Vec::new(), ..Router::clone(router) };
                *router = Arc::new(refused);
            }
        }
        (all, missing)
    }

    /// Whom a router comes from.
    #[must_use]
    pub fn origin(&self, router: &str) -> Option<&Object> {
        let place = self.routers.binary_search_by(|one| one.name.as_str().cmp(router)).ok()?;
        self.origins.get(place).map(|object| &**object)
    }

    /// All that is wrong.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().chain(&self.disputes)
    }

    /// The owners of hosts that more than one of these certificates is for; a host of the file's routes is the file's.
    fn contested(&self, file: &Dynamic, certificates: &[model::Certificate]) -> HostOwners {
        if self.host_owners.is_empty() {
            return HostOwners::new();
        }
        let names = Names::of(certificates.iter());
        let is_contested = |host: &String| names.count(host) > 1;
        let ours = self.host_owners.iter().filter(|(host, _)| is_contested(host));
        let mut all: HostOwners = ours.map(|(host, owner)| (host.clone(), owner.clone())).collect();
        let of_file = file.routers.iter().flat_map(|router| hosts(&router.rule)).filter(is_contested);
        all.extend(of_file.map(|host| (host, HostOwner::default())));
        all
    }

    /// Routers of the cluster's objects that want other TLS options for a host than another router, each once.
    pub fn disputed<'d>(&self, all: &'d [Dispute]) -> impl Iterator<Item = &'d Dispute> {
        let mut told = HashSet::new();
        let ours = all.iter().filter(|one| self.origin(&one.router).is_some());
        ours.filter(move |one| told.insert(one.router.as_str()))
    }

    /// Whether nothing is another than in `before`.
    #[must_use]
    pub fn is_same(&self, before: &Self) -> bool {
        self.other_services(before).is_some_and(|others| others.is_empty()) && is_same(&self.statuses, &before.statuses)
    }

    /// The services that are others than in `before`, where nothing else is another: by their place among the services.
    #[must_use]
    pub fn other_services(&self, before: &Self) -> Option<Vec<(usize, Arc<Service>)>> {
        let is_rest_same = is_same(&self.routers, &before.routers)
            && is_same(&self.middlewares, &before.middlewares)
            && is_same(&self.certificates, &before.certificates)
            && self.services.len() == before.services.len()
            && self.entry_points == before.entry_points
            && self.problems == before.problems
            && self.disputes == before.disputes
            && self.host_owners == before.host_owners
            && self.tls_options == before.tls_options
            && self.default_certificate == before.default_certificate
            && self.default_options_lost == before.default_options_lost;
        let pairs = || self.services.iter().zip(&before.services).enumerate().filter(|(_, (a, b))| !Arc::ptr_eq(a, b));
        if !is_rest_same || !pairs().all(|(_, (a, b))| a.name == b.name) {
            return None;
        }
        Some(pairs().map(|(index, (new, _))| (index, Arc::clone(new))).collect())
    }
}

fn is_same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Whether a router is reached by connections that have the default options, or those that it has instead.
fn has_default_options(router: &Router, entry_points: &[EntryPoint]) -> bool {
    let is_default = |tls: &RouterTls| tls.options.is_none();
    let mut here = entry_points.iter().filter(|one| one.takes(router));
    match &router.tls {
        Some(tls) => is_default(tls),
        None => here.any(|one| one.tls.as_ref().is_some_and(is_default)),
    }
}

/// What is wrong with a router that names such TLS options.
#[must_use]
pub fn no_options(name: &str) -> String {
    format!("there are no TLS options `{name}` that can be used")
}

/// What is wrong with a router that names such a middleware.
#[must_use]
pub fn no_middleware(name: &str) -> String {
    format!("there is no middleware `{name}` that can be used")
}

/// What is wrong with an object that names such an entry point.
#[must_use]
pub fn no_entry_point(name: &str) -> String {
    format!("there is no entry point `{name}`")
}

fn is_own_answer(service: &str) -> bool {
    service == UNUSABLE || service.ends_with("@internal")
}

/// A condition in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word of the API's.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Condition {
    /// By its parts.
    #[must_use]
    pub fn new(kind: &'static str, holds: bool, reason: &str, message: &str) -> Self {
        Self { kind, holds, reason: reason.to_owned(), message: message.to_owned() }
    }

    /// As the API writes it, but for the time.
    #[must_use]
    pub fn json(&self, generation: i64) -> Value {
        json!({
            "type": self.kind,
            "status": if self.holds { "True" } else { "False" },
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
        })
    }
}

/// What an object's status should say.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The object.
    pub object: Object,
    /// The version of its spec that this is about.
    pub generation: i64,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// The other fields that are ours.
    pub body: Value,
    /// The statuses that this takes the place of; none: any. Of some it is not known whose word they are.
    pub over: Vec<Value>,
}

impl Status {
    /// By its parts, in place of any other.
    #[must_use]
    pub fn new(object: Object, generation: i64, conditions: Vec<Condition>, body: Value) -> Self {
        Self { object, generation, conditions, body, over: Vec::new() }
    }
}
