//! What `demo --check` can still verify without Jaeger: the requests, and what the agent's own api says of them.

use std::time::Duration;

use anyhow::Result;
use wayspan_tests::{http, wait_until};

use super::Lab;
use super::checks::{self, Check};

// The agent shows a request as soon as its merge has seen it: far below this.
const TIME: Duration = Duration::from_secs(20);

/// Adds a router, sends through it, and checks what can be checked.
pub fn all(lab: &mut Lab) -> Result<Vec<Check>> {
    checks::add_router(lab)?;
    let api = lab.api;
    let page = |target: &str| http::get(api, &api.to_string(), target);
    let failed = lab.sent.iter().find(|sent| sent.status != 200).map(|sent| format!("{sent:?}"));
    let mut all = vec![Check { name: "every request through the ingress was answered", fault: failed }];
    for (name, target, part) in [
        ("the dashboard is served", "/dashboard/", "<html"),
        ("ping answers", "/ping", "OK"),
        ("the api says that tracing is on", "/api/overview", "tracing"),
        ("the api lists the router", "/api/http/routers", "hotrod.localhost"),
        ("a router added by reload is listed", "/api/http/routers", "added"),
        ("the api lists the service", "/api/http/services", "hotrod"),
        ("metrics are served", "/metrics", "hotrod"),
    ] {
        let mut fault = None;
        wait_until(TIME, || {
            fault = match page(target) {
                Ok(answer) if answer.status == 200 && answer.text().contains(part) => None,
                Ok(answer) => Some(format!("{target}: {} without {part:?}: {:.200}", answer.status, answer.text())),
                Err(error) => Some(format!("{target}: {error:#}")),
            };
            fault.is_none().then_some(())
        });
        all.push(Check { name, fault });
    }
    Ok(all)
}
