//! One attributed request to OTLP spans, straight to protobuf: which spans there are, their names, times, parents and
//! attributes. Names of attributes are OpenTelemetry's, Traefik's and ours; their texts are made in `text`, sending is
//! `queue`'s and `sender`'s. opentelemetry-otlp needs 4 us a span for the same bytes; the tests hold both equal.

mod calls;

use opentelemetry_semantic_conventions::attribute as otel;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{Attempt, ErrorKind, Head, Method, NO_ADDRESS, NO_ID, Record};
use wayspan_proxy::trace_context::SpanId;

use super::child_ids::ChildIds;
use super::clock::WallOffset;
use super::facts;
use super::names;
use super::peer;
use super::proto::{self, Attributes, length_tag};
use super::side::{is_upstream, upstream_share};
use super::text;
use super::words::{end_error, server_failed, span_method, version};
use crate::catalog::{Catalog, RouteNames};
use crate::config::model::{Attribution, PhaseSpans, Tracing};
use crate::kube::pods::Pods;
use crate::merge::phase::{Attributed, Blame, Coverage, Part, Phase, Stretch};

/// `ScopeSpans.spans`: what [`SpanEncoder::encode`] appends is a sequence of these fields.
const SPANS: u8 = length_tag(2);
/// `Span`'s fields and enums (opentelemetry/proto/trace/v1/trace.proto).
const TRACE_ID: u8 = length_tag(1);
const SPAN_ID: u8 = length_tag(2);
const TRACE_STATE: u8 = length_tag(3);
const PARENT_SPAN_ID: u8 = length_tag(4);
const NAME: u8 = length_tag(5);
const KIND: u8 = 6;
const START: u8 = 7;
const END: u8 = 8;
const ATTRIBUTES: u8 = length_tag(9);
/// `status`, unset: an empty message, as the SDK's exporter writes it.
const STATUS_UNSET: [u8; 2] = [length_tag(15), 0];
/// `status { code: ERROR }`.
const STATUS_ERROR: [u8; 4] = [length_tag(15), 2, 3 << 3, 2];
/// `flags`, field 16, fixed32: the tag takes two bytes.
const FLAGS: [u8; 2] = [0x85, 0x01];
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `Span.SpanKind`.
#[derive(Clone, Copy)]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// Traefik's name of the middleware that makes calls.
const FORWARD_AUTH: &str = "ForwardAuth";
/// The span of a body's relay, which phases take turns in.
const BODY: &str = "body";

/// Encodes requests. Holds buffers, so one per thread.
#[derive(Debug)]
pub struct SpanEncoder {
    add_internals: bool,
    safe_params: Vec<Box<str>>,
    attribution: Attribution,
    phase_keys: [String; Phase::COUNT],
    texts: Scratch,
}

/// Texts of one request, made once and used by several spans.
#[derive(Debug, Default)]
struct Scratch {
    peer: String,
    query: String,
    coverage: String,
    /// For one attribute at a time.
    value: String,
}

/// One request with what is known about it.
#[derive(Clone, Copy)]
struct Request<'a> {
    attributed: &'a Attributed<'a>,
    record: &'a Record<'a>,
    head: &'a Head,
    catalog: &'a Catalog,
    pods: &'a Pods,
    route: Option<&'a RouteNames>,
    start_us: u64,
}

/// A span but for its attributes. Times are microseconds after the request's start.
struct Span<'a> {
    id: SpanId,
    parent: SpanId,
    parent_is_remote: bool,
    /// Joined by a space where both are there.
    name: (&'a str, &'a str),
    kind: Kind,
    from_us: u64,
    to_us: u64,
    error: bool,
}

/// A span's place, for the spans inside it.
#[derive(Clone, Copy)]
struct Place {
    id: SpanId,
    from_us: u64,
    to_us: u64,
}

impl SpanEncoder {
    /// An encoder by `tracing` and `attribution`.
    #[must_use]
    pub fn new(tracing: &Tracing, attribution: &Attribution) -> Self {
        Self {
            add_internals: tracing.add_internals,
            safe_params: tracing.safe_query_params.iter().map(|name| name.as_str().into()).collect(),
            attribution: attribution.clone(),
            phase_keys: Phase::ALL.map(|phase| format!("{}{}", names::PHASE_PREFIX, phase.name())),
            texts: Scratch::default(),
        }
    }

    /// Appends the spans of one request as `ScopeSpans.spans` fields and returns how many. None where the request is
    /// not sampled, or went to a route of the agent's own without `addInternals`.
    pub fn encode(
        &mut self,
        out: &mut Vec<u8>,
        request: &Attributed<'_>,
        catalog: &Catalog,
        pods: &Pods,
        wall: WallOffset,
    ) -> u32 {
        let record = request.record;
        let head = &record.head;
        let route = catalog.routes.get(&head.route).map(|route| &**route);
        let hidden = route.is_some_and(|route| route.internal) && !self.add_internals;
        if !head.sampled || hidden || head.trace_id.0 == [0; 16] || head.span_id.0 == [0; 8] {
            return 0;
        }
        let request =
            Request { attributed: request, record, head, catalog, pods, route, start_us: wall.unix_us(request.start) };
        self.prepare(&request);
        let mut ids = ChildIds::new(record);
        let mut spans = 1;
        self.server(out, &request);
        let server = Place { id: head.span_id, from_us: 0, to_us: request.attributed.duration_us };
        let (parent, caller) = match route {
            Some(route) if route.detailed => detail(out, &request, route, &mut ids, &mut spans),
            _ => (server, None),
        };
        self.calls(out, &request, caller.unwrap_or(server), &mut spans);
        let last = self.attempts(out, &request, parent, &mut spans);
        self.phases(out, &request, last, &mut ids, &mut spans);
        spans
    }

    fn prepare(&mut self, request: &Request<'_>) {
        let Scratch { peer, query, coverage, value } = &mut self.texts;
        for text in [&mut *peer, &mut *query, &mut *coverage, value] {
            text.clear();
        }
        text::address(peer, request.head.peer.ip());
        if !request.record.texts.query.is_empty() {
            text::query(query, request.record.texts.query, &self.safe_params);
        }
        match &request.attributed.coverage {
            Coverage::Full => coverage.push_str("full"),
            // Writing to a string cannot fail.
            other => drop(std::fmt::Write::write_fmt(coverage, format_args!("{other}"))),
        }
    }

    fn server(&mut self, out: &mut Vec<u8>, request: &Request<'_>) {
        let head = request.head;
        let method = span_method(head.method);
        let operation = request.route.map_or("", |route| {
            route.operations.get(usize::from(head.branch)).map_or(&*route.router, |operation| operation)
        });
        let root = head.parent_id.0 == [0; 8];
        let span = Span {
            id: head.span_id,
            parent: head.parent_id,
            parent_is_remote: !root,
            name: (method, operation),
            kind: Kind::Server,
            from_us: 0,
            to_us: request.attributed.duration_us,
            error: server_failed(head),
        };
        request.span(out, &span, |a| {
            self.request_attributes(a, request);
            request.names(a);
            peer::client(a, request.pods, request.head);
            self.captured(a, request.record);
            self.attribution(a, request, |_| true, request.attributed.blame, request.attributed.dominant);
            if let (true, Some(kind)) = (root, names::sampler_type(head.sampling_reason)) {
                a.text(names::SAMPLER_TYPE, kind);
                a.double(names::SAMPLER_PARAM, head.sampling_param);
            }
        });
    }

    /// What OpenTelemetry's HTTP conventions say of a request that a server got.
    fn request_attributes(&mut self, a: &mut Attributes<'_>, request: &Request<'_>) {
        let (head, texts) = (request.head, &request.record.texts);
        request.method(a);
        a.text(otel::URL_SCHEME, if head.https { "https" } else { "http" });
        if !texts.path.is_empty() {
            a.text(otel::URL_PATH, texts.path);
        }
        if !texts.query.is_empty() {
            a.text(otel::URL_QUERY, &self.texts.query);
        }
        if texts.host.is_empty() {
            let value = cleared(&mut self.texts.value);
            text::address(value, head.local.ip());
            a.text(otel::SERVER_ADDRESS, value);
            a.int(otel::SERVER_PORT, head.local.port().into());
        } else {
            let (host, port) = text::split_host(texts.host);
            a.text(otel::SERVER_ADDRESS, host);
            a.int(otel::SERVER_PORT, port.unwrap_or(if head.https { 443 } else { 80 }).into());
        }
        let client = if texts.forwarded_client.is_empty() { &self.texts.peer } else { texts.forwarded_client };
        a.text(otel::CLIENT_ADDRESS, client);
        a.text(otel::NETWORK_PEER_ADDRESS, &self.texts.peer);
        a.int(otel::NETWORK_PEER_PORT, head.peer.port().into());
        a.text(otel::NETWORK_PROTOCOL_VERSION, version(head.version));
        facts::of_tls(a, head);
        if !texts.user_agent.is_empty() {
            a.text(otel::USER_AGENT_ORIGINAL, texts.user_agent);
        }
        for (key, size) in [
            (otel::HTTP_REQUEST_BODY_SIZE, head.request_body_bytes),
            (otel::HTTP_RESPONSE_BODY_SIZE, head.response_body_bytes),
        ] {
            if size > 0 {
                a.int(key, size);
            }
        }
        if head.status != 0 {
            a.int(otel::HTTP_RESPONSE_STATUS_CODE, head.status.into());
        }
        let kind = if head.error == ErrorKind::None { end_error(head.end) } else { head.error.name() };
        self.error_type(a, kind, head.status, 500);
    }

    /// `error.type`: a cause where one is known, else a status that counts as an error.
    fn error_type(&mut self, a: &mut Attributes<'_>, cause: &str, status: u16, from: u16) {
        if !cause.is_empty() {
            a.text(otel::ERROR_TYPE, cause);
        } else if status >= from {
            let value = cleared(&mut self.texts.value);
            text::number(value, status);
            a.text(otel::ERROR_TYPE, value);
        }
    }

    /// Captured headers, each name once with all its values.
    fn captured(&mut self, a: &mut Attributes<'_>, record: &Record<'_>) {
        for (prefix, headers) in [
            (otel::HTTP_REQUEST_HEADER, &record.request_headers),
            (otel::HTTP_RESPONSE_HEADER, &record.response_headers),
        ] {
            for (index, (name, _)) in headers.iter().enumerate() {
                if headers.iter().take(index).any(|(earlier, _)| earlier == name) {
                    continue;
                }
                let key = cleared(&mut self.texts.value);
                key.push_str(prefix);
                key.push('.');
                key.push_str(name);
                let same = headers.iter().filter(|(other, _)| other == name).map(|(_, value)| *value);
                a.texts(key, same);
            }
        }
    }

    /// Phases of one side, with the one and the group that took most.
    fn attribution(
        &self,
        a: &mut Attributes<'_>,
        request: &Request<'_>,
        side: impl Fn(Phase) -> bool,
        blame: Blame,
        dominant: Phase,
    ) {
        for ((phase, us), key) in Phase::ALL.into_iter().zip(request.attributed.phases).zip(&self.phase_keys) {
            if us > 0 && side(phase) {
                a.int(key, us);
            }
        }
        a.text(names::BLAME, blame.name());
        a.text(names::DOMINANT_PHASE, dominant.name());
        a.text(names::COVERAGE, &self.texts.coverage);
    }

    /// One CLIENT span per attempt; returns the last one's place.
    fn attempts(&mut self, out: &mut Vec<u8>, request: &Request<'_>, parent: Place, spans: &mut u32) -> Option<Place> {
        let attempts = &request.record.attempts;
        let dropped = usize::from(request.head.attempts_made).saturating_sub(attempts.len());
        let mut last = None;
        for (index, attempt) in attempts.iter().enumerate() {
            if attempt.span_id.0 == [0; 8] {
                continue;
            }
            let next = attempts.get(index + 1);
            // Not before its parent, whatever the times say.
            let from_us = request.us(attempt.begun.known().or(attempt.chosen.known())).max(parent.from_us);
            let to = attempt.ended.known().or(next.map(|next| next.begun)).unwrap_or(request.attributed.end);
            let place = Place { id: attempt.span_id, from_us, to_us: request.us(Some(to)).max(from_us) };
            self.client(out, request, attempt, parent.id, &place, dropped + index, next.is_none());
            *spans += 1;
            last = Some(place);
        }
        last
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    fn client(
        &mut self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        attempt: &Attempt,
        parent: SpanId,
        place: &Place,
        resend: usize,
        is_last: bool,
    ) {
        let cancelled = attempt.error == ErrorKind::ClientGone;
        let span = Span {
            id: attempt.span_id,
            parent,
            parent_is_remote: false,
            name: (span_method(request.head.method), ""),
            kind: Kind::Client,
            from_us: place.from_us,
            to_us: place.to_us,
            error: attempt.status >= 400 || (attempt.error != ErrorKind::None && !cancelled),
        };
        request.span(out, &span, |a| {
            request.method(a);
            self.server_attributes(a, request, attempt);
            if attempt.status != 0 {
                a.int(otel::HTTP_RESPONSE_STATUS_CODE, attempt.status.into());
                a.text(otel::NETWORK_PROTOCOL_VERSION, "1.1");
            }
            if resend > 0 {
                a.int(otel::HTTP_REQUEST_RESEND_COUNT, resend as u64);
            }
            self.error_type(a, attempt.error.name(), attempt.status, 400);
            if let Some(service) = request.service() {
                a.text(names::SERVICE, service);
            }
            peer::server(a, request.pods, attempt);
            a.flag(names::CONNECTION_REUSED, attempt.reused);
            facts::of_attempt(a, request.attributed, attempt, is_last);
            if is_last {
                let (blame, dominant) = upstream_share(&request.attributed.phases);
                self.attribution(a, request, is_upstream, blame, dominant);
            }
        });
    }

    /// Where an attempt went.
    fn server_attributes(&mut self, a: &mut Attributes<'_>, request: &Request<'_>, attempt: &Attempt) {
        let Scratch { query, value, .. } = &mut self.texts;
        if let Some(server) = request.catalog.servers.get(&attempt.server) {
            a.text(otel::SERVER_ADDRESS, &server.host);
            a.int(otel::SERVER_PORT, server.port.into());
            let url = cleared(value);
            text::full_url(url, server, request.record.texts.path, query);
            a.text(otel::URL_FULL, url);
            if let Some(service) = &server.service {
                a.text(peer::SERVICE, service);
            }
        }
        self.peer_attributes(a, attempt);
    }

    /// The address that was tried.
    fn peer_attributes(&mut self, a: &mut Attributes<'_>, attempt: &Attempt) {
        if attempt.address != NO_ADDRESS {
            let address = cleared(&mut self.texts.value);
            text::address(address, attempt.address.ip());
            a.text(otel::NETWORK_PEER_ADDRESS, address);
            a.int(otel::NETWORK_PEER_PORT, attempt.address.port().into());
        }
    }

    /// Phases that are worth a span of their own, inside the span of their side.
    fn phases(
        &self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        client: Option<Place>,
        ids: &mut ChildIds<'_>,
        spans: &mut u32,
    ) {
        for (phase, from_us, to_us) in times(&request.attributed.stretches) {
            let to_us = to_us.min(request.attributed.duration_us);
            if from_us >= to_us || !self.is_notable(to_us - from_us, request.attributed.duration_us) {
                continue;
            }
            // An upstream's phase that outlasts its attempt (a body still on its way to the client) is the request's.
            let inside = client
                .filter(|client| phase.is_some_and(is_upstream) && client.from_us <= from_us && to_us <= client.to_us);
            let span = Span {
                id: ids.next(),
                parent: inside.map_or(request.head.span_id, |client| client.id),
                parent_is_remote: false,
                name: (phase.map_or(BODY, Phase::name), ""),
                kind: Kind::Internal,
                from_us,
                to_us,
                error: false,
            };
            request.span(out, &span, |a| {
                if let Some(phase) = phase {
                    a.text(names::BLAME, phase.blame().name());
                }
            });
            *spans += 1;
        }
    }

    fn is_notable(&self, us: u64, of_us: u64) -> bool {
        match self.attribution.spans {
            PhaseSpans::Attributes => false,
            PhaseSpans::All => true,
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a request are below 2^53")]
            PhaseSpans::Notable => {
                u128::from(us) >= self.attribution.notable_duration.as_micros()
                    && us as f64 >= of_us as f64 * self.attribution.notable_share
            }
        }
    }
}

/// The times that can be child spans, with their phase where it is one phase's.
fn times(stretches: &[Stretch]) -> impl Iterator<Item = (Option<Phase>, u64, u64)> + '_ {
    stretches.chunk_by(|_, next| next.part == Part::Next).filter_map(|together| {
        let (first, last) = together.first().zip(together.last())?;
        Some(((first.part == Part::Whole).then_some(first.phase), first.from_us, last.to_us))
    })
}

/// Traefik's Router, middleware and Service spans, each inside the one before; of middlewares those that ran. Returns the
/// parent for attempts, and the one for calls.
fn detail(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    route: &RouteNames,
    ids: &mut ChildIds<'_>,
    spans: &mut u32,
) -> (Place, Option<Place>) {
    let head = request.head;
    let to_us = request.attributed.duration_us;
    let read_us = request.us(head.head_read.known());
    let mut parent = Place { id: head.span_id, from_us: 0, to_us };
    let mut nested = |name: &str, from_us: u64, attributes: &[(&str, &str)]| {
        let id = ids.next();
        let kind = Kind::Internal;
        let (parent_is_remote, error) = (false, false);
        let span = Span { id, parent: parent.id, parent_is_remote, name: (name, ""), kind, from_us, to_us, error };
        request.span(out, &span, |a| {
            for (key, value) in attributes {
                a.text(key, value);
            }
        });
        *spans += 1;
        parent = Place { id, from_us, to_us };
        parent
    };
    let router = [(names::SERVICE, &*route.service), (names::ROUTER, &*route.router), (otel::HTTP_ROUTE, &*route.rule)];
    nested("Router", read_us, &router);
    let ran = if head.answered_by == 0 { usize::MAX } else { usize::from(head.answered_by) };
    let mut caller = None;
    for (name, kind) in route.middlewares.iter().take(ran) {
        let place = nested(kind, read_us, &[(names::MIDDLEWARE, name)]);
        if *kind == FORWARD_AUTH {
            caller = caller.or(Some(place));
        }
    }
    if let Some(service) = request.service() {
        let wanted = head.upstream_wanted.known().or(head.head_read.known());
        nested("Service", request.us(wanted).max(read_us), &[(names::SERVICE, service)]);
    }
    (parent, caller)
}

impl Request<'_> {
    /// Microseconds after the start, as the merge rounds them; the start where unknown, and never after the end.
    fn us(&self, at: Option<MonoNs>) -> u64 {
        at.map_or(0, |at| self.attributed.us(at))
    }

    fn span(&self, out: &mut Vec<u8>, span: &Span<'_>, attributes: impl FnOnce(&mut Attributes<'_>)) {
        proto::message(out, SPANS, |out| {
            proto::bytes(out, TRACE_ID, &self.head.trace_id.0);
            proto::bytes(out, SPAN_ID, &span.id.0);
            if !self.record.texts.trace_state.is_empty() {
                proto::bytes(out, TRACE_STATE, self.record.texts.trace_state.as_bytes());
            }
            if span.parent.0 != [0; 8] {
                proto::bytes(out, PARENT_SPAN_ID, &span.parent.0);
            }
            let (first, second) = span.name;
            if second.is_empty() {
                proto::bytes(out, NAME, first.as_bytes());
            } else {
                out.push(NAME);
                proto::varint(out, (first.len() + 1 + second.len()) as u64);
                out.extend_from_slice(first.as_bytes());
                out.push(b' ');
                out.extend_from_slice(second.as_bytes());
            }
            proto::number(out, KIND, span.kind as u64);
            let (start_ns, end_ns) = self.unix_ns(span);
            proto::fixed64(out, START, start_ns);
            proto::fixed64(out, END, end_ns);
            attributes(&mut Attributes::new(out, ATTRIBUTES));
            out.extend_from_slice(if span.error { &STATUS_ERROR } else { &STATUS_UNSET });
            let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
            out.extend_from_slice(&FLAGS);
            out.extend_from_slice(&(u32::from(self.head.trace_flags) | HAS_IS_REMOTE | remote).to_le_bytes());
        });
    }

    /// When a span begins and ends. An empty one gets one nanosecond, inside its parent: Jaeger warns of empty spans.
    fn unix_ns(&self, span: &Span<'_>) -> (u64, u64) {
        let at = |us: u64| self.start_us.saturating_add(us).saturating_mul(1000);
        let duration_us = self.attributed.duration_us;
        let empty = span.from_us == span.to_us;
        let at_end = empty && span.to_us == duration_us && duration_us > 0;
        (at(span.from_us) - u64::from(at_end), at(span.to_us) + u64::from(empty && !at_end))
    }

    fn method(&self, a: &mut Attributes<'_>) {
        a.text(otel::HTTP_REQUEST_METHOD, self.head.method.name());
        // A head that is refused has neither method nor target.
        if self.head.method == Method::Other && !self.record.texts.method_other.is_empty() {
            a.text(otel::HTTP_REQUEST_METHOD_ORIGINAL, self.record.texts.method_other);
        }
    }

    fn service(&self) -> Option<&str> {
        (self.head.service != NO_ID)
            .then(|| self.catalog.services.get(&self.head.service))
            .flatten()
            .map(|name| &**name)
    }

    /// Where a request came in and went, and what is known of its connection.
    fn names(&self, a: &mut Attributes<'_>) {
        if let Some(entry_point) = self.catalog.entry_points.get(&self.head.entry_point) {
            a.text(names::ENTRY_POINT, entry_point);
        }
        if let Some(route) = self.route {
            let pattern = route.patterns.get(usize::from(self.head.branch)).filter(|pattern| !pattern.is_empty());
            if let Some(pattern) = pattern {
                a.text(otel::HTTP_ROUTE, pattern);
            }
            a.text(names::ROUTER, &route.router);
            a.text(names::SERVICE, self.service().unwrap_or(&route.service));
        }
        facts::of_client(a, self.attributed);
        if self.head.truncated {
            a.flag(names::TRUNCATED, true);
        }
    }
}

fn cleared(text: &mut String) -> &mut String {
    text.clear();
    text
}

#[cfg(test)]
mod tests;
