//! The merge's end of the export: encoder, clock and batch of one thread, put together.

use wayspan_proxy::clock::MonoNs;

use super::clock::WallClock;
use super::queue::BatchWriter;
use super::span::SpanEncoder;
use crate::catalog::Catalog;
use crate::config::model::{Attribution, Tracing};
use crate::kube::pods::Pods;
use crate::merge::phase::Attributed;

/// Writes the spans of attributed requests. Dropped, it sends off what it holds; the exporter is shut down after.
#[derive(Debug)]
pub struct SpanWriter {
    encoder: SpanEncoder,
    clock: WallClock,
    batch: BatchWriter,
    /// When the last turn ended; close enough for the wall clock, and no reading per request.
    now: MonoNs,
}

impl SpanWriter {
    /// For one thread; `batch` comes from the exporter.
    #[must_use]
    pub fn new(tracing: &Tracing, attribution: &Attribution, batch: BatchWriter, now: MonoNs) -> Self {
        Self { encoder: SpanEncoder::new(tracing, attribution), clock: WallClock::new(now), batch, now }
    }

    /// Leaves a request's spans, if it is sampled.
    pub fn request(&mut self, request: &Attributed<'_>, catalog: &Catalog, pods: &Pods) {
        let wall = self.clock.offset(self.now);
        let encoder = &mut self.encoder;
        self.batch.push(|out| encoder.encode(out, request, catalog, pods, wall));
    }

    /// A turn of the merge is over: sends off a batch that has waited long enough.
    pub fn turn_over(&mut self, now: MonoNs) {
        self.now = now;
        self.batch.turn_over(now);
    }
}
