//! Notices when the configuration's files change. Directories are watched, not files: editors rename over a file, and a
//! mounted ConfigMap swaps a symbolic link beside it. Directories that are moved or replaced are found again. Reading is
//! [`super::reload`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::files::is_yaml;
use super::model::FileProvider;

/// A change is told when nothing more came for this long: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// But not later than this many such times after its first event.
const SETTLE_TIMES_MAX: usize = 20;

/// Watches the configuration's files until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    main: PathBuf,
    further: Option<PathBuf>,
    /// Certificates, say.
    named: BTreeSet<PathBuf>,
    sender: mpsc::Sender<()>,
    events: mpsc::Receiver<()>,
    dirty: bool,
    // Dropping it ends the watch.
    watch: RecommendedWatcher,
}

/// What is watched, and what an event must touch to count. It follows from what is there at this moment.
#[derive(Debug, Default)]
struct Interest {
    /// Files, by name alone: a link and its file may lie in two directories.
    names: BTreeSet<OsString>,
    /// The directory of files, as it is named and as links resolve it.
    below: BTreeSet<PathBuf>,
    /// Directories that are wanted: what becomes of them, and of those on the way to them, counts.
    directories: BTreeSet<PathBuf>,
    /// Where to watch; true: with all below.
    places: BTreeMap<PathBuf, bool>,
}

impl Watcher {
    /// Watches the main file and what `providers.file` names.
    ///
    /// # Errors
    /// Where the system does not let a directory be watched (a limit).
    pub fn new(main: &Path, provider: Option<&FileProvider>) -> notify::Result<Self> {
        // Events have absolute paths.
        let main = absolute(main);
        let further = provider.map(|provider| absolute(&provider.path));
        // One waiting event says all that many would.
        let (sender, events) = mpsc::channel(1);
        let named = BTreeSet::new();
        let watch = watch(&main, further.as_deref(), &named, &sender)?;
        Ok(Self { main, further, named, sender, events, dirty: false, watch })
    }

    /// These files count, too, from now on.
    pub fn follow(&mut self, files: &BTreeSet<PathBuf>) {
        let files = files.iter().map(|file| absolute(file)).collect();
        if self.named != files {
            self.named = files;
            self.renew();
            // What changed since they were read is noticed by nobody else.
            let _ = self.sender.try_send(());
        }
    }

    /// Waits until files have changed and settled. Cancel-safe: a change that was seen is not forgotten.
    pub async fn changed(&mut self) {
        if !self.dirty {
            self.events.recv().await;
            self.dirty = true;
        }
        for _ in 0..SETTLE_TIMES_MAX {
            if !matches!(timeout(SETTLE, self.events.recv()).await, Ok(Some(()))) {
                break;
            }
        }
        // A watch is one of the directory that was there, not of its name: another may have taken its place. What is
        // written from here on is seen by the new watch, and what was before is read by who waits here.
        self.renew();
        self.dirty = false;
    }

    fn renew(&mut self) {
        match watch(&self.main, self.further.as_deref(), &self.named, &self.sender) {
            Ok(watch) => self.watch = watch,
            Err(error) => warn!(%error, "new directories of the configuration are not watched; SIGHUP reloads it"),
        }
    }
}

/// Watches what is there now.
fn watch(
    main: &Path,
    further: Option<&Path>,
    named: &BTreeSet<PathBuf>,
    sender: &mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let interest = Interest::of(main, further, named);
    let places = interest.places.clone();
    let told = sender.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| interest.touches(&event)) {
            // Full: a reload is due already.
            let _ = told.try_send(());
        }
    })?;
    for (directory, with_all_below) in &places {
        let mode = if *with_all_below { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        match watcher.watch(directory, mode) {
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
            watched => watched?,
        }
    }
    if Interest::of(main, further, named).places != places {
        // It came or went meanwhile: once more.
        let _ = sender.try_send(());
    }
    Ok(watcher)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Interest {
    fn of(main: &Path, further: Option<&Path>, named: &BTreeSet<PathBuf>) -> Self {
        let mut interest = Self::default();
        interest.file(main);
        named.iter().for_each(|file| interest.file(file));
        match further {
            Some(directory) if directory.is_dir() => {
                interest.below.extend(std::fs::canonicalize(directory));
                interest.below.insert(directory.to_owned());
                interest.directory(directory, true);
            }
            // A file, or a directory that is not there.
            Some(file) => interest.file(file),
            None => {}
        }
        interest
    }

    fn file(&mut self, file: &Path) {
        // A link's own directory, and the one that its file lives in.
        let target = std::fs::canonicalize(file).ok();
        for file in std::iter::once(file.to_path_buf()).chain(target) {
            self.names.extend(file.file_name().map(OsString::from));
            if let Some(parent) = file.parent() {
                self.directory(parent, false);
            }
        }
    }

    /// Wants a directory: itself, or what is there of the way to it. A link can be swapped, which its parent sees.
    fn directory(&mut self, directory: &Path, with_all_below: bool) {
        self.directories.insert(directory.to_owned());
        let there = directory.ancestors().find(|ancestor| ancestor.is_dir());
        let parent = directory.parent().filter(|_| directory.is_symlink());
        for place in there.into_iter().chain(parent) {
            *self.places.entry(place.to_owned()).or_default() |= with_all_below && place == directory;
        }
    }

    fn touches(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        event.need_rescan()
            || event.paths.iter().any(|path| {
                let name = path.file_name().unwrap_or_default();
                let swapped = name.as_encoded_bytes().starts_with(b"..");
                let below = self.below.iter().any(|directory| path.starts_with(directory));
                let on_the_way = self.directories.iter().any(|directory| directory.starts_with(path));
                // A sub-directory that comes or goes has no extension.
                let counts = below && (is_yaml(path) || path.extension().is_none());
                swapped || on_the_way || counts || self.names.contains(name)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn check(what: &str, watcher: &mut Watcher, change: impl FnOnce()) {
        change();
        timeout(Duration::from_secs(10), watcher.changed()).await.expect(what);
        // What the change still leaves behind is not the next one's.
        while timeout(SETTLE, watcher.events.recv()).await.is_ok() {}
    }

    #[tokio::test]
    async fn writes_renames_and_directories_of_files_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("wayspan.yaml");
        let more = root.path().join("more");
        fs::write(&main, "a: 1").unwrap();
        fs::create_dir(&more).unwrap();
        let provider = FileProvider { path: more.clone(), watch: true };
        let mut watcher = Watcher::new(&main, Some(&provider)).unwrap();
        check("write", &mut watcher, || fs::write(&main, "a: 2").unwrap()).await;
        check("rename", &mut watcher, || {
            fs::write(root.path().join("new.tmp"), "a: 3").unwrap();
            fs::rename(root.path().join("new.tmp"), &main).unwrap();
        })
        .await;
        check("further file", &mut watcher, || fs::write(more.join("x.yml"), "http: {}").unwrap()).await;
        check("gone", &mut watcher, || fs::remove_file(more.join("x.yml")).unwrap()).await;
    }

    #[tokio::test]
    async fn a_config_maps_swap_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let version = |name: &str, text: &str| {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("c.yaml"), text).unwrap();
        };
        version("..1", "a: 1");
        std::os::unix::fs::symlink("..1", root.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/c.yaml", root.path().join("c.yaml")).unwrap();
        let main = root.path().join("c.yaml");
        let mut watcher = Watcher::new(&main, None).unwrap();
        for round in 2..4 {
            check("swap", &mut watcher, || {
                version(&format!("..{round}"), "a: 2");
                std::os::unix::fs::symlink(format!("..{round}"), root.path().join("..tmp")).unwrap();
                fs::rename(root.path().join("..tmp"), root.path().join("..data")).unwrap();
            })
            .await;
        }
    }

    /// The same place, said from the directory that the test runs in.
    fn relative(path: &Path) -> PathBuf {
        let here = std::env::current_dir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        up.join(path.strip_prefix("/").unwrap())
    }

    #[tokio::test]
    async fn a_directory_named_by_a_relative_path_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("wayspan.yaml");
        let more = root.path().join("more");
        fs::write(&main, "a: 1").unwrap();
        fs::create_dir(&more).unwrap();
        let provider = FileProvider { path: relative(&more), watch: true };
        let mut watcher = Watcher::new(&relative(&main), Some(&provider)).unwrap();
        check("further file", &mut watcher, || fs::write(more.join("x.yml"), "http: {}").unwrap()).await;
        check("main file", &mut watcher, || fs::write(&main, "a: 2").unwrap()).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_moved_replaced_or_made_anew_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let (beside, apart) = (root.path().join("a"), root.path().join("b"));
        fs::create_dir(&beside).unwrap();
        fs::create_dir(&apart).unwrap();
        let main = beside.join("wayspan.yaml");
        fs::write(&main, "a: 1").unwrap();
        // Beside the main file, whose directory is watched for its own sake, and elsewhere.
        for directory in [&beside, &apart] {
            let (more, away) = (directory.join("more"), directory.join("away"));
            fs::create_dir(&more).unwrap();
            let provider = FileProvider { path: more.clone(), watch: true };
            let mut watcher = Watcher::new(&main, Some(&provider)).unwrap();
            check("away", &mut watcher, || fs::rename(&more, &away).unwrap()).await;
            check("back", &mut watcher, || fs::rename(&away, &more).unwrap()).await;
            check("after the move", &mut watcher, || fs::write(more.join("x.yml"), "http: {}").unwrap()).await;
            check("other directory", &mut watcher, || {
                fs::rename(&more, &away).unwrap();
                fs::create_dir(&more).unwrap();
            })
            .await;
            check("in the other", &mut watcher, || fs::write(more.join("y.yml"), "http: {}").unwrap()).await;
            check("gone", &mut watcher, || fs::remove_dir_all(&more).unwrap()).await;
            check("made anew", &mut watcher, || fs::create_dir(&more).unwrap()).await;
            check("in the new", &mut watcher, || fs::write(more.join("z.yml"), "http: {}").unwrap()).await;
        }
    }

    #[tokio::test]
    async fn a_link_to_a_directory_that_is_swapped_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("main").join("wayspan.yaml");
        fs::create_dir(main.parent().unwrap()).unwrap();
        fs::write(&main, "a: 1").unwrap();
        for name in ["v1", "v2"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let current = root.path().join("current");
        std::os::unix::fs::symlink("v1", &current).unwrap();
        let provider = FileProvider { path: current.clone(), watch: true };
        let mut watcher = Watcher::new(&main, Some(&provider)).unwrap();
        check("swap", &mut watcher, || {
            std::os::unix::fs::symlink("v2", root.path().join("next")).unwrap();
            fs::rename(root.path().join("next"), &current).unwrap();
        })
        .await;
        let file = root.path().join("v2").join("x.yml");
        check("in the other", &mut watcher, || fs::write(file, "http: {}").unwrap()).await;
    }

    #[test]
    fn strangers_in_the_directory_are_not_our_business() {
        let interest = Interest {
            names: [OsString::from("c.yaml")].into(),
            below: [PathBuf::from("/w/more")].into(),
            directories: [PathBuf::from("/w"), PathBuf::from("/w/more")].into(),
            places: BTreeMap::new(),
        };
        let touches = |path: &str| interest.touches(&Event::new(EventKind::Any).add_path(path.into()));
        assert!(touches("/w/c.yaml") && touches("/w/..data") && touches("/w/more/a/b.yml") && touches("/w/more/a"));
        assert!(touches("/w") && touches("/w/more"));
        assert!(!touches("/w/other.yaml") && !touches("/w/more/a.swp") && !touches("/w/other"));
    }
}
