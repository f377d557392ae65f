//! `exec`: another process in a running container.

use super::args::{Args, Flag, switch, value};
use super::attach::{RawTerminal, Signals, size};
use super::{Context, Failure};
use crate::container::Container;
use crate::monitor::launch;
use crate::protocol::{self, Event, Packet, Request};
use oci_runtime::Plan;
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGINT, SIGTERM, SIGWINCH};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Its flags.
pub const FLAGS: &[Flag] = &[
    switch("detach", 'd', "Run in the background"),
    value("detach-keys", '\0', "Keys that detach"),
    value("env", 'e', "Set an environment variable"),
    value("env-file", '\0', "Read environment variables from a file"),
    switch("interactive", 'i', "Keep standard input open"),
    switch("privileged", '\0', "All capabilities"),
    switch("tty", 't', "Give it a terminal"),
    value("user", 'u', "User"),
    value("workdir", 'w', "Working directory"),
];

/// `docker exec`.
pub fn exec(context: &Context, args: &Args) -> Result<i32, Failure> {
    let container = super::lifecycle::ready(context, &args.words[0])?;
    if !container.running() {
        return Err(Failure::daemon(format!(
            "container {} is not running",
            container.config.id
        )));
    }
    let (tty, detach) = (args.on("tty"), args.on("detach"));
    if tty && args.on("interactive") && !detach && !rustix::termios::isatty(io::stdin()) {
        return Err(Failure::plain(1, "the input device is not a TTY"));
    }
    let plan = plan(context, args, &container)?;
    let run = context.host.run_of(&container.config.id);
    let socket = super::lifecycle::connect(context, &container)?;
    let send = |request: &Request, fds: &[BorrowedFd<'_>]| {
        protocol::send_with(&socket, request, fds)
            .map_err(|error| Failure::io("talk to the monitor", error))
    };
    let request = |console: Option<String>| Request::Exec {
        plan: Box::new(plan.clone()),
        console,
    };
    if tty && !detach {
        let path = run.join(format!("exec-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path)
            .map_err(|error| Failure::io("make the terminal's socket", error))?;
        let started = send(&request(Some(path.to_string_lossy().into_owned())), &[])
            .and_then(|()| started(&socket));
        let _ = std::fs::remove_file(&path);
        started?;
        return terminal(&listener, &socket, args.on("interactive"));
    }
    if detach {
        send(&request(None), &[])?;
        started(&socket)?;
        return Ok(0);
    }
    let pipe = || io::pipe().map_err(|error| Failure::io("make a pipe", error));
    let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) =
        (pipe()?, pipe()?, pipe()?);
    let input = if args.on("interactive") {
        Some(OwnedFd::from(in_write))
    } else {
        None
    };
    send(
        &request(None),
        &[in_read.as_fd(), out_write.as_fd(), err_write.as_fd()],
    )?;
    drop((in_read, out_write, err_write));
    started(&socket)?;
    pump(
        &socket,
        input,
        OwnedFd::from(out_read),
        OwnedFd::from(err_read),
    )
}

fn plan(context: &Context, args: &Args, container: &Container) -> Result<Plan, Failure> {
    let config = &container.config;
    let mut plan = launch::plan(
        &context.host,
        &context.options,
        config,
        &container.state.cgroup,
        container.state.network.as_ref(),
    )
    .map_err(|error| Failure::of(&error))?;
    plan.args = args.words[1..].to_vec();
    plan.terminal = args.on("tty");
    for entry in super::create::environment(args)? {
        let key = entry.split('=').next().unwrap_or_default().to_owned();
        plan.env
            .retain(|known| known.split('=').next() != Some(&key));
        plan.env.push(entry);
    }
    if let Some(user) = args.get("user") {
        user.clone_into(&mut plan.user);
    }
    if let Some(directory) = super::create::work_directory(args)? {
        plan.cwd = directory;
    }
    plan.privileged = plan.privileged || args.on("privileged");
    Ok(plan)
}

fn started(socket: &OwnedFd) -> Result<(), Failure> {
    loop {
        match protocol::wait::<Event>(socket) {
            Ok(Packet::Message(Event::ExecStarted { .. }, _)) => return Ok(()),
            Ok(Packet::Message(Event::Failed { code, message }, _)) => {
                let text = format!("OCI runtime exec failed: {message}");
                return Err(if code >= 126 {
                    Failure::plain(code, text)
                } else {
                    Failure::daemon(text)
                });
            }
            Ok(Packet::Closed) => {
                return Err(Failure::daemon("the container's monitor ended".into()));
            }
            Ok(_) => {}
            Err(error) => return Err(Failure::io("talk to the monitor", error)),
        }
    }
}

/// None while it runs.
fn ended(socket: &OwnedFd) -> Option<i32> {
    loop {
        match protocol::receive::<Event>(socket) {
            Ok(Some(Packet::Message(Event::ExecExited { code }, _))) => return Some(code),
            Ok(Some(Packet::Closed)) | Err(_) => return Some(137),
            Ok(Some(_)) => {}
            Ok(None) => return None,
        }
    }
}

/// Copies what is there; false at the end.
fn copy(from: &OwnedFd, to: &mut dyn Write) -> bool {
    let mut buffer = [0; 32 << 10];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(count) => to
            .write_all(&buffer[..count])
            .and_then(|()| to.flush())
            .is_ok(),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
        Err(_) => false,
    }
}

/// Passes three pipes until the process ends; what it left in them is passed too.
fn pump(
    socket: &OwnedFd,
    mut input: Option<OwnedFd>,
    out: OwnedFd,
    err: OwnedFd,
) -> Result<i32, Failure> {
    for fd in [&out, &err] {
        rustix::io::ioctl_fionbio(fd, true)
            .map_err(|error| Failure::io("prepare a pipe", error))?;
    }
    if let Some(input) = &input {
        rustix::io::ioctl_fionbio(input, true)
            .map_err(|error| Failure::io("prepare a pipe", error))?;
    }
    let (mut out, mut err) = (Some(out), Some(err));
    let mut pending: Vec<u8> = Vec::new();
    let stdin = io::stdin();
    loop {
        let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
        let mut kinds = vec!['s'];
        if let Some(fd) = &out {
            fds.push(PollFd::new(fd, PollFlags::IN));
            kinds.push('o');
        }
        if let Some(fd) = &err {
            fds.push(PollFd::new(fd, PollFlags::IN));
            kinds.push('e');
        }
        match &input {
            Some(_) if pending.is_empty() => {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
                kinds.push('i');
            }
            Some(fd) => {
                fds.push(PollFd::new(fd, PollFlags::OUT));
                kinds.push('w');
            }
            None => {}
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::io("wait for the process", error)),
        }
        let ready: Vec<char> = kinds
            .into_iter()
            .zip(fds.iter().map(|fd| !fd.revents().is_empty()))
            .filter_map(|(kind, ready)| ready.then_some(kind))
            .collect();
        drop(fds);
        for kind in ready {
            match kind {
                'o' if !out.as_ref().is_some_and(|fd| copy(fd, &mut io::stdout())) => out = None,
                'e' if !err.as_ref().is_some_and(|fd| copy(fd, &mut io::stderr())) => err = None,
                'i' => {
                    let mut buffer = vec![0; 32 << 10];
                    match rustix::io::read(&stdin, &mut buffer[..]) {
                        Ok(count) if count > 0 => pending.extend_from_slice(&buffer[..count]),
                        _ => input = None,
                    }
                }
                'w' => match input.as_ref().map(|fd| rustix::io::write(fd, &pending)) {
                    Some(Ok(count)) => {
                        pending.drain(..count);
                    }
                    Some(Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)) | None => {}
                    Some(Err(_)) => {
                        pending.clear();
                        input = None;
                    }
                },
                's' => {
                    if let Some(code) = ended(socket) {
                        drain(out.as_ref(), &mut io::stdout());
                        drain(err.as_ref(), &mut io::stderr());
                        return Ok(code);
                    }
                }
                _ => {}
            }
        }
    }
}

fn drain(fd: Option<&OwnedFd>, to: &mut dyn Write) {
    let Some(fd) = fd else { return };
    let mut buffer = [0; 32 << 10];
    while let Ok(count) = rustix::io::read(fd, &mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.flush();
}

/// Passes a terminal.
fn terminal(listener: &UnixListener, socket: &OwnedFd, interactive: bool) -> Result<i32, Failure> {
    let lost = |error: io::Error| Failure::io("take the terminal", error);
    let (connection, _) = listener.accept().map_err(lost)?;
    let message = syscalls::socket::receive(&connection, &mut [0; 256]).map_err(lost)?;
    let master = message
        .fds
        .into_iter()
        .next()
        .ok_or_else(|| lost(io::Error::other("the engine sent none")))?;
    let mut signals = Signals::watch(&[SIGWINCH, SIGINT, SIGTERM]).map_err(lost)?;
    let resize = |master: &OwnedFd| {
        if let Some((rows, columns)) = size() {
            let _ = crate::monitor::streams::resize(master, rows, columns);
        }
    };
    resize(&master);
    let _raw = RawTerminal::enter(interactive);
    let (mut input, mut output) = (interactive, true);
    loop {
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
        fds.extend(signals.poll_fds());
        let first = fds.len();
        if output {
            fds.push(PollFd::new(&master, PollFlags::IN));
        }
        if input {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::io("wait for the process", error)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if signals.take().contains(&SIGWINCH) {
            resize(&master);
        }
        if output && ready[first] {
            output = copy(&master, &mut io::stdout());
        }
        if input && ready.last() == Some(&true) {
            let mut buffer = [0; 4096];
            match io::stdin().read(&mut buffer) {
                Ok(count) if count > 0 => {
                    let _ = rustix::io::write(&master, &buffer[..count]);
                }
                _ => input = false,
            }
        }
        if ready[0]
            && let Some(code) = ended(socket)
        {
            let _ = rustix::io::ioctl_fionbio(&master, true);
            drain(Some(&master), &mut io::stdout());
            return Ok(code);
        }
    }
}
