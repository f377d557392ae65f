//! The command line. Every global flag is also `FLEETCTL_<FLAG>` in the environment.

use clap::{Args, Parser, Subcommand};

const EXAMPLE: &str = "\
Example:
  fleetctl start web@1.service     # from ./web@1.service, or from the template web@.service
  fleetctl list-units
  fleetctl --endpoint http://10.0.2.11:49153 list-machines";

/// Submits, runs and looks at units on a cluster of machines.
#[derive(Debug, Parser)]
#[command(name = "fleetctl", version = concat!("version ", env!("CARGO_PKG_VERSION")), disable_version_flag = true, after_help = EXAMPLE)]
#[command(
    infer_subcommands = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Print the version.
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of all commands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the API is: unix:///PATH, http://HOST:PORT.
    #[arg(
        long,
        env = "FLEETCTL_ENDPOINT",
        default_value = "unix:///var/run/fleet.sock"
    )]
    pub(crate) endpoint: String,
    /// User for commands on other machines.
    #[arg(long, env = "FLEETCTL_SSH_USERNAME", default_value = "core")]
    pub(crate) ssh_username: String,
    /// Seconds to wait for an ssh connection.
    #[arg(long, env = "FLEETCTL_SSH_TIMEOUT", default_value_t = 10.0)]
    pub(crate) ssh_timeout: f64,
    /// Refuse hosts whose key has changed, and ask for unknown ones.
    #[arg(long, env = "FLEETCTL_STRICT_HOST_KEY_CHECKING", default_value_t = true,
        action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) strict_host_key_checking: bool,
    /// Where keys of hosts are remembered.
    #[arg(
        long,
        env = "FLEETCTL_KNOWN_HOSTS_FILE",
        default_value = "~/.fleetctl/known_hosts"
    )]
    pub(crate) known_hosts_file: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Upload units without scheduling them.
    Submit(Submit),
    /// Schedule units and load them on their machines, uploading them first if needed.
    Load(Change),
    /// Start units, uploading and loading them first if needed.
    Start(Change),
    /// Stop units; they stay loaded on their machines.
    Stop(Change),
    /// Stop units and take them off their machines.
    Unload(Change),
    /// Stop and start units where they are.
    Restart(Change),
    /// Remove units from the cluster.
    Destroy(Change),
    /// Print a unit file.
    Cat {
        /// The unit.
        unit: String,
    },
    /// List the units on the machines with their states.
    ListUnits(List),
    /// List the units of the cluster.
    ListUnitFiles(List),
    /// List the machines.
    ListMachines(List),
    /// Show systemd's status of units.
    Status(Status),
    /// Show the journal of a unit.
    Journal(Journal),
    /// Log in to a machine, or run a command there.
    Ssh(Ssh),
    /// Print the version.
    Version,
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether failures are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::ListUnits(list) | Self::ListUnitFiles(list) | Self::ListMachines(list) => {
                list.json
            }
            _ => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// Unit names or files.
    pub(crate) units: Vec<String>,
    /// Replace units that differ.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Without effect.
    #[arg(long, hide = true)]
    sign: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Unit names or files.
    pub(crate) units: Vec<String>,
    /// Do not wait for the result.
    #[arg(long)]
    pub(crate) no_block: bool,
    /// Wait at most this many times 2 seconds; 0 waits for ever.
    #[arg(long, default_value_t = 0)]
    pub(crate) block_attempts: u32,
    /// Replace units that differ.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Without effect.
    #[arg(long, hide = true)]
    sign: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Columns, comma-separated.
    #[arg(long)]
    pub(crate) fields: Option<String>,
    /// Do not shorten IDs and hashes.
    #[arg(long, short = 'l', alias = "l")]
    pub(crate) full: bool,
    /// Do not print the header.
    #[arg(long)]
    pub(crate) no_legend: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The units.
    #[arg(required = true)]
    pub(crate) units: Vec<String>,
    /// Port of ssh on the machines.
    #[arg(long, default_value_t = 22)]
    pub(crate) ssh_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Journal {
    /// The unit.
    pub(crate) unit: String,
    /// How many lines.
    #[arg(long, default_value_t = 10)]
    pub(crate) lines: u32,
    /// Go on with new lines.
    #[arg(long, short = 'f', alias = "f")]
    pub(crate) follow: bool,
    /// Output format of journalctl.
    #[arg(long, default_value = "short")]
    pub(crate) output: String,
    /// Run journalctl with sudo.
    #[arg(long)]
    pub(crate) sudo: bool,
    /// Port of ssh on the machines.
    #[arg(long, default_value_t = 22)]
    pub(crate) ssh_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// Machine ID or its beginning, or a unit; then the command. Without a target, only with
    /// --machine or --unit.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
    /// Log in to this machine.
    #[arg(long)]
    pub(crate) machine: Option<String>,
    /// Log in to the machine of this unit.
    #[arg(long)]
    pub(crate) unit: Option<String>,
    /// Forward the authentication agent.
    #[arg(long, short = 'A', alias = "A")]
    pub(crate) forward_agent: bool,
    /// Port of ssh on the machines.
    #[arg(long, default_value_t = 22)]
    pub(crate) ssh_port: u16,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn prefixes_short_forms_and_flags_are_understood() {
        let parse = |text: &str| Cli::try_parse_from(text.split(' '));
        assert!(matches!(
            parse("fleetctl sub a").unwrap().command,
            Command::Submit(_)
        ));
        for text in [
            "fleetctl list-units -l",
            "fleetctl list-units --l",
            "fleetctl list-units --full",
        ] {
            let Command::ListUnits(list) = parse(text).unwrap().command else {
                panic!("{text}")
            };
            assert!(list.full, "{text}");
        }
        assert!(parse("fleetctl s a").is_err(), "ambiguous");
        assert!(parse("fleetctl nonsense").is_err());
        let cli = parse("fleetctl --strict-host-key-checking=false ssh m -- ls -l").unwrap();
        assert!(!cli.global.strict_host_key_checking);
        let Command::Ssh(ssh) = cli.command else {
            panic!("ssh")
        };
        assert_eq!(ssh.arguments.iter().filter(|a| *a != "--").count(), 3);
    }
}
