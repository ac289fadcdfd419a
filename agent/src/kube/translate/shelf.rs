//! All parts of one sort, by their keys, and what they are called.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::allocation::{self, Has, Shared, plain};
use crate::kube::objects::Objects;
use crate::kube::parts::Object;

/// Parts by key. A part may be of several objects, which all make the same of it: that of the first counts.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    by_key: BTreeMap<Arc<str>, Vec<Held<T>>>,
    shared: Shared,
    /// Names that somebody came to want or left, or whose owners may be of another age; whether it was the former.
    touched: BTreeMap<String, bool>,
}

/// A part of an object; `None`: its name is wanted, and it cannot be used.
#[derive(Debug)]
struct Held<T> {
    by: Arc<Object>,
    part: Option<Arc<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), shared: Shared::default(), touched: BTreeMap::new() }
    }
}

impl<T> Shelf<T> {
    /// Notes that an object has a part of this key; what part it is, comes later.
    pub(super) fn want(&mut self, key: &str, by: &Arc<Object>) -> Arc<str> {
        let known = self.by_key.get_key_value(key).map(|(key, _)| Arc::clone(key));
        let key = known.unwrap_or_else(|| key.into());
        let all = self.by_key.entry(Arc::clone(&key)).or_default();
        let is_new = all.is_empty();
        if let Err(place) = all.binary_search_by(|held| held.by.cmp(by)) {
            all.insert(place, Held { by: Arc::clone(by), part: None });
        }
        self.touch(&key, is_new);
        key
    }

    /// An object has it no more.
    pub(super) fn leave(&mut self, key: &Arc<str>, by: &Object) {
        let Some(all) = self.by_key.get_mut(key) else { return };
        all.retain(|held| *held.by != *by);
        let is_gone = all.is_empty();
        if is_gone {
            self.by_key.remove(key);
        }
        self.touch(key, is_gone);
    }

    fn touch(&mut self, key: &str, is_another: bool) {
        match self.touched.get_mut(plain(key)) {
            Some(before) => *before |= is_another,
            None => drop(self.touched.insert(plain(key).to_owned(), is_another)),
        }
    }

    /// Settles whose the touched names are. Gives those that mean something else than before, and all who have a part by them.
    pub(super) fn renew(&mut self, objects: &Objects) -> (Vec<String>, BTreeSet<Arc<Object>>) {
        let (mut names, mut owners) = (Vec::new(), BTreeSet::new());
        for (name, is_another) in std::mem::take(&mut self.touched) {
            let keys: Vec<Arc<str>> = self.by_name(&name).map(|(key, _)| Arc::clone(key)).collect();
            let is_called_otherwise = self.shared.renew(objects, &name, &keys);
            if is_called_otherwise {
                owners.extend(self.by_name(&name).flat_map(|(_, all)| all).map(|held| Arc::clone(&held.by)));
            }
            if is_another || is_called_otherwise {
                names.push(name);
            }
        }
        (names, owners)
    }

    /// All that want a name.
    fn by_name(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Vec<Held<T>>)> {
        let from = allocation::wanting(name);
        let begins = from.clone();
        let from = (Bound::Included(from.as_str()), Bound::Unbounded);
        let keys = self.by_key.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(&*begins));
        self.by_key.get_key_value(name).into_iter().chain(keys)
    }

    /// What a part is called.
    pub(super) fn name(&self, key: &str) -> String {
        self.shared.name(key)
    }

    /// What a reference means.
    pub(super) fn referred(&self, reference: &str) -> Result<String, String> {
        self.shared.referred(reference, |key| match self.by_key.contains_key(key) {
            true => Has::Itself,
            false if self.by_name(plain(key)).next().is_some() => Has::Another,
            false => Has::Nobody,
        })
    }

    /// Whether an object has a part of this key.
    pub(super) fn has(&self, key: &str, by: &Object) -> bool {
        self.by_key.get(key).is_some_and(|all| all.binary_search_by(|held| (*held.by).cmp(by)).is_ok())
    }

    /// The parts that can be used, each with whose it is, by their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<Object>, &Arc<T>)> {
        self.by_key.values().filter_map(|all| all.iter().find_map(|held| Some((&held.by, held.part.as_ref()?))))
    }

    /// Whether keys are in the order of names.
    pub(super) fn is_in_order(&self) -> bool {
        self.shared.is_empty()
    }
}

impl<T: PartialEq> Shelf<T> {
    /// What part it is by now; what is the same is the same `Arc`. Gives whether it is another.
    pub(super) fn put(&mut self, key: &str, by: &Object, part: Option<T>) -> bool {
        let Some(all) = self.by_key.get_mut(key) else { return false };
        let same =
            part.as_ref().and_then(|part| all.iter().filter_map(|held| held.part.as_ref()).find(|old| ***old == *part));
        let part = same.cloned().or_else(|| part.map(Arc::new));
        let Some(held) = all.iter_mut().find(|held| *held.by == *by) else { return false };
        let is_same = match (&held.part, &part) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        held.part = part;
        !is_same
    }
}
