//! loginctl

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use dbus_api::blocking::Connection;
use dbus_api::login1;
use dbus_api::wire::Value;

use super::{fail, properties};
use crate::cli::parse;
use crate::format::property;
use crate::format::table::Table;
use crate::format::time::Zone;

/// Who is logged in
#[derive(Debug, Parser)]
#[command(
    name = "loginctl",
    version,
    after_help = "Example:\n  loginctl list-sessions"
)]
struct Options {
    /// list-sessions | list-users | list-seats | show-session ID
    words: Vec<String>,
    /// Show only these properties
    #[arg(short = 'p', long = "property", value_delimiter = ',')]
    properties: Vec<String>,
    /// Only print values
    #[arg(long)]
    value: bool,
    /// Do not print headings and hints
    #[arg(long)]
    no_legend: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_pager: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let mut bus = match Connection::system() {
        Ok(bus) => bus,
        Err(error) => return fail("loginctl", "failed to connect to the bus", &error),
    };
    let sessions = match bus.call(login1::list_sessions()) {
        Ok(sessions) => sessions,
        Err(error) => return fail("loginctl", "failed to list sessions", &error),
    };
    match words.as_slice() {
        [] | ["list-sessions"] => {
            let mut table = Table::new(&["SESSION", "UID", "USER", "SEAT", "TTY"]);
            for session in &sessions {
                let all = properties(&mut bus, login1::NAME, &session.path, "").unwrap_or_default();
                let tty = all.str("TTY").unwrap_or_default().to_owned();
                table.push(vec![
                    session.id.clone(),
                    session.uid.to_string(),
                    session.user.clone(),
                    session.seat.clone(),
                    tty,
                ]);
            }
            print(&table, &options, "sessions");
        }
        ["list-users"] => {
            let mut users: Vec<(u32, String)> =
                sessions.into_iter().map(|s| (s.uid, s.user)).collect();
            users.sort();
            users.dedup();
            let mut table = Table::new(&["UID", "USER"]);
            for (uid, user) in users {
                table.push(vec![uid.to_string(), user]);
            }
            print(&table, &options, "users");
        }
        ["list-seats"] => print(&Table::new(&["SEAT"]), &options, "seats"),
        ["show-session", id] => {
            let Some(session) = sessions.iter().find(|session| session.id == *id) else {
                eprintln!("loginctl: no session {id:?}\nhint: loginctl list-sessions lists them");
                return ExitCode::from(1);
            };
            match properties(&mut bus, login1::NAME, &session.path, "") {
                Ok(all) => {
                    for (name, value) in all.iter() {
                        show(name, value, &options);
                    }
                }
                Err(error) => return fail("loginctl", "failed to read the session", &error),
            }
        }
        _ => {
            eprintln!(
                "loginctl: unknown command or wrong number of arguments\nhint: loginctl --help"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn show(name: &str, value: &Value, options: &Options) {
    if !options.properties.is_empty() && !options.properties.iter().any(|wanted| wanted == name) {
        return;
    }
    let text = match (name, value) {
        ("User", Value::Struct(fields)) => fields
            .first()
            .and_then(Value::as_u64)
            .map(|uid| uid.to_string()),
        _ => property::text(name, value, &Zone::local()),
    };
    let text = text.unwrap_or_default();
    if options.value {
        println!("{text}");
    } else {
        println!("{name}={text}");
    }
}

fn print(table: &Table, options: &Options, what: &str) {
    if table.len() == 0 {
        if !options.no_legend {
            println!("No {what}.");
        }
        return;
    }
    for line in table.lines(!options.no_legend, None, true) {
        println!("{}", line.trim_end());
    }
    if !options.no_legend {
        println!("\n{} {what} listed.", table.len());
    }
}
