//! OTLP over gRPC: one unary call over a connection of `connection`'s. tonic's codecs would copy each message once more
//! into fresh memory, which costs as much as encoding it; here the batch's own bytes go to the socket. tonic reads
//! the status.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, HeaderName, TE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{Code, Status};

use super::connection::{ANSWER_BYTES_MAX, Body, Outcome, Request, rejected};
use super::target::{Target, causes};

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Sends a request and classifies the answer.
pub(super) async fn export(h2: &mut http2::SendRequest<Body>, target: &Target, request: &Request) -> Outcome {
    let response = match h2.try_send_request(call(target, request)).await {
        Ok(response) => response,
        Err(error) if error.message().is_some() => {
            return Outcome::Later { after: None, why: target.broken(error.error()) };
        }
        Err(error) => return Outcome::Unknown(target.broken(error.error())),
    };
    target.answered();
    let (parts, body) = response.into_parts();
    // An answer without a message has its status at once.
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return classify(&status, Bytes::new());
    }
    if parts.status != http::StatusCode::OK {
        return without_grpc(parts.status);
    }
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => match body.trailers().and_then(Status::from_header_map) {
            Some(status) => classify(&status, body.to_bytes()),
            None => Outcome::Unknown("the answer ended without a status".to_owned()),
        },
        Err(error) => Outcome::Unknown(causes(&*error)),
    }
}

fn call(target: &Target, request: &Request) -> http::Request<Body> {
    let length = request.head.len() + request.spans.len();
    let mut head = Vec::with_capacity(PREFIX + request.head.len());
    head.put_u8(0);
    // Batches end at a few MiB.
    head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    head.put_slice(&request.head);
    let mut call = http::Request::new(Full::new(Bytes::from(head).chain(request.spans.clone())));
    *call.method_mut() = http::Method::POST;
    *call.version_mut() = http::Version::HTTP_2;
    *call.uri_mut() = target.with_path(METHOD);
    let headers = call.headers_mut();
    headers.clone_from(&target.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let millis = target.timeout.as_millis().min(99_999_999);
    if let Ok(timeout) = HeaderValue::try_from(format!("{millis}m")) {
        headers.insert(HeaderName::from_static("grpc-timeout"), timeout);
    }
    call
}

/// What a status asks for.
fn classify(status: &Status, body: Bytes) -> Outcome {
    let why = || format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Ok => {
            let answer = ExportTraceServiceResponse::decode(body.slice(PREFIX.min(body.len())..));
            Outcome::Accepted { rejected: answer.map_or(0, |answer| rejected(&answer)) }
        }
        // The list of OTLP 1.x, "OTLP/gRPC Response".
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Later { after: retry_delay(status.details()), why: why() },
        // Worth a retry only where the receiver says when.
        Code::ResourceExhausted => match retry_delay(status.details()) {
            Some(after) => Outcome::Later { after: Some(after), why: why() },
            None => Outcome::Refused(why()),
        },
        _ => Outcome::Refused(why()),
    }
}

/// An answer of something on the way, by gRPC's table "HTTP to gRPC Status Code Mapping".
fn without_grpc(status: http::StatusCode) -> Outcome {
    match status.as_u16() {
        429 | 502..=504 => Outcome::Later { after: None, why: status.to_string() },
        _ => Outcome::Refused(status.to_string()),
    }
}

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
            match (classify(&Status::with_details(code, "x", details.into()), Bytes::new()), expected) {
                (Outcome::Later { after, .. }, Some(expected)) => assert_eq!(after, expected, "{code:?}"),
                (Outcome::Refused(_), None) => {}
                other => panic!("{code:?}: {other:?}"),
            }
        }
    }
}
