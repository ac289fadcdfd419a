//! One small HTTP GET: connects, asks, reads a bounded answer, closes. What the answer means is its caller's.

use std::error::Error;

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Two thousand operations with long names; more is not a strategies file.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The URL of a question: `url?service=name`.
///
/// # Errors
/// Where the URL is not `http://host[:port][/path]`.
pub(super) fn question(url: &str, service: &str) -> Result<Uri, BadUrl> {
    let bad = || BadUrl { url: url.to_owned() };
    let parsed: Uri = url.parse().map_err(|_| bad())?;
    if parsed.scheme_str() != Some("http") || parsed.host().is_none_or(str::is_empty) {
        return Err(bad());
    }
    let path = match parsed.path() {
        "" => "/",
        path => path,
    };
    let query = parsed.query().map(|query| format!("{query}&")).unwrap_or_default();
    let mut parts = parsed.clone().into_parts();
    let asked = format!("{path}?{query}service={}", percent_encoded(service));
    parts.path_and_query = Some(asked.parse().map_err(|_| bad())?);
    Uri::from_parts(parts).map_err(|_| bad())
}

/// A sampling server that cannot be asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "tracing.jaeger.samplingServerURL: {url:?} is not a URL like http://127.0.0.1:5778/sampling (https is not supported yet)"
)]
pub struct BadUrl {
    /// As configured.
    pub url: String,
}

/// Asks once. The caller bounds the time.
pub(super) async fn get(uri: &Uri) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let mut request = http::Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).parse()?;
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    request.headers_mut().insert(http::header::HOST, authority.try_into()?);
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("the sampling server answered {}", response.status()).into());
        }
        Ok(Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes())
    };
    // The connection is driven here and ends with this future: no task of its own.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// All but the unreserved characters of RFC 3986.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_name_the_service() {
        for (url, service, expected) in [
            ("http://127.0.0.1:5778/sampling", "wayspan", Some("http://127.0.0.1:5778/sampling?service=wayspan")),
            ("http://jaeger:5778", "a b&c", Some("http://jaeger:5778/?service=a%20b%26c")),
            ("http://[::1]/x?y=1", "s", Some("http://[::1]/x?y=1&service=s")),
            ("https://jaeger:5778/sampling", "s", None),
            ("jaeger:5778", "s", None),
            ("", "s", None),
        ] {
            let seen = question(url, service).map(|uri| uri.to_string());
            assert_eq!(seen.ok().as_deref(), expected, "{url}");
        }
    }
}
