//! A fault above the named parts, a section misspelt or of the wrong kind: what the section held before serves on, and
//! the fault says so. A section that is gone without a fault is gone.

use super::Files;
use crate::config::Reloader;

/// All dynamic sections in one file.
const BEFORE: &str = "\
entryPoints:
  web: {address: ':8000'}
  two: {address: ':8001'}
http:
  routers:
    a: {rule: 'Path(`/a`)', service: s, middlewares: [m]}
    b: {rule: 'Path(`/b`)', service: t}
  services:
    s: {loadBalancer: {servers: [{url: 'http://s1'}]}}
    t: {loadBalancer: {servers: [{url: 'http://t1'}]}}
  middlewares:
    m: {headers: {customRequestHeaders: {X-M: '1'}}}
serversTransport: {forwardingTimeouts: {dialTimeout: 7s}}
";

/// Everything that serves, in one line: entry points, routers, services, middlewares.
fn serving(reloader: &Reloader) -> String {
    let dynamic = &reloader.config().dynamic;
    let mut names: [Vec<String>; 4] = [
        dynamic.entry_points.iter().map(|one| one.name.clone()).collect(),
        dynamic.routers.iter().map(|one| one.name.clone()).collect(),
        dynamic.services.iter().map(|one| format!("{}{:?}", one.name, one.timeouts.connect)).collect(),
        dynamic.middlewares.iter().map(|one| one.name.clone()).collect(),
    ];
    names.iter_mut().for_each(|names| names.sort());
    names.map(|names| names.join(" ")).join(" | ")
}

const ALL: &str = "two web | a b | s7s t7s | m";

/// Loads [`BEFORE`], reloads it with `from` replaced by `to`, and then the good file again.
#[track_caller]
fn check(from: &str, to: &str, want: &str, faults: &[&str]) {
    assert!(BEFORE.contains(from), "{from}");
    let files = Files::new(BEFORE);
    let mut reloader = Reloader::load(&files.main()).unwrap();
    files.write("main.yaml", &BEFORE.replacen(from, to, 1));
    // The second time must not forget what the first one kept.
    for round in 0..2 {
        let reload = reloader.reload_now();
        assert_eq!(serving(&reloader), want, "round {round}: {to}");
        assert_eq!(files.lines(&reload.faults), faults, "{to}");
    }
    files.write("main.yaml", BEFORE);
    assert!(reloader.reload_now().faults.is_empty());
    assert_eq!(serving(&reloader), ALL);
}

const HTTP: &str = "; until it is mended, what was there stays: 2 routers, 2 services, 1 middleware";

#[test]
fn a_misspelt_section_keeps_what_it_held() {
    check("http:", "htttp:", ALL, &[&format!("main.yaml:4: htttp: unknown key; did you mean `http`?{HTTP}")]);
    check(
        "  routers:",
        "  roters:",
        ALL,
        &[
            "main.yaml:5: http.roters: unknown key; did you mean `routers`?; until it is mended, what was there stays: 2 routers",
        ],
    );
    check(
        "  services:",
        "  servces:",
        ALL,
        &[
            "main.yaml:8: http.servces: unknown key; did you mean `services`?; until it is mended, what was there stays: 2 services",
        ],
    );
    check(
        "entryPoints:",
        "entryPoint:",
        ALL,
        &[
            "main.yaml:1: entryPoint: unknown key; did you mean `entryPoints`?; until it is mended, what was there stays: 2 entry points",
        ],
    );
    check(
        "serversTransport:",
        "serverTransport:",
        ALL,
        &[
            "main.yaml:13: serverTransport: unknown key; did you mean `serversTransport`?; until it is mended, what was there stays: its values",
        ],
    );
}

#[test]
fn a_section_of_the_wrong_kind_keeps_what_it_held() {
    let whole = BEFORE.split_once("http:\n").unwrap().1.split_once("serversTransport").unwrap().0;
    for (value, what) in [("5", "a value"), ("[a]", "a list")] {
        check(
            &format!("http:\n{whole}"),
            &format!("http: {value}\n"),
            ALL,
            &[&format!("main.yaml:4: http: must be a section, not {what}{HTTP}")],
        );
    }
    let routers = BEFORE.split_once("  routers:\n").unwrap().1.split_once("  services").unwrap().0;
    check(
        &format!("  routers:\n{routers}"),
        "  routers: [a]\n",
        ALL,
        &[
            "main.yaml:5: http.routers: must be a section, not a list; until it is mended, what was there stays: 2 routers",
        ],
    );
}

/// The lines of a section of `http`, with their indentation.
fn lines_of(section: &str) -> String {
    let from = BEFORE.find(&format!("  {section}:\n")).unwrap();
    let lines = BEFORE[from..].split_inclusive('\n').enumerate();
    lines.take_while(|(index, line)| *index == 0 || line.starts_with("    ")).map(|(_, line)| line).collect()
}

#[test]
fn a_section_at_the_wrong_level_keeps_what_it_held() {
    let routers = lines_of("routers");
    let rest = BEFORE.split_once(&routers).unwrap().1;
    // Beside `http` instead of below it, and the other way round.
    let beside = format!("{rest}routers: {{}}\n");
    check(
        &format!("{routers}{rest}"),
        &beside,
        ALL,
        &[
            "main.yaml:11: routers: unknown key; did you mean `http.routers`?; until it is mended, what was there stays: 2 routers",
        ],
    );
    let entry_points = BEFORE.split_once("http:").unwrap().0;
    check(
        &format!("{entry_points}http:\n"),
        "http:\n  entryPoints: {}\n",
        ALL,
        &[
            "main.yaml:2: http.entryPoints: unknown key; did you mean `entryPoints` at the top level?; until it is mended, what was there stays: 2 entry points",
        ],
    );
    // Below its neighbour.
    let nested = format!("{}    routers: {{a: {{rule: 'Path(`/a`)', service: s}}}}\n", lines_of("services"));
    check(
        &format!("{routers}{}", lines_of("services")),
        &nested,
        ALL,
        &[
            "main.yaml:8: http.services.routers.a: unknown key; known here: loadBalancer; until it is mended, what was there stays: 2 routers",
        ],
    );
    // Its entries beside it.
    check(
        &routers,
        "  routers:\n  a: {rule: 'Path(`/a`)', service: s}\n",
        ALL,
        &[
            "main.yaml:6: http.a: unknown key; known here: middlewares, routers, serversTransports, services; until it is mended, what was there stays: 2 routers",
        ],
    );
    // Twice.
    check(
        "  services:",
        "  routers: {}\n  services:",
        "two web | a b | s7s t7s | m",
        &["main.yaml:8: http.routers: is given twice"],
    );
}

#[test]
fn parts_are_kept_on_their_way_from_a_file_that_is_gone_to_one_that_cannot_be_read() {
    let http = &BEFORE[BEFORE.find("http:").unwrap()..BEFORE.find("serversTransport").unwrap()];
    let main = "entryPoints: {web: {address: ':8000'}}\nproviders: {file: {directory: more}}\n";
    for moved in [http.replacen("routers", "roters", 1), http.replacen("http", "htttp", 1), format!("{http}]")] {
        let files = Files::new(main);
        files.write("more/a.yml", http);
        let mut reloader = Reloader::load(&files.main()).unwrap();
        std::fs::remove_file(files.path("more/a.yml")).unwrap();
        files.write("more/b.yml", &moved);
        for _ in 0..2 {
            assert_eq!(reloader.reload_now().faults.len(), 1);
            assert_eq!(serving(&reloader), "web | a b | s30s t30s | m", "{moved}");
        }
        files.write("more/b.yml", "http: {}");
        assert!(reloader.reload_now().faults.is_empty());
        assert_eq!(serving(&reloader), "web |  |  | ");
    }
}

#[test]
fn what_is_good_beside_a_section_at_fault_applies() {
    let files = Files::new(BEFORE);
    let mut reloader = Reloader::load(&files.main()).unwrap();
    // New routers may name services that are kept.
    let after = BEFORE.replacen("  services:", "    c: {rule: 'Path(`/c`)', service: t}\n  servces:", 1);
    files.write("main.yaml", &after.replacen("Path(`/a`)", "Path(`/x`)", 1).replacen("    b:", "    d:", 1));
    assert_eq!(reloader.reload_now().faults.len(), 1);
    assert_eq!(serving(&reloader), "two web | a c d | s7s t7s | m");
    assert_eq!(&*reloader.config().dynamic.routers[0].rule.text, "Path(`/x`)");
}

#[test]
fn a_service_whose_transport_cannot_be_read_keeps_its_last_good_version() {
    let with =
        BEFORE.replacen("servers: [{url: 'http://s1'}]", "serversTransport: q, servers: [{url: 'http://s1'}]", 1);
    let transports = "  serversTransports:\n    q: {forwardingTimeouts: {dialTimeout: 3s}}\n  middlewares:";
    let with = with.replacen("  middlewares:", transports, 1);
    let files = Files::new(&with);
    let mut reloader = Reloader::load(&files.main()).unwrap();
    assert_eq!(serving(&reloader), "two web | a b | s3s t7s | m");
    files.write("main.yaml", &with.replacen("  serversTransports:", "  serversTransprots:", 1));
    for _ in 0..2 {
        let faults = reloader.reload_now().faults;
        assert_eq!(serving(&reloader), "two web | a b | s3s t7s | m");
        assert_eq!(
            files.lines(&faults),
            [
                "main.yaml:11: http.serversTransprots: unknown key; did you mean `serversTransports`?; until it is mended, what was there stays: 1 servers transport"
            ]
        );
    }
}

#[test]
fn a_section_that_is_gone_without_a_fault_is_gone() {
    let routers = lines_of("routers");
    let gone = "two web |  | s7s t7s | m";
    for empty in ["", "  routers:\n", "  routers: {}\n"] {
        check(&routers, empty, gone, &[]);
    }
    check("serversTransport: {forwardingTimeouts: {dialTimeout: 7s}}", "", "two web | a b | s30s t30s | m", &[]);
    // A fault elsewhere that can be told changes nothing about that.
    check(
        &routers,
        "  middlwares: {}\n",
        gone,
        &["main.yaml:5: http.middlwares: unknown key; did you mean `middlewares`?"],
    );
    check(&routers, "  models: {}\n", gone, &["main.yaml:5: http.models: not supported yet"]);
}

#[test]
fn an_unknown_key_that_may_mean_any_section_keeps_those_that_are_missing() {
    check(
        &lines_of("routers"),
        "  zzzzzzzzzzzzzzz: {}\n",
        ALL,
        &[
            "main.yaml:5: http.zzzzzzzzzzzzzzz: unknown key; known here: middlewares, routers, serversTransports, services; until it is mended, what was there stays: 2 routers",
        ],
    );
}

#[test]
fn each_thing_that_is_kept_or_left_out_is_told_with_its_place() {
    let files = Files::new(BEFORE);
    let mut reloader = Reloader::load(&files.main()).unwrap();
    let after = BEFORE
        .replacen("two: {address: ':8001'}", "two: {address: x}\n  new: {address: ':8001'}", 1)
        .replacen("Path(`/a`)", "Path(`a`)", 1)
        .replacen("service: t}", "service: u}", 1)
        .replacen("    t:", "    u: {loadBalancer: {servers: [{url: 'ftp://u'}]}}\n    t:", 1)
        .replacen("'Path(`/b`)'", "'Path(`/x`)'", 1)
        .replacen("  services:", "    c: {rule: 'Path(`/c`)', service: u}\n  services:", 1);
    files.write("main.yaml", &(after + "api: {}\n"));
    let faults = files.lines(&reloader.reload_now().faults);
    let told = |part: &str| {
        let fault = faults.iter().find(|fault| fault.contains(part)).unwrap_or_else(|| panic!("{part}: {faults:#?}"));
        (fault.split(": ").next().unwrap().to_owned(), fault.rsplit("; ").next().unwrap().to_owned())
    };
    for (part, place, what) in [
        ("entryPoints.two", "main.yaml:3", "`two` is left out: `new` has its last good address"),
        ("http.routers.a", "main.yaml:7", "until it is mended, its last good version stays"),
        ("http.routers.b", "main.yaml:8", "until it has one, the router's stays"),
        ("http.routers.c", "main.yaml:9", "the router is left out"),
        ("http.services.u", "main.yaml:12", "write http://host:port"),
        ("api", "main.yaml:17", "it needs a restart to take effect, what held before holds until then"),
    ] {
        assert_eq!(told(part), (place.to_owned(), what.to_owned()), "{faults:#?}");
    }
    assert_eq!(faults.len(), 6, "{faults:#?}");
    files.write("main.yaml", "a: [");
    assert!(files.lines(&reloader.reload_now().faults)[0].ends_with("; until it is mended, its last good text stays"));
    files.write("main.yaml", "http: {}");
    let faults = files.lines(&reloader.reload_now().faults);
    assert!(faults.iter().any(|fault| fault.ends_with("; until then those of before stay")), "{faults:#?}");
}
