//! What is known of a request only after its end: what the client acknowledged, what had to be sent again. Asked by the
//! merge, answered by whoever reads the kernel's slots; a token whose slot has another owner by now answers nothing.

use std::ops::Range;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, Token};
use wayspan_proxy::record::Record;

use super::gaps::Skipped;

/// Which bytes of which connections a request was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The client's connection.
    pub client: Token,
    /// The response's bytes on it.
    pub response: Range<u64>,
    /// Before then none of them was there to be written.
    pub responding: MonoNs,
    /// p16.
    pub ended: MonoNs,
    /// The last attempt's connection.
    pub upstream: Token,
    /// The request's bytes on it.
    pub request: Range<u64>,
    /// Likewise: the connection was chosen.
    pub requesting: MonoNs,
    /// The answer's bytes on it.
    pub answer: Range<u64>,
}

/// The answers. Zero and [`MonoNs::UNKNOWN`] where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// The client acknowledged the response's last byte.
    pub acked: MonoNs,
    /// Why that is not known, where somebody looks and there is a response.
    pub ack_missing: Missing,
    /// The response's last byte left the send queue, where it had to wait for the client after p16.
    pub left: MonoNs,
    /// Asking again later may know more.
    pub may_come: bool,
    /// Round trip of the client's handshake, microseconds.
    pub handshake_rtt_us: u32,
    /// From the first repetition of our SYN-ACK to the handshake's end, nanoseconds: what it took at least.
    pub handshake_resent_ns: u64,
    /// The client's round trip at the newest segment seen, the response's acknowledgements among them where they are watched.
    pub client_rtt: RoundTrip,
    /// The same of the last attempt's connection.
    pub upstream_rtt: RoundTrip,
    /// How often segments of the response were sent again.
    pub client_resent: u32,
    /// How often segments of the request were sent again to the upstream.
    pub upstream_resent: u32,
    /// How long the client's window had no room for the response, nanoseconds.
    pub client_stalled_ns: u64,
    /// How long the upstream's window had no room for the request.
    pub upstream_stalled_ns: u64,
    /// How often a backend on this node sent segments of the answer again.
    pub backend_resent: u32,
}

/// A round trip as the kernel smooths it (RFC 6298), in microseconds; zeros where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// Smoothed.
    pub smoothed_us: u32,
    /// Its mean deviation.
    pub deviation_us: u32,
}

impl Late {
    /// Of a request that leaves now, before its time was up: what may still have come is missing for no other reason.
    #[must_use]
    pub(super) fn not_waited_for(self) -> Self {
        let ack_missing = if self.may_come { Missing::NOT_WAITED } else { self.ack_missing };
        Self { ack_missing, ..self }
    }
}

impl RoundTrip {
    /// The later one where it is known.
    #[must_use]
    pub fn or(self, earlier: Self) -> Self {
        if self.smoothed_us > 0 { self } else { earlier }
    }
}

/// Who knows.
pub trait Facts {
    /// Whether acknowledgements are watched, so that waiting for one makes sense.
    fn waits(&self) -> bool;
    /// What is known now.
    fn late(&self, ask: &Ask) -> Late;
    /// How many runs of the probes have been left out, where somebody counts them: some system calls.
    fn skipped(&self) -> Option<Skipped> {
        None
    }
}

impl Ask {
    /// What to ask for a request.
    #[must_use]
    pub fn of(record: &Record<'_>) -> Self {
        let head = &record.head;
        let last = record.attempts.last();
        let answered = last.and_then(|attempt| attempt.first_read.known());
        Self {
            client: head.token,
            response: head.response_start..head.response_end,
            // Behind the response before it nothing was written sooner.
            responding: answered.unwrap_or(head.head_read).max(head.previous_write),
            ended: head.ended,
            upstream: last.map_or(Token::NONE, |attempt| attempt.token),
            request: last.map_or(0..0, |attempt| attempt.request_start..attempt.request_end),
            requesting: last.map_or(MonoNs::UNKNOWN, |attempt| attempt.chosen),
            answer: last.map_or(0..0, |attempt| attempt.response_start..attempt.response_end),
        }
    }
}
