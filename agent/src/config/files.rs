//! Which files make up the configuration, and reading them whole: the file of `--config` and those of `providers.file`.
//! A file that cannot be read or parsed is stood in for by its last good text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dynamic::{self, Around, Parts, Place, Source, Transport};
use super::fault::{Broken, Fault, Faults, Item, Section};
use super::model::{Config, Dynamic, FileProvider, Static};
use super::walk::{self, Role};
use super::yaml::{self, FILE_BYTES_MAX, Node, Value};
use super::{fixed, schema};

/// Files of a directory at most.
const FILES_MAX: usize = 1000;
/// Sub-directories below the directory.
const DEPTH_MAX: usize = 8;

/// The last good text of each file.
pub(super) type Texts = BTreeMap<PathBuf, Arc<str>>;

/// What one reading of all files gave: the good parts, the faulty ones by name, and all faults.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The static part of the main file.
    pub fixed: Static,
    /// The parts without a fault.
    pub dynamic: Dynamic,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
    /// What stands in a file and cannot be used.
    pub(super) broken: Broken,
    /// Where each part stands.
    pub(super) places: HashMap<Item, Place>,
    pub(super) texts: Texts,
    pub(super) default_transport: Option<Transport>,
    /// Files that parts name: certificates and keys.
    pub(super) watched: BTreeSet<PathBuf>,
    /// Where the main file's keys of the top level stand.
    pub(super) top_lines: HashMap<String, u32>,
}

/// Reads everything; all faults at once.
///
/// # Errors
/// Every fault found, in the order of files and lines.
pub fn check(path: &Path) -> Result<Config, Vec<Fault>> {
    let parsed = read(path, None);
    if parsed.faults.is_empty() {
        Ok(Config { fixed: parsed.fixed, dynamic: parsed.dynamic })
    } else {
        Err(parsed.faults)
    }
}

/// What held before a reload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'b> {
    pub fixed: &'b Static,
    pub texts: &'b Texts,
    pub dynamic: &'b Dynamic,
    pub default_transport: Option<Transport>,
}

/// Reads all files. In a reload the further files are those of the static part that holds.
pub(super) fn read(main: &Path, before: Option<Before<'_>>) -> Parsed {
    let mut load =
        Load { before, faults: Faults::default(), texts: Texts::new(), sources: Vec::new(), incomplete: false };
    load.add(main, Role::Main);
    let fixed = match load.sources.first() {
        Some(source) => fixed::read(main, &source.root, &mut load.faults),
        None => Static::default(),
    };
    let holding = before.map_or(&fixed, |before| before.fixed);
    if let Some(provider) = &holding.file_provider {
        for file in load.further(main, provider) {
            load.add(&file, Role::Further);
        }
    }
    let Load { mut faults, texts, sources, incomplete, .. } = load;
    let default_transport = before.and_then(|before| before.default_transport);
    let around = Around { fixed: holding, incomplete, default_transport, before: before.map(|before| before.dynamic) };
    let Parts { dynamic, places, default_transport, watched } = dynamic::read(&sources, around, &mut faults);
    let mut top_lines = HashMap::new();
    if let Some(source) = sources.first().filter(|source| source.file == main) {
        entry_points_exist(source, &fixed, &places, &mut faults);
        top_lines.extend(source.root.entries().iter().map(|(word, _)| (word.text.clone(), word.line)));
    }
    let (faults, broken) = faults.finish(main);
    Parsed { fixed, dynamic, faults, broken, places, texts, default_transport, watched, top_lines }
}

/// What needs an entry point has one.
fn entry_points_exist(main: &Source, fixed: &Static, places: &HashMap<Item, Place>, faults: &mut Faults) {
    let told = faults.broken.has(&main.file, Section::EntryPoint);
    let mut fault = |path: &str, line: u32, message: String| {
        faults.push(Fault::at(&main.file, path, line, message));
    };
    let names = || places.keys().filter(|item| item.section == Section::EntryPoint).map(|item| item.name.as_str());
    if names().next().is_none() && !told {
        fault("entryPoints", 0, "there is none; write e.g. `entryPoints: {web: {address: \":8000\"}}`".to_owned());
    }
    let Some(wanted) = fixed.ping.as_ref().and_then(|ping| ping.entry_point.as_deref()) else { return };
    if names().all(|name| name != wanted) && !told {
        let line = main.root.at("ping.entryPoint").map_or(0, |node| node.line);
        let near = schema::nearest(wanted, names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        fault("ping.entryPoint", line, format!("there is no entry point `{wanted}`{near}"));
    }
}

struct Load<'b> {
    before: Option<Before<'b>>,
    faults: Faults,
    texts: Texts,
    sources: Vec<Source>,
    incomplete: bool,
}

impl Load<'_> {
    /// Reads one file, or takes its last good text.
    fn add(&mut self, file: &Path, role: Role) {
        let read = text(file).map_err(|message| (0, message)).and_then(|text| match yaml::parse(&text) {
            Ok(root) if matches!(root.value, Value::Map(_)) => Ok((text, root)),
            Ok(root) => {
                let message = format!("the file must be a section of keys, not {}", root.what());
                Err((root.line, message))
            }
            Err(error) => Err((error.line, error.message)),
        });
        match read {
            Ok((text, mut root)) => {
                walk::check(file, role, &mut root, &mut self.faults);
                self.keep(file, text, root);
            }
            Err((line, message)) => self.stand_in(file, role, Fault::file(file, line, message)),
        }
    }

    /// Takes the last good text of a file that cannot be read. Without one it may mean any section.
    fn stand_in(&mut self, file: &Path, role: Role, mut fault: Fault) {
        let last = self.before.and_then(|before| before.texts.get(file)).cloned();
        let last = last.and_then(|text| Some((Arc::clone(&text), yaml::parse(&text).ok()?)));
        let Some((text, mut root)) = last else {
            self.incomplete = true;
            return self.faults.push(fault.of_sections(Section::NAMED.to_vec()));
        };
        fault.message.push_str("; until it is mended, its last good text stays");
        self.faults.push(fault);
        // Faults of the old text were told when it was new.
        let mut old = Faults::default();
        walk::check(file, role, &mut root, &mut old);
        let (_, Broken { items, sections, .. }) = old.finish(file);
        self.faults.broken.items.extend(items);
        self.faults.broken.sections.extend(sections);
        self.keep(file, text, root);
    }

    fn keep(&mut self, file: &Path, text: Arc<str>, root: Node) {
        self.texts.insert(file.to_owned(), text);
        self.sources.push(Source { file: file.to_owned(), root });
    }

    /// The further files; those of last time where the directory cannot be listed.
    fn further(&mut self, main: &Path, provider: &FileProvider) -> Vec<PathBuf> {
        if !provider.path.is_dir() && !self.was_directory(&provider.path) {
            return vec![provider.path.clone()];
        }
        let mut files = Vec::new();
        match list(&provider.path, DEPTH_MAX, &mut files) {
            Ok(()) => files.sort(),
            Err(error) => {
                let stays = if self.before.is_some() { "; until it can, the files of before stay" } else { "" };
                let message = format!("the directory cannot be listed: {error}{stays}");
                self.faults.push(Fault::file(&provider.path, 0, message));
                let texts = self.before.map(|before| before.texts.keys());
                let below = texts.into_iter().flatten().filter(|file| file.starts_with(&provider.path));
                files = below.cloned().collect();
                self.incomplete |= self.before.is_none();
            }
        }
        if files.len() > FILES_MAX {
            let message = format!("the directory holds more than {FILES_MAX} files; only the first are read");
            self.faults.push(Fault::file(&provider.path, 0, message));
            files.truncate(FILES_MAX);
        }
        files.retain(|file| file != main && same_file(file, main) != Some(true));
        files
    }

    fn was_directory(&self, path: &Path) -> bool {
        let mut texts = self.before.into_iter().flat_map(|before| before.texts.keys());
        texts.any(|file| file != path && file.starts_with(path))
    }
}

fn same_file(a: &Path, b: &Path) -> Option<bool> {
    Some(fs::canonicalize(a).ok()? == fs::canonicalize(b).ok()?)
}

/// The YAML files below a directory. Names that begin with a dot are none: a mounted ConfigMap keeps its versions in
/// such directories and links to the current one.
fn list(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if files.len() > FILES_MAX {
            break;
        }
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                list(&path, depth - 1, files)?;
            }
        } else if is_yaml(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file of a directory is read.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

/// A file's text, within its cap.
fn text(file: &Path) -> Result<Arc<str>, String> {
    let opened = fs::File::open(file).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    let cap = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    opened.take(cap).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("the file is longer than {FILE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    Ok(text.into())
}
