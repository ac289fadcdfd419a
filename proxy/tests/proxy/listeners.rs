//! Addresses that change while clients come: who has the port at each moment, and who keeps it where it cannot be had.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicBool;

use socket2::{Domain, Socket, Type};
use wayspan_proxy::server::ListenFault;
use wayspan_proxy::snapshot::Fixed;

use super::*;

/// An entry point that answers everything with its own name.
fn entry(id: u32, name: &'static str, addresses: &[SocketAddr]) -> Arc<EntryPoint> {
    let body = name.as_bytes().into();
    let route = Route {
        id,
        name: name.into(),
        traced: false,
        metered: true,
        tls_options: None,
        middlewares: [].into(),
        target: Target::Fixed(Arc::new(Fixed { status: 200, content_type: "text/plain", body })),
    };
    let rule = Rule::parse("PathPrefix(`/`)").unwrap();
    Arc::new(EntryPoint {
        id,
        name: name.into(),
        addresses: addresses.to_vec(),
        limits: Limits::default(),
        trusted: Vec::new(),
        trust_all: false,
        sanitize_path: true,
        traced: false,
        metered: true,
        routes: Arc::new(RouteTable::build(vec![(rule, 0.into(), Arc::new(route))])),
        tls: None,
    })
}

/// A proxy of some workers.
struct Ports {
    proxy: Proxy,
    _readers: Vec<RecordReader>,
    runtime: tokio::runtime::Runtime,
}

impl Ports {
    /// Of two workers, so that each address has a group of sockets.
    fn start() -> Self {
        Self::of(2)
    }

    fn of(workers: usize) -> Self {
        let settings = Settings {
            workers,
            pin: false,
            hostname: "test".to_owned(),
            bounds: Bounds::default(),
            give_back: || true,
        };
        let policy = Arc::new(ArcSwap::from_pointee(Policy::ratio(0.0)));
        let (proxy, _readers) = Proxy::start(&settings, Off(Missing::OFF), policy).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { proxy, _readers, runtime }
    }

    fn apply(&mut self, entry_points: &[Arc<EntryPoint>]) -> Vec<ListenFault> {
        let snapshot = Snapshot { entry_points: entry_points.to_vec(), ..Snapshot::default() };
        self.runtime.block_on(self.proxy.apply(snapshot))
    }

    /// Settles again and again until it has nothing left to do.
    fn settle(&mut self) {
        let until = patience() + Duration::from_secs(10);
        while !self.proxy.is_settled() {
            assert!(self.runtime.block_on(self.proxy.settle()).is_empty());
            assert!(patience() < until, "it does not settle");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn bound(&self) -> Vec<String> {
        self.proxy.addresses().into_iter().map(|(name, address)| format!("{name} {address}")).collect()
    }
}

/// A port that is free on all addresses.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Which entry point answers there, on a connection of its own.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

fn refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Clients that come one after the other until they are told to stop; everything they were answered.
fn clients(address: SocketAddr) -> impl FnOnce() -> Vec<String> {
    let stop = Arc::new(AtomicBool::new(false));
    let each = || {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                answers.push(ask(address).unwrap_or_else(|error| error.to_string()));
            }
            answers
        })
    };
    let threads = [each(), each(), each()];
    move || {
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// A listener of somebody else's, who shares with whom the kernel lets him.
fn foreign(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(8).unwrap();
    socket
}

#[test]
fn no_client_is_turned_away_while_an_address_widens_and_narrows() {
    let port = free_port();
    let (narrow, wide, widest) =
        (local(port), (Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into());
    let mut ports = Ports::start();
    assert!(ports.apply(&[entry(1, "web", &[narrow])]).is_empty());
    let stop = clients(narrow);
    for _ in 0..3 {
        for (address, elsewhere) in [(widest, true), (wide, true), (narrow, false), (wide, true), (narrow, false)] {
            let faults = ports.apply(&[entry(1, "web", &[address])]);
            assert!(faults.is_empty(), "{address}: {faults:?}");
            assert_eq!(ports.bound(), [format!("web {address}")]);
            ports.settle();
            let other = (Ipv4Addr::new(127, 0, 0, 2), port).into();
            assert_eq!(ask(other).is_ok(), elsewhere, "{address}");
        }
    }
    let answers = stop();
    let other: Vec<_> = answers.iter().filter(|answer| *answer != "web").collect();
    assert!(other.is_empty() && answers.len() > 100, "{other:?} of {}", answers.len());
}

#[test]
fn entry_points_swap_their_ports_at_once() {
    let (first, second) = (local(free_port()), local(free_port()));
    let mut ports = Ports::start();
    let (straight, crossed) = (
        [entry(1, "one", &[first]), entry(2, "two", &[second])],
        [entry(1, "one", &[second]), entry(2, "two", &[first])],
    );
    assert!(ports.apply(&straight).is_empty());
    let stop = clients(first);
    let kept_alive = TcpStream::connect(first).unwrap();
    for (now, at_first, at_second) in [(&crossed, "two", "one"), (&straight, "one", "two")] {
        assert!(ports.apply(now).is_empty());
        assert!(ports.proxy.is_settled(), "nothing is opened or closed");
        assert_eq!((ask(first).unwrap(), ask(second).unwrap()), (at_first.to_owned(), at_second.to_owned()));
    }
    // One of them goes, and the other takes its place.
    assert!(ports.apply(&[entry(2, "two", &[first])]).is_empty());
    assert_eq!(ask(first).unwrap(), "two");
    ports.settle();
    assert!(refused(second));
    let answers = stop();
    assert!(answers.iter().all(|answer| matches!(answer.as_str(), "one" | "two")), "{answers:?}");
    drop(kept_alive);
}

#[test]
fn an_address_of_somebody_elses_keeps_the_last_good_one_until_it_is_free() {
    let (old, new) = (local(free_port()), local(free_port()));
    let mut ports = Ports::start();
    assert!(ports.apply(&[entry(1, "web", &[old])]).is_empty());
    let taken = foreign(new);
    let faults = ports.apply(&[entry(1, "web", &[new])]);
    let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(&format!("entryPoints.web.address: cannot listen on {new}: ")), "{told:?}");
    assert_eq!((faults[0].address, faults[0].stays.as_slice()), (new, &[old][..]));
    assert!(!ports.proxy.is_settled(), "it wants to be tried again");
    assert_eq!(ports.runtime.block_on(ports.proxy.settle()).len(), 1);
    assert_eq!((ask(old).unwrap().as_str(), ports.bound()), ("web", vec![format!("web {old}")]));
    drop(taken);
    assert!(ports.runtime.block_on(ports.proxy.settle()).is_empty());
    assert_eq!((ask(new).unwrap().as_str(), ports.bound()), ("web", vec![format!("web {new}")]));
    ports.settle();
    assert!(refused(old));
}

#[test]
fn what_was_wanted_and_could_not_be_had_is_forgotten_with_the_next_snapshot() {
    let (old, new) = (local(free_port()), local(free_port()));
    let mut ports = Ports::start();
    let _taken = foreign(new);
    assert_eq!(ports.apply(&[entry(1, "web", &[old]), entry(2, "two", &[new])]).len(), 1);
    assert!(ports.apply(&[entry(1, "web", &[old])]).is_empty());
    assert!(ports.proxy.is_settled());
}

#[test]
fn a_port_is_not_shared_with_another_process_where_our_own_sockets_hide_it() {
    let port = free_port();
    let mut ports = Ports::start();
    assert!(ports.apply(&[entry(1, "web", &[local(port)])]).is_empty());
    // The kernel would let a wildcard of ours pass beside it, and give it the connections to its address.
    let other = foreign((Ipv4Addr::new(127, 0, 0, 2), port).into());
    for wide in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), (Ipv6Addr::UNSPECIFIED, port).into()] {
        let faults = ports.apply(&[entry(1, "web", &[wide])]);
        assert_eq!(faults.iter().map(|fault| fault.address).collect::<Vec<_>>(), [wide]);
        assert_eq!(ask(local(port)).unwrap(), "web");
    }
    drop(other);
    assert!(ports.runtime.block_on(ports.proxy.settle()).is_empty());
    assert_eq!(ask((Ipv4Addr::new(127, 0, 0, 2), port).into()).unwrap(), "web");
}

#[test]
fn the_more_exact_address_wins_as_in_the_kernel() {
    let port = free_port();
    let (exact, all) = (local(port), (Ipv4Addr::UNSPECIFIED, port).into());
    let (web, inner) = (entry(1, "web", &[all]), entry(2, "inner", &[exact]));
    let elsewhere = (Ipv4Addr::new(127, 0, 0, 2), port).into();
    let mut ports = Ports::start();
    assert!(ports.apply(&[Arc::clone(&web)]).is_empty());
    for (now, at_exact) in [(vec![Arc::clone(&web), inner], "inner"), (vec![web], "web")] {
        assert!(ports.apply(&now).is_empty());
        assert_eq!((ask(exact).unwrap().as_str(), ask(elsewhere).unwrap().as_str()), (at_exact, "web"));
    }
}

/// Reads a response and says whether it was the last of its connection.
fn turn(stream: &mut TcpStream) -> (String, bool) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (head, body) = response(stream);
    (String::from_utf8(body).unwrap(), head.to_ascii_lowercase().contains("connection: close"))
}

#[test]
fn connections_of_an_entry_point_that_is_gone_end_after_their_next_response() {
    let (first, second) = (local(free_port()), local(free_port()));
    let mut ports = Ports::start();
    let one = entry(1, "one", &[first]);
    assert!(ports.apply(&[Arc::clone(&one), entry(2, "two", &[second])]).is_empty());
    let open = |address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let (mut busy, mut idle, mut stays) = (open(second), open(second), open(first));
    for (stream, body) in [(&mut busy, "two"), (&mut idle, "two"), (&mut stays, "one")] {
        assert_eq!(turn(stream), (body.to_owned(), false));
    }
    assert!(ports.apply(&[Arc::clone(&one)]).is_empty());
    // It was promised a connection; what it asks for is still answered.
    assert_eq!(turn(&mut busy), ("two".to_owned(), true));
    assert!(closed(&mut busy) && closed(&mut idle), "both are closed without another word");
    ports.settle();
    assert!(refused(second));
    assert!(ports.apply(&[Arc::clone(&one)]).is_empty());
    assert_eq!(turn(&mut stays), ("one".to_owned(), false));
}

#[test]
fn clients_that_wait_to_be_accepted_when_a_listener_closes_are_served() {
    let (first, second) = (local(free_port()), local(free_port()));
    let mut ports = Ports::start();
    assert!(ports.apply(&[entry(1, "web", &[first])]).is_empty());
    let mut waiting: Vec<_> = (0..200).map(|_| TcpStream::connect(first).unwrap()).collect();
    assert!(ports.apply(&[entry(1, "web", &[second])]).is_empty());
    let answers = waiting.iter_mut().map(turn);
    assert!(answers.into_iter().all(|(body, _)| body == "web"));
    ports.settle();
    assert!(refused(first));
}

#[test]
fn sockets_go_from_one_proxy_to_the_next_and_no_client_is_turned_away() {
    let (address, dropped) = (local(free_port()), local(free_port()));
    let mut ports = Ports::of(2);
    assert!(ports.apply(&[entry(1, "web", &[address]), entry(2, "other", &[dropped])]).is_empty());
    let stop = clients(address);
    // As many sockets as workers, fewer, more.
    for workers in [2, 3, 1, 2, 1, 3, 2, 2, 2, 2] {
        let mut next = Ports::of(workers);
        next.proxy.inherit(ports.proxy.sockets().unwrap());
        assert!(next.apply(&[entry(7, "web", &[address])]).is_empty());
        let before = std::mem::replace(&mut ports, next);
        before.runtime.block_on(before.proxy.drain(Duration::from_secs(5)));
        let until = patience() + Duration::from_secs(10);
        while ports.proxy.counters().read().1.accepted < 10 {
            assert!(patience() < until, "the next takes no connections");
        }
    }
    let answers = stop();
    let other: Vec<_> = answers.iter().filter(|answer| *answer != "web").collect();
    assert!(other.is_empty() && answers.len() > 80, "{other:?} of {}", answers.len());
    assert!(refused(dropped), "what the next does not name is nobody's");
    ports.runtime.block_on(ports.proxy.drain(Duration::from_secs(5)));
    assert!(refused(address));
}

#[test]
fn an_address_beside_an_inherited_one_is_opened_while_the_process_before_still_has_it() {
    let port = free_port();
    let (narrow, wide) = (local(port), (Ipv6Addr::UNSPECIFIED, port).into());
    let mut before = Ports::start();
    assert!(before.apply(&[entry(1, "before", &[narrow])]).is_empty());
    let mut ports = Ports::start();
    ports.proxy.inherit(before.proxy.sockets().unwrap());
    assert!(ports.apply(&[entry(1, "after", &[wide])]).is_empty());
    before.runtime.block_on(before.proxy.drain(Duration::from_secs(5)));
    assert_eq!(ask(narrow).unwrap(), "after");
    // What was inherited is no reason to share with anybody else.
    let other = local(free_port());
    let _foreign = foreign(other);
    assert_eq!(ports.apply(&[entry(1, "after", &[other])]).len(), 1);
}

#[test]
fn connections_beyond_the_cap_are_neither_accepted_nor_open() {
    let address = local(free_port());
    let mut ports = Ports::start();
    let mut capped = (*entry(1, "web", &[address])).clone();
    capped.limits.connections_max = 1;
    assert!(ports.apply(&[Arc::new(capped)]).is_empty());
    let mut first = TcpStream::connect(address).unwrap();
    assert_eq!(turn(&mut first).0, "web");
    for _ in 0..5 {
        assert!(closed(&mut TcpStream::connect(address).unwrap()));
    }
    let totals = ports.proxy.counters().read().1;
    assert_eq!((totals.accepted, totals.refused), (1, 5));
    assert_eq!(ports.proxy.open_connections().read(), [(1, 1)]);
    drop(first);
    let until = patience() + Duration::from_secs(10);
    while ports.proxy.open_connections().read() != [(1, 0)] {
        assert!(patience() < until, "{:?}", ports.proxy.open_connections().read());
    }
    assert_eq!(turn(&mut TcpStream::connect(address).unwrap()).0, "web");
}
