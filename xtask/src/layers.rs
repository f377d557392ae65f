//! The layers of DESIGN §3: which crate may use which.

/// A layer; a crate uses only lower ones (and, among the libraries of one layer, nobody).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Formats and decisions, no I/O. May use each other.
    L0,
    /// One outside thing each. May use each other.
    L1,
    /// Programs. Never use each other.
    L2,
    /// Host side. May use each other and nothing of L2.
    L3,
}

/// Every crate of the workspace.
pub const LAYERS: &[(&str, Layer)] = &[
    ("boot-slots", Layer::L0),
    ("fleet-model", Layer::L0),
    ("gpt", Layer::L0),
    ("init-control", Layer::L0),
    ("unit-engine", Layer::L0),
    ("unit-file", Layer::L0),
    ("cgroup2", Layer::L1),
    ("dbus-api", Layer::L1),
    ("etcd-kv", Layer::L1),
    ("journal", Layer::L1),
    ("oci-image", Layer::L1),
    ("oci-runtime", Layer::L1),
    ("sd-daemon", Layer::L1),
    ("syscalls", Layer::L1),
    ("telemetry", Layer::L1),
    ("cloudinit", Layer::L2),
    ("etcdctl", Layer::L2),
    ("fleetctl", Layer::L2),
    ("fleetd", Layer::L2),
    ("init", Layer::L2),
    ("journald", Layer::L2),
    ("network", Layer::L2),
    ("runtime", Layer::L2),
    ("systemctl", Layer::L2),
    ("unit-busd", Layer::L2),
    ("update", Layer::L2),
    ("image-build", Layer::L3),
    ("qemu-tests", Layer::L3),
    ("web", Layer::L3),
    ("xtask", Layer::L3),
];

/// What is wrong with `user` depending on `used`, or nothing.
pub fn judge(user: &str, used: &str) -> Option<String> {
    let layer = |n: &str| LAYERS.iter().find(|(name, _)| *name == n).map(|(_, l)| *l);
    let (Some(a), Some(b)) = (layer(user), layer(used)) else {
        return Some(format!(
            "{user} or {used} is not in xtask/src/layers.rs: add it with its layer"
        ));
    };
    let allowed = match a {
        Layer::L0 => b == Layer::L0,
        Layer::L1 => b <= Layer::L1,
        Layer::L2 => b <= Layer::L1,
        Layer::L3 => b != Layer::L2,
    };
    (!allowed).then(|| format!("{user} ({a:?}) may not depend on {used} ({b:?}): move what it needs into a library of a lower layer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_never_use_programs_and_formats_do_no_io() {
        assert!(judge("fleetd", "fleet-model").is_none());
        assert!(judge("fleetd", "fleetctl").is_some());
        assert!(judge("unit-engine", "syscalls").is_some());
        assert!(judge("unit-engine", "unit-file").is_none());
        assert!(judge("xtask", "qemu-tests").is_none());
        assert!(judge("xtask", "nosuch").is_some());
    }
}
