//! The real Jaeger and Hot R.O.D. as child processes on private loopback addresses with their well-known ports, and what
//! Jaeger's query API says of traces.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{PATIENCE, Process, http, private_loopback, wait_until};

// Query and UI, OTLP over gRPC and HTTP, sampling over HTTP and gRPC, health, and the rest that Jaeger opens by itself.
const JAEGER_PORTS: [u16; 14] =
    [16686, 16685, 4317, 4318, 5778, 5779, 13132, 13133, 8888, 27777, 27778, 14250, 14268, 9411];

/// A running Jaeger, all in one, in memory.
#[derive(Debug)]
pub struct Jaeger {
    /// The process.
    pub process: Process,
    host: IpAddr,
}

impl Jaeger {
    /// Starts the binary of `JAEGER_BIN` on an address of its own and waits until it answers.
    ///
    /// # Errors
    /// There is no binary, it ended, or it did not answer in time.
    pub fn start() -> Result<Self> {
        Self::start_on(&crate::binary("JAEGER_BIN", "peers/jaeger")?, private_loopback(&JAEGER_PORTS)?.into(), &[])
    }

    /// The same with a file of sampling strategies, which it reads again every second.
    ///
    /// # Errors
    /// As [`Jaeger::start`].
    pub fn start_with_strategies(file: &Path) -> Result<Self> {
        let binary = crate::binary("JAEGER_BIN", "peers/jaeger")?;
        let strategies = format!("--set=extensions.remote_sampling.file.path={}", file.display());
        Self::start_on(&binary, private_loopback(&JAEGER_PORTS)?.into(), &[strategies])
    }

    /// Starts `binary` on `host` and waits until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub fn start_on(binary: &Path, host: IpAddr, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(binary);
        // The built-in configuration takes all addresses from this variable but these three.
        command.env("JAEGER_LISTEN_HOST", host.to_string());
        for (key, port) in [("jaeger_query.http", 16686), ("jaeger_query.grpc", 16685), ("healthcheckv2.grpc", 13132)] {
            command.arg(format!("--set=extensions.{key}.endpoint={host}:{port}"));
        }
        command.args(arguments);
        let mut jaeger = Self { process: Process::start("jaeger", command)?, host };
        let ready = wait_until(PATIENCE, || {
            let up = http::accepts(jaeger.otlp_grpc()) && jaeger.get("/api/services").is_ok();
            up.then_some(Ok(())).or_else(|| jaeger.process.exited().map(Err))
        });
        match ready {
            Some(Ok(())) => Ok(jaeger),
            Some(Err(status)) => bail!("jaeger ended: {status}\n{}", jaeger.process.log_tail()),
            None => bail!("jaeger did not answer at {}\n{}", jaeger.query(), jaeger.process.log_tail()),
        }
    }

    /// A Jaeger that runs elsewhere, and the process that forwards its query port to `host`.
    #[must_use]
    pub fn forwarded(process: Process, host: IpAddr) -> Self {
        Self { process, host }
    }

    /// The query API and UI.
    #[must_use]
    pub fn query(&self) -> SocketAddr {
        SocketAddr::new(self.host, 16686)
    }

    /// OTLP over gRPC.
    #[must_use]
    pub fn otlp_grpc(&self) -> SocketAddr {
        SocketAddr::new(self.host, 4317)
    }

    /// OTLP over HTTP.
    #[must_use]
    pub fn otlp_http(&self) -> SocketAddr {
        SocketAddr::new(self.host, 4318)
    }

    /// Sampling strategies over HTTP: `GET /sampling?service=NAME`.
    #[must_use]
    pub fn sampling(&self) -> SocketAddr {
        SocketAddr::new(self.host, 5778)
    }

    /// `data` of an answer of the query API.
    ///
    /// # Errors
    /// It does not answer, or with an error.
    pub fn get(&self, target: &str) -> Result<Value> {
        let mut answer = http::get(self.query(), "localhost", target)?.json()?;
        match (answer["errors"].is_null(), answer.get_mut("data")) {
            // `null` is an empty list.
            (true, Some(data)) => Ok(data.take()),
            _ => bail!("Jaeger answers {target} with {answer}"),
        }
    }

    /// The names of all services that have sent spans.
    ///
    /// # Errors
    /// As [`Jaeger::get`].
    pub fn services(&self) -> Result<Vec<String>> {
        Ok(strings(&self.get("/api/services")?))
    }

    /// The operations of a service: (span kind, name).
    ///
    /// # Errors
    /// As [`Jaeger::get`].
    pub fn operations(&self, service: &str) -> Result<Vec<(String, String)>> {
        let data = self.get(&format!("/api/operations?service={}", escaped(service)))?;
        Ok(list(&data).iter().map(|entry| (text(&entry["spanKind"]), text(&entry["name"]))).collect())
    }

    /// The newest traces in which a service takes part.
    ///
    /// # Errors
    /// As [`Jaeger::get`].
    pub fn traces(&self, service: &str, limit: usize) -> Result<Vec<Trace>> {
        let data = self.get(&format!("/api/traces?service={}&limit={limit}", escaped(service)))?;
        Ok(list(&data).iter().map(Trace::read).collect())
    }

    /// One trace by its id in hex.
    ///
    /// # Errors
    /// As [`Jaeger::get`]; also where it is not there (yet).
    pub fn trace(&self, id: &str) -> Result<Trace> {
        let data = self.get(&format!("/api/traces/{id}"))?;
        list(&data).first().map(Trace::read).with_context(|| format!("no trace {id}"))
    }

    /// The dependency graph of the last hour.
    ///
    /// # Errors
    /// As [`Jaeger::get`].
    pub fn dependencies(&self) -> Result<Vec<Edge>> {
        #[expect(clippy::disallowed_methods, reason = "Jaeger's query wants the end of the period in wall time")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        // A little ahead, so that spans that end just now are inside.
        let end = (now + Duration::from_secs(60)).as_millis();
        let data = self.get(&format!("/api/dependencies?endTs={end}&lookback=3600000"))?;
        Ok(list(&data)
            .iter()
            .map(|edge| Edge {
                parent: text(&edge["parent"]),
                child: text(&edge["child"]),
                calls: edge["callCount"].as_u64().unwrap_or(0),
            })
            .collect())
    }
}

// Frontend, customer, driver, route.
const HOTROD_PORTS: [u16; 4] = [8080, 8081, 8082, 8083];

/// A running Hot R.O.D.: all its services in one process, each a service of its own in the traces.
#[derive(Debug)]
pub struct HotRod {
    /// The process.
    pub process: Process,
    host: IpAddr,
}

impl HotRod {
    /// Its services as they appear in a trace of a dispatch.
    pub const SERVICES: [&str; 6] = ["frontend", "customer", "driver", "route", "mysql", "redis-manual"];

    /// Starts the binary of `HOTROD_BIN` on an address of its own, with its spans to `jaeger`.
    ///
    /// # Errors
    /// There is no binary, it ended, or it did not answer in time.
    pub fn start(jaeger: &Jaeger) -> Result<Self> {
        Self::start_on(&crate::binary("HOTROD_BIN", "peers/hotrod")?, private_loopback(&HOTROD_PORTS)?.into(), jaeger)
    }

    /// Starts `binary` on `host` and waits until all its services accept connections.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub fn start_on(binary: &Path, host: IpAddr, jaeger: &Jaeger) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("all").env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.otlp_http()));
        command.arg(format!("--jaeger-ui=http://{}", jaeger.query()));
        for service in ["frontend", "customer", "driver", "route"] {
            command.arg(format!("--{service}-service-hostname={host}"));
        }
        let mut hotrod = Self { process: Process::start("hotrod", command)?, host };
        let ready = wait_until(PATIENCE, || {
            let up = HOTROD_PORTS.iter().all(|port| http::accepts(SocketAddr::new(host, *port)));
            up.then_some(Ok(())).or_else(|| hotrod.process.exited().map(Err))
        });
        match ready {
            Some(Ok(())) => Ok(hotrod),
            Some(Err(status)) => bail!("hotrod ended: {status}\n{}", hotrod.process.log_tail()),
            None => bail!("hotrod did not come up on {host}\n{}", hotrod.process.log_tail()),
        }
    }

    /// The frontend, which the ingress forwards to.
    #[must_use]
    pub fn frontend(&self) -> SocketAddr {
        SocketAddr::new(self.host, HOTROD_PORTS[0])
    }
}

/// An edge of the dependency graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The caller.
    pub parent: String,
    /// The called.
    pub child: String,
    /// How often.
    pub calls: u64,
}

/// A trace as Jaeger shows it.
#[derive(Debug, Clone)]
pub struct Trace {
    /// In hex.
    pub id: String,
    /// In the order of their start.
    pub spans: Vec<Span>,
}

/// A span as Jaeger shows it.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// In hex.
    pub id: String,
    /// The parent's id.
    pub parent: Option<String>,
    /// Its service.
    pub service: String,
    /// Its operation.
    pub operation: String,
    /// Start, microseconds since 1970.
    pub start_us: u64,
    /// Duration.
    pub duration_us: u64,
    /// Its attributes as text; `span.kind` and `otel.scope.name` stand here too.
    pub tags: BTreeMap<String, String>,
    /// Its resource's attributes.
    pub process: BTreeMap<String, String>,
    /// What Jaeger found wrong with it.
    pub warnings: Vec<String>,
}

impl Span {
    /// An attribute.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name).map(String::as_str)
    }

    /// `server`, `client`, `internal`, ..; empty where it has none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.tag("span.kind").unwrap_or_default()
    }

    /// The phases longer than zero that it names, in microseconds.
    #[must_use]
    pub fn phases(&self) -> Vec<(&str, u64)> {
        self.tags
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("wayspan.phase.")?, value.parse().ok()?)))
            .collect()
    }
}

impl Trace {
    fn read(data: &Value) -> Self {
        let processes = &data["processes"];
        let mut spans: Vec<Span> = list(&data["spans"]).iter().map(|span| read_span(span, processes)).collect();
        spans.sort_by_key(|span| span.start_us);
        Self { id: text(&data["traceID"]), spans }
    }

    /// The spans of a service.
    pub fn of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.service == service)
    }

    /// The spans without a parent in this trace.
    pub fn roots(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| {
            span.parent.as_ref().is_none_or(|parent| !self.spans.iter().any(|other| other.id == *parent))
        })
    }

    /// The children of a span, in the order of their start.
    pub fn children<'a>(&'a self, of: &'a Span) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.parent.as_ref() == Some(&of.id))
    }
}

fn read_span(span: &Value, processes: &Value) -> Span {
    let process = &processes[text(&span["processID"])];
    let parent = list(&span["references"]).iter().find(|reference| reference["refType"] == "CHILD_OF");
    Span {
        id: text(&span["spanID"]),
        parent: parent.map(|reference| text(&reference["spanID"])),
        service: text(&process["serviceName"]),
        operation: text(&span["operationName"]),
        start_us: span["startTime"].as_u64().unwrap_or(0),
        duration_us: span["duration"].as_u64().unwrap_or(0),
        tags: tags(&span["tags"]),
        process: tags(&process["tags"]),
        warnings: strings(&span["warnings"]),
    }
}

fn tags(list_of_tags: &Value) -> BTreeMap<String, String> {
    list(list_of_tags)
        .iter()
        .map(|tag| {
            let value = &tag["value"];
            (text(&tag["key"]), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A query value with all but letters, digits and `-_.~` escaped.
fn escaped(value: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _infallible = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
