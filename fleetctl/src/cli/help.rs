//! Help in the original's sections, and which shortened commands mean what.

use clap::{CommandFactory as _, FromArgMatches as _};

use super::Cli;

/// Commands of the original. What is short for one of them stays so, whatever has come since.
const ORIGINAL: [&str; 18] = [
    "cat",
    "destroy",
    "fd-forward",
    "help",
    "journal",
    "list-machines",
    "list-unit-files",
    "list-units",
    "load",
    "restart",
    "ssh",
    "start",
    "status",
    "stop",
    "submit",
    "unload",
    "verify",
    "version",
];

const ROOT: &str = "\
Units are given as names or as files; a name without a type is a .service. All flags can stand
anywhere, and each global flag is also FLEETCTL_FLAG in the environment.

Examples:
  fleetctl start web@1.service     # from ./web@1.service, or from the template web@.service
  fleetctl list-units
  fleetctl explain web@4.service
  fleetctl --endpoint http://10.0.2.11:49153 list-machines
  fleetctl --tunnel 203.0.113.7 journal -f web@1.service";

/// What each command's help says, with examples.
const TEXTS: [(&str, &str); 27] = [
    (
        "cat",
        "Prints the unit file as the cluster has it: without comments and blank lines.\n\n\
         Example:\n  fleetctl cat web@1.service",
    ),
    (
        "completion",
        "Example:\n  fleetctl completion bash > /etc/bash_completion.d/fleetctl",
    ),
    (
        "cordon",
        "What runs there stays. \"uncordon\" takes it back, \"drain\" also moves the units away.\n\n\
         Example:\n  fleetctl cordon 2444264c",
    ),
    (
        "destroy",
        "The units are stopped on their machines and forgotten. Unknown names are skipped.\n\n\
         Examples:\n  fleetctl destroy web@1.service\n  fleetctl destroy --no-block old.service",
    ),
    (
        "drain",
        "No unit is placed on the machine any more, and its units move to where they fit: all at once,\n\
         each stopped before it is started elsewhere; global units stay. Waits until the machine has\n\
         stopped them and they are up elsewhere, and says what keeps those that cannot leave.\n\
         \"uncordon\" ends it.\n\n\
         Example:\n  fleetctl drain 2444264c && fleetctl ssh 2444264c sudo reboot",
    ),
    (
        "explain",
        "Prints what is wanted of the unit, where it is and why, and for each machine whether the unit\n\
         fits there, and if not, what is in the way.\n\n\
         Example:\n  fleetctl explain web@4.service",
    ),
    (
        "fd-forward",
        "For fleetctl --tunnel, which runs it on the other side.\n\n\
         Example:\n  fleetctl fd-forward /var/run/fleet.sock",
    ),
    (
        "import",
        "Reads the registry of an original fleet cluster through its etcd's v2 API and submits its units\n\
         here, with what was wanted of them. Nothing is written to the old cluster. Units that exist\n\
         here are left alone; --replace takes the old cluster's text for those that differ.\n\n\
         Examples:\n  fleetctl import --from-etcd2 http://10.0.0.1:2379 --dry-run\n  \
         fleetctl import --from-etcd2 http://10.0.0.1:2379 --inactive\n  \
         fleetctl import --from-etcd2 https://10.0.0.1:2379 --etcd2-username root \\\n      \
         --etcd2-password-file ./password",
    ),
    (
        "journal",
        "Runs journalctl on the unit's machine, over ssh where that is another one. Of a global unit the\n\
         journals of all its machines are shown.\n\n\
         Examples:\n  fleetctl journal web@1.service\n  fleetctl journal --lines 100 -f web@1.service",
    ),
    (
        "list-machines",
        "Lists the machines that are there now. With --fields more than the API v1 tells can be seen.\n\n\
         Examples:\n  fleetctl list-machines\n  \
         fleetctl list-machines --fields machine,state,units,memory,cpus",
    ),
    (
        "list-unit-files",
        "Lists all units of the cluster, wherever they are or are not. The column \"runs\" counts on how\n\
         many of its machines a unit is active.\n\n\
         Examples:\n  fleetctl list-unit-files\n  fleetctl list-unit-files --fields unit,target,runs",
    ),
    (
        "list-units",
        "Lists what the machines report: one line for each unit and machine.\n\n\
         Examples:\n  fleetctl list-units\n  fleetctl list-units --no-legend --fields unit,machine",
    ),
    (
        "load",
        "Waits until each unit is loaded. Global units are never waited for unless --wait-active says so.\n\n\
         Examples:\n  fleetctl load web@1.service\n  fleetctl load --replace ./web@1.service",
    ),
    (
        "rebalance",
        "Asks the leader to move units from machines that carry much to machines that carry little, each\n\
         stopped before it is started elsewhere, and waits until that is done. Without a budget 10 units may\n\
         move.\n\n\
         Examples:\n  fleetctl rebalance --budget 5\n  fleetctl rebalance --no-block",
    ),
    (
        "replace",
        "Gives units a new text while at most N of them are down. Those that are down already count, and\n\
         have their turn first. Each is replaced where it is, if it still fits there, and must be active\n\
         before the next has its turn; a global unit is replaced machine by machine. At the first that\n\
         does not become active it stops, and says what has been replaced and what has not.\n\n\
         Examples:\n  fleetctl replace web@1.service web@2.service\n  \
         fleetctl replace --max-unavailable 2 ./web@.service",
    ),
    (
        "restart",
        "The service manager stops and starts each unit on its machine; global units on all of theirs.\n\
         Waits until each has been started anew. Units that are loaded are started.\n\n\
         Examples:\n  fleetctl restart web@1.service\n  fleetctl restart --wait-active proxy.service",
    ),
    (
        "result",
        "For units with Batch=yes in [X-Fleet]. The exit status is 0 only if the unit has succeeded.\n\n\
         Examples:\n  fleetctl result job@7.service\n  fleetctl result --wait job@7.service",
    ),
    (
        "scale",
        "Instances are numbered from 1. Missing ones are made from the template and started, lowest numbers\n\
         first; those above are destroyed, highest first. Instances with other names are left alone.\n\n\
         Examples:\n  fleetctl scale web@ 5\n  fleetctl scale web@.service 0",
    ),
    (
        "ssh",
        "Finds out whether the argument is a machine or a unit; --machine and --unit say so. Words after it\n\
         are a command, whose exit status is ours. Uses the ssh of this machine, with its keys and agent.\n\n\
         Examples:\n  fleetctl ssh 2444264c\n  fleetctl ssh web@1.service -- docker ps",
    ),
    (
        "start",
        "Waits until each unit has been launched and its service manager reports it as active. Global units\n\
         are never waited for unless --wait-active says so.\n\n\
         Examples:\n  fleetctl start web@1.service\n  fleetctl start --block-attempts 5 units/*.service",
    ),
    (
        "status",
        "Runs systemctl status on the unit's machine, over ssh where that is another one. Global units are\n\
         shown on all their machines.\n\n\
         Example:\n  fleetctl status web@1.service",
    ),
    (
        "stop",
        "The units stay on their machines, and can be started again at once.\n\n\
         Example:\n  fleetctl stop web@1.service web@2.service",
    ),
    (
        "submit",
        "Units that exist are left as they are; --replace gives inactive ones the new text.\n\n\
         Examples:\n  fleetctl submit web@.service\n  fleetctl submit --replace units/*.service",
    ),
    (
        "uncordon",
        "Ends what \"cordon\" or \"drain\" began. Units come back only as they are placed anew; see\n\
         \"rebalance\".\n\n\
         Example:\n  fleetctl uncordon 2444264c",
    ),
    (
        "unload",
        "The units stay in the cluster, but on no machine.\n\n\
         Example:\n  fleetctl unload web@1.service",
    ),
    (
        "verify",
        "Signed units are no longer supported.\n\nExample:\n  fleetctl cat web@1.service",
    ),
    ("version", "Example:\n  fleetctl version"),
];

/// The command line's definition, complete with help and shortened commands.
pub(super) fn command() -> clap::Command {
    let mut root = Cli::command()
        .version(concat!("version ", env!("CARGO_PKG_VERSION")))
        .help_template(format!(
            "NAME:\n{{tab}}{{name}} - {{about}}\n\nUSAGE:\n{{tab}}{{usage}}\n\n\
             VERSION:\n{{tab}}{}\n\nDESCRIPTION:\n{}\n\n{{all-args}}",
            env!("CARGO_PKG_VERSION"),
            indented(ROOT)
        ))
        // What they hold is not what the help is about.
        .mut_args(|arg| arg.hide_env_values(true));
    let names: Vec<String> = root
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    for name in names {
        let text = TEXTS
            .iter()
            .find(|(n, _)| *n == name)
            .map_or("", |(_, text)| text);
        root = root.mut_subcommand(&name, |command| {
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            let template = format!(
                "NAME:\n{{tab}}fleetctl {name} - {about}\n\nUSAGE:\n{{tab}}{{usage}}\n\n\
                 DESCRIPTION:\n{}\n\n{{all-args}}",
                indented(text)
            );
            command
                .help_template(template)
                .next_help_heading("OPTIONS")
                .mut_args(|arg| match arg.get_help_heading() {
                    None if arg.is_positional() => arg.help_heading("ARGUMENTS"),
                    None => arg.help_heading("OPTIONS"),
                    Some(_) => arg,
                })
                .aliases(short_forms(&name))
        });
    }
    root
}

/// Beginnings of an original command that were unambiguous, so that newer commands leave them be.
fn short_forms(name: &str) -> Vec<&'static str> {
    let Some(name) = ORIGINAL.into_iter().find(|original| *original == name) else {
        return Vec::new();
    };
    (1..name.len())
        .map(|length| &name[..length])
        .filter(|start| ORIGINAL.iter().filter(|n| n.starts_with(start)).count() == 1)
        .collect()
}

fn indented(text: &str) -> String {
    let line = |line: &str| match line {
        "" => String::new(),
        line => format!("  {line}"),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Reads the command line.
pub(crate) fn parse<I>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item: Into<std::ffi::OsString> + Clone>,
{
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

/// Prints the completion script for a shell.
pub(crate) fn print_completion(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut command(), "fleetctl", &mut std::io::stdout());
}

/// The help as printed when there is no command.
pub(crate) fn long_help() -> String {
    command().render_long_help().to_string()
}
