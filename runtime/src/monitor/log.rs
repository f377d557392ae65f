//! Where a container's output goes: a file of JSON lines for `docker logs`, and the journal.
//!
//! Lines are written as they end; a line longer than 16 KiB is cut and the pieces marked. Output that is no
//! UTF-8 is kept as base64. Neither a full disk nor a dead journal stops the container: what cannot be
//! written is counted and said later.

use crate::container::Config;
use crate::time;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Longest piece of a line.
pub const LINE: usize = 16 << 10;
/// Size of one file, and how many there are.
const FILE: u64 = 10 << 20;
const FILES: u32 = 3;
/// Bytes kept for a journal that does not take them.
const JOURNAL_QUEUE: usize = 1 << 20;
const JOURNAL: &str = "/run/systemd/journal/socket";

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The text with its line feed; without one the line goes on in the next.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// The bytes, if they are no text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base64: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When.
    pub time: String,
}

impl Line {
    /// The bytes as they came.
    pub fn bytes(&self) -> Vec<u8> {
        if self.base64.is_empty() {
            return self.log.clone().into_bytes();
        }
        base64::engine::general_purpose::STANDARD
            .decode(&self.base64)
            .unwrap_or_default()
    }
}

/// The files of a container, oldest first.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    (0..FILES)
        .rev()
        .map(|index| file(directory, index))
        .filter(|path| path.exists())
        .collect()
}

fn file(directory: &Path, index: u32) -> PathBuf {
    match index {
        0 => directory.join("log.json"),
        _ => directory.join(format!("log.json.{index}")),
    }
}

/// Both places.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    file: Option<File>,
    size: u64,
    lost: u64,
    journal: Option<Journal>,
    partial: [Vec<u8>; 2],
}

impl Log {
    /// For a container; `none` writes nothing.
    pub fn open(directory: &Path, config: &Config) -> Log {
        let wanted = config.log_driver != "none";
        let mut log = Log {
            directory: directory.to_owned(),
            file: None,
            size: 0,
            lost: 0,
            journal: (wanted && config.log_driver != "json-file").then(|| Journal::new(config)),
            partial: [Vec::new(), Vec::new()],
        };
        if wanted {
            log.reopen();
        }
        log
    }

    fn reopen(&mut self) {
        let path = file(&self.directory, 0);
        match OpenOptions::new().append(true).create(true).open(&path) {
            Ok(file) => {
                self.size = file.metadata().map_or(0, |metadata| metadata.len());
                self.file = Some(file);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the container's output is not kept");
                self.file = None;
            }
        }
    }

    /// Takes output.
    pub fn write(&mut self, error: bool, bytes: &[u8]) {
        let mut pending = std::mem::take(&mut self.partial[usize::from(error)]);
        pending.extend_from_slice(bytes);
        let mut rest = &pending[..];
        loop {
            let end = match rest.iter().take(LINE).position(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if rest.len() >= LINE => LINE,
                None => break,
            };
            let (line, after) = rest.split_at(end);
            self.line(error, line);
            rest = after;
        }
        self.partial[usize::from(error)] = rest.to_vec();
    }

    /// Writes lines that never ended.
    pub fn finish(&mut self) {
        for error in [false, true] {
            let rest = std::mem::take(&mut self.partial[usize::from(error)]);
            if !rest.is_empty() {
                self.line(error, &rest);
            }
        }
        self.flush_journal();
    }

    fn line(&mut self, error: bool, bytes: &[u8]) {
        if let Some(journal) = &mut self.journal {
            journal.send(error, bytes);
        }
        if self.file.is_none() {
            return;
        }
        let mut line = Line {
            log: String::new(),
            base64: String::new(),
            stream: if error { "stderr" } else { "stdout" }.to_owned(),
            time: time::now(),
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => line.log = text.to_owned(),
            Err(_) => line.base64 = base64::engine::general_purpose::STANDARD.encode(bytes),
        }
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        self.append(&text);
    }

    fn append(&mut self, text: &[u8]) {
        if self.size + text.len() as u64 > FILE {
            self.rotate();
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(text) {
            Ok(()) => {
                self.size += text.len() as u64;
                if self.lost > 0 {
                    tracing::warn!(
                        lines = self.lost,
                        "output lines were lost because they could not be written"
                    );
                    self.lost = 0;
                }
            }
            Err(_) => self.lost += 1,
        }
    }

    fn rotate(&mut self) {
        for index in (0..FILES - 1).rev() {
            let _ = fs::rename(
                file(&self.directory, index),
                file(&self.directory, index + 1),
            );
        }
        self.reopen();
    }

    /// Tries again what the journal did not take; true if something is left.
    pub fn flush_journal(&mut self) -> bool {
        self.journal.as_mut().is_some_and(Journal::flush)
    }
}

#[derive(Debug)]
struct Journal {
    socket: Option<UnixDatagram>,
    head: Vec<u8>,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    dropped: u64,
}

impl Journal {
    fn new(config: &Config) -> Journal {
        let mut head = Vec::new();
        let id12 = config.short().to_owned();
        for (key, value) in [
            ("SYSLOG_IDENTIFIER", &config.name),
            ("CONTAINER_ID", &id12),
            ("CONTAINER_ID_FULL", &config.id),
            ("CONTAINER_NAME", &config.name),
            ("CONTAINER_TAG", &id12),
            ("IMAGE_NAME", &config.image),
        ] {
            field(&mut head, key, value.as_bytes());
        }
        let socket = UnixDatagram::unbound()
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Journal {
            socket: socket.ok(),
            head,
            queue: VecDeque::new(),
            queued: 0,
            dropped: 0,
        }
    }

    fn send(&mut self, error: bool, line: &[u8]) {
        let (text, partial) = match line.strip_suffix(b"\n") {
            Some(text) => (text, false),
            None => (line, true),
        };
        let mut entry = self.head.clone();
        field(&mut entry, "PRIORITY", if error { b"3" } else { b"6" });
        if partial {
            field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut entry, "MESSAGE", text);
        self.push(entry);
        self.flush();
    }

    fn push(&mut self, entry: Vec<u8>) {
        if self.queued + entry.len() > JOURNAL_QUEUE {
            self.dropped += 1;
            return;
        }
        self.queued += entry.len();
        self.queue.push_back(entry);
    }

    fn flush(&mut self) -> bool {
        while let Some(entry) = self.queue.front() {
            let Some(socket) = &self.socket else {
                return false;
            };
            match socket.send_to(entry, JOURNAL) {
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    return true;
                }
                // No journal on this machine: the file has the lines.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Too long for a datagram, or refused for ever.
                Err(_) => self.dropped += 1,
            }
            self.queued -= entry.len();
            self.queue.pop_front();
            if self.queue.is_empty() && self.dropped > 0 {
                let mut note = self.head.clone();
                field(&mut note, "PRIORITY", b"4");
                field(
                    &mut note,
                    "MESSAGE",
                    format!(
                        "{} lines of output were dropped because the journal did not take them",
                        self.dropped
                    )
                    .as_bytes(),
                );
                self.dropped = 0;
                self.push(note);
            }
        }
        false
    }
}

/// The native protocol: `KEY=value`, or a length where the value has line feeds or is no text.
fn field(entry: &mut Vec<u8>, key: &str, value: &[u8]) {
    entry.extend_from_slice(key.as_bytes());
    if value.contains(&b'\n') || std::str::from_utf8(value).is_err() {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path) -> Vec<Line> {
        files(directory)
            .iter()
            .flat_map(|path| {
                fs::read_to_string(path)
                    .unwrap()
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn lines_are_kept_whole_or_marked() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = crate::container::tests::config(&"0".repeat(64), "web");
        config.log_driver = "json-file".into();
        let mut log = Log::open(dir.path(), &config);
        log.write(false, b"one\ntw");
        log.write(true, b"err\n");
        log.write(false, b"o\n\xff\n");
        log.write(false, &vec![b'x'; LINE + 1]);
        log.finish();
        let lines = read(dir.path());
        let text: Vec<Vec<u8>> = lines.iter().map(Line::bytes).collect();
        assert_eq!(
            text[..4],
            [
                b"one\n".to_vec(),
                b"err\n".to_vec(),
                b"two\n".to_vec(),
                b"\xff\n".to_vec()
            ]
        );
        assert_eq!((text[4].len(), text[5].len()), (LINE, 1));
        assert_eq!(lines[1].stream, "stderr");
    }

    #[test]
    fn files_are_rotated_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = crate::container::tests::config(&"0".repeat(64), "web");
        config.log_driver = "json-file".into();
        let mut log = Log::open(dir.path(), &config);
        let line = [vec![b'y'; 1000], b"\n".to_vec()].concat();
        for _ in 0..45_000 {
            log.write(false, &line);
        }
        let sizes: Vec<u64> = files(dir.path())
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size <= FILE));
    }

    #[test]
    fn journal_fields_with_line_feeds_carry_their_length() {
        let mut entry = Vec::new();
        field(&mut entry, "A", b"b");
        field(&mut entry, "C", b"d\ne");
        assert_eq!(entry, b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n");
    }
}
