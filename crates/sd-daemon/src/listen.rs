//! Socket activation: the descriptors from number 3 on, with their names.

use std::os::fd::{OwnedFd, RawFd};

/// One passed descriptor.
#[derive(Debug)]
pub struct ListenFd {
    /// The descriptor, close-on-exec.
    pub fd: OwnedFd,
    /// Name from the socket unit's `FileDescriptorName=`, by default the unit's name; `connection` for an accepted
    /// connection, `stored` or what was said with `FDNAME=` for one out of the descriptor store.
    pub name: String,
}

/// The environment's statement about passed descriptors cannot be true.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `LISTEN_FDS` is not a number.
    #[error("LISTEN_FDS={0} is not a count of descriptors")]
    Count(String),
    /// A promised descriptor is not open, or cannot be marked close-on-exec.
    #[error("failed to take the {count} descriptors that LISTEN_FDS announces")]
    Take {
        /// How many were announced.
        count: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Takes the descriptors that the manager passed; empty when there are none or they are another process's.
///
/// Call it first thing in `main`, and once: a second call gives an empty list.
pub fn listen_fds() -> Result<Vec<ListenFd>, ListenError> {
    let var = |name| std::env::var(name).ok();
    let names = match plan(
        var("LISTEN_PID").as_deref(),
        var("LISTEN_FDS").as_deref(),
        var("LISTEN_FDNAMES").as_deref(),
        std::process::id(),
    )? {
        names if names.is_empty() => return Ok(Vec::new()),
        names => names,
    };
    let count = names.len();
    // `plan` bounds the count, so this addition stays in range.
    let fds: Vec<OwnedFd> = syscalls::take_inherited(3..3 + count as RawFd)
        .map_err(|source| ListenError::Take { count, source })?;
    Ok(fds
        .into_iter()
        .zip(names)
        .map(|(fd, name)| ListenFd { fd, name })
        .collect())
}

/// Names of the descriptors meant for this process, in order.
fn plan(
    pid: Option<&str>,
    fds: Option<&str>,
    names: Option<&str>,
    own: u32,
) -> Result<Vec<String>, ListenError> {
    let (Some(pid), Some(fds)) = (pid, fds) else {
        return Ok(Vec::new());
    };
    if pid.parse() != Ok(own) {
        return Ok(Vec::new());
    }
    let count = fds
        .parse::<u16>()
        .map_err(|_| ListenError::Count(fds.to_owned()))?;
    let mut given = names.unwrap_or_default().split(':');
    Ok((0..count)
        .map(|_| match given.next() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "unknown".to_owned(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(env: (Option<&str>, Option<&str>, Option<&str>), want: &[&str]) {
        assert_eq!(plan(env.0, env.1, env.2, 42).expect("valid"), want);
    }

    #[test]
    fn names_are_paired_with_descriptors() {
        check((None, None, None), &[]);
        check((Some("41"), Some("2"), Some("a:b")), &[]);
        check(
            (Some("42"), Some("2"), Some("a.socket:b")),
            &["a.socket", "b"],
        );
        check((Some("42"), Some("2"), Some("a")), &["a", "unknown"]);
        check(
            (Some("42"), Some("3"), Some("::c")),
            &["unknown", "unknown", "c"],
        );
        check((Some("42"), Some("1"), None), &["unknown"]);
        check((Some("42"), Some("0"), None), &[]);
    }

    #[test]
    fn a_bad_count_is_an_error_and_not_a_panic() {
        for bad in ["-1", "x", "70000", ""] {
            assert!(plan(Some("42"), Some(bad), None, 42).is_err(), "{bad}");
        }
    }
}
