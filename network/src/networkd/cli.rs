//! The three commands of the binary: the daemon, `networkd-wait-online` and `networkctl`, told apart by the name they are
//! called by, or by the first argument.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::manager::Manager;
use super::networkctl;
use super::wait_online::{self, Options};

const DAEMON_HELP: &str = "\
networkd: sets up network links as .network files say

usage: networkd [--root DIR]
       networkd wait-online [OPTIONS]     (also networkd-wait-online)
       networkd ctl [COMMAND]             (also networkctl)

  --root DIR       read and write files below DIR instead of /
  --help           show this
  --version        show the version

Reads systemd/network/*.network below /etc, /run and /usr/lib. SIGHUP reads them again.

example:
  networkd --root /tmp/try
";

const WAIT_HELP: &str = "\
networkd-wait-online: returns when the machine is online

usage: networkd-wait-online [OPTIONS]

  --timeout SECONDS      give up after this (default 120; 0 is never)
  -i, --interface NAME   wait for this link (repeatable, patterns allowed)
  --ignore NAME          do not wait for this link (repeatable, patterns allowed)
  --any                  one link is enough
  -q, --quiet            say nothing when it fails
  --root DIR             look below DIR instead of /
  --help, --version

exit: 0 online, 1 not online in time, 2 usage

example:
  networkd-wait-online --interface eth0 --timeout 30
";

const CTL_HELP: &str = "\
networkctl: shows the network links

usage: networkctl [list | status [LINK…] | completion bash|zsh|fish] [--json]

  list               one line a link (default)
  status [LINK…]     details; patterns are allowed
  --json             one JSON document
  --root DIR         look below DIR instead of /
  --help, --version

example:
  networkctl status eth0
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Daemon {
        root: PathBuf,
    },
    Wait {
        options: Options,
        quiet: bool,
    },
    List {
        root: PathBuf,
        json: bool,
    },
    Status {
        root: PathBuf,
        json: bool,
        patterns: Vec<String>,
    },
    Print(String),
}

/// Runs the binary; `arguments` begins with the name it was called by.
pub fn main(arguments: &[String]) -> ExitCode {
    let called = arguments.first().map(String::as_str).unwrap_or_default();
    let called = Path::new(called)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or("networkd");
    let rest = arguments.get(1..).unwrap_or_default();
    let (program, rest) = match (
        called.trim_start_matches("systemd-"),
        rest.first().map(String::as_str),
    ) {
        ("networkctl", _) => ("networkctl", rest),
        ("networkd-wait-online", _) => ("networkd-wait-online", rest),
        (_, Some("ctl")) => ("networkctl", &rest[1..]),
        (_, Some("wait-online")) => ("networkd-wait-online", &rest[1..]),
        _ => ("networkd", rest),
    };
    match parse(program, rest) {
        Ok(command) => run(program, command),
        Err(message) => {
            eprintln!("{program}: {message}\nhint: {program} --help");
            ExitCode::from(2)
        }
    }
}

fn run(program: &'static str, command: Command) -> ExitCode {
    let shown = match command {
        Command::Daemon { root } => {
            telemetry::init("networkd", telemetry::Sink::detect(), 0);
            return match Manager::new(&root).and_then(|mut manager| manager.run()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => telemetry::report(program, &error, None),
            };
        }
        Command::Wait { options, quiet } => {
            return match wait_online::wait(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) if quiet => ExitCode::FAILURE,
                Err(error) => telemetry::report(program, &error, Some("networkctl status")),
            };
        }
        Command::List { root, json: false } => networkctl::list(&root),
        Command::Status {
            root,
            json: false,
            patterns,
        } => networkctl::status(&root, &patterns),
        Command::List { root, .. } => networkctl::json(&root, &[]),
        Command::Status { root, patterns, .. } => networkctl::json(&root, &patterns),
        Command::Print(text) => Ok(text),
    };
    telemetry::quiet_broken_pipe();
    match shown {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => telemetry::report(program, &error, None),
    }
}

fn parse(program: &str, arguments: &[String]) -> Result<Command, String> {
    let mut root = PathBuf::from("/");
    let (mut words, mut json, mut quiet, mut any) = (Vec::new(), false, false, false);
    let (mut only, mut ignore, mut timeout) = (Vec::new(), Vec::new(), Duration::from_secs(120));
    let (waits, shows) = (program == "networkd-wait-online", program == "networkctl");
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name {
            "--help" | "-h" => return Ok(Command::Print(help(program).to_owned())),
            "--version" => return Ok(Command::Print(crate::version_line(program))),
            "--root" => root = PathBuf::from(value()?),
            "--json" if shows => json = true,
            "--no-pager" | "--no-legend" | "-a" | "--all" if shows => {}
            "--timeout" if waits => {
                let text = value()?;
                let seconds = text.trim_end_matches('s').parse();
                timeout = Duration::from_secs(
                    seconds.map_err(|_| format!("--timeout {text}: not a number of seconds"))?,
                );
            }
            "--interface" | "-i" if waits => only.push(link_name(&value()?)),
            "--ignore" if waits => ignore.push(value()?),
            "--any" if waits => any = true,
            "--quiet" | "-q" if waits => quiet = true,
            option if option.starts_with('-') => return Err(format!("{option} is not an option")),
            word => words.push(word.to_owned()),
        }
    }
    match (program, words.first().map(String::as_str)) {
        ("networkctl", None | Some("list")) => Ok(Command::List { root, json }),
        ("networkctl", Some("status")) => Ok(Command::Status {
            root,
            json,
            patterns: words.split_off(1),
        }),
        ("networkctl", Some("completion")) => completion(words.get(1).map(String::as_str)),
        (_, Some(word)) => Err(format!("{word:?} is not understood")),
        ("networkd-wait-online", None) => Ok(Command::Wait {
            options: Options {
                root,
                timeout,
                only,
                ignore,
                any,
            },
            quiet,
        }),
        (_, None) => Ok(Command::Daemon { root }),
    }
}

fn help(program: &str) -> &'static str {
    match program {
        "networkctl" => CTL_HELP,
        "networkd-wait-online" => WAIT_HELP,
        _ => DAEMON_HELP,
    }
}

/// systemd writes `eth0:degraded`; every state is waited for in the same way here.
fn link_name(text: &str) -> String {
    text.split(':').next().unwrap_or(text).to_owned()
}

fn completion(shell: Option<&str>) -> Result<Command, String> {
    let links = "$(ls /sys/class/net)";
    let text = match shell {
        Some("bash") => format!(
            "complete -W \"list status completion --json --help --version {links}\" networkctl\n"
        ),
        Some("zsh") => format!(
            "#compdef networkctl\ncompadd list status completion --json --help --version {links}\n"
        ),
        Some("fish") => {
            "complete -c networkctl -f -a 'list status completion (ls /sys/class/net)'\n\
                         complete -c networkctl -l json -l help -l version\n"
                .to_owned()
        }
        _ => return Err("completion is for bash, zsh or fish".to_owned()),
    };
    Ok(Command::Print(text))
}

/// `PROGRAM VERSION (IMAGE)`.
pub(crate) fn version_line(program: &str) -> String {
    let release = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let release = release.unwrap_or_default();
    let image = release
        .lines()
        .find_map(|l| l.strip_prefix("IMAGE_VERSION="));
    let image = image
        .map(|i| format!(" ({})", i.trim_matches('"')))
        .unwrap_or_default();
    format!("{program} {}{image}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(program: &str, line: &str) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(program, &words)
    }

    #[test]
    fn command_lines() {
        let root = PathBuf::from("/");
        assert_eq!(
            parsed("networkd", ""),
            Ok(Command::Daemon { root: root.clone() })
        );
        assert_eq!(
            parsed("networkd", "--root=/x"),
            Ok(Command::Daemon { root: "/x".into() })
        );
        let Ok(Command::Wait { options, quiet }) = parsed(
            "networkd-wait-online",
            "--timeout=5 -i eth0:routable --ignore docker* --any -q",
        ) else {
            panic!()
        };
        assert_eq!(
            (options.timeout.as_secs(), options.any, quiet),
            (5, true, true)
        );
        assert_eq!(
            (options.only, options.ignore),
            (vec!["eth0".to_owned()], vec!["docker*".to_owned()])
        );
        let patterns = vec!["eth0".to_owned()];
        assert_eq!(
            parsed("networkctl", "status eth0 --json"),
            Ok(Command::Status {
                root,
                json: true,
                patterns
            })
        );
        for (program, line) in [
            ("networkd", "--timeout 3"),
            ("networkd", "start"),
            ("networkd-wait-online", "--timeout"),
            ("networkd-wait-online", "--timeout soon"),
            ("networkctl", "explode"),
            ("networkctl", "completion csh"),
        ] {
            assert!(parsed(program, line).is_err(), "{program} {line}");
        }
    }
}
