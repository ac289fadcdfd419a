//! The checked configuration. Static parts hold for the life of the process, [`Dynamic`] is reloaded.

mod kubernetes;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wayspan_proxy::counters::Bounds;
use wayspan_proxy::middleware::{
    AddPrefix, BasicAuth, CorsFilter, HeaderModifier, Headers, InFlightReq, IpAllowList, RateLimit, RedirectRegex,
    RedirectScheme, ReplacePath, ReplacePathRegex, RequestRedirect, Retry, Share, StripPrefix, StripPrefixRegex,
    UrlRewrite,
};
use wayspan_proxy::rule::Rule;
use wayspan_proxy::snapshot::{Limits, Timeouts};

use crate::probes::Set;
pub use kubernetes::{Kubernetes, KubernetesProvider, Metadata, StatusAddress, StatusWriter};
pub use tls::{
    Certificate, ClientAuth, Holder, HostOwner, HostOwners, RouterTls, TlsOptions, TlsSettings, owners_of, suite_name,
};

/// Everything in the file given to `wayspan run --config`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Parts that need a restart to change.
    pub fixed: Static,
    /// Parts that are reloaded.
    pub dynamic: Dynamic,
}

/// Parts that need a restart to change.
#[derive(Debug, Clone, Default)]
pub struct Static {
    /// `tracing`; `None` switches tracing off.
    pub tracing: Option<Tracing>,
    /// `api`; `None`: no api, no dashboard.
    pub api: Option<Api>,
    /// `ping`: `/ping` on the api's address, and on an entry point where one is named.
    pub ping: Option<Ping>,
    /// `metrics.prometheus`; `/metrics` on the api's address.
    pub metrics: Option<Metrics>,
    /// `log`.
    pub log: Log,
    /// `probes`.
    pub probes: Probes,
    /// `attribution`.
    pub attribution: Attribution,
    /// `workers`.
    pub workers: Workers,
    /// `handOver.name`.
    pub hand_over: Option<String>,
    /// `providers.file`.
    pub file_provider: Option<FileProvider>,
    /// `providers.kubernetes*`; `None`: none of them.
    pub kubernetes: Option<Kubernetes>,
    /// `kubernetes.metadata`.
    pub metadata: Metadata,
    /// `kubernetes.status`.
    pub status: StatusWriter,
}

/// Entry points, routers, services, middlewares.
#[derive(Debug, Clone, Default)]
pub struct Dynamic {
    /// By name, in the file's order. Listeners open and close with reloads.
    pub entry_points: Vec<EntryPoint>,
    /// By name. What did not change is the same `Arc`: so that it is seen without a look into it.
    pub routers: Vec<Arc<Router>>,
    /// By name, and likewise.
    pub services: Vec<Arc<Service>>,
    /// By name, and likewise.
    pub middlewares: Vec<Arc<Middleware>>,
    /// `tls.certificates`, and what other providers add to them.
    pub certificates: Vec<Certificate>,
    /// Of hosts that more than one certificate is for.
    pub host_owners: HostOwners,
    /// `tls.stores.default.defaultCertificate`.
    pub default_certificate: Option<Certificate>,
    /// By name. What is called `default` is for whoever names none.
    pub tls_options: Vec<TlsOptions>,
}

/// `entryPoints.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryPoint {
    /// The key.
    pub name: String,
    /// `address`: `:8000` is both families.
    pub addresses: Vec<SocketAddr>,
    /// `publishedPorts`: where clients reach it, which a Gateway's listeners name.
    pub published: Vec<u16>,
    /// `transport.respondingTimeouts`, `http.maxHeaderBytes` and ours.
    pub limits: Limits,
    /// `forwardedHeaders.trustedIPs`.
    pub trusted: Vec<IpNet>,
    /// `forwardedHeaders.insecure`.
    pub trust_all: bool,
    /// `http.sanitizePath`.
    pub sanitize_path: bool,
    /// `http.tls`, for routers that say nothing of it.
    pub tls: Option<RouterTls>,
    /// `transport.lifeCycle.requestAcceptGraceTimeout`.
    pub accept_grace: Duration,
    /// `transport.lifeCycle.graceTimeOut`.
    pub grace: Duration,
    /// `observability`.
    pub observability: Observability,
    /// Some Gateway opened it: only routers that name it are there.
    pub by_name_only: bool,
}

impl EntryPoint {
    /// Whether a router's requests come by it.
    #[must_use]
    pub fn takes(&self, router: &Router) -> bool {
        if router.entry_points.is_empty() { !self.by_name_only } else { router.entry_points.contains(&self.name) }
    }
}

/// `observability` of an entry point or router; `None` inherits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observability {
    /// `tracing`.
    pub tracing: Option<bool>,
    /// `metrics`.
    pub metrics: Option<bool>,
    /// `traceVerbosity`.
    pub verbosity: Option<Verbosity>,
}

/// `traceVerbosity`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// SERVER and CLIENT spans.
    #[default]
    Minimal,
    /// Adds Router, middleware and Service spans.
    Detailed,
}

/// `http.routers.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    /// The key.
    pub name: String,
    /// `rule`, parsed.
    pub rule: Rule,
    /// `priority`; 0: the rule's length.
    pub priority: i64,
    /// Who comes first among equals, before names: the lesser.
    pub turn: Option<Arc<str>>,
    /// `entryPoints`; empty: all of the file's.
    pub entry_points: Vec<String>,
    /// `middlewares`.
    pub middlewares: Vec<String>,
    /// `service`; the internal ones are `api@internal`, `ping@internal`.
    pub service: String,
    /// `tls`: it takes TLS.
    pub tls: Option<RouterTls>,
    /// TLS options that it has where it would have the default ones.
    pub default_options: Option<String>,
    /// `observability`.
    pub observability: Observability,
    /// Who brought it; `None`: the configuration's own.
    pub holder: Option<Holder>,
}

/// `http.services.<name>.loadBalancer`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The key.
    pub name: String,
    /// `servers`.
    pub servers: Vec<Server>,
    /// `passHostHeader`.
    pub pass_host: bool,
    /// `serversTransport.forwardingTimeouts`.
    pub timeouts: Timeouts,
    /// `serversTransport.maxIdleConnsPerHost`, per worker.
    pub idle_max: usize,
    /// `serversTransport.maxConnsPerHost`, per server in this process; 0: no limit.
    pub conns_max: usize,
}

/// `servers[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `url` as written.
    pub url: String,
    /// Its host: an address or a name.
    pub host: String,
    /// Its port, 80 by default.
    pub port: u16,
    /// Its path without the last slash.
    pub path_prefix: String,
    /// `weight`, 1 by default.
    pub weight: u32,
    /// The Service of Kubernetes that it is one of, by its name.
    pub service: Option<Arc<str>>,
    /// Of a filter of the Gateway API; no file names it.
    pub request_headers: Option<Arc<HeaderModifier>>,
}

/// `http.middlewares.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Middleware {
    /// The key.
    pub name: String,
    /// What it does.
    pub kind: MiddlewareKind,
}

/// What a middleware does: Traefik's kinds, the filters of the Gateway API, and what stands for a kind that is not there.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the settings are documented where they are defined")]
pub enum MiddlewareKind {
    Headers(Arc<Headers>),
    StripPrefix(Arc<StripPrefix>),
    StripPrefixRegex(Arc<StripPrefixRegex>),
    AddPrefix(Arc<AddPrefix>),
    ReplacePath(Arc<ReplacePath>),
    ReplacePathRegex(Arc<ReplacePathRegex>),
    RedirectScheme(Arc<RedirectScheme>),
    RedirectRegex(Arc<RedirectRegex>),
    /// The Gateway API's filter; no file names it.
    RequestRedirect(Arc<RequestRedirect>),
    /// The Gateway API's filter; no file names it.
    UrlRewrite(Arc<UrlRewrite>),
    /// The Gateway API's filter; no file names it.
    RequestHeaderModifier(Arc<HeaderModifier>),
    /// The Gateway API's filter; no file names it.
    ResponseHeaderModifier(Arc<HeaderModifier>),
    /// The Gateway API's filter; no file names it.
    Cors(Arc<CorsFilter>),
    /// The Gateway API's filter; no file names it.
    Mirror(Mirror),
    /// Of a rule of the Gateway API; no file names it.
    Retry(Arc<Retry>),
    IpAllowList(Arc<IpAllowList>),
    RateLimit(RateLimit),
    InFlightReq(InFlightReq),
    ForwardAuth(Arc<ForwardAuth>),
    BasicAuth(Arc<BasicAuth>),
    /// Names of others, in order.
    Chain(Vec<String>),
    /// A kind that is not supported yet, by its name: routers that name such a middleware are left out, never served
    /// without it. A file's are faults already; this is for what comes from elsewhere.
    Unsupported(String),
}

/// Copies of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The service that gets them.
    pub service: String,
    /// How many of them.
    pub share: Share,
}

/// `forwardAuth`.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardAuth {
    /// `address`: where it is.
    pub server: Server,
    /// Its path and query.
    pub target: PathAndQuery,
    /// The rest.
    pub settings: Arc<wayspan_proxy::middleware::ForwardAuth>,
}

/// `tracing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// `serviceName`.
    pub service_name: String,
    /// `resourceAttributes`.
    pub resource_attributes: Vec<(String, String)>,
    /// `sampleRate`, 0 to 1.
    pub sample_rate: f64,
    /// `addInternals`: spans for dashboard and ping.
    pub add_internals: bool,
    /// `capturedRequestHeaders`, lower-case.
    pub captured_request_headers: Vec<String>,
    /// `capturedResponseHeaders`, lower-case.
    pub captured_response_headers: Vec<String>,
    /// `safeQueryParams`: others' values become `REDACTED`.
    pub safe_query_params: Vec<String>,
    /// `otlp`; `None`: spans are made for the dashboard only.
    pub otlp: Option<Otlp>,
    /// `jaeger.samplingServerURL`: Jaeger's remote sampling.
    pub sampling_server: Option<SamplingServer>,
}

/// `tracing.jaeger`.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingServer {
    /// `samplingServerURL`.
    pub url: String,
    /// How often it is asked (ours: `sampling.pollInterval`), 60 s by default.
    pub interval: Duration,
}

/// `tracing.otlp`.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// `grpc` or `http`.
    pub protocol: OtlpProtocol,
    /// Whole URL: `http://127.0.0.1:4317`, or `https://host:4318/v1/traces`.
    pub endpoint: String,
    /// `tls`, where the endpoint is `https://`.
    pub tls: ClientTls,
    /// `headers`.
    pub headers: Vec<(String, String)>,
    /// Spans waiting for export at most; beyond, the newest are lost and counted.
    pub queue_spans: usize,
    /// Spans per request.
    pub batch_spans: usize,
    /// How long a span waits for its batch to fill.
    pub interval: Duration,
    /// Per request to the collector.
    pub timeout: Duration,
}

/// `tls` of a client: whom we believe, and who we are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientTls {
    /// `ca`: the only roots that count; empty: the system's.
    pub ca: Vec<CertificateDer<'static>>,
    /// `cert` and `key`, where the server wants to know us.
    pub identity: Option<Identity>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
}

/// A certificate of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Ours first, then those that certify it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key. Not shown by `Debug`.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `otlp.grpc`.
    Grpc,
    /// `otlp.http`, protobuf.
    Http,
}

/// `api`.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    /// `dashboard`.
    pub dashboard: bool,
    /// `address`.
    pub address: SocketAddr,
    /// `jaegerQuery`: where Jaeger's query API answers.
    pub jaeger_query: Option<String>,
    /// `allowedHosts`: further Host names, beside localhost and addresses (DNS rebinding).
    pub allowed_hosts: Vec<String>,
}

/// `ping`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ping {
    /// `entryPoint`, where it is not the api's address.
    pub entry_point: Option<String>,
}

/// `metrics.prometheus`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// `buckets`.
    pub bounds: Bounds,
}

/// `log`.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `level`: a tracing-subscriber filter, `info` by default.
    pub level: String,
    /// `format: json`.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

/// `probes`: `off`, or a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes {
    /// `probes: off` says false.
    pub enabled: bool,
    /// `required`: refuse to start where they cannot be loaded, instead of going on without.
    pub required: bool,
    /// `slots`: connections watched at once.
    pub slots: u32,
    /// `backends`: also the other ends of connections to backends on this node.
    pub backends: bool,
    /// `ack`: also what clients acknowledge.
    pub ack: bool,
    /// `timestamps`: where none can run, the kernel's stamps of what is read.
    pub timestamps: bool,
}

impl Default for Probes {
    fn default() -> Self {
        // 8,192 slots of 1,216 bytes: 10 MiB, all resident in the agent too, and more connections than one node's ingress usually
        // holds.
        Self { enabled: true, required: false, slots: 8192, backends: false, ack: false, timestamps: false }
    }
}

impl Probes {
    /// Whether a set is wanted from the start.
    #[must_use]
    pub fn has(&self, set: Set) -> bool {
        match set {
            Set::Core => true,
            Set::Backends => self.backends,
            Set::Ack => self.ack,
        }
    }
}

/// `attribution`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// `spans`: which phases become child spans.
    pub spans: PhaseSpans,
    /// `notable.duration`.
    pub notable_duration: Duration,
    /// `notable.share`, 0 to 1.
    pub notable_share: f64,
}

impl Default for Attribution {
    fn default() -> Self {
        Self { spans: PhaseSpans::Notable, notable_duration: Duration::from_millis(1), notable_share: 0.05 }
    }
}

/// Which phases become child spans; all are attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseSpans {
    /// None.
    Attributes,
    /// Those above the thresholds.
    Notable,
    /// All that are longer than zero.
    All,
}

/// `workers`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workers {
    /// `count`; 0: from affinity and cgroup quota.
    pub count: usize,
    /// `pin`.
    pub pin: bool,
}

/// `providers.file`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileProvider {
    /// `filename` or `directory`.
    pub path: PathBuf,
    /// `watch`, true by default.
    pub watch: bool,
}

/// Whether something is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Switch {
    /// Where it can be.
    #[default]
    Auto,
    /// It must.
    On,
    /// Not at all.
    Off,
}
