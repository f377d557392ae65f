//! hostnamectl

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use clap::Parser;
use dbus_api::blocking::Connection;
use dbus_api::{Properties, hostname1};

use super::fail;
use crate::cli::parse;

/// Query or change the machine's name
#[derive(Debug, Parser)]
#[command(
    name = "hostnamectl",
    version,
    after_help = "Example:\n  hostnamectl hostname node-1"
)]
struct Options {
    /// status | hostname [NAME] | set-hostname NAME
    words: Vec<String>,
    /// Only the running name
    #[arg(long)]
    transient: bool,
    /// Only the name in /etc/hostname
    #[arg(long = "static")]
    fixed: bool,
    /// Only the descriptive name
    #[arg(long)]
    pretty: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_ask_password: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let mut bus = match Connection::system() {
        Ok(bus) => bus,
        Err(error) => return fail("hostnamectl", "failed to connect to the bus", &error),
    };
    let call = match words.as_slice() {
        [] | ["status"] => return status(&mut bus, &options),
        ["hostname"] => {
            return match bus.call(hostname1::properties()) {
                Ok(all) => {
                    println!(
                        "{}",
                        pick(&all, &options)
                            .unwrap_or_else(|| all.str("Hostname").unwrap_or_default())
                    );
                    ExitCode::SUCCESS
                }
                Err(error) => fail("hostnamectl", "failed to read the host name", &error),
            };
        }
        ["hostname" | "set-hostname", name] if options.transient => hostname1::set_hostname(name),
        ["hostname" | "set-hostname", name] => hostname1::set_static_hostname(name),
        _ => {
            eprintln!(
                "hostnamectl: unknown command or wrong number of arguments\nhint: hostnamectl --help"
            );
            return ExitCode::from(2);
        }
    };
    match bus.call(call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("hostnamectl", "failed to set the host name", &error),
    }
}

fn pick<'a>(all: &'a Properties, options: &Options) -> Option<&'a str> {
    let name = match (options.fixed, options.transient, options.pretty) {
        (true, ..) => "StaticHostname",
        (_, true, _) => "Hostname",
        (_, _, true) => "PrettyHostname",
        _ => return None,
    };
    Some(all.str(name).unwrap_or_default())
}

fn status(bus: &mut Connection, options: &Options) -> ExitCode {
    let all = match bus.call(hostname1::properties()) {
        Ok(all) => all,
        Err(error) => return fail("hostnamectl", "failed to read the host name", &error),
    };
    if let Some(name) = pick(&all, options) {
        println!("{name}");
        return ExitCode::SUCCESS;
    }
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let boot: String = read("/proc/sys/kernel/random/boot_id")
        .chars()
        .filter(|c| *c != '-')
        .collect();
    let kernel = ["KernelName", "KernelRelease"]
        .map(|name| all.str(name).unwrap_or_default())
        .join(" ");
    let fixed = all
        .str("StaticHostname")
        .filter(|name| !name.is_empty())
        .unwrap_or("(unset)");
    let transient = all
        .str("Hostname")
        .filter(|name| *name != fixed)
        .unwrap_or_default();
    for (label, value) in [
        ("Static hostname", fixed),
        (
            "Pretty hostname",
            all.str("PrettyHostname").unwrap_or_default(),
        ),
        ("Transient hostname", transient),
        ("Icon name", all.str("IconName").unwrap_or_default()),
        ("Chassis", all.str("Chassis").unwrap_or_default()),
        ("Deployment", all.str("Deployment").unwrap_or_default()),
        ("Location", all.str("Location").unwrap_or_default()),
        ("Machine ID", &read("/etc/machine-id")),
        ("Boot ID", &boot),
        (
            "Operating System",
            all.str("OperatingSystemPrettyName").unwrap_or_default(),
        ),
        ("Kernel", &kernel),
        (
            "Hardware Vendor",
            all.str("HardwareVendor").unwrap_or_default(),
        ),
        (
            "Hardware Model",
            all.str("HardwareModel").unwrap_or_default(),
        ),
        (
            "Firmware Version",
            all.str("FirmwareVersion").unwrap_or_default(),
        ),
    ] {
        if !value.is_empty() {
            println!("{label:>18}: {value}");
        }
    }
    ExitCode::SUCCESS
}
