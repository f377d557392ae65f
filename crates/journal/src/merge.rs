//! Several files read as one journal.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dir::journal_files;
use crate::file::{Entry, FileReader, Meta, ReadError};
use crate::id::Id128;
use crate::matches::{Match, Resolved};

/// Which way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards newer entries.
    Forward,
    /// Towards older entries.
    Backward,
}

/// A place in the journal that survives rotation, as text `s=…;i=…;b=…;m=…;t=…;x=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub Meta);

/// The text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a journal cursor")]
pub struct CursorError(String);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let m = &self.0;
        write!(
            f,
            "s={};i={:x};b={};m={:x};t={:x};x={:x}",
            m.seqnum_id, m.seqnum, m.boot_id, m.monotonic, m.realtime, m.xor_hash
        )
    }
}

impl std::str::FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let wrong = || CursorError(text.to_owned());
        let mut parts = BTreeMap::new();
        for part in text.split(';') {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            parts.insert(key, value);
        }
        let id = |key| {
            parts
                .get(key)
                .map_or(Some(Id128::default()), |v| Id128::parse(v))
        };
        let number = |key| {
            parts
                .get(key)
                .map_or(Some(0), |v: &&str| u64::from_str_radix(v, 16).ok())
        };
        let meta = || {
            Some(Meta {
                seqnum_id: id("s")?,
                seqnum: number("i")?,
                boot_id: id("b")?,
                monotonic: number("m")?,
                realtime: number("t")?,
                xor_hash: number("x")?,
            })
        };
        // Enough must be there to find a place: a number in a sequence, a time in a boot, or a time.
        let has = |key| parts.contains_key(key);
        let enough = has("s") && has("i") || has("b") && has("m") || has("t");
        meta().filter(|_| enough).map(Cursor).ok_or_else(wrong)
    }
}

/// A boot that the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Its identifier.
    pub id: Id128,
    /// Wall clock of its first entry.
    pub first: u64,
    /// Wall clock of its last entry.
    pub last: u64,
}

/// Where reading starts.
#[derive(Debug, Clone, Copy)]
enum Place {
    Head,
    Tail,
    Realtime(u64),
    /// Next to this entry; whether the entry itself is still to be read.
    At(Meta, bool),
}

#[derive(Debug)]
struct Source {
    file: FileReader,
    wanted: Resolved,
    /// Offset from which the next entry is sought, in the journal's direction. `None`: nothing lies that way.
    from: Option<u64>,
    /// What was found there.
    found: Option<(u64, Meta)>,
}

/// Journal files merged into one sequence.
#[derive(Debug)]
pub struct Journal {
    sources: Vec<Source>,
    dirs: Vec<PathBuf>,
    wanted: Match,
    place: Place,
    direction: Direction,
    problems: Vec<ReadError>,
}

impl Journal {
    /// All journal files in these directories; more are found by [`Journal::refresh`]. A file that cannot be opened is a
    /// problem ([`Journal::take_problems`]), not an error.
    pub fn open_dirs(dirs: &[PathBuf]) -> Self {
        let mut journal = Self {
            sources: Vec::new(),
            dirs: dirs.to_vec(),
            wanted: Match::And(Vec::new()),
            place: Place::Head,
            direction: Direction::Forward,
            problems: Vec::new(),
        };
        journal.scan();
        journal.locate_all();
        journal
    }

    /// Exactly these files.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self, ReadError> {
        let mut journal = Self::open_dirs(&[]);
        for path in paths {
            let file = FileReader::open(path)?;
            journal.add(file);
        }
        journal.locate_all();
        Ok(journal)
    }

    /// Restricts what is read. Keeps the place.
    pub fn set_match(&mut self, wanted: Match) {
        self.wanted = wanted;
        for at in 0..self.sources.len() {
            self.resolve(at);
        }
        self.locate_all();
    }

    /// Damage and unreadable files met so far; empties the list.
    pub fn take_problems(&mut self) -> Vec<ReadError> {
        std::mem::take(&mut self.problems)
    }

    /// The files being read.
    pub fn files(&self) -> impl Iterator<Item = &FileReader> {
        self.sources.iter().map(|s| &s.file)
    }

    /// The directories being read.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// To before the first entry.
    pub fn seek_head(&mut self) {
        self.seek(Place::Head);
    }

    /// To behind the last entry.
    pub fn seek_tail(&mut self) {
        self.seek(Place::Tail);
    }

    /// To the first entry of this wall clock time or later.
    pub fn seek_realtime(&mut self, usec: u64) {
        self.seek(Place::Realtime(usec));
    }

    /// To the entry of the cursor, or with `after` behind it.
    pub fn seek_cursor(&mut self, cursor: &Cursor, after: bool) {
        self.seek(Place::At(cursor.0, !after));
    }

    fn seek(&mut self, place: Place) {
        self.place = place;
        self.locate_all();
    }

    /// The next entry towards newer ones.
    pub fn next_entry(&mut self) -> Option<Entry> {
        self.step(Direction::Forward)
    }

    /// The next entry towards older ones.
    pub fn previous_entry(&mut self) -> Option<Entry> {
        self.step(Direction::Backward)
    }

    /// Moves on without reading the fields.
    pub fn skip(&mut self, direction: Direction) -> Option<Meta> {
        self.advance(direction).map(|(_, _, meta)| meta)
    }

    fn step(&mut self, direction: Direction) -> Option<Entry> {
        loop {
            let (at, offset, _) = self.advance(direction)?;
            match self.sources[at].file.entry(offset) {
                Ok(entry) => return Some(entry),
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    /// Chooses the nearest entry of all files and moves every file past it.
    fn advance(&mut self, direction: Direction) -> Option<(usize, u64, Meta)> {
        if direction != self.direction {
            self.direction = direction;
            self.locate_all();
        }
        let nearer = |a: &Meta, b: &Meta| match direction {
            Direction::Forward => a.order(b) == Ordering::Less,
            Direction::Backward => a.order(b) == Ordering::Greater,
        };
        let mut best: Option<(usize, u64, Meta)> = None;
        for at in 0..self.sources.len() {
            if let Some((offset, meta)) = self.find(at)
                && best
                    .as_ref()
                    .is_none_or(|(_, _, other)| nearer(&meta, other))
            {
                best = Some((at, offset, meta));
            }
        }
        let (_, _, meta) = best?;
        // The same entry may be in two files (copied from /run to /var before /run was cleared).
        for source in &mut self.sources {
            if let Some((offset, other)) = source.found
                && other.order(&meta) == Ordering::Equal
            {
                source.found = None;
                source.from = match direction {
                    Direction::Forward => Some(offset + 1),
                    Direction::Backward => offset.checked_sub(1),
                };
            }
        }
        self.place = Place::At(meta, false);
        best
    }

    /// The nearest readable entry of one file.
    fn find(&mut self, at: usize) -> Option<(u64, Meta)> {
        let direction = self.direction;
        let source = &mut self.sources[at];
        while source.found.is_none() {
            let offset = source.wanted.seek(&source.file, source.from?, direction)?;
            match source.file.meta(offset) {
                Ok(meta) => source.found = Some((offset, meta)),
                Err(problem) => {
                    self.problems.push(problem);
                    source.from = match direction {
                        Direction::Forward => offset.checked_add(1),
                        Direction::Backward => offset.checked_sub(1),
                    };
                }
            }
        }
        source.found
    }

    fn locate_all(&mut self) {
        for at in 0..self.sources.len() {
            self.locate(at);
        }
    }

    /// Sets where one file is sought from, for the journal's place and direction.
    fn locate(&mut self, at: usize) {
        let source = &mut self.sources[at];
        let file = &source.file;
        let main = file.main();
        let forward = self.direction == Direction::Forward;
        source.found = None;
        // Index of the first entry that lies behind the place.
        let index = match self.place {
            Place::Head => 0,
            Place::Tail => main.len(),
            Place::Realtime(usec) => main.partition(file, |offset| {
                file.meta(offset).is_ok_and(|m| m.realtime < usec)
            }),
            Place::At(place, inclusive) => main.partition(file, |offset| {
                file.meta(offset).is_ok_and(|m| match m.order(&place) {
                    Ordering::Less => true,
                    // Read forward, the entry itself comes next if it is wanted; read backward likewise.
                    Ordering::Equal => inclusive != forward,
                    Ordering::Greater => false,
                })
            }),
        };
        source.from = if forward {
            // Behind the end: whatever will be appended.
            Some(main.get(file, index).unwrap_or(u64::MAX))
        } else {
            index.checked_sub(1).and_then(|last| main.get(file, last))
        };
        if forward && source.from == Some(u64::MAX) {
            source.from = main
                .len()
                .checked_sub(1)
                .and_then(|last| main.get(file, last))
                .map_or(Some(0), |last| last.checked_add(1));
        }
    }

    fn resolve(&mut self, at: usize) {
        let source = &mut self.sources[at];
        source.wanted = Resolved::new(&source.file, &self.wanted).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Resolved::Never
        });
    }

    fn add(&mut self, file: FileReader) {
        self.sources.push(Source {
            file,
            wanted: Resolved::Never,
            from: None,
            found: None,
        });
        self.resolve(self.sources.len() - 1);
    }

    /// Opens files that have appeared. Gives the number of the first new one.
    fn scan(&mut self) -> usize {
        let known = self.sources.len();
        for dir in self.dirs.clone() {
            let files = match journal_files(&dir) {
                Ok(files) => files,
                Err(source) => {
                    self.problems.push(ReadError::Io { path: dir, source });
                    continue;
                }
            };
            for found in files {
                self.open_new(&found.path);
            }
        }
        known
    }

    fn open_new(&mut self, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let Ok(meta) = std::fs::metadata(path) else {
            return;
        };
        let identity = (meta.dev(), meta.ino());
        if self.sources.iter().any(|s| s.file.identity() == identity) {
            return;
        }
        match FileReader::open(path) {
            Ok(file) => self.add(file),
            Err(problem) => self.problems.push(problem),
        }
    }

    /// Takes note of new entries and new files. Reading forward goes on where it was.
    pub fn refresh(&mut self) {
        for at in 0..self.sources.len() {
            match self.sources[at].file.refresh() {
                Ok(true) => self.resolve(at),
                Ok(false) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
        for at in self.scan()..self.sources.len() {
            // Reading from the tail on: what a new file holds was written since.
            if matches!(self.place, Place::Tail) && self.direction == Direction::Forward {
                self.sources[at].from = Some(0);
            } else {
                self.locate(at);
            }
        }
    }

    /// All boots, oldest first.
    pub fn boots(&mut self) -> Vec<Boot> {
        let mut boots: BTreeMap<Id128, (u64, u64)> = BTreeMap::new();
        for source in &self.sources {
            if let Err(problem) = boots_of(&source.file, &mut boots) {
                self.problems.push(problem);
            }
        }
        let mut list: Vec<_> = boots
            .into_iter()
            .map(|(id, (first, last))| Boot { id, first, last })
            .collect();
        list.sort_by_key(|boot| (boot.first, boot.last));
        list
    }

    /// All values that a field has anywhere, sorted.
    pub fn values(&mut self, name: &str) -> Vec<Vec<u8>> {
        let mut values = std::collections::BTreeSet::new();
        for source in &self.sources {
            let file = &source.file;
            match file.values_of(name.as_bytes()) {
                Ok(list) => values.extend(
                    list.into_iter()
                        .filter_map(|at| file.payload(at).ok())
                        .filter_map(|p| {
                            Some(
                                p.strip_prefix(name.as_bytes())?
                                    .strip_prefix(b"=")?
                                    .to_vec(),
                            )
                        }),
                ),
                Err(problem) => self.problems.push(problem),
            }
        }
        values.into_iter().collect()
    }

    /// Names of all fields that occur, sorted.
    pub fn field_names(&mut self) -> Vec<Vec<u8>> {
        let mut names = std::collections::BTreeSet::new();
        for source in &self.sources {
            match source.file.field_names() {
                Ok(list) => names.extend(list),
                Err(problem) => self.problems.push(problem),
            }
        }
        names.into_iter().collect()
    }
}

fn boots_of(file: &FileReader, boots: &mut BTreeMap<Id128, (u64, u64)>) -> Result<(), ReadError> {
    for at in file.values_of(b"_BOOT_ID")? {
        let payload = file.payload(at)?;
        let id = std::str::from_utf8(&payload[b"_BOOT_ID=".len().min(payload.len())..]).ok();
        let Some(id) = id.and_then(Id128::parse) else {
            continue;
        };
        let chain = file.entries_with(at)?;
        let time = |index: u64| {
            chain
                .get(file, index)
                .and_then(|offset| file.meta(offset).ok())
        };
        let last = chain.len().checked_sub(1).and_then(time);
        let (Some(first), Some(last)) = (time(0), last) else {
            continue;
        };
        let span = boots.entry(id).or_insert((first.realtime, last.realtime));
        span.0 = span.0.min(first.realtime);
        span.1 = span.1.max(last.realtime);
    }
    Ok(())
}
