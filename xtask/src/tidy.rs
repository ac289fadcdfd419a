//! The repository's own rules, checked on its files: module documentation, sizes, where `unsafe` and the kernel's and
//! the exporter's libraries may stand, no loose ends. What rustfmt, clippy and cargo-deny can check is theirs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

// A file beyond this is two files; tests at its end do not count.
const LINES_MAX: usize = 600;

// A map that takes longer to read is no map.
const ARCHITECTURE_LINES_MAX: usize = 150;

/// What is somebody else's or made by a build.
const SKIPPED: [&str; 4] = ["target", "node_modules", ".git", "go.sum"];

/// Words that may stand in Rust code only below certain folders. Built from halves where this file would be found.
const BORDERS: [(&str, &[&str], &str); 9] = [
    (concat!("unsafe", " {"), UNSAFE, "unsafe code"),
    (concat!("unsafe", " fn"), UNSAFE, "unsafe code"),
    (concat!("unsafe", " impl"), UNSAFE, "unsafe code"),
    (concat!("unsafe", " extern"), UNSAFE, "unsafe code"),
    (concat!("aya", "::"), AYA, "aya"),
    (concat!("aya_", "log::"), AYA, "aya"),
    (concat!("opentelemetry_", "otlp::"), &["agent/src/export", "agent/tests"], "OTLP"),
    (concat!("opentelemetry_", "proto::"), &["agent/src/export", "agent/tests"], "OTLP"),
    (concat!("kube", "::"), &["agent/src/kube"], "kube-rs"),
];

const UNSAFE: &[&str] = &["agent-ebpf", "agent/src/probes"];

// The probes' tests ask the kernel, by aya, which programs are loaded.
const AYA: &[&str] = &["agent-ebpf", "agent/src/probes", "agent/tests"];

/// Prints all faults.
pub fn run(root: &Path) -> Result<ExitCode> {
    let faults = faults(root)?;
    for fault in &faults {
        println!("{fault}");
    }
    println!("{} faults", faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All faults of all files, each with its place.
pub fn faults(root: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    let mut faults = Vec::new();
    for path in paths {
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        // What is not text has no lines to check.
        if let Ok(text) = std::fs::read_to_string(&path) {
            faults.extend(file_faults(&name, &text).into_iter().map(|fault| format!("{name}: {fault}")));
        }
    }
    Ok(faults)
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), paths)?;
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}

/// The faults of one file.
fn file_faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
            if line.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word) {
                faults.push(format!("line {at}: {word}; do it, or file it as an issue"));
            }
        }
        for path in [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")] {
            if line.match_indices(path).any(|(start, _)| begins_a_path(line, start)) {
                faults.push(format!("line {at}: a path of one machine, {path}"));
            }
        }
    }
    if name == "ARCHITECTURE.md" && text.lines().count() > ARCHITECTURE_LINES_MAX {
        faults.push(format!("more than {ARCHITECTURE_LINES_MAX} lines"));
    }
    if name.ends_with(".rs") {
        rust_faults(name, text, &mut faults);
    }
    faults
}

/// Whether a path begins there: within a longer relative one such a folder may well stand.
fn begins_a_path(line: &str, start: usize) -> bool {
    let before = line.get(..start).and_then(|before| before.chars().next_back());
    !before.is_some_and(|c| c.is_alphanumeric() || "._-}".contains(c))
}

fn rust_faults(name: &str, text: &str, faults: &mut Vec<String>) {
    if !text.starts_with("//!") {
        faults.push("does not begin with `//!` and what it owns".to_owned());
    }
    let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    // A module of nothing but tests has none before them.
    let only_tests = name.ends_with("/tests.rs") || name.contains("/tests/");
    if !only_tests && code.count() > LINES_MAX {
        faults.push(format!("more than {LINES_MAX} lines before its tests"));
    }
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (word, allowed, what) in BORDERS {
            let there = allowed.iter().any(|folder| name.starts_with(folder));
            if !there && code.match_indices(word).any(|(start, _)| begins_a_word(code, start) && !is_ours(code, start))
            {
                faults.push(format!("line {}: {what} belongs to {}", index + 1, allowed.join(", ")));
            }
        }
    }
}

/// A module of ours may be called like the crate that only it knows.
fn is_ours(code: &str, start: usize) -> bool {
    code.get(..start).is_some_and(|before| before.ends_with("crate::") || before.ends_with("wayspan_agent::"))
}

fn begins_a_word(line: &str, start: usize) -> bool {
    let before = line.get(..start).and_then(|before| before.chars().next_back());
    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, expected: &[&str]) {
        let faults = file_faults(name, text);
        let right =
            faults.len() == expected.len() && faults.iter().zip(expected).all(|(fault, part)| fault.contains(part));
        assert!(right, "{faults:?}, expected {expected:?}");
    }

    #[test]
    fn the_repository_keeps_its_rules() {
        assert_eq!(faults(&wayspan_tests::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        check("proxy/src/a.rs", "//! Owns a.\nfn a() {}\n", &[]);
        check("proxy/src/a.rs", "fn a() {}\n", &["does not begin with `//!`"]);
        check("proxy/src/a.rs", &format!("//! Owns a.\n{}", "\n".repeat(LINES_MAX)), &["more than 600 lines"]);
        check("proxy/src/a.rs", &format!("//! Owns a.\n#[cfg(test)]\n{}", "\n".repeat(LINES_MAX)), &[]);
        let code = concat!("//! Owns a.\nlet x = unsafe", " { y };\n");
        check("proxy/src/a.rs", code, &["line 2: unsafe code"]);
        check("agent/src/probes/a.rs", code, &[]);
        check("agent-ebpf/src/main.rs", code, &[]);
        check("agent/src/merge/a.rs", concat!("//! Owns a.\nuse aya", "::Ebpf;\n"), &["line 2: aya"]);
        check("agent/src/merge/a.rs", concat!("//! Owns a.\nuse maya", "::Ebpf; // aya", "::\n"), &[]);
        check("agent/src/a.rs", concat!("//! Owns a.\nuse opentelemetry_", "proto::tonic;\n"), &["OTLP"]);
        check("README.md", concat!("TO", "DO later\n"), &["line 1: TO"]);
        check("README.md", concat!("see /wo", "rk/x and a/ro", "ot/b\n"), &["a path of one machine"]);
        check("proxy/src/a/tests.rs", &format!("//! Tests a.\n{}", "\n".repeat(LINES_MAX)), &[]);
        check("ARCHITECTURE.md", &"\n".repeat(ARCHITECTURE_LINES_MAX + 1), &["more than 150 lines"]);
    }
}
