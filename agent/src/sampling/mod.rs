//! Jaeger's remote sampling: asks what to keep and hands the proxy a policy. Deciding per request is the proxy's.

pub mod client;
mod fetch;
pub mod strategies;
