//! The static sections of the main file's tree to [`Static`].

use std::path::Path;
use std::time::Duration;

use super::certificates;
use super::cursor::Cursor;
use super::fault::{Fault, Faults};
use super::kubernetes;
use super::model::{
    Api, Attribution, ClientTls, FileProvider, Identity, Log, Metadata, Metrics, Otlp, OtlpProtocol, PhaseSpans, Ping,
    Probes, SamplingServer, Static, Switch, Tracing, Workers,
};
use super::value;
use super::yaml::Node;
use crate::handover::NAME_BYTES_MAX;

/// Reads the static sections. Values that cannot be read were reported by the walk and have their defaults here.
pub(super) fn read(file: &Path, root: &Node, faults: &mut Faults) -> Static {
    let top = Cursor::new(Some(root), "");
    let mut read = Read { file, top, faults };
    Static {
        tracing: top.present("tracing").then(|| read.tracing()),
        api: top.present("api").then(|| read.api()),
        ping: top.present("ping").then(|| Ping { entry_point: top.text("ping.entryPoint") }),
        metrics: top.present("metrics.prometheus").then(|| {
            let texts = top.texts("metrics.prometheus.buckets");
            Metrics { bounds: value::bounds(texts.iter().map(String::as_str)).unwrap_or_default() }
        }),
        log: Log {
            level: top.text("log.level").map(|text| value::level(&text)).unwrap_or_default(),
            json: top.text("log.format").is_some_and(|format| format.eq_ignore_ascii_case("json")),
        },
        probes: Probes {
            enabled: top.node("probes").is_none() || top.present("probes"),
            required: top.boolean("probes.required"),
            slots: top.integer("probes.slots"),
            backends: top.boolean("probes.backends"),
            ack: top.boolean("probes.ack"),
            timestamps: top.boolean("probes.timestamps"),
        },
        attribution: Attribution {
            spans: match top.text("attribution.spans").unwrap_or_default().to_ascii_lowercase().as_str() {
                "attributes" => PhaseSpans::Attributes,
                "all" => PhaseSpans::All,
                _ => PhaseSpans::Notable,
            },
            notable_duration: top.duration("attribution.notable.duration"),
            notable_share: top.float("attribution.notable.share"),
        },
        workers: Workers { count: top.integer("workers.count"), pin: top.boolean("workers.pin") },
        hand_over: read.hand_over(),
        metadata: read.metadata(),
        file_provider: top.node("providers.file").and_then(|_| read.file_provider()),
        kubernetes: kubernetes::read(file, root, faults),
        status: kubernetes::status(file, &top, faults),
    }
}

struct Read<'r> {
    file: &'r Path,
    top: Cursor<'r>,
    faults: &'r mut Faults,
}

impl Read<'_> {
    fn fault(&mut self, path: &str, message: &str) {
        let line = self.top.line(path);
        self.faults.push(Fault::at(self.file, path, line, message.to_owned()));
    }

    fn positive(&mut self, path: &str) -> Duration {
        let duration = self.top.duration(path);
        if duration.is_zero() {
            self.fault(path, "must be longer than 0s");
        }
        duration
    }

    fn hand_over(&mut self) -> Option<String> {
        const PATH: &str = "handOver.name";
        let name = self.top.text(PATH)?;
        if name.len() > NAME_BYTES_MAX {
            self.fault(PATH, &format!("must not be longer than {NAME_BYTES_MAX} bytes"));
        }
        Some(name)
    }

    fn tracing(&mut self) -> Tracing {
        let top = self.top;
        let lower = |path: &str| top.texts(path).iter().map(|name| name.to_ascii_lowercase()).collect();
        Tracing {
            service_name: top.text("tracing.serviceName").unwrap_or_default(),
            resource_attributes: top.map("tracing.resourceAttributes"),
            sample_rate: top.float("tracing.sampleRate"),
            add_internals: top.boolean("tracing.addInternals"),
            captured_request_headers: lower("tracing.capturedRequestHeaders"),
            captured_response_headers: lower("tracing.capturedResponseHeaders"),
            safe_query_params: top.texts("tracing.safeQueryParams"),
            otlp: if top.present("tracing.otlp") { self.otlp() } else { None },
            sampling_server: top
                .text("tracing.jaeger.samplingServerURL")
                .map(|url| SamplingServer { url, interval: self.positive("sampling.pollInterval") }),
        }
    }

    fn otlp(&mut self) -> Option<Otlp> {
        let top = self.top;
        let protocol = match (top.present("tracing.otlp.grpc"), top.present("tracing.otlp.http")) {
            (true, true) => {
                self.fault("tracing.otlp", "names both grpc and http; keep one");
                return None;
            }
            (true, false) => OtlpProtocol::Grpc,
            // As in Traefik: `otlp: {}` is HTTP with its defaults.
            (false, _) => OtlpProtocol::Http,
        };
        let (endpoint, headers, tls) = match protocol {
            OtlpProtocol::Grpc => (self.grpc_endpoint(), "tracing.otlp.grpc.headers", "tracing.otlp.grpc.tls"),
            OtlpProtocol::Http => (self.http_endpoint(), "tracing.otlp.http.headers", "tracing.otlp.http.tls"),
        };
        // All faults at once: not `?` before everything has been looked at.
        let tls_settings = self.client_tls(tls);
        let endpoint = endpoint?;
        if top.node(tls).is_some() && !endpoint.starts_with("https:") {
            self.fault(tls, "is of no use without TLS; write an https:// endpoint, or drop `insecure: true` or this");
        }
        let (queue_spans, batch_spans) =
            (top.integer("tracing.otlp.queueSpans"), top.integer("tracing.otlp.batchSpans"));
        if batch_spans > queue_spans {
            self.fault("tracing.otlp.batchSpans", "must not be larger than queueSpans");
        }
        Some(Otlp {
            protocol,
            endpoint,
            tls: tls_settings,
            headers: top.map(headers),
            queue_spans,
            batch_spans,
            interval: self.positive("tracing.otlp.interval"),
            timeout: self.positive("tracing.otlp.timeout"),
        })
    }

    fn client_tls(&mut self, section: &str) -> ClientTls {
        // Relative as `providers.file` is.
        let base = self.file.parent().unwrap_or(Path::new(""));
        let [ca, cert, key] = ["ca", "cert", "key"].map(|word| format!("{section}.{word}"));
        let roots = self.material(&ca, |text| certificates::certificates(base, text));
        let chain = self.material(&cert, |text| certificates::certificates(base, text));
        let private = self.material(&key, |text| certificates::private_key(base, text));
        match (self.top.text(&cert), self.top.text(&key)) {
            (Some(_), None) => self.fault(&cert, "needs `key` beside it"),
            (None, Some(_)) => self.fault(&key, "needs `cert` beside it"),
            _ => {}
        }
        ClientTls {
            ca: roots.unwrap_or_default(),
            identity: chain.zip(private).map(|(chain, key)| Identity { chain, key }),
            insecure_skip_verify: self.top.boolean(&format!("{section}.insecureSkipVerify")),
        }
    }

    /// What a key names, where it is given and can be read.
    fn material<T>(&mut self, path: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.top.text(path)?;
        read(&text).map_err(|message| self.fault(path, &message)).ok()
    }

    fn grpc_endpoint(&mut self) -> Option<String> {
        const PATH: &str = "tracing.otlp.grpc.endpoint";
        let text = self.top.text(PATH)?;
        let insecure = self.top.boolean("tracing.otlp.grpc.insecure");
        let (scheme, authority, path) = value::endpoint(&text).ok()?;
        if !matches!(path, "" | "/") {
            self.fault(PATH, "must not have a path; write host:port");
        }
        if insecure && scheme == Some("https") {
            self.fault(PATH, "says https:// and `insecure: true`; drop one of them");
        }
        let scheme = scheme.unwrap_or(if insecure { "http" } else { "https" });
        Some(format!("{scheme}://{authority}"))
    }

    fn http_endpoint(&mut self) -> Option<String> {
        const PATH: &str = "tracing.otlp.http.endpoint";
        let text = self.top.text(PATH)?;
        let (scheme, authority, path) = value::endpoint(&text).ok()?;
        let Some(scheme) = scheme else {
            self.fault(PATH, "has no scheme; write http://host:port or https://host:port");
            return None;
        };
        let path = if matches!(path, "" | "/") { "/v1/traces" } else { path };
        Some(format!("{scheme}://{authority}{path}"))
    }

    fn api(&mut self) -> Api {
        let address = self.top.parsed("api.address", |text| value::addresses(text).ok()?.into_iter().next());
        Api {
            dashboard: self.top.boolean("api.dashboard"),
            address: address.unwrap_or_else(|| (std::net::Ipv4Addr::LOCALHOST, 9000).into()),
            jaeger_query: self.top.text("api.jaegerQuery"),
            allowed_hosts: self.top.texts("api.allowedHosts").iter().map(|host| host.to_ascii_lowercase()).collect(),
        }
    }

    fn metadata(&mut self) -> Metadata {
        let top = self.top;
        Metadata {
            enabled: match top.text("kubernetes.metadata.enabled").unwrap_or_default().to_ascii_lowercase().as_str() {
                "true" => Switch::On,
                "false" => Switch::Off,
                _ => Switch::Auto,
            },
            labels: self.keys("kubernetes.metadata.labels"),
            annotations: self.keys("kubernetes.metadata.annotations"),
            namespaces: self.each(
                "kubernetes.metadata.namespaces",
                "is no namespace; write names in lower case",
                value::is_namespace,
            ),
            max_pods: top.integer("kubernetes.metadata.maxPods"),
        }
    }

    fn keys(&mut self, path: &str) -> Vec<String> {
        self.each(path, "is no key of a label; write it whole, or its beginning and a `*`", value::is_label_key)
    }

    /// A list's texts that are what they should be.
    fn each(&mut self, path: &str, message: &str, is_right: impl Fn(&str) -> bool) -> Vec<String> {
        let (right, wrong): (Vec<_>, Vec<_>) = self.top.lines(path).into_iter().partition(|(_, text)| is_right(text));
        for (line, text) in wrong {
            self.faults.push(Fault::at(self.file, path, line, format!("`{text}` {message}")));
        }
        right.into_iter().map(|(_, text)| text.to_owned()).collect()
    }

    fn file_provider(&mut self) -> Option<FileProvider> {
        let (filename, directory) =
            (self.top.text("providers.file.filename"), self.top.text("providers.file.directory"));
        let path = match (filename, directory) {
            (Some(_), Some(_)) => {
                self.fault("providers.file", "names both filename and directory; keep one");
                return None;
            }
            (None, None) => {
                self.fault("providers.file", "needs filename or directory");
                return None;
            }
            (Some(path), None) | (None, Some(path)) => path,
        };
        // Relative to the file that names it: a service manager's working directory is no place one has in mind.
        let base = self.file.parent().unwrap_or(Path::new(""));
        Some(FileProvider { path: base.join(path), watch: self.top.boolean("providers.file.watch") })
    }
}
