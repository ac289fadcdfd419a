//! What the agent tells the workers: entry points, routes, services and servers, as immutable values swapped part by
//! part. Ids are stable across snapshots, so pools, balancing and counters that live beside it survive a swap.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;

use crate::cap::Cap;
use crate::middleware::{HeaderModifier, Middleware};
use crate::route::RouteTable;
use crate::tls::Tls;

/// The whole routing state.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Listening points, each with its table.
    pub entry_points: Vec<Arc<EntryPoint>>,
    /// Where routes lead, beside their tables: other servers for a service leave every table as it is.
    pub services: Services,
    /// Lower-case names of request headers that records keep.
    pub captured_request_headers: Arc<[Box<str>]>,
    /// Lower-case names of response headers that records keep.
    pub captured_response_headers: Arc<[Box<str>]>,
    /// Entry points that are gone while connections of theirs are still open: the proxy remembers them itself.
    pub left: Vec<Arc<EntryPoint>>,
}

impl Snapshot {
    /// The entry point with this id, also one that is gone and still has connections.
    #[must_use]
    pub fn entry_point(&self, id: u32) -> Option<&Arc<EntryPoint>> {
        self.entry_points.iter().chain(&self.left).find(|entry_point| entry_point.id == id)
    }

    /// Whether an entry point is there, and not gone.
    #[must_use]
    pub fn has(&self, entry_point: u32) -> bool {
        self.entry_points.iter().any(|one| one.id == entry_point)
    }
}

/// A place to listen.
#[derive(Debug, Clone)]
pub struct EntryPoint {
    /// Stable id: the same name keeps it.
    pub id: u32,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Addresses to bind; `:8000` was expanded by the agent to `[::]:8000`, dual-stack.
    pub addresses: Vec<SocketAddr>,
    /// Times and sizes that hold for its connections.
    pub limits: Limits,
    /// Peers whose X-Forwarded-* are believed.
    pub trusted: Vec<IpNet>,
    /// Believe everyone (Traefik's `forwardedHeaders.insecure`).
    pub trust_all: bool,
    /// Whether dot segments and doubled slashes are removed from paths before routes are looked for.
    pub sanitize_path: bool,
    /// Whether requests that match no route are traced; the others are their routes'.
    pub traced: bool,
    /// Whether requests that match no route are counted; the others are their routes'.
    pub metered: bool,
    /// Its routes; where it takes TLS, those of plain requests.
    pub routes: Arc<RouteTable>,
    /// Where a connection may speak TLS.
    pub tls: Option<Arc<Tls>>,
}

/// Times and sizes for an entry point's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From a request's first byte (or the accept) to the end of its head; zero: none.
    pub head_timeout: Duration,
    /// From a request's first byte to the end of its body; zero: none.
    pub read_timeout: Duration,
    /// Between requests; zero: none.
    pub idle_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Open connections per entry point in this process.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Traefik's readTimeout and idleTimeout; the head's is Envoy's advice for an edge.
            head_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(180),
            // Traefik's 1 MiB lets one client hold 1 MiB a connection; 64 KiB holds every real head.
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            connections_max: 50_000,
        }
    }
}

/// One router: what a matched request gets.
#[derive(Debug)]
pub struct Route {
    /// Stable id.
    pub id: u32,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// The TLS options that it names: a connection must have been made with these.
    pub tls_options: Option<Box<str>>,
    /// Whether its requests are traced.
    pub traced: bool,
    /// Whether its requests are counted, under whatever name.
    pub metered: bool,
    /// Run in order on the request, in reverse on the response.
    pub middlewares: Box<[Middleware]>,
    /// Where it goes.
    pub target: Target,
}

/// Services by place. A snapshot's routes name places of the same snapshot's; a place may be another service's in a later
/// one. They stand in blocks, so that swapping one service copies a block and the list of blocks.
#[derive(Debug, Clone, Default)]
pub struct Services {
    blocks: Vec<Arc<[Option<Arc<Service>>]>>,
}

/// With 10,000 services a swap copies one list of 157 blocks and one of 64 services.
const BLOCK: usize = 64;

impl Services {
    /// The service of a place.
    #[must_use]
    pub fn get(&self, place: u32) -> Option<&Arc<Service>> {
        let place = usize::try_from(place).ok()?;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)?.as_ref()
    }

    /// Gives a place to a service, or to nobody.
    pub fn put(&mut self, place: u32, service: Option<Arc<Service>>) {
        let Ok(place) = usize::try_from(place) else { return };
        while self.blocks.len() <= place / BLOCK {
            self.blocks.push(std::iter::repeat_n(None, BLOCK).collect());
        }
        let slot = self.blocks.get_mut(place / BLOCK).and_then(|block| Arc::make_mut(block).get_mut(place % BLOCK));
        if let Some(slot) = slot {
            *slot = service;
        }
    }
}

impl FromIterator<Arc<Service>> for Services {
    /// In their order, from place 0.
    fn from_iter<I: IntoIterator<Item = Arc<Service>>>(services: I) -> Self {
        let mut all = Self::default();
        (0..).zip(services).for_each(|(place, service)| all.put(place, Some(service)));
        all
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The servers of the service at this place of [`Snapshot::services`].
    Service(u32),
    /// An answer of the agent's own (ping on an entry point), given without an upstream.
    Fixed(Arc<Fixed>),
}

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: bytes::Bytes,
}

/// A group of servers for a route.
#[derive(Debug)]
pub struct Service {
    /// Stable id.
    pub id: u32,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Its servers; empty when none is known (503).
    pub servers: Box<[Arc<Server>]>,
    /// Indices into `servers` in the order of smooth weighted round-robin: one full turn. Empty when `servers` is.
    pub turn: Box<[u16]>,
    /// Whether the client's Host goes on (Traefik's `passHostHeader`, default true).
    pub pass_host: bool,
    /// Times for its connections and responses.
    pub timeouts: Timeouts,
    /// Idle connections kept per server and worker.
    pub idle_max: usize,
}

/// Times for an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect (Traefik's `dialTimeout`); zero: none.
    pub connect: Duration,
    /// From the request's head written to the response's head read (`responseHeaderTimeout`); zero: none.
    pub response_head: Duration,
    /// The whole exchange with the upstream, streaming included; zero: none.
    pub request: Duration,
    /// How long a pooled connection may idle (`idleConnTimeout`).
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            response_head: Duration::ZERO,
            request: Duration::ZERO,
            idle: Duration::from_secs(90),
        }
    }
}

/// One server of a service.
#[derive(Debug)]
pub struct Server {
    /// Stable id: the same service and URL keep it.
    pub id: u32,
    /// The URL as configured, for display and `server.address`.
    pub url: Box<str>,
    /// Host and port as they go into `Host` where the client's is not passed, and into `url.full`.
    pub authority: Box<str>,
    /// Host alone, for `server.address`.
    pub host: Box<str>,
    /// Path prefix of the URL without its last slash; empty for most.
    pub path_prefix: Box<str>,
    /// Where to connect. Names are resolved by the agent; empty while a name does not resolve (502), and of what stands for a
    /// backend that is not there, which has no host either (500).
    pub addresses: Box<[SocketAddr]>,
    /// What its requests' headers become beyond what the route's middlewares make of them.
    pub request_headers: Option<Arc<HeaderModifier>>,
    /// The cap on connections to it, where there is one. It survives a snapshot with the server.
    pub cap: Option<Arc<Cap>>,
}

/// One turn of smooth weighted round-robin (nginx's algorithm): index `i` appears `weights[i]` times, spread out.
/// Weights are divided by their greatest common divisor; a turn longer than 4096 is scaled down to fit.
#[must_use]
pub fn turn(weights: &[u32]) -> Box<[u16]> {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let divisor = weights.iter().fold(0, |acc, weight| gcd(acc, u64::from(*weight))).max(1);
    let mut scaled: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let total: u64 = scaled.iter().sum();
    if total > TURN_MAX {
        scaled = slots(&scaled, total);
    }
    let total: i64 = scaled.iter().map(|weight| i64::try_from(*weight).unwrap_or(0)).sum();
    let mut current = vec![0_i64; scaled.len()];
    (0..total)
        .filter_map(|_| {
            for (score, weight) in current.iter_mut().zip(&scaled) {
                *score += i64::try_from(*weight).unwrap_or(0);
            }
            let best =
                (0..current.len()).filter(|i| scaled.get(*i) != Some(&0)).rev().max_by_key(|i| current.get(*i))?;
            if let Some(score) = current.get_mut(best) {
                *score -= total;
            }
            u16::try_from(best).ok()
        })
        .collect()
}

/// How long a turn is.
const TURN_MAX: u64 = 4096;

/// The slots of servers in a turn that is shorter than their weights come to. Neighbours of one weight, as the pods of a Service are, have
/// as many as their weights together ask for, and one at least. Where these are fewer than they are, those that chance chooses have
/// them: one for each would be far more than their share.
fn slots(weights: &[u64], total: u64) -> Vec<u64> {
    // The same in each build, so that it is the same service; another one on each node.
    static SEED: OnceLock<u64> = OnceLock::new();
    let mut chances = fastrand::Rng::with_seed(*SEED.get_or_init(|| fastrand::u64(..)));
    let mut slots = Vec::with_capacity(weights.len());
    for alike in weights.chunk_by(PartialEq::eq) {
        let all: u64 = alike.iter().sum();
        let share = if all == 0 { 0 } else { (all * TURN_MAX / total).max(1) };
        let count = u64::try_from(alike.len()).unwrap_or(u64::MAX);
        let chance = chances.u64(0..count);
        slots.extend((0..count).map(|at| ((at + 1) * share + chance) / count - (at * share + chance) / count));
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_one_service_leaves_the_others_blocks_alone() {
        let service = |id| {
            let (servers, turn) = (Box::default(), Box::default());
            let timeouts = Timeouts::default();
            Arc::new(Service { id, name: "".into(), servers, turn, pass_host: true, timeouts, idle_max: 0 })
        };
        let ids = |all: &Services| (0..300).filter_map(|place| all.get(place)).map(|one| one.id).collect::<Vec<_>>();
        let first: Services = (0..200).map(service).collect();
        let mut second = first.clone();
        second.put(70, Some(service(1000)));
        second.put(130, None);
        assert_eq!(ids(&first), (0..200).collect::<Vec<_>>());
        let changed = (0..200).filter(|id| *id != 130).map(|id| if id == 70 { 1000 } else { id });
        assert_eq!(ids(&second), changed.collect::<Vec<_>>());
        let same = first.blocks.iter().zip(&second.blocks).map(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(same.collect::<Vec<_>>(), [true, false, false, true]);
    }

    #[test]
    fn turns_spread_by_weight() {
        assert_eq!(*turn(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*turn(&[10, 10]), [0, 1]);
        assert_eq!(*turn(&[0, 3]), [1]);
        assert!(turn(&[]).is_empty() && turn(&[0]).is_empty());
    }

    #[test]
    fn shares_hold_however_many_servers_they_are_divided_among() {
        // The weights that 99 and 1 come to by server.
        for (stable, canary, weights) in [(1, 100, (9900, 1)), (1000, 1000, (99, 1)), (100, 3, (297, 100))] {
            let weights = [vec![weights.0; stable], vec![weights.1; canary]].concat();
            let turn = turn(&weights);
            let of_canary = turn.iter().filter(|at| usize::from(**at) >= stable).count();
            let share = of_canary as f64 / turn.len() as f64;
            assert!(turn.len() <= 4096 && (share - 0.01).abs() < 0.000_5, "{stable} {canary}: {share}");
            let times = |server: usize| turn.iter().filter(|at| usize::from(**at) == server).count();
            let each: Vec<usize> = (stable..stable + canary).map(times).collect();
            assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 1, "{each:?}");
        }
    }

    #[test]
    fn heavy_weights_are_scaled_and_nobody_vanishes() {
        let turn = turn(&[1_000_003, 1]);
        assert!(turn.len() <= 4097);
        assert!(turn.contains(&1));
    }
}
