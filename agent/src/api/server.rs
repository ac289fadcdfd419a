//! The listener and its connections: how many, how long, how large. What is answered is [`super::answers`]'s.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};
use wayspan_proxy::clock::MonoNs;

use super::jaeger::Jaeger;
use super::reply::{self, Reply};
use super::{ApiRequest, State, answers, host};
use crate::config::model;

/// Heads are small; this is room for cookies that other things on localhost have set.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// After accept has failed for want of descriptors, trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many, how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A browser opens six, a scraper and the kubelet one each. More wait in the kernel's queue.
    pub(super) connections: usize,
    /// For a head to arrive, and between requests: hyper's timer runs while it waits for either.
    pub(super) head: Duration,
    /// A connection is asked to end after so long, which also bounds one who reads an answer without end.
    pub(super) life: Duration,
    /// What an answer under way gets when its connection is to end.
    pub(super) grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(30),
            life: Duration::from_secs(300),
            grace: Duration::from_secs(2),
        }
    }
}

/// The api, bound to its address.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
    address: SocketAddr,
    pub(super) bounds: Bounds,
    context: Arc<Context>,
}

/// What every request is answered from.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: model::Api,
    pub(super) state: State,
    pub(super) jaeger: Option<Jaeger>,
    pub(super) kernel: String,
}

impl Api {
    /// Binds the address. Nothing is answered before [`Api::serve`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is taken or not ours, or `api.jaegerQuery` is not a URL that can be asked.
    pub fn bind(config: &model::Api, state: State) -> io::Result<Self> {
        Self::on(listen(config)?, config, state)
    }

    /// The same with a socket that listens already.
    ///
    /// # Errors
    /// The system's, or `api.jaegerQuery` is not a URL that can be asked.
    pub fn on(listener: std::net::TcpListener, config: &model::Api, state: State) -> io::Result<Self> {
        let jaeger = config.jaeger_query.as_deref().map(Jaeger::parse).transpose();
        let jaeger = jaeger.map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Absent where /proc is; then the dashboard leaves it out.
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let context = Context { config: config.clone(), state, jaeger, kernel: kernel.trim().to_owned() };
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { listener, address, bounds: Bounds::default(), context: Arc::new(context) })
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is done, then finishes what is under way. All its tasks have ended when it returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let bounds = self.bounds;
        let mut shutdown = pin!(shutdown);
        let mut connections = JoinSet::new();
        let (closing, _) = watch::channel(false);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < bounds.connections => match accepted {
                    Ok((stream, peer)) => {
                        let context = Arc::clone(&self.context);
                        connections.spawn(connection(stream, peer, bounds, context, closing.subscribe()));
                    }
                    Err(error) => {
                        warn!(%error, "the api cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        // No receiver is an api without connections.
        let _ = closing.send(true);
        while connections.join_next().await.is_some() {}
    }
}

/// A socket at the api's address.
///
/// # Errors
/// It is taken or not ours.
pub fn listen(config: &model::Api) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(config.address).map_err(|error| {
        let address = config.address;
        let message = format!("api.address: cannot listen on {address}: {error}; free it or name another one");
        io::Error::new(error.kind(), message)
    })
}

/// Serves one connection until it ends, its life is over, or the api closes.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    bounds: Bounds,
    context: Arc<Context>,
    mut closing: watch::Receiver<bool>,
) {
    // Answers are written whole; a delayed last segment would only be slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, std::convert::Infallible>(answer(request, peer, &context).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = closing.wait_for(|closing| *closing) => None,
        () = tokio::time::sleep(bounds.life) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(bounds.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "an api connection broke");
    }
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, context: &Context) -> Reply {
    let started = MonoNs::now();
    let has_body = !request.body().is_end_stream();
    let (head, _) = request.into_parts();
    let (route, mut reply) = if has_body {
        // Unread, so that hyper closes the connection instead of reading it to its end.
        ("", reply::error(StatusCode::PAYLOAD_TOO_LARGE, "the api takes no bodies", "ask without one"))
    } else {
        answers::answer(&head, peer.ip(), context).await
    };
    if has_body {
        reply.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    (context.state.on_request)(&ApiRequest {
        path: head.uri.path().to_owned(),
        host: host::named(&head).to_owned(),
        method: head.method,
        route,
        status: reply.status().as_u16(),
        started,
        ended: MonoNs::now(),
        peer,
    });
    reply
}
