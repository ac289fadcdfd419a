//! What translation has written, and what becomes of it: keys become names, references lead to whom they mean, chains are taken
//! apart, and routers that ask for what is nowhere are told of.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use wayspan_proxy::tls::hosts;

use super::allocation::{Has, Names, Shared};
use super::crd::{self, Chains};
use super::owners;
use crate::config::model::{self, EntryPoint, Middleware, MiddlewareKind, Router, Service, TlsOptions};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{Certificate, GET_500, Object, Parts, Problem, Status, UNUSABLE, no_middleware, no_options};

/// What names of Middleware and TLSOption objects end in: what is not among them is nowhere.
const OF_OBJECTS: &str = "@kubernetescrd";

/// The Secrets that objects want to show.
pub(super) type Asked = BTreeMap<Object, BTreeSet<Key>>;

/// By key: who comes twice is there once.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub entry_points: Vec<EntryPoint>,
    pub statuses: Vec<Status>,
    pub routers: BTreeMap<String, Router>,
    pub services: BTreeMap<String, Service>,
    pub middlewares: BTreeMap<String, Middleware>,
    /// All Middleware objects, also those that cannot be used.
    pub middleware_keys: BTreeMap<String, Object>,
    pub chains: Chains,
    pub certificates: BTreeMap<Key, Certificate>,
    /// Who wants which of them shown.
    pub asked: Asked,
    pub default_certificate: Option<model::Certificate>,
    pub tls_options: BTreeMap<String, TlsOptions>,
    /// All TLSOption objects, also those that cannot be used.
    pub option_keys: BTreeMap<String, ()>,
    pub default_options_lost: bool,
    /// Default options of one namespace's routes alone, by namespace.
    pub own_defaults: BTreeMap<Box<str>, String>,
    /// Services that a policy is about: it says so on all routes that lead there.
    pub under_policy: HashSet<Key>,
    pub problems: Vec<Problem>,
    pub origins: BTreeMap<String, Object>,
}

impl Collected {
    /// Whether there is such a Middleware that can be used.
    pub(super) fn has_middleware(&self, key: &str) -> bool {
        self.middlewares.contains_key(key) || self.chains.contains_key(key)
    }

    /// The parts, and whose shared names are: as they were, where that is known.
    pub(super) fn finish(mut self, objects: &Objects, known: Option<&Names>) -> (Parts, Names) {
        let names = known.cloned().unwrap_or_else(|| self.names(objects));
        let named = self.named(&names);
        let (routers, origins) = self.routers(objects, &names, &named);
        let services = self.services.into_values().map(|service| {
            let name = names.services.name(&service.name);
            (name.clone(), Arc::new(Service { name, ..service }))
        });
        // In the order of their names.
        let services: BTreeMap<String, Arc<Service>> = services.collect();
        owners::hold(objects, &self.asked, &mut self.certificates);
        // Of some of the objects alone nobody can say what is whose.
        let (host_owners, disputes) = if known.is_none() {
            let routers = routers.iter().filter_map(|(name, router)| Some((origins.get(name)?, &**router)));
            owners::of(objects, &self.asked, &self.certificates, routers)
        } else {
            Default::default()
        };
        let parts = Parts {
            routers: routers.into_values().collect(),
            services: services.into_values().collect(),
            middlewares: named.middlewares.into_values().map(Arc::new).collect(),
            certificates: self.certificates.into_values().map(Arc::new).collect(),
            host_owners: Arc::new(host_owners),
            problems: self.problems,
            disputes,
            entry_points: self.entry_points,
            statuses: self.statuses.into_iter().map(Arc::new).collect(),
            origins: Arc::new(origins),
            default_certificate: self.default_certificate,
            tls_options: named.options.into_values().collect(),
            default_options_lost: self.default_options_lost,
        };
        (parts, names)
    }

    fn names(&self, objects: &Objects) -> Names {
        Names {
            routers: Shared::among(objects, self.routers.keys()),
            services: Shared::among(objects, self.services.keys()),
            middlewares: Shared::among(objects, self.middleware_keys.keys().chain(self.middlewares.keys())),
            options: Shared::among(objects, self.option_keys.keys()),
        }
    }

    fn problem(&mut self, object: Object, path: &str, message: String) {
        self.problems.push(Problem { object, path: path.to_owned(), message });
    }

    /// Middlewares, chains and TLS options under their names. A chain that cannot be what it was meant to be is not among them.
    fn named(&mut self, names: &Names) -> Named {
        let mut named = Named::default();
        for (key, mut middleware) in std::mem::take(&mut self.middlewares) {
            if let MiddlewareKind::Mirror(mirror) = &mut middleware.kind {
                mirror.service = names.services.name(&mirror.service);
            }
            middleware.name = names.middlewares.name(&key);
            named.middlewares.insert(middleware.name.clone(), middleware);
        }
        for (key, mut options) in std::mem::take(&mut self.tls_options) {
            options.name = names.options.name(&key);
            named.options.insert(options.name.clone(), options);
        }
        let mut chains = Chains::new();
        let mut objects = BTreeMap::new();
        for (key, members) in std::mem::take(&mut self.chains) {
            let Some(object) = self.middleware_keys.get(&key).cloned() else { continue };
            match members.iter().map(|member| self.middleware(names, member)).collect() {
                Ok(members) => {
                    let name = names.middlewares.name(&key);
                    chains.insert(name.clone(), members);
                    objects.insert(name, object);
                }
                Err(message) => self.problem(object, "spec.chain.middlewares", message),
            }
        }
        let is_small = |name: &String| crd::expanded(&chains, std::slice::from_ref(name)).is_some();
        for (name, object) in objects.iter().filter(|(name, _)| !is_small(name)) {
            self.problem(object.clone(), "spec.chain.middlewares", format!("`{name}` {}", crd::too_many()));
        }
        named.chains =
            chains.iter().filter(|(name, _)| is_small(name)).map(|(name, all)| (name.clone(), all.clone())).collect();
        named
    }

    /// What a reference to a Middleware means. Whose the parts of routes are is told by their key.
    fn middleware(&self, names: &Names, reference: &str) -> Result<String, String> {
        names.middlewares.referred(reference, |key| Has::among(&self.middleware_keys, key))
    }

    fn routers(
        &mut self,
        objects: &Objects,
        names: &Names,
        named: &Named,
    ) -> (BTreeMap<String, Arc<Router>>, BTreeMap<String, Object>) {
        let mut routers = BTreeMap::new();
        let mut origins = BTreeMap::new();
        for (key, mut router) in std::mem::take(&mut self.routers) {
            let wrong = self.settle(names, named, &mut router);
            router.name = names.routers.name(&key);
            if let Some(object) = self.origins.remove(&key) {
                router.holder = Some(owners::holder(objects, &object));
                let own_default = self.own_defaults.get(&object.key.namespace);
                router.default_options = own_default.map(|key| names.options.name(key));
                if let Some(message) = unchosen(&router) {
                    self.problem(object.clone(), "", message);
                }
                if let Some(what) = wrong {
                    self.problem(object.clone(), "", format!("{what}; {GET_500}"));
                }
                origins.insert(router.name.clone(), object);
            }
            routers.insert(router.name.clone(), Arc::new(router));
        }
        (routers, origins)
    }

    /// Leads a router to what it means. Gives what is wrong with it: such a router answers 500.
    fn settle(&self, names: &Names, named: &Named, router: &mut Router) -> Option<String> {
        let middlewares: Result<Vec<_>, _> =
            router.middlewares.iter().map(|name| self.middleware(names, name)).collect();
        let middlewares = middlewares.and_then(|all| {
            let what = || format!("it {}", crd::too_many());
            if all.is_empty() { Ok(all) } else { crd::expanded(&named.chains, &all).ok_or_else(what) }
        });
        let service = names.services.referred(&router.service, |key| Has::among(&self.services, key));
        let options = router.tls.as_mut().and_then(|tls| tls.options.as_mut()).map_or(Ok(()), |name| {
            *name = names.options.referred(name, |key| Has::among(&self.option_keys, key))?;
            Ok(())
        });
        match (middlewares, service, options) {
            (Ok(middlewares), Ok(service), Ok(())) => {
                (router.middlewares, router.service) = (middlewares, service);
                named.lost(router)
            }
            (Err(what), _, _) | (_, Err(what), _) | (_, _, Err(what)) => {
                (router.middlewares, router.service) = (Vec::new(), UNUSABLE.to_owned());
                Some(what)
            }
        }
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

/// What routers refer to, by its name.
#[derive(Default)]
struct Named {
    middlewares: BTreeMap<String, Middleware>,
    chains: Chains,
    options: BTreeMap<String, TlsOptions>,
}

impl Named {
    /// What a router names of objects and none of them can be used as.
    fn lost(&self, router: &Router) -> Option<String> {
        let of_objects = |name: &&String| name.ends_with(OF_OBJECTS);
        let middleware =
            router.middlewares.iter().filter(of_objects).find(|name| !self.middlewares.contains_key(*name));
        let options = router.tls.as_ref().and_then(|tls| tls.options.as_ref()).filter(of_objects);
        let options = options.filter(|name| !self.options.contains_key(*name));
        middleware.map(|name| no_middleware(name)).or_else(|| options.map(|name| no_options(name)))
    }
}
