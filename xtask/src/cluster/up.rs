//! `cluster up`: builds what is missing, makes the nodes' namespaces, starts their components, and waits until pods can run.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;
use wayspan_tests::wait_until;

use super::credentials::Credentials;
use super::host::Host;
use super::place::{MARK, Node, Place, Record};
use super::tools::{self, inside, json, kubectl, output};
use super::{image, plan, programs};
use crate::agent;
use crate::progress::{self, Stopwatch};
use crate::setup::{self, Need};

/// The name server of the cluster.
const NAME_SERVER: &str = include_str!("../../../tests/peers/kubernetes/dns.yaml");

// A cold control plane on two busy cores takes a third of this.
const PATIENCE: Duration = Duration::from_secs(180);

/// What `up` has made.
pub struct Up {
    /// How long it took once everything was built.
    pub took: Duration,
    /// What was decided.
    pub record: Record,
}

/// Makes the cluster, of one node where no number is given. One that is ready already stays, with the images of today.
///
/// # Errors
/// Something could not be built or did not come up: then with the end of what it said.
pub fn run(root: &Path, place: &Place, nodes: Option<u8>, with_lab: bool) -> Result<Up> {
    if !geteuid().is_root() {
        bail!("a node needs namespaces, mounts and cgroups, which only root can make: run this command as root");
    }
    let already_up = already_up(place, nodes)?;
    setup::ensure(root, &[Need::Ebpf, Need::Cluster])?;
    let programs = programs::ensure(root)?;
    // A cluster to try things on: nothing is measured there.
    let agent = agent::named_or(|| agent::build_quick(root))?;
    let images = image::all(root, &agent, with_lab)?;
    let watch = Stopwatch::start();
    if let Some(record) = already_up {
        renew(place, &record, &images)?;
        return Ok(Up { took: watch.elapsed(), record });
    }
    let record = begin(place, nodes.unwrap_or(1))?;
    let made = make(root, place, &record, &programs, &images);
    if let Err(error) = made {
        bail!("{error:#}\n(logs are below {}; `cargo xtask cluster down` removes it all)", place.directory.display());
    }
    Ok(Up { took: watch.elapsed(), record })
}

fn already_up(place: &Place, nodes: Option<u8>) -> Result<Option<Record>> {
    let runs = !tools::marked(place).is_empty();
    match place.record() {
        Some(record) if runs && nodes_ready(place, &record) == Some(()) => {
            let directory = place.directory.display();
            if nodes.is_some_and(|nodes| nodes != record.nodes) {
                bail!("the cluster at {directory} has {} nodes: run `cargo xtask cluster down` first", record.nodes);
            }
            eprintln!("  the cluster at {directory} is up already");
            Ok(Some(record))
        }
        None if !runs && !place.directory.exists() => Ok(None),
        _ => bail!(
            "{} holds a cluster that is not whole: run `cargo xtask cluster down` first",
            place.directory.display()
        ),
    }
}

/// Gives the nodes of a cluster that is up the images that have changed since, and has the agent's pods made anew from them.
fn renew(place: &Place, record: &Record, images: &[PathBuf]) -> Result<()> {
    let told = image::told(images)?;
    if fs::read_to_string(loaded(place)).is_ok_and(|loaded| loaded == told) {
        return Ok(());
    }
    progress::step("loading the images that have changed into the nodes", || {
        for node in place.nodes(record) {
            let holder = tools::holder(place, node.number).with_context(|| format!("{} is gone", node.name))?;
            load(place, &node, holder, images)?;
        }
        let pods = ["delete", "pods", "-A", "-l", "app.kubernetes.io/name=wayspan"];
        output(&mut kubectl(place, &pods))?;
        Ok(fs::write(loaded(place), told)?)
    })
}

/// Where it stands what images the nodes have.
fn loaded(place: &Place) -> PathBuf {
    place.path("images")
}

/// Takes a network of its own and keeps what was decided, before anything else is made.
fn begin(place: &Place, nodes: u8) -> Result<Record> {
    fs::create_dir_all(&place.directory)?;
    Host::look().keep(&place.path("host.json"))?;
    let (cable, plug) = (place.cable(), plug(place));
    output(Command::new("ip").args(["link", "add", &cable, "type", "veth", "peer", "name", &plug]))?;
    for network in place.networks() {
        let record = Record { network, nodes };
        let address = format!("{}/24", record.host());
        let taken = output(Command::new("ip").args(["-4", "-o", "address", "show"]))?;
        if taken.contains(&format!(" 10.213.{network}.")) {
            continue;
        }
        output(Command::new("ip").args(["address", "add", &address, "dev", &cable]))?;
        // Another cluster may have looked at the same moment.
        let taken = output(Command::new("ip").args(["-4", "-o", "address", "show"]))?;
        if taken.matches(&format!(" {}/", record.host())).count() > 1 {
            output(Command::new("ip").args(["address", "del", &address, "dev", &cable]))?;
            continue;
        }
        place.keep(&record)?;
        return Ok(record);
    }
    bail!("all networks 10.213.*.0/24 are taken: other clusters run on this machine, or an address of it is there")
}

/// The end of the cable that goes to the first node.
fn plug(place: &Place) -> String {
    format!("{}n", place.cable())
}

fn make(root: &Path, place: &Place, record: &Record, programs: &Path, images: &[PathBuf]) -> Result<()> {
    let users = Credentials::make(place, record)?;
    let nodes = place.nodes(record);
    let mut holders = Vec::new();
    for node in &nodes {
        fs::create_dir_all(&node.directory)?;
        let plan = plan::write(place, record, node, programs, &users)?;
        make_cgroups(node)?;
        holders.push(hold(place, node, &plan::keep(node, &plan)?)?);
    }
    connect(place, &nodes, &holders)?;
    progress::step("starting the control plane", || {
        until(place, "the API server answers", || output(&mut kubectl(place, &["get", "--raw", "/readyz"])).ok())
    })?;
    progress::step("loading the images into the nodes", || {
        for (node, holder) in nodes.iter().zip(&holders) {
            load(place, node, *holder, images)?;
        }
        Ok(fs::write(loaded(place), image::told(images)?)?)
    })?;
    progress::step("waiting for the nodes", || {
        until(place, "all nodes are ready", || nodes_ready(place, record))?;
        tools::apply(place, "dns", NAME_SERVER)?;
        let rollout = ["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"];
        output(&mut kubectl(place, &rollout)).context("the cluster's name server")?;
        let definitions = programs::gateway_definitions(root)?;
        output(kubectl(place, &["apply", "--server-side", "-f"]).arg(definitions))?;
        Ok(())
    })
}

/// Makes the node's cgroup in every hierarchy: the kubelet wants it to be there.
fn make_cgroups(node: &Node) -> Result<()> {
    let base = Path::new("/sys/fs/cgroup");
    let name = node.cgroup.trim_start_matches('/');
    if base.join("cgroup.controllers").is_file() {
        return make_unified_cgroup(base, name);
    }
    for hierarchy in fs::read_dir(base)?.flatten().map(|entry| entry.path()) {
        // Links such as `cpu` to `cpu,cpuacct` lead to the same.
        if !hierarchy.is_dir() || hierarchy.is_symlink() || hierarchy.join("cgroup.controllers").is_file() {
            continue;
        }
        let cgroup = hierarchy.join(name);
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        inherit_cpus(&hierarchy, name)?;
    }
    Ok(())
}

/// A new cpuset of the first version holds no processor and no memory, and nothing can enter it.
fn inherit_cpus(hierarchy: &Path, name: &str) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(value) = fs::read_to_string(hierarchy.join(file)) else { continue };
        let mut at = hierarchy.to_owned();
        for part in name.split('/') {
            at.push(part);
            fs::write(at.join(file), value.trim()).with_context(|| at.join(file).display().to_string())?;
        }
    }
    Ok(())
}

/// In the second version each level hands its controllers down.
fn make_unified_cgroup(base: &Path, name: &str) -> Result<()> {
    let mut at = base.to_owned();
    for part in name.split('/') {
        for controller in fs::read_to_string(at.join("cgroup.controllers"))?.split_whitespace() {
            // One that cannot be handed down is missed where it is needed.
            let _missed = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        at.push(part);
        fs::create_dir_all(&at)?;
    }
    Ok(())
}

/// Starts the first process of a node in namespaces of its own; gives the one outside that holds them.
fn hold(place: &Place, node: &Node, plan: &Path) -> Result<u32> {
    let log = File::create(node.path("logs/supervisor.log"))?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    unshare.arg(std::env::current_exe()?).args(["cluster", "supervise"]).arg(plan).env(MARK, place.mark());
    // Nothing of the shell's reaches it: the cluster outlives this command.
    unshare.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).current_dir("/");
    for name in ["KUBECONFIG", "CONTAINERD_ADDRESS"] {
        unshare.env_remove(name);
    }
    let holder = unshare.spawn().context("unshare (util-linux) could not be started")?.id();
    let own = fs::read_link("/proc/self/ns/net")?;
    wait_until(PATIENCE, || {
        fs::read_link(format!("/proc/{holder}/ns/net")).ok().filter(|space| *space != own).map(drop)
    })
    .context("unshare made no network namespace")?;
    Ok(holder)
}

/// Plugs the host's cable into the first node, and one of its own into each further node.
fn connect(place: &Place, nodes: &[Node], holders: &[u32]) -> Result<()> {
    let first = *holders.first().context("a cluster has a node")?;
    let (cable, plug) = (place.cable(), plug(place));
    output(Command::new("ip").args(["link", "set", &plug, "netns", &first.to_string(), "name", plan::CABLE]))?;
    output(Command::new("ip").args(["link", "set", &cable, "up"]))?;
    until(place, "the first node has its bridge", || output(&mut inside(first, "ip", &["link", "show", "lan"])).ok())?;
    for (node, holder) in nodes.iter().zip(holders).skip(1) {
        let (cable, holder) = (format!("to-{}", node.name), holder.to_string());
        let add = ["link", "add", &cable, "type", "veth", "peer", "name", plan::CABLE, "netns", &holder];
        // Only its network: the number of a process means something outside alone.
        output(Command::new("nsenter").args(["--target", &first.to_string(), "--net", "ip"]).args(add))?;
        output(&mut inside(first, "ip", &["link", "set", &cable, "master", "lan", "up"]))?;
    }
    Ok(())
}

/// Imports the archives on a node.
fn load(place: &Place, node: &Node, holder: u32, images: &[PathBuf]) -> Result<()> {
    let ctr = |arguments: &[&str]| output(&mut inside(holder, "ctr", &[&["-n", "k8s.io"], arguments].concat()));
    until(place, &format!("containerd of {} answers", node.name), || ctr(&["version"]).ok())?;
    for image in images {
        ctr(&["images", "import", &image.to_string_lossy()])?;
    }
    Ok(())
}

/// `Some` when all nodes are ready.
pub fn nodes_ready(place: &Place, record: &Record) -> Option<()> {
    let nodes = json(place, &["get", "nodes"]).ok()?;
    let ready = |node: &serde_json::Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let count = nodes["items"].as_array()?.iter().filter(|node| ready(node)).count();
    (count == usize::from(record.nodes)).then_some(())
}

/// Waits for what is to come about; ends early where a component has ended, which then is the fault.
fn until<T>(place: &Place, what: &str, mut check: impl FnMut() -> Option<T>) -> Result<()> {
    let met = wait_until(PATIENCE, || match check() {
        Some(_) => Some(Ok(())),
        None => ended(place).map(Err),
    });
    match met {
        Some(Ok(())) => Ok(()),
        Some(Err(fault)) => bail!("waiting until {what}: {fault}"),
        None => bail!("waited {} s in vain until {what}", PATIENCE.as_secs()),
    }
}

/// What the supervisors say of components that have ended, with the last lines of the first one's log.
fn ended(place: &Place) -> Option<String> {
    let record = place.record()?;
    place.nodes(&record).iter().find_map(|node| {
        let told = fs::read_to_string(node.path("logs/supervisor.log")).ok()?;
        if let Some(line) = told.lines().find(|line| line.contains(" has ended: ")) {
            let name = line.split_whitespace().next().unwrap_or_default();
            return Some(format!("{line}\n{}", tail(&node.path(&format!("logs/{name}.log")))));
        }
        let gone = tools::holder(place, node.number).is_none();
        (gone || told.contains("error: ")).then(|| format!("{} has ended: {told}", node.name))
    })
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}
