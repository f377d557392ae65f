//! `update-ssh-keys`: named sets of ssh keys of an account.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use crate::apply::accounts;
use crate::apply::keys::{AddMode, KeyStore, KeysError};
use crate::apply::root::Root;
use crate::datasource::{cmdline, kernel_words};

const PROGRAM: &str = "update-ssh-keys";
const HELP: &str = "\
Keeps the ssh keys of an account as named sets in ~/.ssh/authorized_keys.d.

Usage: update-ssh-keys [-u USER] [-n] [-l | -a SET | -A SET | -d SET | -D SET] [FILE...]

  -u USER     account (core)
  -a SET      add or replace a set with the keys of the files, or of standard input
  -A SET      the same, also where the set is disabled
  -n          with -a or -A: keep a set that is there
  -d SET      remove a set
  -D SET      remove a set and keep it from being added again
  -l          list the sets
  --from-proc-cmdline   take the keys from sshkey=\"...\" on the kernel command line
  --root DIR  work below a directory
  without any of -a -A -d -D -l: write authorized_keys anew from the sets

Example: update-ssh-keys -u core -a laptop < id_ed25519.pub
";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Regenerate,
    List,
    Add { set: String, force: bool },
    Delete(String),
    Disable(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    user: String,
    root: String,
    keep: bool,
    from_cmdline: bool,
    action: Action,
    files: Vec<String>,
}

pub(super) fn main(args: &[String]) -> ExitCode {
    telemetry::init(PROGRAM, telemetry::Sink::detect(), 0);
    if args.iter().any(|a| a == "-h" || a == "--help") {
        return super::print(HELP);
    }
    if args.iter().any(|a| a == "-V" || a == "--version") {
        return super::print(&super::version(PROGRAM));
    }
    let arguments = match parse(args) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{PROGRAM}: {message}\nhint: {PROGRAM} --help lists the switches");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(text) => super::print(&text),
        Err(message) => {
            eprintln!("{PROGRAM}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        user: "core".to_owned(),
        root: "/".to_owned(),
        keep: false,
        from_cmdline: false,
        action: Action::Regenerate,
        files: Vec::new(),
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || {
            rest.next()
                .cloned()
                .ok_or_else(|| format!("{arg} needs a value"))
        };
        match arg.as_str() {
            "-u" => arguments.user = value()?,
            "--root" => arguments.root = value()?,
            "-n" => arguments.keep = true,
            "--from-proc-cmdline" => arguments.from_cmdline = true,
            "-l" => arguments.action = Action::List,
            "-a" => {
                arguments.action = Action::Add {
                    set: value()?,
                    force: false,
                }
            }
            "-A" => {
                arguments.action = Action::Add {
                    set: value()?,
                    force: true,
                }
            }
            "-d" => arguments.action = Action::Delete(value()?),
            "-D" => arguments.action = Action::Disable(value()?),
            other if other.starts_with('-') && other != "-" => {
                return Err(format!("unknown switch {other}"));
            }
            file => arguments.files.push(file.to_owned()),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<String, String> {
    let chain = |e: &(dyn std::error::Error + 'static)| telemetry::chain(e);
    let root = Root::open(Path::new(&arguments.root)).map_err(|e| chain(&e))?;
    let all = accounts::read(&root).map_err(|e| chain(&e))?;
    let account = all
        .account(&arguments.user)
        .ok_or_else(|| format!("user {} does not exist", arguments.user))?;
    let store = KeyStore::open(&root, &account).map_err(|e| chain(&e))?;
    let updated = |changed: Result<bool, KeysError>| match changed {
        Ok(_) => Ok(format!("Updated {}/.ssh/authorized_keys\n", account.home)),
        Err(error) => Err(chain(&error)),
    };
    match &arguments.action {
        Action::List => {
            let sets = store.list().map_err(|e| chain(&e))?;
            let line = |(name, enabled): (String, bool)| {
                if enabled {
                    format!("{name}\n")
                } else {
                    format!("{name} (disabled)\n")
                }
            };
            Ok(sets.into_iter().map(line).collect())
        }
        Action::Regenerate => updated(store.regenerate()),
        Action::Delete(set) => updated(store.delete(set)),
        Action::Disable(set) => updated(store.disable(set)),
        Action::Add { set, force } => {
            let keys = read_keys(arguments)?;
            updated(store.add(
                set,
                &keys,
                AddMode {
                    keep: arguments.keep,
                    force: *force,
                },
            ))
        }
    }
}

fn read_keys(arguments: &Arguments) -> Result<String, String> {
    if arguments.from_cmdline {
        return cmdline::ssh_key(&kernel_words())
            .ok_or_else(|| "the kernel command line has no sshkey=".to_owned());
    }
    let mut keys = String::new();
    if arguments.files.is_empty() {
        std::io::stdin()
            .read_to_string(&mut keys)
            .map_err(|e| format!("failed to read standard input: {e}"))?;
    }
    for file in &arguments.files {
        let text =
            std::fs::read_to_string(file).map_err(|e| format!("failed to read {file}: {e}"))?;
        keys.push_str(text.trim_end());
        keys.push('\n');
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read() {
        let args = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let got = parse(&args("-u ops -n -a laptop a.pub")).unwrap();
        assert_eq!((got.user.as_str(), got.keep), ("ops", true));
        assert_eq!(
            got.action,
            Action::Add {
                set: "laptop".into(),
                force: false
            }
        );
        assert_eq!(got.files, ["a.pub"]);
        assert_eq!(parse(&[]).unwrap().action, Action::Regenerate);
        assert!(parse(&args("-a")).is_err());
        assert!(parse(&args("-x")).is_err());
    }
}
