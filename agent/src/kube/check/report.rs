//! What a check found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::kube::watch::Unread;

/// What becomes of what a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Its requests are refused, or nobody takes them.
    NotServed,
    /// It is served, and otherwise than where it comes from.
    Differs,
    /// Its class says that it is another controller's.
    NotOurs,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotServed => "not served",
            Self::Differs => "differs",
            Self::NotOurs => "not ours",
        })
    }
}

/// Something of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// `Ingress`.
    pub kind: String,
    /// Where the object is; empty for a cluster's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub effect: Effect,
    /// The field; empty: all of it.
    pub path: String,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotRead {
    /// These.
    pub kind: String,
    /// In this namespace; empty: in all.
    pub namespace: String,
    /// Why not.
    pub why: String,
    /// Without them nothing can be said of the others.
    pub is_needed: bool,
}

impl NotRead {
    pub(super) fn of(unread: Unread, is_needed: bool) -> Self {
        let Unread { kind, namespace, why, is_refused: _ } = unread;
        Self { kind, namespace: namespace.unwrap_or_default(), why, is_needed }
    }
}

/// Objects of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// All that were looked at.
    pub there: usize,
    /// Those that are ours.
    pub ours: usize,
    /// Those of ours of which nothing was found.
    pub as_they_are: usize,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By kind of route.
    pub objects: BTreeMap<String, Count>,
    /// In the order of their objects.
    pub findings: Vec<Finding>,
    /// What could not be read.
    pub unread: Vec<NotRead>,
    /// Whether all that is ours would be served as it is where it comes from.
    pub is_whole: bool,
}

impl Report {
    pub(super) fn new(objects: BTreeMap<String, Count>, mut findings: Vec<Finding>, unread: Vec<NotRead>) -> Self {
        findings.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        findings.dedup();
        let is_whole =
            findings.iter().all(|finding| finding.effect == Effect::NotOurs) && unread.iter().all(|one| !one.is_needed);
        Self { objects, findings, unread, is_whole }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for NotRead { kind, namespace, why, is_needed } in &self.unread {
            let place = if namespace.is_empty() { String::new() } else { format!(" of namespace {namespace}") };
            let what = if *is_needed { "cannot be read" } else { "cannot be read, and would not be served" };
            writeln!(f, "{kind}{place}: {what}: {why}")?;
        }
        for Finding { kind, namespace, name, effect, path, message, remedy } in &self.findings {
            let slash = if namespace.is_empty() { "" } else { "/" };
            let colon = if path.is_empty() { "" } else { ": " };
            writeln!(f, "{kind} {namespace}{slash}{name}: {effect}: {path}{colon}{message}")?;
            if !remedy.is_empty() {
                writeln!(f, "    {remedy}")?;
            }
        }
        for (kind, Count { there, ours, as_they_are }) in &self.objects {
            writeln!(f, "{kind}: {there} there, {ours} ours, {as_they_are} of these served as they are")?;
        }
        Ok(())
    }
}
