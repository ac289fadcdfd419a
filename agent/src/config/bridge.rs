//! The one place where the configuration meets the proxy's rules and tables.

use std::sync::Arc;

use wayspan_proxy::route::RouteTable;
use wayspan_proxy::rule::Rule;
use wayspan_proxy::snapshot::Route;

/// Parses a rule of Traefik's language; the message says what is wrong with it.
pub(super) fn parse_rule(text: &str) -> Result<Rule, String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(Rule { text: text.into() })
}

/// What spans call the branches of a route's rule.
#[derive(Debug)]
pub(super) struct Branches {
    /// The route's id.
    pub route: u32,
    /// By branch: the operation without its method.
    pub operations: Vec<Arc<str>>,
    /// By branch: the path's pattern.
    pub patterns: Vec<Arc<str>>,
}

/// The branches of all routes of a table.
pub(super) fn branches(_table: &RouteTable, routes: &[Arc<Route>]) -> Vec<Branches> {
    let of = |route: &Arc<Route>| Branches {
        route: route.id,
        operations: vec![(*route.name).into()],
        patterns: vec!["".into()],
    };
    routes.iter().map(of).collect()
}
