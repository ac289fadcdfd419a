//! The world of the table: three network namespaces, two ways between each two, the agent in the middle one. All of it
//! is held by file descriptors and processes tied to this one: nothing is left, however it ends.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::backend::{Backends, at};
use super::client::Asked;
use super::machine::last_core;
use super::otlp::Sink;
use super::plan::{self, Link, Route, Shape};
use super::space::Space;
use super::stage::Stage;
use super::wire::{End, Wire};

/// Addresses by way and end; the namespaces are all that knows them.
const CLIENT_DIRECT: [&str; 2] = ["10.77.1.2", "10.77.1.1"];
const CLIENT_RELAYED: [&str; 2] = ["10.77.2.2", "10.77.2.1"];
const BACKEND_DIRECT: [&str; 2] = ["10.77.3.1", "10.77.3.2"];
const BACKEND_RELAYED: [&str; 2] = ["10.77.4.1", "10.77.4.2"];
const ENTRY_POINT: u16 = 8000;
/// Of clients that speak TLS.
const SECURE: u16 = 8443;
/// Of requests whose path is rewritten at such cost that the worker is busy for milliseconds.
pub(super) const BUSY: &str = "busy.test";
const SEND_BUFFERS: &str = "net.ipv4.tcp_wmem";

pub(super) struct World {
    pub(super) stage: Arc<Stage>,
    pub(super) clients: Space,
    pub(super) sink: Sink,
    middle: Space,
    backends: Backends,
    wires: [Wire; 2],
    send_buffers: String,
    agent: Option<(plan::Agent, wayspan_tests::Agent)>,
    // Dropped last: threads and the agent are in it.
    _backend_space: Space,
}

impl World {
    pub(super) fn new() -> Result<Self> {
        last_core()?;
        let stage = Arc::new(Stage::default());
        let (clients, middle, backend_space) = (Space::new()?, Space::new()?, Space::new()?);
        join(&clients, CLIENT_DIRECT, &middle, "clients")?;
        join(&middle, BACKEND_DIRECT, &backend_space, "backends")?;
        let end = |space, address| End { space, address };
        let [from, to] = CLIENT_RELAYED;
        let client_wire = Wire::start(Link::Client, &stage, &end(&clients, from), &end(&middle, to))?;
        let [from, to] = BACKEND_RELAYED;
        let backend_wire = Wire::start(Link::Backend, &stage, &end(&middle, from), &end(&backend_space, to))?;
        let send_buffers = middle.within(|| Ok(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem")?))?;
        Ok(Self {
            sink: Sink::start(&middle)?,
            backends: Backends::start(&backend_space, &stage)?,
            wires: [client_wire, backend_wire],
            send_buffers,
            agent: None,
            stage,
            clients,
            middle,
            _backend_space: backend_space,
        })
    }

    /// Sees to it that such an agent runs.
    pub(super) fn agent(&mut self, kind: plan::Agent) -> Result<()> {
        if self.agent.as_ref().is_some_and(|(running, _)| *running == kind) {
            return Ok(());
        }
        self.agent = None;
        let mut agent = wayspan_tests::Agent::start_with(&self.config(kind)?, |binary| {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", self.middle.path()));
            if kind.is_pinned() {
                command.args(["taskset", "-c", &last_core()?.to_string()]);
            }
            if kind != plan::Agent::Ordinary {
                // Other work on this machine is not what is measured: above all of it, below the injectors.
                command.args(["chrt", "-f", "1"]);
            }
            if kind == plan::Agent::Stamped {
                command.args(["setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin", "--"]);
            }
            command.arg(binary);
            Ok(command)
        })?;
        agent.address("web").context("the agent under test")?;
        self.stage.set_agent(agent.process.pid())?;
        self.agent = Some((kind, agent));
        Ok(())
    }

    /// Makes ready for a row of that shape; says whom its clients ask.
    pub(super) fn prepare(&self, shape: &Shape) -> Result<Asked> {
        for wire in &self.wires {
            wire.forget();
        }
        let buffers = match shape.send_buffer {
            Some(most) => format!("4096 {most} {most}"),
            None => self.send_buffers.clone(),
        };
        self.middle.sysctl(SEND_BUFFERS, buffers.trim())?;
        let [_, address] = if shape.client == Route::Direct { CLIENT_DIRECT } else { CLIENT_RELAYED };
        let host = match (shape.backend, shape.late_acceptor) {
            _ if shape.asks => "asking.test",
            _ if shape.capped => "capped.test",
            _ if shape.limited => "limited.test",
            _ if shape.cramped => "cramped.test",
            (_, true) => "late.test",
            (Route::Direct, false) => "direct.test",
            (Route::Relayed, false) => "relayed.test",
        };
        let port = if shape.tls { SECURE } else { ENTRY_POINT };
        Ok(Asked { agent: SocketAddr::new(address.parse()?, port), host })
    }

    fn config(&self, kind: plan::Agent) -> Result<String> {
        let [_, direct] = BACKEND_DIRECT;
        let [_, relayed] = BACKEND_RELAYED;
        let Backends { prompt, late, called, cramped } = self.backends;
        let servers = [
            ("direct", at(direct, prompt)?, "", ""),
            ("relayed", at(relayed, prompt)?, "", ""),
            ("late", at(relayed, late)?, "", ""),
            ("cramped", at(direct, cramped)?, "", ""),
            ("asking", at(direct, prompt)?, ", middlewares: [ask]", ""),
            ("busy", at(direct, prompt)?, ", middlewares: [work]", ""),
            ("capped", at(direct, prompt)?, "", ", serversTransport: one"),
            ("limited", at(direct, prompt)?, "", ", serversTransport: limited"),
        ];
        let routers = servers.map(|(name, _, with, _)| {
            format!("    {name}: {{rule: \"Host(`{name}.test`)\", service: {name}{with}}}\n")
        });
        let services = servers.map(|(name, server, _, by)| {
            format!("    {name}: {{loadBalancer: {{servers: [{{url: \"http://{server}\"}}]{by}}}}}\n")
        });
        let ask = format!(
            "  middlewares:\n    ask: {{forwardAuth: {{address: \"http://{}\"}}}}\n    \
             work: {{replacePathRegex: {{regex: \"x*y|x\", replacement: z}}}}\n  serversTransports:\n    \
             one: {{maxConnsPerHost: 1}}\n    limited: {{forwardingTimeouts: {{responseHeaderTimeout: 100ms}}}}\n",
            at(direct, called)?
        );
        let probes = match kind {
            plan::Agent::Watching | plan::Agent::Pinned | plan::Agent::Ordinary => {
                "probes: {required: true, backends: true}\n"
            }
            plan::Agent::Acking => "probes: {required: true, backends: true, ack: true}\n",
            plan::Agent::Elsewhere => "probes: {required: true, backends: false}\n",
            plan::Agent::Blind => "probes: off\n",
            plan::Agent::Stamped => "probes: {timestamps: true}\n",
        };
        let workers = if kind.is_pinned() { "workers: {count: 1}\n" } else { "" };
        Ok(format!(
            "entryPoints:\n  web: {{address: \":{ENTRY_POINT}\"}}\n  secure: {{address: \":{SECURE}\", http: {{tls: {{}}}}}}\nhttp:\n  routers:\n{}  services:\n{}\
             attribution: {{spans: attributes}}\n{probes}{workers}tracing:\n  sampleRate: 1.0\n  otlp:\n    \
             interval: 50ms\n    http: {{endpoint: \"http://{}\"}}\n",
            routers.concat(),
            services.concat() + &ask,
            self.sink.address
        ))
    }
}

/// A pair of devices between two namespaces.
fn join(from: &Space, [near, far]: [&str; 2], to: &Space, name: &str) -> Result<()> {
    let (path, peer) = (to.path(), format!("{name}-peer"));
    from.ip(&["link", "add", name, "type", "veth", "peer", "name", &peer, "netns", &path])?;
    for (space, address, device) in [(from, near, name), (to, far, peer.as_str())] {
        space.ip(&["address", "add", &format!("{address}/30"), "dev", device])?;
        space.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}
