//! `dockerd`: resolves the service's options and answers on the passed sockets.
//!
//! First boot's share of the engine API: `/_ping`, `/version`, `/info`; the rest is 501 with a message. Commands of
//! users who are not root: [`crate::relay`]. One thread, one poll, no timers. A request has 5 s to be sent;
//! connections beyond 64 wait in the kernel.

use crate::cli::{self, Context};
use crate::host::{self, Host};
use crate::options::{FILES, Options};
use crate::relay::{self, Sessions};
use rustix::event::{PollFd, PollFlags};
use serde_json::json;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const REQUEST_MAX: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Passed sockets.
    #[error(transparent)]
    Listen(#[from] sd_daemon::ListenError),
    /// Files and sockets.
    #[error("failed to {what}")]
    Io {
        /// The step.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The options cannot be written.
    #[error(transparent)]
    Store(#[from] oci_image::store::StoreError),
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::Io { what, source }
}

/// Options of the files and these arguments, written for every later command.
pub fn resolve(arguments: &[String]) -> Result<Options, DaemonError> {
    let (mut options, warnings) = Options::from_files(&FILES.map(Path::new));
    for warning in warnings
        .into_iter()
        .chain(options.apply_arguments(arguments))
    {
        tracing::warn!("{warning}");
    }
    std::fs::create_dir_all(host::RUN).map_err(io_error("make the runtime directory"))?;
    oci_image::store::write_json(Path::new(host::OPTIONS), &options)?;
    Ok(options)
}

/// Serves until SIGTERM. Containers do not notice.
pub fn serve(arguments: &[String]) -> Result<(), DaemonError> {
    let mut sockets: Vec<OwnedFd> = sd_daemon::listen_fds()?
        .into_iter()
        .map(|passed| passed.fd)
        .collect();
    let options = resolve(arguments)?;
    sockets.extend(own_sockets(&options)?);
    let context = Context {
        host: Host::new(&options.data_root),
        options,
    };
    let (stop, write) = UnixStream::pair().map_err(io_error("make the signal pipe"))?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let write = write
            .try_clone()
            .map_err(io_error("make the signal pipe"))?;
        signal_hook::low_level::pipe::register(signal, write)
            .map_err(io_error("handle signals"))?;
    }
    for socket in &sockets {
        rustix::io::ioctl_fionbio(socket, true)
            .map_err(|error| io_error("prepare a socket")(error.into()))?;
        if rustix::net::sockopt::socket_domain(socket)
            .is_ok_and(|domain| domain != rustix::net::AddressFamily::UNIX)
        {
            tracing::warn!(
                "the engine's API listens on TCP without TLS: whoever reaches the port is root on this machine"
            );
        }
    }
    let _ = sd_daemon::notify(&[
        sd_daemon::State::Ready,
        sd_daemon::State::Status("serving version and info, and commands of the group docker"),
    ]);
    let mut sessions = Sessions::default();
    loop {
        let mut fds: Vec<PollFd<'_>> = std::iter::once(PollFd::new(&stop, PollFlags::IN))
            .chain(
                sockets
                    .iter()
                    .map(|socket| PollFd::new(socket, PollFlags::IN)),
            )
            .collect();
        fds.extend(sessions.poll_fds());
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io_error("wait for requests")(error.into())),
        }
        if !fds[0].revents().is_empty() {
            let _ = sd_daemon::notify(&[sd_daemon::State::Stopping]);
            return Ok(());
        }
        let ready: Vec<bool> = fds[1..=sockets.len()]
            .iter()
            .map(|fd| !fd.revents().is_empty())
            .collect();
        drop(fds);
        sessions.turn(relay::enter_command);
        for (socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            let Ok(connection) =
                rustix::net::accept_with(socket, rustix::net::SocketFlags::CLOEXEC)
            else {
                continue;
            };
            if relay::is_relay(socket.as_fd()) {
                sessions.accept(connection);
            } else if let Err(error) = answer(&context, connection) {
                tracing::debug!(%error, "a request was not answered");
            }
        }
    }
}

/// Sockets of `-H unix://…`, for a service without passed ones.
fn own_sockets(options: &Options) -> Result<Vec<OwnedFd>, DaemonError> {
    let mut sockets = Vec::new();
    for host in &options.hosts {
        match host.strip_prefix("unix://") {
            Some(path) => {
                let _ = std::fs::remove_file(path);
                let listener = std::os::unix::net::UnixListener::bind(path)
                    .map_err(io_error("listen on the socket of -H"))?;
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))
                    .map_err(io_error("protect the socket of -H"))?;
                sockets.push(listener.into());
            }
            None if host == "fd://" => {}
            None => {
                tracing::warn!(%host, "only fd:// and unix:// are served; use a socket unit for TCP");
            }
        }
    }
    Ok(sockets)
}

fn read_some(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let wait = rustix::event::Timespec::try_from(TIMEOUT).map_err(io::Error::other)?;
    // A poll is not resumed after a signal; the caller's time-out may then count from the signal on.
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&wait)))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(rustix::io::read(socket, buffer)?)
}

fn answer(context: &Context, connection: OwnedFd) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = read_some(connection.as_fd(), &mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        if count == 0 || request.windows(4).any(|window| window == b"\r\n\r\n") {
            break;
        }
        if request.len() > REQUEST_MAX {
            return Err(io::Error::other("the request's head is too long"));
        }
    }
    let head = String::from_utf8_lossy(&request);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (status, kind, body) = route(context, method, target);
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        500 => "Internal Server Error",
        _ => "Not Implemented",
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nApi-Version: {}\r\nBuilder-Version: 1\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: Flotilla/{} (linux)\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
        cli::API.0,
        env!("CARGO_PKG_VERSION"),
    );
    let mut stream = std::fs::File::from(connection);
    stream.write_all(text.as_bytes())?;
    // A body that was sent along would turn our close into a reset.
    let mut rest = [0; 4096];
    rustix::io::ioctl_fionbio(&stream, true)?;
    while matches!(stream.read(&mut rest), Ok(count) if count > 0) {}
    Ok(())
}

/// `/v1.44/version` and `/version` are the same.
fn route(context: &Context, method: &str, target: &str) -> (u16, &'static str, String) {
    let path = target.split('?').next().unwrap_or_default();
    let path = match path
        .strip_prefix("/v1.")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
    {
        Some(rest) => rest,
        None => path,
    };
    let json_type = "application/json";
    match (method, path) {
        ("GET" | "HEAD", "/_ping") => (200, "text/plain; charset=utf-8", "OK".to_owned()),
        ("GET", "/version") => (200, json_type, cli::version_value().to_string()),
        ("GET", "/info") => match cli::info_value(context) {
            Ok(value) => (200, json_type, value.to_string()),
            Err(failure) => (
                500,
                json_type,
                json!({"message": failure.to_string()}).to_string(),
            ),
        },
        ("", _) => (
            400,
            json_type,
            json!({"message": "this is no HTTP request"}).to_string(),
        ),
        _ => {
            let message = format!(
                "{method} {path} is not served by this version; use the docker command on the machine itself, which needs no service"
            );
            (501, json_type, json!({"message": message}).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let context = Context {
            host: Host {
                data: dir.path().join("d"),
                run: dir.path().join("r"),
            },
            options: Options::default(),
        };
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(text.as_bytes()).unwrap();
        answer(&context, OwnedFd::from(server)).unwrap();
        let mut out = String::new();
        client.read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn ping_version_and_info_answer_and_the_rest_says_what_to_do() {
        assert!(
            ask("HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
                .starts_with("HTTP/1.1 200 OK\r\nApi-Version: 1.44")
        );
        assert!(ask("GET /v1.44/version HTTP/1.1\r\n\r\n").contains("\"ApiVersion\":\"1.44\""));
        assert!(ask("GET /v1.24/info HTTP/1.1\r\n\r\n").contains("\"Containers\":0"));
        let rest = ask("POST /v1.44/containers/create HTTP/1.1\r\n\r\n");
        assert!(rest.starts_with("HTTP/1.1 501") && rest.contains("docker command"));
    }
}
