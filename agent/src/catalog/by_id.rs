//! A map by id, in blocks: a copy shares all that it does not change, so that the catalog of 10,000 servers is renewed for
//! one of them without touching the others.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

/// Ids of one block. A change copies one block and the map of blocks: of 10,000 servers 64 and 157.
const BLOCK: u32 = 64;

/// What ids stand for.
#[derive(Debug, Clone)]
pub struct ById<V> {
    /// By id over [`BLOCK`]; none is empty.
    blocks: BTreeMap<u32, Arc<BTreeMap<u32, V>>>,
}

impl<V> Default for ById<V> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new() }
    }
}

impl<V: Clone> ById<V> {
    /// What an id stands for.
    #[must_use]
    pub fn get(&self, id: &u32) -> Option<&V> {
        self.blocks.get(&(id / BLOCK))?.get(id)
    }

    /// Gives an id its meaning.
    pub fn insert(&mut self, id: u32, value: V) {
        Arc::make_mut(self.blocks.entry(id / BLOCK).or_default()).insert(id, value);
    }

    /// Forgets an id.
    pub fn remove(&mut self, id: u32) {
        let Some(block) = self.blocks.get_mut(&(id / BLOCK)) else { return };
        Arc::make_mut(block).remove(&id);
        if block.is_empty() {
            self.blocks.remove(&(id / BLOCK));
        }
    }

    /// All, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (&u32, &V)> {
        self.blocks.values().flat_map(|block| block.iter())
    }

    /// What there is, in the order of ids.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.values().map(|block| block.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl<V: Clone + PartialEq> PartialEq for ById<V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<V: Clone> FromIterator<(u32, V)> for ById<V> {
    fn from_iter<I: IntoIterator<Item = (u32, V)>>(all: I) -> Self {
        let mut map = Self::default();
        all.into_iter().for_each(|(id, value)| map.insert(id, value));
        map
    }
}

impl<V: Clone, const N: usize> From<[(u32, V); N]> for ById<V> {
    fn from(all: [(u32, V); N]) -> Self {
        all.into_iter().collect()
    }
}

impl<V: Clone> Index<&u32> for ById<V> {
    type Output = V;

    fn index(&self, id: &u32) -> &V {
        self.get(id).expect("whoever indexes knows that it is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_one_leaves_the_other_blocks_shared() {
        let first: ById<u32> = (0..200).map(|id| (id * 3, id)).collect();
        let mut second = first.clone();
        second.insert(3, 1000);
        (189..=192).for_each(|id| second.remove(id));
        assert_eq!((first.len(), second.len()), (200, 198));
        assert_eq!((first[&3], second[&3], second.get(&4), second.get(&192)), (1, 1000, None, None));
        let shared = |block: u32| Arc::ptr_eq(&first.blocks[&block], &second.blocks[&block]);
        assert_eq!(
            (0..10).map(shared).collect::<Vec<_>>(),
            [false, true, false, false, true, true, true, true, true, true]
        );
        assert!(second.iter().map(|(id, _)| *id).is_sorted());
        (0..600).for_each(|id| second.remove(id));
        assert!(second.is_empty() && second != first);
    }
}
