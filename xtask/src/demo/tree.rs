//! A trace in the terminal: its spans as a tree with start and duration, and under ours the phases that they name.

use std::collections::HashSet;
use std::fmt::Write;

use wayspan_tests::{Span, Trace};

/// The whole trace as text.
pub fn render(trace: &Trace) -> String {
    let mut text = format!("\nTrace {}\n{:>10} {:>10}\n", trace.id, "at", "took");
    let mut seen = HashSet::new();
    let start = trace.spans.first().map_or(0, |span| span.start_us);
    for root in trace.roots() {
        branch(&mut text, trace, root, start, &mut Indent { lead: String::new(), mark: "" }, &mut seen);
    }
    text
}

/// What stands before a span's name.
struct Indent {
    lead: String,
    mark: &'static str,
}

fn branch<'a>(
    text: &mut String,
    trace: &'a Trace,
    span: &'a Span,
    start: u64,
    indent: &mut Indent,
    seen: &mut HashSet<&'a str>,
) {
    // A trace from outside may name a child as its own ancestor.
    if !seen.insert(&span.id) {
        return;
    }
    let Indent { lead, mark } = indent;
    let failed = if span.tag("error") == Some("true") { "  ERROR" } else { "" };
    line(text, span.start_us.saturating_sub(start), span.duration_us);
    let _infallible = writeln!(text, "  {lead}{mark}{}: {}{failed}", span.service, span.operation);
    let lead = match *mark {
        "" => String::new(),
        "└─ " => format!("{lead}   "),
        _ => format!("{lead}│  "),
    };
    if span.kind() == "server" {
        phases(text, span, &lead);
    }
    let children: Vec<&Span> = trace.children(span).collect();
    for (index, child) in children.iter().enumerate() {
        let mark = if index + 1 == children.len() { "└─ " } else { "├─ " };
        branch(text, trace, child, start, &mut Indent { lead: lead.clone(), mark }, seen);
    }
}

/// The phases, the longest first, and what they come to.
fn phases(text: &mut String, span: &Span, lead: &str) {
    let mut phases = span.phases();
    if phases.is_empty() {
        return;
    }
    phases.sort_by_key(|(_, micros)| std::cmp::Reverse(*micros));
    for (name, micros) in &phases {
        let share = 100 * micros / span.duration_us.max(1);
        let _infallible = writeln!(text, "{:>10} {:>10}  {lead}│    {share:>3} % {name}", "", millis(*micros));
    }
    let tag = |name| span.tag(name).unwrap_or("unknown");
    let (blame, coverage) = (tag("wayspan.blame"), tag("wayspan.coverage"));
    let _infallible = writeln!(text, "{:>10} {:>10}  {lead}│    blame: {blame}, coverage: {coverage}", "", "");
}

fn line(text: &mut String, at: u64, took: u64) {
    let _infallible = write!(text, "{:>10} {:>10}", millis(at), millis(took));
}

/// Milliseconds with the microseconds behind the point.
fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn span(id: &str, parent: Option<&str>, operation: &str, tags: &[(&str, &str)]) -> Span {
        Span {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            service: "wayspan".to_owned(),
            operation: operation.to_owned(),
            start_us: 5_000,
            duration_us: 2_500,
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            process: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_trace_is_a_tree_with_phases() {
        let tags = [
            ("span.kind", "server"),
            ("wayspan.phase.read_wait", "500"),
            ("wayspan.phase.upstream_wait", "2000"),
            ("wayspan.blame", "upstream"),
            ("wayspan.coverage", "full"),
        ];
        let spans = vec![
            span("a", None, "GET x/", &tags),
            span("b", Some("a"), "Router", &[]),
            span("c", Some("b"), "GET", &[]),
            span("d", Some("a"), "body", &[]),
        ];
        let text = render(&Trace { id: "77".to_owned(), spans });
        let expected = "
Trace 77
        at       took
  0.000 ms   2.500 ms  wayspan: GET x/
             2.000 ms  │     80 % upstream_wait
             0.500 ms  │     20 % read_wait
                       │    blame: upstream, coverage: full
  0.000 ms   2.500 ms  ├─ wayspan: Router
  0.000 ms   2.500 ms  │  └─ wayspan: GET
  0.000 ms   2.500 ms  └─ wayspan: body
";
        assert_eq!(text, expected);
    }

    #[test]
    fn spans_that_are_their_own_ancestors_end_the_branch() {
        let spans = vec![span("r", None, "root", &[]), span("a", Some("b"), "x", &[]), span("b", Some("a"), "y", &[])];
        assert!(render(&Trace { id: "1".to_owned(), spans }).contains("root"));
    }
}
