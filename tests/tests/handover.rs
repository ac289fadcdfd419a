//! An update without a gap: an agent that starts beside another takes over its ports, and no request fails meanwhile.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::process::{Command, Output};

use wayspan_tests::{Agent, Load, PATIENCE, Reply, Upstream, eventually, http, private_loopback};

/// What it says of itself to the kubelet's command, which is in a PID namespace that does not show the agent: so is one pod to
/// the other.
fn health(pod: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--"]).arg(Agent::binary().unwrap()).arg("healthcheck").env("POD_UID", pod);
    command.output().unwrap()
}

fn start(config: &str, pod: &str) -> Agent {
    let with_pod = |binary: &std::path::Path| {
        let mut command = Command::new(binary);
        command.env("POD_UID", pod);
        Ok(command)
    };
    let mut agent = Agent::start_with(config, with_pod).unwrap();
    agent.address("web").unwrap();
    eventually("the agent is up", || health(pod).status.success().then_some(()));
    agent
}

#[test]
fn agents_follow_each_other_at_one_port_and_no_request_fails() {
    let upstream = Upstream::start(|_| Reply::ok("hello")).unwrap();
    let host = private_loopback(&[8000, 9000]).unwrap();
    let config = |workers: usize| {
        format!(
            "entryPoints: {{web: {{address: \"{host}:8000\"}}}}
http:
  routers: {{up: {{rule: \"PathPrefix(`/`)\", service: up}}}}
  services: {{up: {{loadBalancer: {{servers: [{{url: \"http://{}\"}}]}}}}}}
api: {{address: \"{host}:9000\"}}
workers: {{count: {workers}}}
handOver: {{name: \"test/{host}\"}}
",
            upstream.address()
        )
    };
    let pod = |number: usize| format!("{host}/{number}");
    let mut agent = start(&config(2), &pod(0));
    let load = Load::start((host, 8000).into(), "h");
    for (number, workers) in [(1, 2), (2, 1), (3, 3), (4, 2)] {
        load.settle(50, PATIENCE).unwrap();
        let next = start(&config(workers), &pod(number));
        let mut before = std::mem::replace(&mut agent, next);
        assert!(before.process.stop(PATIENCE).unwrap().success());
        assert!(!health(&pod(number - 1)).status.success(), "nobody answers for a pod that is gone");
        assert_eq!(http::get((host, 9000).into(), "localhost", "/api/overview").unwrap().status, 200);
    }
    load.settle(50, PATIENCE).unwrap();
    let answered = load.stop().unwrap();
    assert!(answered > 250, "{answered}");

    // Another one without the name is turned away as ever.
    let alone = config(1).replace(&format!("test/{host}"), &format!("other/{host}"));
    let mut other = Agent::start(&alone).unwrap();
    assert!(!other.process.wait(PATIENCE).unwrap().success());
}
