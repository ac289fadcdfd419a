//! Reads that say when what they brought had come, where nobody watches the connection but the kernel stamps what arrives: which
//! bytes a stamp is good for, and the read itself. What is made of it is `asks`'.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::MonoNs;
use crate::observer::SocketObserver;

/// One read: which bytes of the stream it brought, and when the last segment of them had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    from: u64,
    to: u64,
    at: MonoNs,
    is_emptied: bool,
}

impl Arrival {
    /// `is_emptied`: the read has left nothing behind. Where it has, the kernel may have joined what it left to the last segment,
    /// which then has the stamp of that.
    #[must_use]
    pub fn of(bytes: Range<u64>, at: MonoNs, is_emptied: bool) -> Self {
        Self { from: bytes.start, to: bytes.end, at, is_emptied }
    }

    /// By then at the latest the byte at this offset was readable; unknown where another read brought it.
    #[must_use]
    pub fn by(&self, offset: u64) -> MonoNs {
        if (self.from..self.to).contains(&offset) { self.at } else { MonoNs::UNKNOWN }
    }

    /// When the byte at this offset became readable, neither sooner nor later: known of the read's very last.
    #[must_use]
    pub fn exactly(&self, offset: u64) -> MonoNs {
        if self.is_emptied && offset + 1 == self.to { self.by(offset) } else { MonoNs::UNKNOWN }
    }
}

/// A connection's last stamped read.
#[derive(Debug, Default)]
pub(crate) struct Stamped {
    last: Cell<Arrival>,
    /// See [`SocketObserver::receive`].
    disordered: Cell<u32>,
}

impl Stamped {
    pub(crate) fn last(&self) -> Arrival {
        self.last.get()
    }

    /// Reads as the stream itself would, from this offset of it on.
    pub(crate) fn poll_read<O: SocketObserver>(
        &self,
        observer: &O,
        stream: &TcpStream,
        cx: &mut Context<'_>,
        (out, from): (&mut ReadBuf<'_>, u64),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let buffer = out.initialize_unfilled();
            let room = buffer.len();
            let mut received = None;
            let tried = stream.try_io(Interest::READABLE, || {
                let mut disordered = self.disordered.get();
                let (count, at) = observer.receive(stream.as_fd(), buffer, &mut disordered)?;
                self.disordered.set(disordered);
                received = Some((count, at));
                // As the stream's own read has it: a short one has emptied the socket, so that the next need not find that out.
                if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if let Some((count, at)) = received {
                let to = from + u64::try_from(count).unwrap_or(0);
                self.last.set(Arrival::of(from..to, at, count < room));
                out.advance(count);
                return Poll::Ready(Ok(()));
            }
            match tried {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_good_for_what_its_read_brought_and_exact_for_the_last_byte_alone() {
        let at = MonoNs(7);
        for (is_emptied, offset, by, exactly) in [
            (true, 99, 0, 0),
            (true, 100, 7, 0),
            (true, 108, 7, 0),
            (true, 109, 7, 7),
            (true, 110, 0, 0),
            (true, u64::MAX - 1, 0, 0),
            (false, 109, 7, 0),
        ] {
            let arrival = Arrival::of(100..110, at, is_emptied);
            let expected = (MonoNs(by), MonoNs(exactly));
            assert_eq!((arrival.by(offset), arrival.exactly(offset)), expected, "{offset}, emptied: {is_emptied}");
        }
        assert_eq!(Arrival::default().by(0), MonoNs::UNKNOWN);
    }
}
