//! The monitor of one container, and (started again by itself) its helpers. For programs, not for people:
//! `run DATA ID`, `engine FILE REPLY`, `netns FILE`.

use std::path::Path;

const USAGE: &str = "usage: container-monitor run DATA-DIRECTORY CONTAINER-ID\n\nStarted by the docker command, one for each container.\nExample: container-monitor run /var/lib/docker 0123…\n";

fn main() {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let code = match words[..] {
        // First, and without logging: the engine wants a process that does nothing else.
        ["engine", file, reply] => oci_runtime::helper::main(Path::new(file), Path::new(reply)),
        ["netns", file] => runtime::network::helper_main(Path::new(file)),
        ["run", data, id] => {
            telemetry::init("container-monitor", telemetry::Sink::detect(), 0);
            match runtime::monitor::main(Path::new(data), id) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(error = %telemetry::chain(&error), container = id, "the monitor ends");
                    1
                }
            }
        }
        ["--version"] => {
            println!("container-monitor {}", env!("CARGO_PKG_VERSION"));
            0
        }
        ["--help"] => {
            print!("{USAGE}");
            0
        }
        _ => {
            eprint!("{USAGE}");
            2
        }
    };
    std::process::exit(code);
}
