//! Where spans go: the checked form of `tracing.otlp`.

use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use rustls::pki_types::ServerName;

use super::tls::{BadTls, Tls};
use crate::config::model::{Otlp, OtlpProtocol};

/// The path of OTLP/HTTP where the endpoint names none.
const HTTP_PATH: &str = "/v1/traces";
/// The most that a connection attempt may take of a request's timeout; a dead route must not look like a slow receiver.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why spans cannot be sent as configured. Whoever tells it names `tracing.otlp`.
#[derive(Debug, thiserror::Error)]
pub enum BadTarget {
    /// Not `scheme://host[:port][/path]`.
    #[error("endpoint {endpoint:?} is not a URL like http://127.0.0.1:4317")]
    NotAUrl {
        /// As configured.
        endpoint: String,
    },
    /// `https://`, and certificates that cannot be used.
    #[error("tls")]
    Tls(#[from] BadTls),
    /// A header that HTTP does not allow.
    #[error("header {name:?} is not a valid HTTP header")]
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
    pub(super) tls: Option<Tls>,
}

impl Target {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, BadTarget> {
        let endpoint = || otlp.endpoint.clone();
        let mut parts =
            otlp.endpoint.parse::<Uri>().map_err(|_| BadTarget::NotAUrl { endpoint: endpoint() })?.into_parts();
        let encrypted = match &parts.scheme {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(BadTarget::NotAUrl { endpoint: endpoint() }),
        };
        let bare = parts.path_and_query.as_ref().is_none_or(|path| path.as_str() == "/");
        if bare {
            let path = if otlp.protocol == OtlpProtocol::Http { HTTP_PATH } else { "/" };
            parts.path_and_query = Some(PathAndQuery::from_static(path));
        }
        let uri = Uri::from_parts(parts).map_err(|_| BadTarget::NotAUrl { endpoint: endpoint() })?;
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| BadTarget::NotAUrl { endpoint: endpoint() })?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if encrypted {
            let name = ServerName::try_from(host.clone()).map_err(|_| BadTarget::NotAUrl { endpoint: endpoint() })?;
            Some(Tls::new(&otlp.tls, otlp.protocol, name)?)
        } else {
            None
        };
        let default_port = match (otlp.protocol, encrypted) {
            (OtlpProtocol::Grpc, _) => 4317,
            (OtlpProtocol::Http, false) => 4318,
            // As in Traefik: a URL of the web.
            (OtlpProtocol::Http, true) => 443,
        };
        Ok(Self {
            protocol: otlp.protocol,
            host,
            port: uri.port_u16().unwrap_or(default_port),
            headers: headers(&otlp.headers)?,
            timeout: otlp.timeout,
            connect_timeout: otlp.timeout.min(CONNECT_MAX),
            tls,
            uri,
        })
    }

    /// Why a connection broke before there was an answer.
    pub(super) fn broken(&self, error: &(dyn std::error::Error + 'static)) -> String {
        match self.tls.as_ref().and_then(Tls::suspicion) {
            Some(suspicion) => format!("{} ({suspicion})", causes(error)),
            None => causes(error),
        }
    }

    /// There was an answer: nothing is wrong with what was shown.
    pub(super) fn answered(&self) {
        if let Some(tls) = &self.tls {
            tls.answered();
        }
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

/// An error and what it came from: hyper's own text ends at "connection error".
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = all.map(ToString::to_string).collect();
    // Some say what their source says.
    texts.dedup();
    texts.join(": ")
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
    use crate::config::model::ClientTls;
    use crate::export::testing::otlp;

    #[test]
    fn an_error_is_told_down_to_its_first_cause() {
        let broken = std::io::Error::other(BadHead(BadLine));
        assert_eq!(causes(&broken), "bad head: bad line");
        #[derive(Debug, thiserror::Error)]
        #[error("bad head")]
        struct BadHead(#[source] BadLine);
        #[derive(Debug, thiserror::Error)]
        #[error("bad line")]
        struct BadLine;
    }

    #[test]
    fn endpoints_are_checked_and_completed() {
        use OtlpProtocol::{Grpc, Http};
        let refused = |endpoint: &str| BadTarget::NotAUrl { endpoint: endpoint.to_owned() }.to_string();
        for (protocol, endpoint, expected) in [
            (Grpc, "http://127.0.0.1:4317", Ok(("127.0.0.1", 4317, "http://127.0.0.1:4317/"))),
            (Http, "http://collector:9", Ok(("collector", 9, "http://collector:9/v1/traces"))),
            (Http, "http://[::1]/other/path", Ok(("::1", 4318, "http://[::1]/other/path"))),
            (Grpc, "https://a", Ok(("a", 4317, "https://a/"))),
            (Http, "https://a", Ok(("a", 443, "https://a/v1/traces"))),
            (Http, "https://[::1]:9", Ok(("::1", 9, "https://[::1]:9/v1/traces"))),
            (Grpc, "https://a..b:1", Err(refused("https://a..b:1"))),
            (Grpc, "127.0.0.1:4317", Err(refused("127.0.0.1:4317"))),
            (Grpc, "ftp://a", Err(refused("ftp://a"))),
            (Grpc, "", Err(refused(""))),
        ] {
            // No test depends on the machine's roots.
            let tls = ClientTls { insecure_skip_verify: true, ..ClientTls::default() };
            let target = Target::new(&Otlp { protocol, tls, ..otlp(endpoint) });
            let seen = target.map(|target| {
                assert_eq!(target.tls.is_some(), endpoint.starts_with("https"));
                (target.host, target.port, target.uri.to_string())
            });
            let seen = seen.map_err(|error| error.to_string());
            assert_eq!(seen, expected.map(|(host, port, uri)| (host.to_owned(), port, uri.to_owned())), "{endpoint}");
        }
        let bad = Otlp { headers: vec![("a b".to_owned(), String::new())], ..otlp("http://a") };
        assert!(matches!(Target::new(&bad), Err(BadTarget::BadHeader { name }) if name == "a b"));
    }
}
