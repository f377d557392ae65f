//! From a control group's path to the unit. No I/O.

/// The unit that a process belongs to, as its control group says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// The path below the hierarchy's root.
    pub path: String,
    /// First component that is not a slice: service, scope, socket, mount ….
    pub unit: Option<String>,
    /// The unit's own control group, which may be above the process's.
    pub unit_path: String,
    /// The innermost slice around it; `-.slice` directly below the root.
    pub slice: String,
}

/// Picks the manager's hierarchy out of `/proc/PID/cgroup`.
pub fn path_of(text: &str) -> Option<&str> {
    let line = |wanted: fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            (id == "0" && names.is_empty() && wanted("0") || wanted(names)).then_some(path)
        })
    };
    // On a host with the old and the new hierarchy the named one is the manager's.
    line(|names| names == "name=systemd").or_else(|| line(|names| names == "0"))
}

/// Splits a path into slices and unit.
pub fn membership(path: &str) -> Membership {
    let mut slice = "-.slice";
    let mut unit = None;
    let mut unit_path = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        unit_path.push('/');
        unit_path.push_str(part);
        // A name that the kernel would take for a control file is escaped by an underscore.
        let part = part.strip_prefix('_').unwrap_or(part);
        if part.ends_with(".slice") {
            slice = part;
            continue;
        }
        const SUFFIXES: [&str; 7] = [
            ".service", ".scope", ".socket", ".mount", ".swap", ".timer", ".path",
        ];
        if SUFFIXES
            .iter()
            .any(|s| part.strip_suffix(s).is_some_and(|stem| !stem.is_empty()))
        {
            unit = Some(part.to_owned());
        }
        break;
    }
    Membership {
        path: path.to_owned(),
        unit_path: if unit.is_some() {
            unit_path
        } else {
            String::new()
        },
        unit,
        slice: slice.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(path: &str, unit: Option<&str>, slice: &str) {
        let got = membership(path);
        assert_eq!(
            (got.unit.as_deref(), got.slice.as_str()),
            (unit, slice),
            "{path}"
        );
    }

    #[test]
    fn paths_name_unit_and_slice() {
        check(
            "/system.slice/web@1.service",
            Some("web@1.service"),
            "system.slice",
        );
        check(
            "/system.slice/web.service/payload-abc",
            Some("web.service"),
            "system.slice",
        );
        check(
            "/user.slice/user-500.slice/session-3.scope",
            Some("session-3.scope"),
            "user-500.slice",
        );
        check("/init.scope", Some("init.scope"), "-.slice");
        check("/", None, "-.slice");
        check("/a.slice/_x.service", Some("x.service"), "a.slice");
        check("/docker/0123", None, "-.slice");
        check("/.service", None, "-.slice");
    }

    #[test]
    fn the_units_group_is_above_its_payloads() {
        assert_eq!(
            membership("/a.slice/_b.service/c/d").unit_path,
            "/a.slice/_b.service"
        );
        assert_eq!(membership("/a.slice").unit_path, "");
    }

    #[test]
    fn the_managers_hierarchy_is_found() {
        assert_eq!(
            path_of("0::/system.slice/a.service\n"),
            Some("/system.slice/a.service")
        );
        assert_eq!(
            path_of("12:pids:/x\n1:name=systemd:/init.scope\n0::/\n"),
            Some("/init.scope")
        );
        assert_eq!(path_of("12:pids:/x\n"), None);
        assert_eq!(path_of(""), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,60}") {
            let _ = path_of(&text);
            let _ = membership(&text);
        }
    }
}
