//! Requests that come while the worker is at another one, whose path takes it milliseconds to rewrite.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::super::ledger::now_ns;
use super::super::plan::{HOLDS, How};
use super::super::world::BUSY;
use super::{Client, PATIENCE, awaited, read_one};

/// What the worker is at when its core is taken. Short enough that others than real-time threads have their share of the core, or the
/// kernel takes it from these for 50 ms (sched_rt_runtime_us).
const WORK: Duration = Duration::from_millis(5);
/// So long after the worker has got its core it has returned from the wait for events.
const UNDER_WAY: Duration = Duration::from_micros(500);
/// To look at one byte of the path once, about. What it really takes is measured.
const LOOK_PS: u128 = 2_000;

impl Client<'_> {
    /// Sends a request while the worker is at another, where the row wants that, and receives both responses.
    pub(super) fn behind(&mut self, id: u64) -> Result<bool> {
        let running = self.running;
        let busy = running.index(How::Busy);
        let Some(index) = busy.or_else(|| running.index(How::Preempted)) else { return Ok(false) };
        let (agent, ledger) = (self.stage.agent()?, &running.ledger);
        let delay = running.delay(index, id);
        let work = if busy.is_some() { delay.unwrap_or_default() } else { WORK };
        if busy.is_none() {
            self.hog()?;
        }
        self.connection(id)?;
        let mut other = self.other()?;
        agent.workers.settle()?;
        let before = agent.workers.account();
        let begun_ns = now_ns();
        other.write_all(costly(HOLDS + id, work).as_bytes())?;
        let worked = || ledger.delivered(HOLDS + id);
        // Ready is not enough: until it has a core, it is the scheduler's share.
        while agent.workers.account().since(before).turns == 0 {
            if now_ns() - begun_ns > u64::try_from(PATIENCE.as_nanos())? {
                bail!("the worker does not begin");
            }
        }
        std::thread::sleep(UNDER_WAY);
        let sending_ns = now_ns();
        self.send(id)?;
        let sent_ns = now_ns();
        let taken = match delay.filter(|_| busy.is_none()) {
            Some(delay) => Some((self.hog()?.take(delay)?, self.hog()?.end()?)),
            None => None,
        };
        let came_ns = awaited("the other request did not come to the backend", worked)?;
        let received = self.receive(id);
        let account = agent.workers.account().since(before);
        read_one(&other)?;
        let noise_ns = if let Some((from_ns, (to_ns, gone_ns))) = taken {
            if came_ns < to_ns {
                bail!("the worker was ready before its core was taken");
            }
            ledger.add(id, index, true, from_ns, to_ns);
            ledger.unsure(id, index, 0, from_ns - sent_ns + (gone_ns - to_ns));
            account.lost_ns(came_ns - begun_ns).saturating_sub(to_ns - from_ns)
        } else if busy.is_some() {
            // Of a backend that comes late to it the kernel knows better: the worker was busy for no longer. But of what the
            // machine's host did not run it, the kernel tells nothing.
            let done_ns = came_ns.min(begun_ns + account.busy_ns());
            ledger.add(id, index, delay.is_some(), sent_ns, done_ns.max(sent_ns));
            ledger.unsure(id, index, came_ns - done_ns, came_ns - done_ns + (sent_ns - sending_ns));
            account.busy_ns().saturating_sub(done_ns - begun_ns)
        } else {
            account.lost_ns(came_ns - begun_ns)
        };
        ledger.noise(id, noise_ns);
        received.map(|()| true)
    }

    /// The connection of requests that keep the worker busy.
    fn other(&mut self) -> Result<TcpStream> {
        if self.other.is_none() {
            self.other = Some(self.open()?);
        }
        Ok(self.other.as_ref().context("just made")?.try_clone()?)
    }
}

/// A request whose path takes about so long to rewrite.
fn costly(id: u64, work: Duration) -> String {
    // The pattern looks from each `x` to the path's end: half of the length's square.
    let looks = 2 * work.as_nanos() * 1000 / LOOK_PS;
    let length = usize::try_from(looks.isqrt()).unwrap_or(0);
    format!("GET /r/{id}/{} HTTP/1.1\r\nhost: {BUSY}\r\n\r\n", "x".repeat(length))
}
