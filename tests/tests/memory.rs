//! What the agent keeps resident, as the kernel counts it: at the start, and with many connections that do nothing. The
//! bars are for the whole process, eBPF maps and program text included.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wayspan_tests::{Agent, PATIENCE, Reply, Upstream, config, wait_until};

/// How long memory may take to be given back: idle connections fold after a second.
const SETTLING: Duration = Duration::from_secs(5);

const CONNECTIONS: usize = 10_000;
/// Requests on their way at once, as from a busy client.
const AT_ONCE: usize = 64;

/// Megabytes of a line of `/proc/PID/status`.
fn megabytes(agent: &Agent, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process.pid()))?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.strip_suffix("kB"));
    Ok(value.context("no such line")?.trim().parse::<u64>()? / 1024)
}

#[track_caller]
fn comes_within(agent: &Agent, bar: u64, when: &str) {
    let resident = || megabytes(agent, "VmRSS").ok();
    let held = wait_until(SETTLING, || resident().filter(|now| *now <= bar));
    println!("{when}: {:?} MB resident, {:?} MB at most", resident(), megabytes(agent, "VmHWM").ok());
    assert!(held.is_some(), "{when}: {:?} MB resident, more than {bar}", resident());
}

#[test]
fn the_agent_with_probes_and_one_route_stays_within_forty_megabytes() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + "probes: {required: true}\n";
    let mut agent = Agent::start(&config).unwrap();
    agent.process.wait_for_line("it is ready", |line| line.ends_with(" ready").then_some(())).unwrap();
    comes_within(&agent, 40, "at the start");
}

#[test]
fn ten_thousand_idle_connections_stay_within_a_hundred_and_fifty_megabytes() {
    // The agent inherits it. A few hundred descriptors are its own and its connections' to the upstream.
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(CONNECTIONS).unwrap() + 500;
    assert!(limit.maximum.is_none_or(|maximum| maximum >= wanted), "`ulimit -Hn` must be {wanted}: {limit:?}");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

    let upstream = Upstream::start(|_| Reply::ok("answer")).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + "probes: {required: true}\n";
    let mut agent = Agent::start(&config).unwrap();
    let web = agent.address("web").unwrap();
    let mut connections: Vec<TcpStream> = Vec::with_capacity(CONNECTIONS);
    while connections.len() < CONNECTIONS {
        let count = AT_ONCE.min(CONNECTIONS - connections.len());
        let mut more: Vec<TcpStream> = (0..count).map(|_| open(web).unwrap()).collect();
        more.iter_mut().for_each(|connection| ask(connection).unwrap());
        more.iter_mut().for_each(|connection| await_answer(connection).unwrap());
        connections.append(&mut more);
    }
    let most = megabytes(&agent, "VmHWM").unwrap();
    println!("after the last answer: {most} MB at most");
    assert!(most <= 150, "10,000 connections took {most} MB, more than 150");
    // Half of what they take is hyper's state of the last 2,000, which goes when those have idled for a second. A tenth of
    // the rest is the kernel's slots as far as they were looked at.
    comes_within(&agent, 100, "10,000 idle connections, folded");

    // They are all there still, folded or not.
    for connection in connections.iter_mut().step_by(100) {
        ask(connection).unwrap();
        await_answer(connection).unwrap();
    }
    assert_eq!(upstream.requests().len(), CONNECTIONS + CONNECTIONS / 100);
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    let request = "GET /some/path HTTP/1.1\r\nhost: some.example\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
    Ok(stream.write_all(request.as_bytes())?)
}

fn await_answer(stream: &mut TcpStream) -> Result<()> {
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"\r\n\r\nanswer") {
        let count = stream.read(&mut part)?;
        ensure!(count > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}
