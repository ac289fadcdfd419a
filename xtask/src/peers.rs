//! Jaeger and Hot R.O.D. as programs: a Jaeger that the machine already has, else both built once from the Go modules
//! that tests/peers pins. Running them is the harness's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{progress, setup};

/// Where the real parts are.
#[derive(Debug, Clone)]
pub struct Peers {
    /// Jaeger v2.
    pub jaeger: PathBuf,
    /// Hot R.O.D.
    pub hotrod: PathBuf,
    /// Whether that Jaeger was built here: its UI is a placeholder then, since the module lacks the pages.
    pub jaeger_is_ours: bool,
}

// What the collector's modules ask for.
const GO_MINOR_MIN: u32 = 25;

/// Finds or builds them.
///
/// # Errors
/// No suitable Go, or the build failed: then with the reason and the remedy.
pub fn ensure(root: &Path) -> Result<Peers> {
    let target = wayspan_tests::target_dir().join("peers");
    build(root, &target)?;
    let foreign = wayspan_tests::environment("JAEGER").map(PathBuf::from).or_else(|| setup::find_program("jaeger"));
    Ok(Peers {
        jaeger_is_ours: foreign.is_none(),
        jaeger: foreign.unwrap_or_else(|| target.join("jaeger")),
        hotrod: target.join("hotrod"),
    })
}

fn build(root: &Path, target: &Path) -> Result<()> {
    let module = root.join("tests/peers");
    let wanted = std::fs::read(module.join("go.mod")).context("tests/peers/go.mod")?;
    let stamp = target.join("go.mod.built");
    let complete = ["jaeger", "hotrod"].iter().all(|name| target.join(name).is_file());
    if complete && std::fs::read(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    let go = find_go(GO_MINOR_MIN)?;
    // Built beside and moved, so that what runs meanwhile keeps its file and a broken build leaves none.
    let fresh = target.join("new");
    std::fs::create_dir_all(&fresh)?;
    let mut build = Command::new(go);
    build.current_dir(&module).args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"]).arg(&fresh);
    build.args(["github.com/jaegertracing/jaeger/cmd/jaeger", "github.com/jaegertracing/jaeger/examples/hotrod"]);
    progress::command("building Jaeger and Hot R.O.D. from their Go modules, 4 min the first time", &build)
        .context("Jaeger and Hot R.O.D. could not be built (is the Go module proxy of `go env GOPROXY` reachable?)")?;
    for name in ["jaeger", "hotrod"] {
        std::fs::rename(fresh.join(name), target.join(name))?;
    }
    std::fs::remove_dir_all(&fresh)?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

/// Go of at least that minor version.
///
/// # Errors
/// There is none: then with the remedy.
pub fn find_go(minor_min: u32) -> Result<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    let Some(go) = setup::find_program("go").or_else(|| usual.is_file().then_some(usual)) else {
        bail!("no Go on this machine: install Go 1.{minor_min} or later (https://go.dev/dl/, or Debian's golang-go)");
    };
    let output = Command::new(&go).arg("version").output().with_context(|| go.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match minor_version(&text) {
        Some(minor) if minor >= minor_min => Ok(go),
        _ => bail!("Go 1.{minor_min} or later is needed, {} says: {}", go.display(), text.trim()),
    }
}

/// 26 of `go version go1.26.8 linux/amd64`.
fn minor_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("go1.")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_what_go_says() {
        for (text, expected) in [
            ("go version go1.26.8 linux/amd64", Some(26)),
            ("go version go1.25rc1 linux/amd64", Some(25)),
            ("go version devel +abc", None),
            ("", None),
        ] {
            assert_eq!(minor_version(text), expected, "{text}");
        }
    }
}
