//! Network namespaces without names: file descriptors keep them, so that the kernel removes them with this process,
//! however it ends. Also what makes an injector's thread run when it wants to.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};

/// A network namespace.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
}

impl Space {
    /// A new one, with its loopback up.
    pub(super) fn new() -> Result<Self> {
        // Unsharing this thread would be unsafe: a child does it, and we keep what it made.
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (util-linux) could not be started")?;
        let opened = (|| {
            let (mut input, output) = child.stdin.take().zip(child.stdout.take()).context("no pipes")?;
            input.write_all(b"\n")?;
            // What it echoes, it echoes in its own namespace.
            let mut line = String::new();
            if BufReader::new(output).read_line(&mut line)? == 0 {
                bail!("a network namespace could not be made; root is needed");
            }
            File::open(format!("/proc/{}/ns/net", child.id())).context("the namespace of a child")
        })();
        child.wait()?;
        let space = Self { file: opened? };
        space.ip(&["link", "set", "lo", "up"])?;
        Ok(space)
    }

    /// A path by which other programs can open it while this process lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread, and with it those that it will start, into the namespace.
    pub(super) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("a network namespace could not be entered; root is needed")
    }

    /// Does `work` on a thread in the namespace.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs iproute2's `ip` in the namespace.
    pub(super) fn ip(&self, arguments: &[&str]) -> Result<()> {
        self.within(|| {
            let output = Command::new("ip").args(arguments).output().context("ip (iproute2) could not be started")?;
            if !output.status.success() {
                bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(())
        })
    }

    /// Sets one of the namespace's own kernel parameters.
    pub(super) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.within(|| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            std::fs::write(&path, value).with_context(|| path.clone())
        })
    }
}

/// How urgent a thread of the injectors is: above everything else on the machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Urgency {
    /// What takes a core away from the agent.
    Hog = 10,
    /// What sends and answers: its own lateness would look like the agent's error.
    Injector = 20,
    /// What relays: it stamps packets for others, and is seldom long at work.
    Relay = 30,
    /// What looks whether the machine runs at all.
    Watch = 40,
}

/// Makes the calling thread, and those that it will start, as urgent as that; says whether the system allowed it.
pub(super) fn urgent(urgency: Urgency) -> bool {
    scheduled("-f", &(urgency as u8).to_string())
}

/// Makes the calling thread an ordinary one again: threads inherit urgency from those that start them.
pub(super) fn ordinary() -> bool {
    scheduled("-o", "0")
}

/// Lets the calling thread run only where nobody else wants to.
pub(super) fn idle() -> bool {
    scheduled("-i", "0")
}

fn scheduled(policy: &str, priority: &str) -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    let chrt = Command::new("chrt").args([policy, "-p", priority, &thread]).stderr(Stdio::null()).status();
    chrt.is_ok_and(|status| status.success())
}
