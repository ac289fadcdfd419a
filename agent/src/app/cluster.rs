//! How the cluster's routes join the file's: starts the provider, and says what is wrong with objects.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::model::{Dynamic, Service, Static, StatusWriter};
use crate::config::{Dispute, Fault, disputes};
use crate::kube::client::Shared;
use crate::kube::parts::{GET_500, Parts, Problem};
use crate::kube::provider::{Provider, Who};
use crate::kube::translate::{Around, Entry};
use crate::kube::watch::Health;
use wayspan_proxy::server::ListenFault;

/// How long the start waits for the cluster's routes where the file has some too: with an API server that is away it goes on
/// with those. Where it has none, every answer would be 404 from a node that says it is ready: it waits on, and says so so often.
const PATIENCE: Duration = Duration::from_secs(10);

/// What Gateways stand in.
pub(super) fn around(file: &Dynamic, api: Option<SocketAddr>, faults: &[ListenFault]) -> Around {
    let unopened = faults.iter().map(|fault| {
        let ListenFault { entry_point, address, source, .. } = fault;
        (entry_point.to_string(), format!("cannot listen on {address}: {source}"))
    });
    Around {
        entry_points: file.entry_points.iter().map(Entry::from).collect(),
        api,
        unopened: unopened.collect(),
        addresses: Vec::new(),
        pool: Vec::new(),
    }
}

/// The providers of Kubernetes' objects, where there are any.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    provider: Option<Provider>,
    /// What is wrong with objects.
    pub(super) faults: Vec<Fault>,
    /// Those that are in use.
    merged: Option<Arc<Parts>>,
}

impl Cluster {
    /// Starts them and waits for what there is: a little where the file has routes, else until it is known.
    pub(super) async fn start(
        fixed: &Static,
        file: &Dynamic,
        api: Option<SocketAddr>,
        client: &Shared,
        health: Option<Arc<Health>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let Some((settings, health)) = fixed.kubernetes.as_ref().zip(health) else { return Ok(Self::default()) };
        let client = client.get(&settings.connection()).await.context("providers: Kubernetes")?;
        let namespace = client.default_namespace().to_owned();
        let who = who(namespace, fixed.status.clone());
        let (mut provider, task) =
            Provider::new(settings.clone(), client, node_name(), who, around(file, api, &[]), health);
        tasks.spawn(task);
        while !provider.settle(PATIENCE).await {
            if !file.routers.is_empty() {
                warn!("not all of the cluster's objects are known yet; serving what the file says until they are");
                break;
            }
            warn!(
                "not all of the cluster's objects are known yet; nothing is served until they are, and /ping says `starting`"
            );
        }
        Ok(Self { provider: Some(provider), ..Self::default() })
    }

    /// Waits for other routes than those last waited for. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        match &mut self.provider {
            Some(provider) => provider.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Says what Gateways stand in: the file's entry points, and those that cannot be opened.
    pub(super) fn stand_in(&self, around: Around) {
        if let Some(provider) = &self.provider {
            provider.stand_in(around);
        }
    }

    /// The file's routes and the cluster's, with those that want different TLS options for one host.
    pub(super) fn merged(&mut self, file: &Dynamic) -> (Dynamic, Vec<Dispute>) {
        let Some(provider) = &self.provider else { return (file.clone(), disputes(file)) };
        let parts = provider.parts();
        let (dynamic, missing) = parts.merged(file);
        let origin = |router: &str| parts.origin(router).map_or_else(|| "Kubernetes".to_owned(), ToString::to_string);
        let missing = missing.into_iter().filter_map(|(router, what)| {
            let object = parts.origin(&router);
            let told = |problem: &Problem| Some(&problem.object) == object && problem.message.starts_with(&what);
            if parts.problems.iter().any(told) {
                return None;
            }
            let message = format!("{what}; {GET_500}");
            Some(Fault::at(Path::new(&origin(&router)), router, 0, message))
        });
        let all = disputes(&dynamic);
        let disputed = parts
            .disputed(&all)
            .map(|one| Fault::at(Path::new(&origin(&one.router)), one.router.clone(), 0, one.message()));
        let faults = parts.all_problems().map(Problem::fault).chain(missing).chain(disputed);
        let faults: Vec<Fault> = faults.collect();
        let told: HashSet<String> = self.faults.iter().map(ToString::to_string).collect();
        for fault in faults.iter().filter(|fault| !told.contains(&fault.to_string())) {
            warn!(%fault, "an object cannot be served as it is");
        }
        if faults.is_empty() && !self.faults.is_empty() {
            info!("all objects can be served as they are");
        }
        (self.faults, self.merged) = (faults, Some(parts));
        (dynamic, all)
    }

    /// Services that have other servers since the last merge, by their place among the cluster's, where all else is the same.
    pub(super) fn other_services(&mut self) -> Option<Vec<(usize, Arc<Service>)>> {
        let parts = self.provider.as_ref()?.parts();
        let others = parts.other_services(self.merged.as_ref()?)?;
        self.merged = Some(parts);
        Some(others)
    }
}

/// Ours alone among all agents: two may be on one node for the time of an update.
fn who(namespace: String, status: StatusWriter) -> Who {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Who { name: format!("{node}-{:08x}", fastrand::u32(..)), namespace, status }
}

#[expect(clippy::disallowed_methods, reason = "the downward API's variable, read once, here")]
fn node_name() -> Option<String> {
    std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty())
}
