//! The keys of the Kubernetes providers.

use super::{Key, Kind, key, ours};

const CONNECTED: &str = "The API server's URL; none: KUBECONFIG, else the pod's service account.";
const TOKEN: &str = "Who we are there: a bearer token, or the path of a file that holds one.";
const ROOTS: &str = "The only roots that the server's certificate may come from: a file in PEM.";
const NAMESPACES: &str = "Look in these namespaces; none: all.";
const LABELS: &str = "Only objects with these labels, e.g. `app=shop,tier!=test`.";
const THROTTLE: &str = "At least this long between two translations; what comes meanwhile is taken together.";
const CROSS_PROVIDER: &str = "Namespaces whose objects may name what is another provider's, as in `auth@file`, `api@internal` or, from an Ingress, \
                              `shop-auth@kubernetescrd`; not set: all, empty: none.";
const NATIVE: &str = "`true` is not supported yet: requests go straight to the pods of the EndpointSlices.";
const CLUSTER_SCOPE: &str = "`true` is not supported yet: what belongs to no namespace is read.";
const EXTERNAL: &str =
    "Services of the kind ExternalName may be backends: whoever may write one can reach any name that we can.";
const EMPTY: &str = "A Service without an endpoint that is ready answers 503; `false`: its route is left out (Traefik's default is `false`).";

/// In the order of the reference page.
pub(super) const KUBERNETES: &[Key] = &[
    key("providers.kubernetesIngress", Kind::Section, "", "Routes from Ingress objects."),
    key("providers.kubernetesIngress.endpoint", Kind::Text, "", CONNECTED),
    key("providers.kubernetesIngress.token", Kind::Text, "", TOKEN),
    key("providers.kubernetesIngress.certAuthFilePath", Kind::Text, "", ROOTS),
    key("providers.kubernetesIngress.namespaces", Kind::Texts, "", NAMESPACES),
    key("providers.kubernetesIngress.labelSelector", Kind::Text, "", LABELS),
    key(
        "providers.kubernetesIngress.ingressClass",
        Kind::Text,
        "",
        "Only objects of this class, whosever controller it names; none: classes whose controller is \
         `wayspan.io/ingress-controller`, the annotation `wayspan`, and objects without a class where no other class is \
         the default.",
    ),
    key("providers.kubernetesIngress.throttleDuration", Kind::Duration, "0s", THROTTLE),
    key("providers.kubernetesIngress.allowExternalNameServices", Kind::Bool, "false", EXTERNAL),
    key("providers.kubernetesIngress.allowEmptyServices", Kind::Bool, "true", EMPTY),
    key(
        "providers.kubernetesIngress.strictPrefixMatching",
        Kind::Bool,
        "true",
        "`/shop` of the type Prefix takes `/shop/1` and not `/shopping`, as the API asks (Traefik's default is `false`).",
    ),
    key("providers.kubernetesIngress.crossProviderNamespaces", Kind::Texts, "", CROSS_PROVIDER),
    key("providers.kubernetesIngress.nativeLBByDefault", Kind::AlwaysFalse, "false", NATIVE),
    key("providers.kubernetesIngress.disableClusterScopeResources", Kind::AlwaysFalse, "false", CLUSTER_SCOPE),
    key(
        "providers.kubernetesIngress.disableIngressClassLookup",
        Kind::AlwaysFalse,
        "false",
        "`true` is not supported yet: IngressClasses are read.",
    ),
    key(
        "providers.kubernetesIngress.ingressEndpoint.ip",
        Kind::Text,
        "",
        "The address in the objects' status; none: those of the nodes.",
    ),
    key("providers.kubernetesIngress.ingressEndpoint.hostname", Kind::Text, "", "The name in the objects' status."),
    key(
        "providers.kubernetesIngress.ingressEndpoint.publishedService",
        Kind::Text,
        "",
        "`namespace/name` of a Service whose addresses go into the objects' status.",
    ),
    key(
        "providers.kubernetesCRD",
        Kind::Section,
        "",
        "Routes from Traefik's own kinds: IngressRoute, Middleware and theirs.",
    ),
    key("providers.kubernetesCRD.endpoint", Kind::Text, "", CONNECTED),
    key("providers.kubernetesCRD.token", Kind::Text, "", TOKEN),
    key("providers.kubernetesCRD.certAuthFilePath", Kind::Text, "", ROOTS),
    key("providers.kubernetesCRD.namespaces", Kind::Texts, "", NAMESPACES),
    key("providers.kubernetesCRD.labelSelector", Kind::Text, "", LABELS),
    key(
        "providers.kubernetesCRD.ingressClass",
        Kind::Text,
        "",
        "Only objects of this class; none: those without one, and of `wayspan` and `traefik`.",
    ),
    key("providers.kubernetesCRD.throttleDuration", Kind::Duration, "0s", THROTTLE),
    key("providers.kubernetesCRD.allowExternalNameServices", Kind::Bool, "false", EXTERNAL),
    key("providers.kubernetesCRD.allowEmptyServices", Kind::Bool, "true", EMPTY),
    key(
        "providers.kubernetesCRD.allowCrossNamespace",
        Kind::Bool,
        "false",
        "An IngressRoute may name services and middlewares of other namespaces.",
    ),
    key("providers.kubernetesCRD.crossProviderNamespaces", Kind::Texts, "", CROSS_PROVIDER),
    ours(
        "providers.kubernetesCRD.tlsDefaultsNamespaces",
        Kind::Texts,
        "",
        "Namespaces whose TLSOption and TLSStore `default` may hold for all routes; none: any, of several the oldest counts, \
         but one that asks for client certificates is for its own namespace alone.",
    ),
    key("providers.kubernetesCRD.nativeLBByDefault", Kind::AlwaysFalse, "false", NATIVE),
    key("providers.kubernetesCRD.disableClusterScopeResources", Kind::AlwaysFalse, "false", CLUSTER_SCOPE),
    key(
        "providers.kubernetesGateway",
        Kind::Section,
        "",
        "Routes from the Gateway API: Gateway, HTTPRoute and theirs.",
    ),
    key("providers.kubernetesGateway.endpoint", Kind::Text, "", CONNECTED),
    key("providers.kubernetesGateway.token", Kind::Text, "", TOKEN),
    key("providers.kubernetesGateway.certAuthFilePath", Kind::Text, "", ROOTS),
    key("providers.kubernetesGateway.namespaces", Kind::Texts, "", NAMESPACES),
    key("providers.kubernetesGateway.labelSelector", Kind::Text, "", LABELS),
    key("providers.kubernetesGateway.throttleDuration", Kind::Duration, "0s", THROTTLE),
    key(
        "providers.kubernetesGateway.statusAddress.ip",
        Kind::Text,
        "",
        "The address in Gateways' status; none: those of the nodes.",
    ),
    key("providers.kubernetesGateway.statusAddress.hostname", Kind::Text, "", "The name in Gateways' status."),
    key(
        "providers.kubernetesGateway.statusAddress.service.name",
        Kind::Text,
        "",
        "A Service whose addresses go into Gateways' status.",
    ),
    key("providers.kubernetesGateway.statusAddress.service.namespace", Kind::Text, "", "Its namespace."),
    key(
        "providers.kubernetesGateway.crossProviderNamespaces",
        Kind::Texts,
        "",
        "Accepted: routes name no other provider's parts here.",
    ),
    key("providers.kubernetesGateway.nativeLBByDefault", Kind::AlwaysFalse, "false", NATIVE),
    key(
        "providers.kubernetesGateway.experimentalChannel",
        Kind::AlwaysFalse,
        "false",
        "`true` is not supported yet: there are no TCPRoute and TLSRoute.",
    ),
    ours("providers.kubernetesGateway.allowExternalNameServices", Kind::Bool, "false", EXTERNAL),
    ours(
        "providers.kubernetesGateway.addressPool",
        Kind::Texts,
        "",
        "Addresses of the node for Gateways, one for each, the oldest first: what is asked for at one reaches its Gateway's \
         routes alone. Without one, Gateways share the node's addresses, and routes of equal matches that differ in \
         their Gateway alone cannot be told apart.",
    ),
    ours(
        "providers.kubernetesGateway.openPorts",
        Kind::Bool,
        "true",
        "Listeners may open ports that are no entry point's. `false` where our ports are not the node's, as in a pod with \
         `hostPort`: such a listener is `PortUnavailable`.",
    ),
    ours(
        "kubernetes.status.lease",
        Kind::Text,
        "",
        "The Lease in our namespace whose holder writes statuses and events, one for all agents of one release; none: \
         `wayspan-status`, with `-` and the `ingressClass` behind where there is one.",
    ),
    ours(
        "kubernetes.status.podSelector",
        Kind::Text,
        "",
        "Labels of these agents' pods in our namespace, as in `app=wayspan`: the addresses of all nodes with one that is ready go \
         into the objects' status; none: those of the node whose agent writes it.",
    ),
];
