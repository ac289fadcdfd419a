//! Puts the eBPF object into the kernel: sets its constants and sizes, loads and attaches each program on its own, and
//! names the reason where one cannot be. Reading what they write belongs to `slots` and `watch`.
//!
//! Nothing is pinned, so the kernel drops programs and maps with the process, also after `kill -9`.

use std::fs;
use std::io;
use std::time::Duration;

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf as AyaBtf, BtfError, Ebpf, EbpfError, EbpfLoader, Endianness};

use super::btf;
use super::plan::{MEMBERS, Probe, ROWS, Reason, Row};
use super::rights::{self, Rights};

/// Where the kernel shows its own types.
pub(super) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// The object that `cargo xtask ebpf` built; empty where it was not built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WAYSPAN_PROBES_OBJECT"));

/// Whether this binary holds the programs.
pub(super) fn is_built() -> bool {
    !OBJECT.is_empty()
}

/// Loads what can be loaded. The programs live as long as the `Ebpf`; there is none where a needed one is off.
pub(super) fn load(slots: u32, rest: Duration) -> (Vec<Probe>, Option<Ebpf>) {
    match create(slots, rest) {
        Err(reason) => (all_off(&reason), None),
        Ok((mut ebpf, btf, no_members)) => {
            let start = |row: &Row| match &no_members {
                Some(reason) if !row.is_needed => Err(reason.clone()),
                _ => attach(&mut ebpf, row, &btf),
            };
            let mut probes: Vec<Probe> = ROWS.iter().map(start).zip(ROWS).map(state).collect();
            let Some(cause) = probes.iter().find(|probe| probe.row.is_needed && probe.off.is_some()) else {
                return (probes, Some(ebpf));
            };
            let needs = Reason::Needs(cause.row.tracepoint.to_owned());
            for probe in &mut probes {
                probe.off.get_or_insert_with(|| needs.clone());
            }
            (probes, None)
        }
    }
}

/// The same reason for every probe.
pub(super) fn all_off(reason: &Reason) -> Vec<Probe> {
    ROWS.map(|row| Probe { row, off: Some(reason.clone()) }).into()
}

fn state((result, row): (Result<(), Reason>, Row)) -> Probe {
    Probe { row, off: result.err() }
}

/// Creates the maps. The third is why the programs that read a socket's members cannot run, where that is so.
fn create(slots: u32, rest: Duration) -> Result<(Ebpf, AyaBtf, Option<Reason>), Reason> {
    if !is_built() {
        return Err(Reason::NotBuilt);
    }
    let missing = Rights::read().missing();
    if !missing.is_empty() {
        return Err(Reason::MissingRights(missing.join(", ")));
    }
    let (offsets, tracepoints) = kernel_types()?;
    let (offsets, no_members) = match offsets {
        Ok(offsets) => (offsets, None),
        Err(error) => ([0; MEMBERS.len()], Some(no_member(&error))),
    };

    let rest_ns = u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX);
    // The loader reads the kernel's types for relocations, of which we have none: 15 MB less at the peak.
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global(abi::global::REST_NS, &rest_ns, true);
    for ((global, _), offset) in MEMBERS.iter().zip(&offsets) {
        loader.override_global(global, offset, true);
    }
    loader.map_max_entries(abi::map::SLOTS, slots).map_max_entries(abi::map::FREE, slots);
    let ebpf = loader.load(OBJECT).map_err(|error| refusal(&error))?;
    Ok((ebpf, tracepoints, no_members))
}

/// What is wanted of the running kernel's types: the members' offsets, and the tracepoints as aya takes them.
type KernelTypes = (Result<[u64; MEMBERS.len()], btf::Error>, AyaBtf);

/// Reads the kernel's types once. The blob is gone when this returns, and aya has no more of it than it needs.
fn kernel_types() -> Result<KernelTypes, Reason> {
    let blob = fs::read(BTF_PATH).map_err(|_| Reason::NoBtf(BTF_PATH.to_owned()))?;
    let btf = btf::Btf::parse(&blob).map_err(|error| no_member(&error))?;
    let offsets = || {
        let mut offsets = [0; MEMBERS.len()];
        for ((_, member), offset) in MEMBERS.iter().zip(&mut offsets) {
            *offset = btf.u64_offset("tcp_sock", member)?;
        }
        Ok(offsets)
    };
    // The name that aya looks for.
    let names = ROWS.map(|row| format!("btf_trace_{}", row.tracepoint));
    let tracepoints = AyaBtf::parse(&btf.only_typedefs(&names), Endianness::default());
    Ok((offsets(), tracepoints.map_err(|error| Reason::Refused(chain(&error)))?))
}

fn no_member(error: &btf::Error) -> Reason {
    Reason::NoMember(error.to_string())
}

fn attach(ebpf: &mut Ebpf, row: &Row, btf: &AyaBtf) -> Result<(), Reason> {
    let Some(program) = ebpf.program_mut(row.tracepoint) else {
        return Err(Reason::Refused(format!("the object has no program {}", row.tracepoint)));
    };
    let attach = |program: &mut BtfTracePoint| {
        program.load(row.tracepoint, btf)?;
        program.attach().map(drop)
    };
    program.try_into().and_then(attach).map_err(|error| match error {
        ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }) => Reason::NoTracepoint(row.tracepoint.to_owned()),
        error => {
            // The verifier's words are many lines, and wanted whole by whoever mends the program.
            tracing::warn!(target: "wayspan::probes", probe = row.tracepoint, error = %chain(&error), "probe refused");
            Reason::Refused(verdict(&error))
        }
    })
}

/// Why the maps could not be created.
fn refusal(error: &EbpfError) -> Reason {
    let denied = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
    let release = rights::kernel_release();
    if denied && rights::is_before(&release, (5, 11)) {
        return Reason::LockedMemory(release);
    }
    Reason::Refused(chain(error))
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// An error with its causes.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error and the verifier's last words before its statistics, which say what it refused.
fn verdict(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let is_statistics =
        |line: &&str| ["verification time", "stack depth", "processed"].iter().any(|word| line.starts_with(word));
    let last = log.lines().rev().find(|line| !line.trim().is_empty() && !is_statistics(line));
    format!("{io_error}: {}", last.unwrap_or("the verifier said nothing"))
}
