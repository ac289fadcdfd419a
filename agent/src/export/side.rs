//! Which phases lie on the upstream's side of the proxy, and which of those weighs most. Pure.

use crate::merge::phase::{Blame, Phase};

/// Phases on the upstream's side of the proxy.
pub(super) fn is_upstream(phase: Phase) -> bool {
    match phase {
        Phase::PoolWait
        | Phase::UpstreamDns
        | Phase::UpstreamConnect
        | Phase::UpstreamTls
        | Phase::UpstreamWrite
        | Phase::UpstreamPathOut
        | Phase::BackendPickup
        | Phase::BackendApp
        | Phase::UpstreamPathBack
        | Phase::UpstreamWait
        | Phase::UpstreamReadWait
        | Phase::UpstreamBody
        | Phase::UpstreamDrain
        | Phase::Tunnel => true,
        Phase::AcceptWait
        | Phase::ClientSend
        | Phase::ReadWait
        | Phase::PipelineWait
        | Phase::ProxyRequest
        | Phase::MiddlewareWait
        | Phase::RetryWait
        | Phase::ProxyResponse
        | Phase::ClientDrain
        | Phase::ClientBody => false,
    }
}

/// The group and the phase that took most of the upstream's side; the first of equals.
pub(super) fn upstream_share(phases: &[u64; Phase::COUNT]) -> (Blame, Phase) {
    let mut groups = [0; Blame::COUNT];
    let mut dominant = (Phase::UpstreamWait, 0);
    for (phase, us) in Phase::ALL.into_iter().zip(*phases).filter(|(phase, _)| is_upstream(*phase)) {
        if let Some(group) = groups.get_mut(phase.blame() as usize) {
            *group += us;
        }
        if us > dominant.1 {
            dominant = (phase, us);
        }
    }
    let mut blame = (Blame::Upstream, 0);
    for (group, us) in Blame::ALL.into_iter().zip(groups) {
        if us > blame.1 {
            blame = (group, us);
        }
    }
    (blame.0, dominant.0)
}
