//! Builds what the workers run on ([`Snapshot`]) and what spans call it ([`Catalog`]), and owns the stable ids of both.
//! A name keeps its id for as long as it is in the configuration and [`STAY`] beyond; no id is given twice. Parts that
//! did not change keep their `Arc`s, so that a swap touches only what changed. Pure: time is an argument.

mod frame;
mod ids;
mod middlewares;
mod rows;
mod same;
mod services;
mod tls;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::middleware::{AuthServer, Middleware, Mirror};
use wayspan_proxy::route::RouteTable;
use wayspan_proxy::snapshot::{self, Fixed, Route, Snapshot, Target};
use wayspan_proxy::tls::{Tls, hosts};

use self::frame::Frame;
use self::ids::Ids;
use self::middlewares::{built, kind_name};
use self::rows::{Row, precedence, table};
use self::same::{kept, same_entry_point, same_route};
use self::services::{Places, Served, ServerKey, forwarded};
use super::bridge;
use super::disputes::{self, Dispute};
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
    /// Its routers that do not get the TLS options that they want.
    pub disputes: &'i [Dispute],
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
    servers: Ids<ServerKey, Arc<ServerNames>>,
    /// The last one: the next differs little.
    snapshot: Snapshot,
    places: Places,
    frame: Frame,
    resolved: Resolved,
    last: Built,
    users: middlewares::Users,
    tls: tls::Held,
    headers: [Arc<[Box<str>]>; 2],
}

/// The parts of a snapshot.
#[derive(Debug, Default)]
struct Built {
    /// By id, as are the others.
    entry_points: HashMap<u32, Arc<snapshot::EntryPoint>>,
    tables: HashMap<u32, (Vec<Arc<Row>>, Arc<RouteTable>)>,
    secured: HashMap<u32, (Vec<Arc<Row>>, Arc<Tls>)>,
    services: HashMap<u32, Served>,
    /// By name.
    routers: HashMap<String, Routed>,
    /// Authentication servers by middleware.
    auths: HashMap<String, (Arc<model::ForwardAuth>, Arc<AuthServer>)>,
}

/// What became of a router.
#[derive(Debug)]
struct Routed {
    router: Arc<model::Router>,
    /// As in Traefik, what a middleware counts it counts for each router by itself.
    middlewares: Vec<(Arc<model::Middleware>, Middleware)>,
    /// Its middlewares with chains taken apart.
    expanded: Vec<Arc<model::Middleware>>,
    /// By variant; `None`: it cannot be served.
    routes: Vec<Option<Arc<Route>>>,
    /// With the entry point's position.
    rows: Vec<(usize, Arc<Row>)>,
    leads_to_service: bool,
}

impl Routed {
    fn new(router: &Arc<model::Router>, leads_to_service: bool) -> Self {
        Self {
            router: Arc::clone(router),
            middlewares: Vec::new(),
            expanded: Vec::new(),
            routes: Vec::new(),
            rows: Vec::new(),
            leads_to_service,
        }
    }
}

/// What tells a router's routes at different entry points apart: what is observed, and the options of TLS.
type Variant<'o> = (Observed, Option<&'o str>);

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
        let frame = Frame::of(inputs);
        if *inputs.resolved != self.resolved {
            self.resolved = inputs.resolved.clone();
            self.last.services.values_mut().for_each(|served| served.is_stale = true);
        }
        let mut build = Build {
            services: inputs.dynamic.services.iter().map(|service| (service.name.as_str(), service)).collect(),
            middlewares: by_name(&inputs.dynamic.middlewares),
            is_framed_alike: frame == self.frame,
            frame: &frame,
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
            .enumerate()
            .map(|(at, (entry_point, rows))| build.entry_point(at, entry_point, rows));
        let entry_points = entry_points.collect();
        let Build { now, names, .. } = build;
        for (id, names) in names {
            self.routes.says(id, Arc::new(names));
        }
        (self.last, self.frame) = (now, frame);
        self.users.forget_unused();
        self.entry_points.finish(inputs.now);
        self.routes.finish(inputs.now);
        self.services.finish(inputs.now);
        self.servers.finish(inputs.now);
        self.places.renew(&self.last.services, &mut self.snapshot.services);
        let [captured_request_headers, captured_response_headers] = self.headers.clone();
        let services = self.snapshot.services.clone();
        self.snapshot =
            Snapshot { entry_points, services, captured_request_headers, captured_response_headers, left: Vec::new() };
        (self.snapshot.clone(), self.catalog(inputs.now))
    }

    fn catalog(&mut self, now: MonoNs) -> Catalog {
        Catalog {
            entry_points: self.entry_points.list(now),
            routes: self.routes.list(now),
            services: self.services.list(now),
            servers: self.servers.list(now),
        }
    }
}

struct Build<'b> {
    inputs: &'b Inputs<'b>,
    registry: &'b mut Registry,
    services: HashMap<&'b str, &'b Arc<model::Service>>,
    middlewares: HashMap<&'b str, &'b Arc<model::Middleware>>,
    is_framed_alike: bool,
    frame: &'b Frame,
    now: Built,
    /// By route's id: its names without those of branches until the tables are built.
    names: HashMap<u32, RouteNames>,
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
    fn rows(&mut self) -> Vec<Vec<Arc<Row>>> {
        let dynamic = self.inputs.dynamic;
        let mut rows: Vec<Vec<Arc<Row>>> = dynamic.entry_points.iter().map(|_| Vec::new()).collect();
        for router in &dynamic.routers {
            let (name, routed) = self.again(router).unwrap_or_else(|| (router.name.clone(), self.routed(router)));
            for (at, row) in &routed.rows {
                if let Some(rows) = rows.get_mut(*at) {
                    rows.push(Arc::clone(row));
                }
            }
            self.now.routers.insert(name, routed);
        }
        self.ping(&mut rows);
        rows
    }

    /// What the last build made of a router, where all that it was made of is the same.
    fn again(&mut self, router: &Arc<model::Router>) -> Option<(String, Routed)> {
        let last = self.registry.last.routers.get(&router.name).filter(|last| Arc::ptr_eq(&last.router, router))?;
        let service = self.services.get(router.service.as_str()).copied();
        let mut mirrors = Vec::new();
        if !self.is_framed_alike || last.leads_to_service != service.is_some() || router.service == API {
            return None;
        }
        if !router.middlewares.is_empty() {
            let expanded = expand(&router.middlewares, &self.middlewares).ok()?;
            // Addresses of authentication servers change by themselves.
            let is_same = |(old, new): (&Arc<model::Middleware>, &&Arc<model::Middleware>)| {
                (Arc::ptr_eq(old, new) || ***new == **old) && !matches!(new.kind, MiddlewareKind::ForwardAuth(_))
            };
            if expanded.len() != last.expanded.len() || !last.expanded.iter().zip(&expanded).all(is_same) {
                return None;
            }
            for one in expanded {
                if let MiddlewareKind::Mirror(mirror) = &one.kind {
                    mirrors.push(self.services.get(mirror.service.as_str()).copied()?);
                }
            }
        }
        let found = self.registry.last.routers.remove_entry(&router.name)?;
        for route in found.1.routes.iter().flatten() {
            self.registry.routes.again(route.id);
        }
        for service in service.into_iter().chain(mirrors) {
            self.service(service);
        }
        Some(found)
    }

    fn routed(&mut self, router: &Arc<model::Router>) -> Routed {
        let dynamic = self.inputs.dynamic;
        let mut routed = Routed::new(router, self.services.contains_key(router.service.as_str()));
        let mut variants: Vec<Variant<'_>> = Vec::new();
        for (at, entry_point) in dynamic.entry_points.iter().enumerate() {
            if !entry_point.takes(router) {
                continue;
            }
            let observed = Observed::of(self.inputs.fixed, router, &entry_point.observability);
            let tls = disputes::options(router, entry_point);
            // What nobody can have is not waited for; who insists on it is reached by nobody.
            let disputed = self.frame.disputed.get(&router.name).and_then(|at_each| at_each.get(&at));
            let wanted = disputed.map_or(tls.flatten(), Option::as_deref);
            let kind = (observed, wanted);
            let known = variants.iter().position(|other| *other == kind);
            let variant = known.unwrap_or_else(|| {
                variants.push(kind);
                let route = self.route(&mut routed, observed, wanted);
                routed.routes.push(route);
                variants.len() - 1
            });
            if let Some(Some(route)) = routed.routes.get(variant) {
                let (rule, route) = (router.rule.clone(), Arc::clone(route));
                let tls = tls.map(|options| options.map(str::to_owned));
                let precedence = precedence(router);
                routed.rows.push((at, Arc::new(Row { rule, precedence, route, tls })));
            }
        }
        routed
    }

    /// The agent's own answer, at the entry point that is to have it, however it is asked.
    fn ping(&mut self, rows: &mut [Vec<Arc<Row>>]) {
        let dynamic = self.inputs.dynamic;
        let ping = self.inputs.fixed.ping.as_ref().and_then(|ping| ping.entry_point.as_deref());
        let at = dynamic.entry_points.iter().zip(rows).find(|(entry_point, _)| Some(&*entry_point.name) == ping);
        let (Some((entry_point, rows)), Ok(rule)) = (at, bridge::parse_rule("Path(`/ping`)")) else { return };
        let router = Arc::new(ping_router(rule));
        let observed = Observed::of(self.inputs.fixed, &router, &entry_point.observability);
        let mut routed = Routed::new(&router, false);
        let route = self.route(&mut routed, observed, None);
        let takes_tls = entry_point.tls.is_some() || rows.iter().any(|row| row.tls.is_some());
        for tls in [None, Some(None)].into_iter().take(if takes_tls { 2 } else { 1 }) {
            let (rule, precedence) = (router.rule.clone(), precedence(&router));
            rows.extend(route.clone().map(|route| Arc::new(Row { rule, precedence, route, tls })));
        }
        routed.routes.push(route);
        self.now.routers.insert(router.name.clone(), routed);
    }

    /// The route of a router's next variant. `None`: the router leads to a service that is not there, or a middleware of its
    /// cannot be had; that was reported.
    fn route(&mut self, routed: &mut Routed, observed: Observed, tls_options: Option<&str>) -> Option<Arc<Route>> {
        let (router, variant) = (Arc::clone(&routed.router), routed.routes.len());
        let target = match router.service.as_str() {
            PING => Target::Fixed(self.fixed(&router, variant, &PONG)),
            UNUSABLE => Target::Fixed(self.fixed(&router, variant, &REFUSED)),
            API => Target::Service(self.api()),
            name => Target::Service(self.service(self.services.get(name).copied()?)),
        };
        let middlewares = expand(&router.middlewares, &self.middlewares).ok()?;
        let names = RouteNames {
            router: qualified(&router.name).into(),
            service: qualified(&router.service).into(),
            rule: Arc::clone(&router.rule.text),
            operations: Vec::new(),
            patterns: Vec::new(),
            middlewares: middlewares.iter().map(|one| (qualified(&one.name).into(), kind_name(&one.kind))).collect(),
            detailed: observed.detailed,
            internal: router.service.ends_with("@internal"),
        };
        let id = self.registry.routes.id((router.name.clone(), variant));
        self.names.insert(id, names);
        let route = Route {
            id,
            name: router.name.as_str().into(),
            tls_options: tls_options.map(Box::from),
            traced: observed.traced,
            metered: observed.metered,
            middlewares: middlewares.iter().filter_map(|one| self.middleware(routed, one)).collect(),
            target,
        };
        routed.expanded = middlewares.into_iter().cloned().collect();
        Some(kept(self.last_route(&router.name, variant), route, same_route))
    }

    fn last_route(&self, router: &str, variant: usize) -> Option<&Arc<Route>> {
        self.registry.last.routers.get(router)?.routes.get(variant)?.as_ref()
    }

    /// A middleware of a router's; the one of last time where its settings are the same. None for what stands for others.
    fn middleware(&mut self, routed: &mut Routed, one: &Arc<model::Middleware>) -> Option<Middleware> {
        if let MiddlewareKind::ForwardAuth(auth) = &one.kind {
            return Some(Middleware::ForwardAuth(self.auth(&one.name, auth)));
        }
        if let MiddlewareKind::Mirror(mirror) = &one.kind {
            let service = self.service(self.services.get(mirror.service.as_str()).copied()?);
            return Some(Middleware::Mirror(Arc::new(Mirror { service, share: mirror.share })));
        }
        if let Some(users) = self.registry.users.of(one) {
            return Some(users);
        }
        let named = |all: &[(Arc<model::Middleware>, Middleware)]| {
            all.iter().find(|(known, _)| known.name == one.name).cloned()
        };
        if let Some((_, built)) = named(&routed.middlewares) {
            return Some(built);
        }
        let last = self.registry.last.routers.get(&routed.router.name).and_then(|last| named(&last.middlewares));
        let built = match last.filter(|(known, _)| known.kind == one.kind) {
            Some((_, built)) => built,
            None => built(&one.kind)?,
        };
        routed.middlewares.push((Arc::clone(one), built.clone()));
        Some(built)
    }

    /// An authentication server; the one of last time where neither its settings nor its addresses are others.
    fn auth(&mut self, name: &str, auth: &Arc<model::ForwardAuth>) -> Arc<AuthServer> {
        if let Some((_, built)) = self.now.auths.get(name) {
            return Arc::clone(built);
        }
        let last = self.registry.last.auths.get(name);
        let before = last.and_then(|(_, built)| built.service.servers.first()).map(Arc::clone);
        let key = (format!("{name}@forwardAuth"), auth.server.url.clone(), 0);
        let server = self.registry.server(
            key,
            &auth.server,
            0,
            |id| before.as_ref().filter(|before| before.id == id),
            self.inputs.resolved,
        );
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
        match self.last_route(&router.name, variant).map(|route| &route.target) {
            Some(Target::Fixed(fixed)) if **fixed == *answer => Arc::clone(fixed),
            _ => Arc::new(answer.clone()),
        }
    }

    /// The api as a service with one server: so the dashboard works through an entry point too.
    fn api(&mut self) -> u32 {
        let address = self.inputs.api.map(reachable);
        let servers = address.map(|address| model::Server {
            url: format!("http://{address}"),
            host: address.ip().to_string(),
            port: address.port(),
            path_prefix: String::new(),
            weight: 1,
            service: None,
            request_headers: Some(forwarded()),
        });
        self.service(&Arc::new(model::Service {
            name: API.to_owned(),
            servers: servers.into_iter().collect(),
            // The api answers to its own address, not to every name that someone's DNS points at it.
            pass_host: false,
            timeouts: snapshot::Timeouts::default(),
            idle_max: 4,
            conns_max: 0,
        }))
    }

    fn entry_point(
        &mut self,
        at: usize,
        entry_point: &model::EntryPoint,
        rows: Vec<Arc<Row>>,
    ) -> Arc<snapshot::EntryPoint> {
        let id = self.registry.entry_points.named(entry_point.name.clone(), entry_point.name.as_str());
        let (secured, plain): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.tls.is_some());
        let routes = table(self.registry.last.tables.get(&id).map(|(rows, table)| (rows, table)), &plain);
        let takes_tls = entry_point.tls.is_some() || !secured.is_empty();
        let default = entry_point.tls.as_ref().and_then(|tls| tls.options.as_deref());
        let tls = takes_tls.then(|| self.secured(id, at, default, secured)).flatten();
        for table in std::iter::once(&routes).chain(tls.as_ref().map(|tls| &tls.routes)) {
            for bridge::Branches { route, operations, patterns } in bridge::branches(table) {
                if let Some(names) = self.names.get_mut(&route) {
                    (names.operations, names.patterns) = (operations.to_vec(), patterns.to_vec());
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
    fn secured(&mut self, id: u32, at: usize, default: Option<&str>, rows: Vec<Arc<Row>>) -> Option<Arc<Tls>> {
        let settled = self.frame.settled.get(&at);
        let hosts = rows.iter().flat_map(|row| hosts(&row.rule).into_iter().map(move |host| (row, host)));
        let with_options = hosts.map(|(row, host)| {
            let settled = settled.and_then(|hosts| hosts.get(&host)).cloned();
            (host, settled.unwrap_or_else(|| row.tls.clone().flatten()))
        });
        let hosts: Vec<_> = with_options.collect();
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

fn ping_router(rule: wayspan_proxy::rule::Rule) -> model::Router {
    model::Router {
        name: PING.to_owned(),
        rule,
        priority: i64::MAX,
        turn: None,
        entry_points: Vec::new(),
        middlewares: Vec::new(),
        service: PING.to_owned(),
        tls: None,
        default_options: None,
        observability: Observability::default(),
        holder: None,
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

/// A listener on every address is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        _ => address,
    }
}

#[cfg(test)]
mod tests;
