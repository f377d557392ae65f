//! systemctl's verbs.

mod environment;
mod files;
mod jobs;
mod lists;
mod overall;
mod power;
mod show;
mod status;

use init_control::{Reply, Request, UnitListEntry};

use crate::backend::Failure;
use crate::cli::{Context, Outcome};
use crate::names;

pub(crate) use power::{end, schedule};

/// A verb; it is told the name it was called by.
pub(crate) type Verb = fn(&mut Context, &str) -> Outcome;

/// The verb of this name.
pub(crate) fn find(name: &str) -> Option<Verb> {
    Some(match name {
        "list-units" => lists::units,
        "list-unit-files" => lists::unit_files,
        "list-sockets" => lists::sockets,
        "list-timers" => lists::timers,
        "list-automounts" => lists::automounts,
        "list-jobs" => lists::jobs,
        "list-dependencies" => lists::dependencies,
        "status" => status::status,
        "show" => show::show,
        "cat" => show::cat,
        "is-active" | "is-failed" => show::is_state,
        "is-system-running" => show::is_system_running,
        "start"
        | "stop"
        | "restart"
        | "try-restart"
        | "condrestart"
        | "reload"
        | "reload-or-restart"
        | "try-reload-or-restart"
        | "reload-or-try-restart"
        | "force-reload" => jobs::unit_jobs,
        "isolate" => jobs::isolate,
        "default" | "rescue" | "emergency" => jobs::mode,
        "kill" => jobs::kill,
        "cancel" => jobs::cancel,
        "reset-failed" => jobs::reset_failed,
        "set-property" => jobs::set_property,
        "daemon-reload" => jobs::reload,
        "daemon-reexec" => jobs::reexec,
        "enable" | "disable" | "reenable" | "preset" | "mask" | "unmask" | "link" | "revert" => {
            files::change
        }
        "preset-all" => files::preset_all,
        "add-wants" | "add-requires" => files::add_dependency,
        "is-enabled" => files::is_enabled,
        "get-default" => files::get_default,
        "set-default" => files::set_default,
        "show-environment" => environment::show,
        "set-environment" => environment::set,
        "unset-environment" => environment::unset,
        "import-environment" => environment::import,
        "log-level" => environment::log_level,
        "poweroff" | "reboot" | "halt" | "kexec" | "soft-reboot" => power::power,
        _ => return None,
    })
}

impl Context {
    /// The verb's arguments.
    fn args(&self) -> Vec<String> {
        self.options.words.clone()
    }

    /// The verb's arguments, at least one.
    fn some_args(&self, verb: &str) -> Result<Vec<String>, Failure> {
        let args = self.args();
        if args.is_empty() {
            return Err(Failure::Unreachable(format!(
                "systemctl: {verb}: too few arguments"
            )));
        }
        Ok(args)
    }

    /// Units that the arguments name: mangled; patterns stand for the loaded units that match.
    fn units(&mut self, args: &[String], suffix: &str) -> Result<Vec<String>, Failure> {
        let mut out: Vec<String> = Vec::new();
        for arg in args {
            let name = names::mangle(arg, suffix);
            if !names::is_glob(arg) {
                out.push(name);
                continue;
            }
            for unit in self.list(Vec::new(), vec![name])? {
                out.push(unit.name);
            }
        }
        Ok(out)
    }

    /// Loaded units in these states that match these patterns.
    fn list(
        &mut self,
        states: Vec<String>,
        patterns: Vec<String>,
    ) -> Result<Vec<UnitListEntry>, Failure> {
        match self.backend.ask(Request::ListUnits { states, patterns })? {
            Reply::Units(units) => Ok(units),
            _ => Err(Failure::unexpected()),
        }
    }
}

/// Order of lists: by type, then by name.
fn by_type(name: &str) -> (String, String) {
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    (suffix.to_owned(), name.to_owned())
}
