//! All that translation made, unit by unit: an object, or those that are read together. When a unit is made again, its parts take
//! the places of those of before, and who looked at what is another now is told. The rest is not touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::collected::{Asked, Collected};
use super::crd::MIDDLEWARE;
use super::ingress;
use super::owners;
use super::settle::{Chained, Settled};
use super::shelf::Shelf;
use super::twins;
use super::units::{GATEWAYS, OPTIONS, PHASES};
use super::view::{Read, Sort};
use crate::config::model::{self, EntryPoint, HostOwners, Middleware, Router, Service, TlsOptions};
use crate::kube::objects::{Key, Objects};
use crate::kube::parts::{Certificate, Object, Parts, Problem, Status};

/// What a unit gave, and what it looked at.
pub(super) type Fresh = BTreeMap<Arc<Object>, (Collected, BTreeSet<Read>)>;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Whole {
    units: HashMap<Arc<Object>, Made>,
    readers: HashMap<Arc<Read>, Vec<Arc<Object>>>,
    pub routers: Shelf<Router>,
    pub services: Shelf<Service>,
    pub middlewares: Shelf<Middleware>,
    pub options: Shelf<TlsOptions>,
    pub chained: Chained,
    pub option_names: BTreeSet<String>,
    /// What each status should say, and who says so.
    statuses: BTreeMap<Object, (Arc<Object>, Arc<Status>)>,
    problems: BTreeMap<Place, Vec<Problem>>,
    /// Ingress objects that would have the default backend: what there is one of has the oldest, as a host does.
    defaults: BTreeSet<Aged>,
    /// Routes on each listener, by its Gateway's place and its own.
    attached: HashMap<(usize, usize), usize>,
    /// How many routes cannot follow a policy, by it and the Gateway that leads there.
    refused: BTreeMap<(Key, Key), usize>,
    is_counted_anew: bool,
    pub entry_points: Vec<EntryPoint>,
    default_certificate: Option<model::Certificate>,
    default_options_lost: bool,
    shown: Shown,
}

/// Where problems are told: what is wrong with objects by themselves before what comes of it for others, in the order in which
/// units are made.
type Place = (bool, usize, Arc<Object>);

/// Of equals the first by namespace and name.
type Aged = (Option<Timestamp>, Key);

/// What of a unit's is where.
#[derive(Debug, Default)]
struct Made {
    reads: Vec<Arc<Read>>,
    keys: Vec<(Sort, Arc<str>)>,
    default: Option<Aged>,
    statuses: Vec<Object>,
    attached: Vec<(usize, usize)>,
    refused: BTreeSet<(Key, Key)>,
}

/// Certificates, and whose hosts are that they are for.
#[derive(Debug, Default)]
struct Shown {
    by_unit: BTreeMap<Arc<Object>, (Asked, BTreeMap<Key, Certificate>)>,
    is_stale: bool,
    certificates: Vec<Arc<Certificate>>,
    owners: Arc<HostOwners>,
    disputes: Vec<Problem>,
    /// Ingress objects whose requests another one gets, and whether that may be otherwise by now.
    twins: Vec<Problem>,
    are_ingresses_others: bool,
}

impl Whole {
    /// Whose hosts are may be otherwise: an object that has some, or shows a certificate, is of another age.
    pub(super) fn forget_owners(&mut self) {
        self.shown.is_stale = true;
    }

    /// The units that there are.
    pub(super) fn units(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.units.keys()
    }

    /// Those who looked at something.
    pub(super) fn readers(&self, read: &Read) -> impl Iterator<Item = &Arc<Object>> {
        self.readers.get(read).into_iter().flatten()
    }

    /// Which of those who would have the default backend get it otherwise than before, when these units are others. To be asked
    /// before [`Self::want`].
    pub(super) fn renew_defaults(&mut self, objects: &Objects, fresh: &Fresh) -> BTreeSet<Arc<Object>> {
        let before = self.defaults.first().cloned();
        for (unit, (collected, _)) in fresh.iter().filter(|(unit, _)| unit.kind == "Ingress") {
            let age = || objects.created(unit.kind, &unit.key.namespace, &unit.key.name).map(|time| time.0);
            let now = collected.is_default.then(|| (age(), unit.key.clone()));
            let made = self.units.entry(Arc::clone(unit)).or_default();
            if let Some(before) = std::mem::replace(&mut made.default, now.clone()) {
                self.defaults.remove(&before);
            }
            self.defaults.extend(now);
        }
        let is_another = self.defaults.first() != before.as_ref();
        let readers = self.readers(&Read::Default).filter(|_| is_another);
        readers.cloned().collect()
    }

    /// Notes which keys units have from now on.
    pub(super) fn want(&mut self, fresh: &mut Fresh) {
        for (unit, (collected, _)) in fresh {
            if let Some(first) = self
                .defaults
                .first()
                .map(|(_, first)| first)
                .filter(|first| collected.is_default && **first != unit.key)
            {
                collected.routers.clear();
                let (object, path) = (Object::clone(unit), ingress::DEFAULT_BACKEND.to_owned());
                collected.problems.push(Problem { object, path, message: ingress::not_first(first) });
            }
            let mut keys = Vec::new();
            keys.extend(collected.routers.keys().map(|key| (Sort::Routers, self.routers.want(key, unit))));
            keys.extend(collected.services.keys().map(|key| (Sort::Services, self.services.want(key, unit))));
            let middlewares: BTreeSet<&String> =
                collected.middlewares.keys().chain(collected.middleware_keys.keys()).collect();
            keys.extend(middlewares.into_iter().map(|key| (Sort::Middlewares, self.middlewares.want(key, unit))));
            keys.extend(collected.option_keys.keys().map(|key| (Sort::Options, self.options.want(key, unit))));
            let made = self.units.entry(Arc::clone(unit)).or_default();
            let before = std::mem::replace(&mut made.keys, keys.clone());
            let keys: BTreeSet<_> = keys.into_iter().collect();
            for (sort, key) in before.into_iter().filter(|one| !keys.contains(one)) {
                match sort {
                    Sort::Routers => {
                        self.routers.leave(&key, unit);
                        self.shown.routers_are_others(unit);
                    }
                    Sort::Services => self.services.leave(&key, unit),
                    Sort::Middlewares => self.middlewares.leave(&key, unit),
                    Sort::Options => self.options.leave(&key, unit),
                }
            }
        }
    }

    /// Settles whose names are and what is behind them, when these units are others. Gives those who have parts by these names or
    /// looked at them.
    pub(super) fn renew_names(&mut self, objects: &Objects, fresh: &Fresh) -> BTreeSet<Arc<Object>> {
        let (routers, mut due) = self.routers.renew(objects);
        let (services, more) = self.services.renew(objects);
        due.extend(more);
        let (middlewares, more) = self.middlewares.renew(objects);
        due.extend(more);
        let (options, more) = self.options.renew(objects);
        due.extend(more);
        let is_chained_anew = !middlewares.is_empty() || fresh.keys().any(|unit| unit.kind == MIDDLEWARE);
        let mut reads = Vec::new();
        for (sort, names) in [
            (Sort::Routers, routers),
            (Sort::Services, services),
            (Sort::Middlewares, middlewares),
            (Sort::Options, options),
        ] {
            reads.extend(names.into_iter().map(|name| Read::Name(sort, name)));
        }
        if is_chained_anew {
            let others = self.chained.renew(fresh, &self.middlewares);
            reads.extend(others.into_iter().map(Read::Middleware));
        }
        for (_, (collected, _)) in fresh.iter().filter(|(unit, _)| ***unit == **OPTIONS) {
            let names: BTreeSet<String> = collected.tls_options.keys().map(|key| self.options.name(key)).collect();
            reads.extend(names.symmetric_difference(&self.option_names).cloned().map(Read::Options));
            self.option_names = names;
        }
        for (_, (collected, _)) in fresh.iter().filter(|(unit, _)| ***unit == **GATEWAYS) {
            let (before, now) = (&self.entry_points, &collected.entry_points);
            let is_other = |one: &&EntryPoint| {
                !(before.iter().any(|b| b.name == one.name) && now.iter().any(|n| n.name == one.name))
            };
            let others = before.iter().chain(now).filter(is_other);
            reads.extend(others.map(|one| Read::EntryPoint(one.name.clone())));
            self.entry_points.clone_from(&collected.entry_points);
        }
        due.extend(reads.iter().flat_map(|read| self.readers(read)).cloned());
        due
    }

    /// Takes a unit's parts under their names, and notes what it looked at.
    pub(super) fn take(&mut self, unit: &Arc<Object>, collected: Collected, settled: Settled, reads: BTreeSet<Read>) {
        let Settled { routers, services, middlewares, options, problems } = settled;
        let mut is_another = false;
        for (key, router) in routers {
            is_another |= self.routers.put(&key, unit, Some(router));
        }
        for (key, service) in services {
            self.services.put(&key, unit, Some(service));
        }
        for (key, middleware) in middlewares {
            self.middlewares.put(&key, unit, middleware);
        }
        for (key, one) in options {
            self.options.put(&key, unit, one);
        }
        self.complain(unit, false, collected.problems);
        self.complain(unit, true, problems);
        if **unit == **OPTIONS {
            (self.default_certificate, self.default_options_lost) =
                (collected.default_certificate, collected.default_options_lost);
        }
        if is_another {
            self.shown.routers_are_others(unit);
        }
        self.show(unit, collected.asked, collected.certificates);
        self.count(unit, collected.attached, collected.refused);
        self.say(unit, collected.statuses);
        self.look(unit, reads);
    }

    /// A unit that is no more has nothing, and looks at nothing; to be said behind all others.
    pub(super) fn forget(&mut self, unit: &Object) {
        self.units.remove(unit);
    }

    fn show(&mut self, unit: &Arc<Object>, asked: Asked, certificates: BTreeMap<Key, Certificate>) {
        let Shown { by_unit, is_stale, .. } = &mut self.shown;
        let is_same = match by_unit.get(unit) {
            Some(before) => (&before.0, &before.1) == (&asked, &certificates),
            None => asked.is_empty() && certificates.is_empty(),
        };
        *is_stale |= !is_same;
        match asked.is_empty() && certificates.is_empty() {
            true => drop(by_unit.remove(unit)),
            false => drop(by_unit.insert(Arc::clone(unit), (asked, certificates))),
        }
    }

    fn count(&mut self, unit: &Arc<Object>, attached: Vec<(usize, usize)>, refused: BTreeSet<(Key, Key)>) {
        let Some(made) = self.units.get_mut(unit) else { return };
        if (&made.attached, &made.refused) == (&attached, &refused) {
            return;
        }
        self.is_counted_anew = true;
        for at in &made.attached {
            self.attached.entry(*at).and_modify(|count| *count = count.saturating_sub(1));
        }
        for at in &attached {
            *self.attached.entry(*at).or_default() += 1;
        }
        for one in &made.refused {
            self.refused.entry(one.clone()).and_modify(|count| *count = count.saturating_sub(1));
        }
        for one in &refused {
            *self.refused.entry(one.clone()).or_default() += 1;
        }
        self.attached.retain(|_, count| *count > 0);
        self.refused.retain(|_, count| *count > 0);
        (made.attached, made.refused) = (attached, refused);
    }

    /// Whether routes are attached to other listeners, or cannot follow other policies, than when it was asked last.
    pub(super) fn is_counted_anew(&mut self) -> bool {
        std::mem::take(&mut self.is_counted_anew)
    }

    /// How many routes there are on a listener of a Gateway, by their places.
    pub(super) fn attached(&self, gateway: usize, listener: usize) -> usize {
        self.attached.get(&(gateway, listener)).copied().unwrap_or_default()
    }

    /// The Gateways that lead to what is under a policy.
    pub(super) fn followers(&self, policy: &Key) -> Vec<Key> {
        let all = self.refused.keys().filter(|(one, _)| one == policy);
        all.map(|(_, gateway)| gateway.clone()).collect()
    }

    /// What statuses of a unit should say.
    pub(super) fn say(&mut self, unit: &Arc<Object>, statuses: Vec<Status>) {
        let about: Vec<Object> = statuses.iter().map(|status| status.object.clone()).collect();
        let made = self.units.entry(Arc::clone(unit)).or_default();
        let before = std::mem::replace(&mut made.statuses, about);
        for status in statuses {
            let by = Arc::clone(unit);
            match self.statuses.get_mut(&status.object) {
                Some((of, old)) if **old == status => *of = by,
                Some(old) => *old = (by, Arc::new(status)),
                None => drop(self.statuses.insert(status.object.clone(), (by, Arc::new(status)))),
            }
        }
        for object in before.iter().filter(|object| !made.statuses.contains(object)) {
            // Another one may say by now what it should: of a Gateway that cannot be read any more.
            if self.statuses.get(object).is_some_and(|(by, _)| by == unit) {
                self.statuses.remove(object);
            }
        }
    }

    /// What is wrong with a unit, by itself or since others are wrong.
    pub(super) fn complain(&mut self, unit: &Arc<Object>, is_of_others: bool, problems: Vec<Problem>) {
        let phase = PHASES.iter().position(|kind| *kind == unit.kind).unwrap_or(PHASES.len());
        let place = (is_of_others, phase, Arc::clone(unit));
        match problems.is_empty() {
            true => drop(self.problems.remove(&place)),
            false => drop(self.problems.insert(place, problems)),
        }
    }

    fn look(&mut self, unit: &Arc<Object>, reads: BTreeSet<Read>) {
        let Some(made) = self.units.get_mut(unit) else { return };
        if made.reads.iter().map(|read| &**read).eq(&reads) {
            return;
        }
        for read in made.reads.drain(..).filter(|read| !reads.contains(&**read)) {
            let Some(readers) = self.readers.get_mut(&read) else { continue };
            readers.retain(|reader| *reader != *unit);
            if readers.is_empty() {
                self.readers.remove(&read);
            }
        }
        for read in reads {
            let known = self.readers.get_key_value(&read).map(|(read, _)| Arc::clone(read));
            let read = known.unwrap_or_else(|| Arc::new(read));
            let readers = self.readers.entry(Arc::clone(&read)).or_default();
            if let Err(place) = readers.binary_search(unit) {
                readers.insert(place, Arc::clone(unit));
            }
            made.reads.push(read);
        }
    }

    /// All of it, in the order of names.
    pub(super) fn parts(&mut self, objects: &Objects) -> Parts {
        let mut routers: Vec<_> = self.routers.iter().map(|(by, one)| (Arc::clone(by), Arc::clone(one))).collect();
        if !self.routers.is_in_order() {
            routers.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        }
        let (origins, routers): (Vec<_>, Vec<_>) = routers.into_iter().unzip();
        let pairs = origins.iter().zip(&routers).map(|(by, router)| (&**by, &**router));
        if std::mem::take(&mut self.shown.are_ingresses_others) {
            self.shown.twins = twins::of(pairs.clone());
        }
        if std::mem::take(&mut self.shown.is_stale) {
            self.shown.renew(objects, pairs);
        }
        let mut tls_options: Vec<_> = self.options.iter().map(|(_, one)| TlsOptions::clone(one)).collect();
        tls_options.sort_by(|a, b| a.name.cmp(&b.name));
        Parts {
            entry_points: self.entry_points.clone(),
            routers,
            services: listed(&self.services, |one| &one.name),
            middlewares: listed(&self.middlewares, |one| &one.name),
            certificates: self.shown.certificates.clone(),
            host_owners: Arc::clone(&self.shown.owners),
            problems: self.problems.values().flatten().cloned().collect(),
            disputes: self.shown.disputes.iter().chain(&self.shown.twins).cloned().collect(),
            statuses: self.statuses.values().map(|(_, status)| Arc::clone(status)).collect(),
            origins,
            default_certificate: self.default_certificate.clone(),
            tls_options,
            default_options_lost: self.default_options_lost,
        }
    }
}

fn listed<T>(shelf: &Shelf<T>, name: impl Fn(&T) -> &String) -> Vec<Arc<T>> {
    let mut all: Vec<_> = shelf.iter().map(|(_, one)| Arc::clone(one)).collect();
    if !shelf.is_in_order() {
        all.sort_by(|a, b| name(a).cmp(name(b)));
    }
    all
}

impl Shown {
    /// A unit has other routers than before.
    fn routers_are_others(&mut self, unit: &Object) {
        self.is_stale = true;
        self.are_ingresses_others |= unit.kind == "Ingress";
    }

    fn renew<'r>(&mut self, objects: &Objects, routers: impl Iterator<Item = (&'r Object, &'r Router)>) {
        let mut asked = Asked::new();
        let mut certificates = BTreeMap::new();
        for (one, more) in self.by_unit.values() {
            for (object, secrets) in one {
                asked.entry(object.clone()).or_default().extend(secrets.iter().cloned());
            }
            certificates.extend(more.iter().map(|(key, one)| (key.clone(), one.clone())));
        }
        owners::hold(objects, &asked, &mut certificates);
        let (owners, disputes) = owners::of(objects, &asked, &certificates, routers);
        if *self.owners != owners {
            self.owners = Arc::new(owners);
        }
        self.disputes = disputes;
        let before = std::mem::take(&mut self.certificates);
        let same = |one: &Certificate| {
            let place = before.binary_search_by(|old| old.secret.cmp(&one.secret)).ok()?;
            before.get(place).filter(|old| ***old == *one).cloned()
        };
        self.certificates = certificates.into_values().map(|one| same(&one).unwrap_or_else(|| Arc::new(one))).collect();
    }
}
