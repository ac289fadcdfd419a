//! The one place where the configuration meets the proxy's rules and tables.

use std::sync::Arc;

use wayspan_proxy::route::{Names, RouteTable};
use wayspan_proxy::rule::Rule;

/// Parses a rule of Traefik's language; the message says where it is wrong and what to write.
pub(super) fn parse_rule(text: &str) -> Result<Rule, String> {
    Rule::parse(text).map_err(|error| error.to_string())
}

/// What spans call the branches of a route's rule.
#[derive(Debug)]
pub(super) struct Branches<'t> {
    /// The route's id.
    pub route: u32,
    /// By branch: the operation without its method.
    pub operations: &'t [Arc<str>],
    /// By branch: the path's pattern.
    pub patterns: &'t [Arc<str>],
}

/// The branches of all routes of a table.
pub(super) fn branches(table: &RouteTable) -> impl Iterator<Item = Branches<'_>> {
    table.names().map(|names: &Names| Branches {
        route: names.route,
        operations: &names.operations,
        patterns: &names.patterns,
    })
}
