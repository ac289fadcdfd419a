//! What this process may do and which kernel it is on, read from /proc. Judging it belongs to `load` and `doctor`.

use std::fs;

/// A capability that something here needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capability {
    /// As in capabilities(7).
    pub name: &'static str,
    bit: u32,
    /// CAP_SYS_ADMIN includes it.
    by_admin: bool,
}

// include/uapi/linux/capability.h, v6.12.
const SYS_ADMIN_BIT: u32 = 21;
/// What loading needs: both, or CAP_SYS_ADMIN, which includes them.
pub(super) const NEEDED: [Capability; 2] = [
    Capability { name: "CAP_BPF", bit: 39, by_admin: true },
    Capability { name: "CAP_PERFMON", bit: 38, by_admin: true },
];
/// What ports below [`unprivileged_ports`] need.
pub(super) const LOW_PORTS: Capability = Capability { name: "CAP_NET_BIND_SERVICE", bit: 10, by_admin: false };

/// The effective capabilities of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rights(u64);

impl Rights {
    /// Those of this process; none where /proc does not tell.
    #[must_use]
    pub(super) fn read() -> Self {
        fs::read_to_string("/proc/self/status").ok().as_deref().and_then(Self::parse).unwrap_or_default()
    }

    /// Reads the `CapEff` line of /proc/self/status.
    pub(super) fn parse(status: &str) -> Option<Self> {
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(hex.trim(), 16).ok().map(Self)
    }

    /// Whether the process has it.
    #[must_use]
    pub(super) fn has(self, capability: Capability) -> bool {
        self.0 >> capability.bit & 1 == 1 || capability.by_admin && self.0 >> SYS_ADMIN_BIT & 1 == 1
    }

    /// The needed ones that it has not got.
    #[must_use]
    pub(super) fn missing(self) -> Vec<&'static str> {
        NEEDED.iter().filter(|needed| !self.has(**needed)).map(|needed| needed.name).collect()
    }
}

/// The first port that needs no capability in this network namespace (ip(7)).
#[must_use]
pub(super) fn unprivileged_ports() -> u16 {
    // PROT_SOCK in include/net/sock.h.
    const USUAL: u16 = 1024;
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL)
}

/// The kernel's release, as `uname -r` says it.
#[must_use]
pub(super) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Whether the release is before this version; an odd one is not.
#[must_use]
pub(super) fn is_before(release: &str, version: (u32, u32)) -> bool {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let check = |line: &str, missing: &[&str]| {
            let status = format!("Name:\tx\nCapPrm:\tffffffffffffffff\n{line}\nCapBnd:\t0\n");
            assert_eq!(Rights::parse(&status).unwrap_or_default().missing(), missing, "{line}");
        };
        check("CapEff:\t0000000000000000", &["CAP_BPF", "CAP_PERFMON"]);
        check("CapEff:\t0000008000000000", &["CAP_PERFMON"]);
        check("CapEff:\t000000c000000000", &[]);
        check("CapEff:\t0000000000200000", &[]);
        check("CapEff:\tnonsense", &["CAP_BPF", "CAP_PERFMON"]);
        check("", &["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn ports_below_1024_need_a_capability_of_their_own() {
        for (effective, held) in [(1 << 10, true), (1 << SYS_ADMIN_BIT, false), (0, false)] {
            assert_eq!(Rights(effective).has(LOW_PORTS), held, "{effective:x}");
        }
        assert_eq!(Rights(1 << 10).missing(), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("5.10.0-30-amd64", true),
            ("5.11.0", false),
            ("6.1", false),
            ("4.19.0", true),
            ("", false),
            ("x.y", false),
        ] {
            assert_eq!(is_before(release, (5, 11)), expected, "{release}");
        }
    }
}
