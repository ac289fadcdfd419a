//! Reads values at a place of the tree by the table of known keys: what the file says, else the table's default. So a
//! default stands in one place, and a key that is read but not listed is found by the first test.

use std::time::Duration;

use super::schema;
use super::value;
use super::yaml::{Node, Value};

/// A place in the tree and the table's path to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'n> {
    node: Option<&'n Node>,
    path: &'static str,
}

impl<'n> Cursor<'n> {
    /// `path` is the table's, e.g. `entryPoints.<name>`; empty: the top.
    pub(super) fn new(node: Option<&'n Node>, path: &'static str) -> Self {
        Self { node, path }
    }

    /// The node of a key below, where the file has one.
    pub(super) fn node(&self, key: &str) -> Option<&'n Node> {
        self.node?.at(key)
    }

    /// The line of a key below, or of the place itself.
    pub(super) fn line(&self, key: &str) -> u32 {
        self.node(key).or(self.node).map_or(0, |node| node.line)
    }

    /// Whether a section is switched on by being there.
    pub(super) fn present(&self, key: &str) -> bool {
        self.node(key).is_some_and(|node| match &node.value {
            Value::Text(text) => value::boolean(text).unwrap_or(false),
            Value::Null | Value::Map(_) => true,
            Value::List(_) => false,
        })
    }

    /// A value: the file's where it can be read, else the table's default. The walk has reported what cannot be read.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let given = self.node(key).and_then(Node::text).and_then(&parse);
        given.or_else(|| {
            let dot = if self.path.is_empty() { "" } else { "." };
            let row = schema::row(&format!("{}{dot}{key}", self.path));
            debug_assert!(row.is_some(), "{}{dot}{key} is read but not listed", self.path);
            let row = row?;
            (!row.default.is_empty()).then(|| parse(row.default))?
        })
    }

    pub(super) fn duration(&self, key: &str) -> Duration {
        self.parsed(key, value::duration).unwrap_or_default()
    }

    pub(super) fn boolean(&self, key: &str) -> bool {
        self.parsed(key, value::boolean).unwrap_or(false)
    }

    /// For keys that inherit: nothing where the file says nothing, though the table names what holds in the end.
    pub(super) fn optional_boolean(&self, key: &str) -> Option<bool> {
        self.node(key).and_then(Node::text).and_then(value::boolean)
    }

    /// A whole number that the table keeps within the type's bounds.
    pub(super) fn integer<T: TryFrom<i64> + Default>(&self, key: &str) -> T {
        let number = self.parsed(key, |text| text.parse::<i64>().ok());
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    pub(super) fn float(&self, key: &str) -> f64 {
        self.parsed(key, |text| text.parse().ok()).unwrap_or_default()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.parsed(key, |text| (!text.trim().is_empty()).then(|| text.to_owned()))
    }

    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        self.lines(key).into_iter().map(|(_, text)| text.to_owned()).collect()
    }

    /// A list's texts with their lines.
    pub(super) fn lines(&self, key: &str) -> Vec<(u32, &'n str)> {
        self.node(key).and_then(value::texts).unwrap_or_default()
    }

    /// Names with values.
    pub(super) fn map(&self, key: &str) -> Vec<(String, String)> {
        let entries = self.node(key).map(Node::entries).unwrap_or_default();
        entries.iter().map(|(word, node)| (word.text.clone(), node.text().unwrap_or_default().to_owned())).collect()
    }
}
