//! The configuration in the words of Traefik's API, with what is wrong beside it. Pure: snapshots in, JSON out.

mod tls;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::middlewares;
use crate::catalog::{Catalog, qualified};
use crate::config::model::{
    Dynamic, EntryPoint, Kubernetes, KubernetesProvider, Middleware, MiddlewareKind, OtlpProtocol, Router, RouterTls,
    Service, Static,
};
use crate::config::{Fault, Observed, by_name, expand};
pub(super) use tls::certificates;

const ENTRY_POINTS: &str = "entryPoints";
const ROUTERS: &str = "http.routers";
const SERVICES: &str = "http.services";
const MIDDLEWARES: &str = "http.middlewares";

/// What is told of.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'v> {
    pub(super) fixed: &'v Static,
    pub(super) dynamic: &'v Dynamic,
    pub(super) faults: &'v [Fault],
    pub(super) catalog: &'v Catalog,
}

/// Which part of a list is asked for, by Traefik's parameters.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// `search`: a part of the name, rule or service.
    pub(super) search: String,
    /// `status`: `enabled`, `warning` or `disabled`; empty: all.
    pub(super) status: String,
    /// `page`, from 1.
    pub(super) number: usize,
    /// `per_page`.
    pub(super) size: usize,
}

/// A named part: one that holds, or one that was left out by a fault and has no last good version.
#[derive(Debug)]
struct Named<'v, T> {
    name: &'v str,
    /// The name as it is told.
    shown: String,
    part: Option<&'v T>,
    errors: Vec<String>,
    /// It holds, and is not served.
    off: bool,
    /// What a search looks at, beside the name.
    texts: [&'v str; 2],
}

impl<T> Named<'_, T> {
    /// Traefik's words: a part with faults that holds in its last good version is a warning.
    fn status(&self) -> &'static str {
        match (self.part, self.errors.is_empty()) {
            (None, _) => "disabled",
            _ if self.off => "disabled",
            (Some(_), false) => "warning",
            (Some(_), true) => "enabled",
        }
    }

    fn fits(&self, page: &Page) -> bool {
        let found = |text: &str| text.to_lowercase().contains(&page.search.to_lowercase());
        (page.status.is_empty() || page.status == self.status())
            && (page.search.is_empty() || found(&self.shown) || self.texts.iter().any(|text| found(text)))
    }

    /// The fields that all kinds of parts have.
    fn described(&self, fields: Value) -> Value {
        let mut map = match fields {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        map.insert("name".to_owned(), self.shown.as_str().into());
        map.insert("provider".to_owned(), provider(&self.shown).into());
        map.insert("status".to_owned(), self.status().into());
        if !self.errors.is_empty() {
            map.insert("error".to_owned(), self.errors.clone().into());
        }
        Value::Object(map)
    }
}

/// All parts of a section: those that hold in their order, then those left out by name.
fn named<'v, T>(
    view: &View<'v>,
    section: &str,
    parts: impl Iterator<Item = &'v T>,
    name: impl Fn(&'v T) -> &'v str,
    texts: impl Fn(&'v T) -> [&'v str; 2],
) -> Vec<Named<'v, T>> {
    let mut errors: HashMap<&str, Vec<String>> = HashMap::new();
    for fault in view.faults {
        if let Some((at, of)) = fault.part()
            && at == section
        {
            errors.entry(of).or_default().push(fault.to_string());
        }
    }
    // Entry points have no provider.
    let shown = |name: &str| if section == ENTRY_POINTS { name.to_owned() } else { qualified(name) };
    let mut all: Vec<_> = parts
        .map(|part| {
            let name = name(part);
            let errors = errors.remove(name).unwrap_or_default();
            Named { name, shown: shown(name), part: Some(part), errors, off: false, texts: texts(part) }
        })
        .collect();
    let mut left_out: Vec<_> = errors.into_iter().collect();
    left_out.sort_unstable();
    let left_out = left_out.into_iter();
    all.extend(left_out.map(|(name, errors)| Named {
        name,
        shown: shown(name),
        part: None,
        errors,
        off: false,
        texts: [""; 2],
    }));
    all
}

fn entry_points_of<'v>(view: &View<'v>) -> Vec<Named<'v, EntryPoint>> {
    named(view, ENTRY_POINTS, view.dynamic.entry_points.iter(), |part| &part.name, |_| [""; 2])
}

fn routers_of<'v>(view: &View<'v>) -> Vec<Named<'v, Router>> {
    let parts = view.dynamic.routers.iter().map(|part| &**part);
    let mut all = named(view, ROUTERS, parts, |part| &part.name, |part| [&part.rule.text, &part.service]);
    let middlewares = by_name(&view.dynamic.middlewares);
    for router in &mut all {
        let expanded = router.part.map(|part| expand(&part.middlewares, &middlewares));
        // As in Traefik, a router without one of its middlewares is not served.
        if let Some(Err(why)) = expanded {
            router.errors.push(why);
            router.off = true;
        }
    }
    all
}

fn services_of<'v>(view: &View<'v>) -> Vec<Named<'v, Service>> {
    let mut all =
        named(view, SERVICES, view.dynamic.services.iter().map(|part| &**part), |part| &part.name, |_| [""; 2]);
    let up = reachable_urls(view.catalog);
    for service in &mut all {
        let servers = service.part.map(|part| part.servers.as_slice()).unwrap_or_default();
        let lost = servers.iter().filter(|server| !is_up(server, &up));
        let lost = lost.map(|server| format!("no address is known for `{}`", server.host));
        service.errors.extend(lost);
    }
    all
}

fn middlewares_of<'v>(view: &View<'v>) -> Vec<Named<'v, Middleware>> {
    let mut all =
        named(view, MIDDLEWARES, view.dynamic.middlewares.iter().map(|part| &**part), |part| &part.name, |_| [""; 2]);
    for one in &mut all {
        if let Some(MiddlewareKind::Unsupported(kind)) = one.part.map(|part| &part.kind) {
            one.errors.push(format!("`{kind}` is not supported yet"));
            one.off = true;
        }
    }
    all
}

/// A page of a list, and the number of the next one: 1 where there is none.
fn paged<T>(all: Vec<Named<'_, T>>, page: &Page, describe: impl Fn(&Named<'_, T>) -> Value) -> (Vec<Value>, usize) {
    let start = (page.number - 1).saturating_mul(page.size);
    let mut rest = all.iter().filter(|part| part.fits(page)).skip(start);
    let values = rest.by_ref().take(page.size).map(describe).collect();
    let next = if rest.next().is_some() { page.number + 1 } else { 1 };
    (values, next)
}

/// The one of that name, with or without `@provider`.
fn find<'v, T>(all: Vec<Named<'v, T>>, name: &str) -> Option<Named<'v, T>> {
    all.into_iter().find(|part| part.name == name || part.shown == name)
}

fn provider(name: &str) -> &str {
    name.rsplit_once('@').map_or("file", |(_, provider)| provider)
}

/// `/api/overview`.
pub(super) fn overview(view: &View<'_>) -> Value {
    let none = json!({"total": 0, "warnings": 0, "errors": 0});
    let otel = view.fixed.tracing.as_ref().map_or("", |_| "OpenTelemetry");
    let prometheus = view.fixed.metrics.as_ref().map_or("", |_| "Prometheus");
    json!({
        "http": {
            "routers": counted(&routers_of(view)),
            "services": counted(&services_of(view)),
            "middlewares": counted(&middlewares_of(view)),
        },
        "tcp": {"routers": none, "services": none, "middlewares": none},
        "udp": {"routers": none, "services": none},
        "features": {"tracing": otel, "metrics": prometheus, "accessLog": false},
        "providers": providers(view.fixed),
    })
}

/// Whom parts come from, by Traefik's names.
fn providers(fixed: &Static) -> Vec<&'static str> {
    let kubernetes = fixed.kubernetes.as_ref();
    let is_on = |of: fn(&Kubernetes) -> &Option<KubernetesProvider>| kubernetes.is_some_and(|all| of(all).is_some());
    let all = [
        ("File", true),
        ("KubernetesIngress", is_on(|all| &all.ingress)),
        ("KubernetesCRD", is_on(|all| &all.crd)),
        ("KubernetesGateway", is_on(|all| &all.gateway)),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

fn counted<T>(all: &[Named<'_, T>]) -> Value {
    let count = |status| all.iter().filter(|part| part.status() == status).count();
    json!({"total": all.len(), "warnings": count("warning"), "errors": count("disabled")})
}

/// `/api/entrypoints`.
pub(super) fn entry_points(view: &View<'_>, page: &Page) -> (Vec<Value>, usize) {
    paged(entry_points_of(view), page, |named| describe_entry_point(view, named))
}

/// `/api/entrypoints/{name}`.
pub(super) fn entry_point(view: &View<'_>, name: &str) -> Option<Value> {
    find(entry_points_of(view), name).map(|named| describe_entry_point(view, &named))
}

fn describe_entry_point(view: &View<'_>, named: &Named<'_, EntryPoint>) -> Value {
    let Some(part) = named.part else { return named.described(json!({})) };
    let addresses: Vec<String> = part.addresses.iter().map(ToString::to_string).collect();
    // As it is written: `:8000` is all addresses of both families.
    let address = part.addresses.first().map(|first| match first.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => format!(":{}", first.port()),
        _ => first.to_string(),
    });
    named.described(json!({
        "address": address.unwrap_or_default(),
        "addresses": addresses,
        "transport": {
            "lifeCycle": {
                "requestAcceptGraceTimeout": go_duration(part.accept_grace),
                "graceTimeOut": go_duration(part.grace),
            },
            "respondingTimeouts": {
                "readTimeout": go_duration(part.limits.read_timeout),
                "idleTimeout": go_duration(part.limits.idle_timeout),
            },
        },
        "forwardedHeaders": {
            "insecure": part.trust_all,
            "trustedIPs": part.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "http": tls::with(
            json!({"maxHeaderBytes": part.limits.head_bytes_max, "sanitizePath": part.sanitize_path}),
            part.tls.as_ref(),
        ),
        "observability": observability(&[Observed::of_entry_point(view.fixed, &part.observability)]),
    }))
}

/// `/api/http/routers`.
pub(super) fn routers(view: &View<'_>, page: &Page) -> (Vec<Value>, usize) {
    paged(routers_of(view), page, |named| describe_router(view, named))
}

/// `/api/http/routers/{name}`.
pub(super) fn router(view: &View<'_>, name: &str) -> Option<Value> {
    find(routers_of(view), name).map(|named| describe_router(view, &named))
}

fn describe_router(view: &View<'_>, named: &Named<'_, Router>) -> Value {
    let Some(part) = named.part else { return named.described(json!({"rule": "", "service": "", "using": []})) };
    let all = view.dynamic.entry_points.iter();
    let entry_points: Vec<&EntryPoint> = all.filter(|one| one.takes(part)).collect();
    let using: Vec<&str> = entry_points.iter().map(|one| one.name.as_str()).collect();
    let observed = entry_points.iter().map(|one| Observed::of(view.fixed, part, &one.observability));
    let observed: Vec<Observed> = observed.collect();
    let priority = if part.priority == 0 { part.rule.default_priority() } else { part.priority };
    // What holds at the first of its entry points, where it says nothing itself.
    let tls = part.tls.as_ref().or_else(|| entry_points.iter().find_map(|one| one.tls.as_ref()));
    let fields = json!({
        "entryPoints": using,
        "middlewares": part.middlewares,
        "service": part.service,
        "rule": &*part.rule.text,
        "priority": priority,
        "observability": observability(&observed),
        "using": using,
    });
    let own_default = |tls: &RouterTls| tls.options.clone().or_else(|| part.default_options.clone());
    let tls = tls.map(|tls| RouterTls { options: own_default(tls), domains: tls.domains.clone() });
    named.described(tls::with(fields, tls.as_ref()))
}

/// `/api/http/services`.
pub(super) fn services(view: &View<'_>, page: &Page) -> (Vec<Value>, usize) {
    let users = users(view, |router| std::slice::from_ref(&router.service));
    paged(services_of(view), page, |named| describe_service(view, named, &users))
}

/// `/api/http/services/{name}`.
pub(super) fn service(view: &View<'_>, name: &str) -> Option<Value> {
    let users = users(view, |router| std::slice::from_ref(&router.service));
    find(services_of(view), name).map(|named| describe_service(view, &named, &users))
}

fn describe_service(view: &View<'_>, named: &Named<'_, Service>, users: &HashMap<&str, Vec<String>>) -> Value {
    let used_by = users.get(named.name).cloned().unwrap_or_default();
    let Some(part) = named.part else { return named.described(json!({"usedBy": used_by})) };
    let up = reachable_urls(view.catalog);
    let state = |server| if is_up(server, &up) { "UP" } else { "DOWN" };
    let states: Map<String, Value> =
        part.servers.iter().map(|server| (server.url.clone(), state(server).into())).collect();
    let servers: Vec<Value> =
        part.servers.iter().map(|server| json!({"url": server.url, "weight": server.weight})).collect();
    named.described(json!({
        "type": "loadbalancer",
        "loadBalancer": {"servers": servers, "strategy": "wrr", "passHostHeader": part.pass_host},
        "serverStatus": states,
        "usedBy": used_by,
    }))
}

/// Server URLs that have an address.
fn reachable_urls(catalog: &Catalog) -> HashSet<&str> {
    let known = catalog.servers.values().filter(|server| !server.addresses.is_empty());
    known.map(|server| &*server.url).collect()
}

fn is_up(server: &crate::config::model::Server, reachable: &HashSet<&str>) -> bool {
    server.host.parse::<IpAddr>().is_ok() || reachable.contains(server.url.as_str())
}

/// `/api/http/middlewares`.
pub(super) fn middlewares(view: &View<'_>, page: &Page) -> (Vec<Value>, usize) {
    let users = users(view, |router| &router.middlewares);
    paged(middlewares_of(view), page, |named| describe_middleware(named, &users))
}

/// `/api/http/middlewares/{name}`.
pub(super) fn middleware(view: &View<'_>, name: &str) -> Option<Value> {
    let users = users(view, |router| &router.middlewares);
    find(middlewares_of(view), name).map(|named| describe_middleware(&named, &users))
}

fn describe_middleware(named: &Named<'_, Middleware>, users: &HashMap<&str, Vec<String>>) -> Value {
    let used_by = users.get(named.name).cloned().unwrap_or_default();
    let mut fields = json!({"usedBy": used_by});
    if let Some(part) = named.part {
        let (kind, settings) = middlewares::describe(&part.kind);
        fields["type"] = kind.to_lowercase().into();
        fields[kind] = settings;
    }
    named.described(fields)
}

/// Routers by what they refer to.
fn users<'v>(view: &View<'v>, refers: impl Fn(&'v Router) -> &'v [String]) -> HashMap<&'v str, Vec<String>> {
    let mut users: HashMap<&str, Vec<String>> = HashMap::new();
    for router in &view.dynamic.routers {
        for name in refers(router) {
            users.entry(name).or_default().push(qualified(&router.name));
        }
    }
    users
}

/// How tracing is set up, without what may be secret (headers).
pub(super) fn tracing(fixed: &Static) -> Value {
    let Some(tracing) = &fixed.tracing else { return Value::Null };
    let otlp = tracing.otlp.as_ref().map(|otlp| {
        let protocol = match otlp.protocol {
            OtlpProtocol::Grpc => "grpc",
            OtlpProtocol::Http => "http",
        };
        json!({"protocol": protocol, "endpoint": otlp.endpoint})
    });
    json!({
        "serviceName": tracing.service_name,
        "sampleRate": tracing.sample_rate,
        "addInternals": tracing.add_internals,
        "otlp": otlp,
        "samplingServer": tracing.sampling_server.as_ref().map(|server| &server.url),
    })
}

/// What really happens, not what a part says by itself. Of several entry points it is told what happens at any of them;
/// where spans are made at none, details are what there would be.
fn observability(observed: &[Observed]) -> Value {
    let tracing = observed.iter().any(|one| one.traced);
    let detailed = observed.iter().any(|one| one.detailed && one.traced == tracing);
    json!({
        "accessLogs": false,
        "metrics": observed.iter().any(|one| one.metered),
        "tracing": tracing,
        "traceVerbosity": if detailed { "detailed" } else { "minimal" },
    })
}

/// As Go writes durations: `1m30s`, `500ms`, `0s`.
pub(super) fn go_duration(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, minutes) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (millis, expected) in [
            (0, "0s"),
            (500, "500ms"),
            (10_000, "10s"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (180_000, "3m0s"),
            (5_400_000, "1h30m0s"),
            (61_250, "1m1.25s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        }
    }
}
