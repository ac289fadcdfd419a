//! The registry over several configurations: ids, what is kept, what leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::middleware::Middleware;
use wayspan_proxy::route::RequestView;
use wayspan_proxy::snapshot::{Route, Service, Snapshot, Target};

use super::{Inputs, Registry, STAY};
use crate::catalog::{Catalog, qualified};
use crate::config::disputes;
use crate::config::model::{Config, Dynamic, MiddlewareKind};
use crate::config::resolve::{Resolved, names};
use crate::config::tests::good;

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
        self.build_of(&good(main))
    }

    fn build_of(&mut self, config: &Config) -> (Snapshot, Catalog) {
        let api = config.fixed.api.as_ref().map(|api| SocketAddr::new(api.address.ip(), 9123));
        let (fixed, dynamic) = (&config.fixed, &config.dynamic);
        let disputes = &disputes(dynamic);
        self.registry.build(&Inputs { fixed, dynamic, disputes, resolved: &self.resolved, api, now: self.now })
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
const S: &str =
    "s: {loadBalancer: {servers: [{url: 'http://10.0.0.1', weight: 2}, {url: 'http://db:81/x', weight: 1}]}}";

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
    let a = catalog.routes.values().find(|names| &*names.router == "a@file").unwrap();
    assert_eq!(&*a.rule, "Path(`/z`)");
    // So is the same rule that is not for some hosts any more.
    let mut config = good(&file(A, S));
    let (before, _) = world.build_of(&config);
    let router = Arc::make_mut(config.dynamic.routers.first_mut().unwrap());
    router.rule = router.rule.clone().except(Arc::new(["b.example"].into_iter().collect()));
    let (after, _) = world.build_of(&config);
    assert!(!Arc::ptr_eq(&before.entry_points[0].routes, &after.entry_points[0].routes));
}

fn route_of(world: &World, router: &str) -> Arc<Route> {
    Arc::clone(world.registry.last.routers[router].routes[0].as_ref().expect(router))
}

fn service_of(world: &World, router: &str) -> Arc<Service> {
    match &route_of(world, router).target {
        Target::Service(place) => Arc::clone(world.registry.snapshot.services.get(*place).expect(router)),
        Target::Fixed(_) => panic!("{router} leads to no service"),
    }
}

fn id_of(catalog: &Catalog, router: &str) -> u32 {
    *catalog.routes.iter().find(|(_, names)| *names.router == qualified(router)).expect(router).0
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
    assert!(left.routes.values().all(|names| &*names.router != "a@file") && left.services.is_empty());
    // Back too late: a new id, never one that was given.
    let (_, late) = world.build(&file(A, S));
    assert!(id_of(&late, "a") > a);
    assert_eq!(world.now.0, 2 * 300 * SECOND - 1);
}

#[test]
fn addresses_of_names_are_filled_in_as_they_become_known() {
    let mut world = World::default();
    assert_eq!(names(&good(&file(A, S)).dynamic), ["db".into()].into());
    let server = |world: &World, n: usize| Arc::clone(&service_of(world, "a").servers[n]);
    world.build(&file(A, S));
    let (fixed, unknown) = (server(&world, 0), server(&world, 1));
    assert_eq!((&*fixed.authority, fixed.addresses.len()), ("10.0.0.1", 1));
    assert_eq!((&*unknown.authority, &*unknown.path_prefix, unknown.addresses.len()), ("db:81", "/x", 0));
    world.resolved = Resolved::of([("db".into(), vec!["10.9.9.9".parse().unwrap(), "::9".parse().unwrap()])]);
    let (_, catalog) = world.build(&file(A, S));
    let known = server(&world, 1);
    assert_eq!((known.id, known.addresses.len()), (unknown.id, 2));
    assert!(Arc::ptr_eq(&fixed, &server(&world, 0)));
    assert_eq!(catalog.servers[&known.id].addresses.len(), 2);
}

#[test]
fn servers_take_turns_by_weight_and_equal_urls_are_two_servers() {
    let mut world = World::default();
    let twice = "s: {loadBalancer: {servers: [{url: 'http://10.0.0.1'}, {url: 'http://10.0.0.1'}]}}";
    world.build(&file(A, twice));
    let service = service_of(&world, "a");
    assert_ne!(service.servers[0].id, service.servers[1].id);
    world.build(&file(A, S));
    let again = service_of(&world, "a");
    assert_eq!((again.id, again.servers[0].id), (service.id, service.servers[0].id));
    assert_eq!(*again.turn, [0, 1, 0]);
}

#[test]
fn observability_is_the_routers_then_the_entry_points_then_the_default() {
    let head = "entryPoints: {a: {address: ':1', observability: {tracing: false, traceVerbosity: detailed, metrics: false}}, b: {address: ':2'}}\n";
    let services = "services: {s: {loadBalancer: {servers: []}}}";
    let tracing = "\ntracing: {}";
    // (the router's own, what else the file has, then traced, detailed and counted by variant)
    for (own, rest, want) in [
        ("{}", tracing, vec![("r", false, true, false), ("r", true, false, true)]),
        ("{tracing: true}", tracing, vec![("r", true, false, true), ("r", true, true, false)]),
        ("{tracing: true, traceVerbosity: minimal, metrics: true}", tracing, vec![("r", true, false, true)]),
        ("{}", "", vec![("r", false, false, true), ("r", false, true, false)]),
    ] {
        let mut world = World::default();
        let router = format!("routers: {{r: {{rule: Path(`/`), service: s, observability: {own}}}}}");
        let (snapshot, catalog) = world.build(&format!("{head}http: {{{router}, {services}}}{rest}"));
        let mut got: Vec<_> = world
            .registry
            .last
            .routers
            .values()
            .flat_map(|routed| routed.routes.iter().flatten())
            .map(|route| {
                let names = &catalog.routes[&route.id];
                (&*route.name, route.traced, names.detailed, route.metered)
            })
            .collect();
        got.sort();
        assert_eq!(got, want, "{own}");
        let unmatched: Vec<_> = snapshot.entry_points.iter().map(|one| (one.traced, one.metered)).collect();
        assert_eq!(unmatched, [(false, false), (!rest.is_empty(), true)]);
    }
}

#[test]
fn the_agents_own_routes_are_internal_and_traced_only_when_asked() {
    for add_internals in [false, true] {
        let mut world = World::default();
        let (_, catalog) = world.build(&format!(
            "entryPoints: {{web: {{address: ':1'}}}}\nhttp: {{routers: {{dash: {{rule: Path(`/d`), service: api@internal}}}}}}\n\
             tracing: {{addInternals: {add_internals}}}\napi: {{address: ':9000'}}\nping: {{entryPoint: web}}"
        ));
        for router in ["dash", "ping@internal"] {
            let route = route_of(&world, router);
            assert_eq!((route.traced, catalog.routes[&route.id].internal), (add_internals, true), "{router}");
        }
        let api = service_of(&world, "dash");
        assert_eq!((&*api.name, api.pass_host, &*api.servers[0].url), ("api@internal", false, "http://[::1]:9123"));
        assert_eq!(api.servers[0].addresses[0].to_string(), "[::1]:9123");
        let Target::Fixed(pong) = &route_of(&world, "ping@internal").target else { panic!("ping is answered here") };
        assert_eq!((pong.status, &*pong.body), (200, &b"OK"[..]));
        let (_, (rows, _)) = world.registry.last.tables.iter().next().unwrap();
        let ping = rows.iter().find(|row| &*row.route.name == "ping@internal").unwrap();
        assert_eq!((ping.precedence.priority, &*ping.rule.text), (i64::MAX, "Path(`/ping`)"));
    }
}

#[test]
fn middlewares_and_names_stand_in_the_routers_order() {
    let mut world = World::default();
    let (_, catalog) = world.build(
        "entryPoints: {web: {address: ':1'}}\nhttp:\n  routers: {r: {rule: Path(`/`), service: s, middlewares: [b, a]}}\n  \
         services: {s: {loadBalancer: {servers: []}}}\n  middlewares: {a: {headers: {customRequestHeaders: {X: '1'}}}, b: {headers: {customResponseHeaders: {Y: ''}}}}",
    );
    let route = route_of(&world, "r");
    assert_eq!(route.middlewares.len(), 2);
    let names = &catalog.routes[&route.id];
    assert_eq!(names.middlewares, [("b@file".into(), "Headers"), ("a@file".into(), "Headers")]);
    assert_eq!((&*names.service, names.operations.len(), names.patterns.len()), ("s@file", 1, 1));
}

#[test]
fn a_cap_on_connections_is_each_servers_own_and_survives_what_does_not_change_it() {
    let main = |max: u32, weight: u32| {
        format!(
            "entryPoints: {{web: {{address: ':1'}}}}\nserversTransport: {{maxConnsPerHost: {max}}}\nhttp: {{routers: {{a: {{rule: Path(`/`), service: s}}}}, \
             services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1', weight: {weight}}}, {{url: 'http://10.0.0.2'}}]}}}}}}}}"
        )
    };
    let mut world = World::default();
    let cap = |world: &World, n: usize| service_of(world, "a").servers[n].cap.clone();
    world.build(&main(3, 1));
    let (first, second) = (cap(&world, 0).unwrap(), cap(&world, 1).unwrap());
    assert!(first.max() == 3 && !Arc::ptr_eq(&first, &second));
    world.build(&main(3, 2));
    assert!(Arc::ptr_eq(&first, &cap(&world, 0).unwrap()));
    world.build(&main(4, 2));
    assert_eq!(cap(&world, 0).unwrap().max(), 4);
    world.build(&main(0, 2));
    assert!(cap(&world, 0).is_none());
}

fn middlewares_of(world: &World, router: &str) -> Vec<Middleware> {
    route_of(world, router).middlewares.to_vec()
}

#[test]
fn what_a_middleware_counts_survives_and_is_each_routers_own() {
    let main = |average: u32, priority: u32| {
        format!(
            "entryPoints: {{web: {{address: ':1'}}}}\nhttp:\n  routers: {{r: {{rule: Path(`/r`), service: s, middlewares: [c]}}, \
             q: {{rule: Path(`/q`), priority: {priority}, service: s, middlewares: [l, c]}}}}\n  services: {{s: {{loadBalancer: {{servers: []}}}}}}\n  \
             middlewares: {{c: {{chain: {{middlewares: [l, a]}}}}, l: {{rateLimit: {{average: {average}}}}}, a: {{forwardAuth: {{address: 'http://db:81/v'}}}}}}"
        )
    };
    let mut world = World::default();
    let (_, catalog) = world.build(&main(1, 1));
    let named = &catalog.routes[&id_of(&catalog, "q")].middlewares;
    assert_eq!(
        *named,
        [("l@file".into(), "RateLimiter"), ("l@file".into(), "RateLimiter"), ("a@file".into(), "ForwardAuth")]
    );
    let (r, q) = (middlewares_of(&world, "r"), middlewares_of(&world, "q"));
    assert_eq!((r.len(), q.len()), (2, 3));
    assert!(q[0].is_same(&q[1]) && !q[0].is_same(&r[0]), "a limit is one in a router, and not one for two");
    assert!(q[2].is_same(&r[1]), "whom they ask is one");
    world.build(&main(1, 2));
    assert!(middlewares_of(&world, "q").iter().zip(&q).all(|(a, b)| a.is_same(b)), "a reload forgot what was counted");
    world.build(&main(2, 2));
    assert!(!middlewares_of(&world, "q")[0].is_same(&q[0]));
    // Its addresses became known.
    world.resolved = Resolved::of([("db".into(), vec!["10.9.9.9".parse().unwrap()])]);
    let (_, catalog) = world.build(&main(2, 2));
    let Middleware::ForwardAuth(auth) = &middlewares_of(&world, "r")[1] else { panic!("another kind") };
    let server = &auth.service.servers[0];
    assert_eq!((server.addresses[0].to_string().as_str(), &*server.authority), ("10.9.9.9:81", "db:81"));
    assert_eq!((&*catalog.servers[&server.id].url, auth.target.as_str()), ("http://db:81/v", "/v"));
}

#[test]
fn who_knows_users_is_one_for_all_routers_and_another_where_the_users_are() {
    let text = |priority: u32, user: &str| {
        format!(
            "entryPoints: {{web: {{address: ':1'}}}}\nhttp:\n  routers: {{r: {{rule: Path(`/r`), service: s, middlewares: [a]}}, \
             q: {{rule: Path(`/q`), priority: {priority}, service: s, middlewares: [a]}}}}\n  services: {{s: {{loadBalancer: {{servers: []}}}}}}\n  \
             middlewares: {{a: {{basicAuth: {{users: ['{user}:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}}}"
        )
    };
    let mut world = World::default();
    world.build(&text(1, "ann"));
    let known = middlewares_of(&world, "r").remove(0);
    assert!(middlewares_of(&world, "q")[0].is_same(&known));
    // Of the two routers one is another.
    world.build(&text(2, "ann"));
    assert!(["r", "q"].iter().all(|router| middlewares_of(&world, router)[0].is_same(&known)));
    world.build(&text(2, "bob"));
    assert!(!middlewares_of(&world, "r")[0].is_same(&known));
}

#[test]
fn a_router_whose_middleware_is_not_supported_is_not_there() {
    let mut config = good(
        "entryPoints: {web: {address: ':1'}}\nhttp: {routers: {r: {rule: Path(`/r`), service: s, middlewares: [c]}, \
         q: {rule: Path(`/q`), service: s}}, services: {s: {loadBalancer: {servers: []}}}, \
         middlewares: {c: {chain: {middlewares: [m]}}, m: {addPrefix: {prefix: /a}}}}",
    );
    for kind in [MiddlewareKind::Unsupported("retry".to_owned()), MiddlewareKind::Chain(vec!["c".to_owned()])] {
        Arc::make_mut(&mut config.dynamic.middlewares[1]).kind = kind;
        let inputs = Inputs {
            fixed: &config.fixed,
            dynamic: &config.dynamic,
            disputes: &[],
            resolved: &Resolved::default(),
            api: None,
            now: MonoNs(1),
        };
        let (snapshot, _) = Registry::default().build(&inputs);
        assert_eq!((found(&snapshot, "/r"), found(&snapshot, "/q").map(|found| found.0)), (None, Some("q".to_owned())));
    }
}

/// The router that a request finds on an entry point.
fn found(snapshot: &Snapshot, path: &str) -> Option<(String, String)> {
    let headers = http::HeaderMap::new();
    let view = RequestView {
        method: "GET",
        host: "hotrod.localhost",
        path,
        query: "",
        headers: &headers,
        client_ip: [127, 0, 0, 1].into(),
    };
    let found = snapshot.entry_points[0].routes.find(&view)?;
    Some((found.route.name.to_string(), found.operation().to_owned()))
}

#[test]
fn requests_find_their_routes_and_ping_comes_first() {
    let mut world = World::default();
    let router =
        "h: {rule: 'Host(`hotrod.localhost`) && (Path(`/a`) || PathPrefix(`/p`))', priority: 9999999, service: s}";
    let (snapshot, catalog) = world.build(&file(router, S));
    let want = |router: &str, operation: &str| Some((router.to_owned(), operation.to_owned()));
    assert_eq!(found(&snapshot, "/a"), want("h", "hotrod.localhost/a"));
    assert_eq!(found(&snapshot, "/pxx"), want("h", "hotrod.localhost/p/*"));
    assert_eq!(found(&snapshot, "/ping"), want("ping@internal", "/ping"));
    assert_eq!(found(&snapshot, "/none"), None);
    let names = &catalog.routes[&id_of(&catalog, "h")];
    assert_eq!(names.operations, ["hotrod.localhost/a".into(), "hotrod.localhost/p/*".into()]);
    assert_eq!(names.patterns, ["/a".into(), "/p/*".into()]);
}

/// Services by place: the URLs of their servers.
fn served(snapshot: &Snapshot) -> Vec<Vec<(u32, String)>> {
    let servers = |service: &Arc<Service>| service.servers.iter().map(|one| (one.id, one.url.to_string())).collect();
    (0..8).filter_map(|place| snapshot.services.get(place)).map(servers).collect()
}

#[test]
fn other_servers_of_a_service_are_its_own_matter() {
    let other = "s: {loadBalancer: {servers: [{url: 'http://10.0.0.1', weight: 2}, {url: 'http://10.0.0.9'}]}}";
    let idle = ", idle: {loadBalancer: {servers: [{url: 'http://10.0.0.5'}]}}";
    let (mut world, mut whole) = (World::default(), World::default());
    let (first, _) = world.build(&file(A, &(S.to_owned() + idle)));
    let changed = good(&file(A, &(other.to_owned() + &idle.replace("0.5", "0.6")))).dynamic.services;
    let (swapped, names) = world.registry.swap(&changed, world.now);
    assert!(first.entry_points.iter().zip(&swapped.entry_points).all(|(a, b)| Arc::ptr_eq(a, b)));
    // As a build would have it; what no router leads to is nowhere.
    whole.build(&file(A, S));
    let (built, known) = whole.build(&file(A, other));
    assert_eq!(served(&swapped), served(&built));
    assert_ne!(served(&swapped), served(&first));
    assert_eq!((&names.servers, names.servers.len()), (&known.servers, 3));
    // The same once more is the same.
    let (again, _) = world.registry.swap(&changed, world.now);
    assert!(Arc::ptr_eq(swapped.services.get(0).unwrap(), again.services.get(0).unwrap()));
    // A server that left is known for a while, and a build finds what a swap left.
    world.pass(STAY);
    assert_eq!(world.registry.swap(&[], world.now).1.servers.len(), 2);
    let (last, _) = world.build(&file(A, other));
    assert_eq!(served(&last), served(&swapped));
    assert!(Arc::ptr_eq(&first.entry_points[0], &last.entry_points[0]));
}

#[test]
fn a_route_of_before_is_the_same_until_its_router_or_what_it_leads_to_is_another() {
    let mut world = World::default();
    let b = ", b: {rule: Path(`/b`), service: t}";
    let t = ", t: {loadBalancer: {servers: [{url: 'http://10.0.0.2'}]}}";
    let all = good(&file(&(A.to_owned() + b), &(S.to_owned() + t)));
    let mut dynamic = all.dynamic.clone();
    let mut build = |dynamic: &Dynamic| {
        let (resolved, now) = (Resolved::default(), MonoNs(1));
        let (fixed, disputes) = (&all.fixed, &[]);
        world.registry.build(&Inputs { fixed, dynamic, disputes, resolved: &resolved, api: None, now }).0
    };
    let first = build(&dynamic);
    let second = build(&dynamic);
    assert!(first.entry_points.iter().zip(&second.entry_points).all(|(a, b)| Arc::ptr_eq(a, b)));
    // Without its service a router has no route; others keep theirs, and their places.
    dynamic.services.retain(|service| service.name != "t");
    let third = build(&dynamic);
    let routes = |snapshot: &Snapshot| snapshot.entry_points[0].routes.names().map(|one| one.route).collect::<Vec<_>>();
    assert_eq!((routes(&second).len(), routes(&third).len()), (3, 2));
    let places = |snapshot: &Snapshot| (0..8).filter(|place| snapshot.services.get(*place).is_some()).count();
    assert_eq!((places(&second), places(&third)), (2, 1));
    // Back, it has the id of before.
    dynamic.services.clone_from(&all.dynamic.services);
    assert_eq!(routes(&build(&dynamic)), routes(&first));
}
