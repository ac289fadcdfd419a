//! HTTPRoutes onto the listeners of their parents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFiltersRequestMirrorBackendRef,
    HttpRouteRulesFiltersType, HttpRouteRulesMatches, HttpRouteSpec,
};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use wayspan_proxy::middleware::{Retry, Share};
use wayspan_proxy::rule::Hosts;
use wayspan_proxy::snapshot::Timeouts;

use super::super::allocation;
use super::super::annotations;
use super::super::backends::{Backends, Port, flattened};
use super::super::names::{self, GATEWAY, normalized};
use super::super::{IDLE_MAX, Object, Out};
use super::filters::{self, Filter};
use super::times::{retry, timeouts};
use super::{GROUP, Gateway, Known};
use super::{matches, policies};
use crate::config::model::{Middleware, MiddlewareKind, Mirror, Observability, Router, RouterTls, Server, Service};
use crate::kube::objects::Key;
use crate::kube::parts::{Condition, GET_500, Status, UNUSABLE};

/// What is wrong with a reference: the API's reason, and more.
type Unresolved = (&'static str, String);

/// An HTTPRoute.
pub(in super::super) fn translate<'t>(
    out: &mut Out<'t>,
    known: &mut Known,
    backends: &Backends<'t>,
    (key, route): (&Key, &Arc<DynamicObject>),
) {
    let object = Object { kind: "HTTPRoute", key: key.clone() };
    let spec = known.routes.typed(key, route);
    let spec = match &*spec {
        Ok(spec) => spec,
        Err(message) => {
            out.problem(&object, "spec", message.clone());
            let status = unread(&object, route, out.view.gateways(), message);
            out.parts.statuses.push(status);
            return;
        }
    };
    // Of equals the oldest comes first, then the first by name.
    let age = route
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or_else(String::new, |time| format!("{:020}", time.0.as_nanosecond()));
    let age = format!("{age} {} {} ", key.namespace, key.name);
    let (left, served) = (BTreeSet::new(), BTreeSet::new());
    let mut one = One { out, backends, refused: BTreeSet::new(), object, age, place: 0, left, served };
    one.attach(spec, route.metadata.generation.unwrap_or(0));
}

/// The status of a route that cannot be read: for its parents as far as they can be, else for those that we told of before.
fn unread(object: &Object, route: &DynamicObject, gateways: &[Gateway], message: &str) -> Status {
    let generation = route.metadata.generation.unwrap_or(0);
    let list = |place: &str| route.data.pointer(place).and_then(Value::as_array).into_iter().flatten();
    let is_ours = |parent: &&Value| {
        let text = |name: &str| parent.get(name).and_then(Value::as_str);
        let key = Key::new(text("namespace").unwrap_or(&object.key.namespace), text("name").unwrap_or_default());
        text("group").is_none_or(|group| group == GROUP)
            && match text("kind").unwrap_or("Gateway") {
                "Gateway" => gateways.iter().any(|gateway| gateway.object.key == key),
                "ListenerSet" => gateways.iter().flat_map(|one| &one.sets).any(|set| set.object.key == key),
                _ => false,
            }
    };
    let mut parents: Vec<&Value> = list("/spec/parentRefs").filter(is_ours).collect();
    if parents.is_empty() {
        let told = list("/status/parents").filter(|one| one["controllerName"].as_str() == Some(super::CONTROLLER));
        parents = told.filter_map(|one| one.get("parentRef")).filter(is_ours).collect();
    }
    let message = format!("the spec {message}");
    let conditions = [Condition::new("Accepted", false, "UnsupportedValue", &message).json(generation)];
    let parents = parents
        .into_iter()
        .map(|parent| json!({ "parentRef": parent, "controllerName": super::CONTROLLER, "conditions": conditions }));
    let body = json!({ "parents": parents.collect::<Vec<Value>>() });
    Status::new(object.clone(), generation, Vec::new(), body)
}

struct One<'a, 't> {
    out: &'a mut Out<'t>,
    backends: &'a Backends<'t>,
    /// The policies because of which backends are not spoken to.
    refused: BTreeSet<Key>,
    object: Object,
    /// Its place among equals of all routes, as a text.
    age: String,
    /// The place among its own equals.
    place: usize,
    /// Hostnames, by Gateway and port, that are other listeners', and those that are served.
    left: BTreeSet<(Key, i32, String)>,
    served: BTreeSet<(Key, i32, String)>,
}

/// What of a route is the same for all its parents.
struct Prepared<'s> {
    rules: Vec<Rule<'s>>,
    accepted: Result<(), Unresolved>,
    /// What is wrong with rules and matches beside which others are served.
    partly: Option<String>,
    resolved: Result<(), Unresolved>,
}

struct Rule<'s> {
    spec: &'s HttpRouteRules,
    /// It asks for what there is not, and answers 500.
    is_refused: bool,
    /// `None`: what it leads to cannot be had.
    target: Option<(Vec<Server>, Timeouts)>,
    /// Who gets copies, by the filter's place.
    mirrors: BTreeMap<usize, (Vec<Server>, Share)>,
    retry: Option<Arc<Retry>>,
}

impl One<'_, '_> {
    fn attach(&mut self, spec: &HttpRouteSpec, generation: i64) {
        let gateways = self.out.view.gateways();
        let mut parents = Vec::new();
        let mut prepared = None;
        for parent in spec.parent_refs.iter().flatten() {
            let Some((at, set)) = self.parent_of(parent, gateways) else { continue };
            let Some(gateway) = gateways.get(at) else { continue };
            let prepared = prepared.get_or_insert_with(|| self.prepare(spec));
            let attached = self.parent(spec, prepared, parent, (gateway, at, set));
            if attached.is_ok() {
                let of = |policy: &Key| (policy.clone(), gateway.object.key.clone());
                self.out.parts.refused.extend(self.refused.iter().map(of));
            }
            let accepted = match (&prepared.accepted, attached) {
                (Err((reason, message)), _) => Condition::new("Accepted", false, reason, message),
                (Ok(()), Err((reason, message))) => Condition::new("Accepted", false, reason, &message),
                (Ok(()), Ok(())) => Condition::new("Accepted", true, "Accepted", ""),
            };
            let resolved = match &prepared.resolved {
                Err((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
                Ok(()) => Condition::new("ResolvedRefs", true, "ResolvedRefs", ""),
            };
            if accepted.reason != "Accepted" {
                let message = format!("{}: {}", accepted.reason, accepted.message);
                self.out.problem(&self.object, format!("spec.parentRefs[{}]", parent.name), message);
            }
            let partly = prepared.partly.as_ref().filter(|_| accepted.holds).map(|message| {
                Condition::new("PartiallyInvalid", true, "UnsupportedValue", &format!("Dropped Rule: {message}"))
            });
            let conditions = [accepted, resolved].into_iter().chain(partly);
            let conditions: Vec<Value> = conditions.map(|one| one.json(generation)).collect();
            parents.push(json!({
                "parentRef": reference(parent),
                "controllerName": super::CONTROLLER,
                "conditions": conditions,
            }));
        }
        for (gateway, port, name) in self.left.difference(&self.served) {
            let message = format!(
                "{name} is for a listener of Gateway {gateway} at port {port} with a more exact hostname, to which this route is not \
                 attached"
            );
            self.out.problem(&self.object, "spec.hostnames", message);
        }
        if let Some(Prepared { resolved: Err((reason, message)), .. }) = &prepared {
            self.out.problem(&self.object, "spec.rules", format!("{reason}: {message}"));
        }
        let status = Status::new(self.object.clone(), generation, Vec::new(), json!({ "parents": parents }));
        self.out.parts.statuses.push(status);
    }

    /// The place of the Gateway of ours that a parent reference means, or of the one of the set that it means, with the set's.
    fn parent_of(&self, parent: &HttpRouteParentRefs, gateways: &[Gateway]) -> Option<(usize, Option<usize>)> {
        if parent.group.as_deref().is_some_and(|group| group != GROUP) {
            return None;
        }
        let key = Key::new(parent.namespace.as_deref().unwrap_or(&self.object.key.namespace), &parent.name);
        match parent.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" => gateways.iter().position(|one| one.object.key == key).map(|gateway| (gateway, None)),
            "ListenerSet" => gateways.iter().enumerate().find_map(|(at, gateway)| {
                let set = gateway.sets.iter().position(|set| set.object.key == key)?;
                Some((at, Some(set)))
            }),
            _ => None,
        }
    }

    /// Puts the route onto the listeners that a parent reference means, or says why there is none.
    fn parent(
        &mut self,
        spec: &HttpRouteSpec,
        prepared: &Prepared<'_>,
        parent: &HttpRouteParentRefs,
        (gateway, at, set): (&Gateway, usize, Option<usize>),
    ) -> Result<(), Unresolved> {
        if let Some(refused) = super::refusal(gateway.wanting.as_ref()) {
            return Err(("ParentNotAccepted", refused.to_owned()));
        }
        let view = self.out.view;
        let mut why = ("NoMatchingParent", "the parent has no such listener".to_owned());
        let mut attached = false;
        let hostnames = spec.hostnames.as_deref().unwrap_or_default();
        for (number, listener) in gateway.listeners.iter().enumerate().filter(|(_, listener)| listener.set == set) {
            let meant = parent.section_name.as_deref().is_none_or(|name| name.is_empty() || name == listener.name)
                && parent.port.is_none_or(|port| port == listener.port);
            if !meant {
                continue;
            }
            if !listener.allows(view, &self.object.key.namespace) {
                if !attached {
                    why = ("NotAllowedByListeners", "no listener takes routes of this namespace and kind".to_owned());
                }
                continue;
            }
            let Some(common) = matches::common(listener.hostname.as_deref(), hostnames) else {
                if !attached && why.0 != "NotAllowedByListeners" {
                    why = ("NoMatchingListenerHostname", "no listener has one of its hostnames".to_owned());
                }
                continue;
            };
            if let Some(closed) = &listener.closed {
                if !attached {
                    why = ("NotAllowedByListeners", closed.clone());
                }
                continue;
            }
            // Counted also where the listener itself cannot be served.
            if prepared.accepted.is_ok() {
                self.out.parts.attached.push((at, number));
            }
            attached = true;
            if listener.serves() {
                // What is shown for a route's hosts is what its listeners name.
                if !listener.secrets.is_empty() {
                    let asked = self.out.parts.asked.entry(self.object.clone()).or_default();
                    asked.extend(listener.secrets.iter().cloned());
                }
                let (entry_point, secure) = (listener.entry_point.as_str(), listener.secure);
                let (port, narrower) = (u16::try_from(listener.port).ok(), &listener.narrower);
                let at = At { gateway: &gateway.object.key, entry_point, port, secure, narrower };
                let (others, own): (Vec<_>, Vec<_>) = common.into_iter().partition(|name| narrower.cover(name));
                self.routers(prepared, &own, &at);
                let at = |name: String| (gateway.object.key.clone(), listener.port, name);
                self.left.extend(others.into_iter().map(at));
                self.served.extend(own.into_iter().map(at));
            }
        }
        if attached { Ok(()) } else { Err(why) }
    }

    fn prepare<'s>(&mut self, spec: &'s HttpRouteSpec) -> Prepared<'s> {
        let mut prepared = Prepared { rules: Vec::new(), accepted: Ok(()), partly: None, resolved: Ok(()) };
        let hostname = spec.hostnames.iter().flatten().next().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        let (mut is_any_served, mut unserved, mut wrongs) = (false, Vec::new(), Vec::new());
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let place = format!("spec.rules[{index}]");
            let (rule, wrong) = self.rule(rule, &mut prepared.resolved);
            let (served, unread) = self.matches(&hostname, &place, rule.spec);
            is_any_served |= served && wrong.is_none();
            unserved.extend(wrong.iter().map(|message| format!("{place}: {message}")).chain(unread));
            wrongs.extend(wrong.map(|message| (place, format!("{message}; {GET_500}"))));
            prepared.rules.push(rule);
        }
        let message = unserved.join("; ");
        match (unserved.is_empty(), is_any_served) {
            (true, _) => {}
            (false, true) => {
                prepared.partly = Some(message);
                // What matches cannot be read is told where they are put onto listeners.
                wrongs.into_iter().for_each(|(place, message)| self.out.problem(&self.object, place, message));
            }
            (false, false) => prepared.accepted = Err(("UnsupportedValue", message)),
        }
        prepared
    }

    /// A rule, and what it asks for that there is not: it is then not served without.
    fn rule<'s>(
        &mut self,
        rule: &'s HttpRouteRules,
        resolved: &mut Result<(), Unresolved>,
    ) -> (Rule<'s>, Option<String>) {
        let mut wrong = None;
        let mut mirrors = BTreeMap::new();
        for (number, filter) in rule.filters.iter().flatten().enumerate() {
            match filters::read(&self.object.key.namespace, filter, "/", None) {
                Err(message) => wrong = Some(message),
                Ok(Filter::Mirror(mirror, share)) => match self.backend(&Backend::of_mirror(&mirror.backend_ref)) {
                    Ok(servers) => drop(mirrors.insert(number, (servers, share))),
                    Err(unresolved) => *resolved = Err(unresolved),
                },
                Ok(Filter::Named(name)) if !self.out.view.is_usable(&name) => {
                    let named = filter.extension_ref.as_ref().map(|one| one.name.as_str()).unwrap_or_default();
                    let key = Key::new(&self.object.key.namespace, named);
                    let message = format!("there is no Middleware {key} that can be used");
                    *resolved = Err(("FilterNotFound", message));
                }
                Ok(Filter::Kind(_) | Filter::Named(_)) => {}
            }
        }
        let (target, unresolved) = self.target(rule).unwrap_or_else(|message| {
            wrong = Some(message);
            (None, None)
        });
        if let Some(unresolved) = unresolved {
            *resolved = Err(unresolved);
        }
        let retry = retry(rule).unwrap_or_else(|message| {
            wrong = Some(message);
            None
        });
        let is_refused = wrong.is_some();
        let rule = Rule { spec: rule, is_refused, target, mirrors, retry: retry.map(Arc::new) };
        (rule, wrong)
    }

    /// Whether one of a rule's matches can be served, and what is wrong with each that cannot.
    fn matches(&mut self, hostname: &str, place: &str, rule: &HttpRouteRules) -> (bool, Vec<String>) {
        let matches = rule.matches.as_deref().unwrap_or_default();
        let (mut served, mut unserved) = (matches.is_empty(), Vec::new());
        for (number, one) in matches.iter().enumerate() {
            let matched = matches::matched(hostname, one);
            match matched.and_then(|matched| Ok(self.out.rules.parse(&matched.rule)?)) {
                Ok(_) => served = true,
                Err(message) => unserved.push(format!("{place}.matches[{number}]: {message}")),
            }
        }
        (served, unserved)
    }

    /// The servers of a rule's backends, each backend with its share, and what is wrong with one of them.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart")]
    fn target(
        &mut self,
        rule: &HttpRouteRules,
    ) -> Result<(Option<(Vec<Server>, Timeouts)>, Option<Unresolved>), String> {
        let timeouts = timeouts(rule)?;
        let (mut groups, mut unresolved, mut lost) = (Vec::new(), None, 0_u32);
        for backend in rule.backend_refs.iter().flatten() {
            let weight = u32::try_from(backend.weight.unwrap_or(1)).unwrap_or(0);
            let headers = filters::of_backend(backend.filters.as_deref().unwrap_or_default());
            let headers = headers.map_err(|message| format!("backend {}: {message}", backend.name))?;
            match self.backend(&Backend::of(backend)) {
                Ok(mut servers) => {
                    for server in &mut servers {
                        server.request_headers.clone_from(&headers);
                    }
                    groups.push((weight, servers));
                }
                Err(wrong) => {
                    lost = lost.saturating_add(weight);
                    unresolved = Some(wrong);
                }
            }
        }
        let found: u64 = groups.iter().map(|(weight, _)| u64::from(*weight)).sum();
        if found == 0 {
            return Ok((None, unresolved));
        }
        if lost > 0 {
            // Their share must not go to the others: a server without an address answers for it.
            groups.push((lost, vec![nowhere()]));
        }
        Ok((Some((flattened(groups), timeouts)), unresolved))
    }

    fn backend(&mut self, backend: &Backend<'_>) -> Result<Vec<Server>, Unresolved> {
        let core = backend.group.is_none_or(|group| matches!(group, "" | "core"));
        if !core || backend.kind.is_some_and(|kind| kind != "Service") {
            let kind = backend.kind.unwrap_or_default();
            return Err(("InvalidKind", format!("backend {}: {kind} is no Service", backend.name)));
        }
        let own = self.object.key.namespace.clone();
        let key = Key::new(backend.namespace.unwrap_or(&own), backend.name);
        if *key.namespace != *own && !self.out.view.grants().allow("HTTPRoute", &own, "Service", &key) {
            return Err(("RefNotPermitted", format!("Service {key}: no ReferenceGrant allows it")));
        }
        let not_found = |message| ("BackendNotFound", message);
        let port = backend.port.ok_or_else(|| not_found(format!("Service {key}: names no port")))?;
        let (service, port) = self.backends.find(&key.namespace, &key.name, Port::Number(port)).map_err(not_found)?;
        annotations::for_gateways(service.metadata.annotations.as_ref())
            .map_err(|(place, message)| ("Unsupported", format!("Service {key}: {place}: {message}")))?;
        if let Some(policy) = self.out.view.policy(&key, port.name.as_deref()) {
            self.refused.insert(policy.clone());
            let message = format!("Service {key}: BackendTLSPolicy {policy} asks for TLS, which is not supported yet");
            return Err(("UnsupportedProtocol", message));
        }
        policies::unread(self.out.view, &key)?;
        match port.app_protocol.as_deref() {
            None | Some("" | "http" | "kubernetes.io/ws") => {}
            Some(other) => {
                let message = format!("Service {key}: the protocol {other} is not supported yet");
                return Err(("UnsupportedProtocol", message));
            }
        }
        self.backends.servers(service, &port).map_err(not_found)
    }

    fn routers(&mut self, prepared: &Prepared<'_>, hostnames: &[String], at: &At<'_>) {
        let any = [HttpRouteRulesMatches::default()];
        for (index, rule) in prepared.rules.iter().enumerate() {
            let matches = rule.spec.matches.as_deref().filter(|all| !all.is_empty()).unwrap_or(&any);
            for (number, one) in matches.iter().enumerate() {
                self.place += 1;
                for hostname in hostnames {
                    if let Err(message) = self.router(rule, index, one, hostname, at) {
                        let place = format!("spec.rules[{index}].matches[{number}]");
                        self.out.problem(&self.object, place, message);
                    }
                }
            }
        }
    }

    /// Adds a service, once, and gives its name.
    fn service(&mut self, name: String, servers: &[Server], timeouts: Timeouts) -> String {
        self.out.parts.services.entry(name.clone()).or_insert_with(|| Service {
            name: name.clone(),
            servers: servers.to_vec(),
            pass_host: true,
            timeouts,
            idle_max: IDLE_MAX,
            conns_max: 0,
        });
        name
    }

    fn middleware(&mut self, name: String, kind: MiddlewareKind) -> String {
        self.out.parts.middlewares.insert(name.clone(), Middleware { name: name.clone(), kind });
        name
    }

    fn router(
        &mut self,
        rule: &Rule<'_>,
        index: usize,
        one: &HttpRouteRulesMatches,
        hostname: &str,
        at: &At<'_>,
    ) -> Result<(), String> {
        let matched = matches::matched(hostname, one)?;
        let mut parsed = self.out.rules.parse(&matched.rule)?;
        if !at.narrower.is_empty() && (hostname.is_empty() || hostname.starts_with('*')) {
            parsed = parsed.except(Arc::clone(at.narrower));
        }
        let Key { namespace, name } = self.object.key.clone();
        let (gateway, entry_point) = (at.gateway, at.entry_point);
        let key = normalized(&format!(
            "httproute-{namespace}-{name}-gw-{}-{}-ep-{entry_point}-{index}",
            gateway.namespace, gateway.name
        ));
        let hash = names::hash(&matched.rule);
        let base = format!("{key}-{hash}");
        // What of a rule is the same for all its matches and hostnames, and what is one's own.
        let (object, of_rule) = (self.object.clone(), format!("{gateway} {index} {entry_point}"));
        let of_rule = |name: &str| allocation::key(&names::of(GATEWAY, name), &object, &of_rule);
        // Listeners that share an entry point share what is the same for both.
        let mut redirects = rule.spec.filters.iter().flatten().filter_map(|filter| filter.request_redirect.as_ref());
        let by_port = redirects.any(filters::leads_to_listener);
        let (own_object, port) = (&object, at.port.filter(|_| by_port).unwrap_or_default());
        let of_match = format!("{gateway} {index} {hash} {entry_point} {port}");
        let of_match = |name: &str| allocation::key(&names::of(GATEWAY, name), own_object, &of_match);
        let name = of_match(&base);
        let mut middlewares = Vec::new();
        let filters = rule.spec.filters.iter().flatten().filter(|_| !rule.is_refused);
        for (number, filter) in filters.enumerate() {
            let kind = match filters::read(&namespace, filter, &matches::prefix(Some(one)), at.port)? {
                Filter::Named(name) => {
                    middlewares.push(name);
                    continue;
                }
                Filter::Kind(kind) => kind,
                Filter::Mirror(..) => {
                    let Some((servers, share)) = rule.mirrors.get(&number) else { continue };
                    let service =
                        self.service(of_rule(&format!("{key}-mirror-{number}")), servers, Timeouts::default());
                    MiddlewareKind::Mirror(Mirror { service, share: *share })
                }
            };
            let name = of_match(&format!("{base}-{}-{number}", kind_name(&filter.r#type)));
            middlewares.push(self.middleware(name, kind));
        }
        if let Some(retry) = rule.retry.as_ref().filter(|_| !rule.is_refused) {
            let name = of_rule(&format!("{key}-retry"));
            middlewares.push(self.middleware(name, MiddlewareKind::Retry(Arc::clone(retry))));
        }
        let service = match rule.target.as_ref().filter(|_| !rule.is_refused) {
            // One for each rule, whatever its matches and hostnames.
            Some((servers, timeouts)) => self.service(of_rule(&format!("{key}-wrr")), servers, *timeouts),
            None => UNUSABLE.to_owned(),
        };
        let router = Router {
            name,
            rule: parsed,
            priority: matched.rank.priority(),
            turn: Some(format!("{} {}{:08}", matched.rank.turn(), self.age, self.place).into()),
            entry_points: vec![entry_point.to_owned()],
            middlewares,
            service,
            observability: Observability::default(),
            tls: at.secure.then(RouterTls::default),
            default_options: None,
            holder: None,
        };
        self.out.router(router);
        Ok(())
    }
}

/// A backend by the parts of a reference.
struct Backend<'r> {
    group: Option<&'r str>,
    kind: Option<&'r str>,
    namespace: Option<&'r str>,
    name: &'r str,
    port: Option<i32>,
}

impl<'r> Backend<'r> {
    fn of(reference: &'r HttpRouteRulesBackendRefs) -> Self {
        let HttpRouteRulesBackendRefs { group, kind, namespace, name, port, .. } = reference;
        Self { group: group.as_deref(), kind: kind.as_deref(), namespace: namespace.as_deref(), name, port: *port }
    }

    fn of_mirror(reference: &'r HttpRouteRulesFiltersRequestMirrorBackendRef) -> Self {
        let HttpRouteRulesFiltersRequestMirrorBackendRef { group, kind, namespace, name, port } = reference;
        Self { group: group.as_deref(), kind: kind.as_deref(), namespace: namespace.as_deref(), name, port: *port }
    }
}

/// Where routers are put.
struct At<'a> {
    gateway: &'a Key,
    entry_point: &'a str,
    /// The listener's, one of several that the entry point may be reached at.
    port: Option<u16>,
    secure: bool,
    /// Hosts of other listeners there.
    narrower: &'a Arc<Hosts>,
}

fn kind_name(kind: &HttpRouteRulesFiltersType) -> &'static str {
    match kind {
        HttpRouteRulesFiltersType::RequestHeaderModifier => "requestheadermodifier",
        HttpRouteRulesFiltersType::ResponseHeaderModifier => "responseheadermodifier",
        HttpRouteRulesFiltersType::RequestRedirect => "requestredirect",
        HttpRouteRulesFiltersType::UrlRewrite => "urlrewrite",
        HttpRouteRulesFiltersType::RequestMirror => "requestmirror",
        HttpRouteRulesFiltersType::ExtensionRef => "extensionref",
        HttpRouteRulesFiltersType::Cors => "cors",
        HttpRouteRulesFiltersType::ExternalAuth => "externalauth",
    }
}

/// A server for requests whose backend is nowhere.
fn nowhere() -> Server {
    Server {
        url: "http://".to_owned(),
        host: String::new(),
        port: 0,
        path_prefix: String::new(),
        weight: 1,
        service: None,
        request_headers: None,
    }
}

/// A parent reference as it was written: that is how its status is found.
fn reference(parent: &HttpRouteParentRefs) -> Value {
    let mut value = serde_json::to_value(parent).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}
