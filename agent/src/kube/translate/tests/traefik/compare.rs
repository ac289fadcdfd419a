//! Two configurations side by side: routers by their names, and what becomes of requests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::probe::{self, Request};
use super::seen::{Router, Seen, Step, Way, refused};
use crate::config::model::MiddlewareKind;

/// Shown of one case at most.
const SHOWN_MAX: usize = 12;

/// What is not the same; empty: nothing.
pub(super) fn differences(theirs: &Seen, ours: &Seen, by_name: bool) -> Vec<String> {
    let mut all = Vec::new();
    let (theirs, ours) = (&answered(theirs), &answered(ours));
    let texts = theirs.routers.values().chain(ours.routers.values()).map(|router| router.text.as_str());
    let requests = probe::requests(texts);
    if by_name {
        routers(theirs, ours, &requests, &mut all);
        middlewares(theirs, ours, &mut all);
    }
    ways(theirs, ours, &requests, &mut all);
    for certificate in theirs.certificates.symmetric_difference(&ours.certificates) {
        let whose = if theirs.certificates.contains(certificate) { "Traefik's" } else { "ours" };
        let shown: String = certificate.chars().take(60).collect();
        all.push(format!("certificate {shown:?} is {whose} alone"));
    }
    all.extend(theirs.others.symmetric_difference(&ours.others).map(|one| format!("{one} is not the same")));
    all.truncate(SHOWN_MAX);
    all
}

/// Behind a filter that redirects whatever comes there is nobody to serve it.
fn answered(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    for router in seen.routers.values_mut() {
        if router.way.steps.iter().any(|step| matches!(step, Step::Kind(MiddlewareKind::RequestRedirect(_)))) {
            router.way.served = refused();
        }
    }
    seen
}

fn routers(theirs: &Seen, ours: &Seen, requests: &[Request], all: &mut Vec<String>) {
    let names: BTreeSet<&String> = theirs.routers.keys().chain(ours.routers.keys()).collect();
    for name in names {
        match (theirs.routers.get(name), ours.routers.get(name)) {
            (Some(one), Some(other)) => {
                if one.entry_points != other.entry_points {
                    all.push(format!(
                        "router {name}: entry points {:?}, ours {:?}",
                        one.entry_points, other.entry_points
                    ));
                }
                if let Some(why) = rule(one, other, requests) {
                    all.push(format!("router {name}: {why}"));
                }
                if one.way != other.way {
                    all.push(format!("router {name}: {}", turned(&one.way, &other.way)));
                }
            }
            (Some(_), None) => all.push(format!("router {name} is Traefik's alone")),
            (None, Some(other)) => all.push(format!("router {name} is ours alone: {:?}", other.way.served)),
            (None, None) => {}
        }
    }
}

/// Why two rules are not the same.
fn rule(theirs: &Router, ours: &Router, requests: &[Request]) -> Option<String> {
    let (one, other) = match (&theirs.rule, &ours.rule) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(why), _) | (_, Err(why)) => return Some(format!("rule {}: {why}", theirs.text)),
    };
    let found = requests.iter().find(|request| request.satisfies(one) != request.satisfies(other))?;
    Some(format!("rule {}, ours {}: {found}", theirs.text, ours.text))
}

fn middlewares(theirs: &Seen, ours: &Seen, all: &mut Vec<String>) {
    for (name, step) in &theirs.middlewares {
        match ours.middlewares.get(name) {
            Some(other) if other == step => {}
            Some(other) => all.push(format!("middleware {name}: {step:?}, ours {other:?}")),
            None => {
                let why = if let Step::Unsupported(why) = step { why.as_str() } else { "" };
                all.push(format!("middleware {name} is Traefik's alone {why}"));
            }
        }
    }
    let alone = ours.middlewares.keys().filter(|name| !theirs.middlewares.contains_key(*name));
    all.extend(alone.map(|name| format!("middleware {name} is ours alone")));
}

/// What becomes of each request on each entry point.
fn ways(theirs: &Seen, ours: &Seen, requests: &[Request], all: &mut Vec<String>) {
    let entry_points: BTreeSet<&str> = [theirs, ours]
        .into_iter()
        .flat_map(|seen| seen.routers.values().flat_map(|router| router.entry_points.iter().map(String::as_str)))
        .chain([""])
        .collect();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    for entry_point in entry_points {
        for request in requests {
            let (wanted, got) = (taken(theirs, entry_point, request), taken(ours, entry_point, request));
            let same = match (wanted.as_slice(), got.as_slice()) {
                ([], []) => true,
                (wanted, got) => wanted.iter().any(|one| got.iter().any(|other| one.1 == other.1)),
            };
            if !same {
                let show = |list: &[(&str, &Way)]| list.iter().map(|one| one.0).collect::<Vec<_>>().join(" or ");
                let both = match (wanted.first(), got.first()) {
                    (Some(one), Some(other)) => turned(one.1, other.1),
                    _ => String::new(),
                };
                let what = format!("[{}], ours [{}]: {both}", show(&wanted), show(&got));
                told.entry(what).or_insert_with(|| format!("{request} on {entry_point:?}"));
            }
        }
    }
    all.extend(told.into_iter().map(|(what, request)| format!("{request} goes to {what}")));
}

/// The routers that a request may go to: several where none is before the others.
fn taken<'s>(seen: &'s Seen, entry_point: &str, request: &Request) -> Vec<(&'s str, &'s Way)> {
    let mut best = (Reverse(i64::MIN), None);
    let mut all = Vec::new();
    for (name, router) in &seen.routers {
        let on = router.entry_points.is_empty() || router.entry_points.iter().any(|one| one == entry_point);
        let Some(rule) = router.rule.as_ref().ok().filter(|rule| on && request.satisfies(rule)) else { continue };
        let priority = if router.priority == 0 { rule.default_priority() } else { router.priority };
        let order = (Reverse(priority), router.turn.clone());
        if order < best {
            all.clear();
            best = order.clone();
        }
        if order == best {
            all.push((name.as_str(), &router.way));
        }
    }
    all
}

/// What of two ways is not the same.
fn turned(theirs: &Way, ours: &Way) -> String {
    let mut all = Vec::new();
    if theirs.steps != ours.steps {
        all.push(format!("middlewares {:?}, ours {:?}", theirs.steps, ours.steps));
    }
    if theirs.served != ours.served {
        all.push(format!("served by {:?}, ours {:?}", theirs.served, ours.served));
    }
    if theirs.tls != ours.tls {
        all.push(format!("tls {:?}, ours {:?}", theirs.tls, ours.tls));
    }
    if theirs.observed != ours.observed {
        all.push(format!("observed {}, ours {}", theirs.observed, ours.observed));
    }
    all.join("; ")
}
