//! An api on a port of its own with canned state, and a client that writes what it is told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::api::server::Bounds;
use crate::api::{Api, ApiRequest, State};
use crate::config::{Reloader, model};

const CONFIG: &str = include_str!("canned.yaml");

/// Neither tracing nor metrics.
pub(super) const PLAIN: &str = "entryPoints: {web: {address: \":8000\"}}\n";

/// What a test may change.
pub(super) struct Setup {
    pub(super) config: String,
    pub(super) address: SocketAddr,
    pub(super) jaeger: Option<String>,
    pub(super) allowed: Vec<String>,
    pub(super) requests: Value,
    pub(super) metrics: bool,
    pub(super) dashboard: bool,
    pub(super) bounds: Bounds,
}

pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) starting: Arc<AtomicBool>,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) heard: Arc<Mutex<Vec<ApiRequest>>>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinSet<()>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    /// A header's value; empty where it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
    }
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        Self::try_with(change).await.unwrap()
    }

    pub(super) async fn try_with(change: impl FnOnce(&mut Setup)) -> io::Result<Self> {
        let mut setup = Setup {
            config: CONFIG.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            jaeger: None,
            allowed: Vec::new(),
            requests: json!([]),
            metrics: true,
            dashboard: true,
            bounds: Bounds::default(),
        };
        change(&mut setup);
        let starting = Arc::new(AtomicBool::new(false));
        let (draining, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let bounds = setup.bounds;
        let mut api = Api::bind(
            &model::Api {
                dashboard: setup.dashboard,
                address: setup.address,
                jaeger_query: setup.jaeger.clone(),
                allowed_hosts: setup.allowed.clone(),
            },
            state(setup, [&starting, &draining], &heard),
        )?;
        api.bounds = bounds;
        let address = api.address();
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(api.serve(async move { drop(stopped.await) }));
        Ok(Self { address, starting, draining, heard, stop: Some(stop), serving })
    }

    /// Tells it to end, and waits until it has.
    pub(super) async fn stop(&mut self) {
        self.tell_to_stop();
        self.serving.join_next().await.unwrap().unwrap();
    }

    pub(super) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    /// Writes the bytes and reads the answer until the connection ends.
    pub(super) async fn send(&self, request: &str) -> Answer {
        let text = self.send_and_wait(request).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(super) async fn send_and_wait(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A reset after the answer is how a refused body ends.
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    }
}

fn state(setup: Setup, [starting, draining]: [&Arc<AtomicBool>; 2], heard: &Arc<Mutex<Vec<ApiRequest>>>) -> State {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("main.yaml");
    std::fs::write(&file, &setup.config).unwrap();
    let mut reloader = Reloader::load(&file).unwrap();
    // One router keeps its last good version, one has none.
    let edited = setup.config.replace("PathPrefix(`/static`)", "PathPrefix(`static`)");
    let edited = edited.replace("    shop: {rule", "    broken: {rule: \"Hots(`x`)\", service: shop}\n    shop: {rule");
    std::fs::write(&file, edited).unwrap();
    let faults = reloader.reload_now().faults;
    let config = reloader.config();
    let heard = Arc::clone(heard);
    State {
        fixed: Arc::new(config.fixed.clone()),
        dynamic: Arc::new(ArcSwap::from_pointee(config.dynamic.clone())),
        faults: Arc::new(ArcSwap::from_pointee(faults)),
        catalog: Arc::default(),
        requests: Arc::new(move || setup.requests.clone()),
        probes: Arc::new(|| json!([{"tracepoint": "sk_data_ready", "on": true}])),
        switch: Arc::new(|set, _| set.is_none_or(|set| set == "backends")),
        span_counts: Arc::new(|| json!({"made": 3, "sent": 2})),
        kubernetes: Arc::new(|| json!({"pods": 3, "isSynced": true})),
        watches: Arc::new(|| json!({"watches": 4, "failing": 1})),
        metrics: setup.metrics.then(|| -> crate::api::Metrics {
            Arc::new(|accept| ("text/plain; version=0.0.4", format!("up 1 {accept}")))
        }),
        on_request: Arc::new(move |request| heard.lock().unwrap().push(request.clone())),
        starting: Arc::clone(starting),
        draining: Arc::clone(draining),
    }
}
