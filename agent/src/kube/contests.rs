//! Statuses that somebody else keeps changing back: a second release, or another controller, that serves the same objects. Each is
//! let alone for a while, and longer each time, so that two writers do not keep the API server and each other busy for ever. So are
//! those that the server refuses. Pure; the writing is [`super::status`]'s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;

use super::parts::{Object, Status};
use super::status::Write;

/// So often within so long the same is written to one object before that is a contest: who loses a race or two is in none.
const WRITES_MAX: u32 = 5;
const WITHIN: Duration = Duration::from_secs(60);
/// How long it is let alone then: twice as long each time, and up to half of that less or more by chance, since the other one may be
/// what we are.
const REST: Duration = Duration::from_secs(30);
const REST_MAX: Duration = Duration::from_secs(900);
/// Of a refused one: a role that lacks the right may have it soon.
const REFUSED_MAX: Duration = Duration::from_secs(480);

/// What has been written of late, by object: as many as are written within a minute, and those that are contested.
#[derive(Debug, Default)]
pub(super) struct Contests {
    all: HashMap<Object, Contest>,
    chance: fastrand::Rng,
}

#[derive(Debug)]
struct Contest {
    wanted: Arc<Status>,
    /// When it was first written, and how often since.
    since: MonoNs,
    writes: u32,
    /// How often it has been let alone, and until when.
    rests: u32,
    until: MonoNs,
}

impl Contest {
    /// What was written has stayed for so long that nobody contests it.
    fn is_over(&self, now: MonoNs) -> bool {
        now > if self.rests == 0 { self.since + WITHIN } else { self.until + REST_MAX }
    }
}

impl Contests {
    /// Forgets what is over. Gives how many are contested.
    pub(super) fn forget(&mut self, now: MonoNs) -> usize {
        self.all.retain(|_, one| !one.is_over(now));
        self.all.values().filter(|one| one.rests > 0).count()
    }

    /// How long an object is still let alone. Another status than the one that was changed back is written at once.
    pub(super) fn rest(&self, wanted: &Arc<Status>, now: MonoNs) -> Option<Duration> {
        let one = self.all.get(&wanted.object).filter(|one| one.wanted == *wanted && one.until > now)?;
        Some(Duration::from_nanos(one.until.0.saturating_sub(now.0)))
    }

    /// Notes that it was written. Whether it is contested as of now.
    pub(super) fn written(&mut self, wanted: &Arc<Status>, now: MonoNs) -> bool {
        let new = || Contest { wanted: Arc::clone(wanted), since: now, writes: 0, rests: 0, until: now };
        let one = self.all.entry(wanted.object.clone()).or_insert_with(new);
        if one.wanted != *wanted || one.is_over(now) {
            *one = new();
        }
        one.writes += 1;
        if one.writes <= WRITES_MAX {
            return false;
        }
        one.until = now + pause(one.rests, REST_MAX, &mut self.chance);
        one.rests += 1;
        one.rests == 1
    }
}

fn pause(rests: u32, most: Duration, chance: &mut fastrand::Rng) -> Duration {
    REST.saturating_mul(1 << rests.min(8)).min(most).mul_f64(0.5 + chance.f64())
}

/// Writes that the server refuses, for what they say or since we have no right to them.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    all: HashMap<Object, Refused>,
    chance: fastrand::Rng,
}

#[derive(Debug)]
struct Refused {
    write: Arc<Write>,
    rests: u32,
    until: MonoNs,
}

impl Refused {
    /// Another version of the object, or another status, is another matter.
    fn is_of(&self, write: &Write) -> bool {
        (&self.write.version, &self.write.wanted) == (&write.version, &write.wanted)
    }
}

impl Refusals {
    /// Keeps those that are still to be written, which are in the order of their objects. Gives how many.
    pub(super) fn keep(&mut self, writes: &[Arc<Write>]) -> usize {
        self.all.retain(|object, _| writes.binary_search_by(|write| write.object.cmp(object)).is_ok());
        self.all.len()
    }

    /// How long a write is still let alone.
    pub(super) fn rest(&self, write: &Write, now: MonoNs) -> Option<Duration> {
        let one = self.all.get(&write.object).filter(|one| one.is_of(write) && one.until > now)?;
        Some(Duration::from_nanos(one.until.0.saturating_sub(now.0)))
    }

    /// Notes that it was refused. Gives how many are.
    pub(super) fn refused(&mut self, write: &Arc<Write>, now: MonoNs) -> usize {
        let before = self.all.get(&write.object).filter(|one| one.is_of(write)).map_or(0, |one| one.rests);
        let until = now + pause(before, REFUSED_MAX, &mut self.chance);
        let refused = Refused { write: Arc::clone(write), rests: before.saturating_add(1), until };
        self.all.insert(write.object.clone(), refused);
        self.all.len()
    }

    /// Notes that it was not.
    pub(super) fn written(&mut self, write: &Write) {
        self.all.remove(&write.object);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::Ingress;
    use serde_json::json;

    use super::super::objects::{Key, Objects};
    use super::super::status::{Lacking, Write};
    use super::*;

    fn wanted(address: &str) -> Arc<Status> {
        let object = Object { kind: "Ingress", key: Key::new("default", "i") };
        let body = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
        Arc::new(Status::new(object, 0, Vec::new(), body))
    }

    /// A release that wants its address in the status.
    struct Release {
        lacking: Lacking,
        contests: Contests,
        wanted: [Arc<Status>; 1],
        due: Arc<[Arc<Write>]>,
        writes: u32,
        told: u32,
    }

    impl Release {
        fn new(address: &str, seed: u64) -> Self {
            let contests = Contests { chance: fastrand::Rng::with_seed(seed), ..Contests::default() };
            let (lacking, wanted) = (Lacking::default(), [wanted(address)]);
            Self { lacking, contests, wanted, due: Arc::from([]), writes: 0, told: 0 }
        }

        /// Does as the provider's task and the writer do it.
        fn turn(&mut self, objects: &mut Objects, version: &mut u32, now: MonoNs) {
            if let Some(due) = self.lacking.renew(objects, &self.wanted, "NOW") {
                self.due = due;
            }
            self.contests.forget(now);
            for write in &*self.due.clone() {
                if self.contests.rest(&write.wanted, now).is_none() && write.version == Some(version.to_string()) {
                    *version += 1;
                    put(objects, &write.status, *version);
                    self.writes += 1;
                    self.told += u32::from(self.contests.written(&write.wanted, now));
                }
            }
        }
    }

    fn put(objects: &mut Objects, status: &serde_json::Value, version: u32) {
        let metadata = json!({"name": "i", "namespace": "default", "resourceVersion": version.to_string()});
        let ingress: Ingress = serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap();
        objects.ingresses.put(ingress);
    }

    #[test]
    fn two_releases_that_want_different_statuses_do_not_keep_each_other_busy() {
        const TURNS_PER_SECOND: u64 = 5;
        let (mut objects, mut version) = (Objects::default(), 1);
        put(&mut objects, &json!({}), version);
        let mut both = [Release::new("10.0.0.1", 7), Release::new("10.0.0.2", 8)];
        let at = |turn: u64| MonoNs(1 + turn * 1_000_000_000 / TURNS_PER_SECOND);
        for turn in 0..3600 * TURNS_PER_SECOND {
            for release in &mut both {
                release.turn(&mut objects, &mut version, at(turn));
            }
        }
        let counts = both.each_ref().map(|one| (one.writes, one.told));
        assert!(counts.iter().all(|(writes, told)| (6..40).contains(writes) && *told == 1), "{counts:?}");
        // When one leaves, the other has its way, and nothing is contested any more.
        let [mut stays, _] = both;
        for turn in 3600 * TURNS_PER_SECOND..8000 * TURNS_PER_SECOND {
            stays.turn(&mut objects, &mut version, at(turn));
        }
        assert_eq!(stays.contests.forget(at(8000 * TURNS_PER_SECOND)), 0);
        assert!(stays.due.is_empty() && stays.contests.all.is_empty());
    }

    #[test]
    fn what_is_refused_is_tried_less_and_less_often_and_at_once_when_it_is_another_matter() {
        let write = |version: &str, address| {
            let wanted = wanted(address);
            let (object, version) = (wanted.object.clone(), Some(version.to_owned()));
            Arc::new(Write { object, version, status: json!({}), wanted })
        };
        let (mut refusals, first, mut now) = (Refusals::default(), write("1", "a"), MonoNs(1));
        let mut tries = 0;
        while now < MonoNs(3_600_000_000_000) {
            assert_eq!((refusals.rest(&first, now), refusals.refused(&first, now)), (None, 1));
            tries += 1;
            now = now + refusals.rest(&first, now).unwrap();
        }
        assert!((7..24).contains(&tries), "{tries}");
        let _ = refusals.refused(&first, now);
        assert!(refusals.rest(&first, now).is_some());
        assert_eq!([write("2", "a"), write("1", "b")].map(|other| refusals.rest(&other, now)), [None, None]);
        // Of another matter the first pause is a short one again.
        let _ = refusals.refused(&write("2", "a"), now);
        assert!(refusals.rest(&write("2", "a"), now).unwrap() <= REST.mul_f64(1.5));
        assert_eq!(refusals.keep(&[first]), 1);
        assert_eq!(refusals.keep(&[]), 0);
    }

    #[test]
    fn news_are_written_at_once_and_who_seldom_loses_a_race_is_in_no_contest() {
        let mut contests = Contests::default();
        let second = |at: u64| MonoNs(at * 1_000_000_000);
        for at in (0..600).step_by(20) {
            assert!(!contests.written(&wanted("a"), second(at)), "{at}");
        }
        let told: Vec<bool> = (600..606).map(|at| contests.written(&wanted("b"), second(at))).collect();
        assert_eq!(told, [false, false, false, false, false, true]);
        assert!(contests.rest(&wanted("b"), second(606)).is_some());
        assert_eq!((contests.rest(&wanted("c"), second(606)), contests.forget(second(606))), (None, 1));
    }
}
