//! Our translation as [`Seen`].

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use wayspan_proxy::middleware::HeaderModifier;

use super::super::super::{certificate, gateway, ingress, names};
use super::super::put;
use super::Provider;
use super::seen::{Router, Seen, Served, Servers, Share, Step, Way, refused, spoken};
use crate::config::model::{self, MiddlewareKind};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{Parts, UNUSABLE};

/// The certificates of Secrets, by what the fixtures hold in their places.
pub(super) type Texts = BTreeMap<Key, String>;

/// The objects of fixtures, as they would be if they were meant for us; what cannot be read is said.
pub(super) fn objects(text: &str, said: &mut Vec<String>) -> (Objects, Texts) {
    let text = text
        .replace("traefik.io/gateway-controller", gateway::CONTROLLER)
        .replace("traefik.io/ingress-controller", ingress::CONTROLLER);
    let mut objects = Objects::default();
    for document in text.split("\n---") {
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let value: Result<Value, _> = serde_saphyr::from_str(document);
        let added = match value {
            Ok(mut value) => {
                without_breaks(&mut value["data"]);
                if let Some(class) = value.pointer_mut("/metadata/annotations/kubernetes.io~1ingress.class")
                    && *class == "traefik"
                {
                    *class = "wayspan".into();
                }
                put(&mut objects, value).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = added {
            let kind = document.lines().find(|line| line.starts_with("kind:")).unwrap_or_default();
            said.push(format!("a fixture cannot be read: {error}: {kind}"));
        }
    }
    let texts = stand_ins(&mut objects);
    (objects, texts)
}

/// Go reads Base64 over several lines; no API server writes it so.
fn without_breaks(data: &mut Value) {
    for text in data.as_object_mut().into_iter().flatten().map(|(_, text)| text) {
        if let Some(one) = text.as_str() {
            *text = one.split_whitespace().collect::<String>().into();
        }
    }
}

/// Fixtures hold words in the places of certificates: real ones take them, and what they stand for is remembered.
fn stand_ins(objects: &mut Objects) -> Texts {
    let mut texts = Texts::new();
    let secrets: Vec<Secret> = objects.secrets.iter().map(|(_, secret)| Secret::clone(secret)).collect();
    for mut secret in secrets {
        let data = secret.data.get_or_insert_default();
        data.extend(
            secret.string_data.take().into_iter().flatten().map(|(key, text)| (key, ByteString(text.into_bytes()))),
        );
        let text = |data: &BTreeMap<String, ByteString>, key: &str| {
            data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).filter(|text| !text.is_empty())
        };
        if let (Some(chain), Some(_)) = (text(data, "tls.crt"), text(data, "tls.key")) {
            texts.insert(Key::of(&secret), chain.trim().to_owned());
            if certificate(&secret).is_err() {
                let made = rcgen::generate_simple_self_signed(["stand.in".to_owned()]).expect("a key of its own");
                let data = secret.data.get_or_insert_default();
                data.insert("tls.crt".to_owned(), ByteString(made.cert.pem().into_bytes()));
                data.insert("tls.key".to_owned(), ByteString(made.signing_key.serialize_pem().into_bytes()));
            }
        }
        objects.secrets.put(secret);
    }
    texts
}

pub(super) fn seen(provider: Provider, parts: &Parts, texts: &Texts) -> Seen {
    let mut seen = Seen::default();
    let middlewares: BTreeMap<&str, Step> =
        parts.middlewares.iter().map(|one| (one.name.as_str(), step(&one.kind))).collect();
    let services: BTreeMap<&str, &model::Service> =
        parts.services.iter().map(|one| (one.name.as_str(), &**one)).collect();
    for router in &parts.routers {
        let mut entry_points = router.entry_points.clone();
        entry_points.sort_unstable();
        let named =
            |name: &String| middlewares.get(name.as_str()).cloned().unwrap_or_else(|| Step::Named(name.clone()));
        let served = match services.get(router.service.as_str()) {
            Some(service) => served(service),
            None if router.service == UNUSABLE => refused(),
            None => Served::Named(router.service.clone()),
        };
        let observed = router.observability;
        let verbosity = observed.verbosity.map_or_else(|| "null".to_owned(), |one| format!("{one:?}").to_lowercase());
        let flag = |flag: Option<bool>| flag.map_or_else(|| "null".to_owned(), |flag| flag.to_string());
        let tls = router.tls.as_ref().map(|tls| tls.options.clone().unwrap_or_else(|| "default".to_owned()));
        seen.routers.insert(
            router.name.clone(),
            Router {
                rule: Ok(router.rule.clone()),
                text: router.rule.text.to_string(),
                priority: router.priority,
                // Without the age behind the rank: there, who comes first of equals is not said.
                turn: router.turn.as_deref().and_then(|turn| turn.get(..9)).map(Into::into),
                entry_points,
                way: Way {
                    steps: router.middlewares.iter().map(named).collect(),
                    served,
                    tls,
                    observed: format!("{} {} {verbosity}", flag(observed.tracing), flag(observed.metrics)),
                },
            },
        );
    }
    seen.middlewares = middlewares.into_iter().map(|(name, step)| (name.to_owned(), step)).collect();
    seen.certificates = parts
        .certificates
        .iter()
        .map(|one| texts.get(&one.secret).cloned().unwrap_or_else(|| one.secret.to_string()))
        .collect();
    let own = format!("@{}", provider.name());
    seen.others.extend(parts.tls_options.iter().map(|one| format!("tls.options: {}", one.name.trim_end_matches(&own))));
    if parts.default_certificate.is_some() {
        seen.others.insert("tls.stores: a default certificate".to_owned());
    }
    if provider == Provider::Gateway {
        seen.middlewares.retain(|name, _| !name.ends_with(names::GATEWAY));
    }
    seen
}

fn served(service: &model::Service) -> Served {
    let total: f64 = service.servers.iter().map(|server| f64::from(server.weight)).sum();
    let mut servers = Servers::default();
    for server in &service.servers {
        let share = if total == 0.0 { 0.0 } else { f64::from(server.weight) / total };
        // A server without an address is one that answers at once.
        let key = if server.host.is_empty() { "500".to_owned() } else { server.url.clone() };
        if let Some(headers) = &server.request_headers {
            let step = step(&MiddlewareKind::RequestHeaderModifier(headers.clone()));
            servers.extras.insert(format!("{step:?}"));
        }
        servers.shares.entry(key).or_insert_with(Share::default).0 += share;
    }
    servers.spoken.insert(spoken(service.pass_host, &service.timeouts, service.idle_max));
    Served::Servers(servers)
}

/// In the order of names where Traefik's configuration has none.
fn step(kind: &MiddlewareKind) -> Step {
    let kind = match kind {
        MiddlewareKind::RequestHeaderModifier(of) => MiddlewareKind::RequestHeaderModifier(sorted(of).into()),
        MiddlewareKind::ResponseHeaderModifier(of) => MiddlewareKind::ResponseHeaderModifier(sorted(of).into()),
        MiddlewareKind::Unsupported(name) => return Step::Unsupported(name.clone()),
        other => other.clone(),
    };
    Step::Kind(kind)
}

fn sorted(of: &HeaderModifier) -> HeaderModifier {
    let mut of = HeaderModifier { set: of.set.clone(), add: of.add.clone(), remove: of.remove.clone() };
    of.set.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    of.add.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    of.remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    of
}
