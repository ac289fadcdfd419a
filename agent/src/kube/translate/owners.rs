//! Whose a host is: the namespace of the oldest route that there is for it, of equals the first by namespace and name. Its
//! certificates are shown for the host, so that nobody replaces them by one of his own that lasts longer.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wayspan_proxy::tls::hosts;

use super::collected::Asked;
use crate::config::model::{Holder, HostOwner, HostOwners, Router};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{Certificate, Object, Problem};

/// Who brings an object's parts: its namespace, since the object was made.
pub(super) fn holder(objects: &Objects, object: &Object) -> Holder {
    let since = created(objects, object).map_or(0, |time| time.0.as_second());
    Holder { since, name: (*object.key.namespace).into() }
}

/// Says of each certificate who brought it, and since when.
pub(super) fn hold(objects: &Objects, asked: &Asked, certificates: &mut BTreeMap<Key, Certificate>) {
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
    certificates: &BTreeMap<Key, Certificate>,
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
        owners.insert(host, HostOwner { name: (*first.key.namespace).into(), named });
    }
    (owners, problems.into_values().collect())
}

/// The objects with routes for a host, by host, where there is a certificate for it.
fn by_host<'r>(
    certificates: &BTreeMap<Key, Certificate>,
    routers: impl Iterator<Item = (&'r Object, &'r Router)>,
) -> BTreeMap<String, BTreeSet<&'r Object>> {
    let names: HashSet<&str> =
        certificates.values().flat_map(|one| &one.certificate.names).map(String::as_str).collect();
    let mut all: BTreeMap<String, BTreeSet<&Object>> = BTreeMap::new();
    if names.is_empty() {
        return all;
    }
    let is_certified = |host: &str| {
        let host = if host.starts_with("**") { host.get(1..).unwrap_or_default() } else { host };
        let wild = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        names.contains(host) || wild.is_some_and(|wild| names.contains(wild.as_str()))
    };
    for (object, router) in routers {
        for host in hosts(&router.rule).into_iter().filter(|host| is_certified(host)) {
            all.entry(host).or_default().insert(object);
        }
    }
    all
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
