//! Which features a test of the suite is about: its sources say so, its report does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// By the tests' names, of all sources in a directory.
///
/// # Errors
/// They cannot be read, or name no test.
pub(super) fn of_tests(directory: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "go") {
            all.extend(of_source(&fs::read_to_string(entry.path())?));
        }
    }
    if all.is_empty() {
        anyhow::bail!("{}: no source names a test", directory.display());
    }
    Ok(all)
}

/// What stands between a test's name and its function.
fn of_source(text: &str) -> impl Iterator<Item = (String, BTreeSet<String>)> {
    text.split("ShortName:").skip(1).filter_map(|part| {
        let name = part.split('"').nth(1)?;
        let head = part.split("Test:").next()?;
        let is_name = |letter: char| letter.is_ascii_alphanumeric();
        let features = head.split("features.Support").skip(1).filter_map(|rest| rest.split(|c| !is_name(c)).next());
        Some((name.to_owned(), features.map(str::to_owned).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_about_what_stands_before_its_function() {
        let text = "var A = suite.ConformanceTest{\n\tShortName: \"A\",\n\tFeatures: []features.FeatureName{\n\
                    \t\tfeatures.SupportGateway,\n\t\tfeatures.SupportHTTPRouteCORS,\n\t},\n\tTest: func() { features.SupportX }\n}\n\
                    var B = suite.ConformanceTest{ ShortName: \"B\", Test: f }\n";
        let read: BTreeMap<String, BTreeSet<String>> = of_source(text).collect();
        assert_eq!(read["A"].iter().collect::<Vec<_>>(), ["Gateway", "HTTPRouteCORS"]);
        assert!(read["B"].is_empty());
    }
}
