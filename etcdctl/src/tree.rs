//! Directories out of flat keys. No I/O.

use std::collections::BTreeMap;

use etcd_kv::KeyValue;

/// A file or a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its path; empty for the root.
    pub path: String,
    /// The key with the path's name: a file; or the marker of a directory.
    pub kv: Option<KeyValue>,
    /// Whether it is a directory.
    pub dir: bool,
    /// What is in it, by name.
    pub children: BTreeMap<String, Node>,
}

/// An argument as the path that it means: absolute, without empty parts, `.` and `..`; the root is "".
pub fn clean(key: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in key.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().flat_map(|part| ["/", part]).collect()
}

/// The directories above a path, outermost first, without the root.
pub fn parents(path: &str) -> Vec<String> {
    path.match_indices('/')
        .skip(1)
        .map(|(at, _)| path[..at].to_owned())
        .collect()
}

impl Node {
    /// The directory `path` with everything below it. Names that begin with `_` are hidden, as in v2, unless the path
    /// itself leads there.
    pub fn directory(path: &str, below: impl IntoIterator<Item = KeyValue>) -> Self {
        let mut root = Self {
            path: path.to_owned(),
            dir: true,
            ..Self::default()
        };
        for kv in below {
            let key = kv.key_str().into_owned();
            let Some(rest) = key.strip_prefix(path).and_then(|r| r.strip_prefix('/')) else {
                continue;
            };
            root.insert(rest, kv);
        }
        root
    }

    fn insert(&mut self, rest: &str, kv: KeyValue) {
        if rest.is_empty() {
            // The directory's own marker.
            self.kv = Some(kv);
            return;
        }
        let (name, below) = match rest.split_once('/') {
            Some((name, below)) => (name, Some(below)),
            None => (rest, None),
        };
        if name.is_empty() || name.starts_with('_') {
            return;
        }
        let path = format!("{}/{name}", self.path);
        let child = self
            .children
            .entry(name.to_owned())
            .or_insert_with(|| Self {
                path,
                ..Self::default()
            });
        match below {
            Some(below) => {
                child.dir = true;
                child.insert(below, kv);
            }
            // A key that is also a prefix (only v3 clients make such) shows as the directory.
            None if !child.dir => child.kv = Some(kv),
            None => {}
        }
    }

    /// All nodes below, each before what is in it.
    pub fn walk<'a>(&'a self, recursive: bool, visit: &mut dyn FnMut(&'a Node)) {
        for child in self.children.values() {
            visit(child);
            if recursive {
                child.walk(true, visit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kv(key: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Vec::new(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: None,
        }
    }

    #[track_caller]
    fn check(path: &str, keys: &[&str], want: &[&str]) {
        let tree = Node::directory(path, keys.iter().map(|k| kv(k)));
        let mut got = Vec::new();
        tree.walk(true, &mut |node| {
            got.push(format!("{}{}", node.path, if node.dir { "/" } else { "" }));
        });
        assert_eq!(got, want);
    }

    #[test]
    fn keys_become_directories() {
        check(
            "",
            &["/a", "/b-x", "/b/c", "/b/d/e"],
            &["/a", "/b/", "/b/c", "/b/d/", "/b/d/e", "/b-x"],
        );
        check("/b", &["/b/", "/b/c", "/b/d/"], &["/b/c", "/b/d/"]);
        check("", &["/_hidden/x", "/_y", "no-slash", "/a//b"], &["/a/"]);
        check("/_hidden", &["/_hidden/x"], &["/_hidden/x"]);
        check("", &["/a", "/a/b"], &["/a/", "/a/b"]);
    }

    #[test]
    fn paths_are_cleaned() {
        for (key, want) in [
            ("a", "/a"),
            ("/a//b/", "/a/b"),
            ("/", ""),
            ("", ""),
            ("a/../b", "/b"),
            ("../x", "/x"),
            ("./a", "/a"),
        ] {
            assert_eq!(clean(key), want, "{key}");
        }
        assert_eq!(parents("/a/b/c"), ["/a", "/a/b"]);
        assert!(parents("/a").is_empty());
        assert!(parents("").is_empty());
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing(key in "[a-b/._]{0,12}") {
            let once = clean(&key);
            prop_assert_eq!(clean(&once), once);
        }
    }
}
