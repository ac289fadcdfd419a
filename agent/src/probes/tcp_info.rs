//! What the kernel tells of a connection without probes: TCP_INFO of the socket itself, asked at the end of a sampled
//! request. No times of bytes, so coverage stays `none`, and says `tcp_info`.
#![expect(unsafe_code, reason = "getsockopt with TCP_INFO has no safe words in rustix or socket2")]

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use wayspan_proxy::observer::{Account, BackendAsk, BackendMarks, Marks, Missing, Off, SocketObserver, Token};

/// Bytes of `struct tcp_info` that are read: to `tcpi_total_retrans` and with it.
const BYTES: usize = 104;
// include/uapi/linux/tcp.h, v6.12: offsets in struct tcp_info, which only ever grows at its end.
const RTT: usize = 68;
const RTTVAR: usize = 72;
const TOTAL_RETRANS: usize = 100;

/// Asks sockets themselves.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// Says of everything else why it is missing.
    off: Off,
}

impl TcpInfo {
    /// `None` where the kernel does not answer that question.
    pub(super) fn new(missing: Missing) -> Option<Self> {
        let missing = degree(missing);
        missing.has(Missing::TCP_INFO).then_some(Self { off: Off(missing) })
    }
}

/// What is left where the rest is missing: whether the kernel answers that question.
pub(super) fn degree(missing: Missing) -> Missing {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
        .or_else(|_| rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::STREAM, None));
    let answers = socket.ok().and_then(|socket: OwnedFd| ask(socket.as_fd())).is_some();
    if answers { missing.with(Missing::TCP_INFO) } else { missing }
}

impl SocketObserver for TcpInfo {
    fn listening(&self, socket: BorrowedFd<'_>) {
        self.off.listening(socket);
    }
    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        self.off.accepted(socket)
    }
    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
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
    fn absence(&self) -> Missing {
        self.off.absence()
    }
}

/// Nothing where it is no TCP socket.
pub(super) fn ask(socket: BorrowedFd<'_>) -> Option<Account> {
    let mut bytes = [0_u8; BYTES];
    let mut length = libc::socklen_t::try_from(BYTES).ok()?;
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
    (result == 0 && usize::try_from(length) == Ok(BYTES)).then(|| read(&bytes))
}

fn read(bytes: &[u8; BYTES]) -> Account {
    let number =
        |offset: usize| bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_ne_bytes(*four));
    Account { srtt_us: number(RTT), rttvar_us: number(RTTVAR), resent: number(TOTAL_RETRANS) }
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
        let observer = TcpInfo::new(Missing::UNAVAILABLE).unwrap();
        for socket in [client.as_fd(), server.as_fd()] {
            let account = observer.account(socket).unwrap();
            // Over the loopback, on however busy a machine.
            assert!((1..1_000_000).contains(&account.srtt_us) && account.rttvar_us > 0, "{account:?}");
            assert_eq!(account.resent, 0, "{account:?}");
        }
        let token = observer.accepted(client.as_fd());
        assert!(observer.keeps_accounts());
        assert_eq!(observer.marks(token, 0..1).missing, Missing::UNAVAILABLE.with(Missing::TCP_INFO));
    }

    #[test]
    fn what_is_no_tcp_socket_has_no_account() {
        let observer = TcpInfo::new(Missing::UNAVAILABLE).unwrap();
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(observer.account(one.as_fd()), None);
    }
}
