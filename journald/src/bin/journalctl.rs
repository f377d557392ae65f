//! Shows the journal. See `journald_lib::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    journald_lib::cli::main()
}
