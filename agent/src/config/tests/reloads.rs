//! What a reload keeps: each row is a file before, a file after, and what then serves.

use super::Files;
use crate::config::Reloader;

const STATIC: &str = "entryPoints: {web: {address: ':8000'}}\napi: {}\nproviders: {file: {directory: more}}\n";

/// What serves: entry points, routers with rule and service, services with their first server.
fn serving(reloader: &Reloader) -> Vec<String> {
    let dynamic = &reloader.config().dynamic;
    let entry_points = dynamic.entry_points.iter().map(|one| format!("{} {:?}", one.name, one.addresses));
    let routers = dynamic.routers.iter().map(|one| format!("{} {} -> {}", one.name, one.rule.text, one.service));
    let services = dynamic
        .services
        .iter()
        .map(|one| format!("{} {}", one.name, one.servers.first().map_or("none", |server| server.url.as_str())));
    let mut all: Vec<_> = entry_points.skip(1).chain(routers).chain(services).collect();
    all.sort();
    all
}

/// Loads `before` (a further file with an `http` section), then reloads `after`; `None` removes the file.
fn check(before: &str, after: Option<&str>, want: &[&str], faults: usize) {
    let files = Files::new(STATIC);
    files.write("more/a.yml", before);
    let mut reloader = Reloader::load(&files.main()).unwrap_or_else(|faults| panic!("{:?}", files.lines(&faults)));
    match after {
        Some(text) => files.write("more/a.yml", text),
        None => std::fs::remove_file(files.path("more/a.yml")).unwrap(),
    }
    // The second time must not forget what the first one kept.
    for round in 0..2 {
        let reload = reloader.reload_now();
        assert_eq!(serving(&reloader), want, "round {round}: {after:?}");
        assert_eq!(reload.faults.len(), faults, "{:?}", files.lines(&reload.faults));
        assert_eq!(reload.changed, round == 0 && after != Some("a: [") && after != Some(before), "{after:?}");
    }
}

fn router(name: &str, rule: &str, service: &str) -> String {
    format!("    {name}: {{rule: \"{rule}\", service: {service}}}\n")
}

fn service(name: &str, url: &str) -> String {
    format!("    {name}: {{loadBalancer: {{servers: [{{url: \"{url}\"}}]}}}}\n")
}

fn http(routers: &[String], services: &[String]) -> String {
    let section = |name: &str, parts: &[String]| {
        if parts.is_empty() { String::new() } else { format!("  {name}:\n{}", parts.concat()) }
    };
    format!("http:\n{}{}  middlewares: {{}}\n", section("routers", routers), section("services", services))
}

#[test]
fn reloads_take_what_is_good_and_keep_the_last_good_of_the_rest() {
    let (a, s) = (router("a", "Path(`/a`)", "s"), service("s", "http://s1"));
    let before = http(std::slice::from_ref(&a), std::slice::from_ref(&s));
    let then = |routers: &[String], services: &[String], want: &[&str], faults: usize| {
        check(&before, Some(&http(routers, services)), want, faults);
    };
    let last_good: &[&str] = &["a Path(`/a`) -> s", "s http://s1"];
    // Nothing changed; the file cannot be parsed; it is gone.
    check(&before, Some(&before), last_good, 0);
    check(&before, Some("a: ["), last_good, 1);
    check(&before, None, &[], 0);
    // Good changes apply.
    then(&[router("a", "Path(`/b`)", "s")], &[service("s", "http://s2")], &["a Path(`/b`) -> s", "s http://s2"], 0);
    then(&[], std::slice::from_ref(&s), &["s http://s1"], 0);
    // A bad router keeps its last good version; a new bad one is left out; the rest applies.
    then(
        &[router("a", "", "s"), router("b", "Path(`/b`)", "s")],
        &[service("s", "http://s2")],
        &["a Path(`/a`) -> s", "b Path(`/b`) -> s", "s http://s2"],
        1,
    );
    then(&[a.clone(), router("b", "", "s")], std::slice::from_ref(&s), last_good, 1);
    // A bad service keeps its last good version, for changed and new routers too.
    then(
        &[router("a", "Path(`/b`)", "s"), router("b", "Path(`/c`)", "s")],
        &[service("s", "ftp://s2")],
        &["a Path(`/b`) -> s", "b Path(`/c`) -> s", "s http://s1"],
        1,
    );
    // A router that names a service which is gone keeps its last good version, with the service it had.
    then(std::slice::from_ref(&a), &[], last_good, 1);
    then(&[router("a", "Path(`/a`)", "t")], std::slice::from_ref(&s), last_good, 1);
    // A new router of a new bad service is left out, and says why; one that moved there stays where it was.
    then(&[a.clone(), router("b", "Path(`/b`)", "t")], &[s.clone(), service("t", "ftp://t")], last_good, 2);
    then(&[router("a", "Path(`/b`)", "t")], &[service("t", "ftp://t")], last_good, 2);
}

#[test]
fn entry_points_open_close_and_keep_their_last_good_version() {
    for (after, want, faults) in [
        ("entryPoints: {web: {address: ':8000'}, two: {address: ':8001'}}", "web [[::]:8000] two [[::]:8001] ", 0),
        ("entryPoints: {two: {address: ':8001'}}", "two [[::]:8001] ", 0),
        ("entryPoints: {two: {address: ':8001'}, web: {address: x}}", "two [[::]:8001] web [[::]:8000] ", 1),
        ("entryPoints: {two: {address: ':8000'}, web: {address: x}}", "two [[::]:8000] ", 1),
        ("http: {}", "web [[::]:8000] ", 1),
        ("entryPoints: [", "web [[::]:8000] ", 1),
        ("", "web [[::]:8000] ", 1),
    ] {
        let files = Files::new("entryPoints: {web: {address: ':8000'}}");
        let mut reloader = Reloader::load(&files.main()).unwrap();
        files.write("main.yaml", after);
        let reload = reloader.reload_now();
        let got: String = reloader
            .config()
            .dynamic
            .entry_points
            .iter()
            .map(|one| format!("{} {:?} ", one.name, one.addresses))
            .collect();
        assert_eq!((got.as_str(), reload.faults.len()), (want, faults), "{after}: {:?}", files.lines(&reload.faults));
    }
}

#[test]
fn entry_points_on_any_port_do_not_take_each_others_place() {
    let files = Files::new("entryPoints: {web: {address: '127.0.0.1:0'}}");
    let mut reloader = Reloader::load(&files.main()).unwrap();
    files.write("main.yaml", "entryPoints: {web: {address: x}, two: {address: '127.0.0.1:0'}}");
    assert_eq!(reloader.reload_now().faults.len(), 1);
    assert_eq!(reloader.config().dynamic.entry_points.len(), 2);
}

#[test]
fn static_changes_wait_for_a_restart() {
    let files = Files::new(STATIC);
    files.write("more/a.yml", "http: {}");
    let mut reloader = Reloader::load(&files.main()).unwrap();
    files.write("main.yaml", &format!("{STATIC}tracing: {{serviceName: x}}\nworkers: {{count: 99999}}\n"));
    let reload = reloader.reload_now();
    assert_eq!(
        files.lines(&reload.faults),
        [
            "main.yaml:5: workers.count: must be a whole number from 0 to 1024, not `99999`",
            "main.yaml:4: tracing: changed; it needs a restart to take effect, what held before holds until then",
        ]
    );
    assert!(reloader.config().fixed.tracing.is_none());
}

#[test]
fn a_directory_that_cannot_be_listed_keeps_its_files() {
    let files = Files::new(STATIC);
    files.write("more/a.yml", &http(&[router("a", "Path(`/a`)", "s")], &[service("s", "http://s1")]));
    let mut reloader = Reloader::load(&files.main()).unwrap();
    std::fs::rename(files.path("more"), files.path("away")).unwrap();
    reloader.reload_now();
    assert_eq!(serving(&reloader), ["a Path(`/a`) -> s", "s http://s1"]);
    std::fs::rename(files.path("away"), files.path("more")).unwrap();
    assert!(reloader.reload_now().faults.is_empty());
}
