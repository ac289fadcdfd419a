//! A strict little reader of both text formats, for tests: panics at what a scraper would refuse.

use std::collections::{BTreeMap, BTreeSet};

use super::text::Format;

/// Sorted labels.
pub(crate) type Labels = BTreeMap<String, String>;

/// A page's samples by name and labels, and types by family.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

impl Parsed {
    /// The one sample with this name that has these labels among its own.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self
            .samples
            .iter()
            .filter(|((n, all), _)| n == name && labels.iter().all(|(k, v)| all.get(*k).is_some_and(|a| a == v)))
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        *found[0].1
    }
}

/// Reads a page: no series twice, each sample under its family's type, buckets cumulative, `+Inf` equal to the count.
pub(crate) fn parse(text: &str, format: Format) -> Parsed {
    let mut parsed = Parsed::default();
    let mut family = String::new();
    let mut helped = BTreeSet::new();
    assert!(text.ends_with('\n'), "the last line ends");
    assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (name, _) = head.split_once(' ').expect("help has a text");
            assert!(helped.insert(name.to_owned()), "{name} is helped twice");
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').expect("type has a kind");
            assert!(parsed.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is typed twice");
            family = name.to_owned();
        } else if line != "# EOF" {
            let (name, labels, value) = sample(line);
            let kind = parsed.types.get(&family).expect("a sample stands under a type").as_str();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} under {family}"));
            let fits = match (kind, format) {
                ("counter", Format::OpenMetrics) => suffix == "_total",
                ("counter", Format::Classic) => suffix.is_empty() && name.ends_with("_total"),
                ("histogram", _) => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => suffix.is_empty(),
            };
            assert!(fits, "{line} in a {kind}");
            assert!(parsed.samples.insert((name, labels), value).is_none(), "{line} stands twice");
        }
    }
    check_histograms(&parsed);
    parsed
}

fn check_histograms(parsed: &Parsed) {
    let mut histograms: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    for ((name, labels), value) in &parsed.samples {
        if let Some(family) = name.strip_suffix("_bucket") {
            let mut labels = labels.clone();
            let le = labels.remove("le").expect("a bucket has a bound");
            let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            histograms.entry((family.to_owned(), labels)).or_default().push((bound, *value));
        }
    }
    for ((family, labels), mut buckets) in histograms {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{family} {labels:?} {buckets:?}");
        let (last, total) = *buckets.last().unwrap();
        assert!(last.is_infinite());
        assert_eq!(Some(&total), parsed.samples.get(&(format!("{family}_count"), labels.clone())));
        assert!(parsed.samples.contains_key(&(format!("{family}_sum"), labels)));
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == ':').collect();
    assert!(!name.is_empty(), "{line}");
    let mut labels = Labels::new();
    let mut rest = line[name.len()..].chars();
    let mut next = rest.next();
    while matches!(next, Some('{' | ',')) {
        let label: String = rest.by_ref().take_while(|c| *c != '=').collect();
        assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        assert_eq!(rest.next(), Some('"'), "{line}");
        let mut value = String::new();
        loop {
            match rest.next().unwrap_or_else(|| panic!("{line}")) {
                '"' => break,
                '\\' => value.push(match rest.next() {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("{other:?} escaped in {line}"),
                }),
                other => value.push(other),
            }
        }
        assert!(labels.insert(label, value).is_none(), "{line}");
        next = rest.next();
    }
    if next == Some('}') {
        next = rest.next();
    }
    assert_eq!(next, Some(' '), "{line}");
    (name, labels, rest.as_str().parse().unwrap_or_else(|_| panic!("{line}")))
}
