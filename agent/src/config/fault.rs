//! What is wrong with a configuration, said so that it can be mended: file, line, key path, remedy.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Faults reported of one load at most; a hostile file may hold a million.
pub(super) const FAULTS_MAX: usize = 1000;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file it stands in.
    pub file: PathBuf,
    /// The key's full path, empty where it is the whole file.
    pub path: String,
    /// From 1; 0 where it is the whole file.
    pub line: u32,
    /// What is wrong and what to do.
    pub message: String,
    /// The part that cannot be used because of it; `None`: a static part, or the whole file.
    pub(super) item: Option<Item>,
    /// Sections that the file may mean by what is wrong: a reload keeps what they held.
    pub(super) sections: Vec<Section>,
}

/// A named part that is accepted or refused as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Item {
    pub section: Section,
    pub name: String,
}

/// What is accepted, refused or kept: where named parts live, and the one section that stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Section {
    EntryPoint,
    Router,
    Service,
    Transport,
    Middleware,
    TlsOptions,
    /// `tls.certificates`, which have no names, and the default one.
    Certificates,
    /// `serversTransport`, which services without a transport of their own take.
    DefaultTransport,
}

impl Section {
    /// The section's path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::EntryPoint => "entryPoints",
            Self::Router => "http.routers",
            Self::Service => "http.services",
            Self::Transport => "http.serversTransports",
            Self::Middleware => "http.middlewares",
            Self::TlsOptions => "tls.options",
            Self::Certificates => "tls.certificates",
            Self::DefaultTransport => "serversTransport",
        }
    }

    /// One of it, for messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::EntryPoint => "entry point",
            Self::Router => "router",
            Self::Service => "service",
            Self::Transport => "servers transport",
            Self::Middleware => "middleware",
            Self::TlsOptions => "set of TLS options",
            Self::Certificates => "certificate",
            Self::DefaultTransport => "default servers transport",
        }
    }

    /// Those that hold named parts.
    pub(super) const NAMED: [Self; 6] =
        [Self::EntryPoint, Self::Router, Self::Service, Self::Transport, Self::Middleware, Self::TlsOptions];

    /// What cannot be read where the key of this path cannot: the section itself, or all those below it.
    pub(super) fn within(path: &str) -> Vec<Self> {
        let below = |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'));
        let named = Self::NAMED.into_iter().filter(|one| one.path() == path || below(one.path(), path));
        let whole = Self::DefaultTransport;
        let default = (path == whole.path() || below(path, whole.path())).then_some(whole);
        let listed = ["tls.certificates", "tls.stores"];
        let is_listed = path == "tls" || listed.iter().any(|one| path.starts_with(one));
        named.chain(default).chain(is_listed.then_some(Self::Certificates)).collect()
    }
}

impl Item {
    pub(super) fn new(section: Section, name: &str) -> Self {
        Self { section, name: name.to_owned() }
    }

    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section.path(), self.name)
    }
}

/// How many there are, in words.
#[must_use]
pub fn counted(faults: &[Fault]) -> String {
    match faults.len() {
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    }
}

impl Fault {
    /// The named part that it concerns: its section's path and its name, e.g. `("http.routers", "hotrod")`.
    #[must_use]
    pub fn part(&self) -> Option<(&'static str, &str)> {
        self.item.as_ref().map(|item| (item.section.path(), item.name.as_str()))
    }

    /// A fault of a key that no part stands or falls with.
    pub(crate) fn at(file: &Path, path: impl Into<String>, line: u32, message: String) -> Self {
        Self { file: file.to_owned(), path: path.into(), line, message, item: None, sections: Vec::new() }
    }

    /// A fault of a whole file.
    pub(super) fn file(file: &Path, line: u32, message: String) -> Self {
        Self::at(file, "", line, message)
    }

    /// The part that cannot be used because of it.
    pub(super) fn of(self, item: Item) -> Self {
        Self { item: Some(item), ..self }
    }

    /// The sections that cannot be read because of it.
    pub(super) fn of_sections(self, sections: Vec<Section>) -> Self {
        Self { sections, ..self }
    }
}

impl fmt::Display for Fault {
    /// One line: `file:line: key.path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Plain(&self.file.to_string_lossy()))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", Plain(&self.path))?;
        }
        write!(f, "{}", Plain(&self.message))
    }
}

/// Keys and values come from files: what would break a line or a terminal is escaped.
struct Plain<'t>(&'t str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| {
            if char.is_control() { write!(f, "{}", char.escape_default()) } else { write!(f, "{char}") }
        })
    }
}

/// What of the files cannot be used.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// Named parts.
    pub items: HashSet<Item>,
    /// Sections, with the file that may mean them.
    pub sections: HashSet<(PathBuf, Section)>,
    /// Keys of the top level that the main file may mean by one that is misspelt.
    pub meant: HashSet<&'static str>,
}

impl Broken {
    pub(super) fn has(&self, file: &Path, section: Section) -> bool {
        // Few: one file of many has such a fault.
        self.sections.iter().any(|(at, broken)| *broken == section && at == file)
    }
}

/// Collects the faults of one load, up to [`FAULTS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    more: usize,
    pub(super) broken: Broken,
}

impl Faults {
    /// Adds one. What it breaks counts as broken even where the fault itself is one too many to list.
    pub(super) fn push(&mut self, fault: Fault) {
        self.broken.items.extend(fault.item.clone());
        self.broken.sections.extend(fault.sections.iter().map(|section| (fault.file.clone(), *section)));
        if self.list.len() < FAULTS_MAX { self.list.push(fault) } else { self.more += 1 }
    }

    /// Marks a part as unusable where the reason is told elsewhere.
    pub(super) fn break_item(&mut self, item: Item) {
        self.broken.items.insert(item);
    }

    /// Whether a suggestion is worth its time: nobody reads the hundredth, and each costs a look at all names.
    pub(super) fn suggest(&self) -> bool {
        self.list.len() < 100
    }

    pub(super) fn is_broken(&self, item: &Item) -> bool {
        self.broken.items.contains(item)
    }

    /// The list, in the order of file and line, and what is broken.
    pub(super) fn finish(mut self, file: &Path) -> (Vec<Fault>, Broken) {
        self.list.sort_by(|a, b| (a.file != file, &a.file, a.line).cmp(&(b.file != file, &b.file, b.line)));
        if self.more > 0 {
            self.list.push(Fault::file(file, 0, format!("and {} more faults", self.more)));
        }
        (self.list, self.broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_whatever_the_file_holds() {
        let fault = Fault::at(Path::new("a.yaml"), "http.x\n\u{1b}[31m", 7, "bad".to_owned());
        assert_eq!(fault.to_string(), r"a.yaml:7: http.x\n\u{1b}[31m: bad");
    }

    #[test]
    fn one_fault_is_not_told_as_many() {
        let fault = Fault::file(Path::new("a.yaml"), 1, "bad".to_owned());
        assert_eq!(counted(&[]), "0 faults");
        assert_eq!(counted(std::slice::from_ref(&fault)), "1 fault");
        assert_eq!(counted(&[fault.clone(), fault]), "2 faults");
    }
}
