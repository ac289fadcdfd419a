//! Looks up the names in servers' URLs, away from traffic: all addresses, again and again, the last good answer kept.
//! The system's resolver tells no time to live, so names are asked again at a fixed interval.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::model::{Dynamic, MiddlewareKind, Server, Service};

/// Between two questions for one name: Kubernetes' own records live 30 s (CoreDNS' default).
const REFRESH: Duration = Duration::from_secs(30);
/// After a failure, doubled up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(1);
/// getaddrinfo may wait for several servers, five seconds each.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Lookups under way at once; each blocks a thread.
const LOOKUPS_MAX: usize = 16;
/// Names beyond this are not looked up.
const NAMES_MAX: usize = 10_000;
/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 256;

/// Names to look up.
pub type Names = BTreeSet<Box<str>>;

/// The answers so far. A name that was asked without success has an empty list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    names: HashMap<Box<str>, Arc<[IpAddr]>>,
}

impl Resolved {
    /// Answers known beforehand, for tests and for what needs no lookup.
    #[must_use]
    pub fn of(names: impl IntoIterator<Item = (Box<str>, Vec<IpAddr>)>) -> Self {
        Self { names: names.into_iter().map(|(name, ips)| (name, ips.into())).collect() }
    }

    /// Where a host and port are: addresses and local names by themselves, others as far as they are known.
    #[must_use]
    pub fn addresses(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        let at = |ip: IpAddr| SocketAddr::new(ip, port);
        if let Some(known) = itself(host) {
            return known.into_iter().map(at).collect();
        }
        self.names.get(host).map(|ips| ips.iter().copied().map(at).collect()).unwrap_or_default()
    }
}

/// What a host says by itself: an address, or a local name (RFC 6761, section 6.3: never asked of a server). IPv4 goes
/// first: servers of development listen there.
fn itself(host: &str) -> Option<Vec<IpAddr>> {
    if let Ok(ip) = host.parse() {
        return Some(vec![ip]);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let local = name == "localhost" || name.ends_with(".localhost");
    local.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// The names of a configuration that need a lookup.
#[must_use]
pub fn names(dynamic: &Dynamic) -> Names {
    let servers = dynamic.services.iter().flat_map(|service| &service.servers);
    let called = dynamic.middlewares.iter().filter_map(|one| match &one.kind {
        MiddlewareKind::ForwardAuth(auth) => Some(&auth.server),
        _ => None,
    });
    servers.chain(called).filter(|server| is_looked_up(server)).map(|server| server.host.as_str().into()).collect()
}

/// Whether a service has servers whose names need a lookup.
#[must_use]
pub fn has_names(service: &Service) -> bool {
    service.servers.iter().any(is_looked_up)
}

fn is_looked_up(server: &Server) -> bool {
    !server.host.is_empty() && itself(&server.host).is_none()
}

/// The handle of the task that looks names up.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<Arc<Names>>,
    answers: watch::Receiver<Arc<Resolved>>,
}

impl Resolver {
    /// The handle, and the task for its owner to run; the task ends when the handle is dropped.
    pub fn new() -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::with(|name: Box<str>| async move {
            let found = tokio::net::lookup_host((&*name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    fn with<L, F>(lookup: L) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        L: Fn(Box<str>) -> F + Send + 'static,
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let (wanted, wanted_seen) = watch::channel(Arc::new(Names::new()));
        let (publish, answers) = watch::channel(Arc::new(Resolved::default()));
        let task = Task {
            lookup: Box::new(move |name| Box::pin(lookup(name))),
            wanted: wanted_seen,
            publish,
            states: BTreeMap::new(),
        };
        (Self { wanted, answers }, task.run())
    }

    /// Says which names matter from now on; others are forgotten.
    pub fn want(&self, names: Names) {
        self.wanted.send_if_modified(|old| {
            let changed = **old != names;
            if changed {
                *old = Arc::new(names);
            }
            changed
        });
    }

    /// The answers so far.
    #[must_use]
    pub fn resolved(&self) -> Arc<Resolved> {
        Arc::clone(&self.answers.borrow())
    }

    /// Waits for answers that differ from those last waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.answers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until every wanted name was asked once, but not longer than `limit`: for a start without early 502s.
    pub async fn settle(&mut self, limit: Duration) {
        let wanted = Arc::clone(&self.wanted.borrow());
        let asked = self.answers.wait_for(|answers| wanted.iter().all(|name| answers.names.contains_key(name)));
        let _ = timeout(limit, asked).await;
    }
}

type Lookup = BoxFuture<'static, io::Result<Vec<IpAddr>>>;
type Answer = (Box<str>, io::Result<Vec<IpAddr>>);

struct Task {
    lookup: Box<dyn Fn(Box<str>) -> Lookup + Send>,
    wanted: watch::Receiver<Arc<Names>>,
    publish: watch::Sender<Arc<Resolved>>,
    states: BTreeMap<Box<str>, State>,
}

/// One name.
#[derive(Debug)]
struct State {
    /// When to ask; `None` while it is asked.
    due: Option<Instant>,
    failures: u32,
    /// `None`: not asked yet.
    ips: Option<Arc<[IpAddr]>>,
}

impl Task {
    async fn run(mut self) {
        let mut lookups: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        self.take_wanted(Instant::now());
        loop {
            let now = Instant::now();
            for name in self.due(now, LOOKUPS_MAX.saturating_sub(lookups.len())) {
                lookups.push(self.ask(name));
            }
            let next = self.states.values().filter_map(|state| state.due).min().filter(|_| lookups.len() < LOOKUPS_MAX);
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_wanted(Instant::now());
                }
                Some((name, answer)) = lookups.next() => self.answered(&name, answer, Instant::now()),
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    fn take_wanted(&mut self, now: Instant) {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        if wanted.len() > NAMES_MAX {
            warn!(names = wanted.len(), max = NAMES_MAX, "more names than are looked up; the rest has no address");
        }
        self.states.retain(|name, _| wanted.contains(name));
        for name in wanted.iter().take(NAMES_MAX) {
            self.states.entry(name.clone()).or_insert(State { due: Some(now), failures: 0, ips: None });
        }
        self.tell();
    }

    /// Names to ask now, marked as being asked.
    fn due(&mut self, now: Instant, most: usize) -> Vec<Box<str>> {
        let due = self.states.iter_mut().filter(|(_, state)| state.due.is_some_and(|due| due <= now)).take(most);
        due.map(|(name, state)| {
            state.due = None;
            name.clone()
        })
        .collect()
    }

    fn ask(&self, name: Box<str>) -> BoxFuture<'static, Answer> {
        let lookup = (self.lookup)(name.clone());
        Box::pin(async move {
            let answer = timeout(LOOKUP_TIMEOUT, lookup).await;
            (name, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        })
    }

    fn answered(&mut self, name: &str, answer: io::Result<Vec<IpAddr>>, now: Instant) {
        // Forgotten meanwhile: nobody waits for it.
        let Some(state) = self.states.get_mut(name) else { return };
        let answer = answer
            .and_then(|ips| if ips.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(ips) });
        match answer {
            Ok(mut ips) => {
                ips.truncate(ADDRESSES_MAX);
                let mut seen = BTreeSet::new();
                ips.retain(|ip| seen.insert(*ip));
                // A resolver turns the order about; only another set is a change.
                let same = state.ips.as_ref().is_some_and(|old| old.iter().copied().collect::<BTreeSet<_>>() == seen);
                if !same {
                    debug!(name, ?ips, "name resolved");
                    state.ips = Some(ips.into());
                }
                (state.failures, state.due) = (0, Some(now + REFRESH));
            }
            Err(error) => {
                if state.failures == 0 {
                    let kept = state.ips.as_ref().map_or(0, |ips| ips.len());
                    warn!(name, %error, kept, "name cannot be resolved; what was known is kept");
                }
                let wait = RETRY.saturating_mul(1 << state.failures.min(5)).min(REFRESH);
                state.failures = state.failures.saturating_add(1);
                state.due = Some(now + wait);
                state.ips.get_or_insert_default();
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let names =
            self.states.iter().filter_map(|(name, state)| Some((name.clone(), Arc::clone(state.ips.as_ref()?))));
        let answers = Resolved { names: names.collect() };
        self.publish.send_if_modified(|old| {
            let changed = **old != answers;
            if changed {
                *old = Arc::new(answers);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_and_local_names_need_no_lookup() {
        let resolved = Resolved::of([("db".into(), vec![ip("10.0.0.1"), ip("10.0.0.2")])]);
        for (host, want) in [
            ("127.0.0.1", "[127.0.0.1:80]"),
            ("::1", "[[::1]:80]"),
            ("localhost", "[127.0.0.1:80, [::1]:80]"),
            ("hotrod.localhost", "[127.0.0.1:80, [::1]:80]"),
            ("LOCALHOST.", "[127.0.0.1:80, [::1]:80]"),
            ("db", "[10.0.0.1:80, 10.0.0.2:80]"),
            ("nolocalhost", "[]"),
        ] {
            assert_eq!(format!("{:?}", resolved.addresses(host, 80)), want, "{host}");
        }
    }

    /// One name's answers in turn, the time as an argument: (answer, seconds until asked again, addresses then).
    #[test]
    fn names_are_asked_again_and_the_last_good_answer_is_kept() {
        let (publish, answers) = watch::channel(Arc::new(Resolved::default()));
        let (_wanted, wanted_seen) = watch::channel(Arc::new(Names::from(["db".into()])));
        let lookup = Box::new(|_| -> BoxFuture<'static, _> { Box::pin(std::future::pending()) });
        let mut task = Task { lookup, wanted: wanted_seen, publish, states: BTreeMap::new() };
        let failure = || Err(io::ErrorKind::NotFound.into());
        let mut now = Instant::now();
        task.take_wanted(now);
        for (answer, wait_s, want) in [
            (failure(), 1, "[]"),
            (Ok(vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.1")]), 30, "[10.0.0.1:1, 10.0.0.2:1]"),
            // Turned about is the same.
            (Ok(vec![ip("10.0.0.2"), ip("10.0.0.1")]), 30, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 1, "[10.0.0.1:1, 10.0.0.2:1]"),
            (Ok(vec![]), 2, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 4, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 8, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 16, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 30, "[10.0.0.1:1, 10.0.0.2:1]"),
            (failure(), 30, "[10.0.0.1:1, 10.0.0.2:1]"),
            (Ok(vec![ip("10.0.0.3")]), 30, "[10.0.0.3:1]"),
        ] {
            assert_eq!(task.due(now, 9), ["db".into()]);
            assert!(task.due(now, 9).is_empty(), "asked twice at once");
            task.answered("db", answer, now);
            assert_eq!(format!("{:?}", answers.borrow().addresses("db", 1)), want);
            let next = now + Duration::from_secs(wait_s);
            assert!(task.due(next - Duration::from_millis(1), 9).is_empty(), "too early: {want}");
            now = next;
        }
        // Forgotten while it was asked.
        task.answered("gone", Ok(vec![ip("10.0.0.3")]), now);
        assert!(answers.borrow().addresses("gone", 1).is_empty());
    }

    #[tokio::test]
    async fn a_hanging_name_delays_no_other() {
        let (mut resolver, task) = Resolver::with(|name: Box<str>| async move {
            if &*name == "hangs" { std::future::pending().await } else { Ok(vec![ip("10.0.0.9")]) }
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(task);
        resolver.want(["hangs".into(), "works".into()].into());
        resolver.changed().await;
        assert_eq!(resolver.resolved().addresses("works", 2).len(), 1);
        // Not all names are answered: the limit ends the wait.
        resolver.settle(Duration::from_millis(1)).await;
        resolver.want(["works".into()].into());
        resolver.settle(Duration::from_secs(60)).await;
        resolver.want(Names::new());
        resolver.changed().await;
        assert!(resolver.resolved().addresses("works", 2).is_empty());
        drop(resolver);
        tasks.join_next().await.expect("the task ends with its handle").unwrap();
    }
}
