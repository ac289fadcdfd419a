//! Runs of our programs that the kernel left out: where a program runs on a CPU already, an interrupt's run of the same one there is
//! skipped and counted by the kernel. What was to be seen by it is not known; who is concerned by that is the merge's to say.

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use wayspan_proxy::clock::MonoNs;

use super::plan::{Row, Set};
use crate::merge::gaps::Skipped;

/// More than the kernel writes of a program: some 250 bytes.
const TEXT_MAX: usize = 1024;

/// The kernel's counts, a system call for each program that is asked about.
#[derive(Debug, Default)]
pub(super) struct Skips(Vec<Counted>);

#[derive(Debug)]
struct Counted {
    row: &'static Row,
    /// What the kernel tells of the program's descriptor, as long as that is open.
    told: File,
    /// As it was read last.
    runs: AtomicU64,
}

impl Skips {
    /// Another program, by its descriptor.
    pub(super) fn add(&mut self, row: &'static Row, descriptor: RawFd) {
        if let Ok(told) = File::open(format!("/proc/self/fdinfo/{descriptor}")) {
            self.0.push(Counted { row, told, runs: AtomicU64::new(0) });
        }
    }

    /// By the program's name; nothing of those of which the kernel does not tell.
    pub(super) fn by_program(&self) -> Vec<(&'static str, u64)> {
        self.0.iter().filter_map(|counted| Some((counted.row.tracepoint, counted.read()?))).collect()
    }

    /// Of the programs that give a request its points; nothing where the kernel does not tell. Those of a set that is off do not run, and
    /// are not asked about.
    pub(super) fn of_points(&self, is_on: impl Fn(Set) -> bool) -> Option<Skipped> {
        let mut skipped = None;
        for counted in self.0.iter().filter(|counted| gives_points(counted.row)) {
            let Skipped { points, connections, .. } = skipped.get_or_insert_default();
            if is_on(counted.row.set) {
                counted.runs.store(counted.read()?, Ordering::Relaxed);
            }
            let runs = counted.runs.load(Ordering::Relaxed);
            *points += runs;
            *connections += if counted.row.tracepoint == "inet_sock_set_state" { runs } else { 0 };
        }
        skipped.map(|skipped| Skipped { by: MonoNs::now(), ..skipped })
    }
}

/// The others tell what is beside the phases, or give slots back.
fn gives_points(row: &Row) -> bool {
    match row.set {
        Set::Core => row.tracepoint == "inet_sock_set_state" || row.tells == "when bytes became readable",
        Set::Backends => true,
        Set::Ack => false,
    }
}

impl Counted {
    fn read(&self) -> Option<u64> {
        let mut text = [0; TEXT_MAX];
        let length = self.told.read_at(&mut text, 0).ok()?;
        recursion_misses(std::str::from_utf8(text.get(..length)?).ok()?)
    }
}

// kernel/bpf/syscall.c, v5.12: bpf_prog_show_fdinfo() prints `recursion_misses:\t%llu`.
fn recursion_misses(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_were_left_out_are_read_where_the_kernel_tells() {
        let check = |fdinfo, expected| assert_eq!(recursion_misses(fdinfo), expected, "{fdinfo:?}");
        check("pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\nverified_insns:\t90\n", Some(17));
        check("pos:\t0\nprog_type:\t26\nrun_cnt:\t0\n", None);
        check("recursion_misses:\tmany\n", None);
    }
}
