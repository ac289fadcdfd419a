//! What is done to the machine: a core taken away, a core crowded, and what the kernel says of the agent's waiting.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::ledger::now_ns;
use super::space::{Urgency, idle, ordinary, urgent};

/// The last core that this process may use: the pinned agent's. Asked first by the main thread, which may use all.
pub(super) fn last_core() -> Result<usize> {
    static LAST: OnceLock<usize> = OnceLock::new();
    if let Some(last) = LAST.get() {
        return Ok(*last);
    }
    let allowed = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rfind(|core| allowed.is_set(*core)).context("no core")?;
    Ok(*LAST.get_or_init(|| last))
}

/// Keeps the calling thread on the last core.
pub(super) fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(last_core()?);
    Ok(sched_setaffinity(None, &set)?)
}

/// Leaves the last core to others, where there are any.
pub(super) fn avoid_last_core() -> Result<()> {
    let mut allowed = sched_getaffinity(None)?;
    allowed.unset(last_core()?);
    if allowed.count() > 0 {
        sched_setaffinity(None, &allowed)?;
    }
    Ok(())
}

/// Something more urgent than the agent on its core. It waits for its moments: to make one takes milliseconds, and a thread that
/// ends keeps the core for a while after whoever joins it has gone on.
pub(super) struct Hog {
    go: SyncSender<Duration>,
    times: Receiver<u64>,
}

impl Hog {
    /// One that waits, until its owner has gone.
    pub(super) fn poised() -> Result<Self> {
        let (go, goes) = sync_channel::<Duration>(1);
        let ((told, ready), (tells, times)) = (sync_channel(1), sync_channel(1));
        std::thread::spawn(move || {
            let _asker_gone = told.send(pin().is_ok() && urgent(Urgency::Hog));
            while let Ok(delay) = goes.recv() {
                let from_ns = now_ns();
                let _asker_gone = tells.send(from_ns);
                spin(delay);
                let _asker_gone = tells.send(now_ns());
            }
        });
        if !ready.recv()? {
            bail!("a thread of real-time priority is not allowed");
        }
        Ok(Self { go, times })
    }

    /// Takes the core for that long; returns when it has it, and says since when.
    pub(super) fn take(&self, delay: Duration) -> Result<u64> {
        self.go.send(delay)?;
        Ok(self.times.recv()?)
    }

    /// Waits for the end of that: when that was, and when it was gone at the latest.
    pub(super) fn end(&self) -> Result<(u64, u64)> {
        Ok((self.times.recv()?, now_ns()))
    }
}

/// Keeps the calling thread's core busy for that long.
pub(super) fn spin(delay: Duration) {
    let until_ns = now_ns() + u64::try_from(delay.as_nanos()).unwrap_or(0);
    while now_ns() < until_ns {
        std::hint::spin_loop();
    }
}

/// Many that compete for the agent's core, with more weight than the agent: else it would be let in at once. Goes with its owner.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Ten times the weight of an ordinary thread.
const CROWD_NICE: i32 = -10;

impl Crowd {
    /// So many; returns when all are there.
    pub(super) fn start(number: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, begins) = sync_channel(number);
        let threads = (0..number).map(|_| {
            let (stop, begun) = (Arc::clone(&stop), begun.clone());
            std::thread::spawn(move || {
                let ready = pin().is_ok() && ordinary() && setpriority_process(Some(gettid()), CROWD_NICE).is_ok();
                let _asker_gone = begun.send(ready);
                while ready && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        let crowd = Self { threads: threads.collect(), stop };
        for _ in 0..number {
            if !begins.recv()? {
                bail!("a crowd could not be made");
            }
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _joined = thread.join();
        }
    }
}

/// A thread on each core that this process may use, until it goes.
pub(super) struct OnEachCore {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl OnEachCore {
    /// Those that `ready` lets do their work, which ends when it is told to stop.
    pub(super) fn start(ready: fn() -> bool, work: impl Fn(&AtomicBool) + Send + Sync + 'static) -> Result<Self> {
        let (stop, work) = (Arc::new(AtomicBool::new(false)), Arc::new(work));
        let allowed = sched_getaffinity(None)?;
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let threads = cores.map(|core| {
            let (stop, work) = (Arc::clone(&stop), Arc::clone(&work));
            std::thread::spawn(move || {
                let mut set = CpuSet::new();
                set.set(core);
                if sched_setaffinity(None, &set).is_ok() && ready() {
                    work(&stop);
                }
            })
        });
        Ok(Self { threads: threads.collect(), stop })
    }
}

impl Drop for OnEachCore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _joined = thread.join();
        }
    }
}

/// Keeps all cores awake: an idle one of a virtual machine takes tens to hundreds of microseconds to come back, and all that wake
/// up on it look late. Below every other thread; what /dev/cpu_dma_latency does for cyclictest, and no virtual machine has.
pub(super) fn awake() -> Result<OnEachCore> {
    // Only where it is below all others: else it would be in their way.
    OnEachCore::start(idle, |stop| while !stop.load(Ordering::Relaxed) {})
}

/// The agent's workers, as the kernel sees them.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

/// Time of all workers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// On a core, whatever was done there.
    pub(super) ran_ns: u64,
    /// Ready, without a core.
    pub(super) queued_ns: u64,
    /// How often one of them got a core.
    pub(super) turns: u64,
}

impl Account {
    /// What came since then.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(before.ran_ns),
            queued_ns: self.queued_ns.saturating_sub(before.queued_ns),
            turns: self.turns.saturating_sub(before.turns),
        }
    }

    /// Not asleep.
    pub(super) fn busy_ns(self) -> u64 {
        self.ran_ns.saturating_add(self.queued_ns)
    }

    /// Of so long a time in which there was something to do: without a core, or on one that was serving interrupts or was not run
    /// by its host. Of the latter at least so much.
    pub(super) fn lost_ns(self, wanted_ns: u64) -> u64 {
        self.queued_ns + wanted_ns.saturating_sub(self.busy_ns())
    }
}

/// So long a thread may take to name itself.
const NAMED: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Worker {
    stat: File,
    schedstat: File,
}

impl Workers {
    /// Those of a process that has just started. A thread names itself when it first has a core, which may be after the process has
    /// said that it is up.
    pub(super) fn of(agent: u32) -> Result<Self> {
        let until_ns = now_ns() + u64::try_from(NAMED.as_nanos())?;
        loop {
            let workers = Self::named(agent)?;
            if !workers.0.is_empty() {
                return Ok(workers);
            }
            if now_ns() > until_ns {
                bail!("the agent has no thread called worker");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn named(agent: u32) -> Result<Self> {
        let mut workers = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{agent}/task"))?.flatten() {
            let path = task.path();
            if std::fs::read_to_string(path.join("comm")).unwrap_or_default().starts_with("worker") {
                workers.push(Worker {
                    stat: File::open(path.join("stat"))?,
                    schedstat: File::open(path.join("schedstat"))?,
                });
            }
        }
        Ok(Self(workers))
    }

    /// What they have used and waited for so far, by the kernel's account.
    pub(super) fn account(&self) -> Account {
        let mut sum = Account::default();
        for text in self.0.iter().filter_map(|worker| read(&worker.schedstat)) {
            // Nanoseconds on a core, nanoseconds ready and without one, turns on a core (Documentation/scheduler/sched-stats.rst).
            let mut fields = text.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
            sum.ran_ns += fields.next().unwrap_or(0);
            sum.queued_ns += fields.next().unwrap_or(0);
            sum.turns += fields.next().unwrap_or(0);
        }
        sum
    }

    /// Waits until all of them sleep: then nothing of a request is left to do or to account for.
    pub(super) fn settle(&self) -> Result<()> {
        let sleeps = |worker: &Worker| read(&worker.stat).is_some_and(|stat| state(&stat) == Some('S'));
        for _ in 0..SETTLE_TRIES {
            if self.0.iter().all(sleeps) {
                return Ok(());
            }
            std::thread::sleep(SETTLE_LOOK);
        }
        bail!("the agent's workers never sleep")
    }
}

/// Five seconds in all.
const SETTLE_TRIES: u32 = 25_000;
const SETTLE_LOOK: Duration = Duration::from_micros(200);

/// A file of the kernel's, which is made anew at each read from its start.
fn read(file: &File) -> Option<String> {
    let mut bytes = [0; 1024];
    let length = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

/// The state in a `stat` file (proc(5)): what follows the name in parentheses.
pub(super) fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}
