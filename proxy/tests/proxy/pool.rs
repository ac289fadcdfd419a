//! Connections to servers that idle: what they hold after a while, and that they serve on.

use std::sync::mpsc;

use super::*;

/// So many that their state is worth giving back.
const SERVERS: usize = 250;

#[test]
fn connections_to_servers_that_idle_hold_no_buffers_and_serve_on() {
    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
    let server = upstream(ok("x"));
    let give_back = || {
        GIVEN_BACK.fetch_add(1, Ordering::SeqCst);
        true
    };
    let upstreams = vec![(server, 1); SERVERS];
    let mut world = Setup { upstreams, give_back, ..Setup::to(server) }.start();
    let mut client = world.connect();
    let ask_all = |client: &mut TcpStream| {
        for _ in 0..SERVERS {
            client.write_all(get("/").as_bytes()).unwrap();
            assert_eq!(response(client).1, b"x");
        }
    };
    ask_all(&mut client);
    assert!(world.records(SERVERS).iter().all(|left| !left.attempts[0].reused));
    let until = patience() + Duration::from_secs(10);
    while GIVEN_BACK.load(Ordering::SeqCst) == 0 {
        assert!(patience() < until, "they hold what they hold");
        std::thread::sleep(Duration::from_millis(20));
    }
    ask_all(&mut client);
    let again = world.records(SERVERS);
    assert!(again.iter().all(|left| left.attempts[0].reused && left.attempts[0].response_start > 0));
}

#[test]
fn a_connection_that_the_server_closed_or_spoke_on_while_it_was_folded_is_replaced() {
    for last_words in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
        let (told, tell) = mpsc::channel::<TcpStream>();
        let server = upstream(move |_, stream| {
            told.send(stream.try_clone().unwrap()).unwrap();
            ok("x")("", stream)
        });
        let mut world = Setup::to(server).start();
        let mut client = world.connect();
        for round in 0..2 {
            client.write_all(get("/").as_bytes()).unwrap();
            assert_eq!(response(&mut client).1, b"x");
            let left = &world.records(1)[0];
            assert_eq!((left.attempts.len(), left.attempts[0].reused), (1, false), "round {round}");
            // Time itself is the condition: connections fold after a second without a request, at the next sweep.
            std::thread::sleep(Duration::from_millis(1600));
            let mut stream = tell.recv().unwrap();
            stream.write_all(last_words).unwrap();
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
}
