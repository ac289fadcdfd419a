//! The index of a table: from host and path to the few entries that can match. An entry is a position in the order of
//! precedence, so the smallest one that holds is the answer, and a list is left as soon as it cannot better it.

use std::collections::HashMap;

use crate::rule::{HostName, Subject};

/// No name in DNS is longer, so a longer Host equals none; it also bounds the work that a hostile one can cause.
const HOST_BYTES_MAX: usize = 253;
/// No node, no entry.
const NONE: u32 = u32::MAX;

/// What an entry can be found by.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// Its host.
    pub(super) host: Option<HostName>,
    /// Its literal path, and whether the whole path must equal it.
    pub(super) path: Option<(Box<[u8]>, bool)>,
}

/// Entries by host, then by path.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Paths>,
    /// By the suffix behind `*.` or `**.`.
    wild: HashMap<Box<str>, Paths>,
    /// Labels of the longest suffix in `wild`: no more of a host's are tried.
    wild_labels_max: usize,
    any: Paths,
}

/// Entries by path. Every literal path that is a prefix of a text is an ancestor of the greatest one that is not above
/// the text, or that one itself; so one binary search and a walk along `parent` find them all.
#[derive(Debug, Default)]
struct Paths {
    /// Sorted by text.
    nodes: Box<[Node]>,
    /// Entries without a literal path.
    rest: Box<[u32]>,
}

#[derive(Debug)]
struct Node {
    text: Box<[u8]>,
    /// The longest other text that is a prefix of this one.
    parent: u32,
    /// The smallest entry here or in any ancestor: the walk ends where it cannot better the best.
    least: u32,
    /// Entries for exactly this path.
    whole: Box<[u32]>,
    /// Entries for all that begins with it.
    below: Box<[u32]>,
}

impl Index {
    /// `keys` in the order of precedence.
    pub(super) fn build<'k>(keys: impl Iterator<Item = &'k Key>) -> Self {
        let mut exact: HashMap<&str, PathsBuilder<'_>> = HashMap::new();
        let mut wild: HashMap<&str, PathsBuilder<'_>> = HashMap::new();
        let mut any = PathsBuilder::default();
        let mut wild_labels_max = 0;
        for (entry, key) in (0_u32..).zip(keys) {
            let paths = match &key.host {
                Some(HostName::Exact(host)) => exact.entry(host).or_default(),
                Some(HostName::Wild(suffix) | HostName::Deep(suffix)) if !suffix.is_empty() => {
                    wild_labels_max = wild_labels_max.max(suffix.split('.').count());
                    wild.entry(suffix).or_default()
                }
                _ => &mut any,
            };
            paths.add(entry, key.path.as_ref());
        }
        let finish = |map: HashMap<&str, PathsBuilder<'_>>| {
            map.into_iter().map(|(host, paths)| (host.into(), paths.finish())).collect()
        };
        Self { exact: finish(exact), wild: finish(wild), wild_labels_max, any: any.finish() }
    }

    /// The first entry in the order of precedence that the index leads to and that `holds`.
    pub(super) fn first(&self, subject: &Subject<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = NONE;
        let holds = |entry: u32| usize::try_from(entry).is_ok_and(&holds);
        if subject.name.len() <= HOST_BYTES_MAX {
            if let Some(paths) = self.exact.get(subject.name) {
                paths.better(subject.path, &holds, &mut best);
            }
            if !self.wild.is_empty() {
                let dots = subject.name.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'.');
                // The first label is always left out, even where it is empty: `.example.com` is below example.com.
                for (dot, _) in dots.take(self.wild_labels_max) {
                    let suffix = subject.name.get(dot + 1..).unwrap_or_default();
                    if let Some(paths) = self.wild.get(suffix) {
                        paths.better(subject.path, &holds, &mut best);
                    }
                }
            }
        }
        self.any.better(subject.path, &holds, &mut best);
        if best == NONE { None } else { usize::try_from(best).ok() }
    }
}

impl Paths {
    /// Lowers `best` to the smallest entry below it that fits `path` and `holds`.
    fn better(&self, path: &[u8], holds: &impl Fn(u32) -> bool, best: &mut u32) {
        let above = self.nodes.partition_point(|node| *node.text <= *path);
        let mut next = above.checked_sub(1).and_then(|index| self.nodes.get(index));
        let shared = next.map_or(0, |node| node.text.iter().zip(path).take_while(|(a, b)| a == b).count());
        while let Some(node) = next.filter(|node| node.least < *best) {
            // Ancestors are prefixes of the node, so those not longer than what it shares with the path are the path's.
            if node.text.len() <= shared {
                if node.text.len() == path.len() {
                    improve(&node.whole, holds, best);
                }
                improve(&node.below, holds, best);
            }
            next = usize::try_from(node.parent).ok().and_then(|parent| self.nodes.get(parent));
        }
        improve(&self.rest, holds, best);
    }
}

fn improve(entries: &[u32], holds: &impl Fn(u32) -> bool, best: &mut u32) {
    if let Some(entry) = entries.iter().take_while(|entry| **entry < *best).find(|entry| holds(**entry)) {
        *best = *entry;
    }
}

/// Entries come in ascending order, so the lists are sorted by themselves.
#[derive(Debug, Default)]
struct PathsBuilder<'k> {
    nodes: HashMap<&'k [u8], Entries>,
    rest: Vec<u32>,
}

#[derive(Debug, Default)]
struct Entries {
    whole: Vec<u32>,
    below: Vec<u32>,
}

impl<'k> PathsBuilder<'k> {
    fn add(&mut self, entry: u32, path: Option<&'k (Box<[u8]>, bool)>) {
        match path {
            None => self.rest.push(entry),
            Some((text, whole)) => {
                let lists = self.nodes.entry(text).or_default();
                if *whole { lists.whole.push(entry) } else { lists.below.push(entry) }
            }
        }
    }

    fn finish(self) -> Paths {
        let mut sorted: Vec<_> = self.nodes.into_iter().collect();
        sorted.sort_unstable_by_key(|(text, _)| *text);
        let mut nodes: Vec<Node> = Vec::with_capacity(sorted.len());
        // The chain of texts that the last one begins with: in sorted order a text's parent is always on it.
        let mut chain: Vec<u32> = Vec::new();
        for (index, (text, Entries { whole, below })) in (0_u32..).zip(sorted) {
            let node_at = |index: &u32| usize::try_from(*index).ok().and_then(|index| nodes.get(index));
            while chain.last().and_then(node_at).is_some_and(|node| !text.starts_with(&node.text)) {
                chain.pop();
            }
            let parent = chain.last().copied().unwrap_or(NONE);
            let inherited = node_at(&parent).map_or(NONE, |node| node.least);
            let own = whole.first().into_iter().chain(below.first()).copied().min().unwrap_or(NONE);
            let least = own.min(inherited);
            nodes.push(Node { text: text.into(), parent, least, whole: whole.into(), below: below.into() });
            chain.push(index);
        }
        Paths { nodes: nodes.into(), rest: self.rest.into() }
    }
}
