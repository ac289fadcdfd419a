//! The Gateway API: classes and Gateways here, what they listen on and what is routed in the leaves. What is asked for and
//! not served says so in conditions, with the reasons that the API names.

mod filters;
mod listeners;
mod matches;
mod policies;
pub(super) mod routes;
mod sets;
mod times;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRouteSpec;
use gateway_api::apis::standard::gateways::GatewaySpec;
use gateway_api::apis::standard::referencegrants::ReferenceGrantSpec;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use wayspan_proxy::rule::Hosts;

use self::listeners::{Clients, Listener, Listening, Owner};
pub(super) use self::policies::Policies;
use self::policies::PolicySpec;
use self::sets::{ListenerSetSpec, Set};
use super::specs::Specs;
use super::{Object, Out};
use crate::config::model::{EntryPoint, KubernetesProvider};
use crate::kube::objects::Key;
use crate::kube::parts::{Condition, Problem, Status};

/// `spec.controllerName` of the classes that are ours.
pub(in crate::kube) const CONTROLLER: &str = "wayspan.io/gateway-controller";
pub(super) const GROUP: &str = "gateway.networking.k8s.io";
/// What an address is that does not say what it is.
const ADDRESS: &str = "IPAddress";

/// Addresses of one Gateway's status: the API takes no more.
const ADDRESSES_MAX: usize = 16;

/// What of the API's features there is, by the conformance suite's names, in their order.
const FEATURES: [&str; 33] = [
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
];

/// What was read of the kinds.
#[derive(Debug, Default)]
pub(super) struct Known {
    gateways: Specs<GatewaySpec>,
    sets: Specs<ListenerSetSpec>,
    routes: Specs<HttpRouteSpec>,
    grants: Specs<ReferenceGrantSpec>,
    policies: Specs<PolicySpec>,
    /// What listeners leave to others.
    narrower: Vec<Arc<Hosts>>,
}

impl Known {
    pub(super) fn forget_unused(&mut self) {
        self.gateways.forget_unused();
        self.sets.forget_unused();
        self.routes.forget_unused();
        self.grants.forget_unused();
        self.policies.forget_unused();
        self.narrower.retain(|hosts| Arc::strong_count(hosts) > 1);
    }
}

/// What Gateways stand in: the file's entry points, and how it went with the ports that they asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// The file's entry points.
    pub entry_points: Vec<Entry>,
    /// Where the api listens.
    pub api: Option<SocketAddr>,
    /// Entry points that cannot be opened, and why.
    pub unopened: Vec<(String, String)>,
    /// Where clients reach all of us, for statuses, as type and value; empty: that is not known.
    pub addresses: Vec<(String, String)>,
    /// Addresses for Gateways, one for each.
    pub pool: Vec<IpAddr>,
}

/// Where an entry point of the file is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Where clients reach it beside that.
    pub published: Vec<u16>,
    /// It takes TLS, also of routes that say nothing of it.
    pub secure: bool,
}

impl From<&EntryPoint> for Entry {
    fn from(of: &EntryPoint) -> Self {
        let secure = of.tls.is_some();
        Self { name: of.name.clone(), addresses: of.addresses.clone(), published: of.published.clone(), secure }
    }
}

/// A Gateway of ours.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    object: Object,
    generation: i64,
    /// What it asks for that we do not have: the condition that says so.
    wanting: Option<Condition>,
    /// Its addresses, for its status.
    addresses: Vec<Value>,
    /// Its own, and those of its sets behind them.
    listeners: Vec<Listener>,
    sets: Vec<Set>,
}

impl Gateway {
    /// Whether routes find the same in both.
    pub(super) fn leads_alike(&self, other: &Self) -> bool {
        let [own, others] = [self, other].map(|one| refusal(one.wanting.as_ref()));
        (&self.object, own, &self.listeners, &self.sets) == (&other.object, others, &other.listeners, &other.sets)
    }
}

/// What there is for routes: Gateways, who may refer to what, and policies.
pub(super) type Frame = (Vec<Gateway>, Grants, Policies);

/// All objects of the Gateway API that are no routes.
pub(super) fn frame(out: &mut Out<'_>, known: &mut Known, settings: &KubernetesProvider, around: &Around) -> Frame {
    let view = out.view;
    let classes = classes(out);
    let grants = grants(out, known);
    let mut listening = Listening::new(around, settings.open_ports);
    let asking = sets::all(out, known, settings);
    let mut gateways = Vec::new();
    let is_ours = |gateway: &DynamicObject| {
        let class = gateway.data.pointer("/spec/gatewayClassName").and_then(Value::as_str).unwrap_or_default();
        classes.contains_key(class)
    };
    let served = view.all("Gateway").filter(|(key, gateway)| settings.serves(&key.namespace) && is_ours(gateway));
    let served: Vec<_> = served.collect();
    // Nobody is to be reached at an address of one that is not served.
    let mut accepted = served.clone();
    accepted.retain(|(key, gateway)| {
        let spec = known.gateways.typed(key, gateway);
        (*spec).as_ref().map_or(true, |spec| not_accepted(spec, &classes).is_none())
    });
    let given = given(&around.pool, &accepted);
    for (key, gateway) in served {
        let object = Object { kind: "Gateway", key: key.clone() };
        let generation = gateway.metadata.generation.unwrap_or(0);
        let spec = known.gateways.typed(key, gateway);
        match &*spec {
            Ok(spec) => {
                let clients = Clients::of(spec, &gateway.data);
                if spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some()) {
                    out.problem(&object, "spec.tls.backend", "TLS to servers is not supported yet; leave it out");
                }
                // Who has an address of its own has no other.
                let own = given.get(key).map(|own| vec![(ADDRESS.to_owned(), own.to_string())]);
                let ours = own.as_deref().unwrap_or(&around.addresses);
                listening.at = given.get(key).copied();
                let wanting = not_accepted(spec, &classes).or_else(|| not_programmed(spec, ours));
                let refused = refusal(wanting.as_ref());
                let addresses = if refused.is_some() { Vec::new() } else { addresses(spec, ours) };
                let owner = Owner { kind: "Gateway", key, set: None, clients: &clients, refused };
                let listeners = listeners::read(out, &mut listening, &grants, &owner, &spec.listeners);
                let wanting = wanting.clone();
                let mut gateway = Gateway { object, generation, wanting, addresses, listeners, sets: Vec::new() };
                sets::attach(out, &mut listening, &grants, &asking, (spec, &owner), &mut gateway);
                listeners::settle(&mut gateway.listeners, &mut known.narrower);
                gateways.push(gateway);
            }
            Err(message) => {
                out.problem(&object, "spec", message.clone());
                out.parts.statuses.push(unread(object, generation, message));
                out.parts.statuses.extend(sets::unserved(&asking, key));
            }
        }
    }
    out.parts.entry_points = listening.opened();
    gateways.iter().for_each(|gateway| tell(out, gateway));
    (gateways, grants, Policies::read(out, known))
}

/// What the owners of a Gateway and of its sets should know.
fn tell(out: &mut Out<'_>, gateway: &Gateway) {
    if let Some(wanting) = &gateway.wanting {
        out.problem(&gateway.object, "spec", format!("{}: {}", wanting.reason, wanting.message));
    }
    // Of one that is not served at all, each listener would say the same.
    for listener in gateway.listeners.iter().filter(|_| refusal(gateway.wanting.as_ref()).is_none()) {
        let owner = listener.set.and_then(|set| gateway.sets.get(set)).map_or(&gateway.object, |set| &set.object);
        for (place, message) in listener.problems() {
            out.problem(owner, place, message);
        }
    }
}

/// What Gateways, their sets and policies should say, with so many routes on each listener of each Gateway, by their places, and
/// these Gateways that would have to follow a policy.
pub(super) fn statuses(
    gateways: &[Gateway],
    policies: &Policies,
    attached: &dyn Fn(usize, usize) -> usize,
    followers: &dyn Fn(&Key) -> Vec<Key>,
) -> (Vec<Status>, Vec<Problem>) {
    let (mut all, problems) = policies.tell(followers);
    for (place, gateway) in gateways.iter().enumerate() {
        let attached = |listener| attached(place, listener);
        all.extend(sets::statuses(gateway, &attached));
        all.push(status(gateway, &attached));
    }
    (all, problems)
}

/// The status of a Gateway that cannot be read: nothing of what it said before holds any more, but for its addresses, by which it
/// finds its one of the pool again.
fn unread(object: Object, generation: i64, message: &str) -> Status {
    let conditions = ["Accepted", "Programmed"];
    let conditions = conditions.map(|kind| Condition::new(kind, false, "Invalid", &format!("the spec {message}")));
    let body = json!({ "listeners": [], "attachedListenerSets": null });
    Status::new(object, generation, conditions.into(), body)
}

/// By name, and why one is not accepted.
type Classes = BTreeMap<String, Option<String>>;

/// The classes that are ours.
fn classes(out: &mut Out<'_>) -> Classes {
    let mut ours = BTreeMap::new();
    for (key, class) in out.view.all("GatewayClass") {
        if class.data.pointer("/spec/controllerName").and_then(Value::as_str) != Some(CONTROLLER) {
            continue;
        }
        let object = Object { kind: "GatewayClass", key: key.clone() };
        let parameters = class.data.pointer("/spec/parametersRef").filter(|parameters| !parameters.is_null());
        let refused = parameters.map(|parameters| unknown(parameters["kind"].as_str().unwrap_or_default()));
        if let Some(message) = &refused {
            out.problem(&object, "spec.parametersRef", message.clone());
        }
        let accepted = match &refused {
            Some(message) => Condition::new("Accepted", false, "InvalidParameters", message),
            None => Condition::new("Accepted", true, "Accepted", ""),
        };
        let features: Vec<Value> = FEATURES.iter().map(|name| json!({ "name": name })).collect();
        let (generation, body) = (class.metadata.generation.unwrap_or(0), json!({ "supportedFeatures": features }));
        out.parts.statuses.push(Status::new(object, generation, vec![accepted], body));
        ours.insert(key.name.to_string(), refused);
    }
    ours
}

/// What is wrong with parameters of any kind.
fn unknown(kind: &str) -> String {
    format!("a {kind} holds no parameters of ours; leave parametersRef out")
}

/// Which Gateway has which address of the pool: the one that it asks for, else the one that its status says it has. The oldest
/// of those without an address get what is left; who has one already keeps it, whatever comes free.
fn given<'g>(pool: &[IpAddr], gateways: &[(&'g Key, &Arc<DynamicObject>)]) -> BTreeMap<&'g Key, IpAddr> {
    let mut gateways = gateways.to_vec();
    gateways.sort_by_cached_key(|(key, one)| (one.metadata.creation_timestamp.as_ref().map(|time| time.0), *key));
    let named = |gateway: &DynamicObject, place: &str| -> Vec<String> {
        let all = gateway.data.pointer(place).and_then(Value::as_array).into_iter().flatten();
        let values = all.filter_map(|one| one["value"].as_str()).filter(|value| !value.is_empty());
        values.map(str::to_owned).collect()
    };
    let mut free: Vec<IpAddr> = pool.to_vec();
    let mut given = BTreeMap::new();
    for place in ["/spec/addresses", "/status/addresses"] {
        for (key, gateway) in &gateways {
            if place.starts_with("/status") && !named(gateway, "/spec/addresses").is_empty() {
                continue;
            }
            let had = named(gateway, place).iter().find_map(|had| free.iter().position(|one| one.to_string() == *had));
            if let Some(had) = had.filter(|_| !given.contains_key(key)) {
                given.insert(*key, free.remove(had));
            }
        }
    }
    let is_of_pool = |had: &String| pool.iter().any(|one| one.to_string() == *had);
    let has_another = |gateway: &DynamicObject| {
        let had = named(gateway, "/status/addresses");
        !named(gateway, "/spec/addresses").is_empty() || (!had.is_empty() && !had.iter().any(is_of_pool))
    };
    let others: Vec<_> = gateways.iter().filter(|(key, one)| !given.contains_key(key) && !has_another(one)).collect();
    given.extend(others.into_iter().map(|(key, _)| *key).zip(free));
    given
}

/// What a Gateway asks for as a whole, itself or by its class, for which nothing of it is served.
fn not_accepted(spec: &GatewaySpec, classes: &Classes) -> Option<Condition> {
    let lacks = |reason, message: &str| Some(Condition::new("Accepted", false, reason, message));
    if let Some(message) = classes.get(&spec.gateway_class_name).and_then(Option::as_deref) {
        // The API has no reason for a class. Its parameters are the Gateway's, as far as that has none itself.
        let message = format!("GatewayClass {}: {message}", spec.gateway_class_name);
        return lacks("InvalidParameters", &message);
    }
    let parameters = spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    if let Some(parameters) = parameters {
        return lacks("InvalidParameters", &unknown(&parameters.kind));
    }
    let kinds = spec.addresses.iter().flatten().map(|one| one.r#type.as_deref().unwrap_or(ADDRESS));
    let other = kinds.into_iter().find(|kind| *kind != ADDRESS && *kind != "Hostname")?;
    lacks("UnsupportedAddress", &format!("addresses of the type {other} cannot be had"))
}

/// An address that a Gateway asks for and that is not ours.
fn not_programmed(spec: &GatewaySpec, ours: &[(String, String)]) -> Option<Condition> {
    let is_ours = |value: &str| value.is_empty() || ours.iter().any(|(_, ours)| ours == value);
    let mut asked = spec.addresses.iter().flatten().filter_map(|one| one.value.as_deref());
    let other = asked.find(|value| !is_ours(value))?;
    Some(Condition::new("Programmed", false, "AddressNotUsable", &format!("{other} is no address of ours")))
}

/// Why nothing of a Gateway is served, if nothing is.
fn refusal(wanting: Option<&Condition>) -> Option<&str> {
    wanting.filter(|wanting| wanting.kind == "Accepted").map(|wanting| wanting.message.as_str())
}

/// Our addresses; where a Gateway names some of them, those.
fn addresses(spec: &GatewaySpec, ours: &[(String, String)]) -> Vec<Value> {
    let asked: Vec<&str> = spec.addresses.iter().flatten().filter_map(|one| one.value.as_deref()).collect();
    let asked: Vec<&str> = asked.into_iter().filter(|value| !value.is_empty()).collect();
    let is_asked = |(_, value): &&(String, String)| asked.is_empty() || asked.contains(&value.as_str());
    ours.iter()
        .filter(is_asked)
        .take(ADDRESSES_MAX)
        .map(|(kind, value)| json!({"type": kind, "value": value}))
        .collect()
}

fn status(gateway: &Gateway, attached: &dyn Fn(usize) -> usize) -> Status {
    let own = || gateway.listeners.iter().filter(|listener| listener.set.is_none());
    let generation = gateway.generation;
    let accepted = own().filter(|listener| listener.is_accepted()).count();
    let mut conditions = vec![match accepted {
        0 => Condition::new("Accepted", false, "ListenersNotValid", "no listener can be served"),
        some if some < own().count() => {
            Condition::new("Accepted", true, "ListenersNotValid", "some listeners cannot be served")
        }
        _ => Condition::new("Accepted", true, "Accepted", ""),
    }];
    conditions.push(if own().any(Listener::is_programmed) {
        Condition::new("Programmed", true, "Programmed", "")
    } else {
        Condition::new("Programmed", false, "Invalid", "no listener can be served")
    });
    if let Some(wanting) = &gateway.wanting {
        if let Some(refused) = refusal(Some(wanting)) {
            conditions = vec![wanting.clone(), Condition::new("Programmed", false, "Invalid", refused)];
        } else {
            conditions.retain(|other| other.kind != wanting.kind);
            conditions.push(wanting.clone());
        }
    }
    let all = gateway.listeners.iter().enumerate().filter(|(_, listener)| listener.set.is_none());
    let listeners: Vec<Value> = all.map(|(at, listener)| listener.status(generation, attached(at))).collect();
    // Older definitions of Gateways do not know sets, and would say so with every write of a number; null takes away what was said.
    let sets = Some(sets::attached(gateway)).filter(|_| !gateway.sets.is_empty());
    let body = json!({"addresses": gateway.addresses, "listeners": listeners, "attachedListenerSets": sets});
    Status::new(gateway.object.clone(), generation, conditions, body)
}

/// Who may refer from where to what.
#[derive(Debug, Default)]
pub(super) struct Grants(Vec<Grant>);

#[derive(Debug)]
struct Grant {
    namespace: Box<str>,
    spec: Arc<Result<ReferenceGrantSpec, String>>,
}

fn grants(out: &mut Out<'_>, known: &mut Known) -> Grants {
    let mut all = Vec::new();
    for (key, grant) in out.view.all("ReferenceGrant") {
        let spec = known.grants.typed(key, grant);
        if let Err(message) = &*spec {
            out.problem(&Object { kind: "ReferenceGrant", key: key.clone() }, "spec", message.clone());
        }
        all.push(Grant { namespace: key.namespace.clone(), spec });
    }
    Grants(all)
}

impl PartialEq for Grants {
    /// What was read of an object is the same value for as long as it stays the same.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&Grant, &Grant)| a.namespace == b.namespace && Arc::ptr_eq(&a.spec, &b.spec);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(is_same)
    }
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
