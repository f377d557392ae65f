//! The `tracing` subscriber: keeps the fields of open spans, hands finished records to the sink.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use tracing::field::{Field as TracingField, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::filter::Filter;
use crate::format::{Field, Record};
use crate::sink::{Output, Sink};

/// Starts logging for the process. `steps` is the number of `-v` minus the number of `-q`; `FLOTILLA_LOG` decides the
/// rest. A second call changes nothing. A wrong `FLOTILLA_LOG` is reported through the log itself, with the default
/// level in force.
pub fn init(program: &'static str, sink: Sink, steps: i32) {
    let (filter, complaint) = match std::env::var("FLOTILLA_LOG") {
        Ok(text) => match text.parse::<Filter>() {
            Ok(filter) => (filter, None),
            Err(err) => (Filter::level(LevelFilter::INFO), Some(err)),
        },
        Err(_) => (Filter::level(LevelFilter::INFO), None),
    };
    let log = Log::new(program, Output::open(sink), filter, steps);
    if tracing::subscriber::set_global_default(log).is_ok()
        && let Some(err) = complaint
    {
        tracing::warn!("ignoring FLOTILLA_LOG: {err}");
    }
}

/// Changes `steps` of [`init`] while the process runs.
pub fn set_steps(steps: i32) {
    let changed = tracing::dispatcher::get_default(|log| {
        let log = log.downcast_ref::<Log>();
        log.is_some_and(|log| log.set_steps(steps))
    });
    if changed {
        // Which events are kept is remembered where they are made.
        tracing::callsite::rebuild_interest_cache();
    }
}

#[derive(Debug)]
struct Span {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: Vec<Field>,
    handles: usize,
}

#[derive(Debug)]
struct Log {
    program: &'static str,
    output: Output,
    /// As it is without steps.
    base: Filter,
    filter: RwLock<Filter>,
    next: AtomicU64,
    spans: Mutex<HashMap<u64, Span>>,
}

thread_local! {
    /// Spans this thread is in, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn current() -> Option<u64> {
    ENTERED.with_borrow(|stack| stack.last().copied())
}

impl Log {
    fn new(program: &'static str, output: Output, base: Filter, steps: i32) -> Self {
        Self {
            program,
            output,
            filter: RwLock::new(base.clone().louder(steps)),
            base,
            next: AtomicU64::new(1),
            spans: Mutex::default(),
        }
    }

    /// Whether that changes anything.
    fn set_steps(&self, steps: i32) -> bool {
        let fresh = self.base.clone().louder(steps);
        let mut filter = self.filter.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *filter != fresh;
        *filter = fresh;
        changed
    }

    fn with_filter<T>(&self, f: impl FnOnce(&Filter) -> T) -> T {
        f(&self.filter.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_spans<T>(&self, f: impl FnOnce(&mut HashMap<u64, Span>) -> T) -> T {
        // A panic elsewhere leaves the map usable: every change to it is one step.
        f(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fields of the span and its parents, outermost first.
    fn span_fields(&self, innermost: Option<u64>) -> Vec<Field> {
        self.with_spans(|spans| {
            let mut path = Vec::new();
            let mut next = innermost;
            while let Some(span) = next.and_then(|id| spans.get(&id)) {
                path.push(span);
                next = span.parent;
            }
            path.into_iter()
                .rev()
                .flat_map(|span| span.fields.iter().cloned())
                .collect()
        })
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.with_filter(|filter| filter.keeps(metadata.target(), metadata.level()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.with_filter(Filter::max_level))
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let parent = match attributes.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if attributes.is_root() => None,
            None => current(),
        };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = Span {
            metadata: attributes.metadata(),
            parent,
            fields: fields.rest,
            handles: 1,
        };
        self.with_spans(|spans| {
            // A parent must outlive its children, also when all its own handles are gone.
            if let Some(parent) = parent.and_then(|id| spans.get_mut(&id)) {
                parent.handles += 1;
            }
            spans.insert(id, span);
        });
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &SpanRecord<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.with_spans(|spans| {
            if let Some(span) = spans.get_mut(&id.into_u64()) {
                span.fields.extend(fields.rest);
            }
        });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let innermost = match event.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if event.is_root() => None,
            None => current(),
        };
        let mut own = Fields::default();
        event.record(&mut own);
        let mut fields = self.span_fields(innermost);
        fields.retain(|(name, _)| !own.rest.iter().any(|(own, _)| own == name));
        fields.extend(own.rest);
        let record = Record {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            message: own.message,
            fields,
            file: metadata.file(),
            line: metadata.line(),
        };
        self.output.write(self.program, &record);
    }

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|stack| stack.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|stack| {
            if let Some(at) = stack.iter().rposition(|entered| *entered == id.into_u64()) {
                stack.remove(at);
            }
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.with_spans(|spans| {
            if let Some(span) = spans.get_mut(&id.into_u64()) {
                span.handles += 1;
            }
        });
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.with_spans(|spans| {
            let mut closed = false;
            let mut next = Some(id.into_u64());
            while let Some(id) = next.take() {
                let Some(span) = spans.get_mut(&id) else {
                    break;
                };
                span.handles = span.handles.saturating_sub(1);
                if span.handles == 0 {
                    next = span.parent;
                    spans.remove(&id);
                    closed = true;
                }
            }
            closed
        })
    }

    fn current_span(&self) -> Current {
        let id = current();
        self.with_spans(
            |spans| match id.and_then(|id| Some((id, spans.get(&id)?.metadata))) {
                Some((id, metadata)) => Current::new(Id::from_u64(id), metadata),
                None => Current::none(),
            },
        )
    }
}

/// Collects what an event or a span records.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<Field>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &TracingField, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            // The bridge from the `log` crate repeats what the metadata says.
            name if name.starts_with("log.") => {}
            name => self.rest.push((name.to_owned(), value.to_owned())),
        }
    }

    fn record_error(&mut self, field: &TracingField, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &crate::chain(value));
    }

    fn record_debug(&mut self, field: &TracingField, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn events_carry_the_fields_of_their_spans() {
        let dir = std::env::temp_dir().join(format!("telemetry-test-{}", std::process::id()));
        let file = std::fs::File::create(&dir).expect("temp file");
        // The kernel log's form is written with one write per record, so a plain file can stand for it.
        let log = Log::new(
            "test",
            Output::Kmsg(file),
            Filter::level(LevelFilter::INFO),
            0,
        );
        tracing::subscriber::with_default(log, || {
            let outer = tracing::info_span!("outer", unit = "a.service");
            let _in_outer = outer.enter();
            let inner = tracing::info_span!("inner", job = 7);
            drop(inner.clone());
            inner.in_scope(|| tracing::warn!(code = 3, "failed"));
            tracing::debug!("not kept");
            tracing::info!(unit = "b.service", "own field wins");
        });
        let mut text = String::new();
        std::fs::File::open(&dir)
            .and_then(|mut f| f.read_to_string(&mut text))
            .expect("read back");
        std::fs::remove_file(&dir).expect("clean up");
        assert_eq!(
            text,
            "<28>test: failed unit=a.service job=7 code=3\n<30>test: own field wins unit=b.service\n"
        );
    }

    #[test]
    fn the_level_can_be_changed_and_what_is_made_already_follows() {
        let path = std::env::temp_dir().join(format!("telemetry-steps-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("temp file");
        let log = Log::new(
            "test",
            Output::Kmsg(file),
            Filter::level(LevelFilter::INFO),
            0,
        );
        tracing::subscriber::with_default(log, || {
            for steps in [0, 1, -1, 0] {
                set_steps(steps);
                // The same places each time.
                tracing::debug!("debug at {steps}");
                tracing::info!("info at {steps}");
            }
        });
        let text = std::fs::read_to_string(&path).expect("read back");
        std::fs::remove_file(&path).expect("clean up");
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|l| l.1)
            .collect();
        assert_eq!(lines, ["info at 0", "debug at 1", "info at 1", "info at 0"]);
    }

    #[test]
    fn closed_spans_leave_no_trace() {
        let log = Log::new("test", Output::Stderr, Filter::level(LevelFilter::INFO), 0);
        let dispatch = tracing::Dispatch::new(log);
        tracing::dispatcher::with_default(&dispatch, || {
            let outer = tracing::info_span!("outer");
            let inner = outer.in_scope(|| tracing::info_span!("inner"));
            drop(outer);
            drop(inner);
        });
        let log = dispatch.downcast_ref::<Log>().expect("our subscriber");
        assert!(log.with_spans(|spans| spans.is_empty()));
    }
}
