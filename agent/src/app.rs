//! The composition root: makes the parts of the agent, connects them, and ends them in order. Each part's work is its
//! own; nothing is decided here but who gets what.

mod cluster;
mod end;
mod handover;
mod probe_sets;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::server::{ListenFault, Proxy, Settings};
use wayspan_proxy::{ring::RecordReader, sampling::Policy};

use self::cluster::Cluster;
use self::end::End;
use self::handover::{ApiSocket, Way};
use self::probe_sets::{by_probe, probe_list, switch_probes};
use crate::api::{self, Api};
use crate::catalog::Catalog;
use crate::config::model::{Dynamic, Log, Static, Workers};
use crate::config::{self, Fault, Inputs, Registry, Reloader, Resolver, Watcher, has_names, names};
use crate::export::internal::{InternalRequest, InternalSpans, InternalTask};
use crate::export::resource::{HostFacts, OwnPod, Resource};
use crate::export::sender::Exporter;
use crate::export::writer::SpanWriter;
use crate::kube::client::{self, Shared};
use crate::kube::pods::{self, Pods};
use crate::kube::watch::Health;
use crate::litter::Litter;
use crate::merge::phase::Attributed;
use crate::merge::pump::{self, Pump, PumpCounts, Sink};
use crate::metrics::{self, PhaseReader, PhaseWriter};
use crate::probes::{Observer, Probes, memory};
use crate::recent::Recent;
use crate::sampling::client::RemoteSampling;

/// Runs the agent with a configuration file until it is told to end.
///
/// # Errors
/// When it cannot start: a fault in the file, an address in use, probes that are required and not to be had.
pub fn run(file: &Path) -> Result<ExitCode> {
    let reloader = match Reloader::load(file) {
        Ok(reloader) => reloader,
        Err(faults) => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            bail!("{} in {}; nothing was started", config::counted(&faults), file.display());
        }
    };
    start_log(&reloader.config().fixed.log);
    let mut control = tokio::runtime::Builder::new_multi_thread();
    control.worker_threads(1).enable_all().thread_name("control").build()?.block_on(serve(reloader))
}

fn start_log(config: &Log) {
    let builder = tracing_subscriber::fmt().with_env_filter(log_filter(&config.level)).with_writer(std::io::stderr);
    // A second subscriber can only be a test's own; its messages go there.
    let _ = if config.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}

/// What is logged. Who asks the API server tells himself what became of it, once, where it is a fault at all.
fn log_filter(level: &str) -> tracing_subscriber::EnvFilter {
    let filter = tracing_subscriber::EnvFilter::try_new(level).unwrap_or_else(|_| "info".into());
    let off = format!("{}=off", client::OWN_LOG).parse().ok().filter(|_| !level.contains("kube_client"));
    if let Some(off) = off { filter.add_directive(off) } else { filter }
}

/// The routing half: what a reload or a name's new address changes.
struct Routing {
    reloader: Reloader,
    registry: Registry,
    resolver: Resolver,
    cluster: Cluster,
    proxy: Proxy,
    /// The bound address of the api.
    api: Option<SocketAddr>,
    shown: Shown,
    /// What the last reload found wrong with the files.
    faults: Vec<Fault>,
    /// Addresses that cannot be opened, and are tried again.
    unopened: Vec<Fault>,
    litter: Litter,
}

/// What the api and the merge see of the configuration of this moment.
#[derive(Clone, Default)]
struct Shown {
    catalog: Arc<ArcSwap<Catalog>>,
    dynamic: Arc<ArcSwap<Dynamic>>,
    faults: Arc<ArcSwap<Vec<Fault>>>,
    reloads: Arc<AtomicU64>,
    /// Something is wrong with the files; what is wrong with an object is its owner's.
    failed: Arc<AtomicBool>,
}

impl Routing {
    /// Makes the configuration of this moment the proxy's truth.
    async fn apply(&mut self) {
        let config = self.reloader.config();
        let (dynamic, disputes) = self.cluster.merged(&config.dynamic);
        self.resolver.want(names(&dynamic));
        let resolved = self.resolver.resolved();
        let inputs = Inputs {
            fixed: &config.fixed,
            dynamic: &dynamic,
            disputes: &disputes,
            resolved: &resolved,
            api: self.api,
            now: MonoNs::now(),
        };
        let (snapshot, catalog) = self.registry.build(&inputs);
        // Names first: a record can come before the swap has returned.
        self.shown.catalog.store(Arc::new(catalog));
        self.shown.dynamic.store(Arc::new(dynamic));
        let before = self.proxy.addresses();
        let faults = self.proxy.apply(snapshot).await;
        self.tell_of_listeners(&before, &faults);
        self.show_faults();
        self.litter.drop_some();
    }

    /// Takes other routes from the cluster. Endpoints come and go all day: where nothing but services' servers is another,
    /// nothing but these services is renewed.
    async fn follow_cluster(&mut self) {
        let Some(others) = self.cluster.other_services() else { return self.apply().await };
        let first = self.reloader.config().dynamic.services.len();
        let mut dynamic = Dynamic::clone(&self.shown.dynamic.load());
        let mut named = false;
        for (place, service) in &others {
            if let Some(old) = dynamic.services.get_mut(first + place) {
                named |= has_names(old) || has_names(service);
                old.clone_from(service);
            }
        }
        if named {
            self.resolver.want(names(&dynamic));
        }
        let others: Vec<_> = others.into_iter().map(|(_, service)| service).collect();
        let (snapshot, catalog) = self.registry.swap(&others, MonoNs::now());
        self.shown.catalog.store(Arc::new(catalog));
        self.shown.dynamic.store(Arc::new(dynamic));
        self.proxy.swap(snapshot);
    }

    /// Tries again what could not be opened, and closes what nobody is on the way to any more.
    async fn settle(&mut self) {
        let before = self.proxy.addresses();
        let faults = self.proxy.settle().await;
        self.tell_of_listeners(&before, &faults);
        self.show_faults();
    }

    fn tell_of_listeners(&mut self, before: &[(Box<str>, SocketAddr)], faults: &[ListenFault]) {
        let file = &self.reloader.config().dynamic;
        self.cluster.stand_in(cluster::around(file, self.api, faults));
        // A port that some Gateway asks for is told of with the Gateway.
        let of_file = |fault: &&ListenFault| file.entry_points.iter().any(|one| *one.name == *fault.entry_point);
        let unopened = faults.iter().filter(of_file).map(|fault| self.address_fault(fault)).collect();
        let told = std::mem::replace(&mut self.unopened, unopened);
        // Each retry finds the same again: it is told once.
        for fault in self.unopened.iter().filter(|fault| !told.contains(fault)) {
            error!(%fault, "an address cannot be opened");
        }
        for (entry_point, address) in self.proxy.addresses() {
            if !before.contains(&(entry_point.clone(), address)) {
                info!("listening entry_point={entry_point} address={address}");
            }
        }
    }

    fn address_fault(&self, fault: &ListenFault) -> Fault {
        let ListenFault { entry_point, address, stays, source } = fault;
        let stays: Vec<_> = stays.iter().map(ToString::to_string).collect();
        let then = if stays.is_empty() { "the entry point is closed".to_owned() } else { stays.join(", ") + " stays" };
        let message = format!(
            "cannot listen on {address}: {source}; free it or name another one; it is tried again every second, until \
             then {then}"
        );
        self.reloader.address_fault(entry_point, message)
    }

    fn show_faults(&self) {
        let all = self.faults.iter().chain(&self.unopened).chain(&self.cluster.faults).cloned().collect();
        self.shown.faults.store(Arc::new(all));
        self.shown.failed.store(!(self.faults.is_empty() && self.unopened.is_empty()), Ordering::Relaxed);
    }

    async fn reload(&mut self) {
        let reload = self.reloader.reload_now();
        self.faults = told(reload.faults);
        self.show_faults();
        self.shown.reloads.fetch_add(1, Ordering::Relaxed);
        if reload.changed {
            self.apply().await;
            info!(faults = self.faults.len() + self.unopened.len(), "configuration reloaded");
        }
    }
}

/// Logs what a reading of the files found wrong.
fn told(faults: Vec<Fault>) -> Vec<Fault> {
    for fault in &faults {
        error!(%fault, "configuration");
    }
    faults
}

/// Where attributed requests go, on the merge's thread.
struct Telemetry {
    catalog: Arc<ArcSwap<Catalog>>,
    recent: Arc<Recent>,
    phases: PhaseWriter,
    spans: Option<SpanWriter>,
    pods: Pods,
}

impl Sink for Telemetry {
    fn request(&mut self, attributed: &Attributed<'_>) {
        let catalog = self.catalog.load();
        self.phases.observe(attributed);
        self.recent.offer(attributed, &catalog, &self.pods);
        if let Some(spans) = &mut self.spans {
            spans.request(attributed, &catalog, &self.pods);
        }
    }

    fn turn_over(&mut self) {
        let now = MonoNs::now();
        self.pods.turn(now);
        if let Some(spans) = &mut self.spans {
            spans.turn_over(now);
        }
    }
}

async fn serve(mut reloader: Reloader) -> Result<ExitCode> {
    let mut watcher = watch(&reloader);
    let shown = Shown::default();
    // What was written after the first reading and before the watch is noticed by nobody else.
    let faults = told(reloader.reload_now().faults);
    let fixed = Arc::new(reloader.config().fixed.clone());
    let mut tasks = JoinSet::new();
    let (probes, observer) = load_probes(&fixed, &mut tasks)?;
    let share = fixed.tracing.as_ref().map_or(0.0, |tracing| tracing.sample_rate);
    let (policy, client) = (Arc::new(ArcSwap::from_pointee(Policy::ratio(share))), Shared::default());
    let (pods, own) = pods::start(&fixed, variable, &client, &mut tasks).await;
    let mut traces = Traces::start(&fixed, &own, &policy)?;
    let (mut proxy, readers) =
        Proxy::start(&settings(&fixed), observer.clone(), policy).context("starting the workers")?;
    let phases = PhaseWriter::default();
    let meters = Meters {
        shown: shown.clone(),
        counters: proxy.counters(),
        open: proxy.open_connections(),
        lost: readers.iter().map(RecordReader::lost_reader).collect(),
        pump: Arc::new(PumpCounts::default()),
        phases: vec![phases.reader()],
        spans: traces.exporter.as_ref().map(Exporter::counts),
        probes,
        pods: pods.counts(),
        watches: fixed.kubernetes.as_ref().map(|_| Arc::default()),
        recent: Arc::new(Recent::default()),
        starting: Arc::new(AtomicBool::new(true)),
        draining: Arc::new(AtomicBool::new(false)),
    };
    let telemetry = Telemetry {
        catalog: Arc::clone(&shown.catalog),
        recent: Arc::clone(&meters.recent),
        phases,
        spans: traces.writer(&fixed),
        pods,
    };
    let pump = Pump::new(readers, Arc::clone(&meters.pump), observer, telemetry);
    let merge = pump::spawn("merge", pump).context("starting the merge")?;
    let stop = CancellationToken::new();
    let inherited = handover::inherit(&fixed).await?;
    proxy.inherit(inherited.entry_points);
    let (api, api_socket) =
        start_api(&fixed, &meters, traces.internal.take(), inherited.api, &mut tasks, &stop)?.unzip();
    let way = Way::new(&fixed, api_socket, inherited.name, &stop, &meters.draining);
    let (mut resolver, resolving) = Resolver::new();
    tasks.spawn(resolving);
    let file = &reloader.config().dynamic;
    let cluster = Cluster::start(&fixed, file, api, &client, meters.watches.clone(), &mut tasks);
    let mut end = End::new()?;
    let Some(mut cluster) = end.unless_told(cluster).await? else { return Ok(ExitCode::SUCCESS) };
    resolver.want(names(&cluster.merged(&reloader.config().dynamic).0));
    resolver.settle(NAMES_PATIENCE).await;
    let (registry, unopened, litter) = (Registry::default(), Vec::new(), Litter::new(memory::give_back));
    let mut routing = Routing { reloader, registry, resolver, cluster, proxy, api, shown, faults, unopened, litter };
    routing.apply().await;
    if !routing.unopened.is_empty() {
        bail!("not every address could be opened");
    }
    meters.starting.store(false, Ordering::Relaxed);
    handover::tell_health(&fixed, &meters.draining, &mut tasks)?;
    let grace = until_told(&mut routing, watcher.as_mut(), way, end).await?;
    routing.proxy.drain(grace).await;
    // The workers are gone: what they left in the rings is all there is.
    tokio::task::spawn_blocking(move || drop(merge.stop())).await?;
    stop.cancel();
    tasks.shutdown().await;
    drop(meters);
    traces.finish().await;
    info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// Between two tries of an address that cannot be opened.
const RETRY: Duration = Duration::from_secs(1);

/// How long the start waits for servers' names; those that come later are applied then.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// The parts that tracing needs, where it is on.
#[derive(Default)]
struct Traces {
    exporter: Option<Exporter>,
    internal: Option<InternalSpans>,
    internal_task: Option<InternalTask>,
    sampling: Option<RemoteSampling>,
}

impl Traces {
    fn start(fixed: &Static, own: &OwnPod, policy: &Arc<ArcSwap<Policy>>) -> Result<Self> {
        let Some(tracing) = &fixed.tracing else { return Ok(Self::default()) };
        let runtime = tokio::runtime::Handle::current();
        let mut all = Self::default();
        if let Some(server) = &tracing.sampling_server {
            let (name, policy) = (&tracing.service_name, Arc::clone(policy));
            let sampling = RemoteSampling::start(server, name, policy, fastrand::u64(..), &runtime);
            all.sampling = Some(sampling.context("tracing.jaeger.samplingServerURL")?);
        }
        if let Some(otlp) = &tracing.otlp {
            let environment = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
            let resource = Resource::new(tracing, &HostFacts::read(), own, &environment);
            let exporter = Exporter::start(otlp, &resource, fastrand::u64(..), &runtime).context("tracing.otlp")?;
            if tracing.add_internals {
                let policy = Arc::clone(policy);
                let (internal, task) = InternalSpans::start(&exporter, &resource, policy, fastrand::u64(..), &runtime)
                    .context("tracing.addInternals")?;
                (all.internal, all.internal_task) = (Some(internal), Some(task));
            }
            all.exporter = Some(exporter);
        }
        Ok(all)
    }

    fn writer(&self, fixed: &Static) -> Option<SpanWriter> {
        let (tracing, exporter) = (fixed.tracing.as_ref()?, self.exporter.as_ref()?);
        Some(SpanWriter::new(tracing, &fixed.attribution, exporter.writer(), MonoNs::now()))
    }

    /// Sends what is left. Everybody who makes spans is gone.
    async fn finish(self) {
        if let Some(sampling) = self.sampling {
            sampling.shutdown().await;
        }
        if let Some(task) = self.internal_task {
            task.finish().await;
        }
        if let Some(exporter) = self.exporter {
            exporter.shutdown(EXPORT_GRACE).await;
        }
    }
}

/// A variable of the environment. OpenTelemetry and Kubernetes name their own; ours are in the file.
#[expect(clippy::disallowed_methods, reason = "others' variables, each read once at the start")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How long the last spans may take to reach the collector: Traefik's.
const EXPORT_GRACE: Duration = Duration::from_secs(5);

fn load_probes(fixed: &Static, tasks: &mut JoinSet<()>) -> Result<(Arc<Probes>, Observer)> {
    let mut probes = Probes::load(&fixed.probes);
    if let Some(reason) = probes.reason() {
        if fixed.probes.required {
            bail!("probes.required: {reason}: {}", reason.remedy());
        }
        warn!(%reason, remedy = reason.remedy(), "no kernel points: spans will say so");
    }
    if let Some(log) = probes.take_log() {
        tasks.spawn(async move {
            if let Err(error) = log.run().await {
                warn!(%error, "the probes' messages cannot be read");
            }
        });
    }
    let probes = Arc::new(probes);
    let watched = Arc::clone(&probes);
    tasks.spawn(async move { watched.make_up_where_needed().await });
    let observer = probes.observer();
    Ok((probes, observer))
}

/// What `/metrics` and `/api/status` read.
#[derive(Clone)]
struct Meters {
    shown: Shown,
    counters: wayspan_proxy::counters::Counters,
    open: wayspan_proxy::counters::OpenConnections,
    lost: Vec<Arc<AtomicU64>>,
    pump: Arc<PumpCounts>,
    phases: Vec<PhaseReader>,
    spans: Option<Arc<crate::export::counts::SpanCounts>>,
    probes: Arc<Probes>,
    pods: Option<Arc<pods::Counts>>,
    watches: Option<Arc<Health>>,
    recent: Arc<Recent>,
    starting: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
}

impl Meters {
    fn spans(&self) -> metrics::SpanCounts {
        let Some(spans) = &self.spans else { return metrics::SpanCounts::default() };
        let totals = spans.read();
        metrics::SpanCounts { made: totals.made, sent: totals.sent, lost: totals.lost(), pending: totals.pending() }
    }

    fn text(&self, format: metrics::Format) -> String {
        let (series, totals) = self.counters.read();
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let counters = self.probes.counters();
        let dynamic = self.shown.dynamic.load();
        let inputs = metrics::Inputs {
            catalog: &self.shown.catalog.load(),
            series: &series,
            bounds: self.counters.bounds(),
            totals,
            open: &self.open.read(),
            records: metrics::RecordCounts {
                merged: load(&self.pump.merged),
                lost: self.lost.iter().map(|lost| load(lost)).sum(),
                undecodable: load(&self.pump.undecodable),
            },
            phases: &self.phases,
            spans: self.spans(),
            probes: &by_probe(&counters),
            probes_skipped: &self.probes.skipped(),
            slots: metrics::SlotCounts {
                refused: counters.no_slot,
                peers_refused: counters.peer_no_slot,
                lost: counters.lost_slots,
            },
            pods: self.pods.as_deref().map(|pods| pods.read(MonoNs::now())),
            watches: self.watches.as_deref().map(Health::read),
            config: metrics::ReloadCounts {
                reloads: 1 + load(&self.shown.reloads),
                last_succeeded: !self.shown.failed.load(Ordering::Relaxed),
            },
            certificates: &dynamic.certificates.iter().chain(&dynamic.default_certificate).collect::<Vec<_>>(),
        };
        metrics::render(&inputs, format)
    }
}

fn start_api(
    fixed: &Arc<Static>,
    meters: &Meters,
    internal: Option<InternalSpans>,
    inherited: Option<ApiSocket>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<Option<ApiSocket>> {
    let Some(config) = &fixed.api else { return Ok(None) };
    let (for_recent, for_probes, for_switch) = (Arc::clone(&meters.recent), meters.clone(), meters.clone());
    let (for_spans, for_text, for_pods) = (meters.clone(), meters.clone(), meters.pods.clone());
    let for_watches = meters.watches.clone();
    let metrics: api::Metrics = Arc::new(move |accept| {
        let format = metrics::Format::accepted(Some(accept));
        (format.content_type(), for_text.text(format))
    });
    let state = api::State {
        fixed: Arc::clone(fixed),
        dynamic: Arc::clone(&meters.shown.dynamic),
        faults: Arc::clone(&meters.shown.faults),
        catalog: Arc::clone(&meters.shown.catalog),
        requests: Arc::new(move || serde_json::json!(for_recent.list(MonoNs::now()))),
        probes: Arc::new(move || probe_list(&for_probes.probes)),
        switch: Arc::new(move |set, on| switch_probes(&for_switch.probes, set, on)),
        span_counts: Arc::new(move || {
            let metrics::SpanCounts { made, sent, lost, pending } = for_spans.spans();
            serde_json::json!({"made": made, "sent": sent, "lost": lost, "pending": pending})
        }),
        kubernetes: Arc::new(move || serde_json::json!(for_pods.as_deref().map(|pods| pods.read(MonoNs::now())))),
        watches: Arc::new(move || serde_json::json!(for_watches.as_deref().map(Health::read))),
        metrics: fixed.metrics.is_some().then_some(metrics),
        on_request: Arc::new(move |request| {
            // What no route matched has no name that an operator could look for.
            if let Some(internal) = internal.as_ref().filter(|_| !request.route.is_empty()) {
                internal.internal_request(internal_request(request));
            }
        }),
        starting: Arc::clone(&meters.starting),
        draining: Arc::clone(&meters.draining),
    };
    let listener = inherited.map_or_else(|| api::listen(config), |(_, socket)| Ok(socket))?;
    let kept = listener.try_clone()?;
    let api = Api::on(listener, config, state)?;
    let address = api.address();
    info!("listening entry_point=api address={address}");
    let stop = stop.clone();
    tasks.spawn(api.serve(async move { stop.cancelled().await }));
    Ok(Some((address, kept)))
}

/// The api's word for a request in the exporter's words.
fn internal_request(request: &api::ApiRequest) -> InternalRequest {
    InternalRequest {
        method: wayspan_proxy::record::Method::of(request.method.as_str()),
        route: request.route.into(),
        path: request.path.clone(),
        status: request.status,
        started: request.started,
        ended: request.ended,
        entry_point: "api".into(),
        peer: request.peer,
    }
}

/// Watches the configuration's files, where that is wanted and can be done.
fn watch(reloader: &Reloader) -> Option<Watcher> {
    let provider = reloader.config().fixed.file_provider.as_ref();
    if provider.is_some_and(|provider| !provider.watch) {
        return None;
    }
    let watcher = Watcher::new(reloader.main(), provider);
    watcher.inspect_err(|error| warn!(%error, "the configuration is not watched; SIGHUP reloads it")).ok()
}

/// Reloads as files change until SIGTERM or SIGINT; gives the time that what is open may take.
async fn until_told(
    routing: &mut Routing,
    mut watcher: Option<&mut Watcher>,
    mut way: Way,
    mut end: End,
) -> Result<Duration> {
    let mut hang_up = signal(SignalKind::hangup())?;
    info!("ready");
    loop {
        if let Some(watcher) = &mut watcher {
            watcher.follow(routing.reloader.watched());
        }
        let changed = async {
            match &mut watcher {
                Some(watcher) => watcher.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => routing.reload().await,
            _ = hang_up.recv() => routing.reload().await,
            () = routing.resolver.changed() => routing.apply().await,
            () = routing.cluster.changed() => routing.follow_cluster().await,
            () = routing.litter.given_back() => {}
            asks = way.asked() => way.give(&asks, &routing.proxy),
            () = tokio::time::sleep(RETRY), if !routing.proxy.is_settled() => routing.settle().await,
            () = end.told() => break,
        }
    }
    way.make();
    let entry_points = &routing.reloader.config().dynamic.entry_points;
    let longest = |time: fn(&crate::config::model::EntryPoint) -> Duration| {
        entry_points.iter().map(time).max().unwrap_or_default()
    };
    let (accept_grace, grace) = (longest(|entry| entry.accept_grace), longest(|entry| entry.grace));
    info!(?accept_grace, ?grace, "draining");
    tokio::time::sleep(accept_grace).await;
    Ok(grace)
}

fn settings(fixed: &Static) -> Settings {
    let Workers { count, pin } = fixed.workers;
    let workers = if count == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { count };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let bounds = fixed.metrics.as_ref().map(|metrics| metrics.bounds.clone()).unwrap_or_default();
    Settings { workers, pin, hostname, bounds, give_back: memory::give_back }
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled};

    use super::*;

    #[test]
    fn each_failure_of_the_api_servers_client_is_logged_by_who_asked_unless_it_is_asked_for() {
        for (level, is_logged) in [("info", false), ("debug", false), ("warn,kube_client=error", true), ("off", false)]
        {
            let subscriber = tracing_subscriber::fmt().with_env_filter(log_filter(level)).finish();
            tracing::subscriber::with_default(subscriber, || {
                assert_eq!(enabled!(target: "kube_client::client::builder", Level::ERROR), is_logged, "{level}");
                assert_eq!(enabled!(target: "wayspan_agent", Level::ERROR), level != "off", "{level}");
            });
        }
    }
}
