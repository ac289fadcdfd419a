//! One middleware of `http.middlewares`: which kind it is, and that kind's settings. The proxy has the settings' meaning.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wayspan_proxy::middleware::{
    AddPrefix, HeaderEdits, RedirectRegex, RedirectScheme, ReplacePath, ReplacePathRegex, StripPrefix, StripPrefixRegex,
};

use super::cursor::Cursor;
use super::model::{Middleware, MiddlewareKind};
use super::value;
use super::yaml::{Node, Value};

/// What is wrong with one: the key below it, the line, the message.
pub(super) type Problem = (&'static str, u32, String);

/// A kind's name and how it is read.
type Reader = (&'static str, fn(&mut Read<'_>) -> Option<MiddlewareKind>);

/// The kinds that files may name.
const KINDS: [Reader; 9] = [
    ("addPrefix", add_prefix),
    ("chain", chain),
    ("headers", headers),
    ("redirectRegex", redirect_regex),
    ("redirectScheme", redirect_scheme),
    ("replacePath", replace_path),
    ("replacePathRegex", replace_path_regex),
    ("stripPrefix", strip_prefix),
    ("stripPrefixRegex", strip_prefix_regex),
];

/// More would be a mistake: chains of chains double.
const EXPANDED_MAX: usize = 1024;

/// The middlewares that names stand for, chains taken apart. The error says what stands in the way: a router is never
/// served without one of its middlewares.
pub(crate) fn expand<'m>(names: &[String], all: &HashMap<&str, &'m Middleware>) -> Result<Vec<&'m Middleware>, String> {
    let mut expanded = Vec::new();
    expand_into(names, all, &mut Vec::new(), &mut expanded)?;
    Ok(expanded)
}

fn expand_into<'m>(
    names: &[String],
    all: &HashMap<&str, &'m Middleware>,
    within: &mut Vec<&'m str>,
    expanded: &mut Vec<&'m Middleware>,
) -> Result<(), String> {
    for name in names {
        let Some(&one) = all.get(name.as_str()) else { return Err(format!("there is no middleware `{name}`")) };
        if within.contains(&one.name.as_str()) {
            return Err(format!("the chain `{name}` leads back to itself"));
        }
        match &one.kind {
            MiddlewareKind::Chain(names) => {
                within.push(&one.name);
                expand_into(names, all, within, expanded)?;
                within.pop();
            }
            MiddlewareKind::Unsupported(kind) => {
                return Err(format!("the middleware `{name}` is of the kind `{kind}`, which is not supported yet"));
            }
            _ if expanded.len() == EXPANDED_MAX => return Err(format!("more than {EXPANDED_MAX} middlewares")),
            _ => expanded.push(one),
        }
    }
    Ok(())
}

/// Whether a chain leads back to itself.
pub(super) fn is_circle(chain: &Middleware, all: &HashMap<&str, &Middleware>) -> bool {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut next: Vec<&str> = vec![&chain.name];
    while let Some(name) = next.pop() {
        let Some(MiddlewareKind::Chain(names)) = all.get(name).map(|one| &one.kind) else { continue };
        for name in names {
            if *name == chain.name {
                return true;
            }
            if let Some((known, _)) = all.get_key_value(name.as_str()).filter(|(known, _)| seen.insert(known)) {
                next.push(known);
            }
        }
    }
    false
}

/// Middlewares by name.
pub(crate) fn by_name(all: &[Middleware]) -> HashMap<&str, &Middleware> {
    all.iter().map(|one| (one.name.as_str(), one)).collect()
}

struct Read<'n> {
    place: Cursor<'n>,
    problems: Vec<Problem>,
}

/// Reads it. What is `known_bad` has its faults from the walk, and gets none for what may be missing by them.
pub(super) fn read(node: &Node, known_bad: bool) -> Result<MiddlewareKind, Vec<Problem>> {
    let mut read = Read { place: Cursor::new(Some(node), "http.middlewares.<name>"), problems: Vec::new() };
    let named: Vec<&Reader> = KINDS.iter().filter(|(name, _)| node.get(name).is_some()).collect();
    let kind = match named.as_slice() {
        [(_, reader)] => reader(&mut read),
        [] => {
            read.problem("", "names no kind, such as `headers` or `stripPrefix`".to_owned());
            None
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            read.problem("", format!("has several kinds ({}); write one middleware for each", names.join(", ")));
            None
        }
    };
    match kind.filter(|_| read.problems.is_empty()) {
        Some(kind) => Ok(kind),
        None if known_bad => Err(Vec::new()),
        None => Err(read.problems),
    }
}

impl Read<'_> {
    fn problem(&mut self, key: &'static str, message: String) {
        let line = self.place.line(key);
        self.problems.push((key, line, message));
    }

    /// A text that must be there.
    fn needed(&mut self, key: &'static str, example: &str) -> Option<String> {
        let given = self.place.node(key).is_some_and(|node| node.value != Value::Null);
        if !given {
            self.problem(key, format!("is missing; write e.g. {example}"));
        }
        self.place.text(key)
    }

    /// A list that must not be empty.
    fn needed_list(&mut self, key: &'static str, example: &str) -> Vec<String> {
        let list = self.place.texts(key);
        if list.is_empty() {
            self.problem(key, format!("is missing or empty; write e.g. {example}"));
        }
        list
    }

    fn anything(&self, key: &str) -> String {
        self.place.node(key).and_then(Node::text).unwrap_or_default().trim().to_owned()
    }
}

fn add_prefix(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let prefix = read.needed("addPrefix.prefix", "/api")?;
    Some(MiddlewareKind::AddPrefix(Arc::new(AddPrefix { prefix: value::path(&prefix).ok()? })))
}

fn chain(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let names = read.needed_list("chain.middlewares", "[auth, limit]");
    Some(MiddlewareKind::Chain(names.iter().map(|name| super::dynamic::local(name).to_owned()).collect()))
}

fn headers(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let edits = |key| {
        let pairs = read.place.map(key).into_iter();
        let pairs = pairs
            .filter_map(|(name, value)| Some((value::header_name(&name).ok()?, value::header_value(&value).ok()?)));
        pairs.collect()
    };
    let custom = HeaderEdits {
        request: edits("headers.customRequestHeaders"),
        response: edits("headers.customResponseHeaders"),
    };
    Some(MiddlewareKind::Headers(Arc::new(custom)))
}

fn redirect_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let pattern = read.needed("redirectRegex.regex", "^http://(.*)")?;
    Some(MiddlewareKind::RedirectRegex(Arc::new(RedirectRegex {
        pattern: value::regex(&pattern).ok()?,
        replacement: read.anything("redirectRegex.replacement"),
        permanent: read.place.boolean("redirectRegex.permanent"),
    })))
}

fn redirect_scheme(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    Some(MiddlewareKind::RedirectScheme(Arc::new(RedirectScheme {
        scheme: read.needed("redirectScheme.scheme", "https")?,
        port: read.place.text("redirectScheme.port").unwrap_or_default(),
        permanent: read.place.boolean("redirectScheme.permanent"),
    })))
}

fn replace_path(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let path = read.needed("replacePath.path", "/api")?;
    Some(MiddlewareKind::ReplacePath(Arc::new(ReplacePath { path: value::path(&path).ok()? })))
}

fn replace_path_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let pattern = read.needed("replacePathRegex.regex", "^/api/(.*)")?;
    let replacement = read.anything("replacePathRegex.replacement");
    let pattern = value::regex(&pattern).ok()?;
    Some(MiddlewareKind::ReplacePathRegex(Arc::new(ReplacePathRegex { pattern, replacement })))
}

fn strip_prefix(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let prefixes = read.needed_list("stripPrefix.prefixes", "[/api]");
    let prefixes = prefixes.into_iter().map(|prefix| prefix.trim().to_owned()).collect();
    Some(MiddlewareKind::StripPrefix(Arc::new(StripPrefix { prefixes })))
}

fn strip_prefix_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let patterns = read.needed_list("stripPrefixRegex.regex", "[/v[0-9]+]");
    let patterns = patterns.iter().map(|text| value::regex(text).ok()).collect::<Option<_>>()?;
    Some(MiddlewareKind::StripPrefixRegex(Arc::new(StripPrefixRegex { patterns })))
}
