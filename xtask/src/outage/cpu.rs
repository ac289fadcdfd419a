//! Who took the CPU during a stretch of the load. Jaeger shares it with what is measured, and so does whatever else runs
//! on the machine: the reader has to know of both.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::bench::measure::ticks;

/// Shares of one CPU, from 0 to the number of CPUs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Shares {
    pub(super) agent: f64,
    pub(super) jaeger: f64,
    pub(super) upstream: f64,
    pub(super) generator: f64,
    /// Everything else, and what the hypervisor took; without interrupts.
    pub(super) others: f64,
}

/// The processes whose shares are told apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processes {
    pub(super) agent: u32,
    /// Absent while it is ended.
    pub(super) jaeger: Option<u32>,
    pub(super) upstream: u32,
}

/// A reading at a stretch's begin.
pub(super) struct Meter {
    processes: Processes,
    begin: Reading,
}

impl Meter {
    pub(super) fn start(processes: Processes) -> Result<Self> {
        Ok(Self { processes, begin: Reading::take(processes)? })
    }

    /// The shares since then.
    pub(super) fn shares(&self, span: Duration) -> Result<Shares> {
        let end = Reading::take(self.processes)?;
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = |of: fn(&Reading) -> u64| {
            // USER_HZ is 100 on every Linux that exposes these files.
            of(&end).saturating_sub(of(&self.begin)) as f64 / 100.0 / span.as_secs_f64()
        };
        let ours = share(|reading| reading.agent + reading.jaeger + reading.upstream + reading.generator);
        Ok(Shares {
            agent: share(|reading| reading.agent),
            jaeger: share(|reading| reading.jaeger),
            upstream: share(|reading| reading.upstream),
            generator: share(|reading| reading.generator),
            others: (share(|reading| reading.machine) - ours).max(0.0),
        })
    }
}

/// CPU taken so far, in hundredths of a second.
struct Reading {
    agent: u64,
    jaeger: u64,
    upstream: u64,
    generator: u64,
    machine: u64,
}

impl Reading {
    fn take(of: Processes) -> Result<Self> {
        Ok(Self {
            agent: ticks(&[of.agent])?,
            jaeger: ticks(of.jaeger.as_slice())?,
            upstream: ticks(&[of.upstream])?,
            generator: ticks(&[std::process::id()])?,
            machine: machine(&std::fs::read_to_string("/proc/stat")?),
        })
    }
}

/// user, nice, system and steal of all CPUs (proc(5)).
fn machine(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).enumerate();
    fields.filter(|(index, _)| matches!(index, 0 | 1 | 2 | 7)).filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_and_the_hypervisor_took_is_added_up() {
        assert_eq!(machine("cpu  1 20 300 9 9 9 9 4000 1 1\ncpu0 5 5 5 5 5 5 5 5 5 5\n"), 4321);
    }

    #[test]
    fn what_this_process_does_is_its_own_and_not_the_others() {
        let own = std::process::id();
        let meter = Meter::start(Processes { agent: own, jaeger: None, upstream: own }).unwrap();
        let before = meter.begin.agent;
        while ticks(&[own]).unwrap() < before + 20 {
            std::hint::spin_loop();
        }
        let shares = meter.shares(Duration::from_secs(1)).unwrap();
        assert!(shares.agent >= 0.2 && shares.generator >= 0.2, "{shares:?}");
        assert_eq!(shares.jaeger, 0.0);
    }
}
