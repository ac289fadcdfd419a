//! The probes, a row each, and the states they can be in. Loading them belongs to `load`.

use std::fmt;

use abi::global;
use serde::Serialize;

use super::btf::Shape;

/// Probes that are switched together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// Our own sockets: without these nothing is observed.
    Core,
    /// The other ends of our connections to backends on this node. Every other socket's reads and writes pay a look-up.
    Backends,
    /// What clients have acknowledged, and windows that were shut to us. Every segment that arrives on the node pays a look-up.
    Ack,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Core, Self::Backends, Self::Ack];

    /// The set that the api means.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// As the configuration and the api call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Backends => "backends",
            Self::Ack => "ack",
        }
    }
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// The tracepoint with the program's name.
    Tracepoint,
    /// This tracepoint once more, behind the program that has its name, for runs of that one which the kernel leaves out; the program
    /// is called `again_<tracepoint>`.
    Again(&'static str),
    /// A function's entry; the program is called `enter_<function>`.
    Entry(&'static str),
}

/// One eBPF program.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name: the tracepoint's, `again_` and that, or `enter_` and the function's.
    pub tracepoint: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// The kernel that first had the tracepoint.
    pub since: &'static str,
    /// What it is switched with.
    pub set: Set,
    /// Without it no slot has an owner, and the others are of no use.
    pub is_needed: bool,
    /// It does the work of these where the kernel has not got them.
    pub instead_of: &'static [&'static str],
    pub(super) hook: Hook,
    /// Globals whose members it reads.
    pub(super) members: &'static [&'static str],
}

impl Row {
    /// The tracepoint, or function, that its program is attached to.
    pub(super) fn hooked(&self) -> &'static str {
        match self.hook {
            Hook::Tracepoint => self.tracepoint,
            Hook::Again(name) | Hook::Entry(name) => name,
        }
    }

    /// The program of whose runs it sees what the kernel leaves out.
    pub(super) fn makes_up_for(&self) -> Option<&'static str> {
        match self.hook {
            Hook::Again(name) => Some(name),
            Hook::Tracepoint | Hook::Entry(_) => None,
        }
    }

    /// Whether its program does that one's work.
    pub(super) fn does(&self, tracepoint: &str) -> bool {
        self.tracepoint == tracepoint
            || self.instead_of.contains(&tracepoint)
            || self.makes_up_for() == Some(tracepoint)
    }
}

/// What is read where bytes became readable.
const OF_BYTES: &[&str] = &[
    global::BYTES_RECEIVED_OFFSET,
    global::CLOCK_OFFSET,
    global::SRTT_OFFSET,
    global::MDEV_OFFSET,
    global::SK_SOCKET_OFFSET,
];

/// In order of a connection's life; a substitute, and who makes up for another, after the one whose work it does.
pub(super) const ROWS: [Row; 12] = [
    Row {
        tracepoint: "inet_sock_set_state",
        tells: "new connections, their handshake and when they were acceptable",
        since: "4.16",
        set: Set::Core,
        is_needed: true,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[global::RCV_NXT_OFFSET, global::SND_NXT_OFFSET, global::SRTT_OFFSET, global::TOTAL_RETRANS_OFFSET],
    },
    Row {
        tracepoint: "sk_data_ready",
        tells: "when bytes became readable",
        since: "6.3",
        set: Set::Core,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: OF_BYTES,
    },
    Row {
        tracepoint: "again_sk_data_ready",
        tells: "when bytes became readable, where the kernel left out the other's run",
        since: "6.3",
        set: Set::Core,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Again("sk_data_ready"),
        members: OF_BYTES,
    },
    Row {
        tracepoint: "enter_sock_def_readable",
        tells: "when bytes became readable",
        since: "5.5",
        set: Set::Core,
        is_needed: false,
        instead_of: &["sk_data_ready", "again_sk_data_ready"],
        hook: Hook::Entry("sock_def_readable"),
        members: OF_BYTES,
    },
    Row {
        tracepoint: "tcp_retransmit_skb",
        tells: "segments sent again",
        since: "4.16",
        set: Set::Core,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[
            global::BYTES_ACKED_OFFSET,
            global::SND_UNA_OFFSET,
            global::SKB_SEQ_OFFSET,
            global::SKB_END_SEQ_OFFSET,
        ],
    },
    Row {
        tracepoint: "tcp_retransmit_synack",
        tells: "handshakes that needed more than one answer of ours",
        since: "4.16",
        set: Set::Core,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[global::SENT_ISN_OFFSET, global::RECEIVED_ISN_OFFSET],
    },
    Row {
        tracepoint: GIVES_BACK,
        tells: "the end of a connection; stays on with core off, for slots to come back",
        since: "4.16",
        set: Set::Core,
        is_needed: true,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[],
    },
    Row {
        tracepoint: "tcp_rcv_space_adjust",
        tells: "when a backend on this node read",
        since: "4.16",
        set: Set::Backends,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[global::RCV_NXT_OFFSET, global::COPIED_SEQ_OFFSET, global::BYTES_RECEIVED_OFFSET],
    },
    Row {
        tracepoint: "tcp_sendmsg_locked",
        tells: "when a backend on this node began to answer",
        since: "6.16",
        set: Set::Backends,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[global::WRITE_SEQ_OFFSET, global::SND_UNA_OFFSET, global::BYTES_ACKED_OFFSET],
    },
    Row {
        tracepoint: "enter_tcp_sendmsg_locked",
        tells: "when a backend on this node began to answer",
        since: "5.5",
        set: Set::Backends,
        is_needed: false,
        instead_of: &["tcp_sendmsg_locked"],
        hook: Hook::Entry("tcp_sendmsg_locked"),
        members: &[global::WRITE_SEQ_OFFSET, global::SND_UNA_OFFSET, global::BYTES_ACKED_OFFSET],
    },
    Row {
        tracepoint: "sock_send_length",
        tells: "when a backend on this node had written",
        since: "6.3",
        set: Set::Backends,
        is_needed: false,
        instead_of: &["tcp_sendmsg_locked", "enter_tcp_sendmsg_locked"],
        hook: Hook::Tracepoint,
        members: &[global::WRITE_SEQ_OFFSET, global::SND_UNA_OFFSET, global::BYTES_ACKED_OFFSET],
    },
    Row {
        tracepoint: "tcp_probe",
        tells: "what clients have acknowledged, and windows that were shut",
        since: "4.16",
        set: Set::Ack,
        is_needed: false,
        instead_of: &[],
        hook: Hook::Tracepoint,
        members: &[
            global::BYTES_ACKED_OFFSET,
            global::SND_UNA_OFFSET,
            global::SND_NXT_OFFSET,
            global::SND_WND_OFFSET,
            global::SENT_CLOCK_OFFSET,
            global::MSS_OFFSET,
            global::WRITE_SEQ_OFFSET,
            global::SKB_SEQ_OFFSET,
            global::SKB_END_SEQ_OFFSET,
            global::SKB_ACK_SEQ_OFFSET,
        ],
    },
];

/// The program that ends a connection and gives its slot back.
pub(super) const GIVES_BACK: &str = "tcp_destroy_sock";

/// Where one of these, or what does its work, is not attached, the core tells nothing, and no other probe is of use.
pub(super) const CORE: [&str; 3] = [GIVES_BACK, "inet_sock_set_state", "sk_data_ready"];

/// These note a write when it begins, the other one when it returns.
pub(super) const WRITES_FIRST: [&str; 2] = ["tcp_sendmsg_locked", "enter_tcp_sendmsg_locked"];

/// A member that programs read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// The constant that gets its offset.
    pub(super) global: &'static str,
    pub(super) shape: Shape,
    pub(super) structure: &'static str,
    pub(super) name: &'static str,
    /// A member that the structure lies in: its offset is added.
    pub(super) inside: Option<(&'static str, &'static str)>,
}

const fn member(global: &'static str, shape: Shape, structure: &'static str, name: &'static str) -> Member {
    Member { global, shape, structure, name, inside: None }
}

/// A member of TCP's part of a segment's control buffer.
const fn in_skb(global: &'static str, name: &'static str) -> Member {
    Member { global, shape: Shape::U32, structure: "tcp_skb_cb", name, inside: Some(("sk_buff", "cb")) }
}

/// All of them.
pub(super) const MEMBERS: [Member; 20] = [
    member(global::BYTES_RECEIVED_OFFSET, Shape::U64, "tcp_sock", "bytes_received"),
    member(global::CLOCK_OFFSET, Shape::U64, "tcp_sock", "tcp_clock_cache"),
    member(global::BYTES_ACKED_OFFSET, Shape::U64, "tcp_sock", "bytes_acked"),
    member(global::RCV_NXT_OFFSET, Shape::U32, "tcp_sock", "rcv_nxt"),
    member(global::COPIED_SEQ_OFFSET, Shape::U32, "tcp_sock", "copied_seq"),
    member(global::SND_NXT_OFFSET, Shape::U32, "tcp_sock", "snd_nxt"),
    member(global::SND_UNA_OFFSET, Shape::U32, "tcp_sock", "snd_una"),
    member(global::SND_WND_OFFSET, Shape::U32, "tcp_sock", "snd_wnd"),
    member(global::SENT_CLOCK_OFFSET, Shape::U64, "tcp_sock", "tcp_wstamp_ns"),
    member(global::MSS_OFFSET, Shape::U32, "tcp_sock", "mss_cache"),
    member(global::WRITE_SEQ_OFFSET, Shape::U32, "tcp_sock", "write_seq"),
    member(global::SRTT_OFFSET, Shape::U32, "tcp_sock", "srtt_us"),
    member(global::MDEV_OFFSET, Shape::U32, "tcp_sock", "mdev_us"),
    member(global::TOTAL_RETRANS_OFFSET, Shape::U32, "tcp_sock", "total_retrans"),
    member(global::SK_SOCKET_OFFSET, Shape::Pointer, "sock", "sk_socket"),
    in_skb(global::SKB_SEQ_OFFSET, "seq"),
    in_skb(global::SKB_END_SEQ_OFFSET, "end_seq"),
    in_skb(global::SKB_ACK_SEQ_OFFSET, "ack_seq"),
    member(global::SENT_ISN_OFFSET, Shape::U32, "tcp_request_sock", "snt_isn"),
    member(global::RECEIVED_ISN_OFFSET, Shape::U32, "tcp_request_sock", "rcv_isn"),
];

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
    /// The programs publish what they note by the order of their stores, which only x86-64 keeps for others to see.
    #[error("not for processors of the kind {0}")]
    Architecture(&'static str),
    /// The kernel was built without CONFIG_DEBUG_INFO_BTF, or sysfs is not mounted.
    #[error("the kernel shows no BTF at {0}")]
    NoBtf(String),
    /// The process has not got these capabilities.
    #[error("the process lacks {0}")]
    MissingRights(String),
    /// Before 5.11 maps were charged to RLIMIT_MEMLOCK.
    #[error("RLIMIT_MEMLOCK is too low for the maps on kernel {0}")]
    LockedMemory(String),
    /// This kernel has not got the tracepoint, or function.
    #[error("the kernel has no {0}")]
    NoTracepoint(String),
    /// A struct looks otherwise than the program expects.
    #[error("{0}")]
    NoMember(String),
    /// The kernel refused a map or program for another reason; the text is its own.
    #[error("refused by the kernel: {0}")]
    Refused(String),
    /// Its set is switched off.
    #[error("{0} is switched off")]
    Switched(&'static str),
    /// It could run, and would be of no use without that one.
    #[error("of no use without {0}")]
    Useless(&'static str),
    /// It makes up for what the kernel leaves out of that one's runs, which has not happened.
    #[error("not needed before the kernel leaves out a run of {0}")]
    NotNeeded(&'static str),
    /// Another probe does its work, and better.
    #[error("{0} does its work")]
    Spare(&'static str),
    /// It cannot run here, for the reason in the second part, and the first does its work.
    #[error("{1}; {0} does its work")]
    Replaced(&'static str, String),
}

impl Reason {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Configured => "remove `probes: off` from the configuration",
            Self::NotBuilt => "run `cargo xtask ebpf`, then build the agent again",
            Self::Architecture(_) => "run the agent on x86-64; elsewhere spans tell what the proxy and TCP_INFO know",
            Self::NoBtf(_) => "mount sysfs, or run a kernel with CONFIG_DEBUG_INFO_BTF=y",
            Self::MissingRights(_) => "run as root, or `setcap cap_bpf,cap_perfmon+ep` on the binary",
            Self::LockedMemory(_) => "raise `ulimit -l` to unlimited (systemd: LimitMEMLOCK=infinity)",
            Self::NoTracepoint(_) | Self::NoMember(_) => "run a newer kernel; what the other probes tell stays",
            Self::Refused(_) => "see the agent's log for the verifier's words, and report them",
            Self::Switched(_) => "switch it on in `probes`, or through the api while the agent runs",
            Self::Useless(_) => "see to that probe first",
            Self::NotNeeded(_) | Self::Spare(_) | Self::Replaced(..) => "nothing is lacking",
        }
    }
}

impl Probe {
    /// Off, although it was wanted and nothing else does its work.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        self.off.as_ref().is_some_and(|reason| {
            !matches!(reason, Reason::Switched(_) | Reason::NotNeeded(_) | Reason::Spare(_) | Reason::Replaced(..))
        })
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
