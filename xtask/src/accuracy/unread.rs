//! Whoever stops reading until nothing more comes, and then for a pause: a client its response, a backend an upload.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, bail};

use super::ledger::{Ledger, now_ns};
use super::stage::Stage;

/// A receive queue that has not grown for so long does not grow any more.
const QUIET: Duration = Duration::from_millis(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_micros(200);
/// Longer than anything that is injected.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who reads slowly has little room.
const SMALL_BUFFER: usize = 16 << 10;

/// Leaves a socket little room for what it receives.
pub(super) fn make_small(socket: &impl AsFd) -> Result<()> {
    Ok(rustix::net::sockopt::set_socket_recv_buffer_size(socket, SMALL_BUFFER)?)
}

/// When a receive queue was left unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    /// Something was in it. Since when the window has been shut is not known here.
    first_ns: u64,
    /// It had stopped growing.
    from_ns: u64,
    to_ns: u64,
}

impl Unread {
    /// Waits until the receive queue has stopped growing, and then for that long.
    pub(super) fn pause(stream: &TcpStream, delay: Duration) -> Result<Self> {
        let (first_ns, from_ns) = until_quiet(stream)?;
        std::thread::sleep(delay);
        Ok(Self { first_ns, from_ns, to_ns: now_ns() })
    }

    /// Waits until the receive queue has stopped growing, and has the agent stopped for that long once all of its room is back:
    /// nobody is there to notice it. With what was read meanwhile.
    pub(super) fn pause_unnoticed(stream: &TcpStream, stage: &Stage, delay: Duration) -> Result<(Self, Vec<u8>)> {
        let (first_ns, _) = until_quiet(stream)?;
        let mut read = Vec::new();
        let stop = stage.stopped(delay, || read_until_quiet(stream, &mut read))?;
        Ok((Self { first_ns, from_ns: stop.from_ns, to_ns: stop.to_ns }, read))
    }

    /// Accounts for it to a request of which everything had been read by then.
    pub(super) fn account(self, ledger: &Ledger, request: u64, injection: usize, read_ns: u64) {
        let Self { first_ns, from_ns, to_ns } = self;
        ledger.add(request, injection, true, from_ns, to_ns);
        ledger.unsure(request, injection, 0, from_ns.saturating_sub(first_ns) + read_ns.saturating_sub(to_ns));
    }
}

/// Reads what is there, and what comes into the room that this makes, until nothing more does.
fn read_until_quiet(mut stream: &TcpStream, read: &mut Vec<u8>) -> Result<()> {
    let mut came = now_ns();
    let mut buffer = [0; 64 << 10];
    while Duration::from_nanos(now_ns() - came) < QUIET {
        if rustix::io::ioctl_fionread(stream)? == 0 {
            std::thread::sleep(LOOK);
            continue;
        }
        let length = stream.read(&mut buffer)?;
        read.extend_from_slice(buffer.get(..length).unwrap_or_default());
        came = now_ns();
    }
    Ok(())
}

/// When a receive queue began to grow, and when it has stopped to.
fn until_quiet(stream: &TcpStream) -> Result<(u64, u64)> {
    let (mut length, mut grew) = (0, now_ns());
    let mut first = grew;
    loop {
        let (now, queued) = (now_ns(), rustix::io::ioctl_fionread(stream)?);
        if queued > length {
            if length == 0 {
                first = now;
            }
            (length, grew) = (queued, now);
        } else if length > 0 && Duration::from_nanos(now - grew) >= QUIET {
            return Ok((first, now));
        } else if Duration::from_nanos(now - grew) > PATIENCE {
            bail!("nothing came that could be left unread");
        }
        std::thread::sleep(LOOK);
    }
}
