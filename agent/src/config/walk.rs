//! Holds a file's tree against the table of known keys: finds unknown, unsupported, repeated and ill-typed keys, each
//! with its path, and gives keys their right spelling. What the values mean together is [`super::read`]'s.

use std::collections::HashSet;
use std::path::Path;

use super::fault::{Fault, Faults, Item, Section};
use super::schema::{self, Kind, Trie};
use super::value;
use super::yaml::{Node, Value, Word};

/// Which keys a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The file of `--config`.
    Main,
    /// A file of `providers.file`.
    Further,
    /// A part of an object, whose words are the API's: that does mind case, and so does whoever looks for a word in it.
    Object,
}

impl Role {
    /// The known word that this one is, with what may be below it.
    fn child<'t>(self, trie: &'t Trie, word: &str) -> Option<(&'static str, &'t Trie)> {
        trie.child(word).filter(|(known, _)| self != Self::Object || *known == word)
    }
}

/// Checks a whole file; afterwards all keys have their right spelling and values have their kinds, save where a fault
/// says otherwise.
pub(super) fn check(file: &Path, role: Role, root: &mut Node, faults: &mut Faults) {
    let mut walk = Walk { file, role, faults, path: String::new(), item: None };
    if role == Role::Further {
        walk.only_dynamic(root);
    }
    walk.section(root, Trie::root());
}

/// What further files hold.
const FURTHER: [&str; 2] = ["http", "tls"];

struct Walk<'w> {
    file: &'w Path,
    role: Role,
    faults: &'w mut Faults,
    path: String,
    item: Option<Item>,
}

impl Walk<'_> {
    fn fault(&mut self, line: u32, message: String) {
        let sections = match &self.item {
            // A section one level too deep passes for a part of another.
            Some(item) => below_http(&item.name).into_iter().chain(at_top(&item.name)).flatten().collect(),
            None => Section::within(&self.path),
        };
        self.fault_of(line, message, sections);
    }

    fn fault_of(&mut self, line: u32, message: String, sections: Vec<Section>) {
        let fault = Fault::at(self.file, self.path.clone(), line, message).of_sections(sections);
        self.faults.push(Fault { item: self.item.clone(), ..fault });
    }

    /// Runs with a word added to the path.
    fn under(&mut self, word: &str, then: impl FnOnce(&mut Self)) {
        let (length, item) = (self.path.len(), self.item.clone());
        if let (None, Some(section)) = (&item, Section::NAMED.into_iter().find(|section| section.path() == self.path)) {
            self.item = Some(Item::new(section, word));
        }
        if !self.path.is_empty() && !word.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(word);
        then(self);
        self.path.truncate(length);
        self.item = item;
    }

    /// Further files hold what is reloaded, and routing only.
    fn only_dynamic(&mut self, root: &mut Node) {
        let Value::Map(entries) = &mut root.value else { return };
        entries.retain(|(word, _)| {
            let known = Trie::root().child(&word.text);
            let is_held = FURTHER.iter().any(|held| word.text.eq_ignore_ascii_case(held));
            let (Some((known, trie)), false) = (known, is_held) else { return true };
            if trie.unsupported.is_none() {
                let message = "belongs into the file of --config; a further file holds `http` and `tls`".to_owned();
                self.under(known, |walk| walk.fault_of(word.line, message, Vec::new()));
            }
            trie.unsupported.is_some()
        });
    }

    fn section(&mut self, node: &mut Node, trie: &Trie) {
        let Value::Map(entries) = &mut node.value else { return };
        let level = Level::of(&self.path, entries, trie);
        let mut seen = HashSet::new();
        entries.retain_mut(|(word, child)| {
            let line = word.line;
            let next = match (self.role.child(trie, &word.text), trie.any()) {
                (Some((known, next)), _) => {
                    known.clone_into(&mut word.text);
                    Some(next)
                }
                (None, any) => any,
            };
            let mut keep = true;
            self.under(&word.text, |walk| {
                let Some(next) = next else {
                    walk.unknown(line, &word.text, trie, &level);
                    keep = false;
                    return;
                };
                if !seen.insert(word.text.clone()) {
                    walk.fault(line, "is given twice".to_owned());
                    keep = false;
                    return;
                }
                if trie.any().is_some() {
                    walk.name(line, &word.text);
                }
                walk.node(line, child, next);
            });
            keep
        });
    }

    fn unknown(&mut self, line: u32, word: &str, trie: &Trie, level: &Level) {
        let elsewhere = match level.path.as_str() {
            "" => below_http(word).map(|sections| (format!("`http.{word}`"), sections)),
            "http" => at_top(word).map(|sections| (format!("`{word}` at the top level"), sections)),
            _ => None,
        };
        let known: Vec<_> = trie.known().filter(|word| self.is_held(level, word)).collect();
        let near = schema::nearest(word, known.iter().copied());
        let (message, sections) = match (elsewhere, near) {
            (Some((near, sections)), _) => (format!("unknown key; did you mean {near}?"), sections),
            (None, Some(near)) => {
                self.faults.broken.meant.extend(level.path.is_empty().then_some(near));
                (format!("unknown key; did you mean `{near}`?"), level.sections(near))
            }
            (None, None) => {
                // It may mean any section that is not there.
                let absent = known.iter().filter(|word| !level.given.contains(*word));
                let sections = absent.flat_map(|word| level.sections(word)).collect();
                (format!("unknown key; known here: {}", known.join(", ")), sections)
            }
        };
        match &self.item {
            Some(_) => self.fault(line, message),
            None => {
                let own = Section::within(&self.path);
                self.fault_of(line, message, level.with_emptied([own, sections].concat()));
            }
        }
    }

    /// Whether a key is one for this file: a further file's top level has few.
    fn is_held(&self, level: &Level, word: &str) -> bool {
        self.role != Role::Further || !level.path.is_empty() || FURTHER.contains(&word)
    }

    fn name(&mut self, line: u32, name: &str) {
        if name.is_empty() || name.len() > 255 {
            self.fault(line, "a name must have 1 to 255 bytes".to_owned());
        } else if name.contains('@') {
            self.fault(line, "a name must not contain `@`: it separates a name from its provider".to_owned());
        }
    }

    fn node(&mut self, line: u32, node: &mut Node, trie: &Trie) {
        if let Some(remedy) = trie.unsupported {
            let colon = if remedy.is_empty() { "" } else { ": " };
            self.fault(line, format!("not supported yet{colon}{remedy}"));
            return;
        }
        let Some(key) = trie.key.filter(|key| key.kind != Kind::Section) else {
            self.inner(line, node, trie);
            return;
        };
        if node.value == Value::Null {
            // As in Traefik: a key without a value is as good as none.
            return;
        }
        for (line, message) in value::check(node, key.kind) {
            self.fault(line, message);
        }
    }

    fn inner(&mut self, line: u32, node: &mut Node, trie: &Trie) {
        let switch = trie.key.is_some_and(|key| key.kind == Kind::Section);
        match (&mut node.value, trie.entries()) {
            (Value::List(items), Some(entries)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.under(&format!("[{index}]"), |walk| walk.inner(item.line, item, entries));
                }
            }
            (Value::Null, _) => {}
            (Value::Map(_), None) => self.section(node, trie),
            (Value::Text(text), None) if switch && value::boolean(text).is_some() => {}
            (_, Some(_)) => self.fault(line, format!("must be a list, not {}", node.what())),
            (_, None) => self.fault(line, format!("must be a section, not {}", node.what())),
        }
    }
}

/// The keys of a mapping that may hold sections, for what an unknown one beside them may mean.
#[derive(Debug, Default)]
struct Level {
    path: String,
    /// Known keys that are there, with or without a value.
    given: Vec<&'static str>,
    /// Those without: what an indentation lost is left with.
    emptied: Vec<&'static str>,
}

impl Level {
    fn of(path: &str, entries: &[(Word, Node)], trie: &Trie) -> Self {
        let mut level = Self { path: path.to_owned(), ..Self::default() };
        // No other mapping holds sections.
        if matches!(path, "" | "http" | "tls") {
            for (word, node) in entries {
                let Some((known, _)) = trie.child(&word.text) else { continue };
                level.given.push(known);
                level.emptied.extend((node.value == Value::Null).then_some(known));
            }
        }
        level
    }

    /// The sections that a key of this level is, or that lie below it.
    fn sections(&self, word: &str) -> Vec<Section> {
        match self.path.as_str() {
            "" => Section::within(word),
            path => Section::within(&format!("{path}.{word}")),
        }
    }

    fn with_emptied(&self, mut sections: Vec<Section>) -> Vec<Section> {
        sections.extend(self.emptied.iter().flat_map(|word| self.sections(word)));
        sections.sort_unstable();
        sections.dedup();
        sections
    }
}

/// The sections of a word that belongs below `http`.
fn below_http(word: &str) -> Option<Vec<Section>> {
    let (_, http) = Trie::root().child("http")?;
    let (known, _) = http.child(word)?;
    Some(Section::within(&format!("http.{known}"))).filter(|sections| !sections.is_empty())
}

/// The sections of a word that belongs to the top level.
fn at_top(word: &str) -> Option<Vec<Section>> {
    let (known, _) = Trie::root().child(word)?;
    Some(Section::within(known)).filter(|sections| !sections.is_empty())
}
