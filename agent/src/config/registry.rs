//! Builds what the workers run on ([`Snapshot`]) and what spans call it ([`Catalog`]), and owns the stable ids of both.
//! A name keeps its id for as long as it is in the configuration and [`STAY`] beyond; no id is given twice. Parts that
//! did not change keep their `Arc`s, so that a swap touches only what changed. Pure: time is an argument.

mod ids;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use wayspan_proxy::cap::Cap;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::middleware::{AuthServer, Authenticator, InFlightLimiter, Middleware, RateLimiter};
use wayspan_proxy::route::RouteTable;
use wayspan_proxy::snapshot::{self, Fixed, Route, Snapshot, Target};
use wayspan_proxy::tls::{Tls, hosts};

use self::ids::Ids;
use super::bridge;
use super::middleware::{by_name, expand};
use super::model::{self, Dynamic, MiddlewareKind, Observability, Static, Verbosity};
use super::resolve::Resolved;
use crate::catalog::{Catalog, RouteNames, ServerNames, qualified};
use crate::kube::parts::UNUSABLE;

/// How long names that left stay known: records of their last requests are still on their way. Requests may stream
/// for minutes.
pub const STAY: Duration = Duration::from_secs(300);

const API: &str = "api@internal";
const PING: &str = "ping@internal";

const PONG: Fixed = Fixed { status: 200, content_type: "text/plain", body: bytes::Bytes::from_static(b"OK") };
/// Of a route that cannot be served as it was meant; why, is told to its owner and not to its clients.
const REFUSED: Fixed =
    Fixed { status: 500, content_type: "text/plain", body: bytes::Bytes::from_static(b"Internal Server Error") };

/// What a build is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'i> {
    /// The static part that holds.
    pub fixed: &'i Static,
    /// The reloadable part.
    pub dynamic: &'i Dynamic,
    /// Addresses of names.
    pub resolved: &'i Resolved,
    /// Where the api is bound, for routers that lead to it.
    pub api: Option<SocketAddr>,
    /// The time, for names that left.
    pub now: MonoNs,
}

/// The owner of the ids.
#[derive(Debug, Default)]
pub struct Registry {
    entry_points: Ids<String, Arc<str>>,
    /// By router and variant: a router is two routes where entry points differ in what they observe.
    routes: Ids<(String, usize), Arc<RouteNames>>,
    services: Ids<String, Arc<str>>,
    /// By service, URL, and how often the URL stood in the service before.
    servers: Ids<(String, String, usize), Arc<ServerNames>>,
    last: Built,
    tls: tls::Held,
    headers: [Arc<[Box<str>]>; 2],
}

/// The parts of a snapshot by id.
#[derive(Debug, Default)]
struct Built {
    entry_points: HashMap<u32, Arc<snapshot::EntryPoint>>,
    tables: HashMap<u32, (Vec<Row>, Arc<RouteTable>)>,
    secured: HashMap<u32, (Vec<Row>, Arc<Tls>)>,
    routes: HashMap<u32, Arc<Route>>,
    services: HashMap<u32, Arc<snapshot::Service>>,
    servers: HashMap<u32, Arc<snapshot::Server>>,
    /// By router and middleware: as in Traefik, what a middleware counts it counts for each router by itself.
    middlewares: HashMap<(String, String), (MiddlewareKind, Middleware)>,
    /// Authentication servers by middleware.
    auths: HashMap<String, (Arc<model::ForwardAuth>, Arc<AuthServer>)>,
}

/// What tells a router's routes at different entry points apart: what is observed, and the options of TLS.
type Variant<'o> = (Observed, Option<&'o str>);

/// One route in a table.
#[derive(Debug, Clone)]
struct Row {
    rule: wayspan_proxy::rule::Rule,
    priority: i64,
    route: Arc<Route>,
    /// It is for requests that come by TLS, for these options.
    tls: Option<Option<String>>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        let (rule, other_rule) = (&self.rule.text, &other.rule.text);
        (rule, self.priority, &self.tls) == (other_rule, other.priority, &other.tls)
            && Arc::ptr_eq(&self.route, &other.route)
    }
}

impl Registry {
    /// Builds both. What is not in `dynamic` any more stays in the catalog for [`STAY`].
    pub fn build(&mut self, inputs: &Inputs<'_>) -> (Snapshot, Catalog) {
        self.entry_points.begin();
        self.routes.begin();
        self.services.begin();
        self.servers.begin();
        let headers = inputs.fixed.tracing.as_ref().map_or([&[][..], &[][..]], |tracing| {
            [tracing.captured_request_headers.as_slice(), tracing.captured_response_headers.as_slice()]
        });
        for (held, wanted) in self.headers.iter_mut().zip(headers) {
            if !held.iter().map(|name| &**name).eq(wanted.iter().map(String::as_str)) {
                *held = wanted.iter().map(|name| name.as_str().into()).collect();
            }
        }
        let mut build = Build {
            services: inputs.dynamic.services.iter().map(|service| (service.name.as_str(), service)).collect(),
            middlewares: by_name(&inputs.dynamic.middlewares),
            inputs,
            registry: self,
            now: Built::default(),
            names: HashMap::new(),
        };
        let rows = build.rows();
        let takes_tls = rows.iter().flatten().any(|row| row.tls.is_some())
            || inputs.dynamic.entry_points.iter().any(|entry_point| entry_point.tls.is_some());
        build.registry.tls.build(inputs.dynamic, takes_tls);
        let entry_points = inputs
            .dynamic
            .entry_points
            .iter()
            .zip(rows)
            .map(|(entry_point, rows)| build.entry_point(entry_point, rows));
        let entry_points = entry_points.collect();
        let Build { now, names, .. } = build;
        for (key, names) in names.into_values() {
            self.routes.says(&key, Arc::new(names));
        }
        self.last = now;
        let [captured_request_headers, captured_response_headers] = self.headers.clone();
        let catalog = Catalog {
            entry_points: self.entry_points.finish(inputs.now),
            routes: self.routes.finish(inputs.now),
            services: self.services.finish(inputs.now),
            servers: self.servers.finish(inputs.now),
        };
        let snapshot = Snapshot { entry_points, captured_request_headers, captured_response_headers, left: Vec::new() };
        (snapshot, catalog)
    }
}

struct Build<'b> {
    inputs: &'b Inputs<'b>,
    registry: &'b mut Registry,
    services: HashMap<&'b str, &'b model::Service>,
    middlewares: HashMap<&'b str, &'b model::Middleware>,
    now: Built,
    /// By route's id: its key, and its names without those of branches until the tables are built.
    names: HashMap<u32, ((String, usize), RouteNames)>,
}

/// What is observed of a route, when its router and entry point have had their say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) traced: bool,
    pub(crate) detailed: bool,
    pub(crate) metered: bool,
}

impl Observed {
    /// Of a router's requests that come by an entry point.
    pub(crate) fn of(fixed: &Static, router: &model::Router, entry_point: &Observability) -> Self {
        let own = &router.observability;
        let tracing = fixed.tracing.as_ref();
        let wanted = own.tracing.or(entry_point.tracing).unwrap_or(true);
        let internal = router.service.ends_with("@internal");
        Self {
            traced: wanted && tracing.is_some_and(|tracing| tracing.add_internals || !internal),
            detailed: own.verbosity.or(entry_point.verbosity).unwrap_or_default() == Verbosity::Detailed,
            metered: own.metrics.or(entry_point.metrics).unwrap_or(true),
        }
    }

    /// Of an entry point's requests that no route takes, and of those whose router says nothing.
    pub(crate) fn of_entry_point(fixed: &Static, own: &Observability) -> Self {
        Self {
            traced: fixed.tracing.is_some() && own.tracing.unwrap_or(true),
            detailed: own.verbosity.unwrap_or_default() == Verbosity::Detailed,
            metered: own.metrics.unwrap_or(true),
        }
    }
}

impl<'b> Build<'b> {
    /// The rows of each entry point's table.
    fn rows(&mut self) -> Vec<Vec<Row>> {
        let dynamic = self.inputs.dynamic;
        let mut rows: Vec<Vec<Row>> = dynamic.entry_points.iter().map(|_| Vec::new()).collect();
        for router in &dynamic.routers {
            let mut variants: Vec<(Variant<'_>, Option<Arc<Route>>)> = Vec::new();
            for (entry_point, rows) in dynamic.entry_points.iter().zip(&mut rows) {
                if !router.entry_points.is_empty() && !router.entry_points.contains(&entry_point.name) {
                    continue;
                }
                let observed = Observed::of(self.inputs.fixed, router, &entry_point.observability);
                let tls = router.tls.as_ref().or(entry_point.tls.as_ref()).map(|tls| tls.options.as_deref());
                let kind = (observed, tls.flatten());
                let known = variants.iter().position(|(other, _)| *other == kind);
                let variant = known.unwrap_or_else(|| {
                    variants.push((kind, self.route(router, variants.len(), observed, tls.flatten())));
                    variants.len() - 1
                });
                if let Some((_, Some(route))) = variants.get(variant) {
                    let (rule, route) = (router.rule.clone(), Arc::clone(route));
                    let tls = tls.map(|options| options.map(str::to_owned));
                    rows.push(Row { rule, priority: router.priority, route, tls });
                }
            }
        }
        let ping = self.inputs.fixed.ping.as_ref().and_then(|ping| ping.entry_point.as_deref());
        let at = dynamic.entry_points.iter().zip(&mut rows).find(|(entry_point, _)| Some(&*entry_point.name) == ping);
        if let Some((entry_point, rows)) = at
            && let Ok(rule) = bridge::parse_rule("Path(`/ping`)")
        {
            let router = ping_router(rule);
            let observed = Observed::of(self.inputs.fixed, &router, &entry_point.observability);
            let route = self.route(&router, 0, observed, None);
            // However it is asked.
            let takes_tls = entry_point.tls.is_some() || rows.iter().any(|row| row.tls.is_some());
            for tls in [None, Some(None)].into_iter().take(if takes_tls { 2 } else { 1 }) {
                let (rule, priority) = (router.rule.clone(), router.priority);
                rows.extend(route.clone().map(|route| Row { rule, priority, route, tls }));
            }
        }
        rows
    }

    /// `None`: the router leads to a service that is not there, or a middleware of its cannot be had; that was reported.
    fn route(
        &mut self,
        router: &'_ model::Router,
        variant: usize,
        observed: Observed,
        tls_options: Option<&str>,
    ) -> Option<Arc<Route>> {
        let target = match router.service.as_str() {
            PING => Target::Fixed(self.fixed(router, variant, &PONG)),
            UNUSABLE => Target::Fixed(self.fixed(router, variant, &REFUSED)),
            API => Target::Service(self.api()),
            name => Target::Service(self.service(self.services.get(name).copied()?)),
        };
        let middlewares = expand(&router.middlewares, &self.middlewares).ok()?;
        let names = RouteNames {
            router: qualified(&router.name).into(),
            service: qualified(&router.service).into(),
            rule: (*router.rule.text).into(),
            operations: Vec::new(),
            patterns: Vec::new(),
            middlewares: middlewares.iter().map(|one| (qualified(&one.name).into(), kind_name(&one.kind))).collect(),
            detailed: observed.detailed,
            internal: router.service.ends_with("@internal"),
        };
        let key = (router.name.clone(), variant);
        let id = self.registry.routes.id(key.clone());
        self.names.insert(id, (key, names));
        let route = Route {
            id,
            name: router.name.as_str().into(),
            tls_options: tls_options.map(Box::from),
            traced: observed.traced,
            metered: observed.metered,
            middlewares: middlewares.iter().filter_map(|one| self.middleware(router, one)).collect(),
            target,
        };
        let route = kept(self.registry.last.routes.get(&id), route, same_route);
        self.now.routes.insert(id, Arc::clone(&route));
        Some(route)
    }

    /// A middleware of a router's; the one of last time where its settings are the same. None for what stands for others.
    fn middleware(&mut self, router: &model::Router, one: &model::Middleware) -> Option<Middleware> {
        if let MiddlewareKind::ForwardAuth(auth) = &one.kind {
            return Some(Middleware::ForwardAuth(self.auth(&one.name, auth)));
        }
        let key = (router.name.clone(), one.name.clone());
        let last = || self.registry.last.middlewares.get(&key).filter(|(kind, _)| *kind == one.kind);
        let built = match self.now.middlewares.get(&key).or_else(last) {
            Some((_, built)) => built.clone(),
            None => built(&one.kind)?,
        };
        self.now.middlewares.insert(key, (one.kind.clone(), built.clone()));
        Some(built)
    }

    /// An authentication server; the one of last time where neither its settings nor its addresses are others.
    fn auth(&mut self, name: &str, auth: &Arc<model::ForwardAuth>) -> Arc<AuthServer> {
        if let Some((_, built)) = self.now.auths.get(name) {
            return Arc::clone(built);
        }
        let server = self.server((format!("{name}@forwardAuth"), auth.server.url.clone(), 0), &auth.server, 0);
        let last = self.registry.last.auths.get(name);
        let same = |(settings, built): &&(Arc<model::ForwardAuth>, Arc<AuthServer>)| {
            settings == auth && built.service.servers.first().is_some_and(|last| Arc::ptr_eq(last, &server))
        };
        let built = match last.filter(same) {
            Some((_, built)) => Arc::clone(built),
            None => Arc::new(AuthServer {
                settings: Arc::clone(&auth.settings),
                target: auth.target.clone(),
                service: Arc::new(called(name, server)),
            }),
        };
        self.now.auths.insert(name.to_owned(), (Arc::clone(auth), Arc::clone(&built)));
        built
    }

    /// An answer of our own; the one of last time, so that its route does not change.
    fn fixed(&self, router: &model::Router, variant: usize, answer: &Fixed) -> Arc<Fixed> {
        let id = self.registry.routes.known(&(router.name.clone(), variant));
        let route = id.and_then(|id| self.registry.last.routes.get(&id));
        match route.map(|route| &route.target) {
            Some(Target::Fixed(fixed)) if **fixed == *answer => Arc::clone(fixed),
            _ => Arc::new(answer.clone()),
        }
    }

    /// The api as a service with one server: so the dashboard works through an entry point too.
    fn api(&mut self) -> Arc<snapshot::Service> {
        let address = self.inputs.api.map(reachable);
        let servers = address.map(|address| model::Server {
            url: format!("http://{address}"),
            host: address.ip().to_string(),
            port: address.port(),
            path_prefix: String::new(),
            weight: 1,
        });
        self.service(&model::Service {
            name: API.to_owned(),
            servers: servers.into_iter().collect(),
            // The api answers to its own address, not to every name that someone's DNS points at it.
            pass_host: false,
            timeouts: snapshot::Timeouts::default(),
            idle_max: 4,
            conns_max: 0,
        })
    }

    fn service(&mut self, service: &model::Service) -> Arc<snapshot::Service> {
        let id = self.registry.services.named(service.name.clone(), qualified(&service.name).as_str());
        if let Some(built) = self.now.services.get(&id) {
            return Arc::clone(built);
        }
        let mut times: HashMap<&str, usize> = HashMap::new();
        let servers = service.servers.iter().map(|server| {
            let nth = times.entry(&server.url).or_default();
            let key = (service.name.clone(), server.url.clone(), *nth);
            *nth += 1;
            self.server(key, server, service.conns_max)
        });
        let servers = servers.collect();
        let weights: Vec<u32> = service.servers.iter().map(|server| server.weight).collect();
        let built = snapshot::Service {
            id,
            name: service.name.as_str().into(),
            servers,
            turn: snapshot::turn(&weights),
            pass_host: service.pass_host,
            timeouts: service.timeouts,
            idle_max: service.idle_max,
        };
        let built = kept(self.registry.last.services.get(&id), built, same_service);
        self.now.services.insert(id, Arc::clone(&built));
        built
    }

    fn server(
        &mut self,
        key: (String, String, usize),
        server: &model::Server,
        conns_max: usize,
    ) -> Arc<snapshot::Server> {
        let addresses = self.inputs.resolved.addresses(&server.host, server.port);
        let names = ServerNames {
            url: server.url.as_str().into(),
            host: server.host.as_str().into(),
            port: server.port,
            path_prefix: server.path_prefix.as_str().into(),
            addresses: addresses.clone(),
        };
        let id = self.registry.servers.named(key, names);
        let built = snapshot::Server {
            id,
            url: server.url.as_str().into(),
            authority: authority(&server.host, server.port).into(),
            host: server.host.as_str().into(),
            path_prefix: server.path_prefix.as_str().into(),
            addresses: addresses.into(),
            cap: self.cap(id, conns_max),
        };
        let built = kept(self.registry.last.servers.get(&id), built, same_server);
        self.now.servers.insert(id, Arc::clone(&built));
        built
    }

    /// A server's cap; the one of last time where it is as large, since connections hold places under it.
    fn cap(&self, server: u32, max: usize) -> Option<Arc<Cap>> {
        let last = self.registry.last.servers.get(&server).and_then(|server| server.cap.as_ref());
        let kept = last.filter(|cap| cap.max() == max).map(Arc::clone);
        (max > 0).then(|| kept.unwrap_or_else(|| Cap::new(max)))
    }

    fn entry_point(&mut self, entry_point: &model::EntryPoint, rows: Vec<Row>) -> Arc<snapshot::EntryPoint> {
        let id = self.registry.entry_points.named(entry_point.name.clone(), entry_point.name.as_str());
        let (secured, plain): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.tls.is_some());
        let routes = table(self.registry.last.tables.get(&id).map(|(rows, table)| (rows, table)), &plain);
        let takes_tls = entry_point.tls.is_some() || !secured.is_empty();
        let default = entry_point.tls.as_ref().and_then(|tls| tls.options.as_deref());
        let tls = takes_tls.then(|| self.secured(id, default, secured)).flatten();
        for table in std::iter::once(&routes).chain(tls.as_ref().map(|tls| &tls.routes)) {
            for bridge::Branches { route, operations, patterns } in bridge::branches(table) {
                if let Some((_, names)) = self.names.get_mut(&route) {
                    (names.operations, names.patterns) = (operations, patterns);
                }
            }
        }
        self.now.tables.insert(id, (plain, Arc::clone(&routes)));
        let observed = Observed::of_entry_point(self.inputs.fixed, &entry_point.observability);
        let built = snapshot::EntryPoint {
            id,
            name: entry_point.name.as_str().into(),
            addresses: entry_point.addresses.clone(),
            limits: entry_point.limits,
            trusted: entry_point.trusted.clone(),
            trust_all: entry_point.trust_all,
            sanitize_path: entry_point.sanitize_path,
            traced: observed.traced,
            metered: observed.metered,
            routes,
            tls,
        };
        let built = kept(self.registry.last.entry_points.get(&id), built, same_entry_point);
        self.now.entry_points.insert(id, Arc::clone(&built));
        built
    }

    /// TLS at an entry point: its routes, and who gets which options.
    fn secured(&mut self, id: u32, default: Option<&str>, rows: Vec<Row>) -> Option<Arc<Tls>> {
        let options = |row: &Row| row.tls.clone().flatten();
        let hosts: Vec<_> =
            rows.iter().flat_map(|row| hosts(&row.rule).into_iter().map(|host| (host, options(row)))).collect();
        let choice = self.registry.tls.choice(default, &hosts)?;
        let last = self.registry.last.secured.get(&id);
        let routes = table(last.map(|(rows, tls)| (rows, &tls.routes)), &rows);
        let tls = match last {
            Some((_, last)) if Arc::ptr_eq(&last.routes, &routes) && last.choice.is_same(&choice) => Arc::clone(last),
            _ => Arc::new(Tls { routes, choice: Arc::new(choice) }),
        };
        self.now.secured.insert(id, (rows, Arc::clone(&tls)));
        Some(tls)
    }
}

/// The table of these rows; the one of last time where they are the same.
fn table(last: Option<(&Vec<Row>, &Arc<RouteTable>)>, rows: &[Row]) -> Arc<RouteTable> {
    match last {
        Some((old, table)) if *old == rows => Arc::clone(table),
        _ => {
            let rows = rows.iter().map(|row| (row.rule.clone(), row.priority, Arc::clone(&row.route)));
            Arc::new(RouteTable::build(rows.collect()))
        }
    }
}

fn ping_router(rule: wayspan_proxy::rule::Rule) -> model::Router {
    model::Router {
        name: PING.to_owned(),
        rule,
        priority: i64::MAX,
        entry_points: Vec::new(),
        middlewares: Vec::new(),
        service: PING.to_owned(),
        tls: None,
        observability: Observability::default(),
    }
}

/// A server that a middleware calls, as a service of its own. The times are Traefik's.
fn called(name: &str, server: Arc<snapshot::Server>) -> snapshot::Service {
    let whole = Duration::from_secs(30);
    snapshot::Service {
        id: wayspan_proxy::record::NO_ID,
        name: name.into(),
        servers: [server].into(),
        turn: [0].into(),
        pass_host: false,
        timeouts: snapshot::Timeouts { request: whole, ..snapshot::Timeouts::default() },
        idle_max: 32,
    }
}

/// Traefik's span name of a middleware's kind.
fn kind_name(kind: &MiddlewareKind) -> &'static str {
    match kind {
        MiddlewareKind::Headers(_) => "Headers",
        MiddlewareKind::StripPrefix(_) => "StripPrefix",
        MiddlewareKind::StripPrefixRegex(_) => "StripPrefixRegex",
        MiddlewareKind::AddPrefix(_) => "AddPrefix",
        MiddlewareKind::ReplacePath(_) => "ReplacePath",
        MiddlewareKind::ReplacePathRegex(_) => "ReplacePathRegex",
        MiddlewareKind::RedirectScheme(_) | MiddlewareKind::RedirectRegex(_) => "Redirect",
        MiddlewareKind::RequestRedirect(_) => "RequestRedirect",
        MiddlewareKind::UrlRewrite(_) => "URLRewrite",
        MiddlewareKind::RequestHeaderModifier(_) => "RequestHeaderModifier",
        MiddlewareKind::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
        MiddlewareKind::IpAllowList(_) => "IPAllowLister",
        MiddlewareKind::RateLimit(_) => "RateLimiter",
        MiddlewareKind::InFlightReq(_) => "InFlightReq",
        MiddlewareKind::ForwardAuth(_) => "ForwardAuth",
        MiddlewareKind::BasicAuth(_) => "BasicAuth",
        MiddlewareKind::Chain(_) | MiddlewareKind::Unsupported(_) => "",
    }
}

/// What the proxy runs for a kind; nothing for one that stands for others or for none.
fn built(kind: &MiddlewareKind) -> Option<Middleware> {
    Some(match kind {
        MiddlewareKind::Headers(one) => Middleware::Headers(Arc::clone(one)),
        MiddlewareKind::StripPrefix(one) => Middleware::StripPrefix(Arc::clone(one)),
        MiddlewareKind::StripPrefixRegex(one) => Middleware::StripPrefixRegex(Arc::clone(one)),
        MiddlewareKind::AddPrefix(one) => Middleware::AddPrefix(Arc::clone(one)),
        MiddlewareKind::ReplacePath(one) => Middleware::ReplacePath(Arc::clone(one)),
        MiddlewareKind::ReplacePathRegex(one) => Middleware::ReplacePathRegex(Arc::clone(one)),
        MiddlewareKind::RedirectScheme(one) => Middleware::RedirectScheme(Arc::clone(one)),
        MiddlewareKind::RedirectRegex(one) => Middleware::RedirectRegex(Arc::clone(one)),
        MiddlewareKind::RequestRedirect(one) => Middleware::RequestRedirect(Arc::clone(one)),
        MiddlewareKind::UrlRewrite(one) => Middleware::UrlRewrite(Arc::clone(one)),
        MiddlewareKind::RequestHeaderModifier(one) => Middleware::RequestHeaderModifier(Arc::clone(one)),
        MiddlewareKind::ResponseHeaderModifier(one) => Middleware::ResponseHeaderModifier(Arc::clone(one)),
        MiddlewareKind::IpAllowList(one) => Middleware::IpAllowList(Arc::clone(one)),
        MiddlewareKind::RateLimit(one) => Middleware::RateLimit(Arc::new(RateLimiter::new(one))),
        MiddlewareKind::InFlightReq(one) => Middleware::InFlightReq(Arc::new(InFlightLimiter::new(one))),
        MiddlewareKind::BasicAuth(one) => Middleware::BasicAuth(Arc::new(Authenticator::new(one))),
        // It needs the server's id and addresses: whoever builds those builds it.
        MiddlewareKind::ForwardAuth(_) => return None,
        MiddlewareKind::Chain(_) | MiddlewareKind::Unsupported(_) => return None,
    })
}

/// A listener on every address is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        _ => address,
    }
}

/// `Host`: HTTP's own port is left out, an IPv6 address stands in brackets.
fn authority(host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == 80 { host } else { format!("{host}:{port}") }
}

fn kept<T>(old: Option<&Arc<T>>, new: T, same: fn(&T, &T) -> bool) -> Arc<T> {
    match old {
        Some(old) if same(old, &new) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

// The four below name every field: a new one must be thought of.

fn same_entry_point(a: &snapshot::EntryPoint, b: &snapshot::EntryPoint) -> bool {
    let snapshot::EntryPoint {
        id,
        name,
        addresses,
        limits,
        trusted,
        trust_all,
        sanitize_path,
        traced,
        metered,
        routes,
        tls,
    } = a;
    (id, name, addresses, limits, trusted) == (&b.id, &b.name, &b.addresses, &b.limits, &b.trusted)
        && (trust_all, sanitize_path, traced, metered) == (&b.trust_all, &b.sanitize_path, &b.traced, &b.metered)
        && Arc::ptr_eq(routes, &b.routes)
        && match (tls, &b.tls) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
}

fn same_route(a: &Route, b: &Route) -> bool {
    let Route { id, name, tls_options, traced, metered, middlewares, target } = a;
    let same_target = match (target, &b.target) {
        (Target::Service(a), Target::Service(b)) => Arc::ptr_eq(a, b),
        (Target::Fixed(a), Target::Fixed(b)) => a == b,
        _ => false,
    };
    (id, name, tls_options) == (&b.id, &b.name, &b.tls_options)
        && (traced, metered) == (&b.traced, &b.metered)
        && same_target
        && middlewares.len() == b.middlewares.len()
        && middlewares.iter().zip(&b.middlewares).all(|(a, b)| a.is_same(b))
}

fn same_service(a: &snapshot::Service, b: &snapshot::Service) -> bool {
    let snapshot::Service { id, name, servers, turn, pass_host, timeouts, idle_max } = a;
    (id, name, turn, pass_host) == (&b.id, &b.name, &b.turn, &b.pass_host)
        && (timeouts, idle_max) == (&b.timeouts, &b.idle_max)
        && servers.len() == b.servers.len()
        && servers.iter().zip(&b.servers).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn same_server(a: &snapshot::Server, b: &snapshot::Server) -> bool {
    let snapshot::Server { id, url, authority, host, path_prefix, addresses, cap } = a;
    let same_cap = match (cap, &b.cap) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    (id, url, authority, host) == (&b.id, &b.url, &b.authority, &b.host)
        && (path_prefix, addresses) == (&b.path_prefix, &b.addresses)
        && same_cap
}
