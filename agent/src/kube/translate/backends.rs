//! From a Service's port to servers: straight to the pods of its EndpointSlices, the near ones first where the Service
//! asks for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::super::objects::{Key, Objects};
use super::view::View;
use crate::config::model::Server;

/// The Service of a slice.
const OF_SERVICE: &str = "kubernetes.io/service-name";
/// A node's zone.
pub(in crate::kube) const ZONE: &str = "topology.kubernetes.io/zone";
/// More would not fit a turn of the load balancer.
pub(super) const SERVERS_MAX: usize = 4096;

/// Where we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::kube) struct Here {
    pub node: Option<String>,
    pub zone: Option<String>,
}

/// A Service's port by number or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port<'p> {
    Number(i32),
    Name(&'p str),
}

/// EndpointSlices by their Service, kept from one translation to the next.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_service: HashMap<Key, BTreeMap<Key, Arc<EndpointSlice>>>,
    services: HashMap<Key, Key>,
}

impl Slices {
    /// Those of a Service, in the order of their names.
    pub(super) fn of<'s>(&'s self, service: &Key) -> impl Iterator<Item = &'s Arc<EndpointSlice>> + use<'s> {
        self.by_service.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// Looks at all of them.
    pub(super) fn of_all(objects: &Objects) -> Self {
        let mut slices = Self::default();
        for (key, _) in objects.slices.iter() {
            slices.renew(objects, key);
        }
        slices
    }

    /// Looks at one of them again. Gives the Services that it was and is of.
    pub(super) fn renew(&mut self, objects: &Objects, key: &Key) -> [Option<Key>; 2] {
        let before = self.services.remove(key);
        if let Some(slices) = before.as_ref().and_then(|service| self.by_service.get_mut(service)) {
            slices.remove(key);
        }
        if let Some(before) = before.as_ref().filter(|before| self.of(before).next().is_none()) {
            self.by_service.remove(before);
        }
        let slice = objects.slices.get(&key.namespace, &key.name);
        let of = slice.and_then(|slice| slice.metadata.labels.as_ref()?.get(OF_SERVICE));
        let now = of.map(|service| Key::new(&key.namespace, service));
        if let (Some(slice), Some(service)) = (slice, &now) {
            self.by_service.entry(service.clone()).or_default().insert(key.clone(), Arc::clone(slice));
            self.services.insert(key.clone(), service.clone());
        }
        [before, now]
    }
}

/// All backends, found by their Service.
pub(super) struct Backends<'o> {
    view: &'o View<'o>,
    here: &'o Here,
    /// Names of other clusters' or the internet's servers may be used.
    external_names: bool,
}

impl<'o> Backends<'o> {
    pub(super) fn new(view: &'o View<'o>, here: &'o Here, external_names: bool) -> Self {
        Self { view, here, external_names }
    }

    /// The Service and its port.
    pub(super) fn find(
        &self,
        namespace: &str,
        name: &str,
        port: Port<'_>,
    ) -> Result<(&'o Service, ServicePort), String> {
        let service = self.view.service(namespace, name);
        let service = service.ok_or_else(|| format!("there is no Service {namespace}/{name}"))?;
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let found = ports.iter().find(|candidate| match port {
            Port::Number(number) => candidate.port == number,
            Port::Name(name) => candidate.name.as_deref() == Some(name),
        });
        match (found, port) {
            (Some(found), _) => Ok((service, found.clone())),
            // An ExternalName needs no ports of its own.
            (None, Port::Number(number)) if is_external(service) => {
                Ok((service, ServicePort { port: number, ..ServicePort::default() }))
            }
            (None, _) => {
                let port = match port {
                    Port::Number(number) => number.to_string(),
                    Port::Name(name) => name.to_owned(),
                };
                Err(format!("Service {namespace}/{name} has no port {port}"))
            }
        }
    }

    /// Where a port's requests go; none while nobody is ready.
    pub(super) fn servers(&self, service: &Service, port: &ServicePort) -> Result<Vec<Server>, String> {
        let (namespace, name) = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        if is_external(service) {
            if !self.external_names {
                return Err(format!(
                    "Service {namespace}/{name} is an ExternalName; allow them with allowExternalNameServices"
                ));
            }
            let host = service.spec.as_ref().and_then(|spec| spec.external_name.as_deref()).unwrap_or_default();
            let host = host.trim_end_matches('.');
            let port = u16::try_from(port.port).ok().filter(|port| *port != 0 && !host.is_empty());
            let port = port.ok_or_else(|| format!("Service {namespace}/{name} names no host and port"))?;
            return Ok(vec![server(host, port, &name.into())]);
        }
        let mut ready = BTreeMap::new();
        let mut leaving = BTreeMap::new();
        // Names would lead wherever they are said to lead, as an ExternalName does. kube-proxy takes no such slices either.
        let is_allowed = |slice: &&Arc<EndpointSlice>| self.external_names || slice.address_type != "FQDN";
        for slice in self.view.slices(&Key::new(namespace, name)).filter(is_allowed) {
            let ports = slice.ports.as_deref().unwrap_or_default();
            let wanted = port.name.as_deref().unwrap_or_default();
            let named = ports.iter().find(|candidate| candidate.name.as_deref().unwrap_or_default() == wanted);
            let number = named.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok());
            let Some(number) = number.filter(|number| *number != 0) else { continue };
            for endpoint in &slice.endpoints {
                let state = State::of(endpoint);
                let list = match state {
                    State::Ready => &mut ready,
                    State::Leaving => &mut leaving,
                    State::Away => continue,
                };
                for address in &endpoint.addresses {
                    list.entry((address.as_str(), number)).or_insert(endpoint);
                }
            }
        }
        let list = if ready.is_empty() { leaving } else { ready };
        let list = self.near(service, list);
        let name: Arc<str> = name.into();
        Ok(list.into_iter().take(SERVERS_MAX).map(|(host, port)| server(host, port, &name)).collect())
    }

    /// Those that the Service's traffic distribution prefers from here; all where that would leave none.
    fn near<'e>(&self, service: &Service, list: BTreeMap<(&'e str, u16), &'e Endpoint>) -> Vec<(&'e str, u16)> {
        let wish = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
        let pick = |hint: fn(&Endpoint) -> Option<Vec<&str>>, here: &Option<String>| -> Vec<(&'e str, u16)> {
            let Some(here) = here.as_deref() else { return Vec::new() };
            // As kube-proxy: hints count when every endpoint has them, else the cluster is between two states.
            if !list.values().all(|endpoint| hint(endpoint).is_some()) {
                return Vec::new();
            }
            let near = list.iter().filter(|(_, endpoint)| hint(endpoint).is_some_and(|hints| hints.contains(&here)));
            near.map(|(address, _)| *address).collect()
        };
        let by_node = || pick(node_hints, &self.here.node);
        let by_zone = || pick(zone_hints, &self.here.zone);
        let near = match wish {
            Some("PreferSameNode") => Some(by_node()).filter(|near| !near.is_empty()).unwrap_or_else(by_zone),
            Some("PreferClose" | "PreferSameZone") => by_zone(),
            _ => Vec::new(),
        };
        if near.is_empty() { list.into_keys().collect() } else { near }
    }
}

/// For whom the EndpointSlice controller means an endpoint; where it says nothing, its own place stands for it.
fn node_hints(endpoint: &Endpoint) -> Option<Vec<&str>> {
    let hinted = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
    let hinted = hinted.map(|nodes| nodes.iter().map(|node| node.name.as_str()).collect());
    hinted.or_else(|| endpoint.node_name.as_deref().map(|node| vec![node]))
}

fn zone_hints(endpoint: &Endpoint) -> Option<Vec<&str>> {
    let hinted = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
    let hinted = hinted.map(|zones| zones.iter().map(|zone| zone.name.as_str()).collect());
    hinted.or_else(|| endpoint.zone.as_deref().map(|zone| vec![zone]))
}

enum State {
    Ready,
    /// Terminating, and still serving: for when nobody else is there.
    Leaving,
    Away,
}

impl State {
    fn of(endpoint: &Endpoint) -> Self {
        let Some(conditions) = &endpoint.conditions else { return Self::Ready };
        let (ready, terminating) = (conditions.ready, conditions.terminating.unwrap_or(false));
        // Unknown counts as yes; who terminates is never ready unless the Service publishes those who are not.
        if ready.unwrap_or(!terminating) {
            Self::Ready
        } else if conditions.serving.unwrap_or(ready.is_none()) && terminating {
            Self::Leaving
        } else {
            Self::Away
        }
    }
}

fn is_external(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

fn server(host: &str, port: u16, service: &Arc<str>) -> Server {
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Server {
        url: format!("http://{shown}:{port}"),
        host: host.to_owned(),
        port,
        path_prefix: String::new(),
        weight: 1,
        service: Some(Arc::clone(service)),
        request_headers: None,
    }
}

/// Groups of servers with the groups' weights as one list: each group gets its share, however many it has, and each of its
/// servers its part of that by its own weight. Groups without servers, or with none that has a weight, have no share.
pub(super) fn flattened(groups: Vec<(u32, Vec<Server>)>) -> Vec<Server> {
    // Divisible by every small number of servers, so that shares are exact where anyone could count.
    const UNIT: u128 = 720_720;
    let mut weights = Vec::new();
    let mut servers = Vec::new();
    for (weight, group) in groups {
        let all: u128 = group.iter().map(|server| u128::from(server.weight)).sum();
        for server in group {
            let share = u128::from(weight) * u128::from(server.weight);
            weights.push(if share == 0 { 0 } else { (share * UNIT / all).max(1) });
            servers.push(server);
        }
    }
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let most = weights.iter().max().copied().unwrap_or(0) / divisor;
    let scale = most.div_ceil(u128::from(u32::MAX)).max(1);
    for (server, weight) in servers.iter_mut().zip(weights) {
        let scaled = weight / divisor / scale;
        server.weight = u32::try_from(if weight == 0 { 0 } else { scaled.max(1) }).unwrap_or(u32::MAX);
    }
    servers.truncate(SERVERS_MAX);
    servers
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}
