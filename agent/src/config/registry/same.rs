//! What of the last build is the same in this one, and stays.

use std::sync::Arc;

use wayspan_proxy::snapshot::{self, Route};

pub(super) fn kept<T>(old: Option<&Arc<T>>, new: T, same: fn(&T, &T) -> bool) -> Arc<T> {
    match old {
        Some(old) if same(old, &new) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

// The four below name every field: a new one must be thought of.

pub(super) fn same_entry_point(a: &snapshot::EntryPoint, b: &snapshot::EntryPoint) -> bool {
    let snapshot::EntryPoint {
        id,
        name,
        addresses,
        limits,
        trusted,
        trust_all,
        sanitize_path,
        traced,
        metered,
        routes,
        tls,
    } = a;
    (id, name, addresses, limits, trusted) == (&b.id, &b.name, &b.addresses, &b.limits, &b.trusted)
        && (trust_all, sanitize_path, traced, metered) == (&b.trust_all, &b.sanitize_path, &b.traced, &b.metered)
        && Arc::ptr_eq(routes, &b.routes)
        && match (tls, &b.tls) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
}

pub(super) fn same_route(a: &Route, b: &Route) -> bool {
    let Route { id, name, tls_options, traced, metered, middlewares, target } = a;
    (id, name, tls_options) == (&b.id, &b.name, &b.tls_options)
        && (traced, metered) == (&b.traced, &b.metered)
        && *target == b.target
        && middlewares.len() == b.middlewares.len()
        && middlewares.iter().zip(&b.middlewares).all(|(a, b)| a.is_same(b))
}

pub(super) fn same_service(a: &snapshot::Service, b: &snapshot::Service) -> bool {
    let snapshot::Service { id, name, servers, turn, pass_host, timeouts, idle_max } = a;
    (id, name, turn, pass_host) == (&b.id, &b.name, &b.turn, &b.pass_host)
        && (timeouts, idle_max) == (&b.timeouts, &b.idle_max)
        && servers.len() == b.servers.len()
        && servers.iter().zip(&b.servers).all(|(a, b)| Arc::ptr_eq(a, b))
}

pub(super) fn same_server(a: &snapshot::Server, b: &snapshot::Server) -> bool {
    let snapshot::Server { id, url, authority, host, path_prefix, addresses, request_headers, cap } = a;
    let same_cap = match (cap, &b.cap) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    (id, url, authority, host) == (&b.id, &b.url, &b.authority, &b.host)
        && (path_prefix, addresses, request_headers) == (&b.path_prefix, &b.addresses, &b.request_headers)
        && same_cap
}
