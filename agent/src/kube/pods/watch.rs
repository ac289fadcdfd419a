//! Hears the API: watches of pods and nodes, each in a task of its own, that list again and back off by themselves. Of what
//! they hear, only what is kept goes on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Error, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use wayspan_proxy::clock::MonoNs;

use super::cache::Change;
use super::facts::{Allowed, PodObject, Reader};
use super::{Counts, TRIES_APART, Told, Watch};
use crate::config::model::Metadata;
use crate::export::clock::WallClock;
use crate::export::peer::Writer;
use crate::kube::client::{LIMITS, causes};
use crate::kube::feed::{Feed, is_silent, status};

/// A node's zone, in the words of Kubernetes.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The watches that there are to be: of nodes, and of pods in these namespaces or in all.
pub(super) fn all(namespaces: &[String]) -> Box<[Watch]> {
    let nodes = Watch { what: "nodes".to_owned(), ..Watch::default() };
    let whole = Watch { what: "pods".to_owned(), is_of_pods: true, ..Watch::default() };
    let each = namespaces.iter().map(|namespace| {
        let what = format!("pods of namespace {namespace}");
        Watch { what, namespace: namespace.clone(), is_of_pods: true, ..Watch::default() }
    });
    let whole = namespaces.is_empty().then_some(whole);
    [nodes].into_iter().chain(whole).chain(each).collect()
}

/// Starts the watches.
pub(super) fn start(
    client: &Client,
    config: &Metadata,
    told: &mpsc::Sender<Told>,
    counts: &Arc<Counts>,
    tasks: &mut JoinSet<()>,
) {
    let allowed = Allowed { labels: config.labels.clone(), annotations: config.annotations.clone() };
    // A source's number is its watch's.
    for (source, watch) in (0..u16::MAX).zip(&counts.watches) {
        let mouth = Mouth { told: told.clone(), counts: Arc::clone(counts), source };
        if watch.is_of_pods {
            let feed = Feed::new(client, |client| match &*watch.namespace {
                "" => Api::all(client),
                namespace => Api::namespaced(client, namespace),
            });
            tasks.spawn(follow_pods(feed, Reader::new(allowed.clone()), mouth));
        } else {
            tasks.spawn(follow_nodes(Api::all(client.clone()), mouth));
        }
    }
}

/// Where a watch tells.
struct Mouth {
    told: mpsc::Sender<Told>,
    counts: Arc<Counts>,
    source: u16,
}

/// How long a watch waits before it tries again: kube's default, held to what it is here taken for.
#[derive(Default)]
struct Tries(DefaultBackoff);

impl Iterator for Tries {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(TRIES_APART))
    }
}

impl Backoff for Tries {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// How a watch went.
#[derive(PartialEq, Eq)]
enum Way {
    /// The merge is gone.
    Over,
    /// Lists do not come as streams.
    NoStreams,
}

async fn follow_pods(feed: Feed<PodObject>, mut reader: Reader, mouth: Mouth) {
    let streams = feed.events(watcher::Config::default().streaming_lists());
    if follow(streams, true, &mut reader, &mouth).await == Way::NoStreams {
        debug!("the API server sends no lists as streams: they come in pages");
        follow(feed.events(watcher::Config::default()), false, &mut reader, &mouth).await;
    }
}

async fn follow(
    events: impl Stream<Item = Result<Event<PodObject>, Error>> + Send,
    are_streams: bool,
    reader: &mut Reader,
    mouth: &Mouth,
) -> Way {
    let mut clock = WallClock::new(MonoNs::now());
    let source = mouth.source;
    let mut events = pin!(events.backoff(Tries::default()));
    while let Some(event) = events.next().await {
        let at = MonoNs::now();
        let mut read = |pod: &PodObject| reader.read(pod, clock.offset(at));
        let change = match event {
            Ok(Event::Init) => Some(Change::Listing(source)),
            Err(error) if are_streams && mouth.has_no_list() && is_no_stream(&error) => return Way::NoStreams,
            // It is renewed from where it was; a server that is gone does not answer that.
            Err(error) if !mouth.has_no_list() && is_silent(&error) => Some(Change::Silent(source, before_silence(at))),
            Err(error) => {
                mouth.has_failed(&error, at);
                Some(Change::Broken(source))
            }
            Ok(word) => {
                mouth.has_heard(at);
                match word {
                    Event::Apply(pod) => read(&pod).map(|facts| Change::Applied(source, facts)),
                    Event::InitApply(pod) => read(&pod).map(|facts| Change::Listed(source, facts)),
                    Event::Delete(pod) => read(&pod).map(|facts| Change::Deleted(source, facts)),
                    Event::InitDone => {
                        mouth.has_list();
                        Some(Change::Complete(source))
                    }
                    Event::Init => None,
                }
            }
        };
        if let Some(change) = change
            && mouth.told.send((at, change)).await.is_err()
        {
            break;
        }
    }
    Way::Over
}

/// When the last byte came, at the latest, of a watch that is given up for its silence.
fn before_silence(at: MonoNs) -> MonoNs {
    let silence = u64::try_from(LIMITS.silence.as_nanos()).unwrap_or(u64::MAX);
    MonoNs(at.0.saturating_sub(silence))
}

/// Zones. What is known of a node that has gone harms nobody, but it takes room.
async fn follow_nodes(api: Api<PartialObjectMeta<Node>>, mouth: Mouth) {
    let mut writer = Writer::default();
    let mut events = pin!(watcher(api, watcher::Config::default()).backoff(Tries::default()));
    while let Some(event) = events.next().await {
        let at = MonoNs::now();
        let change = match event {
            Ok(Event::Apply(node) | Event::InitApply(node)) => {
                writer.zone(node.labels().get(ZONE).map(String::as_str).unwrap_or_default());
                Change::Node(node.name_any().into(), writer.take())
            }
            Ok(Event::Delete(node)) => Change::NodeGone(node.name_any().into()),
            Ok(Event::Init) => continue,
            Err(error) if !mouth.has_no_list() && is_silent(&error) => continue,
            Ok(Event::InitDone) => {
                mouth.has_heard(at);
                mouth.has_list();
                continue;
            }
            Err(error) => {
                mouth.has_failed(&error, at);
                continue;
            }
        };
        mouth.has_heard(at);
        if mouth.told.send((at, change)).await.is_err() {
            break;
        }
    }
}

/// Whether a server cannot send a list as a stream, which it says in several ways: 422 where it does not know of it, an error
/// within the stream where its etcd is too old for it. Where we may not ask, or it is too busy, that has other reasons.
fn is_no_stream(error: &Error) -> bool {
    match error {
        Error::WatchError(_) => true,
        error => status(error).is_some_and(|code| !matches!(code, 401 | 403 | 429 | 502..)),
    }
}

impl Mouth {
    fn watch(&self) -> Option<&Watch> {
        self.counts.watches.get(usize::from(self.source))
    }

    fn has_heard(&self, at: MonoNs) {
        self.counts.heard.store(at.0, Ordering::Relaxed);
        if let Some(watch) = self.watch().filter(|watch| watch.failed.swap(0, Ordering::Relaxed) != 0) {
            info!(what = watch.what, "the watch is back");
        }
    }

    fn has_no_list(&self) -> bool {
        self.watch().is_some_and(|watch| watch.lists.load(Ordering::Relaxed) == 0)
    }

    /// The first list is the start.
    fn has_list(&self) {
        let before = self.watch().map_or(0, |watch| watch.lists.fetch_add(1, Ordering::Relaxed));
        self.counts.restarts.fetch_add(before.min(1), Ordering::Relaxed);
    }

    /// Each failure is counted, the first of a row is told.
    fn has_failed(&self, error: &Error, at: MonoNs) {
        self.counts.restarts.fetch_add(1, Ordering::Relaxed);
        let Some(watch) = self.watch() else { return };
        let text = causes(error);
        if !watch.is_failing(at) {
            warn!(what = watch.what, error = text, "a watch has failed, and is tried again");
        }
        watch.failed.store(at.0, Ordering::Relaxed);
        watch.failure.store(Some(Arc::new(format!("{}: {text}", watch.what))));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use serde_json::json;
    use wayspan_tests::Reply;

    use super::super::cache::{self, Cache};
    use super::*;
    use crate::kube::feed::tests::{END, EXPIRED, added, client, lists, page, refused, streamed};

    fn mouth() -> (Mouth, mpsc::Receiver<Told>) {
        let (told, changes) = mpsc::channel(9);
        let watches = Box::new([Watch { is_of_pods: true, ..Watch::default() }]);
        let counts = Arc::new(Counts { watches, ..Counts::default() });
        (Mouth { told, counts, source: 0 }, changes)
    }

    fn pod(name: &str, ip: &str) -> serde_json::Value {
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "4"},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pod_that_the_next_list_does_not_name_has_gone() {
        let [a, b] = [("a", "10.0.0.1"), ("b", "10.0.0.2")].map(|(name, ip)| added(&pod(name, ip)));
        let server =
            lists([streamed(&[&a, &b, END, EXPIRED], true), streamed(&[&b, END], false)], |_| Reply::default());
        let (mouth, mut changes) = mouth();
        let feed = Feed::new(&client(&server), Api::<PodObject>::all);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_pods(feed, Reader::new(Allowed::default()), mouth));
        let (mut cache, mut lists) = (Cache::new(9), 0);
        while lists < 2 {
            let (at, change) = changes.recv().await.unwrap();
            lists += u32::from(matches!(change, Change::Complete(_)));
            cache.apply(change, at);
        }
        assert_eq!(cache.counts(), cache::Counts { pods: 1, resting: 1, refused: 0 });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_streams_no_lists_is_asked_for_pages() {
        let server = lists([refused(422)], |request| match request.target.contains("watch=true") {
            true => streamed(&[], false),
            false => page(&[pod("a", "10.0.0.1")]),
        });
        let (mouth, mut changes) = mouth();
        let feed = Feed::new(&client(&server), Api::<PodObject>::all);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_pods(feed, Reader::new(Allowed::default()), mouth));
        let mut told = Vec::new();
        while told.len() < 3 {
            let (_, change) = changes.recv().await.unwrap();
            told.push(format!("{change:?}").split('(').next().unwrap_or_default().to_owned());
        }
        assert_eq!(told, ["Listing", "Listed", "Complete"]);
    }

    #[tokio::test]
    async fn a_silence_is_told_with_its_beginning() {
        let (mouth, mut changes) = mouth();
        let silent = Error::WatchFailed(kube::Error::ReadEvents(std::io::ErrorKind::TimedOut.into()));
        let events = stream::iter([Ok(Event::Init), Ok(Event::InitDone), Err(silent)]);
        let mut reader = Reader::new(Allowed::default());
        let mut all = Vec::new();
        let hears = async {
            for _ in 0..3 {
                let (at, change) = changes.recv().await.unwrap();
                let since = MonoNs(at.0.saturating_sub(u64::try_from(LIMITS.silence.as_nanos()).unwrap()));
                all.push(format!("{change:?}").replace(&format!("{since:?}"), "SINCE"));
            }
        };
        tokio::select! {
            _ = follow(events, true, &mut reader, &mouth) => {}
            () = hears => {}
        }
        assert_eq!(all, ["Listing(0)", "Complete(0)", "Silent(0, SINCE)"]);
    }
}
