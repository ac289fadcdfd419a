//! What the agent says of itself on /metrics: its spans, its requests' records, its memory. And how many spans a Jaeger
//! that has ended says it was given.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wayspan_tests::http;

/// One look at the page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// When, since the stopwatch started.
    pub(crate) at: Duration,
    /// Spans, as the agent defines them.
    pub(crate) made: u64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) pending: u64,
    /// Requests whose record found a full ring: they have no spans.
    pub(crate) records_lost: u64,
    /// Memory of the process.
    pub(crate) resident_bytes: u64,
}

impl Account {
    /// Reads the page.
    pub(crate) fn read(api: SocketAddr, at: Duration) -> Result<Self> {
        Self::parse(&page(api)?, at)
    }

    fn parse(page: &str, at: Duration) -> Result<Self> {
        let value = |name| value(page, name);
        Ok(Self {
            at,
            made: value("wayspan_spans_made_total")?,
            sent: value("wayspan_spans_sent_total")?,
            lost: value("wayspan_spans_lost_total")?,
            pending: value("wayspan_spans_pending")?,
            records_lost: value("wayspan_records_lost_total")?,
            resident_bytes: value("process_resident_memory_bytes")?,
        })
    }

    /// Whether every span is accounted for.
    pub(crate) fn is_even(&self) -> bool {
        self.made == self.sent + self.lost + self.pending
    }
}

/// The page as it is now.
pub(crate) fn page(api: SocketAddr) -> Result<String> {
    let answer = http::get(api, &api.to_string(), "/metrics").context("/metrics")?;
    ensure!(answer.status == 200, "/metrics answers {}", answer.status);
    Ok(answer.text())
}

/// The value of a series without labels.
pub(crate) fn value(page: &str, name: &str) -> Result<u64> {
    let mut words = page.lines().filter_map(|line| line.split_once(' '));
    let (_, number) = words.find(|(key, _)| *key == name).with_context(|| format!("/metrics has no {name}"))?;
    number.parse().with_context(|| format!("{name} {number}"))
}

/// Makes Jaeger print its own metrics when it ends, beside serving them: then none is missed.
pub(super) fn final_count_argument(host: std::net::IpAddr) -> String {
    format!(
        "--set=service.telemetry.metrics.readers=[{{pull: {{exporter: {{prometheus: {{host: \"{host}\", port: 8888}}}}}}}}, \
         {{periodic: {{interval: 86400000, exporter: {{console: {{}}}}}}}}]"
    )
}

/// The spans that its receivers accepted, from what it printed last; nothing while that is not whole.
pub(super) fn final_count(log: &[String]) -> Option<u64> {
    let begins = log.iter().position(|line| line == "{")?;
    // Lines of its log stand between, from its other stream; those begin with their time.
    let printed = log.get(begins..)?.iter().filter(|line| line.starts_with(['{', ' ', '}']));
    let printed: String = printed.map(String::as_str).collect();
    let page: Value = serde_json::from_str(&printed).ok()?;
    let metrics = page["ScopeMetrics"].as_array()?.iter().filter_map(|scope| scope["Metrics"].as_array()).flatten();
    let accepted = metrics.filter(|metric| metric["Name"] == "otelcol_receiver_accepted_spans");
    let points = accepted.filter_map(|metric| metric["Data"]["DataPoints"].as_array()).flatten();
    Some(points.filter_map(|point| point["Value"].as_u64()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_read_by_whole_names() {
        let page = "# HELP wayspan_spans_made_total x\nwayspan_spans_made_total 10\nwayspan_spans_made_total_b 9\n\
                    wayspan_spans_sent_total 6\nwayspan_spans_lost_total 3\nwayspan_spans_pending 1\n\
                    wayspan_records_lost_total 4\nprocess_resident_memory_bytes 4096\n";
        let account = Account::parse(page, Duration::ZERO).unwrap();
        assert_eq!((account.made, account.records_lost, account.resident_bytes), (10, 4, 4096));
        assert!(account.is_even());
        assert!(!Account { pending: 2, ..account }.is_even());
        assert!(Account::parse("wayspan_spans_made_total 10\n", Duration::ZERO).is_err());
    }

    #[test]
    fn jaegers_last_words_are_added_up_over_its_transports_and_only_when_whole() {
        let words = r#"2026-11-24 info Stopping receivers
{
  "ScopeMetrics": [
    {"Metrics": [
      {"Name": "otelcol_receiver_refused_spans", "Data": {"DataPoints": [{"Value": 5}]}},
2026-11-24 info Shutdown complete
      {"Name": "otelcol_receiver_accepted_spans", "Data": {"DataPoints": [
        {"Attributes": [{"Key": "transport", "Value": {"Value": "grpc"}}], "Value": 1200, "Exemplars": [{"Value": 7}]},
        {"Attributes": [{"Key": "transport", "Value": {"Value": "http"}}], "Value": 34}
      ]}}
    ]}
  ]
}"#;
        let lines: Vec<String> = words.lines().map(str::to_owned).collect();
        assert_eq!(final_count(&lines), Some(1234));
        assert_eq!(final_count(&lines[..12]), None);
        assert_eq!(final_count(&[]), None);
    }
}
