//! `fleetctl`: the client of fleet's HTTP API. It knows nothing of etcd's keys (but for [`import`],
//! which reads those of the original) or of the service manager.
//!
//! - [`cli`]: the command line.
//! - [`net`], [`api`]: connections, and the API as typed calls.
//! - [`units`]: commands that change units; [`wait`]: waiting for what they asked for.
//! - [`list`]: the three lists; [`table`]: their columns; [`explain`]: why a unit is where it is.
//! - [`machines`]: cordon, drain, rebalance.
//! - [`remote`]: status, journal and ssh, which run a program on the unit's machine.
//! - [`import`]: taking over an original cluster.
//! - [`out`]: results as lines or as JSON.

#![forbid(unsafe_code)]

mod api;
mod cli;
mod error;
mod explain;
mod forward;
mod import;
mod list;
mod machines;
mod net;
mod out;
mod remote;
mod table;
mod units;
mod wait;

use std::process::ExitCode;
use std::rc::Rc;

use api::Client;
use cli::{Cli, Command, Global};
use error::Failure;
use net::ssh::Ssh;
use net::{Endpoint, Transport};
use out::Out;

type Done = Result<ExitCode, Failure>;

fn main() -> ExitCode {
    telemetry::quiet_broken_pipe();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do where even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let out = Out::new(cli.global.json());
    let done = run(&cli, &out);
    out.finish();
    match done {
        Ok(code) => code,
        Err(failure) if out.is_json() => {
            let body = serde_json::json!({"error": {
                "code": failure.code(), "message": telemetry::chain(&failure)}});
            eprintln!("{body}");
            ExitCode::FAILURE
        }
        Err(failure) => telemetry::report("fleetctl", &failure, failure.hint()),
    }
}

fn connect(global: &Global) -> Result<Client, Failure> {
    if !["", "API"].contains(&global.driver.as_str()) {
        return Err(Failure::Refused(format!(
            "driver \"{}\" is not supported: this fleetctl speaks to fleetd, which speaks to etcd",
            global.driver
        )));
    }
    let endpoint = Endpoint::first_of(&global.endpoint)?;
    let ssh = Rc::new(Ssh::new(global.ssh(), global.tunnel())?);
    let (silence, debug) = (global.silence(), global.debug());
    Transport::new(endpoint, ssh, &global.tls(), silence, debug).map(Client::new)
}

fn run(cli: &Cli, out: &Out) -> Done {
    let Some(command) = &cli.command else {
        println!("{}", cli::long_help());
        return Ok(ExitCode::SUCCESS);
    };
    let global = &cli.global;
    // What works without a cluster.
    match command {
        Command::Version => {
            out.document(serde_json::json!({"version": env!("CARGO_PKG_VERSION")}));
            out.line(concat!("fleetctl version ", env!("CARGO_PKG_VERSION")));
            return Ok(ExitCode::SUCCESS);
        }
        Command::Completion { shell } => {
            out.none();
            cli::print_completion(*shell);
            return Ok(ExitCode::SUCCESS);
        }
        Command::FdForward { sockets } => {
            out.none();
            return forward::run(sockets);
        }
        Command::Verify(_) => {
            eprintln!("fleetctl: signed units are no longer supported");
            return Ok(ExitCode::from(2));
        }
        _ => {}
    }
    let client = &connect(global)?;
    let well = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::Cat(args) => well(units::cat(client, out, args)),
        Command::Cordon(args) => well(machines::mark(client, out, args, "cordon")),
        Command::Destroy(args) => well(units::destroy(client, out, args)),
        Command::Drain(args) => well(machines::drain(client, out, args)),
        Command::Explain(args) => well(explain::run(client, out, args)),
        Command::Import(args) => well(import::run(client, out, global, args)),
        Command::Journal(args) => remote::journal(client, out, args),
        Command::ListMachines(args) => well(list::machines(client, out, args)),
        Command::ListUnitFiles(args) => well(list::unit_files(client, out, args)),
        Command::ListUnits(args) => well(list::units(client, out, args)),
        Command::Load(args) => well(units::load(client, out, args)),
        Command::Rebalance(args) => well(machines::rebalance(client, out, args)),
        Command::Replace(args) => well(units::replace(client, out, args)),
        Command::Restart(args) => well(units::restart(client, out, args)),
        Command::Result(args) => units::result(client, out, args),
        Command::Scale(args) => well(units::scale(client, out, args)),
        Command::Ssh(args) => remote::ssh(client, out, args),
        Command::Start(args) => well(units::start(client, out, args)),
        Command::Status(args) => remote::status(client, out, args),
        Command::Stop(args) => well(units::stop(client, out, args)),
        Command::Submit(args) => well(units::submit(client, out, args)),
        Command::Uncordon(args) => well(machines::mark(client, out, args, "uncordon")),
        Command::Unload(args) => well(units::unload(client, out, args)),
        Command::Completion { .. }
        | Command::FdForward { .. }
        | Command::Verify(_)
        | Command::Version => Ok(ExitCode::SUCCESS),
    }
}
