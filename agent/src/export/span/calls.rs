//! The spans of middlewares' calls: those who ask another service before a request goes on.

use opentelemetry_semantic_conventions::attribute as otel;
use wayspan_proxy::record::ErrorKind;

use super::{Kind, Place, Request, Span, SpanEncoder};
use crate::export::names;

/// Traefik's name of an authentication server's call.
const AUTH_REQUEST: &str = "AuthRequest";

impl SpanEncoder {
    /// One CLIENT span per call of a middleware's, by Traefik's name.
    pub(super) fn calls(&mut self, out: &mut Vec<u8>, request: &Request<'_>, parent: Place, spans: &mut u32) {
        for call in request.record.calls.iter().filter(|call| call.span_id.0 != [0; 8]) {
            let from_us = request.us(call.begun.known()).max(parent.from_us);
            let to_us = request.us(call.ended.known().or(Some(request.attributed.end))).max(from_us);
            let cancelled = call.error == ErrorKind::ClientGone;
            let span = Span {
                id: call.span_id,
                parent: parent.id,
                parent_is_remote: false,
                name: (AUTH_REQUEST, ""),
                kind: Kind::Client,
                from_us,
                to_us,
                error: call.status >= 400 || (call.error != ErrorKind::None && !cancelled),
            };
            request.span(out, &span, |a| {
                a.text(otel::HTTP_REQUEST_METHOD, "GET");
                if let Some(server) = request.catalog.servers.get(&call.server) {
                    a.text(otel::SERVER_ADDRESS, &server.host);
                    a.int(otel::SERVER_PORT, server.port.into());
                    a.text(otel::URL_FULL, &server.url);
                }
                self.peer_attributes(a, call);
                if call.status != 0 {
                    a.int(otel::HTTP_RESPONSE_STATUS_CODE, call.status.into());
                    a.text(otel::NETWORK_PROTOCOL_VERSION, "1.1");
                }
                self.error_type(a, call.error.name(), call.status, 400);
                a.flag(names::CONNECTION_REUSED, call.reused);
            });
            *spans += 1;
        }
    }
}
