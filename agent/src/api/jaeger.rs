//! Asks Jaeger's query API for what only it has: whole traces and the dependency graph. One connection per question:
//! people ask, at most every few seconds. What Jaeger says is passed on as it is; the dashboard reads it.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::uri::{Scheme, Uri};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bounds of one question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// To connect.
    pub(super) connect: Duration,
    /// Altogether; half of it more for a place among the questions asked at once.
    pub(super) whole: Duration,
    /// Of the answer.
    pub(super) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // A span in Jaeger's JSON is 1 to 4 KiB: 16 MiB is a trace of thousands of spans, more than a browser can show.
        Self { connect: Duration::from_secs(2), whole: Duration::from_secs(10), bytes: 16 << 20 }
    }
}

/// Questions at once: with their bound on bytes they hold 64 MiB at most.
const ASKED_AT_ONCE_MAX: usize = 4;

/// Where Jaeger answers.
#[derive(Debug)]
pub(super) struct Jaeger {
    /// As configured, without the last slash: what a browser's links start with.
    pub(super) url: String,
    pub(super) bounds: Bounds,
    host: String,
    port: u16,
    authority: String,
    prefix: String,
    places: Semaphore,
}

/// What Jaeger said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: String,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("Jaeger does not answer at {url}: {source}")]
    Away { url: String, source: io::Error },
    #[error("Jaeger at {url} broke off its answer: {source}")]
    Broken { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("Jaeger at {url} did not answer within {} ms", .limit.as_millis())]
    Slow { url: String, limit: Duration },
    #[error("Jaeger's answer is larger than {limit} bytes")]
    Huge { limit: usize },
    #[error("Jaeger is being asked {ASKED_AT_ONCE_MAX} other questions")]
    Busy,
}

impl Error {
    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Away { .. } => "start Jaeger, or set api.jaegerQuery to where its query API answers (port 16686)",
            Self::Broken { .. } => {
                "see whether api.jaegerQuery names Jaeger's query port (16686), and Jaeger's own log"
            }
            Self::Slow { .. } => "ask again; if it stays, see Jaeger's own log and storage",
            Self::Huge { .. } => "open the trace in Jaeger itself",
            Self::Busy => "ask again in a moment",
        }
    }
}

impl Jaeger {
    /// Reads `api.jaegerQuery`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("api.jaegerQuery: `{url}` {what}; write http://127.0.0.1:16686");
        let uri: Uri = url.parse().map_err(|_| fault("is not a URL"))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(fault("does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| fault("has no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(fault("has a user name or a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let prefix = uri.path().trim_end_matches('/');
        Ok(Self {
            url: format!("http://{authority}{prefix}"),
            bounds: Bounds::default(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            prefix: prefix.to_owned(),
            places: Semaphore::new(ASKED_AT_ONCE_MAX),
        })
    }

    /// Asks for `target`, a path with its query.
    pub(super) async fn get(&self, target: &str) -> Result<Answer, Error> {
        let limit = self.bounds.whole;
        let Ok(Ok(_place)) = timeout(limit / 2, self.places.acquire()).await else { return Err(Error::Busy) };
        let slow = |_| Err(Error::Slow { url: self.url.clone(), limit });
        timeout(limit, self.ask(target)).await.unwrap_or_else(slow)
    }

    async fn ask(&self, target: &str) -> Result<Answer, Error> {
        let away = |source| Error::Away { url: self.url.clone(), source };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(self.bounds.connect, connecting).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(away)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error.into()))?;
        // The connection runs in this task and ends with it. Its own fault reaches the exchange, too.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = self.exchange(sender, target) => answer,
            never = drive => match never {},
        }
    }

    async fn exchange(&self, mut sender: http1::SendRequest<Empty<Bytes>>, target: &str) -> Result<Answer, Error> {
        let request = Request::get(format!("{}{target}", self.prefix))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json, text/html")
            .body(Empty::new())
            .map_err(|error| self.broken(error.into()))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error.into()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.bounds.bytes).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { Error::Huge { limit: self.bounds.bytes } } else { self.broken(error) }
        })?;
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        Ok(Answer { status: head.status, kind, body: body.to_bytes() })
    }

    fn broken(&self, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Broken { url: self.url.clone(), source }
    }
}

impl Answer {
    /// Whether it is JSON, as the query API's answers are.
    pub(super) fn is_json(&self) -> bool {
        self.kind.starts_with("application/json")
    }

    /// Whether it is the page of Jaeger's UI: its bundle is loaded by script, while the page that stands in for it in
    /// builds without the UI loads nothing.
    pub(super) fn is_ui(&self) -> bool {
        let page = String::from_utf8_lossy(&self.body);
        let mut tags = page.split("<script").skip(1).filter_map(|rest| rest.split('>').next());
        self.status.is_success() && self.kind.starts_with("text/html") && tags.any(|tag| tag.contains("src="))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_read_or_refused_with_an_example() {
        for (url, expected) in [
            ("http://127.0.0.1:16686", Ok(("127.0.0.1", 16686, "", "http://127.0.0.1:16686"))),
            ("http://jaeger-query:16686/", Ok(("jaeger-query", 16686, "", "http://jaeger-query:16686"))),
            ("http://[::1]:16686/jaeger/", Ok(("::1", 16686, "/jaeger", "http://[::1]:16686/jaeger"))),
            ("http://jaeger", Ok(("jaeger", 80, "", "http://jaeger"))),
            ("https://jaeger", Err("does not begin with http://")),
            ("jaeger:16686", Err("does not begin with http://")),
            ("javascript:alert(1)", Err("does not begin with http://")),
            ("http://u:p@jaeger", Err("has a user name or a query")),
            ("http://jaeger?a=b", Err("has a user name or a query")),
            ("", Err("is not a URL")),
        ] {
            match (Jaeger::parse(url), expected) {
                (Ok(read), Ok((host, port, prefix, link))) => {
                    assert_eq!((&*read.host, read.port, &*read.prefix, &*read.url), (host, port, prefix, link));
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{url}: {message}"),
                (read, expected) => panic!("{url}: {read:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_ui_loads_its_bundle_and_a_placeholder_does_not() {
        for (kind, body, expected) in [
            (
                "text/html; charset=utf-8",
                r#"<script type="module" crossorigin src="./static/index.js"></script>"#,
                true,
            ),
            ("text/html", "<script>const JAEGER_CONFIG = {src: 1}</script> src=", false),
            ("text/html", "<h1>This is not the Jaeger UI you are looking for!</h1>", false),
            ("application/json", r#"<script src="x">"#, false),
        ] {
            let answer = Answer { status: StatusCode::OK, kind: kind.to_owned(), body: Bytes::from(body) };
            assert_eq!(answer.is_ui(), expected, "{body}");
        }
    }
}
