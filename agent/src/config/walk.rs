//! Holds a file's tree against the table of known keys: finds unknown, unsupported, repeated and ill-typed keys, each
//! with its path, and gives keys their right spelling. What the values mean together is [`super::read`]'s.

use std::collections::HashSet;
use std::path::Path;

use super::fault::{Fault, Faults, Item, Section};
use super::schema::{self, Kind, Trie};
use super::value;
use super::yaml::{Node, Value};

/// Which keys a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The file of `--config`.
    Main,
    /// A file of `providers.file`.
    Further,
}

/// Checks a whole file; afterwards all keys have their right spelling and values have their kinds, save where a fault
/// says otherwise.
pub(super) fn check(file: &Path, role: Role, root: &mut Node, faults: &mut Faults) {
    let mut walk = Walk { file, faults, path: String::new(), item: None };
    if role == Role::Further {
        walk.only_http(root);
    }
    walk.section(root, Trie::root());
}

struct Walk<'w> {
    file: &'w Path,
    faults: &'w mut Faults,
    path: String,
    item: Option<Item>,
}

impl Walk<'_> {
    fn fault(&mut self, line: u32, message: String) {
        let Self { file, path, item, .. } = self;
        self.faults.push(Fault { file: file.to_path_buf(), path: path.clone(), line, message, item: item.clone() });
    }

    /// Runs with a word added to the path.
    fn under(&mut self, word: &str, then: impl FnOnce(&mut Self)) {
        let (length, item) = (self.path.len(), self.item.clone());
        if let (None, Some(section)) = (&item, Section::ALL.into_iter().find(|section| section.path() == self.path)) {
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
    fn only_http(&mut self, root: &mut Node) {
        let Value::Map(entries) = &mut root.value else { return };
        entries.retain(|(word, _)| {
            let known = Trie::root().child(&word.text);
            let (Some((known, trie)), false) = (known, word.text.eq_ignore_ascii_case("http")) else { return true };
            if trie.unsupported.is_none() {
                self.under(known, |walk| {
                    walk.fault(word.line, "belongs into the file of --config; a further file holds `http`".to_owned());
                });
            }
            trie.unsupported.is_some()
        });
    }

    fn section(&mut self, node: &mut Node, trie: &Trie) {
        let Value::Map(entries) = &mut node.value else { return };
        let mut seen = HashSet::new();
        entries.retain_mut(|(word, child)| {
            let line = word.line;
            let next = match (trie.child(&word.text), trie.any()) {
                (Some((known, next)), _) => {
                    known.clone_into(&mut word.text);
                    Some(next)
                }
                (None, any) => any,
            };
            let mut keep = true;
            self.under(&word.text, |walk| {
                let Some(next) = next else {
                    walk.unknown(line, &word.text, trie);
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

    fn unknown(&mut self, line: u32, word: &str, trie: &Trie) {
        let message = match schema::nearest(word, trie.known()) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None => {
                let known: Vec<_> = trie.known().collect();
                format!("unknown key; known here: {}", known.join(", "))
            }
        };
        self.fault(line, message);
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
