//! What was read of objects whose schema is someone else's, for as long as they stay the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use super::super::objects::Key;

/// Specs of one kind; one that cannot be read is its reason.
#[derive(Debug)]
pub(super) struct Specs<T> {
    known: BTreeMap<Key, Entry<T>>,
    /// How many there were when it was looked last which are still of use.
    looked: usize,
}

#[derive(Debug)]
struct Entry<T> {
    of: Arc<DynamicObject>,
    spec: Arc<Result<T, String>>,
}

impl<T> Default for Specs<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), looked: 0 }
    }
}

impl<T> Specs<T> {
    /// Reads an object's spec, or finds what was read of it.
    pub(super) fn read(
        &mut self,
        key: &Key,
        object: &Arc<DynamicObject>,
        read: impl FnOnce(&serde_json::Value) -> Result<T, String>,
    ) -> Arc<Result<T, String>> {
        if let Some(entry) = self.known.get(key).filter(|entry| Arc::ptr_eq(&entry.of, object)) {
            return Arc::clone(&entry.spec);
        }
        let spec = Arc::new(read(object.data.get("spec").unwrap_or(&serde_json::Value::Null)));
        let entry = Entry { of: Arc::clone(object), spec: Arc::clone(&spec) };
        self.known.insert(key.clone(), entry);
        spec
    }

    /// Ends a translation: what was read of objects that are gone is forgotten, where there may be much of it.
    pub(super) fn forget_unused(&mut self) {
        if self.known.len() > 2 * self.looked {
            self.known.retain(|_, entry| Arc::strong_count(&entry.of) > 1);
            self.looked = self.known.len();
        }
    }
}

impl<T: DeserializeOwned> Specs<T> {
    /// By serde.
    pub(super) fn typed(&mut self, key: &Key, object: &Arc<DynamicObject>) -> Arc<Result<T, String>> {
        self.read(key, object, |spec| T::deserialize(spec).map_err(|error| format!("cannot be read: {error}")))
    }
}
