//! An update without a gap: the agent that starts gets the listening sockets of the one that runs, through a socket whose
//! name both know, and from then on both accept from them until the first one ends. A listening socket lives for as long
//! as anybody has it, and with it the clients whose handshake is under way or who wait to be accepted: none is lost,
//! whenever the first agent closes it. Where the two meet is an abstract name, which belongs to a network namespace as
//! ports do. Who drains when is `app`'s.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net as unix;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{info, warn};
use wayspan_proxy::server::Sockets;

/// An answer takes far less than a millisecond, once the agent that has the name is through with its own start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to have the name, where somebody has it who gave us nothing.
const RETRY: Duration = Duration::from_millis(500);
/// Sockets in one message: the kernel takes 253 (SCM_MAX_FD in include/net/scm.h).
const SOCKETS_MAX: usize = 64;
/// A message's text: an address, and a few words around it.
const TEXT_BYTES_MAX: usize = 512;
/// An abstract name's bytes beside ours (unix(7): 108 with the zero in front of it).
pub const NAME_BYTES_MAX: usize = 80;

/// What goes with the sockets of one message. Fields that it does not know an older agent leaves alone.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Told {
    #[serde(default)]
    whose: Whose,
    /// As the configuration has it; of the name it says nothing.
    address: SocketAddr,
    /// Messages that follow.
    left: usize,
}

/// Whose sockets a message has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Whose {
    /// Where the next agent asks.
    Name,
    Api,
    #[default]
    EntryPoint,
}

/// What an agent listens with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The api's, and its address as the configuration had it.
    pub api: Option<(SocketAddr, TcpListener)>,
    /// Those of entry points.
    pub entry_points: Vec<Sockets>,
    /// Where the next agent asks: there is no moment in which nobody has the name.
    pub name: Option<unix::UnixListener>,
}

/// The sockets of the agent that has this name at the moment; nothing where there is none.
///
/// # Errors
/// There is one, and it did not give them, or is another user's.
pub async fn inherit(name: &str) -> io::Result<Inheritance> {
    match connect(name) {
        Ok(stream) => timeout(PATIENCE, take(&stream)).await?,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Inheritance::default()),
        Err(error) => Err(error),
    }
}

async fn take(stream: &UnixStream) -> io::Result<Inheritance> {
    let mut inherited = Inheritance::default();
    loop {
        let (told, sockets) = stream.async_io(Interest::READABLE, || receive(stream)).await?;
        let first = |sockets: Vec<TcpListener>| sockets.into_iter().next();
        match told.whose {
            Whose::Name => inherited.name = first(sockets).map(|socket| OwnedFd::from(socket).into()),
            Whose::Api => inherited.api = first(sockets).map(|socket| (told.address, socket)),
            Whose::EntryPoint => {
                match inherited.entry_points.iter_mut().find(|(address, _)| *address == told.address) {
                    Some((_, known)) => known.extend(sockets),
                    None => inherited.entry_points.push((told.address, sockets)),
                }
            }
        }
        if told.left == 0 {
            return Ok(inherited);
        }
    }
}

/// What we give to an agent after us.
#[derive(Debug)]
pub struct Offer {
    name: String,
    /// The name is ours.
    listener: Option<UnixListener>,
    api: Option<(SocketAddr, TcpListener)>,
}

impl Offer {
    /// Offers the api's socket and, when asked, those of entry points. `inherited` is the name from the agent before; without it
    /// the name is taken now, or as soon as nobody has it.
    #[must_use]
    pub fn new(name: &str, inherited: Option<unix::UnixListener>, api: Option<(SocketAddr, TcpListener)>) -> Self {
        let listener = inherited.map_or_else(|| listen(name), UnixListener::from_std).ok();
        Self { name: name.to_owned(), listener, api }
    }

    /// Waits for an agent that asks. Cancel-safe.
    pub async fn asked(&mut self) -> UnixStream {
        loop {
            let Some(listener) = &self.listener else {
                match listen(&self.name) {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
                continue;
            };
            let asked = listener.accept().await.and_then(|(stream, _)| is_ours(&stream).map(|()| stream));
            match asked {
                Ok(stream) => return stream,
                Err(error) => {
                    warn!(%error, "handOver.name: somebody asked in vain for the listening sockets");
                    // Out of descriptors, trying again at once would only spin.
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Gives everything to who asked. What it does not take it does not get: we go on in any case.
    pub fn give(&self, stream: &UnixStream, entry_points: &[Sockets]) {
        match self.send(stream, entry_points) {
            Ok(sockets) => info!(sockets, "listening sockets given to the next agent"),
            Err(error) => warn!(%error, "the next agent did not take the listening sockets"),
        }
    }

    fn send(&self, stream: &UnixStream, entry_points: &[Sockets]) -> io::Result<usize> {
        // Who does not read is not waited for: what there is fits into the socket's buffer.
        const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let name = self.listener.iter().map(|listener| (Whose::Name, NOWHERE, vec![listener.as_fd()]));
        let api = self.api.iter().map(|(address, socket)| (Whose::Api, *address, vec![socket.as_fd()]));
        let entry_points = entry_points.iter().flat_map(|(address, sockets)| {
            let parts = sockets.chunks(SOCKETS_MAX);
            parts.map(|part| (Whose::EntryPoint, *address, part.iter().map(AsFd::as_fd).collect::<Vec<_>>()))
        });
        let messages: Vec<_> = name.chain(api).chain(entry_points).collect();
        let mut sent = 0;
        for (index, (whose, address, sockets)) in messages.iter().enumerate() {
            send(stream, &Told { whose: *whose, address: *address, left: messages.len() - index - 1 }, sockets)?;
            sent += if *whose == Whose::Name { 0 } else { sockets.len() };
        }
        Ok(sent)
    }
}

fn send(stream: &UnixStream, told: &Told, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(told)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(sockets));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&text)], &mut rights, SendFlags::NOSIGNAL)?;
    if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// One message. The kernel joins no two that carry descriptors (net/unix/af_unix.c, unix_stream_read_generic).
fn receive(stream: &UnixStream) -> io::Result<(Told, Vec<TcpListener>)> {
    let mut text = [0; TEXT_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let sockets: Vec<TcpListener> = rights
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.collect::<Vec<OwnedFd>>(),
            _ => Vec::new(),
        })
        .map(TcpListener::from)
        .collect();
    let told: Told = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    if sockets.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} came without a socket", told.address)));
    }
    Ok((told, sockets))
}

fn address(name: &str) -> io::Result<unix::SocketAddr> {
    unix::SocketAddr::from_abstract_name(format!("wayspan/{name}"))
}

fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = unix::UnixListener::bind_addr(&address(name)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn connect(name: &str) -> io::Result<UnixStream> {
    let stream = unix::UnixStream::connect_addr(&address(name)?)?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    is_ours(&stream).map(|()| stream)
}

/// An abstract name has no owner and no mode: whoever has another user at its end is refused. One with our user could
/// share the ports by itself. (Not rustix's question, whose answer has no place for a process that another PID namespace hides.)
fn is_ours(stream: &UnixStream) -> io::Result<()> {
    let other = stream.peer_cred()?.uid();
    if other == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the other end is user {other}'s")))
}

/// Says to `wayspan healthcheck` how this agent is. Who shares a port with another agent cannot ask there: either answers.
#[derive(Debug)]
pub struct Health {
    listener: UnixListener,
    draining: Arc<AtomicBool>,
}

impl Health {
    /// From now on it is up.
    ///
    /// # Errors
    /// The pod has one already.
    pub fn up(pod: &str, draining: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self { listener: listen(&health(pod))?, draining })
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let told = if self.draining.load(Ordering::Relaxed) { DRAINING } else { READY };
            // Who is gone does not want it.
            let _ = stream.write_all(told.as_bytes()).await;
        }
    }
}

const READY: &str = "ready\n";
const DRAINING: &str = "draining\n";

/// How the agent of this pod is, as it says itself; whether that is ready.
///
/// # Errors
/// It is not up yet, or does not answer.
pub async fn ask_health(pod: &str) -> io::Result<(bool, String)> {
    let mut told = String::new();
    timeout(PATIENCE, connect(&health(pod))?.read_to_string(&mut told)).await??;
    Ok((told == READY, told.trim().to_owned()))
}

fn health(pod: &str) -> String {
    format!("health/{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that nobody else has.
    fn name(of: &str) -> String {
        format!("test/{of}/{}", std::process::id())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn listener() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    #[test]
    fn sockets_go_to_the_next_agent_with_those_who_wait_there() {
        let name = name("given");
        let (api, web) = (listener(), listener());
        // More than one message holds.
        let many: Vec<TcpListener> = (0..SOCKETS_MAX + 3).map(|_| web.1.try_clone().unwrap()).collect();
        let (web_address, entry_points) = (web.0, vec![(web.0, many)]);
        drop(web);
        let waiting = std::net::TcpStream::connect(web_address).unwrap();
        let inherited = runtime().block_on(async {
            let mut offer = Offer::new(&name, None, Some(api));
            let gives = async {
                let stream = offer.asked().await;
                offer.give(&stream, &entry_points);
            };
            // The name is taken at the first turn of the one that gives.
            tokio::join!(gives, inherit(&name)).1.unwrap()
        });
        assert!(inherited.api.is_some());
        // The name stays: who asks when the first is gone waits for the second.
        let asks = unix::UnixStream::connect_addr(&super::address(&name).unwrap()).unwrap();
        let (_, asked) = (asks, inherited.name.as_ref().unwrap().accept().unwrap());
        drop(asked);
        let [(address, sockets)] = &inherited.entry_points[..] else { panic!("{inherited:?}") };
        assert_eq!((*address, sockets.len()), (web_address, SOCKETS_MAX + 3));
        // Ours close; whoever came meanwhile is still there for the next.
        drop(entry_points);
        let (_, peer) = sockets[0].accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
    }

    #[test]
    fn nobody_there_is_nothing_and_a_broken_gift_a_fault() {
        let runtime = runtime();
        let nobody = name("nobody");
        assert!(runtime.block_on(inherit(&nobody)).unwrap().entry_points.is_empty());
        let name = name("broken");
        for text in ["", "{\"address\": \"127.0.0.1:1\", \"left\": 0}", "nonsense"] {
            let got = runtime.block_on(async {
                let broken = listen(&name).unwrap();
                let gives = async { broken.accept().await.unwrap().0.write_all(text.as_bytes()).await.unwrap() };
                tokio::join!(gives, inherit(&name)).1
            });
            assert!(got.is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_message_with_more_fields_is_understood() {
        let told: Told = serde_json::from_str(r#"{"address": "[::]:80", "left": 2, "later": true}"#).unwrap();
        assert_eq!(told, Told { whose: Whose::EntryPoint, address: "[::]:80".parse().unwrap(), left: 2 });
    }

    #[test]
    fn health_is_told_by_the_pods_own_agent_once_it_is_up() {
        let pod = name("pod");
        runtime().block_on(async {
            assert!(ask_health(&pod).await.is_err());
            let draining = Arc::new(AtomicBool::new(false));
            let health = Health::up(&pod, Arc::clone(&draining)).unwrap();
            assert!(Health::up(&pod, Arc::default()).is_err());
            let asks = async {
                assert_eq!(ask_health(&pod).await.unwrap(), (true, "ready".to_owned()));
                draining.store(true, Ordering::Relaxed);
                assert_eq!(ask_health(&pod).await.unwrap(), (false, "draining".to_owned()));
            };
            tokio::select! {
                () = health.serve() => {}
                () = asks => {}
            }
        });
    }
}
