//! From objects to findings: pure. What cannot be served is what translation says; what would be served otherwise than by the
//! controller that it comes from is added here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DynamicObject;
use serde_json::Value;

use super::nginx;
use super::report::{Count, Effect, Finding, Report};
use super::{Asked, Seen};
use crate::config::disputes;
use crate::config::model::{Dynamic, EntryPoint, Kubernetes, KubernetesProvider, Router};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{GET_500, Object, Parts, Problem, no_entry_point};
use crate::kube::translate::gateway::CONTROLLER as GATEWAYS;
use crate::kube::translate::ingress::{Classes, asked_class};
use crate::kube::translate::{Around, Entry, Translator, crd};

const NGINX: &str = "k8s.io/ingress-nginx";
const TRAEFIK: &str = "traefik.io/ingress-controller";
const ROUTER_TLS: &str = "traefik.ingress.kubernetes.io/router.tls";
const ACCESS_LOGS: &str = "traefik.ingress.kubernetes.io/router.observability.accesslogs";
/// What an Ingress says to one controller alone.
const OTHERS: [&str; 10] = [
    "nginx.org/",
    "haproxy.org/",
    "haproxy-ingress.github.io/",
    "ingress.kubernetes.io/",
    "konghq.com/",
    "alb.ingress.kubernetes.io/",
    "appgw.ingress.kubernetes.io/",
    "projectcontour.io/",
    "ingress.cilium.io/",
    "getambassador.io/",
];

pub(super) fn of(seen: Seen, asked: &Asked) -> Report {
    let Seen { objects, others, unread } = seen;
    let nothing = Dynamic::default();
    let file = asked.file.as_ref();
    let entry_points = file.map(|file| file.entry_points.as_slice()).unwrap_or_default();
    let around = Around { entry_points: entry_points.iter().map(Entry::from).collect(), ..Around::default() };
    let settings = tried(asked, &objects);
    let parts = Translator::default().translate(&objects, &settings, None, &around);
    let mut all = Findings { parts: &parts, file, all: Vec::new(), counts: BTreeMap::new() };
    for problem in &parts.problems {
        all.problem(problem);
    }
    for Problem { object, path, message } in &parts.disputes {
        // Another one gets the requests, or the route is served, by another certificate.
        let is_lost = matches!(path.as_str(), "spec.rules" | "spec.defaultBackend");
        let (message, remedy) = split(message);
        let effect = if is_lost { Effect::NotServed } else { Effect::Differs };
        all.add((object.kind, &object.key), effect, path, message, remedy);
    }
    all.missing(file.unwrap_or(&nothing));
    all.entry_points();
    if let Some(settings) = &settings.ingress {
        all.ingresses(&objects, settings);
    }
    if let Some(settings) = &settings.crd {
        all.ingress_routes(&objects, settings);
    }
    if asked.settings.gateway.is_some() {
        all.gateways(&objects);
    }
    for (kind, group, key) in others {
        let remedy = if group == "traefik.containo.us" {
            "write it with apiVersion traefik.io/v1alpha1".to_owned()
        } else {
            format!("leave it to its controller until Wayspan has {kind}")
        };
        all.add((&kind, &key), Effect::NotServed, "", "its kind is not supported yet".to_owned(), remedy);
    }
    let Findings { all, counts, .. } = all;
    Report::new(counted(counts, &all), all, unread)
}

/// What was looked at: kind, object, and whether it is ours.
type Counts = BTreeMap<&'static str, Vec<(Key, bool)>>;

fn counted(counts: Counts, all: &[Finding]) -> BTreeMap<String, Count> {
    let told: BTreeSet<(&str, &str, &str)> =
        all.iter().map(|one| (one.kind.as_str(), one.namespace.as_str(), one.name.as_str())).collect();
    let each = counts.into_iter().map(|(kind, objects)| {
        let ours = || objects.iter().filter(|(_, ours)| *ours);
        let clean = |(key, _): &&(Key, bool)| !told.contains(&(kind, &*key.namespace, &*key.name));
        let count = Count { there: objects.len(), ours: ours().count(), as_they_are: ours().filter(clean).count() };
        (kind.to_owned(), count)
    });
    each.collect()
}

struct Findings<'a> {
    parts: &'a Parts,
    file: Option<&'a Dynamic>,
    all: Vec<Finding>,
    counts: Counts,
}

impl Findings<'_> {
    fn add(
        &mut self,
        (kind, key): (&str, &Key),
        effect: Effect,
        path: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.all.push(Finding {
            kind: kind.to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            effect,
            path: path.to_owned(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    fn problem(&mut self, problem: &Problem) {
        let Problem { object, path, message } = problem;
        // The route is served, by another certificate; the options are, to fewer; without a certificate for servers, those that want
        // TLS get no request anyway.
        let of_certificate =
            path.ends_with(".secretName") || path == "spec.tls.secretName" || path == "spec.tls.backend";
        let of_one_namespace = object.kind == "TLSOption" && path == "spec.clientAuth";
        let effect = if of_certificate || of_one_namespace { Effect::Differs } else { Effect::NotServed };
        let (message, remedy) = split(message);
        self.add((object.kind, &object.key), effect, path, message, remedy);
    }

    /// Routers that name what is nowhere.
    fn missing(&mut self, file: &Dynamic) {
        let (merged, missing) = self.parts.merged(file);
        for dispute in self.parts.disputed(&disputes(&merged)) {
            let Some(object) = self.parts.origin(&dispute.router) else { continue };
            let effect = if dispute.insists.is_some() { Effect::NotServed } else { Effect::Differs };
            let what = dispute.message();
            let (message, remedy) = split(&what);
            self.add((object.kind, &object.key), effect, "", message, remedy);
        }
        for (router, what) in missing {
            let Some(object) = self.parts.origin(&router) else { continue };
            let told = |problem: &Problem| problem.object == *object && problem.message.starts_with(&what);
            // What the file may hold is not missed where nobody named it.
            let of_file = self.file.is_none() && !what.contains('@');
            if !of_file && !self.parts.problems.iter().any(told) {
                let message = format!("{what}; {GET_500}");
                self.add((object.kind, &object.key), Effect::NotServed, "", message, "make it, or mend its name");
            }
        }
    }

    /// Routers that no port leads to.
    fn entry_points(&mut self) {
        let Some(file) = self.file else { return };
        let known = |name: &String| {
            let is = |one: &EntryPoint| one.name == *name;
            file.entry_points.iter().any(is) || self.parts.entry_points.iter().any(is)
        };
        let mut found: BTreeMap<(&Object, &str), bool> = BTreeMap::new();
        for router in &self.parts.routers {
            let Some(object) = self.parts.origin(&router.name) else { continue };
            let is_reached = router.entry_points.iter().any(known);
            for name in router.entry_points.iter().filter(|name| !known(name)) {
                found.insert((object, name), is_reached);
            }
        }
        let found: Vec<_> =
            found.into_iter().map(|((object, name), reached)| (object.clone(), name.to_owned(), reached)).collect();
        for (object, name, is_reached) in found {
            let effect = if is_reached { Effect::Differs } else { Effect::NotServed };
            let path = if object.kind == "IngressRoute" { "spec.entryPoints" } else { "" };
            let message = no_entry_point(&name);
            let is_told = |problem: &Problem| problem.object == object && problem.message.starts_with(&message);
            if self.parts.problems.iter().any(is_told) {
                continue;
            }
            self.add((object.kind, &object.key), effect, path, message, "add it to entryPoints, or name another");
        }
    }

    fn ingresses(&mut self, objects: &Objects, settings: &KubernetesProvider) {
        let classes = Classes::new(&objects.ingress_classes, settings);
        let controllers: HashMap<&str, &str> = objects
            .ingress_classes
            .iter()
            .map(|(key, class)| {
                (&*key.name, class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default())
            })
            .collect();
        let routers = by_object(self.parts);
        for (key, ingress) in objects.ingresses.iter().filter(|(key, _)| settings.serves(&key.namespace)) {
            let class = asked_class(ingress);
            let controller = class.and_then(|class| controllers.get(class)).copied();
            let is_ours = classes.takes(ingress);
            self.counts.entry("Ingress").or_default().push((key.clone(), is_ours));
            if is_ours {
                let object = Object { kind: "Ingress", key: key.clone() };
                let routers = routers.get(&object).map(Vec::as_slice).unwrap_or_default();
                self.annotations(key, ingress);
                self.certificates(key, ingress, routers);
                if controller == Some(NGINX) {
                    self.beside_nginx(key, ingress);
                }
                if controller == Some(TRAEFIK) {
                    self.beside_traefik(key, ingress, settings);
                }
            } else {
                let (message, remedy) = of_another(class, controller, settings);
                self.add(("Ingress", key), Effect::NotOurs, "spec.ingressClassName", message, remedy);
            }
        }
    }

    fn annotations(&mut self, key: &Key, ingress: &Ingress) {
        for (name, value) in ingress.metadata.annotations.iter().flatten() {
            let path = format!("metadata.annotations[{name}]");
            if let Some(rest) = name.strip_prefix(nginx::PREFIX) {
                if let Some(asked) = nginx::asked(rest, value) {
                    let remedy = nginx::in_full(asked.remedy);
                    self.add(("Ingress", key), asked.effect, &path, asked.message, remedy);
                }
            } else if OTHERS.iter().any(|prefix| name.starts_with(prefix)) {
                let remedy = "say what it does with a Middleware in traefik.ingress.kubernetes.io/router.middlewares";
                self.add(("Ingress", key), Effect::Differs, &path, "is ignored: another controller's", remedy);
            } else if name.eq_ignore_ascii_case(ACCESS_LOGS) && value != "false" {
                self.add(("Ingress", key), Effect::Differs, &path, "is ignored: no access log is written", "");
            }
        }
    }

    /// A certificate alone makes no route take TLS, as in Traefik.
    fn certificates(&mut self, key: &Key, ingress: &Ingress, routers: &[&Router]) {
        let has_tls = ingress.spec.as_ref().is_some_and(|spec| spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()));
        let by_entry_point = |router: &Router| {
            let all = self.file.map(|file| file.entry_points.as_slice()).unwrap_or_default();
            all.iter().filter(|one| one.takes(router)).any(|one| one.tls.is_some())
        };
        if has_tls
            && !routers.is_empty()
            && routers.iter().all(|router| router.tls.is_none() && !by_entry_point(router))
        {
            let remedy = format!("write {ROUTER_TLS}: \"true\", or give an entry point http.tls");
            self.add(("Ingress", key), Effect::NotServed, "spec.tls", "no router of it takes TLS", remedy);
        }
    }

    /// What ingress-nginx does without being told.
    fn beside_nginx(&mut self, key: &Key, ingress: &Ingress) {
        let said = |name: &str| {
            let annotations = ingress.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(&format!("{}{name}", nginx::PREFIX))).map(String::as_str)
        };
        let tls = ingress.spec.as_ref().and_then(|spec| spec.tls.as_ref()).is_some_and(|tls| !tls.is_empty());
        // Where it is said, its annotation is found.
        if tls && said("ssl-redirect").is_none() && said("force-ssl-redirect").is_none() {
            let remedy = nginx::in_full("name a Middleware with redirectScheme in router.middlewares");
            let message = "plain requests are served; ingress-nginx redirects them to https";
            self.add(("Ingress", key), Effect::Differs, "spec.tls", message, remedy);
        }
        if said("proxy-body-size").is_none() {
            let message = "request bodies of all sizes are passed on; ingress-nginx refuses those above 1 MB where its own \
                           settings say nothing else";
            self.add(("Ingress", key), Effect::Differs, "", message, "let the server refuse those that are too large");
        }
    }

    /// What Traefik's defaults have otherwise.
    fn beside_traefik(&mut self, key: &Key, ingress: &Ingress, settings: &KubernetesProvider) {
        let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let mut paths = rules.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
        let is_wide = paths.any(|path| {
            path.path_type == "Prefix"
                && path.path.as_deref().is_some_and(|text| !text.trim_end_matches('/').is_empty())
        });
        if settings.strict_prefix && is_wide {
            let message = "a Prefix path takes whole segments only; Traefik's takes /shopping for /shop where \
                           strictPrefixMatching is not set";
            let remedy = "to have it so here, set providers.kubernetesIngress.strictPrefixMatching: false";
            self.add(("Ingress", key), Effect::Differs, "spec.rules", message, remedy);
        }
    }

    fn ingress_routes(&mut self, objects: &Objects, settings: &KubernetesProvider) {
        for (key, route) in objects.ingress_routes.iter().filter(|(key, _)| settings.serves(&key.namespace)) {
            let class = class_of(route);
            let is_ours = crd::takes(settings, class);
            self.counts.entry("IngressRoute").or_default().push((key.clone(), is_ours));
            if !is_ours {
                let (message, remedy) = match class {
                    "" => (
                        format!("it names no class, and only `{}` is asked for", settings.ingress_class),
                        "name the class in spec.ingressClassName".to_owned(),
                    ),
                    class => (
                        format!("its class is `{class}`"),
                        format!("`--ingress-class {class}` reads it as if it were ours"),
                    ),
                };
                self.add(("IngressRoute", key), Effect::NotOurs, "spec.ingressClassName", message, remedy);
            }
        }
    }

    fn gateways(&mut self, objects: &Objects) {
        let classes: BTreeMap<&str, &str> = objects
            .gateway_classes
            .iter()
            .map(|(key, class)| {
                let controller = class.data.pointer("/spec/controllerName").and_then(Value::as_str);
                (&*key.name, controller.unwrap_or_default())
            })
            .collect();
        for (key, gateway) in objects.gateways.iter() {
            let class = gateway.data.pointer("/spec/gatewayClassName").and_then(Value::as_str).unwrap_or_default();
            let controller = classes.get(class).copied();
            self.counts.entry("Gateway").or_default().push((key.clone(), controller == Some(GATEWAYS)));
            if controller != Some(GATEWAYS) {
                let message = match controller {
                    Some(controller) => format!("its class `{class}` is of the controller {controller}"),
                    None => format!("there is no GatewayClass `{class}`"),
                };
                let remedy = format!("name a class whose controllerName is {GATEWAYS}");
                self.add(("Gateway", key), Effect::NotOurs, "spec.gatewayClassName", message, remedy);
            }
        }
        let attached = |key: &Key| {
            let mut statuses =
                self.parts.statuses.iter().filter(|one| one.object.kind == "HTTPRoute" && one.object.key == *key);
            statuses.any(|one| one.body["parents"].as_array().is_some_and(|parents| !parents.is_empty()))
        };
        let routes: Vec<_> = objects.http_routes.iter().map(|(key, _)| (key.clone(), attached(key))).collect();
        for (key, is_ours) in &routes {
            if !is_ours {
                let message = "none of its parents is a Gateway of ours";
                let remedy = format!("name a Gateway whose class has the controllerName {GATEWAYS}");
                self.add(("HTTPRoute", key), Effect::NotOurs, "spec.parentRefs", message, remedy);
            }
        }
        if !routes.is_empty() {
            self.counts.insert("HTTPRoute", routes);
        }
    }
}

/// The settings with which a class is tried. Who serves Ingresses of one class by it serves Traefik's kinds as without: those have it
/// where one of them names it, and it is not among those that are ours anyway.
fn tried(asked: &Asked, objects: &Objects) -> Kubernetes {
    let mut settings = asked.settings.clone();
    let Some(class) = &asked.class else { return settings };
    if let Some(ingress) = &mut settings.ingress {
        ingress.ingress_class.clone_from(class);
    }
    let is_named = || objects.ingress_routes.iter().any(|(_, route)| class_of(route) == class);
    if let Some(crd) = settings.crd.as_mut().filter(|crd| !crd::takes(crd, class) && is_named()) {
        crd.ingress_class.clone_from(class);
    }
    settings
}

fn class_of(route: &DynamicObject) -> &str {
    crd::class(route.data.pointer("/spec/ingressClassName").and_then(Value::as_str), route)
}

fn by_object(parts: &Parts) -> HashMap<&Object, Vec<&Router>> {
    let mut all: HashMap<&Object, Vec<&Router>> = HashMap::new();
    for router in &parts.routers {
        if let Some(object) = parts.origin(&router.name) {
            all.entry(object).or_default().push(router);
        }
    }
    all
}

fn of_another(class: Option<&str>, controller: Option<&str>, settings: &KubernetesProvider) -> (String, String) {
    let Some(class) = class else {
        let message = match settings.ingress_class.as_str() {
            "" => "it names no class, and another controller's class is the default".to_owned(),
            wanted => format!("it names no class, and only `{wanted}` is asked for"),
        };
        return (message, "name a class in spec.ingressClassName".to_owned());
    };
    let message = match controller {
        Some(controller) => format!("its class `{class}` is of the controller {controller}"),
        None => format!("there is no IngressClass `{class}`"),
    };
    (message, format!("`--ingress-class {class}` reads it as if it were ours"))
}

/// What is wrong, and what to do: translation says both in one sentence.
fn split(message: &str) -> (String, String) {
    if let Some(rest) = message.strip_suffix(GET_500).and_then(|rest| rest.strip_suffix("; ")) {
        let (what, remedy) = split(rest);
        return (format!("{what}; {GET_500}"), remedy);
    }
    if let Some((what, remedy)) = message.rsplit_once("; ") {
        return (what.to_owned(), remedy.to_owned());
    }
    let remedy = if message.contains("not supported") {
        "leave it out, or leave the object to its controller until Wayspan has it"
    } else if message.contains("there is no ") || message.contains("has no ") {
        "make it, or mend the reference"
    } else {
        "mend it"
    };
    (message.to_owned(), remedy.to_owned())
}

#[cfg(test)]
mod tests;
