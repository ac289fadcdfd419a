//! What one request leaves behind: a record of variable length, written by the worker into its ring, read by the merge.
//!
//! Times are [`MonoNs`], zero where not known. Strings are capped; a cut one sets a bit in [`Head::truncated`]. The
//! layout is private to this module: [`encode`] and [`Record::decode`] are its two ends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::clock::MonoNs;
use crate::observer::{Missing, Token};
use crate::sampling::Reason;
use crate::trace_context::{SpanId, TraceId};

/// Attempts kept per record; more are counted in [`Head::attempts_made`].
pub const ATTEMPTS_MAX: usize = 4;
/// Bytes kept of any one string: enough for real paths and user agents, and a bound on what a client can make us store.
pub const TEXT_MAX: usize = 2048;
/// Captured headers kept per direction.
pub const CAPTURED_MAX: usize = 32;

/// The fixed part of a record: everything but attempts and strings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// The trace this request belongs to.
    pub trace_id: TraceId,
    /// The SERVER span.
    pub span_id: SpanId,
    /// The caller's span; zero for a root.
    pub parent_id: SpanId,
    /// The caller's trace flags, or ours for a root; bit 0 is the head decision.
    pub trace_flags: u8,
    /// Whether spans leave the node.
    pub sampled: bool,
    /// Who decided that.
    pub sampling_reason: Reason,
    /// The ratio or rate behind the decision.
    pub sampling_param: f64,

    /// The worker that served it.
    pub worker: u16,
    /// Entry point, by its stable id.
    pub entry_point: u32,
    /// Route, by its stable id; [`NO_ID`] where none matched.
    pub route: u32,
    /// The branch of the route's rule that matched (names the operation).
    pub branch: u16,
    /// Service, by its stable id; [`NO_ID`] where none was chosen.
    pub service: u32,

    /// The request's method.
    pub method: Method,
    /// HTTP minor version: 10 for 1.0, 11 for 1.1.
    pub version: u8,
    /// Whether the client spoke TLS to us, or a trusted hop said so.
    pub https: bool,
    /// The final status; 0 when none was sent.
    pub status: u16,
    /// How it ended.
    pub end: End,
    /// What went wrong, for `error.type`.
    pub error: ErrorKind,
    /// Which of our caps or rules cut strings.
    pub truncated: bool,

    /// The client's address as the socket knows it.
    pub peer: SocketAddr,
    /// Our address on that connection.
    pub local: SocketAddr,
    /// Unique per client connection in this process.
    pub connection_id: u64,
    /// 0 for the connection's first request.
    pub request_index: u32,
    /// The client connection's slot, for late facts.
    pub token: Token,
    /// Stream offset of the request's first byte.
    pub request_start: u64,
    /// Stream offset just behind the request's head.
    pub request_head_end: u64,

    /// p0: first byte readable in the kernel.
    pub first_readable: MonoNs,
    /// The first read that returned bytes of this request (stands in for p0 where there is no mark).
    pub first_read: MonoNs,
    /// The connection became acceptable; known on every record of the connection.
    pub established: MonoNs,
    /// p1: the connection was accepted.
    pub accepted: MonoNs,
    /// p2: last byte of the head readable.
    pub head_readable: MonoNs,
    /// p3: the read that completed the head returned.
    pub head_read: MonoNs,
    /// p4: the previous response on this connection was written; unknown on the first.
    pub previous_written: MonoNs,
    /// p5: route chosen and middlewares done, an upstream is wanted.
    pub upstream_wanted: MonoNs,
    /// Time inside calls of middlewares (ForwardAuth), nanoseconds.
    pub middleware_wait_ns: u64,
    /// p15: the response's head was accepted by the client's socket.
    pub head_written: MonoNs,
    /// p16: the socket accepted the last byte, or the request was cut off.
    pub ended: MonoNs,

    /// The body's state clock, nanoseconds in each state from p14 to p16 (and p9 on for uploads).
    pub body: BodyClock,
    /// Bytes of the request's body.
    pub request_body_bytes: u64,
    /// Bytes of the response's body.
    pub response_body_bytes: u64,
    /// Why kernel times on the client's side are missing.
    pub client_missing: Missing,
    /// Upstream attempts in all; up to [`ATTEMPTS_MAX`] are kept, the last always.
    pub attempts_made: u16,
}

/// No route or service.
pub const NO_ID: u32 = u32::MAX;

/// One upstream attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt {
    /// The CLIENT span; the parent that the backend gets.
    pub span_id: SpanId,
    /// The server, by its stable id.
    pub server: u32,
    /// Whether a pooled connection was used.
    pub reused: bool,
    /// The address tried.
    pub address: SocketAddr,
    /// Its slot, for late facts.
    pub token: Token,
    /// Status of its response; 0 if none came.
    pub status: u16,
    /// Why it failed.
    pub error: ErrorKind,
    /// p5 of the first attempt; for a later one, when it was begun.
    pub begun: MonoNs,
    /// p6: a pooled connection was taken, or connecting began.
    pub chosen: MonoNs,
    /// p7: connected (equals p6 on a reused connection).
    pub connected: MonoNs,
    /// p8: TLS done (equals p7 without TLS).
    pub secured: MonoNs,
    /// p9: the request's head was accepted by the upstream's socket.
    pub head_written: MonoNs,
    /// The last byte of the request was accepted by the upstream's socket.
    pub request_written: MonoNs,
    /// p13: first byte of the final response readable in the kernel.
    pub first_readable: MonoNs,
    /// p14: the read that returned it.
    pub first_read: MonoNs,
    /// The read that returned the last byte of the response.
    pub ended: MonoNs,
    /// Stream offset on the upstream's connection where the response begins.
    pub response_start: u64,
    /// Why kernel times on the upstream's side are missing.
    pub missing: Missing,
}

/// Nanoseconds per state of the body relay; exactly one runs at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyClock {
    /// Nothing readable from the upstream.
    pub upstream_body: u64,
    /// Readable from the upstream, not yet read.
    pub upstream_read_wait: u64,
    /// The client's socket did not accept more.
    pub client_drain: u64,
    /// Anything else on the response's way.
    pub proxy_response: u64,
    /// Nothing readable from the client while it uploads.
    pub client_body: u64,
    /// The upstream's socket did not accept more.
    pub upstream_drain: u64,
    /// Anything else on the request body's way.
    pub proxy_request: u64,
}

/// Known methods (the list of OpenTelemetry's HTTP conventions); others keep their text in [`Record::method_other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Other = 0,
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
    Query,
}

impl Method {
    const ALL: [Self; 11] = [
        Self::Other,
        Self::Connect,
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Trace,
        Self::Query,
    ];

    /// The method's text; `_OTHER` for an unknown one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "_OTHER",
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
            Self::Query => "QUERY",
        }
    }

    /// Methods are case-sensitive (RFC 9110, 9.1).
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::ALL.into_iter().skip(1).find(|method| method.name() == text).unwrap_or(Self::Other)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The whole response was accepted by the client's socket.
    Complete = 0,
    /// The client closed or reset first.
    ClientGone,
    /// The upstream broke off after its head was passed on.
    UpstreamCut,
    /// A timeout of ours cut it.
    TimedOut,
    /// The process ended its grace time.
    Shutdown,
    /// The head was refused before routing (400, 408, 431, 501).
    Refused,
}

impl End {
    const ALL: [Self; 6] =
        [Self::Complete, Self::ClientGone, Self::UpstreamCut, Self::TimedOut, Self::Shutdown, Self::Refused];
}

/// Low-cardinality causes, the values of `error.type` where no status says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "name() gives the text")]
pub enum ErrorKind {
    None = 0,
    ConnectionRefused,
    ConnectTimeout,
    ConnectFailed,
    ResponseTimeout,
    UpstreamReset,
    UpstreamClosed,
    UpstreamProtocol,
    NoServer,
    NameNotResolved,
    ClientGone,
    RequestTimeout,
    BadRequest,
    NoRoute,
    TooManyConnections,
}

impl ErrorKind {
    const ALL: [Self; 15] = [
        Self::None,
        Self::ConnectionRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::ResponseTimeout,
        Self::UpstreamReset,
        Self::UpstreamClosed,
        Self::UpstreamProtocol,
        Self::NoServer,
        Self::NameNotResolved,
        Self::ClientGone,
        Self::RequestTimeout,
        Self::BadRequest,
        Self::NoRoute,
        Self::TooManyConnections,
    ];

    /// The value of `error.type`; empty for [`ErrorKind::None`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::ResponseTimeout => "timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::NoServer => "no_server",
            Self::NameNotResolved => "name_not_resolved",
            Self::ClientGone => "client_gone",
            Self::RequestTimeout => "request_timeout",
            Self::BadRequest => "bad_request",
            Self::NoRoute => "no_route",
            Self::TooManyConnections => "too_many_connections",
        }
    }
}

/// The strings of a record, borrowed from the request while it is encoded, or from the ring while it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Texts<'a> {
    /// The Host (or authority) as it came, lower-cased, with its port.
    pub host: &'a str,
    /// The raw path.
    pub path: &'a str,
    /// The raw query without `?`; empty if none. Redaction is the exporter's.
    pub query: &'a str,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// The client's address by a trusted X-Forwarded-For; empty if none.
    pub forwarded_client: &'a str,
    /// `tracestate` as passed on.
    pub trace_state: &'a str,
    /// The method's text where it is [`Method::Other`].
    pub method_other: &'a str,
}

/// A record, decoded. Borrows the bytes it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    /// The fixed part.
    pub head: Head,
    /// Attempts in order; at most [`ATTEMPTS_MAX`].
    pub attempts: Vec<Attempt>,
    /// Its strings.
    pub texts: Texts<'a>,
    /// Captured request headers: lower-case name, value.
    pub request_headers: Vec<(&'a str, &'a str)>,
    /// Captured response headers: lower-case name, value.
    pub response_headers: Vec<(&'a str, &'a str)>,
}

/// Bytes that are no record: a fault of ours, counted by the merge and skipped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a record: it ends or goes wrong at byte {at}")]
pub struct NotARecord {
    /// Where decoding stopped.
    pub at: usize,
}

/// Appends a record to `out`, without a length prefix. Returns whether a string had to be cut (also stored).
pub fn encode<'h>(
    out: &mut Vec<u8>,
    head: &Head,
    attempts: &[Attempt],
    texts: &Texts<'_>,
    request_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    response_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> bool {
    let truncated_at = out.len();
    out.push(0);
    let mut w = Writer { out, truncated: head.truncated };
    w.head(head);
    let kept = attempts.len().min(ATTEMPTS_MAX);
    w.u8(u8::try_from(kept).unwrap_or(0));
    for attempt in attempts.iter().rev().take(kept).rev() {
        w.attempt(attempt);
    }
    let Texts { host, path, query, user_agent, forwarded_client, trace_state, method_other } = texts;
    for text in [host, path, query, user_agent, forwarded_client, trace_state, method_other] {
        w.text(text.as_bytes());
    }
    w.headers(request_headers);
    w.headers(response_headers);
    let truncated = w.truncated;
    if let Some(flag) = out.get_mut(truncated_at) {
        *flag = u8::from(truncated);
    }
    truncated
}

impl<'a> Record<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// Where the bytes end early, hold an unknown code, or text that is not UTF-8.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NotARecord> {
        let mut r = Reader { all: bytes, at: 0 };
        r.record().ok_or(NotARecord { at: r.at })
    }
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    truncated: bool,
}

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn token(&mut self, token: Token) {
        self.u64(token.generation);
        self.u32(token.slot);
    }
    fn address(&mut self, address: SocketAddr) {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.out.extend_from_slice(&ip.octets());
        self.u16(address.port());
    }
    fn text(&mut self, text: &[u8]) {
        let mut length = text.len().min(TEXT_MAX);
        if length < text.len() {
            self.truncated = true;
            // Cut between characters, so that what was UTF-8 stays UTF-8.
            while length > 0 && text.get(length).is_some_and(|byte| byte & 0xC0 == 0x80) {
                length -= 1;
            }
        }
        let kept = text.get(..length).unwrap_or_default();
        self.u16(u16::try_from(kept.len()).unwrap_or(0));
        self.out.extend_from_slice(kept);
    }
    fn headers<'h>(&mut self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) {
        let count_at = self.out.len();
        self.u8(0);
        let mut count = 0_u8;
        for (name, value) in headers {
            if usize::from(count) == CAPTURED_MAX {
                self.truncated = true;
                break;
            }
            self.text(name.as_bytes());
            // Header values may hold bytes above 0x7F that are no UTF-8 (RFC 9110, 5.5): replaced, as Jaeger would.
            match std::str::from_utf8(value) {
                Ok(text) => self.text(text.as_bytes()),
                Err(_) => self.text(String::from_utf8_lossy(value).as_bytes()),
            }
            count += 1;
        }
        if let Some(slot) = self.out.get_mut(count_at) {
            *slot = count;
        }
    }
    fn head(&mut self, head: &Head) {
        self.out.extend_from_slice(&head.trace_id.0);
        self.out.extend_from_slice(&head.span_id.0);
        self.out.extend_from_slice(&head.parent_id.0);
        let flags = [head.trace_flags, u8::from(head.sampled), head.sampling_reason as u8];
        self.out.extend_from_slice(&flags);
        self.u64(head.sampling_param.to_bits());
        self.u16(head.worker);
        self.u32(head.entry_point);
        self.u32(head.route);
        self.u16(head.branch);
        self.u32(head.service);
        let codes = [head.method as u8, head.version, u8::from(head.https), head.end as u8, head.error as u8];
        self.out.extend_from_slice(&codes);
        self.u16(head.status);
        self.address(head.peer);
        self.address(head.local);
        self.u64(head.connection_id);
        self.u32(head.request_index);
        self.token(head.token);
        let BodyClock {
            upstream_body,
            upstream_read_wait,
            client_drain,
            proxy_response,
            client_body,
            upstream_drain,
            proxy_request,
        } = head.body;
        for value in [
            head.request_start,
            head.request_head_end,
            head.first_readable.0,
            head.first_read.0,
            head.established.0,
            head.accepted.0,
            head.head_readable.0,
            head.head_read.0,
            head.previous_written.0,
            head.upstream_wanted.0,
            head.middleware_wait_ns,
            head.head_written.0,
            head.ended.0,
            upstream_body,
            upstream_read_wait,
            client_drain,
            proxy_response,
            client_body,
            upstream_drain,
            proxy_request,
            head.request_body_bytes,
            head.response_body_bytes,
        ] {
            self.u64(value);
        }
        self.u8(head.client_missing.0);
        self.u16(head.attempts_made);
    }
    fn attempt(&mut self, attempt: &Attempt) {
        self.out.extend_from_slice(&attempt.span_id.0);
        self.u32(attempt.server);
        self.u8(u8::from(attempt.reused));
        self.address(attempt.address);
        self.token(attempt.token);
        self.u16(attempt.status);
        self.u8(attempt.error as u8);
        for at in [
            attempt.begun,
            attempt.chosen,
            attempt.connected,
            attempt.secured,
            attempt.head_written,
            attempt.request_written,
            attempt.first_readable,
            attempt.first_read,
            attempt.ended,
        ] {
            self.u64(at.0);
        }
        self.u64(attempt.response_start);
        self.u8(attempt.missing.0);
    }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let bytes = self.all.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(bytes)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    fn bool(&mut self) -> Option<bool> {
        self.u8().map(|byte| byte != 0)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn at(&mut self) -> Option<MonoNs> {
        self.u64().map(MonoNs)
    }
    fn code<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let code = self.u8()?;
        all.get(usize::from(code)).copied()
    }
    fn token(&mut self) -> Option<Token> {
        Some(Token { generation: self.u64()?, slot: self.u32()? })
    }
    fn address(&mut self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.take::<16>()?);
        Some(SocketAddr::new(ip.to_canonical(), self.u16()?))
    }
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.all.get(self.at..end)?).ok()?;
        self.at = end;
        Some(text)
    }
    fn headers(&mut self) -> Option<Vec<(&'a str, &'a str)>> {
        let count = self.u8()?;
        (0..count).map(|_| Some((self.text()?, self.text()?))).collect()
    }
    fn record(&mut self) -> Option<Record<'a>> {
        let truncated = self.bool()?;
        let mut head = self.head()?;
        head.truncated = truncated;
        let count = self.u8()?;
        let attempts = (0..count).map(|_| self.attempt()).collect::<Option<Vec<_>>>()?;
        let texts = Texts {
            host: self.text()?,
            path: self.text()?,
            query: self.text()?,
            user_agent: self.text()?,
            forwarded_client: self.text()?,
            trace_state: self.text()?,
            method_other: self.text()?,
        };
        Some(Record { head, attempts, texts, request_headers: self.headers()?, response_headers: self.headers()? })
    }
    fn head(&mut self) -> Option<Head> {
        const REASONS: [Reason; 5] =
            [Reason::Parent, Reason::Probabilistic, Reason::RateLimiting, Reason::LowerBound, Reason::Off];
        Some(Head {
            trace_id: TraceId(self.take()?),
            span_id: SpanId(self.take()?),
            parent_id: SpanId(self.take()?),
            trace_flags: self.u8()?,
            sampled: self.bool()?,
            sampling_reason: self.code(&REASONS)?,
            sampling_param: f64::from_bits(self.u64()?),
            worker: self.u16()?,
            entry_point: self.u32()?,
            route: self.u32()?,
            branch: self.u16()?,
            service: self.u32()?,
            method: self.code(&Method::ALL)?,
            version: self.u8()?,
            https: self.bool()?,
            end: self.code(&End::ALL)?,
            error: self.code(&ErrorKind::ALL)?,
            status: self.u16()?,
            truncated: false,
            peer: self.address()?,
            local: self.address()?,
            connection_id: self.u64()?,
            request_index: self.u32()?,
            token: self.token()?,
            request_start: self.u64()?,
            request_head_end: self.u64()?,
            first_readable: self.at()?,
            first_read: self.at()?,
            established: self.at()?,
            accepted: self.at()?,
            head_readable: self.at()?,
            head_read: self.at()?,
            previous_written: self.at()?,
            upstream_wanted: self.at()?,
            middleware_wait_ns: self.u64()?,
            head_written: self.at()?,
            ended: self.at()?,
            body: BodyClock {
                upstream_body: self.u64()?,
                upstream_read_wait: self.u64()?,
                client_drain: self.u64()?,
                proxy_response: self.u64()?,
                client_body: self.u64()?,
                upstream_drain: self.u64()?,
                proxy_request: self.u64()?,
            },
            request_body_bytes: self.u64()?,
            response_body_bytes: self.u64()?,
            client_missing: Missing(self.u8()?),
            attempts_made: self.u16()?,
        })
    }
    fn attempt(&mut self) -> Option<Attempt> {
        Some(Attempt {
            span_id: SpanId(self.take()?),
            server: self.u32()?,
            reused: self.bool()?,
            address: self.address()?,
            token: self.token()?,
            status: self.u16()?,
            error: self.code(&ErrorKind::ALL)?,
            begun: self.at()?,
            chosen: self.at()?,
            connected: self.at()?,
            secured: self.at()?,
            head_written: self.at()?,
            request_written: self.at()?,
            first_readable: self.at()?,
            first_read: self.at()?,
            ended: self.at()?,
            response_start: self.u64()?,
            missing: Missing(self.u8()?),
        })
    }
}

/// An address where none is known.
pub const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

impl Default for Head {
    fn default() -> Self {
        Self {
            trace_id: TraceId::default(),
            span_id: SpanId::default(),
            parent_id: SpanId::default(),
            trace_flags: 0,
            sampled: false,
            sampling_reason: Reason::Off,
            sampling_param: 0.0,
            worker: 0,
            entry_point: NO_ID,
            route: NO_ID,
            branch: 0,
            service: NO_ID,
            method: Method::Other,
            version: 11,
            https: false,
            status: 0,
            end: End::Complete,
            error: ErrorKind::None,
            truncated: false,
            peer: NO_ADDRESS,
            local: NO_ADDRESS,
            connection_id: 0,
            request_index: 0,
            token: Token::NONE,
            request_start: 0,
            request_head_end: 0,
            first_readable: MonoNs::UNKNOWN,
            first_read: MonoNs::UNKNOWN,
            established: MonoNs::UNKNOWN,
            accepted: MonoNs::UNKNOWN,
            head_readable: MonoNs::UNKNOWN,
            head_read: MonoNs::UNKNOWN,
            previous_written: MonoNs::UNKNOWN,
            upstream_wanted: MonoNs::UNKNOWN,
            middleware_wait_ns: 0,
            head_written: MonoNs::UNKNOWN,
            ended: MonoNs::UNKNOWN,
            body: BodyClock::default(),
            request_body_bytes: 0,
            response_body_bytes: 0,
            client_missing: Missing::NOTHING,
            attempts_made: 0,
        }
    }
}

impl Default for Attempt {
    fn default() -> Self {
        Self {
            span_id: SpanId::default(),
            server: NO_ID,
            reused: false,
            address: NO_ADDRESS,
            token: Token::NONE,
            status: 0,
            error: ErrorKind::None,
            begun: MonoNs::UNKNOWN,
            chosen: MonoNs::UNKNOWN,
            connected: MonoNs::UNKNOWN,
            secured: MonoNs::UNKNOWN,
            head_written: MonoNs::UNKNOWN,
            request_written: MonoNs::UNKNOWN,
            first_readable: MonoNs::UNKNOWN,
            first_read: MonoNs::UNKNOWN,
            ended: MonoNs::UNKNOWN,
            response_start: 0,
            missing: Missing::NOTHING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Head, Vec<Attempt>) {
        let head = Head {
            trace_id: TraceId([7; 16]),
            sampling_reason: Reason::Probabilistic,
            sampling_param: 0.25,
            method: Method::Get,
            peer: "192.0.2.1:4711".parse().unwrap(),
            local: "[2001:db8::1]:8000".parse().unwrap(),
            first_readable: MonoNs(5),
            body: BodyClock { client_drain: 9, ..BodyClock::default() },
            attempts_made: 1,
            ..Head::default()
        };
        let attempt = Attempt { server: 3, address: "127.0.0.1:8080".parse().unwrap(), ..Attempt::default() };
        (head, vec![attempt])
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let (head, attempts) = sample();
        let texts = Texts { host: "hotrod.localhost:8000", path: "/dispatch", query: "customer=392", ..Texts::default() };
        let mut bytes = Vec::new();
        assert!(!encode(&mut bytes, &head, &attempts, &texts, [("x-a", b"1".as_slice())], []));
        let record = Record::decode(&bytes).unwrap();
        assert_eq!((record.head, &record.attempts, record.texts), (head, &attempts, texts));
        assert_eq!(record.request_headers, [("x-a", "1")]);
    }

    #[test]
    fn long_and_broken_text_is_cut_and_replaced() {
        let (head, attempts) = sample();
        let long = "ä".repeat(TEXT_MAX);
        let texts = Texts { path: &long, ..Texts::default() };
        let mut bytes = Vec::new();
        assert!(encode(&mut bytes, &head, &attempts, &texts, [], [("x", b"\xff".as_slice())]));
        let record = Record::decode(&bytes).unwrap();
        assert!(record.head.truncated);
        assert_eq!(record.texts.path.len(), TEXT_MAX);
        assert_eq!(record.response_headers, [("x", "\u{fffd}")]);
    }

    #[test]
    fn more_attempts_than_fit_keep_the_last() {
        let (head, _) = sample();
        let attempts: Vec<_> = (0..7).map(|server| Attempt { server, ..Attempt::default() }).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, &head, &attempts, &Texts::default(), [], []);
        let kept: Vec<_> = Record::decode(&bytes).unwrap().attempts.iter().map(|a| a.server).collect();
        assert_eq!(kept, [3, 4, 5, 6]);
    }

    #[test]
    fn no_prefix_of_a_record_is_a_record() {
        let (head, attempts) = sample();
        let mut bytes = Vec::new();
        encode(&mut bytes, &head, &attempts, &Texts { path: "/x", ..Texts::default() }, [], []);
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "prefix of {end} bytes");
        }
    }
}
