//! The agent as a child process: its configuration in a directory of its own, its addresses read from its log.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::Process;

/// A running `wayspan run`. Dropping it kills it; [`Process::stop`] drains it.
#[derive(Debug)]
pub struct Agent {
    /// The process: signals, log, exit status.
    pub process: Process,
    config: PathBuf,
    directory: tempfile::TempDir,
}

impl Agent {
    /// Starts the binary of `WAYSPAN_BIN` with that configuration. Give entry points and api port 0 and ask
    /// [`Agent::address`] where they are.
    ///
    /// # Errors
    /// There is no binary, or it could not be started.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_with(config, |binary| Ok(Command::new(binary)))
    }

    /// The same, by a command made from the binary, e.g. to run it as another user; `run --config FILE` is added to it.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(config: &str, command: impl FnOnce(&Path) -> Result<Command>) -> Result<Self> {
        let binary = Self::binary()?;
        let directory = tempfile::Builder::new().prefix("wayspan-").tempdir()?;
        let path = directory.path().join("wayspan.yaml");
        std::fs::write(&path, config)?;
        // Another user may have to read it.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let mut command = command(&binary)?;
        command.arg("run").arg("--config").arg(&path).env("NO_COLOR", "1").current_dir(directory.path());
        let process = Process::start("wayspan", command)?;
        Ok(Self { process, config: path, directory })
    }

    /// The binary under test, e.g. to run `wayspan check`.
    ///
    /// # Errors
    /// There is none.
    pub fn binary() -> Result<PathBuf> {
        crate::binary("WAYSPAN_BIN", "release/wayspan")
    }

    /// Where an entry point (or `api`) listens, as its log says: `listening entry_point=web address=127.0.0.1:41234`.
    /// Waits for it.
    ///
    /// # Errors
    /// It ended, or did not say so in time.
    pub fn address(&mut self, entry_point: &str) -> Result<SocketAddr> {
        self.process.wait_for_line(&format!("entry point {entry_point} listens"), |line| listening(line, entry_point))
    }

    /// Replaces the configuration file as editors do: a new file, renamed over the old one.
    ///
    /// # Errors
    /// The system's.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let new = self.directory.path().join("wayspan.yaml.new");
        std::fs::write(&new, config)?;
        std::fs::rename(&new, &self.config).context("replace the configuration")
    }

    /// The directory that holds its configuration; further files of a test can live there.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// The address in a `listening` line of that entry point; values may stand in quotes.
fn listening(line: &str, entry_point: &str) -> Option<SocketAddr> {
    let (_, fields) = line.split_once("listening")?;
    let field = |name: &str| {
        let value = fields.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"'))
    };
    if field("entry_point")? != entry_point {
        return None;
    }
    field("address")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_log() {
        #[track_caller]
        fn check(line: &str, expected: Option<&str>) {
            assert_eq!(listening(line, "web"), expected.map(|address| address.parse().unwrap()));
        }
        check("2026 INFO wayspan: listening entry_point=web address=127.0.0.1:4000", Some("127.0.0.1:4000"));
        check("INFO listening entry_point=\"web\" address=[::]:4000", Some("[::]:4000"));
        check("INFO listening entry_point=websecure address=127.0.0.1:4000", None);
        check("INFO stopped entry_point=web address=127.0.0.1:4000", None);
    }
}
