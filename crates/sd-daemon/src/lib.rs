//! The service's side of the service manager's protocol: `sd_notify`, socket activation, watchdog.
//!
//! A daemon of ours starts like this:
//!
//! ```no_run
//! let sockets = sd_daemon::listen_fds()?; // first thing: takes the descriptors the manager passed
//! // … set up …
//! sd_daemon::notify(&[sd_daemon::State::Ready, sd_daemon::State::Status("serving")])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is a no-op (`Ok(false)`, empty list, `None`) when the process was not started by a manager, so programs
//! need no "am I under systemd" branch. What it does not do: it does not run a watchdog by itself, and the manager's
//! side (receiving messages, passing descriptors) is PID 1's.

#![forbid(unsafe_code)]

mod listen;
mod notify;

pub use listen::{ListenError, ListenFd, listen_fds};
pub use notify::{
    Notifier, NotifyError, State, notify, notify_to, notify_with_fds, remove_stored, store_fds,
};

use std::time::Duration;

/// How often `State::Watchdog` must be sent at the least; send it at half of this. `None` when the unit has no
/// watchdog or it is meant for another process.
pub fn watchdog_interval() -> Option<Duration> {
    let for_pid = std::env::var("WATCHDOG_PID").ok();
    let usec = std::env::var("WATCHDOG_USEC").ok()?;
    parse_watchdog(&usec, for_pid.as_deref(), std::process::id())
}

fn parse_watchdog(usec: &str, for_pid: Option<&str>, own: u32) -> Option<Duration> {
    if for_pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    usec.parse()
        .ok()
        .filter(|n| *n > 0)
        .map(Duration::from_micros)
}

/// Whether the machine was booted with a manager that speaks systemd's interfaces (ours or systemd itself).
pub fn is_booted() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|m| m.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_counts_only_for_the_named_process() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(parse_watchdog("1000000", None, 7), second);
        assert_eq!(parse_watchdog("1000000", Some("7"), 7), second);
        assert_eq!(parse_watchdog("1000000", Some("8"), 7), None);
        assert_eq!(parse_watchdog("1000000", Some("x"), 7), None);
        assert_eq!(parse_watchdog("0", None, 7), None);
        assert_eq!(parse_watchdog("soon", None, 7), None);
    }
}
