//! Verbs about the manager's environment and log level.

use init_control::{Reply, Request};

use crate::backend::{Failure, strings, text};
use crate::cli::{Context, Outcome};

/// `show-environment`
pub(crate) fn show(context: &mut Context, _: &str) -> Outcome {
    let manager = context.backend.manager()?;
    for assignment in strings(&manager, "Environment") {
        println!("{}", shell(&assignment));
    }
    Ok(0)
}

/// An assignment that a shell can read again.
fn shell(assignment: &str) -> String {
    let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%^".contains(c);
    if value.chars().all(plain) {
        return assignment.to_owned();
    }
    let mut out = format!("{name}=$'");
    for c in value.chars() {
        match c {
            '\'' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

fn done(reply: &Reply) -> Outcome {
    if matches!(reply, Reply::Done) {
        Ok(0)
    } else {
        Err(Failure::unexpected())
    }
}

/// `set-environment`
pub(crate) fn set(context: &mut Context, verb: &str) -> Outcome {
    let assignments = context.some_args(verb)?;
    done(
        &context
            .backend
            .ask(Request::SetEnvironment { assignments })?,
    )
}

/// `unset-environment`
pub(crate) fn unset(context: &mut Context, verb: &str) -> Outcome {
    let names = context.some_args(verb)?;
    done(&context.backend.ask(Request::UnsetEnvironment { names })?)
}

/// `import-environment NAME …`
pub(crate) fn import(context: &mut Context, verb: &str) -> Outcome {
    let names = context.some_args(verb)?;
    let assignments = names
        .iter()
        .filter_map(|name| {
            std::env::var(name)
                .ok()
                .map(|value| format!("{name}={value}"))
        })
        .collect();
    done(
        &context
            .backend
            .ask(Request::SetEnvironment { assignments })?,
    )
}

/// `log-level [LEVEL]`
pub(crate) fn log_level(context: &mut Context, _: &str) -> Outcome {
    match context.args().first() {
        Some(level) => done(&context.backend.ask(Request::SetLogLevel {
            level: level.clone(),
        })?),
        None => {
            println!("{}", text(&context.backend.manager()?, "LogLevel"));
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (assignment, expect) in [
            ("A=b", "A=b"),
            ("A=b c", "A=$'b c'"),
            ("A=it's", "A=$'it\\'s'"),
            ("A=", "A="),
            ("A=a\nb", "A=$'a\\nb'"),
        ] {
            assert_eq!(shell(assignment), expect);
        }
    }
}
