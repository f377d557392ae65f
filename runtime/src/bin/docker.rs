//! The `docker` command; everything is in the library's `cli`.

fn main() {
    telemetry::quiet_broken_pipe();
    telemetry::init("docker", telemetry::Sink::Stderr, -1);
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    std::process::exit(runtime::cli::main(&words));
}
