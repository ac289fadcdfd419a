//! The lab's parts: starts them, sends the lab's requests, changes the configuration, ends them in order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wayspan_tests::{HotRod, Jaeger, PATIENCE, Process, Trace, Upstream, http, private_loopback, wait_until};

use super::embedded;
use crate::peers::Peers;
use crate::setup::find_program;

/// The name that the lab's router asks for.
pub const HOST: &str = "hotrod.localhost";

/// Where the lab listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// 127.0.0.1 and the ports that everyone knows.
    WellKnown,
    /// The same ports on a loopback address of its own, so that nothing can be in the way.
    Private,
}

// Ours and those of the parts, with who takes them, for the message when one is taken.
const PORTS: [(u16, &str); 12] = [
    (8000, "Wayspan's entry point"),
    (9000, "Wayspan's api and dashboard"),
    (8080, "Hot R.O.D.'s frontend"),
    (8081, "Hot R.O.D.'s customer service"),
    (8082, "Hot R.O.D.'s driver service"),
    (8083, "Hot R.O.D.'s route service"),
    (16686, "Jaeger's query API and UI"),
    (4317, "Jaeger's OTLP over gRPC"),
    (4318, "Jaeger's OTLP over HTTP"),
    (5778, "Jaeger's sampling strategies"),
    (5779, "Jaeger's sampling over gRPC"),
    (13133, "Jaeger's health check"),
];

/// One request that was sent through, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// The answer's status.
    pub status: u16,
}

/// A running lab. Dropping it kills what is left.
pub struct Lab {
    // In the order in which they are to end: fields drop so.
    agent: Process,
    hotrod: Option<HotRod>,
    jaeger: Option<Jaeger>,
    _embedded: Option<Upstream>,
    /// The ingress.
    pub web: SocketAddr,
    /// Its api and dashboard.
    pub api: SocketAddr,
    /// What went through so far.
    pub sent: Vec<Sent>,
    /// What is not as it should be: stand-ins for the real parts, probes that are missing.
    pub fallbacks: Vec<String>,
    jaeger_has_ui: bool,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

impl Lab {
    /// Starts the parts, or the embedded ones where `peers` says why the real ones cannot be had.
    pub fn start(root: &Path, agent: &Path, peers: Result<Peers, String>, place: Place) -> Result<Self> {
        let host = match place {
            Place::Private => private_loopback(&PORTS.map(|(port, _)| port))?,
            Place::WellKnown => Ipv4Addr::LOCALHOST,
        };
        if place == Place::WellKnown {
            refuse_taken_ports(peers.is_ok())?;
        }
        let ip = IpAddr::from(host);
        let mut fallbacks = Vec::new();
        let mut jaeger_has_ui = false;
        let (jaeger, hotrod, upstream) = match peers {
            Ok(peers) => {
                let jaeger = Jaeger::start_on(&peers.jaeger, ip, &[])?;
                let hotrod = HotRod::start_on(&peers.hotrod, ip, &jaeger)?;
                jaeger_has_ui = !peers.jaeger_is_ours;
                (Some(jaeger), Some(hotrod), None)
            }
            Err(reason) => {
                fallbacks.push(format!("stand-ins for Jaeger and Hot R.O.D.: {reason}"));
                (None, None, Some(embedded::start(SocketAddr::new(ip, 8080))?))
            }
        };
        let directory = tempfile::Builder::new().prefix("wayspan-demo-").tempdir()?;
        let config = directory.path().join("wayspan.yaml");
        let text = std::fs::read_to_string(root.join("deploy/lab/wayspan.yaml")).context("deploy/lab/wayspan.yaml")?;
        let listen = (place == Place::Private).then_some(host);
        std::fs::write(&config, render(&text, listen, jaeger.is_some()))?;
        let mut command = Command::new(agent);
        command.arg("run").arg("--config").arg(&config).env("NO_COLOR", "1");
        let mut agent = Process::start("wayspan", command)?;
        let (web, api) = (SocketAddr::new(ip, 8000), SocketAddr::new(ip, 9000));
        let up = wait_until(PATIENCE, || {
            let up = http::accepts(web) && http::get(api, "localhost", "/ping").is_ok_and(|pong| pong.status == 200);
            up.then_some(true).or_else(|| agent.exited().map(|_| false))
        });
        if up != Some(true) {
            bail!("wayspan did not come up on {web} and {api}:\n{}", agent.log_tail());
        }
        Ok(Self {
            agent,
            hotrod,
            jaeger,
            _embedded: upstream,
            web,
            api,
            sent: Vec::new(),
            fallbacks,
            jaeger_has_ui,
            config,
            _directory: directory,
        })
    }

    /// Jaeger, where it is the real one.
    pub fn jaeger(&self) -> Option<&Jaeger> {
        self.jaeger.as_ref()
    }

    /// The lab's requests: two HEAD as the lab has them, then all customers, the page; the dashboard and ping beside.
    pub fn replay(&mut self) -> Result<()> {
        for customer in [392, 123] {
            self.send("HEAD", &format!("/dispatch?customer={customer}"))?;
        }
        for customer in [123, 392, 731, 567] {
            self.send("GET", &format!("/dispatch?customer={customer}"))?;
        }
        self.send("GET", "/")?;
        for target in ["/dashboard/", "/ping"] {
            let answer = http::get(self.api, &self.api.to_string(), target)?;
            eprintln!("  {} GET http://{}{target}", answer.status, self.api);
        }
        Ok(())
    }

    /// Sends one request through the ingress; HEAD by curl, as the lab does, where there is one.
    pub fn send(&mut self, method: &'static str, target: &str) -> Result<()> {
        let status = if method == "HEAD" && find_program("curl").is_some() {
            curl_head(self.web, target)?
        } else {
            http::request(self.web, method, &format!("{HOST}:{}", self.web.port()), target)?.status
        };
        eprintln!("  {status} {method} http://{HOST}:{}{target}", self.web.port());
        self.sent.push(Sent { method, target: target.to_owned(), status });
        Ok(())
    }

    /// Adds a router by editing the configuration file while the agent runs.
    pub fn add_router(&self, name: &str, path: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        let router =
            format!("  routers:\n    {name}: {{rule: \"Host(`{HOST}`) && Path(`{path}`)\", service: hotrod}}\n");
        let edited = text.replacen("  routers:\n", &router, 1);
        if edited == text {
            bail!("the lab's configuration has no line `  routers:`");
        }
        let new = self.config.with_extension("new");
        std::fs::write(&new, edited)?;
        std::fs::rename(&new, &self.config).context("replace the configuration")
    }

    /// Which of Wayspan's probes are off although they were wanted, and why.
    pub fn lacking_probes(&self) -> Result<Option<String>> {
        let status = http::get(self.api, &self.api.to_string(), "/api/status")?.json()?;
        Ok(lacking_probes(&status))
    }

    /// Says which part has ended by itself, if one has.
    pub fn ended(&mut self) -> Option<String> {
        let jaeger = self.jaeger.as_mut().map(|jaeger| ("jaeger", &mut jaeger.process));
        let hotrod = self.hotrod.as_mut().map(|hotrod| ("hotrod", &mut hotrod.process));
        let parts = [Some(("wayspan", &mut self.agent)), hotrod, jaeger];
        parts.into_iter().flatten().find_map(|(name, process)| {
            let status = process.exited()?;
            Some(format!("{name} has ended ({status}):\n{}", process.log_tail()))
        })
    }

    /// Ends all: the agent first, which sends its last spans, then Hot R.O.D. and Jaeger.
    pub fn shut_down(mut self) -> Result<()> {
        let status = self.agent.stop(Duration::from_secs(20))?;
        if !status.success() {
            bail!("wayspan ended with {status} on SIGTERM:\n{}", self.agent.log_tail());
        }
        Ok(())
    }

    /// Where to look further.
    pub fn print_links(&self, trace: Option<&Trace>) {
        println!("Dashboard:  http://{}/dashboard/", self.api);
        println!("Through it: http://{HOST}:{}/", self.web.port());
        println!("            curl -I \"http://{HOST}:{}/dispatch?customer=392\"", self.web.port());
        let Some(jaeger) = &self.jaeger else {
            println!("No Jaeger:  traces are in the dashboard");
            return;
        };
        let query = jaeger.query();
        if self.jaeger_has_ui {
            println!("Jaeger:     http://{query}/search?service=wayspan");
            if let Some(trace) = trace {
                println!("This trace: http://{query}/trace/{}", trace.id);
            }
        } else {
            println!("Jaeger API: http://{query}/api/traces?service=wayspan");
            println!(
                "            (a Jaeger built from its Go module has no UI pages: whole traces and the dependency graph"
            );
            println!("            are in the dashboard; JAEGER=/path/to/jaeger uses a Jaeger that has them)");
        }
    }
}

/// `curl -I` as the lab has it. The name is resolved for curl, since not every resolver knows `*.localhost`.
fn curl_head(web: SocketAddr, target: &str) -> Result<u16> {
    let port = web.port();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", "--noproxy", "*"]);
    curl.arg("--resolve").arg(format!("{HOST}:{port}:{}", web.ip()));
    curl.arg("-I").arg(format!("http://{HOST}:{port}{target}"));
    let output = wayspan_tests::tied(&curl).output().context("curl")?;
    if !output.status.success() {
        bail!("curl -I {target}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// The same from what `/api/status` says, by reason, since one reason mostly holds for all of them.
fn lacking_probes(status: &Value) -> Option<String> {
    let probes = status["probes"].as_array()?;
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for probe in probes.iter().filter(|probe| probe["lacking"] == true) {
        let name = probe["tracepoint"].as_str().unwrap_or_default();
        by_reason.entry(probe["why"].as_str().unwrap_or("no reason is told")).or_default().push(name);
    }
    if by_reason.is_empty() {
        return None;
    }
    let none_is_on = probes.iter().all(|probe| probe["on"] != true);
    let reasons: Vec<String> = by_reason
        .iter()
        .map(|(why, names)| {
            if none_is_on && by_reason.len() == 1 { (*why).to_owned() } else { format!("{} ({why})", names.join(", ")) }
        })
        .collect();
    let which = if none_is_on { "no kernel probes" } else { "without the kernel probes" };
    Some(format!("{which}: {}", reasons.join(", ")))
}

fn refuse_taken_ports(real_parts: bool) -> Result<()> {
    let needed = PORTS.iter().take(if real_parts { PORTS.len() } else { 3 });
    let taken: Vec<String> = needed
        .filter(|(port, _)| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
        .map(|(port, who)| format!("{port} ({who})"))
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "ports of 127.0.0.1 that the lab needs are taken: {}. `ss -ltnp` shows by whom; stop that, or run \
         `cargo xtask demo --check`, which uses a loopback address of its own",
        taken.join(", ")
    )
}

/// The lab's configuration for this run: on a private address, and without Jaeger where there is none.
fn render(text: &str, listen: Option<Ipv4Addr>, jaeger: bool) -> String {
    let mut text = text.to_owned();
    if !jaeger {
        if let Some((before, after)) = text.split_once("  otlp:\n")
            && let Some((_, rest)) = after.split_once("\napi:")
        {
            text = format!("{before}\napi:{rest}");
        }
        text = text.lines().filter(|line| !line.contains("jaegerQuery:")).flat_map(|line| [line, "\n"]).collect();
    }
    if let Some(address) = listen {
        text = text.replace("127.0.0.1", &address.to_string()).replace("\":8000\"", &format!("\"{address}:8000\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_that_are_missing_are_named_with_their_reason() {
        let probe = |name: &str, on: bool, lacking: bool, why: &str| serde_json::json!({"tracepoint": name, "on": on, "lacking": lacking, "why": why});
        let check = |probes: &[Value], expected: Option<&str>| {
            assert_eq!(lacking_probes(&serde_json::json!({"probes": probes})).as_deref(), expected);
        };
        check(&[probe("a", true, false, ""), probe("b", false, false, "c does its work")], None);
        check(
            &[
                probe("a", false, true, "the process lacks CAP_BPF"),
                probe("b", false, true, "the process lacks CAP_BPF"),
            ],
            Some("no kernel probes: the process lacks CAP_BPF"),
        );
        check(
            &[probe("a", true, false, ""), probe("b", false, true, "old"), probe("c", false, true, "old")],
            Some("without the kernel probes: b, c (old)"),
        );
        check(
            &[probe("a", false, true, "x"), probe("b", false, true, "y"), probe("c", false, false, "z")],
            Some("no kernel probes: a (x), b (y)"),
        );
    }

    #[test]
    fn the_lab_moves_to_a_private_address_and_drops_jaeger() {
        let text = std::fs::read_to_string(wayspan_tests::root().join("deploy/lab/wayspan.yaml")).unwrap();
        let moved = render(&text, Some(Ipv4Addr::new(127, 70, 1, 2)), true);
        assert!(
            !moved.contains("127.0.0.1") && moved.contains("\"127.70.1.2:8000\"") && moved.contains("127.70.1.2:4317")
        );
        let alone = render(&text, None, false);
        for gone in ["otlp:", "samplingServerURL", "jaegerQuery"] {
            assert!(text.contains(gone) && !alone.contains(gone), "{gone}");
        }
        assert!(alone.contains("sampleRate") && alone.contains("\napi:") && alone.contains("\nping:"));
    }
}
