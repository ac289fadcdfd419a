//! The vocabulary of attribution: phases, blame groups, coverage, and what one request looks like once attributed.

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::Record;

use super::late::Late;

/// A part of a request's time. In the order of the request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "name() gives the text, docs/phases.md the meaning")]
pub enum Phase {
    AcceptWait = 0,
    ClientSend,
    ReadWait,
    PipelineWait,
    ProxyRequest,
    MiddlewareWait,
    RetryWait,
    PoolWait,
    UpstreamDns,
    UpstreamConnect,
    UpstreamTls,
    UpstreamWrite,
    UpstreamPathOut,
    BackendPickup,
    BackendApp,
    UpstreamPathBack,
    UpstreamWait,
    UpstreamReadWait,
    ProxyResponse,
    UpstreamBody,
    ClientDrain,
    ClientBody,
    UpstreamDrain,
    Tunnel,
}

/// Whose doing a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "name() gives the text")]
pub enum Blame {
    ProxyQueue = 0,
    Client,
    Proxy,
    Auth,
    Upstream,
    UpstreamNetwork,
    BackendQueue,
    Backend,
}

impl Phase {
    /// How many there are.
    pub const COUNT: usize = 24;
    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::AcceptWait,
        Self::ClientSend,
        Self::ReadWait,
        Self::PipelineWait,
        Self::ProxyRequest,
        Self::MiddlewareWait,
        Self::RetryWait,
        Self::PoolWait,
        Self::UpstreamDns,
        Self::UpstreamConnect,
        Self::UpstreamTls,
        Self::UpstreamWrite,
        Self::UpstreamPathOut,
        Self::BackendPickup,
        Self::BackendApp,
        Self::UpstreamPathBack,
        Self::UpstreamWait,
        Self::UpstreamReadWait,
        Self::ProxyResponse,
        Self::UpstreamBody,
        Self::ClientDrain,
        Self::ClientBody,
        Self::UpstreamDrain,
        Self::Tunnel,
    ];

    /// The name in `wayspan.phase.<name>`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AcceptWait => "accept_wait",
            Self::ClientSend => "client_send",
            Self::ReadWait => "read_wait",
            Self::PipelineWait => "pipeline_wait",
            Self::ProxyRequest => "proxy_request",
            Self::MiddlewareWait => "middleware_wait",
            Self::RetryWait => "retry_wait",
            Self::PoolWait => "pool_wait",
            Self::UpstreamDns => "upstream_dns",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamWrite => "upstream_write",
            Self::UpstreamPathOut => "upstream_path_out",
            Self::BackendPickup => "backend_pickup",
            Self::BackendApp => "backend_app",
            Self::UpstreamPathBack => "upstream_path_back",
            Self::UpstreamWait => "upstream_wait",
            Self::UpstreamReadWait => "upstream_read_wait",
            Self::ProxyResponse => "proxy_response",
            Self::UpstreamBody => "upstream_body",
            Self::ClientDrain => "client_drain",
            Self::ClientBody => "client_body",
            Self::UpstreamDrain => "upstream_drain",
            Self::Tunnel => "tunnel",
        }
    }

    /// Whose doing it is.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Self::AcceptWait | Self::ReadWait | Self::UpstreamReadWait => Blame::ProxyQueue,
            Self::ClientSend | Self::PipelineWait | Self::ClientDrain | Self::ClientBody => Blame::Client,
            Self::ProxyRequest | Self::PoolWait | Self::UpstreamWrite | Self::ProxyResponse => Blame::Proxy,
            Self::MiddlewareWait => Blame::Auth,
            Self::RetryWait | Self::UpstreamWait | Self::Tunnel => Blame::Upstream,
            Self::UpstreamDns
            | Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamPathOut
            | Self::UpstreamPathBack => Blame::UpstreamNetwork,
            Self::BackendPickup => Blame::BackendQueue,
            Self::BackendApp | Self::UpstreamBody | Self::UpstreamDrain => Blame::Backend,
        }
    }
}

impl Blame {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ProxyQueue,
        Self::Client,
        Self::Proxy,
        Self::Auth,
        Self::Upstream,
        Self::UpstreamNetwork,
        Self::BackendQueue,
        Self::Backend,
    ];

    /// The value of `wayspan.blame`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProxyQueue => "proxy_queue",
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Auth => "auth",
            Self::Upstream => "upstream",
            Self::UpstreamNetwork => "upstream_network",
            Self::BackendQueue => "backend_queue",
            Self::Backend => "backend",
        }
    }
}

/// A phase's stretch of time, for child spans and waterfalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Which.
    pub phase: Phase,
    /// Whether it has that time for itself.
    pub part: Part,
    /// Microseconds after the request's start.
    pub from_us: u64,
    /// Microseconds after the request's start, not before `from_us`.
    pub to_us: u64,
}

/// How a phase has its stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// For itself.
    Whole,
    /// The first of several that take turns in one time, as while a body is relayed: each is as long as it says, and lies
    /// somewhere in what they have together.
    First,
    /// A further one of them.
    Next,
}

/// One request, attributed. `phases` sums to `duration_us` exactly.
#[derive(Clone, Debug)]
pub struct Attributed<'a> {
    /// What the proxy left.
    pub record: &'a Record<'a>,
    /// Where the span begins.
    pub start: MonoNs,
    /// Where it ends; not before `start`.
    pub end: MonoNs,
    /// `end - start` as the rounded points give it, microseconds.
    pub duration_us: u64,
    /// Microseconds by [`Phase`] as index.
    pub phases: [u64; Phase::COUNT],
    /// Stretches longer than zero, in order of time.
    pub stretches: Vec<Stretch>,
    /// The group with the largest share.
    pub blame: Blame,
    /// The phase with the largest share.
    pub dominant: Phase,
    /// What was seen: `full`, `partial: <reasons>` or `none: <reason>`, as `wayspan.coverage` says it.
    pub coverage: Coverage,
    /// What was learnt after its end. Nothing of it is in the phases.
    pub late: Late,
}

impl Attributed<'_> {
    /// Microseconds after the start, rounded as the points are; the start where unknown, and never after the end.
    #[must_use]
    pub fn us(&self, at: MonoNs) -> u64 {
        rounded_us(at.since(self.start)).min(self.duration_us)
    }
}

/// Nearest microsecond.
#[must_use]
pub fn rounded_us(ns: u64) -> u64 {
    ns / 1000 + u64::from(ns % 1000 >= 500)
}

/// How much of the kernel's part was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All the points that this build's probes can give.
    Full,
    /// Some are missing, and why.
    Partial(String),
    /// None at all, and why.
    None(String),
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Partial(reasons) => write!(f, "partial: {reasons}"),
            Self::None(reason) => write!(f, "none: {reason}"),
        }
    }
}
