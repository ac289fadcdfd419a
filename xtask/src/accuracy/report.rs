//! The table as text, as JSON, as a picture.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Options;
use super::judge::Line;
use super::pauses::Stood;
use super::picture;
use crate::page::Part;

/// All rows, measured or not.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kernel: String,
    cores: usize,
    quick: bool,
    seed: u64,
    pub(super) passed: bool,
    /// Of all rows together.
    within: Within,
    /// The machine's host did not run its cores; nothing where nobody looked.
    stood: Option<Stood>,
    rows: Vec<Line>,
    doubts: Option<String>,
}

/// Of the disturbed requests that have a place which can be off, those within the tolerance.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Within {
    within: u64,
    of: u64,
    /// The smallest share of a row, in percent.
    least_percent: u64,
}

impl Within {
    /// The target is the 99th percentile; a row of a hundred may have some more outside, as two of them are so soon.
    const PERCENT: u64 = 99;
    const ROW_PERCENT: u64 = 95;

    fn of(rows: &[Line]) -> Self {
        rows.iter().filter(|row| row.has_error).fold(Self { least_percent: 100, ..Self::default() }, |sum, row| Self {
            within: sum.within + row.within_tolerance,
            of: sum.of + row.disturbed,
            least_percent: sum.least_percent.min(row.within_tolerance * 100 / row.disturbed.max(1)),
        })
    }

    fn is_enough(self) -> bool {
        self.within * 100 >= self.of * Self::PERCENT && self.least_percent >= Self::ROW_PERCENT
    }
}

impl Report {
    pub(super) fn new(rows: Vec<Line>, stood: Option<Stood>, options: &Options) -> Result<Self> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().unwrap_or_default();
        let cores = std::thread::available_parallelism()?.get();
        let busy = rows.iter().filter(|row| row.outweighed + row.excused + row.strays > 0).count();
        let doubts = (busy > 0).then(|| {
            format!(
                "{busy} rows have requests that the machine itself delayed, see the column; load average {load} on {cores} cores"
            )
        });
        let within = Within::of(&rows);
        Ok(Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cores,
            quick: options.quick,
            seed: options.seed,
            passed: rows.iter().all(|row| row.passed) && (!options.judges_errors() || within.is_enough()),
            within,
            stood,
            rows,
            doubts,
        })
    }

    /// For people, and for Markdown.
    pub(super) fn table(&self) -> String {
        let mut out = format!("Linux {}, {} cores, seed {}", self.kernel, self.cores, self.seed);
        if let Some(Stood { times, most_us }) = self.stood {
            let _written = write!(out, "; a core stood still {times} times, for {} ms at most", thousandth(most_us));
        }
        out.push_str("\n\n");
        out.push_str(
            "| row | expected | named right | delay p50 ms | by itself us | unknown us | error p50 us | p99 us | within max(1 %, 100 us) | coverage | undisturbed | outweighed, excused, uncounted, strays | |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let _written = writeln!(
                out,
                "| {} | {} | {}/{} | {:.1} | {} | {} | {} | {} | {} | {} | {}/{} | {}, {}, {}, {} | {} |",
                row.name,
                row.expected,
                row.named_right,
                row.disturbed,
                thousandth(row.delay_p50_us),
                row.by_itself_us,
                row.unknown_us,
                if row.has_error { row.error_p50_us.to_string() } else { "-".to_owned() },
                if row.has_error { row.error_p99_us.to_string() } else { "-".to_owned() },
                if row.has_error {
                    format!("{} %", row.within_tolerance * 100 / row.disturbed.max(1))
                } else {
                    "-".to_owned()
                },
                row.coverage(),
                row.stayed_undisturbed,
                row.undisturbed,
                row.outweighed,
                row.excused,
                row.uncounted,
                row.strays,
                if row.passed { "ok" } else { "MISS" },
            );
        }
        let Within { within, of, least_percent } = self.within;
        let _written = writeln!(
            out,
            "\nWithin max(1 %, 100 us): {within} of {of} disturbed requests, and {least_percent} % of the row with the fewest."
        );
        out
    }

    /// What is wrong, and what is doubtful, in words.
    pub(super) fn notes(&self) -> String {
        let mut out = String::new();
        for row in self.rows.iter().filter(|row| !row.passed) {
            for example in &row.examples {
                let _written = writeln!(out, "{}: {example}", row.name);
            }
        }
        if let Some(doubt) = &self.doubts {
            let _written = writeln!(out, "doubtful: {doubt}");
        }
        out
    }

    /// The picture, and the table of the page.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let page = root.join(MEASURED.page);
        let text = std::fs::read_to_string(&page).context(MEASURED.page)?;
        std::fs::write(&page, MEASURED.replaced(&text, &self.table())?)?;
        let title =
            format!("Injected delays and what Wayspan says of them, Linux {}, {} cores", self.kernel, self.cores);
        std::fs::write(root.join(PICTURE), picture::svg(&self.rows, &title))?;
        Ok(())
    }
}

/// Where the table stands.
const MEASURED: Part = Part { page: "docs/accuracy.md", begin: "<!-- measured -->", end: "<!-- /measured -->" };
const PICTURE: &str = "docs/accuracy.svg";

/// A row in one line, while others are still measured.
pub(super) fn short(row: &Line) -> String {
    format!(
        "{:<4} {:<48} {}/{} right, error {}/{} us, {:.1} s",
        if row.passed { "ok" } else { "MISS" },
        row.name,
        row.named_right,
        row.disturbed,
        row.error_p50_us,
        row.error_p99_us,
        row.seconds
    )
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn thousandth(us: u64) -> f64 {
    us as f64 / 1000.0
}
