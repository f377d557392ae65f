//! `logs`.

use super::args::{Args, Flag, switch, value};
use super::{Context, Failure};
use crate::monitor::log::{Line, files};
use crate::time;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// Its flags.
pub const FLAGS: &[Flag] = &[
    switch("details", '\0', "Accepted, without meaning"),
    switch("follow", 'f', "Wait for more"),
    value("since", '\0', "From this time on (RFC 3339, or 10m)"),
    value("until", '\0', "Up to this time"),
    value("tail", 'n', "The last so many lines (all)"),
    switch("timestamps", 't', "With times"),
];

struct Printer {
    times: bool,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl Printer {
    fn wants(&self, line: &Line) -> bool {
        let time = time::parse(&line.time);
        self.since
            .is_none_or(|since| time.is_some_and(|time| time >= since))
            && self
                .until
                .is_none_or(|until| time.is_some_and(|time| time <= until))
    }

    fn print(&self, line: &Line) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.times {
            bytes.extend_from_slice(line.time.as_bytes());
            bytes.push(b' ');
        }
        bytes.extend(line.bytes());
        if line.stream == "stderr" {
            io::stderr().write_all(&bytes)
        } else {
            io::stdout().write_all(&bytes)
        }
    }
}

/// `docker logs`.
pub fn logs(context: &Context, args: &Args) -> Result<i32, Failure> {
    let container = context.host.find(&args.words[0])?;
    if container.config.log_driver == "none" {
        return Err(Failure::daemon(
            "configured logging driver does not support reading".into(),
        ));
    }
    let now = SystemTime::now();
    let moment = |flag: &str| {
        args.get(flag)
            .map(|text| {
                time::parse_since(text, now).ok_or_else(|| {
                    Failure::daemon(format!("invalid value for \"{flag}\": {text:?}"))
                })
            })
            .transpose()
    };
    let printer = Printer {
        times: args.on("timestamps"),
        since: moment("since")?,
        until: moment("until")?,
    };
    let tail = args
        .get("tail")
        .filter(|text| *text != "all")
        .and_then(|text| text.parse::<usize>().ok());
    let directory = context.host.container(&container.config.id);
    // Watched before the first look, so that nothing falls between.
    let watch = if args.on("follow") {
        Some(watch(&directory).map_err(|error| Failure::io("watch the log", error))?)
    } else {
        None
    };
    let mut lines = Vec::new();
    let mut position = 0;
    for path in files(&directory) {
        let file = File::open(&path).map_err(|error| Failure::io("open the log", error))?;
        position = read(file, 0, &mut lines);
    }
    lines.retain(|line| printer.wants(line));
    let skip = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    for line in &lines[skip..] {
        if printer.print(line).is_err() {
            return Ok(141);
        }
    }
    match watch {
        Some(watch) => follow(
            context,
            &container.config.id,
            &directory,
            &printer,
            &watch,
            position,
        ),
        None => Ok(0),
    }
}

/// Whole lines from a position on; the position after them.
fn read(file: File, from: u64, lines: &mut Vec<Line>) -> u64 {
    let mut reader = BufReader::new(file);
    let mut position = from;
    if reader.seek(SeekFrom::Start(from)).is_err() {
        return from;
    }
    let mut text = Vec::new();
    while matches!(reader.read_until(b'\n', &mut text), Ok(count) if count > 0) {
        if text.last() != Some(&b'\n') {
            break;
        }
        position += text.len() as u64;
        // A damaged line (power cut) is left out; those after it are still good.
        lines.extend(serde_json::from_slice::<Line>(&text).ok());
        text.clear();
    }
    position
}

fn watch(directory: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &watch,
        directory,
        inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE_SELF,
    )?;
    Ok(watch)
}

fn follow(
    context: &Context,
    id: &str,
    directory: &Path,
    printer: &Printer,
    watch: &rustix::fd::OwnedFd,
    mut position: u64,
) -> Result<i32, Failure> {
    let path = directory.join("log.json");
    loop {
        // Looked at before the file: what is written until the end is then still read.
        let over = context
            .host
            .load(id)
            .map_or(true, |container| !container.running());
        let mut lines = Vec::new();
        if let Ok(file) = File::open(&path) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            if length < position {
                // A new file after a rotation: the rest of the old one first.
                if let Ok(old) = File::open(directory.join("log.json.1")) {
                    read(old, position, &mut lines);
                }
                position = 0;
            }
            position = read(file, position, &mut lines);
        }
        for line in lines.iter().filter(|line| printer.wants(line)) {
            if printer
                .print(line)
                .and_then(|()| io::stdout().flush())
                .is_err()
            {
                return Ok(141);
            }
        }
        if over {
            return Ok(0);
        }
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        let wait = Timespec {
            tv_sec: 2,
            tv_nsec: 0,
        };
        let _ = rustix::event::poll(&mut fds, Some(&wait));
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(watch, &mut buffer), Ok(count) if count > 0) {}
    }
}
