//! BackendTLSPolicies: which Services are to be spoken to by TLS. Wayspan cannot do that yet, and must not send in the clear what
//! was to be encrypted: who leads there is told so by [`super::routes`], and the policy by its status.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::view::View;
use super::super::{Object, Out};
use super::{CONTROLLER, GROUP, Known};
use crate::kube::objects::Key;
use crate::kube::parts::{Condition, Problem, Status};

const KIND: &str = "BackendTLSPolicy";
const NOT_YET: &str = "TLS to servers is not supported yet: requests to what it is about are answered with 500";

/// What is read of a policy: how TLS is to be spoken is nothing to us yet.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicySpec {
    target_refs: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    group: Option<String>,
    kind: String,
    name: String,
    /// A port's name; none: all ports.
    section_name: Option<String>,
}

/// Whether it is known that a Service is under none but those that there are.
pub(super) fn unread(view: &View<'_>, service: &Key) -> Result<(), (&'static str, String)> {
    if !view.refused().any(KIND, |namespace| *namespace == *service.namespace) {
        return Ok(());
    }
    let message = "a BackendTLSPolicy may ask for TLS, and none may be read; let the role `list` and `watch` them";
    Err(("UnsupportedProtocol", format!("Service {service}: {message}")))
}

/// All policies, by the Services that they are about.
#[derive(Debug, Default)]
pub(in super::super) struct Policies {
    by_service: BTreeMap<Key, Vec<(Option<String>, Key)>>,
    /// Each one's version.
    all: BTreeMap<Key, i64>,
}

impl Policies {
    /// Those of the cluster.
    pub(super) fn read(out: &mut Out<'_>, known: &mut Known) -> Self {
        let mut policies = Self::default();
        for (key, policy) in out.view.all(KIND) {
            let spec = known.policies.typed(key, policy);
            let spec = match &*spec {
                Ok(spec) => spec,
                Err(message) => {
                    out.problem(&Object { kind: KIND, key: key.clone() }, "spec", message.clone());
                    continue;
                }
            };
            let services = spec.target_refs.iter().filter(|target| {
                target.kind == "Service" && target.group.as_deref().is_none_or(|group| matches!(group, "" | "core"))
            });
            for target in services {
                let section = target.section_name.clone().filter(|section| !section.is_empty());
                let service = Key::new(&key.namespace, &target.name);
                policies.by_service.entry(service).or_default().push((section, key.clone()));
            }
            policies.all.insert(key.clone(), policy.metadata.generation.unwrap_or(0));
        }
        policies
    }

    /// The policy that a Service's port is under.
    pub(in super::super) fn of(&self, service: &Key, port: Option<&str>) -> Option<&Key> {
        let mut all = self.by_service.get(service)?.iter();
        all.find(|(section, _)| section.is_none() || section.as_deref() == port).map(|(_, policy)| policy)
    }

    /// The Services of which not the same is said as in `other`.
    pub(in super::super) fn differing<'p>(&'p self, other: &'p Self) -> impl Iterator<Item = &'p Key> {
        let both = self.by_service.keys().chain(other.by_service.keys());
        both.filter(|service| self.by_service.get(*service) != other.by_service.get(*service))
    }

    /// Says of each policy which Gateways of ours do not follow it; where there is none, what we said before is taken back.
    pub(super) fn tell(&self, followers: &dyn Fn(&Key) -> Vec<Key>) -> (Vec<Status>, Vec<Problem>) {
        let (mut statuses, mut problems) = (Vec::new(), Vec::new());
        for (key, generation) in &self.all {
            let gateways = followers(key);
            let object = Object { kind: KIND, key: key.clone() };
            if !gateways.is_empty() {
                let (object, path) = (object.clone(), "spec".to_owned());
                problems.push(Problem { object, path, message: NOT_YET.to_owned() });
            }
            let refused = Condition::new("Accepted", false, "Unsupported", NOT_YET).json(*generation);
            let ancestor = |gateway: &Key| {
                json!({
                    "ancestorRef":
                        {"group": GROUP, "kind": "Gateway", "namespace": gateway.namespace, "name": gateway.name},
                    "controllerName": CONTROLLER,
                    "conditions": [refused],
                })
            };
            let ancestors: Vec<Value> = gateways.iter().map(ancestor).collect();
            let body = json!({ "ancestors": ancestors });
            statuses.push(Status::new(object, *generation, Vec::new(), body));
        }
        (statuses, problems)
    }
}
