//! `cargo xtask scale`: what thousands of routes cost, and how soon a change takes effect. A real kube-apiserver with etcd holds
//! the objects; two agents watch it, one of them a namespace with a single route, so that both are measured side by side. The
//! cluster's objects are in [`objects`], who serves them in [`site`], what is measured in [`measure`], the judgement in
//! [`report`].

mod measure;
mod objects;
mod report;
mod site;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::programs;
use crate::page::Part;
use crate::{agent, progress};
use site::Site;

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Routes, half of them Ingress objects and half HTTPRoutes, each with a Service of its own.
    #[arg(long, default_value_t = 5000)]
    routes: usize,
    /// Endpoints, shared out evenly among the Services.
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
    /// Endpoint changes whose time to effect is measured.
    #[arg(long, default_value_t = 500)]
    changes: usize,
    /// Seconds that the API server is away, under load.
    #[arg(long, default_value_t = 30)]
    away: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the table to docs/scale.md.
    #[arg(long)]
    write: bool,
}

/// Where the table stands.
const TABLE: Part = Part { page: "docs/scale.md", begin: "<!-- scale -->", end: "<!-- /scale -->" };

/// Builds the parts, measures, prints the outcome; fails where a bar is missed.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    programs::ensure_node(root)?;
    let binary = agent::named_or(|| agent::build(root))?.display().to_string();
    let definitions = programs::gateway_definitions(root)?;
    let per_service = options.endpoints.div_ceil(options.routes.max(1));
    let mut site = progress::step("starting etcd and kube-apiserver", || Site::start(&definitions))?;
    progress::step(&format!("making {} routes", options.routes), || site.fill(options.routes, per_service))?;
    let began = progress::Stopwatch::start();
    site.start_agents()?;
    let loaded = began.elapsed();
    progress::step("waiting until the agents have nothing left to do", || site.settle())?;
    let memory = site.memory()?;
    let cost = progress::step("CPU per request, by turns", || measure::cost(&mut site))?;
    let endpoints =
        progress::step("endpoint changes, one after the other", || measure::endpoints(&mut site, options.changes))?;
    let routes = progress::step("new routes and their end", || measure::routes(&mut site))?;
    progress::step("waiting until the agents have nothing left to do", || site.settle())?;
    let churn = progress::step("a stream of endpoint changes", || measure::churn(&mut site))?;
    let after = site.memory()?;
    let away = Duration::from_secs(options.away);
    let absence = progress::step("the API server away, under load", || measure::absence(&mut site, away))?;
    let seen = report::Seen { binary, loaded, memory, after, cost, endpoints, routes, churn, absence };
    let report = report::Report::new(options, &seen);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    if options.write {
        let page = root.join(TABLE.page);
        let text = std::fs::read_to_string(&page).context(TABLE.page)?;
        std::fs::write(&page, TABLE.replaced(&text, &report.table())?)?;
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
