//! Capabilities: the default set, and what `--cap-add`, `--cap-drop` and `--privileged` make of it.

use std::collections::BTreeSet;
use unit_file::capability::NAMES;

/// What a container has without options.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A name that is no capability.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid capability {0:?}")]
pub struct UnknownCapability(pub String);

/// `NET_ADMIN`, `net_admin` and `CAP_NET_ADMIN` are the same.
pub fn parse(name: &str) -> Result<&'static str, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    NAMES
        .into_iter()
        .find(|known| *known == full)
        .ok_or_else(|| UnknownCapability(name.to_owned()))
}

/// The capabilities of a container, in a fixed order.
pub fn effective(
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<Vec<&'static str>, UnknownCapability> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let mut set: BTreeSet<&str> = if privileged || add.iter().any(is_all) {
        NAMES.into_iter().collect()
    } else {
        DEFAULT.into_iter().collect()
    };
    if drop.iter().any(is_all) {
        set.clear();
        if add.iter().any(is_all) {
            set = NAMES.into_iter().collect();
        }
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set.remove(parse(name)?);
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    Ok(NAMES
        .into_iter()
        .filter(|name| set.contains(name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(privileged: bool, add: &[&str], drop: &[&str], has: &[&str], lacks: &[&str]) {
        let own = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let set = effective(privileged, &own(add), &own(drop)).unwrap();
        assert!(has.iter().all(|name| set.contains(name)), "{set:?}");
        assert!(!lacks.iter().any(|name| set.contains(name)), "{set:?}");
    }

    #[test]
    fn options_change_the_default_set() {
        check(
            false,
            &[],
            &[],
            &DEFAULT,
            &["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_MODULE"],
        );
        check(
            false,
            &["net_admin"],
            &["MKNOD"],
            &["CAP_NET_ADMIN"],
            &["CAP_MKNOD"],
        );
        check(false, &["CHOWN"], &["all"], &["CAP_CHOWN"], &["CAP_KILL"]);
        check(
            false,
            &["ALL"],
            &["SYS_ADMIN"],
            &["CAP_BPF"],
            &["CAP_SYS_ADMIN"],
        );
        check(true, &[], &[], &NAMES, &[]);
        assert!(effective(false, &["fly".into()], &[]).is_err());
    }
}
