//! Names and their ids of one sort. What an id stands for is the caller's.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use wayspan_proxy::clock::MonoNs;

use super::STAY;
use crate::catalog::ById;

/// Ids by name, each with what the catalog says of it.
#[derive(Debug)]
pub(super) struct Ids<K, V> {
    given: u32,
    ids: HashMap<K, u32>,
    states: HashMap<u32, State>,
    values: ById<V>,
    /// Those that were missed, by when; some are back by now.
    leaving: VecDeque<(MonoNs, K)>,
    build: u64,
}

#[derive(Debug)]
struct State {
    /// The last build that named it.
    used: u64,
    /// When it was first missed.
    left: Option<MonoNs>,
}

impl<K, V> Default for Ids<K, V> {
    fn default() -> Self {
        Self {
            given: 0,
            ids: HashMap::new(),
            states: HashMap::new(),
            values: ById::default(),
            leaving: VecDeque::new(),
            build: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone + PartialEq> Ids<K, V> {
    /// Begins a build: nothing is named yet.
    pub(super) fn begin(&mut self) {
        self.build += 1;
    }

    /// The id of a name.
    pub(super) fn id(&mut self, key: K) -> u32 {
        let given = &mut self.given;
        let id = *self.ids.entry(key).or_insert_with(|| {
            // Four billion names of one sort outlast any process; record::NO_ID is never reached.
            *given = given.saturating_add(1);
            *given
        });
        self.states.insert(id, State { used: self.build, left: None });
        id
    }

    /// Names what has this id again.
    pub(super) fn again(&mut self, id: u32) {
        if let Some(state) = self.states.get_mut(&id) {
            *state = State { used: self.build, left: None };
        }
    }

    /// The id of a name with what it stands for from now on; a value that is the same stays in place.
    pub(super) fn named(&mut self, key: K, value: impl Into<V>) -> u32 {
        let id = self.id(key);
        self.says(id, value.into());
        id
    }

    /// What an id stands for from now on.
    pub(super) fn says(&mut self, id: u32, value: V) {
        if self.values.get(&id) != Some(&value) {
            self.values.insert(id, value);
        }
    }

    /// The id of a name that was named before.
    pub(super) fn known<Q>(&self, key: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.ids.get(key).copied()
    }

    /// Outside of a build: a name is gone.
    pub(super) fn leave(&mut self, key: K, now: MonoNs) {
        if let Some(state) = self.ids.get(&key).and_then(|id| self.states.get_mut(id)) {
            state.left = Some(now);
            self.leaving.push_back((now, key));
        }
    }

    /// Ends a build: what it did not name leaves.
    pub(super) fn finish(&mut self, now: MonoNs) {
        for (key, id) in &self.ids {
            let Some(state) = self.states.get_mut(id) else { continue };
            if state.used != self.build && state.left.is_none() {
                state.left = Some(now);
                self.leaving.push_back((now, key.clone()));
            }
        }
    }

    /// All that is known; what left long ago is forgotten.
    pub(super) fn list(&mut self, now: MonoNs) -> ById<V> {
        let is_over = |left: MonoNs| u128::from(now.0.saturating_sub(left.0)) >= STAY.as_nanos();
        while let Some((left, key)) = self.leaving.pop_front_if(|(left, _)| is_over(*left)) {
            let Some(id) = self.known(&key) else { continue };
            // Back, or gone again since.
            if self.states.get(&id).is_some_and(|state| state.left == Some(left)) {
                self.ids.remove(&key);
                self.states.remove(&id);
                self.values.remove(id);
            }
        }
        self.values.clone()
    }
}
