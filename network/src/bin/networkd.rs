//! The binary `networkd`, also called as `networkd-wait-online` and `networkctl`. See [`network::networkd`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    network::networkd::cli::main(&arguments)
}
