//! Span ids for the children of a request's spans. Pure.

use wayspan_proxy::record::Record;
use wayspan_proxy::trace_context::SpanId;

/// Ids of child spans: the same for the same request, and none that the request already uses.
pub(super) struct ChildIds<'a> {
    record: &'a Record<'a>,
    state: u64,
}

impl<'a> ChildIds<'a> {
    pub(super) fn new(record: &'a Record<'a>) -> Self {
        Self { record, state: u64::from_be_bytes(record.head.span_id.0) }
    }

    /// splitmix64: a bijection of its state, so ids of one request differ from each other.
    pub(super) fn next(&mut self) -> SpanId {
        loop {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = SpanId((z ^ (z >> 31)).to_be_bytes());
            let used = [SpanId::default(), self.record.head.span_id, self.record.head.parent_id].contains(&id)
                || self.record.attempts.iter().chain(&self.record.calls).any(|attempt| attempt.span_id == id);
            if !used {
                return id;
            }
        }
    }
}
