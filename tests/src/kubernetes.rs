//! A Kubernetes API without nodes: the real etcd and API server on an address of their own, and kubectl to speak to it. What
//! kubelets would say of pods, a test says itself.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Process, binary, private_loopback, wait_until};

const ETCD: u16 = 2379;
const ETCD_PEERS: u16 = 2380;
const API: u16 = 6443;
/// It starts in five seconds on a machine of its own.
const START: Duration = Duration::from_secs(120);

/// A running API. Dropped, it is gone with its data.
#[derive(Debug)]
pub struct Kubernetes {
    api: Option<Process>,
    _etcd: Process,
    address: Ipv4Addr,
    directory: tempfile::TempDir,
}

impl Kubernetes {
    /// Starts it; `signing` is a private and a public key in PEM, for the tokens of service accounts. Its users are `admin`,
    /// who may do everything, and `agent`, who may do nothing yet.
    ///
    /// # Errors
    /// A program is missing, or did not start.
    pub fn start([private, public]: [&str; 2]) -> Result<Self> {
        let address = private_loopback(&[ETCD, ETCD_PEERS, API])?;
        let directory = tempfile::Builder::new().prefix("wayspan-kubernetes-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("private.pem"), private)?;
        std::fs::write(path("public.pem"), public)?;
        std::fs::write(path("tokens.csv"), "admin,admin,admin,\"system:masters\"\nagent,agent,agent,\n")?;
        for user in ["admin", "agent"] {
            std::fs::write(path(user), kubeconfig(address, user, &path("certificates/apiserver.crt")))?;
        }
        let mut etcd = Command::new("etcd");
        let (clients, peers) = (format!("http://{address}:{ETCD}"), format!("http://{address}:{ETCD_PEERS}"));
        etcd.arg("--data-dir").arg(path("etcd")).args(["--listen-client-urls", &clients]);
        etcd.args(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
        etcd.args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")]);
        let etcd = Process::start("etcd", etcd)?;
        let mut started = Self { api: None, _etcd: etcd, address, directory };
        started.up()?;
        Ok(started)
    }

    /// The same, with keys made for it.
    ///
    /// # Errors
    /// As [`Kubernetes::start`].
    pub fn start_alone() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        Self::start([&key.serialize_pem(), &key.public_key_pem()])
    }

    /// Starts the API server, anew where it was away.
    ///
    /// # Errors
    /// It did not start.
    pub fn up(&mut self) -> Result<()> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut api = Command::new(binary("KUBE_APISERVER_BIN", "peers/kubernetes/kube-apiserver")?);
        api.args([
            format!("--etcd-servers=http://{}:{ETCD}", self.address),
            format!("--bind-address={}", self.address),
            format!("--secure-port={API}"),
            // Nobody goes there: for nodes, of which there are none.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            format!("--service-account-key-file={}", path("public.pem")),
            format!("--service-account-signing-key-file={}", path("private.pem")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // There is no controller that would make the accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]);
        self.api = Some(Process::start("kube-apiserver", api)?);
        let ready = wait_until(START, || self.kubectl(&["get", "--raw", "/readyz"], "").ok());
        match (ready, &self.api) {
            (Some(_), _) => Ok(()),
            (None, Some(api)) => bail!("the API server is not ready\n{}", api.log_tail()),
            (None, None) => Ok(()),
        }
    }

    /// Kills the API server; its data stays.
    pub fn down(&mut self) {
        self.api = None;
    }

    /// The configuration of a user's client.
    #[must_use]
    pub fn config(&self, user: &str) -> PathBuf {
        self.directory.path().join(user)
    }

    /// What kubectl says, asked by `admin`.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(binary("KUBECTL_BIN", "peers/kubernetes/kubectl")?);
        command.arg("--kubeconfig").arg(self.config("admin")).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes an object, with its status, which is a part of its own.
    ///
    /// # Errors
    /// The API refused it.
    pub fn make(&self, object: &Value) -> Result<()> {
        self.kubectl(&["create", "-f", "-"], &object.to_string())?;
        let (kind, name) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
        if let Some(status) = object.get("status") {
            let patch = serde_json::json!({"status": status}).to_string();
            let name = name.as_str().unwrap_or_default();
            self.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch], "")?;
        }
        Ok(())
    }
}

fn kubeconfig(address: Ipv4Addr, user: &str, authority: &Path) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: \"https://{address}:{API}\", certificate-authority: {}}}}}]
users: [{{name: u, user: {{token: {user}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u, namespace: default}}}}]
current-context: x
",
        authority.display()
    )
}
