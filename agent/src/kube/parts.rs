//! What translation gives: parts of the configuration, certificates, and what is wrong with which object. Whom a part
//! comes from is in its name, as in Traefik: `default-shop-80@kubernetes`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::objects::Key;
use crate::config::Fault;
use crate::config::model::{self, Dynamic, EntryPoint, Middleware, Router, Service};

/// Where a router leads whose object cannot be served as it was meant: it answers 500, as the Gateway API asks, instead
/// of leaving its requests to a wider route that may do without what this one asked for.
pub const UNUSABLE: &str = "unusable@kubernetes";

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
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What statuses should say.
    pub statuses: Vec<Arc<Status>>,
    /// Whom a router comes from, by its name.
    pub origins: Arc<BTreeMap<String, Object>>,
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
        let (services, middlewares): (HashSet<&str>, HashSet<&str>) = (
            all.services.iter().map(|one| one.name.as_str()).collect(),
            all.middlewares.iter().map(|one| one.name.as_str()).collect(),
        );
        let mut missing = Vec::new();
        let routers = self.routers.iter().map(|router| {
            let service = Some(router.service.as_str());
            let service = service.filter(|name| !is_own_answer(name) && !services.contains(name));
            let lost = router.middlewares.iter().map(String::as_str).find(|name| !middlewares.contains(name));
            let what = match (service, lost) {
                (None, None) => return Arc::clone(router),
                (_, Some(name)) => format!("there is no middleware `{name}` that can be used"),
                (Some(name), None) => format!("there is no service `{name}`"),
            };
            missing.push((router.name.clone(), what));
            Arc::new(Router { service: UNUSABLE.to_owned(), middlewares: Vec::new(), ..Router::clone(router) })
        });
        let routers: Vec<_> = routers.collect();
        all.routers.extend(routers);
        (all, missing)
    }

    /// Takes the `Arc`s of before for what is the same.
    pub(super) fn keep(&mut self, before: Self) {
        fn keep<T: PartialEq, K: Ord + ?Sized>(new: &mut [Arc<T>], before: Vec<Arc<T>>, name: impl Fn(&T) -> &K) {
            let mut before = before.into_iter().peekable();
            for one in new {
                while before.next_if(|old| name(old) < name(one)).is_some() {}
                if let Some(old) = before.next_if(|old| name(old) == name(one))
                    && old == *one
                {
                    *one = old;
                }
            }
        }
        keep(&mut self.routers, before.routers, |one| &one.name);
        keep(&mut self.services, before.services, |one| &one.name);
        keep(&mut self.middlewares, before.middlewares, |one| &one.name);
        keep(&mut self.certificates, before.certificates, |one| &one.secret);
        let statuses = before.statuses.into_iter().map(|status| (status.object.clone(), status));
        let statuses: HashMap<Object, Arc<Status>> = statuses.collect();
        for status in &mut self.statuses {
            if let Some(old) = statuses.get(&status.object).filter(|old| *old == status) {
                *status = Arc::clone(old);
            }
        }
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
            && self.problems == before.problems;
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
}
