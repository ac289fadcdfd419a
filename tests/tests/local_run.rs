//! A privileged local run with exactly the named capabilities, and one without any: as another user than root, with
//! file capabilities as `setcap` gives them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use wayspan_tests::{Agent, Jaeger, Reply, Span, Upstream, config, eventually, http, private_loopback};

// Debian's nobody and nogroup; any id without rights does.
const NOBODY: &str = "65534";

/// The agent's command as another user, with a copy of the binary that has these capabilities.
fn as_nobody(binary: &Path, directory: &Path, capabilities: &str) -> Result<Command> {
    let copy = directory.join("wayspan");
    std::fs::copy(binary, &copy)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    if !capabilities.is_empty() {
        let status = Command::new("setcap").arg(format!("{capabilities}=ep")).arg(&copy).status()?;
        ensure!(status.success(), "setcap {capabilities}: {status}");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(copy);
    Ok(command)
}

fn span_of(jaeger: &Jaeger) -> Span {
    eventually("the span is in Jaeger", || {
        let traces = jaeger.traces("wayspan", 5).ok()?;
        traces.into_iter().flat_map(|trace| trace.spans).find(|span| span.kind() == "server")
    })
}

#[test]
fn three_capabilities_are_enough_for_probes_and_a_low_port() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let low = private_loopback(&[80]).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()).replace("127.0.0.1:0", &format!("{low}:80"))
        + &config::traced(&jaeger)
        + "probes: {required: true}\n";
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_with(&config, |binary| {
        as_nobody(binary, directory.path(), "cap_bpf,cap_perfmon,cap_net_bind_service")
    })
    .unwrap();
    let web = agent.address("web").unwrap();
    assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
    assert_eq!(span_of(&jaeger).tag("wayspan.coverage"), Some("full"));
}

#[test]
fn without_capabilities_it_serves_and_says_what_is_missing() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger);
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_with(&config, |binary| as_nobody(binary, directory.path(), "")).unwrap();
    let web = agent.address("web").unwrap();
    assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
    let span = span_of(&jaeger);
    let coverage = span.tag("wayspan.coverage").unwrap_or_default();
    assert!(coverage.starts_with("none: "), "{coverage:?}");
    let sum: u64 = span.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, span.duration_us, "{:?}", span.phases());
}
