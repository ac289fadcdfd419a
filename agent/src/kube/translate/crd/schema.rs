//! Traefik's kinds as far as they are read. Fields that would change what is served, and are not served yet, are here to
//! be refused.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteSpec {
    pub entry_points: Option<Vec<String>>,
    pub routes: Option<Vec<Route>>,
    pub tls: Option<Tls>,
    pub ingress_class_name: Option<String>,
    pub parent_refs: Option<Vec<Value>>,
    /// What is wrong with it: this is no more than what its routes match.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl RouteSpec {
    /// What is said, or where that cannot be read what the requests of its routes are.
    pub(super) fn read(spec: &Value) -> Result<Self, String> {
        let message = match Self::deserialize(spec) {
            Ok(spec) => return Ok(spec),
            Err(error) => format!("cannot be read: {error}"),
        };
        let texts = |value: &Value| Vec::<String>::deserialize(value).ok();
        let class = &spec["ingressClassName"];
        // Whose it is has to be known.
        if !(class.is_null() || class.is_string()) {
            return Err(message);
        }
        let routes = spec["routes"].as_array().into_iter().flatten();
        let routes = routes.filter_map(|route| {
            let rule = Some(route["match"].as_str()?.to_owned());
            Some(Route { rule, priority: route["priority"].as_i64(), ..Route::default() })
        });
        Ok(Self {
            entry_points: texts(&spec["entryPoints"]),
            routes: Some(routes.collect()),
            tls: (!spec["tls"].is_null()).then(Tls::default),
            ingress_class_name: class.as_str().map(str::to_owned),
            parent_refs: spec["parentRefs"].as_array().cloned(),
            unreadable: Some(message),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tls {
    pub secret_name: Option<String>,
    pub options: Option<Reference>,
    pub store: Option<Value>,
    pub cert_resolver: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Route {
    #[serde(rename = "match")]
    pub rule: Option<String>,
    pub kind: Option<String>,
    pub syntax: Option<String>,
    pub priority: Option<i64>,
    pub services: Option<Vec<LoadBalancer>>,
    pub middlewares: Option<Vec<Reference>>,
    pub observability: Option<Observability>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reference {
    pub name: String,
    pub namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Observability {
    pub tracing: Option<bool>,
    pub metrics: Option<bool>,
    pub trace_verbosity: Option<String>,
}

/// A service of a route or of a TraefikService.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadBalancer {
    pub name: String,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub port: Option<IntOrString>,
    pub scheme: Option<String>,
    pub strategy: Option<String>,
    pub pass_host_header: Option<bool>,
    pub weight: Option<u32>,
    pub servers_transport: Option<String>,
    pub sticky: Option<Value>,
    pub health_check: Option<Value>,
    pub passive_health_check: Option<Value>,
    #[serde(rename = "nativeLB")]
    pub native_lb: Option<bool>,
    #[serde(rename = "nodePortLB")]
    pub node_port_lb: Option<bool>,
    pub middlewares: Option<Vec<Value>>,
}

/// Of a TLSStore.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoreSpec {
    pub certificates: Option<Vec<InSecret>>,
    pub default_certificate: Option<InSecret>,
    pub default_generated_cert: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InSecret {
    pub secret_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    pub weighted: Option<Weighted>,
    pub mirroring: Option<Value>,
    pub highest_random_weight: Option<Value>,
    pub failover: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Weighted {
    pub services: Option<Vec<LoadBalancer>>,
    pub sticky: Option<Value>,
}
