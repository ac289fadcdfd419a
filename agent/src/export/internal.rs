//! Spans of the agent's own requests (dashboard, ping, api) for `addInternals`: few, so opentelemetry's types and its
//! OTLP exporter make them. What it encodes goes through the same queue and sender as all spans, and is counted there.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use opentelemetry_semantic_conventions::attribute as otel;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::Method;
use wayspan_proxy::sampling::{Policy, Reason};
use wayspan_proxy::trace_context::TraceId;

use super::clock::WallClock;
use super::names;
use super::queue::Entrance;
use super::resource::{Resource, scope};
use super::sender::Exporter;

/// Requests waiting to be encoded: dashboards ask some times a second, probes of a busy cluster some ten times.
const WAITING_MAX: usize = 256;
/// Spans per request to the receiver.
const BATCH_MAX: usize = 64;

/// One request to the agent itself.
#[derive(Clone, Debug)]
pub struct InternalRequest {
    /// Its method.
    pub method: Method,
    /// The path's pattern, for the span's name and `http.route`: `/api/http/routers/{name}`.
    pub route: Cow<'static, str>,
    /// The path without its query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// When its head was read.
    pub started: MonoNs,
    /// When its answer was written.
    pub ended: MonoNs,
    /// The name of the listener.
    pub entry_point: Cow<'static, str>,
    /// Who asked.
    pub peer: SocketAddr,
}

/// Takes the agent's own requests. Cheap to clone; the last clone dropped ends the task behind it.
#[derive(Clone, Debug)]
pub struct InternalSpans {
    requests: mpsc::Sender<InternalRequest>,
    entrance: Entrance,
}

/// The task behind [`InternalSpans`].
#[derive(Debug)]
pub struct InternalTask(JoinSet<()>);

impl InternalTask {
    /// Waits until all requests that were taken are in the export's queue. Every [`InternalSpans`] is dropped before;
    /// the exporter is shut down after.
    pub async fn finish(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

impl InternalSpans {
    /// Starts the task that encodes.
    ///
    /// # Errors
    /// Where opentelemetry's exporter cannot be built: its environment variables ask for what it does not have.
    pub fn start(
        exporter: &Exporter,
        resource: &Resource,
        policy: Arc<ArcSwap<Policy>>,
        seed: u64,
        runtime: &Handle,
    ) -> Result<(Self, InternalTask), ExporterBuildError> {
        let captured = Captured::default();
        let mut otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(captured.clone())
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(Protocol::HttpBinary)
            // Never resolved: what is encoded for it is captured.
            .with_endpoint("http://captured.invalid/v1/traces")
            .build()?;
        otlp.set_resource(&resource.to_sdk());
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let entrance = exporter.entrance();
        let encoder = Encoder {
            otlp,
            captured,
            entrance: entrance.clone(),
            policy,
            random: fastrand::Rng::with_seed(seed),
            clock: WallClock::new(MonoNs::now()),
        };
        let mut task = JoinSet::new();
        task.spawn_on(encoder.run(waiting), runtime);
        Ok((Self { requests, entrance }, InternalTask(task)))
    }

    /// Leaves a span, if the sampling policy keeps it. Never waits.
    pub fn internal_request(&self, request: InternalRequest) {
        if self.requests.try_send(request).is_err() {
            self.entrance.refuse(1);
        }
    }
}

/// opentelemetry's exporter, and what it needs.
struct Encoder {
    otlp: opentelemetry_otlp::SpanExporter,
    captured: Captured,
    entrance: Entrance,
    policy: Arc<ArcSwap<Policy>>,
    random: fastrand::Rng,
    clock: WallClock,
}

impl Encoder {
    async fn run(mut self, mut waiting: mpsc::Receiver<InternalRequest>) {
        let mut requests = Vec::with_capacity(BATCH_MAX);
        while waiting.recv_many(&mut requests, BATCH_MAX).await > 0 {
            let batch: Vec<_> = requests.drain(..).filter_map(|request| self.span(&request)).collect();
            let spans = batch.len() as u64;
            if spans == 0 {
                continue;
            }
            // The capture cannot fail; an encoder that did would leave nothing behind.
            let exported = self.otlp.export(batch).await;
            match self.captured.take() {
                Some(request) if exported.is_ok() => self.entrance.push_request(spans, request),
                _ => self.entrance.refuse(spans),
            }
        }
    }

    fn span(&mut self, request: &InternalRequest) -> Option<SpanData> {
        let trace_id = self.random.u128(1..);
        let name = format!("{} {}", request.method.name(), request.route);
        let policy = self.policy.load();
        let decision = policy.decide(|| name.clone(), None, TraceId(trace_id.to_be_bytes()), request.started);
        if !decision.sampled {
            return None;
        }
        let context = SpanContext::new(
            trace_id.into(),
            self.random.u64(1..).into(),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        let wall = self.clock.offset(request.ended);
        let at = |at| -> SystemTime { UNIX_EPOCH + Duration::from_micros(wall.unix_us(at)) };
        let failed = request.status >= 500;
        Some(SpanData {
            span_context: context,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: name.into(),
            start_time: at(request.started),
            end_time: at(request.ended.max(request.started)),
            attributes: attributes(request, decision.reason, decision.param),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: scope(),
        })
    }
}

fn attributes(request: &InternalRequest, reason: Reason, param: f64) -> Vec<KeyValue> {
    let peer = request.peer.ip().to_string();
    let mut attributes = vec![
        KeyValue::new(names::ENTRY_POINT, request.entry_point.clone().into_owned()),
        KeyValue::new(otel::HTTP_REQUEST_METHOD, request.method.name()),
        KeyValue::new(otel::HTTP_ROUTE, request.route.clone().into_owned()),
        KeyValue::new(otel::URL_SCHEME, "http"),
        KeyValue::new(otel::URL_PATH, request.path.clone()),
        KeyValue::new(otel::HTTP_RESPONSE_STATUS_CODE, i64::from(request.status)),
        KeyValue::new(otel::CLIENT_ADDRESS, peer.clone()),
        KeyValue::new(otel::NETWORK_PEER_ADDRESS, peer),
        KeyValue::new(otel::NETWORK_PEER_PORT, i64::from(request.peer.port())),
    ];
    if request.status >= 500 {
        attributes.push(KeyValue::new(otel::ERROR_TYPE, request.status.to_string()));
    }
    if let Some(kind) = names::sampler_type(reason) {
        attributes.push(KeyValue::new(names::SAMPLER_TYPE, kind));
        attributes.push(KeyValue::new(names::SAMPLER_PARAM, param));
    }
    attributes
}

/// Keeps the one request that opentelemetry's exporter would send.
#[derive(Clone, Debug, Default)]
struct Captured(Arc<Mutex<Option<Bytes>>>);

impl Captured {
    fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Answer = Result<http::Response<Bytes>, HttpError>;

impl HttpClient for Captured {
    fn send_bytes<'s, 'f>(&'s self, request: http::Request<Bytes>) -> Pin<Box<dyn Future<Output = Answer> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.into_body());
        Box::pin(std::future::ready(Ok(http::Response::new(Bytes::new()))))
    }
}
