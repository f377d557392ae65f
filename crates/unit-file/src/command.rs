//! Command lines of Exec* settings.

use crate::settings::{ExecCommand, Privilege};
use crate::specifier::Specifiers;
use crate::value::{WordError, next_word};

/// Why a command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Quotes or escapes.
    #[error("command line {line:?}: {source}")]
    Words {
        /// The line.
        line: String,
        /// What about it.
        #[source]
        source: WordError,
    },
    /// Nothing to execute.
    #[error("command line {0:?} names no program")]
    NoProgram(String),
    /// A path that is neither absolute nor a plain name.
    #[error("program {0:?} is neither an absolute path nor a plain name")]
    RelativePath(String),
    /// A specifier without a value.
    #[error("command line {line:?}: {message}")]
    Specifier {
        /// The line.
        line: String,
        /// Which.
        message: String,
    },
}

/// Parses one Exec* value, which may hold several commands separated by `;` words.
pub fn parse_commands(
    line: &str,
    specifiers: &Specifiers<'_>,
) -> Result<Vec<ExecCommand>, CommandError> {
    let words_error = |source| CommandError::Words {
        line: line.to_owned(),
        source,
    };
    let expand = |word: &str| {
        specifiers
            .expand(word)
            .map_err(|e| CommandError::Specifier {
                line: line.to_owned(),
                message: e.to_string(),
            })
    };
    let mut out = Vec::new();
    let mut rest = line;
    while let Some((first, mut after)) = next_word(rest).map_err(words_error)? {
        if first == ";" {
            rest = after;
            continue;
        }
        let mut command = ExecCommand::default();
        let (program, own_name) = strip_prefixes(&first, &mut command);
        if program.is_empty() {
            return Err(CommandError::NoProgram(line.to_owned()));
        }
        let program = expand(program)?;
        if program.is_empty() || program.ends_with('/') {
            return Err(CommandError::NoProgram(line.to_owned()));
        }
        if !program.starts_with('/') && program.contains('/') {
            return Err(CommandError::RelativePath(program));
        }
        if !own_name {
            command.argv.push(program.clone());
        }
        command.path = program;
        while let Some((word, next)) = next_word(after).map_err(words_error)? {
            let raw = after.trim_start();
            after = next;
            if word == ";" && raw.starts_with(';') {
                break;
            }
            if raw.starts_with("\\;") && word == "\\;" {
                command.argv.push(";".to_owned());
                continue;
            }
            command.argv.push(expand(&word)?);
        }
        if command.argv.is_empty() {
            return Err(CommandError::NoProgram(line.to_owned()));
        }
        out.push(command);
        rest = after;
    }
    if out.is_empty() {
        return Err(CommandError::NoProgram(line.to_owned()));
    }
    Ok(out)
}

/// Takes the prefixes off a first word; true in the second place for `@`.
fn strip_prefixes<'a>(first: &'a str, command: &mut ExecCommand) -> (&'a str, bool) {
    let mut rest = first;
    let mut own_name = false;
    loop {
        let mut chars = rest.chars();
        match chars.next() {
            Some('-') => command.ignore_failure = true,
            Some('@') => own_name = true,
            Some(':') => command.no_expand = true,
            Some('+') => command.privilege = Privilege::Full,
            Some('|') => command.via_shell = true,
            Some('!') => {
                command.privilege = match command.privilege {
                    Privilege::KeepUser => Privilege::Ambient,
                    _ => Privilege::KeepUser,
                }
            }
            _ => return (rest, own_name),
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::parse_commands;
    use crate::name::UnitName;
    use crate::settings::Privilege;
    use crate::specifier::{MachineInfo, Specifiers};
    use proptest::prelude::proptest;

    fn parse(line: &str) -> Result<Vec<crate::settings::ExecCommand>, super::CommandError> {
        let unit = UnitName::parse("a@b.service").unwrap();
        let machine = MachineInfo::default();
        parse_commands(
            line,
            &Specifiers {
                unit: &unit,
                machine: &machine,
                fragment_path: "",
            },
        )
    }

    #[test]
    fn lines() {
        let c = &parse("-@:/bin/sh mysh -c \"echo '%i' $X\" a\\x20b").unwrap()[0];
        assert!(c.ignore_failure && c.no_expand);
        assert_eq!(c.path, "/bin/sh");
        assert_eq!(c.argv, ["mysh", "-c", "echo 'b' $X", "a b"]);
        let two = parse("/bin/a 1 ; !!b 2 \\; 3").unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(two[1].argv, ["b", "2", ";", "3"]);
        assert_eq!(two[1].privilege, Privilege::Ambient);
    }

    #[test]
    fn sidekick_of_the_example() {
        let line = r#"/bin/sh -c "while true; do etcdctl set /services/web/%i '{\"ip\":\"${IP}\"}' --ttl 60; sleep 45; done""#;
        let c = &parse(line).unwrap()[0];
        assert_eq!(c.argv.len(), 3);
        assert!(c.argv[2].contains(r#"/web/b '{"ip":"${IP}"}'"#));
    }

    #[test]
    fn refused() {
        for bad in ["", "-", "bin/x", "/bin/'x", "/bin/", "@/bin/x", "%b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in ".{0,60}") {
            let _ = parse(&line);
        }
    }
}
