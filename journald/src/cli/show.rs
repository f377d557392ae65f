//! Showing entries, and the lists of boots, fields and values.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use journal::{Boot, Cursor, Entry, Id128, Journal, Match, Stamp, Watch};
use rustix::event::{PollFd, PollFlags};

use super::admin::mode;
use super::args::{BootChoice, Given, parse_boot};
use super::output::Style;
use super::time::{self, Zone};
use super::{CliError, dirs, select};

/// Output is collected up to this size before it is written.
const CHUNK: usize = 64 * 1024;

/// Shows what the options ask for.
pub(crate) fn run(given: &Given) -> Result<ExitCode, CliError> {
    let mut journal = open(given)?;
    if given.has("fields") {
        return list(&journal.field_names());
    }
    if let Some(name) = given.value("field") {
        return list(&journal.values(name));
    }
    let zone = if given.has("utc") {
        Zone::utc()
    } else {
        Zone::local()
    };
    if given.has("list-boots") {
        return list_boots(&mut journal, &zone);
    }
    let request = Request::read(given, &mut journal, zone)?;
    let mut output = Output::open(given)?;
    let shown = request.show(given, &mut journal, &mut output)?;
    output.finish()?;
    complain(given, &mut journal);
    // As grep: finding nothing is a failure.
    Ok(if request.pattern.is_some() && shown == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn open(given: &Given) -> Result<Journal, CliError> {
    if given.has("file") {
        let files: Vec<PathBuf> = given.values("file").map(PathBuf::from).collect();
        return Journal::open_files(&files).map_err(CliError::Journal);
    }
    let journal = Journal::open_dirs(&dirs(given)?);
    if journal.files().next().is_none() && !given.has("quiet") {
        let readable = |dir: &PathBuf| !dir.exists() || std::fs::read_dir(dir).is_ok();
        if journal.dirs().iter().all(readable) {
            eprintln!("No journal files were found.");
        } else {
            eprintln!(
                "No journal files were opened due to insufficient permissions.\n\
                 hint: members of the group systemd-journal may read them"
            );
        }
    }
    Ok(journal)
}

fn complain(given: &Given, journal: &mut Journal) {
    for problem in journal.take_problems() {
        if !given.has("quiet") {
            eprintln!(
                "{}: warning: {}",
                super::PROGRAM,
                telemetry::chain(&problem)
            );
        }
    }
}

fn list(lines: &[Vec<u8>]) -> Result<ExitCode, CliError> {
    let mut out = Vec::new();
    for line in lines {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    io::stdout().write_all(&out).map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn list_boots(journal: &mut Journal, zone: &Zone) -> Result<ExitCode, CliError> {
    let boots = journal.boots();
    let mut out = String::new();
    let rows: Vec<_> = boots
        .iter()
        .map(|boot| {
            (
                boot.id.to_string(),
                zone.civil(boot.first).full(false),
                zone.civil(boot.last).full(false),
            )
        })
        .collect();
    let width = rows
        .iter()
        .map(|r| r.1.len())
        .max()
        .unwrap_or(0)
        .max("FIRST ENTRY".len());
    if !rows.is_empty() {
        out += &format!(
            "IDX {:<32} {:<width$} LAST ENTRY\n",
            "BOOT ID", "FIRST ENTRY"
        );
    }
    for (at, (id, first, last)) in rows.iter().enumerate() {
        let number = at as i64 + 1 - rows.len() as i64;
        out += &format!("{number:>3} {id} {first:<width$} {last}\n");
    }
    io::stdout()
        .write_all(out.as_bytes())
        .map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// How many entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    All,
    Last(u64),
    First(u64),
}

/// What is to be shown.
#[derive(Debug)]
struct Request {
    style: Style,
    since: Option<u64>,
    until: Option<u64>,
    cursor: Option<(Cursor, bool)>,
    lines: Lines,
    reverse: bool,
    follow: bool,
    quiet: bool,
    pattern: Option<regex_lite::Regex>,
}

impl Request {
    fn read(given: &Given, journal: &mut Journal, zone: Zone) -> Result<Self, CliError> {
        let wrong = |what, text: &str| CliError::Value {
            what,
            text: text.to_owned(),
        };
        let now = Stamp::now(Id128::default()).realtime;
        let point = |name| match given.value(name) {
            Some(text) => time::parse(text, now, &zone)
                .map(Some)
                .ok_or_else(|| wrong("time", text)),
            None => Ok(None),
        };
        let follow = given.has("follow");
        let lines = match given.get("lines") {
            _ if given.has("no-tail") => Lines::All,
            Some(None) => Lines::Last(10),
            Some(Some("all")) => Lines::All,
            Some(Some(text)) => {
                let number = |text: &str| text.parse().map_err(|_| wrong("number of lines", text));
                match text.strip_prefix('+') {
                    Some(rest) => Lines::First(number(rest)?),
                    None => Lines::Last(number(text)?),
                }
            }
            None if follow
                && !given.has("since")
                && !given.has("cursor")
                && !given.has("after-cursor") =>
            {
                Lines::Last(10)
            }
            None if given.has("pager-end") => Lines::Last(1000),
            None => Lines::All,
        };
        let mut wanted = vec![
            select::selection(given, |field| journal.values(field)).map_err(CliError::Select)?,
        ];
        if let Some(boot) = boot(given, journal)? {
            wanted.push(Match::field("_BOOT_ID", boot.to_string()));
        }
        let (since, until) = (point("since")?, point("until")?);
        let color =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let style = Style {
            mode: mode(given)?,
            all: given.has("all"),
            no_hostname: given.has("no-hostname"),
            color,
            zone,
            fields: given
                .value("output-fields")
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        journal.set_match(Match::And(wanted));
        Ok(Self {
            style,
            since,
            until,
            cursor: cursor(given)?,
            lines,
            reverse: given.has("reverse"),
            follow,
            quiet: given.has("quiet"),
            pattern: pattern(given)?,
        })
    }

    /// Shows everything; gives the number of entries.
    fn show(
        &self,
        given: &Given,
        journal: &mut Journal,
        output: &mut Output,
    ) -> Result<u64, CliError> {
        let mut printer = Printer {
            request: self,
            output,
            last: None,
            shown: 0,
        };
        match (self.reverse, self.lines) {
            (true, _) => self.backward(journal, &mut printer)?,
            (false, Lines::Last(count)) => self.tail(journal, count, &mut printer)?,
            (false, Lines::All) => self.forward(journal, u64::MAX, &mut printer)?,
            (false, Lines::First(count)) => self.forward(journal, count, &mut printer)?,
        }
        if self.follow {
            complain(given, journal);
            self.go_on(journal, &mut printer)?;
        }
        if printer.shown == 0 && !self.quiet && !self.follow && self.style.mode.is_short() {
            printer.output.put(b"-- No entries --\n")?;
        }
        let (last, shown) = (printer.last, printer.shown);
        if let Some(meta) = last {
            let cursor = Cursor(meta).to_string();
            if given.has("show-cursor") {
                output.put(format!("-- cursor: {cursor}\n").as_bytes())?;
            }
            if let Some(path) = given.value("cursor-file") {
                write_cursor(Path::new(path), &cursor)?;
            }
        }
        Ok(shown)
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| {
            entry
                .get("MESSAGE")
                .is_some_and(|m| pattern.is_match(&String::from_utf8_lossy(m)))
        })
    }

    fn seek_start(&self, journal: &mut Journal) {
        match (&self.cursor, self.since) {
            (Some((cursor, after)), _) => journal.seek_cursor(cursor, *after),
            (None, Some(since)) => journal.seek_realtime(since),
            (None, None) => journal.seek_head(),
        }
    }

    fn seek_end(&self, journal: &mut Journal) {
        match (&self.cursor, self.until) {
            (Some((cursor, after)), _) if self.reverse => journal.seek_cursor(cursor, !*after),
            (_, Some(until)) => journal.seek_realtime(until.saturating_add(1)),
            _ => journal.seek_tail(),
        }
    }

    fn forward(
        &self,
        journal: &mut Journal,
        count: u64,
        printer: &mut Printer<'_>,
    ) -> Result<(), CliError> {
        self.seek_start(journal);
        while printer.shown < count {
            let Some(entry) = journal.next_entry() else {
                break;
            };
            if self.until.is_some_and(|until| entry.meta.realtime > until) {
                break;
            }
            if self.wants(&entry) {
                printer.print(&entry)?;
            }
        }
        Ok(())
    }

    fn backward(&self, journal: &mut Journal, printer: &mut Printer<'_>) -> Result<(), CliError> {
        let count = match self.lines {
            Lines::Last(count) => count,
            Lines::All | Lines::First(_) => u64::MAX,
        };
        self.seek_end(journal);
        while printer.shown < count {
            let Some(entry) = journal.previous_entry() else {
                break;
            };
            if self.since.is_some_and(|since| entry.meta.realtime < since) {
                break;
            }
            if self.wants(&entry) {
                printer.print(&entry)?;
            }
        }
        Ok(())
    }

    /// The last entries, oldest first. With a cursor: the first ones behind it.
    fn tail(
        &self,
        journal: &mut Journal,
        count: u64,
        printer: &mut Printer<'_>,
    ) -> Result<(), CliError> {
        if self.cursor.is_some() {
            return self.forward(journal, count, printer);
        }
        self.seek_end(journal);
        let mut found = VecDeque::new();
        while (found.len() as u64) < count {
            let Some(entry) = journal.previous_entry() else {
                break;
            };
            if self.since.is_some_and(|since| entry.meta.realtime < since) {
                break;
            }
            if self.wants(&entry) {
                found.push_front(entry);
            }
        }
        // What comes next when following must come behind the last of them.
        match found.back() {
            Some(last) => journal.seek_cursor(&Cursor(last.meta), true),
            None => self.seek_end(journal),
        }
        found.iter().try_for_each(|entry| printer.print(entry))
    }

    /// Shows new entries until the reader goes away.
    fn go_on(&self, journal: &mut Journal, printer: &mut Printer<'_>) -> Result<(), CliError> {
        let watch = Watch::new().map_err(CliError::Wait)?;
        let stdout = io::stdout();
        loop {
            // Directories may appear later; adding one twice changes nothing.
            for dir in journal.dirs() {
                for path in [
                    Some(dir.as_path()),
                    dir.parent(),
                    dir.parent().and_then(Path::parent),
                ] {
                    // One that is not there (yet) is not watched.
                    let _ = path.map(|path| watch.add(path));
                }
            }
            for file in journal.files() {
                let _ = watch.add(file.path());
            }
            // After the watches are set, so that nothing falls between.
            journal.refresh();
            while let Some(entry) = journal.next_entry() {
                if self.until.is_some_and(|until| entry.meta.realtime > until) {
                    return Ok(());
                }
                if self.wants(&entry) {
                    printer.print(&entry)?;
                }
            }
            printer.output.flush()?;
            let reader = [PollFd::new(&stdout, PollFlags::empty())];
            watch.wait(None, &reader).map_err(CliError::Wait)?;
            if reader_gone(&stdout) {
                return Err(CliError::Output(io::ErrorKind::BrokenPipe.into()));
            }
        }
    }
}

fn reader_gone(stdout: &io::Stdout) -> bool {
    let mut fds = [PollFd::new(stdout, PollFlags::empty())];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let gone = PollFlags::ERR | PollFlags::HUP;
    rustix::event::poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
}

struct Printer<'a> {
    request: &'a Request,
    output: &'a mut Output,
    last: Option<journal::Meta>,
    shown: u64,
}

impl Printer<'_> {
    fn print(&mut self, entry: &Entry) -> Result<(), CliError> {
        let boot = entry.meta.boot_id;
        let mut text = Vec::new();
        if self.request.style.mode.shows_boots()
            && !self.request.quiet
            && self.last.is_some_and(|last| last.boot_id != boot)
        {
            text.extend_from_slice(format!("-- Boot {boot} --\n").as_bytes());
        }
        self.request.style.entry(entry, &mut text);
        self.last = Some(entry.meta);
        self.shown += 1;
        self.output.put(&text)
    }
}

/// Standard output, or a pager where that is a terminal.
struct Output {
    buffer: Vec<u8>,
    pager: Option<Child>,
}

impl Output {
    fn open(given: &Given) -> Result<Self, CliError> {
        let wanted = io::stdout().is_terminal() && !given.has("no-pager") && !given.has("follow");
        let pager = if wanted {
            start_pager(given.has("pager-end"))
        } else {
            None
        };
        Ok(Self {
            buffer: Vec::new(),
            pager,
        })
    }

    fn put(&mut self, text: &[u8]) -> Result<(), CliError> {
        self.buffer.extend_from_slice(text);
        if self.buffer.len() >= CHUNK {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), CliError> {
        let done = match self.pager.as_mut().and_then(|p| p.stdin.as_mut()) {
            Some(pager) => pager.write_all(&self.buffer).and_then(|()| pager.flush()),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
        };
        self.buffer.clear();
        done.map_err(CliError::Output)
    }

    fn finish(&mut self) -> Result<(), CliError> {
        let done = self.flush();
        let Some(mut pager) = self.pager.take() else {
            return done;
        };
        drop(pager.stdin.take());
        pager.wait().map_err(CliError::Output)?;
        // A pager that was left early is no failure.
        Ok(())
    }
}

fn start_pager(at_end: bool) -> Option<Child> {
    let set = |name| std::env::var(name).ok();
    let command = set("SYSTEMD_PAGER")
        .or_else(|| set("PAGER"))
        .unwrap_or_else(|| "less".to_owned());
    let mut words = command.split_whitespace();
    let program = words.next().filter(|p| *p != "cat")?;
    let mut less = "FRSXMK".to_owned();
    if at_end {
        less += " +G";
    }
    Command::new(program)
        .args(words)
        .env("LESS", set("SYSTEMD_LESS").unwrap_or(less))
        .stdin(Stdio::piped())
        .spawn()
        // Without a pager it goes straight to the terminal.
        .ok()
}

fn pattern(given: &Given) -> Result<Option<regex_lite::Regex>, CliError> {
    let Some(text) = given.value("grep") else {
        return Ok(None);
    };
    let sensitive = match given.get("case-sensitive") {
        Some(Some("no" | "false" | "0")) => false,
        Some(_) => true,
        None => text.chars().any(char::is_uppercase),
    };
    regex_lite::RegexBuilder::new(text)
        .case_insensitive(!sensitive)
        .build()
        .map(Some)
        .map_err(|err| CliError::Value {
            what: "pattern",
            text: format!("{text}: {err}"),
        })
}

fn cursor(given: &Given) -> Result<Option<(Cursor, bool)>, CliError> {
    let parse = |text: &str| {
        text.trim().parse::<Cursor>().map_err(|_| CliError::Value {
            what: "cursor",
            text: text.to_owned(),
        })
    };
    if let Some(text) = given.value("cursor") {
        return Ok(Some((parse(text)?, false)));
    }
    if let Some(text) = given.value("after-cursor") {
        return Ok(Some((parse(text)?, true)));
    }
    match given
        .value("cursor-file")
        .map(|path| (path, std::fs::read_to_string(path)))
    {
        None => Ok(None),
        Some((_, Ok(text))) => Ok(Some((parse(&text)?, true))),
        Some((_, Err(err))) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Some((path, Err(source))) => Err(CliError::Open {
            path: path.into(),
            source,
        }),
    }
}

fn write_cursor(path: &Path, cursor: &str) -> Result<(), CliError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(format!("{cursor}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| CliError::Open {
        path: path.to_owned(),
        source,
    })
}

/// The boot that `-b` or `-k` mean.
fn boot(given: &Given, journal: &mut Journal) -> Result<Option<Id128>, CliError> {
    let text = match given.get("boot") {
        None if given.has("dmesg") => "0",
        None => return Ok(None),
        Some(text) => text.unwrap_or("0"),
    };
    let choice = parse_boot(text).ok_or_else(|| CliError::Value {
        what: "boot",
        text: text.to_owned(),
    })?;
    let elsewhere = ["directory", "file", "root", "merge"]
        .iter()
        .any(|o| given.has(o));
    // The current boot needs no entry to exist.
    if choice == BootChoice::Number(0) && !elsewhere {
        return Id128::boot()
            .map(Some)
            .map_err(|source| CliError::Id("boot", source));
    }
    let boots = journal.boots();
    match choice {
        BootChoice::All => Ok(None),
        choice => find_boot(&boots, &choice)
            .map(Some)
            .ok_or_else(|| CliError::Boot(text.to_owned())),
    }
}

fn find_boot(boots: &[Boot], choice: &BootChoice) -> Option<Id128> {
    let index = match choice {
        BootChoice::All => return None,
        BootChoice::Number(n) if *n > 0 => n - 1,
        BootChoice::Number(n) => boots.len() as i64 - 1 + n,
        BootChoice::Id(id, offset) => boots.iter().position(|b| b.id == *id)? as i64 + offset,
    };
    boots.get(usize::try_from(index).ok()?).map(|b| b.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_counted_from_both_ends() {
        let boots: Vec<Boot> = (1..=3)
            .map(|n| Boot {
                id: Id128([n; 16]),
                first: n.into(),
                last: n.into(),
            })
            .collect();
        let find = |choice| find_boot(&boots, &choice).map(|id| id.0[0]);
        assert_eq!(find(BootChoice::Number(0)), Some(3));
        assert_eq!(find(BootChoice::Number(-2)), Some(1));
        assert_eq!(find(BootChoice::Number(-3)), None);
        assert_eq!(find(BootChoice::Number(1)), Some(1));
        assert_eq!(find(BootChoice::Number(4)), None);
        assert_eq!(find(BootChoice::Id(Id128([2; 16]), -1)), Some(1));
        assert_eq!(find(BootChoice::Id(Id128([9; 16]), 0)), None);
    }
}
