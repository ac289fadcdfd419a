//! What the process itself uses, by the names that Prometheus' clients gave these figures. From /proc and the
//! process's CPU clock.

use rustix::time::{ClockId, clock_gettime};

/// Ticks a second in /proc: USER_HZ is 100 on every architecture that we build for (include/asm-generic/param.h).
const USER_HZ: f64 = 100.0;

/// One reading; absent where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_s: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    /// Unix seconds, as the kernel counts them; no clock of ours is read.
    pub(crate) started_s: Option<f64>,
}

impl Process {
    pub(crate) fn read() -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let nanos = f64::from(u32::try_from(cpu.tv_nsec).unwrap_or(0)) / 1e9;
        Self {
            cpu_s: u32::try_from(cpu.tv_sec).ok().map(|seconds| f64::from(seconds) + nanos),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1024),
            threads: field(&status, "Threads:"),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().and_then(|all| u64::try_from(all.count()).ok()),
            max_fds: field(&text("/proc/self/limits"), "Max open files"),
            started_s: started_s(&text("/proc/self/stat"), &text("/proc/stat")),
        }
    }
}

/// The first number behind a name at a line's start.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Boot time plus the process's start in ticks after it (proc(5): the 22nd field; the 2nd, the name, may hold anything
/// but ends with the last parenthesis).
fn started_s(own: &str, system: &str) -> Option<f64> {
    let (_, behind_name) = own.rsplit_once(')')?;
    let ticks: f64 = behind_name.split_whitespace().nth(19)?.parse().ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_and_strange_names_of_processes_do_no_harm() {
        let status = "Name:\tx\nVmSize:\t  1000 kB\nVmRSS:\t    20 kB\nThreads:\t3\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:")), (Some(20), Some(3)));
        assert_eq!(
            field("Max open files            1024                 4096   files\n", "Max open files"),
            Some(1024)
        );
        assert_eq!(field("Max open files            unlimited\n", "Max open files"), None);
        let own = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 250 20";
        assert_eq!(started_s(own, "cpu 1\nbtime 1000\n"), Some(1002.5));
        assert_eq!(started_s("", "btime 1"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.cpu_s.unwrap() > 0.0 && process.open_fds.unwrap() > 0 && process.threads.unwrap() > 0);
        // After 2020, and the same when asked again.
        assert!(process.started_s.unwrap() > 1.5e9);
        assert_eq!(Process::read().started_s, process.started_s);
    }
}
