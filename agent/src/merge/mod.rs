//! Records and marks to attributed requests: pure and deterministic, no clock, no IO. The thread that pumps records
//! through it is `pump`. Writing spans is `export`'s.

pub mod attribute;
mod backend;
mod coverage;
pub mod late;
pub mod phase;
pub mod pump;
