//! What the api and the metrics tell of the probes, and how the api switches their sets.

use tracing::info;

use crate::metrics;
use crate::probes::{Counters, Probes, Reason, Set};

pub(super) fn by_probe(counters: &Counters) -> Vec<metrics::ProbeCounts> {
    let each = counters.events.iter();
    each.map(|events| metrics::ProbeCounts {
        name: events.tracepoint.to_owned(),
        hits: events.hits,
        misses: events.misses,
    })
    .collect()
}

/// Each probe for the dashboard: whether it is on, or why not and what helps.
pub(super) fn probe_list(probes: &Probes) -> serde_json::Value {
    let each = probes.states().into_iter().map(|probe| {
        serde_json::json!({
            "tracepoint": probe.row.tracepoint,
            "set": probe.row.set,
            "tells": probe.row.tells,
            "on": probe.off.is_none(),
            "lacking": probe.is_lacking(),
            "why": probe.off.as_ref().map(ToString::to_string),
            "remedy": probe.off.as_ref().map(Reason::remedy),
        })
    });
    each.collect()
}

/// One set, or all of them: the node pays for nothing that is off but a look-up for each socket that ends.
pub(super) fn switch_probes(probes: &Probes, set: Option<&str>, on: bool) -> bool {
    let sets = match set.map(Set::named) {
        None => Set::ALL.to_vec(),
        Some(Some(set)) => vec![set],
        Some(None) => return false,
    };
    for set in sets {
        probes.switch(set, on);
        info!(set = set.name(), on, "probes switched by the api");
    }
    true
}
