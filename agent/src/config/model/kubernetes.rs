//! `providers.kubernetes*` and `kubernetes`: which of the cluster's objects are looked at, and what is said of them.

use std::net::IpAddr;
use std::time::Duration;

use super::Switch;
use crate::kube::client::Connection;

/// `providers.kubernetes*`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kubernetes {
    /// `providers.kubernetesIngress`.
    pub ingress: Option<KubernetesProvider>,
    /// `providers.kubernetesCRD`.
    pub crd: Option<KubernetesProvider>,
    /// `providers.kubernetesGateway`.
    pub gateway: Option<KubernetesProvider>,
}

impl Kubernetes {
    /// Those that are on.
    pub fn providers(&self) -> impl Iterator<Item = &KubernetesProvider> {
        [&self.ingress, &self.crd, &self.gateway].into_iter().flatten()
    }

    /// At least this long between two translations: the shortest that is asked for.
    #[must_use]
    pub fn throttle(&self) -> Duration {
        self.providers().map(|provider| provider.throttle).min().unwrap_or_default()
    }

    /// Where the API server is: the first that says so counts for all.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let said = self.providers().map(|provider| &provider.connection);
        said.into_iter().find(|connection| **connection != Connection::default()).cloned().unwrap_or_default()
    }
}

/// One of the Kubernetes providers; what it has no key for has its neutral value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KubernetesProvider {
    /// `endpoint`, `token`, `certAuthFilePath`.
    pub connection: Connection,
    /// `namespaces`; empty: all.
    pub namespaces: Vec<String>,
    /// `labelSelector`; empty: any.
    pub label_selector: String,
    /// `ingressClass`; empty: ours.
    pub ingress_class: String,
    /// `throttleDuration`.
    pub throttle: Duration,
    /// `allowExternalNameServices`.
    pub allow_external_names: bool,
    /// `allowEmptyServices`.
    pub allow_empty: bool,
    /// `allowCrossNamespace`.
    pub allow_cross_namespace: bool,
    /// `strictPrefixMatching`.
    pub strict_prefix: bool,
    /// `crossProviderNamespaces`; `None`: all.
    pub cross_provider: Option<Vec<String>>,
    /// `tlsDefaultsNamespaces`; empty: all.
    pub defaults_namespaces: Vec<String>,
    /// `ingressEndpoint`, `statusAddress`.
    pub address: StatusAddress,
    /// `addressPool`.
    pub address_pool: Vec<IpAddr>,
    /// `openPorts`: a Gateway's listener may open a port that is no entry point's.
    pub open_ports: bool,
}

impl KubernetesProvider {
    /// Whether a namespace's objects may say what holds for routes of all namespaces that say nothing themselves.
    #[must_use]
    pub fn may_set_defaults(&self, namespace: &str) -> bool {
        self.defaults_namespaces.is_empty() || self.names_for_defaults(namespace)
    }

    /// Whether a namespace is among those that `tlsDefaultsNamespaces` names.
    #[must_use]
    pub fn names_for_defaults(&self, namespace: &str) -> bool {
        self.defaults_namespaces.iter().any(|one| one == namespace)
    }

    /// Whether an object of a namespace may name this: what is another provider's says so behind its `@`.
    ///
    /// # Errors
    ///
    /// What to do about it.
    pub fn may_name(&self, namespace: &str, name: &str) -> Result<(), String> {
        let all = self.cross_provider.as_ref().filter(|_| name.contains('@'));
        if all.is_none_or(|all| all.iter().any(|one| one == namespace)) {
            return Ok(());
        }
        Err(format!("`{name}` is another provider's; allow the namespace {namespace} that in crossProviderNamespaces"))
    }

    /// Whether objects of a namespace are looked at.
    #[must_use]
    pub fn serves(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == namespace)
    }
}

/// What goes into the status of objects as our address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusAddress {
    /// `ip`.
    pub ip: Option<String>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// A Service by namespace and name.
    pub service: Option<(String, String)>,
}

/// `kubernetes.status`: who writes statuses and events, and what agents there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusWriter {
    /// `lease`: the Lease of all agents of which one is to write; `None`: by the class that they serve.
    pub lease: Option<String>,
    /// `podSelector`: the labels of these agents' pods in our namespace; empty: we know of our own node alone.
    pub pod_selector: String,
}

/// `kubernetes.metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// `enabled`.
    pub enabled: Switch,
    /// `labels`: those of pods that become attributes.
    pub labels: Vec<String>,
    /// `annotations`: likewise.
    pub annotations: Vec<String>,
    /// `namespaces`: the only ones whose pods are watched; empty: all.
    pub namespaces: Vec<String>,
    /// `maxPods`: known at once.
    pub max_pods: usize,
}

impl Default for Metadata {
    fn default() -> Self {
        // A large cluster of 150,000 pods names its own; a pod takes 1.2 KiB.
        Self {
            enabled: Switch::Auto,
            labels: Vec::new(),
            annotations: Vec::new(),
            namespaces: Vec::new(),
            max_pods: 20_000,
        }
    }
}
