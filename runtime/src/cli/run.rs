//! `run` and `create`.

use super::args::Args;
use super::attach::{Attached, End, SIGNALS, Signals, Style, output_is_journal, size};
use super::{Context, Failure, create as record, pull};
use crate::container::Config;
use crate::monitor;
use crate::network;
use crate::place::{self, Caller};
use crate::protocol::{self, Event, Packet, Request};
use sd_daemon::State;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Makes the record, pulling the image if it is missing.
fn make(context: &Context, args: &Args) -> Result<Config, Failure> {
    let typed = args.words.first().map(String::as_str).unwrap_or_default();
    let cidfile = args.get("cidfile");
    if cidfile.is_some_and(|path| std::path::Path::new(path).exists()) {
        return Err(Failure::usage(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            cidfile.unwrap_or_default()
        )));
    }
    let store = context.host.store()?;
    let image = pull::ensure(
        context,
        &store,
        typed,
        args.get("pull").unwrap_or("missing"),
        args.on("quiet"),
    )?;
    // Until the record names it, a sweep must not take the image away.
    let _held = store.hold()?;
    let config = record::config(
        &context.host,
        &context.options,
        args,
        &image,
        &store.config(&image.id)?,
    )?;
    context.host.add_container(&config)?;
    if let Some(path) = cidfile {
        std::fs::write(path, &config.id)
            .map_err(|error| Failure::io("write the container ID file", error))?;
    }
    Ok(config)
}

/// `docker create`.
pub fn create(context: &Context, args: &Args) -> Result<i32, Failure> {
    let config = make(context, args)?;
    println!("{}", config.id);
    Ok(0)
}

/// `docker run`.
pub fn run(context: &Context, args: &Args) -> Result<i32, Failure> {
    let detach = args.on("detach");
    if detach && args.on("rm") && args.get("restart").is_some() {
        return Err(Failure::usage(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    let config = make(context, args)?;
    let attached: Vec<String> = args
        .all("attach")
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    let style = Style {
        stdin: !detach
            && config.stdin
            && (attached.is_empty() || attached.iter().any(|name| name == "stdin")),
        output: !detach && (attached.is_empty() || attached.iter().any(|name| name != "stdin")),
        tty: config.tty,
        signals: args.get("sig-proxy") != Some("false"),
        ..Style::default()
    };
    let result = launch(context, &config, style, detach);
    if result.is_err() && config.remove {
        let _ = context.host.remove_container(&config, true);
    }
    result
}

/// Starts a container that exists, in a scope of its own.
pub fn start(context: &Context, config: &Config) -> Result<(), Failure> {
    wait_for_network(config)?;
    let (socket, monitor) = monitor::spawn(&context.host, &config.id)
        .map_err(|error| Failure::io("start the container's monitor", error))?;
    let base =
        place::scope(config.short(), &config.name, monitor).map_err(|error| Failure::of(&error))?;
    let request = Request::Start {
        base,
        in_unit: false,
        size: None,
        supervise: false,
    };
    protocol::send(&socket, &request).map_err(|error| Failure::io("talk to the monitor", error))?;
    wait_started(&socket).map(|_| ())
}

fn wait_for_network(config: &Config) -> Result<(), Failure> {
    if config.network != "bridge" && config.network != "default" {
        return Ok(());
    }
    network::wait_for_overlay(Duration::from_secs(120), || {
        eprintln!("waiting for the overlay network's subnet (/run/flannel/subnet.env)");
        let _ = sd_daemon::notify(&[
            State::ExtendTimeout(Duration::from_secs(30)),
            State::Status("waiting for the overlay network"),
        ]);
    })
    .map_err(|error| Failure::of(&error).with_code(125))
}

/// Starts a container that exists and stays with it unless it is detached.
pub fn launch(
    context: &Context,
    config: &Config,
    mut style: Style,
    detach: bool,
) -> Result<i32, Failure> {
    if style.tty && style.stdin && !rustix::termios::isatty(std::io::stdin()) {
        return Err(Failure::plain(1, "the input device is not a TTY"));
    }
    wait_for_network(config)?;
    let signals = Signals::watch(&SIGNALS).map_err(|error| Failure::io("handle signals", error))?;
    let caller = place::caller(detach, context.options.detach_in_unit == "classic");
    let stays = !detach || caller != Caller::Other;
    if stays {
        // A killed monitor leaves the container's process to us, who can tell its exit status.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
    style.in_unit = caller != Caller::Other;
    style.supervise = stays;
    style.calm = detach && style.in_unit;
    style.output = style.output && !output_is_journal();
    let (socket, monitor) = monitor::spawn(&context.host, &config.id)
        .map_err(|error| Failure::io("start the container's monitor", error).with_code(125))?;
    let base = match &caller {
        Caller::Unit(group) => group.clone(),
        Caller::Other => place::scope(config.short(), &config.name, monitor)
            .map_err(|error| Failure::of(&error).with_code(125))?,
    };
    let mut attached = Attached {
        host: &context.host,
        id: config.id.clone(),
        socket,
        style,
        master: None,
        signals,
        outgoing: VecDeque::new(),
        input_ended: false,
        detaching: false,
        stopping: false,
    };
    if stays {
        attached
            .attach()
            .map_err(|error| Failure::io("talk to the monitor", error))?;
    }
    let start = Request::Start {
        base,
        in_unit: style.in_unit,
        size: if style.tty { size() } else { None },
        supervise: stays,
    };
    protocol::send(&attached.socket, &start)
        .map_err(|error| Failure::io("talk to the monitor", error))?;
    attached.master = wait_started(&attached.socket)?;
    let _ = sd_daemon::notify(&[State::Ready, State::Status("container is running")]);
    if detach {
        println!("{}", config.id);
    }
    if !stays {
        return Ok(0);
    }
    match attached.stay()? {
        End::Exited(code) => Ok(code),
        End::Detached => Ok(0),
    }
}

/// The monitor's word that the container runs; a terminal's master comes along.
fn wait_started(socket: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    loop {
        match protocol::wait::<Event>(socket) {
            Ok(Packet::Message(Event::Started { .. }, fds)) => return Ok(fds.into_iter().next()),
            Ok(Packet::Message(Event::Failed { code, message }, _)) => {
                return Err(Failure::daemon(message).with_code(code));
            }
            Ok(Packet::Closed) => {
                return Err(Failure::daemon(
                    "the container's monitor ended before the container started".into(),
                )
                .with_code(125));
            }
            Ok(_) => {}
            Err(error) => return Err(Failure::io("talk to the monitor", error).with_code(125)),
        }
    }
}
