//! Services and their servers: their places beside the routes' tables, and the change of some of them alone.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderValue, header};
use wayspan_proxy::cap::Cap;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::middleware::HeaderModifier;
use wayspan_proxy::snapshot::{self, Server, Services, Snapshot};

use super::same::{kept, same_server, same_service};
use super::{Build, Registry};
use crate::catalog::{Catalog, ServerNames, qualified};
use crate::config::model;
use crate::config::resolve::Resolved;

/// By service, URL, and how often the URL stood in the service before.
pub(super) type ServerKey = (String, String, usize);

/// What became of a service.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) model: Arc<model::Service>,
    pub(super) built: Arc<snapshot::Service>,
    /// Names of its servers may have other addresses.
    pub(super) is_stale: bool,
}

/// Which service stands where in [`Snapshot::services`]. A service keeps its place for as long as it is in use.
#[derive(Debug, Default)]
pub(super) struct Places {
    of: HashMap<u32, u32>,
    free: Vec<u32>,
    given: u32,
}

impl Places {
    fn of(&mut self, service: u32) -> u32 {
        let (free, given) = (&mut self.free, &mut self.given);
        *self.of.entry(service).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                let place = *given;
                *given = given.saturating_add(1);
                place
            })
        })
    }

    /// Ends a build: services that are not in use any more give their places back, the others stand there.
    pub(super) fn renew(&mut self, services: &HashMap<u32, Served>, table: &mut Services) {
        let free = &mut self.free;
        self.of.retain(|id, place| {
            let served = services.get(id);
            match (served, table.get(*place)) {
                (Some(served), Some(old)) if Arc::ptr_eq(&served.built, old) => {}
                (Some(served), _) => table.put(*place, Some(Arc::clone(&served.built))),
                (None, _) => {
                    table.put(*place, None);
                    free.push(*place);
                }
            }
            served.is_some()
        });
    }
}

impl Build<'_> {
    /// A service's place.
    pub(super) fn service(&mut self, service: &Arc<model::Service>) -> u32 {
        let known = self.registry.services.known(&service.name);
        if let Some(id) = known.filter(|id| self.now.services.contains_key(id)) {
            return self.registry.places.of(id);
        }
        let last = known.and_then(|id| Some((id, self.registry.last.services.remove(&id)?)));
        let (id, served) = match last {
            Some((id, last)) if Arc::ptr_eq(&last.model, service) && !last.is_stale => {
                self.registry.services.again(id);
                last.built.servers.iter().for_each(|server| self.registry.servers.again(server.id));
                (id, last)
            }
            last => self.registry.served(service, last.as_ref().map(|(_, last)| &last.built), self.inputs.resolved),
        };
        self.now.services.insert(id, served);
        self.registry.places.of(id)
    }
}

impl Registry {
    /// Gives services other servers, and nothing else: neither routes nor tables are touched. To be called with those of the
    /// last build's services that are others now.
    pub fn swap(&mut self, services: &[Arc<model::Service>], now: MonoNs) -> (Snapshot, Catalog) {
        let resolved = std::mem::take(&mut self.resolved);
        for service in services {
            let id = self.services.known(&service.name);
            // One that no router leads to was not built.
            let Some(last) = id.and_then(|id| self.last.services.remove(&id)) else { continue };
            let (id, served) = self.served(service, Some(&last.built), &resolved);
            let is_left = |server: &Arc<Server>| !served.built.servers.iter().any(|new| new.id == server.id);
            let lost: Vec<u32> = last.built.servers.iter().filter(|old| is_left(old)).map(|old| old.id).collect();
            for (key, _) in keys(&last.model) {
                if self.servers.known(&key).is_some_and(|id| lost.contains(&id)) {
                    self.servers.leave(key, now);
                }
            }
            self.snapshot.services.put(self.places.of(id), Some(Arc::clone(&served.built)));
            self.last.services.insert(id, served);
        }
        self.resolved = resolved;
        (self.snapshot.clone(), self.catalog(now))
    }

    fn served(
        &mut self,
        service: &Arc<model::Service>,
        last: Option<&Arc<snapshot::Service>>,
        resolved: &Resolved,
    ) -> (u32, Served) {
        let id = self.services.named(service.name.clone(), qualified(&service.name).as_str());
        let before: HashMap<u32, &Arc<Server>> =
            last.iter().flat_map(|last| last.servers.iter()).map(|server| (server.id, server)).collect();
        let servers = keys(service)
            .map(|(key, server)| self.server(key, server, service.conns_max, |id| before.get(&id).copied(), resolved));
        let servers = servers.collect();
        let weights: Vec<u32> = service.servers.iter().map(|server| server.weight).collect();
        let built = snapshot::Service {
            id,
            name: service.name.as_str().into(),
            servers,
            turn: snapshot::turn(&weights),
            pass_host: service.pass_host,
            timeouts: service.timeouts,
            idle_max: service.idle_max,
        };
        (id, Served { model: Arc::clone(service), built: kept(last, built, same_service), is_stale: false })
    }

    /// A server; the one of last time, where it is the same.
    pub(super) fn server<'l>(
        &mut self,
        key: ServerKey,
        server: &model::Server,
        conns_max: usize,
        last: impl Fn(u32) -> Option<&'l Arc<Server>>,
        resolved: &Resolved,
    ) -> Arc<Server> {
        let addresses = resolved.addresses(&server.host, server.port);
        let names = ServerNames {
            url: server.url.as_str().into(),
            host: server.host.as_str().into(),
            port: server.port,
            path_prefix: server.path_prefix.as_str().into(),
            addresses: addresses.clone(),
            service: server.service.clone(),
        };
        let id = self.servers.named(key, names);
        let last = last(id);
        let built = Server {
            id,
            url: server.url.as_str().into(),
            authority: authority(&server.host, server.port).into(),
            host: server.host.as_str().into(),
            path_prefix: server.path_prefix.as_str().into(),
            addresses: addresses.into(),
            request_headers: server.request_headers.clone(),
            cap: cap(last, conns_max),
        };
        kept(last, built, same_server)
    }
}

/// The servers of a service with the names of their ids.
fn keys(service: &model::Service) -> impl Iterator<Item = (ServerKey, &model::Server)> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    service.servers.iter().map(move |server| {
        let nth = times.entry(&server.url).or_default();
        let key = (service.name.clone(), server.url.clone(), *nth);
        *nth += 1;
        (key, server)
    })
}

/// What the api tells a request that comes through an entry point from one of this machine's own by, whatever middlewares make of it
/// (RFC 7239, section 4).
pub(super) fn forwarded() -> Arc<HeaderModifier> {
    let by = (header::FORWARDED, HeaderValue::from_static("by=_wayspan"));
    Arc::new(HeaderModifier { set: vec![by], ..HeaderModifier::default() })
}

/// A server's cap; the one of last time where it is as large, since connections hold places under it.
fn cap(last: Option<&Arc<Server>>, max: usize) -> Option<Arc<Cap>> {
    let kept = last.and_then(|last| last.cap.as_ref()).filter(|cap| cap.max() == max).map(Arc::clone);
    (max > 0).then(|| kept.unwrap_or_else(|| Cap::new(max)))
}

/// `Host`: HTTP's own port is left out, an IPv6 address stands in brackets.
fn authority(host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == 80 { host } else { format!("{host}:{port}") }
}
