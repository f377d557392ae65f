//! What libcontainer's processes log as errors while they make a container.
//!
//! Their return value crosses process borders as a short text; the reasons are in their log. A file that all of
//! them hold open collects it, and the helper adds it to its error.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Most of it that goes into a message.
const LIMIT: u64 = 2000;

/// The collected log; nothing when the file could not be made.
pub(crate) struct Complaints(Option<File>);

/// Collects from now on. The file has no name afterwards.
pub(crate) fn collect(path: &Path) -> Complaints {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let _ = std::fs::remove_file(path);
    let Ok(file) = file else {
        return Complaints(None);
    };
    let Ok(sink) = file.try_clone() else {
        return Complaints(None);
    };
    // Another subscriber would only mean that details go elsewhere.
    let _ = tracing::subscriber::set_global_default(Errors(sink));
    Complaints(Some(file))
}

impl Complaints {
    /// ` (reason; reason)`, or nothing.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(mut file) = self.0.as_ref() {
            let _ = file.rewind();
            let _ = file.take(LIMIT).read_to_string(&mut text);
        }
        let mut reasons: Vec<&str> = text.lines().collect();
        reasons.dedup();
        if reasons.is_empty() {
            String::new()
        } else {
            format!(" ({})", reasons.join("; "))
        }
    }
}

struct Errors(File);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let text = line.0.trim_end().replace('\n', " ");
        let _ = writeln!(&self.0, "{text}");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
