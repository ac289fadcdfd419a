//! Ingress objects that ask for the same requests: one of them gets them all, and the others are told.

use std::collections::{BTreeMap, HashMap};

use super::ingress::{DEFAULT_BACKEND, LAST};
use crate::config::model::Router;
use crate::kube::parts::{Object, Problem, UNUSABLE};

/// Who gets none of the requests of one of his routers, each once: he may have many.
pub(super) fn of<'r>(routers: impl Iterator<Item = (&'r Object, &'r Router)>) -> Vec<Problem> {
    let mut first: HashMap<_, (&Object, &Router)> = HashMap::new();
    let mut others = Vec::new();
    for (by, router) in routers.filter(|(by, _)| by.kind == "Ingress") {
        let one = first.entry(asked(router)).or_insert((by, router));
        if one.0 == by {
            continue;
        }
        others.push(if order(router) < order(one.1) { std::mem::replace(one, (by, router)) } else { (by, router) });
    }
    let mut told = BTreeMap::new();
    // Who can be served by nobody is told of that.
    for (by, router) in others.into_iter().filter(|(_, router)| router.service != UNUSABLE) {
        if let Some((first, _)) = first.get(&asked(router)) {
            told.entry(by).or_insert_with(|| problem(by, router, first));
        }
    }
    told.into_values().collect()
}

/// What a router takes where no other is before it. What a priority that somebody writes decides is meant.
fn asked(router: &Router) -> (&str, i64, bool, &[String]) {
    (&router.rule.text, router.priority, router.tls.is_some(), &router.entry_points)
}

fn order(router: &Router) -> (Option<&str>, &str) {
    (router.turn.as_deref(), &router.name)
}

fn problem(by: &Object, router: &Router, first: &Object) -> Problem {
    let is_default = router.priority == LAST;
    let path = if is_default { DEFAULT_BACKEND } else { "spec.rules" }.to_owned();
    let message = format!(
        "`{}` is {first}'s, too, which is older, or of equals the first, and gets the requests; remove one",
        router.rule.text
    );
    Problem { object: by.clone(), path, message }
}
