//! Where a cluster lives: its state directory, and the names and addresses that follow from it. Everything that a run makes
//! outside the directory carries a name that the directory alone decides, so that `down` finds it without a record.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The environment variable that marks all processes of a cluster.
pub const MARK: &str = "WAYSPAN_CLUSTER";

/// The virtual addresses of services; nobody outside the nodes sees them.
pub const SERVICES: &str = "10.96.0.0/16";

/// The cluster's name server, by custom the tenth of [`SERVICES`].
pub const DNS: &str = "10.96.0.10";

/// The addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";

/// Where the API server listens on the first node.
pub const API_PORT: u16 = 6443;

// Groups of 256 addresses that a cluster's nodes may take, one per cluster: more than a machine can run at once.
const NETWORKS: u8 = 128;

/// A cluster's directory and names.
#[derive(Debug, Clone)]
pub struct Place {
    /// Holds all state; `down` removes it.
    pub directory: PathBuf,
    /// Eight hexadecimal digits, the same for the same directory.
    pub id: String,
}

/// What `up` decided, for the commands after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The third octet of the nodes' network.
    pub network: u8,
    /// How many nodes there are.
    pub nodes: u8,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// From 1; the first one runs the control plane.
    pub number: u8,
    /// Its name in Kubernetes.
    pub name: String,
    /// Its address on the nodes' network.
    pub address: Ipv4Addr,
    /// Its part of the state directory.
    pub directory: PathBuf,
    /// Its cgroup, below each hierarchy.
    pub cgroup: String,
}

impl Place {
    /// The place at `directory`, which need not exist.
    ///
    /// # Errors
    /// Its parent cannot be made.
    pub fn new(directory: &Path) -> Result<Self> {
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let name = directory.file_name().context("the state directory needs a name of its own")?;
        let directory = fs::canonicalize(parent)?.join(name);
        let mut hasher = DefaultHasher::new();
        directory.hash(&mut hasher);
        Ok(Self { id: format!("{:08x}", hasher.finish() >> 32), directory })
    }

    /// A path below the state directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What people and tools reach the cluster with.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The value of [`MARK`].
    #[must_use]
    pub fn mark(&self) -> String {
        self.directory.display().to_string()
    }

    /// The one interface that the host gets: its end of the cable to the nodes' network.
    #[must_use]
    pub fn cable(&self) -> String {
        // At most 15 characters.
        format!("ws{}", self.id)
    }

    /// The cgroup of all nodes, below each hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("wayspan-cluster-{}", self.id)
    }

    /// Keeps what was decided.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, record: &Record) -> Result<()> {
        Ok(fs::write(self.path("cluster.json"), serde_json::to_vec(record)?)?)
    }

    /// What `up` decided, where it came so far.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path("cluster.json")).ok()?).ok()
    }

    /// The nodes of a record.
    #[must_use]
    pub fn nodes(&self, record: &Record) -> Vec<Node> {
        (1..=record.nodes)
            .map(|number| Node {
                number,
                name: format!("node{number}"),
                address: record.node(number),
                directory: self.path(&format!("node{number}")),
                cgroup: format!("/{}/node{number}", self.cgroup()),
            })
            .collect()
    }

    /// The order in which networks are tried: by directory, so that clusters seldom meet.
    pub fn networks(&self) -> impl Iterator<Item = u8> {
        let start = u8::from_str_radix(self.id.get(..2).unwrap_or_default(), 16).unwrap_or(0) % NETWORKS;
        (0..NETWORKS).map(move |step| (start + step) % NETWORKS)
    }
}

impl Record {
    /// The host's address on the nodes' network.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.network, 1)
    }

    /// A node's address.
    #[must_use]
    pub fn node(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.network, 10 + number)
    }

    /// Where the API server answers.
    #[must_use]
    pub fn api(&self) -> String {
        format!("https://{}:{API_PORT}", self.node(1))
    }
}

impl Node {
    /// The addresses of this node's pods.
    #[must_use]
    pub fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// A file below its part of the state directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Whether it runs the control plane.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.number == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_decides_all_names_and_two_directories_share_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| Place::new(&folder.path().join(name)).unwrap();
        let (one, two) = (place("one"), place("two"));
        assert_eq!(one.id, place("one").id);
        assert_ne!(one.cable(), two.cable());
        assert_ne!(one.cgroup(), two.cgroup());
        assert!(one.cable().len() <= 15, "{}", one.cable());
        assert_eq!(one.networks().count(), usize::from(NETWORKS));
    }

    #[test]
    fn what_was_decided_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(&folder.path().join("cluster")).unwrap();
        assert!(place.record().is_none());
        fs::create_dir(&place.directory).unwrap();
        place.keep(&Record { network: 7, nodes: 2 }).unwrap();
        let nodes = place.nodes(&place.record().unwrap());
        let addresses: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
        assert_eq!(addresses, ["10.213.7.11", "10.213.7.12"]);
        assert!(nodes[0].leads() && !nodes[1].leads());
    }
}
