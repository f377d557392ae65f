//! `flotilla-cloudinit`, `coreos-cloudinit` and `update-ssh-keys`: see the library's header.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    cloudinit::cli::main(&args)
}
