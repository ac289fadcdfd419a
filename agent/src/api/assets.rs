//! The dashboard's files, built in: plain HTML, modules and styles, no build step.

/// A file of the dashboard: its content type and text, by its path below `/dashboard/`.
pub(super) fn find(path: &str) -> Option<(&'static str, &'static str)> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    Some(match path {
        "" | "index.html" => ("text/html; charset=utf-8", include_str!("assets/index.html")),
        "style.css" => ("text/css; charset=utf-8", include_str!("assets/style.css")),
        "icon.svg" => ("image/svg+xml", include_str!("assets/icon.svg")),
        "app.js" => (SCRIPT, include_str!("assets/app.js")),
        "dom.js" => (SCRIPT, include_str!("assets/dom.js")),
        "graph.js" => (SCRIPT, include_str!("assets/graph.js")),
        "phases.js" => (SCRIPT, include_str!("assets/phases.js")),
        "requests.js" => (SCRIPT, include_str!("assets/requests.js")),
        "routing.js" => (SCRIPT, include_str!("assets/routing.js")),
        "trace.js" => (SCRIPT, include_str!("assets/trace.js")),
        _ => return None,
    })
}
