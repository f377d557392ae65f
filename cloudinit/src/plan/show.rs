//! How a change reads in `--dry-run` and in the journal. Password hashes are never
//! shown, arguments of commands (which may be secrets too) only by `--dry-run`.

use std::fmt;

use super::{Change, NewUser, Weight};

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::SetHostname { name } => write!(f, "set hostname {name}"),
            Change::CreateGroup { name, members } => {
                write!(f, "create group {name}")?;
                list(f, " with ", members)
            }
            Change::CreateUser(user) => show_user(f, user),
            Change::SetPassword { user, .. } => write!(f, "set password of {user}"),
            Change::SetKeys { user, set, keys } => {
                write!(f, "set {} ssh key(s) of {user}, set {set}", keys.len())
            }
            Change::WriteFile {
                path,
                content,
                mode,
                owner,
                append,
            } => {
                let verb = if *append { "append to" } else { "write" };
                let owner = if owner.is_empty() { "root" } else { owner };
                let size = content.len();
                write!(
                    f,
                    "{verb} {} ({mode:04o} {owner}, {size} bytes)",
                    path.display()
                )
            }
            Change::Link { path, target } => {
                write!(f, "link {} -> {}", path.display(), target.display())
            }
            Change::Unmask { path } => write!(f, "unmask {}", path.display()),
            Change::EnableUnit { unit, runtime } => {
                write!(
                    f,
                    "enable {unit}{}",
                    if *runtime { " until the next boot" } else { "" }
                )
            }
            Change::Reload => write!(f, "reload units"),
            Change::RestartNetworkd => write!(f, "restart systemd-networkd.service"),
            Change::UnitCommand {
                unit,
                command,
                generated,
            } => {
                write!(
                    f,
                    "{command} {unit}{}",
                    if *generated { " (if it exists)" } else { "" }
                )
            }
            Change::Run { args, late } => {
                let when = if *late { " once per instance" } else { "" };
                write!(f, "run{when} {}", args.first().map_or("", String::as_str))
            }
            Change::RunScript { script } => write!(f, "run script ({} bytes)", script.len()),
            Change::Problem { message, weight } => match weight {
                Weight::Skipped => write!(f, "note: {message}"),
                Weight::Error => write!(f, "problem: {message}"),
                Weight::Fatal => write!(f, "problem: {message}; stop here"),
            },
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, before: &str, items: &[String]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "{before}{}", items.join(","))
}

fn show_user(f: &mut fmt::Formatter<'_>, user: &NewUser) -> fmt::Result {
    write!(f, "create user {}", user.name)?;
    if let Some(uid) = user.uid {
        write!(f, " uid {uid}")?;
    }
    if !user.primary_group.is_empty() {
        write!(f, " group {}", user.primary_group)?;
    }
    list(f, " groups ", &user.groups)?;
    write!(f, " home {}", user.home)?;
    if !user.create_home {
        write!(f, " (not made)")?;
    }
    write!(f, " shell {}", user.shell)?;
    if user.system {
        write!(f, " system")?;
    }
    if user.passwd != "*" {
        write!(f, " with password")?;
    }
    Ok(())
}

/// The plan as `--dry-run` prints it: a line for each change, file texts indented below.
pub fn render(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        out.push_str(&format!("{change}\n"));
        let body = match change {
            Change::WriteFile { content, .. } => String::from_utf8(content.clone()).ok(),
            Change::RunScript { script } => Some(script.clone()),
            Change::SetKeys { keys, .. } => Some(keys.join("\n")),
            Change::Run { args, .. } => Some(args.join(" ")),
            _ => None,
        };
        for line in body.iter().flat_map(|b| b.lines()) {
            out.push_str(&format!("    | {line}\n"));
        }
    }
    out
}
