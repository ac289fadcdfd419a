//! Runs of our programs that the kernel left out: where a program runs on a CPU already, an interrupt's run of the same one there is
//! skipped and counted by the kernel. What was to be seen by it is not known; who is concerned by that is the merge's to say.

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wayspan_proxy::clock::MonoNs;

use super::plan::{Row, Set};
use crate::merge::gaps::Skipped;

/// More than the kernel writes of a program: some 250 bytes.
const TEXT_MAX: usize = 1024;

/// The kernel's counts, a system call for each program that is asked about.
#[derive(Debug, Default)]
pub(super) struct Skips {
    programs: Mutex<Vec<Counted>>,
    /// Rung where a run of [`MADE_UP_FOR`] was left out, and nobody made up for it.
    left_out: Notify,
}

/// The program that may be made up for.
pub(super) const MADE_UP_FOR: &str = "sk_data_ready";

#[derive(Debug)]
struct Counted {
    row: &'static Row,
    /// What the kernel tells of the program's descriptor, as long as that is open.
    told: File,
    /// As it was read last.
    read: u64,
    /// Of these, how many were missed by everybody: never less than before.
    missed: u64,
    /// What is left out of its runs another program does, and the other way round. Both are never left out at the same time:
    /// interrupts of interrupts bring no bytes.
    is_made_up_for: bool,
}

impl Skips {
    /// Another program, by its descriptor.
    pub(super) fn add(&mut self, row: &'static Row, descriptor: RawFd) {
        if let Ok(told) = File::open(format!("/proc/self/fdinfo/{descriptor}")) {
            let counted = Counted { row, told, read: 0, missed: 0, is_made_up_for: false };
            self.programs.get_mut().unwrap_or_else(PoisonError::into_inner).push(counted);
        }
    }

    fn programs(&self) -> MutexGuard<'_, Vec<Counted>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By the program's name; nothing of those of which the kernel does not tell.
    pub(super) fn by_program(&self) -> Vec<(&'static str, u64)> {
        self.programs().iter().filter_map(|counted| Some((counted.row.tracepoint, counted.told()?))).collect()
    }

    /// Whether [`MADE_UP_FOR`] and the program behind it make up for each other from now on. What was left out before was missed.
    pub(super) fn make_up(&self, is_made_up_for: bool) {
        for counted in self.programs().iter_mut().filter(|counted| counted.row.does(MADE_UP_FOR)) {
            let _read = counted.look();
            counted.is_made_up_for = is_made_up_for;
        }
    }

    /// Waits until a run of [`MADE_UP_FOR`] was left out, and nobody made up for it.
    pub(super) async fn left_out(&self) {
        self.left_out.notified().await;
    }

    /// Of the programs that give a request its points; nothing where the kernel does not tell. Those of a set that is off do not run, and
    /// are not asked about, nor are those that make up for each other.
    pub(super) fn of_points(&self, is_on: impl Fn(Set) -> bool) -> Option<Skipped> {
        let mut skipped = None;
        for counted in self.programs().iter_mut().filter(|counted| gives_points(counted.row)) {
            let Skipped { points, connections, .. } = skipped.get_or_insert_default();
            let before = counted.missed;
            if is_on(counted.row.set) && !counted.is_made_up_for {
                counted.look()?;
            }
            if counted.row.tracepoint == MADE_UP_FOR && counted.missed != before {
                self.left_out.notify_one();
            }
            *points += counted.missed;
            *connections += if counted.row.tracepoint == "inet_sock_set_state" { counted.missed } else { 0 };
        }
        skipped.map(|skipped| Skipped { by: MonoNs::now(), ..skipped })
    }
}

/// The others tell what is beside the phases, or give slots back.
fn gives_points(row: &Row) -> bool {
    match row.set {
        Set::Core => row.tracepoint == "inet_sock_set_state" || row.does(MADE_UP_FOR),
        Set::Backends => true,
        Set::Ack => false,
    }
}

impl Counted {
    /// Reads the count, which is of what everybody missed unless another makes up for it.
    fn look(&mut self) -> Option<()> {
        let told = self.told()?;
        let more = told.saturating_sub(self.read);
        self.read = told;
        if !self.is_made_up_for {
            self.missed += more;
        }
        Some(())
    }

    fn told(&self) -> Option<u64> {
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
    use super::super::plan::ROWS;
    use super::*;

    #[test]
    fn a_run_that_was_left_out_calls_for_who_makes_up_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fdinfo");
        let write = |runs: u32| std::fs::write(&path, format!("recursion_misses:\t{runs}\n")).unwrap();
        write(0);
        let mut skips = Skips::default();
        let row = ROWS.iter().find(|row| row.tracepoint == MADE_UP_FOR).unwrap();
        let told = File::open(&path).unwrap();
        skips.programs.get_mut().unwrap().push(Counted { row, told, read: 0, missed: 0, is_made_up_for: false });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let calls = || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = skips.left_out() => true,
                    () = std::future::ready(()) => false,
                }
            })
        };
        let points = || skips.of_points(|_| true).unwrap().points;
        assert_eq!((points(), calls()), (0, false));
        write(1);
        assert_eq!((points(), calls(), calls()), (1, true, false));
        // Until the other is there more are missed, and none from then on, nor for a while later.
        write(2);
        skips.make_up(true);
        assert_eq!(points(), 2);
        write(4);
        assert_eq!((points(), calls()), (2, false));
        write(5);
        skips.make_up(false);
        assert_eq!((points(), calls()), (2, false));
        write(6);
        assert_eq!((points(), calls()), (3, true));
    }

    #[test]
    fn runs_that_were_left_out_are_read_where_the_kernel_tells() {
        let check = |fdinfo, expected| assert_eq!(recursion_misses(fdinfo), expected, "{fdinfo:?}");
        check("pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\nverified_insns:\t90\n", Some(17));
        check("pos:\t0\nprog_type:\t26\nrun_cnt:\t0\n", None);
        check("recursion_misses:\tmany\n", None);
    }
}
