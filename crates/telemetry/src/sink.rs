//! Where records go.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::format::{self, Record};

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// A journal that restarts is back sooner than this; one that hangs must not stop those who log.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the process's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// The journal's native socket; standard error with `<N>` prefixes as long as that cannot be reached.
    Journal,
    /// Lines on standard error.
    Stderr,
    /// The kernel's log, for what runs before the journal does.
    Kmsg,
}

impl Sink {
    /// The journal when standard error is a stream to it, as for services; else standard error.
    pub fn detect() -> Self {
        let stat = rustix::fs::fstat(rustix::stdio::stderr());
        let stream = std::env::var("JOURNAL_STREAM");
        match (stat, stream) {
            (Ok(stat), Ok(stream)) if stream == format!("{}:{}", stat.st_dev, stat.st_ino) => {
                Self::Journal
            }
            _ => Self::Stderr,
        }
    }
}

/// An opened sink.
#[derive(Debug)]
pub(crate) enum Output {
    Journal(Journal),
    Stderr,
    Kmsg(File),
}

impl Output {
    pub(crate) fn open(sink: Sink) -> Self {
        match sink {
            Sink::Stderr => Self::Stderr,
            Sink::Journal => {
                Journal::open(JOURNAL_SOCKET, PATIENCE).map_or(Self::Stderr, Self::Journal)
            }
            Sink::Kmsg => File::options()
                .write(true)
                .open("/dev/kmsg")
                .map_or(Self::Stderr, Self::Kmsg),
        }
    }

    /// Writes one record. A log that cannot be written must not disturb the program, so nothing is returned.
    pub(crate) fn write(&self, program: &str, record: &Record) {
        let priority = format::priority(&record.level);
        match self {
            Self::Journal(journal) => {
                if journal.send(&format::native(record, program)).is_err() {
                    let text = format!("<{priority}>{}\n", format::line(record).replace('\n', " "));
                    let _ = io::stderr().write_all(text.as_bytes());
                }
            }
            Self::Stderr => {
                let level = match priority {
                    3 => "error: ",
                    4 => "warning: ",
                    7 => "debug: ",
                    _ => "",
                };
                let text = format!("{program}: {level}{}\n", format::line(record));
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Self::Kmsg(file) => {
                // The kernel takes at most one record of about 1 KiB per write. Facility 3 is "daemon".
                let mut text = format!(
                    "<{}>{program}: {}",
                    3 << 3 | priority,
                    format::line(record).replace('\n', " ")
                );
                let mut end = text.len().min(960);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                text.push('\n');
                let _ = (&*file).write_all(text.as_bytes());
            }
        }
    }
}

/// The journal's socket. While its queue stays full for longer than our patience, what is logged is dropped, without waiting
/// again, until the journal takes an entry: standard error would only lead to the same journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    path: &'static str,
    stuck: AtomicBool,
}

impl Journal {
    fn open(path: &'static str, patience: Duration) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self {
            socket,
            path,
            stuck: AtomicBool::new(false),
        })
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        let result = send(&self.socket, self.path, entry);
        let full = matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if self.stuck.swap(full, Ordering::Relaxed) != full {
            self.socket.set_nonblocking(full)?;
        }
        if full { Ok(()) } else { result }
    }
}

/// Sends one entry in the journal's native form, for programs that compose entries themselves. Blocks while the
/// journal's queue is full; a large entry goes as a sealed memory file.
pub fn send_to_journal(entry: &[u8]) -> io::Result<()> {
    send(&UnixDatagram::unbound()?, JOURNAL_SOCKET, entry)
}

fn send(socket: &UnixDatagram, path: &str, entry: &[u8]) -> io::Result<()> {
    match socket.send_to(entry, path) {
        Ok(_) => Ok(()),
        Err(err)
            if matches!(
                rustix::io::Errno::from_io_error(&err),
                Some(rustix::io::Errno::MSGSIZE | rustix::io::Errno::NOBUFS)
            ) =>
        {
            send_as_memfd(socket, path, entry)
        }
        Err(err) => Err(err),
    }
}

fn send_as_memfd(socket: &UnixDatagram, path: &str, entry: &[u8]) -> io::Result<()> {
    use rustix::net::{
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
    };
    use std::os::fd::AsFd;

    let memfd = rustix::fs::memfd_create(
        "journal-entry",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = File::from(memfd);
    file.write_all(entry)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let address = SocketAddrUnix::new(path)?;
    sendmsg_addr(socket, &address, &[], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_journal_that_hangs_stops_nobody_and_is_used_again() {
        let path = format!("/tmp/telemetry-{}.socket", std::process::id());
        let _ = std::fs::remove_file(&path);
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        let patience = Duration::from_millis(200);
        let journal = Journal::open(path.leak(), patience).expect("a socket");
        let begin = Instant::now();
        // More than any queue takes; one of them waits.
        for _ in 0..5000 {
            journal
                .send(b"MESSAGE=x\n")
                .expect("no error to be told on standard error");
        }
        assert!(begin.elapsed() >= patience, "the queue was never full");
        assert!(journal.stuck.load(Ordering::Relaxed));
        receiver.set_nonblocking(true).expect("nonblocking");
        let mut buffer = [0; 64];
        while receiver.recv(&mut buffer).is_ok() {}
        journal.send(b"MESSAGE=again\n").expect("sent");
        let count = receiver.recv(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..count], b"MESSAGE=again\n");
        assert!(!journal.stuck.load(Ordering::Relaxed));
        let _ = std::fs::remove_file(journal.path);
        drop(receiver);
        assert!(journal.send(b"MESSAGE=nobody\n").is_err());
    }
}
