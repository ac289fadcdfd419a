//! One connection to a receiver of spans: opens it when needed, sends one request at a time, and says what became of
//! it. Whether to try again is `sender`'s.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, buf::Chain};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::grpc;
use super::target::{Target, causes};
use crate::config::model::OtlpProtocol;

/// Of a receiver's answer: an error message, or a count.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A request: what goes before the spans, and the spans. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: Bytes,
    pub(super) spans: Bytes,
}

/// What became of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged, less so many spans.
    Accepted { rejected: u64 },
    /// Refused for good.
    Refused(String),
    /// Not taken, and may be tried again; not before the time that the receiver named.
    Later { after: Option<Duration>, why: String },
    /// Sent, and no answer came.
    Unknown(String),
}

/// A request's body, without a copy of its spans.
pub(super) type Body = Full<Chain<Bytes, Bytes>>;

/// The open part of a connection.
enum Live {
    Grpc(http2::SendRequest<Body>),
    Http(http1::SendRequest<Body>),
}

/// A connection that may be closed at the moment.
pub(super) struct Connection {
    target: Arc<Target>,
    live: Option<Live>,
    /// Runs the open connection; it ends with its owner.
    driver: JoinSet<()>,
}

impl Connection {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, live: None, driver: JoinSet::new() }
    }

    /// Sends one request. After anything but an answer the connection is closed.
    pub(super) async fn send(&mut self, message: &Request) -> Outcome {
        let mut live = match timeout(self.target.connect_timeout, self.ready()).await {
            Ok(Ok(live)) => live,
            Ok(Err(why)) => return Outcome::Later { after: None, why },
            Err(_) => return Outcome::Later { after: None, why: "no connection in time".to_owned() },
        };
        let outcome = match &mut live {
            Live::Grpc(h2) => timed(&self.target, grpc::export(h2, &self.target, message)).await,
            Live::Http(http) => timed(&self.target, export(http, &self.target, message)).await,
        };
        if !matches!(outcome, Outcome::Unknown(_)) {
            self.live = Some(live);
        }
        outcome
    }

    /// Takes the open connection, or opens one.
    async fn ready(&mut self) -> Result<Live, String> {
        let usable = match self.live.take() {
            Some(Live::Grpc(mut h2)) => h2.ready().await.is_ok().then_some(Live::Grpc(h2)),
            Some(Live::Http(mut http)) => http.ready().await.is_ok().then_some(Live::Http(http)),
            None => None,
        };
        match usable {
            Some(live) => Ok(live),
            None => self.open().await,
        }
    }

    async fn open(&mut self) -> Result<Live, String> {
        self.driver.abort_all();
        let target = Arc::clone(&self.target);
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await;
        let socket = socket.and_then(|socket| socket.set_nodelay(true).map(|()| socket)).map_err(|e| causes(&e))?;
        let Some(tls) = &target.tls else { return self.greet(socket).await };
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let secured = connector.connect(tls.name.clone(), socket).await;
        self.greet(secured.map_err(|error| format!("TLS: {}", target.broken(&error)))?).await
    }

    /// Begins HTTP on a stream.
    async fn greet(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Live, String> {
        let io = TokioIo::new(stream);
        match self.target.protocol {
            OtlpProtocol::Grpc => {
                let builder = http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).to_owned();
                let (sender, connection) = builder.handshake(io).await.map_err(|error| self.target.broken(&error))?;
                // Its errors reach whoever waits for an answer.
                self.driver.spawn(async { drop(connection.await) });
                Ok(Live::Grpc(sender))
            }
            OtlpProtocol::Http => {
                let (sender, connection) = http1::handshake(io).await.map_err(|error| self.target.broken(&error))?;
                self.driver.spawn(async { drop(connection.await) });
                Ok(Live::Http(sender))
            }
        }
    }
}

async fn timed(target: &Target, request: impl Future<Output = Outcome>) -> Outcome {
    let late = || Outcome::Unknown(format!("no answer within {:?}", target.timeout));
    timeout(target.timeout, request).await.unwrap_or_else(|_| late())
}

/// OTLP/HTTP with protobuf (OTLP 1.x, "OTLP/HTTP Response").
async fn export(http: &mut http1::SendRequest<Body>, target: &Target, message: &Request) -> Outcome {
    let mut request = http::Request::new(Full::new(message.head.clone().chain(message.spans.clone())));
    *request.method_mut() = http::Method::POST;
    let path = target.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.clone_from(&target.headers);
    if let Some(host) = target.uri.authority().and_then(|host| http::HeaderValue::try_from(host.as_str()).ok()) {
        headers.insert(http::header::HOST, host);
    }
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-protobuf"));
    let response = match http.try_send_request(request).await {
        Ok(response) => response,
        Err(error) if error.message().is_some() => {
            return Outcome::Later { after: None, why: target.broken(error.error()) };
        }
        Err(error) => return Outcome::Unknown(target.broken(error.error())),
    };
    target.answered();
    let status = response.status();
    let after = retry_after(response.headers());
    let body = match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        // The status is an answer only where it says that the spans were not taken.
        Err(error) if status.is_success() => return Outcome::Unknown(causes(&*error)),
        Err(_) => Bytes::new(),
    };
    match status.as_u16() {
        200..=299 => Outcome::Accepted {
            rejected: ExportTraceServiceResponse::decode(body).map_or(0, |answer| rejected(&answer)),
        },
        429 | 502..=504 => Outcome::Later { after, why: status.to_string() },
        _ => Outcome::Refused(status.to_string()),
    }
}

/// Spans that a receiver says it did not take.
pub(super) fn rejected(answer: &ExportTraceServiceResponse) -> u64 {
    answer.partial_success.as_ref().map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
}

/// `Retry-After` in seconds. A date needs a wall clock that both agree on: the backoff does as well.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_say_when_to_come_back() {
        for (value, expected) in
            [("3", Some(3)), (" 0 ", Some(0)), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
        {
            let headers = http::HeaderMap::from_iter([(http::header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&http::HeaderMap::new()), None);
    }
}
