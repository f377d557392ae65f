//! Standard input, output and error.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use rustix::fs::OFlags;
use unit_file::settings::{StdInput, StdOutput};

use super::{Failure, Identity, Order, at, step};

const JOURNAL: &str = "/run/systemd/journal/stdout";

/// Puts the three streams in place. Returns device and inode of the journal's stream, if one is used.
pub(super) fn arrange(
    order: &Order,
    socket: Option<OwnedFd>,
    fds: &[OwnedFd],
    identity: &Identity,
) -> Result<Option<(u64, u64)>, Failure> {
    let exec = &order.exec;
    let sources = Sources {
        order,
        socket: socket.as_ref(),
        fds,
        identity,
    };
    prepare_terminal(order)?;
    let input = sources.input()?;
    let mut journal = None;
    let inherited = matches!(
        exec.standard_input,
        StdInput::Null | StdInput::Data | StdInput::File(_)
    );
    let output = match &exec.standard_output {
        StdOutput::Inherit if inherited => {
            sources.output(&StdOutput::Journal, step::STDOUT, &mut journal)?
        }
        StdOutput::Inherit => duplicate(&input, step::STDOUT)?,
        other => sources.output(other, step::STDOUT, &mut journal)?,
    };
    let error = match &exec.standard_error {
        StdOutput::Inherit => duplicate(&output, step::STDERR)?,
        other if *other == exec.standard_output => duplicate(&output, step::STDERR)?,
        other => sources.output(other, step::STDERR, &mut journal)?,
    };
    for (fd, number, step) in [
        (input, 0, step::STDIN),
        (output, 1, step::STDOUT),
        (error, 2, step::STDERR),
    ] {
        syscalls::spawn::place_fd(above(fd, step)?, number)
            .map_err(at(step, "put a standard stream in place"))?;
    }
    Ok(journal)
}

struct Sources<'a> {
    order: &'a Order,
    socket: Option<&'a OwnedFd>,
    fds: &'a [OwnedFd],
    identity: &'a Identity,
}

impl Sources<'_> {
    fn input(&self) -> Result<OwnedFd, Failure> {
        let exec = &self.order.exec;
        match &exec.standard_input {
            StdInput::Null => open("/dev/null", OFlags::RDONLY, step::STDIN),
            StdInput::Tty | StdInput::TtyForce | StdInput::TtyFail => self.terminal(step::STDIN),
            StdInput::Data => {
                let what = "keep StandardInputData=";
                let fd = rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC)
                    .map_err(at(step::STDIN, what))?;
                let mut file = File::from(fd);
                file.write_all(&exec.standard_input_data)
                    .and_then(|()| file.rewind())
                    .map_err(at(step::STDIN, what))?;
                Ok(file.into())
            }
            StdInput::File(path) => open(path, OFlags::RDONLY, step::STDIN),
            StdInput::Socket => self.socket(step::STDIN),
            StdInput::Fd(name) => self.named(name, step::STDIN),
        }
    }

    fn output(
        &self,
        kind: &StdOutput,
        step: u32,
        journal: &mut Option<(u64, u64)>,
    ) -> Result<OwnedFd, Failure> {
        match kind {
            StdOutput::Null => open("/dev/null", OFlags::WRONLY, step),
            StdOutput::Tty => self.terminal(step),
            StdOutput::Inherit | StdOutput::Journal => self.journal(false, step, journal),
            StdOutput::JournalConsole => self.journal(true, step, journal),
            StdOutput::Kmsg | StdOutput::KmsgConsole => open("/dev/kmsg", OFlags::WRONLY, step),
            StdOutput::File(path) => self.file(path, OFlags::empty(), step),
            StdOutput::Append(path) => self.file(path, OFlags::APPEND, step),
            StdOutput::Truncate(path) => self.file(path, OFlags::TRUNC, step),
            StdOutput::Socket => self.socket(step),
            StdOutput::Fd(name) => self.named(name, step),
        }
    }

    /// A stream to journald, with the header that names the unit. Without journald: the kernel log, so that
    /// what a service says before it is not lost.
    fn journal(
        &self,
        console: bool,
        step: u32,
        stream: &mut Option<(u64, u64)>,
    ) -> Result<OwnedFd, Failure> {
        let exec = &self.order.exec;
        let Ok(mut socket) = UnixStream::connect(JOURNAL) else {
            return open("/dev/kmsg", OFlags::WRONLY, step)
                .or_else(|_| open("/dev/null", OFlags::WRONLY, step));
        };
        let identifier = exec
            .syslog_identifier
            .clone()
            .unwrap_or_else(|| self.program_name());
        let priority = u32::from(exec.syslog_facility) << 3 | u32::from(exec.syslog_level);
        let header = format!(
            "{identifier}\n{}\n{priority}\n{}\n0\n0\n{}\n",
            self.order.unit,
            u8::from(exec.syslog_level_prefix),
            u8::from(console),
        );
        socket
            .write_all(header.as_bytes())
            .map_err(at(step, "greet the journal"))?;
        // Nothing is ever read from it.
        let _ = socket.shutdown(std::net::Shutdown::Read);
        *stream = syscalls::socket::device_and_inode(&socket).ok();
        Ok(socket.into())
    }

    fn program_name(&self) -> String {
        match &self.order.run {
            super::Run::Exec { path, .. } => path.rsplit('/').next().unwrap_or(path).to_owned(),
            _ => "mount".to_owned(),
        }
    }

    fn file(&self, path: &str, extra: OFlags, step: u32) -> Result<OwnedFd, Failure> {
        let existed = std::path::Path::new(path).exists();
        let fd = open(path, OFlags::WRONLY | OFlags::CREATE | extra, step)?;
        if !existed && self.identity.uid.is_some() {
            // As if the service itself had made it.
            let owner = self.identity.uid.zip(self.identity.gid);
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::fchown(&fd, Some(uid), Some(gid))
                    .map_err(at(step, format!("give away {path}")))?;
            }
        }
        Ok(fd)
    }

    fn terminal(&self, step: u32) -> Result<OwnedFd, Failure> {
        let path = terminal_path(self.order);
        let fd = open(path, OFlags::RDWR, step)?;
        // The session was begun just now, so it can take the terminal as its own.
        syscalls::tty::take_controlling(&fd).map_err(at(step, format!("take {path}")))?;
        if self.order.exec.tty_reset {
            reset_terminal(&fd);
        }
        if let Some(uid) = self.identity.uid {
            // Login programs expect to own their terminal.
            let _ = std::os::unix::fs::fchown(&fd, Some(uid), None);
        }
        Ok(fd)
    }

    fn socket(&self, step: u32) -> Result<OwnedFd, Failure> {
        // `StandardInput=socket` without Accept= means the one socket that was passed.
        let fd = self.socket.or(self.fds.first());
        duplicate(
            fd.ok_or_else(|| Failure::text(step, "no socket was passed"))?,
            step,
        )
    }

    fn named(&self, name: &str, step: u32) -> Result<OwnedFd, Failure> {
        let at_index = self.order.fd_names.iter().position(|n| n == name);
        let fd = at_index.and_then(|i| self.fds.get(i));
        duplicate(
            fd.ok_or_else(|| Failure::text(step, format!("no descriptor is named {name}")))?,
            step,
        )
    }
}

fn terminal_path(order: &Order) -> &str {
    order.exec.tty_path.as_deref().unwrap_or("/dev/console")
}

/// Hangs up and resets the terminal before use, where asked.
fn prepare_terminal(order: &Order) -> Result<(), Failure> {
    let exec = &order.exec;
    let used = matches!(
        exec.standard_input,
        StdInput::Tty | StdInput::TtyForce | StdInput::TtyFail
    ) || exec.standard_output == StdOutput::Tty
        || exec.standard_error == StdOutput::Tty;
    if !used && exec.tty_path.is_none() {
        return Ok(());
    }
    let path = terminal_path(order);
    if exec.tty_vhangup {
        let fd = open(path, OFlags::RDWR, step::STDIN)?;
        // A terminal that cannot hang up (a pipe in a test) is used as it is.
        let _ = syscalls::tty::hang_up(&fd);
    }
    if exec.tty_reset {
        let fd = open(path, OFlags::RDWR, step::STDIN)?;
        reset_terminal(&fd);
    }
    Ok(())
}

/// A sane line discipline; the one a service left behind may be raw and without echo.
fn reset_terminal(fd: &OwnedFd) {
    use rustix::termios::{
        ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr,
    };
    let Ok(mut modes) = tcgetattr(fd) else {
        return;
    };
    modes.input_modes.remove(
        InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR,
    );
    modes
        .input_modes
        .insert(InputModes::ICRNL | InputModes::IMAXBEL | InputModes::IUTF8);
    modes
        .output_modes
        .insert(OutputModes::ONLCR | OutputModes::OPOST);
    modes.control_modes.insert(ControlModes::CREAD);
    modes.local_modes.insert(
        LocalModes::ISIG
            | LocalModes::ICANON
            | LocalModes::IEXTEN
            | LocalModes::ECHO
            | LocalModes::ECHOE
            | LocalModes::ECHOK
            | LocalModes::ECHOCTL,
    );
    let _ = tcsetattr(fd, OptionalActions::Now, &modes);
}

fn open(path: &str, flags: OFlags, step: u32) -> Result<OwnedFd, Failure> {
    let access = flags & OFlags::RWMODE;
    let mut options = OpenOptions::new();
    options.read(access == OFlags::RDONLY || access == OFlags::RDWR);
    options.write(access == OFlags::WRONLY || access == OFlags::RDWR);
    options.create(flags.contains(OFlags::CREATE)).mode(0o666);
    options
        .custom_flags(((flags & (OFlags::APPEND | OFlags::TRUNC)) | OFlags::NOCTTY).bits() as i32);
    options
        .open(path)
        .map(OwnedFd::from)
        .map_err(at(step, format!("open {path}")))
}

fn duplicate(fd: &OwnedFd, step: u32) -> Result<OwnedFd, Failure> {
    fd.try_clone().map_err(at(step, "copy a standard stream"))
}

/// Moves a descriptor above the standard streams, so that putting one in place closes no other.
fn above(fd: OwnedFd, step: u32) -> Result<OwnedFd, Failure> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
        .map_err(at(step, "move a standard stream"))?;
    // The low number is about to be overwritten; closing it here would race with nothing, but is not needed.
    std::mem::forget(fd);
    Ok(copy)
}

/// Puts the passed descriptors at 3 and up.
pub(super) fn place_passed(fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let floor = 3 + i32::try_from(fds.len()).unwrap_or(0) + 2;
    let mut moved = Vec::with_capacity(fds.len());
    for fd in fds {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), floor)
            .map_err(at(step::FDS, "move a descriptor"))?;
        // The number may be one of the targets, so its owner must not close it later.
        std::mem::forget(fd);
        moved.push(copy);
    }
    for (copy, target) in moved.into_iter().zip(3..) {
        syscalls::spawn::place_fd(copy, target)
            .map_err(at(step::FDS, "put a descriptor in place"))?;
    }
    Ok(())
}
