//! The relays: each joins two namespaces by a TUN device in either, and hands packets on as [`flows`](super::flows)
//! says. No queueing discipline of the kernel's is needed, and the relay knows to the nanosecond what it has held.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tappers::{Interface, Tun};

use super::flows::{Flows, Passage, Verdict};
use super::ledger::now_ns;
use super::plan::{Link, Way};
use super::space::{Space, Urgency, urgent};
use super::stage::Stage;

/// Longer than any packet of a device with an MTU of 1500.
const PACKET_MAX: usize = 2048;
/// How soon a relay sees that it shall end.
const TURN_NS: u64 = 50_000_000;

/// A running relay. Its devices go with it.
pub(super) struct Wire {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Who connects, who listens.
    ends: [Tun; 2],
    flows: Mutex<Flows>,
    stage: Arc<Stage>,
    stopping: AtomicBool,
}

/// One end of a relay: where, and with which address.
pub(super) struct End<'a> {
    pub(super) space: &'a Space,
    pub(super) address: &'a str,
}

impl Wire {
    /// Joins the end that connects with the end that listens.
    pub(super) fn start(link: Link, stage: &Arc<Stage>, connecting: &End<'_>, listening: &End<'_>) -> Result<Self> {
        let name = match link {
            Link::Client => "client-wire",
            Link::Backend => "backend-wire",
        };
        let open = |end: &End<'_>| -> Result<Tun> {
            let tun = end.space.within(|| {
                let mut tun = Tun::new_named(Interface::new(name)?).context("a TUN device; /dev/net/tun is needed")?;
                tun.set_nonblocking(true)?;
                Ok(tun)
            })?;
            end.space.ip(&["address", "add", &format!("{}/30", end.address), "dev", name])?;
            // Segments as they go over a wire: a larger one would fill a send buffer beyond its limit.
            end.space.ip(&["link", "set", name, "gso_max_segs", "1", "up"])?;
            Ok(tun)
        };
        let shared = Arc::new(Shared {
            ends: [open(connecting)?, open(listening)?],
            flows: Mutex::new(Flows::new(link)),
            stage: Arc::clone(stage),
            stopping: AtomicBool::new(false),
        });
        let threads = [Way::Out, Way::Back].map(|way| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || relay(&shared, way))
        });
        Ok(Self { shared, threads: threads.into() })
    }

    /// A row begins: connections of the one before are none of its.
    pub(super) fn forget(&self) {
        self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _joined = thread.join();
        }
    }
}

/// Packets that wait, by the time of their release and the order in which they came.
type Waiting = BTreeMap<(u64, u64), (Vec<u8>, Passage)>;

fn relay(shared: &Shared, way: Way) {
    urgent(Urgency::Relay);
    let [connecting, listening] = &shared.ends;
    let (from, to) = if way == Way::Out { (connecting, listening) } else { (listening, connecting) };
    let mut waiting = Waiting::new();
    let mut buffer = vec![0; PACKET_MAX];
    let mut count = 0;
    while !shared.stopping.load(Ordering::Relaxed) {
        // A packet that the kernel does not take is lost, as on any wire.
        release(shared, to, &mut waiting);
        let next_ns = waiting.keys().next().map_or(TURN_NS, |(at, _)| at.saturating_sub(now_ns()).min(TURN_NS));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(next_ns).unwrap_or(0) };
        let mut polled = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
        if !matches!(poll(&mut polled, Some(&timeout)), Ok(1..)) {
            continue;
        }
        while let Ok(length) = from.recv(&mut buffer) {
            let now = now_ns();
            let packet = buffer.get(..length).unwrap_or_default();
            let running = shared.stage.running();
            let mut flows = shared.flows.lock().unwrap_or_else(PoisonError::into_inner);
            let verdict = flows.judge(running.as_deref(), way, packet, now);
            drop(flows);
            if let Verdict::Pass(at_ns, passage) = verdict {
                count += 1;
                waiting.insert((at_ns, count), (packet.to_vec(), passage));
            }
            release(shared, to, &mut waiting);
        }
    }
}

/// Hands on what is due.
fn release(shared: &Shared, to: &Tun, waiting: &mut Waiting) {
    while let Some(first) = waiting.first_entry() {
        let now = now_ns();
        if first.key().0 > now {
            return;
        }
        let (packet, passage) = first.remove();
        let running = shared.stage.running();
        let tell = |now| {
            shared.flows.lock().unwrap_or_else(PoisonError::into_inner).passed(running.as_deref(), &passage, now);
        };
        if passage.is_for_kernels() {
            // The call does all that its receiver does for it: ends a handshake, takes an acknowledgement.
            let _lost = to.send(&packet);
            tell(now_ns());
        } else {
            // Told before it is sent: who receives it may ask at once.
            tell(now);
            let _lost = to.send(&packet);
        }
        let mut flows = shared.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.handed_on(running.as_deref(), &passage, now_ns());
    }
}
