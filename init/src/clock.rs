//! The clocks, in microseconds.

use rustix::time::{ClockId, clock_gettime};

/// Since boot, without time asleep.
pub(crate) fn monotonic_usec() -> u64 {
    usec(ClockId::Monotonic)
}

/// Since boot, with time asleep.
pub(crate) fn boottime_usec() -> u64 {
    usec(ClockId::Boottime)
}

/// Since 1970.
pub(crate) fn realtime_usec() -> u64 {
    usec(ClockId::Realtime)
}

fn usec(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}
