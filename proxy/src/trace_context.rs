//! W3C Trace Context level 2: reading `traceparent` and `tracestate`, writing them for the upstream.

/// A trace's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// A span's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The low 56 bits: the part that level 2 promises to be random when the `random` flag is set.
    #[must_use]
    pub fn random_bits(self) -> u64 {
        let [.., a, b, c, d, e, f, g] = self.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }
}
