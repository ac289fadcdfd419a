//! The Kubernetes providers' section.

use std::net::IpAddr;
use std::path::Path;

use super::cursor::Cursor;
use super::fault::{Fault, Faults};
use super::model::{Kubernetes, KubernetesProvider, StatusAddress, StatusWriter};
use super::value;
use super::yaml::{self, Node, Value};
use crate::kube::client::Connection;

/// Reads the three providers; `None`: there is none.
pub(super) fn read(file: &Path, root: &Node, faults: &mut Faults) -> Option<Kubernetes> {
    let top = Cursor::new(Some(root), "");
    let mut read = |path: &'static str| {
        let place = Cursor::new(top.node(path), path);
        top.present(path).then(|| provider(file, path, &place, faults))
    };
    let kubernetes = Kubernetes {
        ingress: read("providers.kubernetesIngress"),
        crd: read("providers.kubernetesCRD"),
        gateway: read("providers.kubernetesGateway"),
    };
    kubernetes.providers().next()?;
    Some(kubernetes)
}

/// Reads who writes statuses.
pub(super) fn status(file: &Path, top: &Cursor<'_>, faults: &mut Faults) -> StatusWriter {
    const LEASE: &str = "kubernetes.status.lease";
    let lease = top.text(LEASE);
    if let Some(name) = lease.as_ref().filter(|name| !value::is_object_name(name)) {
        let message = format!("`{name}` is no name of a Lease; write lower-case letters, digits, `-` and `.`");
        faults.push(Fault::at(file, LEASE, top.line(LEASE), message));
    }
    StatusWriter { lease, pod_selector: top.text("kubernetes.status.podSelector").unwrap_or_default() }
}

/// All three with their defaults, for who has no file.
#[must_use]
pub fn kubernetes_defaults() -> Kubernetes {
    const ALL: &str = "providers: {kubernetesIngress: , kubernetesCRD: , kubernetesGateway: }";
    let root = yaml::parse(ALL).ok();
    root.and_then(|root| read(Path::new(""), &root, &mut Faults::default())).unwrap_or_default()
}

fn provider(file: &Path, path: &'static str, place: &Cursor<'_>, faults: &mut Faults) -> KubernetesProvider {
    let (ingress, crd, gateway) = (path.ends_with("Ingress"), path.ends_with("CRD"), path.ends_with("Gateway"));
    let base = file.parent().unwrap_or(Path::new(""));
    let mut address = StatusAddress::default();
    if ingress {
        address.ip = place.text("ingressEndpoint.ip");
        address.hostname = place.text("ingressEndpoint.hostname");
        if let Some(text) = place.text("ingressEndpoint.publishedService") {
            address.service = text.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
            if address.service.is_none() {
                let key = format!("{path}.ingressEndpoint.publishedService");
                let line = place.line("ingressEndpoint.publishedService");
                faults.push(Fault::at(file, key, line, format!("`{text}` is not namespace/name")));
            }
        }
    }
    if gateway {
        address.ip = place.text("statusAddress.ip");
        address.hostname = place.text("statusAddress.hostname");
        let (namespace, name) =
            (place.text("statusAddress.service.namespace"), place.text("statusAddress.service.name"));
        if namespace.is_some() != name.is_some() {
            let key = format!("{path}.statusAddress.service");
            let line = place.line("statusAddress.service");
            faults.push(Fault::at(file, key, line, "needs name and namespace".to_owned()));
        }
        address.service = namespace.zip(name);
    }
    KubernetesProvider {
        connection: Connection {
            endpoint: place.text("endpoint"),
            token: place.text("token"),
            roots: place.text("certAuthFilePath").map(|path| base.join(path)),
        },
        namespaces: place.texts("namespaces"),
        label_selector: place.text("labelSelector").unwrap_or_default(),
        ingress_class: if gateway { String::new() } else { place.text("ingressClass").unwrap_or_default() },
        throttle: place.duration("throttleDuration"),
        allow_external_names: place.boolean("allowExternalNameServices"),
        allow_empty: gateway || place.boolean("allowEmptyServices"),
        allow_cross_namespace: crd && place.boolean("allowCrossNamespace"),
        // Not set: all; an empty list: none.
        cross_provider: place
            .node("crossProviderNamespaces")
            .filter(|node| !gateway && node.value != Value::Null)
            .map(|_| place.texts("crossProviderNamespaces")),
        defaults_namespaces: if crd { place.texts("tlsDefaultsNamespaces") } else { Vec::new() },
        strict_prefix: ingress && place.boolean("strictPrefixMatching"),
        address,
        open_ports: gateway && place.boolean("openPorts"),
        address_pool: if gateway { pool(file, path, place, faults) } else { Vec::new() },
    }
}

/// Addresses for Gateways.
fn pool(file: &Path, path: &str, place: &Cursor<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let mut pool = Vec::new();
    for text in place.texts("addressPool") {
        match text.parse() {
            Ok(address) => pool.push(address),
            Err(_) => {
                let message = format!("`{text}` is not an IP address");
                faults.push(Fault::at(file, format!("{path}.addressPool"), place.line("addressPool"), message));
            }
        }
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_on_when_it_is_named_and_has_its_defaults() {
        let read = |text: &str| {
            let mut faults = Faults::default();
            let read = read(Path::new("/etc/w.yaml"), &yaml::parse(text).unwrap(), &mut faults);
            (read, faults.finish(Path::new("/etc/w.yaml")).0)
        };
        assert_eq!(read("http: {}"), (None, vec![]));
        assert_eq!(kubernetes_defaults().providers().count(), 3);
        let (some, faults) = read("providers: {kubernetesIngress: , kubernetesCRD: {allowCrossNamespace: true}}");
        let some = some.unwrap();
        assert!(faults.is_empty());
        let ingress = some.ingress.as_ref().unwrap();
        assert!(ingress.allow_empty && ingress.strict_prefix && !ingress.allow_external_names);
        assert!(some.crd.as_ref().unwrap().allow_cross_namespace && some.gateway.is_none());
        let (some, faults) = read("providers: {kubernetesGateway: {addressPool: [10.0.0.1, \"fd00::1\", x]}}");
        assert_eq!(some.unwrap().gateway.unwrap().address_pool.len(), 2);
        assert_eq!(
            faults.first().unwrap().to_string(),
            "/etc/w.yaml:1: providers.kubernetesGateway.addressPool: `x` is not an IP address"
        );
        let gateway = |text: &str| read(text).0.unwrap().gateway.unwrap().open_ports;
        assert!(gateway("providers: {kubernetesGateway: }"));
        assert!(!gateway("providers: {kubernetesGateway: {openPorts: false}}"));
        let (some, _) = read("providers: {kubernetesCRD: {tlsDefaultsNamespaces: [edge]}}");
        let crd = some.unwrap().crd.unwrap();
        assert!(crd.may_set_defaults("edge") && !crd.may_set_defaults("team"));
        let cross = |text: &str| read(text).0.unwrap().crd.unwrap().cross_provider;
        assert_eq!(cross("providers: {kubernetesCRD: }"), None);
        assert_eq!(cross("providers: {kubernetesCRD: {crossProviderNamespaces: []}}"), Some(vec![]));
        assert_eq!(
            cross("providers: {kubernetesCRD: {crossProviderNamespaces: [a, b]}}"),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        let (_, faults) = read("providers: {kubernetesIngress: {ingressEndpoint: {publishedService: traefik}}}");
        assert_eq!(
            faults.first().unwrap().to_string(),
            "/etc/w.yaml:1: providers.kubernetesIngress.ingressEndpoint.publishedService: `traefik` is not namespace/name"
        );
    }
}
