//! What becomes of what a unit has written: keys become names, references lead to whom they mean, chains are taken apart, and routers
//! that ask for what is nowhere are told of.

use std::collections::{BTreeMap, BTreeSet};

use wayspan_proxy::tls::hosts;

use super::collected::Collected;
use super::crd::{self, Chains};
use super::shelf::Shelf;
use super::view::{Read, Sort, View};
use super::whole::{Fresh, Whole};
use super::{Around, allocation};
use crate::config::model::{Middleware, MiddlewareKind, Router, Service, TlsOptions};
use crate::kube::parts::{GET_500, Object, Problem, UNUSABLE, no_entry_point, no_middleware, no_options};

/// What names of Middleware and TLSOption objects end in: what is not among them is nowhere.
const OF_OBJECTS: &str = "@kubernetescrd";

/// A unit's parts under their names, by their keys.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub routers: Vec<(String, Router)>,
    pub services: Vec<(String, Service)>,
    /// `None`: it cannot be used.
    pub middlewares: Vec<(String, Option<Middleware>)>,
    pub options: Vec<(String, Option<TlsOptions>)>,
    pub problems: Vec<Problem>,
}

/// Settles what a unit has written. What is looked for among others' parts is noted.
pub(super) fn settled(
    unit: &Object,
    collected: &mut Collected,
    whole: &Whole,
    view: &View<'_>,
    around: &Around,
) -> Settled {
    let mut settled = Settled::default();
    let desk = Desk { unit, whole, view };
    for (key, mut router) in std::mem::take(&mut collected.routers) {
        let wrong = desk.settle(&mut router);
        router.name = whole.routers.name(&key);
        router.holder = Some(view.holder(unit));
        router.default_options = desk.own_default();
        if let Some(message) = unchosen(&router) {
            settled.problems.push(Problem { object: unit.clone(), path: String::new(), message });
        }
        if let Some(what) = wrong {
            let message = format!("{what}; {GET_500}");
            settled.problems.push(Problem { object: unit.clone(), path: String::new(), message });
        }
        settled.routers.push((key, router));
    }
    for (key, service) in std::mem::take(&mut collected.services) {
        let name = whole.services.name(&key);
        settled.services.push((key, Service { name, ..service }));
    }
    for key in collected.middleware_keys.keys() {
        if !collected.middlewares.contains_key(key) {
            settled.middlewares.push((key.clone(), None));
        }
    }
    for (key, mut middleware) in std::mem::take(&mut collected.middlewares) {
        if let MiddlewareKind::Mirror(mirror) = &mut middleware.kind {
            mirror.service = whole.services.name(&mirror.service);
        }
        middleware.name = whole.middlewares.name(&key);
        settled.middlewares.push((key, Some(middleware)));
    }
    for key in collected.option_keys.keys() {
        let mut options = collected.tls_options.remove(key);
        options.iter_mut().for_each(|options| options.name = whole.options.name(key));
        settled.options.push((key.clone(), options));
    }
    let lost = unreached(unit, &settled.routers, whole, view, around);
    settled.problems.extend(lost);
    settled
}

/// What a unit's routers look for.
struct Desk<'d> {
    unit: &'d Object,
    whole: &'d Whole,
    view: &'d View<'d>,
}

impl Desk<'_> {
    /// Leads a router to what it means. Gives what is wrong with it: such a router answers 500.
    fn settle(&self, router: &mut Router) -> Option<String> {
        let middlewares: Result<Vec<_>, _> = router.middlewares.iter().map(|name| self.middleware(name)).collect();
        let middlewares = middlewares.and_then(|all| {
            let what = || format!("it {}", crd::too_many());
            let looks_for = |name: &str| self.view.note(Read::Middleware(name.to_owned()));
            if all.is_empty() {
                Ok(all)
            } else {
                crd::expanded(&self.whole.chained.chains, &all, &looks_for).ok_or_else(what)
            }
        });
        let service = self.service(&router.service);
        let options = router.tls.as_mut().and_then(|tls| tls.options.as_mut()).map_or(Ok(()), |name| {
            self.name(Sort::Options, name, &self.whole.options);
            *name = self.whole.options.referred(name)?;
            Ok(())
        });
        match (middlewares, service, options) {
            (Ok(middlewares), Ok(service), Ok(())) => {
                (router.middlewares, router.service) = (middlewares, service);
                self.lost(router)
            }
            (Err(what), _, _) | (_, Err(what), _) | (_, _, Err(what)) => {
                (router.middlewares, router.service) = (Vec::new(), UNUSABLE.to_owned());
                Some(what)
            }
        }
    }

    /// What a reference to a Middleware means. Whose the parts of routes are is told by their key.
    fn middleware(&self, reference: &str) -> Result<String, String> {
        self.name(Sort::Middlewares, reference, &self.whole.middlewares);
        self.whole.middlewares.referred(reference)
    }

    fn service(&self, reference: &str) -> Result<String, String> {
        self.name(Sort::Services, reference, &self.whole.services);
        self.whole.services.referred(reference)
    }

    /// The name of the TLS options that the unit's routers have where others have the default ones.
    fn own_default(&self) -> Option<String> {
        let key = self.view.own_default(&self.unit.key.namespace)?;
        self.name(Sort::Options, key, &self.whole.options);
        Some(self.whole.options.name(key))
    }

    /// Notes that a name is looked for. Of its own parts a unit hears by itself.
    fn name<T>(&self, sort: Sort, reference: &str, shelf: &Shelf<T>) {
        if !shelf.has(reference, self.unit) {
            self.view.note(Read::Name(sort, allocation::plain(reference).to_owned()));
        }
    }

    /// What a router names of objects and none of them can be used as.
    fn lost(&self, router: &Router) -> Option<String> {
        let of_objects = |name: &&String| name.ends_with(OF_OBJECTS);
        let middleware = router.middlewares.iter().filter(of_objects).find(|name| {
            self.view.note(Read::Middleware((*name).clone()));
            !self.whole.chained.names.contains(*name)
        });
        let options = router.tls.as_ref().and_then(|tls| tls.options.as_ref()).filter(of_objects);
        let options = options.filter(|name| {
            self.view.note(Read::Options((*name).clone()));
            !self.whole.option_names.contains(*name)
        });
        middleware.map(|name| no_middleware(name)).or_else(|| options.map(|name| no_options(name)))
    }
}

/// What is wrong with a router of which no connection has the options, since the server name chooses them.
fn unchosen(router: &Router) -> Option<String> {
    let own_default = router.default_options.as_ref()?;
    let has_it = router.tls.as_ref().is_some_and(|tls| tls.options.is_none()) && hosts(&router.rule).is_empty();
    let what =
        "ask for client certificates, since its rule names no host; its requests are answered with 421; name one";
    has_it.then(|| format!("no server name chooses its default TLS options `{own_default}`, which {what}"))
}

/// Routers that no port leads to, where it is known which there are.
fn unreached(
    unit: &Object,
    routers: &[(String, Router)],
    whole: &Whole,
    view: &View<'_>,
    around: &Around,
) -> Vec<Problem> {
    if around.entry_points.is_empty() {
        return Vec::new();
    }
    let is_known = |name: &String| {
        view.note(Read::EntryPoint(name.clone()));
        around.entry_points.iter().any(|one| one.name == *name)
            || whole.entry_points.iter().any(|one| one.name == *name)
    };
    let mut told = BTreeSet::new();
    for (_, router) in routers {
        let known = router.entry_points.iter().filter(|name| is_known(name)).count();
        if known == 0 {
            told.extend(&router.entry_points);
        }
    }
    let problem = |name: &String| {
        let path = if unit.kind == "IngressRoute" { "spec.entryPoints" } else { "" };
        let message = format!("{}; add it to entryPoints, or name another", no_entry_point(name));
        Problem { object: unit.clone(), path: path.to_owned(), message }
    };
    told.into_iter().map(problem).collect()
}

/// Middleware objects under their names, and chains with what they stand for.
#[derive(Debug, Default)]
pub(super) struct Chained {
    /// By key: whose it is, and what it names; `None`: it is no chain.
    all: BTreeMap<String, (Object, Option<Vec<String>>)>,
    /// Those that can be what they were meant to be.
    pub chains: Chains,
    /// Those that are no chains and can be used.
    pub names: BTreeSet<String>,
    /// What is wrong with chains.
    pub problems: Vec<Problem>,
}

impl Chained {
    /// Looks again, when these units are others. Gives the names behind which something else is.
    pub(super) fn renew(&mut self, fresh: &Fresh, shelf: &Shelf<Middleware>) -> BTreeSet<String> {
        for (unit, (collected, _)) in fresh.iter().filter(|(unit, _)| unit.kind == crd::MIDDLEWARE) {
            let key = crd::called(crd::MIDDLEWARE, &unit.key.namespace, &unit.key.name);
            let members = collected.chains.get(&key);
            if members.is_some() || collected.middlewares.contains_key(&key) {
                self.all.insert(key, (Object::clone(unit), members.cloned()));
            } else {
                self.all.remove(&key);
            }
        }
        let mut chains = Chains::new();
        let mut objects = BTreeMap::new();
        self.problems.clear();
        const PLACE: &str = "spec.chain.middlewares";
        let problem = |object: &Object, message| Problem { object: object.clone(), path: PLACE.to_owned(), message };
        for (key, (object, members)) in &self.all {
            let Some(members) = members else { continue };
            match members.iter().map(|member| shelf.referred(member)).collect() {
                Ok(members) => {
                    let name = shelf.name(key);
                    chains.insert(name.clone(), members);
                    objects.insert(name, object);
                }
                Err(message) => self.problems.push(problem(object, message)),
            }
        }
        let is_small = |name: &String| crd::expanded(&chains, std::slice::from_ref(name), &|_| {}).is_some();
        let large: BTreeSet<String> = objects.keys().filter(|name| !is_small(name)).cloned().collect();
        for name in &large {
            let message = format!("`{name}` {}", crd::too_many());
            self.problems.extend(objects.get(name).map(|object| problem(object, message)));
        }
        chains.retain(|name, _| !large.contains(name));
        let names = self.all.iter().filter(|(_, (_, members))| members.is_none()).map(|(key, _)| shelf.name(key));
        let names: BTreeSet<String> = names.collect();
        let both = self.chains.keys().chain(chains.keys());
        let mut others: BTreeSet<String> =
            both.filter(|name| self.chains.get(*name) != chains.get(*name)).cloned().collect();
        others.extend(self.names.symmetric_difference(&names).cloned());
        (self.chains, self.names) = (chains, names);
        others
    }
}
