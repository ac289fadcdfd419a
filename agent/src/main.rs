//! The `wayspan` command: reads its arguments, hands over to the library.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use wayspan_agent::kube::check as objects;
use wayspan_agent::kube::pods::doctor as cluster;
use wayspan_agent::{app, config, handover, probes};

// Measured in the bench: the proxy's allocations are small and short-lived, and cross no threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An ingress that says, for every request, where its time went.
#[derive(Debug, Parser)]
#[command(name = "wayspan", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration file.
    #[arg(required_unless_present = "from_cluster")]
    file: Option<PathBuf>,
    /// Say what of the cluster's objects would be served differently or not at all. The cluster is KUBECONFIG's, or that of the
    /// pod; what is looked at is what the file's providers name, without a file everything.
    #[arg(long)]
    from_cluster: bool,
    /// Only in this namespace; may be given more than once.
    #[arg(long, value_name = "NAME", requires = "from_cluster")]
    namespace: Vec<String>,
    /// Objects of this class, as if it were ours.
    #[arg(long, value_name = "NAME", requires = "from_cluster")]
    ingress_class: Option<String>,
    /// As JSON.
    #[arg(long, requires = "from_cluster")]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration file, and with --from-cluster the objects of a cluster: prints every fault, exits 1 if there is one.
    Check(Check),
    /// Ask the agent of this pod, which POD_UID names, whether it is up: for two agents that share their ports (handOver.name).
    Healthcheck,
    /// Say what this kernel and these capabilities give: each probe on, or off and why.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Measure what a hit costs here (needs CAP_SYS_ADMIN).
        #[arg(long)]
        cost: bool,
        /// Try every set, also those that are off where the configuration does not name them (backends, ack).
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config } => app::run(&config),
        Command::Check(asked) => check(&asked),
        Command::Healthcheck => healthcheck(),
        Command::Doctor { json, cost, all } => doctor(json, cost, all),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wayspan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(asked: &Check) -> anyhow::Result<ExitCode> {
    let file = match asked.file.as_deref().map(|file| (file, config::check(file))) {
        None => None,
        Some((_, Err(faults))) => {
            let told: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            say(&format!("{told}{}\n", config::counted(&faults)))?;
            return Ok(ExitCode::FAILURE);
        }
        Some((file, Ok(config))) => {
            if !asked.json {
                say(&format!("{}: ok\n", file.display()))?;
            }
            Some(config)
        }
    };
    if asked.from_cluster { check_cluster(asked, file) } else { Ok(ExitCode::SUCCESS) }
}

fn check_cluster(asked: &Check, file: Option<config::model::Config>) -> anyhow::Result<ExitCode> {
    let named = file.as_ref().and_then(|file| file.fixed.kubernetes.clone());
    let mut settings = named.unwrap_or_else(config::kubernetes_defaults);
    let each = [&mut settings.ingress, &mut settings.crd, &mut settings.gateway];
    for provider in each.into_iter().flatten() {
        if !asked.namespace.is_empty() {
            provider.namespaces.clone_from(&asked.namespace);
        }
    }
    let asked_for =
        objects::Asked { settings, file: file.map(|file| file.dynamic), class: asked.ingress_class.clone() };
    let report = runtime()?.block_on(objects::run(&asked_for))?;
    let told = if asked.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() };
    say(&told)?;
    Ok(if report.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::disallowed_methods, reason = "the downward API's variable, read once, here")]
fn healthcheck() -> anyhow::Result<ExitCode> {
    let pod = std::env::var("POD_UID").context("POD_UID is not set: outside of a pod ask /ping at api.address")?;
    let (ready, told) = runtime()?.block_on(handover::ask_health(&pod)).context("the agent of this pod is not up")?;
    say(&format!("{told}\n"))?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn doctor(json: bool, cost: bool, all: bool) -> anyhow::Result<ExitCode> {
    let usual = config::model::Probes::default();
    let report =
        probes::doctor::report(&if all { config::model::Probes { backends: true, ack: true, ..usual } } else { usual });
    let cluster = runtime()?.block_on(cluster::report());
    let costs = cost.then(|| probes::cost::measure().map_err(|error| error.to_string()));
    let prices = costs.as_ref().and_then(|costs| costs.as_deref().ok()).map(probes::cost::prices);
    let mut told = String::new();
    if json {
        let mut all = serde_json::to_value(&report)?;
        if let Some(fields) = all.as_object_mut() {
            fields.insert("kubernetes".to_owned(), serde_json::to_value(&cluster)?);
        }
        if let (Some(costs), Some(fields)) = (&costs, all.as_object_mut()) {
            fields.insert("costs".to_owned(), serde_json::to_value(costs)?);
            fields.insert("prices".to_owned(), serde_json::to_value(&prices)?);
        }
        writeln!(told, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        writeln!(told, "{report}{cluster}")?;
        match &costs {
            Some(Ok(costs)) => costs.iter().try_for_each(|cost| writeln!(told, "{cost}"))?,
            Some(Err(error)) => writeln!(told, "cost: not measured: {error}")?,
            None => {}
        }
        prices.iter().flatten().try_for_each(|price| writeln!(told, "{price}"))?;
    }
    say(&told)?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints. A reader that has seen enough, such as `head`, is no fault.
fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
