//! journalctl: shows the journal.
//!
//! Reads the files by itself; journald is asked only for `--flush`, `--rotate`, `--sync` and `--relinquish-var`. What is
//! printed, and the exit status, are those of systemd's journalctl.

mod admin;
pub mod args;
pub mod output;
pub mod select;
mod show;
pub mod time;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use journal::Id128;

use self::args::Given;
use self::select::SelectError;

const PROGRAM: &str = "journalctl";

/// The command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Select(SelectError),
    #[error("failed to parse {what}: {text}")]
    Value { what: &'static str, text: String },
    #[error("failed to read the identifier of this {0}")]
    Id(&'static str, #[source] io::Error),
    #[error("failed to open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to open the journal")]
    Journal(#[source] journal::ReadError),
    #[error("data from the specified boot ({0}) is not available: no such boot in the journal")]
    Boot(String),
    #[error("failed to write the output")]
    Output(#[source] io::Error),
    #[error("failed to wait for new entries")]
    Wait(#[source] io::Error),
    #[error("failed to delete archives")]
    Vacuum(#[source] journal::StoreError),
    #[error("failed to ask journald for {what}")]
    Daemon {
        what: &'static str,
        source: io::Error,
    },
}

/// The program.
pub fn main() -> ExitCode {
    telemetry::quiet_broken_pipe();
    let mut args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    if args.first().is_some_and(|a| a == "completion") {
        let shell = args.get(1).map_or("bash", String::as_str);
        return match args::completion(shell) {
            Some(script) => {
                print!("{script}");
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("{PROGRAM}: no completion for {shell:?}\nhint: one of bash, zsh, fish");
                ExitCode::from(2)
            }
        };
    }
    let given = match args::parse(args.drain(..)) {
        Ok(given) => given,
        Err(err) => {
            return telemetry::report(PROGRAM, &err, Some("journalctl --help lists the options"));
        }
    };
    match run(&given) {
        Ok(code) => code,
        Err(err) => telemetry::report(PROGRAM, &err, hint(&err)),
    }
}

fn hint(err: &CliError) -> Option<&'static str> {
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    match err {
        CliError::Boot(_) => Some("journalctl --list-boots shows what there is"),
        CliError::Value { what: "time", .. } => {
            Some("2026-11-21 02:48, 02:48, today, yesterday, -1h, @SECONDS are understood")
        }
        CliError::Daemon { source, .. } if denied(source) => Some("only root may"),
        CliError::Daemon { .. } => {
            Some("systemctl status systemd-journald.service tells whether it runs")
        }
        _ => None,
    }
}

fn run(given: &Given) -> Result<ExitCode, CliError> {
    if given.has("help") {
        print!("{}", args::help());
        return Ok(ExitCode::SUCCESS);
    }
    if given.has("version") {
        println!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code) = admin::run(given)? {
        return Ok(code);
    }
    show::run(given)
}

/// The directories that the options mean.
fn dirs(given: &Given) -> Result<Vec<PathBuf>, CliError> {
    if let Some(dir) = given.value("directory") {
        let dir = PathBuf::from(dir);
        let inner = machine_dirs(&dir).map_err(|source| CliError::Open {
            path: dir.clone(),
            source,
        })?;
        return Ok([vec![dir], inner].concat());
    }
    let root = PathBuf::from(given.value("root").unwrap_or("/"));
    let bases = ["run/log/journal", "var/log/journal"].map(|base| root.join(base));
    if given.has("merge") || given.has("root") {
        return Ok(bases
            .iter()
            .flat_map(|base| machine_dirs(base).unwrap_or_default())
            .collect());
    }
    let machine = Id128::machine().map_err(|source| CliError::Id("machine", source))?;
    Ok(bases
        .iter()
        .map(|base| base.join(machine.to_string()))
        .collect())
}

fn machine_dirs(base: &std::path::Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| Id128::parse(n).is_some()) {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}
