//! Parts of the configuration that come from elsewhere than a file, as trees of the same words: held against the same
//! table and read by the same reader, so that what a file may not say an object may not either.

use std::path::Path;

use wayspan_proxy::snapshot::Timeouts;

use super::dynamic::{self, Around, Source};
use super::fault::{Fault, Faults, Section};
use super::model::{Dynamic, EntryPoint, Static};
use super::walk::{self, Role};
use super::yaml::{Node, Value, Word};

/// Nested collections, as in a file.
const DEPTH_MAX: usize = 32;

/// One named part of a section, e.g. of `http.middlewares`; `origin` is what faults call it.
pub(crate) fn part(origin: &str, section: &str, value: &serde_json::Value) -> (Dynamic, Vec<Fault>) {
    let mut root = serde_json::json!({ NAME: value });
    for word in section.rsplit('.') {
        root = serde_json::json!({ word: root });
    }
    read(origin, &root, &format!("{section}.{NAME}"))
}

/// How servers are reached, of a `http.serversTransports` entry: timeouts, and idle connections.
pub(crate) fn transport(origin: &str, value: &serde_json::Value) -> (Option<(Timeouts, usize)>, Vec<Fault>) {
    let user = serde_json::json!({"loadBalancer": {"servers": [], "serversTransport": NAME}});
    let root = serde_json::json!({"http": {"serversTransports": {NAME: value}, "services": {NAME: user}}});
    let (dynamic, faults) = read(origin, &root, &format!("http.serversTransports.{NAME}"));
    (dynamic.services.first().map(|service| (service.timeouts, service.idle_max)), faults)
}

/// What a part is called while it is read.
const NAME: &str = "part";

fn read(origin: &str, root: &serde_json::Value, prefix: &str) -> (Dynamic, Vec<Fault>) {
    let origin = Path::new(origin);
    let Some(root) = node(root, 0) else {
        return (Dynamic::default(), vec![Fault::file(origin, 0, "is nested too deep".to_owned())]);
    };
    let mut faults = Faults::default();
    let mut source = Source { file: origin.to_owned(), root };
    walk::check(origin, Role::Object, &mut source.root, &mut faults);
    // What it refers to stands elsewhere.
    let around = Around { fixed: &Static::default(), incomplete: true, default_transport: None, before: None };
    let parts = dynamic::read(std::slice::from_ref(&source), around, &mut faults);
    let (mut faults, _) = faults.finish(origin);
    for fault in &mut faults {
        // Of the object its owner knows the fields.
        if let Some(rest) = fault.path.strip_prefix(prefix) {
            fault.path = format!("spec{rest}");
        }
    }
    (parts.dynamic, faults)
}

/// An entry point with the defaults of one that a file names by its address alone.
pub(crate) fn entry_point(name: &str, address: &str) -> Option<EntryPoint> {
    let (dynamic, _) = part("", Section::EntryPoint.path(), &serde_json::json!({ "address": address }));
    dynamic.entry_points.into_iter().next().map(|entry_point| EntryPoint {
        name: name.to_owned(),
        by_name_only: true,
        ..entry_point
    })
}

fn node(value: &serde_json::Value, depth: usize) -> Option<Node> {
    if depth > DEPTH_MAX {
        return None;
    }
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Text(value.to_string()),
        serde_json::Value::Number(value) => Value::Text(value.to_string()),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Array(list) => {
            Value::List(list.iter().map(|value| node(value, depth + 1)).collect::<Option<_>>()?)
        }
        serde_json::Value::Object(map) => {
            let entries =
                map.iter().map(|(key, value)| Some((Word { text: key.clone(), line: 0 }, node(value, depth + 1)?)));
            Value::Map(entries.collect::<Option<_>>()?)
        }
    };
    Some(Node { line: 0, value })
}
