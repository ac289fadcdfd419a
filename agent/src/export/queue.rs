//! Batches between the merge and the sender: filled on the merge's thread, bounded by spans and bytes, never waited
//! for. What does not fit is lost and counted, the newest first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wayspan_proxy::clock::MonoNs;

use super::counts::{Bounds, Loss, SpanCounts, Ticket};
use crate::config::model::Otlp;

/// Encoded spans kept at most. An ordinary span takes 1 KiB; long paths and captured headers can make one fifty times
/// as long, and a queue full of those must not eat the node's memory.
const PENDING_BYTES_MAX: u64 = 64 << 20;
/// A batch is sent off early at this size: receivers refuse messages above 4 MiB (gRPC's default in Go and Rust).
const BATCH_BYTES_MAX: usize = 2 << 20;

/// Buffers kept for further batches: as many as are under way in good times.
const RECYCLED_MAX: usize = 4;

/// What a batch holds.
#[derive(Debug)]
pub(super) enum Payload {
    /// `ScopeSpans.spans` fields.
    Spans(Bytes),
    /// A whole `ExportTraceServiceRequest`.
    Request(Bytes),
}

/// Spans to be delivered together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) payload: Payload,
    pub(super) ticket: Ticket,
}

/// The sending end of the queue, and its bounds.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    batches: mpsc::Sender<Batch>,
    counts: Arc<SpanCounts>,
    bounds: Bounds,
}

impl Entrance {
    pub(super) fn new(otlp: &Otlp, counts: Arc<SpanCounts>) -> (Self, mpsc::Receiver<Batch>) {
        // Every batch holds a span at least, so the bound on spans is reached first. Blocks are allocated as needed.
        let (batches, exit) = mpsc::channel(otlp.queue_spans.max(1));
        let bounds = Bounds { spans: otlp.queue_spans as u64, bytes: PENDING_BYTES_MAX };
        (Self { batches, counts, bounds }, exit)
    }

    /// A ticket for spans to be admitted.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket::new(Arc::clone(&self.counts))
    }

    /// Admits a whole request of so many spans.
    pub(super) fn push_request(&self, spans: u64, request: Bytes) {
        let mut ticket = self.ticket();
        if ticket.admit(spans, request.len() as u64, self.bounds) {
            self.push(Batch { payload: Payload::Request(request), ticket });
        }
    }

    /// Counts spans that found a queue before this one full.
    pub(super) fn refuse(&self, spans: u64) {
        self.counts.admit(spans, 0, Bounds { spans: 0, bytes: 0 });
    }

    fn push(&self, batch: Batch) {
        match self.batches.try_send(batch) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(batch)) => batch.ticket.lost(Loss::QueueFull),
            Err(mpsc::error::TrySendError::Closed(batch)) => batch.ticket.lost(Loss::Shutdown),
        }
    }
}

/// Fills batches; one per thread. Dropped, it sends off what it holds.
#[derive(Debug)]
pub struct BatchWriter {
    entrance: Entrance,
    batch_spans: u64,
    interval: Duration,
    spans: Vec<u8>,
    /// The size of the largest batch so far, to allocate the next at once.
    usual_bytes: usize,
    recycled: Recycling,
    ticket: Ticket,
    /// When the turn ended in which the batch got its first span.
    opened: Option<MonoNs>,
}

impl BatchWriter {
    pub(super) fn new(entrance: Entrance, otlp: &Otlp) -> Self {
        let ticket = entrance.ticket();
        let batch_spans = otlp.batch_spans.max(1) as u64;
        Self {
            entrance,
            batch_spans,
            interval: otlp.interval,
            spans: Vec::new(),
            usual_bytes: 0,
            recycled: Recycling::default(),
            ticket,
            opened: None,
        }
    }

    /// Lets `encode` append spans as `ScopeSpans.spans` fields and say how many.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> u32) {
        let before = self.spans.len();
        let spans = encode(&mut self.spans);
        if spans == 0 {
            return;
        }
        let bytes = (self.spans.len() - before) as u64;
        if !self.ticket.admit(spans.into(), bytes, self.entrance.bounds) {
            self.spans.truncate(before);
        } else if self.ticket.spans() >= self.batch_spans || self.spans.len() >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    /// A turn of the merge is over: sends off a batch that has waited for its interval.
    pub fn turn_over(&mut self, now: MonoNs) {
        if self.ticket.spans() == 0 {
            return;
        }
        let opened = *self.opened.get_or_insert(now);
        if now >= opened + self.interval {
            self.flush();
        }
    }

    /// Sends off what there is.
    pub fn flush(&mut self) {
        self.opened = None;
        if self.ticket.spans() == 0 {
            return;
        }
        self.usual_bytes = self.usual_bytes.max(self.spans.len());
        let spans = if self.spans.len() < self.usual_bytes / 2 {
            // A small batch must not hold a large one's memory while it waits.
            let copy = Bytes::copy_from_slice(&self.spans);
            self.spans.clear();
            copy
        } else {
            let next = self.recycled.take().unwrap_or_else(|| Vec::with_capacity(self.usual_bytes));
            self.recycled.lend(std::mem::replace(&mut self.spans, next))
        };
        let ticket = std::mem::replace(&mut self.ticket, self.entrance.ticket());
        self.entrance.push(Batch { payload: Payload::Spans(spans), ticket });
    }
}

/// Buffers of batches that were delivered, used again: fresh memory of that size costs a page fault per 4 KiB, in all
/// as much as encoding.
#[derive(Debug)]
struct Recycling {
    back: mpsc::Receiver<Vec<u8>>,
    home: mpsc::Sender<Vec<u8>>,
}

/// A buffer that goes home when its last reader is done.
struct Lent {
    buffer: Vec<u8>,
    home: mpsc::Sender<Vec<u8>>,
}

impl Default for Recycling {
    fn default() -> Self {
        let (home, back) = mpsc::channel(RECYCLED_MAX);
        Self { back, home }
    }
}

impl Recycling {
    fn take(&mut self) -> Option<Vec<u8>> {
        self.back.try_recv().ok()
    }

    fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: self.home.clone() })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        // Freed where enough are at home, or nobody is.
        drop(self.home.try_send(buffer));
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::otlp;

    fn writer(otlp: &Otlp) -> (BatchWriter, mpsc::Receiver<Batch>, Arc<SpanCounts>) {
        let counts = Arc::new(SpanCounts::default());
        let (entrance, exit) = Entrance::new(otlp, Arc::clone(&counts));
        (BatchWriter::new(entrance, otlp), exit, counts)
    }

    fn push(writer: &mut BatchWriter, spans: u32) {
        writer.push(|out| {
            out.extend_from_slice(&[1; 10]);
            spans
        });
    }

    #[test]
    fn a_batch_leaves_when_full_or_when_its_interval_is_over() {
        let (mut writer, mut exit, _) = writer(&Otlp { batch_spans: 4, ..otlp("http://127.0.0.1:1") });
        push(&mut writer, 2);
        assert!(exit.try_recv().is_err());
        push(&mut writer, 2);
        assert_eq!(exit.try_recv().unwrap().ticket.spans(), 4);
        let start = MonoNs(1_000);
        push(&mut writer, 1);
        writer.turn_over(start);
        writer.turn_over(start + (writer.interval - Duration::from_nanos(1)));
        assert!(exit.try_recv().is_err());
        writer.turn_over(start + writer.interval);
        assert_eq!(exit.try_recv().unwrap().ticket.spans(), 1);
        push(&mut writer, 3);
        drop(writer);
        assert_eq!(exit.try_recv().unwrap().ticket.spans(), 3);
    }

    #[test]
    fn beyond_the_bounds_the_newest_are_lost_and_their_bytes_gone() {
        let (mut writer, mut exit, counts) =
            writer(&Otlp { batch_spans: 4, queue_spans: 9, ..otlp("http://127.0.0.1:1") });
        (0..6).for_each(|_| push(&mut writer, 2));
        let totals = counts.read();
        assert_eq!((totals.made, totals.pending(), totals.lost_by[Loss::QueueFull as usize]), (12, 8, 4));
        let batch = exit.try_recv().unwrap();
        assert!(matches!(&batch.payload, Payload::Spans(bytes) if bytes.len() == 20));
        batch.ticket.acknowledged(0);
        push(&mut writer, 2);
        assert_eq!(counts.read().pending(), 6);
        drop((writer, exit));
        assert_eq!((counts.read().pending(), counts.read().pending_bytes, counts.read().sent), (0, 0, 4));
    }

    #[test]
    fn what_is_pushed_after_the_sender_has_gone_is_lost() {
        let (mut writer, exit, counts) = writer(&Otlp { batch_spans: 1, ..otlp("http://127.0.0.1:1") });
        push(&mut writer, 1);
        drop(exit);
        push(&mut writer, 1);
        assert_eq!((counts.read().pending(), counts.read().lost_by[Loss::Shutdown as usize]), (0, 2));
    }

    #[test]
    fn a_delivered_batchs_buffer_is_used_again() {
        let (mut writer, mut exit, _) = writer(&Otlp { batch_spans: 1, ..otlp("http://127.0.0.1:1") });
        let mut buffers = Vec::new();
        for _ in 0..4 {
            push(&mut writer, 1);
            let Payload::Spans(bytes) = exit.try_recv().unwrap().payload else { panic!("spans") };
            buffers.push(bytes.as_ptr());
        }
        assert_eq!(buffers[1], buffers[3]);
    }
}
