//! Starting, reloading, draining and ending, as seen from outside: no good route and no request is lost on the way.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use wayspan_tests::http::{self, Connection};
use wayspan_tests::{Agent, PATIENCE, Reply, Upstream, config, eventually};

#[test]
fn a_reload_adds_a_route_and_a_broken_file_drops_none() {
    let upstream = Upstream::start(|request| Reply::ok(&request.target)).unwrap();
    let before = config::forward("Host(`a.example`)", upstream.address());
    let mut agent = Agent::start(&before).unwrap();
    let web = agent.address("web").unwrap();
    let status = |host: &str| http::get(web, host, "/x").unwrap().status;
    assert_eq!((status("a.example"), status("b.example")), (200, 404));

    let added = before.replacen("  routers:\n", "  routers:\n    b: {rule: \"Host(`b.example`)\", service: up}\n", 1);
    agent.write_config(&added).unwrap();
    eventually("b.example is routed", || (status("b.example") == 200).then_some(()));

    // Neither text that is no YAML, nor a bad rule beside good ones, takes anything away.
    agent.write_config("http: [").unwrap();
    let bad_rule = added.replacen("Host(`a.example`)", "Host(", 1) + "#\n" + "ping: {}\n";
    agent
        .write_config(&bad_rule.replacen("    b:", "    c: {rule: \"Host(`c.example`)\", service: up}\n    b:", 1))
        .unwrap();
    eventually("c.example, good beside bad, is routed", || (status("c.example") == 200).then_some(()));
    assert_eq!((status("a.example"), status("b.example")), (200, 200));
}

#[test]
fn listeners_open_and_close_with_the_configuration() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let one = config::forward("PathPrefix(`/`)", upstream.address());
    let two = one.replacen("entryPoints:\n", "entryPoints:\n  more: {address: \"127.0.0.1:0\"}\n", 1);
    let mut agent = Agent::start(&one).unwrap();
    let web = agent.address("web").unwrap();
    agent.write_config(&two).unwrap();
    let more = agent.address("more").unwrap();
    assert_eq!(http::get(more, "h", "/").unwrap().status, 200);
    agent.write_config(&one).unwrap();
    eventually("the second listener is closed", || (!http::accepts(more)).then_some(()));
    assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
}

#[test]
fn a_change_while_the_agent_starts_is_not_lost() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let before = config::forward("Host(`before`)", upstream.address());
    // The probes take the longest part of a start; each round the change comes a little later in it.
    for round in 0..10 {
        let mut agent = Agent::start(&before).unwrap();
        std::thread::sleep(Duration::from_millis(10 * round));
        agent.write_config(&config::forward("Host(`after`)", upstream.address())).unwrap();
        let web = agent.address("web").unwrap();
        eventually("the change holds", || (http::get(web, "after", "/").ok()?.status == 200).then_some(()));
    }
}

#[test]
fn sigterm_lets_a_request_under_way_end_and_then_ends_the_agent() {
    let upstream = Upstream::start(|_| Reply::ok("whole").after(Duration::from_millis(300))).unwrap();
    let mut agent = Agent::start(&config::forward("PathPrefix(`/`)", upstream.address())).unwrap();
    let mut connection = Connection::open(agent.address("web").unwrap()).unwrap();
    connection.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    eventually("the request is at the upstream", || (upstream.connections() == 1).then_some(()));
    agent.process.signal(rustix::process::Signal::TERM).unwrap();
    let answer = connection.read_response("GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
    assert!(agent.process.wait(PATIENCE).unwrap().success());
}

#[test]
fn check_names_every_fault_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    std::fs::write(
        &file,
        "entryPoint: {}
http:
  routers:
    one: {rule: \"Host(\", service: nowhere}
tracing: {sampleRate: 2}
",
    )
    .unwrap();
    let output = Command::new(Agent::binary().unwrap()).arg("check").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["entryPoints", "http.routers.one.rule", "nowhere", "tracing.sampleRate"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_fault_of_what_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wayspan.yaml");
    std::fs::write(&file, "entryPoints: {web: {address: \":8000\"}}\n").unwrap();
    let check = [OsStr::new("check"), file.as_os_str()];
    for arguments in [&check[..], &[OsStr::new("doctor")], &[OsStr::new("doctor"), OsStr::new("--json")]] {
        let run = || {
            let mut command = Command::new(Agent::binary().unwrap());
            command.args(arguments);
            command
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run().stdout(writer).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*told), (run().output().unwrap().status.code(), ""), "{arguments:?}");
    }
}

#[test]
fn an_agent_whose_routes_are_all_the_clusters_is_not_ready_before_it_knows_them_and_ends_when_told() {
    // Takes connections and says nothing, as an API server that hangs.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = server.local_addr().unwrap();
    let config = format!(
        "entryPoints: {{web: {{address: \"127.0.0.1:0\"}}}}
providers: {{kubernetesIngress: {{endpoint: \"http://{endpoint}\"}}}}
api: {{address: \"127.0.0.1:0\"}}
ping: {{}}
"
    );
    let mut agent = Agent::start(&config).unwrap();
    let api = agent.address("api").unwrap();
    agent
        .process
        .wait_for_line("the start waits", |line| line.contains("nothing is served until").then_some(()))
        .unwrap();
    let ping = http::get(api, "127.0.0.1", "/ping").unwrap();
    assert_eq!((ping.status, ping.text().as_str()), (503, "starting"));
    let up = http::get(api, "127.0.0.1", "/ping/up").unwrap();
    assert_eq!(up.status, 200, "who asks whether to kill it is told no");
    agent.process.signal(rustix::process::Signal::TERM).unwrap();
    assert!(agent.process.wait(PATIENCE).unwrap().success());
}
