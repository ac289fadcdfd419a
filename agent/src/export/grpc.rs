//! OTLP over gRPC: tonic with a codec that passes bytes as they are, over a connection of `connection`'s. Reads from a
//! status whether the receiver gave it, and what it asks for.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::Code;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;

use super::connection::{Outcome, Request, rejected};
use super::target::Target;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Sends a request and classifies the answer.
pub(super) async fn export(h2: H2, target: &Target, request: &Request) -> Outcome {
    let codec = Raw { length: request.head.len() + request.spans.len() };
    let mut call = tonic::Request::new(request.clone());
    *call.metadata_mut() = MetadataMap::from_headers(target.headers.clone());
    let mut client = Grpc::with_origin(h2, target.uri.clone());
    match client.unary(call, PathAndQuery::from_static(METHOD), codec).await {
        Ok(answer) => Outcome::Accepted { rejected: rejected(answer.get_ref()) },
        Err(status) => classify(&status),
    }
}

/// A status from the receiver has no source; one that tonic made of a failure has the failure as its source.
fn classify(status: &tonic::Status) -> Outcome {
    let why = format!("{:?}: {}", status.code(), status.message());
    if status.source().is_some() {
        return if was_not_sent(status) { Outcome::Later { after: None, why } } else { Outcome::Unknown(why) };
    }
    match status.code() {
        // The list of OTLP 1.x, "OTLP/gRPC Response".
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Later { after: retry_delay(status.details()), why },
        // Worth a retry only where the receiver says when.
        Code::ResourceExhausted => match retry_delay(status.details()) {
            Some(after) => Outcome::Later { after: Some(after), why },
            None => Outcome::Refused(why),
        },
        _ => Outcome::Refused(why),
    }
}

fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    error.is::<NotSent>() || error.source().is_some_and(was_not_sent)
}

/// The request never left: it may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("the connection closed before the request was sent")]
struct NotSent;

/// `google.rpc.Status`, the value of `grpc-status-details-bin`, as far as needed.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(detail.value.as_slice()).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}

/// The sending half of an HTTP/2 connection, as tonic wants it.
#[derive(Clone)]
pub(super) struct H2(pub(super) http2::SendRequest<tonic::body::Body>);

impl Service<http::Request<tonic::body::Body>> for H2 {
    type Response = http::Response<Incoming>;
    type Error = tonic::codegen::StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(|_| NotSent.into())
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = self.0.try_send_request(request);
        Box::pin(async {
            answer.await.map_err(|mut error| match error.take_message() {
                Some(_) => NotSent.into(),
                None => error.into_error().into(),
            })
        })
    }
}

/// Passes the request's bytes on, reads the answer.
#[derive(Clone, Copy)]
struct Raw {
    length: usize,
}

impl Codec for Raw {
    type Encode = Request;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Request;
    type Error = tonic::Status;

    fn encode(&mut self, request: Request, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put(request.head);
        out.put(request.spans);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // The message and gRPC's prefix of five bytes in one allocation.
        BufferSettings::new(self.length + 5, self.length + 5)
    }
}

impl Decoder for Raw {
    type Item = ExportTraceServiceResponse;
    type Error = tonic::Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, tonic::Status> {
        let answer = ExportTraceServiceResponse::decode(bytes);
        answer.map(Some).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(seconds: i64) -> Vec<u8> {
        let value = RetryInfo { retry_delay: Some(Delay { seconds, nanos: 5 }) }.encode_to_vec();
        let detail = Detail { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value };
        RpcStatus { details: vec![detail] }.encode_to_vec()
    }

    #[test]
    fn a_status_says_whether_to_come_back() {
        let later = |after| Some(after);
        for (code, details, expected) in [
            (Code::Unavailable, Vec::new(), later(None)),
            (Code::Unavailable, details(2), later(Some(Duration::new(2, 5)))),
            (Code::Unavailable, details(-2), later(None)),
            (Code::DeadlineExceeded, b"junk".to_vec(), later(None)),
            (Code::ResourceExhausted, Vec::new(), None),
            (Code::ResourceExhausted, details(1), later(Some(Duration::new(1, 5)))),
            (Code::InvalidArgument, Vec::new(), None),
            (Code::Unauthenticated, details(1), None),
            (Code::Unimplemented, Vec::new(), None),
        ] {
            match (classify(&tonic::Status::with_details(code, "x", details.into())), expected) {
                (Outcome::Later { after, .. }, Some(expected)) => assert_eq!(after, expected, "{code:?}"),
                (Outcome::Refused(_), None) => {}
                other => panic!("{code:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_failure_on_the_way_is_unknown_unless_nothing_left() {
        let lost = tonic::Status::from_error("reset".into());
        assert!(matches!(classify(&lost), Outcome::Unknown(_)));
        let kept = tonic::Status::from_error(NotSent.into());
        assert!(matches!(classify(&kept), Outcome::Later { after: None, .. }));
    }
}
