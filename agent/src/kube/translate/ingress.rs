//! Ingress objects: their classes, rules, paths, default backends and certificates.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressServiceBackend};
use serde_json::{Value, json};
use wayspan_proxy::snapshot::Timeouts;

use super::allocation;
use super::annotations::{self, OfRouter};
use super::backends::{Backends, Port};
use super::names::{self, INGRESS, normalized, quoted};
use super::ranks::{Of, PathKind, Rank};
use super::transports::Transports;
use super::view::Read;
use super::{Object, Out};
use crate::config::model::{KubernetesProvider, Router, RouterTls, Service};
use crate::kube::objects::{Key, Set};
use crate::kube::parts::{GET_500, Status, UNUSABLE};

/// `spec.controller` of the classes that are ours.
pub(in crate::kube) const CONTROLLER: &str = "wayspan.io/ingress-controller";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The class that an annotation names where the configuration names none.
const OWN_CLASS: &str = "wayspan";
/// A field of an Ingress.
pub(super) const DEFAULT_BACKEND: &str = "spec.defaultBackend";
/// What a Service's port says of its servers, in Kubernetes' words.
const WSS: &str = "kubernetes.io/wss";
const H2C: &str = "kubernetes.io/h2c";
/// Below every route of anyone's.
pub(super) const LAST: i64 = i32::MIN as i64;
/// Behind HTTPRoutes of the same rank, and behind that what cannot be read.
const BEHIND: &str = "~";
const UNREAD: &str = "~~";

/// Which Ingress objects are ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::kube) struct Classes {
    wanted: String,
    ours: BTreeSet<Box<str>>,
    /// Another controller's class is the cluster's default.
    other_default: bool,
    /// No class is known at all.
    none: bool,
}

impl Classes {
    pub(in crate::kube) fn new(all: &Set<IngressClass>, settings: &KubernetesProvider) -> Self {
        let wanted = settings.ingress_class.clone();
        let mut classes = Self { wanted, ours: BTreeSet::new(), other_default: false, none: all.is_empty() };
        for (key, class) in all.iter() {
            if classes.is_ours(&key.name, class) {
                classes.ours.insert(key.name.clone());
            } else if is_default(class) {
                classes.other_default = true;
            }
        }
        classes
    }

    /// Ours by its controller, or because the configuration names it: so another controller's objects can be tried.
    fn is_ours(&self, name: &str, class: &IngressClass) -> bool {
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
        if self.wanted.is_empty() { controller == Some(CONTROLLER) } else { name == self.wanted }
    }

    pub(in crate::kube) fn takes(&self, ingress: &Ingress) -> bool {
        if let Some(name) = named_class(ingress) {
            // Without a right to read classes there are none: the one that the configuration names is ours all the same.
            return self.ours.contains(name) || (self.none && !name.is_empty() && name == self.wanted);
        }
        match annotated_class(ingress) {
            Some(name) => name == self.wanted || (self.wanted.is_empty() && name == OWN_CLASS),
            None => self.wanted.is_empty() && !self.other_default,
        }
    }
}

fn named_class(ingress: &Ingress) -> Option<&str> {
    ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref())
}

fn annotated_class(ingress: &Ingress) -> Option<&str> {
    let annotations = ingress.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(CLASS_ANNOTATION)).map(String::as_str).filter(|name| !name.is_empty())
}

/// The class that an Ingress asks for, if any.
pub(in crate::kube) fn asked_class(ingress: &Ingress) -> Option<&str> {
    named_class(ingress).or_else(|| annotated_class(ingress))
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
}

/// An Ingress, if it is ours.
pub(super) fn translate<'t>(
    out: &mut Out<'t>,
    transports: &mut Transports,
    backends: &Backends<'t>,
    settings: &KubernetesProvider,
    said: &Said,
    (key, ingress): (&Key, &Ingress),
) {
    if !out.view.classes().takes(ingress) {
        return;
    }
    let object = Object { kind: "Ingress", key: key.clone() };
    out.parts.statuses.extend(said.status(&object));
    let annotated = annotations::of_router(ingress.metadata.annotations.as_ref());
    let age = ingress.metadata.creation_timestamp.as_ref();
    let age = age.map_or_else(String::new, |time| format!("{:020}", time.0.as_nanosecond()));
    let age = format!("{age} {} {}", key.namespace, key.name);
    let mut one = One { out, transports, backends, settings, object, ingress, age };
    let annotated = one.judged(annotated);
    one.translate(&annotated);
}

/// What is said of a default backend behind another's.
pub(super) fn not_first(other: &Key) -> String {
    format!("Ingress {other} has the default backend and is older, or of equals the first; remove one")
}

/// Of so many addresses of before it is known that they were ours.
const BEFORE_MAX: usize = 16;

/// What Ingress objects say of where clients reach us, as type and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    /// Where they do.
    addresses: Vec<(String, String)>,
    /// It is known that there is no such place any more.
    is_withdrawn: bool,
    /// All that there were, the last ones last.
    before: Vec<Vec<(String, String)>>,
}

impl Said {
    /// These as of now; without any, `is_known` is whether none is all that there is to know.
    pub(super) fn now(&self, addresses: Vec<(String, String)>, is_known: bool) -> Self {
        let mut before = self.before.clone();
        if !addresses.is_empty() && before.last() != Some(&addresses) {
            before.retain(|one| *one != addresses);
            before.push(addresses.clone());
            before.drain(..before.len().saturating_sub(BEFORE_MAX));
        }
        Self { is_withdrawn: addresses.is_empty() && is_known, addresses, before }
    }

    /// Nothing is said for as long as no address is known. Addresses that are ours no longer are taken back, from those that say
    /// just these: others may be the word of another controller.
    fn status(&self, object: &Object) -> Option<Status> {
        if self.addresses.is_empty() && (!self.is_withdrawn || self.before.is_empty()) {
            return None;
        }
        let before = self.before.iter().filter(|_| self.is_withdrawn);
        let over = before.map(|addresses| body(addresses)).collect();
        Some(Status {
            object: object.clone(),
            generation: 0,
            conditions: Vec::new(),
            body: body(&self.addresses),
            over,
        })
    }
}

fn body(addresses: &[(String, String)]) -> Value {
    let address = |(kind, value): &(String, String)| match kind.as_str() {
        "Hostname" => json!({ "hostname": value }),
        _ => json!({ "ip": value }),
    };
    let addresses: Vec<Value> = addresses.iter().map(address).collect();
    json!({"loadBalancer": {"ingress": addresses}})
}

struct One<'a, 't> {
    out: &'a mut Out<'t>,
    transports: &'a mut Transports,
    backends: &'a Backends<'t>,
    settings: &'a KubernetesProvider,
    object: Object,
    ingress: &'a Ingress,
    /// Of equals the oldest comes first, then the first by name.
    age: String,
}

impl One<'_, '_> {
    fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.out.problem(&self.object, path, message);
    }

    /// What counts of annotations. Where one cannot be read, or names what it may not, the requests of all rules are answered
    /// with 500: a wider route is not to have them.
    fn judged(&mut self, mut annotated: OfRouter) -> OfRouter {
        if let Some(message) = self.refused(&annotated) {
            annotated.wrong.push(("metadata.annotations".to_owned(), message));
            annotated.tls.iter_mut().for_each(|tls| tls.options = None);
        }
        for (path, message) in &annotated.wrong {
            self.problem(path, format!("{message}; {GET_500}"));
        }
        if annotated.is_refused() {
            annotated.middlewares.clear();
        }
        annotated
    }

    /// What of another provider's it names and may not.
    fn refused(&self, annotated: &OfRouter) -> Option<String> {
        let options = annotated.tls.as_ref().and_then(|tls| tls.options.as_deref());
        // Whatever stands there is another provider's; that of the file is without its own.
        let options = options.map(|name| if name.contains('@') { name.to_owned() } else { format!("{name}@file") });
        let mut all = annotated.middlewares.iter().chain(&options);
        all.find_map(|name| self.settings.may_name(&self.object.key.namespace, name).err())
    }

    fn translate(&mut self, annotated: &OfRouter) {
        let Some(spec) = &self.ingress.spec else { return };
        let namespace = self.object.key.namespace.clone();
        for (index, tls) in spec.tls.iter().flatten().enumerate() {
            // Without a Secret the certificate comes from elsewhere, by its name.
            if let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty())
                && let Err(message) = self.out.certificate(&self.object, &namespace, name)
            {
                self.problem(format!("spec.tls[{index}].secretName"), message);
            }
        }
        if let Some(backend) = &spec.default_backend {
            self.default_backend(backend, annotated, spec.rules.as_ref().is_none_or(Vec::is_empty));
        }
        let mut routers: BTreeMap<String, Vec<Router>> = BTreeMap::new();
        for (number, rule) in spec.rules.iter().flatten().enumerate() {
            let host = rule.host.as_deref().unwrap_or_default();
            for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let place = format!("spec.rules[{number}].http.paths[{index}]");
                let text = path.path.as_deref().unwrap_or_default();
                let name = normalized(&format!("{namespace}-{}-{host}{text}", self.object.key.name));
                if let Some(router) = self.router(host, path, annotated, &place) {
                    routers.entry(name).or_default().push(router);
                }
            }
        }
        for (name, list) in routers {
            let alone = list.len() == 1;
            for router in list {
                let hashed = || format!("{name}-{}", names::hash(&router.rule.text));
                let name = names::of(INGRESS, &if alone { name.clone() } else { hashed() });
                let local = router.rule.text.to_string();
                self.add(&name, &local, router, annotated);
            }
        }
    }

    /// A router of that name, and a second one where it is not known whether it is for requests with TLS or for those without.
    fn add(&mut self, name: &str, local: &str, router: Router, annotated: &OfRouter) {
        let named = |local: &str| allocation::key(name, &self.object, local);
        if annotated.is_tls_unknown {
            let secured =
                Router { name: named(&format!("{local} tls")), tls: Some(RouterTls::default()), ..router.clone() };
            self.out.router(secured);
        }
        self.out.router(Router { name: named(local), ..router });
    }

    fn default_backend(&mut self, backend: &IngressBackend, annotated: &OfRouter, alone: bool) {
        let Some(target) = self.service(backend, annotated, DEFAULT_BACKEND) else { return };
        // What is refused does not keep the place from another's.
        let is_default = alone && !annotated.is_refused();
        // Whether it is the oldest of all is seen when all are known: it has no other routers.
        self.out.parts.is_default = is_default;
        if is_default {
            self.out.view.note(Read::Default);
        }
        let name = match is_default {
            true => "default-router".to_owned(),
            // Of an Ingress with rules it stands for what its own hosts' rules do not take.
            false => normalized(&format!("{}-{}-default", self.object.key.namespace, self.object.key.name)),
        };
        let name = names::of(INGRESS, &name);
        let hosts = if alone { vec![""] } else { hosts(self.ingress) };
        let rules = hosts.into_iter().filter_map(|host| Some((host, self.out.rules.parse(&of_host(host)).ok()?)));
        let rules: Vec<_> = rules.collect();
        for (index, (host, rule)) in rules.into_iter().enumerate() {
            let name = if index == 0 { name.clone() } else { name.replacen('@', &format!("-{index}@"), 1) };
            // That of a host is before the one for everybody.
            let behind = if annotated.is_refused() { UNREAD } else { BEHIND };
            let turn = self.turn(&Rank::new(Of::Ingress, host), behind);
            let router = Router { priority: LAST, turn, ..router(rule, target.clone(), annotated) };
            self.add(&name, &format!("default {index}"), router, annotated);
        }
    }

    fn turn(&self, rank: &Rank, behind: &str) -> Option<Arc<str>> {
        Some(format!("{}{behind}{}", rank.turn(), self.age).into())
    }

    fn router(&mut self, host: &str, path: &HTTPIngressPath, annotated: &OfRouter, place: &str) -> Option<Router> {
        let matched = Matched::new(host, path, annotated, self.settings.strict_prefix);
        let said = Some(annotated.priority).filter(|said| *said != 0);
        let rank = matched.rank;
        match self.out.rules.parse(&matched.rule) {
            Ok(rule) => {
                let target = self.service(&path.backend, annotated, &format!("{place}.backend"))?;
                let priority = said.unwrap_or(rank.priority());
                let turn = self.turn(&rank, BEHIND);
                Some(Router { priority, turn, ..router(rule, target, annotated) })
            }
            Err(unreadable) => {
                self.problem(place, unreadable.told(&matched.rule));
                // Below whatever of this host can be read.
                let rank = Rank::new(Of::Ingress, host);
                let turn = self.turn(&rank, UNREAD);
                let most = rank.priority();
                let priority = said.unwrap_or(most).min(most);
                Some(Router { priority, turn, ..router(unreadable.left?, UNUSABLE.to_owned(), annotated) })
            }
        }
    }

    /// The name of a backend's service. One that cannot be served as it is meant answers 500 in its place.
    fn service(&mut self, backend: &IngressBackend, annotated: &OfRouter, place: &str) -> Option<String> {
        if annotated.is_refused() {
            return Some(UNUSABLE.to_owned());
        }
        let Some(target) = &backend.service else {
            let what =
                if backend.resource.is_some() { "resource backends are not supported" } else { "names no service" };
            self.problem(place, what);
            return Some(UNUSABLE.to_owned());
        };
        match self.load(target) {
            Ok(service) => {
                if service.servers.is_empty() && !self.settings.allow_empty {
                    self.problem(place, format!("Service {} has no endpoint that is ready", target.name));
                    return None;
                }
                let name = service.name.clone();
                self.out.parts.services.entry(name.clone()).or_insert(service);
                Some(name)
            }
            Err(message) => {
                self.problem(place, message);
                Some(UNUSABLE.to_owned())
            }
        }
    }

    fn load(&mut self, target: &IngressServiceBackend) -> Result<Service, String> {
        let namespace = &self.object.key.namespace;
        let of_service = |message: String| format!("Service {namespace}/{}: {message}", target.name);
        let asked = target.port.as_ref();
        let named = asked.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
        let port = match (named, asked.and_then(|port| port.number)) {
            (Some(name), _) => Port::Name(name),
            (None, Some(number)) => Port::Number(number),
            (None, None) => return Err("names no port".to_owned()),
        };
        let (service, port_spec) = self.backends.find(namespace, &target.name, port)?;
        let annotated = annotations::of_service(service.metadata.annotations.as_ref())
            .map_err(|(path, message)| of_service(format!("{path}: {message}")))?;
        plain(annotated.scheme.as_deref(), &port_spec).map_err(of_service)?;
        if let Some(name) = &annotated.transport {
            self.settings.may_name(namespace, name).map_err(of_service)?;
        }
        let view = self.out.view;
        let transport = annotated.transport.as_deref().map(|name| self.transports.named(view, name));
        let (timeouts, idle_max) =
            transport.transpose().map_err(of_service)?.unwrap_or((Timeouts::default(), super::IDLE_MAX));
        let shown = named.map_or_else(|| port_spec.port.to_string(), str::to_owned);
        let name = names::of(INGRESS, &normalized(&format!("{namespace}-{}-{shown}", target.name)));
        let of = Object { kind: "Service", key: Key::new(namespace, &target.name) };
        Ok(Service {
            name: allocation::key(&name, &of, &shown),
            servers: self.backends.servers(service, &port_spec)?,
            pass_host: annotated.pass_host.unwrap_or(true),
            timeouts,
            idle_max,
            conns_max: 0,
        })
    }
}

/// Whether servers are spoken to in plain HTTP: by a scheme that someone names, else as Traefik guesses, else by what the port
/// itself asks for, which Traefik does not look at: what wants TLS is not to get requests in the clear.
pub(super) fn plain(scheme: Option<&str>, port: &ServicePort) -> Result<(), String> {
    let is_secure = port.port == 443 || port.name.as_deref().is_some_and(|name| name.starts_with("https"));
    let asked = port.app_protocol.as_deref().filter(|asked| matches!(*asked, "https" | WSS | H2C));
    match (scheme, asked) {
        (Some("http"), _) => Ok(()),
        (None, _) if is_secure => not_yet("https", "name another port, or the scheme http"),
        (None, Some(asked)) => {
            not_yet(&format!("its appProtocol {asked}"), "name the scheme http where they speak HTTP/1.1 in the clear")
        }
        (None, None) => Ok(()),
        (Some("https"), _) => not_yet("https", "name another port, or the scheme http"),
        (Some("h2c"), _) => not_yet("h2c", "name the scheme http"),
        (Some(other), _) => Err(format!("`{other}` is no scheme; write http")),
    }
}

fn not_yet(what: &str, remedy: &str) -> Result<(), String> {
    Err(format!("{what} to servers is not supported yet; {remedy}"))
}

/// The hosts that an Ingress names, each once.
fn hosts(ingress: &Ingress) -> Vec<&str> {
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_deref()).unwrap_or_default();
    let mut seen = HashSet::new();
    let hosts = rules.iter().map(|rule| rule.host.as_deref().unwrap_or_default());
    hosts.filter(|host| seen.insert(*host)).collect()
}

/// The rule of all that a host is asked for; of none, all that is.
fn of_host(host: &str) -> String {
    match host {
        "" => "PathPrefix(\"/\")".to_owned(),
        host => format!("Host({})", quoted(host)),
    }
}

/// Who names it comes later.
fn router(rule: wayspan_proxy::rule::Rule, service: String, annotated: &OfRouter) -> Router {
    Router {
        name: String::new(),
        rule,
        priority: annotated.priority,
        turn: None,
        entry_points: annotated.entry_points.clone(),
        middlewares: annotated.middlewares.iter().map(|name| names::referred(INGRESS, name)).collect(),
        service,
        observability: annotated.observability,
        tls: annotated.tls.as_ref().map(|tls| RouterTls { options: tls.options.clone(), domains: Vec::new() }),
        default_options: None,
        holder: None,
    }
}

/// What a path matches, and before whom.
struct Matched {
    rule: String,
    rank: Rank,
}

impl Matched {
    fn new(host: &str, path: &HTTPIngressPath, annotated: &OfRouter, strict: bool) -> Self {
        let text = path.path.as_deref().unwrap_or_default();
        let matcher = match path.path_type.as_str() {
            "Exact" => "Path",
            "Prefix" => "PathPrefix",
            _ if annotated.is_matcher_unknown => "",
            _ => annotated.path_matcher.as_deref().unwrap_or("PathPrefix"),
        };
        let trimmed = text.trim_end_matches('/');
        let path_rule = match matcher {
            _ if text.is_empty() => None,
            "PathPrefix" if strict && !trimmed.is_empty() => {
                Some(format!("(Path({}) || PathPrefix({}))", quoted(trimmed), quoted(&format!("{trimmed}/"))))
            }
            // Which was meant nobody knows. An expression matches anywhere in a path, and so much would be taken from others.
            "" => Some(format!("PathPrefix({})", quoted(text))),
            matcher => Some(format!("{matcher}({})", quoted(text))),
        };
        let host_rule = (!host.is_empty()).then(|| format!("Host({})", quoted(host)));
        let rule = [host_rule, path_rule].into_iter().flatten().collect::<Vec<_>>().join(" && ");
        // A rule of nothing takes everything.
        let rule = if rule.is_empty() { "PathPrefix(\"/\")".to_owned() } else { rule };
        let mut rank = Rank::new(Of::Ingress, host);
        rank.path_kind = if matcher == "Path" { PathKind::Exact } else { PathKind::Prefix };
        rank.path = trimmed.len();
        Self { rule, rank }
    }
}
