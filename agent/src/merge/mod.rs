//! Records and marks to attributed requests: pure and deterministic, no clock, no IO. Writing spans is `export`'s.

pub mod phase;
