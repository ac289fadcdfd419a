//! Which pods are at the two ends of a request. Kept by watches of the API, asked by address and time.
//!
//! `watch` hears the API on the control runtime and `facts` keeps of each pod what is used, with its attributes encoded;
//! both hand it to the merge's thread, which alone owns the `cache` and asks it: no lock, nothing shared. `own` is the
//! agent's own pod, `doctor` says what a cluster gives.

pub mod cache;
pub mod doctor;
pub mod facts;
pub mod own;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use kube::Client;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{Attempt, Head};

use self::cache::{Cache, Change, Found};
use crate::config::model::{Kubernetes, Metadata, Static, Switch};
use crate::export::resource::OwnPod;
use crate::kube::client::{LIMITS, Shared, causes};

/// Changes on their way to the merge. Beyond, the watch waits, and with it the API's answer.
const CHANGES_MAX: usize = 1024;
/// Changes that the merge takes in between two turns of its rings: half a millisecond.
const TURN_MAX: usize = 512;

/// Between two tries of a watch at most: kube's back-off doubles up to 30 s, and adds up to as much by chance.
const TRIES_APART: Duration = Duration::from_secs(60);
/// For what comes late.
const SLACK: Duration = Duration::from_secs(15);
/// A watch that has failed and then not for so long is back: its next try has begun by then, and had the time to fail.
const QUIET: Duration = TRIES_APART.saturating_add(LIMITS.answer).saturating_add(SLACK);
const _: () = assert!(QUIET.as_secs() > TRIES_APART.as_secs() + LIMITS.answer.as_secs());

/// A change and when it came.
type Told = (MonoNs, Change);

/// The merge's end.
#[derive(Debug)]
pub struct Pods {
    cache: Cache,
    changes: Option<mpsc::Receiver<Told>>,
    counts: Arc<Counts>,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Pods known and there.
    pub pods: AtomicU64,
    /// Pods that have gone and are still known.
    pub resting: AtomicU64,
    /// Changes that found no room.
    pub refused: AtomicU64,
    /// How often a watch failed or had to list anew.
    pub restarts: AtomicU64,
    /// When the API last said something.
    pub heard: AtomicU64,
    /// Each watch.
    watches: Box<[Watch]>,
}

/// How a watch is.
#[derive(Debug, Default)]
struct Watch {
    /// For the log.
    what: String,
    /// The namespace; empty: all.
    namespace: String,
    /// Of pods, or of nodes.
    is_of_pods: bool,
    /// Whole lists that it has had.
    lists: AtomicU64,
    /// When it failed last and has told nothing since; 0: it has not.
    failed: AtomicU64,
    /// Why.
    failure: ArcSwapOption<String>,
}

impl Watch {
    /// One that has failed is back when it tells something, or when it does not fail again.
    fn is_failing(&self, now: MonoNs) -> bool {
        MonoNs(self.failed.load(Ordering::Relaxed)).known().is_some_and(|at| now <= at + QUIET)
    }
}

/// What metrics and the api tell.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Pods known and there.
    pub pods: u64,
    /// Pods that have gone and are still known.
    pub resting: u64,
    /// Changes that found no room.
    pub refused: u64,
    /// How often a watch failed or had to list anew.
    pub restarts: u64,
    /// Seconds since the API last said something; `None`: it never has.
    pub heard_before_seconds: Option<u64>,
    /// Every watch of pods has its first list, and none fails.
    pub is_synced: bool,
    /// Why a watch failed last, while one does.
    pub failure: Option<String>,
}

impl Counts {
    /// As it is now.
    #[must_use]
    pub fn read(&self, now: MonoNs) -> Reading {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let failing = || self.watches.iter().filter(|watch| watch.is_failing(now));
        let mut of_pods = self.watches.iter().filter(|watch| watch.is_of_pods);
        Reading {
            pods: load(&self.pods),
            resting: load(&self.resting),
            refused: load(&self.refused),
            restarts: load(&self.restarts),
            heard_before_seconds: MonoNs(load(&self.heard)).known().map(|at| now.since(at) / 1_000_000_000),
            is_synced: of_pods.all(|watch| load(&watch.lists) > 0 && !watch.is_failing(now)),
            failure: failing().find_map(|watch| watch.failure.load().as_deref().cloned()),
        }
    }
}

/// Set in every pod.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Begins to watch where the configuration wants it and there is a cluster, and says who we are in it. Nothing here keeps the
/// agent from serving.
pub async fn start(
    fixed: &Static,
    variable: impl Fn(&str) -> Option<String>,
    client: &Shared,
    tasks: &mut JoinSet<()>,
) -> (Pods, OwnPod) {
    let (config, own) = (&fixed.metadata, own::from_environment(&variable));
    match config.enabled {
        Switch::Off => return (Pods::none(), own),
        Switch::Auto if variable(IN_A_POD).is_none() && fixed.kubernetes.is_none() => {
            info!("not in a cluster: spans name no pods");
            return (Pods::none(), own);
        }
        Switch::Auto | Switch::On => {}
    }
    let connection = fixed.kubernetes.as_ref().map(Kubernetes::connection).unwrap_or_default();
    match client.get(&connection).await {
        Ok(client) => {
            let own = own::complete(own, &client).await;
            (Pods::watch(&client, config, tasks), own)
        }
        Err(error) => {
            warn!(error = causes(&error), "spans name no pods");
            (Pods::none(), own)
        }
    }
}

impl Pods {
    /// Where there is no cluster: nobody is a pod.
    #[must_use]
    pub fn none() -> Self {
        Self { cache: Cache::new(0), changes: None, counts: Arc::default() }
    }

    /// Watches pods and nodes, for as long as `tasks` lives.
    #[must_use]
    pub fn watch(client: &Client, config: &Metadata, tasks: &mut JoinSet<()>) -> Self {
        let (told, changes) = mpsc::channel(CHANGES_MAX);
        let counts = Arc::new(Counts { watches: watch::all(&config.namespaces), ..Counts::default() });
        watch::start(client, config, &told, &counts, tasks);
        Self { cache: Cache::new(config.max_pods), changes: Some(changes), counts }
    }

    /// What is counted; `None` where nothing is watched.
    #[must_use]
    pub fn counts(&self) -> Option<Arc<Counts>> {
        self.changes.as_ref().map(|_| Arc::clone(&self.counts))
    }

    /// Takes in what has come.
    pub fn turn(&mut self, now: MonoNs) {
        let Some(changes) = &mut self.changes else { return };
        let mut came = 0;
        while let Some((at, change)) = (came < TURN_MAX).then(|| changes.try_recv().ok()).flatten() {
            self.cache.apply(change, at);
            came += 1;
        }
        self.cache.tick(now);
        let cache::Counts { pods, resting, refused } = self.cache.counts();
        self.counts.pods.store(pods as u64, Ordering::Relaxed);
        self.counts.resting.store(resting as u64, Ordering::Relaxed);
        self.counts.refused.store(refused, Ordering::Relaxed);
    }

    /// The pod that an attempt went to: the one that had the address when the connection was made, which may be long ago.
    #[must_use]
    pub fn of_attempt(&self, attempt: &Attempt) -> Option<Found<'_>> {
        // One that failed to connect has only tried.
        let made = attempt.opened.known().or(attempt.chosen.known()).or(attempt.begun.known())?;
        self.cache.server(attempt.address, made)
    }

    /// The pod that a request's connection came from.
    #[must_use]
    pub fn of_client(&self, head: &Head) -> Option<Found<'_>> {
        self.cache.client(head.peer, head.accepted.known()?)
    }

    #[cfg(test)]
    pub(crate) fn with(cache: Cache) -> Self {
        Self { cache, changes: None, counts: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_fails_as_seldom_as_it_can_is_failing_all_the_while() {
        let watch = Watch { failed: AtomicU64::new(1), ..Watch::default() };
        let next = MonoNs(1) + TRIES_APART + LIMITS.answer;
        assert!(watch.is_failing(next) && !watch.is_failing(next + SLACK + SLACK));
    }
}
