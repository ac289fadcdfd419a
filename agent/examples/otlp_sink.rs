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
use wayspan_tests::otlp;

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
    let message = body.get(EMPTY_MESSAGE.len()..).unwrap_or_default();
    let count = u64::try_from(otlp::spans(message).count()).unwrap_or(u64::MAX);
    spans.fetch_add(count, Ordering::Relaxed);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from_static(EMPTY_MESSAGE))), Ok(Frame::trailers(trailers))];
    let mut reply = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    reply.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    Ok(reply)
}
