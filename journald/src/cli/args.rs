//! The command line, as systemd's journalctl understands it. No I/O.
//!
//! Written by hand, because options with optional values (`-n`, `-b`), clusters (`-fu UNIT`, `-xeu UNIT`) and matches as free
//! arguments must mean exactly what people's fingers know.

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// Only attached (`-n5`, `--lines=5`), or as the next argument where that looks like one.
    Maybe,
}

use Takes::{Maybe, Nothing, Value};

/// Short letter, long name, value, what help says ("" for accepted and ignored).
type Spec = (char, &'static str, Takes, &'static str);

const OPTIONS: &[Spec] = &[
    (
        'u',
        "unit",
        Value,
        "UNIT: messages of this unit (globs allowed)",
    ),
    ('t', "identifier", Value, "STRING: this syslog identifier"),
    (
        'p',
        "priority",
        Value,
        "LEVEL or FROM..TO: this level and worse",
    ),
    ('\0', "facility", Value, "NAME: this syslog facility"),
    (
        'g',
        "grep",
        Value,
        "PATTERN: MESSAGE matches the regular expression",
    ),
    (
        '\0',
        "case-sensitive",
        Maybe,
        "BOOL: for --grep; default: only if it has capitals",
    ),
    ('k', "dmesg", Nothing, "kernel messages of this boot"),
    (
        'b',
        "boot",
        Maybe,
        "[ID][+-N]: one boot, default the current one",
    ),
    ('S', "since", Value, "TIME: not older"),
    ('U', "until", Value, "TIME: not newer"),
    ('c', "cursor", Value, "CURSOR: start there"),
    ('\0', "after-cursor", Value, "CURSOR: start behind it"),
    (
        '\0',
        "cursor-file",
        Value,
        "FILE: start behind the cursor in FILE, and keep it there",
    ),
    ('\0', "show-cursor", Nothing, "print the last cursor"),
    (
        'n',
        "lines",
        Maybe,
        "[N|all]: the last N entries, default 10",
    ),
    ('f', "follow", Nothing, "go on with new entries"),
    ('\0', "no-tail", Nothing, "all lines, with -f too"),
    ('r', "reverse", Nothing, "newest first"),
    ('e', "pager-end", Nothing, "jump to the end in the pager"),
    (
        'o',
        "output",
        Value,
        "short short-iso short-precise short-monotonic short-full short-unix verbose export json json-pretty json-sse json-seq cat with-unit",
    ),
    (
        '\0',
        "output-fields",
        Value,
        "LIST: only these fields, for verbose, export, json, cat",
    ),
    ('a', "all", Nothing, "long and unprintable fields too"),
    ('q', "quiet", Nothing, "no remarks"),
    ('\0', "no-hostname", Nothing, "leave out the host name"),
    ('\0', "utc", Nothing, "times in UTC"),
    ('\0', "no-pager", Nothing, "write to standard output"),
    ('m', "merge", Nothing, "all machines' journals"),
    ('D', "directory", Value, "DIR: journal files in DIR"),
    ('\0', "file", Value, "FILE: this journal file (repeatable)"),
    (
        '\0',
        "root",
        Value,
        "DIR: the journal of the system below DIR",
    ),
    ('F', "field", Value, "NAME: all values of a field"),
    ('N', "fields", Nothing, "all field names"),
    ('\0', "list-boots", Nothing, "the boots in the journal"),
    ('\0', "disk-usage", Nothing, "space that the journal takes"),
    (
        '\0',
        "vacuum-size",
        Value,
        "BYTES: delete the oldest archives beyond",
    ),
    (
        '\0',
        "vacuum-time",
        Value,
        "SPAN: delete archives older than",
    ),
    ('\0', "vacuum-files", Value, "N: keep so many archives"),
    ('\0', "verify", Nothing, "check the files"),
    ('\0', "sync", Nothing, "have everything brought to disk"),
    (
        '\0',
        "flush",
        Nothing,
        "have the journal moved from /run to /var",
    ),
    (
        '\0',
        "relinquish-var",
        Nothing,
        "have it written to /run again",
    ),
    ('\0', "rotate", Nothing, "have the active files archived"),
    ('h', "help", Nothing, "this text"),
    ('\0', "version", Nothing, "the version"),
    ('\0', "system", Nothing, ""),
    ('\0', "no-full", Nothing, ""),
    ('l', "full", Nothing, ""),
    ('x', "catalog", Nothing, ""),
    ('\0', "smart-relinquish-var", Nothing, ""),
];

/// Wrong use of the command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such option.
    #[error("unrecognized option '{0}'")]
    Unknown(String),
    /// A value is missing.
    #[error("option '{0}' needs a value")]
    Missing(String),
    /// A value is given to a switch.
    #[error("option '--{0}' takes no value")]
    Excess(String),
}

/// What was given: options by long name in order, and the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    options: Vec<(&'static str, Option<String>)>,
    /// Matches.
    pub free: Vec<String>,
}

impl Given {
    /// Whether a switch is on.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == name)
    }

    /// The last value of an option; the inner one is missing where it is optional and was left out.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        self.options
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_deref())
    }

    /// The last value of an option that needs one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).flatten()
    }

    /// All values of a repeatable option.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options
            .iter()
            .filter(move |(n, _)| *n == name)
            .filter_map(|(_, v)| v.as_deref())
    }
}

/// Reads the arguments.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Given, UsageError> {
    let mut given = Given::default();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        if arg == "--" {
            given.free.extend(args);
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let (_, name, takes, _) =
                find_long(name).ok_or_else(|| UsageError::Unknown(arg.clone()))?;
            let value = match (takes, attached) {
                (Nothing, Some(_)) => return Err(UsageError::Excess((*name).to_owned())),
                (Value, None) => Some(
                    args.next()
                        .ok_or_else(|| UsageError::Missing(arg.clone()))?,
                ),
                (Maybe, None) => args.next_if(|next| belongs(name, next)),
                (_, attached) => attached,
            };
            given.options.push((name, value));
        } else if arg.len() > 1 && arg.starts_with('-') {
            for (at, letter) in arg[1..].char_indices() {
                let (_, name, takes, _) = OPTIONS
                    .iter()
                    .find(|(short, ..)| *short == letter)
                    .ok_or_else(|| UsageError::Unknown(format!("-{letter}")))?;
                if *takes == Nothing {
                    given.options.push((name, None));
                    continue;
                }
                let rest = &arg[1 + at + letter.len_utf8()..];
                let value = match (takes, rest) {
                    (Value, "") => Some(
                        args.next()
                            .ok_or_else(|| UsageError::Missing(format!("-{letter}")))?,
                    ),
                    (_, "") => args.next_if(|next| belongs(name, next)),
                    (_, rest) => Some(rest.to_owned()),
                };
                given.options.push((name, value));
                break;
            }
        } else {
            given.free.push(arg);
        }
    }
    Ok(given)
}

/// By full name, or by a beginning that only one has.
fn find_long(name: &str) -> Option<&'static Spec> {
    let exact = OPTIONS.iter().find(|(_, long, ..)| *long == name);
    let mut alike = OPTIONS
        .iter()
        .filter(|(_, long, ..)| !name.is_empty() && long.starts_with(name));
    exact.or_else(|| match (alike.next(), alike.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    })
}

/// Whether the argument after an option with an optional value is its value.
fn belongs(option: &str, next: &str) -> bool {
    match option {
        "lines" => {
            let number = next.strip_prefix('+').unwrap_or(next);
            next == "all" || !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        }
        "boot" => parse_boot(next).is_some(),
        _ => false,
    }
}

/// Which boot `-b` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootChoice {
    /// Every boot.
    All,
    /// Counted from the newest (0, -1, …) or from the oldest (1, 2, …).
    Number(i64),
    /// An identifier, and so many boots after it.
    Id(journal::Id128, i64),
}

/// Reads `all`, `N`, `ID`, `ID+N`, `ID-N`.
pub fn parse_boot(text: &str) -> Option<BootChoice> {
    if text == "all" {
        return Some(BootChoice::All);
    }
    let number = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok();
    if text.len() >= 32 && text.is_ascii() {
        let (id, rest) = text.split_at(32);
        let id = journal::Id128::parse(id)?;
        let offset = match rest {
            "" => 0,
            rest if rest.starts_with(['+', '-']) => number(rest)?,
            _ => return None,
        };
        return Some(BootChoice::Id(id, offset));
    }
    number(text).map(BootChoice::Number)
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text =
        "Usage: journalctl [OPTIONS] [FIELD=VALUE …]\n\nShows the journal.\n\n".to_owned();
    for (short, long, _, what) in OPTIONS.iter().filter(|o| !o.3.is_empty()) {
        let short = if *short == '\0' {
            "   ".to_owned()
        } else {
            format!("-{short} ")
        };
        text += &format!("  {short}--{long:<16} {what}\n");
    }
    text += "\nExample: journalctl -b -u web@1.service -n 50 -f\n";
    text += "Completion: journalctl completion bash|zsh|fish\n";
    text
}

/// A completion script; `None` for a shell that we do not know.
pub fn completion(shell: &str) -> Option<String> {
    let names: Vec<String> = OPTIONS.iter().map(|o| format!("--{}", o.1)).collect();
    let words = names.join(" ");
    match shell {
        "bash" => Some(format!(
            "_journalctl() {{\n  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}\n  case $prev in\n    \
             -u|--unit) COMPREPLY=($(compgen -W \"$(journalctl -F _SYSTEMD_UNIT 2>/dev/null)\" -- \"$cur\"));;\n    \
             -t|--identifier) COMPREPLY=($(compgen -W \"$(journalctl -F SYSLOG_IDENTIFIER 2>/dev/null)\" -- \"$cur\"));;\n    \
             *) COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\"));;\n  esac\n}}\ncomplete -F _journalctl journalctl\n"
        )),
        "zsh" => Some(format!("#compdef journalctl\n_arguments '*: :({words})'\n")),
        "fish" => Some(
            OPTIONS
                .iter()
                .filter(|o| !o.3.is_empty())
                .map(|(short, long, _, what)| {
                    let short = if *short == '\0' {
                        String::new()
                    } else {
                        format!(" -s {short}")
                    };
                    format!("complete -c journalctl{short} -l {long} -d '{what}'\n")
                })
                .collect(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_line(line: &str) -> Result<Given, UsageError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[track_caller]
    fn check(line: &str, want: &[(&str, Option<&str>)], free: &[&str]) {
        let given = parse_line(line).expect("valid");
        let got: Vec<_> = given
            .options
            .iter()
            .map(|(n, v)| (*n, v.as_deref()))
            .collect();
        assert_eq!(
            (got.as_slice(), given.free),
            (want, free.iter().map(|s| (*s).to_owned()).collect()),
            "{line}"
        );
    }

    #[test]
    fn options_mean_what_fingers_know() {
        check("-fu web", &[("follow", None), ("unit", Some("web"))], &[]);
        check(
            "-xeu web",
            &[
                ("catalog", None),
                ("pager-end", None),
                ("unit", Some("web")),
            ],
            &[],
        );
        check(
            "-n 5 -n7 -n",
            &[("lines", Some("5")), ("lines", Some("7")), ("lines", None)],
            &[],
        );
        check("-n _PID=1", &[("lines", None)], &["_PID=1"]);
        check(
            "-b -1 -u x",
            &[("boot", Some("-1")), ("unit", Some("x"))],
            &[],
        );
        check("-b -u x", &[("boot", None), ("unit", Some("x"))], &[]);
        check(
            "--lines=all --uni x",
            &[("lines", Some("all")), ("unit", Some("x"))],
            &[],
        );
        check("-- -x", &[], &["-x"]);
        check(
            "-o json _UID=0 + _UID=1",
            &[("output", Some("json"))],
            &["_UID=0", "+", "_UID=1"],
        );
    }

    #[test]
    fn wrong_use_is_named() {
        assert_eq!(
            parse_line("--nosuch"),
            Err(UsageError::Unknown("--nosuch".into()))
        );
        assert_eq!(parse_line("-u"), Err(UsageError::Missing("-u".into())));
        assert_eq!(
            parse_line("--follow=1"),
            Err(UsageError::Excess("follow".into()))
        );
        assert_eq!(parse_line("--no"), Err(UsageError::Unknown("--no".into())));
    }

    #[test]
    fn boots_are_chosen_by_number_or_identifier() {
        let id = "0123456789abcdef0123456789abcdef";
        let parsed = journal::Id128::parse(id).expect("id");
        assert_eq!(parse_boot("-1"), Some(BootChoice::Number(-1)));
        assert_eq!(parse_boot(id), Some(BootChoice::Id(parsed, 0)));
        assert_eq!(
            parse_boot(&format!("{id}-2")),
            Some(BootChoice::Id(parsed, -2))
        );
        assert_eq!(parse_boot("x"), None);
        assert_eq!(parse_boot("-u"), None);
    }

    proptest! {
        #[test]
        fn no_arguments_make_the_parser_panic(args in proptest::collection::vec("\\PC{0,12}", 0..6)) {
            for arg in &args {
                let _ = parse_boot(arg);
            }
            let _ = parse(args);
        }
    }
}
