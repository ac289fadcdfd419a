//! Objects in small YAML, and what becomes of them.

mod again;
mod crd;
mod gateway;
mod ingress;
mod names;
mod odd;
mod partial;
mod ranks;
mod refused;
mod scale;
mod tls;
mod traefik;

use std::sync::Arc;

use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use super::*;
use crate::config::model::{Kubernetes, KubernetesProvider};
use crate::kube::parts::{Parts, UNUSABLE};

/// The objects of a text of YAML documents.
pub(in crate::kube) fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in text.split("\n---") {
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let value: serde_json::Value =
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        put(&mut objects, value).unwrap_or_else(|error| panic!("{error}: {document}"));
    }
    objects
}

/// Adds an object as the API server would have it.
pub(super) fn put(objects: &mut Objects, mut value: serde_json::Value) -> Result<(), serde_json::Error> {
    fn of<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, serde_json::Error> {
        serde_json::from_value(value)
    }
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    // What the API server would have set.
    let cluster = matches!(kind.as_str(), "IngressClass" | "Namespace" | "Node" | "GatewayClass");
    if !cluster && value["metadata"]["namespace"].is_null() {
        value["metadata"]["namespace"] = "default".into();
    }
    let dynamic = |value| of::<DynamicObject>(value);
    match kind.as_str() {
        "Ingress" => objects.ingresses.put(of(value)?),
        "IngressClass" => objects.ingress_classes.put(of(value)?),
        "Service" => objects.services.put(of(value)?),
        "EndpointSlice" => objects.slices.put(of(value)?),
        "Secret" => objects.secrets.put(of(value)?),
        "Namespace" => objects.namespaces.put(of(value)?),
        "Node" => objects.nodes.put(of(value)?),
        "IngressRoute" => objects.ingress_routes.put(dynamic(value)?),
        "Middleware" => objects.middlewares.put(dynamic(value)?),
        "TraefikService" => objects.traefik_services.put(dynamic(value)?),
        "ServersTransport" => objects.servers_transports.put(dynamic(value)?),
        "TLSOption" => objects.tls_options.put(dynamic(value)?),
        "TLSStore" => objects.tls_stores.put(dynamic(value)?),
        "GatewayClass" => objects.gateway_classes.put(dynamic(value)?),
        "Gateway" => objects.gateways.put(dynamic(value)?),
        "ListenerSet" => objects.listener_sets.put(dynamic(value)?),
        "HTTPRoute" => objects.http_routes.put(dynamic(value)?),
        "ReferenceGrant" => objects.reference_grants.put(dynamic(value)?),
        "BackendTLSPolicy" => objects.backend_tls_policies.put(dynamic(value)?),
        _ => false,
    };
    Ok(())
}

/// A Service with a port and one EndpointSlice.
pub(in crate::kube) fn backend(name: &str, port: u16, addresses: &[&str]) -> String {
    let endpoints: String = addresses.iter().map(|address| format!("\n- addresses: [\"{address}\"]")).collect();
    let endpoints = if endpoints.is_empty() { " []".to_owned() } else { endpoints };
    format!(
        "
---
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: web, port: {port}}}]}}
---
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: web, port: 8080}}]
endpoints:{endpoints}
---
"
    )
}

/// A provider with its defaults.
pub(super) fn provider() -> KubernetesProvider {
    KubernetesProvider { allow_empty: true, strict_prefix: true, open_ports: true, ..KubernetesProvider::default() }
}

/// An entry point that is reached where it listens.
pub(super) fn entry(name: &str, address: &str) -> Entry {
    Entry { name: name.to_owned(), addresses: vec![address.parse().unwrap()], published: Vec::new(), secure: false }
}

/// One line for each router, service's servers and problem.
pub(super) fn shown(parts: &Parts) -> Vec<String> {
    let routers = parts.routers.iter().map(|router| {
        let with = if router.middlewares.is_empty() {
            String::new()
        } else {
            format!(" with {}", router.middlewares.join(", "))
        };
        let on = if router.entry_points.is_empty() {
            String::new()
        } else {
            format!(" on {}", router.entry_points.join(", "))
        };
        format!("{}: {} -> {}{with}{on}", router.name, router.rule.text, router.service)
    });
    let services = parts.services.iter().map(|service| {
        let servers: Vec<_> = service
            .servers
            .iter()
            .map(
                |server| {
                    if server.weight == 1 { server.url.clone() } else { format!("{} x{}", server.url, server.weight) }
                },
            )
            .collect();
        format!("{} = {}", service.name, servers.join(", "))
    });
    let certificates = parts.certificates.iter().map(|certificate| format!("certificate {}", certificate.secret));
    let problems = parts.problems.iter().map(|problem| format!("! {problem}"));
    routers.chain(services).chain(certificates).chain(problems).collect()
}

#[track_caller]
pub(super) fn check(settings: &Kubernetes, text: &str, want: &[&str]) {
    let parts = Translator::default().translate(&objects(text), settings, Some("here"), &Around::default());
    let got = shown(&parts);
    assert!(got == want, "got:\n{}\nwant:\n{}", got.join("\n"), want.join("\n"));
}
