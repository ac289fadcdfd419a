//! Who had which address when. A state machine without clock, IO or lock: its one owner tells it what the API said and asks
//! it by address and time. An answer is a pod that certainly had the address then, or none.
//!
//! What is certain: a pod has its address from when it was seen to have it, or its containers ran, until its end was asked
//! for, it had finished, or nobody could have told any more. In between lie times of which nothing is said.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;

use super::QUIET;
use super::facts::{Facts, Place, Pod, PodContainer};
use crate::export::peer::Encoded;

/// How long a pod that is gone is still known: the longest requests end, and their records come.
const REST: Duration = Duration::from_secs(300);
/// For how long after a watch broke it is believed that nothing has changed: networks rest an address for about as long
/// before another pod gets it.
const TRUST: Duration = Duration::from_secs(30);
/// A server that a watch is back with tells first what the watch missed, as fast as it can: for so long after its first word it is not
/// believed that all of that has come.
const REPLAY: Duration = Duration::from_secs(10);
/// Before a watch breaks, what it tells takes less than this to arrive.
const WAY_NS: u64 = 1_000_000_000;
/// Places that are known of one pod: two families of addresses, their ports on the node, and where it was before.
const PLACES_MAX: usize = 64;
/// Times at one place that are known of one pod.
const RETURNS_MAX: usize = 4;
/// Not ended.
const EVER: MonoNs = MonoNs(u64::MAX);

/// What the API said. `source` is the number of the watch: each lists for itself.
#[derive(Debug)]
pub enum Change {
    /// A list begins: what it does not name has gone.
    Listing(u16),
    /// A pod of the list.
    Listed(u16, Facts),
    /// The list was whole.
    Complete(u16),
    /// A pod is new or has changed.
    Applied(u16, Facts),
    /// A pod was deleted; this was its last state.
    Deleted(u16, Facts),
    /// The watch has failed.
    Broken(u16),
    /// Nothing has come over the watch since then, and it is renewed.
    Silent(u16, MonoNs),
    /// The zone of a node, encoded.
    Node(Box<str>, Encoded),
    /// A node has gone.
    NodeGone(Box<str>),
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that are there.
    pub pods: usize,
    /// Pods that have gone and are still known.
    pub resting: usize,
    /// Changes that found no room.
    pub refused: u64,
}

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'c> {
    /// The pod.
    pub pod: &'c Pod,
    /// Its node's zone.
    pub zone: Option<&'c Encoded>,
    /// The container, where the port or their number decides.
    pub container: Option<&'c Encoded>,
}

/// The pods.
#[derive(Debug)]
pub struct Cache {
    most: usize,
    by_uid: HashMap<Box<str>, u32>,
    pods: Vec<Option<Entry>>,
    free: Vec<u32>,
    tenures: HashMap<Place, Vec<Tenure>>,
    zones: HashMap<Box<str>, Encoded>,
    /// Those that have gone, the first to be forgotten first.
    resting: VecDeque<(MonoNs, u32)>,
    sources: HashMap<u16, Source>,
    refused: u64,
}

#[derive(Debug)]
struct Entry {
    uid: Box<str>,
    version: u64,
    pod: Pod,
    /// Where it is, and where it has been: some tenure there is its.
    places: Vec<(Place, bool)>,
    source: u16,
    /// The list that named it last.
    list: u64,
    gone: Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    No,
    /// A list did not name it. It comes back where the list was of an old state.
    Dropped,
    /// For good.
    Deleted,
}

/// A pod's time at a place.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    pod: u32,
    from: MonoNs,
    until: MonoNs,
    /// It is there as far as is known.
    is_open: bool,
}

/// One watch.
#[derive(Debug, Default)]
struct Source {
    list: u64,
    is_listing: bool,
    /// The last thing it told while it missed nothing.
    heard: MonoNs,
    /// The same, before the list.
    heard_before: MonoNs,
    /// Since when, and when last, it failed.
    broken: Option<(MonoNs, MonoNs)>,
    /// The first and the last that it has told since.
    back: Option<(MonoNs, MonoNs)>,
    /// Since when it has told nothing, where that was for long and it did not fail.
    silent: Option<MonoNs>,
    /// That is its server's way, which sends no bookmarks.
    is_quiet: bool,
}

impl Source {
    fn heard(&mut self, at: MonoNs) {
        self.silent = None;
        if self.broken.is_none() {
            self.heard = at;
            return;
        }
        self.back = Some((self.back.map_or(at, |(first, _)| first), at));
        self.settle(at);
    }

    fn failed(&mut self, at: MonoNs) {
        let since = self.silent.take().unwrap_or(at);
        self.fails(since, at);
    }

    /// A server that is well sends bookmarks, and one that is not does not answer when the watch is renewed. Who is silent again and
    /// has not failed in between has been answered, and its server sends none: there, silence is nothing until a failure follows.
    fn silent(&mut self, since: MonoNs, at: MonoNs) {
        if self.silent.replace(since).is_some() && !self.is_listing {
            self.is_quiet = true;
            (self.broken, self.back) = (None, None);
        }
        if !self.is_quiet {
            self.fails(since, at);
        }
    }

    fn fails(&mut self, since: MonoNs, at: MonoNs) {
        self.broken = Some((self.broken.map_or(since, |(before, _)| before.min(since)), at));
        self.back = None;
    }

    /// Ends a doubt, once what was missed must have come: a list says itself when it is whole.
    fn settle(&mut self, now: MonoNs) {
        let Some((_, last)) = self.broken.filter(|_| !self.is_listing) else { return };
        match self.back {
            Some((first, told)) if now >= first + REPLAY => self.recovered(told),
            None if now > last + QUIET => self.broken = None,
            _ => {}
        }
    }

    fn recovered(&mut self, told: MonoNs) {
        (self.heard, self.broken, self.back) = (told, None, None);
    }

    /// Whether it would have told by now what happened until then.
    fn is_trusted(&self, at: MonoNs) -> bool {
        let is_back = |since, last| !self.is_listing && (since == last || at > last + QUIET);
        self.broken.is_none_or(|(since, last)| at <= since + TRUST || is_back(since, last))
    }
}

impl Cache {
    /// Of so many pods at most, those that have gone among them.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            by_uid: HashMap::new(),
            pods: Vec::new(),
            free: Vec::new(),
            tenures: HashMap::new(),
            zones: HashMap::new(),
            resting: VecDeque::new(),
            sources: HashMap::new(),
            refused: 0,
        }
    }

    /// Takes in what came at `at`.
    pub fn apply(&mut self, change: Change, at: MonoNs) {
        match change {
            Change::Listing(source) => self.begin_list(source),
            Change::Listed(source, facts) | Change::Applied(source, facts) => self.state(source, facts, false, at),
            Change::Deleted(source, facts) => self.state(source, facts, true, at),
            Change::Complete(source) => self.end_list(source, at),
            Change::Broken(source) => self.sources.entry(source).or_default().failed(at),
            Change::Silent(source, since) => self.sources.entry(source).or_default().silent(since, at),
            // As many as the cluster has nodes; each takes less than a pod.
            Change::Node(name, zone) if self.zones.len() < self.most || self.zones.contains_key(&name) => {
                self.zones.insert(name, zone);
            }
            Change::Node(..) => self.refused += 1,
            Change::NodeGone(name) => drop(self.zones.remove(&name)),
        }
    }

    /// Forgets whom nobody asks for any more, and believes watches that are back.
    pub fn tick(&mut self, now: MonoNs) {
        self.sources.values_mut().for_each(|source| source.settle(now));
        while let Some((_, pod)) = self.resting.front().copied().filter(|(due, _)| *due <= now) {
            self.resting.pop_front();
            self.forget(pod);
        }
    }

    /// The pod that a connection to `address` reached, which was made at `at`.
    #[must_use]
    pub fn server(&self, address: SocketAddr, at: MonoNs) -> Option<Found<'_>> {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let own = self.holder(Place { ip, port: 0 }, at);
        let pod = own.or_else(|| self.holder(Place { ip, port }, at))?;
        let ports = |container: &PodContainer| {
            if own.is_some() { container.ports.contains(&port) } else { container.host_ports.contains(&port) }
        };
        let mut named = pod.containers.iter().filter(|container| ports(container));
        let named = named.next().filter(|_| named.next().is_none()).or_else(|| only(&pod.containers));
        Some(self.found(pod, named.map(|container| &container.name)))
    }

    /// The pod that a connection from `address` came from, which was made at `at`. Its port is anybody's.
    #[must_use]
    pub fn client(&self, address: SocketAddr, at: MonoNs) -> Option<Found<'_>> {
        let pod = self.holder(Place { ip: address.ip().to_canonical(), port: 0 }, at)?;
        Some(self.found(pod, only(&pod.containers).map(|container| &container.name)))
    }

    fn found<'c>(&'c self, pod: &'c Pod, container: Option<&'c Encoded>) -> Found<'c> {
        Found { pod, zone: self.zones.get(&pod.node), container }
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let resting = self.resting.len();
        Counts { pods: self.by_uid.len() - resting, resting, refused: self.refused }
    }

    /// The one pod that certainly was there then. Where two seem to have been, nothing is certain.
    fn holder(&self, place: Place, at: MonoNs) -> Option<&Pod> {
        let tenures = self.tenures.get(&place)?;
        let mut there = tenures.iter().filter(|tenure| (tenure.from..=tenure.until).contains(&at));
        let tenure = there.next()?;
        if there.any(|other| other.pod != tenure.pod) {
            return None;
        }
        let entry = self.entry(tenure.pod)?;
        self.sources.get(&entry.source).is_some_and(|source| source.is_trusted(at)).then_some(&entry.pod)
    }

    fn entry(&self, pod: u32) -> Option<&Entry> {
        self.pods.get(usize::try_from(pod).ok()?)?.as_ref()
    }

    fn begin_list(&mut self, source: u16) {
        let source = self.sources.entry(source).or_default();
        source.list += 1;
        if !source.is_listing {
            (source.is_listing, source.heard_before) = (true, source.heard);
        }
    }

    fn end_list(&mut self, number: u16, at: MonoNs) {
        let source = self.sources.entry(number).or_default();
        source.recovered(at);
        source.is_listing = false;
        let (list, heard_before) = (source.list, MonoNs(source.heard_before.0.saturating_sub(WAY_NS)));
        for pod in 0..u32::try_from(self.pods.len()).unwrap_or(u32::MAX) {
            let missing = |entry: &Entry| entry.source == number && entry.list != list && entry.gone == Gone::No;
            if self.entry(pod).is_some_and(missing) {
                // It went at some time after the watch told its last.
                self.end(pod, heard_before, Gone::Dropped, at);
            }
        }
    }

    fn state(&mut self, number: u16, facts: Facts, is_deleted: bool, at: MonoNs) {
        let source = self.sources.entry(number).or_default();
        source.heard(at);
        let list = source.list;
        let gone = if is_deleted || facts.is_over { Gone::Deleted } else { Gone::No };
        let until = if gone == Gone::Deleted { Some(facts.until.unwrap_or(at).min(at)) } else { facts.until };
        let Some(pod) = self.place_for(&facts, number, until, at) else { return };
        let Some(entry) = self.pods.get_mut(pod as usize).and_then(Option::as_mut) else { return };
        entry.list = list;
        let is_older = facts.version != 0 && facts.version < entry.version;
        if entry.gone == Gone::Deleted || (is_older && !is_deleted) {
            return;
        }
        let was_gone = std::mem::replace(&mut entry.gone, Gone::No) != Gone::No;
        (entry.version, entry.pod) = (facts.version, facts.pod);
        if was_gone {
            self.resting.retain(|(_, other)| *other != pod);
        }
        self.leave_others(pod, &facts.places, facts.moved.unwrap_or(at).min(at));
        for place in facts.places {
            self.stay(pod, place, facts.since.unwrap_or(at).min(at));
        }
        if let Some(until) = until {
            self.no_longer_than(pod, until.min(at));
        }
        if gone == Gone::Deleted {
            self.end(pod, at, gone, at);
        }
    }

    /// The number of a pod that is known, or of room for it.
    fn place_for(&mut self, facts: &Facts, source: u16, until: Option<MonoNs>, at: MonoNs) -> Option<u32> {
        if let Some(pod) = self.by_uid.get(&facts.uid) {
            return Some(*pod);
        }
        // A Job's pods stand in lists for long after their end.
        if facts.is_over && until.is_some_and(|until| until + REST < at) {
            return None;
        }
        if self.by_uid.len() >= self.most {
            match self.resting.pop_front() {
                Some((_, gone)) => self.forget(gone),
                None => {
                    self.refused += 1;
                    return None;
                }
            }
        }
        let entry = Entry {
            uid: facts.uid.clone(),
            version: 0,
            pod: Pod::default(),
            places: Vec::new(),
            source,
            list: 0,
            gone: Gone::No,
        };
        let pod = match self.free.pop() {
            Some(pod) => pod,
            None => {
                self.pods.push(None);
                u32::try_from(self.pods.len() - 1).ok()?
            }
        };
        *self.pods.get_mut(pod as usize)? = Some(entry);
        self.by_uid.insert(facts.uid.clone(), pod);
        Some(pod)
    }

    /// It is at this place, since then at the latest.
    fn stay(&mut self, pod: u32, place: Place, from: MonoNs) {
        let Some(entry) = self.pods.get_mut(pod as usize).and_then(Option::as_mut) else { return };
        let mut left = None;
        match entry.places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, is_there)) => *is_there = true,
            None => {
                if entry.places.len() >= PLACES_MAX {
                    // In turn for where it was before; a pod that is in so many places at once has the first of them.
                    let Some(old) = entry.places.iter().position(|(_, is_there)| !is_there) else {
                        self.refused += 1;
                        return;
                    };
                    left = Some(entry.places.swap_remove(old).0);
                }
                entry.places.push((place, true));
            }
        }
        if let Some(left) = left {
            self.leave_for_good(pod, left);
        }
        let tenures = self.tenures.entry(place).or_default();
        if let Some(tenure) = tenures.iter_mut().find(|tenure| tenure.pod == pod && tenure.is_open) {
            tenure.from = tenure.from.min(from);
            return;
        }
        if tenures.iter().filter(|tenure| tenure.pod == pod).count() >= RETURNS_MAX {
            let first = tenures.iter().position(|tenure| tenure.pod == pod);
            first.map(|first| tenures.remove(first));
        }
        tenures.push(Tenure { pod, from, until: EVER, is_open: true });
    }

    fn leave_for_good(&mut self, pod: u32, place: Place) {
        if let Some(tenures) = self.tenures.get_mut(&place) {
            tenures.retain(|tenure| tenure.pod != pod);
            if tenures.is_empty() {
                self.tenures.remove(&place);
            }
        }
    }

    /// It is at no other place than these, since then.
    fn leave_others(&mut self, pod: u32, places: &[Place], until: MonoNs) {
        let Some(entry) = self.pods.get_mut(pod as usize).and_then(Option::as_mut) else { return };
        for (place, is_there) in &mut entry.places {
            if *is_there && !places.contains(place) {
                *is_there = false;
                cut(&mut self.tenures, pod, *place, until, true);
            }
        }
    }

    fn no_longer_than(&mut self, pod: u32, until: MonoNs) {
        let Some(entry) = self.pods.get(pod as usize).and_then(Option::as_ref) else { return };
        for (place, _) in entry.places.iter().filter(|(_, is_there)| *is_there) {
            cut(&mut self.tenures, pod, *place, until, false);
        }
    }

    fn end(&mut self, pod: u32, until: MonoNs, gone: Gone, at: MonoNs) {
        self.leave_others(pod, &[], until);
        if let Some(entry) = self.pods.get_mut(pod as usize).and_then(Option::as_mut) {
            entry.gone = gone;
            self.resting.push_back((at + REST, pod));
        }
    }

    fn forget(&mut self, pod: u32) {
        let Some(entry) = self.pods.get_mut(pod as usize).and_then(Option::take) else { return };
        self.by_uid.remove(&entry.uid);
        for (place, _) in entry.places {
            self.leave_for_good(pod, place);
        }
        self.free.push(pod);
    }
}

/// Ends a tenure that is open at the latest then.
fn cut(tenures: &mut HashMap<Place, Vec<Tenure>>, pod: u32, place: Place, until: MonoNs, closes: bool) {
    let open = tenures.get_mut(&place).into_iter().flatten();
    for tenure in open.filter(|tenure| tenure.pod == pod && tenure.is_open) {
        tenure.until = tenure.until.min(until);
        tenure.is_open &= !closes;
    }
}

fn only<T>(all: &[T]) -> Option<&T> {
    if let [one] = all { Some(one) } else { None }
}

#[cfg(test)]
mod tests;
