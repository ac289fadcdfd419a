//! How an agent takes over from the one before it and makes way for the next, where `handOver.name` is given.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wayspan_proxy::server::Proxy;

use super::variable;
use crate::config::model::Static;
use crate::handover::{self, Health, Inheritance, Offer};

/// The sockets of the agent before us, where there is one.
pub(super) async fn inherit(fixed: &Static) -> Result<Inheritance> {
    let Some(name) = &fixed.hand_over else { return Ok(Inheritance::default()) };
    let inherited = handover::inherit(name).await;
    let mut inherited = inherited.context("handOver.name: the agent before gave no listening sockets")?;
    let wanted = fixed.api.as_ref().map(|api| api.address);
    inherited.api = inherited.api.filter(|(address, _)| Some(*address) == wanted);
    let sockets = inherited.entry_points.iter().map(|(_, sockets)| sockets.len()).sum::<usize>();
    if sockets > 0 {
        info!(sockets, "listening sockets taken over from the agent before");
    }
    Ok(inherited)
}

/// How we make way when we are told to end.
pub(super) struct Way {
    offer: Option<Offer>,
    api: CancellationToken,
    draining: Arc<AtomicBool>,
}

impl Way {
    /// With what the next agent will be given, where `handOver.name` is there; `name` is from the agent before. `api` ends the api.
    pub(super) fn new(
        fixed: &Static,
        socket: Option<TcpListener>,
        name: Option<UnixListener>,
        api: &CancellationToken,
        draining: &Arc<AtomicBool>,
    ) -> Self {
        let address = fixed.api.as_ref().map(|api| api.address);
        let offer = fixed.hand_over.as_ref().map(|at| Offer::new(at, name, address.zip(socket)));
        Self { offer, api: api.clone(), draining: Arc::clone(draining) }
    }

    /// Waits for the next agent, for ever where nothing is offered. Cancel-safe.
    pub(super) async fn asked(&mut self) -> UnixStream {
        match &mut self.offer {
            Some(offer) => offer.asked().await,
            None => std::future::pending().await,
        }
    }

    /// Gives the listening sockets to the next agent.
    pub(super) fn give(&self, asks: &UnixStream, proxy: &Proxy) {
        match (&self.offer, proxy.sockets()) {
            (Some(offer), Ok(sockets)) => offer.give(asks, &sockets),
            (_, Err(error)) => warn!(%error, "the listening sockets cannot be given to the next agent"),
            (None, Ok(_)) => {}
        }
    }

    /// From now on the name is free. Who asks at an api whose port two agents share is to be told of the one that stays;
    /// without a next one the api goes on until the drain is over.
    pub(super) fn make(self) {
        if self.offer.is_some() {
            self.api.cancel();
        }
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// Says from now on that this pod's agent is up.
pub(super) fn tell_health(fixed: &Static, draining: &Arc<AtomicBool>, tasks: &mut JoinSet<()>) -> Result<()> {
    let pod = variable("POD_UID").filter(|uid| !uid.is_empty());
    if let (Some(_), Some(pod)) = (&fixed.hand_over, pod) {
        let health = Health::up(&pod, Arc::clone(draining)).context("handOver: the pod of POD_UID has an agent")?;
        tasks.spawn(health.serve());
    }
    Ok(())
}

/// The address that is bound, and the api's own socket once more.
pub(super) type ApiSocket = (SocketAddr, TcpListener);
