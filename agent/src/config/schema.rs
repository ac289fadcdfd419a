//! The table of known keys: what the reader accepts, the defaults it takes, and what the reference page says. Keys of
//! Traefik's that we do not have yet stand in [`super::unsupported`]; turning text into values is [`super::value`]'s.

mod kubernetes;
mod middlewares;
mod probes;
mod tls;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::unsupported::UNSUPPORTED;
use kubernetes::KUBERNETES;
use middlewares::MIDDLEWARES;

/// What a key's value looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Further keys, or nothing: naming it switches something on.
    Section,
    /// `true` or `false`.
    Bool,
    /// Traefik's switch for what is always on here.
    AlwaysTrue,
    /// Traefik's switch for what there is not here yet.
    AlwaysFalse,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A number from 0 to 1.
    Share,
    /// `10s`, `1m30s`, or seconds.
    Duration,
    /// Any text.
    Text,
    /// A list of texts.
    Texts,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Where to listen.
    Address,
    /// A list of networks or addresses.
    Networks,
    /// Header names.
    HeaderNames,
    /// Header names with values; an empty value removes the header.
    HeaderEdits,
    /// Header names with values that go with spans.
    SentHeaders,
    /// Names with values.
    Map,
    /// Ascending positive numbers.
    Buckets,
    /// A URL.
    Url,
    /// `host:port` or a URL.
    Endpoint,
    /// A log filter.
    Level,
    /// A regular expression in Go's syntax.
    Regex,
    /// A list of those.
    Regexes,
    /// Any text, even none.
    Anything,
    /// A path, or a part of one.
    Path,
}

/// One known key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// From the top, `<name>` for a name of the user's, `[]` for an entry of a list.
    pub path: &'static str,
    /// Its value.
    pub kind: Kind,
    /// What holds where it is not given, as one would write it; empty: nothing.
    pub default: &'static str,
    /// For the reference page.
    pub meaning: &'static str,
    /// Traefik does not have it.
    pub ours: bool,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning, ours: false }
}

const fn ours(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning, ours: true }
}

const VERBOSITY: Kind = Kind::Choice(&["minimal", "detailed"]);
const MANY: i64 = 1_000_000_000;
const CONNS_MEANING: &str = "Connections to a server at once, idle ones too, in all workers together; 0: no limit. A request \
    that finds none waits its turn, for as long as `dialTimeout` says, and then gets a 503 (`too_many_connections`).";

/// All known keys; those of a section of the reference page in its order.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(probes::KEYS).chain(tls::KEYS).chain(MIDDLEWARES).chain(KUBERNETES)
}

/// Those but for the parts with a table of their own.
const KEYS: &[Key] = &[
    key(
        "entryPoints.<name>.address",
        Kind::Address,
        "",
        "Where to listen: `:8000` is every address of both families, `127.0.0.1:8000`, `[::1]:8000`. Required.",
    ),
    ours(
        "entryPoints.<name>.publishedPorts",
        Kind::Texts,
        "",
        "Where clients reach it if not at its own port, e.g. `[80]` of the node or a Service: a Gateway's listener on such a port is its.",
    ),
    key(
        "entryPoints.<name>.forwardedHeaders.trustedIPs",
        Kind::Networks,
        "",
        "Peers whose `X-Forwarded-*` headers are believed.",
    ),
    key("entryPoints.<name>.forwardedHeaders.insecure", Kind::Bool, "false", "Believe `X-Forwarded-*` of every peer."),
    ours(
        "entryPoints.<name>.transport.respondingTimeouts.headTimeout",
        Kind::Duration,
        "30s",
        "From a request's first byte to the end of its head; 0: no limit.",
    ),
    key(
        "entryPoints.<name>.transport.respondingTimeouts.readTimeout",
        Kind::Duration,
        "60s",
        "From a request's first byte to the end of its body; 0: no limit.",
    ),
    key(
        "entryPoints.<name>.transport.respondingTimeouts.idleTimeout",
        Kind::Duration,
        "180s",
        "Between two requests of a connection; 0: no limit. A tunnel may be silent for as long as both sides want.",
    ),
    key(
        "entryPoints.<name>.transport.lifeCycle.requestAcceptGraceTimeout",
        Kind::Duration,
        "0s",
        "How long requests are still accepted after the signal to stop.",
    ),
    key(
        "entryPoints.<name>.transport.lifeCycle.graceTimeOut",
        Kind::Duration,
        "10s",
        "How long running requests, and tunnels such as WebSockets, may take to end when stopping; then they are cut off.",
    ),
    ours(
        "entryPoints.<name>.transport.maxConnections",
        Kind::Integer(1, MANY),
        "50000",
        "Open connections at once; beyond, new ones are refused.",
    ),
    key(
        "entryPoints.<name>.http.maxHeaderBytes",
        Kind::Integer(1024, 1_048_576),
        "65536",
        "Bytes of a request's head (Traefik's default is 1048576).",
    ),
    key(
        "entryPoints.<name>.http.sanitizePath",
        Kind::Bool,
        "true",
        "Remove `.`, `..` and empty segments from paths before a route is looked for. `false` is not safe: a route is \
         found for the path as it stands, and a server that resolves `..` serves another; rather let clients encode it.",
    ),
    ours("entryPoints.<name>.http.maxHeaders", Kind::Integer(1, 10_000), "100", "Header fields of a request."),
    key("entryPoints.<name>.observability.tracing", Kind::Bool, "true", "Trace the requests of this entry point."),
    key(
        "entryPoints.<name>.observability.metrics",
        Kind::Bool,
        "true",
        "Count the requests of this entry point in `/metrics`.",
    ),
    key(
        "entryPoints.<name>.observability.traceVerbosity",
        VERBOSITY,
        "minimal",
        "`detailed` adds Router, middleware and Service spans.",
    ),
    key(
        "http.routers.<name>.rule",
        Kind::Text,
        "",
        "Which requests, in Traefik v3's rule language, e.g. ``Host(`a.example`) && PathPrefix(`/b`)``. Required.",
    ),
    key(
        "http.routers.<name>.priority",
        Kind::Integer(i64::MIN, i64::MAX),
        "0",
        "Higher is tried first; 0: the length of the rule.",
    ),
    key("http.routers.<name>.entryPoints", Kind::Texts, "", "Names of entry points; none: all."),
    key("http.routers.<name>.middlewares", Kind::Texts, "", "Names of middlewares, in order."),
    key(
        "http.routers.<name>.service",
        Kind::Text,
        "",
        "Name of a service, `api@internal` or `ping@internal`. Required.",
    ),
    key("http.routers.<name>.observability.tracing", Kind::Bool, "", "Overrides the entry point's."),
    key("http.routers.<name>.observability.metrics", Kind::Bool, "", "Overrides the entry point's."),
    key("http.routers.<name>.observability.traceVerbosity", VERBOSITY, "", "Overrides the entry point's."),
    key(
        "http.services.<name>.loadBalancer.servers[].url",
        Kind::Url,
        "",
        "`http://host:port`, with a path prefix where one is wanted; a name is resolved to all its addresses. Required.",
    ),
    key(
        "http.services.<name>.loadBalancer.servers[].weight",
        Kind::Integer(0, 65_535),
        "1",
        "Share of the requests; 0: none.",
    ),
    key(
        "http.services.<name>.loadBalancer.passHostHeader",
        Kind::Bool,
        "true",
        "The client's `Host` goes on to the server.",
    ),
    key(
        "http.services.<name>.loadBalancer.serversTransport",
        Kind::Text,
        "",
        "Name of a servers transport; none: the top-level `serversTransport`.",
    ),
    key(
        "http.serversTransports.<name>.maxIdleConnsPerHost",
        Kind::Integer(0, 100_000),
        "200",
        "Idle connections kept per server and worker.",
    ),
    ours("http.serversTransports.<name>.maxConnsPerHost", Kind::Integer(0, 1_000_000), "0", CONNS_MEANING),
    key(
        "http.serversTransports.<name>.forwardingTimeouts.dialTimeout",
        Kind::Duration,
        "30s",
        "To connect to a server; 0: no limit.",
    ),
    key(
        "http.serversTransports.<name>.forwardingTimeouts.responseHeaderTimeout",
        Kind::Duration,
        "0s",
        "From the request's head sent to the response's head read; 0: no limit.",
    ),
    key(
        "http.serversTransports.<name>.forwardingTimeouts.idleConnTimeout",
        Kind::Duration,
        "90s",
        "How long an unused connection is kept.",
    ),
    ours(
        "http.serversTransports.<name>.forwardingTimeouts.requestTimeout",
        Kind::Duration,
        "0s",
        "The whole exchange with a server, but not a tunnel; 0: no limit.",
    ),
    key(
        "serversTransport.maxIdleConnsPerHost",
        Kind::Integer(0, 100_000),
        "200",
        "Idle connections kept per server and worker.",
    ),
    ours("serversTransport.maxConnsPerHost", Kind::Integer(0, 1_000_000), "0", CONNS_MEANING),
    key(
        "serversTransport.forwardingTimeouts.dialTimeout",
        Kind::Duration,
        "30s",
        "To connect to a server; 0: no limit.",
    ),
    key(
        "serversTransport.forwardingTimeouts.responseHeaderTimeout",
        Kind::Duration,
        "0s",
        "From the request's head sent to the response's head read; 0: no limit.",
    ),
    key(
        "serversTransport.forwardingTimeouts.idleConnTimeout",
        Kind::Duration,
        "90s",
        "How long an unused connection is kept.",
    ),
    ours(
        "serversTransport.forwardingTimeouts.requestTimeout",
        Kind::Duration,
        "0s",
        "The whole exchange with a server, but not a tunnel; 0: no limit.",
    ),
    key(
        "providers.file.filename",
        Kind::Text,
        "",
        "A further file with an `http` section; relative to this file's directory.",
    ),
    key(
        "providers.file.directory",
        Kind::Text,
        "",
        "A directory of such files (`*.yml`, `*.yaml`), with its sub-directories.",
    ),
    key("providers.file.watch", Kind::Bool, "true", "Apply changes of this and the further files as they happen."),
    key("tracing", Kind::Section, "", "Make spans."),
    key("tracing.serviceName", Kind::Text, "wayspan", "`service.name` of our spans."),
    key("tracing.resourceAttributes", Kind::Map, "", "Further attributes of the resource."),
    key("tracing.sampleRate", Kind::Share, "1.0", "Share of the traces that begin here; a caller's decision is kept."),
    key("tracing.addInternals", Kind::Bool, "false", "Spans for dashboard and ping too."),
    key("tracing.capturedRequestHeaders", Kind::HeaderNames, "", "Request headers that become attributes."),
    key("tracing.capturedResponseHeaders", Kind::HeaderNames, "", "Response headers that become attributes."),
    key(
        "tracing.safeQueryParams",
        Kind::Texts,
        "",
        "Query parameters shown as they are; the values of others become `REDACTED`.",
    ),
    key("tracing.otlp", Kind::Section, "", "Send spans by OTLP; without it they are made for the dashboard only."),
    key("tracing.otlp.grpc", Kind::Section, "", "Send over gRPC."),
    key("tracing.otlp.grpc.endpoint", Kind::Endpoint, "localhost:4317", "`host:port` of the collector."),
    key("tracing.otlp.grpc.insecure", Kind::Bool, "false", "Without TLS."),
    key("tracing.otlp.grpc.headers", Kind::SentHeaders, "", "Metadata sent along."),
    key(
        "tracing.otlp.grpc.tls.ca",
        Kind::Text,
        "",
        "The only roots that the collector's certificate may come from: a file in PEM, or its text; none: the system's.",
    ),
    key("tracing.otlp.grpc.tls.cert", Kind::Text, "", "Our certificate, for a collector that wants one: likewise."),
    key("tracing.otlp.grpc.tls.key", Kind::Text, "", "Its private key: likewise."),
    key(
        "tracing.otlp.grpc.tls.insecureSkipVerify",
        Kind::Bool,
        "false",
        "Believe any certificate: whoever is on the way can read the spans.",
    ),
    key("tracing.otlp.http", Kind::Section, "", "Send protobuf over HTTP."),
    key(
        "tracing.otlp.http.endpoint",
        Kind::Endpoint,
        "https://localhost:4318",
        "URL of the collector; without a path, `/v1/traces` is added.",
    ),
    key("tracing.otlp.http.headers", Kind::SentHeaders, "", "Headers sent along."),
    key(
        "tracing.otlp.http.tls.ca",
        Kind::Text,
        "",
        "The only roots that the collector's certificate may come from: a file in PEM, or its text; none: the system's.",
    ),
    key("tracing.otlp.http.tls.cert", Kind::Text, "", "Our certificate, for a collector that wants one: likewise."),
    key("tracing.otlp.http.tls.key", Kind::Text, "", "Its private key: likewise."),
    key(
        "tracing.otlp.http.tls.insecureSkipVerify",
        Kind::Bool,
        "false",
        "Believe any certificate: whoever is on the way can read the spans.",
    ),
    ours(
        "tracing.otlp.queueSpans",
        Kind::Integer(1, 10_000_000),
        "65536",
        "Spans that wait for export at most; beyond, the newest are lost and counted.",
    ),
    ours("tracing.otlp.batchSpans", Kind::Integer(1, 65_536), "512", "Spans per request to the collector."),
    ours("tracing.otlp.interval", Kind::Duration, "200ms", "How long a span waits for its batch to fill."),
    ours("tracing.otlp.timeout", Kind::Duration, "10s", "Per request to the collector."),
    key(
        "tracing.jaeger.samplingServerURL",
        Kind::Url,
        "",
        "Jaeger's remote sampling, e.g. `http://localhost:5778/sampling`: the collector decides what is kept (a key of Traefik v2).",
    ),
    ours("sampling.pollInterval", Kind::Duration, "60s", "How often the sampling server is asked."),
    key("metrics.prometheus", Kind::Section, "", "`/metrics` on the api's address."),
    key(
        "metrics.prometheus.buckets",
        Kind::Buckets,
        "",
        "Bounds of the histograms of requests' durations, seconds; none: 0.005 to 10 as OpenTelemetry advises (Traefik's are 0.1, 0.3, 1.2, 5).",
    ),
    key("metrics.prometheus.addEntryPointsLabels", Kind::AlwaysTrue, "true", "Always on."),
    key("metrics.prometheus.addRoutersLabels", Kind::AlwaysTrue, "true", "Always on."),
    key("metrics.prometheus.addServicesLabels", Kind::AlwaysTrue, "true", "Always on."),
    key("api", Kind::Section, "", "The api and, with it, the dashboard."),
    key("api.dashboard", Kind::Bool, "true", "Serve `/dashboard/`."),
    ours("api.address", Kind::Address, "127.0.0.1:9000", "Where the api listens."),
    ours("api.jaegerQuery", Kind::Url, "", "Where Jaeger's query API answers: the dashboard shows whole traces."),
    ours("api.allowedHosts", Kind::Texts, "", "Host names the api answers to, beside localhost and addresses."),
    key(
        "ping",
        Kind::Section,
        "",
        "`/ping` on the api's address: 503 until the agent serves, and while it drains. `/ping/up` is 200 as soon as it answers.",
    ),
    key("ping.entryPoint", Kind::Text, "", "Answer `/ping` on this entry point too."),
    key(
        "log.level",
        Kind::Level,
        "info",
        "`error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,wayspan_agent=debug`.",
    ),
    key("log.format", Kind::Choice(&["common", "json"]), "common", "How log lines look."),
    ours(
        "attribution.spans",
        Kind::Choice(&["attributes", "notable", "all"]),
        "notable",
        "Which phases become child spans; all are attributes.",
    ),
    ours("attribution.notable.duration", Kind::Duration, "1ms", "A notable phase is at least this long."),
    ours("attribution.notable.share", Kind::Share, "0.05", "And at least this share of its request."),
    ours(
        "workers.count",
        Kind::Integer(0, 1024),
        "0",
        "Threads that serve traffic; 0: by CPU affinity and cgroup quota.",
    ),
    ours("workers.pin", Kind::Bool, "false", "Pin each worker to a CPU."),
    ours(
        "handOver.name",
        Kind::Text,
        "",
        "An agent that starts with the same name, in the same network and as the same user, gets the listening sockets of this \
         one, and both serve until this one is told to end: no client is turned away. None: nobody gets them.",
    ),
    ours(
        "kubernetes.metadata.enabled",
        Kind::Choice(&["auto", "true", "false"]),
        "auto",
        "Whether spans name the pods at both ends (`peer.k8s.*`), for which pods and nodes are watched. `auto`: in a pod, and with a Kubernetes provider; \
         `true`: also elsewhere, by KUBECONFIG.",
    ),
    ours(
        "kubernetes.metadata.labels",
        Kind::Texts,
        "",
        "Labels of pods that become attributes (`peer.k8s.pod.label.<key>`): whole keys, or beginnings with a `*` behind.",
    ),
    ours(
        "kubernetes.metadata.annotations",
        Kind::Texts,
        "",
        "Annotations of pods that become attributes: likewise; at most 1,024 bytes of each.",
    ),
    ours(
        "kubernetes.metadata.namespaces",
        Kind::Texts,
        "",
        "The only namespaces whose pods are watched; none: all of them.",
    ),
    ours(
        "kubernetes.metadata.maxPods",
        Kind::Integer(1, 1_000_000),
        "20000",
        "Pods known at once, 1.2 KiB each; beyond, further ones are not named, and counted.",
    ),
];

/// The keys as a tree.
#[derive(Debug, Default)]
pub(super) struct Trie {
    /// By the key's own word; `<name>` stands for any, `[]` for the entries of a list.
    pub children: BTreeMap<&'static str, Trie>,
    /// The row, where this is a key that carries a value or a switch.
    pub key: Option<&'static Key>,
    /// Known to Traefik's users, with what to do instead where there is something.
    pub unsupported: Option<&'static str>,
}

impl Trie {
    /// The whole tree.
    pub(super) fn root() -> &'static Self {
        static ROOT: OnceLock<Trie> = OnceLock::new();
        ROOT.get_or_init(|| {
            let mut root = Self::default();
            for row in keys() {
                root.insert(row.path).key = Some(row);
            }
            for (path, remedy) in UNSUPPORTED {
                root.insert(path).unsupported = Some(remedy);
            }
            root
        })
    }

    fn insert(&mut self, path: &'static str) -> &mut Self {
        words(path).fold(self, |node, word| node.children.entry(word).or_default())
    }

    /// The child for a word of the user's, with its right spelling: Traefik does not mind case.
    pub(super) fn child(&self, word: &str) -> Option<(&'static str, &Self)> {
        if let Some((known, child)) = self.children.get_key_value(word) {
            return Some((known, child));
        }
        let mut others = self.children.iter().filter(|(known, _)| !is_wildcard(known));
        others.find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(known, child)| (*known, child))
    }

    /// The child for any name.
    pub(super) fn any(&self) -> Option<&Self> {
        self.children.get("<name>")
    }

    /// The child for a list's entries.
    pub(super) fn entries(&self) -> Option<&Self> {
        self.children.get("[]")
    }

    /// Words that lead to something supported.
    pub(super) fn known(&self) -> impl Iterator<Item = &'static str> {
        self.children.iter().filter(|(word, child)| !is_wildcard(word) && child.supported()).map(|(word, _)| *word)
    }

    fn supported(&self) -> bool {
        self.unsupported.is_none() && (self.key.is_some() || self.children.values().any(Self::supported))
    }
}

fn is_wildcard(word: &str) -> bool {
    matches!(word, "<name>" | "[]")
}

/// `a.<name>.b[].c` as `a`, `<name>`, `b`, `[]`, `c`.
fn words(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('.')
        .flat_map(|word| match word.strip_suffix("[]") {
            Some(list) => [Some(list), Some("[]")],
            None => [Some(word), None],
        })
        .flatten()
}

/// The row of a path, written as in the table.
pub(super) fn row(path: &str) -> Option<&'static Key> {
    static ROWS: OnceLock<BTreeMap<&'static str, &'static Key>> = OnceLock::new();
    ROWS.get_or_init(|| keys().map(|row| (row.path, row)).collect()).get(path).copied()
}

/// The known word nearest to a misspelt one, where one is near.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // Beyond a thousand names a suggestion costs more than it helps.
    const CANDIDATES_MAX: usize = 1000;
    const DISTANCE_MAX: usize = 4;
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .take(CANDIDATES_MAX)
        .filter(|other| other.len() <= 64 && other.len().abs_diff(word.len()) <= DISTANCE_MAX)
        .map(|other| (distance(&word, &other.to_ascii_lowercase()), other))
        .filter(|(distance, other)| *distance <= (other.len().max(word.len()) / 2).min(DISTANCE_MAX))
        .min()
        .map(|(_, other)| other)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(from != *to)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, cost);
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances_are_levenshteins() {
        for (a, b, want) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("rule", "rule", 0), ("rul", "rule", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn no_key_is_listed_twice_or_both_supported_and_not() {
        let mut seen = std::collections::BTreeSet::new();
        for path in keys().map(|row| row.path).chain(UNSUPPORTED.iter().map(|(path, _)| *path)) {
            assert!(seen.insert(path), "{path}");
        }
    }

    /// The keys below a schema's object, by their paths; of the chart's own there is one, a switch as in Traefik's chart.
    fn below(schema: &serde_json::Value, path: &str, all: &mut std::collections::BTreeSet<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false, "{path} takes what the agent would not");
            properties.iter().for_each(|(name, inner)| below(inner, &format!("{path}.{name}"), all));
        } else if schema["items"]["properties"].is_object() {
            below(&schema["items"], &format!("{path}[]"), all);
        } else if path != "entryPoints.<name>.http.tls.enabled" {
            all.insert(path.to_owned());
        }
    }

    #[test]
    fn the_chart_passes_on_the_keys_that_there_are_and_no_others() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/wayspan/values.schema.json");
        let schema: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for (path, place) in [
            ("entryPoints.<name>.forwardedHeaders", "ports/additionalProperties/properties/forwardedHeaders"),
            ("entryPoints.<name>.transport", "ports/additionalProperties/properties/transport"),
            ("entryPoints.<name>.http", "ports/additionalProperties/properties/http"),
            ("entryPoints.<name>.observability", "ports/additionalProperties/properties/observability"),
            ("tracing.otlp.grpc.tls", "tracing/properties/otlp/properties/grpc/properties/tls"),
            ("tracing.otlp.http.tls", "tracing/properties/otlp/properties/http/properties/tls"),
            ("attribution", "attribution"),
            ("workers", "workers"),
        ] {
            let part = schema.pointer(&format!("/properties/{place}")).unwrap_or_else(|| panic!("{place}"));
            let mut shown = std::collections::BTreeSet::new();
            below(part, path, &mut shown);
            let begins = |row: &&Key| row.path.starts_with(&format!("{path}.")) && row.kind != Kind::Section;
            let known: std::collections::BTreeSet<String> =
                keys().filter(begins).map(|row| row.path.to_owned()).collect();
            assert_eq!(shown, known, "{place}");
        }
    }

    #[test]
    fn far_words_are_not_suggested() {
        assert_eq!(nearest("entrypoint", ["entryPoints", "http"].into_iter()), Some("entryPoints"));
        assert_eq!(nearest("banana", ["entryPoints", "http"].into_iter()), None);
    }
}
