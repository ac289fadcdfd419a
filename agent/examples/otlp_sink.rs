//! A receiver of spans for the bench: answers every OTLP/gRPC export at once and counts what came. Prints its two
//! ports: OTLP, and one that answers every connection with the count.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An empty gRPC message: uncompressed, no bytes (an `ExportTraceServiceResponse` without rejections).
const EMPTY_MESSAGE: &[u8] = &[0, 0, 0, 0, 0];

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let spans = Arc::new(AtomicU64::new(0));
    let otlp = TcpListener::bind("127.0.0.1:0").await?;
    let counter = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {}", otlp.local_addr()?.port(), counter.local_addr()?.port());
    std::io::stdout().flush()?;
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = otlp.accept() => {
                let spans = Arc::clone(&spans);
                let io = TokioIo::new(accepted?.0);
                tasks.spawn(async move {
                    let service = hyper::service::service_fn(move |request| export(request, Arc::clone(&spans)));
                    // A peer that breaks off is no concern of the count.
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .initial_connection_window_size(16 << 20)
                        .initial_stream_window_size(16 << 20)
                        .serve_connection(io, service).await;
                });
            }
            asked = counter.accept() => {
                let text = format!("{}\n", spans.load(Ordering::Relaxed));
                let stream = asked?.0;
                let _ = stream.writable().await.and_then(|()| stream.try_write(text.as_bytes()));
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

type Reply =
    Response<StreamBody<futures_util::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>>;

async fn export(request: Request<Incoming>, spans: Arc<AtomicU64>) -> Result<Reply, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    spans.fetch_add(count_spans(body.get(EMPTY_MESSAGE.len()..).unwrap_or_default()), Ordering::Relaxed);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from_static(EMPTY_MESSAGE))), Ok(Frame::trailers(trailers))];
    let mut reply = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    reply.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    Ok(reply)
}

/// Spans in an `ExportTraceServiceRequest`: resource_spans = 1, scope_spans = 2, spans = 2
/// (opentelemetry-proto v1, trace.proto).
fn count_spans(message: &[u8]) -> u64 {
    let mut count = 0;
    each(message, 1, &mut |resource| each(resource, 2, &mut |scope| each(scope, 2, &mut |_| count += 1)));
    count
}

/// Calls `found` with every length-delimited field of that number; stops at bytes that are no message.
fn each(mut message: &[u8], number: u64, found: &mut dyn FnMut(&[u8])) {
    while let Some((key, rest)) = varint(message) {
        let skipped = match key & 7 {
            0 => varint(rest).map(|(_, rest)| rest),
            1 => rest.get(8..),
            5 => rest.get(4..),
            2 => varint(rest).and_then(|(length, rest)| {
                let length = usize::try_from(length).ok()?;
                if key >> 3 == number {
                    found(rest.get(..length)?);
                }
                rest.get(length..)
            }),
            _ => None,
        };
        let Some(rest) = skipped else { return };
        message = rest;
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}
