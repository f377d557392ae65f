//! The kernel's capabilities: the one table of their names.
//!
//! Unit files, D-Bus properties and containers all speak of them; what a set means is the caller's affair.

/// Names by bit number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A bit for each of them.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The number of a capability by its whole name (`CAP_KILL`), in any case.
pub fn number(name: &str) -> Option<u32> {
    (0u32..)
        .zip(NAMES)
        .find(|(_, known)| known.eq_ignore_ascii_case(name))
        .map(|(number, _)| number)
}

/// The names in a set, lowest bit first; bits without a name are left out.
pub fn names(bits: u64) -> impl Iterator<Item = &'static str> {
    (0u32..)
        .zip(NAMES)
        .filter(move |(number, _)| bits & (1 << number) != 0)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        // From capabilities(7) and linux/capability.h.
        for (name, bit) in [
            ("CAP_CHOWN", 0),
            ("cap_kill", 5),
            ("CAP_NET_ADMIN", 12),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_AUDIT_WRITE", 29),
            ("CAP_SYSLOG", 34),
            ("CAP_BPF", 39),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(number(name), Some(bit), "{name}");
        }
        assert_eq!(number("KILL"), None);
        assert_eq!(names(ALL).count(), NAMES.len());
    }

    #[test]
    fn sets_are_named_in_order_of_their_bits() {
        let set: Vec<_> = names(1 << 63 | 1 << 5 | 1).collect();
        assert_eq!(set, ["CAP_CHOWN", "CAP_KILL"]);
        assert!(
            NAMES
                .iter()
                .zip(0u32..)
                .all(|(name, bit)| number(name) == Some(bit))
        );
    }
}
