//! Serves the dashboard with canned requests and a canned Jaeger, for working on its looks without a lab:
//! `cargo run -p wayspan-agent --example dashboard_fixture [API_PORT] [without-jaeger]`, until it is ended.
//! Its data holds every state that the dashboard can show, hostile text, too.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use wayspan_agent::api::{Api, State};
use wayspan_agent::config::Reloader;
use wayspan_proxy::clock::MonoNs;

const CONFIG: &str = include_str!("../src/api/tests/canned.yaml");

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = arguments.iter().find_map(|text| text.parse().ok()).unwrap_or(0);
    let with_jaeger = !arguments.iter().any(|text| text == "without-jaeger");
    let directory = tempfile::tempdir().expect("a directory for the configuration");
    let file = directory.path().join("wayspan.yaml");
    std::fs::write(&file, CONFIG).expect("write the configuration");
    let mut reloader = Reloader::load(&file).expect("the configuration is without fault");
    // An edit with a fault in a router that has a last good version, and in one that has none.
    let edited = CONFIG.replace("PathPrefix(`/static`)", "PathPrefix(`static`)");
    let edited = edited.replace("    shop: {rule", "    broken: {rule: \"Hots(`x`)\", service: shop}\n    shop: {rule");
    std::fs::write(&file, edited).expect("write the configuration");
    let faults = reloader.reload_now().faults;
    let config = reloader.config();

    let probes = json!([
        {"tracepoint": "sk_data_ready", "tells": "when bytes became readable", "since": "6.1", "on": true},
        {"tracepoint": "inet_sock_set_state", "tells": "handshakes and accepts", "since": "5.15", "on": true},
        {"tracepoint": "tcp_destroy_sock", "tells": "the end of a connection", "since": "5.15", "on": with_jaeger,
         "why": "the kernel has no such tracepoint", "remedy": "run on Linux 5.15 or later"},
    ]);
    let state = State {
        fixed: Arc::new(config.fixed.clone()),
        dynamic: Arc::new(ArcSwap::from_pointee(config.dynamic.clone())),
        faults: Arc::new(ArcSwap::from_pointee(faults)),
        catalog: Arc::new(ArcSwap::default()),
        requests: Arc::new(requests),
        probes: Arc::new(move || probes.clone()),
        switch: Arc::new(|_, _| true),
        span_counts: Arc::new(|| json!({"made": 18_204, "sent": 18_190, "lost": 0, "pending": 14})),
        kubernetes: Arc::new(|| serde_json::Value::Null),
        watches: Arc::new(|| Value::Null),
        metrics: Some(Arc::new(|_| ("text/plain; version=0.0.4", "# no metrics here\n".to_owned()))),
        on_request: Arc::new(|_| {}),
        starting: Arc::default(),
        draining: Arc::default(),
    };
    let mut api = wayspan_agent::config::model::Api {
        dashboard: true,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        jaeger_query: None,
        allowed_hosts: Vec::new(),
    };
    if with_jaeger {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the canned Jaeger");
        api.jaeger_query = listener.local_addr().ok().map(|address| format!("http://{address}"));
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(jaeger(stream))));
    }
    let api = Api::bind(&api, state).expect("a port for the api");
    println!("http://{}/dashboard/", api.address());
    api.serve(std::future::pending()).await;
}

fn requests() -> Value {
    let now = MonoNs::now().0;
    let hostile = "/<img src=x onerror=window.hacked=1><script>window.hacked=1</script>";
    let slow = [
        ("proxy_request", "proxy", 41),
        ("upstream_connect", "upstream_network", 212),
        ("upstream_write", "proxy", 18),
        ("upstream_wait", "upstream", 733_004),
        ("upstream_read_wait", "proxy_queue", 64),
        ("proxy_response", "proxy", 73),
    ];
    let queued = [
        ("accept_wait", "proxy_queue", 3_050),
        ("client_send", "client", 9_100),
        ("read_wait", "proxy_queue", 41_200),
        ("proxy_request", "proxy", 35),
        ("upstream_write", "proxy", 11),
        ("upstream_path_out", "upstream_network", 1_700),
        ("backend_pickup", "backend_queue", 18_400),
        ("backend_app", "backend", 25_300),
        ("upstream_path_back", "upstream_network", 900),
        ("upstream_read_wait", "proxy_queue", 120),
        ("proxy_response", "proxy", 44),
    ];
    let body = [
        ("proxy_request", "proxy", 40),
        ("middleware_wait", "auth", 12_000),
        ("upstream_wait", "upstream", 31_000),
        ("proxy_response", "proxy", 2_000),
        ("upstream_body", "backend", 120_000),
        ("client_drain", "client", 260_000),
    ];
    let quick = [
        ("read_wait", "proxy_queue", 12),
        ("proxy_request", "proxy", 30),
        ("upstream_wait", "upstream", 240),
        ("proxy_response", "proxy", 19),
    ];
    let mut list = vec![
        request(1, "GET", "/dispatch", 200, &slow, now - 4_000_000_000, "full"),
        request(2, "GET", "/export/all", 200, &body, now - 61_000_000_000, "full"),
        request(
            3,
            "POST",
            "/checkout/17",
            200,
            &queued,
            now - 12_000_000_000,
            "partial: the first byte came before the probes were on",
        ),
        request(4, "GET", hostile, 404, &quick, now - 130_000_000_000, "none: probes are off"),
        request(5, "GET", "/config", 502, &quick, now - 200_000_000_000, "full"),
    ];
    for i in 6..20 {
        list.push(request(i, "GET", "/dispatch", 200, &quick, now - i * 3_000_000_000, "full"));
    }
    list[3]["host"] = hostile.into();
    list[3]["sampled"] = false.into();
    list[4]["error"] = "connect_refused".into();
    list[4]["failed"] = true.into();
    Value::Array(list)
}

fn request(
    id: u64,
    method: &str,
    path: &str,
    status: u16,
    phases: &[(&str, &str, u64)],
    start: u64,
    coverage: &str,
) -> Value {
    let mut at = 0;
    let mut stretches = Vec::new();
    for (name, blame, us) in phases {
        stretches.push(json!({"name": name, "blame": blame, "from_us": at, "to_us": at + us}));
        at += us;
    }
    let list: Vec<Value> =
        phases.iter().map(|(name, blame, us)| json!({"name": name, "blame": blame, "us": us})).collect();
    let (dominant, blame, _) = phases.iter().max_by_key(|(_, _, us)| *us).copied().unwrap_or_default();
    json!({
        "trace_id": format!("{id:032x}"), "span_id": format!("{id:016x}"),
        "name": format!("{method} hotrod.localhost/"), "method": method, "host": "hotrod.localhost:8000", "path": path,
        "route": "/", "entry_point": "web", "router": "hotrod", "service": "hotrod", "upstream": "127.0.0.1:8080",
        "attempts": 1, "status": status, "start_mono_ns": start, "duration_us": at, "phases": list,
        "stretches": stretches, "blame": blame, "dominant": dominant, "coverage": coverage, "sampled": true,
        "failed": false, "error": "",
    })
}

/// Answers one question as Jaeger does.
fn jaeger(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let target = first.split(' ').nth(1).unwrap_or("/").to_owned();
    lines.by_ref().map_while(Result::ok).find(String::is_empty);
    let (status, kind, body) = match target.split('?').next().unwrap_or("/") {
        "/" => ("200 OK", "text/html", "<h1>placeholder</h1>".to_owned()),
        "/api/services" => ("200 OK", "application/json", json!({"data": ["wayspan", "frontend"]}).to_string()),
        "/api/dependencies" => ("200 OK", "application/json", dependencies().to_string()),
        path => match path.strip_prefix("/api/traces/") {
            Some("00000000000000000000000000000005") | None => {
                ("404 Not Found", "application/json", json!({"data": null, "errors": [{"code": 404}]}).to_string())
            }
            Some(id) => ("200 OK", "application/json", trace(id).to_string()),
        },
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn dependencies() -> Value {
    let edges = [
        ("wayspan", "wayspan", 12),
        ("wayspan", "frontend", 7),
        ("frontend", "frontend", 96),
        ("frontend", "customer", 6),
        ("frontend", "driver", 6),
        ("frontend", "route", 60),
        ("customer", "mysql", 6),
        ("driver", "redis-manual", 78),
        ("wayspan", "route", 3),
    ];
    let list: Vec<Value> = edges
        .iter()
        .map(|(parent, child, calls)| json!({"parent": parent, "child": child, "callCount": calls}))
        .collect();
    json!({"data": list, "total": 0, "errors": null})
}

fn trace(id: &str) -> Value {
    let tag = |key: &str, value: Value| json!({"key": key, "type": "string", "value": value});
    let mut spans = Vec::new();
    let mut add = |parent: usize, process: &str, name: &str, start: u64, duration: u64, tags: Vec<Value>| {
        let number = spans.len() + 1;
        let references = if parent == 0 {
            json!([])
        } else {
            json!([{"refType": "CHILD_OF", "traceID": id, "spanID": format!("{parent:016x}")}])
        };
        let logs = if process == "p2" {
            json!([{"timestamp": 1_700_000_000_000_000_u64 + start, "fields": [{"key": "event", "value": "HTTP request received"}, {"key": "level", "value": "<b>info</b>"}]}])
        } else {
            json!([])
        };
        spans.push(json!({"traceID": id, "spanID": format!("{number:016x}"), "operationName": name, "references": references,
            "startTime": 1_700_000_000_000_000_u64 + start, "duration": duration, "tags": tags, "logs": logs, "processID": process, "warnings": null}));
        number
    };
    let phases = vec![
        tag("span.kind", "server".into()),
        tag("http.response.status_code", json!(200)),
        tag("wayspan.phase.proxy_request", json!(41)),
        tag("wayspan.phase.upstream_connect", json!(212)),
        tag("wayspan.phase.upstream_wait", json!(733_004)),
        tag("wayspan.phase.proxy_response", json!(155)),
        tag("wayspan.dominant_phase", "upstream_wait".into()),
        tag("url.path", "/<script>window.hacked=1</script>".into()),
    ];
    let root = add(0, "p1", "GET hotrod.localhost/", 0, 733_412, phases);
    let router = add(root, "p1", "Router", 20, 733_300, vec![tag("traefik.router.name", "hotrod".into())]);
    let client = add(router, "p1", "GET", 41, 733_298, vec![tag("span.kind", "client".into())]);
    let front = add(client, "p2", "/dispatch", 300, 732_900, vec![tag("span.kind", "server".into())]);
    let call = add(front, "p2", "HTTP GET: /customer", 420, 312_000, vec![tag("span.kind", "client".into())]);
    let customer = add(call, "p3", "/customer", 800, 311_200, vec![]);
    add(
        customer,
        "p6",
        "SQL SELECT",
        1_000,
        310_800,
        vec![tag("sql.query", "SELECT * FROM customer WHERE customer_id=392".into())],
    );
    let drivers = add(front, "p4", "driver.DriverService/FindNearest", 313_000, 190_000, vec![]);
    for i in 0..10 {
        let failed = i % 4 == 3;
        let mut tags = vec![tag("param.driverID", format!("T7{i:05}C").into())];
        if failed {
            tags.push(json!({"key": "error", "type": "bool", "value": true}));
        }
        add(drivers, "p7", if failed { "GetDriver" } else { "FindDriverIDs" }, 313_300 + i * 19_000, 18_000, tags);
    }
    for i in 0..10 {
        add(front, "p5", "/route", 505_000 + (i / 3) * 55_000, 40_000 + i * 1_000, vec![]);
    }
    let process = |name: &str| json!({"serviceName": name, "tags": [tag("host.name", "node-1".into()), tag("k8s.pod.name", format!("{name}-7d9").into())]});
    json!({"data": [{"traceID": id, "spans": spans, "processes": {"p1": process("wayspan"), "p2": process("frontend"), "p3": process("customer"),
        "p4": process("driver"), "p5": process("route"), "p6": process("mysql"), "p7": process("redis-manual")}, "warnings": null}], "errors": null})
}
