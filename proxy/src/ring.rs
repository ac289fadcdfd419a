//! The way up: a byte ring per worker that carries encoded records to the merge. Try-push only: a full ring loses the
//! record, counts it, and the worker goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};

/// Bytes per worker: some 10,000 records of 400 bytes, two hundred milliseconds at 50,000 requests a second.
pub const RING_BYTES: usize = 4 * 1024 * 1024;

/// The worker's end.
#[derive(Debug)]
pub struct RecordWriter {
    producer: Producer<u8>,
    scratch: Vec<u8>,
    lost: Arc<AtomicU64>,
}

/// The merge's end.
#[derive(Debug)]
pub struct RecordReader {
    consumer: Consumer<u8>,
    worker: u16,
    lost: Arc<AtomicU64>,
}

/// Makes the two ends for one worker.
#[must_use]
pub fn ring(worker: u16, bytes: usize) -> (RecordWriter, RecordReader) {
    let (producer, consumer) = RingBuffer::new(bytes);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = RecordWriter { producer, scratch: Vec::with_capacity(4096), lost: Arc::clone(&lost) };
    (writer, RecordReader { consumer, worker, lost })
}

/// Bytes that a record takes in the ring beside its own.
pub const PREFIX: usize = size_of::<u32>();

impl RecordWriter {
    /// Pushes what `fill` appends to the buffer, or counts it as lost.
    pub fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&[0; PREFIX]);
        fill(&mut self.scratch);
        let length = u32::try_from(self.scratch.len() - PREFIX).unwrap_or(u32::MAX);
        if let Some(prefix) = self.scratch.get_mut(..PREFIX) {
            prefix.copy_from_slice(&length.to_le_bytes());
        }
        // One push, one commit: a reader that sees the length sees the record.
        if self.producer.push_entire_slice(&self.scratch).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl RecordReader {
    /// The next record's bytes, if one is waiting.
    pub fn next<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Option<&'s [u8]> {
        let mut prefix = [0; PREFIX];
        self.consumer.pop_entire_slice(&mut prefix).ok()?;
        let length = usize::try_from(u32::from_le_bytes(prefix)).ok()?;
        scratch.resize(length, 0);
        self.consumer.pop_entire_slice(scratch).ok()?;
        Some(scratch)
    }

    /// How many bytes of the ring the records take that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.consumer.slots()
    }

    /// Which worker writes here.
    #[must_use]
    pub fn worker(&self) -> u16 {
        self.worker
    }

    /// Records lost to a full ring so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The same count for whoever reports it.
    #[must_use]
    pub fn lost_reader(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Whether the worker is gone and everything was read.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.consumer.is_abandoned() && self.consumer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_in_order_and_a_full_ring_counts() {
        let (mut writer, mut reader) = ring(3, 64);
        let mut scratch = Vec::new();
        for round in 0..100_u8 {
            writer.write(|out| out.extend([round; 20]));
            writer.write(|out| out.extend([round + 1; 30]));
            writer.write(|out| out.extend([9; 20]));
            assert_eq!(reader.lost(), u64::from(round) + 1);
            assert_eq!(reader.waiting(), 2 * PREFIX + 50);
            assert_eq!(reader.next(&mut scratch), Some([round; 20].as_slice()));
            assert_eq!(reader.next(&mut scratch), Some([round + 1; 30].as_slice()));
            assert_eq!(reader.next(&mut scratch), None);
        }
        assert!(!reader.is_finished());
        drop(writer);
        assert!(reader.is_finished());
    }
}
