//! Builds the eBPF object from source and puts it where the agent's build script looks. Installing the toolchain
//! belongs to set-up; what the object does to `agent-ebpf`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// Debian's packages carry the sources of core, which rustup's stable toolchains do without.
const DEBIAN: &str = "Debian's rustc-web, cargo-web and rust-web-src";
const TARGET: &str = "bpfel-unknown-none";
const NAME: &str = "wayspan-probes";
/// BTF describes the maps; v3 (32-bit operations, kernel 5.1) makes shorter programs.
const FLAGS: &str = "-C linker=bpf-linker -C link-arg=--btf -C debuginfo=2 -C target-cpu=v3";

/// Builds the object where a source is newer, and gives its path: `target/ebpf/wayspan-probes` under the root, also
/// where cargo's own target directory is elsewhere.
pub fn build(root: &Path) -> Result<PathBuf> {
    let package = root.join("agent-ebpf");
    let object = root.join("target/ebpf").join(NAME);
    if is_fresh(&object, &sources(&package)?) {
        return Ok(object);
    }
    let toolchain = Toolchain::find().context(
        "building the eBPF programs takes a toolchain with the sources of core: `apt-get install rustc-web cargo-web \
         rust-web-src`, or `rustup toolchain install nightly --component rust-src`",
    )?;
    let linker = bpf_linker().context(
        "bpf-linker is not on PATH: `cargo install bpf-linker --version 0.13.0 --no-default-features --features \
         llvm-22` with LLVM_PREFIX=/usr/lib/llvm-22",
    )?;
    eprintln!("  .. building the eBPF object with {}", toolchain.name());
    let took = stopwatch();
    let output = toolchain.command(&package, &linker).output().context("the toolchain could not be started")?;
    if !output.status.success() {
        bail!("building the eBPF object: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let built = package.join("target").join(TARGET).join("release").join(NAME);
    put(&built, &object)?;
    eprintln!("  ok {} ({:.1} s)", object.display(), took().as_secs_f64());
    Ok(object)
}

/// Who compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    Nightly,
    Debian,
}

impl Toolchain {
    fn find() -> Option<Self> {
        let nightly = ["run", "nightly", "rustc", "--print", "sysroot"];
        if has_core("rustup", &nightly) {
            return Some(Self::Nightly);
        }
        (Path::new("/usr/bin/cargo").is_file() && has_core("/usr/bin/rustc", &["--print", "sysroot"]))
            .then_some(Self::Debian)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => DEBIAN,
        }
    }

    fn command(self, package: &Path, linker: &Path) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]).env_remove("RUSTC");
                command
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                // RUSTC_BOOTSTRAP: build-std is unstable, and this compiler is a stable one.
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.current_dir(package).args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET]);
        command.arg("--target-dir").arg(package.join("target"));
        // What the host's cargo set for us would follow into this build.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command.env("RUSTFLAGS", FLAGS.replace("bpf-linker", &linker.to_string_lossy()));
        command
    }
}

/// Whether the compiler's sysroot has the sources of core.
fn has_core(program: &str, sysroot: &[&str]) -> bool {
    let Ok(output) = Command::new(program).args(sysroot).env_remove("RUSTUP_TOOLCHAIN").output() else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success() && Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir()
}

/// On PATH, or where `cargo install` puts it.
#[expect(clippy::disallowed_methods, reason = "a tool of the developer's machine is looked for where shells do")]
fn bpf_linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let folders = std::env::split_paths(&path).chain(cargo.map(|home| home.join("bin")));
    folders.map(|folder| folder.join("bpf-linker")).find(|file| file.is_file())
}

/// Every file that the object is made of: the packages, and this recipe.
fn sources(package: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = ["Cargo.toml", "Cargo.lock", "abi/Cargo.toml"].map(|name| package.join(name)).into();
    for folder in ["src", "abi/src"].map(|name| package.join(name)) {
        let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        for entry in entries {
            files.push(entry?.path());
        }
        files.push(folder);
    }
    files.push(package.join("../xtask/src/ebpf.rs"));
    Ok(files)
}

fn is_fresh(object: &Path, sources: &[PathBuf]) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let newest: Option<SystemTime> = sources.iter().filter_map(|path| changed(path)).max();
    matches!((changed(object), newest), (Some(object), Some(newest)) if object >= newest)
}

/// Puts the object in place whole: an agent built meanwhile embeds the old or the new one.
fn put(built: &Path, object: &Path) -> Result<()> {
    let folder = object.parent().context("the object's path has a folder")?;
    fs::create_dir_all(folder)?;
    let part = object.with_extension(OsStr::new("part"));
    fs::copy(built, &part).with_context(|| format!("{} was not built", built.display()))?;
    fs::rename(&part, object)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a developer's tool shows what a step took")]
fn stopwatch() -> impl Fn() -> std::time::Duration {
    let start = Instant::now();
    move || start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_older_than_any_source_is_built_again() {
        let folder = std::env::temp_dir().join(format!("wayspan-ebpf-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, at: u64| {
            let path = folder.join(name);
            let file = fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at)).unwrap();
            path
        };
        let object = file("object", 20);
        assert!(is_fresh(&object, &[file("old", 10), file("same", 20)]));
        assert!(!is_fresh(&object, &[file("old", 10), file("new", 21)]));
        assert!(!is_fresh(&folder.join("absent"), &[file("old", 10)]));
        assert!(!is_fresh(&object, &[]));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn every_source_of_the_object_is_watched() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent-ebpf");
        let files = sources(&package).unwrap();
        for name in ["src/data_ready.rs", "abi/src/lib.rs", "Cargo.lock", "../xtask/src/ebpf.rs"] {
            assert!(files.contains(&package.join(name)), "{name} in {files:?}");
        }
        assert!(files.iter().all(|path| path.exists()), "{files:?}");
    }
}
