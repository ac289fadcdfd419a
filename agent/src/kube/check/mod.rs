//! What of a cluster's objects would be served differently or not at all, without serving: the way to try it beside another
//! controller. Reading is here; [`findings`] is pure, [`nginx`] knows ingress-nginx's annotations, and [`report`] tells people and
//! programs. Objects are read and translated by those who serve them, so that nothing is said twice.

mod findings;
mod nginx;
mod report;

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::error::DiscoveryError;
use kube::{Api, Client, discovery};

pub use self::report::{Count, Effect, Finding, NotRead, Report};
use super::client::{self, ConnectError, reason};
use super::objects::{Key, Objects};
use super::watch::{self, Wanted};
use crate::config::model::{Dynamic, Kubernetes};

/// Groups whose other kinds say what is served by controllers that know them.
const GROUPS: [&str; 4] =
    ["traefik.io", "traefik.containo.us", "gateway.networking.k8s.io", "gateway.networking.x-k8s.io"];
/// Those of their kinds that are read, or that no controller reads.
const READ: [&str; 13] = [
    "IngressRoute",
    "Middleware",
    "TraefikService",
    "ServersTransport",
    "TLSOption",
    "TLSStore",
    "GatewayClass",
    "Gateway",
    "ListenerSet",
    "HTTPRoute",
    "BackendTLSPolicy",
    "ReferenceGrant",
    "ReferenceGrantList",
];

/// What a check is about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which providers, with what.
    pub settings: Kubernetes,
    /// What the configuration's file adds; `None`: there is none, so that what it may hold is not missed.
    pub file: Option<Dynamic>,
}

/// What was read.
#[derive(Debug, Default)]
struct Seen {
    objects: Objects,
    /// Of kinds that are not served: kind, group, object.
    others: Vec<(String, String, Key)>,
    unread: Vec<NotRead>,
}

/// Reads the cluster's objects and says what would become of them.
///
/// # Errors
/// When it is not known where the API server is. One that does not answer is in the report.
pub async fn run(asked: &Asked) -> Result<Report, ConnectError> {
    let client = client::connect(&asked.settings.connection()).await?;
    let mut asked = asked.clone();
    if asked.file.is_none() {
        // Nobody named these providers: what the cluster has no kinds for is not asked for.
        for (provider, group) in [(&mut asked.settings.crd, GROUPS[0]), (&mut asked.settings.gateway, GROUPS[2])] {
            if is_absent(&client, group).await {
                *provider = None;
            }
        }
    }
    let (objects, unread) = watch::read(&client, &Wanted::of(&asked.settings, None)).await;
    let unread = unread.into_iter().map(|one| NotRead {
        kind: one.kind,
        namespace: one.namespace.unwrap_or_default(),
        why: one.why,
        is_needed: true,
    });
    let mut seen = Seen { objects, unread: unread.collect(), others: Vec::new() };
    if seen.unread.is_empty() {
        for group in GROUPS {
            others(&client, group, &asked.settings, &mut seen).await;
        }
    }
    Ok(findings::of(seen, &asked))
}

async fn is_absent(client: &Client, group: &str) -> bool {
    let found = discovery::oneshot::group(client, group).await;
    matches!(found, Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))))
}

/// Objects of a group's other kinds. Who may not list them has missed nothing that could be served.
async fn others(client: &Client, group: &str, settings: &Kubernetes, seen: &mut Seen) {
    let wanted = if group.starts_with("traefik") { &settings.crd } else { &settings.gateway };
    let Some(wanted) = wanted else { return };
    let Ok(found) = discovery::oneshot::group(client, group).await else { return };
    for (kind, _) in found.resources_by_stability() {
        if READ.contains(&kind.kind.as_str()) && group != "traefik.containo.us" {
            continue;
        }
        match list(client, &kind).await {
            Ok(all) => {
                let of_it = all.into_iter().filter(|key| wanted.serves(&key.namespace));
                seen.others.extend(of_it.map(|key| (kind.kind.clone(), kind.group.clone(), key)));
            }
            Err(error) => seen.unread.push(NotRead {
                kind: kind.kind.clone(),
                namespace: String::new(),
                why: reason(&error),
                is_needed: false,
            }),
        }
    }
}

/// Names alone are wanted, and of more than a page nobody reads on.
async fn list(client: &Client, kind: &ApiResource) -> Result<Vec<Key>, kube::Error> {
    let all = Api::<DynamicObject>::all_with(client.clone(), kind);
    Ok(all.list_metadata(&ListParams::default().limit(500)).await?.items.iter().map(Key::of).collect())
}
