//! The node agent: loads probes, merges records with the kernel's marks, exports spans, serves the api and dashboard.
//!
//! `app` is the only composition root. Only `probes` knows aya and `unsafe`; only `export` knows OTLP; only `kube` knows
//! kube-rs; wall time exists only in `export`.

pub mod api;
pub mod app;
pub mod catalog;
pub mod config;
pub mod export;
pub mod handover;
pub mod kube;
pub mod litter;
pub mod merge;
pub mod metrics;
pub mod probes;
pub mod recent;
pub mod sampling;
