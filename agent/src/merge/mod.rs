//! Records and marks to attributed requests: pure and deterministic, no clock, no IO. Only `pump`, whose thread records go
//! through, reads a clock. Writing spans is `export`'s.

pub mod attribute;
mod backend;
pub(crate) mod coverage;
pub mod gaps;
#[cfg(test)]
mod joins;
pub mod late;
pub mod phase;
pub mod pump;
#[cfg(test)]
mod seed;
pub mod waiting;
