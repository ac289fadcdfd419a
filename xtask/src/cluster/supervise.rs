//! The first process of a node's namespaces: makes the mounts and the network that the node needs, starts its components
//! when what they wait for is there, and reaps whatever ends. When it is killed, the kernel ends everything in the node, its
//! containers too, and its mounts, interfaces and packet filter rules go with the namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{WaitOptions, wait};
use serde::{Deserialize, Serialize};
use wayspan_tests::wait_until;

// The control plane's slowest part on two busy cores.
const PATIENCE: Duration = Duration::from_secs(180);

// A connection to this machine either is there or is not.
const DIAL: Duration = Duration::from_millis(500);

/// What a node does, written by `up`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Commands that prepare the node, in order: program and arguments.
    pub prepare: Vec<Vec<String>>,
    /// Commands that follow when [`Self::cable`] is plugged in.
    pub connect: Vec<Vec<String>>,
    /// The interface that `up` plugs in from outside.
    pub cable: String,
    /// What then runs.
    pub components: Vec<Component>,
    /// Where logs go.
    pub logs: PathBuf,
}

/// A process that a node consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Component {
    /// Also its log's name.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Further environment.
    pub environment: BTreeMap<String, String>,
    /// It starts when somebody listens there.
    pub after: Option<SocketAddr>,
    /// It starts when this file is there.
    pub after_file: Option<PathBuf>,
}

/// Runs the plan at `path`; returns only with an error.
///
/// # Errors
/// The node could not be prepared.
pub fn run(path: &Path) -> Result<()> {
    let plan: Plan = serde_json::from_slice(&fs::read(path).with_context(|| path.display().to_string())?)?;
    for command in &plan.prepare {
        carry_out(command)?;
    }
    let cable = PathBuf::from("/proc/sys/net/ipv4/conf").join(&plan.cable);
    wait_until(PATIENCE, || cable.exists().then_some(()))
        .context("the cable to the nodes' network was not plugged in")?;
    for command in &plan.connect {
        carry_out(command)?;
    }
    let running = Arc::new(Mutex::new(BTreeMap::new()));
    for component in plan.components {
        let (running, logs) = (Arc::clone(&running), plan.logs.clone());
        std::thread::spawn(move || {
            if let Err(error) = start(&component, &logs, &running) {
                eprintln!("{}: {error:#}", component.name);
            }
        });
    }
    reap(&running)
}

type Running = Mutex<BTreeMap<i32, String>>;

/// Waits for what the component waits for, then starts it. Whoever reaps learns of it first: both hold the lock.
fn start(component: &Component, logs: &Path, running: &Running) -> Result<()> {
    let ready = || {
        let listens = |address| TcpStream::connect_timeout(&address, DIAL).is_ok();
        (component.after.is_none_or(listens) && component.after_file.as_ref().is_none_or(|file| file.exists()))
            .then_some(())
    };
    if wait_until(PATIENCE, ready).is_none() {
        bail!("did not start: waited in vain for {:?} {:?}", component.after, component.after_file);
    }
    let log = File::create(logs.join(format!("{}.log", component.name)))?;
    let mut command = command(&component.command)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).envs(&component.environment);
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    // Not waited for here: the first process of a namespace reaps all, see below.
    let child = command.spawn().with_context(|| component.command.join(" "))?;
    running.insert(i32::try_from(child.id())?, component.name.clone());
    println!("{} is process {} of the node", component.name, child.id());
    Ok(())
}

/// Reaps for ever: components, and what containers leave behind. A component that ended is told of and not restarted, so
/// that its fault shows.
fn reap(running: &Running) -> Result<()> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let ended = running.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw_nonzero().get());
                if let Some(name) = ended {
                    println!("{name} has ended: {status:?}");
                }
            }
            // Nothing runs yet, or no longer.
            Ok(None) | Err(rustix::io::Errno::CHILD) => std::thread::sleep(Duration::from_millis(100)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("wait: {error}"),
        }
    }
}

fn carry_out(words: &[String]) -> Result<()> {
    let output = command(words)?.output().with_context(|| words.join(" "))?;
    if !output.status.success() {
        bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn command(words: &[String]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}
