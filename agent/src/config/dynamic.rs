//! The reloadable sections of all files' trees to [`Dynamic`], part by part: what is faulty is left out and named, the
//! rest stands. What becomes of faulty parts in a reload is [`super::reload`]'s.

mod tls;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wayspan_proxy::snapshot::{Limits, Timeouts};

use super::bridge;
use super::cursor::Cursor;
use super::fault::{Fault, Faults, Item, Section};
use super::middleware;
use super::model::{
    Dynamic, EntryPoint, Middleware, MiddlewareKind, Observability, Router, Server, Service, Static, Verbosity,
};
use super::schema;
use super::value;
use super::yaml::{Node, Value};

/// More would not fit a turn of the load balancer.
const SERVERS_MAX: usize = 4096;

/// A file's tree.
#[derive(Debug)]
pub(super) struct Source {
    pub file: PathBuf,
    pub root: Node,
}

/// What the parts may refer to beside each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// The static part that holds.
    pub fixed: &'a Static,
    /// Some file cannot be read and has no last good text: a name that is not found may stand there.
    pub incomplete: bool,
    /// What services without a transport of their own had last time.
    pub default_transport: Option<Transport>,
    /// What held before: certificates keep their last good version.
    pub before: Option<&'a Dynamic>,
}

/// Where a part stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub file: PathBuf,
    /// Of an entry point: its address's.
    pub line: u32,
}

/// What reading gave.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub dynamic: Dynamic,
    /// Of all parts, the faulty too.
    pub places: HashMap<Item, Place>,
    pub default_transport: Option<Transport>,
    /// Files that parts name and that are read with them.
    pub watched: BTreeSet<PathBuf>,
}

/// Reads all parts that have no fault; the first of equal names counts.
pub(super) fn read(sources: &[Source], around: Around<'_>, faults: &mut Faults) -> Parts {
    let mut read = Read {
        around,
        faults,
        parts: HashMap::new(),
        order: Vec::new(),
        transports: HashMap::new(),
        watched: BTreeSet::new(),
    };
    for source in sources {
        read.declare(source);
    }
    let order = std::mem::take(&mut read.order);
    let mut dynamic = Dynamic::default();
    let mut taken = HashMap::new();
    // Transports first: services take their values.
    for part in order.iter().filter(|part| part.item.section == Section::Transport) {
        let place = Cursor::new(Some(part.node), "http.serversTransports.<name>");
        read.transports.insert(part.item.name.clone(), transport(&place));
    }
    let default_transport = read.default_transport(sources.first());
    for part in order.iter().filter(|part| part.item.section == Section::TlsOptions) {
        dynamic.tls_options.extend(read.tls_options(part));
    }
    read.certificates(sources, &mut dynamic);
    for part in &order {
        match part.item.section {
            Section::EntryPoint => dynamic.entry_points.extend(read.entry_point(part, &mut taken)),
            Section::Router => dynamic.routers.extend(read.router(part).map(Arc::new)),
            Section::Service => dynamic.services.extend(read.service(part, default_transport).map(Arc::new)),
            Section::Middleware => dynamic.middlewares.extend(read.middleware(part).map(Arc::new)),
            Section::Transport | Section::TlsOptions | Section::DefaultTransport | Section::Certificates => {}
        }
    }
    read.break_circles(&order, &mut dynamic);
    read.contradictions(&order, &dynamic);
    let places = order.iter().map(|part| (part.item.clone(), part.place())).collect();
    Parts { dynamic, places, default_transport: Some(default_transport), watched: read.watched }
}

/// A named part as it stands in a file.
#[derive(Debug, Clone)]
struct Part<'s> {
    item: Item,
    file: &'s Path,
    line: u32,
    node: &'s Node,
}

impl Part<'_> {
    fn place(&self) -> Place {
        let address = self.node.get("address").filter(|_| self.item.section == Section::EntryPoint);
        Place { file: self.file.to_owned(), line: address.map_or(self.line, |node| node.line) }
    }
}

/// How services reach their servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transport {
    timeouts: Timeouts,
    idle_max: usize,
    conns_max: usize,
}

struct Read<'r, 's> {
    around: Around<'r>,
    faults: &'r mut Faults,
    parts: HashMap<Item, &'s Path>,
    order: Vec<Part<'s>>,
    transports: HashMap<String, Transport>,
    watched: BTreeSet<PathBuf>,
}

impl<'s> Read<'_, 's> {
    fn declare(&mut self, source: &'s Source) {
        for section in Section::NAMED {
            let entries = source.root.at(section.path()).map(Node::entries).unwrap_or_default();
            for (word, node) in entries {
                let item = Item::new(section, &word.text);
                if let Some(first) = self.parts.get(&item) {
                    let message = format!("this {} stands in {} already; rename one", section.noun(), first.display());
                    // Not a fault of the first one: that one counts.
                    self.faults.push(Fault::at(&source.file, item.path(), word.line, message));
                    continue;
                }
                self.parts.insert(item.clone(), &source.file);
                self.order.push(Part { item, file: &source.file, line: word.line, node });
            }
        }
    }

    fn fault(&mut self, part: &Part<'_>, key: &str, line: u32, message: String) {
        let dot = if key.is_empty() || key.starts_with('[') { "" } else { "." };
        let (path, line) = (format!("{}{dot}{key}", part.item.path()), if line == 0 { part.line } else { line });
        self.faults.push(Fault::at(part.file, path, line, message).of(part.item.clone()));
    }

    fn sound<T>(&self, part: &Part<'_>, value: T) -> Option<T> {
        (!self.faults.is_broken(&part.item)).then_some(value)
    }

    /// Whether a name that is not found may stand where nothing can be read.
    fn may_stand_elsewhere(&self, section: Section) -> bool {
        self.around.incomplete || self.faults.broken.sections.iter().any(|(_, broken)| *broken == section)
    }

    /// Reports a name that nothing has.
    fn refer(&mut self, part: &Part<'_>, key: &str, line: u32, section: Section, name: &str) {
        let item = Item::new(section, name);
        if self.parts.contains_key(&item) || self.may_stand_elsewhere(section) {
            return;
        }
        let noun = section.noun();
        let known = self.parts.keys().filter(|item| item.section == section).map(|item| item.name.as_str());
        let near = if self.faults.suggest() { schema::nearest(name, known) } else { None };
        let message = match near {
            // Whose of several it is could change with every object.
            _ if name.contains('@') => {
                format!(
                    "`{name}` is another provider's, which a file cannot name; define the {noun} under {}",
                    section.path()
                )
            }
            Some(near) => format!("there is no {noun} `{name}`; did you mean `{near}`?"),
            None => format!("there is no {noun} `{name}`; define it under {}", section.path()),
        };
        self.fault(part, key, line, message);
    }

    /// The main file's; the last good one where it cannot be read.
    fn default_transport(&self, main: Option<&Source>) -> Transport {
        let broken = main.is_some_and(|main| self.faults.broken.has(&main.file, Section::DefaultTransport));
        let node = main.and_then(|main| main.root.get("serversTransport"));
        let last = self.around.default_transport.filter(|_| broken);
        last.unwrap_or_else(|| transport(&Cursor::new(node, "serversTransport")))
    }

    fn entry_point(&mut self, part: &Part<'_>, taken: &mut HashMap<SocketAddr, String>) -> Option<EntryPoint> {
        let place = Cursor::new(Some(part.node), "entryPoints.<name>");
        let line = place.line("address");
        let addresses = place.parsed("address", |text| value::addresses(text).ok()).unwrap_or_default();
        if place.node("address").and_then(Node::text).is_none() && !self.faults.is_broken(&part.item) {
            self.fault(part, "address", part.line, "is missing; write e.g. `address: \":8000\"`".to_owned());
        }
        let api = self.around.fixed.api.as_ref().map(|api| api.address);
        for address in addresses.iter().filter(|address| address.port() != 0) {
            if let Some(other) = taken.insert(dual_stack(*address), part.item.name.clone()) {
                self.fault(part, "address", line, format!("entry point `{other}` listens there already"));
            } else if api.map(dual_stack) == Some(dual_stack(*address)) {
                self.fault(part, "address", line, "the api listens there already (api.address)".to_owned());
            }
        }
        let entry_point = EntryPoint {
            name: part.item.name.clone(),
            addresses,
            published: self.published_ports(part, &place),
            limits: Limits {
                head_timeout: place.duration("transport.respondingTimeouts.headTimeout"),
                read_timeout: place.duration("transport.respondingTimeouts.readTimeout"),
                idle_timeout: place.duration("transport.respondingTimeouts.idleTimeout"),
                head_bytes_max: place.integer("http.maxHeaderBytes"),
                headers_max: place.integer("http.maxHeaders"),
                connections_max: place.integer("transport.maxConnections"),
            },
            trusted: place
                .texts("forwardedHeaders.trustedIPs")
                .iter()
                .filter_map(|text| value::network(text).ok())
                .collect(),
            trust_all: place.boolean("forwardedHeaders.insecure"),
            sanitize_path: place.boolean("http.sanitizePath"),
            tls: self.router_tls(part, &place, "http.tls"),
            accept_grace: place.duration("transport.lifeCycle.requestAcceptGraceTimeout"),
            grace: place.duration("transport.lifeCycle.graceTimeOut"),
            observability: observability(&place),
            by_name_only: false,
        };
        self.sound(part, entry_point)
    }

    fn published_ports(&mut self, part: &Part<'_>, place: &Cursor<'_>) -> Vec<u16> {
        let mut ports = Vec::new();
        for (line, text) in place.lines("publishedPorts") {
            match text.parse::<u16>() {
                Ok(port) if port != 0 => ports.push(port),
                _ => self.fault(part, "publishedPorts", line, format!("`{text}` is no port; write 1 to 65535")),
            }
        }
        ports
    }

    fn router(&mut self, part: &Part<'_>) -> Option<Router> {
        let place = Cursor::new(Some(part.node), "http.routers.<name>");
        let rule = match place.text("rule") {
            Some(text) => bridge::parse_rule(&text).map_err(|message| {
                self.fault(part, "rule", place.line("rule"), format!("`{text}`: {message}"));
            }),
            None => {
                self.missing(part, &place, "rule", "a rule such as Host(`a.example`)");
                Err(())
            }
        };
        let service = self.service_of(part, &place);
        for (line, name) in place.lines("entryPoints") {
            self.refer(part, "entryPoints", line, Section::EntryPoint, name);
        }
        let middlewares: Vec<String> = place
            .lines("middlewares")
            .into_iter()
            .map(|(line, name)| {
                let name = local(name);
                self.refer(part, "middlewares", line, Section::Middleware, name);
                name.to_owned()
            })
            .collect();
        let router = Router {
            name: part.item.name.clone(),
            rule: rule.ok()?,
            priority: place.integer("priority"),
            turn: None,
            entry_points: place.texts("entryPoints"),
            middlewares,
            service: service?,
            tls: self.router_tls(part, &place, "tls"),
            default_options: None,
            observability: observability(&place),
            holder: None,
        };
        self.sound(part, router)
    }

    /// Required, unless the walk has a better reason already.
    fn missing(&mut self, part: &Part<'_>, place: &Cursor<'_>, key: &str, example: &str) {
        let null = place.node(key).is_none_or(|node| node.value == Value::Null);
        if null {
            self.fault(part, key, place.line(key), format!("is missing; name {example}"));
        }
    }

    fn service_of(&mut self, part: &Part<'_>, place: &Cursor<'_>) -> Option<String> {
        let Some(name) = place.text("service") else {
            self.missing(part, place, "service", "a service of http.services");
            return None;
        };
        let line = place.line("service");
        let fixed = self.around.fixed;
        match name.as_str() {
            "api@internal" | "dashboard@internal" if fixed.api.is_none() => {
                self.fault(part, "service", line, format!("`{name}` needs the api; add `api: {{}}`"));
            }
            "ping@internal" if fixed.ping.is_none() => {
                self.fault(part, "service", line, "`ping@internal` needs ping; add `ping: {}`".to_owned());
            }
            // Traefik splits them; here the dashboard is part of the api.
            "api@internal" | "dashboard@internal" => return Some("api@internal".to_owned()),
            "ping@internal" => {}
            internal if internal.ends_with("@internal") => {
                let message = format!("there is no `{internal}`; there are api@internal and ping@internal");
                self.fault(part, "service", line, message);
            }
            other => {
                let other = local(other);
                self.refer(part, "service", line, Section::Service, other);
                return Some(other.to_owned());
            }
        }
        Some(name)
    }

    fn service(&mut self, part: &Part<'_>, default: Transport) -> Option<Service> {
        let place = Cursor::new(Some(part.node), "http.services.<name>");
        if !self.faults.is_broken(&part.item) && place.node("loadBalancer.servers").is_none() {
            let message = "is missing; write `loadBalancer: {servers: [{url: \"http://host:port\"}]}`".to_owned();
            self.fault(part, "loadBalancer.servers", place.line("loadBalancer"), message);
        }
        let transport = match place.text("loadBalancer.serversTransport") {
            Some(name) => {
                let (key, name) = ("loadBalancer.serversTransport", local(&name));
                self.refer(part, key, place.line(key), Section::Transport, name);
                // A faulty transport has its own fault; with defaults in its place the service would not be as meant.
                let missing = || !self.transports.contains_key(name) && self.may_stand_elsewhere(Section::Transport);
                if self.faults.is_broken(&Item::new(Section::Transport, name)) || missing() {
                    self.faults.break_item(part.item.clone());
                }
                self.transports.get(name).copied().unwrap_or(default)
            }
            None => default,
        };
        let service = Service {
            name: part.item.name.clone(),
            servers: self.servers(part, &place),
            pass_host: place.boolean("loadBalancer.passHostHeader"),
            timeouts: transport.timeouts,
            idle_max: transport.idle_max,
            conns_max: transport.conns_max,
        };
        self.sound(part, service)
    }

    fn servers(&mut self, part: &Part<'_>, place: &Cursor<'_>) -> Vec<Server> {
        let Some(Value::List(nodes)) = place.node("loadBalancer.servers").map(|node| &node.value) else {
            return Vec::new();
        };
        if nodes.len() > SERVERS_MAX {
            let message = format!("has more than {SERVERS_MAX} servers");
            self.fault(part, "loadBalancer.servers", place.line("loadBalancer.servers"), message);
        }
        let mut servers = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let place = Cursor::new(Some(node), "http.services.<name>.loadBalancer.servers[]");
            match place.node("url").and_then(Node::text) {
                Some(text) => servers
                    .extend(value::server(text).map(|server| Server { weight: place.integer("weight"), ..server })),
                None => {
                    let key = format!("loadBalancer.servers[{index}].url");
                    self.fault(part, &key, node.line, "is missing; write http://host:port".to_owned());
                }
            }
        }
        servers
    }

    fn middleware(&mut self, part: &Part<'_>) -> Option<Middleware> {
        // Lines begin at 1 in files, and what comes from elsewhere has none.
        let base = if part.line > 0 { part.file.parent() } else { None };
        let kind = middleware::read(part.node, base, self.faults.is_broken(&part.item));
        let kind = kind.map_err(|problems| {
            for (key, line, message) in problems {
                self.fault(part, key, line, message);
            }
        });
        let place = Cursor::new(Some(part.node), "http.middlewares.<name>");
        for (line, name) in place.lines("chain.middlewares") {
            self.refer(part, "chain.middlewares", line, Section::Middleware, local(name));
        }
        self.sound(part, Middleware { name: part.item.name.clone(), kind: kind.ok()? })
    }

    /// Leaves out chains that lead back to themselves.
    fn break_circles(&mut self, order: &[Part<'_>], dynamic: &mut Dynamic) {
        let all = middleware::by_name(&dynamic.middlewares);
        let circles: Vec<String> = dynamic
            .middlewares
            .iter()
            .filter(|one| matches!(one.kind, MiddlewareKind::Chain(_)))
            .filter(|one| middleware::is_circle(one, &all))
            .map(|one| one.name.clone())
            .collect();
        for part in order.iter().filter(|part| part.item.section == Section::Middleware) {
            if circles.contains(&part.item.name) {
                let line = Cursor::new(Some(part.node), "http.middlewares.<name>").line("chain.middlewares");
                self.fault(part, "chain.middlewares", line, "leads back to this chain itself".to_owned());
            }
        }
        dynamic.middlewares.retain(|one| !circles.contains(&one.name));
    }
}

fn transport(place: &Cursor<'_>) -> Transport {
    Transport {
        timeouts: Timeouts {
            connect: place.duration("forwardingTimeouts.dialTimeout"),
            response_head: place.duration("forwardingTimeouts.responseHeaderTimeout"),
            request: place.duration("forwardingTimeouts.requestTimeout"),
            idle: place.duration("forwardingTimeouts.idleConnTimeout"),
        },
        idle_max: place.integer("maxIdleConnsPerHost"),
        conns_max: place.integer("maxConnsPerHost"),
    }
}

fn observability(place: &Cursor<'_>) -> Observability {
    Observability {
        tracing: place.optional_boolean("observability.tracing"),
        metrics: place.optional_boolean("observability.metrics"),
        verbosity: place
            .node("observability.traceVerbosity")
            .and_then(Node::text)
            .map(|text| if text.eq_ignore_ascii_case("detailed") { Verbosity::Detailed } else { Verbosity::Minimal }),
    }
}

/// `name@file` is how Traefik's users name a part of the file provider from elsewhere.
pub(super) fn local(name: &str) -> &str {
    name.strip_suffix("@file").unwrap_or(name)
}

/// A wildcard of one family takes the port of both: `:8000` is bound dual-stack.
fn dual_stack(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { (std::net::Ipv6Addr::UNSPECIFIED, address.port()).into() } else { address }
}
