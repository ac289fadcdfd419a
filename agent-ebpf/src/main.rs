//! The eBPF programs, one to a file, each on one tracepoint of the kernel's socket layer. What they leave in the maps
//! is laid out by `abi`; reading it, and deciding what is watched, belongs to the agent.
//!
//! A program reads its arguments, updates one slot and returns 0. Sockets that are not ours leave after one look-up.
#![no_std]
#![no_main]
#![deny(unused_must_use)]

mod ack;
mod backend;
mod data_ready;
mod destroy;
mod idle;
mod maps;
mod resent;
mod set_state;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the programs can panic; the verifier refuses an endless loop, so a panic could not be loaded either.
    loop {}
}

/// The verifier lets only programs under the GPL, or a licence beside it, read the members of `struct tcp_sock`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
