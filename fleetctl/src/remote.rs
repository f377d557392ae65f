//! Commands that run a program on a unit's machine: here if this is it, else over ssh.

use std::process::{Command, ExitCode, Stdio};

use fleet_model::mangle;

use crate::api::Client;
use crate::cli::{Global, Journal, Ssh, Status};
use crate::error::Failure;
use crate::list::machines_by_id;
use crate::units::{get, is_global};

/// Where a command runs.
enum Place {
    Here,
    At(String),
}

/// `status`: what systemctl says, unit by unit; the exit status is the last one that is not 0.
pub(crate) fn status(client: &Client, global: &Global, args: &Status) -> Result<ExitCode, Failure> {
    let mut worst = 0;
    let mut first = true;
    for argument in &args.units {
        let name = mangle(argument);
        for machine in machines_of(client, &name)? {
            if !std::mem::take(&mut first) {
                println!();
            }
            let place = place(client, &machine)?;
            let code = run(
                global,
                &place,
                args.ssh_port,
                &["systemctl", "status", "-l", &name],
            )?;
            if code != 0 {
                worst = code;
            }
        }
    }
    Ok(ExitCode::from(worst))
}

/// `journal`.
pub(crate) fn journal(
    client: &Client,
    global: &Global,
    args: &Journal,
) -> Result<ExitCode, Failure> {
    let name = mangle(&args.unit);
    let machines = machines_of(client, &name)?;
    let [machine] = &machines[..] else {
        return Err(Failure::Refused(format!(
            "unit {name} is global: it has a journal per machine"
        )));
    };
    let lines = args.lines.to_string();
    let mut command = Vec::new();
    if args.sudo {
        command.push("sudo");
    }
    command.extend([
        "journalctl",
        "--unit",
        &name,
        "--no-pager",
        "-n",
        &lines,
        "--output",
    ]);
    command.push(&args.output);
    if args.follow {
        command.push("-f");
    }
    run(global, &place(client, machine)?, args.ssh_port, &command).map(ExitCode::from)
}

/// `ssh`.
pub(crate) fn ssh(client: &Client, global: &Global, args: &Ssh) -> Result<ExitCode, Failure> {
    let mut command: Vec<&str> = args.arguments.iter().map(String::as_str).collect();
    let machine = match (&args.machine, &args.unit) {
        (Some(_), Some(_)) => {
            return Err(Failure::Refused(
                "--machine and --unit cannot be used together".into(),
            ));
        }
        (Some(machine), None) => {
            find_machine(client, machine)?.ok_or_else(|| no_machine(machine))?
        }
        (None, Some(unit)) => machine_of_unit(client, unit)?,
        (None, None) => {
            if command.is_empty() {
                return Err(Failure::Refused("name a machine or a unit".into()));
            }
            let target = command.remove(0);
            match find_machine(client, target)? {
                Some(machine) => machine,
                None => machine_of_unit(client, target).map_err(|error| match error {
                    Failure::NotFound { .. } => no_machine(target),
                    other => other,
                })?,
            }
        }
    };
    if command.first() == Some(&"--") {
        command.remove(0);
    }
    let address = address(client, &machine)?;
    let mut ssh = ssh_command(global, &address, args.ssh_port);
    if args.forward_agent {
        ssh.arg("-A");
    }
    ssh.arg(&address);
    if !command.is_empty() {
        ssh.arg("--").args(command);
    }
    wait(ssh, "ssh").map(ExitCode::from)
}

fn no_machine(text: &str) -> Failure {
    Failure::Refused(format!("no machine or unit \"{text}\""))
}

/// The machines on which a unit is; at least one.
fn machines_of(client: &Client, name: &str) -> Result<Vec<String>, Failure> {
    let unit = get(client, name)?;
    let machines: Vec<String> = if is_global(&unit) {
        client
            .states(Some(name))?
            .into_iter()
            .map(|s| s.machine_id)
            .collect()
    } else {
        Some(unit.machine_id.clone())
            .filter(|m| !m.is_empty())
            .into_iter()
            .collect()
    };
    if machines.is_empty() {
        return Err(Failure::Refused(format!("unit {name} is on no machine")));
    }
    Ok(machines)
}

fn machine_of_unit(client: &Client, unit: &str) -> Result<String, Failure> {
    let machines = machines_of(client, &mangle(unit))?;
    machines.into_iter().next().ok_or_else(|| no_machine(unit))
}

/// The machine whose ID begins like this.
fn find_machine(client: &Client, prefix: &str) -> Result<Option<String>, Failure> {
    let mut ids = client
        .machines()?
        .into_iter()
        .map(|m| m.id)
        .filter(|id| id.starts_with(prefix));
    match (ids.next(), ids.next()) {
        (Some(_), Some(_)) => Err(Failure::Refused(format!(
            "several machines begin with \"{prefix}\""
        ))),
        (one, _) => Ok(one),
    }
}

fn place(client: &Client, machine: &str) -> Result<Place, Failure> {
    let here = std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.trim() == machine);
    if here {
        Ok(Place::Here)
    } else {
        address(client, machine).map(Place::At)
    }
}

fn address(client: &Client, machine: &str) -> Result<String, Failure> {
    let machines = machines_by_id(client)?;
    match machines.get(machine).map(|m| m.primary_ip.as_str()) {
        Some("") => Err(Failure::Refused(format!(
            "machine {machine} has published no address"
        ))),
        Some(ip) => Ok(ip.to_owned()),
        None => Err(Failure::Refused(format!(
            "machine {machine} is not present"
        ))),
    }
}

fn run(global: &Global, place: &Place, port: u16, command: &[&str]) -> Result<u8, Failure> {
    match place {
        Place::Here => {
            let mut local = Command::new(command[0]);
            local.args(&command[1..]);
            wait(local, command[0])
        }
        Place::At(address) => {
            let mut ssh = ssh_command(global, address, port);
            let quoted: Vec<String> = command.iter().map(|word| quote(word)).collect();
            ssh.arg(address).arg("--").args(quoted);
            wait(ssh, "ssh")
        }
    }
}

fn ssh_command(global: &Global, address: &str, port: u16) -> Command {
    let mut ssh = Command::new("ssh");
    let strict = if global.strict_host_key_checking {
        "ask"
    } else {
        "no"
    };
    let hosts = match global.known_hosts_file.strip_prefix("~/") {
        Some(rest) => {
            let home = std::env::var("HOME").unwrap_or_default();
            format!("{home}/{rest}")
        }
        None => global.known_hosts_file.clone(),
    };
    if let Some(dir) = std::path::Path::new(&hosts).parent() {
        // Without it ssh only does not remember the key, and says so.
        let _ = std::fs::create_dir_all(dir);
    }
    ssh.args(["-l", &global.ssh_username, "-p", &port.to_string()])
        .arg(format!(
            "-oConnectTimeout={}",
            global.ssh_timeout.ceil().max(1.0)
        ))
        .arg(format!("-oStrictHostKeyChecking={strict}"))
        .arg(format!("-oUserKnownHostsFile={hosts}"))
        .arg(format!("-oHostKeyAlias={address}"))
        .arg("-oLogLevel=ERROR");
    ssh
}

/// A word for the remote shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a program to its end; a signal counts as 128 and its number.
fn wait(mut command: Command, program: &str) -> Result<u8, Failure> {
    use std::os::unix::process::ExitStatusExt as _;

    let status = command
        .stdin(Stdio::inherit())
        .status()
        .map_err(|source| Failure::Spawn {
            program: program.to_owned(),
            source,
        })?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_safe_in_a_shell() {
        assert_eq!(super::quote("a'b$c"), r"'a'\''b$c'");
    }
}
