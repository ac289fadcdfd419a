//! Debian's kernels in virtual machines: boots each with the probes' tests, the agent and a short accuracy run inside, and
//! prints what every probe came to on it. The CPU is emulated unless KVM is asked for: then only that a delay is found in its
//! place is judged, not by how many microseconds it is off.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::{agent, progress, setup};

/// Lines of kernels that are tried where none is named.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// What `cargo xtask vm` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Kernels, as `6.1` and `6.12`: the newest of Debian's for each.
    #[arg(default_values = KERNELS)]
    kernels: Vec<String>,
    /// Use KVM. Not by default: machines that are virtual themselves may have it and hang in it.
    #[arg(long)]
    kvm: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Booting and testing takes four to five minutes where the CPU is emulated, and three times as long where others want it too.
const PATIENCE: Duration = Duration::from_secs(1500);

/// What one kernel gave.
#[derive(Debug, Serialize)]
struct Outcome {
    /// As asked for.
    kernel: String,
    /// As it calls itself.
    release: String,
    /// Tests of the probes: name, and `ok` or what it said.
    tests: BTreeMap<String, String>,
    /// Each probe: `on`, or why not.
    probes: BTreeMap<String, String>,
    /// Rows of the accuracy run: name, and `ok` or what was wrong.
    rows: BTreeMap<String, String>,
    /// `full` where no probe is lacking by its doctor's word, `partial` where some are. What coverage requests had, the rows say.
    degree: String,
    /// What its console said last, where the machine ended before it was done.
    cut_short: Option<String>,
    /// Nothing failed and nothing is lacking.
    passed: bool,
}

/// Boots each kernel, prints the matrix. Fails where a test failed or a probe is lacking.
pub fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    setup::ensure(root, &[setup::Need::Ebpf, setup::Need::Vm])?;
    let agent = agent::named_or(|| agent::build(root))?;
    let outcomes = boot_all(root, &agent, &options.kernels, options.kvm)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        print_matrix(&outcomes);
    }
    Ok(if outcomes.iter().all(|outcome| outcome.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The gate's step: both kernels with an emulated CPU, which needs nothing of the machine. What it came to, in a line.
pub fn check(root: &Path, agent: &Path) -> Result<String> {
    setup::ensure(root, &[setup::Need::Vm])?;
    let outcomes = boot_all(root, agent, &KERNELS.map(str::to_owned), false)?;
    let lines: Vec<String> = outcomes.iter().map(Outcome::line).collect();
    if outcomes.iter().any(|outcome| !outcome.passed) {
        print_matrix(&outcomes);
        bail!("{}", lines.join("; "));
    }
    Ok(lines.join("; "))
}

fn boot_all(root: &Path, agent: &Path, kernels: &[String], kvm: bool) -> Result<Vec<Outcome>> {
    let tests = build_tests(root)?;
    let images = kernels.iter().map(|kernel| Kernel::fetch(kernel)).collect::<Result<Vec<_>>>()?;
    let begins = images.iter().map(|image| initramfs(image, agent, &tests)).collect::<Result<Vec<_>>>()?;
    let releases: Vec<&str> = images.iter().map(|image| image.release.as_str()).collect();
    let what = format!("Linux {} in virtual machines", releases.join(" and "));
    // Side by side: an emulated one keeps one core busy.
    let consoles = progress::step(&what, || {
        std::thread::scope(|scope| {
            let machines: Vec<_> =
                images.iter().zip(&begins).map(|(image, begin)| scope.spawn(|| boot(image, begin, kvm))).collect();
            let ended = machines.into_iter().map(|machine| machine.join());
            ended
                .map(|console| console.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })
    })?;
    let outcomes = kernels.iter().zip(&releases).zip(&consoles);
    Ok(outcomes.map(|((kernel, release), console)| Outcome::read(kernel, release, console)).collect())
}

/// The probes' tests as one binary.
fn build_tests(root: &Path) -> Result<PathBuf> {
    let mut build = setup::cargo(root);
    build.args(["test", "--locked", "--no-run", "-p", "wayspan-agent", "--test", "probes"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let output = progress::command("building the probes' tests", &build)?;
    let artifact = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_tests = message["target"]["name"] == "probes" && message["reason"] == "compiler-artifact";
        is_tests.then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    output.lines().find_map(artifact).context("cargo named no binary of the probes' tests")
}

/// A kernel of Debian's, out of its package.
struct Kernel {
    release: String,
    vmlinuz: PathBuf,
    modules: PathBuf,
}

/// Modules that the tests inside need, by what they give: delays and losses, pairs of interfaces, relays.
const MODULES: [&str; 3] = ["net/sched/sch_netem.ko", "drivers/net/veth.ko", "drivers/net/tun.ko"];
/// Programs that they call, of iproute2 and util-linux.
const PROGRAMS: [&str; 5] = ["ip", "tc", "unshare", "nsenter", "chrt"];

impl Kernel {
    /// Downloads the package of the newest kernel of that line and unpacks it, once.
    fn fetch(line: &str) -> Result<Self> {
        ensure!(
            line.chars().all(|character| character.is_ascii_digit() || character == '.'),
            "{line:?} names no line of kernels: give one as 6.1"
        );
        // The one of the release has no number in its name.
        let meta = if line == "6.1" { "linux-image-amd64".to_owned() } else { format!("linux-image-{line}-amd64") };
        let mut package = newest(&meta)?;
        if package.is_none() {
            // A machine with all programs may still have no lists.
            setup::update_lists()?;
            package = newest(&meta)?;
        }
        let package = package
            .with_context(|| format!("Debian's package {meta} names no kernel: is {line} in this release's list?"))?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        ensure!(
            is_of(line, &release),
            "{meta} is kernel {release} in this release of Debian, not {line}: name a line that it has"
        );
        let directory = wayspan_tests::target_dir().join("vm").join(&release);
        let kernel = Self {
            vmlinuz: directory.join(format!("root/boot/vmlinuz-{release}")),
            modules: directory.join(format!("root/lib/modules/{release}/kernel")),
            release,
        };
        if !kernel.vmlinuz.is_file() {
            progress::step(&format!("fetching {package}"), || unpack(&package, &directory))?;
        }
        Ok(kernel)
    }
}

/// Whether a kernel is of a line: 6.12.94 is of 6.12, and not of 6.1.
fn is_of(line: &str, release: &str) -> bool {
    release.strip_prefix(line).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// The package that Debian's package without a number stands for, by the lists that are here.
fn newest(meta: &str) -> Result<Option<String>> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", "--important", meta]);
    let output = depends.stderr(Stdio::null()).output().context("apt-cache could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut packages = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(packages.find(|package| package.starts_with("linux-image-")).map(str::to_owned))
}

fn unpack(package: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    // Not as root's sandbox user, who may not write here.
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", package]).current_dir(directory);
    let output = download.output().context("apt-get could not be started")?;
    ensure!(output.status.success(), "{package} cannot be fetched: {}", String::from_utf8_lossy(&output.stderr).trim());
    let archive = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get left no package")?;
    let root = directory.join("root.new");
    let mut extract = Command::new("dpkg-deb");
    extract.arg("-x").arg(&archive).arg(&root);
    ensure!(extract.status()?.success(), "{} cannot be unpacked", archive.display());
    fs::remove_file(&archive)?;
    fs::rename(&root, directory.join("root"))?;
    Ok(())
}

/// What the machine starts with: busybox and a few programs, the agent, the tests, and what they are linked against.
fn initramfs(kernel: &Kernel, agent: &Path, tests: &Path) -> Result<PathBuf> {
    let base = wayspan_tests::target_dir().join("vm");
    let root = base.join(format!("initramfs-{}", kernel.release));
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "lib/modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    for applet in ["sh", "mount", "poweroff", "insmod", "cat", "uname", "sleep", "mkdir", "dmesg"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let this = std::env::current_exe()?;
    for (from, name) in [(agent, "wayspan"), (tests, "probes"), (this.as_path(), "xtask")] {
        install(&root, from, name)?;
    }
    for program in PROGRAMS {
        let from = setup::find_program(program).with_context(|| format!("{program} is not on PATH"))?;
        install(&root, &from, program)?;
    }
    for module in MODULES {
        let to = root.join("lib/modules").join(Path::new(module).file_name().unwrap_or_default());
        let (plain, packed) = (kernel.modules.join(module), kernel.modules.join(format!("{module}.xz")));
        if plain.is_file() {
            copy(&plain, &to)?;
        } else {
            let mut unpack = Command::new("/bin/busybox");
            unpack.arg("xzcat").arg(&packed).stdout(fs::File::create(&to)?);
            ensure!(unpack.status()?.success(), "the package has no module {module}");
        }
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, &base.join(format!("initramfs-{}.cpio", kernel.release)))
}

/// Copies a program and the libraries that it is linked against.
fn install(root: &Path, from: &Path, name: &str) -> Result<()> {
    copy(from, &root.join("bin").join(name))?;
    let output = Command::new("ldd").arg(from).output().context("ldd could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        if !to.exists() {
            fs::create_dir_all(to.parent().unwrap_or(root))?;
            copy(Path::new(library), &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("{} cannot be copied", from.display()))
}

fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format", "newc", "--quiet", "--null"]).current_dir(root);
    let mut cpio = wayspan_tests::tied(&cpio);
    cpio.stdin(Stdio::piped()).stdout(fs::File::create(archive)?);
    let mut child = cpio.spawn().context("cpio could not be started")?;
    let mut names = Vec::new();
    list(root, Path::new("."), &mut names)?;
    child.stdin.take().context("cpio has no input")?.write_all(&names)?;
    ensure!(child.wait()?.success(), "cpio failed");
    Ok(archive.to_owned())
}

fn list(root: &Path, under: &Path, names: &mut Vec<u8>) -> Result<()> {
    for entry in fs::read_dir(root.join(under))? {
        let entry = entry?;
        let name = under.join(entry.file_name());
        names.extend_from_slice(name.as_os_str().as_encoded_bytes());
        names.push(0);
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

/// The machine's first process. What is read from its console stands behind these marks.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t tracefs trace /sys/kernel/tracing
for module in /lib/modules/*.ko; do insmod $module; done
ip link set lo up
echo "@doctor"
wayspan doctor --all --json
echo "@end"
echo "@tests"
RUST_BACKTRACE=0 probes --emulated 2>&1
echo "@exit $?"
echo "@end"
WAYSPAN_BIN=/bin/wayspan xtask accuracy --emulated --json > /tmp/accuracy
status=$?
echo "@accuracy"
cat /tmp/accuracy
echo "@end"
echo "@accuracy-exit $status"
poweroff -f
"#;

/// Both CPUs by turns in one thread: with a thread for each, QEMU before 8.1 can translate code that the other CPU is just patching
/// and keep what is gone (accel/tcg, "Always lock pages before translation"). Linux patches its code whenever a tracepoint is
/// switched, and then ends by `Oops: int3`.
const EMULATED: [&str; 4] = ["-accel", "tcg,thread=single", "-cpu", "max"];

/// Runs the machine until it powers off; what it wrote on its console.
fn boot(kernel: &Kernel, initramfs: &Path, kvm: bool) -> Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35", "-smp", "2", "-m", "1024"]);
    qemu.args(if kvm { ["-accel", "kvm", "-cpu", "host"] } else { EMULATED });
    qemu.args(["-nographic", "-no-reboot", "-nic", "none", "-monitor", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(initramfs);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"]);
    let path = wayspan_tests::target_dir().join("vm").join(format!("console-{}.log", kernel.release));
    let mut qemu = wayspan_tests::tied(&qemu);
    qemu.stdin(Stdio::null()).stdout(fs::File::create(&path)?).stderr(Stdio::inherit());
    let mut child = qemu.spawn().context("qemu could not be started")?;
    let watch = progress::Stopwatch::start();
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        if watch.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("the machine was not done within {} s; its console: {}", PATIENCE.as_secs(), path.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(ended.success(), "qemu: {ended}");
    Ok(String::from_utf8_lossy(&fs::read(&path)?).replace('\r', ""))
}

/// The lines between a mark and the next `@end`, or the console's end where the machine did not come to that.
fn section<'c>(console: &'c str, mark: &str) -> Option<&'c str> {
    let (_, rest) = console.split_once(&format!("@{mark}\n"))?;
    Some(rest.split_once("@end").map_or(rest, |(section, _)| section))
}

/// So many of a console's last lines are shown of a machine that did not come to its end.
const LAST_LINES: usize = 60;

/// What a console says last where its machine ended before it was done: a panic of its kernel, for one.
fn cut_short(console: &str) -> Option<String> {
    let is_done = console.lines().any(|line| line.starts_with("@accuracy-exit"));
    let lines: Vec<&str> = console.lines().collect();
    (!is_done).then(|| lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
}

impl Outcome {
    fn read(kernel: &str, release: &str, console: &str) -> Self {
        let doctor: Value =
            section(console, "doctor").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut lacking = doctor["probes"].as_array().is_none_or(Vec::is_empty);
        let mut probes = BTreeMap::new();
        for probe in doctor["probes"].as_array().into_iter().flatten() {
            lacking |= probe["lacking"] != false;
            // Of one that another replaces, that one's name is enough: it has a row of its own.
            let instead = probe["reason"]["detail"][0].as_str().map(|name| format!("{name} instead"));
            let why = instead.unwrap_or_else(|| probe["why"].as_str().unwrap_or("off").to_owned());
            let state = if probe["on"] == true { "on".to_owned() } else { why };
            probes.insert(probe["tracepoint"].as_str().unwrap_or_default().to_owned(), state);
        }
        let text = section(console, "tests").unwrap_or_default();
        let accuracy: Value =
            section(console, "accuracy").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let is_accurate = console.lines().any(|line| line == "@accuracy-exit 0") && accuracy["passed"] == true;
        let passed = text.lines().any(|line| line == "@exit 0") && is_accurate && !lacking;
        let degree = match doctor["probes"].as_array() {
            None => "no answer",
            Some(_) if lacking => "partial",
            Some(_) => "full",
        };
        Self {
            kernel: kernel.to_owned(),
            release: release.to_owned(),
            tests: tests(text),
            probes,
            rows: rows(&accuracy),
            degree: degree.to_owned(),
            cut_short: cut_short(console),
            passed,
        }
    }

    /// In a line.
    fn line(&self) -> String {
        let end = if self.cut_short.is_some() { ", ended before it was done" } else { "" };
        format!("{}: tests {}, delays {}, {}{end}", self.kernel, good(&self.tests), good(&self.rows), self.degree)
    }
}

/// Rows of an accuracy run, as its JSON has them.
fn rows(accuracy: &Value) -> BTreeMap<String, String> {
    let said = |row: &Value| {
        let name = row["name"].as_str()?.to_owned();
        if row["passed"] == true {
            return Some((name, "ok".to_owned()));
        }
        let examples = row["examples"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let found = format!("{} of {} named right", row["named_right"], row["disturbed"]);
        Some((name, std::iter::once(found.as_str()).chain(examples).collect::<Vec<_>>().join("\n")))
    };
    accuracy["rows"].as_array().into_iter().flatten().filter_map(said).collect()
}

/// `test NAME ... ok`, where the test may have written in between; the last one of a failed run has no `ok`.
fn tests(text: &str) -> BTreeMap<String, String> {
    let runs = text.split("test ").skip(1).filter_map(|run| run.split_once(" ... "));
    runs.map(|(name, said)| {
        let is_ok = said.lines().any(|line| line.trim_end() == "ok");
        (name.to_owned(), if is_ok { "ok".to_owned() } else { said.trim().to_owned() })
    })
    .collect()
}

fn print_matrix(outcomes: &[Outcome]) {
    let mut names: Vec<&String> = outcomes.iter().flat_map(|outcome| outcome.probes.keys()).collect();
    names.sort();
    names.dedup();
    print!("{:<28}", "");
    outcomes.iter().for_each(|outcome| print!("{:<44}", outcome.release));
    println!();
    for name in names {
        print!("{name:<28}");
        for outcome in outcomes {
            print!("{:<44}", outcome.probes.get(name).map_or("no answer", |state| state));
        }
        println!();
    }
    print!("{:<28}", "tests of the probes");
    for outcome in outcomes {
        print!("{:<44}", good(&outcome.tests));
    }
    println!();
    print!("{:<28}", "delays in their place");
    for outcome in outcomes {
        print!("{:<44}", good(&outcome.rows));
    }
    println!();
    print!("{:<28}", "degree");
    outcomes.iter().for_each(|outcome| print!("{:<44}", outcome.degree));
    println!();
    for outcome in outcomes {
        for (name, said) in outcome.tests.iter().chain(&outcome.rows).filter(|(_, said)| *said != "ok") {
            println!("\n{}: {name}\n{said}", outcome.release);
        }
        if let Some(last) = &outcome.cut_short {
            println!("\n{}: the machine ended before it was done; its console's last lines:\n{last}", outcome.release);
        }
    }
}

fn good(said: &BTreeMap<String, String>) -> String {
    format!("{} of {} passed", said.values().filter(|said| *said == "ok").count(), said.len())
}

#[cfg(test)]
mod tests_of_the_console {
    use super::*;

    const CONSOLE: &str = "noise\n@doctor\n{\"probes\":[{\"tracepoint\":\"a\",\"on\":true,\"lacking\":false},\
        {\"tracepoint\":\"b\",\"on\":false,\"lacking\":false,\"why\":\"a does its work\"}]}\n@end\n@tests\n\
        test one ... ok\ntest two ... \n  12 ns\nok\n@exit 0\n@end\n@accuracy\n{\"passed\":true,\"rows\":[\
        {\"name\":\"slow code\",\"passed\":true}]}\n@end\n@accuracy-exit 0\n";

    #[test]
    fn a_kernel_is_of_its_own_line_only() {
        assert!(is_of("6.1", "6.1.0-41-amd64") && is_of("6.12", "6.12.94+deb12-amd64"));
        assert!(!is_of("6.1", "6.12.94+deb12-amd64") && !is_of("6.12", "6.1.0-41-amd64"));
    }

    #[test]
    fn a_console_tells_of_probes_and_tests() {
        let outcome = Outcome::read("6.1", "6.1.0", CONSOLE);
        assert!(outcome.passed, "{outcome:?}");
        assert_eq!(outcome.probes["b"], "a does its work");
        assert_eq!((outcome.tests.len(), outcome.rows["slow code"].as_str()), (2, "ok"));
        assert!(outcome.tests.values().all(|said| said == "ok"));
    }

    #[test]
    fn a_delay_that_was_not_found_is_told() {
        let missed = "\"named_right\":1,\"disturbed\":2,\"examples\":[\"request 3\"],\"passed\":false}]";
        let console = CONSOLE.replace("\"passed\":true}]", missed).replace("{\"passed\":true", "{\"passed\":false");
        let outcome = Outcome::read("6.1", "6.1.0", &console);
        assert!(!outcome.passed);
        assert_eq!(outcome.rows["slow code"], "1 of 2 named right\nrequest 3");
    }

    #[test]
    fn a_failed_test_a_lacking_probe_and_a_silent_machine_do_not_pass() {
        for (from, to) in
            [("@exit 0", "@exit 101"), ("\"lacking\":false", "\"lacking\":true"), ("@doctor", ""), ("@accuracy\n", "")]
        {
            assert!(!Outcome::read("6.1", "6.1.0", &CONSOLE.replacen(from, to, 1)).passed, "{to}");
        }
        let (before, _) = CONSOLE.split_once("test two").unwrap();
        let panic = format!("{before}Kernel panic - not syncing: no more\n");
        let outcome = Outcome::read("6.1", "6.1.0", &panic);
        assert!(!outcome.passed && outcome.line().ends_with("ended before it was done"), "{outcome:?}");
        assert_eq!(outcome.tests["one"].lines().next(), Some("ok"));
        assert!(outcome.cut_short.unwrap().ends_with("Kernel panic - not syncing: no more"));
        let panicked = CONSOLE.replace("12 ns\nok\n@exit 0", "panicked\n@exit 101");
        assert!(Outcome::read("6.1", "6.1.0", &panicked).tests["two"].starts_with("panicked"));
    }
}
