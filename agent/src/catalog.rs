//! Names behind the stable ids of records: what the merge needs of routes, services and servers to write spans.
//! Built by `config` with each snapshot, swapped whole; entries that left a snapshot stay for a while, since records
//! of their last requests are still on their way.

mod by_id;

use std::net::SocketAddr;
use std::sync::Arc;

pub use by_id::ById;

/// All names, immutable.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Entry points by id.
    pub entry_points: ById<Arc<str>>,
    /// Routes by id.
    pub routes: ById<Arc<RouteNames>>,
    /// Services' names by id, [`qualified`].
    pub services: ById<Arc<str>>,
    /// Servers by id.
    pub servers: ById<Arc<ServerNames>>,
}

/// A part's name as it is told outside of the file, in Traefik's form: `hotrod@file`. Who comes from Traefik asks by it,
/// and parts of one name from two providers stay two.
#[must_use]
pub fn qualified(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@file") }
}

/// What spans say of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteNames {
    /// The router's name, [`qualified`].
    pub router: Arc<str>,
    /// The service's name, [`qualified`].
    pub service: Arc<str>,
    /// The rule's text.
    pub rule: Arc<str>,
    /// By branch: the operation without its method, e.g. `hotrod.localhost/`, or the router's name.
    pub operations: Vec<Arc<str>>,
    /// By branch: the path pattern (`http.route`), empty where the rule has none.
    pub patterns: Vec<Arc<str>>,
    /// Names of its middlewares in order: (name, [`qualified`], Traefik's span name of the kind).
    pub middlewares: Vec<(Arc<str>, &'static str)>,
    /// `traceVerbosity: detailed`.
    pub detailed: bool,
    /// A route of the agent's own (ping, dashboard): spans only with `addInternals`.
    pub internal: bool,
}

/// What spans say of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    /// `url` as configured.
    pub url: Arc<str>,
    /// `server.address`.
    pub host: Arc<str>,
    /// `server.port`.
    pub port: u16,
    /// Path prefix that the URL adds.
    pub path_prefix: Arc<str>,
    /// Where it was last resolved to.
    pub addresses: Vec<SocketAddr>,
    /// The Service of Kubernetes that it is one of (`peer.k8s.service.name`).
    pub service: Option<Arc<str>>,
}
