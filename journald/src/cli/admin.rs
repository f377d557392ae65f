//! Everything but showing entries: checks, space, and requests to journald.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use journal::{Limits, Stamp, journal_files, vacuum_dir, verify};

use super::args::Given;
use super::output;
use super::{CliError, dirs};
use crate::daemon::config::{size, span};

const SOCKET: &str = "/run/systemd/journal/io.systemd.journal";
/// The flush may have to copy everything that was logged since the boot.
const PATIENCE: Duration = Duration::from_secs(80);

/// Does what the options ask for; `None` when entries are to be shown.
pub(crate) fn run(given: &Given) -> Result<Option<ExitCode>, CliError> {
    let mut asked = false;
    for (option, method, what) in [
        ("flush", "FlushToVar", "the move to /var"),
        ("relinquish-var", "RelinquishVar", "the move to /run"),
        ("rotate", "Rotate", "the rotation"),
        ("sync", "Synchronize", "synchronisation"),
    ] {
        if given.has(option) {
            ask(method).map_err(|source| CliError::Daemon { what, source })?;
            asked = true;
        }
    }
    if ["vacuum-size", "vacuum-time", "vacuum-files"]
        .iter()
        .any(|o| given.has(o))
    {
        vacuum(given)?;
        asked = true;
    }
    if given.has("smart-relinquish-var") {
        // Asked for at shutdown. Our journal is on the root file system's disk, which is remounted, never unmounted.
        asked = true;
    }
    if asked {
        return Ok(Some(ExitCode::SUCCESS));
    }
    if given.has("disk-usage") {
        return disk_usage(given).map(Some);
    }
    if given.has("verify") {
        return verify_all(given).map(Some);
    }
    Ok(None)
}

/// Calls a method of journald.
fn ask(method: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("{{\"method\":\"io.systemd.Journal.{method}\",\"parameters\":{{}}}}\0").as_bytes(),
    )?;
    let mut reply = Vec::new();
    let mut part = [0; 1024];
    while !reply.contains(&0) {
        match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => reply.extend_from_slice(&part[..n]),
            // Stopped and continued: a read with a time-out is not resumed by the kernel.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reply.truncate(reply.iter().position(|b| *b == 0).unwrap_or(reply.len()));
    let reply: serde_json::Value = serde_json::from_slice(&reply).map_err(io::Error::other)?;
    match reply.get("error").and_then(|e| e.as_str()) {
        None => Ok(()),
        Some("org.varlink.service.PermissionDenied") => Err(io::ErrorKind::PermissionDenied.into()),
        Some(error) => {
            let text = reply["parameters"]["text"].as_str().unwrap_or(error);
            Err(io::Error::other(text.to_owned()))
        }
    }
}

fn vacuum(given: &Given) -> Result<(), CliError> {
    let wrong = |what, text: &str| CliError::Value {
        what,
        text: text.to_owned(),
    };
    let mut limits = Limits {
        max_use: u64::MAX,
        keep_free: 0,
        max_file: u64::MAX,
        max_files: usize::MAX,
    };
    if let Some(text) = given.value("vacuum-size") {
        limits.max_use = size(text).ok_or_else(|| wrong("size", text))?;
    }
    if let Some(text) = given.value("vacuum-files") {
        limits.max_files = text.parse().map_err(|_| wrong("number of files", text))?;
    }
    let oldest = match given.value("vacuum-time") {
        Some(text) => {
            let age = span(text).ok_or_else(|| wrong("time span", text))?;
            Some(
                Stamp::now(journal::Id128::default())
                    .realtime
                    .saturating_sub(age),
            )
        }
        None => None,
    };
    for dir in dirs(given)?.into_iter().filter(|d| d.is_dir()) {
        let freed = vacuum_dir(&dir, &limits, oldest).map_err(CliError::Vacuum)?;
        if !given.has("quiet") {
            eprintln!(
                "Vacuuming done, freed {} of archived journals from {}.",
                bytes(freed),
                dir.display()
            );
        }
    }
    Ok(())
}

/// The journal files that the options mean.
fn files(given: &Given) -> Result<Vec<PathBuf>, CliError> {
    if given.has("file") {
        return Ok(given.values("file").map(PathBuf::from).collect());
    }
    let mut files = Vec::new();
    for dir in dirs(given)? {
        let found = journal_files(&dir).map_err(|source| CliError::Open {
            path: dir.clone(),
            source,
        })?;
        files.extend(found.into_iter().map(|f| f.path));
    }
    Ok(files)
}

fn disk_usage(given: &Given) -> Result<ExitCode, CliError> {
    let mut used = 0;
    for file in files(given)? {
        match std::fs::metadata(&file) {
            Ok(meta) => used += meta.blocks() * 512,
            // Vacuumed meanwhile.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CliError::Open { path: file, source }),
        }
    }
    println!(
        "Archived and active journals take up {} in the file system.",
        bytes(used)
    );
    Ok(ExitCode::SUCCESS)
}

fn verify_all(given: &Given) -> Result<ExitCode, CliError> {
    let mut code = ExitCode::SUCCESS;
    for file in files(given)? {
        match verify(&file) {
            Ok(verdict) => {
                if !given.has("quiet") {
                    let note = if verdict.online {
                        " (in use, or not closed in order)"
                    } else {
                        ""
                    };
                    eprintln!("PASS: {}{note}", file.display());
                }
            }
            Err(err) => {
                eprintln!("FAIL: {} ({})", file.display(), telemetry::chain(&err));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// `8.0M`, as the original prints sizes.
fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "T"),
        (1 << 30, "G"),
        (1 << 20, "M"),
        (1 << 10, "K"),
    ];
    match UNITS.iter().find(|(unit, _)| n >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", n as f64 / *unit as f64),
        None => format!("{n}B"),
    }
}

/// The format that `-o` names.
pub(crate) fn mode(given: &Given) -> Result<output::Mode, CliError> {
    match given.value("output") {
        None => Ok(output::Mode::Short),
        Some(name) => output::MODES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, mode)| *mode)
            .ok_or_else(|| CliError::Value {
                what: "output format",
                text: name.to_owned(),
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_short() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(1536), "1.5K");
        assert_eq!(bytes(8 << 20), "8.0M");
    }
}
