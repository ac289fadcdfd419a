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

/// What spans call the branches of each route of a table: its id, operations without their method, path patterns.
pub(super) fn names(_table: &RouteTable, routes: &[Arc<Route>]) -> Vec<(u32, Vec<Arc<str>>, Vec<Arc<str>>)> {
    routes.iter().map(|route| (route.id, vec![(*route.name).into()], vec!["".into()])).collect()
}
