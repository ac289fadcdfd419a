//! What IngressRoutes lead to: Services, and TraefikServices that share requests out by weight. Weights become those of
//! servers, so that a group of groups is one service with one turn.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wayspan_proxy::snapshot::Timeouts;

use super::super::allocation;
use super::super::backends::{Backends, Port, flattened};
use super::super::ingress::plain;
use super::super::names::normalized;
use super::super::specs::Specs;
use super::super::transports::{Transport, Transports};
use super::super::{IDLE_MAX, Out};
use super::schema::{LoadBalancer, ServiceSpec};
use super::{CRD, called, key, names, within};
use crate::config::model::{KubernetesProvider, Server, Service};
use crate::kube::objects::Key;

/// TraefikServices inside each other.
const NESTING_MAX: usize = 8;
/// Services that one route leads to, each as often as it is named: what names others several times multiplies.
const SERVICES_MAX: usize = 256;

pub(super) struct Loader<'a, 't> {
    pub out: &'a mut Out<'t>,
    pub services: &'a mut Specs<ServiceSpec>,
    pub transports: &'a mut Transports,
    pub backends: &'a Backends<'t>,
    pub settings: &'a KubernetesProvider,
    /// Services that the route leads to so far.
    pub seen: usize,
}

/// Servers with how they are spoken to.
#[derive(Debug, Clone)]
struct Group {
    servers: Vec<Server>,
    pass_host: bool,
    transport: Transport,
}

impl Loader<'_, '_> {
    /// The name of a route's service; its own is called like the route.
    pub(super) fn of_route(
        &mut self,
        namespace: &str,
        route: &str,
        services: &[LoadBalancer],
    ) -> Result<String, String> {
        self.seen = 0;
        if let [only] = services
            && only.kind.as_deref() == Some("TraefikService")
        {
            return self.traefik_service(namespace, only);
        }
        let group = match services {
            [] => return Err("names no service".to_owned()),
            [only] => self.group(namespace, only, 0)?,
            many => self.weighted(namespace, many, 0)?,
        };
        self.add(route.to_owned(), group);
        Ok(route.to_owned())
    }

    fn traefik_service(&mut self, namespace: &str, reference: &LoadBalancer) -> Result<String, String> {
        if reference.name.contains('@') {
            return self.elsewhere(namespace, &reference.name);
        }
        let within = within(self.settings, namespace, reference.namespace.as_deref(), &reference.name)?;
        let name = called("TraefikService", within, &reference.name);
        let group = self.group(namespace, reference, 0)?;
        self.add(name.clone(), group);
        Ok(name)
    }

    /// Of another provider: `api@internal`, `shop@file`.
    fn elsewhere(&mut self, namespace: &str, name: &str) -> Result<String, String> {
        self.settings.may_name(namespace, name)?;
        if name.ends_with("@kubernetescrd") {
            if !self.settings.allow_cross_namespace {
                return Err(format!("`{name}`: another namespace's needs allowCrossNamespace; write its name alone"));
            }
            return self.named(name);
        }
        Ok(match names::referred(CRD, name).as_str() {
            "dashboard@internal" => "api@internal".to_owned(),
            other => other.to_owned(),
        })
    }

    /// By the name that other providers' objects call it by: a TraefikService, or what is made anyhow.
    fn named(&mut self, name: &str) -> Result<String, String> {
        let is_it = |key: &&Key| names::of(CRD, &normalized(&format!("{}-{}", key.namespace, key.name))) == name;
        let all: Vec<&Key> = self.out.view.all("TraefikService").map(|(key, _)| key).filter(is_it).collect();
        match all.as_slice() {
            [] => Ok(names::referred(CRD, name)),
            [key] => {
                let called = called("TraefikService", &key.namespace, &key.name);
                let group = self.of_key(key, 0)?;
                self.add(called.clone(), group);
                Ok(called)
            }
            [one, other, ..] => {
                Err(allocation::ambiguous(name, &[one, other].map(|key| format!("TraefikService {key}"))))
            }
        }
    }

    fn add(&mut self, name: String, group: Group) {
        let Group { servers, pass_host, transport: (timeouts, idle_max) } = group;
        let service = Service { name: name.clone(), servers, pass_host, timeouts, idle_max, conns_max: 0 };
        self.out.parts.services.insert(name, service);
    }

    fn group(&mut self, namespace: &str, one: &LoadBalancer, depth: usize) -> Result<Group, String> {
        self.seen += 1;
        if self.seen > SERVICES_MAX {
            return Err(format!("more than {SERVICES_MAX} services in all, each as often as it is named"));
        }
        refuse(one)?;
        match one.kind.as_deref() {
            None | Some("" | "Service") => self.service(namespace, one),
            Some("TraefikService") if one.name.contains('@') => {
                Err(format!("`{}`: a share for another provider's service is not supported yet", one.name))
            }
            Some("TraefikService") => self.nested(namespace, one, depth),
            Some(kind) => Err(format!("`{kind}` is no kind of service; write Service or TraefikService")),
        }
    }

    fn service(&mut self, namespace: &str, one: &LoadBalancer) -> Result<Group, String> {
        let namespace = within(self.settings, namespace, one.namespace.as_deref(), &one.name)?;
        let port = match &one.port {
            Some(IntOrString::Int(number)) if *number != 0 => Port::Number(*number),
            // Numbers come as texts too, where nothing checked them.
            Some(IntOrString::String(text)) if !text.is_empty() => {
                text.parse().map_or(Port::Name(text.as_str()), Port::Number)
            }
            _ => return Err(format!("Service {namespace}/{}: names no port", one.name)),
        };
        let (service, port) = self.backends.find(namespace, &one.name, port)?;
        plain(one.scheme.as_deref().filter(|scheme| !scheme.is_empty()), &port)
            .map_err(|message| format!("Service {namespace}/{}: {message}", one.name))?;
        let servers = self.backends.servers(service, &port)?;
        if servers.is_empty() && !self.settings.allow_empty {
            return Err(format!("Service {namespace}/{} has no endpoint that is ready", one.name));
        }
        let transport = one.servers_transport.as_deref().filter(|name| !name.is_empty());
        let transport = transport.map(|name| self.transport(namespace, name)).transpose()?;
        Ok(Group {
            servers,
            pass_host: one.pass_host_header.unwrap_or(true),
            transport: transport.unwrap_or((Timeouts::default(), IDLE_MAX)),
        })
    }

    fn transport(&mut self, namespace: &str, name: &str) -> Result<Transport, String> {
        if name.contains('@') {
            return Err(format!("serversTransport `{name}`: another provider's is not supported yet"));
        }
        self.transports.of(self.out.view, &key(namespace, name))
    }

    fn nested(&mut self, namespace: &str, one: &LoadBalancer, depth: usize) -> Result<Group, String> {
        let namespace = within(self.settings, namespace, one.namespace.as_deref(), &one.name)?;
        self.of_key(&key(namespace, &one.name), depth)
    }

    fn of_key(&mut self, key: &Key, depth: usize) -> Result<Group, String> {
        if depth >= NESTING_MAX {
            return Err(format!(
                "TraefikService {key}: more than {NESTING_MAX} inside each other, or one within itself"
            ));
        }
        let object = self.out.view.traefik_service(key);
        let spec = self.services.typed(key, object.ok_or_else(|| format!("there is no TraefikService {key}"))?);
        let spec = (*spec).as_ref().map_err(|message| format!("TraefikService {key}: {message}"))?;
        for (what, there) in [
            ("mirroring", spec.mirroring.is_some()),
            ("highestRandomWeight", spec.highest_random_weight.is_some()),
            ("failover", spec.failover.is_some()),
            ("weighted.sticky", spec.weighted.as_ref().is_some_and(|weighted| weighted.sticky.is_some())),
        ] {
            if there {
                return Err(format!("TraefikService {key}: {what} is not supported yet"));
            }
        }
        let weighted = spec.weighted.as_ref().and_then(|weighted| weighted.services.as_deref());
        let weighted = weighted.ok_or_else(|| format!("TraefikService {key} names no kind; write weighted"))?;
        self.weighted(&key.namespace, weighted, depth + 1).map_err(|message| format!("TraefikService {key}: {message}"))
    }

    fn weighted(&mut self, namespace: &str, many: &[LoadBalancer], depth: usize) -> Result<Group, String> {
        let mut groups = Vec::new();
        let mut spoken: Option<(bool, Transport)> = None;
        for one in many {
            let Group { servers, pass_host, transport } = self.group(namespace, one, depth)?;
            let this = (pass_host, transport);
            if *spoken.get_or_insert(this) != this {
                return Err(
                    "different passHostHeader or serversTransport within one weighted service are not supported \
                     yet"
                    .to_owned(),
                );
            }
            groups.push((one.weight.unwrap_or(1), servers));
        }
        let (pass_host, transport) = spoken.unwrap_or((true, (Timeouts::default(), IDLE_MAX)));
        Ok(Group { servers: flattened(groups), pass_host, transport })
    }
}

/// What would be served otherwise than it was meant.
fn refuse(one: &LoadBalancer) -> Result<(), String> {
    let strategy = one.strategy.as_deref().is_some_and(|name| !matches!(name, "" | "wrr" | "RoundRobin"));
    for (what, there) in [
        ("sticky", one.sticky.is_some()),
        ("healthCheck", one.health_check.is_some()),
        ("passiveHealthCheck", one.passive_health_check.is_some()),
        ("nativeLB", one.native_lb == Some(true)),
        ("nodePortLB", one.node_port_lb == Some(true)),
        ("middlewares", one.middlewares.as_ref().is_some_and(|all| !all.is_empty())),
        ("strategy", strategy),
    ] {
        if there {
            return Err(format!("service {}: {what} is not supported yet", one.name));
        }
    }
    Ok(())
}
