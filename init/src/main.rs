//! PID 1 and the initramfs's /init: one static binary.
//!
//! Who it is depends on how it was started:
//!
//! * PID 1 in a root that is kept in memory and has no `/usr`: **stage 1** ([`initramfs`]), which finds the
//!   verified /usr and the machine's own root and executes the system manager there.
//! * any other PID 1: the **system manager** ([`boot`], then [`manager`] for ever).
//! * `--executor`: the step between PID 1 and a unit's program ([`executor`]); `--probe DEVICE`: the reader
//!   of superblocks ([`probe`]). Both are helpers that PID 1 starts as itself.
//!
//! All decisions about units are in `unit-engine`; this program only tells it what happened and does what
//! it says. What units mean on disk is answered by [`host`].
#![forbid(unsafe_code)]

mod atomic;
mod boot;
mod cgroups;
mod clock;
mod cmdline;
mod console;
mod devices;
mod executor;
mod failpoint;
mod generators;
mod glob;
mod handover;
mod host;
mod initramfs;
mod log;
mod manager;
mod mounts;
mod probe;
mod shutdown;
mod sockets;
mod text;
mod unit_files;
mod users;

use std::process::ExitCode;

const HELP: &str = "\
init: the first process of Flotilla; started by the kernel, not by people

usage: init --version | --help
       init --probe DEVICE      print type, label and UUID of what a block device holds

To end or restart the machine: systemctl poweroff | reboot
Example: init --probe /dev/vda1
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let first = arguments.get(1).map_or("", String::as_str);
    if first == "--executor" {
        executor::main();
    }
    if rustix::process::getpid().is_init() {
        match first
            .strip_prefix("--restore=")
            .and_then(|n| n.parse().ok())
        {
            Some(number) => boot::guard(|| boot::restore(number)),
            None if initramfs::is_here() => boot::guard(|| initramfs::run()),
            None => boot::guard(|| boot::run()),
        }
    }
    match (first, arguments.get(2)) {
        ("--probe", Some(device)) => match probe::main(device) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("init: failed to read {device}: {error}");
                ExitCode::FAILURE
            }
        },
        ("--version", _) => {
            println!("init {}", boot::version());
            ExitCode::SUCCESS
        }
        ("--help", _) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "init: runs only as process 1\nhint: systemctl manages the machine, init --help says the rest"
            );
            ExitCode::from(2)
        }
    }
}
