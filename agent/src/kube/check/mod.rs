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
use super::watch::{self, Unread, Wanted};
use crate::config::model::{Dynamic, Kubernetes, KubernetesProvider};

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

/// Kinds of one provider, the one with the routes first: without a right to it there is nothing to say of the others.
const INGRESSES: &[&str] = &["Ingress", "IngressClass"];
const TRAEFIKS: &[&str] =
    &["IngressRoute", "Middleware", "TraefikService", "ServersTransport", "TLSOption", "TLSStore"];
const GATEWAYS: &[&str] =
    &["HTTPRoute", "Gateway", "GatewayClass", "ListenerSet", "ReferenceGrant", "BackendTLSPolicy", "Namespace"];
/// Of all.
const COMMON: &[&str] = &["Service", "EndpointSlice", "Secret"];

/// What a check is about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which providers, with what.
    pub settings: Kubernetes,
    /// What the configuration's file adds; `None`: there is none, so that what it may hold is not missed.
    pub file: Option<Dynamic>,
    /// The class that is tried.
    pub class: Option<String>,
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
    Ok(report(&client, asked.clone()).await)
}

async fn report(client: &Client, mut asked: Asked) -> Report {
    if asked.file.is_none() {
        // Nobody named these providers: what the cluster has no kinds for is not asked for.
        for (provider, group) in [(&mut asked.settings.crd, GROUPS[0]), (&mut asked.settings.gateway, GROUPS[2])] {
            if is_absent(client, group).await {
                *provider = None;
            }
        }
    }
    let (objects, unread) = watch::read(client, &Wanted::of(&asked.settings, None)).await;
    let mut seen = Seen { objects, unread: Vec::new(), others: Vec::new() };
    let unread = if asked.file.is_none() { dropped(&mut asked.settings, unread, &mut seen) } else { unread };
    let is_read = |group: &&&str| {
        let ours = if group.starts_with("traefik") { TRAEFIKS } else { GATEWAYS };
        !unread.iter().any(|one| ours.contains(&one.kind.as_str()) || COMMON.contains(&one.kind.as_str()))
    };
    for group in GROUPS.iter().filter(is_read) {
        others(client, group, &asked.settings, &mut seen).await;
    }
    seen.unread.extend(unread.into_iter().map(|one| NotRead::of(one, true)));
    findings::of(seen, &asked)
}

/// Takes away the providers whose routes may not be read, as nobody named them, with what could not be read for them alone: it is
/// said once. Where nothing is left all of it is missed.
fn dropped(settings: &mut Kubernetes, unread: Vec<Unread>, seen: &mut Seen) -> Vec<Unread> {
    let refused = |kinds: &[&'static str]| {
        let main = kinds.first().copied().unwrap_or_default();
        unread.iter().filter(move |one| one.kind == main && one.is_refused)
    };
    let asked = |provider: &KubernetesProvider| provider.namespaces.len().max(1);
    let providers = [&mut settings.ingress, &mut settings.crd, &mut settings.gateway];
    let there = providers.into_iter().zip([INGRESSES, TRAEFIKS, GATEWAYS]).filter(|(one, _)| one.is_some());
    let (lost, left): (Vec<_>, Vec<_>) =
        there.partition(|(one, kinds)| one.as_ref().is_some_and(|one| refused(kinds).count() >= asked(one)));
    if left.is_empty() {
        return unread;
    }
    let mut gone: Vec<&str> = Vec::new();
    for (provider, kinds) in lost {
        *provider = None;
        gone.extend(kinds);
        seen.unread.extend(refused(kinds).next().map(|one| NotRead::of(one.clone(), false)));
    }
    unread.into_iter().filter(|one| !gone.contains(&one.kind.as_str())).collect()
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

#[cfg(test)]
mod tests {
    use wayspan_tests::{Reply, Request, Upstream};

    use super::*;

    fn answer(status: &str, body: &str) -> Reply {
        let length = body.len();
        Reply::raw(
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )
    }

    /// A cluster with the definitions of all, of which some kinds may be read.
    fn cluster(request: &Request, readable: &[&str]) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let group = |name: &str, version: &str| {
            let version = format!(r#"{{"groupVersion":"{name}/{version}","version":"{version}"}}"#);
            format!(r#"{{"name":"{name}","versions":[{version}],"preferredVersion":{version}}}"#)
        };
        let resource = |plural: &str, kind: &str| {
            format!(
                r#"{{"name":"{plural}","singularName":"","namespaced":true,"kind":"{kind}","verbs":["list","watch"]}}"#
            )
        };
        let resources = |group: &str, all: &[String]| {
            let list = all.join(",");
            answer("200 OK", &format!(r#"{{"kind":"APIResourceList","groupVersion":"{group}","resources":[{list}]}}"#))
        };
        match path {
            "/apis" => {
                let groups = [group("traefik.io", "v1alpha1"), group("gateway.networking.k8s.io", "v1")].join(",");
                answer("200 OK", &format!(r#"{{"kind":"APIGroupList","groups":[{groups}]}}"#))
            }
            "/apis/traefik.io/v1alpha1" => resources(
                "traefik.io/v1alpha1",
                &[resource("ingressroutes", "IngressRoute"), resource("ingressroutetcps", "IngressRouteTCP")],
            ),
            "/apis/gateway.networking.k8s.io/v1" => resources(
                "gateway.networking.k8s.io/v1",
                &[resource("httproutes", "HTTPRoute"), resource("grpcroutes", "GRPCRoute")],
            ),
            _ if readable.contains(&last) => {
                let items =
                    if last == "ingressroutetcps" { r#"{"metadata":{"name":"t","namespace":"a"}}"# } else { "" };
                answer("200 OK", &format!(r#"{{"kind":"List","metadata":{{}},"items":[{items}]}}"#))
            }
            _ => answer(
                "403 Forbidden",
                &format!(
                    r#"{{"kind":"Status","status":"Failure","message":"{last} is forbidden","reason":"Forbidden","code":403}}"#
                ),
            ),
        }
    }

    const OF_TRAEFIK: &[&str] = &[
        "services",
        "endpointslices",
        "secrets",
        "ingresses",
        "ingressclasses",
        "ingressroutes",
        "middlewares",
        "traefikservices",
        "serverstransports",
        "tlsoptions",
        "tlsstores",
        "ingressroutetcps",
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn a_provider_that_nobody_named_and_nobody_may_read_is_left_out_and_said_once() {
        let without = |kind: &str| -> Vec<&str> { OF_TRAEFIK.iter().copied().filter(|one| *one != kind).collect() };
        let tcp = "IngressRouteTCP a/t: not served: its kind is not supported yet";
        let dropped = "HTTPRoute: cannot be read, and would not be served: httproutes is forbidden";
        for (readable, want, others) in [
            (OF_TRAEFIK.to_vec(), vec![dropped], true),
            // What is read of it is not all.
            (without("middlewares"), vec![dropped, "Middleware: cannot be read: middlewares is forbidden"], false),
            // Without them nothing can be said of the rest.
            (without("secrets"), vec![dropped, "Secret: cannot be read: secrets is forbidden"], false),
        ] {
            let may = readable.clone();
            let server = Upstream::start(move |request| cluster(request, &may)).unwrap();
            let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
            let client = Client::try_from(config).unwrap();
            let settings = crate::config::kubernetes_defaults();
            let report = report(&client, Asked { settings, file: None, class: None }).await;
            let told = report.to_string();
            let unread: Vec<&str> = told.lines().filter(|line| line.contains("cannot be read")).collect();
            assert_eq!(unread, want, "{told}");
            assert_eq!(told.contains(tcp), others, "{told}");
            assert!(!told.contains("GRPCRoute"), "{told}");
        }
    }

    #[test]
    fn a_provider_that_may_be_read_in_some_namespace_is_not_left_out() {
        for (refused, is_left_out) in [(&["a"][..], false), (&["a", "b"], true)] {
            let mut settings = crate::config::kubernetes_defaults();
            let all = [&mut settings.ingress, &mut settings.crd, &mut settings.gateway];
            all.into_iter().flatten().for_each(|one| one.namespaces = vec!["a".to_owned(), "b".to_owned()]);
            let unread = refused.iter().map(|namespace| Unread {
                kind: "HTTPRoute".to_owned(),
                namespace: Some((*namespace).to_owned()),
                why: "no".to_owned(),
                is_refused: true,
            });
            let mut seen = Seen::default();
            let needed = dropped(&mut settings, unread.collect(), &mut seen);
            assert_eq!((settings.gateway.is_none(), seen.unread.len()), (is_left_out, usize::from(is_left_out)));
            assert_eq!(needed.len(), usize::from(!is_left_out));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_nothing_may_be_read_all_of_it_is_missed() {
        let server = Upstream::start(|request| cluster(request, &[])).unwrap();
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let report =
            report(&client, Asked { settings: crate::config::kubernetes_defaults(), file: None, class: None }).await;
        assert!(!report.is_whole && report.unread.len() > 10 && report.unread.iter().all(|one| one.is_needed));
    }
}
