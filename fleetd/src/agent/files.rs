//! What the agent keeps on disk, in tmpfs: unit files, and a mark for each unit whose start was
//! asked for. Together they let a new daemon adopt what the old one left running.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fleet_model::agent::LocalUnit;
use fleet_model::{UnitFile, UnitName};

/// What stands in a mark before the start was asked for.
const UNSURE: &str = "starting";

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {}", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// A unit that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is known of it.
    pub unit: LocalUnit,
    /// Its start was about to be asked for; whether it was, nobody knows.
    pub unsure: bool,
}

/// The two directories.
#[derive(Debug, Clone)]
pub struct Files {
    units: PathBuf,
    marks: PathBuf,
}

impl Files {
    /// Makes the directories where they are missing.
    pub fn open(units: &Path, run: &Path) -> Result<Self, FileError> {
        let files = Self {
            units: units.to_owned(),
            marks: run.join("launched"),
        };
        for dir in [&files.units, &files.marks] {
            std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
        }
        Ok(files)
    }

    /// Where a unit's file is.
    #[must_use]
    pub fn path(&self, name: &UnitName) -> PathBuf {
        self.units.join(name.as_str())
    }

    /// Whether a unit's file is there.
    #[must_use]
    pub fn has(&self, name: &UnitName) -> bool {
        self.path(name).exists()
    }

    /// The units that are in place, with the hash of what is there and whether they were launched.
    pub fn scan(&self) -> Result<BTreeMap<UnitName, Found>, FileError> {
        let mut found = BTreeMap::new();
        let entries = std::fs::read_dir(&self.units).map_err(failed("list", &self.units))?;
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|n| UnitName::parse(n).ok()) else {
                continue;
            };
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            // A file that cannot be read gets a hash that no unit has, and so is replaced.
            let hash = UnitFile::parse(&text).map_or_else(|_| String::new(), |file| file.hash());
            let mark = std::fs::read_to_string(self.marks.join(name.as_str()));
            let mark = mark.unwrap_or_default();
            let mut words = mark.split_whitespace();
            let launched = words.next().is_some_and(|marked| marked == hash);
            let restart = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
            let unit = LocalUnit {
                hash: hash.into(),
                launched,
                restart,
            };
            let unsure = words.next() == Some(UNSURE);
            found.insert(name, Found { unit, unsure });
        }
        Ok(found)
    }

    /// The text that is in place.
    #[must_use]
    pub fn read(&self, name: &UnitName) -> Option<UnitFile> {
        UnitFile::parse(&std::fs::read_to_string(self.path(name)).ok()?).ok()
    }

    /// Puts a unit's file in place; nobody ever sees half of it.
    pub fn write(&self, name: &UnitName, file: &UnitFile) -> Result<(), FileError> {
        let path = self.path(name);
        // The suffix is no unit type, so a leftover is never taken for a unit.
        let temporary = self.units.join(format!("{name}.new"));
        let write = || {
            let mut out = std::fs::File::create(&temporary)?;
            out.write_all(file.to_string().as_bytes())?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(failed("write", &path))
    }

    /// Notes that the start of a unit is about to be asked for.
    pub fn mark_starting(
        &self,
        name: &UnitName,
        hash: &str,
        restart: u64,
    ) -> Result<(), FileError> {
        let path = self.marks.join(name.as_str());
        let text = format!("{hash} {restart} {UNSURE}\n");
        std::fs::write(&path, text).map_err(failed("write", &path))
    }

    /// Notes, or forgets (`None`), that a unit with this hash was launched, and for which restart.
    pub fn mark(&self, name: &UnitName, launched: Option<(&str, u64)>) -> Result<(), FileError> {
        let path = self.marks.join(name.as_str());
        match launched {
            Some((hash, restart)) => {
                let text = format!("{hash} {restart}\n");
                std::fs::write(&path, text).map_err(failed("write", &path))
            }
            None => remove(&path),
        }
    }

    /// Whether a unit is noted as launched.
    #[must_use]
    pub fn is_marked(&self, name: &UnitName) -> bool {
        self.marks.join(name.as_str()).exists()
    }

    /// Takes a unit's file and mark away.
    pub fn remove(&self, name: &UnitName) -> Result<(), FileError> {
        self.mark(name, None)?;
        remove(&self.path(name))
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Files::open(&dir.path().join("units"), dir.path()).unwrap();
        let file = UnitFile::parse("[Service]\nExecStart=/bin/true\n").unwrap();
        let (a, b) = (
            UnitName::parse("a.service").unwrap(),
            UnitName::parse("b@1.timer").unwrap(),
        );
        let files = open();
        files.write(&a, &file).unwrap();
        files.write(&b, &file).unwrap();
        files.mark(&a, Some((&file.hash(), 7))).unwrap();
        files.mark(&b, Some(("another", 0))).unwrap();
        std::fs::write(files.units.join("notes.txt"), "x").unwrap();
        let found = open().scan().unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|(n, f)| (n.as_str(), f.unit.launched, f.unit.restart))
            .collect();
        assert_eq!(seen, [("a.service", true, 7), ("b@1.timer", false, 0)]);
        // As daemons before restarts wrote it.
        std::fs::write(files.marks.join("a.service"), file.hash()).unwrap();
        assert!(files.scan().unwrap()[&a].unit.launched);
        files.mark_starting(&a, &file.hash(), 8).unwrap();
        let starting = files.scan().unwrap().remove(&a).unwrap();
        assert!(starting.unsure && starting.unit.launched && starting.unit.restart == 8);
        assert_eq!(&*found[&a].unit.hash, file.hash());
        assert!(!found[&a].unsure);
        files.remove(&a).unwrap();
        files.remove(&a).unwrap();
        assert_eq!(files.scan().unwrap().len(), 1);
    }
}
