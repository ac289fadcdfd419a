//! The connection to the API server: where it is, who we are, how much we may ask. What is asked is others'.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::sync::OnceCell;
use tower::timeout::TimeoutLayer;
use wayspan_proxy::clock::MonoNs;

/// How long the API server is waited for. One that is gone may leave connections that nobody closes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// To connect: a watch is not to be held up for longer than by its own back-off.
    pub connect: Duration,
    /// Until an answer begins, with connecting.
    pub answer: Duration,
    /// Between two bytes of it. Where nothing else happens the server sends a watch a bookmark every minute; one whose etcd is too
    /// old for that is asked anew so often.
    pub silence: Duration,
}

/// Under which name kube's client logs each request that fails, and each watch whose connection ends.
pub const OWN_LOG: &str = "kube_client::client::builder";

pub(super) const LIMITS: Limits =
    Limits { connect: Duration::from_secs(10), answer: Duration::from_secs(30), silence: Duration::from_secs(75) };

/// Where the API server is, where the configuration says so (Traefik's `endpoint`, `token`, `certAuthFilePath`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// `endpoint`: the server's URL; none: KUBECONFIG or `~/.kube/config`, else the pod's service account.
    pub endpoint: Option<String>,
    /// `token`: a bearer token, or the path of a file that holds one and is read again as it changes.
    pub token: Option<String>,
    /// `certAuthFilePath`: the only roots that the server's certificate may come from.
    pub roots: Option<PathBuf>,
}

/// Why there is no client, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a file nor a service account says where the server is.
    #[error(
        "no API server is known: in a pod, mount the service account's token; elsewhere set KUBECONFIG or name an endpoint"
    )]
    Unknown(#[source] Box<kube::config::InferConfigError>),
    /// `endpoint` is no URL.
    #[error("endpoint: must be a URL such as https://10.96.0.1:443")]
    Endpoint(#[source] http::uri::InvalidUri),
    /// Certificates or keys cannot be used.
    #[error("the API server's certificates or our own cannot be used")]
    Material(#[source] Box<kube::Error>),
}

/// Makes a client. Nothing is asked of the server yet: one that is away is no fault of the start.
///
/// # Errors
/// When it is not known where the server is, or credentials cannot be read.
pub async fn connect(connection: &Connection) -> Result<Client, ConnectError> {
    let mut config = match &connection.endpoint {
        Some(endpoint) => Config::new(endpoint.parse().map_err(ConnectError::Endpoint)?),
        None => Config::infer().await.map_err(|error| ConnectError::Unknown(Box::new(error)))?,
    };
    if let Some(token) = &connection.token {
        if token.starts_with('/') {
            config.auth_info.token_file = Some(token.clone());
        } else {
            config.auth_info.token = Some(token.clone().into());
        }
    }
    if let Some(roots) = &connection.roots {
        config.root_cert_file = Some(roots.clone());
    }
    limited(config, LIMITS).map_err(|error| ConnectError::Material(Box::new(error)))
}

/// A client that does not wait for longer.
pub(super) fn limited(mut config: Config, limits: Limits) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(limits.connect);
    config.read_timeout = Some(limits.silence);
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(limits.answer)).build())
}

/// Whether a connection was given up because nothing came over it for so long.
pub(super) fn is_silence(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_timeout = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
    };
    std::iter::successors(Some(error), |error| error.source()).any(is_timeout)
}

/// One client for all who ask: made for the first of them.
#[derive(Default)]
pub struct Shared {
    client: OnceCell<Client>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("is_made", &self.client.initialized()).finish()
    }
}

impl Shared {
    /// The client.
    ///
    /// # Errors
    /// As [`connect`]; then the next who asks tries again.
    pub async fn get(&self, connection: &Connection) -> Result<Client, ConnectError> {
        self.client.get_or_try_init(|| connect(connection)).await.cloned()
    }
}

/// Spreads requests of one kind: so many at once, then so many a second. Traefik's figures for status writes, which a
/// cluster of a thousand routes needs and an API server bears.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    burst: u32,
    /// When the bucket is full again.
    full_at: MonoNs,
}

impl Pace {
    /// `burst` at once, and `per_second` from then on.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::from_secs(1));
        Self { interval, burst: burst.max(1), full_at: MonoNs(0) }
    }

    /// Takes a turn: how long to wait before the request may go.
    pub fn take(&mut self, now: MonoNs) -> Duration {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        let reserve = interval.saturating_mul(u64::from(self.burst));
        self.full_at = MonoNs(self.full_at.0.max(now.0).saturating_add(interval));
        Duration::from_nanos(self.full_at.0.saturating_sub(now.0).saturating_sub(reserve))
    }
}

/// Why the API server did not do something: in its own words, where it has any.
#[must_use]
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => causes(error),
    }
}

/// An error with all that lies behind it.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Many repeat their cause's words.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_pace() {
        let mut pace = Pace::new(50, 3);
        let second = |ms: u64| MonoNs(1_000_000_000 + ms * 1_000_000);
        let waits: Vec<_> = (0..5).map(|_| pace.take(second(0)).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 20, 40]);
        // Idle for long: the bucket is full, and not fuller.
        let waits: Vec<_> = (0..4).map(|_| pace.take(second(60_000)).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 20]);
    }

    #[tokio::test]
    async fn a_client_needs_no_server_to_be_made() {
        let gone = Connection { endpoint: Some("https://127.0.0.1:1".to_owned()), ..Connection::default() };
        let client = connect(&gone).await.unwrap();
        assert!(client.apiserver_version().await.is_err());
        let text = Connection { endpoint: Some("no url".to_owned()), ..Connection::default() };
        assert!(matches!(connect(&text).await, Err(ConnectError::Endpoint(_))));
    }
}
