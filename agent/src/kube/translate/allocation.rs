//! Whose a name is. Names as Traefik makes them are flattened, so that parts of two objects may want one: `team`'s `a-web` and
//! `team-a`'s `web`. While objects are translated, parts go by keys: the name, and whose it is. At the end each key
//! becomes a name that no other has, and what names a part by its key gets that part and no other.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::names;
use crate::kube::objects::Objects;
use crate::kube::parts::Object;

/// Between a name and whose it is: in no name, and in none of an object.
const WHOSE: char = '\0';

/// The key of an object's part; `local` tells it from the object's others.
pub(super) fn key(name: &str, object: &Object, local: &str) -> String {
    let Object { kind, key } = object;
    format!("{name}{WHOSE}{kind}{WHOSE}{}{WHOSE}{}{WHOSE}{local}", key.namespace, key.name)
}

/// What all keys that want a name begin with, but for what was a name from the start.
pub(super) fn wanting(name: &str) -> String {
    format!("{name}{WHOSE}")
}

/// What a key would be called if nobody else wanted the name.
pub(super) fn plain(key: &str) -> &str {
    key.split_once(WHOSE).map_or(key, |(plain, _)| plain)
}

/// Whether it is a key, and not a name that somebody wrote.
pub(super) fn is_key(name: &str) -> bool {
    name.contains(WHOSE)
}

/// Names that more than one part wants, by what each of these is called.
#[derive(Debug, Default)]
pub(super) struct Shared(BTreeMap<String, BTreeMap<String, String>>);

impl Shared {
    /// Looks again at who wants a name: the oldest object's part has it, of equals the first by namespace and name. Gives
    /// whether anybody is called otherwise than before.
    pub(super) fn renew(&mut self, objects: &Objects, name: &str, keys: &[Arc<str>]) -> bool {
        let called = (keys.len() > 1).then(|| {
            let first = keys.iter().min_by(|a, b| order(objects, a, b));
            let called = keys.iter().map(|key| {
                let own = if Some(key) == first { name.to_owned() } else { own(key) };
                (key.to_string(), own)
            });
            called.collect::<BTreeMap<_, _>>()
        });
        if self.0.get(name) == called.as_ref() {
            return false;
        }
        match called {
            Some(called) => self.0.insert(name.to_owned(), called),
            None => self.0.remove(name),
        };
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a key is called. Where others share its name and it is none of them it gets a name that nobody has.
    pub(super) fn name(&self, key: &str) -> String {
        match self.0.get(plain(key)) {
            None => plain(key).to_owned(),
            Some(called) => called.get(key).cloned().unwrap_or_else(|| own(key)),
        }
    }

    /// What a reference means: a key its own part, a written name the only part that wants it. The error names all that do.
    pub(super) fn referred(&self, reference: &str, has: impl Fn(&str) -> Has) -> Result<String, String> {
        if is_key(reference) {
            // Of parts that nobody shares a name with, the one that has it may be another.
            return Ok(if has(reference) == Has::Another { own(reference) } else { self.name(reference) });
        }
        match self.0.get(reference) {
            None => Ok(reference.to_owned()),
            Some(called) => {
                let all: BTreeSet<String> = called.keys().filter_map(|key| whose(key)).collect();
                let all: Vec<String> = all.into_iter().collect();
                Err(ambiguous(reference, &all))
            }
        }
    }
}

/// What is wrong with a written name that these objects want.
pub(super) fn ambiguous(name: &str, owners: &[String]) -> String {
    format!("`{name}` is the name of several: {}; rename all but one of them", owners.join(", "))
}

/// What there is of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    Itself,
    /// Nothing of this name, of whomever.
    Nobody,
    /// Another's part of the same name.
    Another,
}

/// The name of a part whose plain one is another's. Plain names never have two `-` beside each other.
fn own(key: &str) -> String {
    let (plain, whose) = key.split_once(WHOSE).unwrap_or((key, ""));
    let hash = names::hash(whose);
    match plain.rsplit_once('@') {
        Some((name, provider)) => format!("{name}--{hash}@{provider}"),
        None => format!("{plain}--{hash}"),
    }
}

/// Kind, namespace, name, and what tells the part from its object's others.
fn parts(key: &str) -> Option<[&str; 4]> {
    let mut parts = key.splitn(5, WHOSE).skip(1);
    Some([parts.next()?, parts.next()?, parts.next()?, parts.next()?])
}

fn whose(key: &str) -> Option<String> {
    let [kind, namespace, name, _] = parts(key)?;
    Some(format!("{kind} {namespace}/{name}"))
}

fn order(objects: &Objects, a: &str, b: &str) -> Ordering {
    let place = |key: &str| {
        let [kind, namespace, name, local] = parts(key).unwrap_or_default().map(str::to_owned);
        (objects.created(&kind, &namespace, &name), namespace, name, kind, local)
    };
    place(a).cmp(&place(b))
}

#[cfg(test)]
mod tests {
    use super::super::shelf::Shelf;
    use super::*;
    use crate::kube::objects::Key;

    fn of(namespace: &str, name: &str) -> String {
        let object = Object { kind: "Middleware", key: Key::new(namespace, name) };
        key(&names::of(names::CRD, &names::normalized(&format!("{namespace}-{name}"))), &object, "")
    }

    fn shelf<'k>(keys: impl Iterator<Item = &'k String>) -> Shelf<()> {
        let (mut shelf, by) = (Shelf::default(), Arc::new(Object { kind: "Middleware", key: Key::new("", "") }));
        keys.for_each(|key| drop(shelf.want(key, &by)));
        shelf.renew(&Objects::default());
        shelf
    }

    #[test]
    fn a_name_that_several_want_is_the_firsts_and_each_other_has_one_of_its_own() {
        let keys = [of("team-a", "auth"), of("team", "a-auth"), of("team", "a.auth"), of("team", "b")];
        let shared = shelf(keys.iter());
        let names: BTreeSet<String> = keys.iter().map(|key| shared.name(key)).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(shared.name(&keys[1]), "team-a-auth@kubernetescrd");
        assert_eq!(shared.name(&keys[3]), "team-b@kubernetescrd");
        assert!(shared.name(&keys[0]).starts_with("team-a-auth--"), "{}", shared.name(&keys[0]));
        let reversed = shelf(keys.iter().rev());
        assert!(keys.iter().all(|key| shared.name(key) == reversed.name(key)));
        let error = shared.referred("team-a-auth@kubernetescrd").unwrap_err();
        assert!(error.contains("Middleware team-a/auth, Middleware team/a-auth, Middleware team/a.auth"), "{error}");
        assert_eq!(shared.referred("team-b@kubernetescrd"), Ok("team-b@kubernetescrd".to_owned()));
    }

    #[test]
    fn who_is_not_there_has_nobodys_name() {
        let shared = shelf([of("team", "a-auth")].iter());
        let name = shared.referred(&of("team-a", "auth")).unwrap();
        assert_ne!(name, "team-a-auth@kubernetescrd");
        assert_eq!(shared.referred(&of("team-a", "other")), Ok("team-a-other@kubernetescrd".to_owned()));
    }
}
