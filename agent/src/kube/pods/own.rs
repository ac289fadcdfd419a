//! The agent's own pod: what the downward API's environment says, and what the API adds to it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Resource as _};
use tracing::debug;

use super::facts::{PodObject, daemon_set};
use crate::export::resource::OwnPod;

/// How long the start waits for the API: spans without these attributes are better than no traffic.
const PATIENCE: Duration = Duration::from_secs(2);
/// Its uid stands for the cluster's: it lives as long.
const SYSTEM: &str = "kube-system";

/// What the environment says; the chart sets it from the downward API, which is right in the node's network too.
#[must_use]
pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> OwnPod {
    let text = |name: &str| variable(name).unwrap_or_default();
    OwnPod {
        namespace: text("POD_NAMESPACE"),
        pod_name: text("POD_NAME"),
        pod_uid: text("POD_UID"),
        // In the node's network these are one.
        pod_ip: variable("POD_IP").filter(|ip| !ip.is_empty()).unwrap_or_else(|| text("HOST_IP")),
        node_name: text("NODE_NAME"),
        container_name: text("CONTAINER_NAME"),
        ..OwnPod::default()
    }
}

/// Asks the API for the rest: what it does not say, or not in time, stays empty.
pub async fn complete(mut own: OwnPod, client: &Client) -> OwnPod {
    if own.pod_name.is_empty() || own.namespace.is_empty() {
        return own;
    }
    let pods = Api::<PodObject>::namespaced(client.clone(), &own.namespace);
    let namespaces = Api::<Namespace>::all(client.clone());
    let pod = tokio::time::timeout(PATIENCE, pods.get(&own.pod_name));
    let system = tokio::time::timeout(PATIENCE, namespaces.get_metadata(SYSTEM));
    let (pod, system) = tokio::join!(pod, system);
    match pod {
        Ok(Ok(pod)) => {
            own.start_time = pod.started().unwrap_or_default();
            own.daemon_set = daemon_set(pod.meta()).unwrap_or_default().to_owned();
            if own.container_name.is_empty() {
                own.container_name = pod.only_container().unwrap_or_default().to_owned();
            }
        }
        Ok(Err(error)) => debug!(%error, "the agent's own pod cannot be read"),
        Err(_) => debug!("the API server did not say what the agent's own pod is in time"),
    }
    if let Ok(Ok(system)) = system {
        own.cluster_uid = system.metadata.uid.unwrap_or_default();
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_pod_in_the_nodes_network_too() {
        let own = from_environment(|name| match name {
            "POD_NAME" => Some("wayspan-x2v9k".to_owned()),
            "POD_IP" => Some(String::new()),
            "HOST_IP" => Some("192.0.2.1".to_owned()),
            _ => None,
        });
        assert_eq!((own.pod_name.as_str(), own.pod_ip.as_str()), ("wayspan-x2v9k", "192.0.2.1"));
        assert_eq!(from_environment(|_| None), OwnPod::default());
    }
}
