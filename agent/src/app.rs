//! The composition root: makes the parts of the agent, connects them, and ends them in order. Each part's work is its
//! own; nothing is decided here but who gets what.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::sampling::Policy;
use wayspan_proxy::server::{Proxy, Settings};

use crate::catalog::Catalog;
use crate::config::model::{Log, Static, Workers};
use crate::config::{Fault, Inputs, Registry, Reloader, Resolver, Watcher, names};
use crate::merge::phase::Attributed;
use crate::merge::pump::{self, Pump, PumpCounts, Sink};
use crate::metrics::PhaseWriter;
use crate::probes::Probes;
use crate::recent::Recent;

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
            bail!("{} faults in {}; nothing was started", faults.len(), file.display());
        }
    };
    start_log(&reloader.config().fixed.log);
    let mut control = tokio::runtime::Builder::new_multi_thread();
    control.worker_threads(1).enable_all().thread_name("control").build()?.block_on(serve(reloader))
}

fn start_log(config: &Log) {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.level).unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber can only be a test's own; its messages go there.
    let _ = if config.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}

/// The routing half: what a reload or a name's new address changes.
struct Routing {
    reloader: Reloader,
    registry: Registry,
    resolver: Resolver,
    catalog: Arc<ArcSwap<Catalog>>,
    proxy: Proxy,
}

impl Routing {
    /// Makes the configuration of this moment the proxy's truth.
    async fn apply(&mut self) -> usize {
        let config = self.reloader.config();
        let resolved = self.resolver.resolved();
        let inputs = Inputs {
            fixed: &config.fixed,
            dynamic: &config.dynamic,
            resolved: &resolved,
            api: None,
            now: MonoNs::now(),
        };
        let (snapshot, catalog) = self.registry.build(&inputs);
        // Names first: a record can come before the swap has returned.
        self.catalog.store(Arc::new(catalog));
        let before = self.proxy.addresses();
        let faults = self.proxy.apply(snapshot).await;
        for fault in &faults {
            error!(%fault, "an address cannot be opened");
        }
        for (entry_point, address) in self.proxy.addresses() {
            if !before.contains(&(entry_point.clone(), address)) {
                info!("listening entry_point={entry_point} address={address}");
            }
        }
        faults.len()
    }

    async fn reload(&mut self) {
        let reload = self.reloader.reload_now();
        report(&reload.faults);
        if reload.changed {
            self.resolver.want(names(&self.reloader.config().dynamic));
            self.apply().await;
            info!(faults = reload.faults.len(), "configuration reloaded");
        }
    }
}

fn report(faults: &[Fault]) {
    for fault in faults {
        error!(%fault, "configuration");
    }
}

/// Where attributed requests go, on the merge's thread.
struct Telemetry {
    catalog: Arc<ArcSwap<Catalog>>,
    recent: Arc<Recent>,
    phases: PhaseWriter,
}

impl Sink for Telemetry {
    fn request(&mut self, attributed: &Attributed<'_>) {
        self.phases.observe(attributed);
        self.recent.offer(attributed, &self.catalog.load());
    }
}

async fn serve(reloader: Reloader) -> Result<ExitCode> {
    let fixed = reloader.config().fixed.clone();
    let mut tasks = JoinSet::new();
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
    let share = fixed.tracing.as_ref().map_or(0.0, |tracing| tracing.sample_rate);
    let policy = Arc::new(ArcSwap::from_pointee(Policy::ratio(share)));
    let settings = settings(&fixed);
    let (proxy, readers) = Proxy::start(&settings, probes.observer(), policy).context("starting the workers")?;
    let catalog = Arc::new(ArcSwap::from_pointee(Catalog::default()));
    let telemetry = Telemetry {
        catalog: Arc::clone(&catalog),
        recent: Arc::new(Recent::default()),
        phases: PhaseWriter::default(),
    };
    let counts = Arc::new(PumpCounts::default());
    let merge = pump::spawn("merge", Pump::new(readers, counts, telemetry)).context("starting the merge")?;
    let (mut resolver, resolving) = Resolver::new();
    tasks.spawn(resolving);
    resolver.want(names(&reloader.config().dynamic));
    resolver.settle(Duration::from_secs(2)).await;
    let mut routing = Routing { reloader, registry: Registry::default(), resolver, catalog, proxy };
    if routing.apply().await > 0 {
        bail!("not every address could be opened");
    }
    let grace = until_told(&mut routing, &fixed).await?;
    routing.proxy.drain(grace).await;
    // The workers are gone: what they left in the rings is all there is.
    tokio::task::spawn_blocking(move || merge.stop()).await?;
    tasks.shutdown().await;
    info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// Reloads as files change until SIGTERM or SIGINT; gives the time that what is open may take.
async fn until_told(routing: &mut Routing, fixed: &Static) -> Result<Duration> {
    let mut watcher = if fixed.file_provider.as_ref().is_none_or(|provider| provider.watch) {
        match Watcher::new(routing.reloader.main(), fixed.file_provider.as_ref()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "the configuration is not watched; SIGHUP reloads it");
                None
            }
        }
    } else {
        None
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    info!("ready");
    loop {
        let changed = async {
            match &mut watcher {
                Some(watcher) => watcher.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => routing.reload().await,
            _ = hang_up.recv() => routing.reload().await,
            () = routing.resolver.changed() => drop(routing.apply().await),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
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
    Settings { workers, pin, hostname }
}
