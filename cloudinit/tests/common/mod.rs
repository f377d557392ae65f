//! Shared by the integration tests: a root directory with accounts, and a service manager that records.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cloudinit::apply::{Ended, Patience, Root, UnitError, Units};

/// A recording service manager; units named `missing*` do not exist.
#[derive(Debug, Default)]
pub struct Recorder {
    pub calls: Vec<String>,
}

impl Units for Recorder {
    fn enable(&mut self, unit: &str, runtime: bool) -> Result<(), UnitError> {
        self.calls.push(format!("enable {unit} runtime={runtime}"));
        Ok(())
    }

    fn reload(&mut self) -> Result<(), UnitError> {
        self.calls.push("reload".to_owned());
        Ok(())
    }

    fn command(&mut self, unit: &str, verb: &str, patience: Patience) -> Result<Ended, UnitError> {
        self.calls.push(format!("{verb} {unit} {patience:?}"));
        if unit.starts_with("missing") {
            return Err(UnitError::NoSuchUnit(unit.to_owned()));
        }
        Ok(Ended::Done)
    }

    fn run(
        &mut self,
        unit: &str,
        _description: &str,
        argv: &[String],
        _patience: Patience,
    ) -> Result<Ended, UnitError> {
        self.calls.push(format!("run {unit} {argv:?}"));
        Ok(Ended::Done)
    }
}

/// A root directory with the accounts that every machine has.
pub struct Machine {
    pub dir: tempfile::TempDir,
    pub root: Root,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        for (name, text) in [
            (
                "passwd",
                "root:x:0:0::/root:/bin/bash\ncore:x:500:500::/home/core:/bin/bash\n",
            ),
            (
                "group",
                "root:x:0:\nsudo:x:150:core\ndocker:x:233:core\ncore:x:500:\n",
            ),
            ("shadow", "root:*:1::::::\ncore:*:1::::::\n"),
            ("gshadow", "root:*::\nsudo:!::core\n"),
        ] {
            std::fs::write(etc.join(name), text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        Self { dir, root }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}

/// A file of this directory.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}
