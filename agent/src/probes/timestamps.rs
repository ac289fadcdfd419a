//! The kernel's receive timestamps (SO_TIMESTAMPING): when the last segment of what one read brought had come in, for everybody
//! who may open a socket. They are in wall-clock time and are turned into ours right behind the read. What is not certain is
//! dropped: a wall clock that was set meanwhile, or a segment that had come before one that belongs in front of it.
#![expect(unsafe_code, reason = "SO_TIMESTAMPING and its messages have no safe words in rustix or socket2")]

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wayspan_proxy::clock::MonoNs;

use super::tcp_info;

// include/uapi/asm-generic/socket.h, since v5.1: of 64 bits whatever the width of time_t. The message has the option's number.
const SO_TIMESTAMPING_NEW: libc::c_int = 65;

/// A message's header and struct scm_timestamping64: three pairs of seconds and nanoseconds, the software's first.
type Control = [u64; CONTROL_WORDS];
const CONTROL_WORDS: usize = 8;
const _: () = assert!(size_of::<libc::cmsghdr>() == 16, "two words, then the message");

/// Readings of the clocks that lie further apart are taken again: half of this is how far a stamp may be off.
const APART_NS: u64 = 20_000;
const READINGS_MAX: usize = 4;
/// Between two readings the wall clock may gain or lose so much, and a thousandth of the time between them; more is a step. Half of
/// that is what ntpd corrects it by at most (MAXFREQ, 500 ppm).
const STEP_NS: u64 = 100_000;
const SLEW_PARTS: u64 = 1000;
/// What was read so soon may have come out of order all the same: that makes it no more wrong than this, and asking the kernel is a
/// system call.
const PROMPT_NS: u64 = 100_000;

/// Has the kernel stamp what this socket receives, and its children, where it listens. Whether it will.
pub(super) fn arm(socket: BorrowedFd<'_>) -> bool {
    let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    // SAFETY: the kernel reads four bytes, which are there.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, (&raw const flags).cast(), 4)
    };
    result == 0
}

/// A second, as long as a busy node may take to begin.
const TRIES_MAX: u32 = 1000;
const TRY_EVERY: Duration = Duration::from_millis(1);

/// Has the kernel begin, and waits until it stamps what comes over the loopback: it leaves its beginning to a worker of its own
/// (net_enable_timestamp()). It goes on as long as that socket is there. `None` where nothing was stamped.
pub(super) fn begin() -> Option<OwnedFd> {
    let held = tcp_info::socket().filter(|socket| arm(socket.as_fd()))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
    let listener = listener.ok().filter(|listener| arm(listener.as_fd()))?;
    let mut near = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (far, _) = listener.accept().ok()?;
    for _ in 0..TRIES_MAX {
        near.write_all(b"x").ok()?;
        let (_, control) = receive_message(far.as_fd(), &mut [0]).ok()?;
        if stamp_ns(&control).is_some() {
            return Some(held);
        }
        std::thread::sleep(TRY_EVERY);
    }
    None
}

/// Reads from a socket, and says when the last segment of what was read had come, where that is certain. `disordered`: see
/// [`is_in_order`].
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], disordered: &mut u32) -> io::Result<(usize, MonoNs)> {
    let (count, control) = receive_message(socket, buffer)?;
    let came = stamp_ns(&control).filter(|_| count > 0).and_then(|stamp_ns| {
        let reading = Reading::take()?;
        let mut steps = STEPS.get();
        let came = steps.ours(stamp_ns, reading);
        STEPS.set(steps);
        came.filter(|came| {
            let is_all = count < buffer.len();
            reading.after.since(*came) < PROMPT_NS || is_in_order(tcp_info::disordered(socket), disordered, is_all)
        })
    });
    Ok((count, came.unwrap_or(MonoNs::UNKNOWN)))
}

fn receive_message(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Control)> {
    let mut control: Control = [0; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: of null pointers and zero lengths it is lawful, and no field forbids zeros.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // Of a type that differs between C libraries.
    message.msg_controllen = 64;
    const _: () = assert!(size_of::<Control>() == 64);
    // SAFETY: the kernel writes at most what the lengths say, to places that outlive the call.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    // Negative: errno tells.
    usize::try_from(count).map(|count| (count, control)).map_err(|_| io::Error::last_os_error())
}

/// The software's stamp, in wall-clock nanoseconds.
fn stamp_ns(control: &Control) -> Option<u64> {
    let [_, kind, seconds, nanos, ..] = *control;
    let [a, b, c, d, e, f, g, h] = kind.to_ne_bytes();
    let (level, kind) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    let is_stamp = (level, kind) == (libc::SOL_SOCKET, SO_TIMESTAMPING_NEW);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).filter(|stamp| is_stamp && *stamp != 0)
}

/// Where a segment had come before one that belongs in front of it, its stamp is from before it was readable. The kernel only counts
/// those (since v5.4): each is behind one gap at most, before which a read may take what had come in order, and behind which another
/// one takes it. So for each of them the stamps of two reads that take all that is there are not believed.
fn is_in_order(counted: Option<u32>, settled: &mut u32, is_all: bool) -> bool {
    let Some(counted) = counted else { return false };
    let is_settled = *settled >= counted.saturating_mul(2);
    if is_all && !is_settled {
        *settled += 1;
    }
    is_settled
}

/// Both clocks, the wall's read in between.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: MonoNs,
    wall_ns: u64,
    after: MonoNs,
}

impl Reading {
    /// `None` where the thread was interrupted each time.
    fn take() -> Option<Self> {
        let readings =
            std::iter::repeat_with(|| Self { before: MonoNs::now(), wall_ns: wall_ns(), after: MonoNs::now() });
        readings.take(READINGS_MAX).find(|reading| reading.after.since(reading.before) <= APART_NS)
    }

    /// How far the wall clock is ahead.
    fn ahead_ns(&self) -> i64 {
        let ours_ns = self.before.0 / 2 + self.after.0 / 2;
        self.wall_ns.cast_signed().wrapping_sub(ours_ns.cast_signed())
    }
}

fn wall_ns() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

thread_local! {
    static STEPS: Cell<Steps> = const { Cell::new(Steps::NONE) };
}

/// What this thread knows of times at which the wall clock was set.
#[derive(Clone, Copy, Debug)]
struct Steps {
    /// The last reading: when, and how far the wall clock was ahead.
    last: (MonoNs, i64),
    /// A step was noticed then: what came before may have been stamped by another clock.
    noticed: MonoNs,
}

impl Steps {
    const NONE: Self = Self { last: (MonoNs::UNKNOWN, 0), noticed: MonoNs::UNKNOWN };

    /// A wall-clock time that has passed, by our clock.
    fn ours(&mut self, stamp_ns: u64, reading: Reading) -> Option<MonoNs> {
        let (at, ahead_ns) = (reading.before, reading.ahead_ns());
        let (then, was_ns) = std::mem::replace(&mut self.last, (at, ahead_ns));
        let allowed_ns = STEP_NS + at.since(then) / SLEW_PARTS;
        if then.known().is_some() && ahead_ns.abs_diff(was_ns) > allowed_ns {
            self.noticed = at;
        }
        let age_ns = reading.wall_ns.checked_sub(stamp_ns)?;
        let came = MonoNs(at.0.checked_sub(age_ns)?);
        (came.known().is_some() && came >= self.noticed).then_some(came)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const MS: u64 = 1_000_000;
    /// Of our clock, and of the wall's at that time.
    const T: u64 = 1_000_000 * MS;
    const WALL: u64 = 1_800_000_000_000 * MS;

    /// A reading so long after `T` while the wall clock has been set forward by so much.
    fn reading(after_ns: u64, set_ns: i64) -> Reading {
        let before = MonoNs(T + after_ns);
        let wall_ns = (WALL + after_ns).checked_add_signed(set_ns).unwrap();
        Reading { before, wall_ns, after: before }
    }

    #[test]
    fn a_stamp_is_as_old_by_our_clock_as_by_the_walls() {
        let mut steps = Steps::NONE;
        assert_eq!(steps.ours(WALL + 3 * MS, reading(5 * MS, 0)), Some(MonoNs(T + 3 * MS)));
        // Slewed meanwhile, as ntpd does at most.
        assert_eq!(
            steps.ours(WALL + 995 * MS, reading(1005 * MS, MS.cast_signed() / 2)),
            Some(MonoNs(T + 995 * MS - MS / 2))
        );
    }

    #[test]
    fn a_stamp_that_cannot_be_is_none() {
        for (stamp_ns, what) in
            [(WALL + 6 * MS, "later than the read"), (WALL - T, "as old as the node"), (1, "of another age")]
        {
            let mut steps = Steps::NONE;
            assert_eq!(steps.ours(stamp_ns, reading(5 * MS, 0)), None, "{what}");
        }
    }

    #[test]
    fn where_the_wall_clock_was_set_what_came_before_has_no_time() {
        for set_ns in [-50, 50].map(|ms| ms * MS.cast_signed()) {
            let mut steps = Steps::NONE;
            let mut came = |stamp_ns: u64, reading: Reading| steps.ours(stamp_ns, reading);
            let set = |ns: u64| ns.checked_add_signed(set_ns).unwrap();
            assert!(came(WALL + MS, reading(2 * MS, 0)).is_some());
            // Stamped by the one clock or by the other: nobody knows.
            assert_eq!(came(WALL + 10 * MS, reading(100 * MS, set_ns)), None, "{set_ns}");
            assert_eq!(came(set(WALL + 90 * MS), reading(100 * MS, set_ns)), None, "{set_ns}");
            assert_eq!(came(set(WALL + 101 * MS), reading(102 * MS, set_ns)), Some(MonoNs(T + 101 * MS)), "{set_ns}");
        }
    }

    #[test]
    fn for_each_segment_out_of_order_two_stamps_are_not_believed() {
        let mut settled = 0;
        for (counted, is_all, expected) in [
            (Some(0), false, true),
            // What is left behind by a read has the same stamp.
            (Some(1), false, false),
            // What had come in order before the gap, and what the gap kept back.
            (Some(1), true, false),
            (None, true, false),
            (Some(1), true, false),
            (Some(1), false, true),
            // Two gaps, the second before the first is closed.
            (Some(2), true, false),
            (Some(3), true, false),
            (Some(3), true, false),
            (Some(3), true, false),
            (Some(3), true, true),
        ] {
            assert_eq!(is_in_order(counted, &mut settled, is_all), expected, "{counted:?} {is_all}");
        }
    }

    #[test]
    fn another_message_is_no_stamp() {
        let kind = |level: i32, kind: i32| {
            let [a, b, c, d] = level.to_ne_bytes();
            let [e, f, g, h] = kind.to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        let message = |kind, seconds| stamp_ns(&[64, kind, seconds, 7, 0, 0, 0, 0]);
        let ours = kind(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW);
        assert_eq!(message(ours, 2), Some(2_000_000_007));
        assert_eq!(message(ours, u64::MAX), None);
        assert_eq!(message(kind(libc::SOL_SOCKET, libc::SCM_RIGHTS), 2), None);
        assert_eq!(stamp_ns(&[0; CONTROL_WORDS]), None, "and none at all");
    }

    /// A client, and its server's side, whose listener was armed.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(arm(listener.as_fd()));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn what_lay_unread_has_the_time_at_which_it_came() {
        let _begun = begin().unwrap();
        let (mut client, server) = pair();
        let from = MonoNs::now();
        client.write_all(b"one").unwrap();
        let to = MonoNs::now();
        std::thread::sleep(Duration::from_millis(20));
        let mut buffer = [0; 8];
        let (count, came) = receive(server.as_fd(), &mut buffer, &mut 0).unwrap();
        assert_eq!(&buffer[..count], b"one");
        // It came within the call that sent it, as far as two clocks can tell.
        assert!((from.0 - APART_NS..=to.0 + APART_NS).contains(&came.0), "{came:?} is not in {from:?}..={to:?}");
    }

    #[test]
    fn of_several_segments_the_last_ones_time_is_told() {
        let _begun = begin().unwrap();
        let (mut client, server) = pair();
        client.write_all(b"one").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let from = MonoNs::now();
        client.write_all(b"two").unwrap();
        let (count, came) = receive(server.as_fd(), &mut [0; 8], &mut 0).unwrap();
        assert_eq!(count, 6);
        assert!(came.0 >= from.0 - APART_NS, "{came:?} is before {from:?}");
    }

    #[test]
    fn the_end_and_an_empty_socket_are_those_of_an_ordinary_read() {
        let (client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        let error = receive(server.as_fd(), &mut [0; 8], &mut 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(client);
        server.set_nonblocking(false).unwrap();
        assert_eq!(receive(server.as_fd(), &mut [0; 8], &mut 0).unwrap(), (0, MonoNs::UNKNOWN));
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    }
}
