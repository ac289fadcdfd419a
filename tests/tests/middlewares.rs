//! Middlewares through the built agent: what clients get, what Jaeger shows of it, and what the api tells.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use wayspan_tests::http::{self, Connection};
use wayspan_tests::{Agent, Jaeger, Reply, Span, Trace, Upstream, config, eventually};

// Long against scheduling on two busy cores, short against patience.
const PAUSE: Duration = Duration::from_millis(200);

/// One router `all` with those middlewares, and what else the file has.
fn behind(server: SocketAddr, names: &str, middlewares: &str, rest: &str) -> String {
    config::forward("PathPrefix(`/`)", server).replace(
        "service: up}",
        &format!("service: up, middlewares: [{names}], observability: {{traceVerbosity: detailed}}}}"),
    ) + &format!("  middlewares:\n{middlewares}{rest}")
}

/// The trace of the request for that path, once Jaeger has all of it.
fn trace(jaeger: &Jaeger, path: &str, spans: usize) -> Trace {
    eventually(&format!("the trace of {path} is in Jaeger"), || {
        let traces = jaeger.traces("wayspan", 50).ok()?;
        traces
            .into_iter()
            .find(|trace| trace.spans.len() >= spans && trace.roots().any(|root| root.tag("url.path") == Some(path)))
    })
}

fn phase_us(span: &Span, phase: &str) -> u64 {
    span.phases().iter().find(|(name, _)| *name == phase).map_or(0, |(_, micros)| *micros)
}

fn sums_up(span: &Span) {
    let sum: u64 = span.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, span.duration_us, "{:?}", span.phases());
}

fn named<'t>(trace: &'t Trace, name: &str) -> &'t Span {
    trace.spans.iter().find(|span| span.operation == name).unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
}

#[test]
fn a_slow_authentication_server_is_seen_in_the_requests_own_trace() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    let auth = Upstream::start(|request| match request.header("x-forwarded-uri") {
        Some("/refused") => Reply::raw(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
        _ => Reply::ok("").after(PAUSE),
    })
    .unwrap();
    let middlewares = format!(
        "    strip: {{stripPrefix: {{prefixes: [/api]}}}}\n    auth: {{forwardAuth: {{address: \"http://{}/verify\"}}}}\n    \
         edit: {{headers: {{customResponseHeaders: {{X-Edited: \"1\"}}}}}}\n",
        auth.address()
    );
    let file = behind(upstream.address(), "strip, auth, edit", &middlewares, &config::traced(&jaeger));
    let mut agent = Agent::start(&file).unwrap();
    let web = agent.address("web").unwrap();
    let response = http::get(web, "h", "/api/slow").unwrap();
    assert_eq!((response.text().as_str(), response.header("x-edited")), ("hello", Some("1")));
    let slow = trace(&jaeger, "/api/slow", 8);
    let server = slow.roots().next().unwrap();
    let wait = phase_us(server, "middleware_wait");
    assert!(u128::from(wait) >= PAUSE.as_micros() * 9 / 10 && wait <= server.duration_us, "{:?}", server.phases());
    assert_eq!(
        (server.tag("wayspan.blame"), server.tag("wayspan.dominant_phase")),
        (Some("auth"), Some("middleware_wait"))
    );
    sums_up(server);
    let call = named(&slow, "AuthRequest");
    assert_eq!((call.kind(), call.tag("http.response.status_code")), ("client", Some("200")));
    let url = format!("http://{}/verify", auth.address());
    assert_eq!((call.tag("url.full"), call.duration_us >= 180_000), (Some(url.as_str()), true));
    assert!(slow.children(named(&slow, "ForwardAuth")).any(|child| child.operation == "AuthRequest"));
    for kind in ["Router", "StripPrefix", "Headers", "Service"] {
        assert_eq!(named(&slow, kind).kind(), "internal");
    }
    // The server that was asked got the call as its parent, and the one behind got the request's own.
    let parent =
        |request: &wayspan_tests::Request| request.header("traceparent").unwrap().split('-').nth(2).unwrap().to_owned();
    assert_eq!(parent(&auth.requests()[0]), call.id);
    assert!(slow.spans.iter().any(|span| span.operation == "GET" && span.id == parent(&upstream.requests()[0])));

    assert_eq!(http::get(web, "h", "/refused").unwrap().status, 403);
    let refused = trace(&jaeger, "/refused", 5);
    let server = refused.roots().next().unwrap();
    assert_eq!((server.tag("http.response.status_code"), upstream.requests().len()), (Some("403"), 1));
    sums_up(server);
    let clients: Vec<&str> =
        refused.spans.iter().filter(|span| span.kind() == "client").map(|span| span.operation.as_str()).collect();
    assert_eq!(clients, ["AuthRequest"]);
    assert!(refused.spans.iter().all(|span| span.operation != "Headers"), "it did not run: {refused:#?}");
}

#[test]
fn without_an_authentication_server_nobody_is_let_on() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let middlewares = format!("    auth: {{forwardAuth: {{address: \"http://{gone}\"}}}}\n");
    let mut agent = Agent::start(&behind(upstream.address(), "auth", &middlewares, &config::traced(&jaeger))).unwrap();
    assert_eq!(http::get(agent.address("web").unwrap(), "h", "/x").unwrap().status, 500);
    let trace = trace(&jaeger, "/x", 4);
    assert_eq!(named(&trace, "AuthRequest").tag("error.type"), Some("connection_refused"));
    assert_eq!((trace.roots().next().unwrap().tag("error.type"), upstream.requests().len()), (Some("500"), 0));
}

#[test]
fn limits_and_passwords_hold_for_all_workers_and_hashes_are_told_nobody() {
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    let middlewares = "    rate: {rateLimit: {average: 1, period: 1h, burst: 4}}\n    \
                       users: {basicAuth: {users: [\"ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\"]}}\n";
    let file = behind(
        upstream.address(),
        "rate, users",
        middlewares,
        "api: {address: \"127.0.0.1:0\"}\nworkers: {count: 2}\n",
    );
    let mut agent = Agent::start(&file).unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    let ask = |credentials: &str| {
        let headers = [("authorization", credentials), ("connection", "close")];
        let mut connection = Connection::open(web).unwrap();
        connection.request("GET", "h", "/", &headers, &[]).unwrap().status
    };
    // ann:test, ann:wrong; connections spread over both workers.
    let statuses: Vec<u16> =
        ["Basic YW5uOnRlc3Q=", "Basic YW5uOnRlc3Q=", "Basic YW5uOndyb25n", "", "", ""].map(ask).to_vec();
    assert_eq!(statuses, [200, 200, 401, 401, 429, 429]);
    let told = http::get(api, "localhost", "/api/http/middlewares").unwrap();
    let told = told.text();
    assert!(told.contains("\"users\":[\"ann\"]") && !told.contains("qUqP5cyx"), "{told}");
    // A kind that is not there keeps what served, and says so; a router of its own is not served without it.
    let broken =
        file.replace("basicAuth: {users: [\"ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\"]}", "digestAuth: {users: [a]}");
    agent
        .write_config(
            &broken
                .replace("    all:", "    more: {rule: \"Path(`/more`)\", service: up, middlewares: [late]}\n    all:")
                .replace("  middlewares:\n", "  middlewares:\n    late: {retry: {attempts: 2}}\n"),
        )
        .unwrap();
    let more = eventually("the router is told of", || {
        let told = http::get(api, "localhost", "/api/http/routers/more@file").ok()?;
        (told.status == 200).then(|| told.json().unwrap())
    });
    assert_eq!(more["status"], "disabled", "{more}");
    let users = http::get(api, "localhost", "/api/http/middlewares/users@file").unwrap().json().unwrap();
    assert_eq!((&users["status"], &users["type"]), (&"warning".into(), &"basicauth".into()), "{users}");
    let why = users["error"].to_string();
    assert!(why.contains("digestAuth: not supported yet"), "{why}");
    assert_eq!(ask(""), 429, "the router serves on as it did");
}

#[test]
fn a_request_that_waits_for_a_connection_shows_it_as_its_phase() {
    let jaeger = Jaeger::start().unwrap();
    let (come, came) = mpsc::channel();
    let upstream = Upstream::start(move |request| {
        let _ = come.send(());
        if request.target == "/held" { Reply::ok("").after(PAUSE) } else { Reply::ok("") }
    })
    .unwrap();
    let file = config::forward("PathPrefix(`/`)", upstream.address())
        + "serversTransport: {maxConnsPerHost: 1}\nworkers: {count: 2}\n"
        + &config::traced(&jaeger);
    let mut agent = Agent::start(&file).unwrap();
    let web = agent.address("web").unwrap();
    for turn in 0..4 {
        let holder = std::thread::spawn(move || http::get(web, "h", "/held").unwrap().status);
        came.recv().unwrap();
        assert_eq!(http::get(web, "h", &format!("/waits/{turn}")).unwrap().status, 200);
        came.recv().unwrap();
        assert_eq!(holder.join().unwrap(), 200);
        let trace = trace(&jaeger, &format!("/waits/{turn}"), 2);
        let server = trace.roots().next().unwrap();
        let wait = phase_us(server, "pool_wait");
        assert!(u128::from(wait) >= PAUSE.as_micros() / 2, "{:?}", server.phases());
        assert_eq!(server.tag("wayspan.dominant_phase"), Some("pool_wait"));
        sums_up(server);
    }
}

#[test]
fn whoever_reaches_the_dashboard_through_an_entry_point_may_look_and_not_switch_probes() {
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    // Even where a middleware takes away what tells whom it is for.
    let bare = "    bare: {headers: {customRequestHeaders: {X-Forwarded-For: \"\", X-Forwarded-Host: \"\", X-Real-Ip: \"\", \
                Forwarded: \"\"}}}\n";
    let file = behind(upstream.address(), "bare", bare, "api: {address: \"127.0.0.1:0\"}\nprobes: off\n")
        .replace("service: up,", "service: api@internal,");
    let mut agent = Agent::start(&file).unwrap();
    let web = agent.address("web").unwrap();
    let asked = |method: &str| http::request(web, method, "dash.example", "/api/probes").unwrap();
    assert_eq!(asked("GET").status, 200);
    for method in ["PUT", "DELETE"] {
        let refused = asked(method);
        assert_eq!(refused.status, 403, "{method}: {}", refused.text());
    }
}
