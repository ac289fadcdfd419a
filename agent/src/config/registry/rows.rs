//! The rows of an entry point's table; the table of before for as long as they are the same.

use std::sync::Arc;

use wayspan_proxy::route::{Precedence, RouteTable};
use wayspan_proxy::snapshot::Route;

use crate::config::model;

/// One route in a table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) rule: wayspan_proxy::rule::Rule,
    pub(super) precedence: Precedence,
    pub(super) route: Arc<Route>,
    /// It is for requests that come by TLS, on connections of these options.
    pub(super) tls: Option<Option<String>>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        (&self.rule, &self.precedence, &self.tls) == (&other.rule, &other.precedence, &other.tls)
            && Arc::ptr_eq(&self.route, &other.route)
    }
}

/// The table of these rows; the one of last time where they are the same.
pub(super) fn table(last: Option<(&Vec<Arc<Row>>, &Arc<RouteTable>)>, rows: &[Arc<Row>]) -> Arc<RouteTable> {
    match last {
        Some((old, table))
            if old.len() == rows.len() && old.iter().zip(rows).all(|(a, b)| Arc::ptr_eq(a, b) || a == b) =>
        {
            Arc::clone(table)
        }
        _ => {
            let empty = RouteTable::default();
            let last = last.map_or(&empty, |(_, table)| table);
            let rows = rows.iter().map(|row| (row.rule.clone(), row.precedence.clone(), Arc::clone(&row.route)));
            Arc::new(last.renewed(rows.collect()))
        }
    }
}

pub(super) fn precedence(router: &model::Router) -> Precedence {
    Precedence { priority: router.priority, turn: router.turn.clone() }
}
