//! Translating only what a change concerns. Endpoints come and go all day while routes stay: when Services and their
//! EndpointSlices are all that changed, only the objects that lead to these Services are read again, and only services'
//! servers are taken from that. Where it shows that more would be another, everything is read again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::allocation::Names;
use super::backends::{Here, Readers, Slices};
use super::gateway::Around;
use crate::config::model::{Kubernetes, Router};
use crate::kube::objects::{Key, Mark, Objects};
use crate::kube::parts::{Object, Parts};
use crate::kube::refusals::Refused;

/// What the last translation gave, and what it was made of.
#[derive(Debug, Default)]
pub(super) struct Last {
    parts: Parts,
    /// By object: where in the parts it is.
    places: HashMap<Object, Places>,
    /// By service: the objects whose routers lead there.
    users: HashMap<String, BTreeSet<Object>>,
    slices: Slices,
    readers: Readers,
    under_policy: HashSet<Key>,
    names: Names,
    marks: Marks,
    settings: Kubernetes,
    here: Here,
    around: Around,
    refused: Refused,
}

/// What translation makes of objects.
pub(super) struct Read {
    pub parts: Parts,
    /// Whose shared names are.
    pub names: Names,
    /// Who asked for which Service.
    pub readers: Readers,
    /// The Services that a policy is about.
    pub under_policy: HashSet<Key>,
}

/// What of the parts is an object's.
#[derive(Debug, Default)]
struct Places {
    routers: usize,
    problems: Vec<usize>,
    statuses: Vec<usize>,
}

/// How far each set was read.
#[derive(Debug, Default)]
struct Marks {
    services: Mark,
    slices: Mark,
    others: Vec<Mark>,
}

impl Last {
    /// Translates anew: what `all` makes of some of the objects where that is enough, else of all. Also tells whether it was all.
    pub(super) fn renew(
        &mut self,
        objects: &Objects,
        settings: &Kubernetes,
        here: &Here,
        around: &Around,
        mut all: impl FnMut(&Objects, &Slices, Option<&Names>) -> Read,
    ) -> (Parts, bool) {
        let is_framed_alike =
            (&self.settings, &self.here, &self.around) == (settings, here, around) && self.refused == objects.refused;
        let services = self.changed_services(objects);
        if let Some(services) = services.filter(|_| is_framed_alike)
            && self.renew_services(objects, &services, &mut all).is_some()
        {
            return (self.parts.clone(), false);
        }
        self.slices = Slices::of_all(objects);
        let Read { parts, names, readers, under_policy } = all(objects, &self.slices, None);
        self.names = names;
        let before = std::mem::replace(&mut self.parts, parts);
        self.parts.keep(before);
        (self.readers, self.under_policy) = (readers, under_policy);
        self.take_stock();
        (self.settings, self.here, self.around) = (settings.clone(), here.clone(), around.clone());
        self.refused = objects.refused.clone();
        (self.parts.clone(), true)
    }

    /// The Services whose endpoints, or who themselves, are others than last time. `None`: more than that is another.
    fn changed_services(&mut self, objects: &Objects) -> Option<BTreeSet<Key>> {
        let others = objects.marks_of_others();
        let is_rest_same = std::mem::replace(&mut self.marks.others, others.clone()) == others;
        let services = objects.services.changes.since(&mut self.marks.services);
        let slices = objects.slices.changes.since(&mut self.marks.slices);
        let (services, slices) = services.zip(slices).filter(|_| is_rest_same)?;
        let mut all: BTreeSet<Key> = services.into_iter().collect();
        for slice in slices {
            all.extend(self.slices.renew(objects, &slice).into_iter().flatten());
        }
        Some(all)
    }

    /// `None`: it would not be enough.
    fn renew_services(
        &mut self,
        objects: &Objects,
        services: &BTreeSet<Key>,
        all: &mut impl FnMut(&Objects, &Slices, Option<&Names>) -> Read,
    ) -> Option<()> {
        // Whoever publishes a Service's address says so in statuses of all sorts.
        let mut published = self.settings.providers().filter_map(|provider| provider.address.service.as_ref());
        if published.any(|(namespace, name)| services.contains(&Key::new(namespace, name))) {
            return None;
        }
        // What a policy says of a Service hangs on all routes that lead there, and is in none of their own statuses.
        if services.iter().any(|service| self.under_policy.contains(service)) {
            return None;
        }
        let readers = services.iter().filter_map(|service| self.readers.get(service)).flatten();
        let readers: Option<BTreeSet<&Object>> = readers.map(Option::as_ref).collect();
        let readers: BTreeSet<Object> = readers?.into_iter().cloned().collect();
        if readers.is_empty() {
            return Some(());
        }
        // Whose a shared name is depends on all objects. That of a service is told by its route alone, and where routers
        // lead to the names of before, nobody else came to have one.
        let Read { parts, readers: asked, .. } = all(&objects.with_only(&readers)?, &self.slices, Some(&self.names));
        if !self.agrees(&parts, &readers) {
            return None;
        }
        for (service, readers) in asked {
            self.readers.entry(service).or_default().extend(readers);
        }
        for service in parts.services {
            let place = self.parts.services.binary_search_by(|old| old.name.cmp(&service.name)).ok()?;
            let old = self.parts.services.get_mut(place)?;
            if *old == service {
                continue;
            }
            // Services of two objects may have one name, of which one counts.
            if !self.users.get(&service.name).is_none_or(|users| users.is_subset(&readers)) {
                return None;
            }
            *old = service;
        }
        Some(())
    }

    /// Whether of these objects nothing but services' servers is another than last time.
    fn agrees(&self, parts: &Parts, objects: &BTreeSet<Object>) -> bool {
        let is_known = |router: &Arc<Router>| {
            let place = self.parts.routers.binary_search_by(|old| old.name.cmp(&router.name));
            let old = place.ok().and_then(|place| self.parts.routers.get(place));
            let is_same = |old: &Arc<Router>| {
                // The order among equals is one of all routes.
                let (priority, new) = (old.priority, Router::clone(router));
                **old == Router { priority, ..new }
            };
            old.is_some_and(is_same) && parts.origins.get(&router.name) == self.parts.origins.get(&router.name)
        };
        let none = Places::default();
        objects.iter().all(|object| {
            let places = self.places.get(object).unwrap_or(&none);
            let problems = places.problems.iter().filter_map(|place| self.parts.problems.get(*place));
            let statuses = places.statuses.iter().filter_map(|place| self.parts.statuses.get(*place));
            problems.eq(parts.problems.iter().filter(|problem| problem.object == *object))
                && statuses.eq(parts.statuses.iter().filter(|status| status.object == *object))
        }) && parts.routers.iter().all(is_known)
            && parts.routers.len()
                == objects.iter().filter_map(|one| self.places.get(one)).map(|one| one.routers).sum::<usize>()
    }

    /// Notes what is whose.
    fn take_stock(&mut self) {
        (self.places, self.users) = Default::default();
        let parts = &self.parts;
        for (place, problem) in parts.problems.iter().enumerate() {
            self.places.entry(problem.object.clone()).or_default().problems.push(place);
        }
        for (place, status) in parts.statuses.iter().enumerate() {
            self.places.entry(status.object.clone()).or_default().statuses.push(place);
        }
        for router in &parts.routers {
            let Some(object) = parts.origins.get(&router.name) else { continue };
            self.places.entry(object.clone()).or_default().routers += 1;
            self.users.entry(router.service.clone()).or_default().insert(object.clone());
        }
    }
}
