//! The reference page of all keys, written from the table that the reader uses.

use std::fmt::Write as _;

use super::schema::{Key, Kind, keys};
use super::value::wanted;

const HEAD: &str = "\
# Configuration

One YAML file, given by `wayspan run --config FILE`; `wayspan check FILE` reports every fault at once. The words are
Traefik v3's, static and dynamic ones in one file; keys marked + are Wayspan's own. Upper and lower case of keys do not
matter. A key that is not known is a fault, with the nearest known one; a key of Traefik's that is not listed here is
`not supported yet`.

TLS options belong to a connection, and the server name that the client sends chooses them: those of the routers whose `Host` it
is, the entry point's, or else `default`, where there are none, where the client sends no name, or where that host's routers name
different ones (a fault that names both). Routers of such a host are served with the default options, as in Traefik, but for those
whose options ask for client certificates. A request is answered with 421 (Misdirected Request) where its `Host` would have chosen
other options than its connection has, or where its router names others: so a host behind client certificates is not reached
through another's name. A router without a `Host` cannot choose; give the entry point its options. Connections keep the options that they were made with until they close.

Durations are written as `10s`, `1m30s`, `200ms`, or in seconds. Lists may be written as one text with commas.

`entryPoints`, `http`, `tls` and `serversTransport` are reloaded when a file changes and on SIGHUP; the rest needs a restart. A
file that cannot be parsed keeps its last good state. A faulty router, service, middleware, entry point or certificate keeps its
last good version, or is left out where it has none, and the rest applies. A section that is misspelt, stands at the wrong
level or is no section keeps what it held; one that is removed, emptied or left without a value is gone. An address that
cannot be opened keeps the entry point where it was, and is tried again every second. Each of these is a fault in the
log, in `/api/status` and on the dashboard for as long as it lasts.

    entryPoints:
      web: {address: \":8000\"}
    http:
      routers:
        hotrod: {rule: \"Host(`hotrod.localhost`)\", service: hotrod}
      services:
        hotrod: {loadBalancer: {servers: [{url: \"http://127.0.0.1:8080\"}]}}
    tracing:
      serviceName: wayspan
      sampleRate: 1.0
      otlp: {grpc: {endpoint: \"127.0.0.1:4317\", insecure: true}}
    api: {dashboard: true, address: \"127.0.0.1:9000\", jaegerQuery: \"http://127.0.0.1:16686\"}
";

/// The page, as it stands in docs/configuration.md.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    // In the order in which they are first named.
    let mut sections: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in keys() {
        let first = key.path.split('.').next().unwrap_or_default();
        let section = match first {
            "http" => key.path.split(".<name>").next().unwrap_or(first),
            "providers" => key.path.match_indices('.').nth(1).map_or(key.path, |(end, _)| &key.path[..end]),
            first => first,
        };
        match sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, keys)) => keys.push(key),
            None => sections.push((section, vec![key])),
        }
    }
    for (section, keys) in sections {
        let _ = write!(page, "\n## `{section}`\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
        keys.into_iter().for_each(|key| row(&mut page, key));
    }
    page
}

fn row(page: &mut String, key: &Key) {
    let ours = if key.ours { " +" } else { "" };
    let default = match (key.default, key.kind) {
        ("", _) => String::new(),
        (default, _) => format!("`{default}`"),
    };
    let value = if key.kind == Kind::Section { "a section, may be empty".to_owned() } else { wanted(key.kind) };
    let meaning = key.meaning.replace('|', "\\|");
    let _ = writeln!(page, "| `{}`{ours} | {value} | {default} | {meaning} |", key.path);
}

#[cfg(test)]
mod tests {
    /// Run with `UPDATE_DOCS=1` to write the page anew.
    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        #[expect(clippy::disallowed_methods, reason = "a switch of this test, not a part of the configuration")]
        if std::env::var("UPDATE_DOCS").is_ok() {
            std::fs::write(path, super::reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == super::reference(), "docs/configuration.md is old; run the tests with UPDATE_DOCS=1");
    }
}
