//! systemctl and the small commands that unit files and people call: one program, by the name it is started as.
//!
//! `systemctl hostnamectl timedatectl loginctl systemd-notify systemd-cat systemd-run systemd-escape systemd-analyze
//! reboot poweroff halt shutdown telinit`. Verbs, output and exit codes are systemd's; what is not offered is refused
//! by name.
//!
//! [`backend`] is the way to the manager (PID 1's socket, or the system bus), [`verbs`] are systemctl's, [`apps`] the
//! other names, [`format`] turns values to text. Nothing here decides about units.
#![forbid(unsafe_code)]

mod apps;
mod backend;
mod cli;
mod format;
mod names;
mod verbs;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    telemetry::quiet_broken_pipe();
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or("systemctl");
    match name {
        "hostnamectl" => apps::hostname::main(&args),
        "timedatectl" => apps::timedate::main(&args),
        "loginctl" => apps::login::main(&args),
        "systemd-notify" => apps::notify::main(&args),
        "systemd-cat" => apps::cat::main(&args),
        "systemd-run" => apps::run::main(&args),
        "systemd-escape" => apps::escape::main(&args),
        "systemd-analyze" => apps::analyze::main(&args),
        "reboot" | "poweroff" | "halt" | "shutdown" | "telinit" => apps::power::main(name, &args),
        _ => cli::main(&args),
    }
}
