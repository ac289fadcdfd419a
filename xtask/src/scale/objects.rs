//! The cluster's objects, as the API takes them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Where the many are.
pub(super) const MANY: &str = "many";
/// Where the one is.
pub(super) const ONE: &str = "one";
/// Where those are that are asked of the many, and no others.
pub(super) const FEW: &str = "few";

/// A collection of the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    Slice,
    Ingress,
    HttpRoute,
}

impl Kind {
    /// Its path.
    pub(super) fn path(self, namespace: &str) -> String {
        let (group, plural) = match self {
            Self::Service => ("api/v1", "services"),
            Self::Slice => ("apis/discovery.k8s.io/v1", "endpointslices"),
            Self::Ingress => ("apis/networking.k8s.io/v1", "ingresses"),
            Self::HttpRoute => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
        };
        format!("/{group}/namespaces/{namespace}/{plural}")
    }
}

/// What a service and its route are called.
pub(super) fn name(number: usize) -> String {
    format!("s{number:05}")
}

/// The host of a route.
pub(super) fn host(number: usize) -> String {
    format!("{}.scale.test", name(number))
}

/// The name and the host of a route that leads to the first Service.
pub(super) fn shared(number: usize) -> (String, String) {
    (format!("shared-{number:02}"), format!("shared-{number:02}.scale.test"))
}

/// Without an address of its own: nobody asks for one, and the API has few.
pub(super) fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
    })
}

pub(super) fn slice_name(number: usize, nth: usize) -> String {
    format!("{}-{nth}", name(number))
}

/// One endpoint of a service.
pub(super) fn slice(number: usize, nth: usize, address: Ipv4Addr, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": slice_name(number, nth), "labels": {"kubernetes.io/service-name": name(number)}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

/// The same slice at another port: its one field.
pub(super) fn moved(port: u16) -> Value {
    json!({"ports": [{"name": "http", "port": port, "protocol": "TCP"}]})
}

pub(super) fn ingress(name: &str, host: &str, service: usize) -> Value {
    let backend = json!({"service": {"name": self::name(service), "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]},
    })
}

pub(super) fn http_route(number: usize) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name(number)},
        "spec": {
            "parentRefs": [{"name": "scale"}], "hostnames": [host(number)],
            "rules": [{"backendRefs": [{"name": name(number), "port": 80}]}],
        },
    })
}

/// The class and the Gateways, as kubectl takes them.
pub(super) fn gateways(port: u16) -> String {
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "scale"},
        "spec": {"controllerName": "wayspan.io/gateway-controller"},
    });
    let [few, many] = [FEW, MANY].map(|namespace| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "scale", "namespace": namespace},
            "spec": {"gatewayClassName": "scale", "listeners": [{"name": "web", "port": port, "protocol": "HTTP"}]},
        })
    });
    format!("{class}\n---\n{few}\n---\n{many}\n")
}
