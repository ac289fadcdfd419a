//! What is compared: routes by what requests to them become, whoever names and nests them how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wayspan_proxy::rule::Rule;
use wayspan_proxy::snapshot::Timeouts;

use crate::config::model::MiddlewareKind;

/// All that a configuration says of HTTP, and what it says of the rest in words.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// By name.
    pub routers: BTreeMap<String, Router>,
    /// By name: whether a router asks for them or not.
    pub middlewares: BTreeMap<String, Step>,
    /// Certificates by their text.
    pub certificates: BTreeSet<String>,
    /// What there is beside HTTP.
    pub others: BTreeSet<String>,
}

/// One router.
#[derive(Debug, Clone)]
pub(super) struct Router {
    pub rule: Result<Rule, String>,
    pub text: String,
    /// 0: the rule's own.
    pub priority: i64,
    /// Among equals the lesser.
    pub turn: Option<Arc<str>>,
    /// Sorted; empty: all.
    pub entry_points: Vec<String>,
    pub way: Way,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    /// In order.
    pub steps: Vec<Step>,
    pub served: Served,
    /// Options by name; `default` where none is named.
    pub tls: Option<String>,
    /// Tracing, metrics, verbosity.
    pub observed: String,
}

/// A middleware.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Kind(MiddlewareKind),
    /// Of another provider, or nowhere.
    Named(String),
    /// Not ours yet.
    Unsupported(String),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Served {
    Servers(Servers),
    /// Of another provider.
    Named(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Servers {
    /// By URL, or by status where a share is answered at once: the share of all requests.
    pub shares: BTreeMap<String, Share>,
    /// For each way to reach a server: whether it passes the host, and its times.
    pub spoken: BTreeSet<String>,
    /// What servers have beside, in words.
    pub extras: BTreeSet<String>,
}

/// A share as a number that two ways of counting agree on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share(pub f64);

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        // Weights are whole numbers, which may have to be rounded.
        (self.0 - other.0).abs() < 1e-6
    }
}

/// How a server is spoken to, in words.
pub(super) fn spoken(pass_host: bool, timeouts: &Timeouts, idle_max: usize) -> String {
    let Timeouts { connect, response_head, request, idle } = timeouts;
    format!(
        "passes host: {pass_host}, connect {connect:?}, head {response_head:?}, request {request:?}, idle {idle:?} x{idle_max}"
    )
}

/// An answer of 500 to everything.
pub(super) fn refused() -> Served {
    let shares = BTreeMap::from([("500".to_owned(), Share(1.0))]);
    Served::Servers(Servers { shares, ..Servers::default() })
}
