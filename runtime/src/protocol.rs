//! What a command and a monitor say to each other: one message a packet on a seqpacket socket.
//!
//! The first byte says what follows: `J` a JSON [`Request`] or [`Event`], `o`/`e` output of the container, `i`
//! input for it, `c` the end of input. Descriptors travel with `J`.

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Largest piece of output or input in one packet.
pub const PIECE: usize = 32 << 10;

/// From a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Start the container (first connection of a new monitor).
    Start {
        /// Control group below which it lives.
        base: String,
        /// That group is a unit's, and the asking command its main process.
        in_unit: bool,
        /// Rows and columns of the terminal.
        size: Option<(u16, u16)>,
        /// This connection supervises: its loss matters.
        supervise: bool,
    },
    /// Take over a running container whose monitor died; a terminal's master may come along.
    Adopt {
        /// As in `Start`.
        supervise: bool,
    },
    /// Send output from now on.
    Attach {
        /// Take input from here.
        stdin: bool,
        /// Send output.
        output: bool,
        /// Rather stop reading the container's output than lose a byte.
        lossless: bool,
    },
    /// Send a signal to the first process.
    Kill {
        /// Which.
        signal: i32,
    },
    /// Stop it: its signal, then after the time-out the kill.
    Stop {
        /// Seconds; none = no kill follows.
        timeout: Option<u64>,
    },
    /// Tell when it ends for good.
    Wait,
    /// Run another process; its three streams come along unless it has a terminal.
    Exec {
        /// Its part of a plan.
        plan: Box<oci_runtime::Plan>,
        /// Socket that takes the terminal.
        console: Option<String>,
    },
    /// The terminal's size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// The first process became a child of the asking command, which saw its end.
    Reaped {
        /// Which.
        pid: i32,
        /// How it ended, as the shell counts.
        code: i32,
    },
    /// Remove the container when it ends.
    RemoveAtEnd,
}

/// From a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Event {
    /// The process runs. A terminal's master comes along for the supervising command.
    Started {
        /// Its pid.
        pid: i32,
    },
    /// The request failed.
    Failed {
        /// Exit status that says so: 125, 126 or 127.
        code: i32,
        /// Why.
        message: String,
    },
    /// Ended for good (no restart follows).
    Exited {
        /// As the shell counts.
        code: i32,
    },
    /// The added process runs.
    ExecStarted {
        /// Its pid.
        pid: i32,
    },
    /// The added process ended.
    ExecExited {
        /// As the shell counts.
        code: i32,
    },
    /// Done.
    Done,
}

/// A received packet.
#[derive(Debug)]
pub enum Packet<T> {
    /// A message with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Output (`true`: standard error) or input.
    Data(bool, Vec<u8>),
    /// End of input.
    EndOfInput,
    /// The other side is gone.
    Closed,
}

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Connects to a monitor. The path must fit a socket address, which `/run/docker/containers/<id>/…` does.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Listens as a monitor.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Packs a message.
pub fn message(value: &impl Serialize) -> Vec<u8> {
    let mut packet = vec![b'J'];
    // Our own types always serialise; an empty object would be refused by the other side.
    packet.extend(serde_json::to_vec(value).unwrap_or_default());
    packet
}

/// Sends a message, waiting for room.
pub fn send(socket: impl AsFd, value: &impl Serialize) -> io::Result<()> {
    send_with(socket, value, &[])
}

/// Sends a message with descriptors.
pub fn send_with(
    socket: impl AsFd,
    value: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    syscalls::socket::send_with_fds(socket, &message(value), fds).map(|_| ())
}

/// Sends input, waiting for room.
pub fn send_input(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        let mut packet = Vec::with_capacity(piece.len() + 1);
        packet.push(b'i');
        packet.extend_from_slice(piece);
        rustix::net::send(socket.as_fd(), &packet, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Says that no input follows.
pub fn end_input(socket: impl AsFd) -> io::Result<()> {
    rustix::net::send(socket, b"c", SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the next packet without waiting; none when there is none.
pub fn receive<T: for<'de> Deserialize<'de>>(socket: impl AsFd) -> io::Result<Option<Packet<T>>> {
    let mut buffer = vec![0u8; 256 << 10];
    let received = match syscalls::socket::receive(socket, &mut buffer) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Ok(Some(Packet::Closed));
        }
        Err(error) => return Err(error),
    };
    buffer.truncate(received.len);
    Ok(Some(match buffer.split_first() {
        None => Packet::Closed,
        Some((b'J', text)) => match serde_json::from_slice(text) {
            Ok(value) => Packet::Message(value, received.fds),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
        Some((b'o' | b'i', bytes)) => Packet::Data(false, bytes.to_vec()),
        Some((b'e', bytes)) => Packet::Data(true, bytes.to_vec()),
        Some((b'c', _)) => Packet::EndOfInput,
        Some(_) => return Err(io::ErrorKind::InvalidData.into()),
    }))
}

/// Waits for the next packet.
pub fn wait<T: for<'de> Deserialize<'de>>(socket: impl AsFd) -> io::Result<Packet<T>> {
    loop {
        if let Some(packet) = receive(&socket)? {
            return Ok(packet);
        }
        let mut fds = [rustix::event::PollFd::new(
            &socket,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_data_and_descriptors_pass() {
        let (left, right) = pair().unwrap();
        send(&left, &Request::Stop { timeout: Some(3) }).unwrap();
        send_input(&left, &vec![7; PIECE + 1]).unwrap();
        end_input(&left).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send_with(&left, &Request::Wait, &[file.as_fd()]).unwrap();
        drop(left);
        assert!(matches!(
            wait::<Request>(&right).unwrap(),
            Packet::Message(Request::Stop { timeout: Some(3) }, _)
        ));
        assert!(
            matches!(wait::<Request>(&right).unwrap(), Packet::Data(false, bytes) if bytes.len() == PIECE)
        );
        assert!(
            matches!(wait::<Request>(&right).unwrap(), Packet::Data(false, bytes) if bytes.len() == 1)
        );
        assert!(matches!(
            wait::<Request>(&right).unwrap(),
            Packet::EndOfInput
        ));
        assert!(
            matches!(wait::<Request>(&right).unwrap(), Packet::Message(Request::Wait, fds) if fds.len() == 1)
        );
        assert!(matches!(wait::<Request>(&right).unwrap(), Packet::Closed));
    }
}
