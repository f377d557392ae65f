//! The journal daemon. See `journald_lib::daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    journald_lib::daemon::main()
}
