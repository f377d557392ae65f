//! `start stop restart kill rm wait attach`, and what starts again after a boot.

use super::args::{Args, Flag, switch, value};
use super::attach::{Attached, End, SIGNALS, Signals, Style, signal_of};
use super::{Context, Failure, each, run};
use crate::container::{Container, Restart, Status};
use crate::host::boot_id;
use crate::monitor;
use crate::protocol::{self, Event, Packet, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Flags of `start`.
pub const START: &[Flag] = &[
    switch("attach", 'a', "Attach to its output"),
    switch("interactive", 'i', "Attach our standard input"),
    switch("sig-proxy", '\0', "Pass signals on (default true)"),
    value("detach-keys", '\0', "Keys that detach"),
];
/// Flags of `stop` and `restart`.
pub const STOP: &[Flag] = &[
    value("time", 't', "Seconds until the kill (default 10)"),
    value("timeout", '\0', "Seconds until the kill (default 10)"),
    value("signal", 's', "Signal to send"),
];
/// Flags of `kill`.
pub const KILL: &[Flag] = &[value("signal", 's', "Signal to send (default KILL)")];
/// Flags of `rm`.
pub const RM: &[Flag] = &[
    switch("force", 'f', "Kill a running container first"),
    switch("volumes", 'v', "Remove its anonymous volumes"),
    switch("link", 'l', "Remove a link (there are none)"),
];
/// Flags of `attach`.
pub const ATTACH: &[Flag] = &[
    switch("no-stdin", '\0', "Do not attach our standard input"),
    switch("sig-proxy", '\0', "Pass signals on (default true)"),
    value("detach-keys", '\0', "Keys that detach"),
];

/// Finds a container; one that runs without a monitor gets a new one.
pub fn ready(context: &Context, name: &str) -> Result<Container, Failure> {
    let container = context.host.find(name)?;
    if !monitor::adoptable(&container.state, container.monitored) {
        return Ok(container);
    }
    let (socket, _) = monitor::spawn(&context.host, &container.config.id)
        .map_err(|error| Failure::io("start a monitor", error))?;
    let adopted = protocol::send(&socket, &Request::Adopt { supervise: false })
        .and_then(|()| protocol::wait::<Event>(&socket).map(|_| ()));
    adopted.map_err(|error| Failure::io("talk to the new monitor", error))?;
    Ok(context.host.load(&container.config.id)?)
}

/// A connection to a container's monitor.
pub fn connect(context: &Context, container: &Container) -> Result<OwnedFd, Failure> {
    let path = context
        .host
        .run_of(&container.config.id)
        .join("monitor.sock");
    protocol::connect(&path).map_err(|error| Failure::io("reach the container's monitor", error))
}

/// Asks and waits for the answer.
fn ask(context: &Context, container: &Container, request: &Request) -> Result<(), Failure> {
    let socket = connect(context, container)?;
    protocol::send(&socket, request).map_err(|error| Failure::io("talk to the monitor", error))?;
    match protocol::wait::<Event>(&socket) {
        Ok(Packet::Message(Event::Failed { message, .. }, _)) => Err(Failure::daemon(message)),
        _ => Ok(()),
    }
}

/// Waits until a container has ended for good; its exit status.
fn wait_end(
    context: &Context,
    container: &Container,
    timeout: Option<Duration>,
) -> Result<Option<i32>, Failure> {
    let id = &container.config.id;
    let settled = |context: &Context| match context.host.load(id) {
        Ok(now) if now.running() => None,
        Ok(now) => Some(now.state.exit_code),
        Err(_) => Some(container.state.exit_code),
    };
    if let Some(code) = settled(context) {
        return Ok(Some(code));
    }
    let Ok(socket) = connect(context, container) else {
        return Ok(settled(context));
    };
    protocol::send(&socket, &Request::Wait)
        .map_err(|error| Failure::io("talk to the monitor", error))?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        match protocol::receive::<Event>(&socket) {
            Ok(Some(Packet::Message(Event::Exited { code }, _))) => return Ok(Some(code)),
            Ok(Some(Packet::Closed)) | Err(_) => {
                // A killed monitor is no end.
                let again = ready(context, id)?;
                return if again.running() {
                    wait_end(context, &again, timeout)
                } else {
                    Ok(Some(again.state.exit_code))
                };
            }
            Ok(Some(_)) => continue,
            Ok(None) => {}
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, left.as_ref());
    }
}

/// `docker start`.
pub fn start(context: &Context, args: &Args) -> Result<i32, Failure> {
    if args.on("attach") || args.on("interactive") {
        if args.words.len() > 1 {
            return Err(Failure::usage(
                "you cannot start and attach multiple containers at once",
            ));
        }
        return start_attached(context, args);
    }
    each(&args.words, |name| {
        let container = ready(context, name)?;
        if container.running() {
            return Ok(());
        }
        start_detached(context, &container)
    })
}

fn start_detached(context: &Context, container: &Container) -> Result<(), Failure> {
    run::start(context, &container.config)
}

fn start_attached(context: &Context, args: &Args) -> Result<i32, Failure> {
    let container = ready(context, &args.words[0])?;
    let style = Style {
        stdin: args.on("interactive") && container.config.stdin,
        output: true,
        tty: container.config.tty,
        signals: args.get("sig-proxy") != Some("false"),
        ..Style::default()
    };
    if container.running() {
        return stay(context, &container, style);
    }
    run::launch(context, &container.config, style, false)
}

/// `docker attach`.
pub fn attach(context: &Context, args: &Args) -> Result<i32, Failure> {
    let container = ready(context, &args.words[0])?;
    if !container.running() {
        return Err(Failure::plain(
            1,
            "You cannot attach to a stopped container, start it first",
        ));
    }
    let style = Style {
        stdin: !args.on("no-stdin") && container.config.stdin,
        output: true,
        tty: container.config.tty,
        signals: args.get("sig-proxy") != Some("false"),
        ..Style::default()
    };
    stay(context, &container, style)
}

fn stay(context: &Context, container: &Container, style: Style) -> Result<i32, Failure> {
    let attached = Attached {
        host: &context.host,
        id: container.config.id.clone(),
        socket: connect(context, container)?,
        style,
        master: None,
        signals: Signals::watch(&SIGNALS).map_err(|error| Failure::io("handle signals", error))?,
        outgoing: VecDeque::new(),
        input_ended: false,
        detaching: false,
        stopping: false,
    };
    attached
        .attach()
        .map_err(|error| Failure::io("talk to the monitor", error))?;
    match attached.stay()? {
        End::Exited(code) => Ok(code),
        End::Detached => Ok(0),
    }
}

fn stop_one(
    context: &Context,
    name: &str,
    timeout: Option<i64>,
    signal: Option<&str>,
) -> Result<(), Failure> {
    let container = ready(context, name)?;
    if !container.running() {
        return Ok(());
    }
    let seconds = match timeout {
        Some(seconds) => u64::try_from(seconds).ok(),
        None => Some(container.config.stop_timeout),
    };
    if let Some(signal) = signal {
        ask(
            context,
            &container,
            &Request::Kill {
                signal: signal_of(signal)?,
            },
        )?;
    }
    ask(context, &container, &Request::Stop { timeout: seconds })?;
    let limit = seconds.map(|seconds| Duration::from_secs(seconds.min(1 << 30) + 30));
    match wait_end(context, &container, limit)? {
        Some(_) => Ok(()),
        None => Err(Failure::daemon(format!(
            "cannot stop container: {name}: it did not end after SIGKILL"
        ))),
    }
}

fn seconds(args: &Args) -> Result<Option<i64>, Failure> {
    Ok(match args.read("time")? {
        Some(seconds) => Some(seconds),
        None => args.read("timeout")?,
    })
}

/// `docker stop`.
pub fn stop(context: &Context, args: &Args) -> Result<i32, Failure> {
    let timeout = seconds(args)?;
    each(&args.words, |name| {
        stop_one(context, name, timeout, args.get("signal"))
    })
}

/// `docker restart`.
pub fn restart(context: &Context, args: &Args) -> Result<i32, Failure> {
    let timeout = seconds(args)?;
    each(&args.words, |name| {
        stop_one(context, name, timeout, args.get("signal"))?;
        start_detached(context, &context.host.find(name)?)
    })
}

/// `docker kill`.
pub fn kill(context: &Context, args: &Args) -> Result<i32, Failure> {
    let signal = signal_of(args.get("signal").unwrap_or("KILL"))?;
    each(&args.words, |name| {
        let container = ready(context, name)?;
        if !container.running() {
            return Err(Failure::daemon(format!(
                "Cannot kill container: {name}: Container {} is not running",
                container.config.id
            )));
        }
        ask(context, &container, &Request::Kill { signal })?;
        if signal == 9 {
            wait_end(context, &container, Some(Duration::from_secs(30)))?;
        }
        Ok(())
    })
}

/// `docker rm`.
pub fn rm(context: &Context, args: &Args) -> Result<i32, Failure> {
    let force = args.on("force");
    let mut code = 0;
    for name in &args.words {
        match remove_one(context, name, force, args.on("volumes")) {
            Ok(()) => println!("{name}"),
            // With -f a container that is not there is what was wanted.
            Err(failure) if force && failure.text.starts_with("No such container") => {
                failure.report();
            }
            Err(failure) => {
                failure.report();
                code = 1;
            }
        }
    }
    Ok(code)
}

fn remove_one(context: &Context, name: &str, force: bool, volumes: bool) -> Result<(), Failure> {
    let container = ready(context, name)?;
    let id = &container.config.id;
    if container.running() {
        if !force {
            return Err(Failure::daemon(format!(
                "cannot remove container \"/{}\": container is running: stop the container before removing or force remove",
                container.config.name
            )));
        }
        ask(context, &container, &Request::Stop { timeout: Some(0) })?;
        if wait_end(context, &container, Some(Duration::from_secs(30)))?.is_none() {
            return Err(Failure::daemon(format!(
                "cannot remove container {name}: it did not end after SIGKILL"
            )));
        }
    }
    // The monitor has said the end; its last files are written when its lock is free.
    for _ in 0..100 {
        if !context.host.is_monitored(id) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if context.host.container(id).exists() {
        context.host.remove_container(&container.config, volumes)?;
    }
    Ok(())
}

/// `docker wait`.
pub fn wait(context: &Context, args: &Args) -> Result<i32, Failure> {
    let mut code = 0;
    for name in &args.words {
        let result = ready(context, name).and_then(|container| wait_end(context, &container, None));
        match result {
            Ok(status) => println!("{}", status.unwrap_or_default()),
            Err(failure) => {
                failure.report();
                code = 1;
            }
        }
    }
    Ok(code)
}

/// After a boot: containers with a policy start again, those of `--rm` go. Containers of units are their units'
/// business. Returns how many could not be started.
pub fn restore(context: &Context) -> Result<i32, Failure> {
    let boot = boot_id();
    let mut failed = 0;
    for container in context.host.containers_now()? {
        let (config, state) = (&container.config, &container.state);
        if container.running() || state.boot_id == boot {
            continue;
        }
        if config.remove && state.status != Status::Created {
            context.host.remove_container(config, true)?;
            continue;
        }
        let started = !state.started_at.is_empty();
        let wanted = match config.restart {
            Restart::Always => started,
            Restart::UnlessStopped => started && !state.stopped,
            Restart::OnFailure(_) => started && !state.stopped && state.exit_code != 0,
            Restart::No => false,
        };
        if !wanted || state.in_unit {
            continue;
        }
        if let Err(failure) = run::start(context, config) {
            eprintln!("container {}: {}", config.name, failure.text);
            failed += 1;
        }
    }
    Ok(failed)
}
