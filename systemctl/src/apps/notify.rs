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

/// Send, as root in the name of our parent: a service that tells `NotifyAccess=main` by a shell is not refused because
/// the shell's child speaks. Others speak for themselves; the kernel would not let them do otherwise.
fn send(text: &str) -> io::Result<bool> {
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, UCred, sendmsg_addr,
    };
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(&path)?,
    };
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let data = [io::IoSlice::new(text.as_bytes())];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let parent = rustix::process::getppid().filter(|_| rustix::process::geteuid().is_root());
    if let Some(pid) = parent {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        control.push(SendAncillaryMessage::ScmCredentials(UCred {
            pid,
            uid,
            gid,
        }));
    }
    sendmsg_addr(&socket, &address, &data, &mut control, SendFlags::NOSIGNAL)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_speaks_for_its_parent() {
        use std::os::fd::AsFd as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        rustix::net::sockopt::set_socket_passcred(receiver.as_fd(), true).unwrap();
        let program = std::process::Command::new("sh")
            .args([
                "-c",
                "NOTIFY_SOCKET=$1 exec \"$0\" --exact apps::notify::tests::child --nocapture",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(&path)
            .env("NOTIFY_TEST_CHILD", "1")
            .status()
            .unwrap();
        assert!(program.success());
        let mut buffer = [0; 64];
        let (count, credentials) = receive(&receiver, &mut buffer);
        assert_eq!(&buffer[..count], b"READY=1");
        // The test runs as root, as CI does; its child's parent is this process.
        assert_eq!(credentials, i32::try_from(std::process::id()).unwrap());
    }

    fn receive(socket: &std::os::unix::net::UnixDatagram, buffer: &mut [u8]) -> (usize, i32) {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            socket,
            &mut [io::IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::empty(),
        )
        .unwrap();
        let pid = control.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmCredentials(found) => Some(found.pid.as_raw_nonzero().get()),
            _ => None,
        });
        (message.bytes, pid.unwrap())
    }

    /// Runs as the child of the test above; by itself it has nothing to tell.
    #[test]
    fn child() {
        let told = send("READY=1").unwrap();
        assert_eq!(told, std::env::var_os("NOTIFY_SOCKET").is_some());
    }

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
