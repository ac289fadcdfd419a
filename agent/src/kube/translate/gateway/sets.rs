//! ListenerSets: listeners that others add to a Gateway, where it lets them.

use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    GatewayAllowedListenersNamespacesFrom, GatewayAllowedListenersNamespacesSelector, GatewayListeners, GatewaySpec,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::view::View;
use super::super::{Object, Out};
use super::listeners::{self, Listening, Owner};
use super::{GROUP, Gateway, Grants, Known, refusal};
use crate::config::model::KubernetesProvider;
use crate::kube::objects::Key;
use crate::kube::parts::{Condition, Status};

/// A ListenerSet's spec: its listeners are written like a Gateway's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListenerSetSpec {
    parent_ref: Parent,
    #[serde(default)]
    listeners: Vec<GatewayListeners>,
}

#[derive(Debug, Deserialize)]
struct Parent {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
}

/// One that is read, with the Gateway that it is for.
pub(super) struct Asking {
    key: Key,
    generation: i64,
    gateway: Key,
    spec: Arc<Result<ListenerSetSpec, String>>,
}

/// One of a Gateway's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub object: Object,
    generation: i64,
    /// Whether the Gateway takes it.
    allowed: bool,
}

/// All, in the order in which they come first: the oldest, then the first by name.
pub(super) fn all(out: &mut Out<'_>, known: &mut Known, settings: &KubernetesProvider) -> Vec<Asking> {
    let mut all: Vec<_> = out.view.all("ListenerSet").filter(|(key, _)| settings.serves(&key.namespace)).collect();
    all.sort_by_cached_key(|(key, set)| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), *key));
    let mut asking = Vec::new();
    for (key, set) in all {
        let spec = known.sets.typed(key, set);
        let parent = match &*spec {
            Ok(spec) => &spec.parent_ref,
            Err(message) => {
                out.problem(&Object { kind: "ListenerSet", key: key.clone() }, "spec", message.clone());
                continue;
            }
        };
        let is_gateway = parent.group.as_deref().is_none_or(|group| group == GROUP)
            && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway");
        if is_gateway {
            let gateway = Key::new(parent.namespace.as_deref().unwrap_or(&key.namespace), &parent.name);
            let generation = set.metadata.generation.unwrap_or(0);
            asking.push(Asking { key: key.clone(), generation, gateway, spec: Arc::clone(&spec) });
        }
    }
    asking
}

/// What the sets of a Gateway of ours that cannot be read should say.
pub(super) fn unserved<'s>(asking: &'s [Asking], gateway: &'s Key) -> impl Iterator<Item = Status> + 's {
    let message = format!("Gateway {gateway} cannot be read");
    asking.iter().filter(move |set| set.gateway == *gateway).map(move |Asking { key, generation, .. }| {
        let conditions = vec![
            Condition::new("Accepted", false, "ParentNotAccepted", &message),
            Condition::new("Programmed", false, "ParentNotProgrammed", &message),
        ];
        let object = Object { kind: "ListenerSet", key: key.clone() };
        Status::new(object, *generation, conditions, json!({ "listeners": [] }))
    })
}

/// Adds those of a Gateway to it.
pub(super) fn attach(
    out: &mut Out<'_>,
    listening: &mut Listening<'_>,
    grants: &Grants,
    asking: &[Asking],
    (spec, by): (&GatewaySpec, &Owner<'_>),
    gateway: &mut Gateway,
) {
    for Asking { key, generation, spec: set, .. } in asking.iter().filter(|one| one.gateway == gateway.object.key) {
        let Ok(set) = &**set else { continue };
        let allowed = allows(spec, out.view, &gateway.object.key.namespace, &key.namespace);
        let object = Object { kind: "ListenerSet", key: key.clone() };
        if allowed {
            let owner = Owner { kind: "ListenerSet", key, set: Some(gateway.sets.len()), ..*by };
            gateway.listeners.extend(listeners::read(out, listening, grants, &owner, &set.listeners));
        }
        gateway.sets.push(Set { object, generation: *generation, allowed });
    }
}

/// Whether a Gateway takes sets of a namespace: unless it says so, of none.
fn allows(spec: &GatewaySpec, view: &View<'_>, own: &str, namespace: &str) -> bool {
    let namespaces = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(GatewayAllowedListenersNamespacesFrom::All) => true,
        Some(GatewayAllowedListenersNamespacesFrom::Same) => own == namespace,
        Some(GatewayAllowedListenersNamespacesFrom::Selector) => {
            let selector = namespaces.and_then(|one| one.selector.as_ref());
            selector.is_some_and(|selector| selects(selector, view, namespace))
        }
        Some(GatewayAllowedListenersNamespacesFrom::None) | None => false,
    }
}

fn selects(selector: &GatewayAllowedListenersNamespacesSelector, view: &View<'_>, namespace: &str) -> bool {
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|one| (&*one.key, &*one.operator, one.values.as_deref().unwrap_or_default()));
    listeners::selects(view, namespace, selector.match_labels.as_ref(), expressions)
}

/// How many of its sets a Gateway serves something of.
pub(super) fn attached(gateway: &Gateway) -> usize {
    (0..gateway.sets.len()).filter(|set| of(gateway, *set).any(|listener| listener.is_programmed())).count()
}

fn of(gateway: &Gateway, set: usize) -> impl Iterator<Item = &listeners::Listener> {
    gateway.listeners.iter().filter(move |listener| listener.set == Some(set))
}

/// What the sets of a Gateway should say, with so many routes on each listener.
pub(super) fn statuses(gateway: &Gateway, attached: &dyn Fn(usize) -> usize) -> Vec<Status> {
    let status = |(index, set): (usize, &Set)| {
        let served = of(gateway, index).filter(|listener| listener.is_programmed()).count();
        let (holds, accepted, programmed, message) = if let Some(refused) = refusal(gateway.wanting.as_ref()) {
            (false, "ParentNotAccepted", "ParentNotProgrammed", refused)
        } else if !set.allowed {
            (false, "NotAllowed", "NotAllowed", "the Gateway takes no listeners of this namespace")
        } else if served == 0 {
            (false, "ListenersNotValid", "ListenersNotValid", "no listener can be served")
        } else if served < of(gateway, index).count() {
            (true, "ListenersNotValid", "Programmed", "some listeners cannot be served")
        } else {
            (true, "Accepted", "Programmed", "")
        };
        let conditions = vec![
            Condition::new("Accepted", holds, accepted, message),
            Condition::new("Programmed", holds, programmed, message),
        ];
        let all = gateway.listeners.iter().enumerate().filter(|(_, listener)| listener.set == Some(index));
        let listeners: Vec<Value> = all.map(|(at, one)| one.status(set.generation, attached(at))).collect();
        Status::new(set.object.clone(), set.generation, conditions, json!({ "listeners": listeners }))
    };
    gateway.sets.iter().enumerate().map(status).collect()
}
