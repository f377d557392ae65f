//! Commands that run a program on a unit's machine: here if this is it, else over ssh.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use fleet_model::{mangle, wire};

use crate::Done;
use crate::api::Client;
use crate::cli::{Journal, Ssh, Status};
use crate::error::Failure;
use crate::list::{machines_by_id, short_id};
use crate::net::ssh::quote;
use crate::out::Out;
use crate::units::{get, is_global};

/// Where a command runs.
enum Place {
    Here,
    At(String),
}

/// `status`: what systemctl says, unit by unit. The exit status is that of the first that is not 0.
pub(crate) fn status(client: &Client, out: &Out, args: &Status) -> Done {
    out.none();
    let mut first = true;
    for argument in &args.units {
        let name = mangle(argument);
        let unit = get(client, &name)?;
        for machine in machines_of(client, &unit)? {
            if !std::mem::take(&mut first) {
                println!();
            }
            let command = ["systemctl", "status", "-l", &name];
            let place = place(client, &machine)?;
            let code = wait(command_at(client, &place, args.ssh_port, &command))?;
            if code != 0 {
                return Ok(ExitCode::from(code));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `journal`. Of a global unit, those of all its machines: one after the other, or as they come with
/// the machine before each line.
pub(crate) fn journal(client: &Client, out: &Out, args: &Journal) -> Done {
    out.none();
    let [unit] = &args.units[..] else {
        return Err(Failure::Refused("one unit file must be provided".into()));
    };
    let name = mangle(unit);
    let mut machines = machines_of(client, &get(client, &name)?)?;
    if let Some(prefix) = &args.machine {
        machines.retain(|id| id.starts_with(prefix.as_str()));
        if machines.is_empty() {
            return Err(Failure::Refused(format!(
                "unit {name} is on no machine \"{prefix}\""
            )));
        }
    }
    let lines = args.lines.to_string();
    let mut command = if args.sudo { vec!["sudo"] } else { Vec::new() };
    command.extend(["journalctl", "--unit", &name, "--no-pager", "-n", &lines]);
    command.extend(["--output", &args.output]);
    if args.follow {
        command.push("-f");
    }
    let at = |machine: &String| {
        let place = place(client, machine)?;
        Ok(command_at(client, &place, args.ssh_port, &command))
    };
    if let [machine] = &machines[..] {
        return wait(at(machine)?).map(ExitCode::from);
    }
    if args.follow {
        return follow_all(&machines, at);
    }
    let mut worst = 0;
    for (i, machine) in machines.iter().enumerate() {
        let blank = if i == 0 { "" } else { "\n" };
        println!("{blank}==> {} <==", short_id(machine, false));
        worst = worst.max(wait(at(machine)?)?);
    }
    Ok(ExitCode::from(worst))
}

/// Runs a command for each machine at once; each line is told with its machine.
fn follow_all(machines: &[String], at: impl Fn(&String) -> Result<Command, Failure>) -> Done {
    let mut children = Vec::new();
    let spawned = machines.iter().try_for_each(|machine| {
        let mut command = at(machine)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|source| spawn_failed(&command, source))?;
        children.push((machine.get(..8).unwrap_or(machine).to_owned(), child));
        Ok(())
    });
    if let Err(failure) = spawned {
        for (_, mut child) in children {
            // It may have ended by itself; then there is nothing to end.
            let _ = child.kill().and_then(|()| child.wait());
        }
        return Err(failure);
    }
    let code = std::thread::scope(|scope| {
        let copying =
            |(machine, child): (String, Child)| scope.spawn(move || copy(&machine, child));
        let threads: Vec<_> = children.into_iter().map(copying).collect();
        threads.into_iter().map(|t| t.join().unwrap_or(1)).max()
    });
    Ok(ExitCode::from(code.unwrap_or(0)))
}

/// Copies a child's lines with a word before each; returns its exit status.
fn copy(machine: &str, mut child: Child) -> u8 {
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = [machine.as_bytes(), b": ", &line, b"\n"].concat();
            if io::stdout().lock().write_all(&text).is_err() {
                break;
            }
        }
    }
    // The reader may be gone while the child goes on.
    let _ = child.kill();
    child.wait().map_or(1, code)
}

/// `ssh`.
pub(crate) fn ssh(client: &Client, out: &Out, args: &Ssh) -> Done {
    out.none();
    let mut command: Vec<&str> = args.command.iter().map(String::as_str).collect();
    if args.machine.is_some() || args.unit.is_some() {
        // No target is due then, so what looks like one begins the command.
        command.splice(0..0, args.target.as_deref());
    }
    let machine = match (&args.machine, &args.unit, &args.target) {
        (Some(_), Some(_), _) => {
            let text = "both --machine and --unit are given: name only one";
            return Err(Failure::Refused(text.into()));
        }
        (Some(machine), ..) => find_machine(client, machine)?.ok_or_else(|| no_machine(machine))?,
        (None, Some(unit), _) => machine_of_unit(client, &get(client, &mangle(unit))?)?,
        (None, None, None) => {
            return Err(Failure::Refused(
                "one machine or unit must be provided".into(),
            ));
        }
        (None, None, Some(target)) => either(client, target)?,
    };
    if command.first() == Some(&"--") {
        command.remove(0);
    }
    let flags: &[&str] = if args.forward_agent { &["-A"] } else { &[] };
    let address = address(client, &machine)?;
    let mut ssh = client.ssh().to(&address, args.ssh_port, flags);
    ssh.args(command);
    wait(ssh).map(ExitCode::from)
}

/// The machine, or the machine of the unit, that a word names.
fn either(client: &Client, word: &str) -> Result<String, Failure> {
    let unit = client.unit(&mangle(word))?;
    match (find_machine(client, word)?, unit) {
        (Some(_), Some(unit)) => Err(Failure::Refused(format!(
            "\"{word}\" begins the ID of a machine and names unit {}: say --machine or --unit",
            unit.name
        ))),
        (Some(machine), None) => Ok(machine),
        (None, Some(unit)) => machine_of_unit(client, &unit),
        (None, None) => Err(no_machine(word)),
    }
}

fn no_machine(text: &str) -> Failure {
    Failure::Refused(format!("no machine or unit \"{text}\""))
}

/// The machines on which a unit is; at least one.
fn machines_of(client: &Client, unit: &wire::Unit) -> Result<Vec<String>, Failure> {
    let name = &unit.name;
    let machines: Vec<String> = if is_global(unit) {
        let states = client.states(Some(name))?;
        states.into_iter().map(|s| s.machine_id).collect()
    } else if unit.current_state == "inactive" {
        Vec::new()
    } else {
        vec![unit.machine_id.clone()]
    };
    if machines.is_empty() {
        return Err(Failure::Refused(format!(
            "unit {name} does not appear to be loaded"
        )));
    }
    Ok(machines)
}

/// The one machine of a unit.
fn machine_of_unit(client: &Client, unit: &wire::Unit) -> Result<String, Failure> {
    let mut machines = machines_of(client, unit)?;
    match (machines.pop(), machines.is_empty()) {
        (Some(machine), true) => Ok(machine),
        _ => Err(Failure::Refused(format!(
            "global unit {} is on several machines: name one with --machine",
            unit.name
        ))),
    }
}

/// The machine whose ID begins like this.
fn find_machine(client: &Client, prefix: &str) -> Result<Option<String>, Failure> {
    let machines = client.machines()?;
    let mut ids = machines
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
        // It is told by the machine, and goes to ssh.
        Some(ip) if ip.parse::<IpAddr>().is_ok() || is_host_name(ip) => Ok(ip.to_owned()),
        Some(ip) => Err(Failure::Refused(format!(
            "machine {machine} has published \"{}\", which is no address",
            ip.escape_debug()
        ))),
        None => Err(Failure::Refused(format!(
            "machine {machine} is not present"
        ))),
    }
}

fn is_host_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.starts_with(['-', '.']) && text.chars().all(plain)
}

fn command_at(client: &Client, place: &Place, port: u16, words: &[&str]) -> Command {
    match place {
        Place::Here => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        }
        Place::At(address) => {
            let mut ssh = client.ssh().to(address, port, &[]);
            ssh.args(words.iter().map(|word| quote(word)));
            ssh
        }
    }
}

/// Runs a program to its end.
fn wait(mut command: Command) -> Result<u8, Failure> {
    // What we have printed comes before what it prints.
    let _ = io::stdout().flush();
    let status = command.stdin(Stdio::inherit()).status();
    status
        .map(code)
        .map_err(|source| spawn_failed(&command, source))
}

fn spawn_failed(command: &Command, source: io::Error) -> Failure {
    Failure::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

/// An exit status; a signal counts as 128 and its number.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::is_host_name;

    #[test]
    fn what_machines_publish_cannot_become_a_flag_of_ssh() {
        for (text, expect) in [
            ("node-1.example", true),
            ("-oProxyCommand=x", false),
            ("a b", false),
            ("a;b", false),
            ("$(x)", false),
            ("user@host", false),
        ] {
            assert_eq!(is_host_name(text), expect, "{text}");
        }
    }
}
