//! The probes, a row each, and the states they can be in. Loading them belongs to `load`.

use std::fmt;

use serde::Serialize;

/// One eBPF program and its tracepoint; both have the same name.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The program's and the tracepoint's name.
    pub tracepoint: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// The kernel that first had the tracepoint.
    pub since: &'static str,
    /// Without it no slot has an owner, and the others are of no use.
    pub is_needed: bool,
}

/// In order of a connection's life.
pub(super) const ROWS: [Row; 3] = [
    Row {
        tracepoint: "inet_sock_set_state",
        tells: "new connections, their handshake and when they were acceptable",
        since: "4.16",
        is_needed: true,
    },
    Row { tracepoint: "sk_data_ready", tells: "when bytes became readable", since: "6.3", is_needed: false },
    Row { tracepoint: "tcp_destroy_sock", tells: "the end of a connection", since: "4.16", is_needed: true },
];

/// Members of `struct tcp_sock` that programs read: the global that gets the offset, and the member.
pub(super) const MEMBERS: [(&str, &str); 2] =
    [(abi::global::BYTES_RECEIVED_OFFSET, "bytes_received"), (abi::global::CLOCK_OFFSET, "tcp_clock_cache")];

/// One probe and its state.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The row of the plan.
    pub row: Row,
    /// `None`: it is on.
    pub off: Option<Reason>,
}

/// Why a probe is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum Reason {
    /// `probes: off`.
    #[error("switched off by the configuration")]
    Configured,
    /// The object was not there when the agent was built.
    #[error("built without probes")]
    NotBuilt,
    /// The kernel was built without CONFIG_DEBUG_INFO_BTF, or sysfs is not mounted.
    #[error("the kernel shows no BTF at {0}")]
    NoBtf(String),
    /// The process has not got these capabilities.
    #[error("the process lacks {0}")]
    MissingRights(String),
    /// Before 5.11 maps were charged to RLIMIT_MEMLOCK.
    #[error("RLIMIT_MEMLOCK is too low for the maps on kernel {0}")]
    LockedMemory(String),
    /// This kernel has not got the tracepoint.
    #[error("the kernel has no tracepoint {0}")]
    NoTracepoint(String),
    /// A struct looks otherwise than the program expects.
    #[error("{0}")]
    NoMember(String),
    /// The kernel refused a map or program for another reason; the text is its own.
    #[error("refused by the kernel: {0}")]
    Refused(String),
    /// Another probe that is off is needed for this one.
    #[error("needs {0}")]
    Needs(String),
}

impl Reason {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Configured => "remove `probes: off` from the configuration",
            Self::NotBuilt => "run `cargo xtask ebpf`, then build the agent again",
            Self::NoBtf(_) => "mount sysfs, or run a kernel with CONFIG_DEBUG_INFO_BTF=y",
            Self::MissingRights(_) => "run as root, or `setcap cap_bpf,cap_perfmon+ep` on the binary",
            Self::LockedMemory(_) => "raise `ulimit -l` to unlimited (systemd: LimitMEMLOCK=infinity)",
            Self::NoTracepoint(_) | Self::NoMember(_) => "run a newer kernel; what the other probes tell stays",
            Self::Refused(_) => "see the agent's log for the verifier's words, and report them",
            Self::Needs(_) => "see the probe it needs",
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.off {
            None => write!(f, "{}: on", self.row.tracepoint),
            Some(reason) => write!(f, "{}: off, {reason}", self.row.tracepoint),
        }
    }
}
