//! Errors as people see them.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

/// Exit status of a program whose reader went away, as a shell shows it for SIGPIPE.
pub const EXIT_BROKEN_PIPE: u8 = 141;

/// The error and its causes, joined by `: `. A cause that its parent already quotes is not repeated.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Whether the root of the matter is a reader that closed its end.
pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::BrokenPipe
        {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Prints `PROGRAM: what: cause: cause` and at most one `hint: …` line to standard error; gives exit status 1. A broken
/// pipe prints nothing and gives 141.
pub fn report(program: &str, error: &(dyn Error + 'static), hint: Option<&str>) -> ExitCode {
    use std::io::Write as _;
    if is_broken_pipe(error) {
        return ExitCode::from(EXIT_BROKEN_PIPE);
    }
    let mut text = format!("{program}: {}\n", chain(error));
    if let Some(hint) = hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    // When standard error is gone as well, nobody is left to tell.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// Makes a `println!` whose reader went away end the process quietly with 141 instead of a panic message. Call it first
/// in the `main` of a command; daemons do not need it.
pub fn quiet_broken_pipe() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(i32::from(EXIT_BROKEN_PIPE));
        }
        previous(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("failed to read unit file {path}")]
        Read {
            path: &'static str,
            source: io::Error,
        },
        #[error("failed to load: {0}")]
        Quoting(#[source] io::Error),
    }

    #[test]
    fn causes_follow_the_error_once_each() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let err = Outer::Read {
            path: "/a.service",
            source: missing,
        };
        assert_eq!(
            chain(&err),
            "failed to read unit file /a.service: no such file"
        );
        let err = Outer::Quoting(io::Error::other("bad line"));
        assert_eq!(chain(&err), "failed to load: bad line");
    }

    #[test]
    fn a_broken_pipe_is_found_below_other_errors() {
        let err = Outer::Read {
            path: "-",
            source: io::ErrorKind::BrokenPipe.into(),
        };
        assert!(is_broken_pipe(&err));
        let err = Outer::Read {
            path: "-",
            source: io::ErrorKind::NotFound.into(),
        };
        assert!(!is_broken_pipe(&err));
    }
}
