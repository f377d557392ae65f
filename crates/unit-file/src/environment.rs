//! Environment blocks: names, EnvironmentFile= syntax, and `$` expansion of command lines.

use std::collections::BTreeMap;

use crate::value::split_words;

/// A valid variable name.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Splits `NAME=value` when the name is valid.
pub fn split_assignment(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| valid_name(name))
}

/// The assignments of an environment file. Lines that are none are left out.
///
/// Shell-like: `#` and `;` begin comment lines; single quotes keep everything, double quotes know
/// `\"`, `\\`, `\$`, `` \` ``; outside quotes a backslash takes the next character; a backslash before the end of
/// the line joins lines; quoted values may span lines.
pub fn parse_environment_file(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        if c == '#' || c == ';' {
            skip_comment(&mut chars);
            continue;
        }
        let mut key = String::new();
        let mut assigned = false;
        for c in chars.by_ref() {
            match c {
                '=' => {
                    assigned = true;
                    break;
                }
                '\n' => break,
                c => key.push(c),
            }
        }
        if !assigned {
            continue;
        }
        let value = read_value(&mut chars);
        let key = key.trim_end();
        if valid_name(key) {
            out.push((key.to_owned(), value));
        }
    }
    out
}

fn skip_comment(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let mut escaped = false;
    for c in chars.by_ref() {
        match c {
            '\n' if !escaped => return,
            '\\' => escaped = true,
            _ => escaped = false,
        }
    }
}

fn read_value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut value = String::new();
    // Length up to which trailing blanks belong to the value (they were quoted or escaped).
    let mut solid = 0;
    let mut bare = false;
    while let Some(c) = chars.next() {
        match c {
            '\n' => break,
            '\'' if !bare => {
                for c in chars.by_ref() {
                    if c == '\'' {
                        break;
                    }
                    value.push(c);
                }
                solid = value.len();
            }
            '"' if !bare => {
                read_double_quoted(chars, &mut value);
                solid = value.len();
            }
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => {
                    bare = true;
                    value.push(c);
                    solid = value.len();
                }
            },
            c if c.is_whitespace() && !bare && value.is_empty() => {}
            c => {
                bare |= !c.is_whitespace();
                value.push(c);
                if !c.is_whitespace() {
                    solid = value.len();
                }
            }
        }
    }
    value.truncate(solid);
    value
}

fn read_double_quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, value: &mut String) {
    while let Some(c) = chars.next() {
        match c {
            '"' => return,
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                Some(c) => {
                    value.push('\\');
                    value.push(c);
                }
            },
            c => value.push(c),
        }
    }
}

/// An environment under construction: later assignments win, order of first appearance is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        if self
            .values
            .insert(name.to_owned(), value.to_owned())
            .is_none()
        {
            self.order.push(name.to_owned());
        }
    }

    /// Removes a variable; `NAME=value` removes it only if it has this value.
    pub fn unset(&mut self, name: &str) {
        let name = match name.split_once('=') {
            Some((n, v)) if self.get(n) == Some(v) => n,
            Some(_) => return,
            None => name,
        };
        if self.values.remove(name).is_some() {
            self.order.retain(|n| n != name);
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// All as `NAME=value`.
    pub fn to_list(&self) -> Vec<String> {
        self.order
            .iter()
            .map(|n| format!("{n}={}", self.values[n]))
            .collect()
    }

    /// Expands the arguments of a command: `${X}` and `$$` inside a word, `$X` alone as a word is split at
    /// blanks. The first word is left alone.
    pub fn expand_argv(&self, argv: &[String]) -> Vec<String> {
        let mut out = Vec::with_capacity(argv.len());
        for (i, word) in argv.iter().enumerate() {
            match word.strip_prefix('$') {
                _ if i == 0 => out.push(word.clone()),
                Some(name) if !name.is_empty() && !name.starts_with(['{', '$']) => {
                    let value = self.get(name).unwrap_or("");
                    match split_words(value) {
                        Ok(words) => out.extend(words),
                        Err(_) => out.extend(value.split_whitespace().map(str::to_owned)),
                    }
                }
                _ => out.push(self.expand_word(word)),
            }
        }
        out
    }

    fn expand_word(&self, word: &str) -> String {
        let mut out = String::with_capacity(word.len());
        let mut rest = word;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(more) = after.strip_prefix('$') {
                out.push('$');
                rest = more;
            } else if let Some((name, more)) = after
                .strip_prefix('{')
                .and_then(|a| a.split_once('}'))
                .filter(|(n, _)| valid_name(n))
            {
                out.push_str(self.get(name).unwrap_or(""));
                rest = more;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, parse_environment_file};
    use proptest::prelude::proptest;

    #[test]
    fn files() {
        let text = "# c\nA=1\n B = two words  \nC='x y'\nD=\"a\\\"b\\n\"\nE=a\\\nb\n;c\nbad\n2X=1\nF=\nG='a'\"b\"\nH=it's\nI=\"a\nb\"\n";
        let got = parse_environment_file(text);
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x y"),
            ("D", "a\"b\\n"),
            ("E", "ab"),
            ("F", ""),
            ("G", "ab"),
            ("H", "it's"),
            ("I", "a\nb"),
        ];
        let want: Vec<_> = want
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn expansion() {
        let mut env = Environment::default();
        env.set("ONE", "one");
        env.set("TWO", "two 'x y'  three");
        let argv: Vec<String> = [
            "$ONE", "$ONE", "${TWO}", "$TWO", "a${ONE}b", "$$ONE", "$NO", "${NO}", "a$ONE",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(
            env.expand_argv(&argv),
            [
                "$ONE",
                "one",
                "two 'x y'  three",
                "two",
                "x y",
                "three",
                "aoneb",
                "$ONE",
                "",
                "a$ONE"
            ]
        );
        env.unset("ONE=other");
        assert_eq!(env.get("ONE"), Some("one"));
        env.unset("ONE");
        assert_eq!(env.to_list(), ["TWO=two 'x y'  three"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,80}") {
            let _ = parse_environment_file(&text);
            let mut env = Environment::default();
            env.set("A", &text);
            let _ = env.expand_argv(&["x".to_owned(), "$A".to_owned(), text]);
        }
    }
}
