//! The tail of a unit's log, on the machine where the unit runs.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::reply::Reply;
use super::super::request::query_values;
use super::super::{Api, machines};

/// Lines by default and at most.
const LINES: u32 = 100;
const MAX_LINES: u32 = 5000;
/// Bytes at most.
const MAX_BYTES: u64 = 1 << 20;
/// How long reading may take.
const TIMEOUT: Duration = Duration::from_secs(10);

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

impl JournalReader {
    async fn tail(&self, unit: &str, lines: u32) -> std::io::Result<Vec<u8>> {
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
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_BYTES).read_to_end(&mut text).await?;
        }
        // One that has more to say than fits is not waited for.
        if (text.len() as u64) < MAX_BYTES {
            let status = child.wait().await?;
            if !status.success() && text.is_empty() {
                return Err(std::io::Error::other(format!("journalctl: {status}")));
            }
        }
        Ok(text)
    }
}

impl Api {
    pub(super) async fn unit_journal(&self, name: &str, query: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let lines = match query_values(query, "lines").first().map(|l| l.parse()) {
            None => LINES,
            Some(Ok(n)) if (1..=MAX_LINES).contains(&n) => n,
            Some(_) => {
                return Reply::bad_request(format!("lines is not a number from 1 to {MAX_LINES}"));
            }
        };
        let (scheduled, global) = match self.mirror.read().units.get(&name) {
            Some(unit) => (unit.scheduled.clone(), unit.requirements.global),
            None => (None, false),
        };
        if !global {
            match scheduled {
                None => return Reply::error(StatusCode::CONFLICT, "the unit is on no machine"),
                Some(there) if there != self.me => {
                    let address = machines::address_of(&self.registry, &there).await;
                    let message = format!("the unit runs on machine {there}{address}: ask there");
                    return Reply::error(StatusCode::CONFLICT, message);
                }
                Some(_) => {}
            }
        }
        match timeout(TIMEOUT, self.journal.tail(name.as_str(), lines)).await {
            Ok(Ok(text)) => Reply::Text("text/plain; charset=utf-8", Bytes::from(text), &[]),
            Ok(Err(error)) => Reply::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to read the journal: {error}"),
            ),
            Err(_) => Reply::error(
                StatusCode::GATEWAY_TIMEOUT,
                "reading the journal took too long",
            ),
        }
    }
}
