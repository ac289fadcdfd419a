//! What the tests of this module share: settings, and a span as the SDK has it.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::config::model::{ClientTls, Otlp, OtlpProtocol, Tracing};

pub(super) fn tracing() -> Tracing {
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

/// What the calling thread has used, for measurements beside others' load.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}
