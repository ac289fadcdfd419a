//! `cargo xtask full`: what the gate has no time for, one after the other, each as a person would call it. What came of each, and
//! when, stands in docs/conformance.md from then on.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::page::Part;
use crate::progress::{self, Stopwatch};
use crate::steps;

/// Options of the long run.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Only these steps.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Name the steps and end.
    #[arg(long)]
    list: bool,
}

/// A command of ours, and what it shows.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    shows: &'static str,
}

const STEPS: [Step; 10] = [
    Step {
        name: "accuracy",
        arguments: &["accuracy", "--write"],
        shows: "every injected delay in its place; docs/accuracy.md",
    },
    Step {
        name: "joins",
        arguments: &["joins"],
        shows: "a million requests and more kinds, each mark in its own window",
    },
    Step { name: "churn", arguments: &["joins", "--churn"], shows: "5,000 connections a second: no slot leaks" },
    Step { name: "outage", arguments: &["outage"], shows: "Jaeger away under load: no request notices" },
    Step { name: "bench", arguments: &["bench"], shows: "CPU per request beside HAProxy, nginx and Envoy" },
    Step {
        name: "nodes",
        arguments: &["cluster", "run", "--nodes", "2"],
        shows: "chart and lab on a cluster of two nodes",
    },
    Step {
        name: "scale",
        arguments: &["scale", "--away", "600", "--write"],
        shows: "5,000 routes, 10,000 endpoints, the API server away for ten minutes; docs/scale.md",
    },
    Step {
        name: "conformance",
        arguments: &["conformance", "--write"],
        shows: "Gateway API's own suite: all of HTTP core, and what is beyond it",
    },
    Step {
        name: "fixtures",
        arguments: &["fixtures", "--write"],
        shows: "Traefik's fixtures routed as Traefik routes them; docs/traefik-fixtures.md",
    },
    Step { name: "vm", arguments: &["vm", "6.1", "6.12"], shows: "probes and attribution on Debian's kernels" },
];

/// Where the results stand.
const RESULTS: Part = Part { page: "docs/conformance.md", begin: "<!-- results -->", end: "<!-- /results -->" };

/// Runs the steps and writes down what came of them.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    if options.list {
        for step in &STEPS {
            println!("{:<12} {}", step.name, step.shows);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = 0;
    for step in steps::wanted(&STEPS, |step| step.name, &options.only, "full")? {
        let watch = Stopwatch::start();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(step.arguments).current_dir(root);
        let called = format!("cargo xtask {}", step.arguments.join(" "));
        let result = progress::command(&called, &command);
        let passed = result.is_ok();
        failed += u32::from(!passed);
        if let Err(error) = result {
            eprintln!("{error:#}\n");
        }
        let result = Line {
            name: step.name.to_owned(),
            called,
            shows: step.shows.to_owned(),
            date: today()?,
            took: progress::seconds(watch.elapsed()),
            outcome: if passed { "passed" } else { "FAILED" }.to_owned(),
        };
        write_down(root, result)?;
    }
    println!("{failed} failed; {}", RESULTS.page);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line of the page's table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    name: String,
    called: String,
    shows: String,
    date: String,
    took: String,
    outcome: String,
}

impl Line {
    fn read(text: &str) -> Option<Self> {
        let cells: Vec<&str> = text.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [name, called, shows, date, took, outcome] = cells.as_slice() else { return None };
        let called = called.strip_prefix('`')?.strip_suffix('`')?;
        let [name, called, shows, date, took, outcome] =
            [name, called, shows, date, took, outcome].map(|cell| (*cell).to_owned());
        Some(Self { name, called, shows, date, took, outcome })
    }
}

fn write_down(root: &Path, result: Line) -> Result<()> {
    let page = root.join(RESULTS.page);
    let text = std::fs::read_to_string(&page).context(RESULTS.page)?;
    std::fs::write(&page, with(&text, result)?)?;
    Ok(())
}

/// The page with this line in place of the step's last one.
fn with(text: &str, result: Line) -> Result<String> {
    let mut lines: Vec<Line> = RESULTS.of(text)?.lines().filter_map(Line::read).collect();
    match lines.iter_mut().find(|line| line.name == result.name) {
        Some(line) => *line = result,
        None => lines.push(result),
    }
    let place = |line: &Line| STEPS.iter().position(|step| step.name == line.name);
    lines.sort_by_key(place);
    let mut table =
        "| step | command | what it shows | last run | took | outcome |\n|---|---|---|---|---|---|\n".to_owned();
    for Line { name, called, shows, date, took, outcome } in lines {
        let _written = writeln!(table, "| {name} | `{called}` | {shows} | {date} | {took} | {outcome} |");
    }
    RESULTS.replaced(text, &table)
}

/// Today, UTC.
fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("date (coreutils)")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, outcome: &str) -> Line {
        let [called, shows, date, took] = ["cargo xtask x", "y", "2026-01-02", "3 s"].map(str::to_owned);
        Line { name: name.to_owned(), called, shows, date, took, outcome: outcome.to_owned() }
    }

    #[test]
    fn a_new_result_takes_the_place_of_the_last_and_the_others_stay() {
        let page = format!("# Title\n{}\n{}\nrest\n", RESULTS.begin, RESULTS.end);
        let page = with(&page, line("bench", "passed")).unwrap();
        let page = with(&page, line("joins", "FAILED")).unwrap();
        let page = with(&page, line("joins", "passed")).unwrap();
        let lines: Vec<Line> = page.lines().filter_map(Line::read).collect();
        assert_eq!(lines, [line("joins", "passed"), line("bench", "passed")]);
        assert!(page.starts_with("# Title\n") && page.ends_with("\nrest\n"));
    }

    #[test]
    fn the_page_has_a_place_for_results() {
        let text = std::fs::read_to_string(wayspan_tests::root().join(RESULTS.page)).unwrap();
        assert!(with(&text, line("vm", "passed")).is_ok());
    }
}
