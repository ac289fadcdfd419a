//! Traefik's annotations on Ingress and Service objects.

use std::collections::BTreeMap;

use crate::config::model::{Observability, Verbosity};

const PREFIX: &str = "traefik.ingress.kubernetes.io/";

/// What Traefik's Gateway provider reads on a Service.
const GATEWAY_SERVICE: &str = "traefik.io/service.";

/// `router.*` of an Ingress.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OfRouter {
    pub entry_points: Vec<String>,
    pub middlewares: Vec<String>,
    pub priority: i64,
    pub path_matcher: Option<String>,
    pub tls: Option<Tls>,
    pub observability: Observability,
    /// What cannot be read of them: what the others say is all that is known.
    pub wrong: Vec<Wrong>,
    /// Whether it wants TLS is among that.
    pub is_tls_unknown: bool,
    /// How it means paths is.
    pub is_matcher_unknown: bool,
}

/// `router.tls`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tls {
    pub options: Option<String>,
}

/// `service.*` of a Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OfService {
    pub scheme: Option<String>,
    pub pass_host: Option<bool>,
    pub transport: Option<String>,
}

/// Where and what.
pub(super) type Wrong = (String, String);

/// The annotations of a group, without their prefix and in lower case: Traefik does not mind case.
fn group<'a>(
    annotations: Option<&'a BTreeMap<String, String>>,
    group: &'static str,
) -> impl Iterator<Item = (&'a str, String, &'a str)> {
    annotations.into_iter().flatten().filter_map(move |(key, value)| {
        let rest = key.strip_prefix(PREFIX)?.to_ascii_lowercase();
        Some((key.as_str(), rest.strip_prefix(group)?.strip_prefix('.')?.to_owned(), value.as_str()))
    })
}

pub(super) fn of_router(annotations: Option<&BTreeMap<String, String>>) -> OfRouter {
    let mut router = OfRouter::default();
    for (key, name, value) in group(annotations, "router") {
        if let Err(message) = router.read(&name, value) {
            router.wrong.push((path(key), message));
        }
    }
    router.is_tls_unknown &= router.tls.is_none();
    router
}

impl OfRouter {
    /// Whether not all of them can be done as they are meant.
    pub(super) fn is_refused(&self) -> bool {
        !self.wrong.is_empty()
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        let neither = || format!("`{value}` is neither true nor false");
        match name {
            "entrypoints" => self.entry_points = list(value),
            "middlewares" => self.middlewares = list(value),
            "priority" => self.priority = value.trim().parse().map_err(|_| format!("`{value}` is no whole number"))?,
            "pathmatcher" if matches!(value, "Path" | "PathPrefix" | "PathRegexp") => {
                self.path_matcher = Some(value.to_owned());
            }
            "pathmatcher" => {
                self.is_matcher_unknown = true;
                return Err(format!("`{value}` is none of Path, PathPrefix and PathRegexp"));
            }
            "rulesyntax" if matches!(value, "v3" | "default" | "") => {}
            "rulesyntax" => return Err("not supported yet: rules are Traefik v3's".to_owned()),
            "tls" => match boolean(value) {
                Some(true) => self.tls = Some(self.tls.take().unwrap_or_default()),
                Some(false) => self.tls = None,
                None => {
                    self.is_tls_unknown = true;
                    return Err(neither());
                }
            },
            name if name.starts_with("tls.") => {
                let tls = self.tls.get_or_insert_default();
                match name {
                    "tls.options" => tls.options = options(value)?,
                    // For certificates that Traefik would fetch.
                    name if name == "tls.domains" || name.starts_with("tls.domains.") => {}
                    _ => return Err("not supported yet".to_owned()),
                }
            }
            "observability.tracing" => self.observability.tracing = Some(boolean(value).ok_or_else(neither)?),
            "observability.metrics" => self.observability.metrics = Some(boolean(value).ok_or_else(neither)?),
            "observability.traceverbosity" => {
                let detailed = value.eq_ignore_ascii_case("detailed");
                self.observability.verbosity = Some(if detailed { Verbosity::Detailed } else { Verbosity::Minimal });
            }
            "observability.accesslogs" => {}
            _ => return Err("unknown annotation".to_owned()),
        }
        Ok(())
    }
}

/// The name of TLS options; `None`: those of whoever names none. An Ingress brings none of its own.
fn options(value: &str) -> Result<Option<String>, String> {
    if value != "default" && !value.ends_with("@file") && !value.ends_with("@kubernetescrd") {
        return Err("is no name such as default-strict@kubernetescrd or strict@file".to_owned());
    }
    let name = value.strip_suffix("@file").unwrap_or(value);
    Ok(Some(name.to_owned()).filter(|name| name != "default"))
}

pub(super) fn of_service(annotations: Option<&BTreeMap<String, String>>) -> Result<OfService, Wrong> {
    let mut service = OfService::default();
    for (key, name, value) in group(annotations, "service") {
        let wrong = |message: &str| Err((path(key), message.to_owned()));
        match name.as_str() {
            "serversscheme" => service.scheme = Some(value.to_owned()).filter(|scheme| !scheme.is_empty()),
            "passhostheader" => match boolean(value) {
                Some(pass) => service.pass_host = Some(pass),
                None => return wrong("is neither true nor false"),
            },
            "serverstransport" => service.transport = Some(value.to_owned()),
            "nativelb" | "nodeportlb" if boolean(value) == Some(false) => {}
            "nativelb" | "nodeportlb" => {
                return wrong("not supported yet: requests go straight to the pods of the EndpointSlices");
            }
            name if name == "sticky" || name.starts_with("sticky.") => return wrong("not supported yet"),
            "middlewares" => return wrong("not supported yet; name them in the router"),
            _ => return wrong("unknown annotation"),
        }
    }
    Ok(service)
}

/// What a Service asks of who leads there by the Gateway API, and cannot be had.
pub(super) fn for_gateways(annotations: Option<&BTreeMap<String, String>>) -> Result<(), Wrong> {
    for (key, value) in annotations.into_iter().flatten() {
        let name = key.to_ascii_lowercase();
        match name.strip_prefix(GATEWAY_SERVICE) {
            Some("nativelb" | "nodeportlb") if boolean(value) != Some(false) => {
                return Err((
                    path(key),
                    "not supported yet: requests go straight to the pods of the EndpointSlices".to_owned(),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn path(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn boolean(value: &str) -> Option<bool> {
    match value.trim() {
        "true" | "True" | "TRUE" | "1" | "t" => Some(true),
        "false" | "False" | "FALSE" | "0" | "f" => Some(false),
        _ => None,
    }
}
