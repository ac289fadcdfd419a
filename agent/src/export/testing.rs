//! What tests share: settings, a span as the SDK has it, and spans as they were encoded.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span, span};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prost::Message;

use crate::config::model::{ClientTls, Otlp, OtlpProtocol, Tracing};

pub(crate) fn tracing() -> Tracing {
    Tracing {
        service_name: "wayspan".to_owned(),
        resource_attributes: Vec::new(),
        sample_rate: 1.0,
        add_internals: false,
        captured_request_headers: Vec::new(),
        captured_response_headers: Vec::new(),
        safe_query_params: vec!["customer".to_owned()],
        otlp: None,
        sampling_server: None,
    }
}

pub(super) fn otlp(endpoint: &str) -> Otlp {
    Otlp {
        protocol: OtlpProtocol::Grpc,
        endpoint: endpoint.to_owned(),
        tls: ClientTls::default(),
        headers: vec![("x-tenant".to_owned(), "blue".to_owned())],
        queue_spans: 1000,
        batch_spans: 10,
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(5),
    }
}

pub(super) fn span_data() -> SpanData {
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(1),
            SpanId::from(2),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "GET /".into(),
        start_time: SystemTime::UNIX_EPOCH + Duration::from_micros(1),
        end_time: SystemTime::UNIX_EPOCH + Duration::from_micros(3),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: super::resource::scope(),
    }
}

/// What matters of a span to those who know nothing of OTLP.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) is_server: bool,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// Its attributes that are whole numbers.
    pub(crate) numbers: Vec<(String, i64)>,
}

/// What [`super::span::SpanEncoder::encode`] has written.
pub(crate) fn told(encoded: &[u8]) -> Vec<Told> {
    let spans = ScopeSpans::decode(encoded).unwrap().spans.into_iter();
    let all = spans.map(|span| Told {
        is_server: span.kind() == span::SpanKind::Server,
        id: span.span_id,
        parent: span.parent_span_id,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        numbers: span
            .attributes
            .into_iter()
            .filter_map(|attribute| match attribute.value?.value? {
                Value::IntValue(number) => Some((attribute.key, number)),
                _ => None,
            })
            .collect(),
    });
    all.collect()
}

/// Attributes that are texts, as `key=value`.
pub(crate) fn texts(encoded: &super::peer::Encoded) -> Vec<String> {
    let attributes = Span::decode(encoded.bytes()).unwrap().attributes.into_iter();
    let texts = attributes.map(|attribute| match attribute.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
        other => panic!("{other:?}"),
    });
    texts.collect()
}

/// What the calling thread has used, for measurements beside others' load.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}
