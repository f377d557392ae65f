//! `docker` for users who are not root: their command runs as root in dockerd's charge.
//!
//! ```text
//!  docker ps (core) ──Call + stdin, stdout, stderr──▶ dockerd ──spawn──▶ docker ps (root)
//!         │ ◀───────────── Done(exit status) ───────────┘                     in the caller's own control group
//!         └── signals ──▶
//! ```
//!
//! Whoever may write to the socket (mode 0660, group docker) is root on this machine, as with docker's own socket. The
//! command gets the caller's words, directory, environment, umask and the caller's own descriptors, so what it reads and
//! prints never passes through dockerd. It runs in the caller's control group: limits, accounting and kill of a session
//! or unit hold for it.
//!
//! What must stay true: a caller that goes away takes its command along as a closed terminal would (SIGHUP); containers
//! stay, as they do without the relay.

use crate::protocol::{self, Packet};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where dockerd listens (a seqpacket socket of docker.socket).
pub const SOCKET: &str = "/run/docker/command.sock";
/// The command that is run for a caller.
pub const DOCKER: &str = "/usr/bin/docker";
/// First word of dockerd when it is to become a caller's command.
pub const ENTER: &str = "enter";
/// Commands at once; a further one is refused with a message.
const MAX_SESSIONS: usize = 128;

/// From the caller. Its standard descriptors come along with `Call`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Call {
        words: Vec<String>,
        directory: PathBuf,
        environment: BTreeMap<String, String>,
        umask: u32,
    },
    Signal(i32),
}

/// To the caller.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// The command's exit status; 128 + N after signal N.
    Done(i32),
    /// Why it was not run.
    Refused(String),
}

/// Signals that a caller passes on.
const PASSED: [i32; 7] = [
    signal_hook::consts::SIGHUP,
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGQUIT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGUSR1,
    signal_hook::consts::SIGUSR2,
    signal_hook::consts::SIGWINCH,
];

/// Runs `docker WORDS` through dockerd and returns its exit status; `trouble`, with a message, where that cannot be.
pub fn call(socket: &Path, words: &[String], trouble: i32) -> i32 {
    match try_call(socket, words) {
        Ok(code) => code,
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "only root and members of the group docker may use containers; try sudo docker"
                }
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "is docker.socket started? try sudo systemctl start docker.socket, or sudo docker"
                }
                _ => "try sudo docker",
            };
            eprintln!(
                "docker: permission denied: docker {} is for root, and {} does not run it as root: {error}\nhint: {hint}",
                words.first().map_or("", String::as_str),
                socket.display()
            );
            trouble
        }
    }
}

fn try_call(path: &Path, words: &[String]) -> io::Result<i32> {
    let socket = protocol::connect(path)?;
    let mut signals = Vec::new();
    for number in PASSED {
        let (read, write) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(number, write)?;
        read.set_nonblocking(true)?;
        signals.push((number, read));
    }
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let request = Request::Call {
        words: words.to_vec(),
        directory: std::env::current_dir()?,
        environment: std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect(),
        umask: umask.as_raw_mode(),
    };
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    protocol::send_with(
        &socket,
        &request,
        &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    )
    .map_err(|error| match error.raw_os_error() {
        Some(90) => io::Error::other("the arguments and the environment are too long"),
        _ => error,
    })?;
    loop {
        let mut fds: Vec<PollFd<'_>> = std::iter::once(PollFd::new(&socket, PollFlags::IN))
            .chain(signals.iter().map(|(_, r)| PollFd::new(r, PollFlags::IN)))
            .collect();
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (number, read) in &signals {
            let mut buffer = [0; 16];
            if matches!(rustix::io::read(read, &mut buffer), Ok(1..)) {
                protocol::send(&socket, &Request::Signal(*number))?;
            }
        }
        match protocol::receive::<Reply>(&socket)? {
            None => {}
            Some(Packet::Message(Reply::Done(code), _)) => return Ok(code),
            Some(Packet::Message(Reply::Refused(why), _)) => return Err(io::Error::other(why)),
            Some(_) => {
                return Err(io::Error::other(
                    "docker.service ended while the command ran",
                ));
            }
        }
    }
}

/// A caller's connection, and its command once it was asked for.
#[derive(Debug)]
struct Session {
    socket: OwnedFd,
    running: Option<(Child, OwnedFd)>,
}

/// The commands that dockerd runs for callers.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Vec<Session>,
}

impl Sessions {
    /// Takes a new connection.
    pub fn accept(&mut self, socket: OwnedFd) {
        if self.open.len() >= MAX_SESSIONS {
            let why = format!("{MAX_SESSIONS} commands of other users run already");
            let _ = protocol::send(&socket, &Reply::Refused(why));
            return;
        }
        self.open.push(Session {
            socket,
            running: None,
        });
    }

    /// What to wait for: connections and the ends of commands.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        self.open
            .iter()
            .flat_map(|s| {
                let pidfd = s.running.as_ref().map(|(_, fd)| fd);
                std::iter::once(&s.socket).chain(pidfd)
            })
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect()
    }

    /// Does what can be done now. `enter` makes a command from a control group and words, see [`enter_command`].
    pub fn turn(&mut self, enter: impl Fn(&str, &[String]) -> Command) {
        self.open.retain_mut(|session| match session.turn(&enter) {
            Ok(goes_on) => goes_on,
            Err(error) => {
                let why = telemetry::chain(&error);
                tracing::warn!(error = %why, "a user's docker command ends early");
                let _ = protocol::send(&session.socket, &Reply::Refused(why));
                session.hang_up();
                false
            }
        });
    }
}

impl Session {
    /// Whether it goes on.
    fn turn(&mut self, enter: impl Fn(&str, &[String]) -> Command) -> io::Result<bool> {
        if let Some((child, _)) = &mut self.running
            && let Some(status) = child.try_wait()?
        {
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            // The caller may be gone; then nobody wants to know.
            let _ = protocol::send(&self.socket, &Reply::Done(code));
            return Ok(false);
        }
        match protocol::receive::<Request>(&self.socket)? {
            None => {}
            Some(Packet::Message(call @ Request::Call { .. }, fds)) if self.running.is_none() => {
                self.start(call, fds, enter)?;
            }
            Some(Packet::Message(Request::Signal(number), _)) if PASSED.contains(&number) => {
                self.signal(number);
            }
            Some(Packet::Closed) => {
                self.hang_up();
                return Ok(false);
            }
            Some(_) => return Err(io::Error::other("this is no docker command")),
        }
        Ok(true)
    }

    fn start(
        &mut self,
        call: Request,
        fds: Vec<OwnedFd>,
        enter: impl Fn(&str, &[String]) -> Command,
    ) -> io::Result<()> {
        let Request::Call {
            words,
            directory,
            environment,
            umask,
        } = call
        else {
            return Ok(());
        };
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(io::Error::other(
                "a docker command comes with three descriptors",
            ));
        };
        let caller = rustix::net::sockopt::socket_peercred(&self.socket)?;
        let group = cgroup2::group_of(caller.pid.as_raw_nonzero().get()).unwrap_or_default();
        tracing::info!(uid = caller.uid.as_raw(), words = ?words.first(), "running a docker command for a user");
        let child = enter(&group, &words)
            .env_clear()
            // What the dynamic loader heeds is not for a command of another user.
            .envs(environment.iter().filter(|(k, _)| !k.starts_with("LD_")))
            .env(UMASK, format!("{:o}", umask & 0o777))
            .current_dir(directory)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        self.running = Some((child, pidfd));
        Ok(())
    }

    fn signal(&self, number: i32) {
        if let Some((child, _)) = &self.running
            && let Some(signal) = Signal::from_named_raw(number)
        {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// The caller is gone: as when a terminal closes. The command is reaped in the background by being waited for here,
    /// after a SIGKILL if it does not heed the SIGHUP within ten seconds, docker's time for stopping.
    fn hang_up(&mut self) {
        self.signal(signal_hook::consts::SIGHUP);
        if let Some((mut child, pidfd)) = self.running.take() {
            let wait = rustix::event::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            if !matches!(rustix::event::poll(&mut fds, Some(&wait)), Ok(1..)) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

/// Carries the caller's umask over the exec.
const UMASK: &str = "FLOTILLA_UMASK";

/// dockerd itself, about to become the caller's command in `group`; see [`enter`].
pub fn enter_command(group: &str, words: &[String]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([ENTER, group, "--"]).args(words);
    command
}

/// `dockerd enter GROUP -- WORDS…`: moves itself to the control group, takes the caller's umask and becomes `docker`.
/// Returns only where that fails.
pub fn enter(words: &[String]) -> i32 {
    let [group, dashes, words @ ..] = words else {
        eprintln!(
            "dockerd: {ENTER} wants a control group, -- and words; it is for docker.service itself"
        );
        return 2;
    };
    if dashes != "--" {
        eprintln!("dockerd: -- is missing behind the control group");
        return 2;
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if !group.is_empty()
        && let Err(error) = crate::place::hierarchy().attach(group, own)
    {
        // A caller in the root of a delegated group: its command stays with dockerd.
        tracing::debug!(error = %telemetry::chain(&error), "not in the caller's control group");
    }
    if let Some(umask) = std::env::var(UMASK)
        .ok()
        .and_then(|text| u32::from_str_radix(&text, 8).ok())
    {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    }
    let error = Command::new(DOCKER).args(words).env_remove(UMASK).exec();
    eprintln!("docker: failed to run {DOCKER}: {error}");
    126
}

/// Whether a passed socket is the relay's: the engine API's are streams.
pub fn is_relay(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(socket)
        .is_ok_and(|kind| kind == rustix::net::SocketType::SEQPACKET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::{Duration, Instant};

    /// A stand-in for dockerd's loop, with the shell as the command: ends after `calls` sessions.
    fn serve(listener: OwnedFd, calls: usize) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let mut sessions = Sessions::default();
            let mut accepted = 0;
            while accepted < calls || !sessions.open.is_empty() {
                let mut fds = sessions.poll_fds();
                fds.push(PollFd::new(&listener, PollFlags::IN));
                rustix::event::poll(&mut fds, None).unwrap();
                let more = !fds.last().unwrap().revents().is_empty();
                drop(fds);
                sessions.turn(|_, words| {
                    let mut c = Command::new("sh");
                    c.arg("-c").args(words);
                    c
                });
                if more {
                    sessions.accept(rustix::net::accept(&listener).unwrap());
                    accepted += 1;
                }
            }
        })
    }

    fn ask(path: &Path, script: &str, fds: [OwnedFd; 3]) -> OwnedFd {
        let socket = protocol::connect(path).unwrap();
        let call = Request::Call {
            words: vec![script.into()],
            directory: "/".into(),
            environment: [
                ("WHO", "caller"),
                ("LD_PRELOAD", "/evil"),
                ("PATH", "/usr/bin:/bin"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            umask: 0o027,
        };
        let fds = fds.each_ref().map(AsFd::as_fd);
        protocol::send_with(&socket, &call, &fds).unwrap();
        socket
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn reply(socket: &OwnedFd) -> Reply {
        match protocol::wait::<Reply>(socket).unwrap() {
            Packet::Message(reply, _) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_get_descriptors_environment_signals_and_give_their_status() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = serve(protocol::listen(&path).unwrap(), 5);

        let (mut out, write) = UnixStream::pair().unwrap();
        let write = OwnedFd::from(write);
        let socket = ask(
            &path,
            "pwd; echo $WHO \"[$LD_PRELOAD]\" $FLOTILLA_UMASK; exit 3",
            [null(), write.try_clone().unwrap(), write],
        );
        assert_eq!(reply(&socket), Reply::Done(3));
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "/\ncaller [] 27\n");

        for (signal, expected) in [
            (signal_hook::consts::SIGTERM, Some(Reply::Done(9))),
            // No caller passes this one on.
            (signal_hook::consts::SIGKILL, None),
        ] {
            let (mut out, write) = UnixStream::pair().unwrap();
            let socket = ask(
                &path,
                "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done",
                [null(), write.into(), null()],
            );
            let mut up = [0; 3];
            out.read_exact(&mut up).unwrap();
            protocol::send(&socket, &Request::Signal(signal)).unwrap();
            let said = reply(&socket);
            match expected {
                Some(done) => assert_eq!(said, done),
                None => assert!(matches!(said, Reply::Refused(_)), "{said:?}"),
            }
        }

        // The caller goes: the command gets the hang-up.
        let (mut out, write) = UnixStream::pair().unwrap();
        let socket = ask(
            &path,
            // Where the tests run under nohup(1) the signal is ignored, which no shell can undo.
            "exec env --default-signal=HUP sh -c \"trap 'echo gone; exit' HUP; echo up; while :; do sleep 0.05; done\"",
            [null(), write.into(), null()],
        );
        out.read_exact(&mut [0; 3]).unwrap();
        drop(socket);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("gone"), "{rest:?}");

        let (left, right) = UnixStream::pair().unwrap();
        let socket = protocol::connect(&path).unwrap();
        protocol::send_with(&socket, &Request::Signal(15), &[left.as_fd()]).unwrap();
        protocol::send(&socket, &serde_json::json!({"nonsense": 1})).unwrap();
        drop(right);
        let started = Instant::now();
        let said = protocol::wait::<Reply>(&socket).unwrap();
        assert!(
            matches!(said, Packet::Message(Reply::Refused(_), _)),
            "{said:?}"
        );
        assert!(started.elapsed() < Duration::from_secs(30));
        drop(socket);
        server.join().unwrap();
    }
}
