//! What a reload takes: all that is good, and the last good version of what is not. A route that served before is
//! served until its file says otherwise without a fault.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Item, Section};
use super::files::{self, Before, Parsed, Texts};
use super::model::{Config, Dynamic, Router, Static};

/// The configuration that holds, and how to renew it. It has one owner, who also owns what is built from it.
#[derive(Debug)]
pub struct Reloader {
    main: PathBuf,
    config: Config,
    texts: Texts,
}

/// What a reload did.
#[derive(Debug, Default)]
pub struct Reload {
    /// Some file's text is another than before: [`Reloader::config`] may have changed.
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
        let Parsed { fixed, dynamic, faults, texts, .. } = files::read(main, None);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { main: main.to_owned(), config: Config { fixed, dynamic }, texts })
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
        let before = Before { fixed: &self.config.fixed, texts: &self.texts };
        let mut parsed = files::read(&self.main, Some(before));
        let changed = parsed.texts != self.texts;
        parsed.faults.extend(restarts(&self.main, &self.config.fixed, &parsed));
        self.texts = std::mem::take(&mut parsed.texts);
        let (dynamic, faults) = merge_reload(&self.config.dynamic, parsed);
        self.config.dynamic = dynamic;
        Reload { changed, faults }
    }
}

/// One fault for each static section that is another than the one that holds.
fn restarts(main: &Path, holding: &Static, new: &Parsed) -> Vec<Fault> {
    let Static { tracing, api, ping, metrics, log, probes, attribution, workers, file_provider } = &new.fixed;
    [
        ("tracing", *tracing == holding.tracing),
        ("api", *api == holding.api),
        ("ping", *ping == holding.ping),
        ("metrics", *metrics == holding.metrics),
        ("log", *log == holding.log),
        ("probes", *probes == holding.probes),
        ("attribution", *attribution == holding.attribution),
        ("workers", *workers == holding.workers),
        ("providers", *file_provider == holding.file_provider),
    ]
    .into_iter()
    // A faulty section has its own faults, and defaults in place of what is wrong.
    .filter(|(section, same)| !same && !new.faults.iter().any(|fault| fault.path.split('.').next() == Some(section)))
    .map(|(section, _)| Fault {
        file: main.to_owned(),
        path: section.to_owned(),
        line: 0,
        message: "changed; it needs a restart to take effect".to_owned(),
        item: None,
    })
    .collect()
}

/// Takes the good parts of `new`. A faulty part keeps its version of `previous`, or is left out where it has none; what
/// such a part refers to is kept with it.
#[must_use]
pub fn merge_reload(previous: &Dynamic, new: Parsed) -> (Dynamic, Vec<Fault>) {
    let Parsed { dynamic: mut next, broken, mut faults, places, .. } = new;
    let is_broken = |section, name: &str| broken.contains(&Item::new(section, name));

    let kept = previous.entry_points.iter().filter(|old| {
        // Port 0 is another port each time.
        let mut fixed = old.addresses.iter().filter(|address| address.port() != 0);
        let free = fixed.all(|address| next.entry_points.iter().all(|new| !new.addresses.contains(address)));
        free && is_broken(Section::EntryPoint, &old.name)
    });
    let kept: Vec<_> = kept.cloned().collect();
    next.entry_points.extend(kept);
    if next.entry_points.is_empty() {
        // An ingress without a listener is never what an edit meant; the fault was reported.
        next.entry_points.clone_from(&previous.entry_points);
    }
    let kept = previous.services.iter().filter(|old| is_broken(Section::Service, &old.name));
    next.services.extend(kept.cloned());
    let kept = previous.middlewares.iter().filter(|old| is_broken(Section::Middleware, &old.name));
    next.middlewares.extend(kept.cloned());

    let good = std::mem::take(&mut next.routers);
    let kept = previous.routers.iter().filter(|old| is_broken(Section::Router, &old.name)).cloned();
    let mut parts = Parts::of(&next);
    for router in good.into_iter().chain(kept) {
        let last_good = || previous.routers.iter().find(|old| old.name == router.name);
        let whole = |router: &&Router| parts.missing(router).iter().all(|item| find(previous, item));
        let chosen = Some(&router).filter(whole).or_else(|| last_good().filter(whole));
        match chosen {
            Some(router) => {
                for item in parts.missing(router) {
                    take(previous, &item, &mut next);
                    parts.0.insert(item);
                }
                next.routers.push(router.clone());
            }
            None => faults.extend(left_out(&router, &parts, &places)),
        }
    }
    (next, faults)
}

fn left_out(router: &Router, parts: &Parts, places: &std::collections::HashMap<Item, PathBuf>) -> Option<Fault> {
    let missing = parts.missing(router).into_iter().next()?;
    let item = Item::new(Section::Router, &router.name);
    let (noun, name) = (missing.section.noun(), &missing.name);
    Some(Fault {
        file: places.get(&item).cloned().unwrap_or_default(),
        path: item.path(),
        line: 0,
        message: format!("left out: its {noun} `{name}` is faulty and has no last good version"),
        item: Some(item),
    })
}

/// Services and middlewares that the next state has.
struct Parts(HashSet<Item>);

impl Parts {
    fn of(dynamic: &Dynamic) -> Self {
        let services = dynamic.services.iter().map(|service| Item::new(Section::Service, &service.name));
        let middlewares = dynamic.middlewares.iter().map(|one| Item::new(Section::Middleware, &one.name));
        Self(services.chain(middlewares).collect())
    }

    /// What a router refers to and the next state has not.
    fn missing(&self, router: &Router) -> Vec<Item> {
        let service = (!router.service.ends_with("@internal")).then(|| Item::new(Section::Service, &router.service));
        let middlewares = router.middlewares.iter().map(|name| Item::new(Section::Middleware, name));
        service.into_iter().chain(middlewares).filter(|item| !self.0.contains(item)).collect()
    }
}

fn find(previous: &Dynamic, item: &Item) -> bool {
    match item.section {
        Section::Service => previous.services.iter().any(|old| old.name == item.name),
        _ => previous.middlewares.iter().any(|old| old.name == item.name),
    }
}

fn take(previous: &Dynamic, item: &Item, next: &mut Dynamic) {
    match item.section {
        Section::Service => {
            next.services.extend(previous.services.iter().find(|old| old.name == item.name).cloned());
        }
        _ => next.middlewares.extend(previous.middlewares.iter().find(|old| old.name == item.name).cloned()),
    }
}
