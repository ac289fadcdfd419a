//! What a span tells where not everything is allowed: each capability taken away in turn, no user but nobody, a kernel that
//! shows no types, probes switched off. Whatever is left has a name in the coverage.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::path::Path;
use std::process::Command;

use wayspan_tests::{Agent, Jaeger, Process, Reply, Span, Trace, Upstream, config, eventually, http};

/// What is left: the kernel's times, its stamps of what was read, the connections' own counts, or the proxy alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Degree {
    Probes,
    Timestamps,
    TcpInfo,
    ProxyAlone,
}

impl Degree {
    fn coverage(self) -> &'static str {
        match self {
            Self::Probes => "full",
            Self::Timestamps => "partial: probes unavailable, timestamps",
            Self::TcpInfo => "none: probes unavailable, tcp_info",
            Self::ProxyAlone => "none: probes off",
        }
    }
}

/// Who the agent is told from others by.
struct Case {
    name: &'static str,
    /// Before the agent's own command.
    wrapper: &'static [&'static str],
    config: &'static str,
    degree: Degree,
    /// What its log says is missing.
    reason: &'static str,
}

// CAP_SYS_ADMIN holds the others, so it goes with each of them. root has what its bounding set leaves it.
const CASES: [Case; 9] = [
    Case { name: "root", wrapper: &[], config: "", degree: Degree::Probes, reason: "" },
    Case {
        name: "without CAP_NET_ADMIN",
        wrapper: &["setpriv", "--bounding-set", "-net_admin", "--"],
        config: "",
        degree: Degree::Probes,
        reason: "",
    },
    Case {
        name: "without CAP_SYS_ADMIN",
        wrapper: &["setpriv", "--bounding-set", "-sys_admin", "--"],
        config: "",
        degree: Degree::Probes,
        reason: "",
    },
    Case {
        name: "without CAP_BPF",
        wrapper: &["setpriv", "--bounding-set", "-bpf,-sys_admin", "--"],
        config: "",
        degree: Degree::TcpInfo,
        reason: "the process lacks CAP_BPF",
    },
    Case {
        name: "without CAP_PERFMON",
        wrapper: &["setpriv", "--bounding-set", "-perfmon,-sys_admin", "--"],
        config: "",
        degree: Degree::TcpInfo,
        reason: "the process lacks CAP_PERFMON",
    },
    Case {
        name: "nobody",
        wrapper: &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"],
        config: "",
        degree: Degree::TcpInfo,
        reason: "the process lacks CAP_BPF, CAP_PERFMON",
    },
    Case {
        name: "nobody with timestamps",
        wrapper: &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"],
        config: "probes: {timestamps: true}\n",
        degree: Degree::Timestamps,
        reason: "the process lacks CAP_BPF, CAP_PERFMON",
    },
    Case {
        name: "no BTF",
        // A mount of its own over the kernel's types, which ends with the process.
        wrapper: &["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\""],
        config: "",
        degree: Degree::TcpInfo,
        reason: "the kernel shows no BTF at /sys/kernel/btf/vmlinux",
    },
    Case {
        name: "probes off",
        wrapper: &[],
        config: "probes: off\n",
        degree: Degree::ProxyAlone,
        reason: "switched off by the configuration",
    },
];

#[test]
fn what_may_not_be_seen_is_named_and_the_rest_is_told() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("answer")).unwrap();
    for case in &CASES {
        let (agent, trace) = serve(case, &jaeger, &upstream);
        check(case, &agent, &trace);
    }
}

/// Serves two requests over one connection; the second's trace.
fn serve(case: &Case, jaeger: &Jaeger, upstream: &Upstream) -> (Agent, Trace) {
    let service = case.name.replace(' ', "-");
    let traced = config::traced(jaeger).replace("serviceName: wayspan", &format!("serviceName: {service}"));
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &traced + case.config;
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_with(&config, |binary| Ok(wrapped(case, binary, directory.path()))).unwrap();
    let web = agent.address("web").unwrap();
    let mut connection = http::Connection::open(web).unwrap();
    for path in ["/first", "/second"] {
        assert_eq!(connection.get("h", path).unwrap().status, 200, "{}", case.name);
    }
    let trace = eventually(&format!("{}: the second request's trace is in Jaeger", case.name), || {
        let is_second = |span: &Span| span.kind() == "server" && span.tag("url.path") == Some("/second");
        jaeger.traces(&service, 5).ok()?.into_iter().find(|trace| trace.spans.iter().any(is_second))
    });
    (agent, trace)
}

/// The agent's binary where anybody may run it, behind the case's wrapper.
fn wrapped(case: &Case, binary: &Path, directory: &Path) -> Command {
    let copy = directory.join("wayspan");
    std::fs::copy(binary, &copy).unwrap();
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    match case.wrapper {
        [] => Command::new(copy),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(copy);
            command
        }
    }
}

#[track_caller]
fn check(case: &Case, agent: &Agent, trace: &Trace) {
    let name = case.name;
    let server = trace.spans.iter().find(|span| span.kind() == "server").unwrap();
    let client = trace.spans.iter().find(|span| span.kind() == "client").unwrap();
    let coverage = case.degree.coverage();
    assert_eq!(server.tag("wayspan.coverage"), Some(coverage), "{name}: {}", agent.process.log_tail());
    // Over the loopback a round trip is short and never nothing.
    let micros = |span: &Span, key: &str| span.tag(key).map(|text| text.parse::<u64>().unwrap());
    let told = [
        micros(server, "wayspan.client.rtt"),
        micros(server, "wayspan.client.rttvar"),
        micros(client, "wayspan.upstream.rtt"),
        micros(client, "wayspan.upstream.rttvar"),
    ];
    for micros in told {
        match case.degree {
            Degree::ProxyAlone => assert_eq!(micros, None, "{name}: {told:?}"),
            _ => assert!(micros.is_some_and(|micros| (1..1_000_000).contains(&micros)), "{name}: {told:?}"),
        }
    }
    let sum: u64 = server.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, server.duration_us, "{name}: {:?}", server.phases());
    let is_told = log_of(&agent.process).contains(case.reason);
    assert!(is_told, "{name}: its log does not say {:?}:\n{}", case.reason, agent.process.log_tail());
}

fn log_of(process: &Process) -> String {
    process.log().join("\n")
}
