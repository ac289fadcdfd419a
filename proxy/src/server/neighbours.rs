//! Who else listens on a port. Only asked where our own sockets hide it: with SO_REUSEPORT the kernel lets sockets of one
//! user share a port, whichever process they belong to, and tells nobody.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether a listener that is none of `ours`, by inode, would share this address.
pub(super) fn has_neighbour(address: SocketAddr, ours: &HashSet<u64>) -> io::Result<bool> {
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match File::open(table) {
            Ok(file) => {
                if finds(BufReader::new(file), address, ours)? {
                    return Ok(true);
                }
            }
            // A node without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn finds(table: impl io::BufRead, address: SocketAddr, ours: &HashSet<u64>) -> io::Result<bool> {
    for line in table.lines().skip(1) {
        let line = line?;
        // Listeners stand first, and before the node's connections, which may be many (net/ipv4/tcp_ipv4.c,
        // tcp_seq_start).
        let Some((other, inode)) = listener(&line) else { break };
        if overlap(other, address) && !ours.contains(&inode) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A line of a listener: its address and inode.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    let mut words = line.split_ascii_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let inode = words.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let address = (state == LISTEN).then(|| ip(address))??;
    Some((SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?), inode))
}

/// The kernel prints an address as numbers of 32 bits in the order of this machine.
fn ip(text: &str) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let count = text.len() / 8;
    for (index, out) in bytes.chunks_exact_mut(4).take(count).enumerate() {
        let word = text.get(index * 8..index * 8 + 8)?;
        out.copy_from_slice(&u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    match count {
        1 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        4 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// Whether some connection could come to either.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    covers(a, b) || covers(b, a) || (a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical())
}

/// Whether all connections to `narrow` would come to `wide` if nobody listened there. IPv6's wildcard is ours for both
/// families; a foreign one may not be, which its table does not tell.
pub(super) fn covers(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let family = match wide.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        IpAddr::V4(ip) if ip.is_unspecified() => narrow.ip().to_canonical().is_ipv4(),
        _ => false,
    };
    family && wide.port() == narrow.port() && wide.ip() != narrow.ip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_a_connection_could_come_to_both() {
        for (a, b, covered, overlapping) in [
            ("[::]:1", "127.0.0.1:1", true, true),
            ("[::]:1", "0.0.0.0:1", true, true),
            ("[::]:1", "[::1]:1", true, true),
            ("[::]:1", "[::]:1", false, true),
            ("[::]:1", "127.0.0.1:2", false, false),
            ("0.0.0.0:1", "127.0.0.1:1", true, true),
            ("0.0.0.0:1", "[::ffff:127.0.0.1]:1", true, true),
            ("0.0.0.0:1", "[::1]:1", false, false),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", false, true),
            ("127.0.0.1:1", "127.0.0.2:1", false, false),
        ] {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((covers(a, b), overlap(a, b), overlap(b, a)), (covered, overlapping, overlapping), "{a} {b}");
            assert!(!covers(b, a), "{b} {a}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_read_up_to_its_first_connection() {
        const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        const V4: &str =
            "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100\n";
        const V6: &str = "   1: 00000000000000000000000001000000:1F41 00000000000000000000000000000000:0000 0A \
            00000000:00000000 00:00000000 00000000  1000        0 22 1 0 100\n";
        const OPEN: &str =
            "   2: 0100007F:1F40 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 33 1\n";
        let check = |lines: &[&str], address: &str, ours: &[u64], want: bool| {
            let table = [&[HEAD], lines].concat().concat();
            let ours = ours.iter().copied().collect();
            assert_eq!(finds(table.as_bytes(), address.parse().unwrap(), &ours).unwrap(), want, "{table}{address}");
        };
        check(&[V4, V6, OPEN], "127.0.0.1:8000", &[], true);
        check(&[V4, V6, OPEN], "127.0.0.1:8000", &[11], false);
        check(&[V4, V6, OPEN], "0.0.0.0:8000", &[22, 33], true);
        check(&[V4, V6, OPEN], "[::1]:8001", &[], true);
        check(&[V4, V6, OPEN], "127.0.0.1:8001", &[], false);
        check(&[OPEN, V4], "127.0.0.1:8000", &[], false);
        for hostile in ["", "x", "0: 0100007F 0 0A", "0: 0100007F:1F40 0 0A 0 0 0 0 0 x", "0: 7F:1F40 0 0A 0 0 0 0 0 1"]
        {
            check(&[hostile], "127.0.0.1:8000", &[], false);
        }
    }

    #[test]
    fn a_listener_of_this_process_is_found_by_its_inode() {
        use std::os::fd::AsFd as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(listener.as_fd()).unwrap().st_ino;
        let at = listener.local_addr().unwrap();
        assert!(has_neighbour(at, &HashSet::new()).unwrap());
        assert!(!has_neighbour(at, &HashSet::from([inode])).unwrap());
    }
}
