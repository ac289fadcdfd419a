//! Finds the route of a request: exact hosts and path prefixes by index, the rest by evaluation, highest priority first.

use std::sync::Arc;

use crate::rule::Rule;
use crate::snapshot::Route;

/// The routes of one entry point, immutable once built.
#[derive(Debug, Default)]
pub struct RouteTable {}

/// A matched route.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// The route.
    pub route: &'t Arc<Route>,
    /// Which branch of its rule matched, for [`RouteTable::operation`].
    pub branch: u16,
}

impl RouteTable {
    /// Builds a table. `priority` zero or less means the length of the rule's text, as in Traefik.
    #[must_use]
    pub fn build(_routes: Vec<(Rule, i64, Arc<Route>)>) -> Self {
        Self {}
    }
}
