//! Notices when the configuration's files change. Directories are watched, not files: editors rename over a file, and a
//! mounted ConfigMap swaps a symbolic link beside it. Reading is [`super::reload`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::files::is_yaml;
use super::model::FileProvider;

/// A change is told when nothing more came for this long: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// But not later than this many such times after its first event.
const SETTLE_TIMES_MAX: usize = 20;

/// Watches the configuration's files until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<()>,
    dirty: bool,
    // Dropping it ends the watch.
    _watcher: RecommendedWatcher,
}

/// What an event must touch to count.
#[derive(Debug, Default)]
struct Interest {
    names: BTreeSet<OsString>,
    below: Option<PathBuf>,
}

impl Watcher {
    /// Watches the main file and what `providers.file` names.
    ///
    /// # Errors
    /// Where the system does not let a directory be watched (a limit, or no such directory).
    pub fn new(main: &Path, provider: Option<&FileProvider>) -> notify::Result<Self> {
        let mut interest = Interest::default();
        let mut directories = BTreeMap::new();
        let further = provider.map(|provider| provider.path.as_path());
        for file in std::iter::once(main).chain(further.filter(|path| !path.is_dir())) {
            // A link's own directory, and the one that its file lives in.
            let target = std::fs::canonicalize(file).ok();
            for file in std::iter::once(file.to_path_buf()).chain(target) {
                interest.names.extend(file.file_name().map(OsString::from));
                let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new(".")).to_path_buf();
                directories.entry(parent).or_insert(RecursiveMode::NonRecursive);
            }
        }
        if let Some(directory) = further.filter(|path| path.is_dir()) {
            interest.below = Some(directory.to_path_buf());
            directories.insert(directory.to_path_buf(), RecursiveMode::Recursive);
        }
        // One waiting event says all that many would.
        let (sender, events) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| interest.touches(&event)) {
                // Full: a reload is due already.
                let _ = sender.try_send(());
            }
        })?;
        for (directory, mode) in &directories {
            watcher.watch(directory, *mode)?;
        }
        Ok(Self { events, dirty: false, _watcher: watcher })
    }

    /// Waits until files have changed and settled. Cancel-safe: a change that was seen is not forgotten.
    pub async fn changed(&mut self) {
        if !self.dirty {
            if self.events.recv().await.is_none() {
                return std::future::pending().await;
            }
            self.dirty = true;
        }
        for _ in 0..SETTLE_TIMES_MAX {
            if !matches!(timeout(SETTLE, self.events.recv()).await, Ok(Some(()))) {
                break;
            }
        }
        self.dirty = false;
    }
}

impl Interest {
    fn touches(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        event.need_rescan()
            || event.paths.iter().any(|path| {
                let name = path.file_name().unwrap_or_default();
                let swapped = name.as_encoded_bytes().starts_with(b"..");
                let below = self.below.as_ref().is_some_and(|directory| path.starts_with(directory));
                // A sub-directory that comes or goes has no extension.
                swapped || self.names.contains(name) || (below && (is_yaml(path) || path.extension().is_none()))
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

    #[test]
    fn strangers_in_the_directory_are_not_our_business() {
        let interest = Interest { names: [OsString::from("c.yaml")].into(), below: Some("/w/more".into()) };
        let touches = |path: &str| interest.touches(&Event::new(EventKind::Any).add_path(path.into()));
        assert!(touches("/w/c.yaml") && touches("/w/..data") && touches("/w/more/a/b.yml") && touches("/w/more/a"));
        assert!(!touches("/w/other.yaml") && !touches("/w/more/a.swp"));
    }
}
