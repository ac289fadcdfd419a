//! Spans name the pods at both ends, by a real API server: also when an address changes hands, and while the server is away.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wayspan_tests::otlp;
use wayspan_tests::{Agent, Kubernetes, Reply, Upstream, config, eventually, http, private_loopback};

/// The API tells when an end was asked for in whole seconds, and a second more is given to clocks that differ: only what was
/// connected before is certain.
const CERTAIN: Duration = Duration::from_millis(2_100);

/// A span's attributes that are texts.
type Told = Vec<(String, String)>;

/// The CLIENT and SERVER spans, as they come.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(u64, Told)>>>);

impl Spans {
    fn receive(&self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let spans = self.clone();
        otlp::receive(listener, move |message| {
            for span in otlp::spans(message) {
                let texts = otlp::attributes(span).filter_map(|(key, _, value)| match value {
                    otlp::Value::Bytes(text) => Some((key.to_owned(), String::from_utf8_lossy(text).into_owned())),
                    otlp::Value::Number(_) => None,
                });
                spans.0.lock().unwrap().push((otlp::number(span, 6).unwrap_or(0), texts.collect()));
            }
        });
        address
    }

    /// The span of that kind (OTLP's 2 is SERVER, 3 CLIENT) of the request for `path`.
    fn of(&self, kind: u64, path: &str) -> Told {
        eventually(&format!("a span of {path} has come"), || {
            let spans = self.0.lock().unwrap();
            let is_of_it = |(key, value): &(String, String)| match key.as_str() {
                "url.path" => value == path,
                "url.full" => value.ends_with(path),
                _ => false,
            };
            spans.iter().find(|(k, told)| *k == kind && told.iter().any(is_of_it)).map(|(_, told)| told.clone())
        })
    }
}

fn value<'t>(told: &'t Told, key: &str) -> &'t str {
    told.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
}

/// A pod of a Deployment as a kubelet tells of it: it has run for a minute.
fn pod(name: &str, deployment: &str, ip: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": deployment, "pod-template-hash": "5d9f7c8b6d"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d9f7c8b6d"), "uid": "1", "controller": true,
            }],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "web", "image": "none"}]},
        "status": {"phase": "Running", "podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}]},
    })
}

/// What docs/pods.md says that the agent needs.
fn role() -> String {
    let page = std::fs::read_to_string(wayspan_tests::root().join("docs/pods.md")).unwrap();
    let rules = page.lines().skip_while(|line| *line != "    rules:").take_while(|line| !line.is_empty());
    let rules: String = rules.map(|line| format!("{line}\n")).collect();
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: agent}}
{}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: agent}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: agent}}]
",
        rules.replace("\n    ", "\n").trim_start()
    )
}

fn doctor(cluster: &Kubernetes) -> Value {
    let mut command = Command::new(Agent::binary().unwrap());
    let output = command.args(["doctor", "--json"]).env("KUBECONFIG", cluster.config("agent")).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["kubernetes"].clone()
}

fn held(report: &Value) -> Vec<bool> {
    report["rights"].as_array().unwrap().iter().map(|right| right["held"].as_bool().unwrap()).collect()
}

struct World {
    cluster: Kubernetes,
    spans: Spans,
    agent: Agent,
    web: SocketAddr,
}

impl World {
    /// The agent's user may do what the page says; the upstream closes what `/last` came over.
    fn start(upstream: &Upstream, cluster: Kubernetes) -> Self {
        let spans = Spans::default();
        let config = config::forward("PathPrefix(`/`)", upstream.address())
            + &format!(
                "tracing: {{sampleRate: 1.0, otlp: {{http: {{endpoint: \"http://{}\"}}}}}}
kubernetes: {{metadata: {{enabled: true, labels: [app]}}}}
workers: {{count: 1}}
api: {{address: \"127.0.0.1:0\"}}
metrics: {{prometheus: {{}}}}
",
                spans.receive()
            );
        let mut agent = Agent::start_with(&config, |binary| {
            let mut command = Command::new(binary);
            command.env("KUBECONFIG", cluster.config("agent"));
            Ok(command)
        })
        .unwrap();
        let web = agent.address("web").unwrap();
        Self { cluster, spans, agent, web }
    }

    fn status(&mut self) -> Value {
        let api = self.agent.address("api").unwrap();
        http::get(api, "localhost", "/api/status").unwrap().json().unwrap()["kubernetes"].clone()
    }

    fn knows(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, || Some(self.status()).filter(|status| is_so(status)));
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn pods_are_named_by_when_the_connection_was_made() {
    let key = rcgen::KeyPair::generate().unwrap();
    let cluster = Kubernetes::start([&key.serialize_pem(), &key.public_key_pem()]).unwrap();
    assert_eq!(held(&doctor(&cluster)), [false; 6]);
    cluster.kubectl(&["create", "-f", "-"], &role()).unwrap();
    eventually("the role holds", || (held(&doctor(&cluster)) == [true; 6]).then_some(()));
    let backend = private_loopback(&[]).unwrap();
    let upstream = Upstream::start_on((backend, 0).into(), |request| {
        let reply = Reply::ok("hello");
        if request.target == "/last" { reply.then_close() } else { reply }
    })
    .unwrap();
    let zone = json!({"topology.kubernetes.io/zone": "zone-a"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": zone}});
    cluster.make(&node).unwrap();
    cluster.make(&pod("shop-1", "shop", backend)).unwrap();
    cluster.make(&pod("caller-1", "caller", Ipv4Addr::LOCALHOST)).unwrap();
    let mut world = World::start(&upstream, cluster);
    world.knows("both pods", |status| status["pods"] == 2 && status["isSynced"] == true);
    let web = world.web;
    let mut client = http::Connection::open(web).unwrap();
    let mut get = |path: &str| assert_eq!(client.get("h", path).unwrap().status, 200);
    get("/first");
    let told = world.spans.of(3, "/first");
    for (key, expected) in [
        ("peer.k8s.namespace.name", "default"),
        ("peer.k8s.pod.name", "shop-1"),
        ("peer.k8s.deployment.name", "shop"),
        ("peer.k8s.node.name", "node-1"),
        ("peer.k8s.zone", "zone-a"),
        ("peer.k8s.container.name", "web"),
        ("peer.k8s.pod.label.app", "shop"),
        ("service.peer.name", "shop"),
        ("peer.service", "shop"),
    ] {
        assert_eq!(value(&told, key), expected, "{key}");
    }
    assert_eq!(value(&world.spans.of(2, "/first"), "peer.k8s.pod.name"), "caller-1");

    std::thread::sleep(CERTAIN);
    // Another pod gets the address. What is sent over the connection that stays open goes to the first.
    world.cluster.kubectl(&["delete", "pod", "shop-1", "--force"], "").unwrap();
    world.cluster.make(&pod("cart-1", "cart", backend)).unwrap();
    world.knows("the second pod", |status| status["pods"] == 2 && status["resting"] == 1);
    get("/last");
    assert_eq!(value(&world.spans.of(3, "/last"), "peer.k8s.pod.name"), "shop-1");
    get("/next");
    assert_eq!(value(&world.spans.of(3, "/next"), "peer.k8s.pod.name"), "cart-1");

    // Without the server everything goes on, and what happened meanwhile is caught up with.
    world.cluster.down();
    world.knows("that the server is away", |status| status["failure"].is_string() && status["isSynced"] == false);
    get("/away");
    assert_eq!(value(&world.spans.of(3, "/away"), "peer.k8s.pod.name"), "cart-1");
    world.cluster.up().unwrap();
    world.cluster.make(&pod("late-1", "late", Ipv4Addr::new(10, 0, 0, 9))).unwrap();
    world.knows("the third pod", |status| status["pods"] == 3 && status["isSynced"] == true);
    let api = world.agent.address("api").unwrap();
    assert!(http::get(api, "localhost", "/metrics").unwrap().text().contains("wayspan_kubernetes_pods 3\n"));
    assert!(world.agent.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}
