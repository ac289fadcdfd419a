//! A privileged local run with exactly the capabilities of the systemd unit, and one without any: as another user than
//! root, with file capabilities as `setcap` gives them. And the unit itself, as systemd's own tools read it.

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

fn unit() -> String {
    std::fs::read_to_string(wayspan_tests::root().join("deploy/systemd/wayspan.service")).unwrap_or_default()
}

/// What the unit says under a key; empty where it does not have it.
fn value_of<'u>(unit: &'u str, key: &str) -> &'u str {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

/// The unit's capabilities, as `setcap` wants them.
fn unit_capabilities() -> String {
    value_of(&unit(), "AmbientCapabilities").to_lowercase().replace(' ', ",")
}

fn span_of(jaeger: &Jaeger) -> Span {
    eventually("the span is in Jaeger", || {
        let traces = jaeger.traces("wayspan", 5).ok()?;
        traces.into_iter().flat_map(|trace| trace.spans).find(|span| span.kind() == "server")
    })
}

#[test]
fn the_units_capabilities_are_enough_for_probes_and_a_low_port() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let low = private_loopback(&[80]).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address()).replace("127.0.0.1:0", &format!("{low}:80"))
        + &config::traced(&jaeger)
        + "probes: {required: true}\n";
    let directory = tempfile::tempdir().unwrap();
    let mut agent =
        Agent::start_with(&config, |binary| as_nobody(binary, directory.path(), &unit_capabilities())).unwrap();
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

#[test]
fn the_unit_and_the_readme_name_the_same_capabilities() {
    let (unit, capabilities) = (unit(), unit_capabilities());
    assert_eq!(capabilities.split(',').count(), 3, "{capabilities}");
    assert_eq!(value_of(&unit, "CapabilityBoundingSet"), value_of(&unit, "AmbientCapabilities"));
    let readme = std::fs::read_to_string(wayspan_tests::root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("setcap {capabilities}=ep ")), "the README names others than {capabilities}");
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_confined() {
    // Where the agent would be installed is somewhere else here.
    let unit = unit().replace("/usr/local/bin/wayspan", &Agent::binary().unwrap().display().to_string());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wayspan.service");
    std::fs::write(&file, unit).unwrap();
    // Of 100, where 100 is not confined at all. It stands at 22: that it serves the network, and its capabilities.
    let offline = ["security", "--offline=true", "--threshold=30", "--no-pager"];
    for arguments in [&["verify", "--man=false"][..], &offline] {
        let output = Command::new("systemd-analyze").args(arguments).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}\n{said}");
        // What it does not know it passes over with a word.
        assert!(arguments != ["verify", "--man=false"] || said.is_empty(), "{said}");
    }
}
