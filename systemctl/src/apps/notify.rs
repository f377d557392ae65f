//! systemd-notify

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;

use super::fail;
use crate::cli::parse;

/// Tell the service manager how a service is
#[derive(Debug, Parser)]
#[command(
    name = "systemd-notify",
    version,
    after_help = "Example:\n  systemd-notify --ready --status='serving'"
)]
struct Options {
    /// Further assignments, NAME=VALUE
    assignments: Vec<String>,
    /// The service is up
    #[arg(long)]
    ready: bool,
    /// The service reads its configuration again
    #[arg(long)]
    reloading: bool,
    /// The service is ending
    #[arg(long)]
    stopping: bool,
    /// The main process (default: our parent)
    #[arg(long, value_name = "PID", num_args = 0..=1, default_missing_value = "auto", require_equals = true)]
    pid: Option<String>,
    /// A line for `systemctl status`
    #[arg(long, value_name = "TEXT")]
    status: Option<String>,
    /// Is a service manager running? Exit code 0 or 1
    #[arg(long)]
    booted: bool,
    /// Do not wait until the manager has read it
    #[arg(long)]
    no_block: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    if options.booted {
        return ExitCode::from(u8::from(!sd_daemon::is_booted()));
    }
    let lines = match lines(&options) {
        Ok(lines) => lines,
        Err(text) => {
            eprintln!("systemd-notify: {text}\nhint: systemd-notify --help");
            return ExitCode::from(2);
        }
    };
    match send(&lines.join("\n")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("systemd-notify: NOTIFY_SOCKET is not set: no service manager listens");
            ExitCode::from(1)
        }
        Err(error) => fail("systemd-notify", "failed to notify", &error),
    }
}

fn lines(options: &Options) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    if options.ready {
        lines.push("READY=1".to_owned());
    }
    if options.reloading {
        lines.push("RELOADING=1".to_owned());
        lines.push(format!(
            "MONOTONIC_USEC={}",
            crate::format::time::monotonic()
        ));
    }
    if options.stopping {
        lines.push("STOPPING=1".to_owned());
    }
    if let Some(text) = &options.status {
        lines.push(format!("STATUS={text}"));
    }
    match options.pid.as_deref() {
        None => {}
        Some("auto" | "parent") => {
            let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
            lines.push(format!(
                "MAINPID={}",
                parent.map_or(1, std::num::NonZero::get)
            ));
        }
        Some(pid) => {
            pid.parse::<u32>()
                .map_err(|_| format!("--pid={pid} is no process id"))?;
            lines.push(format!("MAINPID={pid}"));
        }
    }
    for assignment in &options.assignments {
        if !assignment.contains('=') {
            return Err(format!("{assignment:?} is no assignment NAME=VALUE"));
        }
        lines.push(assignment.clone());
    }
    if lines.is_empty() {
        Err("nothing to say".to_owned())
    } else {
        Ok(lines)
    }
}

/// Send in the name of our parent: the manager sees through the control group whose service it is.
fn send(text: &str) -> io::Result<bool> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let socket = UnixDatagram::unbound()?;
    let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.connect_addr(&address)?;
    socket.send(text.as_bytes())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let said = |line: &str| {
            let args = std::iter::once("systemd-notify").chain(line.split(' '));
            lines(&Options::try_parse_from(args).unwrap())
        };
        assert_eq!(
            said("--ready --status=up --pid=7 X=1").unwrap(),
            ["READY=1", "STATUS=up", "MAINPID=7", "X=1"]
        );
        assert!(said("--ready nonsense").is_err());
        assert!(said("--pid=x").is_err());
        assert!(lines(&Options::try_parse_from(["systemd-notify"]).unwrap()).is_err());
    }
}
