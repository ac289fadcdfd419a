//! More marks than a slot keeps: what came first keeps its time.

use std::io::{Read, Write};
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, SocketObserver};

use super::{accept, assert_order, connect, load, watched};

pub(super) fn a_burst_longer_than_the_ring_keeps_its_first_byte() {
    const BURST: u64 = 40;
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let listener = watched(&observer);
    let mut client = connect(&listener);
    let (mut server, token) = accept(&listener, &observer);
    for round in 0..3 {
        let hits = probes.counters().of("sk_data_ready").hits;
        let start = round * BURST;
        let sending = MonoNs::now();
        client.write_all(b"x").unwrap();
        server.peek(&mut [0]).unwrap();
        let peeked = MonoNs::now();
        for _ in 1..BURST {
            client.write_all(b"x").unwrap();
            // The answer acknowledges the byte, so the next one is sent at once and alone.
            server.write_all(b"y").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        server.read_exact(&mut vec![0; usize::try_from(BURST).unwrap()]).unwrap();
        let marks = observer.marks(token, start..start + BURST);
        assert!(probes.counters().of("sk_data_ready").hits - hits > 20, "the burst was not longer than the ring");
        assert_eq!(marks.missing, Missing::NOTHING, "round {round}");
        assert_order(&[("send", sending), ("first", marks.first), ("peek", peeked), ("last", marks.last)]);
        assert_eq!(observer.marks(token, start + 1..start + 2).missing, Missing::OVERWRITTEN, "round {round}");
    }
}

/// A body as the proxy reads it: of each read the first byte is asked for, and then it is told how far the read came.
pub(super) fn a_burst_behind_any_number_of_reads_keeps_its_first_byte() {
    const PIECE: &[u8] = b"piece";
    let length = u64::try_from(PIECE.len()).unwrap();
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    for reads in 0..6 {
        let listener = watched(&observer);
        let mut client = connect(&listener);
        let (mut server, token) = accept(&listener, &observer);
        let mut read = 0;
        for _ in 0..=reads {
            let sending = MonoNs::now();
            client.write_all(PIECE).unwrap();
            server.read_exact(&mut vec![0; PIECE.len()]).unwrap();
            let marks = observer.marks(token, read..read + 1);
            read += length;
            observer.marks(token, read..read);
            assert_eq!(marks.missing, Missing::NOTHING, "{reads} reads");
            assert_order(&[("send", sending), ("readable", marks.first), ("read", MonoNs::now())]);
        }
        let hits = probes.counters().of("sk_data_ready").hits;
        let sending = MonoNs::now();
        client.write_all(b"x").unwrap();
        server.peek(&mut [0]).unwrap();
        let peeked = MonoNs::now();
        for _ in 0..40 {
            // As above, each is sent alone.
            server.write_all(b"y").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.write_all(b"x").unwrap();
        }
        server.read_exact(&mut [0; 41]).unwrap();
        assert!(probes.counters().of("sk_data_ready").hits - hits > 20, "the burst was not longer than the ring");
        let marks = observer.marks(token, read..read + 1);
        assert_eq!(marks.missing, Missing::NOTHING, "{reads} reads");
        assert_order(&[("send", sending), ("readable", marks.first), ("peek", peeked)]);
    }
}
