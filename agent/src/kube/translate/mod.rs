//! From the cluster's objects to [`super::parts::Parts`]: pure. Objects in, configuration and problems out; what is made of an object is
//! kept for as long as all that was looked at for it stays the same.

mod allocation;
mod annotations;
pub(in crate::kube) mod backends;
mod collected;
pub(in crate::kube) mod crd;
pub(in crate::kube) mod gateway;
pub(in crate::kube) mod ingress;
pub(in crate::kube) mod names;
pub(in crate::kube) mod owners;
mod ranks;
mod rules;
mod settle;
mod shelf;
mod specs;
mod transports;
mod twins;
mod units;
mod view;
mod whole;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Secret, ServiceSpec};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::collected::Collected;
pub use self::gateway::{Around, Entry};
use self::rules::Rules;
pub use self::units::Translator;
use self::view::View;
use super::objects::{Key, Objects};
use super::parts::{Certificate, Object, Problem};
use super::{light, nodes};
use crate::config::model::{self, Router, StatusAddress};

/// Idle connections kept per server and worker: the file's default.
const IDLE_MAX: usize = 200;

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
        match spec.map(|spec| spec.type_.as_deref().unwrap_or("ClusterIP")) {
            _ if !all.is_empty() => return all,
            // As in ingress-nginx: what is for within the cluster alone is reached there.
            Some("ClusterIP") => {
                let within = spec.and_then(|spec| spec.cluster_ip.as_ref());
                return within.filter(|ip| !matches!(ip.as_str(), "" | "None")).into_iter().map(ip).collect();
            }
            Some("ExternalName") => return spec.and_then(elsewhere).into_iter().collect(),
            // Every node leads there; those with one of us are told, where they are looked for.
            Some("NodePort") => return around.addresses.clone(),
            _ => return Vec::new(),
        }
    }
    if !around.addresses.is_empty() {
        return around.addresses.clone();
    }
    let own = node.and_then(|node| objects.nodes.get("", node));
    own.map(|node| nodes::of_node(node).iter().map(ip).collect()).unwrap_or_default()
}

/// What an ExternalName leads to, as type and value.
fn elsewhere(spec: &ServiceSpec) -> Option<(String, String)> {
    let name = spec.external_name.as_deref()?.trim_end_matches('.');
    let kind = if name.parse::<IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
    Some((kind.to_owned(), name.to_owned())).filter(|_| !name.is_empty())
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

/// What translation reads from and writes to.
struct Out<'t> {
    view: &'t View<'t>,
    rules: &'t mut Rules,
    parts: Collected,
}

impl Out<'_> {
    fn problem(&mut self, object: &Object, path: impl Into<String>, message: impl Into<String>) {
        let problem = Problem { object: object.clone(), path: path.into(), message: message.into() };
        self.parts.problems.push(problem);
    }

    fn router(&mut self, router: Router) {
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
        let secret = self.view.secret(namespace, name).ok_or_else(|| format!("there is no Secret {key}"))?;
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
