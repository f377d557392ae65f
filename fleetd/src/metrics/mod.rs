//! What is counted, and the Prometheus text it is read as.
//!
//! The nine families of the original, plus our own `fleet_api_*`. One value of [`Metrics`] is
//! shared by whoever counts; a family with labels appears with its first event. Written by hand:
//! the format is a page, and a client library would bring a registry of globals with it.

mod kv;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use kv::MeteredKv;

/// Bounds of the duration histograms, in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// All counters of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    leader_since: f64,
    tasks: Counter,
    task_failures: Counter,
    reconciles: u64,
    reconcile_failures: Counter,
    reconcile_duration: Histogram,
    operations: Counter,
    operation_failures: Counter,
    operation_duration: BTreeMap<&'static str, Histogram>,
    requests: Counter,
    connections: u64,
    plain_listeners: u64,
}

/// Counts by the value of one label.
type Counter = BTreeMap<&'static str, u64>;

#[derive(Debug, Default, Clone)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    sum: f64,
    count: u64,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.sum += seconds;
        self.count += 1;
    }
}

/// Why a pass of the engine failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassFailure {
    /// A unit's machine is gone.
    MachineAway,
    /// The pass as a whole.
    Run,
    /// A unit could not be scheduled.
    Schedule,
}

/// A change of the schedule, as the original names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A unit is taken off a machine.
    Unschedule,
    /// A unit is put on a machine.
    Schedule,
}

impl Task {
    fn label(self) -> &'static str {
        match self {
            Self::Unschedule => "unscheduleunit",
            Self::Schedule => "attemptscheduleunit",
        }
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This machine leads since `start`, or no longer.
    pub fn leading(&self, start: Option<SystemTime>) {
        let since = start.and_then(|s| s.duration_since(UNIX_EPOCH).ok());
        self.lock().leader_since = since.unwrap_or_default().as_secs_f64();
    }

    /// The engine performed a task.
    pub fn task(&self, task: Task, done: bool) {
        let mut inner = self.lock();
        *inner.tasks.entry(task.label()).or_default() += 1;
        if !done {
            *inner.task_failures.entry(task.label()).or_default() += 1;
        }
    }

    /// The engine made a pass.
    pub fn pass(&self, took: Duration) {
        let mut inner = self.lock();
        inner.reconciles += 1;
        inner.reconcile_duration.observe(took);
    }

    /// Something in a pass failed.
    pub fn pass_failed(&self, why: PassFailure) {
        let label = match why {
            PassFailure::MachineAway => "machine_away",
            PassFailure::Run => "run",
            PassFailure::Schedule => "schedule",
        };
        *self.lock().reconcile_failures.entry(label).or_default() += 1;
    }

    /// An operation on the registry has ended.
    pub fn operation(&self, kind: &'static str, took: Duration, done: bool) {
        let mut inner = self.lock();
        *inner.operations.entry(kind).or_default() += 1;
        if !done {
            *inner.operation_failures.entry(kind).or_default() += 1;
        }
        inner
            .operation_duration
            .entry(kind)
            .or_default()
            .observe(took);
    }

    /// A request was answered.
    pub fn request(&self, status: u16) {
        let class = match status {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        *self.lock().requests.entry(class).or_default() += 1;
    }

    /// A connection to the API began (`true`) or ended.
    pub fn connection(&self, began: bool) {
        let mut inner = self.lock();
        inner.connections = if began {
            inner.connections + 1
        } else {
            inner.connections.saturating_sub(1)
        };
    }

    /// How many TCP listeners of the API have no TLS.
    pub fn plain_listeners(&self, count: u64) {
        self.lock().plain_listeners = count;
    }

    /// Everything as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let inner = self.lock();
        let mut out = Text::default();
        out.family(
            "fleet_engine_leader_start_time",
            "gauge",
            "When this machine became the engine's leader, in seconds since the epoch; 0 if it does not lead.",
        );
        out.sample("fleet_engine_leader_start_time", "", inner.leader_since);
        out.counter(
            "fleet_engine_task_count_total",
            "Changes of the schedule that the engine attempted.",
            "type",
            &inner.tasks,
        );
        out.counter(
            "fleet_engine_task_failure_count_total",
            "Changes of the schedule that were not written.",
            "type",
            &inner.task_failures,
        );
        out.family(
            "fleet_engine_reconcile_count_total",
            "counter",
            "Passes of the engine.",
        );
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        out.sample(
            "fleet_engine_reconcile_count_total",
            "",
            inner.reconciles as f64,
        );
        out.family(
            "fleet_engine_reconcile_duration_second",
            "histogram",
            "Time that passes of the engine take.",
        );
        out.histogram(
            "fleet_engine_reconcile_duration_second",
            "",
            &inner.reconcile_duration,
        );
        out.counter(
            "fleet_engine_reconcile_failure_count_total",
            "What went wrong in passes of the engine.",
            "type",
            &inner.reconcile_failures,
        );
        out.counter(
            "fleet_registry_operation_count_total",
            "Operations on the registry.",
            "type",
            &inner.operations,
        );
        out.counter(
            "fleet_registry_operation_failed_count_total",
            "Operations on the registry that failed.",
            "type",
            &inner.operation_failures,
        );
        if !inner.operation_duration.is_empty() {
            let name = "fleet_registry_operation_duration_second";
            out.family(
                name,
                "histogram",
                "Time that operations on the registry take.",
            );
            for (kind, histogram) in &inner.operation_duration {
                out.histogram(name, &format!("ops=\"{kind}\""), histogram);
            }
        }
        out.counter(
            "fleet_api_request_count_total",
            "Requests answered, by class of status.",
            "class",
            &inner.requests,
        );
        for (name, help, value) in [
            (
                "fleet_api_connections",
                "Open connections.",
                inner.connections,
            ),
            (
                "fleet_api_plain_listeners",
                "TCP listeners without TLS: whoever reaches one has the role in plain_role.",
                inner.plain_listeners,
            ),
        ] {
            out.family(name, "gauge", help);
            #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            out.sample(name, "", value as f64);
        }
        out.0
    }
}

/// The text being written. Writing to a string cannot fail.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    fn counter(&mut self, name: &str, help: &str, label: &str, counts: &Counter) {
        if counts.is_empty() {
            return;
        }
        self.family(name, "counter", help);
        for (value, count) in counts {
            self.sample(name, &format!("{label}=\"{value}\""), *count as f64);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (count, bound) in histogram.buckets.iter().zip(BOUNDS) {
            let labels = format!("{labels}{comma}le=\"{bound}\"");
            self.sample(&format!("{name}_bucket"), &labels, *count as f64);
        }
        let all = format!("{labels}{comma}le=\"+Inf\"");
        self.sample(&format!("{name}_bucket"), &all, histogram.count as f64);
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_with_labels_appear_with_their_first_event() {
        let metrics = Metrics::default();
        assert!(!metrics.text().contains("fleet_engine_task_count_total"));
        metrics.task(Task::Schedule, true);
        metrics.task(Task::Unschedule, false);
        metrics.pass(Duration::from_millis(3));
        metrics.pass_failed(PassFailure::MachineAway);
        metrics.operation("get_all", Duration::from_millis(200), false);
        metrics.leading(Some(UNIX_EPOCH + Duration::from_secs(100)));
        metrics.leading(Some(UNIX_EPOCH + Duration::from_secs(200)));
        metrics.request(204);
        metrics.plain_listeners(1);
        metrics.connection(true);
        let text = metrics.text();
        for line in [
            "fleet_engine_leader_start_time 200",
            "fleet_engine_task_count_total{type=\"attemptscheduleunit\"} 1",
            "fleet_engine_task_count_total{type=\"unscheduleunit\"} 1",
            "fleet_engine_task_failure_count_total{type=\"unscheduleunit\"} 1",
            "fleet_engine_reconcile_count_total 1",
            "fleet_engine_reconcile_duration_second_bucket{le=\"0.0025\"} 0",
            "fleet_engine_reconcile_duration_second_bucket{le=\"0.005\"} 1",
            "fleet_engine_reconcile_duration_second_bucket{le=\"+Inf\"} 1",
            "fleet_engine_reconcile_duration_second_sum 0.003",
            "fleet_engine_reconcile_failure_count_total{type=\"machine_away\"} 1",
            "fleet_registry_operation_count_total{type=\"get_all\"} 1",
            "fleet_registry_operation_failed_count_total{type=\"get_all\"} 1",
            "fleet_registry_operation_duration_second_count{ops=\"get_all\"} 1",
            "fleet_api_request_count_total{class=\"2xx\"} 1",
            "fleet_api_plain_listeners 1",
            "fleet_api_connections 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        metrics.leading(None);
        assert!(metrics.text().contains("leader_start_time 0\n"));
        // Each family is described once, before its samples.
        for family in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let name = family.split(' ').next().unwrap();
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1);
        }
    }
}
