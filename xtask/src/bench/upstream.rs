//! The nginx that stands behind everything measured, here and in `outage`, and what it shares with the contenders:
//! ports told beforehand, process groups that end with their owner.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The running upstream; ends with it.
pub(crate) struct Upstream {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    files: PathBuf,
    process: Guard,
}

/// The path of the one page.
pub(crate) const PAGE: &str = "/index.html";

/// What that page says.
pub(crate) fn page_body() -> String {
    "hello from upstream\n".repeat(10)
}

impl Upstream {
    /// Starts it with its files in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let port = free_port()?;
        std::fs::create_dir_all(dir.join("html"))?;
        std::fs::write(dir.join("html/index.html"), page_body())?;
        // One process, so that nothing outlives us when we are killed.
        let config = format!(
            "master_process off; {NGINX_HEAD} keepalive_requests 1000000000; root {}; server {{ listen 127.0.0.1:{port} backlog=4096; }} }}",
            dir.join("html").display()
        );
        let mut command = wayspan_tests::tied(&nginx(dir, &config)?);
        command.stderr(std::fs::File::create(dir.join("log"))?);
        let process = spawn(command)?;
        answering(port)
            .with_context(|| format!("the upstream nginx does not answer; its log is in {}", dir.display()))?;
        Ok(Self { port, files: dir.join("html"), process })
    }

    /// Serves one more file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(std::fs::write(self.files.join(name), bytes)?)
    }

    /// Its one process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// A child and all below it.
pub(super) struct Guard(pub(super) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // The whole group: nginx has workers. Every child here leads a group of its own.
        let _ = Command::new("kill").args(["-TERM", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

pub(super) fn spawn(mut command: Command) -> Result<Guard> {
    use std::os::unix::process::CommandExt as _;
    let program = command.get_program().to_string_lossy().into_owned();
    command.process_group(0).stdin(Stdio::null());
    Ok(Guard(command.spawn().with_context(|| format!("starting {program}"))?))
}

/// A port that was free a moment ago. The contenders' configurations need it beforehand.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(super) fn answering(port: u16) -> Result<()> {
    let answers = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /index.html HTTP/1.1\r\nHost: bench.localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b" 200"))
    };
    wayspan_tests::wait_until(Duration::from_secs(20), || matches!(answers(), Ok(true)).then_some(()))
        .with_context(|| format!("no 200 on port {port} within 20 s: {:?}", answers()))
}

pub(super) const NGINX_HEAD: &str = "worker_processes 1; error_log stderr error; daemon off; \
    events { worker_connections 4096; } http { access_log off; keepalive_timeout 600;";

pub(super) fn nginx(dir: &Path, config: &str) -> Result<Command> {
    let file = dir.join("nginx.conf");
    std::fs::write(&file, format!("pid {}; {config}", dir.join("pid").display()))?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(dir).arg("-c").arg(file);
    Ok(command)
}
