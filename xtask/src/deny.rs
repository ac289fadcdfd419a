//! Licences, bans and sources of the dependencies by cargo-deny, and known vulnerabilities where the advisory database
//! can be fetched. It is a git repository and no registry has it: a check that could not look is told apart from one
//! that found nothing.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{progress, setup};

/// What became of the look into the advisory database.
pub enum Advisories {
    /// Nothing known against the dependencies.
    Clear,
    /// The database could not be had.
    NotRun(String),
}

/// Licences, bans, sources: by what is on this machine.
pub fn licences(root: &Path) -> Result<()> {
    let mut check = deny(root);
    check.args(["check", "licenses", "bans", "sources"]);
    progress::command("cargo deny check licenses bans sources", &check)?;
    Ok(())
}

/// Known vulnerabilities and yanked versions.
pub fn advisories(root: &Path) -> Result<Advisories> {
    let mut fetch = deny(root);
    fetch.args(["fetch", "db"]);
    // A network that swallows packets must not hold up the gate.
    fetch.envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"), ("GIT_HTTP_LOW_SPEED_TIME", "30")]);
    let output = wayspan_tests::tied(&fetch).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let reason = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
        return Ok(Advisories::NotRun(format!("the advisory database could not be fetched: {reason}")));
    }
    let mut check = deny(root);
    // The database is there now; a second fetch could only fail.
    check.args(["--offline", "check", "advisories"]);
    progress::command("cargo deny check advisories", &check)?;
    Ok(Advisories::Clear)
}

fn deny(root: &Path) -> Command {
    let program = setup::find_program("cargo-deny").unwrap_or_else(|| "cargo-deny".into());
    let mut command = Command::new(program);
    command.current_dir(root).args(["--color", "never", "--locked"]);
    command
}
