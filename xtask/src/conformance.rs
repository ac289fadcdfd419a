//! `cargo xtask conformance`: Gateway API's own suite, as it is, against the agent on a real node. What passed stands in
//! docs/conformance.md, the suite's own report beside it.

mod features;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Place, programs, tools};
use crate::page::Part;
use crate::progress;
use crate::{peers, setup};

/// Options of the suite.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only this test of the suite, e.g. HTTPRouteSimpleSameNamespace.
    #[arg(long, value_name = "TEST")]
    test: Option<String>,
    /// Leave the cluster as it is at the end, and use the one that is there at the beginning.
    #[arg(long)]
    keep: bool,
    /// Write the table and the report into docs/.
    #[arg(long)]
    write: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

const MODULE: &str = "tests/peers/gateway-api";
const REPORT: &str = "docs/gateway-api-report.yaml";
/// Where the table stands.
const TABLE: Part = Part { page: "docs/conformance.md", begin: "<!-- gateway-api -->", end: "<!-- /gateway-api -->" };
/// The profile that is asked for.
const PROFILE: &str = "GATEWAY-HTTP";
/// Extended tests of that profile in Traefik's published report: more than these are to pass.
const EXTENDED_OF_TRAEFIK: u32 = 29;
/// What its Gateways are served by.
const CLASS: &str = "wayspan";

/// Runs it; fails where a core test does.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let suite = build(root)?;
    let place = Place::new(&wayspan_tests::target_dir().join("conformance-cluster"))?;
    if !options.keep {
        // What a run that was cut off has left may be of another state of the source.
        cluster::take_down(&place)?;
    }
    let ran = (|| -> Result<Outcome> {
        cluster::bring_up(root, &place, 1, false)?;
        define(root, &place)?;
        name_images(root, &place)?;
        install(root, &place)?;
        ask(root, &suite, &place, options)
    })();
    if !options.keep {
        cluster::take_down(&place)?;
    }
    let outcome = ran?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", outcome.table());
    }
    if options.write {
        let page = root.join(TABLE.page);
        let text = fs::read_to_string(&page).context(TABLE.page)?;
        fs::write(&page, TABLE.replaced(&text, &outcome.table())?)?;
        fs::write(root.join(REPORT), &outcome.report)?;
    }
    let lacking = outcome.lacking(options.test.is_none());
    lacking.iter().for_each(|lacking| eprintln!("FAILED  {lacking}"));
    Ok(if lacking.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The suite as a program, built once for each state of the go.mod that pins it.
fn build(root: &Path) -> Result<PathBuf> {
    let (module, target) = (root.join(MODULE), wayspan_tests::target_dir().join("peers"));
    let (program, stamp) = (target.join("gateway-api.test"), target.join("gateway-api.built"));
    let wanted = fs::read(module.join("go.mod")).context(MODULE)?;
    if program.is_file() && fs::read(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&target)?;
    let mut build = Command::new(peers::find_go(26)?);
    build.current_dir(&module).env("CGO_ENABLED", "0").args(["test", "-c", "-trimpath", "-mod=readonly", "-o"]);
    build.arg(&program).arg(".");
    progress::command("building Gateway API's suite from its Go module, 3 min the first time", &build)?;
    fs::write(stamp, wanted)?;
    Ok(program)
}

/// Gateway API's resource definitions with what is experimental in them in place of those without: retries are. A policy of
/// theirs keeps people from that, who could not go back.
fn define(root: &Path, place: &Place) -> Result<()> {
    let policy = "safe-upgrades.gateway.networking.k8s.io";
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        tools::output(&mut tools::kubectl(place, &["delete", kind, policy, "--ignore-not-found"]))?;
    }
    let mut apply = tools::kubectl(place, &["apply", "--server-side", "--force-conflicts"]);
    let directory = programs::gateway_definitions(root)?.with_file_name("experimental");
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("gateway.networking.k8s.io_") && !name.contains("_vap_") {
            apply.arg("-f").arg(entry.path());
        }
    }
    // The API server forgets a policy a moment after it is gone.
    let applied = wayspan_tests::wait_until(Duration::from_secs(30), || tools::output(&mut apply).ok());
    applied.context("Gateway API's experimental definitions are refused").map(drop)
}

/// Addresses of the node for Gateways: two of the suite's want what the other one has.
fn pool(place: &Place) -> Result<Vec<String>> {
    let own = node_address(place)?;
    let (network, _) = own.rsplit_once('.').context("the node's address")?;
    let holder = tools::holder(place, 1).context("the node has ended")?;
    let pool: Vec<String> = (101..109).map(|number| format!("{network}.{number}")).collect();
    for address in &pool {
        let add = ["address", "replace", &format!("{address}/24"), "dev", "lan"];
        tools::output(&mut tools::inside(holder, "ip", &add))?;
    }
    Ok(pool)
}

/// The address of the node, which is the agent's.
fn node_address(place: &Place) -> Result<String> {
    let path = r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#;
    tools::output(&mut tools::kubectl(place, &["get", "nodes", "-o", path]))
}

/// Gives the images of the echo and name servers the names that the suite's manifests ask for, which they do by versions that came
/// and went.
fn name_images(root: &Path, place: &Place) -> Result<()> {
    let module = programs::module_directory(root, MODULE, "sigs.k8s.io/gateway-api/conformance")?;
    let mut names = BTreeSet::new();
    collect_images(&module, &mut names)?;
    let holder = tools::holder(place, 1).context("the node has ended")?;
    let known = tools::output(&mut tools::inside(holder, "ctr", &["-n", "k8s.io", "images", "ls", "-q"]))?;
    for (program, own) in [("/echo-basic:", "/wayspan-echo:"), ("/coredns:", "/wayspan-coredns:")] {
        let own = known.lines().find(|name| name.contains(own)).with_context(|| format!("no image {own}"))?;
        for name in names.iter().filter(|name| name.contains(program)) {
            let tag = ["-n", "k8s.io", "images", "tag", "--force", own, name];
            tools::output(&mut tools::inside(holder, "ctr", &tag))?;
        }
    }
    Ok(())
}

/// The images that manifests below a directory name.
fn collect_images(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_images(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path)?;
            let images = text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image:"));
            names.extend(images.map(|name| name.trim().to_owned()));
        }
    }
    Ok(())
}

/// The agent in the node's network: the suite's Gateways ask for ports of the node.
fn install(root: &Path, place: &Place) -> Result<()> {
    setup::ensure(root, &[setup::Need::Cluster])?;
    let mut helm = Command::new(programs::directory().join("helm"));
    helm.arg("--kubeconfig").arg(place.kubeconfig()).args(["upgrade", "--install", "wayspan"]);
    helm.arg(root.join("deploy/helm/wayspan")).args(["--namespace", "kube-system", "--wait", "--timeout", "120s"]);
    let pool = format!("providers.kubernetesGateway.addressPool={{{}}}", pool(place)?.join(","));
    for value in [
        &pool,
        "hostNetwork=true",
        "ports.web.hostPort=null",
        "ports.websecure.hostPort=null",
        "providers.kubernetesGateway.enabled=true",
        "updateStrategy.rollingUpdate.maxUnavailable=1",
    ] {
        helm.args(["--set", value]);
    }
    progress::command("installing the agent", &helm)?;
    // The suite reads once what the class can do.
    let accepted = ["wait", "--for=condition=Accepted", "--timeout=60s", &format!("gatewayclass/{CLASS}")];
    tools::output(&mut tools::kubectl(place, &accepted)).context("the GatewayClass is not accepted")?;
    Ok(())
}

/// Runs the suite; its words go to a log.
fn ask(root: &Path, suite: &Path, place: &Place, options: &Options) -> Result<Outcome> {
    let (log, report) = (place.path("suite.log"), place.path("report.yaml"));
    let mut command = Command::new(suite);
    command.current_dir(&place.directory).env("KUBECONFIG", place.kubeconfig());
    command.args(["-test.v", "-test.timeout=40m", "-test.run=TestConformance", "-gateway-class", CLASS]);
    command.args(["-conformance-profiles", PROFILE, "-organization=wayspan", "-project=wayspan"]);
    command.args(["-url=https://wayspan.example", "-version", env!("CARGO_PKG_VERSION"), "-contact=maintainers"]);
    command.arg(format!("-report-output={}", report.display()));
    // One that the agent has, and one for documentation (RFC 5737), which nobody has.
    command.arg(format!("-usable-address={}", node_address(place)?)).arg("-unusable-address=192.0.2.1");
    if let Some(test) = &options.test {
        command.arg(format!("-run-test={test}"));
    }
    let file = File::create(&log)?;
    let mut command = wayspan_tests::tied(&command);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    // Tests that fail make it fail, and so does much else; the outcome says which.
    let status =
        progress::step("running Gateway API's suite", || command.status().context("the suite could not be started"))?;
    let said = fs::read_to_string(&log)?;
    let tests = verdicts(&said);
    if tests.is_empty() {
        bail!("the suite ran no test; the end of {}:\n{}", log.display(), cluster::tail(&log));
    }
    let report = fs::read_to_string(&report).unwrap_or_default();
    let read: Report = if report.is_empty() { Report::default() } else { serde_saphyr::from_str(&report)? };
    let ended = if status.success() { String::new() } else { format!("the suite: {status}; see {}", log.display()) };
    let module = programs::module_directory(root, MODULE, "sigs.k8s.io/gateway-api/conformance")?;
    let features = features::of_tests(&module.join("tests"))?;
    Ok(Outcome { tests, profiles: read.profiles, features, ended, report })
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// What came of a run.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    tests: BTreeMap<String, Verdict>,
    profiles: Vec<Profile>,
    /// What each test is about.
    features: BTreeMap<String, BTreeSet<String>>,
    /// How the suite ended, if not well.
    ended: String,
    #[serde(skip)]
    report: String,
}

/// The suite's report, as far as it is told of.
#[derive(Debug, Default, Deserialize)]
struct Report {
    #[serde(default)]
    profiles: Vec<Profile>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Profile {
    name: String,
    core: Status,
    extended: Extended,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    result: String,
    statistics: Statistics,
    failed_tests: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Extended {
    #[serde(flatten)]
    status: Status,
    supported_features: Vec<String>,
    unsupported_features: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Statistics {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Outcome {
    /// What is not as it has to be; of a single test only whether it passed.
    fn lacking(&self, of_all: bool) -> Vec<String> {
        let failed = self.tests.iter().filter(|(_, verdict)| **verdict == Verdict::Failed);
        let mut lacking: Vec<String> = failed.map(|(name, _)| name.clone()).collect();
        if !self.tests.values().any(|verdict| *verdict == Verdict::Passed) {
            lacking.push("no test passed".to_owned());
        }
        lacking.extend(Some(self.ended.clone()).filter(|ended| !ended.is_empty()));
        if !of_all {
            return lacking;
        }
        let Some(profile) = self.profiles.iter().find(|profile| profile.name == PROFILE) else {
            lacking.push(format!("the suite reports nothing of {PROFILE}"));
            return lacking;
        };
        let (core, extended) = (&profile.core.statistics, &profile.extended.status.statistics);
        if core.passed == 0 || core.failed + core.skipped > 0 {
            lacking.push(format!("core: {} failed, {} skipped, {} passed", core.failed, core.skipped, core.passed));
        }
        if extended.failed > 0 || extended.passed <= EXTENDED_OF_TRAEFIK {
            let bar = format!("more than {EXTENDED_OF_TRAEFIK} are to pass");
            lacking.push(format!("extended: {} failed, {} passed; {bar}", extended.failed, extended.passed));
        }
        lacking
    }

    /// What passed of the tests of each feature, as rows of a table.
    fn by_feature(&self) -> String {
        let mut all: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for (name, verdict) in &self.tests {
            for feature in self.features.get(name).into_iter().flatten() {
                let counts = all.entry(feature).or_default();
                let [passed, failed, skipped] = counts;
                match verdict {
                    Verdict::Passed => *passed += 1,
                    Verdict::Failed => *failed += 1,
                    Verdict::Skipped => *skipped += 1,
                }
            }
        }
        let mut out = "| feature | passed | failed | skipped |\n|---|---|---|---|\n".to_owned();
        for (feature, [passed, failed, skipped]) in all {
            let _written = writeln!(out, "| {feature} | {passed} | {failed} | {skipped} |");
        }
        out
    }

    /// For people, and for Markdown.
    fn table(&self) -> String {
        let mut out = "| profile | tests | passed | failed | skipped | |\n|---|---|---|---|---|---|\n".to_owned();
        let mut row = |name: &str, kind: &str, status: &Status| {
            let Statistics { passed, failed, skipped } = status.statistics;
            let failing = status.failed_tests.join(", ");
            let _written = writeln!(out, "| {name} | {kind} | {passed} | {failed} | {skipped} | {failing} |");
        };
        for profile in &self.profiles {
            row(&profile.name, "core", &profile.core);
            row(&profile.name, "extended", &profile.extended.status);
        }
        for profile in &self.profiles {
            let Extended { supported_features, unsupported_features, .. } = &profile.extended;
            let _written = writeln!(out, "\nFeatures beyond the core: {}.", supported_features.join(", "));
            let _written = writeln!(out, "\nNot yet: {}.", unsupported_features.join(", "));
        }
        let _written = write!(out, "\nA test counts for each feature that it names:\n\n{}", self.by_feature());
        let named = |wanted| {
            let all = self.tests.iter().filter(move |(_, verdict)| **verdict == wanted);
            all.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        let (passed, failed) = (named(Verdict::Passed), named(Verdict::Failed));
        let _written = writeln!(out, "\n{} tests passed: {}.", passed.len(), passed.join(", "));
        if !failed.is_empty() {
            let _written = writeln!(out, "\n{} tests failed: {}.", failed.len(), failed.join(", "));
        }
        out
    }
}

/// What `go test -v` says of each test of the suite.
fn verdicts(said: &str) -> BTreeMap<String, Verdict> {
    let words = [("--- PASS: ", Verdict::Passed), ("--- FAIL: ", Verdict::Failed), ("--- SKIP: ", Verdict::Skipped)];
    let read = |line: &str| {
        let (verdict, rest) = words.iter().find_map(|(word, verdict)| Some((*verdict, line.strip_prefix(word)?)))?;
        let name = rest.split(' ').next()?.strip_prefix("TestConformance/")?;
        (!name.contains('/')).then(|| (name.to_owned(), verdict))
    };
    said.lines().filter_map(|line| read(line.trim_start())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_those_of_the_suites_tests_and_not_of_their_parts() {
        let said = "=== RUN   TestConformance\n    --- PASS: TestConformance/One (1.00s)\n        \
                    --- PASS: TestConformance/One/part (0.10s)\n    --- FAIL: TestConformance/Two (2.00s)\n    \
                    --- SKIP: TestConformance/Three (0.00s)\n--- FAIL: TestConformance (3.00s)\n";
        let verdicts: Vec<_> = verdicts(said).into_iter().collect();
        let expected = [("One", Verdict::Passed), ("Three", Verdict::Skipped), ("Two", Verdict::Failed)];
        assert_eq!(verdicts, expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    }

    #[test]
    fn a_report_is_read_and_told() {
        let report = "apiVersion: gateway.networking.k8s.io/v1\nprofiles:\n- core:\n    failedTests: [A]\n    result: failure\n    \
                      statistics: {Failed: 1, Passed: 36, Skipped: 0}\n  extended:\n    result: success\n    statistics: {Failed: 0, Passed: 30, Skipped: 1}\n    \
                      supportedFeatures: [X]\n    unsupportedFeatures: [Y, Z]\n  name: GATEWAY-HTTP\n";
        let profiles = serde_saphyr::from_str::<Report>(report).unwrap().profiles;
        let features = BTreeMap::from([("One".to_owned(), BTreeSet::from(["X".to_owned()]))]);
        let tests = BTreeMap::from([("One".to_owned(), Verdict::Passed), ("Two".to_owned(), Verdict::Skipped)]);
        let table = Outcome { tests, profiles, features, ..Outcome::default() }.table();
        assert!(table.contains("| GATEWAY-HTTP | core | 36 | 1 | 0 | A |"), "{table}");
        assert!(table.contains("| GATEWAY-HTTP | extended | 30 | 0 | 1 |  |"), "{table}");
        assert!(table.contains("Not yet: Y, Z."), "{table}");
        assert!(table.contains("| X | 1 | 0 | 0 |"), "{table}");
    }

    #[test]
    fn a_run_is_good_when_all_of_the_core_and_more_than_traefiks_passed() {
        let outcome = |core: [u32; 3], extended: [u32; 3], ended: &str| {
            let statistics = |[passed, failed, skipped]: [u32; 3]| Statistics { passed, failed, skipped };
            let core = Status { statistics: statistics(core), ..Status::default() };
            let extended = Extended {
                status: Status { statistics: statistics(extended), ..Status::default() },
                ..Extended::default()
            };
            let profiles = vec![Profile { name: PROFILE.to_owned(), core, extended }];
            let tests = BTreeMap::from([("One".to_owned(), Verdict::Passed)]);
            Outcome { tests, profiles, ended: ended.to_owned(), ..Outcome::default() }
        };
        assert!(outcome([36, 0, 0], [30, 0, 0], "").lacking(true).is_empty());
        for (bad, why) in [
            (outcome([36, 1, 0], [30, 0, 0], ""), "core: 1 failed"),
            (outcome([35, 0, 1], [30, 0, 0], ""), "1 skipped"),
            (outcome([0, 0, 0], [30, 0, 0], ""), "core: 0 failed"),
            (outcome([36, 0, 0], [29, 0, 0], ""), "extended: 0 failed, 29 passed"),
            (outcome([36, 0, 0], [30, 1, 0], ""), "extended: 1 failed"),
            (outcome([36, 0, 0], [30, 0, 0], "the suite: exit status: 1"), "exit status: 1"),
        ] {
            let lacking = bad.lacking(true);
            assert!(lacking.len() == 1 && lacking[0].contains(why), "{lacking:?}");
        }
        // A report that was not written says nothing, which is no success.
        let unwritten = Outcome { profiles: Vec::new(), ..outcome([36, 0, 0], [30, 0, 0], "") };
        assert_eq!(unwritten.lacking(true), ["the suite reports nothing of GATEWAY-HTTP"]);
        assert!(unwritten.lacking(false).is_empty() && !Outcome::default().lacking(false).is_empty());
    }
}
