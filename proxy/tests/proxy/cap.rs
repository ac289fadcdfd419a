//! A cap on connections to a server: it holds for all workers together, whoever waits gets a turn, and records say how
//! long that took.

use std::collections::HashSet;
use std::sync::{Mutex, mpsc};

use super::*;

/// A server that counts its connections and the requests that it has at once, each on a connection of its own.
struct Counted {
    address: SocketAddr,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

/// Each request is answered when `hold` returns.
fn counted(hold: impl Fn(&str) + Send + Sync + 'static) -> Counted {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let [now, most, accepted] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let counted = Counted { address, now: Arc::clone(&now), most: Arc::clone(&most), accepted: Arc::clone(&accepted) };
    let hold = Arc::new(hold);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, hold) = (stream.unwrap(), Arc::clone(&hold));
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            accepted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                while let Some(head) = read_head(&mut stream) {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    hold(&head);
                    // Before the answer: the next request may come on another connection as soon as it is read.
                    now.fetch_sub(1, Ordering::SeqCst);
                    if !ok("hi")(&head, &mut stream) {
                        break;
                    }
                }
            });
        }
    });
    counted
}

/// A server that holds requests for `/held` until it is told to answer.
fn holding() -> (Counted, mpsc::Sender<()>) {
    let (go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let server = counted(move |head| {
        if head.contains("/held") {
            let _ = held.lock().unwrap().recv();
        }
    });
    (server, go)
}

impl Counted {
    /// Waits until a request is there.
    fn is_busy(&self) {
        let until = patience() + Duration::from_secs(10);
        while self.now.load(Ordering::SeqCst) == 0 {
            assert!(patience() < until, "no request came");
            std::thread::yield_now();
        }
    }
}

fn capped(max: usize, server: SocketAddr) -> Setup {
    Setup { cap: Some(Cap::new(max)), workers: 2, ..Setup::to(server) }
}

fn pool_wait(left: &Left) -> u64 {
    left.attempts[0].chosen.since(left.head.upstream_wanted)
}

/// Connections whose requests each worker serves: one for either.
fn one_for_each_worker(world: &mut World) -> [TcpStream; 2] {
    let mut of: [Option<TcpStream>; 2] = [None, None];
    while of.iter().any(Option::is_none) {
        let mut client = world.connect();
        client.write_all(b"GET /none HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        response(&mut client);
        let worker = usize::from(world.records(1)[0].head.worker);
        of[worker].get_or_insert(client);
    }
    of.map(Option::unwrap)
}

#[test]
fn a_request_that_waits_for_a_connection_says_so_on_either_worker() {
    let (server, go) = holding();
    let mut world = capped(1, server.address).start();
    let mut clients = one_for_each_worker(&mut world);
    for (holder, waiter) in [(0, 0), (0, 1), (1, 0)] {
        let mut other = if holder == waiter {
            // A second connection of the same worker.
            loop {
                let mut client = world.connect();
                client.write_all(b"GET /none HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
                response(&mut client);
                if usize::from(world.records(1)[0].head.worker) == waiter {
                    break client;
                }
            }
        } else {
            clients[waiter].try_clone().unwrap()
        };
        clients[holder].write_all(get("/held").as_bytes()).unwrap();
        server.is_busy();
        std::thread::sleep(Duration::from_millis(10));
        other.write_all(get("/waits").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        go.send(()).unwrap();
        response(&mut clients[holder]);
        response(&mut other);
        let left = world.records(2);
        let waited = left.iter().find(|left| left.path == "/waits").unwrap();
        let case = format!("{holder} {waiter} {waited:#?}");
        assert_eq!(usize::from(waited.head.worker), waiter, "{case}");
        assert!((40_000_000..500_000_000).contains(&pool_wait(waited)), "{case}");
        assert_eq!(waited.attempts[0].reused, holder == waiter, "{case}");
        let holding = left.iter().find(|left| left.path == "/held").unwrap();
        assert!(holding.attempts[0].ended <= waited.attempts[0].chosen, "{case}");
    }
    assert_eq!(server.most.load(Ordering::SeqCst), 1, "more connections than the cap");
    world.drain();
}

#[test]
fn an_idle_connection_of_another_workers_starves_nobody() {
    let server = counted(|_| ());
    let mut world = capped(1, server.address).start();
    let clients = one_for_each_worker(&mut world);
    for turn in 0..20 {
        let mut client = &clients[turn % 2];
        client.write_all(get("/").as_bytes()).unwrap();
        let mut stream = client.try_clone().unwrap();
        assert!(response(&mut stream).0.starts_with("HTTP/1.1 200"));
        let left = &world.records(1)[0];
        // Far below any patience: the other worker was asked to let go.
        assert!(pool_wait(left) < 1_000_000_000, "{left:#?}");
        assert!(!left.attempts[0].reused, "{left:#?}");
    }
    assert_eq!((server.most.load(Ordering::SeqCst), server.accepted.load(Ordering::SeqCst)), (1, 20));
    world.drain();
}

#[test]
fn many_wait_and_all_get_their_turn() {
    let server = counted(|_| std::thread::sleep(Duration::from_millis(2)));
    let mut world = capped(3, server.address).start();
    let clients: Vec<TcpStream> = (0..24).map(|_| world.connect()).collect();
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for _ in 0..20 {
                    client.write_all(get("/").as_bytes()).unwrap();
                    assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
                }
            });
        }
    });
    let left = world.records(24 * 20);
    assert!(server.most.load(Ordering::SeqCst) <= 3, "more connections than the cap");
    // Most go over kept connections: they are handed on, not closed and opened.
    let accepted = server.accepted.load(Ordering::SeqCst);
    assert!(accepted < 240, "{accepted} connections for 480 requests");
    assert!(left.iter().all(|left| left.head.status == 200 && left.attempts.len() == 1));
    // 24 clients, 3 connections: a turn takes 8 requests' time; nobody waits many times longer.
    let mut waits: Vec<u64> = left.iter().map(pool_wait).collect();
    waits.sort_unstable();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(median > 2_000_000, "nobody waited: {median}");
    assert!(longest < 20 * median + 200_000_000, "{longest} ns, half of them waited {median} or less");
    let workers: HashSet<u16> = left.iter().map(|left| left.head.worker).collect();
    assert_eq!(workers.len(), 2, "all connections came to one worker");
    world.drain();
}

#[test]
fn who_waits_too_long_gets_a_503_and_who_leaves_gives_its_turn_on() {
    let (server, go) = holding();
    let timeouts = Timeouts { connect: Duration::from_millis(600), ..Timeouts::default() };
    let mut world = Setup { timeouts, ..capped(1, server.address) }.start();
    let mut holder = world.connect();
    holder.write_all(get("/held").as_bytes()).unwrap();
    server.is_busy();
    // One that loses its patience.
    let mut late = world.connect();
    late.write_all(get("/late").as_bytes()).unwrap();
    let (head, _) = response(&mut late);
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    let left = &world.records(1)[0];
    assert_eq!((left.head.error, left.attempts.len()), (ErrorKind::TooManyConnections, 0));
    let waited = left.head.head_written.since(left.head.upstream_wanted);
    assert!(waited >= 600_000_000, "{waited}");
    // One that leaves, and one behind it that gets the connection.
    let mut gone = world.connect();
    gone.write_all(get("/gone").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let mut patient = world.connect();
    patient.write_all(get("/patient").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    drop(gone);
    let left = &world.records(1)[0];
    assert_eq!((left.path.as_str(), left.head.end, left.attempts.len()), ("/gone", End::ClientGone, 0));
    go.send(()).unwrap();
    assert!(response(&mut patient).0.starts_with("HTTP/1.1 200"));
    response(&mut holder);
    world.records(2);
    assert_eq!(server.most.load(Ordering::SeqCst), 1);
    world.drain();
}

#[test]
fn clients_that_come_and_go_leave_no_place_behind() {
    let server = counted(|_| std::thread::sleep(Duration::from_millis(3)));
    let mut world = capped(2, server.address).start();
    let address = world.address;
    std::thread::scope(|scope| {
        for client in 0..6_u64 {
            scope.spawn(move || {
                for turn in 0..30_u64 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(get("/").as_bytes()).unwrap();
                    if (client + turn) % 3 == 0 {
                        response(&mut stream);
                    } else {
                        std::thread::sleep(Duration::from_millis((client * 7 + turn) % 9));
                    }
                }
            });
        }
    });
    world.records(6 * 30);
    // All places are there again: both workers are served at once.
    for mut client in one_for_each_worker(&mut world) {
        client.write_all(get("/").as_bytes()).unwrap();
        assert!(response(&mut client).0.starts_with("HTTP/1.1 200"));
        assert!(pool_wait(&world.records(1)[0]) < 1_000_000_000);
    }
    world.drain();
}
