//! Whose a host is: the namespace of the oldest route that there is for it, of equals the first by namespace and name. Its
//! certificates are shown for the host, so that nobody replaces them by one of his own that lasts longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wayspan_proxy::tls::hosts;

use super::collected::Asked;
use crate::config::model::{Certificate, Holder, HostOwner, HostOwners, Router};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{self, Object, Problem};

/// Who brings an object's parts: its namespace, since the object was made.
pub(super) fn holder(objects: &Objects, object: &Object) -> Holder {
    let since = created(objects, object).map_or(0, |time| time.0.as_second());
    Holder { since, name: (*object.key.namespace).into() }
}

/// Says of each certificate who brought it, and since when.
pub(super) fn hold(objects: &Objects, asked: &Asked, certificates: &mut BTreeMap<Key, parts::Certificate>) {
    for (object, secrets) in asked {
        let asking = holder(objects, object).since;
        for secret in secrets {
            let Some(one) = certificates.get_mut(secret) else { continue };
            let holder = &mut one.certificate.holder;
            let since = holder.as_ref().map_or(asking, |before| before.since.min(asking));
            *holder = Some(Holder { since, name: (*secret.namespace).into() });
        }
    }
}

/// The owners of hosts that there are certificates for, and who names a certificate that is not shown for one of his hosts.
pub(super) fn of<'r>(
    objects: &Objects,
    asked: &Asked,
    certificates: &BTreeMap<Key, parts::Certificate>,
    routers: impl Iterator<Item = (&'r Object, &'r Router)>,
) -> (HostOwners, Vec<Problem>) {
    let mut owners = HostOwners::new();
    let mut problems = BTreeMap::new();
    for (host, claims) in by_host(certificates, routers) {
        let age = |object: &Object| (created(objects, object), object.key.clone(), object.kind);
        let Some(first) = claims.iter().copied().min_by_key(|object| age(object)) else { continue };
        let is_own = |object: &&&Object| object.key.namespace == first.key.namespace;
        let named = claims.iter().filter(is_own).filter_map(|object| asked.get(*object)).flatten();
        let named: BTreeSet<&Key> = named.collect();
        let is_for = |secret: &Key| certificates.get(secret).is_some_and(|one| one.certificate.is_for(&host));
        let mut own = certificates.keys().filter(|secret| secret.namespace == first.key.namespace);
        let others = || claims.iter().filter(|object| !is_own(object));
        if others().next().is_some() && (named.iter().any(|secret| is_for(secret)) || own.any(is_for)) {
            for object in others() {
                let hidden = asked.get(*object).into_iter().flatten().find(|secret| is_for(secret));
                // Once for each object: it may have many hosts.
                if let Some(secret) = hidden.filter(|_| !problems.contains_key(*object)) {
                    problems.insert((*object).clone(), problem(objects, object, secret, &host, first));
                }
            }
        }
        let origins = named.iter().filter_map(|secret| certificates.get(*secret));
        let named = origins.map(|one| one.certificate.origin.clone()).collect();
        owners.insert(host, HostOwner { name: Some((*first.key.namespace).into()), named });
    }
    (owners, problems.into_values().collect())
}

/// The objects with routes for a host, by host, where there is a certificate for it.
fn by_host<'r>(
    certificates: &BTreeMap<Key, parts::Certificate>,
    routers: impl Iterator<Item = (&'r Object, &'r Router)>,
) -> BTreeMap<String, BTreeSet<&'r Object>> {
    let names = Names::of(certificates.values().map(|one| &one.certificate));
    let mut all: BTreeMap<String, BTreeSet<&Object>> = BTreeMap::new();
    if names.0.is_empty() {
        return all;
    }
    for (object, router) in routers {
        for host in hosts(&router.rule).into_iter().filter(|host| names.count(host) > 0) {
            all.entry(host).or_default().insert(object);
        }
    }
    all
}

/// The names of certificates: how many there are of each, and below each suffix: `.example` is one label more, `**.example` any
/// number of them.
#[derive(Debug, Default)]
pub(in crate::kube) struct Names(HashMap<String, usize>);

impl Names {
    pub(in crate::kube) fn of<'c>(certificates: impl Iterator<Item = &'c Certificate>) -> Self {
        let mut names = Self::default();
        let mut add = |name: String| *names.0.entry(name).or_default() += 1;
        for name in certificates.flat_map(|one| &one.names) {
            let suffixes = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
            for (labels, suffix) in suffixes.enumerate() {
                if labels == 0 {
                    add(suffix.to_owned());
                }
                add(format!("**{suffix}"));
            }
            add(name.clone());
        }
        names
    }

    /// How many of them may be shown for names that a host stands for.
    pub(in crate::kube) fn count(&self, host: &str) -> usize {
        let of = |name: &str| self.0.get(name).copied().unwrap_or(0);
        match host.strip_prefix('*') {
            Some(deep) if deep.starts_with('*') => of(host),
            Some(suffix) => of(suffix),
            None => of(host) + host.split_once('.').map_or(0, |(_, rest)| of(&format!("*.{rest}"))),
        }
    }
}

fn problem(objects: &Objects, object: &Object, secret: &Key, host: &str, first: &Object) -> Problem {
    let path = match object.kind {
        "Ingress" => {
            let ingress = objects.ingresses.get(&object.key.namespace, &object.key.name);
            let all = ingress.and_then(|ingress| ingress.spec.as_ref()?.tls.as_ref()).into_iter().flatten();
            let at = all.into_iter().position(|one| one.secret_name.as_deref() == Some(&*secret.name));
            at.map_or_else(|| "spec.tls".to_owned(), |at| format!("spec.tls[{at}].secretName"))
        }
        "IngressRoute" => "spec.tls.secretName".to_owned(),
        _ => "spec.hostnames".to_owned(),
    };
    let message = format!(
        "the certificate of Secret {secret} is not shown for `{host}`: {first} has this host and is older, and its namespace's is; \
         name a host that is nobody else's"
    );
    Problem { object: object.clone(), path, message }
}

fn created(objects: &Objects, object: &Object) -> Option<Time> {
    objects.created(object.kind, &object.key.namespace, &object.key.name)
}
