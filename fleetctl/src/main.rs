//! `fleetctl`: the client of fleet's HTTP API. It knows nothing of etcd or of the service manager.
//!
//! - [`cli`]: the command line.
//! - [`http`], [`api`]: requests, and the API as typed calls.
//! - [`units`]: commands that change units; [`wait`]: waiting for what they asked for.
//! - [`list`]: the three lists; [`table`]: their columns.
//! - [`remote`]: status, journal and ssh, which run a program on the unit's machine.

#![forbid(unsafe_code)]

mod api;
mod cli;
mod error;
mod http;
mod list;
mod remote;
mod table;
mod units;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command};
use error::Failure;

fn main() -> ExitCode {
    telemetry::quiet_broken_pipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do where even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let json = cli.command.json();
    match run(cli) {
        Ok(code) => code,
        Err(failure) if json => {
            let body = serde_json::json!({"error": {
                "code": failure.code(), "message": telemetry::chain(&failure)}});
            eprintln!("{body}");
            ExitCode::FAILURE
        }
        Err(failure) => telemetry::report("fleetctl", &failure, failure.hint()),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let client = || api::Client::new(&cli.global.endpoint);
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    match &cli.command {
        Command::Submit(args) => done(units::submit(&client()?, args)),
        Command::Load(args) => done(units::load(&client()?, args)),
        Command::Start(args) => done(units::start(&client()?, args)),
        Command::Stop(args) => done(units::stop(&client()?, args)),
        Command::Unload(args) => done(units::unload(&client()?, args)),
        Command::Restart(args) => done(units::restart(&client()?, args)),
        Command::Destroy(args) => done(units::destroy(&client()?, args)),
        Command::Cat { unit } => done(units::cat(&client()?, unit)),
        Command::ListUnits(args) => done(list::units(&client()?, args)),
        Command::ListUnitFiles(args) => done(list::unit_files(&client()?, args)),
        Command::ListMachines(args) => done(list::machines(&client()?, args)),
        Command::Status(args) => remote::status(&client()?, &cli.global, args),
        Command::Journal(args) => remote::journal(&client()?, &cli.global, args),
        Command::Ssh(args) => remote::ssh(&client()?, &cli.global, args),
        Command::Version => {
            println!("fleetctl version {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(*shell, &mut Cli::command(), "fleetctl", &mut out);
            Ok(ExitCode::SUCCESS)
        }
    }
}
