//! YAML text to a tree that remembers lines. Scalars keep their text: what they mean depends on the key, and is
//! [`super::value`]'s. The events come from serde-saphyr's parser; its serde side would lose lines and spelling.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle};

/// A file may be this long: 10,000 routers take 2 MiB.
pub(super) const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Nested collections; the deepest known key has eight words.
const DEPTH_MAX: usize = 32;
/// Memory a tree may take, copies through aliases included (the billion laughs).
const TREE_BYTES_MAX: usize = 96 * 1024 * 1024;
const NODE_BYTES: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// From 1.
    pub line: u32,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar's text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the file's order; keys may repeat.
    Map(Vec<(Word, Node)>),
}

/// A mapping's key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Word {
    /// As written.
    pub text: String,
    /// From 1.
    pub line: u32,
}

/// Why a text is no tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unparsable {
    /// From 1; 0 where it is the whole text.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl Node {
    /// The value under a word, exactly spelt.
    pub(super) fn get(&self, word: &str) -> Option<&Self> {
        self.entries().iter().find(|(key, _)| key.text == word).map(|(_, node)| node)
    }

    /// The value at a dotted path.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, word| node.get(word))
    }

    /// A mapping's entries; none for anything else.
    pub(super) fn entries(&self) -> &[(Word, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A scalar's text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "a value",
            Value::List(_) => "a list",
            Value::Map(_) => "a section",
        }
    }
}

/// Reads a text as one YAML document.
pub(super) fn parse(text: &str) -> Result<Node, Unparsable> {
    if text.len() > FILE_BYTES_MAX {
        return Err(fault(0, format!("the file is longer than {FILE_BYTES_MAX} bytes")));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            event.map_err(|error| fault(line_number(error.marker().line()), format!("not YAML: {}", error.info())))?;
        tree.event(event, line_number(span.start.line()))?;
    }
    tree.root.ok_or_else(|| fault(0, "the file is empty; write `http: {}` where nothing is meant".to_owned()))
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

fn fault(line: u32, message: String) -> Unparsable {
    Unparsable { line, message }
}

/// The tree while it grows.
#[derive(Debug, Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    bytes: usize,
}

/// A collection whose end has not come yet.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    size: Size,
    /// A mapping's key that waits for its value.
    key: Option<Word>,
    merges: Vec<Node>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: usize,
    depth: usize,
}

impl Tree {
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), Unparsable> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(fault(line, "more than one YAML document in a file".to_owned()))
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let size = Size { bytes: NODE_BYTES + text.len(), depth: 0 };
                let value = if null { Value::Null } else { Value::Text(text.into_owned()) };
                self.complete(Node { line, value }, anchor, size, true)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, Value::List(Vec::new()), anchor),
            Event::MappingStart(_, anchor, _) => self.begin(line, Value::Map(Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let Open { mut node, anchor, size, merges, .. } = open;
                    merge(&mut node, merges);
                    self.complete(node, anchor, size, false)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let size = self.anchors.get(&anchor).map(|(_, size)| *size).unwrap_or_default();
                // The budget is asked before the copy is made.
                self.spend(size.bytes, line)?;
                match self.anchors.get(&anchor).map(|(node, _)| node.clone()) {
                    Some(node) => self.complete(node, 0, size, false),
                    None => Err(fault(line, "an alias inside its own anchor".to_owned())),
                }
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: u32, value: Value, anchor: usize) -> Result<(), Unparsable> {
        if self.open.len() >= DEPTH_MAX {
            return Err(fault(line, format!("nested deeper than {DEPTH_MAX}")));
        }
        self.spend(NODE_BYTES, line)?;
        let size = Size { bytes: NODE_BYTES, depth: 1 };
        self.open.push(Open { node: Node { line, value }, anchor, size, key: None, merges: Vec::new() });
        Ok(())
    }

    fn spend(&mut self, bytes: usize, line: u32) -> Result<(), Unparsable> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > TREE_BYTES_MAX {
            return Err(fault(line, "aliases make the file too large".to_owned()));
        }
        Ok(())
    }

    /// Puts a whole node where it belongs; `fresh`: its bytes are not accounted for yet.
    fn complete(&mut self, node: Node, anchor: usize, size: Size, fresh: bool) -> Result<(), Unparsable> {
        let line = node.line;
        if fresh {
            self.spend(size.bytes, line)?;
        }
        if anchor != 0 {
            self.spend(size.bytes, line)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        if self.open.len() + size.depth > DEPTH_MAX {
            return Err(fault(line, format!("nested deeper than {DEPTH_MAX}")));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = (node.value != Value::Null).then_some(node);
            return Ok(());
        };
        parent.size.bytes += size.bytes;
        parent.size.depth = parent.size.depth.max(size.depth + 1);
        match (&mut parent.node.value, parent.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(_), Some(key)) if key.text == "<<" => parent.merges.push(node),
            (Value::Map(entries), Some(key)) => entries.push((key, node)),
            (Value::Map(_), None) => match node.value {
                Value::Text(text) => parent.key = Some(Word { text, line }),
                Value::Null => parent.key = Some(Word { text: String::new(), line }),
                _ => return Err(fault(line, "a key must be a plain word".to_owned())),
            },
            (Value::Null | Value::Text(_), _) => {}
        }
        Ok(())
    }
}

/// YAML's merge key: entries that the mapping does not have itself.
fn merge(node: &mut Node, merges: Vec<Node>) {
    let Value::Map(entries) = &mut node.value else { return };
    if merges.is_empty() {
        return;
    }
    let mut known: HashSet<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
    let sources = merges.into_iter().flat_map(|node| match node.value {
        Value::List(items) => items,
        _ => vec![node],
    });
    for source in sources {
        if let Value::Map(more) = source.value {
            entries.extend(more.into_iter().filter(|(key, _)| known.insert(key.text.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, path: &str, want: Option<&str>) {
        let node = parse(text).expect(text);
        assert_eq!(node.at(path).and_then(Node::text), want, "{text}");
    }

    #[test]
    fn scalars_keep_their_spelling() {
        check("a: 010", "a", Some("010"));
        check("a: 1.10", "a", Some("1.10"));
        check("a: 'x'", "a", Some("x"));
        check("a: ~", "a", None);
        check("a: '~'", "a", Some("~"));
        check("a: {b: :8000}", "a.b", Some(":8000"));
        check("# only\na:\n  b: on # off\n", "a.b", Some("on"));
    }

    #[test]
    fn anchors_aliases_and_merges_are_followed() {
        check("x: &x {b: 1}\na: *x", "a.b", Some("1"));
        check("x: &x {b: 1, c: 2}\na: {<<: *x, c: 3}", "a.c", Some("3"));
        check("x: &x {b: 1, c: 2}\na: {<<: *x, c: 3}", "a.b", Some("1"));
    }

    #[test]
    fn lines_are_counted_from_one() {
        let node = parse("a: 1\n\nb:\n  c: 2\n").unwrap();
        assert_eq!(node.at("b.c").unwrap().line, 4);
        assert_eq!(node.entries()[1].0.line, 3);
    }

    #[test]
    fn hostile_texts_are_refused_with_their_line() {
        let mut laughs = "a: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{},", level - 1).repeat(9);
            laughs.push_str(&format!("b{level}: &a{level} [{before}]\n"));
        }
        let deep = "[".repeat(10_000);
        let doubled = format!("a: &a {}1{}\nb: {}*a{}", "[".repeat(20), "]".repeat(20), "[".repeat(20), "]".repeat(20));
        for (text, want) in [
            (laughs.as_str(), "aliases make the file too large"),
            (deep.as_str(), "not YAML"),
            (doubled.as_str(), "nested deeper than 32"),
            ("", "the file is empty"),
            ("# nothing\n", "the file is empty"),
            ("a: 1\n---\nb: 2\n", "more than one YAML document"),
            ("a: *b", "not YAML"),
            ("a: &a [*a]", "inside its own anchor"),
            ("? [a]\n: b", "a key must be a plain word"),
            ("a: b: c", "not YAML"),
        ] {
            let error = parse(text).expect_err(want);
            assert!(error.message.contains(want), "{want}: {}", error.message);
        }
        assert_eq!(parse("a: 1\nb: [\n").unwrap_err().line, 2);
    }
}
