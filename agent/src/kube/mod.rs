//! What the agent learns from a Kubernetes API server. The only module that knows kube-rs.
//!
//! [`client`] connects and keeps requests within limits. Everybody shares one client: it holds one connection pool and
//! reloads its own credentials.

pub mod client;
