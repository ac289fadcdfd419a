//! What is accepted, with which defaults; and what is refused, in which words.

use std::time::Duration;

use wayspan_proxy::snapshot::{Limits, Timeouts};

use super::{Files, LAB, good};
use crate::config::model::{
    Attribution, Metadata, OtlpProtocol, PhaseSpans, Probes, Static, StatusWriter, Switch, Verbosity, Workers,
};

#[test]
fn the_labs_configuration_is_read() {
    let config = good(LAB);
    let entry_point = &config.dynamic.entry_points[0];
    assert_eq!((entry_point.name.as_str(), entry_point.addresses[0].to_string().as_str()), ("web", "[::]:8000"));
    let router = &config.dynamic.routers[0];
    assert_eq!((&*router.rule.text, router.service.as_str()), ("Host(`hotrod.localhost`)", "hotrod"));
    let server = &config.dynamic.services[0].servers[0];
    assert_eq!((server.host.as_str(), server.port, server.weight), ("127.0.0.1", 8080, 1));
    let tracing = config.fixed.tracing.unwrap();
    let otlp = tracing.otlp.unwrap();
    assert_eq!((otlp.protocol, otlp.endpoint.as_str()), (OtlpProtocol::Grpc, "http://127.0.0.1:4317"));
    assert_eq!((tracing.service_name.as_str(), tracing.add_internals), ("wayspan", false));
    let api = config.fixed.api.unwrap();
    assert_eq!((api.address.port(), api.jaeger_query.as_deref()), (9000, Some("http://127.0.0.1:16686")));
}

#[test]
fn defaults_are_those_of_the_parts_that_use_them() {
    let config = good("entryPoints: {web: {address: ':1'}}\nhttp: {services: {a: {loadBalancer: {servers: []}}}}");
    assert_eq!(config.dynamic.entry_points[0].limits, Limits::default());
    assert_eq!(config.dynamic.entry_points[0].grace, Duration::from_secs(10));
    assert!(config.dynamic.entry_points[0].sanitize_path);
    let service = &config.dynamic.services[0];
    assert_eq!((service.timeouts, service.pass_host), (Timeouts::default(), true));
    let Static {
        probes,
        attribution,
        workers,
        hand_over,
        log,
        tracing,
        api,
        ping,
        metrics,
        file_provider,
        kubernetes,
        metadata,
        status,
    } = config.fixed;
    assert_eq!((probes, attribution, workers), (Probes::default(), Attribution::default(), Workers::default()));
    assert_eq!((log, metadata, status), Default::default());
    assert!(tracing.is_none() && api.is_none() && ping.is_none() && metrics.is_none() && hand_over.is_none());
    assert!(file_provider.is_none() && kubernetes.is_none());
    let tracing = good("entryPoints: {web: {address: ':1'}}\ntracing:").fixed.tracing.unwrap();
    assert!((tracing.sample_rate - 1.0).abs() < f64::EPSILON && tracing.otlp.is_none());
}

/// Every key once, in one of its spellings.
const EVERYTHING: &str = r#"
entrypoints:   # Traefik does not mind case
  web:
    address: 127.0.0.1:8000
    publishedPorts: [80, "8080"]
    forwardedHeaders: {trustedIPs: [10.0.0.0/8, "::1"], insecure: yes}
    transport:
      respondingTimeouts: {headTimeout: 5, readTimeout: 1m30s, idleTimeout: "0"}
      lifeCycle: {requestAcceptGraceTimeout: 3s, graceTimeOut: 7}
      maxConnections: 12
    http: {maxHeaderBytes: 2048, maxHeaders: "50", sanitizePath: false}
    observability: {tracing: false, traceVerbosity: detailed}
http:
  routers:
    a:
      rule: Path(`/a`)
      priority: 1000
      entryPoints: web
      middlewares: [h@file]
      service: s@file
      observability: {tracing: true, metrics: false}
    dash: {rule: Path(`/d`), service: api@internal}
    ping: {rule: Path(`/p`), service: ping@internal}
  services:
    s:
      loadBalancer:
        passHostHeader: false
        serversTransport: slow
        servers: [{url: "http://db.example:81/x/", weight: 3}, {url: "http://[::1]"}]
  serversTransports:
    slow: {forwardingTimeouts: {dialTimeout: 1s, responseHeaderTimeout: 2s, idleConnTimeout: 3s, requestTimeout: 4s}}
  middlewares:
    h: {headers: {customRequestHeaders: {X-A: "1", X-B: ""}, customResponseHeaders: {Server: }}}
tracing:
  resourceAttributes: {deployment.environment: lab, x: 1}
  sampleRate: 0.25
  addInternals: true
  capturedRequestHeaders: [X-Request-Id]
  safeQueryParams: [customer]
  otlp: {http: {endpoint: "http://c:4318", headers: {a: b}}, batchSpans: 10}
  jaeger: {samplingServerURL: "http://localhost:5778/sampling"}
sampling: {pollInterval: 5s}
metrics: {prometheus: {buckets: [0.1, 1, 5], addRoutersLabels: true}}
api: {address: ":9001", dashboard: false, allowedHosts: [Ops.example]}
ping: {entryPoint: web}
log: {level: DEBUG, format: json}
probes: off
attribution: {spans: all, notable: {duration: 2ms, share: 0.1}}
workers: {count: 3, pin: true}
handOver: {name: edge}
kubernetes:
  metadata: {enabled: true, labels: [app, team.example/*], annotations: note, namespaces: [default], maxPods: 7}
  status: {lease: edge-status, podSelector: "app=wayspan,tier=edge"}
"#;

#[test]
fn every_key_is_read_as_it_is_written() {
    let config = good(EVERYTHING);
    let dynamic = &config.dynamic;
    let web = &dynamic.entry_points[0];
    assert_eq!(web.limits.head_timeout, Duration::from_secs(5));
    assert_eq!((web.limits.read_timeout, web.limits.idle_timeout), (Duration::from_secs(90), Duration::ZERO));
    assert_eq!((web.limits.head_bytes_max, web.limits.headers_max, web.limits.connections_max), (2048, 50, 12));
    assert_eq!((web.trusted.len(), web.trust_all, web.grace), (2, true, Duration::from_secs(7)));
    assert!(!web.sanitize_path);
    assert_eq!(web.published, [80, 8080]);
    assert_eq!((web.observability.tracing, web.observability.verbosity), (Some(false), Some(Verbosity::Detailed)));
    let a = dynamic.routers.iter().find(|router| router.name == "a").unwrap();
    assert_eq!((a.priority, a.entry_points.as_slice(), a.service.as_str()), (1000, &["web".to_owned()][..], "s"));
    assert_eq!((a.middlewares.as_slice(), a.observability.metrics), (&["h".to_owned()][..], Some(false)));
    let s = &dynamic.services[0];
    assert_eq!((s.pass_host, s.timeouts.response_head), (false, Duration::from_secs(2)));
    assert_eq!((s.servers[0].path_prefix.as_str(), s.servers[0].weight, s.servers[1].port), ("/x", 3, 80));
    let tracing = config.fixed.tracing.unwrap();
    assert_eq!(tracing.captured_request_headers, ["x-request-id"]);
    assert_eq!(tracing.otlp.unwrap().endpoint, "http://c:4318/v1/traces");
    assert_eq!(tracing.sampling_server.unwrap().interval, Duration::from_secs(5));
    assert_eq!(config.fixed.metrics.unwrap().bounds.seconds(), [0.1, 1.0, 5.0]);
    assert_eq!(config.fixed.api.unwrap().allowed_hosts, ["ops.example"]);
    assert_eq!((config.fixed.log.level.as_str(), config.fixed.log.json), ("debug", true));
    assert!(!config.fixed.probes.enabled);
    assert_eq!(config.fixed.attribution.spans, PhaseSpans::All);
    assert_eq!(config.fixed.workers, Workers { count: 3, pin: true });
    assert_eq!(config.fixed.hand_over.as_deref(), Some("edge"));
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let metadata = Metadata {
        enabled: Switch::On,
        labels: texts(&["app", "team.example/*"]),
        annotations: texts(&["note"]),
        namespaces: texts(&["default"]),
        max_pods: 7,
    };
    assert_eq!(config.fixed.metadata, metadata);
    let status =
        StatusWriter { lease: Some("edge-status".to_owned()), pod_selector: "app=wayspan,tier=edge".to_owned() };
    assert_eq!(config.fixed.status, status);
}

/// Every fault of a file, as it is told.
fn check(main: &str, want: &[&str]) {
    let files = Files::new(main);
    let faults = files.check().err().unwrap_or_default();
    assert_eq!(files.lines(&faults), want, "{main}");
}

/// A fault beside an otherwise good file; the text stands on line 2 and after.
fn check_with(text: &str, want: &[&str]) {
    check(&format!("entryPoints: {{web: {{address: ':8000'}}}}\n{text}"), want);
}

#[test]
fn unknown_keys_are_told_with_the_nearest_known_one() {
    check_with("htpp: {}", &["main.yaml:2: htpp: unknown key; did you mean `http`?"]);
    check_with(
        "http:\n  routers:\n    a:\n      rul: x\n      rule: Path(`/`)\n      service: s\n  services:\n    s: {loadBalancer: {server: [], servers: []}}",
        &[
            "main.yaml:5: http.routers.a.rul: unknown key; did you mean `rule`?",
            "main.yaml:9: http.services.s.loadBalancer.server: unknown key; did you mean `servers`?",
        ],
    );
    check_with("ping: {zzzzzzzz: 1}", &["main.yaml:2: ping.zzzzzzzz: unknown key; known here: entryPoint"]);
    check_with("api: {}\nAPI: {}", &["main.yaml:3: api: is given twice"]);
}

#[test]
fn ports_and_names_that_are_none_are_told() {
    check(
        "entryPoints: {web: {address: ':8000', publishedPorts: [80, 0, http]}}",
        &[
            "main.yaml:1: entryPoints.web.publishedPorts: `0` is no port; write 1 to 65535",
            "main.yaml:1: entryPoints.web.publishedPorts: `http` is no port; write 1 to 65535",
        ],
    );
    check_with(
        "kubernetes: {status: {lease: Edge}}",
        &[
            "main.yaml:2: kubernetes.status.lease: `Edge` is no name of a Lease; write lower-case letters, digits, `-` and `.`",
        ],
    );
}

#[test]
fn keys_of_traefiks_are_told_apart_from_unknown_ones() {
    check_with(
        "certificatesResolvers: {le: {acme: {email: a}}}\nproviders: {docker: {}, kubernetesCRD: {nativeLBByDefault: true}}\naccessLog: {}",
        &[
            "main.yaml:2: certificatesResolvers: not supported yet",
            "main.yaml:3: providers.docker: not supported yet",
            "main.yaml:3: providers.kubernetesCRD.nativeLBByDefault: not supported yet; remove it",
            "main.yaml:4: accessLog: not supported yet",
        ],
    );
    check_with(
        "api: {insecure: true}",
        &["main.yaml:2: api.insecure: not supported yet: use api.address, e.g. 127.0.0.1:9000"],
    );
    check_with(
        "http: {middlewares: {a: {retry: {attempts: 2}}}}\ntcp: {}",
        &["main.yaml:2: http.middlewares.a.retry: not supported yet", "main.yaml:3: tcp: not supported yet"],
    );
    check_with(
        "http: {services: {a: {weighted: {services: []}}}}",
        &["main.yaml:2: http.services.a.weighted: not supported yet"],
    );
    check_with(
        "http: {services: {a: {loadBalancer: {servers: [], sticky: {cookie: {}}, healthCheck: {path: /}}}}}",
        &[
            "main.yaml:2: http.services.a.loadBalancer.sticky: not supported yet",
            "main.yaml:2: http.services.a.loadBalancer.healthCheck: not supported yet",
        ],
    );
    check("entryPoints: {web: {address: ':1', http3: {}}}", &["main.yaml:1: entryPoints.web.http3: not supported yet"]);
    check_with(
        "tracing:\n  jaeger:\n    samplingServerURL: http://localhost:5778/sampling\n    localAgentHostPort: localhost:6831",
        &[
            "main.yaml:5: tracing.jaeger.localAgentHostPort: not supported yet: Wayspan exports OTLP only: use tracing.otlp.grpc.endpoint",
        ],
    );
}

#[test]
fn values_are_refused_with_what_was_wanted() {
    let mut got = Vec::new();
    for text in [
        "tracing: {sampleRate: 1.5}",
        "tracing: {sampleRate: [1]}",
        "tracing: {addInternals: maybe}",
        "tracing: {capturedRequestHeaders: ['a b']}",
        "tracing: {otlp: {grpc: {endpoint: collector}}}",
        "tracing: {otlp: {grpc: {endpoint: 'c:4317/x'}}}",
        "tracing: {otlp: {http: {endpoint: 'c:4318'}}}",
        "tracing: {otlp: {http: {}, grpc: {}}}",
        "tracing: {otlp: {grpc: {}, interval: 0}}",
        "tracing: {otlp: {grpc: {endpoint: 'https://c:1', insecure: true}}}",
        "tracing: {otlp: {grpc: {insecure: true, tls: {insecureSkipVerify: true}}}}",
        "tracing: {otlp: {http: {tls: {ca: none.pem, cert: main.yaml}}}}",
        "tracing: {otlp: {http: {tls: {key: main.yaml}}}}",
        "tracing: x",
        "attribution: {notable: {duration: soon}}",
        "workers: {count: -1}",
        "log: {level: 'a=b=c'}",
        "log: {format: xml}",
        "metrics: {prometheus: {buckets: [1, 0.5]}}",
        "metrics: {prometheus: {addRoutersLabels: false}}",
        "api: {address: nowhere}",
        "api: {address: ':8000'}",
        "api: {jaegerQuery: 'https://j'}",
        "ping: {entryPoint: wep}",
        "providers: {file: {}}",
        "providers: {file: {filename: a, directory: b}}",
        "http: []",
        "http: {routers: {a@b: {rule: Path(`/`), service: api@internal}}}\napi: {}",
    ] {
        let files = Files::new(&format!("entryPoints: {{web: {{address: ':8000'}}}}\n{text}"));
        let faults = files.check().err().unwrap_or_default();
        got.extend(files.lines(&faults).into_iter().map(|line| line.replace("main.yaml:", "")));
    }
    let want = [
        "2: tracing.sampleRate: must be a number from 0 to 1, not `1.5`",
        "2: tracing.sampleRate: must be a number from 0 to 1, not a list",
        "2: tracing.addInternals: must be true or false, not `maybe`",
        "2: tracing.capturedRequestHeaders: `a b` is not a header name; write letters, digits and `-`",
        "2: tracing.otlp.grpc.endpoint: `collector` has no host and port; write host:port, or http://host:port",
        "2: tracing.otlp.grpc.endpoint: must not have a path; write host:port",
        "2: tracing.otlp.http.endpoint: has no scheme; write http://host:port or https://host:port",
        "2: tracing.otlp: names both grpc and http; keep one",
        "2: tracing.otlp.interval: must be longer than 0s",
        "2: tracing.otlp.grpc.endpoint: says https:// and `insecure: true`; drop one of them",
        "2: tracing.otlp.grpc.tls: is of no use without TLS; write an https:// endpoint, or drop `insecure: true` or this",
        "2: tracing.otlp.http.tls.ca: cannot be read: No such file or directory (os error 2); name a file in PEM, or write its text",
        "2: tracing.otlp.http.tls.cert: holds no certificate in PEM",
        "2: tracing.otlp.http.tls.cert: needs `key` beside it",
        "2: tracing.otlp.http.tls.key: holds no private key in PEM",
        "2: tracing.otlp.http.tls.key: needs `cert` beside it",
        "2: tracing: must be a section, not a value",
        "2: attribution.notable.duration: must be a duration such as 10s or 1m30s, not `soon`",
        "2: workers.count: must be a whole number from 0 to 1024, not `-1`",
        "2: log.level: `a=b=c` is not a log level; write error, warn, info, debug, trace or off, or a filter such as info,wayspan_agent=debug",
        "2: log.format: must be common or json, not `xml`",
        "2: metrics.prometheus.buckets: must be positive numbers in ascending order, at most 64",
        "2: metrics.prometheus.addRoutersLabels: cannot be switched off here; remove it",
        "2: api.address: `nowhere` has no port; write :8000, 127.0.0.1:8000 or [::1]:8000",
        "1: entryPoints.web.address: the api listens there already (api.address)",
        "2: api.jaegerQuery: `https://j`: only http:// is supported yet",
        "2: ping.entryPoint: there is no entry point `wep`; did you mean `web`?",
        "2: providers.file: needs filename or directory",
        "2: providers.file: names both filename and directory; keep one",
        "2: http: must be a section, not a list",
        "2: http.routers.a@b: a name must not contain `@`: it separates a name from its provider",
    ];
    assert_eq!(got, want);
}

#[test]
fn pods_are_asked_for_in_kubernetes_words() {
    check_with(
        "kubernetes: {metadata: {enabled: maybe, labels: [app, 'a b', '*x'], namespaces: Default, maxPods: 0}}",
        &[
            "main.yaml:2: kubernetes.metadata.enabled: must be auto or true or false, not `maybe`",
            "main.yaml:2: kubernetes.metadata.maxPods: must be a whole number from 1 to 1000000, not `0`",
            "main.yaml:2: kubernetes.metadata.labels: `a b` is no key of a label; write it whole, or its beginning and a `*`",
            "main.yaml:2: kubernetes.metadata.labels: `*x` is no key of a label; write it whole, or its beginning and a `*`",
            "main.yaml:2: kubernetes.metadata.namespaces: `Default` is no namespace; write names in lower case",
        ],
    );
}

#[test]
fn a_log_level_that_is_none_is_refused_and_filters_are_read() {
    let main = |level: &str| format!("entryPoints: {{web: {{address: ':8000'}}}}\nlog: {{level: '{level}'}}");
    for (level, bad) in [
        ("inof", "inof"),
        ("loud", "loud"),
        ("warning", "warning"),
        ("info,wayspan_proxy", "wayspan_proxy"),
        ("wayspan_proxy=debug,inof", "inof"),
        ("wayspan_proxy=inof,info", "wayspan_proxy=inof"),
    ] {
        let want = format!(
            "main.yaml:2: log.level: `{bad}` is not a log level; write error, warn, info, debug, trace or off, or a filter \
             such as info,wayspan_agent=debug"
        );
        check(&main(level), &[&want]);
    }
    for (level, want) in [
        ("Warn", "warn"),
        ("FATAL", "error"),
        ("off", "off"),
        ("wayspan_proxy=debug,info", "wayspan_proxy=debug,info"),
        ("INFO, wayspan_agent=debug", "info,wayspan_agent=debug"),
    ] {
        assert_eq!(good(&main(level)).fixed.log.level, want, "{level}");
    }
}

#[test]
fn headers_that_no_request_with_spans_can_have_are_refused() {
    for (protocol, header, want) in [
        ("grpc", "x y: b", "`x y` is not a header name; write letters, digits and `-`"),
        (
            "http",
            "a: \"secret\\nb\"",
            "the value of `a` must not hold line breaks or other control characters; write it on one line",
        ),
        ("http", "Content-Length: 3", "`content-length` belongs to the connection and cannot be set; remove it"),
        (
            "grpc",
            "Transfer-Encoding: chunked",
            "`transfer-encoding` belongs to the connection and cannot be set; remove it",
        ),
        ("grpc", "Connection: close", "`connection` belongs to the connection and cannot be set; remove it"),
        ("http", "Content-Encoding: gzip", "`content-encoding` would be untrue, spans are sent as they are; remove it"),
    ] {
        check_with(
            &format!("tracing:\n  otlp:\n    {protocol}:\n      headers:\n        ok: b\n        {header}"),
            &[&format!("main.yaml:7: tracing.otlp.{protocol}.headers: {want}")],
        );
    }
    good(
        "entryPoints: {web: {address: ':1'}}\ntracing: {otlp: {http: {headers: {Authorization: Basic x, empty: ''}}}}",
    );
}

#[test]
fn a_port_that_is_none_is_told_as_such() {
    let port = "`99999` is not a port; write a number from 1 to 65535";
    check_with(
        "tracing: {otlp: {grpc: {endpoint: '127.0.0.1:99999'}}}",
        &[&format!("main.yaml:2: tracing.otlp.grpc.endpoint: {port}")],
    );
    check_with(
        "tracing: {otlp: {http: {endpoint: 'http://c:99999'}}}",
        &[&format!("main.yaml:2: tracing.otlp.http.endpoint: {port}")],
    );
    check_with("api: {jaegerQuery: 'http://c:99999'}", &[&format!("main.yaml:2: api.jaegerQuery: {port}")]);
}

/// Whose such a name is may be another's tomorrow: no router of a file gets what objects have of it.
#[test]
fn a_file_names_no_object() {
    let named = |place: &str, what: &str, section: &str| {
        format!(
            "main.yaml:4: {place}: `x@kubernetescrd` is another provider's, which a file cannot name; define the {what} under {section}"
        )
    };
    check_with(
        "http:\n  routers:\n    a: {rule: Path(`/`), service: x@kubernetescrd, middlewares: [x@kubernetescrd], tls: {options: x@kubernetescrd}}",
        &[
            &named("http.routers.a.service", "service", "http.services"),
            &named("http.routers.a.middlewares", "middleware", "http.middlewares"),
            &named("http.routers.a.tls.options", "set of TLS options", "tls.options"),
        ],
    );
}

#[test]
fn parts_that_do_not_fit_together_are_told() {
    check(
        "http: {}",
        &["main.yaml: entryPoints: there is none; write e.g. `entryPoints: {web: {address: \":8000\"}}`"],
    );
    check(
        "entryPoints:\n  a: {address: ':8000'}\n  b: {address: '0.0.0.0:8000'}\n  c: {}\n  d: {address: ':1', forwardedHeaders: {trustedIPs: [10.0.0.0/33]}}",
        &[
            "main.yaml:3: entryPoints.b.address: entry point `a` listens there already",
            "main.yaml:4: entryPoints.c.address: is missing; write e.g. `address: \":8000\"`",
            "main.yaml:5: entryPoints.d.forwardedHeaders.trustedIPs: `10.0.0.0/33` is neither a network such as 10.0.0.0/8 nor an address",
        ],
    );
    check_with(
        "http:\n  routers:\n    a: {rule: Path(`/`), service: hotrot, entryPoints: [web, wep], middlewares: [gzip]}\n    b: {}\n    c: {rule: Path(`/`), service: api@internal}\n    d: {rule: Path(`/`), service: noop@internal}\n    e: {rule: '', service: hotrod}\n  services:\n    hotrod:\n      loadBalancer:\n        servers:\n        - url: ftp://x\n        - {weight: 2}\n    empty: {}\n    late: {loadBalancer: {serversTransport: t, servers: []}}\n  middlewares:\n    m: {headers: {customRequestHeaders: {'x y': a, Content-Length: '3'}}}\n    n: {}",
        &[
            "main.yaml:4: http.routers.a.service: there is no service `hotrot`; did you mean `hotrod`?",
            "main.yaml:4: http.routers.a.entryPoints: there is no entry point `wep`; did you mean `web`?",
            "main.yaml:4: http.routers.a.middlewares: there is no middleware `gzip`; define it under http.middlewares",
            "main.yaml:5: http.routers.b.rule: is missing; name a rule such as Host(`a.example`)",
            "main.yaml:5: http.routers.b.service: is missing; name a service of http.services",
            "main.yaml:6: http.routers.c.service: `api@internal` needs the api; add `api: {}`",
            "main.yaml:7: http.routers.d.service: there is no `noop@internal`; there are api@internal and ping@internal",
            "main.yaml:8: http.routers.e.rule: must not be empty",
            "main.yaml:13: http.services.hotrod.loadBalancer.servers[0].url: `ftp://x`: `ftp` is not a scheme for it; write http://host:port",
            "main.yaml:14: http.services.hotrod.loadBalancer.servers[1].url: is missing; write http://host:port",
            "main.yaml:15: http.services.empty.loadBalancer.servers: is missing; write `loadBalancer: {servers: [{url: \"http://host:port\"}]}`",
            "main.yaml:16: http.services.late.loadBalancer.serversTransport: there is no servers transport `t`; define it under http.serversTransports",
            "main.yaml:18: http.middlewares.m.headers.customRequestHeaders: `x y` is not a header name; write letters, digits and `-`",
            "main.yaml:18: http.middlewares.m.headers.customRequestHeaders: `content-length` belongs to the connection and cannot be set; remove it",
            "main.yaml:19: http.middlewares.n: names no kind, such as `headers` or `stripPrefix`",
        ],
    );
}

#[test]
fn rules_are_told_with_the_column_of_their_fault() {
    check_with(
        "http:\n  routers:\n    a: {rule: 'Host(`a`) && Pathh(`/`)', service: s}\n  services: {s: {loadBalancer: {servers: []}}}",
        &[
            "main.yaml:4: http.routers.a.rule: `Host(`a`) && Pathh(`/`)`: column 14: unknown matcher Pathh: did you mean Path?",
        ],
    );
}

#[test]
fn files_that_are_no_configuration_are_told_as_a_whole() {
    check("", &["main.yaml: the file is empty; write `http: {}` where nothing is meant"]);
    check("- a", &["main.yaml:1: the file must be a section of keys, not a list"]);
    check("a", &["main.yaml:1: the file must be a section of keys, not a value"]);
    let files = Files::new("a: 'x");
    assert!(files.lines(&files.check().unwrap_err())[0].starts_with("main.yaml:1: not YAML: "));
    let faults = crate::config::check(&files.path("none.yaml")).unwrap_err();
    assert_eq!(files.lines(&faults), ["none.yaml: cannot be opened: No such file or directory (os error 2)"]);
    std::fs::write(files.main(), b"a: \xff").unwrap();
    assert_eq!(files.lines(&files.check().unwrap_err()), ["main.yaml: is not UTF-8 text"]);
}

#[test]
fn further_files_hold_what_is_reloaded_and_names_must_differ() {
    let files = Files::new(&format!("{LAB}providers: {{file: {{directory: more}}}}\n"));
    files.write("more/a.yml", "http:\n  routers:\n    x: {rule: Path(`/x`), service: hotrod}\n");
    files.write("more/sub/b.yaml", "http: {services: {unused: {loadBalancer: {servers: []}}}}");
    files.write("more/..2026/c.yaml", "nonsense");
    files.write("more/readme.txt", "nonsense");
    let config = files.check().unwrap_or_else(|faults| panic!("{:?}", files.lines(&faults)));
    assert_eq!(config.dynamic.routers.iter().map(|router| router.name.as_str()).collect::<Vec<_>>(), ["hotrod", "x"]);
    assert_eq!(config.dynamic.services.len(), 2);
    files.write(
        "more/a.yml",
        "http:\n  routers:\n    hotrod: {rule: Path(`/x`), service: hotrod}\napi: {}\ntcp: {}\nloq: 1\n",
    );
    assert_eq!(
        files.lines(&files.check().unwrap_err()),
        [
            "more/a.yml:3: http.routers.hotrod: this router stands in main.yaml already; rename one",
            "more/a.yml:4: api: belongs into the file of --config; a further file holds `http` and `tls`",
            "more/a.yml:5: tcp: not supported yet",
            "more/a.yml:6: loq: unknown key; known here: http, tls",
        ]
    );
}

/// Pieces of YAML and of our words.
const PIECES: &[&str] = &[
    "\n",
    " ",
    "  ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    "\"",
    "&a ",
    "*a",
    "<<: *a",
    "? ",
    "|\n",
    ">-\n",
    "!!str ",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "#",
    "`",
    "\t",
    "\u{0}",
    "\u{feff}",
    "é",
    "💥",
    "~",
    "null",
    "-1",
    "1e999",
    ".nan",
    "99999999999999999999",
    "http",
    "routers",
    "service",
    "entryPoints",
    "Host(`",
    "`)",
    "((((",
    "&& ",
    "@internal",
    "http://",
    "[::",
    ":0",
    "s",
    "10s",
    "providers: {file: {directory: .}}",
    "\\",
    "\r",
];

/// Hostile texts: pieces of a good file and of YAML's grammar, mixed by a seeded generator.
#[test]
fn no_text_makes_the_reader_panic() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let files = Files::new("");
    for round in 0..1500 {
        let mut text: Vec<char> = LAB.chars().collect();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(0..=text.len());
            let end = random.usize(at..=text.len().min(at + 12));
            let piece = if random.bool() { PIECES[random.usize(..PIECES.len())] } else { "" };
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        files.write("main.yaml", &text);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Err(faults) = files.check() {
                assert!(!faults.is_empty());
                for fault in faults {
                    assert!(!fault.to_string().contains('\n'));
                }
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}, round {round}:\n{text}");
    }
}

#[test]
fn a_million_faults_are_told_as_a_thousand() {
    let files = Files::new(&format!(
        "entryPoints: {{web: {{address: ':1'}}}}\nhttp:\n  routers:\n{}",
        (0..3000).map(|i| format!("    r{i}: {{rule: Path(`/`)}}\n")).collect::<String>()
    ));
    let faults = files.check().unwrap_err();
    assert_eq!((faults.len(), faults.last().unwrap().message.as_str()), (1001, "and 2000 more faults"));
}
