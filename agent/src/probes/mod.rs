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
mod reader;
mod rights;
mod skips;
mod slots;
mod tcp_info;
mod timestamps;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, Off};

use self::load::Programs;

pub use self::log::ProbeLog;
pub use self::plan::{Probe, Reason, Row, Set};
#[cfg(test)]
pub(crate) use self::reader::{no_slot, token_of};
#[cfg(test)]
pub(crate) use self::slots::{Kernel, Written};
pub use self::tcp_info::TcpInfo;
pub use self::watch::{Counters, Events, Observer, Watch};
use crate::config::model;

/// How long a slot rests before it is used again: longer than late facts of a closed connection are waited for.
const REST: Duration = Duration::from_secs(2);

/// The probes of this process. They are in the kernel as long as this lives.
pub struct Probes {
    /// Dropped first: its programs are detached while their maps are still there.
    loaded: Result<Loaded, Unloaded>,
    log: Option<ProbeLog>,
    config: model::Probes,
}

struct Loaded {
    /// Locked while a set is switched or its state is read, never by a worker.
    programs: Mutex<Programs>,
    watch: Watch,
    /// What is said of connections where the core cannot run: as without any probes.
    without_core: Missing,
}

/// Why nothing is in the kernel.
struct Unloaded {
    reason: Reason,
    states: Vec<Probe>,
}

impl From<Reason> for Unloaded {
    fn from(reason: Reason) -> Self {
        Self { states: load::all_off(&reason), reason }
    }
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
        Self::load_without(config, rest, &[])
    }

    /// The same as on a kernel that has not got what these programs need.
    #[must_use]
    pub fn load_without(config: &model::Probes, rest: Duration, absent: &[&str]) -> Self {
        let loaded = match config.enabled {
            true => Loaded::start(config, rest, absent),
            false => Err(Reason::Configured.into()),
        };
        let config = config.clone();
        match loaded {
            Ok((loaded, log)) => Self { loaded: Ok(loaded), log: Some(log), config },
            Err(unloaded) => Self { loaded: Err(unloaded), log: None, config },
        }
    }

    /// Attaches a set, or detaches it. What lived through a gap is not believed: its requests say that they joined late.
    pub fn switch(&self, set: Set, on: bool) {
        if let Ok(loaded) = &self.loaded {
            loaded.switch(set, on, MonoNs::now);
            let mut programs = loaded.programs();
            if set == Set::Core && programs.lacks_of_core().is_some() {
                // As at the start: none of them stays for nothing.
                programs.switch(set, false);
            }
        }
    }

    /// Detaches all sets, or attaches those that the configuration names and no other, whatever was switched since.
    pub fn switch_all(&self, on: bool) {
        for set in Set::ALL {
            self.switch(set, on && self.configures(set));
        }
    }

    /// Attaches what makes up for the runs that the kernel leaves out once it has left out one. Never returns.
    pub async fn make_up_where_needed(&self) {
        match &self.loaded {
            Ok(loaded) => loop {
                loaded.watch.left_out().await;
                self.make_up();
            },
            Err(_) => std::future::pending().await,
        }
    }

    /// Attaches what makes up for the runs that the kernel leaves out.
    pub fn make_up(&self) {
        if let Ok(loaded) = &self.loaded {
            let mut programs = loaded.programs();
            programs.make_up();
            let is_made_up_for = programs.is_made_up_for(skips::MADE_UP_FOR);
            loaded.watch.make_up(is_made_up_for);
            tracing::info!(target: "wayspan::probes", probe = skips::MADE_UP_FOR, is_made_up_for, "the kernel leaves out runs");
        }
    }

    /// Whether the configuration names a set.
    #[must_use]
    pub fn configures(&self, set: Set) -> bool {
        self.config.has(set)
    }

    /// Each probe: on, or off and why.
    #[must_use]
    pub fn states(&self) -> Vec<Probe> {
        match &self.loaded {
            Ok(loaded) => loaded.programs().states(),
            Err(unloaded) => unloaded.states.clone(),
        }
    }

    /// Why nothing at all is observed; `None` where something is.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        self.loaded.as_ref().err().map(|unloaded| &unloaded.reason)
    }

    /// What the proxy's workers ask.
    #[must_use]
    pub fn observer(&self) -> Observer {
        match &self.loaded {
            Ok(loaded) => Observer::Watch(loaded.watch.clone()),
            Err(Unloaded { reason: Reason::Configured, .. }) => Observer::Off(Off(Missing::OFF)),
            Err(_) => TcpInfo::new(Missing::UNAVAILABLE, self.config.timestamps)
                .map_or(Observer::Off(Off(Missing::UNAVAILABLE)), Observer::TcpInfo),
        }
    }

    /// For the page of metrics; zeros where the probes are off.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.loaded.as_ref().map(|loaded| loaded.watch.counters()).unwrap_or_default()
    }

    /// How often the kernel has left out a run of each program, where it tells: by the program's name.
    #[must_use]
    pub fn skipped(&self) -> Vec<(&'static str, u64)> {
        self.loaded.as_ref().map(|loaded| loaded.watch.skipped_by_program()).unwrap_or_default()
    }

    /// The programs' own messages, once.
    pub fn take_log(&mut self) -> Option<ProbeLog> {
        self.log.take()
    }
}

impl Loaded {
    /// Loads the programs and attaches the sets that are wanted. Where the core would tell nothing, none stays in the kernel:
    /// whoever asks the sockets themselves then knows more.
    fn start(config: &model::Probes, rest: Duration, absent: &[&str]) -> Result<(Self, ProbeLog), Unloaded> {
        let slots = config.slots.max(1);
        let refused = |error: &(dyn std::error::Error + 'static)| Reason::Refused(load::chain(error));
        let programs = load::load(slots, rest, absent);
        // aya's loader has parsed the kernel's types, some 40 MB, whether it is asked to or not. Where a worker gives
        // memory back at this moment it will do so again.
        let _ = memory::give_back();
        let mut programs = programs?;
        let skips = programs.skips();
        let watch =
            Watch::new(programs.ebpf(), skips, (slots, rest), config.timestamps).map_err(|error| refused(&error))?;
        let log = ProbeLog::new(programs.ebpf()).map_err(|error| refused(&error))?;
        let without_core = tcp_info::degree(Missing::UNAVAILABLE, config.timestamps);
        let loaded = Self { programs: Mutex::new(programs), watch, without_core };
        for set in Set::ALL {
            // There was no connection before.
            loaded.switch(set, config.has(set), || MonoNs(0));
        }
        let lacking = loaded.programs().lacks_of_core();
        match lacking {
            Some(lacking) => Err(loaded.give_up(lacking)),
            None => Ok((loaded, log)),
        }
    }

    /// Takes the programs out of the kernel, for this one is not attached.
    fn give_up(self, lacking: &'static str) -> Unloaded {
        let mut states = self.programs().states();
        let own = states.iter().find(|probe| probe.row.tracepoint == lacking).and_then(|probe| probe.off.clone());
        for probe in &mut states {
            probe.off.get_or_insert(Reason::Useless(lacking));
        }
        Unloaded { reason: own.unwrap_or(Reason::Useless(lacking)), states }
    }

    fn programs(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn switch(&self, set: Set, on: bool, now: impl FnOnce() -> MonoNs) {
        let mut programs = self.programs();
        programs.switch(set, on);
        // Until all are attached a connection may have a slot, but no marks.
        let since = now();
        let runs = |tracepoint| programs.is_attached(tracepoint);
        let attached = match set {
            Set::Core => programs.lacks_of_core().is_none(),
            Set::Backends => runs("tcp_rcv_space_adjust") && (runs("tcp_sendmsg_locked") || runs("sock_send_length")),
            Set::Ack => runs("tcp_probe"),
        };
        if set == Set::Core {
            self.watch.make_up(programs.is_made_up_for(skips::MADE_UP_FOR));
        }
        if set == Set::Backends {
            self.watch.reader().notes_writes_late(!programs.notes_writes_first());
        }
        let missing = match (on, attached) {
            (false, _) => Missing::OFF,
            (true, false) => self.without_core,
            (true, true) => Missing::NOTHING,
        };
        self.watch.switched(set, attached.then_some(since), missing);
    }
}
