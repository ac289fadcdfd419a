//! Says what this kernel and these rights give: each probe on, or off and why, and what to do about it.
//! Printing it belongs to `wayspan doctor`.

use std::fmt;
use std::fs;

use serde::Serialize;

use super::load::{self, BTF_PATH};
use super::plan::Reason;
use super::rights::{self, LOW_PORTS, NEEDED, Rights};
use super::{Probe, Probes, timestamps};
use crate::config::model;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// As `uname -r`.
    pub kernel: String,
    /// Whether the kernel shows its types.
    pub has_btf: bool,
    /// Whether this binary holds the programs.
    pub is_built: bool,
    /// Whether the kernel stamps what a socket receives, which `probes.timestamps` makes use of where no probe can run.
    pub has_timestamps: bool,
    /// The capabilities that loading needs, and the one for ports.
    pub capabilities: Vec<Capability>,
    /// The probes, in order of a connection's life.
    pub probes: Vec<State>,
}

/// One capability.
#[derive(Debug, Clone, Serialize)]
pub struct Capability {
    /// As in capabilities(7).
    pub name: &'static str,
    /// Whether the process has it.
    pub held: bool,
    /// What it is for.
    pub gives: &'static str,
    /// What comes of it that it is not there; nothing where that is the same.
    pub without: Option<String>,
}

impl Capability {
    /// One that the probes need.
    fn of_probes(needed: rights::Capability, rights: Rights) -> Self {
        let held = rights.has(needed);
        let without = "no probes: spans say `none: probes unavailable, tcp_info`, and `probes.required` does not start";
        Self { name: needed.name, held, gives: "probes", without: (!held).then(|| without.to_owned()) }
    }

    /// The one for ports, where those below this one need it.
    fn of_ports(rights: Rights, first_free: u16) -> Self {
        let (held, gives) = (rights.has(LOW_PORTS), "ports below 1024");
        let without = (!held && first_free > 0).then(|| {
            format!(
                "ports below {first_free} (net.ipv4.ip_unprivileged_port_start) are refused: an entry point there does not start, \
                 a Gateway's listener is PortUnavailable"
            )
        });
        Self { name: LOW_PORTS.name, held, gives, without }
    }
}

/// One probe.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Its tracepoint.
    pub tracepoint: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// The kernel that first had the tracepoint.
    pub since: &'static str,
    /// Loaded and attached just now.
    pub on: bool,
    /// Off, although it was wanted and nothing else does its work.
    pub lacking: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// The same in words.
    pub why: Option<String>,
    /// What to do.
    pub remedy: Option<&'static str>,
}

impl Report {
    /// Whether every probe is on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.probes.iter().all(|probe| !probe.lacking)
    }
}

impl From<&Probe> for State {
    fn from(probe: &Probe) -> Self {
        Self {
            tracepoint: probe.row.tracepoint,
            tells: probe.row.tells,
            since: probe.row.since,
            on: probe.off.is_none(),
            lacking: probe.is_lacking(),
            why: probe.off.as_ref().map(ToString::to_string),
            remedy: probe.off.as_ref().map(Reason::remedy),
            reason: probe.off.clone(),
        }
    }
}

/// Loads and attaches the probes for a moment, with one slot, and says what came of it.
#[must_use]
pub fn report(config: &model::Probes) -> Report {
    let probes = Probes::load(&model::Probes { slots: 1, ..config.clone() });
    let rights = Rights::read();
    Report {
        kernel: rights::kernel_release(),
        has_btf: fs::metadata(BTF_PATH).is_ok(),
        is_built: load::is_built(),
        has_timestamps: timestamps::begin().is_some(),
        capabilities: capabilities(rights, rights::unprivileged_ports()),
        probes: probes.states().iter().map(State::from).collect(),
    }
}

fn capabilities(rights: Rights, first_free: u16) -> Vec<Capability> {
    let of_probes = NEEDED.map(|needed| Capability::of_probes(needed, rights));
    of_probes.into_iter().chain([Capability::of_ports(rights, first_free)]).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |value: bool| if value { "yes" } else { "no" };
        let names = self.probes.iter().map(|probe| probe.tracepoint);
        let names = names
            .chain(self.capabilities.iter().map(|capability| capability.name))
            .chain(["built with probes", "receive timestamps"]);
        let width = names.map(str::len).max().unwrap_or(0) + 2;
        writeln!(f, "{:<width$}{}", "kernel", self.kernel)?;
        writeln!(f, "{:<width$}{}", "BTF", yes(self.has_btf))?;
        writeln!(f, "{:<width$}{}", "built with probes", yes(self.is_built))?;
        writeln!(f, "{:<width$}{}", "receive timestamps", yes(self.has_timestamps))?;
        for capability in &self.capabilities {
            writeln!(f, "{:<width$}{:<5}{}", capability.name, yes(capability.held), capability.gives)?;
            match &capability.without {
                Some(without) => writeln!(f, "{:<width$}     {without}", "")?,
                None if !capability.held => writeln!(f, "{:<width$}     not needed here", "")?,
                None => {}
            }
        }
        for probe in &self.probes {
            let state = if probe.on { "on" } else { "off" };
            writeln!(f, "{:<width$}{state:<5}{} (since {})", probe.tracepoint, probe.tells, probe.since)?;
            if let (Some(why), Some(remedy)) = (&probe.why, probe.remedy) {
                writeln!(f, "{:<width$}     {why}: {remedy}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_that_are_switched_off_say_so_and_how_to_switch_them_on() {
        let report = report(&model::Probes { enabled: false, ..model::Probes::default() });
        assert!(!report.is_whole());
        let text = report.to_string();
        for probe in &report.probes {
            assert_eq!(probe.reason, Some(Reason::Configured));
            assert!(text.lines().any(|line| line.split(' ').next() == Some(probe.tracepoint)), "{text}");
        }
        assert!(text.contains("switched off by the configuration: remove `probes: off`"), "{text}");
        // They need no right.
        let says_so = |line: &str| line.starts_with("receive timestamps ") && line.ends_with(" yes");
        assert!(report.has_timestamps && text.lines().any(says_so), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["probes"][0]["reason"]["kind"], "configured", "{json}");
    }

    #[test]
    fn what_a_lacking_capability_means_is_said_and_where_it_means_nothing() {
        let told = |effective: &str, first_free: u16| {
            let rights = Rights::parse(&format!("CapEff:\t{effective}\n")).unwrap();
            let of = capabilities(rights, first_free).into_iter();
            of.map(|one| (one.name, one.held, one.without.unwrap_or_default())).collect::<Vec<_>>()
        };
        let [bpf, perfmon, ports] = &told("0000008000000000", 1024)[..] else { panic!("three") };
        assert_eq!(*bpf, ("CAP_BPF", true, String::new()));
        assert!(!perfmon.1 && perfmon.2.contains("none: probes unavailable, tcp_info"), "{perfmon:?}");
        assert!(!ports.1 && ports.2.starts_with("ports below 1024 "), "{ports:?}");
        assert_eq!(told("0000000000000400", 1024)[2], ("CAP_NET_BIND_SERVICE", true, String::new()));
        assert_eq!(told("0000000000000000", 0)[2], ("CAP_NET_BIND_SERVICE", false, String::new()));
        assert!(told("0000000000000000", 80)[2].2.starts_with("ports below 80 "));
    }
}
