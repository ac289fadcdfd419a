//! What the proxy asks of whoever watches its sockets in the kernel, and the answer where nobody does.
//!
//! The proxy calls these on its workers, on the hot path: an implementation must neither block nor allocate in
//! `marks`, and costs one system call per connection elsewhere.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::clock::MonoNs;

/// Watches sockets. Statically dispatched: the agent's probes, or [`Off`].
pub trait SocketObserver: Clone + Send + 'static {
    /// A socket was bound and is about to listen; its children inherit the watch.
    fn listening(&self, socket: BorrowedFd<'_>);
    /// A connection was accepted from a watched listener.
    fn accepted(&self, socket: BorrowedFd<'_>) -> Token;
    /// A socket is about to connect to an upstream.
    fn connecting(&self, socket: BorrowedFd<'_>) -> Token;
    /// When the bytes at these stream offsets became readable (offset 0 is the connection's first byte). Called right
    /// after the read that consumed them. An empty range asks for the connection's own times only. Of the byte behind the
    /// range the time is kept however many follow: where the next read begins is told by an empty range, after each.
    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks;
    /// What the backend's own end of a connection to it saw of one exchange, where it is on this node. Called right after
    /// the read that brought the response's first byte, or when the exchange was given up without one.
    fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks;
    /// Whether [`SocketObserver::acknowledged`] has something to say: asked before it, for each request.
    fn watches_acknowledgements(&self) -> bool {
        false
    }
    /// What is written to the client from this offset on is another answer. Called before it is written, on the hot path.
    fn answers(&self, _: Token, _start: u64) {}
    /// Nothing that is written to this connection now, or later, began before then: another message begins. Called before it is
    /// written, on the hot path.
    fn under_way(&self, _: Token, _since: MonoNs) {}
    /// When the client acknowledged the byte at this offset of what was written to it, the last of a response that ended at
    /// `ended`. Called when its next request has come, on the hot path: later, newer ones may have taken its place.
    fn acknowledged(&self, _: Token, _last: u64, _ended: MonoNs) -> Acknowledged {
        Acknowledged::default()
    }
    /// The proxy has closed the socket and will not ask again on its own behalf.
    fn closed(&self, token: Token);
    /// Whether [`SocketObserver::account`] has something to say: asked before it, for each request.
    fn keeps_accounts(&self) -> bool {
        false
    }
    /// Whether the round trips that it tells of a client are as old as that one's newest bytes, so that behind a long answer
    /// [`SocketObserver::account`] has a newer one. Asked behind such answers only.
    fn round_trips_age(&self) -> bool {
        false
    }
    /// The kernel's own account of a connection. Where nobody watches it, it is asked once for a sampled request on either
    /// side; else behind a long answer. A system call.
    fn account(&self, _: BorrowedFd<'_>) -> Option<Account> {
        None
    }
    /// Whether reads that may matter go by [`SocketObserver::receive`]: asked before each, on the hot path.
    fn stamps(&self) -> bool {
        false
    }
    /// Reads from a socket that has something, and says when the last segment of what was read had come; unknown where that
    /// is not certain. `disordered` is the implementation's own note on the connection, zero at first.
    ///
    /// # Errors
    /// Those of an ordinary read.
    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], _disordered: &mut u32) -> io::Result<(usize, MonoNs)> {
        Ok((rustix::io::read(socket, buffer)?, MonoNs::UNKNOWN))
    }
    /// Why there is nothing to see, for coverage; `Missing::NOTHING` when the watch is on.
    fn absence(&self) -> Missing;
}

/// Names one use of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The slot's generation when it was given out.
    pub generation: u64,
    /// The slot, or [`Token::NONE`]'s.
    pub slot: u32,
}

impl Token {
    /// No slot: observation is off, or there was none free.
    pub const NONE: Self = Self { generation: 0, slot: u32::MAX };
}

/// The kernel's times for a range of bytes. [`MonoNs::UNKNOWN`] where `missing` says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The range's first byte became readable.
    pub first: MonoNs,
    /// Where `first` is lost: that byte was readable by then at the latest.
    pub first_by: MonoNs,
    /// The range's last byte became readable.
    pub last: MonoNs,
    /// The connection reached ESTABLISHED: it was acceptable.
    pub established: MonoNs,
    /// The connection's smoothed round trip when it last received, microseconds; 0 if not known.
    pub srtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// Why times are missing.
    pub missing: Missing,
}

/// What the kernel counts of a connection by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Smoothed round trip now, microseconds.
    pub srtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// Segments sent again since the connection began, those of the handshake among them.
    pub resent: u32,
}

/// What became of a response behind its end. [`MonoNs::UNKNOWN`] where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The client acknowledged its last byte.
    pub at: MonoNs,
    /// That byte left the send queue, where it had to wait for the client first.
    pub left: MonoNs,
}

/// Offsets of one exchange on a connection to a backend: of the bytes written to it, and of those read from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendAsk {
    /// Just behind the request's head.
    pub head_end: u64,
    /// Just behind the last byte of the request that was written.
    pub request_end: u64,
    /// The response's first byte.
    pub response_start: u64,
}

/// A backend's side of one exchange. [`MonoNs::UNKNOWN`] where `missing` says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendMarks {
    /// The request's last byte became readable at the backend. Where the backend answered before it had read the whole
    /// request, its head's.
    pub readable: MonoNs,
    /// The backend had read that byte.
    pub read: MonoNs,
    /// The backend wrote the response's first byte.
    pub sent: MonoNs,
    /// Why times are missing.
    pub missing: Missing,
}

/// A set of reasons why a time is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing(pub u16);

impl Missing {
    /// Everything asked for is known.
    pub const NOTHING: Self = Self(0);
    /// The probes are off by configuration.
    pub const OFF: Self = Self(1);
    /// The probes could not be loaded, or lost their rights.
    pub const UNAVAILABLE: Self = Self(1 << 1);
    /// No slot was free when the connection began.
    pub const NO_SLOT: Self = Self(1 << 2);
    /// More events came than the ring holds, and the one asked for is gone.
    pub const OVERWRITTEN: Self = Self(1 << 3);
    /// The slot belongs to another connection by now.
    pub const REUSED: Self = Self(1 << 4);
    /// The watch began while the connection lived.
    pub const JOINED_LATE: Self = Self(1 << 5);
    /// The kernel has not reported these bytes.
    pub const UNSEEN: Self = Self(1 << 6);
    /// The backend is not on this node, or its socket could not be told: there is nothing to see here.
    pub const ELSEWHERE: Self = Self(1 << 7);
    /// The request was readable before the backend accepted the connection: what it waited for cannot be told apart.
    pub const ACCEPT: Self = Self(1 << 8);
    /// Backends are not looked for, by configuration or because these probes cannot run.
    pub const NOT_SOUGHT: Self = Self(1 << 9);
    /// No times; the kernel's own account of the connection is all there is.
    pub const TCP_INFO: Self = Self(1 << 10);
    /// The same, and of each read when its last segment came.
    pub const TIMESTAMPS: Self = Self(1 << 12);
    /// It was not known yet, and nobody waited for it.
    pub const NOT_WAITED: Self = Self(1 << 11);

    /// The union.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a reason is in the set.
    #[must_use]
    pub fn has(self, reason: Self) -> bool {
        self.0 & reason.0 != 0
    }
}

/// Nobody watches: the lawful state without eBPF.
#[derive(Clone, Copy, Debug)]
pub struct Off(pub Missing);

impl SocketObserver for Off {
    fn listening(&self, _: BorrowedFd<'_>) {}
    fn accepted(&self, _: BorrowedFd<'_>) -> Token {
        Token::NONE
    }
    fn connecting(&self, _: BorrowedFd<'_>) -> Token {
        Token::NONE
    }
    fn marks(&self, _: Token, _: Range<u64>) -> Marks {
        Marks { missing: self.0, ..Marks::default() }
    }
    fn backend(&self, _: Token, _: BackendAsk) -> BackendMarks {
        BackendMarks { missing: Missing::NOT_SOUGHT, ..BackendMarks::default() }
    }
    fn closed(&self, _: Token) {}
    fn absence(&self) -> Missing {
        self.0
    }
}
