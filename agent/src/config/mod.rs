//! The configuration: [`model`] is what the rest of the agent sees, checked and with defaults.
//!
//! A file becomes a tree with lines ([`yaml`]), is held against the table of known keys ([`schema`], [`unsupported`],
//! [`walk`]) and read part by part ([`fixed`], [`dynamic`], [`middleware`]); which files those are is [`files`]'s, what a reload keeps
//! is [`reload`]'s, and [`watch`] says when. [`resolve`] looks names up, and [`registry`] turns it all into what the
//! proxy runs on. Reading a configuration has no effect but its result.

mod bridge;
mod certificates;
mod cursor;
mod disputes;
mod dynamic;
mod fault;
mod files;
mod fixed;
pub(crate) mod fragment;
mod kubernetes;
mod middleware;
pub mod model;
mod reference;
mod registry;
mod reload;
mod resolve;
mod schema;
mod unsupported;
mod value;
mod walk;
mod watch;
mod yaml;

#[cfg(test)]
mod tests;

pub use disputes::{Dispute, disputes};
pub use fault::{Fault, counted};
pub use files::{Parsed, check};
pub use kubernetes::kubernetes_defaults;
pub(crate) use middleware::{by_name, expand};
pub use reference::reference;
pub(crate) use registry::Observed;
pub use registry::{Inputs, Registry, STAY};
pub use reload::{Reload, Reloader};
pub use resolve::{Names, Resolved, Resolver, has_names, names};
pub use watch::Watcher;
