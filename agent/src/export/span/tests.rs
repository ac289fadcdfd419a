//! Our encoding against opentelemetry's: the same requests as `SpanData`, converted by opentelemetry-proto, must be
//! equal messages. The reference below says what spans hold, plainly and at leisure.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span as ProtoSpan};
use opentelemetry_sdk::trace::SpanData;
use proptest::prelude::*;
use prost::Message;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::{End, Texts, TlsFacts};
use wayspan_proxy::sampling::Reason;
use wayspan_proxy::trace_context::TraceId;

use super::*;
use crate::catalog::ServerNames;
use crate::export::testing::{span_data, thread_cpu_ns, tracing};
use crate::kube::pods::cache::{Cache, Change};
use crate::kube::pods::facts::Reader;
use crate::merge::late::{Late, RoundTrip};
use crate::merge::phase::Stretch;

const WALL: WallOffset = WallOffset(1_700_000_000_000_000_123);
const START: u64 = 5_000_000_000_777;

fn us(us: u64) -> MonoNs {
    MonoNs(START + us * 1000)
}

fn catalog() -> Catalog {
    let route = RouteNames {
        router: "hotrod".into(),
        service: "hotrod".into(),
        rule: "Host(`hotrod.localhost`)".into(),
        operations: vec!["hotrod.localhost/".into(), "hotrod.localhost/api/*".into()],
        patterns: vec!["".into(), "/api/*".into()],
        middlewares: vec![("strip".into(), "StripPrefix"), ("edit".into(), "Headers")],
        detailed: false,
        internal: false,
    };
    let detailed = RouteNames { detailed: true, ..route.clone() };
    let internal = RouteNames { internal: true, service: "ping@internal".into(), ..route.clone() };
    let server = |url: &str, host: &str, port, path_prefix: &str| {
        let (url, host, path_prefix) = (url.into(), host.into(), path_prefix.into());
        ServerNames { url, host, port, path_prefix, addresses: Vec::new(), service: Some("shop".into()) }.into()
    };
    Catalog {
        entry_points: [(1, "web".into())].into(),
        routes: [(1, route.into()), (2, detailed.into()), (3, internal.into())].into(),
        services: [(1, "hotrod".into())].into(),
        servers: [
            (1, server("http://127.0.0.1:8080", "127.0.0.1", 8080, "")),
            (2, server("https://u:p@[::1]/base", "::1", 443, "/base")),
        ]
        .into(),
    }
}

/// One pod has the client's address from the start, and one the server's until 15 ms later.
fn pods() -> Pods {
    let mut cache = Cache::new(9);
    let mut reader = Reader::default();
    cache.apply(Change::Node("node-1".into(), zone("zone-a")), us(0));
    for (name, ip) in [("caller", "192.0.2.7"), ("shop", "127.0.0.1")] {
        let object = serde_json::json!({
            "metadata": {"name": name, "namespace": "store", "uid": name},
            "spec": {"nodeName": "node-1", "containers": [{"name": "web"}]},
            "status": {"podIP": ip},
        });
        let facts = reader.read(&serde_json::from_value(object).unwrap(), WALL).unwrap();
        cache.apply(Change::Applied(0, facts.clone()), us(0));
        if name == "shop" {
            cache.apply(Change::Deleted(0, facts), us(15_000));
        }
    }
    Pods::with(cache)
}

fn zone(name: &str) -> crate::export::peer::Encoded {
    let mut writer = crate::export::peer::Writer::default();
    writer.zone(name);
    writer.take()
}

fn peer(pod: &str) -> Vec<KeyValue> {
    vec![
        text("peer.k8s.namespace.name", "store"),
        text("peer.k8s.pod.name", pod),
        text("peer.k8s.pod.uid", pod),
        text("peer.k8s.node.name", "node-1"),
        text("peer.k8s.zone", "zone-a"),
        text("peer.k8s.container.name", "web"),
    ]
}

/// By when the connection was made, or was to be made.
fn server_pod(attempt: &Attempt) -> Vec<KeyValue> {
    let made = attempt.opened.known().unwrap_or(attempt.begun);
    if attempt.address == NO_ADDRESS || !(us(0)..=us(15_000)).contains(&made) {
        return Vec::new();
    }
    let called = ["service.peer.name", "service.peer.namespace", "peer.service"].into_iter();
    let called = called.zip(["shop", "store", "shop"]).map(|(key, value)| text(key, value));
    peer("shop").into_iter().chain(called).collect()
}

fn head() -> Head {
    Head {
        trace_id: TraceId(*b"sixteen bytes id"),
        span_id: SpanId(*b"serverid"),
        trace_flags: 3,
        sampled: true,
        sampling_reason: Reason::Probabilistic,
        sampling_param: 0.5,
        entry_point: 1,
        route: 1,
        service: 1,
        method: Method::Get,
        status: 200,
        peer: "192.0.2.7:4711".parse().unwrap(),
        local: "[2001:db8::1]:8000".parse().unwrap(),
        established: us(0),
        accepted: us(3),
        head_readable: us(2),
        woken: us(6),
        head_read: us(10),
        srtt_us: 120,
        rttvar_us: 15,
        upstream_wanted: us(20),
        ended: us(10_000),
        attempts_made: 1,
        ..Head::default()
    }
}

fn attempt() -> Attempt {
    Attempt {
        span_id: SpanId(*b"attempt1"),
        server: 1,
        address: "127.0.0.1:8080".parse().unwrap(),
        status: 200,
        opened: us(19),
        begun: us(20),
        first_readable: us(8_000),
        woken: us(7_000),
        first_read: us(8_900),
        preempted_ns: 300_400,
        srtt_us: 40,
        rttvar_us: 0,
        ended: us(9_000),
        ..Attempt::default()
    }
}

fn texts() -> Texts<'static> {
    Texts {
        host: "hotrod.localhost:8000",
        path: "/dispatch",
        query: "customer=392&token=secret",
        user_agent: "curl/8.1",
        trace_state: "k=v",
        ..Texts::default()
    }
}

fn late() -> Late {
    Late {
        acked: us(10_400),
        left: us(10_200),
        handshake_rtt_us: 90,
        client_resent: 2,
        client_stalled_ns: 2_000,
        ..Late::default()
    }
}

fn record(head: Head, attempts: Vec<Attempt>) -> Record<'static> {
    let request_headers = vec![("x-a", "1"), ("x-b", ""), ("x-a", "2")];
    Record {
        head,
        attempts,
        calls: Vec::new(),
        texts: texts(),
        request_headers,
        response_headers: vec![("server", "nginx")],
    }
}

/// Cuts the request's time at these points, one phase each, in the order of the phases.
fn attributed<'a>(record: &'a Record<'a>, duration_us: u64, cuts: &[u64], body: bool) -> Attributed<'a> {
    let mut phases = [0; Phase::COUNT];
    let mut stretches = Vec::new();
    let mut at = 0;
    for (phase, cut) in Phase::ALL.into_iter().zip(cuts.iter().copied().chain([duration_us])) {
        let to_us = cut.clamp(at, duration_us);
        if to_us > at {
            phases[phase as usize] = to_us - at;
            stretches.push(Stretch { phase, part: Part::Whole, from_us: at, to_us });
        }
        at = to_us;
    }
    if let Some(last) = stretches.last_mut().filter(|last| body && last.to_us - last.from_us > 1) {
        // The last phase and another take turns.
        let to_us = std::mem::replace(&mut last.to_us, last.from_us + 1);
        last.part = Part::First;
        let next = Stretch { phase: Phase::Tunnel, part: Part::Next, from_us: last.to_us, to_us };
        stretches.push(next);
    }
    let (start, end) = (MonoNs(START), us(duration_us));
    let (blame, dominant, coverage) = (Blame::Backend, Phase::BackendApp, Coverage::Partial("no slot".to_owned()));
    Attributed {
        record,
        start,
        end,
        duration_us,
        phases,
        stretches,
        blame,
        dominant,
        coverage,
        late: crate::merge::late::Late::default(),
    }
}

fn encode(encoder: &mut SpanEncoder, request: &Attributed<'_>) -> Vec<ProtoSpan> {
    let mut bytes = Vec::new();
    let count = encoder.encode(&mut bytes, request, &catalog(), &pods(), WALL);
    let spans = ScopeSpans::decode(bytes.as_slice()).unwrap().spans;
    assert_eq!(spans.len(), count as usize);
    spans
}

fn encoder(spans: PhaseSpans) -> SpanEncoder {
    SpanEncoder::new(&tracing(), &Attribution { spans, ..Attribution::default() })
}

/// The reference: what one request's spans are.
struct Reference<'a> {
    request: &'a Attributed<'a>,
    spans: PhaseSpans,
    made: Vec<SpanData>,
    ids: ChildIds<'a>,
}

impl Reference<'_> {
    fn span(
        &mut self,
        id: SpanId,
        parent: SpanId,
        name: &str,
        kind: SpanKind,
        from_us: u64,
        to_us: u64,
    ) -> &mut SpanData {
        let head = &self.request.record.head;
        let base = (1_700_000_000_000_000_123 + START + 500) / 1000;
        let at = |us: u64| -> SystemTime { UNIX_EPOCH + Duration::from_micros(base + us) };
        let (mut start_time, mut end_time) = (at(from_us), at(to_us));
        if from_us == to_us && to_us > 0 && to_us == self.request.duration_us {
            start_time -= Duration::from_nanos(1);
        } else if from_us == to_us {
            end_time += Duration::from_nanos(1);
        }
        let context = SpanContext::new(
            opentelemetry::TraceId::from_bytes(head.trace_id.0),
            opentelemetry::SpanId::from_bytes(id.0),
            TraceFlags::new(head.trace_flags),
            false,
            self.request.record.texts.trace_state.parse::<TraceState>().unwrap(),
        );
        self.made.push(SpanData {
            span_context: context,
            parent_span_id: opentelemetry::SpanId::from_bytes(parent.0),
            span_kind: kind,
            name: name.to_owned().into(),
            start_time,
            end_time,
            ..span_data()
        });
        self.made.last_mut().unwrap()
    }

    fn rel(&self, at: MonoNs) -> u64 {
        ((at.0.saturating_sub(START) + 500) / 1000).min(self.request.duration_us)
    }

    fn all(mut self) -> Vec<ProtoSpan> {
        let record = self.request.record;
        let names = catalog();
        let route = names.routes.get(&record.head.route).cloned();
        self.server(&names, route.as_deref());
        let mut parent = (record.head.span_id, 0);
        if let Some(route) = route.filter(|route| route.detailed) {
            let end = self.request.duration_us;
            let read = self.rel(record.head.head_read);
            let mut levels = vec![(
                "Router",
                read,
                vec![
                    text("traefik.service.name", &route.service),
                    text("traefik.router.name", &route.router),
                    text("http.route", &route.rule),
                ],
            )];
            for (name, kind) in &route.middlewares {
                levels.push((kind, read, vec![text("traefik.middleware.name", name)]));
            }
            if let Some(service) = names.services.get(&record.head.service) {
                let wanted = record.head.upstream_wanted.known().unwrap_or(record.head.head_read);
                levels.push(("Service", self.rel(wanted).max(read), vec![text("traefik.service.name", service)]));
            }
            for (name, from, attributes) in levels {
                let id = self.ids.next();
                self.span(id, parent.0, name, SpanKind::Internal, from, end).attributes = attributes;
                parent = (id, from);
            }
        }
        self.clients(&names, parent);
        self.phases(parent.1);
        self.made.into_iter().map(ProtoSpan::from).collect()
    }

    fn server(&mut self, names: &Catalog, route: Option<&RouteNames>) {
        let record = self.request.record;
        let Head { method, branch, status, .. } = record.head;
        let mut name = if method == Method::Other { "HTTP" } else { method.name() }.to_owned();
        if let Some(route) = route {
            name = format!("{name} {}", route.operations.get(branch as usize).unwrap_or(&route.router));
        }
        let mut a = http_attributes(record);
        if let Some(entry_point) = names.entry_points.get(&record.head.entry_point) {
            a.push(text("entry_point", entry_point));
        }
        if let Some(route) = route {
            match route.patterns.get(branch as usize) {
                Some(pattern) if !pattern.is_empty() => a.push(text("http.route", pattern)),
                _ => {}
            }
            a.push(text("traefik.router.name", &route.router));
            let service = names.services.get(&record.head.service).unwrap_or(&route.service);
            a.push(text("traefik.service.name", service));
        }
        a.extend(self.beside_the_phases());
        if record.head.truncated {
            a.push(KeyValue::new("wayspan.truncated", true));
        }
        if record.head.accepted >= us(0) {
            a.extend(peer("caller"));
        }
        a.extend(captured("request", &record.request_headers));
        a.extend(captured("response", &record.response_headers));
        for phase in Phase::ALL {
            if self.request.phases[phase as usize] > 0 {
                a.push(int(&format!("wayspan.phase.{}", phase.name()), self.request.phases[phase as usize]));
            }
        }
        a.push(text("wayspan.blame", self.request.blame.name()));
        a.push(text("wayspan.dominant_phase", self.request.dominant.name()));
        a.push(text("wayspan.coverage", &self.request.coverage.to_string()));
        let root = record.head.parent_id.0 == [0; 8];
        let kind = ["", "probabilistic", "ratelimiting", "lowerbound", ""][record.head.sampling_reason as usize];
        if root && !kind.is_empty() {
            a.push(text("sampler.type", kind));
            a.push(KeyValue::new("sampler.param", record.head.sampling_param));
        }
        let broken = matches!(record.head.end, End::UpstreamCut | End::Shutdown)
            || (record.head.end == End::TimedOut && status / 100 != 4);
        let (id, parent, to) = (record.head.span_id, record.head.parent_id, self.request.duration_us);
        let span = self.span(id, parent, &name, SpanKind::Server, 0, to);
        span.parent_span_is_remote = !root;
        span.attributes = a;
        if status >= 500 || broken {
            span.status = Status::error("");
        }
    }

    /// Of the SERVER span: its connection, its worker, and what came later.
    fn beside_the_phases(&self) -> Vec<KeyValue> {
        let (head, late) = (&self.request.record.head, &self.request.late);
        let us = |ns: u64| (ns + 500) / 1000;
        let mut a = vec![int("wayspan.connection.request_index", head.request_index.into())];
        if head.request_index == 0 {
            if head.accepted.0 != 0 && head.established.0 != 0 {
                a.push(int("wayspan.connection.accept_wait", us(head.accepted.0 - head.established.0)));
            }
            if head.tls.handshake_ns > 0 {
                a.push(int("wayspan.connection.tls_handshake", us(head.tls.handshake_ns)));
            }
            if late.handshake_resent_ns > 0 {
                a.push(int("wayspan.connection.handshake_at_least", late.handshake_resent_ns / 1000));
            } else {
                a.extend(nonzero("wayspan.connection.handshake_rtt", late.handshake_rtt_us.into()));
            }
        }
        a.extend(round_trip("client", late.client_rtt, [head.srtt_us, head.rttvar_us]));
        a.extend(self.delay(head.head_readable, head.woken, head.head_read, head.preempted_ns));
        let after = |at: MonoNs| us(at.0.saturating_sub(self.request.end.0));
        match (late.left.0, late.acked.0) {
            (_, 0) if late.ack_missing == Missing::UNSEEN => {
                a.push(KeyValue::new("wayspan.after.missing", "acknowledgement unseen"));
            }
            (_, 0) => {}
            (0, _) => a.push(int("wayspan.after.ack", after(late.acked))),
            _ => a.extend([
                int("wayspan.after.send_queue", after(late.left)),
                int("wayspan.after.ack", after(late.acked)),
            ]),
        }
        a.extend(nonzero("wayspan.client.retransmits", late.client_resent.into()));
        a.extend(nonzero("wayspan.client.zero_window", us(late.client_stalled_ns)));
        a
    }

    fn beside_an_attempt(&self, attempt: &Attempt, is_last: bool) -> Vec<KeyValue> {
        let mut a = vec![KeyValue::new("wayspan.connection.reused", attempt.reused)];
        let later = if is_last { self.request.late.upstream_rtt } else { RoundTrip::default() };
        a.extend(round_trip("upstream", later, [attempt.srtt_us, attempt.rttvar_us]));
        a.extend(self.delay(attempt.first_readable, attempt.woken, attempt.first_read, attempt.preempted_ns));
        if is_last {
            let Late { upstream_resent, backend_resent, upstream_stalled_ns, .. } = self.request.late;
            a.extend(nonzero("wayspan.upstream.retransmits", upstream_resent.into()));
            a.extend(nonzero("wayspan.backend.retransmits", backend_resent.into()));
            a.extend(nonzero("wayspan.upstream.zero_window", (upstream_stalled_ns + 500) / 1000));
        }
        a
    }

    fn delay(&self, readable: MonoNs, woken: MonoNs, read: MonoNs, preempted_ns: u64) -> Vec<KeyValue> {
        if readable.0 == 0 || woken.0 == 0 || read.0 == 0 {
            return vec![];
        }
        let from = self.rel(readable);
        let to = self.rel(read).max(from);
        let up = self.rel(woken).max(from).min(to);
        let mut a = nonzero("wayspan.worker.wakeup", up - from);
        a.extend(nonzero("wayspan.worker.backlog", to - up));
        a.extend(nonzero("wayspan.worker.preempted", ((preempted_ns + 500) / 1000).min(to - up)));
        a
    }

    fn clients(&mut self, names: &Catalog, parent: (SpanId, u64)) {
        let record = self.request.record;
        for (index, attempt) in record.attempts.iter().enumerate() {
            let mut a = vec![text("http.request.method", record.head.method.name())];
            if record.head.method == Method::Other {
                a.push(text("http.request.method_original", record.texts.method_other));
            }
            let (host, port, base) = match attempt.server {
                1 => ("127.0.0.1", 8080, "http://127.0.0.1:8080"),
                2 => ("::1", 443, "https://[::1]/base"),
                _ => ("", 0, ""),
            };
            if !host.is_empty() {
                a.push(text("server.address", host));
                a.push(int("server.port", port));
                let query = Some(record.texts.query).filter(|query| !query.is_empty());
                let query = query.map(|query| format!("?{}", redacted(query))).unwrap_or_default();
                let url = format!("{base}{}{query}", record.texts.path);
                a.extend([text("url.full", &url), text("peer.k8s.service.name", "shop")]);
            }
            if attempt.address != NO_ADDRESS {
                a.push(text("network.peer.address", &attempt.address.ip().to_string()));
                a.push(int("network.peer.port", attempt.address.port().into()));
            }
            if attempt.status != 0 {
                a.push(int("http.response.status_code", attempt.status.into()));
                a.push(text("network.protocol.version", "1.1"));
            }
            let resend = index + usize::from(record.head.attempts_made).saturating_sub(record.attempts.len());
            if resend > 0 {
                a.push(int("http.request.resend_count", resend as u64));
            }
            if attempt.error != ErrorKind::None {
                a.push(text("error.type", attempt.error.name()));
            } else if attempt.status >= 400 {
                a.push(text("error.type", &attempt.status.to_string()));
            }
            if let Some(service) = names.services.get(&record.head.service) {
                a.push(text("traefik.service.name", service));
            }
            let next = record.attempts.get(index + 1);
            a.extend([server_pod(attempt), self.beside_an_attempt(attempt, next.is_none())].concat());
            if next.is_none() {
                let side: Vec<_> = Phase::ALL
                    .into_iter()
                    .filter(|phase| is_upstream(*phase) && self.request.phases[*phase as usize] > 0)
                    .collect();
                for phase in &side {
                    a.push(int(&format!("wayspan.phase.{}", phase.name()), self.request.phases[*phase as usize]));
                }
                let sum = |blame| {
                    side.iter().filter(|p| p.blame() == blame).map(|p| self.request.phases[*p as usize]).sum::<u64>()
                };
                let blame = Blame::ALL.into_iter().rev().max_by_key(|blame| sum(*blame)).filter(|b| sum(*b) > 0);
                let dominant = side.iter().rev().max_by_key(|phase| self.request.phases[**phase as usize]);
                a.push(text("wayspan.blame", blame.unwrap_or(Blame::Upstream).name()));
                a.push(text("wayspan.dominant_phase", dominant.unwrap_or(&Phase::UpstreamWait).name()));
                a.push(text("wayspan.coverage", &self.request.coverage.to_string()));
            }
            let from = self.rel(attempt.begun).max(parent.1);
            let end = attempt.ended.known().or(next.map(|next| next.begun)).unwrap_or(self.request.end);
            let to = self.rel(end).max(from);
            let name = if record.head.method == Method::Other { "HTTP" } else { record.head.method.name() };
            let span = self.span(attempt.span_id, parent.0, name, SpanKind::Client, from, to);
            span.attributes = a;
            if attempt.status >= 400 || !matches!(attempt.error, ErrorKind::None | ErrorKind::ClientGone) {
                span.status = Status::error("");
            }
        }
    }

    fn phases(&mut self, earliest: u64) {
        let record = self.request.record;
        let total = self.request.duration_us;
        let last = record.attempts.last().map(|attempt| {
            let end = attempt.ended.known().unwrap_or(self.request.end);
            let from = self.rel(attempt.begun).max(earliest);
            (attempt.span_id, from, self.rel(end).max(from))
        });
        let mut parts: Vec<(Option<Phase>, u64, u64)> = Vec::new();
        for stretch in &self.request.stretches {
            match (stretch.part, parts.last_mut()) {
                (Part::Next, Some(last)) => last.2 = stretch.to_us,
                (part, _) => {
                    parts.push(((part == Part::Whole).then_some(stretch.phase), stretch.from_us, stretch.to_us))
                }
            }
        }
        for (phase, from, to) in parts {
            let long = to - from >= 1000 && (to - from) as f64 >= total as f64 * 0.05;
            if self.spans == PhaseSpans::Attributes || (self.spans == PhaseSpans::Notable && !long) {
                continue;
            }
            let inside = last.filter(|last| phase.is_some_and(is_upstream) && last.1 <= from && to <= last.2);
            let id = self.ids.next();
            let parent = inside.map_or(record.head.span_id, |last| last.0);
            let span = self.span(id, parent, phase.map_or("body", Phase::name), SpanKind::Internal, from, to);
            if let Some(phase) = phase {
                span.attributes = vec![text("wayspan.blame", phase.blame().name())];
            }
        }
    }
}

/// What OpenTelemetry's conventions say of a request.
fn http_attributes(record: &Record<'_>) -> Vec<KeyValue> {
    let Head { method, status, .. } = record.head;
    let texts = &record.texts;
    let mut a = vec![text("http.request.method", method.name())];
    if method == Method::Other {
        a.push(text("http.request.method_original", texts.method_other));
    }
    a.push(text("url.scheme", if record.head.https { "https" } else { "http" }));
    a.push(text("url.path", texts.path));
    if !texts.query.is_empty() {
        a.push(text("url.query", &redacted(texts.query)));
    }
    let (host, port) = match texts.host {
        "" => ("2001:db8::1", 8000),
        host => host
            .split_once(':')
            .map_or((host, if record.head.https { 443 } else { 80 }), |(host, port)| (host, port.parse().unwrap())),
    };
    a.push(text("server.address", host));
    a.push(int("server.port", port));
    let peer = record.head.peer.ip().to_string();
    a.push(text("client.address", if texts.forwarded_client.is_empty() { &peer } else { texts.forwarded_client }));
    a.push(text("network.peer.address", &peer));
    a.push(int("network.peer.port", record.head.peer.port().into()));
    a.push(text("network.protocol.version", if record.head.version == 10 { "1.0" } else { "1.1" }));
    if let (version @ (0x0303 | 0x0304), true) = (record.head.tls.version, record.head.https) {
        a.push(text("tls.protocol.name", "tls"));
        a.push(text("tls.protocol.version", if version == 0x0303 { "1.2" } else { "1.3" }));
        if record.head.tls.cipher == 0x1302 {
            a.push(text("tls.cipher", "TLS_AES_256_GCM_SHA384"));
        }
        a.push(KeyValue::new("tls.resumed", record.head.tls.resumed));
    }
    if !texts.user_agent.is_empty() {
        a.push(text("user_agent.original", texts.user_agent));
    }
    if record.head.request_body_bytes > 0 {
        a.push(int("http.request.body.size", record.head.request_body_bytes));
    }
    if record.head.response_body_bytes > 0 {
        a.push(int("http.response.body.size", record.head.response_body_bytes));
    }
    if status != 0 {
        a.push(int("http.response.status_code", status.into()));
    }
    let by_end = match record.head.end {
        End::Complete | End::Refused => "",
        End::ClientGone => "client_gone",
        End::UpstreamCut => "upstream_closed",
        End::TimedOut => "timeout",
        End::Shutdown => "shutdown",
    };
    let named = if record.head.error == ErrorKind::None { by_end } else { record.head.error.name() };
    if !named.is_empty() {
        a.push(text("error.type", named));
    } else if status >= 500 {
        a.push(text("error.type", &status.to_string()));
    }
    a
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue::new(key.to_owned(), value.to_owned())
}

fn int(key: &str, value: u64) -> KeyValue {
    KeyValue::new(key.to_owned(), i64::try_from(value).unwrap())
}

fn nonzero(key: &str, value: u64) -> Vec<KeyValue> {
    if value == 0 { vec![] } else { vec![int(key, value)] }
}

fn redacted(query: &str) -> String {
    query.replace("token=secret", "token=REDACTED")
}

fn captured(direction: &str, headers: &[(&str, &str)]) -> Vec<KeyValue> {
    let mut seen = HashSet::new();
    let names = headers.iter().map(|(name, _)| *name).filter(|name| seen.insert(*name));
    names
        .map(|name| {
            let values =
                headers.iter().filter(|header| header.0 == name).map(|header| StringValue::from(header.1.to_owned()));
            KeyValue::new(format!("http.{direction}.header.{name}"), Value::Array(Array::String(values.collect())))
        })
        .collect()
}

fn check(record: &Record<'_>, late: Late, cuts: &[u64], body: bool, spans: PhaseSpans) -> Vec<ProtoSpan> {
    let duration_us = (record.head.ended.0 - START + 500) / 1000;
    let request = Attributed { late, ..attributed(record, duration_us, cuts, body) };
    let ours = encode(&mut encoder(spans), &request);
    let theirs = Reference { request: &request, spans, made: Vec::new(), ids: ChildIds::new(record) }.all();
    assert_eq!(ours, theirs);
    lies_right(&ours);
    ours
}

/// Ids are unique, and every span but the first has its parent among the others and lies inside it.
fn lies_right(spans: &[ProtoSpan]) {
    let ids: HashSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len());
    for span in &spans[1..] {
        let parent = spans.iter().find(|parent| parent.span_id == span.parent_span_id).unwrap();
        let inside = parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano < span.end_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(inside, "{span:?} in {parent:?}");
    }
}

#[test]
fn requests_of_every_kind_are_encoded_as_opentelemetry_encodes_them() {
    let retry = |n, error| Attempt {
        span_id: SpanId([n; 8]),
        begun: us(20 * u64::from(n)),
        ended: MonoNs(0),
        error,
        status: 0,
        ..attempt()
    };
    let cases = [
        (head(), vec![attempt()]),
        (Head { route: 2, branch: 1, parent_id: SpanId([9; 8]), ..head() }, vec![attempt()]),
        (
            Head { route: NO_ID, service: NO_ID, status: 404, error: ErrorKind::NoRoute, attempts_made: 0, ..head() },
            vec![],
        ),
        (
            Head { method: Method::Other, https: true, version: 10, branch: 7, ..head() },
            vec![Attempt { server: 2, reused: true, status: 404, opened: MonoNs(START - 1), ..attempt() }],
        ),
        (
            Head { attempts_made: 7, status: 502, error: ErrorKind::ConnectionRefused, ..head() },
            vec![
                retry(1, ErrorKind::ConnectionRefused),
                retry(2, ErrorKind::ConnectTimeout),
                retry(3, ErrorKind::UpstreamReset),
            ],
        ),
        (
            Head { end: End::ClientGone, status: 0, ..head() },
            vec![Attempt { error: ErrorKind::ClientGone, status: 0, ..attempt() }],
        ),
        (
            Head { end: End::UpstreamCut, truncated: true, ..head() },
            vec![Attempt { error: ErrorKind::UpstreamReset, ..attempt() }],
        ),
        (Head { end: End::TimedOut, status: 408, request_index: 3, ..head() }, vec![]),
        (
            Head { end: End::Shutdown, sampling_reason: Reason::LowerBound, ..head() },
            vec![Attempt { server: 9, address: NO_ADDRESS, ..attempt() }],
        ),
        (Head { status: 500, request_body_bytes: 1 << 40, response_body_bytes: 5, ..head() }, vec![attempt()]),
        (Head { entry_point: 9, route: 2, service: NO_ID, ended: us(0), ..head() }, vec![]),
    ];
    for (head, attempts) in cases {
        let record = Record { texts: Texts { method_other: "BREW", ..texts() }, ..record(head, attempts) };
        for spans in [PhaseSpans::Attributes, PhaseSpans::Notable, PhaseSpans::All] {
            for body in [false, true] {
                check(&record, late(), &[3, 10, 20, 20, 40, 40, 900, 2000, 5000, 9_500], body, spans);
            }
        }
    }
    let bare = Record {
        texts: Texts { path: "/", forwarded_client: "198.51.100.1", ..Texts::default() },
        ..record(head(), vec![])
    };
    check(&bare, Late::default(), &[], false, PhaseSpans::Notable);
}

#[test]
fn a_first_request_reads_as_a_person_expects() {
    let spans = check(
        &record(Head { route: 2, ..head() }, vec![attempt()]),
        late(),
        &[0, 0, 10, 10, 20, 20, 20, 20, 20, 120],
        false,
        PhaseSpans::Notable,
    );
    let told: Vec<_> = spans
        .iter()
        .map(|s| (s.name.as_str(), s.kind, (s.end_time_unix_nano - s.start_time_unix_nano) / 1000))
        .collect();
    let expected = [
        ("GET hotrod.localhost/", 2, 10_000),
        ("Router", 1, 9_990),
        ("StripPrefix", 1, 9_990),
        ("Headers", 1, 9_990),
        ("Service", 1, 9_980),
        ("GET", 3, 8_980),
        ("upstream_tls", 1, 9_880),
    ];
    assert_eq!(told, expected);
    assert_eq!(spans[5].parent_span_id, spans[4].span_id);
    assert_eq!(
        (spans[5].span_id.as_slice(), spans[0].flags, spans[0].trace_state.as_str()),
        (&b"attempt1"[..], 0x103, "k=v")
    );
}

#[test]
fn a_middlewares_call_is_a_client_span_and_those_behind_the_one_that_answered_have_none() {
    let call = Attempt { span_id: SpanId(*b"authcall"), status: 401, begun: us(30), ended: us(5_000), ..attempt() };
    let answered = Head { route: 4, service: NO_ID, answered_by: 1, status: 401, upstream_wanted: MonoNs(0), ..head() };
    for (route, attempts, want) in [
        (4, vec![], &["GET hotrod.localhost/", "Router", "ForwardAuth", "AuthRequest"][..]),
        (1, vec![], &["GET hotrod.localhost/", "AuthRequest"]),
        (1, vec![attempt()], &["GET hotrod.localhost/", "AuthRequest", "GET"]),
    ] {
        let record = Record { calls: vec![call], ..record(Head { route, ..answered }, attempts) };
        let mut names = catalog();
        let detailed = RouteNames {
            middlewares: vec![("auth".into(), "ForwardAuth"), ("edit".into(), "Headers")],
            ..RouteNames::clone(&names.routes[&2])
        };
        names.routes.insert(4, detailed.into());
        let mut bytes = Vec::new();
        let request = attributed(&record, 10_000, &[], false);
        encoder(PhaseSpans::Attributes).encode(&mut bytes, &request, &names, &Pods::none(), WALL);
        let spans = opentelemetry_proto::tonic::trace::v1::ScopeSpans::decode(bytes.as_slice()).unwrap().spans;
        let told: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(told, want);
        lies_right(&spans);
        let call = spans.iter().find(|span| span.name == "AuthRequest").unwrap();
        let parent = spans.iter().find(|span| span.span_id == call.parent_span_id).unwrap();
        assert_eq!(parent.name, if route == 4 { "ForwardAuth" } else { want[0] });
        assert_eq!((call.kind, call.span_id.as_slice()), (3, &b"authcall"[..]));
        assert_eq!((call.end_time_unix_nano - call.start_time_unix_nano) / 1000, 4_970);
        let attribute =
            |key: &str| call.attributes.iter().find(|attribute| attribute.key == key).unwrap().value.clone();
        let url = attribute("url.full").unwrap().value.unwrap();
        assert_eq!(
            url,
            opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue("http://127.0.0.1:8080".to_owned())
        );
        let status = attribute("http.response.status_code").unwrap().value.unwrap();
        assert_eq!(status, opentelemetry_proto::tonic::common::v1::any_value::Value::IntValue(401));
    }
}

#[test]
fn what_is_not_sampled_or_internal_leaves_no_spans() {
    let spans = |head: Head, add_internals| {
        let record = record(head, vec![]);
        let settings = Tracing { add_internals, ..tracing() };
        encode(&mut SpanEncoder::new(&settings, &Attribution::default()), &attributed(&record, 10, &[], false)).len()
    };
    assert_eq!(spans(head(), false), 1);
    assert_eq!(spans(Head { sampled: false, ..head() }, true), 0);
    assert_eq!(spans(Head { route: 3, service: NO_ID, ..head() }, false), 0);
    assert_eq!(spans(Head { route: 3, service: NO_ID, ..head() }, true), 1);
    assert_eq!(spans(Head { trace_id: TraceId::default(), ..head() }, true), 0);
}

#[test]
fn child_ids_avoid_the_ids_of_the_request() {
    let plain = record(head(), vec![]);
    let (mut ids, first) = (ChildIds::new(&plain), ChildIds::new(&plain).next());
    let taken = record(head(), vec![Attempt { span_id: first, ..attempt() }]);
    let called = Record { calls: taken.attempts.clone(), ..record(head(), vec![]) };
    assert_eq!(ids.next(), first);
    let second = ids.next();
    assert_eq!((ChildIds::new(&taken).next(), ChildIds::new(&called).next()), (second, second));
}

fn any_head() -> impl Strategy<Value = Head> {
    let codes = (0..6_usize, 0..15_usize, 0..5_usize, 0..11_usize, 0..4_u32, 0..3_u16);
    let flags = (any::<bool>(), any::<bool>(), any::<[u8; 8]>(), any::<u8>(), 0..6_u16);
    let times = (0..40_000_u64, 0..40_000_u64, 0..40_000_u64, 0..2_u32);
    let status = prop_oneof![Just(0_u16), 100..600_u16];
    (codes, flags, times, status, any_delay()).prop_map(|(codes, flags, times, status, delay)| {
        let ends = [End::Complete, End::ClientGone, End::UpstreamCut, End::TimedOut, End::Shutdown, End::Refused];
        let reasons = [Reason::Parent, Reason::Probabilistic, Reason::RateLimiting, Reason::LowerBound, Reason::Off];
        let methods = [Method::Other, Method::Get, Method::Head, Method::Post];
        Head {
            end: ends[codes.0],
            error: error(codes.1),
            sampling_reason: reasons[codes.2],
            method: methods[codes.3 % 4],
            route: if codes.4 == 3 { NO_ID } else { codes.4 },
            branch: codes.5,
            truncated: flags.0,
            https: flags.1,
            tls: if flags.1 { any_tls(flags.3) } else { TlsFacts::default() },
            parent_id: SpanId(flags.2),
            trace_flags: flags.3,
            attempts_made: flags.4,
            ended: MonoNs(START + times.0 * 999),
            head_read: MonoNs(START + times.1),
            upstream_wanted: MonoNs(if times.2 == 0 { 0 } else { START + times.2 * 701 }),
            request_index: times.3,
            status,
            head_readable: MonoNs(delay.readable),
            woken: MonoNs(delay.woken),
            preempted_ns: delay.preempted_ns,
            srtt_us: delay.srtt_us,
            rttvar_us: delay.rttvar_us,
            ..head()
        }
    })
}

fn any_tls(bits: u8) -> TlsFacts {
    let version = [0x0303, 0x0304, 0x0304, 0x0305][usize::from(bits % 4)];
    let cipher = if bits & 4 == 0 { 0x1302 } else { 0xffff };
    TlsFacts { handshake_ns: u64::from(bits) * 999, version, cipher, resumed: bits & 8 == 0 }
}

fn error(code: usize) -> ErrorKind {
    let some = [ErrorKind::None, ErrorKind::ConnectTimeout, ErrorKind::ClientGone, ErrorKind::UpstreamReset];
    some[code % 4]
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let codes = (1_u8..255, 0..50_000_000_u64, 0..50_000_000_u64, 0..4_u32, 0..4_usize, any::<bool>());
    (codes, any_delay()).prop_map(|((id, begun, ended, server, code, reused), delay)| Attempt {
        span_id: SpanId([id, 7, 7, 7, 7, 7, 7, 7]),
        begun: MonoNs(START + begun),
        ended: MonoNs(if ended % 5 == 0 { 0 } else { START + ended }),
        server,
        error: error(code),
        status: if code == 0 { 503 } else { 0 },
        reused,
        opened: MonoNs(if ended % 3 == 0 { 0 } else { START + ended / 2 }),
        first_readable: MonoNs(delay.readable),
        woken: MonoNs(delay.woken),
        first_read: MonoNs(delay.read),
        preempted_ns: delay.preempted_ns,
        srtt_us: delay.srtt_us,
        rttvar_us: delay.rttvar_us,
        ..attempt()
    })
}

/// Times in any order, some of them unknown.
#[derive(Clone, Copy, Debug)]
struct Delay {
    readable: u64,
    woken: u64,
    read: u64,
    preempted_ns: u64,
    srtt_us: u32,
    rttvar_us: u32,
}

fn any_delay() -> impl Strategy<Value = Delay> {
    let time = || prop_oneof![1 => Just(0), 4 => START - 1000..START + 40_000_000];
    let trip = || prop_oneof![Just(0), any::<u32>()];
    (time(), time(), time(), 0..20_000_000_u64, trip(), trip()).prop_map(
        |(readable, woken, read, preempted_ns, srtt_us, rttvar_us)| Delay {
            readable,
            woken,
            read,
            preempted_ns,
            srtt_us,
            rttvar_us,
        },
    )
}

/// The later one where it is known.
fn round_trip(side: &str, later: RoundTrip, [srtt_us, rttvar_us]: [u32; 2]) -> Vec<KeyValue> {
    let [smoothed, deviation] =
        if later.smoothed_us > 0 { [later.smoothed_us, later.deviation_us] } else { [srtt_us, rttvar_us] };
    let key = |of: &str| format!("wayspan.{side}.{of}");
    let both = [(key("rtt"), smoothed), (key("rttvar"), deviation)];
    both.into_iter().filter(|_| smoothed > 0).map(|(key, us)| KeyValue::new(key, i64::from(us))).collect()
}

fn any_late() -> impl Strategy<Value = Late> {
    let time = || prop_oneof![Just(0), START..START + 400_000_000].prop_map(MonoNs);
    let count = || prop_oneof![3 => Just(0), 1 => any::<u32>()];
    let handshake = prop_oneof![2 => Just(0), 1 => 1..2_000_000_000_u64];
    let stalled = || prop_oneof![3 => Just(0), 1 => 0..2_000_000_000_u64];
    let stalls = (stalled(), stalled());
    let round_trip =
        || (count(), count()).prop_map(|(smoothed_us, deviation_us)| RoundTrip { smoothed_us, deviation_us });
    let round_trips = (round_trip(), round_trip());
    (time(), time(), any::<bool>(), count(), handshake, [count(), count(), count()], stalls, round_trips).prop_map(
        |(acked, left, may_come, handshake_rtt_us, handshake_resent_ns, resent, stalled, round_trips)| Late {
            client_rtt: round_trips.0,
            upstream_rtt: round_trips.1,
            acked,
            ack_missing: if may_come { Missing::UNSEEN } else { Missing::NOTHING },
            left,
            may_come,
            handshake_rtt_us,
            handshake_resent_ns,
            client_resent: resent[0],
            upstream_resent: resent[1],
            backend_resent: resent[2],
            client_stalled_ns: stalled.0,
            upstream_stalled_ns: stalled.1,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_requests_are_encoded_as_opentelemetry_encodes_them(
        head in any_head(),
        late in any_late(),
        mut attempts in proptest::collection::vec(any_attempt(), 0..5),
        cuts in proptest::collection::vec(0..40_000_u64, 0..24),
        body: bool,
        spans in prop_oneof![Just(PhaseSpans::Attributes), Just(PhaseSpans::Notable), Just(PhaseSpans::All)],
        path in "/[a-zé]{0,300}",
        agent in "[ -~]{0,200}",
        length in 0..20_000_usize,
    ) {
        let value = "é".repeat(length);
        let mut seen = HashSet::new();
        attempts.retain(|attempt| seen.insert(attempt.span_id.0));
        let texts = Texts { path: &path, user_agent: &agent, method_other: "BREW", ..texts() };
        let record = Record { head, attempts, calls: Vec::new(), texts, request_headers: vec![("x-v", &value)], response_headers: vec![] };
        let hidden = record.head.route == 3;
        prop_assume!(!hidden);
        check(&record, late, &cuts, body, spans);
    }
}

/// Prints what a span costs on the merge's thread, counting included.
#[test]
#[ignore = "a measurement: cargo test --release -p wayspan-agent -- --ignored --nocapture cost_of_a_span"]
fn cost_of_a_span() {
    let headers = Record { request_headers: vec![], response_headers: vec![], ..record(head(), vec![attempt()]) };
    let request = attributed(&headers, 10_000, &[3, 10, 20, 20, 40, 40, 900, 2000, 5000, 9_500], false);
    let (names, pods) = (catalog(), pods());
    let counts = std::sync::Arc::new(crate::export::counts::SpanCounts::default());
    for spans in [PhaseSpans::Attributes, PhaseSpans::Notable] {
        let mut encoder = encoder(spans);
        let (entrance, mut batches) = crate::export::queue::Entrance::new(
            &crate::config::model::Otlp { queue_spans: 1 << 40, batch_spans: 512, ..crate::export::testing::otlp("x") },
            std::sync::Arc::clone(&counts),
        );
        let settings = crate::config::model::Otlp { batch_spans: 512, ..crate::export::testing::otlp("x") };
        let mut writer = crate::export::queue::BatchWriter::new(entrance, &settings);
        for round in 0..4 {
            let (begun, made, bytes) = (thread_cpu_ns(), counts.read().made, counts.read().pending_bytes);
            let mut sum = bytes;
            for _ in 0..200_000 {
                writer.push(|out| {
                    let before = out.len();
                    let count = encoder.encode(out, &request, &names, &pods, WALL);
                    sum += (out.len() - before) as u64;
                    count
                });
                while let Ok(batch) = batches.try_recv() {
                    batch.ticket.acknowledged(0);
                }
            }
            let spans_made = counts.read().made - made;
            let ns = thread_cpu_ns() - begun;
            println!("{spans:?} round {round}: {} ns a span, {} bytes", ns / spans_made, sum / spans_made);
        }
    }
}
