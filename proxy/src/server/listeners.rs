//! The listeners of a proxy: which are open, for whom, and what a new snapshot makes of them. New ones open before old
//! ones close, so that no client finds nobody: addresses that overlap are shared by our own sockets meanwhile, and one
//! that only changes its entry point is not touched. What cannot be opened keeps the entry point where it was. Sockets of a
//! process before are taken as they are, with the clients that wait on them.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::neighbours::{covers, has_neighbour, overlap};
use crate::clock::MonoNs;
use crate::snapshot::{EntryPoint, Snapshot};

/// Connections that wait for accept: more than a burst of a busy node, cut to `net.core.somaxconn` by the kernel.
pub(crate) const BACKLOG: i32 = 4096;
/// How long a listener that nothing wants still accepts: a client whose handshake is under way would be reset by its
/// close, and one whose last segment was lost sends it again within this time (RFC 6298: one second at first).
const LINGER: Duration = Duration::from_secs(1);

/// An address that could not be opened. The others are.
#[derive(Debug, thiserror::Error)]
#[error("entryPoints.{entry_point}.address: cannot listen on {address}: {source}")]
pub struct ListenFault {
    /// The entry point's name.
    pub entry_point: String,
    /// The address.
    pub address: SocketAddr,
    /// Where the entry point listens in its place: its addresses of before.
    pub stays: Vec<SocketAddr>,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What the workers know of a listener.
#[derive(Debug)]
pub(crate) struct Place {
    /// As the snapshot says it; port 0 stands for any.
    asked: SocketAddr,
    /// The entry point that has it where no snapshot names the address.
    owner: AtomicU32,
}

impl Place {
    /// Whose connections these are. By address where the snapshot names it: so a swap of the snapshot is a swap of the
    /// listeners at the same instant.
    pub(crate) fn entry_point<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<EntryPoint>> {
        let named =
            snapshot.entry_points.iter().find(|one| self.asked.port() != 0 && one.addresses.contains(&self.asked));
        named.or_else(|| snapshot.entry_point(self.owner.load(Ordering::Relaxed)))
    }
}

/// Sockets for one address, one per worker.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: u64,
    pub(super) place: Arc<Place>,
    bound: SocketAddr,
    name: Box<str>,
    inodes: Vec<u64>,
    /// The workers' sockets once more, for a process after us; none when they are about to close.
    sockets: Vec<TcpListener>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The snapshot names it.
    Wanted,
    /// Its entry point cannot have the address that the snapshot names.
    Stays,
    /// A wanted wildcard covers it. Closing it would reset clients whose handshake is under way, for nothing.
    Covered,
    /// Nothing wants it, since then.
    Leaving(MonoNs),
    /// The workers have been told to close it, and may not have done so yet.
    Closed,
}

/// An address that the snapshot names.
#[derive(Debug, Clone)]
struct Wanted {
    entry_point: u32,
    name: Box<str>,
    address: SocketAddr,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Open>,
    /// From the process before, until the first snapshot has named those that it wants.
    inherited: Vec<Sockets>,
    /// Of what was inherited: the process before may have them for a while yet, which makes it no neighbour.
    inherited_inodes: Vec<u64>,
    next_key: u64,
    settled: bool,
}

/// An address as a snapshot names it, and all sockets that listen there.
pub type Sockets = (SocketAddr, Vec<TcpListener>);

/// What the workers are to do.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New listeners, with at least a socket for each worker.
    pub(super) opened: Vec<(u64, Arc<Place>, Vec<TcpListener>)>,
    /// Keys of those to close when their backlog is empty.
    pub(super) closed: Vec<u64>,
    pub(super) faults: Vec<ListenFault>,
}

impl Listeners {
    /// Where entry points listen by name, as far as they are meant to.
    pub(super) fn addresses(&self) -> Vec<(Box<str>, SocketAddr)> {
        let meant = self.open.iter().filter(|open| matches!(open.state, State::Wanted | State::Stays));
        let mut all: Vec<_> = meant.map(|open| (open.name.clone(), open.bound)).collect();
        all.sort();
        all
    }

    /// Whether connections may still come for an entry point.
    pub(super) fn serve(&self, entry_point: u32) -> bool {
        self.open.iter().any(|open| open.place.owner.load(Ordering::Relaxed) == entry_point)
    }

    /// Takes over what the process before listened with. What the next snapshot does not name is closed then.
    pub(super) fn inherit(&mut self, inherited: Vec<Sockets>) {
        let all = inherited.iter().flat_map(|(_, sockets)| sockets);
        self.inherited_inodes = all.filter_map(|socket| inode(socket).ok()).collect();
        self.inherited = inherited;
    }

    /// Everything that is meant to listen, for a process after us. Not what was asked for as any port: that is no address
    /// to be found by.
    pub(super) fn sockets(&self) -> io::Result<Vec<Sockets>> {
        let meant = self.open.iter().filter(|open| matches!(open.state, State::Wanted | State::Stays));
        meant
            .filter(|open| open.place.asked.port() != 0)
            .map(|open| {
                Ok((open.place.asked, open.sockets.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?))
            })
            .collect()
    }

    /// Nothing is to be tried again or closed later, and what was told to close has closed.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Opens what the snapshot names and is not open, and finds what may close. Meant to be called again later until
    /// it is settled.
    pub(super) fn settle(
        &mut self,
        snapshot: &Snapshot,
        workers: usize,
        tag: &dyn Fn(BorrowedFd<'_>),
        now: MonoNs,
    ) -> Changes {
        let mut changes = Changes::default();
        // Workers hold the place for as long as their socket is open.
        self.open.retain(|open| open.state != State::Closed || Arc::strong_count(&open.place) > 1);
        let wanted = snapshot.entry_points.iter().flat_map(|entry| {
            let of =
                |address: &SocketAddr| Wanted { entry_point: entry.id, name: entry.name.clone(), address: *address };
            entry.addresses.iter().map(of)
        });
        let (mut has, mut lacks) = (HashSet::new(), Vec::new());
        for wanted in wanted {
            match self.open.iter_mut().find(|open| open.fits(&wanted) && !has.contains(&open.key)) {
                Some(open) => {
                    open.belongs_to(&wanted, State::Wanted);
                    has.insert(open.key);
                }
                None => lacks.push(wanted),
            }
        }
        for wanted in &lacks {
            match self.listen(wanted, workers, tag) {
                Ok((open, sockets)) => {
                    has.insert(open.key);
                    changes.opened.push((open.key, Arc::clone(&open.place), sockets));
                    self.open.push(open);
                }
                Err(source) => {
                    let (entry_point, address) = (wanted.name.to_string(), wanted.address);
                    changes.faults.push(ListenFault { entry_point, address, stays: Vec::new(), source });
                }
            }
        }
        self.inherited.clear();
        self.retire(&has, &mut changes, now);
        let waits = self.open.iter().any(|open| matches!(open.state, State::Leaving(_) | State::Closed));
        self.settled = changes.faults.is_empty() && !waits;
        changes
    }

    /// Decides about what is open and not named by the snapshot.
    fn retire(&mut self, has: &HashSet<u64>, changes: &mut Changes, now: MonoNs) {
        let wildcards: Vec<_> = self.open.iter().filter(|open| has.contains(&open.key)).map(Open::as_wanted).collect();
        for open in self.open.iter_mut().filter(|open| !has.contains(&open.key) && open.state != State::Closed) {
            let fault = changes.faults.iter_mut().find(|fault| *fault.entry_point == *open.name);
            let wildcard = wildcards.iter().find(|wide| covers(wide.address, open.bound));
            match (fault, wildcard, open.state) {
                (_, Some(wildcard), _) => open.belongs_to(wildcard, State::Covered),
                // What is on its way out since an earlier snapshot is not what held last.
                (Some(fault), None, State::Wanted | State::Stays | State::Covered) => {
                    open.state = State::Stays;
                    fault.stays.push(open.bound);
                }
                (_, None, State::Leaving(since)) if since + LINGER <= now => {
                    open.state = State::Closed;
                    open.sockets.clear();
                    changes.closed.push(open.key);
                }
                (_, None, State::Leaving(_)) => {}
                (None, None, _) => open.state = State::Leaving(now),
                (Some(_), None, State::Closed) => {}
            }
        }
    }

    fn listen(
        &mut self,
        wanted: &Wanted,
        workers: usize,
        tag: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<(Open, Vec<TcpListener>)> {
        let Wanted { entry_point, name, address } = wanted;
        let mut sockets = match self.inherited.iter().position(|(at, _)| at == address) {
            Some(index) => self.inherited.swap_remove(index).1,
            None => {
                self.may_listen(*address)?;
                Vec::new()
            }
        };
        // The kernel's storage is ours alone: the process before has tagged them for itself.
        sockets.iter().for_each(|socket| tag(socket.as_fd()));
        let mut bound_at = sockets.first().map_or(Ok(*address), TcpListener::local_addr)?;
        while sockets.len() < workers {
            let socket = bound(bound_at, true)?;
            tag(socket.as_fd());
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            bound_at = socket.local_addr()?.as_socket().unwrap_or(bound_at);
            sockets.push(TcpListener::from(socket));
        }
        let inodes = sockets.iter().map(inode).collect::<Result<_, _>>()?;
        let kept = sockets.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?;
        let place = Arc::new(Place { asked: *address, owner: AtomicU32::new(*entry_point) });
        let (key, name) = (self.next_key, name.clone());
        self.next_key += 1;
        Ok((Open { key, place, bound: bound_at, name, inodes, sockets: kept, state: State::Wanted }, sockets))
    }

    /// Whether nobody else listens there.
    fn may_listen(&self, address: SocketAddr) -> io::Result<()> {
        if address.port() == 0 {
            return Ok(());
        }
        // Without SO_REUSEPORT first: with it, two processes of one user would share the port without a word.
        let Err(error) = bound(address, false) else { return Ok(()) };
        let ours = self.open.iter().any(|open| overlap(open.bound, address)) || !self.inherited_inodes.is_empty();
        if error.kind() != io::ErrorKind::AddrInUse || !ours {
            return Err(error);
        }
        let open = self.open.iter().flat_map(|open| &open.inodes);
        let inodes = open.chain(&self.inherited_inodes).copied().collect();
        match has_neighbour(address, &inodes) {
            Ok(false) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Open {
    /// Whether it is what is wanted, or becomes it by a change of its owner.
    fn fits(&self, wanted: &Wanted) -> bool {
        let same_owner = self.place.owner.load(Ordering::Relaxed) == wanted.entry_point;
        self.state != State::Closed
            && self.place.asked == wanted.address
            // Port 0 is another port each time.
            && (wanted.address.port() != 0 || same_owner)
    }

    fn belongs_to(&mut self, wanted: &Wanted, state: State) {
        self.place.owner.store(wanted.entry_point, Ordering::Relaxed);
        self.name.clone_from(&wanted.name);
        self.state = state;
    }

    /// As something that others may be measured by.
    fn as_wanted(&self) -> Wanted {
        let entry_point = self.place.owner.load(Ordering::Relaxed);
        Wanted { entry_point, name: self.name.clone(), address: self.bound }
    }
}

fn inode(socket: &TcpListener) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket.as_fd())?.st_ino)
}

fn bound(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if !share {
        // Another listener shows only here: SO_REUSEADDR lets bind pass beside it.
        socket.listen(1)?;
    }
    Ok(socket)
}
