//! systemd-cat: a program's output, or our input, to the journal.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use super::fail;
use crate::cli::parse;

const SOCKET: &str = "/run/systemd/journal/stdout";

/// Connect a pipeline or a program's output with the journal
#[derive(Debug, Parser)]
#[command(
    name = "systemd-cat",
    version,
    trailing_var_arg = true,
    after_help = "Example:\n  systemd-cat -t backup -p notice /opt/bin/backup"
)]
struct Options {
    /// The program and its arguments; none = copy standard input
    #[arg(allow_hyphen_values = true)]
    command: Vec<OsString>,
    /// Identifier of the lines
    #[arg(short = 't', long, default_value = "")]
    identifier: String,
    /// Priority of standard output: emerg … debug, or 0 … 7
    #[arg(short = 'p', long, default_value = "info")]
    priority: String,
    /// Priority of standard error
    #[arg(long)]
    stderr_priority: Option<String>,
    /// Interpret `<N>` at the beginning of lines
    #[arg(long, default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    level_prefix: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let error_level = options
        .stderr_priority
        .as_deref()
        .unwrap_or(&options.priority);
    let (Some(level), Some(error_level)) = (level(&options.priority), level(error_level)) else {
        eprintln!(
            "systemd-cat: priority is one of emerg alert crit err warning notice info debug, or 0 to 7"
        );
        return ExitCode::from(2);
    };
    let streams = open(&options, level).and_then(|out| Ok((out, open(&options, error_level)?)));
    let (out, err) = match streams {
        Ok(streams) => streams,
        Err(error) => return fail("systemd-cat", "failed to connect to the journal", &error),
    };
    let Some((program, arguments)) = options.command.split_first() else {
        let mut out = out;
        return match io::copy(&mut io::stdin().lock(), &mut out) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail("systemd-cat", "failed to copy", &error),
        };
    };
    let error = Command::new(program)
        .args(arguments)
        .stdout(Stdio::from(OwnedFd::from(out)))
        .stderr(Stdio::from(OwnedFd::from(err)))
        .exec();
    fail(
        "systemd-cat",
        &format!("failed to execute {}", program.display()),
        &error,
    )
}

/// A stream with its header: identifier, unit, priority, level prefix, forward to syslog, kmsg, console.
fn open(options: &Options, level: u8) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(SOCKET)?;
    let prefix = u8::from(options.level_prefix);
    write!(
        stream,
        "{}\n\n{level}\n{prefix}\n0\n0\n0\n",
        options.identifier
    )?;
    Ok(stream)
}

fn level(word: &str) -> Option<u8> {
    const WORDS: [&str; 8] = [
        "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
    ];
    let by_name = WORDS
        .iter()
        .position(|known| *known == word)
        .and_then(|index| u8::try_from(index).ok());
    by_name.or_else(|| word.parse().ok().filter(|level| *level <= 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert_eq!(
            (level("err"), level("7"), level("8"), level("loud")),
            (Some(3), Some(7), None, None)
        );
    }
}
