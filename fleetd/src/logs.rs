//! The tails of units' logs: read from this machine's journal, or asked of the machine where the
//! unit runs.
//!
//! Machines need not reach one another: question and answer pass through etcd, as everything does
//! that fleet's machines have to tell each other, and are gone within seconds.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{Event, KeyValue};
use fleet_model::{MachineId, UnitName};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::registry::{Asked, Follow, Mirror, Registry, RegistryError, Tail, Update};

/// Lines at most.
pub const MAX_LINES: u32 = 5000;
/// Bytes of a log read here, at most: the newest ones.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of a log that pass through etcd, which takes 1.5 MiB.
const MAX_GIVEN: usize = 128 << 10;
/// How long reading may take.
const READING: Duration = Duration::from_secs(5);
/// How long another machine may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions asked, and answered, at once.
const TURNS: usize = 4;

/// The program that reads the journal.
#[derive(Debug, Clone)]
pub struct JournalReader {
    /// Program and first arguments.
    pub command: Vec<OsString>,
    /// Units of the user's manager, not the system's.
    pub user: bool,
}

impl Default for JournalReader {
    fn default() -> Self {
        Self {
            command: vec!["journalctl".into()],
            user: false,
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Reading failed.
    #[error("failed to read the journal: {0}")]
    Read(#[from] std::io::Error),
    /// Reading took too long.
    #[error("reading the journal took too long")]
    Slow,
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The other machine says so.
    #[error("machine {machine}: {reason}")]
    There {
        /// The machine.
        machine: MachineId,
        /// Its reason.
        reason: String,
    },
    /// The other machine says nothing.
    #[error("machine {machine} did not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// The machine.
        machine: MachineId,
    },
}

impl JournalReader {
    /// The last lines of a unit's log.
    pub async fn tail(&self, unit: &UnitName, lines: u32) -> Result<Vec<u8>, LogError> {
        let text = timeout(READING, self.read(unit.as_str(), lines)).await;
        Ok(text.map_err(|_| LogError::Slow)??)
    }

    async fn read(&self, unit: &str, lines: u32) -> std::io::Result<Vec<u8>> {
        let (program, first) = self
            .command
            .split_first()
            .ok_or_else(|| std::io::Error::other("no program reads the journal"))?;
        let option = if self.user { "--user-unit" } else { "--unit" };
        let mut child = Command::new(program)
            .args(first)
            .arg(format!("{option}={unit}"))
            .arg(format!("--lines={lines}"))
            .args(["--no-pager", "--output=short-iso"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut text = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            while stdout.read_buf(&mut text).await? > 0 {
                if text.len() > 2 * MAX_BYTES {
                    text = newest(text, MAX_BYTES);
                }
            }
        }
        let status = child.wait().await?;
        if !status.success() && text.is_empty() {
            return Err(std::io::Error::other(format!("journalctl: {status}")));
        }
        Ok(newest(text, MAX_BYTES))
    }
}

/// The last whole lines of a text that fit; of one longer line, its end.
fn newest(mut text: Vec<u8>, most: usize) -> Vec<u8> {
    let Some(over) = text.len().checked_sub(most).filter(|over| *over > 0) else {
        return text;
    };
    // Whole lines begin behind a newline, which may be the last byte that does not fit.
    let rest = &text[over - 1..];
    let newline = rest.iter().position(|b| *b == b'\n');
    let begin = newline.filter(|at| at + 1 < rest.len()).unwrap_or(0);
    text.drain(..over + begin);
    text
}

/// Logs of the whole cluster, as one machine can get them.
#[derive(Debug)]
pub struct Logs {
    /// This machine's.
    pub journal: JournalReader,
    turns: Semaphore,
}

impl Logs {
    /// With the reader of this machine's journal.
    #[must_use]
    pub fn new(journal: JournalReader) -> Self {
        Self {
            journal,
            turns: Semaphore::new(TURNS),
        }
    }

    /// The last lines of a unit's log on another machine.
    pub async fn tail_of(
        &self,
        registry: &Registry,
        machine: &MachineId,
        unit: &UnitName,
        lines: u32,
    ) -> Result<Vec<u8>, LogError> {
        // Never closed, so always granted.
        let _turn = self.turns.acquire().await;
        let tail = Tail {
            unit: unit.to_string(),
            lines,
        };
        match registry.ask_tail(machine, &tail, PATIENCE).await? {
            Some(Ok(text)) => Ok(text),
            Some(Err(reason)) => Err(LogError::There {
                machine: machine.clone(),
                reason,
            }),
            None => Err(LogError::Silent {
                machine: machine.clone(),
            }),
        }
    }
}

/// Answers other machines' questions for ever.
#[derive(Debug)]
pub struct Answerer {
    /// Where they are asked.
    pub registry: Registry,
    /// What this machine has.
    pub mirror: Mirror,
    /// This machine.
    pub me: MachineId,
    /// What it reads.
    pub journal: JournalReader,
}

impl Answerer {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let this = Arc::new(self);
        let turns = Arc::new(Semaphore::new(TURNS));
        let mut follow = Follow::new(this.registry.tails_asked(&this.me));
        loop {
            let asked: Vec<KeyValue> = match follow.next(this.registry.kv()).await {
                Update::All(kvs, _) => kvs,
                Update::Changes(events, _) => events.into_iter().filter_map(put).collect(),
            };
            for asked in asked.iter().filter_map(|kv| this.registry.read_asked(kv)) {
                let Ok(turn) = turns.clone().acquire_owned().await else {
                    return;
                };
                let this = this.clone();
                tokio::spawn(async move {
                    this.answer(&asked).await;
                    drop(turn);
                });
            }
        }
    }

    async fn answer(&self, asked: &Asked) {
        let answer = self.look_up(asked).await;
        let given = self.registry.give_tail(&self.me, asked, &answer).await;
        if let Err(error) = given {
            tracing::info!(unit = %asked.unit, "failed to give a log: {}", telemetry::chain(&error));
        }
    }

    /// Of fleet's units on this machine only: everything else in the journal is nobody's business.
    async fn look_up(&self, asked: &Asked) -> Result<Vec<u8>, String> {
        let here = {
            let desired = self.mirror.read();
            let unit = desired.units.get(&asked.unit);
            unit.is_some_and(|u| u.requirements.global || u.scheduled.as_ref() == Some(&self.me))
        };
        if !here {
            return Err("the unit is not here".into());
        }
        if !(1..=MAX_LINES).contains(&asked.tail.lines) {
            return Err(format!("lines is not a number from 1 to {MAX_LINES}"));
        }
        let text = self.journal.tail(&asked.unit, asked.tail.lines).await;
        text.map(|text| newest(text, MAX_GIVEN))
            .map_err(|error| telemetry::chain(&error).to_string())
    }
}

fn put(event: Event) -> Option<KeyValue> {
    match event {
        Event::Put { kv, .. } => Some(kv),
        Event::Delete { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_whole_lines_are_kept() {
        for (text, most, expect) in [
            ("", 3, ""),
            ("abc", 3, "abc"),
            ("a\nb\nc\n", 6, "a\nb\nc\n"),
            ("a\nb\nc\n", 5, "b\nc\n"),
            ("a\nb\nc\n", 4, "b\nc\n"),
            ("a\nb\nc\n", 3, "c\n"),
            ("abcdef\n", 4, "def\n"),
            ("abcdef", 4, "cdef"),
        ] {
            let kept = newest(text.as_bytes().to_vec(), most);
            assert_eq!(String::from_utf8_lossy(&kept), expect, "{text:?} {most}");
        }
    }
}
