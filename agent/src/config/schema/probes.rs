//! The keys of the probes.

use super::{Key, Kind, ours};

/// In the order of the reference page.
pub(super) const KEYS: &[Key] = &[
    ours("probes", Kind::Section, "", "The kernel probes; `probes: off` goes without."),
    ours("probes.required", Kind::Bool, "false", "Refuse to start where they cannot be loaded."),
    ours(
        "probes.slots",
        Kind::Integer(64, 1_048_576),
        "8192",
        "Connections watched at once, 1,216 bytes of kernel memory each. The slot of one that closed rests for 2 s: where many \
         are short, add twice the number that close in a second.",
    ),
    ours(
        "probes.backends",
        Kind::Bool,
        "false",
        "Also watch the other ends of connections to backends on this node; every read and write on the node pays a look-up.",
    ),
    ours(
        "probes.ack",
        Kind::Bool,
        "false",
        "Also watch what clients acknowledge; every segment that arrives on the node pays a look-up.",
    ),
    ours(
        "probes.timestamps",
        Kind::Bool,
        "false",
        "Where no probe can run: have the kernel stamp what arrives, and tell by that when bytes came; it stamps every packet of the \
         node then.",
    ),
];
