//! `fd-forward`: standard input and output joined with a socket, for tunnels.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use crate::Done;
use crate::error::Failure;

/// Copies both ways until the socket's end; the end of standard input is passed on.
pub(crate) fn run(sockets: &[String]) -> Done {
    let [path] = sockets else {
        return Err(Failure::Refused("name one socket".into()));
    };
    let failed = |source| Failure::Connect {
        endpoint: format!("unix://{path}"),
        source,
    };
    let mut socket = UnixStream::connect(path).map_err(failed)?;
    let mut outward = socket.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        // Whatever goes wrong here ends the connection, which the other direction sees.
        let _ = io::copy(&mut io::stdin().lock(), &mut outward);
        let _ = outward.shutdown(Shutdown::Write);
    });
    let broken = |source| Failure::Exchange {
        what: "forward".into(),
        endpoint: format!("unix://{path}"),
        source,
    };
    let mut buffer = [0; 16 << 10];
    let mut stdout = io::stdout().lock();
    loop {
        let count = socket.read(&mut buffer).map_err(broken)?;
        if count == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let written = stdout
            .write_all(&buffer[..count])
            .and_then(|()| stdout.flush());
        written.map_err(broken)?;
    }
}
