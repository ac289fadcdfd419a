//! Traefik's own kinds: IngressRoute here, what it refers to in the leaves. Names, defaults and who may refer to whom are
//! Traefik's.

pub(super) mod middlewares;
mod schema;
mod services;
pub(super) mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::DynamicObject;
use wayspan_proxy::rule::Rule;

use self::schema::{Reference, Route, RouteSpec, ServiceSpec};
use self::services::Loader;
use super::allocation;
use super::backends::Backends;
use super::names::{self, CRD, normalized};
use super::specs::Specs;
use super::transports::Transports;
use super::{Object, Out};
use crate::config::model::{KubernetesProvider, Observability, Router, RouterTls, Verbosity};
use crate::kube::objects::Key;
use crate::kube::parts::{GET_500, UNUSABLE};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Kinds of objects that are referred to by routes of several.
pub(super) const MIDDLEWARE: &str = "Middleware";
const OPTION: &str = "TLSOption";
/// Classes that are served where the configuration names none.
const OWN_CLASSES: [&str; 3] = ["", "wayspan", "traefik"];

/// What was read of the kinds.
#[derive(Debug, Default)]
pub(super) struct Known {
    routes: Specs<RouteSpec>,
    services: Specs<ServiceSpec>,
    pub(super) middlewares: middlewares::Known,
}

impl Known {
    pub(super) fn forget_unused(&mut self) {
        self.routes.forget_unused();
        self.services.forget_unused();
        self.middlewares.forget_unused();
    }
}

/// An IngressRoute, if it is ours.
pub(super) fn translate<'t>(
    out: &mut Out<'t>,
    known: &mut Known,
    transports: &mut Transports,
    backends: &Backends<'t>,
    settings: &KubernetesProvider,
    (key, route): (&Key, &Arc<DynamicObject>),
) {
    let object = Object { kind: "IngressRoute", key: key.clone() };
    let spec = known.routes.read(key, route, RouteSpec::read);
    let spec = match &*spec {
        Ok(spec) => spec,
        Err(message) => return out.problem(&object, "spec", message.clone()),
    };
    if takes(settings, class(spec.ingress_class_name.as_deref(), route)) {
        let services = &mut known.services;
        let loader = Loader { out, services, transports, backends, settings, seen: 0 };
        One { loader, object }.translate(spec);
    }
}

/// The class that an object asks for: in its spec, else by annotation.
pub(in crate::kube) fn class<'o>(named: Option<&'o str>, object: &'o DynamicObject) -> &'o str {
    let annotations = object.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(CLASS_ANNOTATION)).map(String::as_str);
    named.or(annotated).unwrap_or_default()
}

/// Whether objects of a class are ours.
pub(in crate::kube) fn takes(settings: &KubernetesProvider, class: &str) -> bool {
    match settings.ingress_class.as_str() {
        "" => OWN_CLASSES.contains(&class),
        wanted => class == wanted,
    }
}

struct One<'a, 't> {
    loader: Loader<'a, 't>,
    object: Object,
}

impl One<'_, '_> {
    fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.loader.out.problem(&self.object, path, message);
    }

    fn translate(&mut self, spec: &RouteSpec) {
        if spec.parent_refs.as_ref().is_some_and(|refs| !refs.is_empty()) {
            return self.problem("spec.parentRefs", "not supported yet: routers of routers");
        }
        if let Some(message) = &spec.unreadable {
            self.problem("spec", format!("{message}; {GET_500}"));
        }
        if let Some(tls) = &spec.tls {
            self.tls(tls);
        }
        for (index, route) in spec.routes.iter().flatten().enumerate() {
            let place = format!("spec.routes[{index}]");
            if let Some(router) = self.route(spec, route, &place) {
                self.loader.out.router(router);
            }
        }
    }

    fn tls(&mut self, tls: &schema::Tls) {
        let namespace = self.object.key.namespace.clone();
        if let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty())
            && let Err(message) = self.loader.out.certificate(&self.object, &namespace, name)
        {
            self.problem("spec.tls.secretName", message);
        }
    }

    /// A router. What of it cannot be had as it is meant is no reason to leave its requests to others: they get 500.
    fn route(&mut self, spec: &RouteSpec, route: &Route, place: &str) -> Option<Router> {
        let text = route.rule.as_deref().unwrap_or_default();
        let (rule, priority) = self.rule(text, route.priority.unwrap_or(0), place)?;
        let namespace = self.object.key.namespace.clone();
        let key = format!("{namespace}-{}-{}", self.object.key.name, names::hash(text));
        let name = allocation::key(&names::of(CRD, &normalized(&key)), &self.object, text);
        let tls = spec.tls.as_ref().map(|tls| self.options(&namespace, tls)).transpose();
        // Never with other options than those that were meant.
        let tls = tls.map_err(|message| self.problem("spec.tls", format!("{message}; {GET_500}")));
        let is_known = self.is_known(route, place) && tls.is_ok() && rule.text.as_ref() == text;
        let served =
            if is_known && spec.unreadable.is_none() { self.served(&namespace, &name, route, place) } else { None };
        let (service, middlewares) = served.unwrap_or_else(|| (UNUSABLE.to_owned(), Vec::new()));
        Some(Router {
            name,
            rule,
            priority,
            turn: None,
            entry_points: spec.entry_points.clone().unwrap_or_default(),
            middlewares,
            service,
            observability: route.observability.as_ref().map(observability).unwrap_or_default(),
            tls: tls.unwrap_or_else(|()| Some(RouterTls::default())),
            default_options: None,
            holder: None,
        })
    }

    /// What a route matches, or what can be read of it, and its priority.
    fn rule(&mut self, text: &str, said: i64, place: &str) -> Option<(Rule, i64)> {
        match self.loader.out.rules.parse(text) {
            Ok(rule) => Some((rule, said)),
            Err(unreadable) => {
                self.problem(format!("{place}.match"), unreadable.told(text));
                let left = unreadable.left?;
                // Below what says the same and can be read.
                let most = left.default_priority() - 1;
                Some((left, if said == 0 { most } else { said.min(most) }))
            }
        }
    }

    /// Whether a route's own words are known.
    fn is_known(&mut self, route: &Route, place: &str) -> bool {
        if let Some(kind) = route.kind.as_deref().filter(|kind| !matches!(*kind, "" | "Rule")) {
            self.problem(format!("{place}.kind"), format!("`{kind}` is not known, write Rule; {GET_500}"));
            return false;
        }
        if let Some(syntax) = route.syntax.as_deref().filter(|syntax| !matches!(*syntax, "" | "v3" | "default")) {
            let message = format!("`{syntax}` is not supported yet: rules are Traefik v3's; {GET_500}");
            self.problem(format!("{place}.syntax"), message);
            return false;
        }
        true
    }

    /// The service and the middlewares of a route that can be had as they are meant.
    fn served(&mut self, namespace: &str, name: &str, route: &Route, place: &str) -> Option<(String, Vec<String>)> {
        let middlewares = self.middlewares(namespace, route.middlewares.as_deref().unwrap_or_default(), place);
        let services = route.services.as_deref().unwrap_or_default();
        let service = self.loader.of_route(namespace, name, services);
        let service = service.map_err(|message| self.problem(format!("{place}.services"), message));
        service.ok().zip(middlewares)
    }

    /// A route's TLS.
    fn options(&self, namespace: &str, tls: &schema::Tls) -> Result<RouterTls, String> {
        if tls.cert_resolver.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err("certResolver is not supported yet".to_owned());
        }
        if tls.store.as_ref().is_some_and(|store| store["name"] != "default") {
            return Err("another store than `default` is not supported".to_owned());
        }
        let view = self.loader.out.view;
        let is_anothers = |named: &&str| *named != namespace && view.own_default(named).is_some();
        let options = match &tls.options {
            None => None,
            // Wherever they are, they are for whoever names none; but for those of another namespace alone.
            Some(Reference { name, namespace: named, .. })
                if matches!(name.as_str(), "" | "default") && named.as_deref().filter(is_anothers).is_none() =>
            {
                None
            }
            Some(reference) => {
                let options = referred(self.loader.settings, OPTION, namespace, reference);
                Some(options.map_err(|message| format!("options: {message}"))?)
            }
        };
        Ok(RouterTls { options, domains: Vec::new() })
    }

    fn middlewares(&mut self, namespace: &str, wanted: &[Reference], place: &str) -> Option<Vec<String>> {
        let settings = self.loader.settings;
        let mut all = Vec::new();
        for (index, reference) in wanted.iter().enumerate() {
            match referred(settings, MIDDLEWARE, namespace, reference) {
                Ok(name) => all.push(name),
                Err(message) => {
                    self.problem(format!("{place}.middlewares[{index}]"), message);
                    return None;
                }
            }
        }
        Some(all)
    }
}

fn observability(of: &schema::Observability) -> Observability {
    let verbosity = of.trace_verbosity.as_deref();
    Observability {
        tracing: of.tracing,
        metrics: of.metrics,
        verbosity: verbosity
            .map(|text| if text.eq_ignore_ascii_case("detailed") { Verbosity::Detailed } else { Verbosity::Minimal }),
    }
}

/// The name of what an object of a namespace refers to.
fn referred(
    settings: &KubernetesProvider,
    kind: &'static str,
    from: &str,
    reference: &Reference,
) -> Result<String, String> {
    let name = reference.name.as_str();
    settings.may_name(from, name)?;
    if name.contains('@') {
        // Which namespace such a name is of cannot be told.
        if name.ends_with("@kubernetescrd") && !settings.allow_cross_namespace {
            return Err(format!("`{name}`: another namespace's needs allowCrossNamespace; write its name alone"));
        }
        return Ok(names::referred(CRD, name));
    }
    let namespace = within(settings, from, reference.namespace.as_deref(), name)?;
    Ok(called(kind, namespace, name))
}

/// The key of an object that is one part.
pub(super) fn called(kind: &'static str, namespace: &str, name: &str) -> String {
    let plain = names::of(CRD, &normalized(&format!("{namespace}-{name}")));
    allocation::key(&plain, &Object { kind, key: Key::new(namespace, name) }, "")
}

/// The namespace that is meant, where it may be.
fn within<'n>(
    settings: &KubernetesProvider,
    from: &'n str,
    namespace: Option<&'n str>,
    name: &str,
) -> Result<&'n str, String> {
    match namespace.filter(|namespace| !namespace.is_empty()) {
        Some(other) if other != from && !settings.allow_cross_namespace => {
            Err(format!("{other}/{name} is in another namespace than {from}; allow it with allowCrossNamespace"))
        }
        Some(namespace) => Ok(namespace),
        None => Ok(from),
    }
}

/// Names of chains with what they stand for, for routers of every kind.
pub(super) type Chains = BTreeMap<String, Vec<String>>;

/// Middlewares of one router.
const MIDDLEWARES_MAX: usize = 64;
/// Chains and middlewares looked at for one router: chains of chains double.
const LOOKS_MAX: usize = 16 * MIDDLEWARES_MAX;

/// A router's middlewares with chains taken apart; a chain within itself ends at its second time. `None`: too many. Tells of each
/// name that it looks for among the chains.
pub(super) fn expanded(chains: &Chains, wanted: &[String], looks_for: &dyn Fn(&str)) -> Option<Vec<String>> {
    let mut expansion = Expansion { chains, looks_for, above: BTreeSet::new(), looks: 0, all: Vec::new() };
    wanted.iter().try_for_each(|name| expansion.add(name))?;
    Some(expansion.all)
}

/// What is wrong with that.
pub(super) fn too_many() -> String {
    format!("stands for more than {MIDDLEWARES_MAX} middlewares, or for chains of more than {LOOKS_MAX}; take some out")
}

struct Expansion<'c> {
    chains: &'c Chains,
    looks_for: &'c dyn Fn(&str),
    above: BTreeSet<&'c str>,
    looks: usize,
    all: Vec<String>,
}

impl<'c> Expansion<'c> {
    fn add(&mut self, name: &str) -> Option<()> {
        self.looks += 1;
        if self.looks > LOOKS_MAX {
            return None;
        }
        (self.looks_for)(name);
        let chains: &'c Chains = self.chains;
        match chains.get_key_value(name) {
            Some((chain, members)) if self.above.insert(chain) => {
                members.iter().try_for_each(|member| self.add(member))?;
                self.above.remove(chain.as_str());
            }
            // Within itself: it names what nobody can give, and its router is not served.
            _ => self.all.push(name.to_owned()),
        }
        (self.all.len() <= MIDDLEWARES_MAX).then_some(())
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key::new(namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_double_end_after_so_many_looks() {
        let twice = |next: String| vec![next.clone(), next];
        let mut chains: Chains = (0..40).map(|at| (format!("c{at}"), twice(format!("c{}", at + 1)))).collect();
        for last in [None, Some(("c40".to_owned(), Vec::new()))] {
            chains.extend(last);
            let mut expansion =
                Expansion { chains: &chains, looks_for: &|_| {}, above: BTreeSet::new(), looks: 0, all: Vec::new() };
            assert_eq!(expansion.add("c0"), None);
            assert!(expansion.looks <= LOOKS_MAX + 1, "{}", expansion.looks);
        }
        assert_eq!(expanded(&chains, &["c35".to_owned()], &|_| {}), Some(Vec::new()));
        let most: Vec<String> = (0..MIDDLEWARES_MAX).map(|at| format!("m{at}")).collect();
        assert_eq!(expanded(&Chains::new(), &most, &|_| {}).as_ref(), Some(&most));
        assert_eq!(expanded(&Chains::new(), &[most, vec!["m".to_owned()]].concat(), &|_| {}), None);
    }
}
