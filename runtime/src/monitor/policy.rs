//! Whether and when a container is started again. No I/O.

use crate::container::Restart;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(60);
/// A run this long makes the next delay short again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// Delays of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(FIRST)
    }
}

impl Backoff {
    /// The delay before the next start, after a run of this length.
    pub fn next(&mut self, ran: Duration) -> Duration {
        if ran >= GOOD_RUN {
            self.0 = FIRST;
        }
        let delay = self.0;
        self.0 = (self.0 * 2).min(LAST);
        delay
    }
}

/// Whether an ended container starts again; `count` restarts were done.
pub fn restarts(policy: Restart, stopped: bool, code: i32, count: u32) -> bool {
    if stopped {
        return false;
    }
    match policy {
        Restart::No => false,
        Restart::Always | Restart::UnlessStopped => true,
        Restart::OnFailure(limit) => code != 0 && (limit == 0 || count < limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide() {
        for (policy, stopped, code, count, expected) in [
            (Restart::No, false, 1, 0, false),
            (Restart::Always, false, 0, 99, true),
            (Restart::Always, true, 0, 0, false),
            (Restart::UnlessStopped, false, 1, 0, true),
            (Restart::OnFailure(0), false, 0, 0, false),
            (Restart::OnFailure(0), false, 1, 50, true),
            (Restart::OnFailure(2), false, 1, 1, true),
            (Restart::OnFailure(2), false, 1, 2, false),
        ] {
            assert_eq!(
                restarts(policy, stopped, code, count),
                expected,
                "{policy:?} {stopped} {code} {count}"
            );
        }
    }

    #[test]
    fn delays_double_up_to_a_minute_and_start_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..12)
            .map(|_| backoff.next(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        assert_eq!(backoff.next(Duration::from_secs(10)).as_millis(), 100);
    }
}
