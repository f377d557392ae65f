//! `dockerd`: options and version API of docker.service, and what restarts containers after a boot.

use runtime::cli::{self, Context};
use runtime::daemon;
use runtime::host::Host;
use runtime::options::Options;

const USAGE: &str = "usage: dockerd [--host=fd://] [DOCKER_OPTS...]\n       dockerd containers-restore\n\nResolves the options of the container service into /run/docker/options.json and serves the\nengine API's _ping, version and info. Containers need no daemon and do not notice its end.\n\nExample: dockerd --host=fd:// --insecure-registry=10.0.2.2:5000\n";

fn main() {
    telemetry::quiet_broken_pipe();
    telemetry::init("dockerd", telemetry::Sink::detect(), 0);
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let code = match words.first().map(String::as_str) {
        Some("--help") => {
            print!("{USAGE}");
            0
        }
        Some("--version" | "-v") => {
            println!("dockerd {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Some(runtime::relay::ENTER) => runtime::relay::enter(&words[1..]),
        Some("containers-restore" | "--restore-containers") => restore(),
        _ => match daemon::serve(&words) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("dockerd: {}", telemetry::chain(&error));
                1
            }
        },
    };
    std::process::exit(code);
}

fn restore() -> i32 {
    let (options, warnings) = Options::current();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let context = Context {
        host: Host::new(&options.data_root),
        options,
    };
    match cli::restore(&context) {
        Ok(0) => 0,
        Ok(_) => 1,
        Err(failure) => {
            eprintln!("dockerd: {failure}");
            1
        }
    }
}
