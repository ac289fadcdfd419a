//! Hears the API: watches of pods and nodes, each in a task of its own, that list again and back off by themselves. Of what
//! they hear, only what is kept goes on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};
use wayspan_proxy::clock::MonoNs;

use super::cache::Change;
use super::facts::{Allowed, PodObject, Reader};
use super::{Counts, Told};
use crate::config::model::Metadata;
use crate::export::clock::WallClock;
use crate::export::peer::Writer;

/// A node's zone, in the words of Kubernetes.
const ZONE: &str = "topology.kubernetes.io/zone";
/// An API server before 1.34 may not know lists as streams, and says so with this.
const UNPROCESSABLE: u16 = 422;

/// Where a watch tells.
struct Mouth {
    told: mpsc::Sender<Told>,
    counts: Arc<Counts>,
    /// For the log.
    what: String,
    is_failing: bool,
}

/// Starts the watches.
pub(super) fn start(
    client: &Client,
    config: &Metadata,
    told: &mpsc::Sender<Told>,
    counts: &Arc<Counts>,
    tasks: &mut JoinSet<()>,
) {
    let mouth = |what: String| Mouth { told: told.clone(), counts: Arc::clone(counts), what, is_failing: false };
    let nodes = Api::all(client.clone());
    tasks.spawn(follow_nodes(nodes, mouth("nodes".to_owned())));
    let whole = config.namespaces.is_empty().then(|| (Api::all(client.clone()), "pods".to_owned()));
    let each = config.namespaces.iter();
    let each = each.map(|name| (Api::namespaced(client.clone(), name), format!("pods of namespace {name}")));
    let allowed = Allowed { labels: config.labels.clone(), annotations: config.annotations.clone() };
    for (source, (api, what)) in (0..).zip(whole.into_iter().chain(each)) {
        counts.watches.fetch_add(1, Ordering::Relaxed);
        tasks.spawn(follow_pods(api, source, Reader::new(allowed.clone()), mouth(what)));
    }
}

async fn follow_pods(api: Api<PodObject>, source: u16, mut reader: Reader, mut mouth: Mouth) {
    if follow(watcher(api.clone(), watcher::Config::default().streaming_lists()), source, &mut reader, &mut mouth).await
    {
        info!("the API server sends no lists as streams: they come in pages");
        follow(watcher(api, watcher::Config::default()), source, &mut reader, &mut mouth).await;
    }
}

/// Until the merge is gone, or streams of lists are refused.
async fn follow(
    events: impl Stream<Item = Result<Event<PodObject>, Error>> + Send,
    source: u16,
    reader: &mut Reader,
    mouth: &mut Mouth,
) -> bool {
    let mut clock = WallClock::new(MonoNs::now());
    let mut lists = 0;
    let mut events = pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        let at = MonoNs::now();
        let mut read = |pod: &PodObject| reader.read(pod, clock.offset(at));
        let change = match event {
            Ok(Event::Apply(pod)) => read(&pod).map(|facts| Change::Applied(source, facts)),
            Ok(Event::InitApply(pod)) => read(&pod).map(|facts| Change::Listed(source, facts)),
            Ok(Event::Delete(pod)) => read(&pod).map(|facts| Change::Deleted(source, facts)),
            Ok(Event::Init) => Some(Change::Listing(source)),
            Ok(Event::InitDone) => {
                mouth.has_list(&mut lists);
                Some(Change::Complete(source))
            }
            Err(error) if is_no_stream(&error) => return true,
            Err(error) => {
                mouth.has_failed(&error);
                Some(Change::Broken(source))
            }
        };
        let is_word = !matches!(change, Some(Change::Broken(_) | Change::Listing(_)));
        if is_word {
            mouth.has_heard(at);
        }
        if let Some(change) = change
            && mouth.told.send((at, change)).await.is_err()
        {
            return false;
        }
    }
    false
}

/// Zones. What is known of a node that has gone harms nobody, but it takes room.
async fn follow_nodes(api: Api<PartialObjectMeta<Node>>, mut mouth: Mouth) {
    let mut writer = Writer::default();
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let at = MonoNs::now();
        let change = match event {
            Ok(Event::Apply(node) | Event::InitApply(node)) => {
                writer.zone(node.labels().get(ZONE).map(String::as_str).unwrap_or_default());
                Some(Change::Node(node.name_any().into(), writer.take()))
            }
            Ok(Event::Delete(node)) => Some(Change::NodeGone(node.name_any().into())),
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                mouth.has_failed(&error);
                continue;
            }
        };
        mouth.has_heard(at);
        if let Some(change) = change
            && mouth.told.send((at, change)).await.is_err()
        {
            return;
        }
    }
}

fn is_no_stream(error: &Error) -> bool {
    match error {
        Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == UNPROCESSABLE
        }
        _ => false,
    }
}

impl Mouth {
    fn has_heard(&mut self, at: MonoNs) {
        self.counts.heard.store(at.0, Ordering::Relaxed);
        if std::mem::take(&mut self.is_failing) {
            count_down(&self.counts.failing);
            info!(what = self.what, "the watch is back");
        }
    }

    fn has_list(&self, lists: &mut u64) {
        let cell = if *lists == 0 { &self.counts.listed } else { &self.counts.restarts };
        cell.fetch_add(1, Ordering::Relaxed);
        *lists += 1;
    }

    /// Each failure is counted, the first of a row is told.
    fn has_failed(&mut self, error: &Error) {
        self.counts.restarts.fetch_add(1, Ordering::Relaxed);
        let text = causes(error);
        if !std::mem::replace(&mut self.is_failing, true) {
            self.counts.failing.fetch_add(1, Ordering::Relaxed);
            warn!(what = self.what, error = text, "a watch has failed, and is tried again");
        }
        self.counts.failure.store(Some(Arc::new(format!("{}: {text}", self.what))));
    }
}

fn count_down(cell: &AtomicU64) {
    cell.fetch_sub(1, Ordering::Relaxed);
}

/// An error with all that lies behind it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Many repeat their cause's words.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
