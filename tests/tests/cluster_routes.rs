//! Routes from a real API server: what a change touches, and what happens while the server is away. Ten minutes of that are
//! `cargo xtask scale --away 600`'s.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};
use wayspan_tests::http::Connection;
use wayspan_tests::{Agent, Kubernetes, Reply, Upstream, eventually, http};

/// An address of this machine that is not loopback: EndpointSlices take no others. Nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // TEST-NET-1, RFC 5737.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

fn upstream(word: &'static str) -> Upstream {
    Upstream::start_on((own_address(), 0).into(), move |_| Reply::ok(word)).unwrap()
}

fn ports(port: u16) -> Value {
    json!([{"name": "http", "port": port, "protocol": "TCP"}])
}

/// A Service with one endpoint, and an Ingress for a host of its name.
fn route(name: &str, server: SocketAddr) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": ports(server.port()),
        "endpoints": [{"addresses": [server.ip()], "conditions": {"ready": true}}],
    });
    let backend = json!({"service": {"name": name, "port": {"number": 80}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"rules": [{
            "host": format!("{name}.test"), "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
        }]},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice, ingress]})
}

fn moved(cluster: &Kubernetes, name: &str, server: SocketAddr) {
    let patch = json!({"ports": ports(server.port())}).to_string();
    cluster.kubectl(&["patch", "endpointslice", name, "--type=merge", "-p", &patch], "").unwrap();
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn traffic_goes_on_without_the_api_server_and_what_happened_meanwhile_is_caught_up_with() {
    let (old, new) = (upstream("old"), upstream("new"));
    let mut cluster = Kubernetes::start_alone().unwrap();
    for name in ["a", "b"] {
        cluster.kubectl(&["create", "-f", "-"], &route(name, old.address()).to_string()).unwrap();
    }
    let config = "entryPoints: {web: {address: \"127.0.0.1:0\"}}\nproviders: {kubernetesIngress: {}}\nworkers: {count: 1}\n\
                  api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\nprobes: off\n";
    let kubeconfig = cluster.config("admin");
    let mut agent = Agent::start_with(config, |binary| {
        let mut command = Command::new(binary);
        command.env("KUBECONFIG", kubeconfig);
        Ok(command)
    })
    .unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    let watches = || http::get(api, "localhost", "/api/status").unwrap().json().unwrap()["watches"].clone();
    let says = |name: &str| http::get(web, &format!("{name}.test"), "/").unwrap().text();
    eventually("both routes are served", || (says("a") == "old" && says("b") == "old").then_some(()));
    eventually("every watch has told all that there is", || {
        Some(watches()).filter(|all| all["ready"] == all["watches"] && all["failing"] == 0)
    });
    let before = watches();

    // An endpoint is a matter of its Service: nothing else is translated anew.
    moved(&cluster, "a", new.address());
    eventually("the endpoint's change has its effect", || (says("a") == "new").then_some(()));
    let after = watches();
    assert_eq!(after["wholeTranslations"], before["wholeTranslations"], "{after}");
    assert!(after["partialTranslations"].as_u64() > before["partialTranslations"].as_u64(), "{after}");
    assert_eq!(says("b"), "old");

    // The server away: everything goes on, over connections of before and new ones.
    let mut kept = Connection::open(web).unwrap();
    cluster.down();
    eventually("the watches say that the server is away", || Some(watches()).filter(|all| all["failing"] != 0));
    for _ in 0..50 {
        assert_eq!(kept.get("a.test", "/").unwrap().text(), "new");
        assert_eq!(says("b"), "old");
    }
    let page = http::get(api, "localhost", "/metrics").unwrap().text();
    let failing = page.lines().find_map(|line| line.strip_prefix("wayspan_provider_watches_failing ")).unwrap();
    assert_ne!(failing, "0");

    cluster.up().unwrap();
    moved(&cluster, "b", new.address());
    cluster.kubectl(&["delete", "ingress", "a"], "").unwrap();
    eventually("what happened is caught up with", || {
        let gone = kept.get("a.test", "/").unwrap().status == 404;
        (gone && says("b") == "new").then_some(())
    });
    eventually("no watch fails any more", || Some(watches()).filter(|all| all["failing"] == 0));
    assert!(agent.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}
