//! Attribute names of ours and of Traefik's. OpenTelemetry's come from its crate of conventions.
#![expect(missing_docs, reason = "the values are the names")]

use wayspan_proxy::sampling::Reason;

pub const ENTRY_POINT: &str = "entry_point";
pub const ROUTER: &str = "traefik.router.name";
pub const SERVICE: &str = "traefik.service.name";
pub const MIDDLEWARE: &str = "traefik.middleware.name";
pub const SAMPLER_TYPE: &str = "sampler.type";
pub const SAMPLER_PARAM: &str = "sampler.param";
pub const PHASE_PREFIX: &str = "wayspan.phase.";
pub const BLAME: &str = "wayspan.blame";
pub const DOMINANT_PHASE: &str = "wayspan.dominant_phase";
pub const COVERAGE: &str = "wayspan.coverage";
pub const TRUNCATED: &str = "wayspan.truncated";
pub const CONNECTION_REQUEST: &str = "wayspan.connection.request_index";
pub const CONNECTION_ACCEPT_WAIT: &str = "wayspan.connection.accept_wait";
pub const CONNECTION_REUSED: &str = "wayspan.connection.reused";
pub const CONNECTION_HANDSHAKE_RTT: &str = "wayspan.connection.handshake_rtt";
pub const CONNECTION_TLS_HANDSHAKE: &str = "wayspan.connection.tls_handshake";
pub const CONNECTION_HANDSHAKE_AT_LEAST: &str = "wayspan.connection.handshake_at_least";
pub const WORKER_WAKEUP: &str = "wayspan.worker.wakeup";
pub const WORKER_BACKLOG: &str = "wayspan.worker.backlog";
pub const WORKER_PREEMPTED: &str = "wayspan.worker.preempted";
pub const CLIENT_RTT: &str = "wayspan.client.rtt";
pub const CLIENT_RTTVAR: &str = "wayspan.client.rttvar";
pub const CLIENT_ZERO_WINDOW: &str = "wayspan.client.zero_window";
pub const CLIENT_RETRANSMITS: &str = "wayspan.client.retransmits";
pub const UPSTREAM_RTT: &str = "wayspan.upstream.rtt";
pub const UPSTREAM_RTTVAR: &str = "wayspan.upstream.rttvar";
pub const UPSTREAM_ZERO_WINDOW: &str = "wayspan.upstream.zero_window";
pub const UPSTREAM_RETRANSMITS: &str = "wayspan.upstream.retransmits";
pub const BACKEND_RETRANSMITS: &str = "wayspan.backend.retransmits";
pub const AFTER_SEND_QUEUE: &str = "wayspan.after.send_queue";
pub const AFTER_ACK: &str = "wayspan.after.ack";
pub const AFTER_MISSING: &str = "wayspan.after.missing";

/// The value of `sampler.type`, in Jaeger's words: its adaptive sampling counts roots by them.
pub(super) fn sampler_type(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Probabilistic => Some("probabilistic"),
        Reason::RateLimiting => Some("ratelimiting"),
        Reason::LowerBound => Some("lowerbound"),
        Reason::Parent | Reason::Off => None,
    }
}
