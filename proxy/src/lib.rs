//! The tracing reverse proxy: routes requests, carries trace context, leaves one [`record`] per request.
//!
//! The life of a request, in the order of the modules that see it:
//! 1. [`server`] and `worker`: a connection is accepted by one worker and never leaves it.
//! 2. `client` and `upstream`: their taps give its bytes stream offsets and time stamps, and the [`observer`]'s marks, of the
//!    bytes that [`asks`] names.
//! 3. [`framer`]: message boundaries are found and unsafe framing is refused, before hyper parses.
//! 4. `exchange`: the route is found ([`route`]), headers are rewritten ([`headers`]), the head sampling decision is
//!    made ([`sampling`]), trace context goes on ([`trace_context`]), a server is picked and the request forwarded
//!    over a pooled connection; `body` relays what follows.
//! 5. [`record`]: whatever happened, one record goes up through the worker's ring.
//!
//! Must not know eBPF, Kubernetes, OpenTelemetry, files or the environment.

pub mod asks;
mod body;
pub mod cap;
mod client;
pub mod clock;
pub mod counters;
mod exchange;
mod fold;
pub mod framer;
mod gather;
pub mod headers;
mod live;
pub mod middleware;
pub mod observer;
pub mod path;
pub mod record;
pub mod relay;
mod resend;
mod resent;
pub mod ring;
pub mod route;
pub mod rule;
pub mod sampling;
pub mod server;
pub mod snapshot;
pub mod stamped;
pub mod tls;
pub mod trace_context;
mod upstream;
mod wake;
mod worker;
