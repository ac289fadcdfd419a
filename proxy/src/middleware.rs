//! What routes do to requests and responses on their way: Traefik v3's middlewares with Traefik's meaning, and the filters of
//! the Gateway API. Here is what each of them is and decides, pure but for the limits' own state; `exchange` runs
//! them, waits where one has to wait, and calls whom one has to ask.

mod basic_auth;
mod cors;
mod forward_auth;
mod headers;
mod in_flight;
mod mirror;
mod path;
mod rate;
mod redirect;
mod retry;
mod source;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{HeaderName, StatusCode};

pub use basic_auth::{Authenticator, BasicAuth, Check, User};
pub use cors::{Allowed, AllowedOrigin, CorsFilter, OriginHost};
pub use forward_auth::{AuthServer, ForwardAuth};
pub use headers::{Asked, Cors, HeaderEdits, HeaderModifier, Headers, Security};
pub use in_flight::{InFlightLimiter, InFlightReq, Permit};
pub use mirror::{Mirror, Share};
pub(crate) use path::with_path;
pub use path::{
    AddPrefix, PathChange, ReplacePath, ReplacePathRegex, StripPrefix, StripPrefixRegex, UrlRewrite, as_path,
    has_good_escapes,
};
pub use rate::{RateLimit, RateLimiter};
pub use redirect::{RedirectRegex, RedirectScheme, RequestRedirect};
pub use retry::Retry;
pub use source::{IpAllowList, IpFrom, IpStrategy, Source};

/// One step of a route. Cheap to clone; its settings are shared by all workers, and what it counts too.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is documented where it is defined")]
pub enum Middleware {
    Headers(Arc<Headers>),
    RequestHeaderModifier(Arc<HeaderModifier>),
    ResponseHeaderModifier(Arc<HeaderModifier>),
    Cors(Arc<CorsFilter>),
    StripPrefix(Arc<StripPrefix>),
    StripPrefixRegex(Arc<StripPrefixRegex>),
    AddPrefix(Arc<AddPrefix>),
    ReplacePath(Arc<ReplacePath>),
    ReplacePathRegex(Arc<ReplacePathRegex>),
    RedirectScheme(Arc<RedirectScheme>),
    RedirectRegex(Arc<RedirectRegex>),
    RequestRedirect(Arc<RequestRedirect>),
    UrlRewrite(Arc<UrlRewrite>),
    IpAllowList(Arc<IpAllowList>),
    RateLimit(Arc<RateLimiter>),
    InFlightReq(Arc<InFlightLimiter>),
    ForwardAuth(Arc<AuthServer>),
    BasicAuth(Arc<Authenticator>),
    Mirror(Arc<Mirror>),
    Retry(Arc<Retry>),
}

/// Who asks, as far as the connection tells.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The other end of the connection.
    pub ip: IpAddr,
    /// It speaks TLS.
    pub https: bool,
}

/// What a middleware answers instead of letting the request on.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Whether a request goes on.
pub type Verdict = Result<(), Box<Answer>>;

impl Answer {
    /// A status with a line of text.
    #[must_use]
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Box<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Box::new(Self { status, headers, body: text.into() })
    }

    /// A status with its own words, which is how Traefik refuses.
    #[must_use]
    pub fn status(status: StatusCode) -> Box<Self> {
        Self::text(status, status.canonical_reason().unwrap_or_default())
    }
}

impl Middleware {
    /// Whether it is the very same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Headers(a), Self::Headers(b)) => Arc::ptr_eq(a, b),
            (Self::StripPrefix(a), Self::StripPrefix(b)) => Arc::ptr_eq(a, b),
            (Self::StripPrefixRegex(a), Self::StripPrefixRegex(b)) => Arc::ptr_eq(a, b),
            (Self::AddPrefix(a), Self::AddPrefix(b)) => Arc::ptr_eq(a, b),
            (Self::ReplacePath(a), Self::ReplacePath(b)) => Arc::ptr_eq(a, b),
            (Self::ReplacePathRegex(a), Self::ReplacePathRegex(b)) => Arc::ptr_eq(a, b),
            (Self::RedirectScheme(a), Self::RedirectScheme(b)) => Arc::ptr_eq(a, b),
            (Self::RedirectRegex(a), Self::RedirectRegex(b)) => Arc::ptr_eq(a, b),
            (Self::RequestRedirect(a), Self::RequestRedirect(b)) => Arc::ptr_eq(a, b),
            (Self::UrlRewrite(a), Self::UrlRewrite(b)) => Arc::ptr_eq(a, b),
            (Self::RequestHeaderModifier(a), Self::RequestHeaderModifier(b)) => Arc::ptr_eq(a, b),
            (Self::ResponseHeaderModifier(a), Self::ResponseHeaderModifier(b)) => Arc::ptr_eq(a, b),
            (Self::Cors(a), Self::Cors(b)) => Arc::ptr_eq(a, b),
            (Self::IpAllowList(a), Self::IpAllowList(b)) => Arc::ptr_eq(a, b),
            (Self::RateLimit(a), Self::RateLimit(b)) => Arc::ptr_eq(a, b),
            (Self::InFlightReq(a), Self::InFlightReq(b)) => Arc::ptr_eq(a, b),
            (Self::ForwardAuth(a), Self::ForwardAuth(b)) => Arc::ptr_eq(a, b),
            (Self::BasicAuth(a), Self::BasicAuth(b)) => Arc::ptr_eq(a, b),
            (Self::Mirror(a), Self::Mirror(b)) => a == b,
            (Self::Retry(a), Self::Retry(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// A header's value as text; empty where it is not there or none.
fn text<'p>(parts: &'p Parts, name: &HeaderName) -> &'p str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A host with the port behind it, `[::1]:80` too. No port: an empty text.
fn split_host(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port),
        _ => (host, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const PLAIN: Client = Client { ip: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), https: false };
    pub(super) const TLS: Client = Client { https: true, ..PLAIN };

    /// A request's head.
    pub(super) fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hosts_are_split_from_their_ports() {
        for (host, expected) in [
            ("a", ("a", "")),
            ("a:80", ("a", "80")),
            ("[::1]", ("[::1]", "")),
            ("[::1]:80", ("[::1]", "80")),
            ("", ("", "")),
        ] {
            assert_eq!(split_host(host), expected);
        }
    }
}
