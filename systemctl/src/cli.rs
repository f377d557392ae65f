//! systemctl's command line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::backend::{self, Backend, Failure};
use crate::verbs;

/// Options of all verbs; each verb looks at those it knows, as systemd's does.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "systemctl",
    version,
    about = "Query or send control commands to the service manager",
    override_usage = "systemctl [OPTIONS...] COMMAND ...",
    after_help = HELP,
    disable_help_subcommand = true
)]
pub(crate) struct Options {
    /// Verb and its arguments; without a verb `list-units`
    #[arg(value_name = "COMMAND")]
    pub(crate) words: Vec<String>,
    /// List units of these types
    #[arg(short = 't', long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
    /// List units with these LOAD, SUB or ACTIVE states
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    pub(crate) states: Vec<String>,
    /// Shortcut for --state=failed
    #[arg(long)]
    pub(crate) failed: bool,
    /// Show only these properties
    #[arg(
        short = 'p',
        long = "property",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(crate) properties: Vec<String>,
    /// Equivalent to --value --property=NAME
    #[arg(short = 'P', value_name = "NAME", value_delimiter = ',')]
    pub(crate) property_values: Vec<String>,
    /// Show all units, and empty properties
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Do not cut lines at the terminal's width
    #[arg(short = 'l', long)]
    pub(crate) full: bool,
    /// Show reverse dependencies
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Show ordering dependencies: units before
    #[arg(long)]
    pub(crate) before: bool,
    /// Show ordering dependencies: units after
    #[arg(long)]
    pub(crate) after: bool,
    /// How to deal with jobs that are already queued
    #[arg(long, value_name = "MODE", default_value = "replace")]
    pub(crate) job_mode: String,
    /// Only print values of properties
    #[arg(long)]
    pub(crate) value: bool,
    /// Which processes to signal: main, control, all
    #[arg(long, alias = "kill-who", value_name = "WHOM", default_value = "all")]
    pub(crate) kill_whom: String,
    /// Which signal to send
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// Start or stop units, too, after enabling or disabling them
    #[arg(long)]
    pub(crate) now: bool,
    /// Suppress output
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Wait until started units have ended again, or until the boot is over
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not wait until the jobs are done
    #[arg(long)]
    pub(crate) no_block: bool,
    /// Do not reload the manager after changing unit files
    #[arg(long)]
    pub(crate) no_reload: bool,
    /// Do not print headings and hints
    #[arg(long)]
    pub(crate) no_legend: bool,
    /// Print headings and hints
    #[arg(long, value_name = "BOOL")]
    pub(crate) legend: Option<String>,
    /// There is no pager
    #[arg(long)]
    pub(crate) no_pager: bool,
    /// There is no password agent
    #[arg(long)]
    pub(crate) no_ask_password: bool,
    /// Enable until the next boot only
    #[arg(long)]
    pub(crate) runtime: bool,
    /// Replace links; shut down at once (twice: without unmounting cleanly)
    #[arg(short = 'f', long, action = clap::ArgAction::Count)]
    pub(crate) force: u8,
    /// Apply only this half of presets: full, enable-only, disable-only
    #[arg(long, value_name = "MODE", default_value = "full")]
    pub(crate) preset_mode: String,
    /// Journal lines to show
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) lines: Option<u32>,
    /// Format of journal lines
    #[arg(short = 'o', long, value_name = "STRING")]
    pub(crate) output: Option<String>,
    /// A list without dots and trees
    #[arg(long)]
    pub(crate) plain: bool,
    /// Show types of sockets
    #[arg(long)]
    pub(crate) show_types: bool,
    /// Ask the system manager (there is no other)
    #[arg(long)]
    pub(crate) system: bool,
    /// No message to terminals is ever sent
    #[arg(long)]
    pub(crate) no_wall: bool,
    /// Ignore inhibitors
    #[arg(short = 'i')]
    pub(crate) ignore_inhibitors: bool,
    /// Ignore inhibitors or not
    #[arg(long, value_name = "MODE")]
    pub(crate) check_inhibitors: Option<String>,
    /// Only print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Not supported
    #[arg(short = 'H', long, value_name = "HOST", hide = true)]
    pub(crate) host: Option<String>,
    /// Not supported
    #[arg(short = 'M', long, value_name = "CONTAINER", hide = true)]
    pub(crate) machine: Option<String>,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) user: bool,
    /// Not supported
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) root: Option<String>,
}

const HELP: &str = "\
Unit commands:
  list-units list-sockets list-timers list-dependencies list-automounts
  status show cat is-active is-failed
  start stop restart try-restart reload reload-or-restart try-reload-or-restart
  isolate kill reset-failed set-property
Unit file commands:
  list-unit-files enable disable reenable preset preset-all is-enabled mask unmask
  link revert add-wants add-requires get-default set-default
Job, environment and manager commands:
  list-jobs cancel show-environment set-environment unset-environment
  daemon-reload daemon-reexec log-level is-system-running
System commands:
  default rescue emergency halt poweroff reboot kexec soft-reboot
Other:
  completion SHELL

Example:
  systemctl status etcd.service fleet.service

Exit codes: 0 done; 1 failed; 2 usage; 3 not active; 4 no such unit (status), refused; 5 no such unit (start).";

impl Options {
    /// Headings and hints?
    pub(crate) fn with_legend(&self) -> bool {
        let off = self
            .legend
            .as_deref()
            .is_some_and(|word| matches!(word, "no" | "false" | "0" | "off"));
        !self.no_legend && !off && !self.quiet
    }

    /// States to keep.
    pub(crate) fn wanted_states(&self) -> Vec<String> {
        let mut states = self.states.clone();
        if self.failed {
            states.push("failed".to_owned());
        }
        states
    }

    /// Properties to show, and whether only their values.
    pub(crate) fn wanted_properties(&self) -> (Vec<String>, bool) {
        let all = self
            .properties
            .iter()
            .chain(&self.property_values)
            .cloned()
            .collect();
        (all, self.value || !self.property_values.is_empty())
    }
}

/// An exit code, or a failure that ends the command.
pub(crate) type Outcome = Result<u8, Failure>;

/// Everything a verb needs.
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) backend: Box<dyn Backend>,
}

/// Parse a command line of one of our programs: help and version go to stdout, a wrong line is exit code 2.
pub(crate) fn parse<T: Parser>(args: &[OsString]) -> Result<T, ExitCode> {
    T::try_parse_from(args).map_err(|error| {
        let code = if error.use_stderr() { 2 } else { 0 };
        // Nothing can be done if the terminal is gone.
        let _ = error.print();
        ExitCode::from(code)
    })
}

/// systemctl.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let mut options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    for (given, name) in [
        (options.host.is_some(), "--host"),
        (options.machine.is_some(), "--machine"),
        (options.user, "--user"),
        (options.root.is_some(), "--root"),
    ] {
        if given {
            eprintln!(
                "systemctl: {name} is not supported: this program talks to the manager of this machine only"
            );
            return ExitCode::from(1);
        }
    }
    let verb = if options.words.is_empty() {
        "list-units".to_owned()
    } else {
        options.words.remove(0)
    };
    if verb == "completion" {
        return completion::<Options>(options.words.first().map(String::as_str));
    }
    let Some(run) = verbs::find(&verb) else {
        eprintln!("Unknown command verb {verb}.");
        return ExitCode::from(1);
    };
    finish(backend::connect().and_then(|backend| run(&mut Context { options, backend }, &verb)))
}

/// Print the completion script of a program.
pub(crate) fn completion<T: CommandFactory>(shell: Option<&str>) -> ExitCode {
    let shell = match shell {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        _ => {
            eprintln!("systemctl: completion: give one of bash, zsh, fish");
            return ExitCode::from(2);
        }
    };
    let mut command = T::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut std::io::stdout());
    ExitCode::SUCCESS
}

/// The end of a command.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_anywhere() {
        let options =
            Options::try_parse_from(["systemctl", "status", "-n5", "a", "--no-pager", "-ql", "b"])
                .unwrap();
        assert_eq!(options.words, ["status", "a", "b"]);
        assert_eq!(options.lines, Some(5));
        assert!(options.quiet && options.full && options.no_pager);
        let options = Options::try_parse_from(["systemctl", "poweroff", "-ff"]).unwrap();
        assert_eq!(options.force, 2);
        let options =
            Options::try_parse_from(["systemctl", "show", "-p", "A,B", "-P", "C"]).unwrap();
        assert_eq!(
            options.wanted_properties(),
            (vec!["A".into(), "B".into(), "C".into()], true)
        );
    }

    #[test]
    fn definition_is_sound() {
        Options::command().debug_assert();
    }
}
