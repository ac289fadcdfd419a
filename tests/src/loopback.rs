//! Private loopback addresses: every server that insists on fixed ports gets an address of its own in 127.0.0.0/8, so
//! that well-known ports never collide and no port has to be guessed.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Result, bail};

// Servers of one process at most; beyond, its first octets repeat and the probe below finds a free one or says so.
static NEXT: AtomicU8 = AtomicU8::new(0);

/// An address of 127.0.0.0/8 on which none of `ports` is taken, different at each call and in each process.
///
/// # Errors
/// None of 64 candidates was free.
pub fn private_loopback(ports: &[u16]) -> Result<Ipv4Addr> {
    for _ in 0..64 {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        // 127.64.0.0 to 127.127.255.255: clear of 127.0.0.x and of systemd-resolved's 127.0.0.53.
        let second = 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 64;
        // The last octet is neither 0 nor 255: some tools take those for network and broadcast.
        let address = Ipv4Addr::new(127, second, high, low.clamp(1, 254));
        if ports.iter().all(|port| TcpListener::bind((address, *port)).is_ok()) {
            return Ok(address);
        }
    }
    bail!("no loopback address with free ports {ports:?}; are servers of an earlier run still up?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_give_two_addresses_and_a_taken_port_is_avoided() -> Result<()> {
        let first = private_loopback(&[16686])?;
        let _taken = TcpListener::bind((first, 16686))?;
        NEXT.fetch_sub(1, Ordering::Relaxed);
        assert_ne!(private_loopback(&[16686])?, first);
        Ok(())
    }
}
