//! A Gateway's listeners onto entry points: by port, and where nobody listens on a port yet, an entry point of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom,
    GatewayListenersAllowedRoutesNamespacesSelector, GatewayListenersTlsMode, GatewaySpec, GatewayTlsFrontend,
};
use serde_json::{Value, json};
use wayspan_proxy::rule::Hosts;

use super::super::names::{self, normalized};
use super::super::view::View;
use super::super::{Object, Out};
use super::{Around, Entry, GROUP, Grants};
use crate::config::fragment;
use crate::config::model::EntryPoint;
use crate::kube::objects::Key;
use crate::kube::parts::Condition;

/// Ports that Gateways may open beside the file's entry points.
const OPENED_MAX: usize = 64;

/// Which entry point listens on which port.
pub(super) struct Listening<'a> {
    around: &'a Around,
    /// A port that is no entry point's may be opened.
    opens: bool,
    /// The address of the Gateway whose listeners are read, where it has one of its own.
    pub at: Option<IpAddr>,
    opened: BTreeMap<String, EntryPoint>,
}

impl<'a> Listening<'a> {
    pub(super) fn new(around: &'a Around, opens: bool) -> Self {
        Self { around, opens, at: None, opened: BTreeMap::new() }
    }

    /// The entry points that are not the file's.
    pub(super) fn opened(self) -> Vec<EntryPoint> {
        self.opened.into_values().collect()
    }

    /// A port's entry point by name and address. A name that the file has, or the entry point of a lesser address of the pool,
    /// is left to them.
    fn named(&self, port: u16) -> (String, String) {
        let of = |at: IpAddr| SocketAddr::new(at, port).to_string();
        let (name, address) = match self.at {
            None => (format!("gateway-{port}"), format!(":{port}")),
            Some(at) => (plain(&of(at)), of(at)),
        };
        let pool = self.around.pool.iter().filter(|other| self.at.is_some_and(|at| **other < at));
        let is_anothers = self.around.entry_points.iter().any(|other| other.name == name)
            || pool.into_iter().any(|other| plain(&of(*other)) == name);
        let name = if is_anothers { format!("{name}--{}", names::hash(&address)) } else { name };
        (name, address)
    }

    /// The entry point that clients reach at a port: the one that is published there, else, as in Traefik, the one that listens
    /// there itself.
    fn shared(&self, port: u16) -> Option<&'a Entry> {
        let all = &self.around.entry_points;
        let published = all.iter().find(|one| one.published.contains(&port));
        published.or_else(|| all.iter().find(|one| one.addresses.iter().any(|address| address.port() == port)))
    }

    /// The name of the entry point of a port, or why there is none for a listener with TLS, or without.
    fn on(&mut self, port: i32, secure: bool) -> Result<String, String> {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        let number = number.ok_or_else(|| format!("{port} is no port"))?;
        if let (None, Some(shared)) = (self.at, self.shared(number)) {
            if shared.secure && !secure {
                return Err(format!(
                    "the entry point `{}` at port {number} takes TLS (http.tls), so that nobody is served there without; write HTTPS, \
                     or name another port",
                    shared.name
                ));
            }
            return Ok(shared.name.clone());
        }
        // An address of its own is the node's by the word of who configured it.
        if !self.opens && self.at.is_none() {
            let all = self.around.entry_points.iter().flat_map(|one| &one.published);
            let mut ports: Vec<String> = all.map(u16::to_string).collect();
            ports.dedup();
            let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
            return Err(format!(
                "no entry point is published at port {number}, and openPorts is false; name a published port ({ports}), or publish one"
            ));
        }
        if self.around.api.is_some_and(|api| api.port() == number) {
            return Err(format!("the api listens on port {number}"));
        }
        let (name, address) = self.named(number);
        if !self.opened.contains_key(&name) {
            if self.opened.len() >= OPENED_MAX {
                return Err(format!("more than {OPENED_MAX} ports that are no entry point's"));
            }
            let entry_point = fragment::entry_point(&name, &address);
            let entry_point = entry_point.ok_or_else(|| format!("port {number} cannot be opened"))?;
            self.opened.insert(name.clone(), entry_point);
        }
        Ok(name)
    }
}

/// What an entry point at an address of the pool is called, unless that is another's name.
fn plain(address: &str) -> String {
    normalized(&format!("gateway-{address}"))
}

/// Whose listeners they are.
pub(super) struct Owner<'k> {
    /// `Gateway`, `ListenerSet`.
    pub kind: &'static str,
    pub key: &'k Key,
    /// Which of the Gateway's sets.
    pub set: Option<usize>,
    pub clients: &'k Clients<'k>,
    /// Why nothing of the Gateway is served, if nothing is.
    pub refused: Option<&'k str>,
}

/// What a Gateway asks of its clients.
pub(super) struct Clients<'g> {
    frontend: Option<&'g GatewayTlsFrontend>,
    /// Its own listeners that ask for themselves, as definitions before 1.4 had it.
    listeners: Vec<&'g str>,
}

impl<'g> Clients<'g> {
    /// Of its spec, as it is read and as it came.
    pub(super) fn of(spec: &'g GatewaySpec, came: &'g Value) -> Self {
        let all = came.pointer("/spec/listeners").and_then(Value::as_array).into_iter().flatten();
        let asking = all.filter(|one| one.pointer("/tls/frontendValidation").is_some_and(|asked| !asked.is_null()));
        let listeners = asking.filter_map(|one| one["name"].as_str()).collect();
        Self { frontend: spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()), listeners }
    }

    /// The field by which a listener with TLS asks for client certificates. What is said of a port goes before what is said of all.
    fn asked(&self, owner: &Owner<'_>, spec: &GatewayListeners) -> Option<&'static str> {
        if owner.set.is_none() && self.listeners.contains(&spec.name.as_str()) {
            return Some("tls.frontendValidation");
        }
        let frontend = self.frontend?;
        let mut ports = frontend.per_port.iter().flatten();
        match ports.find(|one| one.port == spec.port) {
            Some(port) => port.tls.validation.is_some().then_some("the Gateway's spec.tls.frontend.perPort"),
            None => frontend.default.validation.is_some().then_some("the Gateway's spec.tls.frontend.default"),
        }
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listener {
    pub name: String,
    /// Which of the Gateway's sets it is of; `None`: the Gateway's own.
    pub set: Option<usize>,
    pub port: i32,
    protocol: String,
    pub hostname: Option<String>,
    pub entry_point: String,
    /// It takes TLS.
    pub secure: bool,
    /// Whose certificates it names.
    pub secrets: Vec<Key>,
    namespaces: Namespaces,
    takes_routes: bool,
    kinds: Vec<Value>,
    /// Hosts of other listeners on its port, of those that have any, that are more exact than its own: their requests are not its.
    pub narrower: Arc<Hosts>,
    accepted: Result<(), (&'static str, String)>,
    resolved: Result<(), (&'static str, String)>,
    /// What is not resolved is some of its certificates or kinds of routes, and it is served with the others.
    has_others: bool,
    conflicted: Option<(&'static str, String)>,
    unopened: Option<String>,
    /// Why no route is put onto it, although it takes some of this kind: it would let in whom it is to turn away.
    pub closed: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Namespaces {
    All,
    Same(Box<str>),
    Selected(GatewayListenersAllowedRoutesNamespacesSelector),
}

impl Listener {
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.is_ok() && self.conflicted.is_none() && self.unopened.is_none()
    }

    pub(super) fn is_programmed(&self) -> bool {
        self.is_accepted() && (self.resolved.is_ok() || self.has_others)
    }

    /// Whether routes are served by it: also while some of what it refers to is missing.
    pub(super) fn serves(&self) -> bool {
        self.is_accepted() && self.takes_routes
    }

    /// Whether its hosts are its own. One that is refused, or can take no HTTPRoutes, has none, unless it is closed: then nobody is to be
    /// let in by a wider one.
    fn has_hosts(&self) -> bool {
        self.conflicted.is_none() && ((self.accepted.is_ok() && self.takes_routes) || self.closed.is_some())
    }

    /// Whether it takes HTTPRoutes of a namespace.
    pub(super) fn allows(&self, view: &View<'_>, namespace: &str) -> bool {
        self.takes_routes
            && match &self.namespaces {
                Namespaces::All => true,
                Namespaces::Same(own) => **own == *namespace,
                Namespaces::Selected(selector) => {
                    let all = selector.match_expressions.iter().flatten();
                    let all = all.map(|one| (&*one.key, &*one.operator, one.values.as_deref().unwrap_or_default()));
                    selects(view, namespace, selector.match_labels.as_ref(), all)
                }
            }
    }

    /// What its owner should know.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let all = [
            self.accepted.clone().err().map(|(_, message)| message),
            self.resolved.clone().err().map(|(_, message)| message),
            self.conflicted.clone().map(|(_, message)| message),
            self.unopened.clone(),
        ];
        all.into_iter().flatten().map(|message| (format!("spec.listeners[{}]", self.name), message)).collect()
    }

    /// In the words of the API, with so many routes.
    pub(super) fn status(&self, generation: i64, attached: usize) -> Value {
        let accepted = match (&self.accepted, &self.conflicted, &self.unopened) {
            (_, Some((reason, message)), _) | (Err((reason, message)), ..) => {
                Condition::new("Accepted", false, reason, message)
            }
            (.., Some(message)) => Condition::new("Accepted", false, "PortUnavailable", message),
            _ => Condition::new("Accepted", true, "Accepted", ""),
        };
        let conflicted = match &self.conflicted {
            Some((reason, message)) => Condition::new("Conflicted", true, reason, message),
            None => Condition::new("Conflicted", false, "NoConflicts", ""),
        };
        let resolved = match &self.resolved {
            Err((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
            Ok(()) => Condition::new("ResolvedRefs", true, "ResolvedRefs", ""),
        };
        let programmed = match (&self.conflicted, &self.unopened) {
            (Some((reason, message)), _) => Condition::new("Programmed", false, reason, message),
            (None, Some(message)) => Condition::new("Programmed", false, "PortUnavailable", message),
            (None, None) if self.is_programmed() => Condition::new("Programmed", true, "Programmed", ""),
            (None, None) => Condition::new("Programmed", false, "Invalid", "the listener cannot be served as it is"),
        };
        let conditions = [accepted, conflicted, resolved, programmed];
        let conditions: Vec<Value> = conditions.iter().map(|condition| condition.json(generation)).collect();
        json!({
            "name": self.name,
            "attachedRoutes": attached,
            "supportedKinds": self.kinds,
            "conditions": conditions,
        })
    }
}

/// The listeners of a Gateway, or of one of its sets.
pub(super) fn read(
    out: &mut Out<'_>,
    listening: &mut Listening<'_>,
    grants: &Grants,
    owner: &Owner<'_>,
    specs: &[GatewayListeners],
) -> Vec<Listener> {
    specs.iter().map(|one| listener(out, listening, grants, owner, one)).collect()
}

/// Says which of all listeners of a Gateway cannot be served beside the others, and leaves the requests of narrower ones to
/// those; `known` are such hosts as there were before. The Gateway's own come before those of its sets, which are in their order:
/// who comes first is served.
pub(super) fn settle(listeners: &mut [Listener], known: &mut Vec<Arc<Hosts>>) {
    for index in 0..listeners.len() {
        let (Some(own), before) = (listeners.get(index), listeners.get(..index).unwrap_or_default()) else { continue };
        let behind = listeners.get(index + 1..).unwrap_or_default();
        let first = before.iter().filter(|one| one.accepted.is_ok() && one.conflicted.is_none());
        // Of two of the Gateway itself nobody can say which one is meant.
        let equals = before.iter().chain(behind).filter(|one| own.set.is_none() && one.set.is_none());
        let conflicted = first.chain(equals).find_map(|other| conflict(own, other));
        if let Some(own) = listeners.get_mut(index) {
            own.conflicted = conflicted;
        }
    }
    let hosts = listeners.iter().filter(|one| one.has_hosts());
    let hosts: Vec<(i32, String)> = hosts.filter_map(|one| Some((one.port, one.hostname.clone()?))).collect();
    for own in listeners {
        let others = hosts.iter().filter(|(port, host)| *port == own.port && covers(own.hostname.as_deref(), host));
        let narrower: Hosts = others.map(|(_, host)| host.as_str()).collect();
        // Routes keep theirs while listeners are read again and again, so the same hosts are to be there once.
        let same = known.iter().find(|known| ***known == narrower).cloned();
        own.narrower = same.unwrap_or_else(|| {
            let new = Arc::new(narrower);
            known.push(Arc::clone(&new));
            new
        });
    }
}

/// Why two listeners cannot be served beside each other.
fn conflict(one: &Listener, other: &Listener) -> Option<(&'static str, String)> {
    let (is_http, port) = (is_http(&one.protocol), one.port);
    if other.port != port {
        return None;
    }
    let different = || ("ProtocolConflict", format!("listeners of different protocols on port {port}"));
    if self::is_http(&other.protocol) != is_http {
        // One of them is not served for its protocol. Of a Gateway's own that is all that is wrong; of its sets' the API's suite wants
        // to hear that there is a conflict.
        return (one.set.is_some() || other.set.is_some()).then(different);
    }
    if is_http && one.protocol != other.protocol {
        return Some(different());
    }
    let same = one.hostname == other.hostname;
    same.then(|| ("HostnameConflict", format!("listeners of the same hostname on port {port}")))
}

fn is_http(protocol: &str) -> bool {
    matches!(protocol, "HTTP" | "HTTPS")
}

fn hostname(listener: &GatewayListeners) -> Option<String> {
    listener.hostname.as_deref().filter(|name| !name.is_empty()).map(str::to_ascii_lowercase)
}

/// Whether a hostname, or none, stands for all that another one stands for, and more.
fn covers(wide: Option<&str>, narrow: &str) -> bool {
    match wide {
        None => true,
        Some(wide) => wide != narrow && super::matches::is_below(wide, narrow),
    }
}

fn listener(
    out: &mut Out<'_>,
    listening: &mut Listening<'_>,
    grants: &Grants,
    owner: &Owner<'_>,
    spec: &GatewayListeners,
) -> Listener {
    let mut listener = Listener {
        name: spec.name.clone(),
        set: owner.set,
        port: spec.port,
        protocol: spec.protocol.clone(),
        hostname: hostname(spec),
        entry_point: String::new(),
        secure: false,
        secrets: Vec::new(),
        namespaces: namespaces(spec.allowed_routes.as_ref(), owner.key),
        takes_routes: false,
        kinds: Vec::new(),
        narrower: Arc::default(),
        accepted: Ok(()),
        resolved: Ok(()),
        has_others: false,
        conflicted: None,
        unopened: None,
        closed: None,
    };
    match spec.protocol.as_str() {
        "HTTP" => {}
        "HTTPS" => {
            certificates(out, grants, owner, spec, &mut listener);
            listener.secure = true;
            let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
            if matches!(mode, Some(GatewayListenersTlsMode::Passthrough)) {
                listener.accepted = Err(("UnsupportedProtocol", "HTTPS is not passed through".to_owned()));
            }
            if let Some(place) = owner.clients.asked(owner, spec) {
                let message = format!("{place} asks for client certificates, which is not supported yet");
                let remedy = "leave it out, or serve it by an IngressRoute with a TLSOption that has clientAuth";
                listener.accepted = Err(("UnsupportedValue", format!("{message}; {remedy}")));
                listener.closed = Some(format!("listener {}: {message}", spec.name));
            }
        }
        other => {
            let message = format!("the protocol {other} is not supported yet");
            listener.accepted = Err(("UnsupportedProtocol", message));
        }
    }
    if is_http(&spec.protocol) {
        kinds(spec.allowed_routes.as_ref(), &mut listener);
    }
    if let Some(refused) = owner.refused.filter(|_| listener.accepted.is_ok()) {
        listener.accepted = Err(("Invalid", refused.to_owned()));
    }
    if listener.accepted.is_ok() {
        match listening.on(spec.port, listener.secure) {
            Ok(name) => {
                let unopened = listening.around.unopened.iter().find(|(other, _)| *other == name);
                listener.unopened = unopened.map(|(_, message)| message.clone());
                listener.entry_point = name;
            }
            Err(message) => listener.unopened = Some(message),
        }
    }
    listener
}

/// Which kinds of routes it takes: of those that it names, the ones that there are.
fn kinds(allowed: Option<&GatewayListenersAllowedRoutes>, listener: &mut Listener) {
    let ours = json!({"group": GROUP, "kind": "HTTPRoute"});
    let named = allowed.and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    let is_ours = |kind: &str, group: Option<&str>| kind == "HTTPRoute" && group.is_none_or(|group| group == GROUP);
    listener.takes_routes = named.is_empty() || named.iter().any(|one| is_ours(&one.kind, one.group.as_deref()));
    if listener.takes_routes {
        listener.kinds.push(ours);
    }
    if let Some(other) = named.iter().find(|one| !is_ours(&one.kind, one.group.as_deref())) {
        let message = format!("routes of the kind {} are not supported yet", other.kind);
        let has_all_else = listener.resolved.is_ok() || listener.has_others;
        listener.has_others = listener.takes_routes && has_all_else;
        listener.resolved = Err(("InvalidRouteKinds", message));
    }
}

fn namespaces(allowed: Option<&GatewayListenersAllowedRoutes>, owner: &Key) -> Namespaces {
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => Namespaces::All,
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Selector) => {
            Namespaces::Selected(namespaces.and_then(|one| one.selector.clone()).unwrap_or_default())
        }
        _ => Namespaces::Same(owner.namespace.clone()),
    }
}

/// Whether a namespace has all these labels, and is as all these expressions want: key, operator and values.
pub(super) fn selects<'e>(
    view: &View<'_>,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
    mut expressions: impl Iterator<Item = (&'e str, &'e str, &'e [String])>,
) -> bool {
    let object = view.namespace(namespace);
    let own = |key: &str| object.and_then(|object| object.metadata.labels.as_ref()?.get(key));
    labels.into_iter().flatten().all(|(key, value)| own(key) == Some(value))
        && expressions.all(|(key, operator, values)| {
            let value = own(key);
            match operator {
                "In" => value.is_some_and(|value| values.contains(value)),
                "Exists" => value.is_some(),
                // Of a namespace that may not be read nobody knows what it does not have.
                "NotIn" => object.is_some() && value.is_none_or(|value| !values.contains(value)),
                "DoesNotExist" => object.is_some() && value.is_none(),
                _ => false,
            }
        })
}

fn certificates(
    out: &mut Out<'_>,
    grants: &Grants,
    owner: &Owner<'_>,
    spec: &GatewayListeners,
    listener: &mut Listener,
) {
    let references = spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let mut wrong = |reason, message: String| all.push((reason, message));
    if references.is_empty() {
        wrong("InvalidCertificateRef", "names no certificate".to_owned());
    }
    for reference in references {
        let core = reference.group.as_deref().is_none_or(|group| matches!(group, "" | "core"));
        if !core || reference.kind.as_deref().is_some_and(|kind| kind != "Secret") {
            wrong("InvalidCertificateRef", format!("{} is no Secret", reference.name));
            continue;
        }
        let namespace = reference.namespace.as_deref().unwrap_or(&owner.key.namespace);
        let key = Key::new(namespace, &reference.name);
        if !grants.allow(owner.kind, &owner.key.namespace, "Secret", &key) {
            wrong("RefNotPermitted", format!("Secret {key}: no ReferenceGrant allows it"));
            continue;
        }
        let by = Object { kind: owner.kind, key: owner.key.clone() };
        match out.certificate(&by, namespace, &reference.name) {
            Ok(()) => listener.secrets.push(key),
            Err(message) => wrong("InvalidCertificateRef", message),
        }
    }
    listener.has_others = all.len() < references.len();
    if let Some((reason, _)) = all.first() {
        // All of them, so that nobody mends one after the other.
        let messages: Vec<&str> = all.iter().map(|(_, message)| message.as_str()).collect();
        listener.resolved = Err((*reason, messages.join("; ")));
    }
}
