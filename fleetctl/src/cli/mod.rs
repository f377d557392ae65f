//! The command line. Every global flag is also `FLEETCTL_<FLAG>` in the environment; an empty
//! variable is as good as none, and the command line wins.

mod help;
mod values;

use clap::{ArgAction, Args, Parser, Subcommand};

pub(crate) use help::{long_help, parse, print_completion};
use values::{Given, non_empty, seconds, truth};

/// Submits, runs and looks at units on a cluster of machines.
#[derive(Debug, Parser)]
#[command(
    name = "fleetctl",
    disable_version_flag = true,
    disable_help_flag = true
)]
#[command(infer_subcommands = true, subcommand_help_heading = "COMMANDS")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Print the version and exit.
    #[arg(long, short = 'v', action = ArgAction::Version, help_heading = "OPTIONS")]
    version: Option<bool>,
    /// Print this text, or that of the command, and exit.
    #[arg(long, short = 'h', action = ArgAction::HelpLong, global = true, help_heading = "OPTIONS")]
    help: Option<bool>,
    #[arg(long = "h", action = ArgAction::HelpLong, global = true, hide = true)]
    h: Option<bool>,
    /// None prints the help.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Flags of all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "GLOBAL OPTIONS")]
pub(crate) struct Global {
    /// Where the API is: unix:///PATH, http://HOST:PORT, https://HOST:PORT.
    #[arg(long, global = true, env = "FLEETCTL_ENDPOINT",
        default_value = DEFAULT_ENDPOINT, value_parser = endpoint)]
    pub(crate) endpoint: String,
    /// Only "API": this client speaks to fleetd, never to etcd.
    #[arg(long, global = true, env = "FLEETCTL_DRIVER", default_value = "API")]
    pub(crate) driver: String,
    /// Authorities that may have signed fleetd's certificate [default: the system's].
    #[arg(long, global = true, env = "FLEETCTL_CA_FILE", default_value = "", hide_default_value = true, value_parser = non_empty)]
    ca_file: Given<String>,
    /// Our certificate for https.
    #[arg(long, global = true, env = "FLEETCTL_CERT_FILE", default_value = "", hide_default_value = true, value_parser = non_empty)]
    cert_file: Given<String>,
    /// The key of our certificate.
    #[arg(long, global = true, env = "FLEETCTL_KEY_FILE", default_value = "", hide_default_value = true, value_parser = non_empty)]
    key_file: Given<String>,
    /// Seconds that fleetd may be silent [default: 30].
    #[arg(long, global = true, env = "FLEETCTL_REQUEST_TIMEOUT", default_value = "", hide_default_value = true, value_parser = seconds)]
    request_timeout: Given<f64>,
    /// Reach the cluster through ssh to HOST[:PORT].
    #[arg(long, global = true, env = "FLEETCTL_TUNNEL", default_value = "", hide_default_value = true, value_parser = non_empty)]
    tunnel: Given<String>,
    /// User for ssh.
    #[arg(long, global = true, env = "FLEETCTL_SSH_USERNAME", default_value = "", hide_default_value = true, value_parser = non_empty)]
    ssh_username: Given<String>,
    /// Seconds that making an ssh connection may take [default: 10].
    #[arg(long, global = true, env = "FLEETCTL_SSH_TIMEOUT", default_value = "", hide_default_value = true, value_parser = seconds)]
    ssh_timeout: Given<f64>,
    /// Refuse hosts whose key has changed, and ask for unknown ones [default: true].
    #[arg(long, global = true, env = "FLEETCTL_STRICT_HOST_KEY_CHECKING", value_name = "BOOL",
        default_value = "", hide_default_value = true, value_parser = truth, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict_host_key_checking: Given<bool>,
    /// Where the keys of hosts are remembered [default: ~/.fleetctl/known_hosts].
    #[arg(long, global = true, env = "FLEETCTL_KNOWN_HOSTS_FILE", default_value = "", hide_default_value = true, value_parser = non_empty)]
    known_hosts_file: Given<String>,
    /// Prefix of fleet's keys in the etcd that "import" reads [default: /_coreos.com/fleet/].
    #[arg(long, global = true, env = "FLEETCTL_ETCD_KEY_PREFIX", default_value = "", hide_default_value = true, value_parser = non_empty)]
    etcd_key_prefix: Given<String>,
    /// Tell each request on standard error.
    #[arg(long, global = true, env = "FLEETCTL_DEBUG", value_name = "BOOL",
        default_value = "", hide_default_value = true, value_parser = truth, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug: Given<bool>,
    /// Print results, and errors, as JSON.
    #[arg(long, global = true, env = "FLEETCTL_JSON", value_name = "BOOL",
        default_value = "", hide_default_value = true, value_parser = truth, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Given<bool>,
    /// Without effect, as in the original's last version.
    #[arg(long, global = true, env = "FLEETCTL_EXPERIMENTAL_API", hide = true,
        default_value = "", hide_default_value = true, value_parser = truth, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    experimental_api: Given<bool>,
    #[arg(long, global = true, env = "FLEETCTL_ETCD_CAFILE", hide = true, default_value = "", hide_default_value = true, value_parser = non_empty)]
    etcd_cafile: Given<String>,
    #[arg(long, global = true, env = "FLEETCTL_ETCD_CERTFILE", hide = true, default_value = "", hide_default_value = true, value_parser = non_empty)]
    etcd_certfile: Given<String>,
    #[arg(long, global = true, env = "FLEETCTL_ETCD_KEYFILE", hide = true, default_value = "", hide_default_value = true, value_parser = non_empty)]
    etcd_keyfile: Given<String>,
}

const DEFAULT_ENDPOINT: &str = "unix:///var/run/fleet.sock";

fn endpoint(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(if text.is_empty() {
        DEFAULT_ENDPOINT
    } else {
        text
    }
    .to_owned())
}

impl Global {
    pub(crate) fn tls(&self) -> crate::net::tls::Files {
        let either =
            |new: &Given<String>, old: &Given<String>| new.0.clone().or_else(|| old.0.clone());
        crate::net::tls::Files {
            ca: either(&self.ca_file, &self.etcd_cafile),
            cert: either(&self.cert_file, &self.etcd_certfile),
            key: either(&self.key_file, &self.etcd_keyfile),
        }
    }

    pub(crate) fn ssh(&self) -> crate::net::ssh::Options {
        let text = |value: &Given<String>, default: &str| {
            value.0.clone().unwrap_or_else(|| default.to_owned())
        };
        crate::net::ssh::Options {
            username: text(&self.ssh_username, "core"),
            timeout: self.ssh_timeout.0.unwrap_or(10.0),
            strict: self.strict_host_key_checking.0.unwrap_or(true),
            known_hosts: text(&self.known_hosts_file, "~/.fleetctl/known_hosts"),
        }
    }

    pub(crate) fn tunnel(&self) -> &str {
        self.tunnel.0.as_deref().unwrap_or("")
    }

    pub(crate) fn silence(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.request_timeout.0.unwrap_or(30.0).max(0.1))
    }

    pub(crate) fn json(&self) -> bool {
        self.json.0.unwrap_or(false)
    }

    pub(crate) fn debug(&self) -> bool {
        self.debug.0.unwrap_or(false)
    }

    pub(crate) fn etcd_key_prefix(&self) -> &str {
        self.etcd_key_prefix
            .0
            .as_deref()
            .unwrap_or("/_coreos.com/fleet/")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a unit file.
    Cat(Units),
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Place no further units on machines.
    Cordon(Machines),
    /// Remove units from the cluster.
    Destroy(Destroy),
    /// Cordon machines and move their units elsewhere.
    Drain(Drain),
    /// Say why a unit is where it is, or nowhere.
    Explain(OneUnit),
    /// Connect standard input and output with a socket.
    FdForward {
        /// The socket.
        sockets: Vec<String>,
    },
    /// Take over the units of an original fleet cluster.
    Import(Import),
    /// Show the journal of a unit.
    Journal(Journal),
    /// List the machines.
    ListMachines(ListMachines),
    /// List the units of the cluster.
    ListUnitFiles(ListUnitFiles),
    /// List the units on the machines with their states.
    ListUnits(ListUnits),
    /// Schedule units and load them on their machines, uploading them first if needed.
    Load(Change),
    /// Move units until all machines carry about as much.
    Rebalance(Rebalance),
    /// Replace running units a few at a time.
    Replace(Replace),
    /// Stop and start units where they are.
    Restart(Restart),
    /// Say what came of a batch unit.
    Result(ResultOf),
    /// Have so many instances of a template.
    Scale(Scale),
    /// Log in to a machine, or run a command there.
    Ssh(Ssh),
    /// Start units, uploading and loading them first if needed.
    Start(Change),
    /// Show systemd's status of units.
    Status(Status),
    /// Stop units; they stay loaded on their machines.
    Stop(Down),
    /// Upload units without scheduling them.
    Submit(Submit),
    /// Let units be placed on machines again.
    Uncordon(Machines),
    /// Stop units and take them off their machines.
    Unload(Down),
    /// No longer supported.
    #[command(hide = true)]
    Verify(Units),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Units {
    /// Units.
    pub(crate) units: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneUnit {
    /// The unit.
    pub(crate) unit: String,
}

#[derive(Debug, Args)]
pub(crate) struct Machines {
    /// Machine IDs, or at least their first eight digits.
    #[arg(required = true)]
    pub(crate) machines: Vec<String>,
}

/// How to wait.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct Wait {
    /// Do not wait for the result.
    #[arg(long)]
    pub(crate) no_block: bool,
    /// Wait at most this many times 2 seconds; 0 waits for ever.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) block_attempts: u32,
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
    pub(crate) sign: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Unit names or files.
    pub(crate) units: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Wait also until the service manager reports every unit, those that were up already and
    /// global ones on all their machines included, as active (start) or loaded (load).
    #[arg(long, conflicts_with = "no_block")]
    pub(crate) wait_active: bool,
    /// Replace units that differ.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Without effect.
    #[arg(long, hide = true)]
    pub(crate) sign: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Units.
    pub(crate) units: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// Units.
    pub(crate) units: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Units.
    pub(crate) units: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Wait also until the service manager reports every unit as active.
    #[arg(long, conflicts_with = "no_block")]
    pub(crate) wait_active: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// The template, as web@ or web@.service.
    pub(crate) template: String,
    /// How many instances.
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Wait also until the service manager reports every instance as active.
    #[arg(long, conflicts_with = "no_block")]
    pub(crate) wait_active: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Unit files, or names of units whose file or template is here; a template stands for all its
    /// instances.
    #[arg(required = true)]
    pub(crate) units: Vec<String>,
    /// How many units may be down at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_unavailable: u32,
    /// Give a unit at most this many times 2 seconds to become active; 0 waits for ever.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) block_attempts: u32,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResultOf {
    /// The unit.
    pub(crate) unit: String,
    /// Wait until it has finished.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait at most this many times 2 seconds; 0 waits for ever.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "wait")]
    pub(crate) block_attempts: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Machine IDs, or at least their first eight digits.
    #[arg(required = true)]
    pub(crate) machines: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Rebalance {
    /// Move at most so many units.
    #[arg(long)]
    pub(crate) budget: Option<u32>,
    /// Wait until all moves are done, which is the default.
    #[arg(long, conflicts_with = "no_block")]
    wait: bool,
    #[command(flatten)]
    pub(crate) block: Wait,
}

/// What all lists have.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Do not shorten IDs and hashes.
    #[arg(long, short = 'l', alias = "l")]
    pub(crate) full: bool,
    /// Do not print the header.
    #[arg(long)]
    pub(crate) no_legend: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListUnits {
    /// Columns, of: active hash load machine sub unit.
    #[arg(long, default_value = "unit,machine,active,sub")]
    pub(crate) fields: String,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, Args)]
pub(crate) struct ListUnitFiles {
    /// Columns, of: desc dstate global hash runs state target tmachine unit.
    #[arg(long, default_value = "unit,hash,dstate,state,target")]
    pub(crate) fields: String,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, Args)]
pub(crate) struct ListMachines {
    /// Columns, of: cpus ip machine memory metadata state units version.
    #[arg(long, default_value = "machine,ip,metadata")]
    pub(crate) fields: String,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Units.
    pub(crate) units: Vec<String>,
    /// Port of ssh on the machines.
    #[arg(long, default_value_t = 22, value_name = "PORT")]
    pub(crate) ssh_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Journal {
    /// The unit.
    pub(crate) units: Vec<String>,
    /// How many lines.
    #[arg(long, default_value_t = 10, value_name = "N")]
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
    /// Of a global unit, only what it says on this machine.
    #[arg(long, value_name = "ID")]
    pub(crate) machine: Option<String>,
    /// Port of ssh on the machines.
    #[arg(long, default_value_t = 22, value_name = "PORT")]
    pub(crate) ssh_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// Machine ID or its beginning, or a unit. With --machine or --unit, the command begins here.
    #[arg(value_name = "MACHINE|UNIT")]
    pub(crate) target: Option<String>,
    /// What to run there instead of a shell.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Log in to this machine.
    #[arg(long, value_name = "ID")]
    pub(crate) machine: Option<String>,
    /// Log in to the machine of this unit.
    #[arg(long)]
    pub(crate) unit: Option<String>,
    /// Forward the authentication agent.
    #[arg(long, short = 'A', alias = "A")]
    pub(crate) forward_agent: bool,
    /// Port of ssh on the machine.
    #[arg(long, default_value_t = 22, value_name = "PORT")]
    pub(crate) ssh_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Client URL of the old cluster's etcd, whose v2 API must answer.
    #[arg(long, value_name = "URL")]
    pub(crate) from_etcd2: String,
    /// User, where the old etcd wants one.
    #[arg(long, value_name = "NAME", requires = "etcd2_password_file")]
    pub(crate) etcd2_username: Option<String>,
    /// File whose first line is that user's password.
    #[arg(long, value_name = "FILE", requires = "etcd2_username")]
    pub(crate) etcd2_password_file: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace units of the same name that differ.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Want nothing of the imported units yet: they can be started one by one later.
    #[arg(long)]
    pub(crate) inactive: bool,
    /// Bring the machines' metadata set through the API too.
    #[arg(long)]
    pub(crate) metadata: bool,
}

#[cfg(test)]
mod tests;
