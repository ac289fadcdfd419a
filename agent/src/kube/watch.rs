//! Watches: one task per kind and namespace, each by kube's watcher, all into one queue that the owner of
//! [`Objects`] empties. A kind that the server does not know is a lawful state: it is said once and asked for again now
//! and then. A server that is away costs nothing but news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::client::reason;
use super::feed::{Feed, is_absent, is_forbidden, is_silent, is_text, wants_list};
use super::light::Light;
use super::objects::{Key, Objects, Set};
use super::refusals;
use crate::config::model::{Kubernetes, KubernetesProvider};

/// News that wait for the owner; beyond, watches wait, and the server keeps what they have not read.
const QUEUE: usize = 1024;
/// Objects of one answer of a list.
const PAGE: u32 = 500;
/// Between two questions for a kind that the server does not know.
const ABSENT: Duration = Duration::from_secs(10);
/// After a failure, doubled up to the most.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// So many refusals are waited for before a kind counts as one that may not be read: a role may be bound a moment later.
pub(super) const REFUSALS_MAX: u32 = 3;
/// So often in a row a kind must be unknown before objects that were told of are gone with it: in half a minute or more.
const UNKNOWN_MAX: u32 = 8;

/// What a watch told, to be applied to the objects; it says whether they changed.
pub type News = Box<dyn FnOnce(&mut Objects) -> bool + Send>;

/// How the watches are.
#[derive(Debug, Default)]
pub struct Health {
    watches: AtomicU64,
    /// Those that have told all that there is at least once, or whose kind is absent or may not be read.
    ready: AtomicU64,
    failing: AtomicU64,
    failures: AtomicU64,
    /// Translations of all objects, and of those that a change concerns.
    whole: AtomicU64,
    partial: AtomicU64,
    events_refused: AtomicU64,
    statuses_contested: AtomicU64,
    statuses_refused: AtomicU64,
}

/// What is told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Kinds and namespaces that are watched.
    pub watches: u64,
    /// Those that have told all that there is at least once.
    pub ready: u64,
    /// Those that wait to try again; what they told last is served.
    pub failing: u64,
    /// Failures since the start.
    pub failures: u64,
    /// Translations of all objects.
    pub whole_translations: u64,
    /// Translations of those objects alone that a change concerns.
    pub partial_translations: u64,
    /// Events about bad objects that the server refused until they were given up.
    pub events_refused: u64,
    /// Statuses that somebody else keeps changing to something else, and that are written less often for it.
    pub statuses_contested: u64,
    /// Statuses that the server refuses, and that are tried less and less often.
    pub statuses_refused: u64,
}

impl Health {
    /// Whether each watch has told all that there is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) >= self.watches.load(Ordering::Relaxed)
    }

    /// All of it, one after the other.
    #[must_use]
    pub fn read(&self) -> Reading {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Reading {
            watches: load(&self.watches),
            ready: load(&self.ready),
            failing: load(&self.failing),
            failures: load(&self.failures),
            whole_translations: load(&self.whole),
            partial_translations: load(&self.partial),
            events_refused: load(&self.events_refused),
            statuses_contested: load(&self.statuses_contested),
            statuses_refused: load(&self.statuses_refused),
        }
    }

    /// Counts an event that was given up.
    pub(super) fn event_refused(&self) {
        self.events_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many statuses are contested.
    pub(super) fn has_contested(&self, count: usize) {
        self.statuses_contested.store(count as u64, Ordering::Relaxed);
    }

    /// Notes how many statuses are refused.
    pub(super) fn has_refused(&self, count: usize) {
        self.statuses_refused.store(count as u64, Ordering::Relaxed);
    }

    /// Counts a translation.
    pub(super) fn translated(&self, whole: bool) {
        let cell = if whole { &self.whole } else { &self.partial };
        cell.fetch_add(1, Ordering::Relaxed);
    }
}

/// What of the cluster is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of Ingress and its classes; `None`: none.
    pub ingress: Option<Selection>,
    /// Of Traefik's kinds.
    pub crd: Option<Selection>,
    /// Of the Gateway API's.
    pub gateway: Option<Selection>,
    /// Our own node.
    pub node: Option<String>,
    /// Services whose addresses go into statuses, wherever they are.
    pub published: BTreeSet<Key>,
}

impl Wanted {
    /// What the providers ask for.
    #[must_use]
    pub fn of(settings: &Kubernetes, node: Option<String>) -> Self {
        let of = |provider: &Option<KubernetesProvider>| {
            provider.as_ref().map(|provider| Selection {
                namespaces: provider.namespaces.clone(),
                labels: provider.label_selector.clone(),
            })
        };
        let published = settings.providers().filter_map(|provider| provider.address.service.as_ref());
        let published = published.map(|(namespace, name)| Key::new(namespace, name)).collect();
        let [ingress, crd, gateway] = [&settings.ingress, &settings.crd, &settings.gateway].map(of);
        Self { ingress, crd, gateway, node, published }
    }

    /// Published Services of namespaces that are not watched, by namespace.
    fn elsewhere(&self, namespaces: &[String]) -> BTreeMap<&str, Vec<&str>> {
        let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let is_watched = |key: &Key| namespaces.is_empty() || namespaces.iter().any(|one| **one == *key.namespace);
        for key in self.published.iter().filter(|key| !is_watched(key)) {
            all.entry(&key.namespace).or_default().push(&key.name);
        }
        all
    }
}

/// Which objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// In these namespaces; none: in all.
    pub namespaces: Vec<String>,
    /// With these labels; empty: any.
    pub labels: String,
}

/// The watches' tasks, for their owner to hold, and what they tell.
pub fn start(client: &Client, wanted: &Wanted, health: &Arc<Health>) -> (JoinSet<()>, mpsc::Receiver<News>) {
    let (news, receiver) = mpsc::channel(QUEUE);
    let health = Arc::clone(health);
    let mut watches = Watches { client: client.clone(), health, news, tasks: JoinSet::new(), once: None };
    watches.start(wanted);
    (watches.tasks, receiver)
}

/// What could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Of these.
    pub kind: String,
    /// The namespace; `None`: of all.
    pub namespace: Option<String>,
    /// What the server said.
    pub why: String,
    /// We have no right to them.
    pub is_refused: bool,
}

/// Reads all that there is once, without a watch.
pub async fn read(client: &Client, wanted: &Wanted) -> (Objects, Vec<Unread>) {
    let (news, mut receiver) = mpsc::channel(QUEUE);
    let (once, mut unread) = mpsc::channel(QUEUE);
    let health = Arc::default();
    let mut watches = Watches { client: client.clone(), health, news, tasks: JoinSet::new(), once: Some(once) };
    watches.start(wanted);
    let Watches { mut tasks, news, .. } = watches;
    drop(news);
    let mut objects = Objects::default();
    while let Some(told) = receiver.recv().await {
        told(&mut objects);
    }
    while tasks.join_next().await.is_some() {}
    let mut all: Vec<Unread> = std::iter::from_fn(|| unread.try_recv().ok()).collect();
    all.sort_by(|a, b| (&a.kind, &a.namespace).cmp(&(&b.kind, &b.namespace)));
    (objects, all)
}

type Place<K> = fn(&mut Objects) -> &mut Set<K>;

struct Watches {
    client: Client,
    health: Arc<Health>,
    news: mpsc::Sender<News>,
    tasks: JoinSet<()>,
    /// Everything is read once, and this is what was not to be had.
    once: Option<mpsc::Sender<Unread>>,
}

impl Watches {
    fn start(&mut self, wanted: &Wanted) {
        let all: Vec<&Selection> = [&wanted.ingress, &wanted.crd, &wanted.gateway].into_iter().flatten().collect();
        // Backends and secrets are common to the three and know no labels of routes.
        let everywhere = all.iter().any(|selection| selection.namespaces.is_empty());
        let mut namespaces: Vec<String> = all.iter().flat_map(|selection| selection.namespaces.clone()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        if everywhere {
            namespaces.clear();
        }
        let any = Selection { namespaces, labels: String::new() };
        if !all.is_empty() {
            self.typed::<Service>(&any, config(&any), |objects| &mut objects.services);
            self.typed::<EndpointSlice>(&any, config(&any), |objects| &mut objects.slices);
            self.secrets(&any);
            for (namespace, names) in wanted.elsewhere(&any.namespaces) {
                let selection = Selection { namespaces: vec![namespace.to_owned()], labels: String::new() };
                // One alone needs no right to the others.
                let one = match names.as_slice() {
                    [name] => watcher::Config::default().fields(&format!("metadata.name={name}")),
                    _ => config(&selection),
                };
                self.typed::<Service>(&selection, one, |objects| &mut objects.services);
            }
        }
        if let Some(selection) = &wanted.ingress {
            self.typed::<Ingress>(selection, config(selection), |objects| &mut objects.ingresses);
            self.cluster::<IngressClass>(watcher::Config::default(), |objects| &mut objects.ingress_classes);
        }
        if let Some(selection) = &wanted.crd {
            self.traefik(selection);
        }
        if let Some(selection) = &wanted.gateway {
            self.cluster::<Namespace>(watcher::Config::default(), |objects| &mut objects.namespaces);
            self.gateway_api(selection, &any);
        }
        if let Some(node) = wanted.node.as_deref().filter(|_| !all.is_empty()) {
            let own = watcher::Config::default().fields(&format!("metadata.name={node}"));
            self.cluster::<Node>(own, |objects| &mut objects.nodes);
        }
    }

    fn typed<K>(&mut self, selection: &Selection, config: watcher::Config, place: Place<K>)
    where
        K: Light + Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.each(&K::kind(&()), selection, config, place, |client, namespace| match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        });
    }

    fn secrets(&mut self, any: &Selection) {
        // Those that never hold a certificate or users, and may be large or precious.
        let none = ["helm.sh/release.v1", "kubernetes.io/service-account-token", "kubernetes.io/dockerconfigjson"];
        let fields: Vec<String> = none.iter().map(|kind| format!("type!={kind}")).collect();
        let config = watcher::Config::default().fields(&fields.join(","));
        self.typed::<Secret>(any, config, |objects| &mut objects.secrets);
    }

    fn cluster<K>(&mut self, config: watcher::Config, place: Place<K>)
    where
        K: Light + Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
    {
        self.one(&K::kind(&()), None, config, place, |client, _| Api::all(client));
    }

    fn traefik(&mut self, selection: &Selection) {
        let all: [(&str, Place<DynamicObject>); 6] = [
            ("IngressRoute", |objects| &mut objects.ingress_routes),
            ("Middleware", |objects| &mut objects.middlewares),
            ("TraefikService", |objects| &mut objects.traefik_services),
            ("ServersTransport", |objects| &mut objects.servers_transports),
            ("TLSOption", |objects| &mut objects.tls_options),
            ("TLSStore", |objects| &mut objects.tls_stores),
        ];
        for (kind, place) in all {
            self.dynamic(selection, ("traefik.io", "v1alpha1", kind), place);
        }
    }

    fn gateway_api(&mut self, selection: &Selection, backends: &Selection) {
        const GROUP: &str = "gateway.networking.k8s.io";
        let class = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "GatewayClass"));
        let (config, api) = (watcher::Config::default(), |client, _: Option<&str>| Api::all_with(client, &class));
        self.one("GatewayClass", None, config, |objects| &mut objects.gateway_classes, api);
        self.dynamic(selection, (GROUP, "v1", "Gateway"), |objects| &mut objects.gateways);
        self.dynamic(selection, (GROUP, "v1", "ListenerSet"), |objects| &mut objects.listener_sets);
        self.dynamic(selection, (GROUP, "v1", "HTTPRoute"), |objects| &mut objects.http_routes);
        // A grant is the other side's word: labels that select routes are not on it.
        let grants = Selection { labels: String::new(), ..selection.clone() };
        self.dynamic(&grants, (GROUP, "v1beta1", "ReferenceGrant"), |objects| &mut objects.reference_grants);
        // Beside the Services that they are about.
        self.dynamic(backends, (GROUP, "v1", "BackendTLSPolicy"), |objects| &mut objects.backend_tls_policies);
    }

    fn dynamic(&mut self, selection: &Selection, kind: (&str, &str, &str), place: Place<DynamicObject>) {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(kind.0, kind.1, kind.2));
        self.each(kind.2, selection, config(selection), place, |client, namespace| match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        });
    }

    fn each<K>(
        &mut self,
        kind: &str,
        selection: &Selection,
        config: watcher::Config,
        place: Place<K>,
        api: impl Fn(Client, Option<&str>) -> Api<K>,
    ) where
        K: Light,
    {
        if selection.namespaces.is_empty() {
            self.one(kind, None, config, place, api);
            return;
        }
        for namespace in &selection.namespaces {
            self.one(kind, Some(namespace), config.clone(), place, &api);
        }
    }

    fn one<K>(
        &mut self,
        kind: &str,
        scope: Option<&str>,
        config: watcher::Config,
        place: Place<K>,
        api: impl Fn(Client, Option<&str>) -> Api<K>,
    ) where
        K: Light,
    {
        let (kind, of) = (kind.to_owned(), scope.map(str::to_owned));
        if let Some(unread) = &self.once {
            let (api, news, unread) = (api(self.client.clone(), scope), self.news.clone(), unread.clone());
            self.tasks.spawn(async move {
                if let Err(error) = list(&api, &config, of.as_deref(), &news, place).await {
                    // As many as there are kinds and namespaces: beyond a thousand nobody reads on.
                    let is_refused = matches!(&error, kube::Error::Api(status) if status.code == 403);
                    drop(unread.try_send(Unread { kind, namespace: of, why: reason(&error), is_refused }));
                }
            });
            return;
        }
        let feed = Feed::new(&self.client, |client| api(client, scope));
        self.health.watches.fetch_add(1, Ordering::Relaxed);
        let watch = Watch {
            kind,
            scope: of.map(Arc::from),
            place: refusals::Place { client: self.client.clone(), url: feed.url().to_owned() },
            health: Arc::clone(&self.health),
            news: self.news.clone(),
            state: State::default(),
        };
        self.tasks.spawn(watch.run(feed, config, place));
    }
}

/// Everything of one kind, a page at a time. A kind that the server does not know has no objects.
async fn list<K>(
    api: &Api<K>,
    config: &watcher::Config,
    scope: Option<&str>,
    news: &mpsc::Sender<News>,
    place: Place<K>,
) -> Result<(), kube::Error>
where
    K: Light,
{
    let mut asked = ListParams::default().limit(PAGE);
    (asked.label_selector, asked.field_selector) = (config.label_selector.clone(), config.field_selector.clone());
    loop {
        let page = match api.list(&asked).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            page => page?,
        };
        for mut object in page.items {
            object.lighten();
            let scope = scope.map(str::to_owned);
            let told: News = Box::new(move |objects| place(objects).apply(scope.as_deref(), Event::Apply(object)));
            // A reader that is gone needs no news.
            let _ = news.send(told).await;
        }
        asked.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if asked.continue_token.is_none() {
            return Ok(());
        }
    }
}

fn config(selection: &Selection) -> watcher::Config {
    let config = watcher::Config::default();
    if selection.labels.is_empty() { config } else { config.labels(&selection.labels) }
}

struct Watch {
    kind: String,
    scope: Option<Arc<str>>,
    place: refusals::Place,
    health: Arc<Health>,
    news: mpsc::Sender<News>,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// It has told all that there is at least once: what it told stays.
    told: bool,
    absent: bool,
    /// It is there, and may not be read.
    refused: bool,
    /// Whole lists instead of streams.
    listing: bool,
    failures: u32,
    /// How often in a row the server did not know the kind.
    unknown: u32,
}

impl Watch {
    /// Until nobody reads any more.
    async fn run<K>(mut self, feed: Feed<K>, config: watcher::Config, place: Place<K>)
    where
        K: Light,
    {
        // Lists as a stream cost the server and us the memory of one object at a time.
        let mut stream = feed.events(config.clone().streaming_lists()).boxed();
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    let done = matches!(event, Event::InitDone);
                    // A list that has begun may fail yet; where it comes in pages it begins before it is asked for.
                    if !matches!(event, Event::Init | Event::InitApply(_)) {
                        self.works();
                    }
                    if self.tell(event.modify(Light::lighten), place).await.is_err() {
                        return;
                    }
                    if done {
                        self.state.told = true;
                        self.refused(false).await;
                        self.ready().await;
                    }
                }
                Err(error) if !self.state.told && !self.state.listing && wants_list(&error) => {
                    debug!(kind = self.kind, %error, "the API server does not stream this list; asking for all of it");
                    self.state.listing = true;
                    stream = feed.events(config.clone()).boxed();
                }
                // It goes on from where it was; a server that is gone does not answer that.
                Err(error) if self.state.ready && is_silent(&error) => {
                    debug!(kind = self.kind, "a watch has said nothing for long, and is renewed");
                }
                Err(error) => {
                    let wait = self.failed(&error).await;
                    if self.has_gone(&error).await {
                        for event in [Event::Init, Event::InitDone] {
                            // A reader that is gone needs no news.
                            let _ = self.tell(event, place).await;
                        }
                        // Where the watch was, nothing will be: all that there is then is asked for, as at the start.
                        (self.state.told, self.state.listing) = (false, true);
                        stream = feed.events(config.clone()).boxed();
                    }
                    sleep(wait).await;
                }
            }
        }
    }

    async fn tell<K: Light>(&self, event: Event<K>, place: Place<K>) -> Result<(), mpsc::error::SendError<News>> {
        let scope = self.scope.clone();
        self.news.send(Box::new(move |objects| place(objects).apply(scope.as_deref(), event))).await
    }

    /// Whether a kind that was told of is there no more, with its definition or in the version that is read: so its objects are
    /// not either, nor the rights that they gave. The server says so again and again, and its list of kinds too, since one that is
    /// just starting may not know all of them.
    async fn has_gone(&mut self, error: &watcher::Error) -> bool {
        let is_unknown = self.state.told && (is_absent(error) || is_text(error)) && !self.place.is_served().await;
        self.state.unknown = if is_unknown { self.state.unknown.saturating_add(1) } else { 0 };
        let has_gone = self.state.unknown >= UNKNOWN_MAX;
        if has_gone {
            warn!(kind = self.kind, "the API server does not know this kind any more: its objects are gone");
        }
        has_gone
    }

    fn works(&mut self) {
        if self.state.failures > 0 {
            self.health.failing.fetch_sub(1, Ordering::Relaxed);
            info!(kind = self.kind, "the API server answers again");
        }
        if self.state.absent {
            info!(kind = self.kind, "the API server knows this kind now");
        }
        (self.state.failures, self.state.absent, self.state.unknown) = (0, false, 0);
    }

    /// The queue keeps the order: who reads this has read the list.
    async fn ready(&mut self) {
        if !std::mem::replace(&mut self.state.ready, true) {
            let health = Arc::clone(&self.health);
            let told: News = Box::new(move |_| {
                health.ready.fetch_add(1, Ordering::AcqRel);
                true
            });
            // A reader that is gone needs no news.
            let _ = self.news.send(told).await;
        }
    }

    async fn refused(&mut self, is_refused: bool) {
        if std::mem::replace(&mut self.state.refused, is_refused) != is_refused {
            let (kind, scope) = (self.kind.clone(), self.scope.as_deref().map(Arc::from));
            let told: News = Box::new(move |objects| objects.refused.note(kind, scope, is_refused));
            // A reader that is gone needs no news.
            let _ = self.news.send(told).await;
        }
    }

    async fn failed(&mut self, error: &watcher::Error) -> Duration {
        if is_absent(error) {
            if !std::mem::replace(&mut self.state.absent, true) {
                info!(kind = self.kind, "the API server does not know this kind; it is asked again");
            }
            if self.state.failures > 0 {
                self.health.failing.fetch_sub(1, Ordering::Relaxed);
                self.state.failures = 0;
            }
            self.refused(false).await;
            self.ready().await;
            return ABSENT;
        }
        self.health.failures.fetch_add(1, Ordering::Relaxed);
        if self.state.failures == 0 {
            self.health.failing.fetch_add(1, Ordering::Relaxed);
            warn!(kind = self.kind, %error, "a watch failed; what is known stays");
        }
        if !self.state.told && is_forbidden(error) && self.state.failures >= REFUSALS_MAX {
            // One right that is lacking must not keep all routes from being served, but for those that it is about.
            let (kind, is_served) = (self.kind.as_str(), self.place.is_served().await);
            if !self.state.ready {
                warn!(kind, is_served, "it may not be read; the role lacks `list` and `watch` of it");
            }
            self.refused(is_served).await;
            self.ready().await;
        }
        let wait = BACKOFF.saturating_mul(1 << self.state.failures.min(5)).min(BACKOFF_MAX);
        self.state.failures = self.state.failures.saturating_add(1);
        // Not all at once when the server is back.
        wait.mul_f64(0.75 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use kube::core::Status;
    use wayspan_tests::{Reply, Request, Upstream};

    use super::super::client::{Limits, limited};
    use super::super::feed::tests::{END, added, client, lists, named, page, refused, streamed};
    use super::*;
    use crate::config::model::StatusAddress;

    #[test]
    fn a_published_service_is_watched_wherever_it_is_and_once() {
        let service = |namespace: &str| Some((namespace.to_owned(), "wayspan".to_owned()));
        let provider = |namespace| {
            let address = StatusAddress { service: service(namespace), ..StatusAddress::default() };
            Some(KubernetesProvider { address, ..KubernetesProvider::default() })
        };
        let settings = Kubernetes { ingress: provider("edge"), crd: None, gateway: provider("edge") };
        let wanted = Wanted::of(&settings, None);
        let namespaces = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(wanted.elsewhere(&namespaces(&["shop"])), BTreeMap::from([("edge", vec!["wayspan"])]));
        assert!(wanted.elsewhere(&namespaces(&["shop", "edge"])).is_empty() && wanted.elsewhere(&[]).is_empty());
    }

    const MS: Duration = Duration::from_millis(1);

    /// The watches of Ingress objects, of a server that takes connections and answers as told.
    fn watched(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Upstream, JoinSet<()>, Arc<Health>) {
        let server = Upstream::start(answer).unwrap();
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let limits = Limits { connect: 2_000 * MS, answer: 2_000 * MS, silence: 400 * MS };
        let health = Arc::new(Health::default());
        let wanted = Wanted { ingress: Some(Selection::default()), ..Wanted::default() };
        let (mut tasks, mut news) = start(&limited(config, limits).unwrap(), &wanted, &health);
        tasks.spawn(async move {
            let mut objects = Objects::default();
            while let Some(news) = news.recv().await {
                news(&mut objects);
            }
        });
        (server, tasks, health)
    }

    /// Waits for it, for ten times as long as it may take.
    async fn within(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(10 * limit, async {
            while !is_so() {
                sleep(10 * MS).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_takes_connections_and_says_nothing_is_one_that_is_away() {
        let (_server, _tasks, health) = watched(|_| Reply::default());
        within(400 * MS, "all watches fail", || health.read().failing == health.read().watches).await;
        assert_eq!(health.read().ready, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_watch_that_says_nothing_is_renewed_and_fails_only_where_that_is_not_answered() {
        let is_away = Arc::new(AtomicBool::new(false));
        let answers = Arc::clone(&is_away);
        let (server, _tasks, health) = watched(move |request| {
            if answers.load(Ordering::Relaxed) {
                return Reply::default();
            }
            let is_list = request.target.contains("sendInitialEvents=true");
            streamed(if is_list { &[END] } else { &[] }, false)
        });
        within(200 * MS, "all is told", || health.is_ready()).await;
        let renewed = || server.requests().iter().filter(|one| one.target.contains("resourceVersion=5")).count();
        within(800 * MS, "watches are renewed twice", || renewed() >= 10).await;
        assert_eq!((health.read().failures, health.read().failing), (0, 0), "nothing happened");
        is_away.store(true, Ordering::Relaxed);
        within(2_400 * MS, "all watches fail", || health.read().failing == health.read().watches).await;
        assert!(health.is_ready(), "what was told stays");
    }

    const UNKNOWN: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 18\r\n\r\n404 page not found";

    const SERVED: &str = r#"{"kind":"APIResourceList","groupVersion":"gateway.networking.k8s.io/v1beta1","resources":[
        {"name":"referencegrants","singularName":"","namespaced":true,"kind":"ReferenceGrant","verbs":["list"]}]}"#;

    /// A watch of the grants of a server, its news, and the objects with a grant that it has told of.
    struct Grants {
        objects: Objects,
        news: mpsc::Receiver<News>,
        health: Arc<Health>,
        _tasks: JoinSet<()>,
    }

    impl Grants {
        fn watch(server: &Upstream, state: State) -> Self {
            let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant");
            let kind = ApiResource::from_gvk(&kind);
            let (client, (news, told)) = (client(server), mpsc::channel(QUEUE));
            let feed = Feed::new(&client, |client| Api::<DynamicObject>::all_with(client, &kind));
            let place = refusals::Place { client, url: feed.url().to_owned() };
            let health = Arc::new(Health { watches: AtomicU64::new(1), ..Health::default() });
            let (kind, health_too) = ("ReferenceGrant".to_owned(), Arc::clone(&health));
            let watch = Watch { kind, scope: None, place, health: health_too, news, state };
            let mut tasks = JoinSet::new();
            tasks.spawn(watch.run(feed, watcher::Config::default(), |objects| &mut objects.reference_grants));
            let mut objects = Objects::default();
            objects.reference_grants.put(serde_json::from_value(named("told")).unwrap());
            Self { objects, news: told, health, _tasks: tasks }
        }

        fn names(&self) -> Vec<&str> {
            self.objects.reference_grants.iter().map(|(key, _)| &*key.name).collect()
        }

        /// Takes news until it is so.
        async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
            let waited = tokio::time::timeout(20_000 * MS, async {
                while !is_so(self) {
                    self.news.recv().await.unwrap()(&mut self.objects);
                }
            });
            assert!(waited.await.is_ok(), "{what}: {:?}", self.names());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_list_that_broke_off_told_of_is_not_taken_for_the_next_ones() {
        let [revoked, kept] = ["revoked", "kept"].map(|name| added(&named(name)));
        let server = lists([streamed(&[&revoked, &kept], true), streamed(&[&kept, END], false)], |_| Reply::default());
        let mut grants = Grants::watch(&server, State::default());
        grants.until("a list is whole", |grants| grants.health.is_ready()).await;
        assert_eq!(grants.names(), ["kept"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lists_in_pages_that_fail_are_failures_in_a_row() {
        let server = lists([refused(422)], |request| match request.target.ends_with("/v1beta1") {
            true => Reply::ok(SERVED),
            false => refused(403),
        });
        let mut grants = Grants::watch(&server, State::default());
        let is_refused =
            |grants: &Grants| grants.health.is_ready() && grants.objects.refused.any("ReferenceGrant", |_| true);
        grants.until("it counts as one that may not be read", is_refused).await;
        assert_eq!((grants.health.read().failing, grants.health.read().failures), (1, u64::from(REFUSALS_MAX) + 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kind_that_has_gone_takes_its_objects_with_it_and_is_told_of_when_it_is_back() {
        let server = lists([Reply::raw(UNKNOWN)], |request| match request.target.ends_with("/v1beta1") {
            true => Reply::raw(UNKNOWN),
            false if request.target.contains("watch=true") => streamed(&[], false),
            false => page(&[named("new")]),
        });
        let state = State { ready: true, told: true, unknown: UNKNOWN_MAX - 2, ..State::default() };
        let mut grants = Grants::watch(&server, state);
        grants.until("its objects are gone", |grants| grants.names().is_empty()).await;
        let lists = server.requests().iter().filter(|one| one.target.contains("sendInitialEvents")).count();
        assert_eq!(lists, 2, "not the first time");
        grants.until("it is back", |grants| grants.names() == ["new"]).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kind_that_has_gone_and_is_back_may_be_one_that_may_not_be_read() {
        let is_back = AtomicBool::new(false);
        let server = lists([Reply::raw(UNKNOWN)], move |request| match request.target.ends_with("/v1beta1") {
            true if is_back.swap(true, Ordering::Relaxed) => Reply::ok(SERVED),
            true => Reply::raw(UNKNOWN),
            false => refused(403),
        });
        let state = State { ready: true, told: true, unknown: UNKNOWN_MAX - 1, ..State::default() };
        let mut grants = Grants::watch(&server, state);
        let is_refused = |grants: &Grants| grants.objects.refused.any("ReferenceGrant", |_| true);
        grants.until("it counts as one that may not be read", is_refused).await;
        assert!(grants.names().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn objects_of_a_kind_stay_that_the_server_says_it_has() {
        let server = Upstream::start(|_| refused(503)).unwrap();
        let (news, _told) = mpsc::channel(QUEUE);
        let place = refusals::Place { client: client(&server), url: "/apis/g/v1/kinds".to_owned() };
        let (kind, health) = ("Kind".to_owned(), Arc::default());
        let state = State { told: true, unknown: UNKNOWN_MAX, ..State::default() };
        let mut watch = Watch { kind, scope: None, place, health, news, state };
        let error = |code| {
            let status = Status { code, ..Status::default() };
            watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
        };
        assert!(!watch.has_gone(&error(404)).await && !watch.has_gone(&error(500)).await);
        assert_eq!(watch.state.unknown, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kind_that_may_not_be_read_counts_as_known_after_some_refusals_and_one_that_cannot_be_read_never_does() {
        let server = Upstream::start(|request| match request.target.as_str() {
            "/apis/traefik.io/v1alpha1" => Reply::ok(
                r#"{"kind":"APIResourceList","groupVersion":"traefik.io/v1alpha1","resources":[{"name":"tlsoptions",
                "singularName":"","namespaced":true,"kind":"TLSOption","verbs":["list"]}]}"#,
            ),
            _ => Reply::raw(UNKNOWN),
        });
        let server = server.unwrap();
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let limits = Limits { connect: 2_000 * MS, answer: 2_000 * MS, silence: 2_000 * MS };
        let client = limited(config, limits).unwrap();
        for (code, url, is_known, is_refused) in [
            (403, "/apis/traefik.io/v1alpha1/namespaces/shop/tlsoptions", true, true),
            // Who has no right to a kind is refused also where there is no such kind.
            (403, "/apis/traefik.io/v1alpha1/namespaces/shop/others", true, false),
            (403, "/apis/gone.io/v1/tlsoptions", true, false),
            (403, "/api/v1/secrets", true, true),
            (503, "/apis/traefik.io/v1alpha1/tlsoptions", false, false),
        ] {
            let health = Arc::new(Health { watches: AtomicU64::new(1), ..Health::default() });
            let (news, mut told) = mpsc::channel(QUEUE);
            let (state, kind) = (State::default(), "TLSOption".to_owned());
            let place = refusals::Place { client: client.clone(), url: url.to_owned() };
            let mut watch = Watch { kind, scope: None, place, health: Arc::clone(&health), news, state };
            let mut objects = Objects::default();
            let mut refused = 0;
            while !health.is_ready() && refused < 10 {
                let status = Status { code, ..Status::default() };
                let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
                assert!(watch.failed(&error).await > Duration::ZERO);
                refused += 1;
                while let Ok(told) = told.try_recv() {
                    told(&mut objects);
                }
            }
            assert_eq!((health.is_ready(), health.read().failing), (is_known, 1), "{code} {url}");
            assert!(refused > 1, "a role may be bound a moment later");
            assert_eq!(objects.refused.any("TLSOption", |_| true), is_refused, "{code} {url}");
            watch.refused(false).await;
            while let Ok(told) = told.try_recv() {
                assert!(told(&mut objects), "it is news");
            }
            assert!(!objects.refused.any("TLSOption", |_| true), "{code} {url}");
        }
    }
}
