//! Traefik's configuration as [`Seen`].

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use wayspan_proxy::middleware::{HeaderModifier, PathChange, RequestRedirect, UrlRewrite, as_path};
use wayspan_proxy::rule::Rule;
use wayspan_proxy::snapshot::Timeouts;

use super::super::super::{IDLE_MAX, names};
use super::Provider;
use super::seen::{Router, Seen, Served, Servers, Step, Way, refused, spoken};
use crate::config::fragment;
use crate::config::model::MiddlewareKind;

pub(super) fn seen(provider: Provider, configuration: &Value) -> Seen {
    let theirs = Theirs { provider, http: &configuration["http"] };
    let mut seen = Seen::default();
    for (name, router) in entries(&theirs.http["routers"]) {
        if let Some(router) = theirs.router(router) {
            seen.routers.insert(theirs.own(name), router);
        }
    }
    for (name, middleware) in entries(&theirs.http["middlewares"]) {
        // Chains are compared where they are used.
        if middleware.get("chain").is_none() {
            seen.middlewares.insert(theirs.own(name), step(middleware));
        }
    }
    for one in configuration["tls"]["certificates"].as_array().into_iter().flatten() {
        seen.certificates.insert(
            text(&one["certificate"]["certFile"])
                .unwrap_or(text(&one["certFile"]).unwrap_or_default())
                .trim()
                .to_owned(),
        );
    }
    for (what, there) in [
        ("tls.options", &configuration["tls"]["options"]),
        ("tcp.routers", &configuration["tcp"]["routers"]),
        ("udp.routers", &configuration["udp"]["routers"]),
    ] {
        seen.others.extend(entries(there).map(|(name, _)| format!("{what}: {name}")));
    }
    if !configuration["tls"]["stores"]["default"]["defaultCertificate"].is_null() {
        seen.others.insert("tls.stores: a default certificate".to_owned());
    }
    seen
}

struct Theirs<'c> {
    provider: Provider,
    http: &'c Value,
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

impl Theirs<'_> {
    /// A name of this provider's in full.
    fn own(&self, name: &str) -> String {
        names::of(self.provider.name(), name)
    }

    fn referred(&self, name: &str) -> String {
        names::referred(self.provider.name(), name)
    }

    /// The part of a section that a name means, where it is this provider's.
    fn local(&self, section: &str, name: &str) -> Option<&Value> {
        let local = match name.rsplit_once('@') {
            Some((local, provider)) => (provider == self.provider.name()).then_some(local)?,
            None => name,
        };
        self.http[section].get(local)
    }

    fn router(&self, router: &Value) -> Option<Router> {
        let written = text(&router["rule"]).unwrap_or_default();
        // A rule of nothing is `PathPrefix(/)` in our words; it is a router that Traefik cannot build.
        let rule = if written.is_empty() { "PathPrefix(`/`)" } else { written };
        let mut entry_points = texts(&router["entryPoints"]);
        entry_points.sort_unstable();
        let mut steps = Vec::new();
        for name in texts(&router["middlewares"]) {
            self.steps(&name, 0, &mut steps);
        }
        let tls = router.get("tls").filter(|tls| !tls.is_null()).map(|tls| {
            let options = text(&tls["options"]).map(|name| self.referred(name));
            let resolver = text(&tls["certResolver"]).map(|name| format!(" resolver {name}")).unwrap_or_default();
            options.filter(|name| !name.starts_with("default@")).unwrap_or_else(|| "default".to_owned()) + &resolver
        });
        let observed = &router["observability"];
        let parents = texts(&router["parentRefs"]);
        let served = match text(&router["service"]) {
            _ if !parents.is_empty() => Served::Named(format!("child of {}", parents.join(", "))),
            Some(name) => self.served(name),
            None => Served::Named("no service".to_owned()),
        };
        let syntax = text(&router["ruleSyntax"]).filter(|syntax| *syntax == "v2");
        Some(Router {
            rule: match syntax {
                Some(_) => Err("the syntax v2".to_owned()),
                None => Rule::parse(rule).map_err(|error| error.to_string()),
            },
            text: written.to_owned(),
            priority: router["priority"].as_i64().unwrap_or(0),
            turn: None,
            entry_points,
            way: Way {
                steps,
                served,
                tls,
                observed: format!(
                    "{} {} {}",
                    observed["tracing"],
                    observed["metrics"],
                    text(&observed["traceVerbosity"]).unwrap_or("null")
                ),
            },
        })
    }

    fn steps(&self, name: &str, depth: usize, all: &mut Vec<Step>) {
        let Some(middleware) = self.local("middlewares", name) else {
            return all.push(Step::Named(self.referred(name)));
        };
        match middleware.get("chain") {
            Some(chain) if depth < 8 => {
                texts(&chain["middlewares"]).iter().for_each(|name| self.steps(name, depth + 1, all));
            }
            _ => all.push(step(middleware)),
        }
    }

    fn served(&self, name: &str) -> Served {
        if self.local("services", name).is_none() && name.contains('@') {
            return Served::Named(self.referred(name));
        }
        let mut servers = Servers::default();
        self.share(name, 1.0, 0, &mut servers);
        if servers.shares.keys().all(|key| key == "500") && !servers.shares.is_empty() {
            return refused();
        }
        Served::Servers(servers)
    }

    fn share(&self, name: &str, share: f64, depth: usize, into: &mut Servers) {
        let Some(service) = self.local("services", name).filter(|_| depth < 8) else {
            into.extras.insert(format!("no service {}", self.referred(name)));
            return;
        };
        for name in texts(&service["middlewares"]) {
            // The Gateway API's filters of a backend.
            let step = self.local("middlewares", &name).map(step);
            into.extras.insert(step.map_or_else(|| format!("service middleware {name}"), |step| format!("{step:?}")));
        }
        for (kind, value) in entries(service).filter(|(kind, _)| *kind != "middlewares") {
            match kind.as_str() {
                "loadBalancer" => self.balancer(value, share, into),
                "weighted" => self.weighted(value, share, depth, into),
                other => {
                    into.extras.insert(format!("{other} {value}"));
                }
            }
        }
    }

    fn weighted(&self, weighted: &Value, share: f64, depth: usize, into: &mut Servers) {
        for (kind, value) in entries(weighted).filter(|(kind, _)| *kind != "services") {
            into.extras.insert(format!("{kind} {value}"));
        }
        let all = weighted["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        let weight = |one: &Value| one["weight"].as_f64().unwrap_or(1.0);
        let total: f64 = all.iter().map(weight).sum();
        for one in all {
            let share = if total == 0.0 { 0.0 } else { share * weight(one) / total };
            match one["status"].as_u64() {
                Some(status) => into.shares.entry(status.to_string()).or_default().0 += share,
                None => self.share(text(&one["name"]).unwrap_or_default(), share, depth + 1, into),
            }
        }
    }

    fn balancer(&self, balancer: &Value, share: f64, into: &mut Servers) {
        let transport = text(&balancer["serversTransport"]);
        let local = transport.and_then(|name| self.local("serversTransports", name));
        let mut timeouts = (Timeouts::default(), IDLE_MAX);
        match (transport, local) {
            (None, _) => {}
            (Some(name), None) => {
                into.extras.insert(format!("serversTransport {}", self.referred(name)));
            }
            (Some(_), Some(transport)) => match fragment::transport("", transport) {
                (Some(read), faults) if faults.is_empty() => timeouts = read,
                (_, faults) => {
                    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                    into.extras.insert(format!("serversTransport: {}", faults.join("; ")));
                }
            },
        }
        for (kind, value) in entries(balancer) {
            let usual = match kind.as_str() {
                "servers" | "passHostHeader" | "serversTransport" => true,
                "strategy" => *value == "wrr",
                "responseForwarding" => value["flushInterval"] == "100ms",
                _ => false,
            };
            if !usual {
                into.extras.insert(format!("{kind} {value}"));
            }
        }
        into.spoken.insert(spoken(balancer["passHostHeader"] != false, &timeouts.0, timeouts.1));
        let all = balancer["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Who terminates has no new requests while there is another.
        let fenced = |one: &&Value| one["fenced"] == true;
        let some: Vec<&Value> = all.iter().filter(|one| !fenced(one)).collect();
        let some = if some.is_empty() { all.iter().collect() } else { some };
        let weight = |one: &Value| one["weight"].as_f64().unwrap_or(1.0);
        let total: f64 = some.iter().map(|one| weight(one)).sum();
        for one in some {
            let url = text(&one["url"]).unwrap_or_default().to_owned();
            into.shares.entry(url).or_default().0 += share * weight(one) / total;
        }
    }
}

/// A middleware's JSON, read as a file's would be; what only the Gateway API has is read here.
fn step(middleware: &Value) -> Step {
    if let Some((kind, value)) = entries(middleware).next()
        && let Some(kind) = filter(kind, value)
    {
        return Step::Kind(kind);
    }
    let (dynamic, faults) = fragment::part("", "http.middlewares", middleware);
    match (dynamic.middlewares.into_iter().next(), faults.first()) {
        (Some(middleware), None) => Step::Kind(middleware.kind.clone()),
        (_, Some(fault)) => Step::Unsupported(fault.to_string()),
        (None, None) => Step::Unsupported(middleware.to_string()),
    }
}

fn filter(kind: &str, value: &Value) -> Option<MiddlewareKind> {
    let path = || {
        let with = as_some_path(value["path"].as_str()?);
        let prefix = value["pathPrefix"].as_str().map(str::to_owned);
        Some(match prefix {
            Some(prefix) => PathChange::Prefix { prefix, with },
            None => PathChange::Full(with),
        })
    };
    Some(match kind {
        "requestHeaderModifier" => MiddlewareKind::RequestHeaderModifier(modifier(value)?.into()),
        "responseHeaderModifier" => MiddlewareKind::ResponseHeaderModifier(modifier(value)?.into()),
        "requestRedirect" => MiddlewareKind::RequestRedirect(
            RequestRedirect {
                scheme: text(&value["scheme"]).map(str::to_owned),
                hostname: text(&value["hostname"]).map(str::to_owned),
                port: text(&value["port"]).and_then(|port| port.parse().ok()),
                path: path(),
                status: StatusCode::from_u16(u16::try_from(value["statusCode"].as_u64().unwrap_or(302)).ok()?).ok()?,
            }
            .into(),
        ),
        "URLRewrite" => MiddlewareKind::UrlRewrite(
            UrlRewrite {
                hostname: text(&value["hostname"]).and_then(|name| HeaderValue::from_str(name).ok()),
                path: path(),
            }
            .into(),
        ),
        _ => return None,
    })
}

fn as_some_path(text: &str) -> String {
    if text.is_empty() { String::new() } else { as_path(text) }
}

fn modifier(value: &Value) -> Option<HeaderModifier> {
    let pairs = |key: &str| -> Option<Vec<_>> {
        let all: BTreeMap<_, _> = entries(&value[key]).collect();
        let pair = |(name, value): (&String, &Value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.as_str()?).ok()?))
        };
        all.into_iter().map(pair).collect()
    };
    let remove: BTreeSet<String> = texts(&value["remove"]).into_iter().collect();
    let remove = remove.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    Some(HeaderModifier { set: pairs("set")?, add: pairs("add")?, remove: remove.collect::<Option<_>>()? })
}
