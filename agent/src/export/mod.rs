//! Attributed requests to OTLP: encoding, queueing, sending, counting. Only this module knows OTLP, and the wall clock of spans.
//! What a request's time was spent on is `merge`'s.
//!
//! The way of a span: [`span`] encodes it on the merge's thread into the batch that [`queue`] fills, `sender` delivers
//! batches on the control runtime, [`counts`] says at any instant what became of every span.

mod child_ids;
pub mod clock;
mod connection;
pub mod counts;
mod facts;
mod grpc;
pub mod internal;
pub mod names;
pub mod peer;
mod proto;
pub mod queue;
pub mod resource;
pub mod sender;
mod side;
pub mod span;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod tls;
mod words;
pub mod writer;
