//! Prometheus' two text formats: the classic one (0.0.4) and OpenMetrics 1.0. What is written is `metrics`'.
//!
//! Not prometheus-client's encoder: it writes OpenMetrics only, where a counter's type stands under its name without
//! `_total`, and a classic scraper takes such a counter as untyped. A test holds our OpenMetrics against it.

use std::fmt::{Display, Write as _};

/// Which of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 0.0.4: what every scraper reads.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header likes better; the classic one where it does not say.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let mut best = (0, Self::Classic);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next() {
                Some(kind) if kind.eq_ignore_ascii_case("application/openmetrics-text") => Self::OpenMetrics,
                Some(kind) if ["text/plain", "text/*", "*/*"].iter().any(|k| kind.eq_ignore_ascii_case(k)) => {
                    Self::Classic
                }
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The response's `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A quality value (RFC 9110, 12.4.2) in thousandths; what is none counts as refused.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let fraction: u32 = format!("{fraction:0<3}").get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    match whole {
        "0" => fraction,
        "1" => 1000,
        _ => 0,
    }
}

/// Kinds of families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A label of a sample.
pub(crate) type Label<'a> = (&'static str, &'a str);

/// A page under way. All samples of a family stand together, under its head.
#[derive(Debug)]
pub(crate) struct Page {
    format: Format,
    out: String,
    /// The family's name, with `_total` for a counter.
    name: &'static str,
}

impl Page {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, out: String::with_capacity(16 * 1024), name: "" }
    }

    /// Begins a family. A counter's name ends in `_total`.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        let family = match self.format {
            Format::Classic => name,
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {family} {help}"));
        self.line(format_args!("# TYPE {family} {kind}"));
    }

    /// One sample of a counter or a gauge.
    pub(crate) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.series("", labels, None, value);
    }

    /// One histogram: counts per bucket, not cumulative, the last for what is above all bounds. The count is the sum
    /// of buckets that were read, so that both agree also while others count on.
    pub(crate) fn histogram(&mut self, labels: &[Label<'_>], bounds: &[f64], buckets: &[u64], sum_s: f64) {
        let mut count = 0_u64;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, bucket) in bounds.zip(buckets) {
            count = count.wrapping_add(*bucket);
            self.series("_bucket", labels, Some(bound), count);
        }
        self.series("_sum", labels, None, sum_s);
        self.series("_count", labels, None, count);
    }

    /// The page's text.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn series(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<f64>, value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut open = '{';
        for (label, value) in labels {
            self.out.push(open);
            self.out.push_str(label);
            self.out.push_str("=\"");
            self.escaped(value);
            self.out.push('"');
            open = ',';
        }
        if let Some(bound) = bound {
            self.out.push(open);
            self.out.push_str("le=\"");
            self.bound(bound);
            self.out.push('"');
            open = ',';
        }
        let close = if open == ',' { "} " } else { " " };
        self.out.push_str(close);
        self.line(format_args!("{value}"));
    }

    fn bound(&mut self, bound: f64) {
        // Writing to a String cannot fail. OpenMetrics wants a point in whole numbers, classic clients write none.
        let _ = match self.format {
            _ if bound.is_infinite() => write!(self.out, "+Inf"),
            Format::Classic => write!(self.out, "{bound}"),
            Format::OpenMetrics => write!(self.out, "{bound:?}"),
        };
    }

    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(text);
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::validator::parse;

    const AWKWARD: &str = "a\"b\\c\nd{}, é=\"";

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family("requests_total", Kind::Counter, "Requests.");
        page.sample(&[("router", AWKWARD), ("code", "200")], 7);
        page.sample(&[("router", "b"), ("code", "200")], 1);
        page.family("open", Kind::Gauge, "Open.");
        page.sample(&[], 3);
        page.family("seconds", Kind::Histogram, "Seconds.");
        page.histogram(&[("phase", "x")], &[0.25, 1.0], &[1, 2, 1], 5.5);
        page.finish()
    }

    #[test]
    fn open_metrics_is_what_prometheus_client_writes() {
        let mut registry = Registry::default();
        let requests = Family::<Vec<(String, String)>, Counter>::default();
        registry.register("requests", "Requests", requests.clone());
        let labels = |router: &str| vec![("router".to_owned(), router.to_owned()), ("code".into(), "200".into())];
        requests.get_or_create(&labels(AWKWARD)).inc_by(7);
        requests.get_or_create(&labels("b")).inc();
        let open = Gauge::<i64>::default();
        open.set(3);
        registry.register("open", "Open", open);
        let seconds = Family::<Vec<(String, String)>, Histogram>::new_with_constructor(|| Histogram::new([0.25, 1.0]));
        for value in [0.25, 0.5, 1.0, 3.75] {
            seconds.get_or_create(&vec![("phase".into(), "x".into())]).observe(value);
        }
        registry.register("seconds", "Seconds", seconds.clone());
        let mut theirs = String::new();
        encode(&mut theirs, &registry).unwrap();
        let ours = page(Format::OpenMetrics);
        assert_eq!(parse(&ours, Format::OpenMetrics), parse(&theirs, Format::OpenMetrics));
    }

    #[test]
    fn the_classic_format_types_the_name_that_the_samples_have() {
        let text = page(Format::Classic);
        parse(&text, Format::Classic);
        assert!(text.contains("# TYPE requests_total counter\n"), "{text}");
        assert!(text.contains("seconds_bucket{phase=\"x\",le=\"1\"} 3\n"), "{text}");
        assert!(!text.contains("EOF"));
    }

    #[test]
    fn the_format_is_negotiated() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (None, Format::Classic),
            (Some(""), Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some("text/html, application/json"), Format::Classic),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some(prometheus), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0.1, text/plain;q=0.25"), Format::Classic),
            (Some("application/openmetrics-text; q=0, */*; q=0.001"), Format::Classic),
            (Some("application/openmetrics-text;q=nonsense"), Format::Classic),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }
}
