//! The api and dashboard: what the node is doing, told over HTTP on an address of its own. It only reads; it owns no
//! state of the node, but asks the closures and snapshots of [`State`] that the application fills.
//!
//! A request's way: [`server`] takes the connection and bounds it, [`host`] judges whom it was meant for, [`answers`]
//! chooses by path, [`shapes`] writes Traefik's JSON, [`jaeger`] asks Jaeger, [`reply`] puts the headers on.

mod answers;
mod assets;
mod host;
mod jaeger;
mod middlewares;
mod reply;
mod server;
mod shapes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use serde_json::Value;
use wayspan_proxy::clock::MonoNs;

use crate::catalog::Catalog;
use crate::config::Fault;
use crate::config::model::{Dynamic, Static};

pub use server::{Api, listen};

/// Makes a part of an answer when it is asked for.
pub type Producer = Arc<dyn Fn() -> Value + Send + Sync>;
/// Writes the metrics in the format that fits an `Accept` header: the content type and the text.
pub type Metrics = Arc<dyn Fn(&str) -> (&'static str, String) + Send + Sync>;
/// Switches a set of probes on or off, or with none named all of them off, or to what the configuration names; `false` where there is
/// no such set.
pub type Switch = Arc<dyn Fn(Option<&str>, bool) -> bool + Send + Sync>;
/// Hears of each request that was answered.
pub type OnRequest = Arc<dyn Fn(&ApiRequest) + Send + Sync>;

/// What the api tells of. All of it is cheap to ask.
#[derive(Clone)]
pub struct State {
    /// The static configuration that holds.
    pub fixed: Arc<Static>,
    /// The reloadable configuration that holds.
    pub dynamic: Arc<ArcSwap<Dynamic>>,
    /// What is wrong with the files as they are now.
    pub faults: Arc<ArcSwap<Vec<Fault>>>,
    /// Where servers' names were last resolved to.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// A list of [`crate::recent::RecentRequest`], slowest first.
    pub requests: Producer,
    /// [`crate::probes::Report`], or the list of probes in it.
    pub probes: Producer,
    /// Switches sets of probes.
    pub switch: Switch,
    /// Numbers by name: spans made, sent, lost, pending.
    pub span_counts: Producer,
    /// What is known of pods: [`crate::kube::pods::Reading`], or null where none are watched.
    pub kubernetes: Producer,
    /// How the watches of the Kubernetes providers are: [`crate::kube::watch::Reading`], or null where there are none.
    pub watches: Producer,
    /// `None`: metrics are off.
    pub metrics: Option<Metrics>,
    /// Internal spans hang on it.
    pub on_request: OnRequest,
    /// Its entry points are not open yet: `/ping` says so.
    pub starting: Arc<AtomicBool>,
    /// The node is about to end: `/ping` says so, so that no new requests are sent to it.
    pub draining: Arc<AtomicBool>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A request that the api has answered.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// Its method.
    pub method: http::Method,
    /// The pattern it was answered by, e.g. `/api/http/routers/{name}`; few values, fit for a span's name.
    pub route: &'static str,
    /// Its path as it came, without the query.
    pub path: String,
    /// Its Host as it came; empty where it had none.
    pub host: String,
    /// The status answered.
    pub status: u16,
    /// When its head was read.
    pub started: MonoNs,
    /// When its answer was ready to be written.
    pub ended: MonoNs,
    /// Who asked.
    pub peer: SocketAddr,
}
