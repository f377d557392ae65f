//! The unit search path on disk: which file, which drop-ins, which links belong to a name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use unit_engine::api::{FileRef, MaskState, UnitFiles};
use unit_file::UnitName;
use unit_file::dropin::{FoundDropIn, directories_to_list, order_drop_ins};

/// What a directory entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// A file with contents.
    File,
    /// An empty file, or a link to /dev/null.
    Mask,
    /// A link to the file with this base name (somewhere).
    Link(String),
}

/// What a name's file is, for its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effective {
    /// A unit file of its own.
    File,
    /// It masks the unit.
    Mask,
    /// A link to another unit's file.
    Alias,
}

#[derive(Debug, Default)]
struct Listing {
    /// Modification time (ns) and inode of the directory when it was read; none if it did not exist.
    stamp: Option<(i64, i64, u64)>,
    entries: BTreeMap<String, Entry>,
    directories: BTreeSet<String>,
}

/// The listed search path.
#[derive(Debug)]
pub(crate) struct UnitDirectories {
    path: Vec<String>,
    listings: HashMap<String, Listing>,
    doubted: bool,
}

impl UnitDirectories {
    /// Nothing read yet.
    pub(crate) fn new(path: Vec<String>) -> UnitDirectories {
        UnitDirectories {
            path,
            listings: HashMap::new(),
            doubted: true,
        }
    }

    /// Compare with the disk before the next answer.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Everything the search path says about a name.
    pub(crate) fn unit_files(&mut self, name: &UnitName) -> UnitFiles {
        self.refresh();
        let mut out = UnitFiles::default();
        let id = self.resolve(name, &mut out);
        let template = id.template();
        let mut names = vec![id.clone()];
        out.aliases = self.aliases_of(&id, template.as_ref());
        if id != *name && !out.aliases.contains(name) {
            out.aliases.push(name.clone());
        }
        names.extend(out.aliases.iter().cloned());
        out.drop_ins = self.drop_ins(&names);
        for (suffix, list) in [
            ("wants", &mut out.wants),
            ("requires", &mut out.requires),
            ("upholds", &mut out.upholds),
        ] {
            *list = self.links_in(&names, template.as_ref(), suffix);
        }
        out.id = (id != *name).then_some(id);
        out.transient = out
            .fragment
            .as_ref()
            .is_some_and(|f| f.path.starts_with("/run/systemd/transient/"));
        out
    }

    /// Follows aliases from `name`, fills in fragment and mask, and returns the real name.
    fn resolve(&self, name: &UnitName, out: &mut UnitFiles) -> UnitName {
        let mut current = name.clone();
        // A chain longer than this is a loop.
        for _ in 0..16 {
            let own = self.lookup(current.as_str());
            let by_template = || {
                let template = current.template().filter(|_| current.is_instance())?;
                self.lookup(template.as_str())
                    .map(|(dir, entry)| (dir, entry, template.as_str().to_owned()))
            };
            let found = own
                .map(|(dir, entry)| (dir, entry, current.as_str().to_owned()))
                .or_else(by_template);
            let Some((dir, entry, file)) = found else {
                return current;
            };
            match entry {
                Entry::Mask => {
                    out.mask = MaskState::Masked;
                    out.fragment = file_ref(&format!("{dir}/{file}"));
                    return current;
                }
                Entry::File => {
                    out.fragment = file_ref(&format!("{dir}/{file}"));
                    return current;
                }
                Entry::Link(target) => match alias_target(&current, &file, target) {
                    Some(next) if next != current => current = next,
                    _ => {
                        out.fragment = file_ref(&format!("{dir}/{file}"));
                        return current;
                    }
                },
            }
        }
        current
    }

    /// Names of all unit files in the search path.
    pub(crate) fn names(&mut self) -> BTreeSet<String> {
        self.refresh();
        self.listings
            .values()
            .flat_map(|l| l.entries.keys().cloned())
            .collect()
    }

    /// The directory whose file counts for this name, and whether it masks the unit or is an alias.
    pub(crate) fn effective(&mut self, file: &str) -> Option<(String, Effective)> {
        self.refresh();
        let (dir, entry) = self.lookup(file)?;
        let kind = match entry {
            Entry::File => Effective::File,
            Entry::Mask => Effective::Mask,
            Entry::Link(_) => Effective::Alias,
        };
        Some((dir.to_owned(), kind))
    }

    fn lookup(&self, file: &str) -> Option<(&str, &Entry)> {
        self.path
            .iter()
            .find_map(|dir| Some((dir.as_str(), self.listings.get(dir)?.entries.get(file)?)))
    }

    /// Names that are links to this unit, in the whole search path.
    fn aliases_of(&self, id: &UnitName, template: Option<&UnitName>) -> Vec<UnitName> {
        let mut found = BTreeSet::new();
        for dir in &self.path {
            let Some(listing) = self.listings.get(dir) else {
                continue;
            };
            for (file, entry) in &listing.entries {
                let Entry::Link(target) = entry else {
                    continue;
                };
                let to_id = target == id.as_str();
                let to_template = template.is_some_and(|t| target == t.as_str());
                // A name that a higher directory takes for something else is no alias.
                let effective = self.lookup(file).is_some_and(|(d, _)| d == dir);
                let Ok(alias) = UnitName::parse(file) else {
                    continue;
                };
                if !effective || !(to_id || to_template) || alias.unit_type() != id.unit_type() {
                    continue;
                }
                let alias = match id.instance() {
                    Some(instance) if alias.is_template() => alias.with_instance(instance).ok(),
                    _ if to_id => Some(alias),
                    _ => None,
                };
                found.extend(alias.filter(|a| a != id));
            }
        }
        found.into_iter().collect()
    }

    fn drop_ins(&self, names: &[UnitName]) -> Vec<FileRef> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for dir in directories_to_list(names, &path)
            .into_iter()
            .filter(|d| self.has_directory(d))
        {
            for file in sorted_names(&dir) {
                let path = format!("{dir}/{file}");
                let masked = std::fs::read_link(&path).is_ok_and(|t| t == Path::new("/dev/null"));
                found.push(FoundDropIn { path, masked });
            }
        }
        order_drop_ins(found)
            .iter()
            .filter_map(|p| file_ref(p))
            .collect()
    }

    /// Names linked in `NAME.wants/` and the like.
    fn links_in(
        &self,
        names: &[UnitName],
        template: Option<&UnitName>,
        suffix: &str,
    ) -> Vec<String> {
        let mut seen: BTreeMap<String, bool> = BTreeMap::new();
        for name in names.iter().chain(template) {
            for base in &self.path {
                let dir = format!("{base}/{name}.{suffix}");
                if !self.has_directory(&dir) {
                    continue;
                }
                for file in sorted_names(&dir) {
                    let path = format!("{dir}/{file}");
                    // The first directory decides, also when it says "not this one".
                    seen.entry(file).or_insert_with_key(|name| {
                        let masked =
                            std::fs::read_link(&path).is_ok_and(|t| t == Path::new("/dev/null"));
                        !masked && UnitName::parse(name).is_ok()
                    });
                }
            }
        }
        seen.into_iter()
            .filter(|(_, counts)| *counts)
            .map(|(name, _)| name)
            .collect()
    }

    fn has_directory(&self, path: &str) -> bool {
        let Some((base, name)) = path.rsplit_once('/') else {
            return false;
        };
        self.listings
            .get(base)
            .is_some_and(|l| l.directories.contains(name))
    }

    fn refresh(&mut self) {
        if !std::mem::take(&mut self.doubted) {
            return;
        }
        for dir in &self.path {
            let now = std::fs::metadata(dir)
                .ok()
                .map(|m| (m.mtime(), m.mtime_nsec(), m.ino()));
            let known = self.listings.get(dir);
            if known.is_none_or(|l| l.stamp != now) {
                self.listings.insert(dir.clone(), read(dir, now));
            }
        }
    }
}

/// The unit that an alias link stands for; the instance goes along with a template.
fn alias_target(current: &UnitName, file: &str, target: &str) -> Option<UnitName> {
    let target = UnitName::parse(target).ok()?;
    if target.as_str() == file || target.unit_type() != current.unit_type() {
        return None;
    }
    match current.instance() {
        Some(instance) if target.is_template() => target.with_instance(instance).ok(),
        _ if target.is_template() && !current.is_template() => None,
        _ => Some(target),
    }
}

fn read(dir: &str, stamp: Option<(i64, i64, u64)>) -> Listing {
    let mut listing = Listing {
        stamp,
        ..Listing::default()
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return listing;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() || kind.is_symlink() && entry.path().is_dir() {
            listing.directories.insert(name);
        } else if UnitName::parse(&name).is_ok() {
            let found = if kind.is_symlink() {
                link(&entry.path())
            } else {
                file(&entry.path())
            };
            listing.entries.extend(found.map(|e| (name, e)));
        }
    }
    listing
}

fn file(path: &Path) -> Option<Entry> {
    let meta = std::fs::metadata(path).ok()?;
    Some(if meta.len() == 0 {
        Entry::Mask
    } else {
        Entry::File
    })
}

fn link(path: &Path) -> Option<Entry> {
    let target = std::fs::read_link(path).ok()?;
    if target == Path::new("/dev/null") {
        return Some(Entry::Mask);
    }
    let base = target.file_name()?.to_str()?.to_owned();
    // A link under its own name is a linked unit file; its text is read through the link.
    if path.file_name().is_some_and(|n| n == base.as_str()) {
        file(path)
    } else {
        Some(Entry::Link(base))
    }
}

fn sorted_names(dir: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn file_ref(path: &str) -> Option<FileRef> {
    let meta = std::fs::metadata(path).ok()?;
    let mut stamp: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [
        meta.mtime() as u64,
        meta.mtime_nsec() as u64,
        meta.len(),
        meta.ino(),
    ] {
        stamp = (stamp ^ part).wrapping_mul(0x100_0000_01b3);
    }
    Some(FileRef {
        path: path.to_owned(),
        stamp,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree {
        dir: tempfile::TempDir,
        units: UnitDirectories,
    }

    impl Tree {
        fn new() -> Tree {
            let dir = tempfile::tempdir().unwrap();
            let path = ["etc", "run", "usr"].map(|d| {
                fs::create_dir(dir.path().join(d)).unwrap();
                dir.path().join(d).display().to_string()
            });
            Tree {
                dir,
                units: UnitDirectories::new(path.to_vec()),
            }
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, target: &str, path: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        fn get(&mut self, name: &str) -> UnitFiles {
            self.units.doubt();
            self.units.unit_files(&UnitName::parse(name).unwrap())
        }

        fn short(&self, file: &FileRef) -> String {
            file.path
                .strip_prefix(self.dir.path().to_str().unwrap())
                .unwrap()
                .to_owned()
        }
    }

    #[test]
    fn higher_directories_hide_lower_ones_and_links_are_aliases() {
        let mut tree = Tree::new();
        tree.file("usr/etcd.service", "[Service]");
        tree.file("usr/a.service", "[Service]");
        tree.file("etc/a.service", "[Service]");
        tree.link("etcd.service", "usr/etcd2.service");
        let files = tree.get("etcd2.service");
        assert_eq!(files.id.unwrap().as_str(), "etcd.service");
        assert_eq!(
            tree.get("etcd.service").aliases[0].as_str(),
            "etcd2.service"
        );
        let fragment = tree.get("a.service").fragment.unwrap();
        assert_eq!(tree.short(&fragment), "/etc/a.service");
        assert!(tree.get("nosuch.service").fragment.is_none());
    }

    #[test]
    fn links_to_null_and_empty_files_mask() {
        let mut tree = Tree::new();
        tree.file("usr/a.service", "[Service]");
        tree.link("/dev/null", "etc/a.service");
        tree.file("etc/b.service", "");
        assert_eq!(tree.get("a.service").mask, MaskState::Masked);
        assert_eq!(tree.get("b.service").mask, MaskState::Masked);
    }

    #[test]
    fn instances_use_their_template_and_aliased_templates_keep_the_instance() {
        let mut tree = Tree::new();
        tree.file("usr/web@.service", "[Service]");
        tree.link("web@.service", "usr/www@.service");
        let fragment = tree.get("web@1.service").fragment.unwrap();
        assert_eq!(tree.short(&fragment), "/usr/web@.service");
        assert_eq!(
            tree.get("www@7.service").id.unwrap().as_str(),
            "web@7.service"
        );
        assert_eq!(
            tree.get("web@7.service").aliases[0].as_str(),
            "www@7.service"
        );
    }

    #[test]
    fn drop_ins_come_from_all_names_in_order_and_can_be_hidden() {
        let mut tree = Tree::new();
        tree.file("usr/etcd.service", "[Service]");
        tree.link("etcd.service", "usr/etcd2.service");
        tree.file("run/etcd2.service.d/20-cloudinit.conf", "x");
        tree.file("usr/etcd.service.d/10-a.conf", "x");
        tree.file("usr/etcd.service.d/30-gone.conf", "x");
        tree.link("/dev/null", "etc/etcd.service.d/30-gone.conf");
        let files = tree.get("etcd.service");
        let names: Vec<String> = files.drop_ins.iter().map(|f| tree.short(f)).collect();
        assert_eq!(
            names,
            [
                "/usr/etcd.service.d/10-a.conf",
                "/run/etcd2.service.d/20-cloudinit.conf"
            ]
        );
    }

    #[test]
    fn wants_links_are_collected_and_a_change_is_seen_at_the_next_turn() {
        let mut tree = Tree::new();
        tree.file("usr/multi-user.target", "[Unit]");
        tree.link("../a.service", "usr/multi-user.target.wants/a.service");
        tree.link("../b.service", "etc/multi-user.target.wants/b.service");
        tree.link("/dev/null", "etc/multi-user.target.wants/a.service");
        assert_eq!(tree.get("multi-user.target").wants, ["b.service"]);
        tree.file("etc/new.service", "[Service]");
        assert!(tree.get("new.service").fragment.is_some());
    }
}
