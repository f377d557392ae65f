//! Where unit files are looked for, and which drop-ins apply in which order. Pure: the caller lists.

use crate::name::UnitName;

/// The search path of the system manager, highest priority first.
pub const SEARCH_PATH: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// Names of the drop-in directories of one unit name, most specific first, without the type's own:
/// `a-b@c.service.d`, `a-b@.service.d`, `a-.service.d` …
pub fn drop_in_directories(name: &UnitName) -> Vec<String> {
    let mut out = Vec::new();
    push_with_prefixes(name, &mut out);
    if let Some(template) = name.template() {
        push_with_prefixes(&template, &mut out);
    }
    let mut seen = Vec::new();
    out.retain(|d| {
        let new = !seen.contains(d);
        seen.push(d.clone());
        new
    });
    out
}

fn push_with_prefixes(name: &UnitName, out: &mut Vec<String>) {
    out.push(format!("{name}.d"));
    let suffix = name.unit_type();
    let prefix = name.prefix();
    for (at, _) in prefix.rmatch_indices('-') {
        let head = &prefix[..=at];
        if at + 1 < prefix.len() && head != "-" {
            out.push(format!("{head}.{suffix}.d"));
        }
    }
}

/// The drop-in directory of the whole type, `service.d`, lowest of all.
pub fn type_directory(name: &UnitName) -> String {
    format!("{}.d", name.unit_type())
}

/// A `.conf` file found in a drop-in directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDropIn {
    /// Full path.
    pub path: String,
    /// It is a link to /dev/null: hides others, is not read.
    pub masked: bool,
}

/// The directories of a unit to list, in order of precedence: for all names (the unit's own first, then
/// aliases), for each search directory, the specific before the general; the type's own last.
pub fn directories_to_list(names: &[UnitName], search_path: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for name in names {
        let dirs = drop_in_directories(name);
        for base in search_path {
            out.extend(dirs.iter().map(|d| format!("{base}/{d}")));
        }
    }
    if let Some(name) = names.first() {
        let dir = type_directory(name);
        out.extend(search_path.iter().map(|base| format!("{base}/{dir}")));
    }
    out
}

/// Orders what was found: for one file name the first directory wins; the winners apply in name order.
pub fn order_drop_ins(found: Vec<FoundDropIn>) -> Vec<String> {
    let mut winners: std::collections::BTreeMap<String, FoundDropIn> =
        std::collections::BTreeMap::new();
    for file in found {
        let base = file.path.rsplit('/').next().unwrap_or("").to_owned();
        if base.ends_with(".conf") && !base.starts_with('.') {
            winners.entry(base).or_insert(file);
        }
    }
    winners
        .into_values()
        .filter(|f| !f.masked)
        .map(|f| f.path)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{FoundDropIn, directories_to_list, drop_in_directories, order_drop_ins};
    use crate::name::UnitName;

    #[test]
    fn directories() {
        let name = UnitName::parse("a-b-c@i.service").unwrap();
        assert_eq!(
            drop_in_directories(&name),
            [
                "a-b-c@i.service.d",
                "a-b-.service.d",
                "a-.service.d",
                "a-b-c@.service.d",
            ]
        );
        let listed = directories_to_list(&[UnitName::parse("x.service").unwrap()], &["/e", "/u"]);
        assert_eq!(
            listed,
            [
                "/e/x.service.d",
                "/u/x.service.d",
                "/e/service.d",
                "/u/service.d"
            ]
        );
    }

    #[test]
    fn order_and_hiding() {
        let f = |path: &str, masked| FoundDropIn {
            path: path.to_owned(),
            masked,
        };
        let ordered = order_drop_ins(vec![
            f("/e/x.service.d/20-b.conf", false),
            f("/e/x.service.d/10-a.conf", false),
            f("/r/x.service.d/10-a.conf", false),
            f("/r/x.service.d/40-m.conf", true),
            f("/u/x.service.d/40-m.conf", false),
            f("/u/service.d/30-t.conf", false),
            f("/u/service.d/readme", false),
        ]);
        assert_eq!(
            ordered,
            [
                "/e/x.service.d/10-a.conf",
                "/e/x.service.d/20-b.conf",
                "/u/service.d/30-t.conf"
            ]
        );
    }
}
