//! Who may do what on the cluster: one random token per component, the key that signs service accounts' tokens, and the
//! kubeconfig files that carry them. All of it is new with each `up` and goes with the state directory.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::place::{Place, Record};

/// A user of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The person at the machine.
    Admin,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kube-proxy of all nodes.
    Proxy,
    /// The kubelet of a node.
    Node(u8),
}

impl User {
    /// Name and group, which RBAC's own roles know.
    fn identity(self) -> (String, &'static str) {
        match self {
            Self::Admin => ("admin".to_owned(), "system:masters"),
            Self::ControllerManager => ("system:kube-controller-manager".to_owned(), ""),
            Self::Scheduler => ("system:kube-scheduler".to_owned(), ""),
            Self::Proxy => ("system:kube-proxy".to_owned(), ""),
            Self::Node(number) => (format!("system:node:node{number}"), "system:nodes"),
        }
    }

    fn file(self) -> String {
        match self {
            Self::Admin => "kubeconfig".to_owned(),
            Self::ControllerManager => "credentials/controller-manager.kubeconfig".to_owned(),
            Self::Scheduler => "credentials/scheduler.kubeconfig".to_owned(),
            Self::Proxy => "credentials/proxy.kubeconfig".to_owned(),
            Self::Node(number) => format!("credentials/node{number}.kubeconfig"),
        }
    }
}

/// The files below `credentials`.
#[derive(Debug)]
pub struct Credentials {
    place: Place,
}

impl Credentials {
    /// Makes tokens and keys. The kubeconfig files name an authority that the API server makes when it starts.
    ///
    /// # Errors
    /// The system's, or openssl's.
    pub fn make(place: &Place, record: &Record) -> Result<Self> {
        let made = Self { place: place.clone() };
        fs::create_dir_all(made.directory())?;
        let mut table = String::new();
        for user in users(record) {
            let token = random_hex(16)?;
            let (name, group) = user.identity();
            table.push_str(&format!("{token},{name},{name},\"{group}\"\n"));
            private(&place.path(&user.file()), &kubeconfig(record, &token, &made.authority()))?;
        }
        private(&made.tokens(), &table)?;
        let (key, public) = (made.private_key(), made.public_key());
        openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &key.to_string_lossy(),
        ])?;
        openssl(&["pkey", "-in", &key.to_string_lossy(), "-pubout", "-out", &public.to_string_lossy()])?;
        Ok(made)
    }

    /// Where the API server puts its certificate, too.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.place.path("credentials")
    }

    /// The API server's certificate, which it signs itself with an authority that is part of the file.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory().join("apiserver.crt")
    }

    /// The table of tokens.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.directory().join("tokens.csv")
    }

    /// Signs service accounts' tokens.
    #[must_use]
    pub fn private_key(&self) -> PathBuf {
        self.directory().join("service-accounts.key")
    }

    /// Verifies them.
    #[must_use]
    pub fn public_key(&self) -> PathBuf {
        self.directory().join("service-accounts.pub")
    }

    /// A user's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.place.path(&user.file())
    }
}

fn users(record: &Record) -> Vec<User> {
    let mut users = vec![User::Admin, User::ControllerManager, User::Scheduler, User::Proxy];
    users.extend((1..=record.nodes).map(User::Node));
    users
}

fn kubeconfig(record: &Record, token: &str, authority: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: wayspan\n\
         clusters: [{{name: wayspan, cluster: {{server: \"{}\", certificate-authority: \"{}\"}}}}]\n\
         contexts: [{{name: wayspan, context: {{cluster: wayspan, user: user}}}}]\n\
         users: [{{name: user, user: {{token: {token}}}}}]\n",
        record.api(),
        authority.display()
    )
}

/// A file that its owner alone can read.
fn private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}

pub(super) fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read as _;
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).output().context("openssl could not be started")?;
    if !output.status.success() {
        bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
