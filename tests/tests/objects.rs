//! Objects of a real API server, with the rights that the manifests give: what a check says of them, what events tell of bad ones,
//! and TLS from them.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use wayspan_tests::tls::{Certificate, Client, settings};
use wayspan_tests::{Agent, Kubernetes, Reply, Upstream, eventually, wait_until};

/// A Lease lasts 15 s and is looked at every four.
const TAKE_OVER: Duration = Duration::from_secs(60);

const CONFIG: &str = "entryPoints: {web: {address: \"127.0.0.1:0\"}}
providers: {kubernetesIngress: {}, kubernetesCRD: {allowExternalNameServices: true}}
kubernetes: {metadata: {enabled: false}}
api: {address: \"127.0.0.1:0\"}
workers: {count: 1}
";

/// An API with Traefik's kinds, and the agent's rights there as the manifests give them.
fn cluster() -> Kubernetes {
    let key = rcgen::KeyPair::generate().unwrap();
    let cluster = Kubernetes::start([&key.serialize_pem(), &key.public_key_pem()]).unwrap();
    let root = wayspan_tests::root();
    cluster.kubectl(&["create", "-f", root.join("deploy/helm/wayspan/crds").to_str().unwrap()], "").unwrap();
    // Its kind is served by Traefik, and by nobody else.
    let tcp = std::fs::read_to_string(root.join("deploy/helm/wayspan/crds/traefik.io_ingressroutes.yaml")).unwrap();
    let tcp = tcp.replace("ingressroutes", "ingressroutetcps").replace("ingressroute\n", "ingressroutetcp\n");
    cluster.kubectl(&["create", "-f", "-"], &tcp.replace("IngressRoute", "IngressRouteTCP")).unwrap();
    for kind in ["ingressroutes", "ingressroutetcps", "middlewares", "tlsoptions", "tlsstores", "serverstransports"] {
        let name = format!("crd/{kind}.traefik.io");
        cluster.kubectl(&["wait", "--for=condition=Established", &name], "").unwrap();
    }
    cluster
}

fn allow(cluster: &Kubernetes) {
    let manifests = std::fs::read_to_string(wayspan_tests::root().join("deploy/manifests/wayspan.yaml")).unwrap();
    for kind in ["ClusterRole", "Role"] {
        let is_it = |text: &&str| text.lines().any(|line| line == format!("kind: {kind}"));
        let role = manifests.split("\n---\n").find(is_it).unwrap().replace("namespace: wayspan", "namespace: default");
        cluster.kubectl(&["create", "-f", "-"], &role).unwrap();
    }
    let bind = |kind: &str, role: &str| ["create", kind, "agent", role, "--user=agent"].map(str::to_owned);
    for arguments in
        [bind("clusterrolebinding", "--clusterrole=wayspan-wayspan"), bind("rolebinding", "--role=wayspan-leader")]
    {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        cluster.kubectl(&arguments, "").unwrap();
    }
}

fn ingress(name: &str, namespace: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rules": [{"host": format!("{name}.example"), "http": {"paths": paths}}]},
    })
}

fn route(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// A Service with one endpoint, where nobody is.
fn service(cluster: &Kubernetes, name: &str, namespace: &str) {
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}});
    cluster
        .make(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": "None", "ports": [{"name": "web", "port": 80}]},
        }))
        .unwrap();
    cluster
        .make(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
            "ports": [{"name": "web", "port": 80}], "endpoints": [{"addresses": ["192.0.2.1"]}],
        }))
        .unwrap();
}

fn agent(cluster: &Kubernetes) -> Agent {
    Agent::start_with(CONFIG, |binary| {
        let mut command = Command::new(binary);
        command.env("KUBECONFIG", cluster.config("agent"));
        Ok(command)
    })
    .unwrap()
}

/// What a check says: its exit code, and its output.
fn check(cluster: &Kubernetes, user: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Agent::binary().unwrap());
    command.args(["check", "--from-cluster"]).args(arguments).env("KUBECONFIG", cluster.config(user));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

/// An Ingress of another class, and two objects of Traefik's that are not supported.
fn others(cluster: &Kubernetes) {
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
    cluster.make(&class).unwrap();
    let mut theirs = ingress("theirs", "default", "shop");
    theirs["spec"]["ingressClassName"] = "nginx".into();
    theirs["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/rewrite-target": "/$1"});
    cluster.make(&theirs).unwrap();
    let sticky = json!({"name": "shop", "port": 80, "sticky": {"cookie": {}}});
    cluster
        .make(&route(
            "sticky",
            &json!({"routes": [{"match": "Host(`s.example`)", "kind": "Rule", "services": [sticky]}]}),
        ))
        .unwrap();
    let mut tcp = route("tcp", &json!({"routes": []}));
    tcp["kind"] = "IngressRouteTCP".into();
    cluster.make(&tcp).unwrap();
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn a_check_says_what_would_be_served_otherwise_or_not_at_all() {
    let mut cluster = cluster();
    let (code, told) = check(&cluster, "agent", &[]);
    assert!(code == Some(1) && told.contains("Ingress: cannot be read: "), "{told}");
    allow(&cluster);
    cluster.kubectl(&["create", "namespace", "good"], "").unwrap();
    service(&cluster, "shop", "default");
    service(&cluster, "shop", "good");
    cluster.make(&ingress("fine", "good", "shop")).unwrap();
    others(&cluster);

    // By who may read everything, by who may read what is served, and only where all is well.
    let (code, told) = check(&cluster, "admin", &["--json"]);
    let report: Value = serde_json::from_str(&told).unwrap();
    let found: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| ["kind", "namespace", "name", "effect", "path"].map(|key| one[key].as_str().unwrap()).join(" "))
        .collect();
    assert_eq!(
        found,
        [
            "Ingress default theirs notOurs spec.ingressClassName",
            "IngressRoute default sticky notServed spec.routes[0].services",
            "IngressRouteTCP default tcp notServed ",
        ]
    );
    assert_eq!((code, &report["isWhole"]), (Some(1), &json!(false)));
    assert_eq!(report["objects"]["Ingress"], json!({"there": 2, "ours": 1, "asTheyAre": 1}));
    let (code, told) = check(&cluster, "agent", &[]);
    assert!(code == Some(1) && told.contains("IngressRouteTCP: cannot be read, and would not be served"), "{told}");
    let (code, told) = check(&cluster, "agent", &["--namespace", "good"]);
    assert_eq!(
        (code, told.lines().last()),
        (Some(0), Some("Ingress: 1 there, 1 ours, 1 of these served as they are")),
        "{told}"
    );
    let (_, told) = check(&cluster, "agent", &["--ingress-class", "nginx", "--namespace", "default"]);
    assert!(
        told.contains(
            "Ingress default/theirs: differs: metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]: "
        ),
        "{told}"
    );
    // With a file its providers count.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wayspan.yaml");
    std::fs::write(
        &file,
        CONFIG
            .replace("kubernetesIngress: {}", "kubernetesIngress: {namespaces: [good]}")
            .replace("kubernetesCRD: {", "kubernetesCRD: {namespaces: [good], "),
    )
    .unwrap();
    let (code, told) = check(&cluster, "agent", &[file.to_str().unwrap()]);
    let last = Some("Ingress: 1 there, 1 ours, 1 of these served as they are");
    assert!(code == Some(0) && told.starts_with(file.to_str().unwrap()) && told.lines().last() == last, "{told}");
    cluster.down();
    let (code, told) = check(&cluster, "agent", &[]);
    assert!(code == Some(1) && told.contains("cannot be read: "), "{told}");
}

/// Note, count and reporter of each event about an object, in the order of the notes.
fn events(cluster: &Kubernetes, name: &str) -> Vec<(String, u64, String)> {
    let list = cluster.kubectl(&["get", "events.v1.events.k8s.io", "-A", "-o", "json"], "").unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let about = list["items"].as_array().unwrap().iter().filter(|one| one["regarding"]["name"] == name);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = about
        .map(|one| {
            let count = one["series"]["count"].as_u64().unwrap_or(1);
            (text(&one["note"]), count, text(&one["reportingInstance"]))
        })
        .collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn bad_objects_are_told_of_by_one_agent_and_once() {
    let cluster = cluster();
    allow(&cluster);
    let mut bad = ingress("bad", "default", "lost");
    bad["spec"]["tls"] = json!([{"secretName": "none"}]);
    cluster.make(&bad).unwrap();
    let lost = json!([{"name": "lost"}]);
    let services = json!([{"name": "api@internal", "kind": "TraefikService"}]);
    cluster.make(&route("lame", &json!({"routes": [{"match": "Host(`l.example`)", "kind": "Rule", "middlewares": lost, "services": services}]}))).unwrap();
    let option = json!({"apiVersion": "traefik.io/v1alpha1", "kind": "TLSOption", "metadata": {"name": "odd", "namespace": "default"}, "spec": {"minVersion": "x"}});
    cluster.make(&option).unwrap();
    let mut agents = [agent(&cluster), agent(&cluster)];
    for agent in &mut agents {
        agent.address("web").unwrap();
    }
    let told = wait_until(TAKE_OVER, || Some(events(&cluster, "bad")).filter(|all| all.len() >= 2)).unwrap();
    let notes: Vec<_> = told.iter().map(|(note, count, _)| (note.as_str(), *count)).collect();
    assert_eq!(
        notes,
        [
            ("spec.rules[0].http.paths[0].backend: there is no Service default/lost", 1),
            ("spec.tls[0].secretName: there is no Secret default/none", 1),
        ]
    );
    let lame = eventually("an event of a middleware that is not there", || events(&cluster, "lame").pop());
    assert!(lame.0.starts_with("there is no middleware `default-lost@kubernetescrd`"), "{}", lame.0);
    eventually("an event of a TLSOption", || events(&cluster, "odd").pop());
    // As kubectl shows them.
    let shown = cluster.kubectl(&["describe", "ingress", "bad"], "").unwrap();
    assert!(shown.contains("NotServed") && shown.contains("there is no Service default/lost"), "{shown}");

    // The one who leads is killed; the next one tells again, of the same.
    let leader = told.first().unwrap().2.clone();
    let lease =
        || cluster.kubectl(&["get", "lease", "wayspan-status", "-o", "jsonpath={.spec.holderIdentity}"], "").unwrap();
    assert_eq!(lease(), leader);
    let (led, mut stays): (Vec<_>, Vec<_>) =
        agents.into_iter().partition(|agent| agent.process.log().iter().any(|line| line.contains("leading=true")));
    assert_eq!((led.len(), stays.len()), (1, 1));
    drop(led);
    wait_until(TAKE_OVER, || (lease() != leader).then_some(())).unwrap();
    let again =
        wait_until(TAKE_OVER, || Some(events(&cluster, "bad")).filter(|all| all.iter().all(|one| one.1 == 2))).unwrap();
    assert_eq!(again.len(), 2, "{again:?}");
    // What is mended is told of no more.
    service(&cluster, "lost", "default");
    let mended = "there is no Service default/lost";
    let mut stays = stays.pop().unwrap();
    let api = stays.address("api").unwrap();
    eventually("it is mended", || {
        let status = wayspan_tests::http::get(api, "localhost", "/api/status").unwrap().text();
        (!status.contains(mended)).then_some(())
    });
    assert_eq!(events(&cluster, "bad"), again);
    assert!(stays.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn tls_of_objects_is_spoken_and_follows_their_secrets() {
    let cluster = cluster();
    allow(&cluster);
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    // No endpoint may have an address of this machine's own, but a name may.
    let spec = json!({"type": "ExternalName", "externalName": "localhost"});
    let metadata = json!({"name": "shop", "namespace": "default"});
    cluster.make(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})).unwrap();
    let certificates = [1, 2].map(|_| Certificate::of(&["a.example"]).unwrap());
    let secret = |certificate: &Certificate| {
        let data = json!({"tls.crt": certificate.pem, "tls.key": certificate.key});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert", "namespace": "default"}, "type": "kubernetes.io/tls", "stringData": data})
    };
    cluster.make(&secret(&certificates[0])).unwrap();
    let users = json!({"username": "ann", "password": "secret"});
    cluster.make(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users", "namespace": "default"}, "type": "kubernetes.io/basic-auth", "stringData": users})).unwrap();
    let traefik = |kind: &str, name: &str, spec: Value| {
        let object = json!({"apiVersion": "traefik.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        cluster.make(&object).unwrap();
    };
    traefik("TLSStore", "default", json!({"defaultCertificate": {"secretName": "cert"}}));
    traefik("TLSOption", "new", json!({"minVersion": "VersionTLS13"}));
    traefik("Middleware", "users", json!({"basicAuth": {"secret": "users"}}));
    let rule = |host: &str, middlewares: Value| {
        let services = json!([{"name": "shop", "port": upstream.address().port()}]);
        json!([{"match": format!("Host(`{host}`)"), "kind": "Rule", "middlewares": middlewares, "services": services}])
    };
    traefik("IngressRoute", "old", json!({"routes": rule("old.example", json!([])), "tls": {}}));
    traefik(
        "IngressRoute",
        "new",
        json!({"routes": rule("new.example", json!([{"name": "users"}])), "tls": {"options": {"name": "new"}}}),
    );
    let mut agent = agent(&cluster);
    let web = agent.address("web").unwrap();
    let (new, old) = (settings(None, false).unwrap(), settings(None, true).unwrap());
    // No certificate is for these names: the store's default is shown.
    let mut client = Client::open(web, "old.example", &old).unwrap();
    assert_eq!(client.peer(), certificates[0].der().unwrap());
    assert_eq!(client.get("old.example", "/").unwrap().text(), "hello");
    assert!(Client::open(web, "new.example", &old).is_err());
    assert_eq!(Client::open(web, "new.example", &new).unwrap().get("new.example", "/").unwrap().status, 401);

    cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &secret(&certificates[1]).to_string())
        .unwrap();
    eventually("the renewed certificate is shown", || {
        let shown = Client::open(web, "old.example", &settings(None, false).unwrap()).ok()?.peer();
        (shown == certificates[1].der().unwrap()).then_some(())
    });
    assert!(agent.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn requests_of_what_cannot_be_read_do_not_go_to_a_wider_route() {
    let cluster = cluster();
    allow(&cluster);
    let services = json!([{"name": "api@internal", "kind": "TraefikService"}]);
    let to_api = |name: &str, rule: &str| {
        route(name, &json!({"routes": [{"match": rule, "kind": "Rule", "services": services}]}))
    };
    cluster.make(&to_api("all", "PathPrefix(`/`)")).unwrap();
    cluster.make(&to_api("two", "Host(`two.example`, `three.example`)")).unwrap();
    let mut annotated = ingress("annotated", "default", "lost");
    annotated["metadata"]["annotations"] = json!({"traefik.ingress.kubernetes.io/router.priority": "high"});
    cluster.make(&annotated).unwrap();
    let mut agent = agent(&cluster);
    let web = agent.address("web").unwrap();
    let status = |host: &str| wayspan_tests::http::get(web, host, "/api/overview").unwrap().status;
    eventually("the catch-all is served", || (status("other.example") == 200).then_some(()));
    let refused = ["two.example", "three.example", "annotated.example"];
    assert_eq!(refused.map(status), [500; 3]);
    for (name, what) in [("two", "spec.routes[0].match: "), ("annotated", "`high` is no whole number")] {
        let told = wait_until(TAKE_OVER, || events(&cluster, name).pop()).unwrap();
        assert!(told.0.contains(what) && told.0.ends_with("; its requests are answered with 500"), "{}", told.0);
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn another_namespace_takes_neither_a_hosts_certificate_nor_the_default_options_away() {
    let cluster = cluster();
    allow(&cluster);
    cluster.kubectl(&["create", "namespace", "evil"], "").unwrap();
    let certificates = [1, 2].map(|_| Certificate::of(&["web.example"]).unwrap());
    let tls = |namespace: &str, certificate: &Certificate| {
        let data = json!({"tls.crt": certificate.pem, "tls.key": certificate.key});
        cluster.make(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert", "namespace": namespace}, "type": "kubernetes.io/tls", "stringData": data})).unwrap();
        let mut web = ingress("web", namespace, "shop");
        web["spec"]["tls"] = json!([{"secretName": "cert"}]);
        web["metadata"]["annotations"] = json!({"traefik.ingress.kubernetes.io/router.tls": "true"});
        cluster.make(&web).unwrap();
    };
    service(&cluster, "shop", "default");
    service(&cluster, "shop", "evil");
    let option = |namespace: &str, spec: Value| {
        let metadata = json!({"name": "default", "namespace": namespace});
        let object =
            json!({"apiVersion": "traefik.io/v1alpha1", "kind": "TLSOption", "metadata": metadata, "spec": spec});
        cluster.make(&object).unwrap();
    };
    tls("default", &certificates[0]);
    option("default", json!({"minVersion": "VersionTLS13"}));
    // Objects have whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    tls("evil", &certificates[1]);
    option("evil", json!({"clientAuth": {"secretNames": ["none"]}}));
    let mut agent = agent(&cluster);
    let web = agent.address("web").unwrap();
    let client = Client::open(web, "web.example", &settings(None, false).unwrap()).unwrap();
    assert_eq!(client.peer(), certificates[0].der().unwrap());
    assert!(Client::open(web, "web.example", &settings(None, true).unwrap()).is_err());
    let notes = || events(&cluster, "web").into_iter().chain(events(&cluster, "default")).map(|one| one.0);
    eventually("both are told", || {
        let hidden = notes().any(|note| note.contains("Secret evil/cert is not shown for `web.example`"));
        let own = notes().any(|note| note.contains("is for the routes of evil alone"));
        (hidden && own).then_some(())
    });
    assert!(agent.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}

/// A node with its address, and a pod of an agent there.
fn agent_on(cluster: &Kubernetes, node: &str, address: &str) {
    let addresses = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    cluster
        .make(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": addresses}))
        .unwrap();
    let status = json!({"phase": "Running", "hostIP": address, "conditions": [{"type": "Ready", "status": "True"}]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("agent-{node}"), "namespace": "default", "labels": {"app": "agent"}},
        "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "none"}]},
        "status": status,
    });
    cluster.make(&pod).unwrap();
}

#[test]
#[ignore = "needs a Kubernetes API server: `cargo xtask test --only cluster` builds it and runs this"]
fn statuses_name_the_nodes_of_all_ready_agents_and_follow_them() {
    let cluster = cluster();
    allow(&cluster);
    service(&cluster, "shop", "default");
    cluster.make(&ingress("web", "default", "shop")).unwrap();
    agent_on(&cluster, "b", "192.0.2.9");
    agent_on(&cluster, "a", "192.0.2.10");
    let config =
        CONFIG.replace("metadata: {enabled: false}", "metadata: {enabled: false}, status: {podSelector: app=agent}");
    let mut agent = Agent::start_with(&config, |binary| {
        let mut command = Command::new(binary);
        command.env("KUBECONFIG", cluster.config("agent")).env("NODE_NAME", "a");
        Ok(command)
    })
    .unwrap();
    let shown = || {
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        cluster.kubectl(&["get", "ingress", "web", "-o", path], "").unwrap()
    };
    eventually("both nodes are there", || (shown() == "192.0.2.9 192.0.2.10").then_some(()));
    agent_on(&cluster, "c", "192.0.2.1");
    eventually("a new one joins", || (shown() == "192.0.2.1 192.0.2.9 192.0.2.10").then_some(()));
    cluster.kubectl(&["delete", "pod", "agent-b", "--grace-period=0", "--force"], "").unwrap();
    wait_until(TAKE_OVER, || (shown() == "192.0.2.1 192.0.2.10").then_some(())).unwrap();
    assert!(agent.process.stop(wayspan_tests::PATIENCE).unwrap().success());
}
