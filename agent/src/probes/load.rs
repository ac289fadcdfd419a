//! Puts the eBPF object into the kernel: sets its constants and sizes, loads each program on its own, attaches and detaches
//! them by sets, and names the reason where one cannot be. Reading what they write belongs to `slots` and `watch`.
//!
//! Nothing is pinned, so the kernel drops programs and maps with the process, also after `kill -9`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use aya::programs::fentry::FEntryLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FEntry, Program, ProgramError};
use aya::{Btf as AyaBtf, BtfError, Ebpf, EbpfError, EbpfLoader, Endianness};

use super::btf::{self, Shape};
use super::plan::{CORE, GIVES_BACK, Hook, MEMBERS, Member, Probe, ROWS, Reason, Row, Set, WRITES_FIRST};
use super::rights::{self, Rights};
use super::skips::Skips;

/// Where the kernel shows its own types.
pub(super) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// The object that `cargo xtask ebpf` built; empty where it was not built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WAYSPAN_PROBES_OBJECT"));

/// Whether this binary holds the programs.
pub(super) fn is_built() -> bool {
    !OBJECT.is_empty()
}

/// The programs in the kernel. Dropped, they are gone.
pub(super) struct Programs {
    ebpf: Ebpf,
    rows: Vec<State>,
    /// A run was left out.
    makes_up: bool,
}

/// Why a row's program cannot run, or its link while it is attached.
type State = Result<Option<Link>, Reason>;

/// By kind of program, as aya has them.
enum Link {
    Tracepoint(BtfTracePointLinkId),
    Entry(FEntryLinkId),
}

/// A program that is in the kernel.
enum Attachable<'e> {
    Tracepoint(&'e mut BtfTracePoint),
    Entry(&'e mut FEntry),
}

impl<'e> Attachable<'e> {
    fn of(ebpf: &'e mut Ebpf, row: &Row) -> Option<Self> {
        match ebpf.program_mut(row.tracepoint)? {
            Program::BtfTracePoint(program) => Some(Self::Tracepoint(program)),
            Program::FEntry(program) => Some(Self::Entry(program)),
            _ => None,
        }
    }

    fn load(self, row: &Row, btf: &AyaBtf) -> Result<(), ProgramError> {
        match self {
            Self::Tracepoint(program) => program.load(row.hooked(), btf),
            Self::Entry(program) => program.load(row.hooked(), btf),
        }
    }

    fn attach(self) -> Result<Link, ProgramError> {
        match self {
            Self::Tracepoint(program) => program.attach().map(Link::Tracepoint),
            Self::Entry(program) => program.attach().map(Link::Entry),
        }
    }

    fn detach(self, link: Link) -> Result<(), ProgramError> {
        match (self, link) {
            (Self::Tracepoint(program), Link::Tracepoint(link)) => program.detach(link),
            (Self::Entry(program), Link::Entry(link)) => program.detach(link),
            _ => Err(ProgramError::NotAttached),
        }
    }
}

/// Creates the maps and loads every program that this kernel takes; none is attached yet. Those called `absent` are taken for such
/// as it has not got.
pub(super) fn load(slots: u32, rest: Duration, absent: &[&str]) -> Result<Programs, Reason> {
    ordered(std::env::consts::ARCH)?;
    let (mut ebpf, btf, offsets) = create(slots, rest)?;
    let mut rows = Vec::with_capacity(ROWS.len());
    for row in &ROWS {
        let member = row.members.iter().find_map(|global| offsets.lacks(global));
        let loaded = match member {
            Some(reason) => Err(reason),
            None if absent.contains(&row.tracepoint) => Err(Reason::NoTracepoint(hook(row))),
            None if better(row, &rows).is_some() => Ok(None),
            None => verify(&mut ebpf, row, &btf).map(|()| None),
        };
        rows.push(loaded);
    }
    let lacking = ROWS.iter().zip(&rows).find_map(|(row, loaded)| loaded.as_ref().err().filter(|_| row.is_needed));
    match lacking {
        Some(reason) => Err(reason.clone()),
        None => Ok(Programs { ebpf, rows, makes_up: false }),
    }
}

/// Marks are published by the order of stores: see `push` in agent-ebpf's maps.rs.
fn ordered(architecture: &'static str) -> Result<(), Reason> {
    if architecture == "x86_64" { Ok(()) } else { Err(Reason::Architecture(architecture)) }
}

impl Programs {
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub(super) fn ebpf_ref(&self) -> &Ebpf {
        &self.ebpf
    }

    /// Attaches a set's programs, or detaches them. A refusal becomes the row's state.
    ///
    /// What gives slots back is attached before whatever takes them, and stays when the set is switched off: the sockets that
    /// hold slots then end one by one, some of them another process's, and nobody else is told. Where it cannot be attached,
    /// nothing else is.
    pub(super) fn switch(&mut self, set: Set, on: bool) {
        let of_set = || ROWS.iter().enumerate().filter(move |(_, row)| row.set == set);
        if on {
            self.forget_refusals(set);
        }
        for (index, row) in of_set().filter(|(_, row)| row.tracepoint == GIVES_BACK && on) {
            self.turn(index, row, true);
        }
        let on = on && self.is_attached(GIVES_BACK);
        for (index, row) in of_set() {
            // It comes behind the one that it makes up for.
            if row.makes_up_for().is_some_and(|other| !self.runs(other)) {
                self.turn(index, row, false);
            }
        }
        for (index, row) in of_set().filter(|(_, row)| row.tracepoint != GIVES_BACK) {
            let wanted = on && better(row, &self.rows).is_none() && self.is_needed(row);
            self.turn(index, row, wanted);
        }
    }

    /// What was refused when it was to be attached may not be another time.
    fn forget_refusals(&mut self, set: Set) {
        for (row, state) in ROWS.iter().zip(&mut self.rows).filter(|(row, _)| row.set == set) {
            if state.is_err() && is_loaded(&self.ebpf, row) {
                *state = Ok(None);
            }
        }
    }

    /// From now on with the programs that make up for what the kernel leaves out of others' runs, where those others run.
    pub(super) fn make_up(&mut self) {
        self.makes_up = true;
        for set in Set::ALL {
            if self.is_any_attached(|row| row.set == set && row.tracepoint != GIVES_BACK) {
                self.switch(set, true);
            }
        }
    }

    /// A program that makes up for another's runs, only where some were left out, or all are.
    fn is_needed(&self, row: &Row) -> bool {
        let Some(other) = row.makes_up_for() else { return true };
        let runs = |(row, state): (&Row, &State)| row.tracepoint == other && state.is_ok();
        self.makes_up || !ROWS.iter().zip(&self.rows).any(runs)
    }

    fn turn(&mut self, index: usize, row: &Row, wanted: bool) {
        // One that was not loaded has another to do its work, whatever became of that.
        let can_run = is_loaded(&self.ebpf, row);
        let (Some(state), Some(program)) = (self.rows.get_mut(index), Attachable::of(&mut self.ebpf, row)) else {
            return;
        };
        let Ok(link) = state else { return };
        match (link.take(), wanted) {
            (None, true) if can_run => {
                *state = program.attach().map(Some).map_err(|error| Reason::Refused(chain(&error)))
            }
            (Some(attached), false) => {
                if let Err(error) = program.detach(attached) {
                    tracing::warn!(target: "wayspan::probes", probe = row.tracepoint, %error, "not detached");
                }
            }
            (unchanged, _) => *link = unchanged,
        }
    }

    /// Attaches the program that does nothing, by its name in the object.
    pub(super) fn attach_idle(&mut self) -> Result<&'static str, Reason> {
        const NAME: &str = "idle";
        let (_, btf) = kernel_types()?;
        let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(NAME) else {
            return Err(Reason::NoTracepoint(NAME.to_owned()));
        };
        let attached = program.load("tcp_probe", &btf).and_then(|()| program.attach());
        attached.map(|_| NAME).map_err(|error| Reason::Refused(chain(&error)))
    }

    /// Each probe's state.
    pub(super) fn states(&self) -> Vec<Probe> {
        let state = |(row, state): (&Row, &State)| {
            let off = match state {
                Ok(Some(_)) => None,
                Err(reason) => Some(match self.substitute(row) {
                    Some(name) => Reason::Replaced(name, reason.to_string()),
                    None => reason.clone(),
                }),
                Ok(None) => Some(match (better(row, &self.rows), row.makes_up_for()) {
                    (Some(name), _) => Reason::Spare(name),
                    (None, Some(name)) if !self.is_needed(row) => Reason::NotNeeded(name),
                    (None, _) => Reason::Switched(row.set.name()),
                }),
            };
            Probe { row: *row, off }
        };
        ROWS.iter().zip(&self.rows).map(state).collect()
    }

    /// Where the kernel counts the runs of each program that it has left out.
    pub(super) fn skips(&self) -> Skips {
        let mut skips = Skips::default();
        for row in &ROWS {
            if let Some(descriptor) = self.ebpf.program(row.tracepoint).and_then(|program| program.fd().ok()) {
                skips.add(row, descriptor.as_fd().as_raw_fd());
            }
        }
        skips
    }

    /// The program that does a row's work in its place, if it can.
    fn substitute(&self, row: &Row) -> Option<&'static str> {
        let does = |(other, state): (&Row, &State)| {
            let can = state.is_ok() && other.instead_of.contains(&row.tracepoint) && is_loaded(&self.ebpf, other);
            let does = other.makes_up_for() == Some(row.tracepoint) && matches!(state, Ok(Some(_)));
            (can || does).then_some(other.tracepoint)
        };
        ROWS.iter().zip(&self.rows).find_map(does)
    }

    /// Whether a backend's write is noted before anybody can read what it writes.
    pub(super) fn notes_writes_first(&self) -> bool {
        self.is_any_attached(|row| WRITES_FIRST.contains(&row.tracepoint))
    }

    /// What the core tells nothing without, where that is not attached.
    pub(super) fn lacks_of_core(&self) -> Option<&'static str> {
        CORE.into_iter().find(|tracepoint| !self.is_attached(tracepoint))
    }

    /// Whether a row's program runs, or one that does its work.
    pub(super) fn is_attached(&self, tracepoint: &str) -> bool {
        self.is_any_attached(|row| row.does(tracepoint))
    }

    /// Whether another program does what the kernel leaves out of this one's runs.
    pub(super) fn is_made_up_for(&self, tracepoint: &str) -> bool {
        self.runs(tracepoint) && self.is_any_attached(|row| row.makes_up_for() == Some(tracepoint))
    }

    /// Whether this very program is attached.
    fn runs(&self, name: &str) -> bool {
        self.is_any_attached(|row| row.tracepoint == name)
    }

    fn is_any_attached(&self, wanted: impl Fn(&Row) -> bool) -> bool {
        ROWS.iter().zip(&self.rows).any(|(row, state)| wanted(row) && matches!(state, Ok(Some(_))))
    }
}

/// Whether a row's program is in the kernel.
fn is_loaded(ebpf: &Ebpf, row: &Row) -> bool {
    ebpf.program(row.tracepoint).is_some_and(|program| program.fd().is_ok())
}

/// The program that does a row's work better, among those that this kernel takes.
fn better(row: &Row, rows: &[State]) -> Option<&'static str> {
    let runs = |(other, state): (&Row, &State)| {
        (state.is_ok() && row.instead_of.contains(&other.tracepoint)).then_some(other.tracepoint)
    };
    ROWS.iter().zip(rows).find_map(runs)
}

/// The same reason for every probe; the one that has it itself, and what needs that one.
pub(super) fn all_off(reason: &Reason) -> Vec<Probe> {
    ROWS.map(|row| Probe { row, off: Some(reason.clone()) }).into()
}

fn create(slots: u32, rest: Duration) -> Result<(Ebpf, AyaBtf, Offsets), Reason> {
    if !is_built() {
        return Err(Reason::NotBuilt);
    }
    let missing = Rights::read().missing();
    if !missing.is_empty() {
        return Err(Reason::MissingRights(missing.join(", ")));
    }
    let (offsets, tracepoints) = kernel_types()?;

    let rest_ns = u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX);
    // The loader reads the kernel's types for relocations, of which we have none: 15 MB less at the peak.
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global(abi::global::REST_NS, &rest_ns, true);
    for (member, offset) in MEMBERS.iter().zip(&offsets.0) {
        // A program whose member is not known is not loaded.
        loader.override_global(member.global, offset.as_ref().unwrap_or(&0), true);
    }
    for map in [abi::map::SLOTS, abi::map::TRAILS, abi::map::FREE] {
        loader.map_max_entries(map, slots);
    }
    let ebpf = loader.load(OBJECT).map_err(|error| refusal(&error))?;
    Ok((ebpf, tracepoints, offsets))
}

/// In the order of the members.
struct Offsets(Vec<Result<u64, btf::Error>>);

impl Offsets {
    /// Why a member is not known, if it is not.
    fn lacks(&self, global: &str) -> Option<Reason> {
        let found = MEMBERS.iter().zip(&self.0).find(|(member, _)| member.global == global);
        found.and_then(|(_, offset)| offset.as_ref().err()).map(no_member)
    }
}

/// What is wanted of the running kernel's types: the members' offsets, and the tracepoints as aya takes them. The blob is
/// read once and gone when this returns, and aya has no more of it than it needs.
fn kernel_types() -> Result<(Offsets, AyaBtf), Reason> {
    let blob = fs::read(BTF_PATH).map_err(|_| Reason::NoBtf(BTF_PATH.to_owned()))?;
    let btf = btf::Btf::parse(&blob).map_err(|error| no_member(&error))?;
    let offset = |member: &Member| {
        let outer = match member.inside {
            Some((structure, name)) => btf.offset(Shape::Array, structure, name)?,
            None => 0,
        };
        Ok(outer + btf.offset(member.shape, member.structure, member.name)?)
    };
    let offsets = Offsets(MEMBERS.iter().map(offset).collect());
    // The names that aya looks for.
    let names = ROWS.map(|row| match row.hook {
        Hook::Tracepoint | Hook::Again(_) => (btf::Kind::Typedef, format!("btf_trace_{}", row.hooked())),
        Hook::Entry(function) => (btf::Kind::Function, function.to_owned()),
    });
    let tracepoints = AyaBtf::parse(&btf.only(&names), Endianness::default());
    Ok((offsets, tracepoints.map_err(|error| Reason::Refused(chain(&error)))?))
}

fn no_member(error: &btf::Error) -> Reason {
    Reason::NoMember(error.to_string())
}

fn verify(ebpf: &mut Ebpf, row: &Row, btf: &AyaBtf) -> Result<(), Reason> {
    let Some(program) = Attachable::of(ebpf, row) else {
        return Err(Reason::Refused(format!("the object has no program {}", row.tracepoint)));
    };
    program.load(row, btf).map_err(|error| match error {
        ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }) => Reason::NoTracepoint(hook(row)),
        error => {
            // The verifier's words are many lines, and wanted whole by whoever mends the program.
            tracing::warn!(target: "wayspan::probes", probe = row.tracepoint, error = %chain(&error), "probe refused");
            Reason::Refused(verdict(&error))
        }
    })
}

/// What a row's program is attached to, in words.
fn hook(row: &Row) -> String {
    match row.hook {
        Hook::Tracepoint | Hook::Again(_) => format!("tracepoint {}", row.hooked()),
        Hook::Entry(function) => format!("function {function}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_stores_may_be_seen_in_another_order_there_are_no_marks() {
        assert_eq!(ordered("x86_64"), Ok(()));
        assert_eq!(ordered("aarch64"), Err(Reason::Architecture("aarch64")));
    }
}
