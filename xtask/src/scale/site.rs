//! Who takes part: the API, its objects, the servers behind them, and the three agents.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use wayspan_tests::{Agent, Kubernetes, Process, http, private_loopback, wait_until};

use super::objects::{self, FEW, Kind, MANY, ONE};
use crate::bench::measure::resident_kb;

/// The entry point's, and the Gateway's.
const WEB: u16 = 8000;
/// Further routes that lead to the first Service: with them it is routes alone that differ from request to request, and not
/// the servers.
pub(super) const SHARED: usize = 64;
/// Hosts that are asked, all over the routes: their connections to servers stay open in all agents.
const HOSTS: usize = 64;
/// Those who make objects at once: the API server answers each when etcd has it on its disk.
const MAKERS: usize = 8;
/// An agent that has taken less than this of a CPU for [`CALM_FOR`] is at rest.
const CALM: f64 = 0.03;
const CALM_FOR: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(600);

/// All of them.
pub(super) struct Site {
    pub(super) cluster: Kubernetes,
    proxy: Process,
    /// The API in plain HTTP.
    api: SocketAddr,
    /// An address of this machine that an EndpointSlice may name: loopback ones are refused.
    pub(super) address: Ipv4Addr,
    /// Ports of the servers that were there before and of the one that is new; the answer's body says which.
    pub(super) old: [u16; 2],
    pub(super) new: u16,
    pub(super) routes: usize,
    agents: Vec<Watching>,
}

/// An agent.
pub(super) struct Watching {
    pub(super) agent: Agent,
    pub(super) web: SocketAddr,
}

/// What the new server answers.
pub(super) const NEW: &str = "new";

impl Site {
    pub(super) fn start(definitions: &Path) -> Result<Self> {
        let cluster = Kubernetes::start_alone()?;
        let definitions = definitions.display().to_string();
        cluster.kubectl(&["apply", "--server-side", "-f", &definitions], "")?;
        for namespace in [ONE, FEW, MANY] {
            cluster.kubectl(&["create", "namespace", namespace], "")?;
        }
        let known = || cluster.kubectl(&["apply", "-f", "-"], &objects::gateways(WEB)).ok();
        wait_until(PATIENCE, known).context("the API does not take a Gateway")?;
        let mut command = Command::new(wayspan_tests::binary("KUBECTL_BIN", "peers/kubernetes/kubectl")?);
        command.arg("--kubeconfig").arg(cluster.config("admin")).args(["proxy", "--port=0", "--keepalive=60s"]);
        let mut proxy = Process::start("kubectl proxy", command)?;
        let api =
            proxy.wait_for_line("where it listens", |line| line.split_once("serve on ")?.1.trim().parse().ok())?;
        let address = own_address()?;
        let old = [serve(address, "old")?, serve(address, "old")?];
        let new = serve(address, NEW)?;
        Ok(Self { cluster, proxy, api, address, old, new, routes: 0, agents: Vec::new() })
    }

    /// Makes all objects.
    pub(super) fn fill(&mut self, routes: usize, endpoints_each: usize) -> Result<()> {
        self.routes = routes;
        let made: Result<Vec<()>> = std::thread::scope(|scope| {
            let maker = |first: usize| {
                let site = &*self;
                scope.spawn(move || {
                    let mut api = site.api()?;
                    (first..routes)
                        .step_by(MAKERS)
                        .try_for_each(|number| site.make_one(&mut api, MANY, number, endpoints_each))
                })
            };
            let makers: Vec<_> = (0..MAKERS).map(maker).collect();
            makers.into_iter().map(|maker| maker.join().map_err(|_| anyhow::anyhow!("a maker panicked"))?).collect()
        });
        made?;
        let mut api = self.api()?;
        for number in 0..SHARED {
            let (name, host) = objects::shared(number);
            api.make(Kind::Ingress, MANY, &objects::ingress(&name, &host, 0))?;
        }
        for number in self.spread() {
            self.make_one(&mut api, FEW, number, endpoints_each)?;
        }
        api.make(Kind::Service, ONE, &objects::service(0))?;
        for nth in 0..endpoints_each {
            api.make(Kind::Slice, ONE, &objects::slice(0, nth, self.address, self.port(nth)))?;
        }
        api.make(Kind::Ingress, ONE, &objects::ingress(&objects::name(0), &objects::host(0), 0))
    }

    /// The routes that are asked for with servers of their own.
    pub(super) fn spread(&self) -> impl Iterator<Item = usize> {
        let hosts = HOSTS.min(self.routes);
        (0..hosts).map(move |one| one * self.routes / hosts)
    }

    fn make_one(&self, api: &mut Api, namespace: &str, number: usize, endpoints: usize) -> Result<()> {
        api.make(Kind::Service, namespace, &objects::service(number))?;
        for nth in 0..endpoints {
            api.make(Kind::Slice, namespace, &objects::slice(number, nth, self.address, self.port(nth)))?;
        }
        if number.is_multiple_of(2) {
            let (name, host) = (objects::name(number), objects::host(number));
            api.make(Kind::Ingress, namespace, &objects::ingress(&name, &host, number))
        } else {
            api.make(Kind::HttpRoute, namespace, &objects::http_route(number))
        }
    }

    fn port(&self, nth: usize) -> u16 {
        self.old[nth % 2]
    }

    /// The API's own words, over a connection of their own.
    pub(super) fn api(&self) -> Result<Api> {
        Ok(Api(http::Connection::open(self.api)?))
    }

    /// Starts the agents and waits until they serve all routes.
    pub(super) fn start_agents(&mut self) -> Result<()> {
        let [few, many] = [FEW, MANY].map(|namespace| {
            format!(
                "kubernetesIngress: {{namespaces: [{namespace}]}}, kubernetesGateway: {{namespaces: [{namespace}]}}"
            )
        });
        for providers in [format!("kubernetesIngress: {{namespaces: [{ONE}]}}"), few, many] {
            let address = private_loopback(&[WEB])?;
            let config = format!(
                "entryPoints: {{web: {{address: \"{address}:{WEB}\"}}}}\nproviders: {{{providers}}}\nworkers: {{count: 1}}\n\
                 probes: off\nmetrics: {{prometheus: {{}}}}\napi: {{address: \"127.0.0.1:0\"}}\n"
            );
            let kubeconfig = self.cluster.config("admin");
            let mut agent = Agent::start_with(&config, |binary| {
                let mut command = Command::new(binary);
                command.env("KUBECONFIG", kubeconfig);
                Ok(command)
            })?;
            let web = agent.address("web")?;
            self.agents.push(Watching { agent, web });
        }
        let last = [objects::host(self.routes.saturating_sub(2)), objects::host(self.routes.saturating_sub(1))];
        let few: Vec<String> = self.spread().map(objects::host).collect();
        for (watching, hosts) in [(self.many(), &last[..]), (self.few(), &few)] {
            let answers = |host: &String| http::get(watching.web, host, "/").is_ok_and(|answer| answer.status == 200);
            wait_until(PATIENCE, || hosts.iter().all(answers).then_some(())).context("the routes are not served")?;
        }
        Ok(())
    }

    /// The agent with a single route.
    pub(super) fn one(&self) -> &Watching {
        &self.agents[0]
    }

    /// The agent with those of all of them that are asked for.
    pub(super) fn few(&self) -> &Watching {
        &self.agents[1]
    }

    /// The agent with all of them.
    pub(super) fn many(&self) -> &Watching {
        &self.agents[2]
    }

    /// Waits until the agents rest: statuses are written at a pace of their own.
    pub(super) fn settle(&self) -> Result<()> {
        let is_calm = |watching: &Watching| -> Result<bool> {
            let before = watching.cpu_ns(|_| true)?;
            std::thread::sleep(CALM_FOR);
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let taken = (watching.cpu_ns(|_| true)? - before) as f64 / CALM_FOR.as_nanos() as f64;
            Ok(taken < CALM)
        };
        let settled = wait_until(PATIENCE, || {
            let calm: Result<Vec<bool>> = self.agents.iter().map(is_calm).collect();
            calm.map(|calm| calm.into_iter().all(|is_calm| is_calm).then_some(())).transpose()
        });
        settled.context("the agents do not come to rest")?
    }

    /// Resident memory with one route and with all, in MB.
    pub(super) fn memory(&self) -> Result<[f64; 2]> {
        #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
        let of =
            |watching: &Watching| -> Result<f64> { Ok(resident_kb(&[watching.agent.process.pid()])? as f64 / 1024.0) };
        Ok([of(self.one())?, of(self.many())?])
    }

    /// Whether the way to the API still stands.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.proxy.exited() {
            Some(status) => bail!("kubectl proxy ended: {status}\n{}", self.proxy.log_tail()),
            None => Ok(()),
        }
    }
}

impl Watching {
    /// CPU that its threads of these names have taken so far.
    pub(super) fn cpu_ns(&self, is_meant: impl Fn(&str) -> bool) -> Result<u64> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.agent.process.pid()))? {
            let task = task?.path();
            // A thread may end while we look.
            let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
            let Ok(taken) = std::fs::read_to_string(task.join("schedstat")) else { continue };
            if is_meant(name.trim()) {
                sum += taken.split(' ').next().and_then(|taken| taken.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(sum)
    }
}

/// A connection to the API.
pub(super) struct Api(http::Connection);

impl Api {
    pub(super) fn make(&mut self, kind: Kind, namespace: &str, object: &Value) -> Result<()> {
        self.send("POST", &kind.path(namespace), "application/json", object)
    }

    pub(super) fn patch(&mut self, kind: Kind, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.send("PATCH", &format!("{}/{name}", kind.path(namespace)), "application/merge-patch+json", patch)
    }

    pub(super) fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.send("DELETE", &format!("{}/{name}", kind.path(namespace)), "application/json", &Value::Null)
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: &Value) -> Result<()> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.0.request(method, "127.0.0.1", path, &[("content-type", kind)], &body)?;
        match answer.status {
            200..=299 => Ok(()),
            status => bail!("{method} {path}: {status}: {:.300}", answer.text()),
        }
    }
}

/// The address by which this machine would reach others; nothing is sent.
fn own_address() -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // TEST-NET-1, RFC 5737.
    socket.connect("192.0.2.1:9").context("this machine has no way out: EndpointSlices take no loopback addresses")?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Ok(address),
        other => bail!("{other} is no address for an EndpointSlice"),
    }
}

/// A server that answers everything with one word. Gives its port.
fn serve(address: Ipv4Addr, word: &'static str) -> Result<u16> {
    let listener = TcpListener::bind((address, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(&stream, word));
        }
    });
    Ok(port)
}

fn answer(stream: &TcpStream, word: &str) {
    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
    let _delayed = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // Requests without a body: each ends with an empty line.
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        let is_end = line.trim_end().is_empty();
        line.clear();
        let mut writer = stream;
        if is_end && writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
