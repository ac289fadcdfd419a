//! Records and marks to attributed requests: pure and deterministic, no clock, no IO. Only `pump`, whose thread records go
//! through, reads a clock. Writing spans is `export`'s.

pub mod attribute;
mod backend;
mod coverage;
pub mod gaps;
pub mod late;
pub mod phase;
pub mod pump;
pub mod waiting;
