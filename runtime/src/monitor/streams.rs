//! The standard streams of a container.
//!
//! Without a terminal they are FIFOs in the container's runtime directory. The container's ends of the output
//! are opened for reading too, so that a killed monitor is no broken pipe for it, and the next monitor reads on
//! where the last one stopped. A terminal's master lives in the monitor and in the supervising command.

use oci_runtime::helper::Streams as ChildStreams;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

const BUFFER: usize = 32 << 10;

/// The monitor's ends.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Terminal: all three.
    pub master: Option<OwnedFd>,
    /// Input that was not taken yet.
    pub input: Vec<u8>,
    /// No more input comes.
    pub input_ended: bool,
    /// The terminal has nobody on its other side.
    pub hung_up: bool,
}

/// What reading gave.
#[derive(Debug)]
pub enum Output {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

fn make_fifo(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Whatever the umask: a process of another user in the container opens /dev/stdout by name.
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?)
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Empty input and lost output.
pub fn null() -> io::Result<ChildStreams> {
    let both = || open(Path::new("/dev/null"), OFlags::RDWR);
    Ok(ChildStreams {
        stdin: both()?,
        stdout: both()?,
        stderr: both()?,
    })
}

impl Streams {
    /// Pipes for a new run: our ends and the container's.
    pub fn pipes(directory: &Path, stdin: bool) -> io::Result<(Streams, ChildStreams)> {
        for name in ["stdin", "stdout", "stderr"] {
            let path = directory.join(name);
            // A fresh pipe: what an earlier run left unread belongs to nobody.
            let _ = std::fs::remove_file(&path);
            make_fifo(&path)?;
        }
        let mut streams = Self::reopen(directory, false)?;
        let input = if stdin {
            let path = directory.join("stdin");
            // Held while both real ends are opened, because each waits for the other.
            let _both = open(&path, OFlags::RDWR)?;
            let input = open(&path, OFlags::RDONLY)?;
            streams.stdin = Some(open(&path, OFlags::WRONLY | OFlags::NONBLOCK)?);
            input
        } else {
            open(Path::new("/dev/null"), OFlags::RDONLY)?
        };
        let child = ChildStreams {
            stdin: input,
            stdout: open(&directory.join("stdout"), OFlags::RDWR)?,
            stderr: open(&directory.join("stderr"), OFlags::RDWR)?,
        };
        Ok((streams, child))
    }

    /// Our ends of the pipes of a running container.
    pub fn reopen(directory: &Path, stdin: bool) -> io::Result<Streams> {
        let read = |name| open(&directory.join(name), OFlags::RDWR | OFlags::NONBLOCK);
        Ok(Streams {
            stdout: Some(read("stdout")?),
            stderr: Some(read("stderr")?),
            stdin: if stdin {
                open(&directory.join("stdin"), OFlags::WRONLY | OFlags::NONBLOCK).ok()
            } else {
                None
            },
            ..Streams::default()
        })
    }

    /// Takes the terminal that the engine sent.
    pub fn terminal(listener: &UnixListener, size: Option<(u16, u16)>) -> io::Result<Streams> {
        let (socket, _) = listener.accept()?;
        let mut fds = [rustix::event::PollFd::new(
            &socket,
            rustix::event::PollFlags::IN,
        )];
        let wait = rustix::event::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        // The engine's helper may end meanwhile, and its SIGCHLD interrupts a poll whatever the handler's flags say.
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&wait)))?;
        let message = syscalls::socket::receive(&socket, &mut [0; 256])?;
        let master = message
            .fds
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("the engine sent no terminal"))?;
        if let Some((rows, columns)) = size {
            resize(&master, rows, columns)?;
        }
        Self::adopt_terminal(master)
    }

    /// Around a terminal's master.
    pub fn adopt_terminal(master: OwnedFd) -> io::Result<Streams> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Streams {
            master: Some(master),
            ..Streams::default()
        })
    }

    /// Reads once.
    pub fn read(fd: &OwnedFd) -> Output {
        let mut buffer = vec![0; BUFFER];
        match rustix::io::read(fd, &mut buffer[..]) {
            Ok(0) => Output::End,
            Ok(count) => {
                buffer.truncate(count);
                Output::Bytes(buffer)
            }
            Err(Errno::AGAIN | Errno::INTR) => Output::Nothing,
            // EIO: the last process closed the terminal.
            Err(_) => Output::End,
        }
    }

    /// Where input goes.
    pub fn sink(&self) -> Option<&OwnedFd> {
        self.master.as_ref().or(self.stdin.as_ref())
    }

    /// Gives the container as much of the pending input as it takes.
    pub fn push_input(&mut self) {
        while !self.input.is_empty() {
            let Some(sink) = self.sink() else {
                self.input.clear();
                break;
            };
            match rustix::io::write(sink, &self.input) {
                Ok(count) => {
                    self.input.drain(..count);
                }
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => {
                    self.input.clear();
                    self.stdin = None;
                }
            }
        }
        if self.input_ended {
            // Half-close: the process sees the end of its input.
            self.stdin = None;
        }
    }
}

/// Sets a terminal's size.
pub fn resize(master: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// Reads what is left, at an end.
pub fn drain(fd: Option<&OwnedFd>, mut take: impl FnMut(&[u8])) {
    let Some(fd) = fd else { return };
    while let Output::Bytes(bytes) = Streams::read(fd) {
        take(&bytes);
    }
}

/// A file for `/dev/null`.
pub fn null_file() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_survives_a_monitor_and_input_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (mut streams, child) = Streams::pipes(dir.path(), true).unwrap();
        rustix::io::write(&child.stdout, b"before").unwrap();
        streams.input = b"in".to_vec();
        streams.input_ended = true;
        streams.push_input();
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&child.stdin, &mut buffer).unwrap(), 2);
        assert_eq!(rustix::io::read(&child.stdin, &mut buffer).unwrap(), 0);
        drop(streams);
        rustix::io::write(&child.stdout, b" after").unwrap();
        let again = Streams::reopen(dir.path(), false).unwrap();
        let mut all = Vec::new();
        drain(again.stdout.as_ref(), |bytes| all.extend_from_slice(bytes));
        assert_eq!(all, b"before after");
    }
}
