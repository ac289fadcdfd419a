//! Polls the sampling server and swaps the policy. The last good answer is kept while there is no better one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use wayspan_proxy::sampling::Policy;

use super::fetch;
pub use super::fetch::BadUrl;
use super::strategies::Strategies;
use crate::config::model::SamplingServer;

/// For one question and its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before the first answer the server is asked more often: it may be starting beside us.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How the questions went.
#[derive(Debug, Default)]
pub struct PollCounts {
    /// Answers that were understood.
    pub answers: AtomicU64,
    /// Answers that changed the policy.
    pub changes: AtomicU64,
    /// Questions without an answer, or with one that was not understood.
    pub failures: AtomicU64,
}

/// The running client; ends when dropped.
#[derive(Debug)]
pub struct RemoteSampling {
    counts: Arc<PollCounts>,
    task: JoinSet<()>,
}

impl RemoteSampling {
    /// Starts asking on a runtime. `policy` holds the configured ratio until the first answer.
    ///
    /// # Errors
    /// Where the URL cannot be asked.
    pub fn start(
        server: &SamplingServer,
        service_name: &str,
        policy: Arc<ArcSwap<Policy>>,
        seed: u64,
        runtime: &Handle,
    ) -> Result<Self, BadUrl> {
        let counts = Arc::new(PollCounts::default());
        let poller = Poller {
            uri: fetch::question(&server.url, service_name)?,
            interval: server.interval,
            policy,
            counts: Arc::clone(&counts),
            random: fastrand::Rng::with_seed(seed),
            obeyed: None,
            failing: false,
        };
        let mut task = JoinSet::new();
        task.spawn_on(poller.run(), runtime);
        Ok(Self { counts, task })
    }

    /// How the questions went.
    #[must_use]
    pub fn counts(&self) -> Arc<PollCounts> {
        Arc::clone(&self.counts)
    }

    /// Ends it.
    pub async fn shutdown(mut self) {
        self.task.shutdown().await;
    }
}

struct Poller {
    uri: Uri,
    interval: Duration,
    policy: Arc<ArcSwap<Policy>>,
    counts: Arc<PollCounts>,
    random: fastrand::Rng,
    /// The last good answer.
    obeyed: Option<Strategies>,
    failing: bool,
}

impl Poller {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY.min(self.interval);
        loop {
            let answer = timeout(TIMEOUT, fetch::get(&self.uri)).await;
            let strategies = match answer {
                Ok(Ok(body)) => Strategies::parse(&body).map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
            };
            self.take(strategies);
            let wait = if self.obeyed.is_some() { self.interval } else { retry };
            retry = (retry * 2).min(self.interval);
            // A tenth more or less, so that many nodes do not ask together.
            sleep(wait.mul_f64(0.9 + 0.2 * self.random.f64())).await;
        }
    }

    fn take(&mut self, answer: Result<Strategies, String>) {
        let failed = answer.is_err();
        match answer {
            Ok(strategies) => {
                self.counts.answers.fetch_add(1, Ordering::Relaxed);
                if self.obeyed.as_ref() != Some(&strategies) {
                    self.policy.store(Arc::new(strategies.policy(&self.policy.load())));
                    self.counts.changes.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(operations = strategies.operations(), "sampling strategies changed");
                    self.obeyed = Some(strategies);
                }
                if self.failing {
                    tracing::info!("the sampling server answers again");
                }
            }
            Err(error) => {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                if !self.failing {
                    tracing::warn!(server = %self.uri, %error, "no sampling strategies: what was decided before holds");
                }
            }
        }
        self.failing = failed;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the next text, whole as it goes over the wire, and then no more.
    async fn server(answers: &[&str]) -> (String, JoinSet<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sampling", listener.local_addr().unwrap());
        let mut answers: VecDeque<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut asked = Vec::new();
            while let Some(answer) = answers.pop_front() {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 2048];
                let length = socket.read(&mut head).await.unwrap();
                asked.push(String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (url, task)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn answers_are_obeyed_and_the_last_good_one_is_kept() {
        let half = ok(r#"{"strategyType":0,"probabilisticSampling":{"samplingRate":0.5}}"#);
        let rate = ok(r#"{"strategyType":"RATE_LIMITING","rateLimitingSampling":{"maxTracesPerSecond":3}}"#);
        let huge = ok(&" ".repeat(ANSWER_TOO_LONG));
        let refused = "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
        let script = [refused, "", &ok("{}"), &half, &half, "junk", &huge, &rate];
        let (url, mut server) = server(&script).await;
        let policy = Arc::new(ArcSwap::from_pointee(Policy::ratio(0.25)));
        let settings = SamplingServer { url, interval: Duration::from_millis(1) };
        let handle = Handle::current();
        let client = RemoteSampling::start(&settings, "way span", Arc::clone(&policy), 7, &handle).unwrap();
        let counts = client.counts();
        let mut shares = vec![0.25];
        while counts.answers.load(Ordering::Relaxed) < 3 {
            let share = policy.load().default.share;
            if shares.last() != Some(&share) {
                shares.push(share);
            }
            tokio::task::yield_now().await;
        }
        shares.push(policy.load().default.share);
        shares.dedup();
        assert_eq!(shares, [0.25, 0.5, 3.0]);
        assert!(policy.load().default.limit.is_some() && policy.load().parent_based);
        assert_eq!(counts.changes.load(Ordering::Relaxed), 2);
        assert!(counts.failures.load(Ordering::Relaxed) >= 5);
        client.shutdown().await;
        let asked = server.join_next().await.unwrap().unwrap();
        assert_eq!((asked.len(), asked[0].as_str()), (8, "GET /sampling?service=way%20span HTTP/1.1"));
    }

    const ANSWER_TOO_LONG: usize = (1 << 20) + 1;
}
