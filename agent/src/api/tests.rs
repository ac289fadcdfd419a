//! The api over real sockets, in front of a Jaeger of a few lines.

mod jaeger;
mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use self::world::{Answer, World};

#[tokio::test]
async fn every_path_has_its_answer() {
    let world = World::start().await;
    for (path, status, kind, part) in [
        ("/", 302, "text/plain", "/dashboard/"),
        ("/dashboard", 302, "text/plain", "/dashboard/"),
        ("/dashboard/", 200, "text/html", "<html"),
        ("/dashboard/index.html", 200, "text/html", "<html"),
        ("/dashboard/app.js", 200, "text/javascript", "import"),
        ("/dashboard/dom.js", 200, "text/javascript", "export"),
        ("/dashboard/graph.js", 200, "text/javascript", "export"),
        ("/dashboard/phases.js", 200, "text/javascript", "export"),
        ("/dashboard/requests.js", 200, "text/javascript", "export"),
        ("/dashboard/routing.js", 200, "text/javascript", "export"),
        ("/dashboard/trace.js", 200, "text/javascript", "export"),
        ("/dashboard/style.css", 200, "text/css", ":root"),
        ("/dashboard/icon.svg", 200, "image/svg+xml", "<svg"),
        ("/dashboard/none.js", 404, "application/json", "nothing is at /dashboard/none.js"),
        ("/dashboard/../api/version", 404, "application/json", "nothing"),
        ("/ping", 200, "text/plain", "OK"),
        ("/metrics", 200, "text/plain", "up 1"),
        ("/api/version", 200, "application/json", env!("CARGO_PKG_VERSION")),
        ("/api/overview", 200, "application/json", "features"),
        ("/api/entrypoints", 200, "application/json", "web"),
        ("/api/entrypoints/web", 200, "application/json", ":8000"),
        ("/api/entrypoints/none", 404, "application/json", "no entry point is called `none`"),
        ("/api/http/routers", 200, "application/json", "hotrod.localhost"),
        ("/api/http/routers/hotrod@file", 200, "application/json", "hotrod.localhost"),
        ("/api/http/routers/hotrod%40file", 200, "application/json", "hotrod.localhost"),
        ("/api/http/routers/none", 404, "application/json", "no router is called `none`"),
        ("/api/http/services", 200, "application/json", "loadBalancer"),
        ("/api/http/services/hotrod", 200, "application/json", "127.0.0.1:8080"),
        ("/api/http/services/none", 404, "application/json", "no service"),
        ("/api/http/middlewares", 200, "application/json", "cache"),
        ("/api/http/middlewares/cache", 200, "application/json", "headers"),
        ("/api/requests", 200, "application/json", "nowMonoNs"),
        ("/api/status", 200, "application/json", "sk_data_ready"),
        ("/api/jaeger", 200, "application/json", "no Jaeger is configured"),
        ("/api/traces/ab", 503, "application/json", "no Jaeger is configured"),
        ("/api/dependencies", 503, "application/json", "api.jaegerQuery"),
        ("/api", 404, "application/json", "nothing"),
        ("/api/", 404, "application/json", "nothing"),
        ("/api/http", 404, "application/json", "nothing"),
        ("/else", 404, "application/json", "/dashboard/"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.header("content-type").starts_with(kind), "{path}: {}", answer.head);
        assert!(answer.body.contains(part), "{path}: {}", answer.body);
        assert!(answer.header("content-security-policy").contains("default-src 'self'"), "{path}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
        if kind == "application/json" {
            let _: Value = answer.json();
        }
    }
}

#[tokio::test]
async fn the_page_loads_nothing_that_its_policy_forbids_and_nothing_that_is_not_served() {
    let world = World::start().await;
    let page = world.get("/dashboard/").await.body;
    assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" on"), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
    let mut files: Vec<String> = vec!["style.css".to_owned(), "app.js".to_owned(), "icon.svg".to_owned()];
    let mut at = 0;
    while let Some(file) = files.get(at).cloned() {
        at += 1;
        let answer = world.get(&format!("/dashboard/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(!answer.body.contains("innerHTML") && !answer.body.contains("eval("), "{file}");
        for (_, rest) in
            answer.body.match_indices("from \"./").map(|(place, found)| answer.body.split_at(place + found.len()))
        {
            let name = rest.split('"').next().unwrap().to_owned();
            if !files.contains(&name) {
                files.push(name);
            }
        }
    }
    assert_eq!(files.len(), 9, "{files:?}");
}

#[tokio::test]
async fn the_overview_has_traefiks_shape() {
    let world = World::start().await;
    assert_eq!(
        world.get("/api/overview").await.json(),
        json!({
            "http": {
                "routers": {"total": 4, "warnings": 1, "errors": 1},
                "services": {"total": 2, "warnings": 1, "errors": 0},
                "middlewares": {"total": 1, "warnings": 0, "errors": 0},
            },
            "tcp": {
                "routers": {"total": 0, "warnings": 0, "errors": 0},
                "services": {"total": 0, "warnings": 0, "errors": 0},
                "middlewares": {"total": 0, "warnings": 0, "errors": 0},
            },
            "udp": {
                "routers": {"total": 0, "warnings": 0, "errors": 0},
                "services": {"total": 0, "warnings": 0, "errors": 0},
            },
            "features": {"tracing": "OpenTelemetry", "metrics": "Prometheus", "accessLog": false},
            "providers": ["File"],
        })
    );
    let plain = World::with(|setup| setup.config = world::PLAIN.to_owned()).await;
    let features = &plain.get("/api/overview").await.json()["features"];
    assert_eq!(*features, json!({"tracing": "", "metrics": "", "accessLog": false}));
}

#[tokio::test]
async fn parts_say_how_they_are() {
    let world = World::start().await;
    for (path, pointer, expected) in [
        ("http/routers/hotrod", "/status", json!("enabled")),
        ("http/routers/hotrod", "/error", Value::Null),
        ("http/routers/hotrod", "/using", json!(["web", "admin"])),
        ("http/routers/hotrod", "/priority", json!(24)),
        ("http/routers/hotrod", "/name", json!("hotrod@file")),
        ("http/routers/hotrod", "/provider", json!("file")),
        ("http/routers/hotrod", "/service", json!("hotrod")),
        ("http/services/hotrod@file", "/name", json!("hotrod@file")),
        ("http/middlewares/cache", "/name", json!("cache@file")),
        ("entrypoints/web", "/name", json!("web")),
        ("http/routers/hotrod", "/observability/traceVerbosity", json!("detailed")),
        ("http/routers/assets", "/status", json!("warning")),
        ("http/routers/assets", "/rule", json!("Host(`hotrod.localhost`) && PathPrefix(`/static`)")),
        ("http/routers/assets", "/middlewares", json!(["cache"])),
        ("http/routers/assets", "/entryPoints", json!(["web"])),
        ("http/routers/broken", "/status", json!("disabled")),
        ("http/services/hotrod", "/serverStatus", json!({"http://127.0.0.1:8080": "UP"})),
        ("http/services/hotrod", "/usedBy", json!(["hotrod@file", "assets@file"])),
        ("http/services/hotrod", "/type", json!("loadbalancer")),
        ("http/services/shop", "/status", json!("warning")),
        ("http/services/shop", "/error", json!(["no address is known for `shop.internal`"])),
        ("http/services/shop", "/serverStatus/http:~1~1shop.internal:8080", json!("DOWN")),
        ("http/services/shop", "/loadBalancer/servers/0", json!({"url": "http://10.0.0.7:8080", "weight": 3})),
        ("entrypoints/web", "/address", json!(":8000")),
        ("entrypoints/admin", "/address", json!("127.0.0.1:8001")),
        ("entrypoints/web", "/transport/respondingTimeouts/readTimeout", json!("1m0s")),
        ("entrypoints/web", "/transport/lifeCycle/graceTimeOut", json!("10s")),
        ("http/middlewares/cache", "/usedBy", json!(["assets@file"])),
        ("http/middlewares/cache", "/headers/customRequestHeaders/authorization", json!("xxxx")),
    ] {
        let value = world.get(&format!("/api/{path}")).await.json();
        assert_eq!(value.pointer(pointer).cloned().unwrap_or_default(), expected, "{path} {pointer}: {value}");
    }
    let broken = world.get("/api/http/routers/broken").await.json();
    assert!(broken["error"][0].as_str().unwrap().contains("did you mean Host"), "{broken}");
    let all = [world.get("/api/http/middlewares").await, world.get("/api/status").await];
    assert!(all.iter().all(|answer| !answer.body.contains("secret")), "a header's value is told");
}

#[tokio::test]
async fn routers_are_told_with_what_their_entry_points_let_be_observed() {
    let silent = "observability: {tracing: false, metrics: false, traceVerbosity: detailed}";
    let config = format!(
        "entryPoints:\n  silent: {{address: ':8000', {silent}}}\n  loud: {{address: ':8001'}}\nhttp:\n  routers:\n    \
         quiet: {{rule: Path(`/a`), service: s, entryPoints: silent}}\n    \
         both: {{rule: Path(`/b`), service: s}}\n    \
         own: {{rule: Path(`/c`), service: s, entryPoints: silent, observability: {{tracing: true, metrics: true}}}}\n    \
         ping: {{rule: Path(`/p`), service: ping@internal, entryPoints: loud}}\n  \
         services: {{s: {{loadBalancer: {{servers: []}}}}}}\nping:\n"
    );
    let told = |tracing: bool, metrics: bool, verbosity: &str| json!({"accessLogs": false, "tracing": tracing, "metrics": metrics, "traceVerbosity": verbosity});
    for (tracing, path, expected) in [
        ("tracing:\n", "entrypoints/silent", told(false, false, "detailed")),
        ("tracing:\n", "entrypoints/loud", told(true, true, "minimal")),
        ("tracing:\n", "http/routers/quiet", told(false, false, "detailed")),
        ("tracing:\n", "http/routers/both", told(true, true, "minimal")),
        ("tracing:\n", "http/routers/own", told(true, true, "detailed")),
        ("tracing:\n", "http/routers/ping", told(false, true, "minimal")),
        ("", "entrypoints/loud", told(false, true, "minimal")),
        ("", "http/routers/own", told(false, true, "detailed")),
    ] {
        let config = format!("{config}{tracing}");
        let world = World::with(|setup| setup.config = config).await;
        assert_eq!(world.get(&format!("/api/{path}")).await.json()["observability"], expected, "{path} {tracing}");
    }
}

#[tokio::test]
async fn lists_are_searched_and_paged_as_traefiks() {
    let world = World::start().await;
    for (query, names, next) in [
        ("", &["hotrod@file", "shop@file", "assets@file", "broken@file"][..], "1"),
        ("?per_page=2", &["hotrod@file", "shop@file"], "2"),
        ("?per_page=2&page=2", &["assets@file", "broken@file"], "1"),
        ("?per_page=2&page=3", &[], "1"),
        ("?per_page=0&page=0", &["hotrod@file"], "2"),
        ("?page=18446744073709551615&per_page=1000", &[], "1"),
        ("?search=STATIC", &["assets@file"], "1"),
        ("?search=shop", &["shop@file"], "1"),
        ("?search=%60%2Fstatic", &["assets@file"], "1"),
        ("?status=disabled", &["broken@file"], "1"),
        ("?status=warning&search=hotrod", &["assets@file"], "1"),
        ("?search=@FILE&per_page=1", &["hotrod@file"], "2"),
        ("?page=x", &["hotrod@file", "shop@file", "assets@file", "broken@file"], "1"),
    ] {
        let answer = world.get(&format!("/api/http/routers{query}")).await;
        let list = answer.json();
        let found: Vec<&str> = list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{query}");
        assert_eq!(answer.header("x-next-page"), next, "{query}");
    }
}

#[tokio::test]
async fn only_our_own_names_are_answered_but_a_ping_under_any() {
    let world = World::with(|setup| setup.allowed = vec!["dash.example.com".to_owned()]).await;
    for (path, host, status) in [
        ("/api/overview", "Host: localhost:9000\r\n", 200),
        ("/api/overview", "Host: wayspan.localhost\r\n", 200),
        ("/api/overview", "Host: [::1]:9000\r\n", 200),
        ("/api/overview", "Host: DASH.example.com\r\n", 200),
        ("/api/overview", "Host: evil.example\r\n", 421),
        ("/dashboard/", "Host: evil.example\r\n", 421),
        ("/metrics", "Host: evil.example\r\n", 421),
        ("/", "Host: evil.example\r\n", 421),
        ("/nothing", "Host: evil.example\r\n", 421),
        ("/api/overview", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("/api/overview", "", 400),
        ("http://evil.example/api/overview", "Host: localhost\r\n", 421),
        ("/ping", "Host: evil.example\r\n", 200),
        ("/ping", "", 200),
    ] {
        let answer = world.send(&format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{path} {host:?}: {}", answer.body);
        if status == 421 {
            assert!(answer.json()["remedy"].as_str().unwrap().contains("api.allowedHosts"), "{}", answer.body);
            assert!(!answer.body.contains("hotrod"));
        }
    }
}

#[tokio::test]
async fn only_reading_is_possible() {
    let world = World::start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in ["/api/overview", "/ping", "/dashboard/"] {
            let answer =
                world.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
            assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for path in ["/api/overview", "/ping", "/dashboard/", "/metrics"] {
        let head = world.send(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        let get = world.get(path).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
}

#[tokio::test]
async fn sets_of_probes_are_switched_by_put_and_delete() {
    let world = World::start().await;
    let check = async |method: &str, path: &str, host: &str, status: u16| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(world.send(&head).await.status, status, "{method} {path} at {host}");
    };
    check("PUT", "/api/probes", "localhost", 200).await;
    check("DELETE", "/api/probes/backends", "localhost", 200).await;
    check("PUT", "/api/probes/backend", "localhost", 404).await;
    check("PUT", "/api/probesbackends", "localhost", 404).await;
    check("PUT", "/api/probes/backends", "elsewhere.example", 421).await;
    check("POST", "/api/probes/backends", "localhost", 405).await;
    check("GET", "/api/probes", "localhost", 200).await;
    for said in ["Forwarded: by=_wayspan", "Via: 1.1 a", "X-Forwarded-For: 10.0.0.1", "X-Real-Ip: 10.0.0.1"] {
        check("DELETE", "/api/probes", &format!("localhost\r\n{said}"), 403).await;
        check("GET", "/api/probes", &format!("localhost\r\n{said}"), 200).await;
    }
}

#[tokio::test]
async fn a_body_is_refused_unread_and_a_large_head_too() {
    let world = World::start().await;
    for body in ["Content-Length: 1000000000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let answer = world.send(&format!("GET /api/overview HTTP/1.1\r\nHost: localhost\r\n{body}")).await;
        assert_eq!((answer.status, answer.header("connection")), (413, "close"), "{}", answer.head);
    }
    let long = "a".repeat(20_000);
    let answer = world.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {long}\r\n\r\n")).await;
    assert_eq!(answer.status, 431, "{}", answer.head);
}

#[tokio::test]
async fn text_from_requests_comes_whole_through_json() {
    let hostile = "/<img src=x onerror=alert(1)>\"\\\u{0}\u{1b}\r\n\u{2028}</script>\u{1f40c}";
    let list = json!([{"path": hostile}]);
    let expected = list.clone();
    let world = World::with(|setup| setup.requests = list).await;
    let answer = world.get("/api/requests").await;
    assert_eq!(answer.json()["requests"], expected);
    assert!(answer.json()["nowMonoNs"].as_u64().unwrap() > 0);
    assert!(!answer.body.contains(['\u{0}', '\u{1b}', '\r', '\n']), "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    let nothing = world.get("/api/%3Cscript%3E%22").await;
    assert_eq!(nothing.json()["message"], "nothing is at /api/<script>\"");
}

#[tokio::test]
async fn a_ping_fails_while_the_node_starts_and_while_it_drains_and_the_node_is_up_all_along() {
    let world = World::start().await;
    let check = async |ping: (u16, &str)| {
        let answer = world.get("/ping").await;
        assert_eq!((answer.status, answer.body.as_str()), ping);
        // The kubelet's Host is the pod's address.
        let up = world.send("GET /ping/up HTTP/1.1\r\nHost: 10.0.0.7:9000\r\nConnection: close\r\n\r\n").await;
        assert_eq!((up.status, up.body.as_str()), (200, "OK"), "{ping:?}");
    };
    world.starting.store(true, Ordering::Relaxed);
    check((503, "starting")).await;
    world.starting.store(false, Ordering::Relaxed);
    check((200, "OK")).await;
    world.draining.store(true, Ordering::Relaxed);
    check((503, "draining")).await;
    assert_eq!(world.get("/api/status").await.json()["draining"], true);
}

#[tokio::test]
async fn metrics_hear_what_is_accepted_and_what_is_off_says_how_to_switch_it_on() {
    let world = World::start().await;
    let answer =
        world.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/open\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.body, "up 1 text/open");
    let off = World::with(|setup| (setup.metrics, setup.dashboard) = (false, false)).await;
    for (path, remedy) in [("/metrics", "metrics: {prometheus"), ("/dashboard/", "api.dashboard")] {
        let answer = off.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["remedy"].as_str().unwrap().contains(remedy), "{}", answer.body);
    }
    assert_eq!(off.get("/api/overview").await.status, 200);
}

#[tokio::test]
async fn the_status_tells_of_probes_spans_and_faults() {
    let world = World::start().await;
    let status = world.get("/api/status").await.json();
    assert_eq!(status["probes"][0]["tracepoint"], "sk_data_ready");
    assert_eq!(status["spans"], json!({"made": 3, "sent": 2}));
    assert_eq!(status["tracing"]["serviceName"], "wayspan");
    assert_eq!(status["tracing"]["otlp"], json!({"protocol": "grpc", "endpoint": "http://127.0.0.1:4317"}));
    assert_eq!(status["faults"].as_array().unwrap().len(), 2, "{status}");
    assert!(!status["kernel"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn each_request_is_heard_of_with_a_bounded_route() {
    let world = World::start().await;
    for (line, host, expected) in [
        ("GET /ping HTTP/1.1", "a.example", ("/ping", "/ping", 200)),
        ("GET /dashboard/app.js HTTP/1.1", "localhost", ("/dashboard/", "/dashboard/app.js", 200)),
        ("GET /api/http/routers/x?q=1 HTTP/1.1", "localhost", ("/api/http/routers/{name}", "/api/http/routers/x", 404)),
        ("GET /api/requests HTTP/1.1", "localhost", ("/api/requests", "/api/requests", 200)),
        ("GET /random/path HTTP/1.1", "localhost", ("", "/random/path", 404)),
        ("GET /api/requests HTTP/1.1", "evil.example", ("", "/api/requests", 421)),
        ("POST /ping HTTP/1.1", "localhost", ("", "/ping", 405)),
    ] {
        world.send(&format!("{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        let heard = world.heard.lock().unwrap().pop().unwrap();
        assert_eq!((heard.route, heard.path.as_str(), heard.status), expected, "{line}");
        assert_eq!(heard.host, host);
        assert!(line.starts_with(heard.method.as_str()));
        assert!(heard.started.0 > 0 && heard.ended >= heard.started && heard.peer.ip().is_loopback());
    }
    assert!(world.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let world = World::start().await;
    let one = "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = world.send(&format!("{one}{one}{last}")).await;
    assert_eq!(format!("{}\r\n\r\n{}", answer.head, answer.body).matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test]
async fn a_half_sent_head_and_an_idle_connection_are_given_up() {
    let world = World::with(|setup| setup.bounds.head = Duration::from_millis(50)).await;
    let half =
        tokio::time::timeout(Duration::from_secs(5), world.send_and_wait("GET /ping HTTP/1.1\r\nHost: loc")).await;
    let half = half.expect("given up long before");
    assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
    let idle =
        tokio::time::timeout(Duration::from_secs(5), world.send("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(idle.await.expect("given up long before").status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_when_its_connections_life_is_over() {
    let world = World::with(|setup| {
        setup.requests = json!("x".repeat(20_000_000));
        (setup.bounds.life, setup.bounds.grace) = (Duration::from_millis(50), Duration::from_millis(50));
        setup.bounds.connections = 1;
    })
    .await;
    let mut stream = world.connect().await;
    stream.write_all(b"GET /api/requests HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    // Answered only once the other has lost its place.
    assert_eq!(world.get("/ping").await.status, 200);
    drop(stream);
}

#[tokio::test]
async fn more_connections_than_the_cap_wait_their_turn() {
    let world = World::with(|setup| setup.bounds.connections = 3).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(world.connect().await);
    }
    let mut waiting = Box::pin(world.get("/ping"));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "answered beyond the cap");
    idle.pop();
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test]
async fn closing_ends_idle_connections_and_the_address_is_free_again() {
    let mut world = World::start().await;
    let idle = world.connect().await;
    assert_eq!(world.get("/ping").await.status, 200);
    let address = world.address;
    tokio::time::timeout(Duration::from_secs(5), world.stop()).await.expect("it ends by itself");
    drop(idle);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = World::try_with(|setup| setup.address = address).await.err().unwrap();
    let expected = format!(
        "api.address: cannot listen on {address}: Address already in use (os error 98); free it or name another one"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_query_address_that_cannot_be_asked_is_refused_at_the_start() {
    let error = World::try_with(|setup| setup.jaeger = Some("https://jaeger".to_owned())).await.err().unwrap();
    assert!(error.to_string().contains("api.jaegerQuery"), "{error}");
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}
