//! `cargo xtask test`: the whole gate in named steps, the same for a person and for CI. A failed step does not end the
//! run; what could not run is named as such and is no pass. The last line counts the steps.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::geteuid;
use serde_json::json;
use wayspan_tests::{environment, wait_until};

use crate::cluster::{programs, tools};
use crate::demo::{Lab, Place};
use crate::deny::Advisories;
use crate::peers::Peers;
use crate::progress::{self, Stopwatch};
use crate::setup::{self, Need};
use crate::{agent, chart, deny, ebpf, peers, steps, tidy, vm};

/// Options of the gate.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only these steps, and the builds that they need.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Name the steps and end.
    #[arg(long)]
    list: bool,
    /// Print the summary as JSON, too.
    #[arg(long)]
    json: bool,
}

/// One step: its name, what it does, and the doing.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Gate) -> Result<Outcome>,
}

enum Outcome {
    /// Passed, with a word on how much.
    Passed(String),
    /// It could not run, through no fault of the repository.
    Skipped(String),
}

/// In the order of what is quick to fail, builds before what needs them.
const STEPS: [Step; 16] = [
    Step { name: "setup", what: "install what is missing", run: set_up },
    Step { name: "fmt", what: "cargo fmt --check", run: format },
    Step { name: "tidy", what: "the repository's own rules", run: tidy_up },
    Step { name: "chart", what: "the Helm chart: lint, its tests, the manifests rendered from it", run: helm_chart },
    Step { name: "ebpf", what: "build the eBPF object from source", run: ebpf_object },
    Step { name: "clippy", what: "cargo clippy -D warnings, all targets", run: clippy },
    Step { name: "unit", what: "unit and property tests of the workspace", run: unit },
    Step { name: "node", what: "the whole node with real Jaeger, probes on the running kernel", run: node },
    Step { name: "joins", what: "each kernel mark in the window of its own request", run: marks },
    Step { name: "demo", what: "the lab, verified through Jaeger's API", run: demo_check },
    Step { name: "browser", what: "the dashboard in Chromium", run: browser },
    Step { name: "vm", what: "probes and attribution on Debian's kernels, in emulated machines", run: machines },
    Step { name: "cluster", what: "the chart and the lab on a real Kubernetes node, made and removed", run: cluster },
    Step { name: "licences", what: "licences, bans and sources of dependencies", run: licences },
    Step { name: "advisories", what: "known vulnerabilities of dependencies", run: advisories },
    Step { name: "leftovers", what: "no process of this run is left", run: leftovers },
];

/// Marks all processes of a run, whoever starts them.
const MARK: &str = "WAYSPAN_RUN";

/// What steps share: builds are made once, also when they fail.
struct Gate {
    root: PathBuf,
    object: Option<Result<PathBuf, String>>,
    agent: Option<Result<PathBuf, String>>,
    peers: Option<Result<Peers, String>>,
}

/// What became of a step.
struct Row {
    name: &'static str,
    verdict: &'static str,
    detail: String,
    took: Duration,
}

/// Runs the gate.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    if options.list {
        for step in &STEPS {
            println!("{:<12} {}", step.name, step.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = steps::wanted(&STEPS, |step| step.name, &options.only, "test")?;
    if environment(MARK).is_none() {
        // Replaces this process by itself with the mark set: setting it in place would be unsafe.
        let error = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(MARK, std::process::id().to_string())
            .exec();
        return Err(error).context("start again with the mark of this run");
    }
    let mut gate = Gate { root: root.to_owned(), object: None, agent: None, peers: None };
    let rows: Vec<Row> = wanted.into_iter().map(|step| run_step(step, &mut gate)).collect();
    Ok(summary(&rows, options.json))
}

fn run_step(step: &Step, gate: &mut Gate) -> Row {
    eprintln!("{}: {}", step.name, step.what);
    let watch = Stopwatch::start();
    let result = (step.run)(gate);
    let took = watch.elapsed();
    let (verdict, detail) = match result {
        Ok(Outcome::Passed(detail)) => ("passed", detail),
        Ok(Outcome::Skipped(reason)) => ("NOT RUN", reason),
        Err(error) => {
            eprintln!("{error:#}\n");
            let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
            ("FAILED", first)
        }
    };
    Row { name: step.name, verdict, detail, took }
}

fn summary(rows: &[Row], as_json: bool) -> ExitCode {
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({"step": row.name, "verdict": row.verdict, "seconds": row.took.as_secs_f64(), "detail": row.detail})
            })
            .collect();
        println!("{}", json!(rows));
    }
    println!();
    for row in rows {
        println!("{:<12} {:<8} {:>8}  {}", row.name, row.verdict, progress::seconds(row.took), row.detail);
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (passed, failed, not_run) = (count("passed"), count("FAILED"), count("NOT RUN"));
    let skipped = if not_run == 0 { String::new() } else { format!(", {not_run} skipped") };
    println!("{passed} passed, {failed} failed{skipped}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Gate {
    fn object(&mut self) -> Result<PathBuf> {
        let root = &self.root;
        once(&mut self.object, "the eBPF object", || {
            setup::ensure(root, &[Need::Ebpf])?;
            ebpf::build(root)
        })
    }

    fn agent(&mut self) -> Result<PathBuf> {
        self.object()?;
        let root = &self.root;
        once(&mut self.agent, "the agent", || agent::build_binary(root))
    }

    fn peers(&mut self) -> Result<Peers> {
        let root = &self.root;
        once(&mut self.peers, "Jaeger and Hot R.O.D.", || peers::ensure(root))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = setup::cargo(&self.root);
        cargo.args(arguments).env("CARGO_TERM_COLOR", "never");
        cargo
    }
}

/// Does `make` once and remembers its outcome: the second step that needs a broken build fails at once.
fn once<T: Clone>(slot: &mut Option<Result<T, String>>, what: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
    match slot {
        Some(Ok(made)) => Ok(made.clone()),
        Some(Err(_)) => bail!("{what} could not be built, see above"),
        None => {
            let made = make();
            *slot = Some(made.as_ref().map(Clone::clone).map_err(ToString::to_string));
            made
        }
    }
}

fn passed() -> Result<Outcome> {
    Ok(Outcome::Passed(String::new()))
}

fn set_up(gate: &mut Gate) -> Result<Outcome> {
    setup::ensure(&gate.root, &[Need::Ebpf, Need::NodeTests, Need::Browser, Need::Deny])?;
    gate.peers()?;
    passed()
}

fn format(gate: &mut Gate) -> Result<Outcome> {
    progress::command("cargo fmt --check", &gate.cargo(&["fmt", "--all", "--", "--check", "--color", "never"]))?;
    passed()
}

fn tidy_up(gate: &mut Gate) -> Result<Outcome> {
    let faults = tidy::faults(&gate.root)?;
    if !faults.is_empty() {
        bail!("{} faults\n{}", faults.len(), faults.join("\n"));
    }
    passed()
}

fn helm_chart(gate: &mut Gate) -> Result<Outcome> {
    chart::check(&gate.root, false).map(Outcome::Passed)
}

fn ebpf_object(gate: &mut Gate) -> Result<Outcome> {
    let object = gate.object()?;
    let size = std::fs::metadata(&object).with_context(|| object.display().to_string())?.len();
    Ok(Outcome::Passed(format!("{size} bytes")))
}

fn clippy(gate: &mut Gate) -> Result<Outcome> {
    let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    progress::command("cargo clippy", &gate.cargo(&arguments))?;
    passed()
}

fn unit(gate: &mut Gate) -> Result<Outcome> {
    // The binary's tests are the node step's; everything else needs no other process.
    let arguments = ["test", "--locked", "--workspace", "--exclude", "wayspan-tests"];
    let output = progress::command("cargo test of the workspace", &gate.cargo(&arguments))?;
    count_tests(&output)
}

fn node(gate: &mut Gate) -> Result<Outcome> {
    let (agent, peers) = (gate.agent()?, gate.peers()?);
    setup::ensure(&gate.root, &[Need::NodeTests])?;
    let mut test = gate.cargo(&["test", "--locked", "--no-fail-fast", "-p", "wayspan-tests"]);
    test.env("WAYSPAN_BIN", agent).env("JAEGER_BIN", peers.jaeger).env("HOTROD_BIN", peers.hotrod);
    let output = progress::command("cargo test of the whole node", &test)?;
    count_tests(&output)
}

fn demo_check(gate: &mut Gate) -> Result<Outcome> {
    let (agent, _) = (gate.agent()?, gate.peers()?);
    // As a person would call it, so that its exit code is what is tested.
    let mut check = Command::new(std::env::current_exe()?);
    check.args(["demo", "--check"]).env("WAYSPAN_BIN", agent).current_dir(&gate.root);
    let output = progress::command("cargo xtask demo --check", &check)?;
    Ok(Outcome::Passed(output.lines().last().unwrap_or_default().to_owned()))
}

fn browser(gate: &mut Gate) -> Result<Outcome> {
    setup::ensure(&gate.root, &[Need::Browser])?;
    let script = gate.root.join("tests/browser/dashboard.mjs");
    if !script.is_file() {
        bail!("{} is missing", script.display());
    }
    let (agent, peers) = (gate.agent()?, gate.peers()?);
    let mut lab = Lab::start(&gate.root, &agent, Ok(peers), Place::Private)?;
    lab.replay()?;
    let pictures = wayspan_tests::target_dir().join("browser");
    std::fs::create_dir_all(&pictures)?;
    let mut node = Command::new(setup::find_program("node").unwrap_or_else(|| "node".into()));
    node.arg(&script).arg(format!("http://{}/dashboard/", lab.api)).arg(&pictures);
    progress::command("the dashboard in Chromium", &node)?;
    lab.shut_down()?;
    Ok(Outcome::Passed(format!("pictures in {}", pictures.display())))
}

fn marks(gate: &mut Gate) -> Result<Outcome> {
    gate.agent()?;
    crate::joins::check().map(Outcome::Passed)
}

fn machines(gate: &mut Gate) -> Result<Outcome> {
    let agent = gate.agent()?;
    vm::check(&gate.root, &agent).map(Outcome::Passed)
}

/// What wants an API server alone, then a whole node.
fn cluster(gate: &mut Gate) -> Result<Outcome> {
    if !geteuid().is_root() {
        return Ok(Outcome::Skipped(
            "a node needs namespaces, mounts and cgroups, which only root can make".to_owned(),
        ));
    }
    let agent = gate.agent()?;
    gate.peers()?;
    setup::ensure(&gate.root, &[Need::Cluster])?;
    let programs = programs::ensure(&gate.root)?;
    let mut alone = gate.cargo(&["test", "--locked", "-p", "wayspan-tests"]);
    alone.args(["--test", "pods", "--test", "objects", "--test", "cluster_routes", "--", "--include-ignored"]);
    alone.env("WAYSPAN_BIN", &agent);
    for (variable, program) in [("KUBE_APISERVER_BIN", "kube-apiserver"), ("KUBECTL_BIN", "kubectl")] {
        alone.env(variable, programs.join(program));
    }
    count_tests(&progress::command("cargo test with a Kubernetes API server", &alone)?)?;
    let mut run = Command::new(std::env::current_exe()?);
    run.args(["cluster", "run"]).env("WAYSPAN_BIN", agent).current_dir(&gate.root);
    let output = progress::command("cargo xtask cluster run", &run)?;
    Ok(Outcome::Passed(output.lines().last().unwrap_or_default().to_owned()))
}

fn licences(gate: &mut Gate) -> Result<Outcome> {
    setup::ensure(&gate.root, &[Need::Deny])?;
    deny::licences(&gate.root)?;
    passed()
}

fn advisories(gate: &mut Gate) -> Result<Outcome> {
    setup::ensure(&gate.root, &[Need::Deny])?;
    match deny::advisories(&gate.root)? {
        Advisories::Clear => passed(),
        Advisories::NotRun(reason) => Ok(Outcome::Skipped(reason)),
    }
}

/// Processes that carry the mark of this run, whoever started them.
fn leftovers(_: &mut Gate) -> Result<Outcome> {
    let Some(run) = environment(MARK) else { bail!("{MARK} is not set") };
    let mark = format!("{MARK}={run}");
    let marked = |mark| -> Vec<String> {
        tools::with_environment(mark).into_iter().map(|(pid, command)| format!("{pid} {command}")).collect()
    };
    let mut left = Vec::new();
    // A killed process takes a moment to go.
    wait_until(Duration::from_secs(5), || {
        left = marked(&mark);
        left.is_empty().then_some(())
    });
    if !left.is_empty() {
        bail!("still running: {}", left.join(", "));
    }
    passed()
}

/// The sums of cargo's `test result:` lines; none is a failure, since a gate that tests nothing proves nothing.
fn count_tests(output: &str) -> Result<Outcome> {
    let (mut run, mut ignored) = (0, 0);
    for line in output.lines().filter(|line| line.starts_with("test result: ok.")) {
        let number = |word| -> Option<u32> {
            let (before, _) = line.split_once(word)?;
            before.split_whitespace().next_back()?.parse().ok()
        };
        run += number(" passed").unwrap_or(0);
        ignored += number(" ignored").unwrap_or(0);
    }
    if run == 0 {
        bail!("no test was run");
    }
    let ignored = if ignored == 0 { String::new() } else { format!(", {ignored} ignored") };
    Ok(Outcome::Passed(format!("{run} tests{ignored}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_over_all_of_cargos_runs() {
        let output = "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.04s\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.29s\n";
        match count_tests(output) {
            Ok(Outcome::Passed(text)) => assert_eq!(text, "11 tests, 1 ignored"),
            _ => panic!("not passed"),
        }
        assert!(count_tests("warning: nothing\n").is_err());
    }

    #[test]
    fn a_broken_build_is_tried_once() {
        let mut slot = None;
        let mut tries = 0;
        for _ in 0..2 {
            let made: Result<u8> = once(&mut slot, "it", || {
                tries += 1;
                bail!("broken")
            });
            assert!(made.is_err());
        }
        assert_eq!(tries, 1);
    }

    #[test]
    fn a_process_with_the_mark_is_found_until_it_is_gone() {
        let mark = format!("{MARK}=test-of-{}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").env(name, value);
        let process = wayspan_tests::Process::start("sleep", sleep).unwrap();
        wayspan_tests::eventually("it is found", || (tools::with_environment(&mark).len() == 1).then_some(()));
        drop(process);
        assert_eq!(tools::with_environment(&mark), []);
    }
}
