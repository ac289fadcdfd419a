//! The kernel's side of a request: loads the eBPF programs, and lets the proxy read what they saw.
//!
//! The only place in the agent that knows aya and `unsafe`. Running without is lawful: every reason has a name and a
//! remedy. Joining marks with records belongs to `merge`.

mod btf;
pub mod cost;
pub mod doctor;
mod load;
mod log;
pub mod memory;
mod plan;
mod rights;
mod slots;
mod watch;

use std::time::Duration;

use aya::Ebpf;
use wayspan_proxy::observer::{Missing, Off};

pub use self::log::ProbeLog;
pub use self::plan::{Probe, Reason, Row};
pub use self::watch::{Counters, Observer, Watch};
use crate::config::model;

/// How long a slot rests before it is used again: longer than late facts of a closed connection are waited for.
const REST: Duration = Duration::from_secs(2);

/// The probes of this process. They are in the kernel as long as this lives.
pub struct Probes {
    probes: Vec<Probe>,
    watch: Option<Watch>,
    log: Option<ProbeLog>,
    /// Holds the programs and their links; dropped last, they are detached.
    ebpf: Option<Ebpf>,
}

impl Probes {
    /// Loads and attaches what can be; never fails, `reason` tells.
    #[must_use]
    pub fn load(config: &model::Probes) -> Self {
        Self::load_resting(config, REST)
    }

    /// The same with another rest for freed slots.
    #[must_use]
    pub fn load_resting(config: &model::Probes, rest: Duration) -> Self {
        if !config.enabled {
            return Self::off(load::all_off(&Reason::Configured));
        }
        let slots = config.slots.max(1);
        let (probes, ebpf) = load::load(slots, rest);
        // aya's loader has parsed the kernel's types, some 40 MB, whether it is asked to or not. Where a worker gives memory
        // back at this moment it will do so again.
        let _ = memory::give_back();
        let Some(mut ebpf) = ebpf else { return Self::off(probes) };
        let has_marks = probes.iter().all(|probe| probe.off.is_none());
        let refused = |error: &(dyn std::error::Error + 'static)| load::all_off(&Reason::Refused(load::chain(error)));
        let watch = match Watch::new(&mut ebpf, slots, rest, has_marks) {
            Ok(watch) => watch,
            Err(error) => return Self::off(refused(&error)),
        };
        let log = match ProbeLog::new(&mut ebpf) {
            Ok(log) => log,
            Err(error) => return Self::off(refused(&error)),
        };
        Self { probes, watch: Some(watch), log: Some(log), ebpf: Some(ebpf) }
    }

    fn off(probes: Vec<Probe>) -> Self {
        Self { probes, watch: None, log: None, ebpf: None }
    }

    /// Each probe: on, or off and why.
    #[must_use]
    pub fn states(&self) -> &[Probe] {
        &self.probes
    }

    /// Why nothing at all is observed; `None` where something is.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        if self.watch.is_some() {
            return None;
        }
        let is_cause = |reason: &&Reason| !matches!(reason, Reason::Needs(_));
        self.probes.iter().filter_map(|probe| probe.off.as_ref()).find(is_cause)
    }

    /// What the proxy's workers ask.
    #[must_use]
    pub fn observer(&self) -> Observer {
        match (&self.watch, self.reason()) {
            (Some(watch), _) => Observer::Watch(watch.clone()),
            (None, Some(Reason::Configured)) => Observer::Off(Off(Missing::OFF)),
            (None, _) => Observer::Off(Off(Missing::UNAVAILABLE)),
        }
    }

    /// For the page of metrics; zeros where the probes are off.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.watch.as_ref().map(Watch::counters).unwrap_or_default()
    }

    /// The programs' own messages, once.
    pub fn take_log(&mut self) -> Option<ProbeLog> {
        self.log.take()
    }
}
