//! Kinds that the server has and does not let us read. What such an object could ask for is not served as if it did not.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::Client;

use super::objects::Key;
use super::parts::{Object, Problem};

/// Kinds whose lack is told, and what becomes of it. Not those of the whole cluster that a role of a namespace is to do without:
/// IngressClass and Node.
const TOLD: [(&str, &str); 17] = [
    (
        "TLSOption",
        "one called `default` may ask for client certificates, so routes with the default TLS options answer 500",
    ),
    ("BackendTLSPolicy", "one may ask for TLS to servers, so what HTTPRoutes lead to there gets no request"),
    ("Ingress", AS_NONE),
    ("Service", AS_NONE),
    ("EndpointSlice", AS_NONE),
    ("Secret", AS_NONE),
    ("Namespace", AS_NONE),
    ("IngressRoute", AS_NONE),
    ("Middleware", AS_NONE),
    ("TraefikService", AS_NONE),
    ("ServersTransport", AS_NONE),
    ("TLSStore", AS_NONE),
    ("GatewayClass", AS_NONE),
    ("Gateway", AS_NONE),
    ("ListenerSet", AS_NONE),
    ("HTTPRoute", AS_NONE),
    ("ReferenceGrant", AS_NONE),
];
const AS_NONE: &str = "it is as if there were none";

/// By kind and namespace; `None`: in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused(BTreeSet<(String, Option<Arc<str>>)>);

impl Refused {
    /// Notes that a kind may, or may not, be read; whether that is news.
    pub(super) fn note(&mut self, kind: String, scope: Option<Arc<str>>, is_refused: bool) -> bool {
        if is_refused { self.0.insert((kind, scope)) } else { self.0.remove(&(kind, scope)) }
    }

    /// Where objects of a kind are unseen; `None`: in all namespaces.
    pub(super) fn scopes(&self, kind: &str) -> impl Iterator<Item = Option<&Arc<str>>> {
        self.0.iter().filter(move |(other, _)| other == kind).map(|(_, scope)| scope.as_ref())
    }

    /// Whether objects of a kind are unseen in some namespace that counts.
    pub(super) fn any(&self, kind: &str, counts: impl Fn(&str) -> bool) -> bool {
        self.scopes(kind).any(|scope| scope.is_none_or(|namespace| counts(namespace)))
    }

    /// What to say of it.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.0.iter().filter_map(|(kind, scope)| {
            let (kind, effect) = TOLD.iter().find(|(told, _)| told == kind)?;
            let object = Object { kind, key: Key::new(scope.as_deref().unwrap_or_default(), "*") };
            let message = format!("may not be read: {effect}; let the role `list` and `watch` it, as the chart's does");
            Some(Problem { object, path: String::new(), message })
        })
    }
}

/// Where a kind is in the API: a server refuses also what it does not have.
pub(super) struct Place {
    pub client: Client,
    /// `/apis/GROUP/VERSION/../PLURAL`.
    pub url: String,
}

impl Place {
    /// Whether the server has the kind. Where it does not say so, it may have.
    pub(super) async fn is_served(&self) -> bool {
        let mut parts = self.url.trim_start_matches('/').split('/');
        let (Some("apis"), Some(group), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
            return true;
        };
        let plural = parts.next_back().unwrap_or_default();
        match self.client.list_api_group_resources(&format!("{group}/{version}")).await {
            Ok(list) => list.resources.iter().any(|one| one.name == plural),
            Err(kube::Error::Api(status)) => status.code != 404,
            Err(_) => true,
        }
    }
}
