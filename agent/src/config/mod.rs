//! The configuration: [`model`] is what the rest of the agent sees, checked and with defaults. Reading files, finding
//! faults and watching for changes are this module's other parts.

pub mod model;
