//! The registry over several configurations: ids, what is kept, what leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::snapshot::{Snapshot, Target};

use super::good;
use crate::catalog::Catalog;
use crate::config::{Inputs, Registry, Resolved, STAY, names};

const SECOND: u64 = 1_000_000_000;

/// A registry fed with files.
#[derive(Default)]
struct World {
    registry: Registry,
    resolved: Resolved,
    now: MonoNs,
}

impl World {
    fn build(&mut self, main: &str) -> (Snapshot, Catalog) {
        let config = good(main);
        let api = config.fixed.api.as_ref().map(|api| SocketAddr::new(api.address.ip(), 9123));
        let (fixed, dynamic) = (&config.fixed, &config.dynamic);
        self.registry.build(&Inputs { fixed, dynamic, resolved: &self.resolved, api, now: self.now })
    }

    fn pass(&mut self, time: Duration) {
        self.now.0 += u64::try_from(time.as_nanos()).unwrap();
    }
}

fn file(routers: &str, services: &str) -> String {
    format!(
        "entryPoints: {{web: {{address: ':8000'}}, two: {{address: ':8001', observability: {{traceVerbosity: detailed}}}}}}\n\
         http:\n  routers: {{{routers}}}\n  services: {{{services}}}\n\
         tracing: {{capturedRequestHeaders: [A]}}\napi: {{}}\nping: {{entryPoint: web}}\n"
    )
}

const A: &str = "a: {rule: Path(`/a`), service: s, entryPoints: [web]}";
const S: &str = "s: {loadBalancer: {servers: [{url: 'http://10.0.0.1', weight: 2}, {url: 'http://db:81/x', weight: 1}]}}";

#[test]
fn the_same_configuration_is_the_same_parts() {
    let mut world = World::default();
    let (first, names) = world.build(&file(A, S));
    world.pass(Duration::from_secs(1));
    let (second, again) = world.build(&file(A, S));
    for (a, b) in first.entry_points.iter().zip(&second.entry_points) {
        assert!(Arc::ptr_eq(a, b), "{}", a.name);
    }
    assert!(Arc::ptr_eq(&first.captured_request_headers, &second.captured_request_headers));
    assert_eq!(*first.captured_request_headers, ["a".into()]);
    assert_eq!((names.routes, names.services), (again.routes, again.services));
}

#[test]
fn a_change_touches_only_its_entry_point() {
    let mut world = World::default();
    let (first, _) = world.build(&file(A, S));
    let (second, _) = world.build(&file(&format!("{A}, b: {{rule: Path(`/b`), service: s, entryPoints: [two]}}"), S));
    let same: Vec<_> =
        first.entry_points.iter().zip(&second.entry_points).map(|(a, b)| (a.id == b.id, Arc::ptr_eq(a, b))).collect();
    assert_eq!(same, [(true, true), (true, false)]);
    // Another rule or priority is another table with the same route.
    let (third, catalog) = world.build(&file("a: {rule: Path(`/z`), service: s, entryPoints: [web]}", S));
    assert!(!Arc::ptr_eq(&second.entry_points[0].routes, &third.entry_points[0].routes));
    let a = catalog.routes.values().find(|names| &*names.router == "a").unwrap();
    assert_eq!(&*a.rule, "Path(`/z`)");
}

fn id_of(catalog: &Catalog, router: &str) -> u32 {
    *catalog.routes.iter().find(|(_, names)| &*names.router == router).expect(router).0
}

#[test]
fn names_keep_their_ids_and_leave_after_a_while() {
    let mut world = World::default();
    let (_, catalog) = world.build(&file(A, S));
    let (a, services, servers) = (id_of(&catalog, "a"), catalog.services.clone(), catalog.servers.len());
    assert_eq!(servers, 2);
    let (_, gone) = world.build(&file("", ""));
    assert_eq!((id_of(&gone, "a"), &gone.services, gone.servers.len()), (a, &services, 2));
    world.pass(STAY - Duration::from_nanos(1));
    let (_, still) = world.build(&file("", ""));
    assert_eq!(id_of(&still, "a"), a);
    // Back in time: the same id, and the time begins anew.
    let (_, back) = world.build(&file(A, S));
    assert_eq!(id_of(&back, "a"), a);
    world.build(&file("", ""));
    world.pass(STAY);
    let (_, left) = world.build(&file("", ""));
    assert!(left.routes.values().all(|names| &*names.router != "a") && left.services.is_empty());
    // Back too late: a new id, never one that was given.
    let (_, late) = world.build(&file(A, S));
    assert!(id_of(&late, "a") > a);
    assert_eq!(world.now.0, 2 * 300 * SECOND - 1);
}

#[test]
fn addresses_of_names_are_filled_in_as_they_become_known() {
    let mut world = World::default();
    assert_eq!(names(&good(&file(A, S)).dynamic), ["db".into()].into());
    let server = |snapshot: &Snapshot, world: &World, n: usize| {
        let route = snapshot.entry_points[0].id;
        assert_eq!(route, 1);
        Arc::clone(world.registry.route_for_tests("a").map(|route| match &route.target {
            Target::Service(service) => &service.servers[n],
            Target::Fixed(_) => panic!("not a service"),
        }).unwrap())
    };
    let (snapshot, _) = world.build(&file(A, S));
    let (fixed, unknown) = (server(&snapshot, &world, 0), server(&snapshot, &world, 1));
    assert_eq!((&*fixed.authority, fixed.addresses.len()), ("10.0.0.1", 1));
    assert_eq!((&*unknown.authority, &*unknown.path_prefix, unknown.addresses.len()), ("db:81", "/x", 0));
    world.resolved = Resolved::of([("db".into(), vec!["10.9.9.9".parse().unwrap(), "::9".parse().unwrap()])]);
    let (snapshot, catalog) = world.build(&file(A, S));
    let known = server(&snapshot, &world, 1);
    assert_eq!((known.id, known.addresses.len()), (unknown.id, 2));
    assert!(Arc::ptr_eq(&fixed, &server(&snapshot, &world, 0)));
    assert_eq!(catalog.servers[&known.id].addresses.len(), 2);
}
