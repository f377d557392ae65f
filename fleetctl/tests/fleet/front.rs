//! An HTTP server before a daemon's socket that knows what the original's daemon knows: it passes on
//! `/fleet/v1`, and answers all else as the original does.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const UNKNOWN: &[u8] = b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Length: 19\r\n\r\n404 page not found\n";

/// Listens at `socket` for as long as the process lives.
pub(crate) fn start(socket: &Path, daemon: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let daemon = daemon.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let daemon = daemon.clone();
            // A client that goes away early is no failure.
            std::thread::spawn(move || serve(client, &daemon));
        }
    });
}

fn serve(mut client: UnixStream, daemon: &PathBuf) -> io::Result<()> {
    let request = read_request(&mut client)?;
    let head = String::from_utf8_lossy(&request);
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path != "/fleet/v1" && !path.starts_with("/fleet/v1/") {
        return client.write_all(UNKNOWN);
    }
    let mut upstream = UnixStream::connect(daemon)?;
    upstream.write_all(&request)?;
    io::copy(&mut upstream, &mut client)?;
    Ok(())
}

/// One request, head and body.
fn read_request(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length: usize = length.and_then(|l| l.parse().ok()).unwrap_or(0);
            if request.len() >= end + 4 + length {
                return Ok(request);
            }
        }
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
}
