//! What the kernel tells of a connection without probes: TCP_INFO of the socket itself, asked at the end of a sampled
//! request. No times of bytes, so coverage stays `none`, and says `tcp_info`; but where `probes.timestamps` asks for those of what is
//! read, which are `timestamps`'.
#![expect(unsafe_code, reason = "getsockopt with TCP_INFO has no safe words in rustix or socket2")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{self, AddressFamily, SocketType};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Account, BackendAsk, BackendMarks, Marks, Missing, Off, SocketObserver, Token};

use super::timestamps;

/// Bytes of `struct tcp_info` that are read: to `tcpi_total_retrans` and with it.
const BYTES: usize = 104;
/// The same to `tcpi_rcv_ooopack`, which there is since v5.4.
const BYTES_TO_DISORDERED: usize = 228;
// include/uapi/linux/tcp.h, v6.12: offsets in struct tcp_info, which only ever grows at its end.
const RTT: usize = 68;
const RTTVAR: usize = 72;
const TOTAL_RETRANS: usize = 100;
const RCV_OOOPACK: usize = 224;

/// Asks sockets themselves.
#[derive(Clone, Debug)]
pub struct TcpInfo {
    /// Says of everything else why it is missing.
    off: Off,
    /// The kernel stamps what arrives as long as this is there.
    _stamping: Option<Arc<OwnedFd>>,
}

impl TcpInfo {
    /// `None` where the kernel does not answer that question.
    pub(super) fn new(missing: Missing, timestamps: bool) -> Option<Self> {
        let mut degree = degree(missing, timestamps);
        let stamping = degree.has(Missing::TIMESTAMPS).then(timestamps::begin).flatten().map(Arc::new);
        if degree.has(Missing::TIMESTAMPS) && stamping.is_none() {
            tracing::warn!(target: "wayspan::probes", "probes.timestamps: the kernel takes it and stamps nothing");
            degree = missing.with(Missing::TCP_INFO);
        }
        degree.has(ANSWERS).then_some(Self { off: Off(degree), _stamping: stamping })
    }
}

/// The degrees in which sockets are asked.
pub(super) const ANSWERS: Missing = Missing(Missing::TCP_INFO.0 | Missing::TIMESTAMPS.0);

/// What is left where the rest is missing: whether the kernel answers that question, and stamps what is received where that is
/// asked for.
pub(super) fn degree(missing: Missing, timestamps: bool) -> Missing {
    let Some(socket) = socket() else { return missing };
    let socket = socket.as_fd();
    match ask(socket) {
        Some(_) if timestamps && disordered(socket).is_some() && timestamps::arm(socket) => {
            missing.with(Missing::TIMESTAMPS)
        }
        Some(_) => missing.with(Missing::TCP_INFO),
        None => missing,
    }
}

/// One that has not been used yet.
pub(super) fn socket() -> Option<OwnedFd> {
    [AddressFamily::INET, AddressFamily::INET6]
        .into_iter()
        .find_map(|family| net::socket(family, SocketType::STREAM, None).ok())
}

impl SocketObserver for TcpInfo {
    fn listening(&self, socket: BorrowedFd<'_>) {
        if self.stamps() && !timestamps::arm(socket) {
            tracing::warn!(target: "wayspan::probes", "what a listener's connections receive is not stamped");
        }
    }
    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        // Its listener's children are stamped as it is.
        self.off.accepted(socket)
    }
    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        if self.stamps() {
            timestamps::arm(socket);
        }
        self.off.connecting(socket)
    }
    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        self.off.marks(token, bytes)
    }
    fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks {
        self.off.backend(token, ask)
    }
    fn closed(&self, _: Token) {}
    fn keeps_accounts(&self) -> bool {
        true
    }
    fn account(&self, socket: BorrowedFd<'_>) -> Option<Account> {
        ask(socket)
    }
    fn stamps(&self) -> bool {
        self.off.absence().has(Missing::TIMESTAMPS)
    }
    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], disordered: &mut u32) -> io::Result<(usize, MonoNs)> {
        timestamps::receive(socket, buffer, disordered)
    }
    fn absence(&self) -> Missing {
        self.off.absence()
    }
}

/// Nothing where it is no TCP socket.
pub(super) fn ask(socket: BorrowedFd<'_>) -> Option<Account> {
    let bytes = &info::<BYTES>(socket)?;
    Some(Account {
        srtt_us: number(bytes, RTT),
        rttvar_us: number(bytes, RTTVAR),
        resent: number(bytes, TOTAL_RETRANS),
    })
}

/// How many segments of that connection have come out of order, where the kernel counts them.
pub(super) fn disordered(socket: BorrowedFd<'_>) -> Option<u32> {
    Some(number(&info::<BYTES_TO_DISORDERED>(socket)?, RCV_OOOPACK))
}

/// The first bytes of the kernel's answer.
fn info<const N: usize>(socket: BorrowedFd<'_>) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut length = libc::socklen_t::try_from(N).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which are there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0 && usize::try_from(length) == Ok(N)).then_some(bytes)
}

fn number(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connections_round_trip_is_the_kernels_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let observer = TcpInfo::new(Missing::UNAVAILABLE, false).unwrap();
        for socket in [client.as_fd(), server.as_fd()] {
            let account = observer.account(socket).unwrap();
            // Over the loopback, on however busy a machine.
            assert!((1..1_000_000).contains(&account.srtt_us) && account.rttvar_us > 0, "{account:?}");
            assert_eq!(account.resent, 0, "{account:?}");
        }
        let token = observer.accepted(client.as_fd());
        assert!(observer.keeps_accounts());
        assert_eq!(observer.marks(token, 0..1).missing, Missing::UNAVAILABLE.with(Missing::TCP_INFO));
        assert!(!observer.stamps(), "nobody has asked for that");
        assert_eq!(disordered(server.as_fd()), Some(0));
    }

    #[test]
    fn what_is_stamped_has_a_degree_of_its_own_and_accounts_too() {
        let observer = TcpInfo::new(Missing::UNAVAILABLE, true).unwrap();
        assert_eq!(observer.absence(), Missing::UNAVAILABLE.with(Missing::TIMESTAMPS));
        assert!(observer.stamps() && observer.keeps_accounts());
    }

    #[test]
    fn what_is_no_tcp_socket_has_no_account() {
        let observer = TcpInfo::new(Missing::UNAVAILABLE, false).unwrap();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(observer.account(one.as_fd()), None);
    }
}
