//! Names and their ids of one sort. What an id stands for is the caller's.

use std::collections::HashMap;
use std::hash::Hash;

use wayspan_proxy::clock::MonoNs;

use super::STAY;

/// Ids by name, each with what the catalog says of it.
#[derive(Debug)]
pub(super) struct Ids<K, V> {
    given: u32,
    entries: HashMap<K, Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    id: u32,
    value: Option<V>,
    /// Named in the build under way.
    used: bool,
    /// When it was first missed.
    left: Option<MonoNs>,
}

impl<K, V> Default for Ids<K, V> {
    fn default() -> Self {
        Self { given: 0, entries: HashMap::new() }
    }
}

impl<K: Eq + Hash, V: Clone + PartialEq> Ids<K, V> {
    /// Begins a build: nothing is named yet.
    pub(super) fn begin(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.used = false);
    }

    /// The id of a name.
    pub(super) fn id(&mut self, key: K) -> u32 {
        let given = &mut self.given;
        let entry = self.entries.entry(key).or_insert_with(|| {
            // Four billion names of one sort outlast any process; record::NO_ID is never reached.
            *given = given.saturating_add(1);
            Entry { id: *given, value: None, used: true, left: None }
        });
        (entry.used, entry.left) = (true, None);
        entry.id
    }

    /// The id of a name with what it stands for from now on; a value that is the same stays in place.
    pub(super) fn named(&mut self, key: K, value: impl Into<V>) -> u32
    where
        K: Clone,
    {
        let id = self.id(key.clone());
        self.says(&key, value.into());
        id
    }

    /// What a name stands for from now on.
    pub(super) fn says(&mut self, key: &K, value: V) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.value.as_ref() != Some(&value)) {
            entry.value = Some(value);
        }
    }

    /// The id of a name that was named before.
    pub(super) fn known<Q>(&self, key: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).map(|entry| entry.id)
    }

    /// Ends a build: forgets what left long ago, and lists the rest.
    pub(super) fn finish(&mut self, now: MonoNs) -> HashMap<u32, V> {
        self.entries.retain(|_, entry| {
            if entry.used {
                return true;
            }
            let left = *entry.left.get_or_insert(now);
            u128::from(now.0.saturating_sub(left.0)) < STAY.as_nanos()
        });
        self.entries.values().filter_map(|entry| Some((entry.id, entry.value.clone()?))).collect()
    }
}
