//! From the cluster's objects to [`Parts`]: pure. Objects in, configuration and problems out; what is read once of a rule
//! or an object is kept for as long as it stays the same.

mod allocation;
mod annotations;
pub(in crate::kube) mod backends;
mod collected;
pub(in crate::kube) mod crd;
pub(in crate::kube) mod gateway;
pub(in crate::kube) mod ingress;
pub(in crate::kube) mod names;
pub(in crate::kube) mod owners;
mod partial;
mod rules;
mod specs;
mod transports;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::allocation::Names;
use self::backends::{Backends, Here, Slices};
use self::collected::Collected;
pub use self::gateway::{Around, Entry};
use self::partial::{Last, Read};
use self::rules::Rules;
use self::transports::Transports;
use super::objects::{Key, Objects};
use super::parts::{Certificate, Object, Parts, Problem, no_entry_point};
use super::{light, nodes};
use crate::config::model::{self, Kubernetes, Router, StatusAddress};

/// Idle connections kept per server and worker: the file's default.
const IDLE_MAX: usize = 200;

/// Reads objects again and again; what did not change costs little.
#[derive(Debug, Default)]
pub struct Translator {
    rules: Rules,
    crd: crd::Known,
    gateway: gateway::Known,
    last: Option<Last>,
    was_whole: bool,
    transports: Transports,
}

impl Translator {
    /// All parts that the objects ask for, in the order of their names. What is as it was the last time is the same `Arc`.
    pub fn translate(
        &mut self,
        objects: &Objects,
        settings: &Kubernetes,
        node: Option<&str>,
        around: &Around,
    ) -> Parts {
        let here = Here { node: node.map(str::to_owned), zone: node.and_then(|node| zone(objects, node)) };
        let mut last = self.last.take().unwrap_or_default();
        let (parts, whole) = last.renew(objects, settings, &here, around, |objects, slices, names| {
            self.all(objects, slices, names, settings, &here, around)
        });
        self.last = Some(last);
        self.was_whole = whole;
        if whole {
            self.rules.forget_unused();
            self.crd.forget_unused();
            self.transports.forget_unused();
            self.gateway.forget_unused();
        }
        parts
    }

    /// Whether the last translation read all objects.
    #[must_use]
    pub fn was_whole(&self) -> bool {
        self.was_whole
    }

    /// Each object that there is, and who asked for which Service. Where `names` are given, shared names are whose they were.
    fn all(
        &mut self,
        objects: &Objects,
        slices: &Slices,
        names: Option<&Names>,
        settings: &Kubernetes,
        here: &Here,
        around: &Around,
    ) -> Read {
        let mut out = Out { objects, rules: &mut self.rules, parts: Collected::default() };
        let mut backends = Backends::new(objects, slices, here.clone());
        if let Some(ingress) = &settings.ingress {
            backends.external_names = ingress.allow_external_names;
            let addresses = addresses(objects, &ingress.address, around, here.node.as_deref());
            ingress::translate(&mut out, &mut self.transports, &backends, ingress, &addresses);
        }
        if let Some(crd) = &settings.crd {
            backends.external_names = crd.allow_external_names;
            crd::translate(&mut out, &mut self.crd, &mut self.transports, &backends, crd);
        }
        if let Some(gateway) = &settings.gateway {
            backends.external_names = gateway.allow_external_names;
            let addresses = addresses(objects, &gateway.address, around, here.node.as_deref());
            let around = Around { addresses, pool: gateway.address_pool.clone(), ..around.clone() };
            gateway::translate(&mut out, &mut self.gateway, &backends, gateway, &around);
        }
        let under_policy = std::mem::take(&mut out.parts.under_policy);
        let (mut parts, names) = out.parts.finish(objects, names);
        parts.problems.extend(unreached(&parts, around));
        parts.problems.extend(objects.refused.problems());
        Read { parts, names, readers: backends.into_readers(), under_policy }
    }
}

/// Routers that no port leads to, where it is known which there are.
fn unreached(parts: &Parts, around: &Around) -> Vec<Problem> {
    let known: BTreeSet<&str> = around
        .entry_points
        .iter()
        .map(|one| one.name.as_str())
        .chain(parts.entry_points.iter().map(|one| one.name.as_str()))
        .collect();
    let mut told = BTreeSet::new();
    for router in parts.routers.iter().filter(|_| !around.entry_points.is_empty()) {
        let is_reached =
            router.entry_points.is_empty() || router.entry_points.iter().any(|name| known.contains(&**name));
        if let (false, Some(object)) = (is_reached, parts.origins.get(&router.name)) {
            told.extend(router.entry_points.iter().map(|name| (object, name)));
        }
    }
    let problem = |(object, name): (&Object, &String)| {
        let path = if object.kind == "IngressRoute" { "spec.entryPoints" } else { "" };
        let message = format!("{}; add it to entryPoints, or name another", no_entry_point(name));
        Problem { object: object.clone(), path: path.to_owned(), message }
    };
    told.into_iter().map(problem).collect()
}

/// Where clients reach us, for statuses, as type and value: what the configuration says, else the addresses of all nodes with one
/// of us, or of our own where no other is known.
pub(in crate::kube) fn addresses(
    objects: &Objects,
    said: &StatusAddress,
    around: &Around,
    node: Option<&str>,
) -> Vec<(String, String)> {
    let ip = |value: &String| ("IPAddress".to_owned(), value.clone());
    let name = |value: &String| ("Hostname".to_owned(), value.clone());
    let own: Vec<_> = said.ip.iter().map(ip).chain(said.hostname.iter().map(name)).collect();
    if !own.is_empty() {
        return own;
    }
    if let Some((namespace, service)) = &said.service {
        let service = objects.services.get(namespace, service);
        let balancer = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref());
        let given = balancer.into_iter().flatten();
        let given = given.flat_map(|one| one.ip.iter().map(ip).chain(one.hostname.iter().map(name)));
        let spec = service.and_then(|service| service.spec.as_ref());
        let external = spec.and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten();
        let all: Vec<_> = given.chain(external.map(ip)).collect();
        // As in ingress-nginx: what is for within the cluster alone is reached there.
        let within = spec.filter(|spec| spec.type_.as_deref().is_none_or(|kind| kind == "ClusterIP"));
        let within = within.and_then(|spec| spec.cluster_ip.as_ref()).filter(|ip| !matches!(ip.as_str(), "" | "None"));
        return if all.is_empty() { within.into_iter().map(ip).collect() } else { all };
    }
    if !around.addresses.is_empty() {
        return around.addresses.clone();
    }
    let own = node.and_then(|node| objects.nodes.get("", node));
    own.map(|node| nodes::of_node(node).iter().map(ip).collect()).unwrap_or_default()
}

/// The zone of a node: by its own object, else by what runs there.
fn zone(objects: &Objects, node: &str) -> Option<String> {
    let own = objects.nodes.get("", node).and_then(|node| node.metadata.labels.as_ref());
    if let Some(zone) = own.and_then(|labels| labels.get(backends::ZONE)) {
        return Some(zone.clone());
    }
    let all = objects.slices.iter().flat_map(|(_, slice)| &slice.endpoints);
    all.filter(|endpoint| endpoint.node_name.as_deref() == Some(node)).find_map(|endpoint| endpoint.zone.clone())
}

/// What translation writes to.
struct Out<'t> {
    objects: &'t Objects,
    rules: &'t mut Rules,
    parts: Collected,
}

impl Out<'_> {
    fn problem(&mut self, object: &Object, path: impl Into<String>, message: impl Into<String>) {
        let problem = Problem { object: object.clone(), path: path.into(), message: message.into() };
        self.parts.problems.push(problem);
    }

    fn router(&mut self, object: &Object, router: Router) {
        self.parts.origins.insert(router.name.clone(), object.clone());
        self.parts.routers.insert(router.name.clone(), router);
    }

    /// A Secret's certificate, which an object wants to be shown.
    fn certificate(&mut self, by: &Object, namespace: &str, name: &str) -> Result<(), String> {
        let key = Key::new(namespace, name);
        if !self.parts.certificates.contains_key(&key) {
            let certificate = self.one_certificate(namespace, name)?;
            self.parts.certificates.insert(key.clone(), certificate);
        }
        self.parts.asked.entry(by.clone()).or_default().insert(key);
        Ok(())
    }

    /// A Secret's certificate, which nobody gets yet.
    fn one_certificate(&self, namespace: &str, name: &str) -> Result<Certificate, String> {
        let key = Key::new(namespace, name);
        let secret = self.objects.secrets.get(namespace, name).ok_or_else(|| format!("there is no Secret {key}"))?;
        let certificate = certificate(secret).map_err(|message| format!("Secret {key} {message}"))?;
        Ok(Certificate { secret: key, certificate })
    }
}

/// The certificate of a Secret. Its texts are never taken for paths.
fn certificate(secret: &Secret) -> Result<model::Certificate, String> {
    let (Some(chain), Some(key)) = (light::entry(secret, "tls.crt")?, light::entry(secret, "tls.key")?) else {
        return Err("has no tls.crt and tls.key".to_owned());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.ok().filter(|chain: &Vec<_>| !chain.is_empty());
    let chain = chain.ok_or("holds no certificate in PEM in tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "holds no private key in PEM in tls.key")?;
    model::Certificate::new(format!("Secret {}", Key::of(secret)), chain, key)
}

#[cfg(test)]
pub(in crate::kube) mod tests;
