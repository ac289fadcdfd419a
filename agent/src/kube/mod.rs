//! What the agent learns from a Kubernetes API server. The only module that knows kube-rs.
//!
//! [`client`] connects and keeps requests within limits. Everybody shares one client: it holds one connection pool and
//! reloads its own credentials. [`watch`] tells of objects, [`objects`] holds them, [`translate`] makes routes of them,
//! which is pure, and [`provider`] is the task that turns news into configuration. [`pods`] says which pods are at the two
//! ends of a request, and [`check`] what of a cluster's objects would not be served as it is.

pub mod check;
pub mod client;
mod contests;
pub mod events;
mod feed;
pub mod lease;
mod light;
pub mod nodes;
pub mod objects;
pub mod parts;
pub mod pods;
pub mod provider;
mod refusals;
pub mod status;
pub mod translate;
pub mod watch;
