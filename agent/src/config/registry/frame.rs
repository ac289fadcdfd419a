//! What routes are made in beside their routers: while it is the same, so are they.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::Inputs;
use crate::config::model::{Observability, RouterTls};

/// By router and entry point's place: the TLS options without which it is not served all the same.
pub(super) type Disputed = HashMap<String, BTreeMap<usize, Option<String>>>;

/// By entry point's place and host: the TLS options that it has, whoever wants others.
pub(super) type Settled = BTreeMap<usize, HashMap<String, Option<String>>>;

/// What routes are made in. While it is the same, so are the routes of routers that did not change.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Frame {
    entry_points: Vec<(String, Observability, Option<RouterTls>)>,
    traced: bool,
    traces_internals: bool,
    api: Option<SocketAddr>,
    /// Routers that do not get the TLS options that they want.
    pub(super) disputed: Disputed,
    /// And what their hosts get.
    pub(super) settled: Settled,
}

impl Frame {
    pub(super) fn of(inputs: &Inputs<'_>) -> Self {
        let entry_points = inputs.dynamic.entry_points.iter();
        let tracing = inputs.fixed.tracing.as_ref();
        let (mut disputed, mut settled) = (Disputed::new(), Settled::new());
        for one in inputs.disputes {
            let insists = disputed.entry(one.router.clone()).or_default().entry(one.entry_point).or_default();
            // One of its hosts is enough.
            *insists = insists.take().or_else(|| one.insists.clone());
            settled.entry(one.entry_point).or_default().insert(one.host.clone(), one.held.clone());
        }
        Self {
            entry_points: entry_points.map(|one| (one.name.clone(), one.observability, one.tls.clone())).collect(),
            traced: tracing.is_some(),
            traces_internals: tracing.is_some_and(|tracing| tracing.add_internals),
            api: inputs.api,
            disputed,
            settled,
        }
    }
}
