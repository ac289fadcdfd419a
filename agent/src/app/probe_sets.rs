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
            "configured": probes.configures(probe.row.set),
            "tells": probe.row.tells,
            "on": probe.off.is_none(),
            "lacking": probe.is_lacking(),
            "why": probe.off.as_ref().map(ToString::to_string),
            "remedy": probe.off.as_ref().map(Reason::remedy),
        })
    });
    each.collect()
}

/// One set, or all of them: the node pays for nothing that is off but a look-up for each socket that ends. All of them on is what the
/// configuration names: the others cost the whole node.
pub(super) fn switch_probes(probes: &Probes, set: Option<&str>, on: bool) -> bool {
    match set.map(Set::named) {
        None => {
            probes.switch_all(on);
            info!(on, "probes switched by the api, as the configuration names them");
        }
        Some(Some(set)) => {
            probes.switch(set, on);
            info!(set = set.name(), on, "probes switched by the api");
        }
        Some(None) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model;

    #[test]
    fn each_probe_says_whether_it_is_switched_on_with_all() {
        let config = model::Probes { enabled: false, ack: true, ..model::Probes::default() };
        let probes = probe_list(&Probes::load(&config));
        let is_configured = |set: &str| {
            probes.as_array().unwrap().iter().find(|probe| probe["set"] == set).unwrap()["configured"].clone()
        };
        assert_eq!(["core", "backends", "ack"].map(is_configured), [true, false, true]);
    }
}
