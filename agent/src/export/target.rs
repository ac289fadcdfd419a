//! Where spans go: the checked form of `tracing.otlp`. Also says plainly what is not supported.

use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::config::model::{Otlp, OtlpProtocol};

/// The path of OTLP/HTTP where the endpoint names none.
const HTTP_PATH: &str = "/v1/traces";
/// The most that a connection attempt may take of a request's timeout; a dead route must not look like a slow receiver.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why spans cannot be sent as configured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTarget {
    /// Not `scheme://host[:port][/path]`.
    #[error("tracing.otlp: endpoint {endpoint:?} is not a URL like http://127.0.0.1:4317")]
    NotAUrl {
        /// As configured.
        endpoint: String,
    },
    /// `https://`.
    #[error("tracing.otlp: endpoint {endpoint:?}: https is not supported yet, use http:// or a collector on this node")]
    Tls {
        /// As configured.
        endpoint: String,
    },
    /// A header that HTTP does not allow.
    #[error("tracing.otlp: header {name:?} is not a valid HTTP header")]
    BadHeader {
        /// Its name.
        name: String,
    },
}

/// A receiver of spans.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) protocol: OtlpProtocol,
    /// Without brackets, as a resolver wants it.
    pub(super) host: String,
    pub(super) port: u16,
    /// Scheme, authority and path.
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// For a request once there is a connection.
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl Target {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, BadTarget> {
        let endpoint = || otlp.endpoint.clone();
        let mut parts =
            otlp.endpoint.parse::<Uri>().map_err(|_| BadTarget::NotAUrl { endpoint: endpoint() })?.into_parts();
        match &parts.scheme {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(BadTarget::Tls { endpoint: endpoint() }),
            _ => return Err(BadTarget::NotAUrl { endpoint: endpoint() }),
        }
        let bare = parts.path_and_query.as_ref().is_none_or(|path| path.as_str() == "/");
        if bare {
            let path = if otlp.protocol == OtlpProtocol::Http { HTTP_PATH } else { "/" };
            parts.path_and_query = Some(PathAndQuery::from_static(path));
        }
        let uri = Uri::from_parts(parts).map_err(|_| BadTarget::NotAUrl { endpoint: endpoint() })?;
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| BadTarget::NotAUrl { endpoint: endpoint() })?;
        let default_port = if otlp.protocol == OtlpProtocol::Http { 4318 } else { 4317 };
        Ok(Self {
            protocol: otlp.protocol,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            headers: headers(&otlp.headers)?,
            timeout: otlp.timeout,
            connect_timeout: otlp.timeout.min(CONNECT_MAX),
            uri,
        })
    }

    /// The endpoint's scheme and authority with its path, if it has one, before this one.
    pub(super) fn with_path(&self, path: &'static str) -> Uri {
        let prefix = self.uri.path().trim_end_matches('/');
        let joined = if prefix.is_empty() {
            Ok(PathAndQuery::from_static(path))
        } else {
            PathAndQuery::try_from(format!("{prefix}{path}"))
        };
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = joined.ok().or(parts.path_and_query);
        Uri::from_parts(parts).unwrap_or_default()
    }
}

fn headers(configured: &[(String, String)]) -> Result<HeaderMap, BadTarget> {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => return Err(BadTarget::BadHeader { name: name.clone() }),
        };
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::otlp;

    #[test]
    fn endpoints_are_checked_and_completed() {
        use OtlpProtocol::{Grpc, Http};
        let refused = |endpoint: &str| BadTarget::NotAUrl { endpoint: endpoint.to_owned() };
        for (protocol, endpoint, expected) in [
            (Grpc, "http://127.0.0.1:4317", Ok(("127.0.0.1", 4317, "http://127.0.0.1:4317/"))),
            (Http, "http://collector:9", Ok(("collector", 9, "http://collector:9/v1/traces"))),
            (Http, "http://[::1]/other/path", Ok(("::1", 4318, "http://[::1]/other/path"))),
            (Grpc, "https://a:4317", Err(BadTarget::Tls { endpoint: "https://a:4317".to_owned() })),
            (Grpc, "127.0.0.1:4317", Err(refused("127.0.0.1:4317"))),
            (Grpc, "ftp://a", Err(refused("ftp://a"))),
            (Grpc, "", Err(refused(""))),
        ] {
            let target = Target::new(&Otlp { protocol, ..otlp(endpoint) });
            let seen = target.map(|target| (target.host, target.port, target.uri.to_string()));
            assert_eq!(seen, expected.map(|(host, port, uri)| (host.to_owned(), port, uri.to_owned())), "{endpoint}");
        }
        let bad = Otlp { headers: vec![("a b".to_owned(), String::new())], ..otlp("http://a") };
        assert_eq!(Target::new(&bad).unwrap_err(), BadTarget::BadHeader { name: "a b".to_owned() });
    }
}
