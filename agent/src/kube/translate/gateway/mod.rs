//! The Gateway API: classes and Gateways here, what they listen on and what is routed in the leaves. What is asked for and
//! not served says so in conditions, with the reasons that the API names.

mod filters;
mod listeners;
mod matches;
mod routes;

use std::net::SocketAddr;

use gateway_api::apis::standard::gateways::GatewaySpec;
use gateway_api::apis::standard::httproutes::HttpRouteSpec;
use gateway_api::apis::standard::referencegrants::ReferenceGrantSpec;
use serde_json::{Value, json};

use self::listeners::{Listener, Listening};
use super::backends::Backends;
use super::specs::Specs;
use super::{Object, Out};
use crate::config::model::KubernetesProvider;
use crate::kube::objects::Key;
use crate::kube::parts::{Condition, Status};

/// `spec.controllerName` of the classes that are ours.
pub(in crate::kube) const CONTROLLER: &str = "wayspan.io/gateway-controller";
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// What of the API's features there is, by the conformance suite's names.
const FEATURES: [&str; 17] = [
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendTimeout",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
];
const MORE_FEATURES: [&str; 4] =
    ["HTTPRouteRequestTimeout", "HTTPRouteResponseHeaderModification", "HTTPRouteSchemeRedirect", "ReferenceGrant"];

/// What was read of the kinds.
#[derive(Debug, Default)]
pub(super) struct Known {
    gateways: Specs<GatewaySpec>,
    routes: Specs<HttpRouteSpec>,
    grants: Specs<ReferenceGrantSpec>,
}

impl Known {
    pub(super) fn forget_unused(&mut self) {
        self.gateways.forget_unused();
        self.routes.forget_unused();
        self.grants.forget_unused();
    }
}

/// What Gateways stand in: the file's entry points, and how it went with the ports that they asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// The file's entry points with their addresses.
    pub entry_points: Vec<(String, Vec<SocketAddr>)>,
    /// Where the api listens.
    pub api: Option<SocketAddr>,
    /// Entry points that cannot be opened, and why.
    pub unopened: Vec<(String, String)>,
    /// Our addresses, for statuses: type and value.
    pub addresses: Vec<(String, String)>,
}

/// A Gateway of ours.
struct Gateway {
    object: Object,
    generation: i64,
    /// Its addresses that we do not have.
    addresses: Result<(), Condition>,
    listeners: Vec<Listener>,
}

/// All objects of the Gateway API.
pub(super) fn translate<'t>(
    out: &mut Out<'t>,
    known: &mut Known,
    backends: &Backends<'t>,
    settings: &KubernetesProvider,
    around: &Around,
) {
    let objects = out.objects;
    let classes = classes(out);
    let grants = grants(out, known);
    let mut listening = Listening::new(around);
    let mut gateways = Vec::new();
    for (key, gateway) in objects.gateways.iter().filter(|(key, _)| settings.serves(&key.namespace)) {
        let class = gateway.data.pointer("/spec/gatewayClassName").and_then(Value::as_str).unwrap_or_default();
        if !classes.iter().any(|ours| ours == class) {
            continue;
        }
        let object = Object { kind: "Gateway", key: key.clone() };
        let generation = gateway.metadata.generation.unwrap_or(0);
        let spec = known.gateways.typed(key, gateway);
        match &*spec {
            Ok(spec) => {
                let listeners = listeners::read(out, &mut listening, &grants, key, spec);
                gateways.push(Gateway { object, generation, addresses: wanted(spec, around), listeners });
            }
            Err(message) => out.problem(&object, "spec", message.clone()),
        }
    }
    out.parts.entry_points = listening.opened();
    routes::translate(out, known, backends, settings, &grants, &mut gateways);
    for gateway in gateways {
        for listener in &gateway.listeners {
            for (place, message) in listener.problems() {
                out.problem(&gateway.object, place, message);
            }
        }
        out.parts.statuses.push(status(gateway, around));
    }
}

/// The classes that are ours.
fn classes(out: &mut Out<'_>) -> Vec<String> {
    let objects = out.objects;
    let mut ours = Vec::new();
    for (key, class) in objects.gateway_classes.iter() {
        if class.data.pointer("/spec/controllerName").and_then(Value::as_str) != Some(CONTROLLER) {
            continue;
        }
        ours.push(key.name.to_string());
        let mut features: Vec<&str> = FEATURES.into_iter().chain(MORE_FEATURES).collect();
        features.sort_unstable();
        let features: Vec<Value> = features.into_iter().map(|name| json!({ "name": name })).collect();
        out.parts.statuses.push(Status {
            object: Object { kind: "GatewayClass", key: key.clone() },
            generation: class.metadata.generation.unwrap_or(0),
            conditions: vec![Condition::new("Accepted", true, "Accepted", "")],
            body: json!({ "supportedFeatures": features }),
        });
    }
    ours
}

/// The addresses that a Gateway asks for are ours.
fn wanted(spec: &GatewaySpec, around: &Around) -> Result<(), Condition> {
    for address in spec.addresses.iter().flatten() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        if !matches!(kind, "IPAddress" | "Hostname") {
            let message = format!("addresses of the type {kind} cannot be had");
            return Err(Condition::new("Accepted", false, "UnsupportedAddress", &message));
        }
        let value = address.value.as_deref().unwrap_or_default();
        if !value.is_empty() && !around.addresses.iter().any(|(_, ours)| ours == value) {
            let message = format!("{value} is no address of ours");
            return Err(Condition::new("Programmed", false, "AddressNotUsable", &message));
        }
    }
    Ok(())
}

fn status(gateway: Gateway, around: &Around) -> Status {
    let Gateway { object, generation, addresses, listeners } = gateway;
    let accepted = listeners.iter().filter(|listener| listener.is_accepted()).count();
    let programmed = listeners.iter().any(Listener::is_programmed);
    let mut conditions = vec![match accepted {
        0 => Condition::new("Accepted", false, "ListenersNotValid", "no listener can be served"),
        some if some < listeners.len() => {
            Condition::new("Accepted", true, "ListenersNotValid", "some listeners cannot be served")
        }
        _ => Condition::new("Accepted", true, "Accepted", ""),
    }];
    conditions.push(if programmed {
        Condition::new("Programmed", true, "Programmed", "")
    } else {
        Condition::new("Programmed", false, "Invalid", "no listener can be served")
    });
    if let Err(condition) = addresses {
        if condition.kind == "Accepted" {
            conditions.push(Condition::new("Programmed", false, "Invalid", &condition.message));
        }
        conditions.retain(|other| other.kind != condition.kind);
        conditions.insert(0, condition);
        conditions.dedup_by(|a, b| a.kind == b.kind);
    }
    let addresses: Vec<Value> =
        around.addresses.iter().map(|(kind, value)| json!({"type": kind, "value": value})).collect();
    let listeners: Vec<Value> = listeners.iter().map(|listener| listener.status(generation)).collect();
    Status { object, generation, conditions, body: json!({"addresses": addresses, "listeners": listeners}) }
}

/// Who may refer from where to what.
pub(super) struct Grants(Vec<Grant>);

struct Grant {
    namespace: Box<str>,
    spec: std::sync::Arc<Result<ReferenceGrantSpec, String>>,
}

fn grants(out: &mut Out<'_>, known: &mut Known) -> Grants {
    let objects = out.objects;
    let mut all = Vec::new();
    for (key, grant) in objects.reference_grants.iter() {
        let spec = known.grants.typed(key, grant);
        if let Err(message) = &*spec {
            out.problem(&Object { kind: "ReferenceGrant", key: key.clone() }, "spec", message.clone());
        }
        all.push(Grant { namespace: key.namespace.clone(), spec });
    }
    Grants(all)
}

impl Grants {
    /// Whether an object of `kind` in one namespace may refer to `to`, a kind of the core group.
    pub(super) fn allow(&self, kind: &str, from: &str, to: &str, target: &Key) -> bool {
        if *target.namespace == *from {
            return true;
        }
        self.0.iter().filter(|grant| grant.namespace == target.namespace).any(|grant| {
            let Ok(spec) = &*grant.spec else { return false };
            spec.from.iter().any(|one| one.group == GROUP && one.kind == kind && one.namespace == from)
                && spec.to.iter().any(|one| {
                    matches!(one.group.as_str(), "" | "core")
                        && one.kind == to
                        && one.name.as_deref().is_none_or(|name| name.is_empty() || *name == *target.name)
                })
        })
    }
}
