//! What one request leaves behind: a record of variable length, written by the worker into its ring, read by the merge.
//!
//! Times are [`MonoNs`], zero where not known. Strings are capped; a cut one sets a bit in [`Head::truncated`]. The
//! layout is private to this module: [`encode`] and [`Record::decode`] are its two ends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::clock::MonoNs;
use crate::observer::{Missing, Token};
use crate::sampling::Reason;
use crate::trace_context::{SpanId, TraceId};

mod codec;

pub use codec::{encode, encode_with_calls};

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
    /// Whether the client spoke TLS to us.
    pub https: bool,
    /// More of the request's body was still to come from the client when the answer was read; without one, at the end.
    pub early: bool,
    /// Its TLS, where it did.
    pub tls: TlsFacts,
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
    /// Stream offset of the response's first byte among those written to the client; equals the end where none was.
    pub response_start: u64,
    /// Stream offset just behind the response's last byte that the client's socket accepted.
    pub response_end: u64,

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
    /// The worker had woken up by then to read it, or before that to do what it did first; it had waited for events.
    pub woken: MonoNs,
    /// Of the time from wake-up to `head_read`, how long the worker's thread was off the CPU, nanoseconds. Measured only
    /// where the head waited for a millisecond or more.
    pub preempted_ns: u64,
    /// p4: the write of the previous response's last byte on this connection began; unknown on the first. Only a pipelining
    /// client's request was there before.
    pub previous_write: MonoNs,
    /// What had become of that response by the time of this request.
    pub previous: Previous,
    /// p5: route chosen and middlewares done, an upstream is wanted.
    pub upstream_wanted: MonoNs,
    /// After the last attempt another one was to come since then, and none did.
    pub again: MonoNs,
    /// What was waited for then was its turn to try (`retry`'s pause), not a connection.
    pub paused: bool,
    /// Time that middlewares let the request wait (ForwardAuth's call, a password's check, a rate limit's pace), nanoseconds.
    pub middleware_wait_ns: u64,
    /// Which of the route's middlewares answered, from 1; 0: none did.
    pub answered_by: u16,
    /// p15: the response's head was accepted by the client's socket.
    pub head_written: MonoNs,
    /// p16: the socket accepted the last byte, or the request was cut off.
    pub ended: MonoNs,

    /// The body's state clock, nanoseconds in each state from p14 to p16 (and p9 on for uploads), of the last attempt.
    pub body: BodyClock,
    /// Bytes of the request's body.
    pub request_body_bytes: u64,
    /// Bytes of the response's body.
    pub response_body_bytes: u64,
    /// The client connection's smoothed round trip when the request came, microseconds; 0 if not known.
    pub srtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// They are as of the request's end: the kernel was asked then.
    pub asked_at_end: bool,
    /// Why kernel times on the client's side are missing, of the request's body too.
    pub client_missing: Missing,
    /// Upstream attempts in all; up to [`ATTEMPTS_MAX`] are kept, the last always.
    pub attempts_made: u16,
}

/// What is known of a connection's TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// From the first byte of the client's greeting readable (no mark: read) to the end of the handshake, nanoseconds.
    pub handshake_ns: u64,
    /// The protocol's version as it stands on the wire: 0x0304 is TLS 1.3.
    pub version: u16,
    /// The cipher suite's number, as IANA gives it.
    pub cipher: u16,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// The response before on the same connection. All zero unless its acknowledgement was looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// Bytes written until its end.
    pub end: u64,
    /// When the client had acknowledged all of it, where that was known by then.
    pub acked: MonoNs,
    /// When its last byte had left, where it had to wait for the client.
    pub left: MonoNs,
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
    /// p7: connected, by the kernel where it is known, or when it was noticed (equals p6 on a reused connection).
    pub connected: MonoNs,
    /// When the connection was made: who had the address then is at its other end for as long as it lives.
    pub opened: MonoNs,
    /// p8: TLS done (equals p7 without TLS).
    pub secured: MonoNs,
    /// When the write began that brought the request's head.
    pub write_begun: MonoNs,
    /// p9: the request's head was accepted by the upstream's socket: when that write returned, which may be after the answer
    /// where others ran meanwhile.
    pub head_written: MonoNs,
    /// When the write began that brought the request's last byte so far.
    pub last_write_begun: MonoNs,
    /// The last byte of the request was accepted by the upstream's socket: when that write returned.
    pub request_written: MonoNs,
    /// p13: first byte of the final response readable in the kernel.
    pub first_readable: MonoNs,
    /// p14: the read that returned it.
    pub first_read: MonoNs,
    /// The read that returned the last byte of the response.
    pub ended: MonoNs,
    /// Stream offset of the request's first byte among those written to the upstream.
    pub request_start: u64,
    /// Stream offset just behind the request's head there.
    pub request_head_end: u64,
    /// Stream offset just behind the request's last byte that the upstream's socket accepted.
    pub request_end: u64,
    /// Stream offset on the upstream's connection where the response begins.
    pub response_start: u64,
    /// Stream offset just behind the response's last byte that was read.
    pub response_end: u64,
    /// p10: the request was readable at the backend's own socket, on this node.
    pub backend_readable: MonoNs,
    /// p11: the backend had read it.
    pub backend_read: MonoNs,
    /// p12: the backend wrote the response's first byte.
    pub backend_sent: MonoNs,
    /// As [`Head::woken`], before `first_read`.
    pub woken: MonoNs,
    /// As [`Head::preempted_ns`], until `first_read`.
    pub preempted_ns: u64,
    /// The upstream connection's smoothed round trip when the response came, microseconds; 0 if not known.
    pub srtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// Segments of the request that were sent again, by the connection's own count; 0 where it was not read.
    pub resent: u32,
    /// Why kernel times on the upstream's side are missing, of the response's body too.
    pub missing: Missing,
    /// Why the backend's own times are missing.
    pub backend_missing: Missing,
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
    /// Readable from the client while it uploads, not yet read.
    pub read_wait: u64,
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
    Misdirected,
}

impl ErrorKind {
    const ALL: [Self; 16] = [
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
        Self::Misdirected,
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
            Self::Misdirected => "misdirected_request",
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
    /// Calls of middlewares (ForwardAuth), and attempts at them, likewise.
    pub calls: Vec<Attempt>,
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
            early: false,
            tls: TlsFacts::default(),
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
            response_start: 0,
            response_end: 0,
            first_readable: MonoNs::UNKNOWN,
            first_read: MonoNs::UNKNOWN,
            established: MonoNs::UNKNOWN,
            accepted: MonoNs::UNKNOWN,
            head_readable: MonoNs::UNKNOWN,
            head_read: MonoNs::UNKNOWN,
            woken: MonoNs::UNKNOWN,
            preempted_ns: 0,
            previous_write: MonoNs::UNKNOWN,
            previous: Previous::default(),
            upstream_wanted: MonoNs::UNKNOWN,
            again: MonoNs::UNKNOWN,
            paused: false,
            middleware_wait_ns: 0,
            answered_by: 0,
            head_written: MonoNs::UNKNOWN,
            ended: MonoNs::UNKNOWN,
            body: BodyClock::default(),
            request_body_bytes: 0,
            response_body_bytes: 0,
            srtt_us: 0,
            rttvar_us: 0,
            asked_at_end: false,
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
            opened: MonoNs::UNKNOWN,
            secured: MonoNs::UNKNOWN,
            write_begun: MonoNs::UNKNOWN,
            head_written: MonoNs::UNKNOWN,
            last_write_begun: MonoNs::UNKNOWN,
            request_written: MonoNs::UNKNOWN,
            first_readable: MonoNs::UNKNOWN,
            first_read: MonoNs::UNKNOWN,
            ended: MonoNs::UNKNOWN,
            request_start: 0,
            request_head_end: 0,
            request_end: 0,
            response_start: 0,
            response_end: 0,
            backend_readable: MonoNs::UNKNOWN,
            backend_read: MonoNs::UNKNOWN,
            backend_sent: MonoNs::UNKNOWN,
            woken: MonoNs::UNKNOWN,
            preempted_ns: 0,
            srtt_us: 0,
            rttvar_us: 0,
            resent: 0,
            missing: Missing::NOTHING,
            backend_missing: Missing::NOTHING,
        }
    }
}
