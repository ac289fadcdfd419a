//! Container images without a registry and without an engine: one layer with a program and the libraries that it is linked
//! with, in the archive format that `docker load` and `ctr images import` read. `cargo xtask image` makes the agent's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::programs;
use crate::{agent, peers, progress};

/// The image that holds the namespaces of every pod.
pub const PAUSE: &str = "wayspan-pause:1";

/// The agent's image, as the chart names it where no value says otherwise: a test holds the two together.
const AGENT: &str = concat!("wayspan:", env!("CARGO_PKG_VERSION"));

/// Where the agent stands in its image.
const AGENT_PLACE: &str = "usr/local/bin/wayspan";

/// What TLS to collectors trusts, where the building machine has it.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image to be made.
pub struct Recipe<'a> {
    /// The archive's file name, without its extension.
    pub name: &'a str,
    /// The names under which nodes know it.
    pub tags: &'a [&'a str],
    /// The program.
    pub program: &'a Path,
    /// Where it stands in the image.
    pub place: &'a str,
}

/// The images of a cluster, in the order in which pods need them; those of the lab too where it is wanted.
///
/// # Errors
/// Something could not be built.
pub fn all(root: &Path, agent: &Path, with_lab: bool) -> Result<Vec<PathBuf>> {
    let tools = programs::ensure(root)?;
    let peers = if with_lab { Some(peers::ensure(root)?) } else { None };
    let tool = |name: &str| tools.join(name);
    let (pause, dns, echo) = (tool("pause"), tool("coredns"), tool("echo-basic"));
    let mut recipes = vec![
        Recipe { name: "pause", tags: &[PAUSE], program: &pause, place: "pause" },
        Recipe { name: "coredns", tags: &["wayspan-coredns:1"], program: &dns, place: "coredns" },
        Recipe { name: "wayspan", tags: &[AGENT], program: agent, place: AGENT_PLACE },
        Recipe { name: "echo-basic", tags: &["wayspan-echo:lab"], program: &echo, place: "echo-basic" },
    ];
    if let Some(peers) = &peers {
        let (jaeger, hotrod) = (&["jaegertracing/jaeger:2.13.0"], &["jaegertracing/example-hotrod:1.76.0"]);
        recipes.push(Recipe { name: "jaeger", tags: jaeger, program: &peers.jaeger, place: "jaeger" });
        recipes.push(Recipe { name: "hotrod", tags: hotrod, program: &peers.hotrod, place: "hotrod" });
    }
    progress::step("making the images", || recipes.iter().map(make).collect())
}

/// `cargo xtask image`: the agent's image from source, as a folder and as an archive. Gives both.
///
/// # Errors
/// A build failed.
pub fn agent_image(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let agent = agent::named_or(|| agent::build(root))?;
    let archive = make(&Recipe { name: "wayspan", tags: &[AGENT], program: &agent, place: AGENT_PLACE })?;
    Ok((directory().join("wayspan"), archive))
}

/// What images are of, in words: other words for another image.
///
/// # Errors
/// One was not made here.
pub fn told(images: &[PathBuf]) -> Result<String> {
    images.iter().map(|image| fs::read_to_string(label(image)).with_context(|| image.display().to_string())).collect()
}

/// Where it stands what an archive is made of.
fn label(archive: &Path) -> PathBuf {
    archive.with_extension("of")
}

fn directory() -> PathBuf {
    wayspan_tests::target_dir().join("images")
}

/// Makes the folder and the archive of an image, unless they are of this very program already.
fn make(recipe: &Recipe<'_>) -> Result<PathBuf> {
    let (root, archive) = (directory().join(recipe.name), directory().join(format!("{}.tar", recipe.name)));
    let (label, made_of) = (label(&archive), made_of(recipe)?);
    if archive.is_file() && fs::read_to_string(&label).is_ok_and(|text| text == made_of) {
        return Ok(archive);
    }
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let program = root.join(recipe.place);
    put(recipe.program, &program)?;
    // Debugging information is two thirds of a program; where nothing can strip it, it stays.
    let _stays = Command::new("strip").arg("--strip-debug").arg(&program).output();
    for library in libraries(recipe.program)? {
        put(&library, &root.join(library.strip_prefix("/")?))?;
    }
    if Path::new(ROOTS).is_file() {
        put(Path::new(ROOTS), &root.join(ROOTS.trim_start_matches('/')))?;
    }
    // Programs that ask who they are or where to put a file for a moment find an answer.
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65532:65532:nobody:/:/sbin/nologin\n",
    )?;
    pack(recipe, &root, &archive)?;
    fs::write(label, made_of)?;
    Ok(archive)
}

/// What an archive is made of, in words: the names that nodes know it by, and which program that is, built when.
fn made_of(recipe: &Recipe<'_>) -> Result<String> {
    let program = recipe.program.display();
    let found = recipe.program.metadata().with_context(|| program.to_string())?;
    let built = found.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    Ok(format!("{}\n{program} {} {}", recipe.tags.join(" "), found.len(), built.as_nanos()))
}

fn put(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The libraries that a program is linked with and the loader that it names; none where it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(library_paths(&text))
}

/// The absolute paths that `ldd` names.
fn library_paths(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter(|line| line.contains("(0x")).filter_map(path).collect()
}

/// Writes the archive: one layer, its description, and the list of both.
fn pack(recipe: &Recipe<'_>, root: &Path, archive: &Path) -> Result<()> {
    let parts = tempfile::Builder::new().prefix("parts-").tempdir_in(directory())?;
    let layer = parts.path().join("layer.tar");
    let mut tar = Command::new("tar");
    // The same program gives the same image.
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(root);
    run(tar.arg("-cf").arg(&layer).arg("."))?;
    let digest = run(Command::new("sha256sum").arg(&layer))?;
    let digest = digest.split_whitespace().next().context("sha256sum says nothing")?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": how_it_runs(recipe.place),
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask"}],
    });
    fs::write(parts.path().join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": recipe.tags, "Layers": ["layer.tar"]}]);
    fs::write(parts.path().join("manifest.json"), manifest.to_string())?;
    let whole = parts.path().join("whole.tar");
    run(Command::new("tar").arg("-C").arg(parts.path()).arg("-cf").arg(&whole).args([
        "manifest.json",
        "config.json",
        "layer.tar",
    ]))?;
    fs::rename(&whole, archive)?;
    Ok(())
}

/// How a container of an image is run: deploy/image/Dockerfile says the same.
fn how_it_runs(place: &str) -> Value {
    json!({"Entrypoint": [format!("/{place}")], "Env": ["PATH=/usr/local/bin:/"], "WorkingDir": "/"})
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_image_is_the_one_that_the_chart_asks_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let chart = fs::read_to_string(root.join(crate::chart::CHART).join("Chart.yaml")).unwrap();
        let version = chart.lines().find_map(|line| line.strip_prefix("appVersion: ")).unwrap().trim_matches('"');
        assert_eq!(AGENT, format!("wayspan:{version}"));
        let told = fs::read_to_string(root.join("deploy/image/Dockerfile")).unwrap();
        assert!(told.contains(&format!(" -t {AGENT} ")));
    }

    /// The gate has no engine that could build it.
    #[test]
    fn the_dockerfile_makes_the_image_that_a_cluster_gets() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = fs::read_to_string(root.join("deploy/image/Dockerfile")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let lines: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
        let (build, image) = lines.split_at(lines.iter().rposition(|(word, _)| *word == "FROM").unwrap());
        let toolchain = fs::read_to_string(root.join("rust-toolchain.toml")).unwrap();
        let version =
            toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")).unwrap().trim_end_matches('"');
        let (minor, _) = version.rsplit_once('.').unwrap();
        let from = format!("rust:{minor}-bookworm AS build");
        assert_eq!(build, [("FROM", &*from), ("WORKDIR", "/source"), ("COPY", ". ."), ("RUN", "cargo xtask image")]);
        // What a container is run with. No USER, as there is none in the archive: the chart says who it is.
        let mut said = serde_json::Map::new();
        for (word, value) in image {
            match *word {
                "FROM" => assert_eq!(*value, "scratch"),
                "COPY" => assert_eq!(*value, "--from=build /source/target/images/wayspan/ /"),
                "ENV" => drop(said.insert("Env".to_owned(), json!([value]))),
                "WORKDIR" => drop(said.insert("WorkingDir".to_owned(), json!(value))),
                "ENTRYPOINT" => drop(said.insert("Entrypoint".to_owned(), serde_json::from_str(value).unwrap())),
                other => panic!("{other} {value}: the archive has nothing of it"),
            }
        }
        assert_eq!(Value::Object(said), how_it_runs(AGENT_PLACE));
        let ignored = fs::read_to_string(root.join("deploy/image/Dockerfile.dockerignore")).unwrap();
        assert!(ignored.lines().any(|line| line == "target"), "what was built elsewhere is not taken along");
    }

    #[test]
    fn the_libraries_of_a_program_are_those_that_ldd_finds() {
        let text = "\tlinux-vdso.so.1 (0x00007f2f)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f2e)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2d)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(library_paths(text), expected);
        assert!(library_paths("\tnot a dynamic executable\n").is_empty());
    }
}
