//! Who had which address when, told in all orders.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::export::peer::Writer;

fn s(seconds: u64) -> MonoNs {
    MonoNs(seconds * 1_000_000_000)
}

fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn whole(n: u8) -> Place {
    Place { ip: ip(n), port: 0 }
}

fn facts(name: &str, version: u64, places: &[Place]) -> Facts {
    Facts {
        uid: name.into(),
        version,
        pod: Pod { name: name.into(), ..Pod::default() },
        places: places.to_vec(),
        since: None,
        until: None,
        moved: None,
        is_over: false,
    }
}

fn name(cache: &Cache, n: u8, at: u64) -> &str {
    let client = cache.client((ip(n), 40_000).into(), s(at)).map(|found| &*found.pod.name);
    let server = cache.server((ip(n), 80).into(), s(at)).map(|found| &*found.pod.name);
    assert_eq!(client, server);
    client.unwrap_or("")
}

/// Tells changes, each with its second.
fn told(most: usize, changes: impl IntoIterator<Item = (u64, Change)>) -> Cache {
    let mut cache = Cache::new(most);
    for (at, change) in changes {
        cache.apply(change, s(at));
    }
    cache
}

#[test]
fn an_address_is_each_pods_in_its_time() {
    let cache = told(
        10,
        [
            (10, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (50, Change::Applied(0, Facts { until: Some(s(45)), ..facts("a", 2, &[whole(1)]) })),
            (60, Change::Deleted(0, Facts { until: Some(s(45)), ..facts("a", 3, &[whole(1)]) })),
            (62, Change::Applied(0, Facts { since: Some(s(61)), ..facts("b", 4, &[whole(1)]) })),
        ],
    );
    let names = [9, 10, 45, 46, 60, 61, 1000].map(|at| name(&cache, 1, at));
    assert_eq!(names, ["", "a", "a", "", "", "b", "b"]);
    assert_eq!(name(&cache, 2, 50), "");
}

#[test]
fn a_deletion_that_comes_first_stays_last() {
    let cache = told(
        10,
        [
            (20, Change::Deleted(0, Facts { since: Some(s(5)), until: Some(s(12)), ..facts("a", 3, &[whole(1)]) })),
            (21, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (22, Change::Applied(0, facts("b", 9, &[whole(2)]))),
            (23, Change::Applied(0, Facts { moved: Some(s(22)), ..facts("b", 8, &[whole(3)]) })),
        ],
    );
    assert_eq!([4, 5, 12, 13, 30].map(|at| name(&cache, 1, at)), ["", "a", "a", "", ""]);
    assert_eq!((name(&cache, 2, 30), name(&cache, 3, 30)), ("b", ""), "the older state changes nothing");
}

#[test]
fn a_pod_that_moves_leaves_its_address() {
    let cache = told(
        10,
        [
            (10, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (20, Change::Applied(0, Facts { moved: Some(s(15)), ..facts("a", 2, &[whole(2)]) })),
            (30, Change::Applied(0, Facts { moved: Some(s(25)), ..facts("a", 3, &[whole(1)]) })),
        ],
    );
    assert_eq!([10, 15, 16, 29, 30].map(|at| name(&cache, 1, at)), ["a", "a", "", "", "a"]);
    assert_eq!([19, 20, 25, 26].map(|at| name(&cache, 2, at)), ["", "a", "a", ""]);
}

#[test]
fn a_list_ends_those_it_does_not_name_when_the_watch_last_spoke() {
    let mut cache = told(
        10,
        [
            (10, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (10, Change::Applied(1, facts("elsewhere", 1, &[whole(9)]))),
            (30, Change::Applied(0, facts("b", 2, &[whole(2)]))),
            (40, Change::Broken(0)),
            (50, Change::Listing(0)),
            (51, Change::Listed(0, facts("c", 5, &[whole(1)]))),
            // It broke off, and begins anew.
            (55, Change::Listing(0)),
            (60, Change::Listed(0, facts("b", 2, &[whole(2)]))),
            (60, Change::Listed(0, facts("c", 5, &[whole(1)]))),
            (61, Change::Complete(0)),
        ],
    );
    assert_eq!([10, 29, 30, 50, 51].map(|at| name(&cache, 1, at)), ["a", "a", "", "", "c"]);
    assert_eq!((name(&cache, 2, 45), name(&cache, 9, 70)), ("b", "elsewhere"));
    assert_eq!(cache.counts(), Counts { pods: 3, resting: 1, refused: 0 });
    // The list was of an old state.
    cache.apply(Change::Applied(0, facts("a", 7, &[whole(3)])), s(70));
    assert_eq!((name(&cache, 3, 70), cache.counts().pods), ("a", 4));
}

#[test]
fn those_that_went_rest_and_are_forgotten() {
    let mut cache = told(
        10,
        [
            (10, Change::Applied(0, facts("a", 1, &[whole(1), Place { ip: ip(200), port: 80 }]))),
            (20, Change::Deleted(0, facts("a", 2, &[whole(1)]))),
        ],
    );
    cache.tick(s(319));
    assert_eq!(name(&cache, 1, 15), "a");
    cache.tick(s(320));
    assert_eq!((name(&cache, 1, 15), cache.tenures.len(), cache.counts()), ("", 0, Counts::default()));
    // A Job's pod that has long run to its end takes no room.
    let over = Facts { is_over: true, until: Some(s(20)), ..facts("job", 3, &[whole(1)]) };
    cache.apply(Change::Listed(0, over.clone()), s(321));
    assert_eq!(cache.counts(), Counts::default());
    cache.apply(Change::Listed(0, Facts { until: Some(s(300)), since: Some(s(290)), ..over }), s(321));
    assert_eq!((name(&cache, 1, 300), name(&cache, 1, 301)), ("job", ""));
}

#[test]
fn beyond_the_bound_pods_are_refused_and_counted() {
    let mut cache = told(2, (0..4).map(|n| (1, Change::Applied(0, facts(&n.to_string(), 1, &[whole(n)])))));
    assert_eq!(cache.counts(), Counts { pods: 2, resting: 0, refused: 2 });
    assert_eq!((name(&cache, 1, 1), name(&cache, 2, 1)), ("1", ""));
    // One that has gone makes room.
    cache.apply(Change::Deleted(0, facts("1", 2, &[])), s(2));
    cache.apply(Change::Applied(0, facts("3", 3, &[whole(3)])), s(2));
    assert_eq!((name(&cache, 1, 1), name(&cache, 3, 2)), ("", "3"));
    assert_eq!(cache.counts(), Counts { pods: 2, resting: 0, refused: 2 });
    // A pod cannot fill the memory by moving.
    for n in 0..500_u64 {
        let place = Place { ip: ip(77), port: u16::try_from(n).unwrap() };
        cache.apply(Change::Applied(0, facts("3", 10 + n, &[place, whole(u8::try_from(n % 2).unwrap())])), s(10 + n));
    }
    assert!(cache.tenures.len() <= PLACES_MAX + 1, "{}", cache.tenures.len());
    assert!(cache.tenures.values().all(|tenures| tenures.len() <= RETURNS_MAX + 1));
    let many: Vec<_> = (1..1000).map(|port| Place { ip: ip(78), port }).collect();
    cache.apply(Change::Applied(0, facts("3", 1000, &many)), s(1000));
    assert!(cache.tenures.len() <= PLACES_MAX + 1 && cache.counts().refused > 900);
    for n in 0..10 {
        cache.apply(Change::Node(n.to_string().into(), Encoded::default()), s(1000));
    }
    assert_eq!(cache.zones.len(), 2);
}

#[test]
fn an_address_of_many_is_one_pods_only_by_its_port() {
    let on_node = |port| Place { ip: ip(100), port };
    let cache = told(
        10,
        [
            (1, Change::Applied(0, facts("proxy", 1, &[on_node(80), on_node(443)]))),
            (1, Change::Applied(0, facts("metrics", 1, &[on_node(9100)]))),
            (1, Change::Applied(0, facts("first", 1, &[on_node(5000)]))),
            (1, Change::Applied(0, facts("second", 1, &[on_node(5000)]))),
        ],
    );
    let server = |port| cache.server((ip(100), port).into(), s(2)).map(|found| &*found.pod.name);
    assert_eq!([80, 9100, 22, 5000].map(server), [Some("proxy"), Some("metrics"), None, None]);
    assert_eq!(cache.client((ip(100), 80).into(), s(2)), None, "a client's port is anybody's");
}

#[test]
fn the_container_is_named_where_the_port_or_their_number_decides() {
    let mut writer = Writer::default();
    let mut container = |name: &str, ports: &[u16]| {
        writer.own("k8s.container.name", name);
        PodContainer { ports: ports.into(), host_ports: Box::default(), name: writer.take() }
    };
    let [one, two] = [container("one", &[80, 81]), container("two", &[81])];
    let with = |containers: &[_]| {
        let mut cache = told(9, [(1, Change::Node("n".into(), one.name.clone()))]);
        let pod = Pod { name: "p".into(), node: "n".into(), containers: containers.into(), ..Pod::default() };
        cache.apply(Change::Applied(0, Facts { pod, ..facts("p", 1, &[whole(1)]) }), s(1));
        cache
    };
    let both = with(&[one.clone(), two.clone()]);
    let server = |cache: &Cache, port| cache.server((ip(1), port).into(), s(2)).unwrap().container.cloned();
    assert_eq!(server(&both, 80), Some(one.name.clone()));
    assert_eq!((server(&both, 81), server(&both, 82)), (None, None));
    assert_eq!(both.client((ip(1), 80).into(), s(2)).unwrap().container, None);
    let alone = with(std::slice::from_ref(&two));
    assert_eq!(server(&alone, 82), Some(two.name.clone()));
    let found = alone.client((ip(1), 80).into(), s(2)).unwrap();
    assert_eq!((found.container, found.zone), (Some(&two.name), Some(&one.name)));
}

#[test]
fn a_port_of_the_node_is_the_containers_that_has_it_there() {
    let mut writer = Writer::default();
    let mut container = |name: &str, port: u16, host_ports: &[u16]| {
        writer.own("k8s.container.name", name);
        PodContainer { ports: [port].into(), host_ports: host_ports.into(), name: writer.take() }
    };
    let [web, admin] = [container("web", 80, &[8080]), container("admin", 8080, &[])];
    let pod = Pod { name: "p".into(), containers: [web.clone(), admin.clone()].into(), ..Pod::default() };
    let places = [whole(1), Place { ip: ip(100), port: 8080 }];
    let cache = told(9, [(1, Change::Applied(0, Facts { pod, ..facts("p", 1, &places) }))]);
    let named = |n| cache.server((ip(n), 8080).into(), s(2)).unwrap().container.cloned();
    assert_eq!((named(100), named(1)), (Some(web.name), Some(admin.name)));
}

#[test]
fn a_watch_that_stays_broken_is_not_believed_about_later() {
    let mut cache = told(9, [(1, Change::Applied(0, facts("a", 1, &[whole(1)]))), (10, Change::Broken(0))]);
    assert_eq!(name(&cache, 1, 50), "a", "one failure may be a change of the server");
    cache.apply(Change::Broken(0), s(30));
    assert_eq!([10, 40, 41, 135, 136].map(|at| name(&cache, 1, at)), ["a", "a", "", "", "a"]);
    // It is back, and has had the time to tell what it missed.
    cache.apply(Change::Applied(0, facts("b", 1, &[whole(2)])), s(50));
    cache.apply(Change::Applied(0, facts("b", 2, &[whole(2)])), s(60));
    assert_eq!([45, 60].map(|at| name(&cache, 1, at)), ["a", "a"]);
}

#[test]
fn until_a_list_is_whole_it_ends_no_doubt() {
    let mut cache = told(
        9,
        [
            (1, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (10, Change::Broken(0)),
            (100, Change::Broken(0)),
            (150, Change::Listing(0)),
            (151, Change::Listed(0, facts("c", 5, &[whole(3)]))),
        ],
    );
    // Another pod may have the address, of which the list tells later.
    assert_eq!([40, 41, 151, 300].map(|at| name(&cache, 1, at)), ["a", "", "", ""]);
    cache.tick(s(300));
    assert_eq!(name(&cache, 1, 300), "");
    cache.apply(Change::Listed(0, facts("b", 6, &[whole(1)])), s(301));
    cache.apply(Change::Complete(0), s(302));
    assert_eq!([1, 151, 301].map(|at| name(&cache, 1, at)), ["", "", "b"]);
    // One failure, after which it has to list anew, is no less of one.
    for (at, change) in [(310, Change::Broken(0)), (320, Change::Listing(0))] {
        cache.apply(change, s(at));
    }
    assert_eq!([340, 341].map(|at| name(&cache, 1, at)), ["b", ""]);
}

#[test]
fn a_watch_that_is_back_first_tells_what_it_missed() {
    let gone = Facts { until: Some(s(60)), ..facts("a", 9, &[whole(1)]) };
    let mut cache = told(
        9,
        [
            (1, Change::Applied(0, facts("a", 1, &[whole(1)]))),
            (10, Change::Broken(0)),
            (100, Change::Broken(0)),
            (110, Change::Applied(0, facts("c", 5, &[whole(3)]))),
        ],
    );
    assert_eq!([40, 41, 110].map(|at| name(&cache, 1, at)), ["a", "", ""]);
    cache.apply(Change::Deleted(0, gone), s(111));
    cache.apply(Change::Applied(0, Facts { since: Some(s(70)), ..facts("b", 10, &[whole(1)]) }), s(112));
    assert_eq!([40, 65, 111].map(|at| name(&cache, 1, at)), ["a", "", ""]);
    // Nothing new comes, but time passes.
    cache.tick(s(119));
    assert_eq!(name(&cache, 1, 119), "");
    cache.tick(s(120));
    assert_eq!([40, 60, 61, 70, 120].map(|at| name(&cache, 1, at)), ["a", "a", "", "b", "b"]);
    // It fails again before that: then it is not back.
    for (at, change) in [
        (200, Change::Broken(0)),
        (260, Change::Broken(0)),
        (270, Change::Applied(0, facts("c", 6, &[whole(3)]))),
        (271, Change::Broken(0)),
    ] {
        cache.apply(change, s(at));
    }
    cache.tick(s(290));
    assert_eq!([230, 231, 290].map(|at| name(&cache, 1, at)), ["b", "", ""]);
    // Whom it no longer names went after the last that it told before it failed.
    for (at, change) in [(300, Change::Listing(0)), (301, Change::Complete(0))] {
        cache.apply(change, s(at));
    }
    assert_eq!([111, 112, 260].map(|at| name(&cache, 1, at)), ["b", "", ""]);
}

#[test]
fn a_silent_watch_is_believed_until_it_fell_silent() {
    let silent = |since, at| (at, Change::Silent(0, s(since)));
    let after = |changes: Vec<(u64, Change)>| {
        let first = (1, Change::Applied(0, facts("a", 1, &[whole(1)])));
        told(9, [first].into_iter().chain(changes))
    };
    let mut cache = after(vec![silent(100, 175)]);
    assert_eq!([100, 130, 131, 280, 281].map(|at| name(&cache, 1, at)), ["a", "a", "", "", "a"]);
    // It did not fail, so it is back.
    cache.tick(s(281));
    assert_eq!(name(&cache, 1, 131), "a");
    // Or it tells something.
    let mut cache = after(vec![silent(100, 175), (180, Change::Applied(0, facts("b", 2, &[whole(2)])))]);
    assert_eq!(name(&cache, 1, 180), "");
    cache.tick(s(190));
    assert_eq!(name(&cache, 1, 180), "a");
    // A server without bookmarks is silent by its nature, and a failure behind a silence began with it.
    let quiet = || vec![silent(100, 175), silent(177, 252), silent(254, 329)];
    let cache = after(quiet());
    assert_eq!([131, 300, 329].map(|at| name(&cache, 1, at)), ["a", "a", "a"]);
    let cache = after(quiet().into_iter().chain([(361, Change::Broken(0))]).collect());
    assert_eq!([284, 285].map(|at| name(&cache, 1, at)), ["a", ""]);
    // While it fails nobody has answered.
    let cache = after(vec![silent(100, 175), (206, Change::Broken(0)), silent(300, 375)]);
    assert_eq!([130, 131, 375].map(|at| name(&cache, 1, at)), ["a", "", ""]);
}

/// A pod's way through the world, which the cache does not know but by what is told of it.
#[derive(Clone, Debug)]
struct Life {
    ip: u8,
    /// It has the address from then until then.
    from: u64,
    until: u64,
    /// Its states: when each was said, and how long it takes to arrive.
    told: Vec<(u64, u64)>,
    /// How long before the end somebody asked for it.
    notice: u64,
    knows_since: bool,
    has_versions: bool,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    // Two addresses, one pod after the other, most without a pause.
    let step = (
        0..2_u8,
        1..30_u64,
        0..4_u64,
        0..8_u64,
        prop::collection::vec((0..30_u64, 0..40_u64), 1..5),
        any::<[bool; 2]>(),
    );
    prop::collection::vec(step, 1..12).prop_map(|steps| {
        let mut free = [10, 10];
        let lives = steps.into_iter().map(|(ip, length, pause, notice, told, [knows_since, has_versions])| {
            let from = free[usize::from(ip)] + pause;
            let until = from + length;
            free[usize::from(ip)] = until + 1;
            Life { ip, from, until, told, notice: notice.min(length), knows_since, has_versions }
        });
        lives.collect()
    })
}

impl Life {
    fn name(&self) -> String {
        format!("{}-{}", self.ip, self.from)
    }

    /// What the API says of it at this time, if anything.
    fn state(&self, at: u64) -> Option<Facts> {
        let at = at.min(self.until);
        let is_ending = at >= self.until - self.notice;
        (at >= self.from).then(|| Facts {
            since: self.knows_since.then_some(s(self.from)),
            until: is_ending.then(|| s(self.until - self.notice)),
            ..facts(&self.name(), if self.has_versions { 1 + at } else { 0 }, &[whole(self.ip)])
        })
    }

    /// When each thing is said and when it arrives.
    fn said(&self) -> Vec<(u64, u64, Change)> {
        let states = self.told.iter().filter_map(|(after, way)| {
            let at = (self.from + after).min(self.until);
            Some((at, at + way, Change::Applied(0, self.state(at)?)))
        });
        let way = self.told.first().map_or(0, |(_, way)| *way);
        let deleted = self.state(self.until).map(|f| {
            (self.until, self.until + way, Change::Deleted(0, Facts { version: f.version.min(1) * 999, ..f }))
        });
        states.chain(deleted).collect()
    }
}

fn holder(lives: &[Life], ip: u8, at: u64) -> Option<String> {
    lives.iter().find(|life| life.ip == ip && (life.from..=life.until).contains(&at)).map(Life::name)
}

/// All times up to `known` of both addresses.
fn check(cache: &Cache, lives: &[Life], known: u64) -> Result<usize, TestCaseError> {
    let mut named = 0;
    for (ip, at) in (0..2).flat_map(|ip| (0..=known).map(move |at| (ip, at))) {
        let found = name(cache, ip, at);
        if !found.is_empty() {
            named += 1;
            prop_assert_eq!(Some(found.to_owned()), holder(lives, ip, at), "address {} at {}", ip, at);
        }
    }
    Ok(named)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order in which the API's words arrive: of a time of which all has arrived that was said by then, nobody
    /// is named who did not have the address.
    #[test]
    fn nobody_is_named_who_did_not_have_the_address(lives in lives()) {
        let mut said: Vec<_> = lives.iter().flat_map(Life::said).collect();
        said.sort_by_key(|(_, arrives, _)| *arrives);
        let mut cache = Cache::new(100);
        for index in 0..said.len() {
            let arrives = said[index].1;
            let change = std::mem::replace(&mut said[index].2, Change::Complete(7));
            cache.apply(change, s(arrives));
            let open = said[index + 1..].iter().map(|(at, ..)| *at).min();
            // What was said at an instant says nothing of the rest of that instant's second.
            check(&cache, &lives, open.unwrap_or(1000).min(arrives).saturating_sub(1))?;
        }
        check(&cache, &lives, 1000)?;
    }

    /// The watch is gone for a while, what was said meanwhile is lost, and a list says what is there now.
    #[test]
    fn a_gap_in_the_watch_names_nobody_wrongly(lives in lives(), gap in 5..100_u64, length in 1..60_u64) {
        let mut cache = Cache::new(100);
        let mut said: Vec<_> = lives.iter().flat_map(Life::said).collect();
        said.sort_by_key(|(at, ..)| *at);
        let end = gap + length;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (at, _, change) in said {
            if at < gap { before.push((at, change)) } else if at > end { after.push((at, change)) }
        }
        for (at, change) in before {
            cache.apply(change, s(at));
        }
        cache.apply(Change::Broken(0), s(gap));
        cache.apply(Change::Listing(0), s(end));
        for life in lives.iter().filter(|life| (life.from..life.until).contains(&end)) {
            cache.apply(Change::Listed(0, life.state(end).unwrap()), s(end));
        }
        cache.apply(Change::Complete(0), s(end));
        check(&cache, &lives, end - 1)?;
        for (at, change) in after {
            cache.apply(change, s(at));
            check(&cache, &lives, at - 1)?;
        }
        check(&cache, &lives, 1000)?;
    }
}

#[test]
fn most_times_are_named_where_all_arrives_at_once() {
    // Against a cache that is never wrong because it never says anything.
    let life = |ip, from, until| Life {
        ip,
        from,
        until,
        told: vec![(0, 0)],
        notice: 1,
        knows_since: false,
        has_versions: true,
    };
    let lives = [life(0, 10, 50), life(0, 51, 90), life(1, 20, 90)];
    let mut cache = Cache::new(10);
    for life in &lives {
        for (_, arrives, change) in life.said() {
            cache.apply(change, s(arrives));
        }
    }
    assert_eq!(check(&cache, &lives, 100).unwrap(), 40 + 39 + 70);
}
