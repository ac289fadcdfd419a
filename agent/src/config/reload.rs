//! What a reload takes: all that is good, and the last good version of what is not. A route that served before is
//! served until its file says otherwise without a fault. Each decision to keep something is told with the fault that led
//! to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dynamic::{Place, Transport};
use super::fault::{Fault, Item, Section};
use super::files::{self, Before, Parsed, Texts};
use super::model::{Certificate, Config, Dynamic, MiddlewareKind, Router, Static, TlsOptions};

/// The configuration that holds, and how to renew it. It has one owner, who also owns what is built from it.
#[derive(Debug)]
pub struct Reloader {
    main: PathBuf,
    config: Config,
    texts: Texts,
    watched: BTreeSet<PathBuf>,
    places: HashMap<Item, Place>,
    default_transport: Option<Transport>,
}

/// What a reload did.
#[derive(Debug, Default)]
pub struct Reload {
    /// Some file is another than before: [`Reloader::config`] may have changed.
    pub changed: bool,
    /// What is wrong with the files as they are now, and static keys that wait for a restart.
    pub faults: Vec<Fault>,
}

impl Reloader {
    /// Reads the configuration for the first time; it must be without fault.
    ///
    /// # Errors
    /// All faults, as [`files::check`].
    pub fn load(main: &Path) -> Result<Self, Vec<Fault>> {
        let Parsed { fixed, dynamic, faults, texts, places, default_transport, watched, .. } = files::read(main, None);
        if !faults.is_empty() {
            return Err(faults);
        }
        let (main, config) = (main.to_owned(), Config { fixed, dynamic });
        Ok(Self { main, config, texts, watched, places, default_transport })
    }

    /// What holds.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file of `--config`.
    #[must_use]
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// Reads all files again and takes what is good.
    pub fn reload_now(&mut self) -> Reload {
        let default_transport = self.default_transport;
        let Config { fixed, dynamic } = &self.config;
        let before = Before { fixed, texts: &self.texts, dynamic, default_transport };
        let mut parsed = files::read(&self.main, Some(before));
        let changed = parsed.texts != self.texts;
        parsed.faults.extend(restarts(&self.main, &self.config.fixed, &parsed));
        self.default_transport = parsed.default_transport;
        self.texts.clone_from(&parsed.texts);
        self.watched = std::mem::take(&mut parsed.watched);
        let Merged { dynamic, places, faults } = merge(&self.config.dynamic, &self.places, parsed);
        let changed = changed || material(&dynamic) != material(&self.config.dynamic);
        (self.config.dynamic, self.places) = (dynamic, places);
        Reload { changed, faults }
    }

    /// Files beside those of the configuration that it is made from: certificates and keys.
    #[must_use]
    pub fn watched(&self) -> &BTreeSet<PathBuf> {
        &self.watched
    }

    /// A fault of an entry point that its file does not show: its address cannot be opened.
    #[must_use]
    pub fn address_fault(&self, entry_point: &str, message: String) -> Fault {
        let item = Item::new(Section::EntryPoint, entry_point);
        let place = self.places.get(&item);
        let (file, line) = place.map_or((self.main.as_path(), 0), |place| (place.file.as_path(), place.line));
        Fault::at(file, format!("{}.address", item.path()), line, message).of(item)
    }
}

/// What changes without the configuration's text.
fn material(dynamic: &Dynamic) -> (&[Certificate], Option<&Certificate>, &[TlsOptions]) {
    (&dynamic.certificates, dynamic.default_certificate.as_ref(), &dynamic.tls_options)
}

/// One fault for each static section that is another than the one that holds.
fn restarts(main: &Path, holding: &Static, new: &Parsed) -> Vec<Fault> {
    let Static {
        tracing,
        api,
        ping,
        metrics,
        log,
        probes,
        attribution,
        workers,
        hand_over,
        file_provider,
        kubernetes,
        metadata,
        status,
    } = &new.fixed;
    // A faulty section has its own faults, and defaults in place of what is wrong.
    let told = |section| {
        new.broken.meant.contains(section)
            || new.faults.iter().any(|fault| fault.path.split('.').next() == Some(section))
    };
    [
        ("tracing", *tracing == holding.tracing),
        ("api", *api == holding.api),
        ("ping", *ping == holding.ping),
        ("metrics", *metrics == holding.metrics),
        ("log", *log == holding.log),
        ("probes", *probes == holding.probes),
        ("attribution", *attribution == holding.attribution),
        ("workers", *workers == holding.workers),
        ("handOver", *hand_over == holding.hand_over),
        ("providers", *file_provider == holding.file_provider && *kubernetes == holding.kubernetes),
        ("kubernetes", *metadata == holding.metadata && *status == holding.status),
    ]
    .into_iter()
    .filter(|(section, same)| !same && !told(section))
    .map(|(section, _)| {
        let line = new.top_lines.get(section).copied().unwrap_or(0);
        let message = "changed; it needs a restart to take effect, what held before holds until then".to_owned();
        Fault::at(main, section, line, message)
    })
    .collect()
}

/// What holds after a reload.
struct Merged {
    dynamic: Dynamic,
    places: HashMap<Item, Place>,
    faults: Vec<Fault>,
}

/// Takes the good parts of `new`. A faulty part keeps its version of `previous`, or is left out where it has none; what
/// such a part refers to is kept with it. Of a section that cannot be read, all parts are kept that nothing declares.
fn merge(previous: &Dynamic, stood: &HashMap<Item, Place>, new: Parsed) -> Merged {
    let Parsed { dynamic: mut next, broken, mut faults, mut places, texts, .. } = new;
    // A part may have been on its way from a file that is gone to one that cannot be read.
    let may_mean = |file: &Path, place: &Place| file == place.file || !texts.contains_key(&place.file);
    let doubted = stood.iter().filter(|(item, place)| {
        let of = |(file, section): &(PathBuf, Section)| *section == item.section && may_mean(file, place);
        !places.contains_key(item) && broken.sections.iter().any(of)
    });
    let doubted: HashMap<Item, Place> = doubted.map(|(item, place)| (item.clone(), place.clone())).collect();
    let stays = |section, name: &str| {
        let item = Item::new(section, name);
        broken.items.contains(&item) || doubted.contains_key(&item)
    };
    keep_entry_points(previous, &mut next, &mut faults, stays);
    let kept = previous.services.iter().filter(|old| stays(Section::Service, &old.name));
    next.services.extend(kept.cloned());
    let kept = previous.middlewares.iter().filter(|old| stays(Section::Middleware, &old.name));
    next.middlewares.extend(kept.cloned());
    let kept = previous.tls_options.iter().filter(|old| stays(Section::TlsOptions, &old.name));
    next.tls_options.extend(kept.cloned());
    let kept = previous.routers.iter().filter(|old| stays(Section::Router, &old.name));
    next.routers.extend(kept.cloned());
    choose_routers(previous, &mut next, &mut faults, &places);

    let holds = names(&next);
    tell(&mut faults, &broken.items, &holds, |fault, section| {
        let of = |(item, place): &(&Item, &Place)| item.section == section && may_mean(&fault.file, place);
        // Transports hold in the services that took them.
        let here = |item: &Item| section == Section::Transport || holds.contains(item);
        doubted.iter().filter(of).filter(|(item, _)| here(item)).count()
    });
    for item in holds.into_iter().chain(doubted.into_keys()) {
        if let (false, Some(place)) = (places.contains_key(&item), stood.get(&item)) {
            // Its line is one of a text that is gone.
            places.insert(item, Place { line: 0, ..place.clone() });
        }
    }
    Merged { dynamic: next, places, faults }
}

/// Leaves routers that have all that they refer to, with what they need of before.
fn choose_routers(previous: &Dynamic, next: &mut Dynamic, faults: &mut Vec<Fault>, places: &HashMap<Item, Place>) {
    let mut parts = Parts::of(next);
    let mut chains = Chains::of(previous);
    // The newer of a name counts.
    chains.0.extend(Chains::of(next).0);
    for router in std::mem::take(&mut next.routers) {
        let last_good = || previous.routers.iter().find(|old| old.name == router.name);
        let whole = |router: &&Arc<Router>| parts.missing(router, &chains).iter().all(|item| find(previous, item));
        let (chosen, instead) = match Some(&router).filter(whole) {
            Some(new) => (Some(new), None),
            None => {
                let missing = parts.missing(&router, &chains);
                (last_good().filter(whole), missing.into_iter().find(|item| !find(previous, item)))
            }
        };
        if let Some(lacking) = instead {
            faults.push(not_taken(&router, &lacking, chosen.is_some(), places));
        }
        let Some(router) = chosen else { continue };
        for item in parts.missing(router, &chains) {
            take(previous, &item, next);
            parts.0.insert(item);
        }
        next.routers.push(Arc::clone(router));
    }
}

/// Entry points that stay; one whose address has a new owner cannot.
fn keep_entry_points(
    previous: &Dynamic,
    next: &mut Dynamic,
    faults: &mut [Fault],
    stays: impl Fn(Section, &str) -> bool,
) {
    let declared = next.entry_points.len();
    for old in previous.entry_points.iter().filter(|old| stays(Section::EntryPoint, &old.name)) {
        // Port 0 is another port each time.
        let fixed = || old.addresses.iter().filter(|address| address.port() != 0);
        let declared = next.entry_points.iter().take(declared);
        let owner = declared.clone().find(|new| fixed().any(|address| new.addresses.contains(address)));
        let Some(owner) = owner else {
            next.entry_points.push(old.clone());
            continue;
        };
        let item = Item::new(Section::EntryPoint, &old.name);
        let its_own = faults.iter().position(|fault| fault.item.as_ref() == Some(&item));
        let sections = || faults.iter().position(|fault| fault.sections.contains(&Section::EntryPoint));
        if let Some(fault) = its_own.or_else(sections).and_then(|index| faults.get_mut(index)) {
            let (old, owner) = (&old.name, &owner.name);
            fault.message.push_str(&format!("; `{old}` is left out: `{owner}` has its last good address"));
        }
    }
    if next.entry_points.is_empty() {
        // An ingress without a listener is never what an edit meant; the fault was reported.
        next.entry_points.clone_from(&previous.entry_points);
        if let Some(fault) = faults.iter_mut().find(|fault| fault.path == Section::EntryPoint.path()) {
            fault.message.push_str("; until then those of before stay");
        }
    }
}

/// Adds to faults what was kept because of them; `kept` counts a section's parts.
fn tell(faults: &mut [Fault], broken: &HashSet<Item>, holds: &HashSet<Item>, kept: impl Fn(&Fault, Section) -> usize) {
    let mut told = HashSet::new();
    for fault in faults {
        let parts = fault.sections.iter().filter_map(|section| match (section, kept(fault, *section)) {
            // The section alone is meant, not any that is missing.
            // Told with each of them.
            (Section::Certificates, _) => None,
            (Section::DefaultTransport, _) => (fault.sections.len() == 1).then(|| "its values".to_owned()),
            (_, 0) => None,
            (_, 1) => Some(format!("1 {}", section.noun())),
            (_, count) => Some(format!("{count} {}s", section.noun())),
        });
        let parts: Vec<String> = parts.collect();
        if !parts.is_empty() {
            fault.message.push_str(&format!("; until it is mended, what was there stays: {}", parts.join(", ")));
        }
        if let Some(item) = fault.item.as_ref().filter(|item| broken.contains(item) && holds.contains(item))
            && told.insert(item.clone())
        {
            fault.message.push_str("; until it is mended, its last good version stays");
        }
    }
}

/// Everything that a state has, by name.
fn names(dynamic: &Dynamic) -> HashSet<Item> {
    let entry_points = dynamic.entry_points.iter().map(|one| Item::new(Section::EntryPoint, &one.name));
    let routers = dynamic.routers.iter().map(|one| Item::new(Section::Router, &one.name));
    entry_points.chain(routers).chain(Parts::of(dynamic).0).collect()
}

fn not_taken(router: &Router, lacking: &Item, has_last_good: bool, places: &HashMap<Item, Place>) -> Fault {
    let item = Item::new(Section::Router, &router.name);
    let (noun, name) = (lacking.section.noun(), &lacking.name);
    let (file, line) = places.get(&item).map_or((Path::new(""), 0), |place| (place.file.as_path(), place.line));
    let then = if has_last_good { "until it has one, the router's stays" } else { "the router is left out" };
    let message = format!("its {noun} `{name}` is faulty and has no last good version; {then}");
    Fault::at(file, item.path(), line, message).of(item)
}

/// What routers refer to and the next state has.
struct Parts(HashSet<Item>);

impl Parts {
    fn of(dynamic: &Dynamic) -> Self {
        let services = dynamic.services.iter().map(|service| Item::new(Section::Service, &service.name));
        let middlewares = dynamic.middlewares.iter().map(|one| Item::new(Section::Middleware, &one.name));
        let options = dynamic.tls_options.iter().map(|one| Item::new(Section::TlsOptions, &one.name));
        Self(services.chain(middlewares).chain(options).collect())
    }

    /// What a router refers to and the next state has not.
    fn missing(&self, router: &Router, chains: &Chains) -> Vec<Item> {
        let service = (!router.service.ends_with("@internal")).then(|| Item::new(Section::Service, &router.service));
        let middlewares = chains.within(&router.middlewares);
        let middlewares = middlewares.iter().map(|name| Item::new(Section::Middleware, name));
        let options = router.tls.iter().filter_map(|tls| tls.options.as_ref());
        let options = options.map(|name| Item::new(Section::TlsOptions, name));
        service.into_iter().chain(middlewares).chain(options).filter(|item| !self.0.contains(item)).collect()
    }
}

/// Chains of middlewares, by name, with what they refer to.
struct Chains(HashMap<String, Vec<String>>);

impl Chains {
    fn of(dynamic: &Dynamic) -> Self {
        let chains = dynamic.middlewares.iter().filter_map(|one| match &one.kind {
            MiddlewareKind::Chain(names) => Some((one.name.clone(), names.clone())),
            _ => None,
        });
        Self(chains.collect())
    }

    /// Names with all that chains among them refer to, each once.
    fn within<'n>(&'n self, names: &'n [String]) -> Vec<&'n str> {
        let mut all: Vec<&str> = Vec::new();
        let mut next: Vec<&str> = names.iter().rev().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            if !all.contains(&name) {
                all.push(name);
                next.extend(self.0.get(name).into_iter().flatten().rev().map(String::as_str));
            }
        }
        all
    }
}

fn find(previous: &Dynamic, item: &Item) -> bool {
    match item.section {
        Section::Service => previous.services.iter().any(|old| old.name == item.name),
        Section::TlsOptions => previous.tls_options.iter().any(|old| old.name == item.name),
        _ => previous.middlewares.iter().any(|old| old.name == item.name),
    }
}

fn take(previous: &Dynamic, item: &Item, next: &mut Dynamic) {
    match item.section {
        Section::Service => {
            next.services.extend(previous.services.iter().find(|old| old.name == item.name).cloned());
        }
        Section::TlsOptions => {
            next.tls_options.extend(previous.tls_options.iter().find(|old| old.name == item.name).cloned());
        }
        _ => next.middlewares.extend(previous.middlewares.iter().find(|old| old.name == item.name).cloned()),
    }
}
