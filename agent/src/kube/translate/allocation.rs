//! Whose a name is. Names as Traefik makes them are flattened, so that parts of two objects may want one: `team`'s `a-web` and
//! `team-a`'s `web`. While objects are translated, parts go by keys: the name, and whose it is. At the end each key
//! becomes a name that no other has, and what names a part by its key gets that part and no other.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

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

/// What a key would be called if nobody else wanted the name.
pub(super) fn plain(key: &str) -> &str {
    key.split_once(WHOSE).map_or(key, |(plain, _)| plain)
}

/// Whether it is a key, and not a name that somebody wrote.
pub(super) fn is_key(name: &str) -> bool {
    name.contains(WHOSE)
}

/// Names that more than one part wants, by what each of these is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shared(BTreeMap<String, BTreeMap<String, String>>);

/// Of each sort of parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub routers: Shared,
    pub services: Shared,
    pub middlewares: Shared,
    pub options: Shared,
}

impl Shared {
    /// Of all parts of a sort. The oldest object's part has the name, of equals the first by namespace and name.
    pub(super) fn among<'k>(objects: &Objects, keys: impl Iterator<Item = &'k String>) -> Self {
        let mut all: Vec<&str> = keys.map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        let mut shared = BTreeMap::new();
        for keys in all.chunk_by(|a, b| plain(a) == plain(b)).filter(|keys| keys.len() > 1) {
            let name = plain(keys.first().copied().unwrap_or_default());
            let first = keys.iter().min_by(|a, b| order(objects, a, b)).copied();
            let called = keys.iter().map(|key| {
                let own = if Some(*key) == first { name.to_owned() } else { own(key) };
                ((*key).to_owned(), own)
            });
            shared.insert(name.to_owned(), called.collect());
        }
        Self(shared)
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

impl Has {
    /// Among sorted keys.
    pub(super) fn among<V>(all: &BTreeMap<String, V>, key: &str) -> Self {
        let from = format!("{}{WHOSE}", plain(key));
        match all.contains_key(key) {
            true => Self::Itself,
            false if all.range(from.clone()..).next().is_some_and(|(other, _)| other.starts_with(&from)) => {
                Self::Another
            }
            false => Self::Nobody,
        }
    }
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
    use super::*;
    use crate::kube::objects::Key;

    fn of(namespace: &str, name: &str) -> String {
        let object = Object { kind: "Middleware", key: Key::new(namespace, name) };
        key(&names::of(names::CRD, &names::normalized(&format!("{namespace}-{name}"))), &object, "")
    }

    #[test]
    fn a_name_that_several_want_is_the_firsts_and_each_other_has_one_of_its_own() {
        let keys = [of("team-a", "auth"), of("team", "a-auth"), of("team", "a.auth"), of("team", "b")];
        let shared = Shared::among(&Objects::default(), keys.iter());
        let names: BTreeSet<String> = keys.iter().map(|key| shared.name(key)).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(shared.name(&keys[1]), "team-a-auth@kubernetescrd");
        assert_eq!(shared.name(&keys[3]), "team-b@kubernetescrd");
        assert!(shared.name(&keys[0]).starts_with("team-a-auth--"), "{}", shared.name(&keys[0]));
        let reversed = Shared::among(&Objects::default(), keys.iter().rev());
        assert_eq!(shared, reversed);
        let error = shared.referred("team-a-auth@kubernetescrd", |_| Has::Nobody).unwrap_err();
        assert!(error.contains("Middleware team-a/auth, Middleware team/a-auth, Middleware team/a.auth"), "{error}");
        assert_eq!(shared.referred("team-b@kubernetescrd", |_| Has::Nobody), Ok("team-b@kubernetescrd".to_owned()));
    }

    #[test]
    fn who_is_not_there_has_nobodys_name() {
        let all = BTreeMap::from([(of("team", "a-auth"), ())]);
        let missing = of("team-a", "auth");
        let shared = Shared::default();
        let name = shared.referred(&missing, |key| Has::among(&all, key)).unwrap();
        assert_ne!(name, "team-a-auth@kubernetescrd");
        let other = of("team-a", "other");
        assert_eq!(shared.referred(&other, |key| Has::among(&all, key)), Ok("team-a-other@kubernetescrd".to_owned()));
    }
}
