//! The harness that the tests of the whole node, the demo and the bench share: processes, private loopback addresses,
//! waiting, a small HTTP/1 client, a scripted upstream, the real Jaeger and Hot R.O.D. Internals of the crates are not
//! for it: it sees the built binary from outside.
//!
//! Binaries come from the environment, set by `cargo xtask test`: `WAYSPAN_BIN`, `JAEGER_BIN`, `HOTROD_BIN`. Without
//! them they are looked for where xtask builds them; a missing one is an error, never a skipped test.
//!
//! ```no_run
//! use wayspan_tests::{Agent, Reply, Upstream, config, eventually, http};
//!
//! let upstream = Upstream::start(|_request| Reply::ok("hello")).unwrap();
//! let mut agent = Agent::start(&config::forward("PathPrefix(`/`)", upstream.address())).unwrap();
//! let response = http::get(agent.address("web").unwrap(), "any.example", "/").unwrap();
//! assert_eq!(response.text(), "hello");
//! eventually("the upstream saw it", || (upstream.requests().len() == 1).then_some(()));
//! ```

mod agent;
pub mod config;
pub mod http;
mod jaeger;
mod kubernetes;
mod load;
mod loopback;
pub mod otlp;
mod process;
mod time;
pub mod tls;
mod upstream;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use agent::Agent;
pub use jaeger::{Edge, HotRod, Jaeger, Span, Trace};
pub use kubernetes::Kubernetes;
pub use load::Load;
pub use loopback::private_loopback;
pub use process::{Process, tied};
pub use time::{Deadline, PATIENCE, eventually, wait_until};
pub use upstream::{Part, Reply, Request, Upstream};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    // The harness lives in <root>/tests.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Cargo's target directory of this repository.
#[must_use]
pub fn target_dir() -> PathBuf {
    environment("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// An environment variable that is set and not empty.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place where harness and xtask read the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A binary named by `variable`, else built at `target/<built>`. A missing one is an error that says the remedy.
///
/// # Errors
/// Neither exists.
pub fn binary(variable: &str, built: &str) -> Result<PathBuf> {
    let named = environment(variable).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| target_dir().join(built));
    let path = std::fs::canonicalize(&path).with_context(|| {
        format!("{variable}: no binary at {}; `cargo xtask test` builds and names it", path.display())
    })?;
    Ok(path)
}
