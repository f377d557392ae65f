//! Shell patterns as `Conflicts` and `Replaces` use them.

use std::fmt;
use std::sync::Arc;

/// A pattern, cheap to clone: `*` is any run of characters but `/`, `?` one of them, `[a-z]` or `[^a-z]` one of a
/// set, `\` takes the next character literally. A malformed pattern matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(Arc<str>);

impl Glob {
    /// Takes any text; whether it is well formed shows when it is matched.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into().into())
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every match begins with.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        let end = self.0.find(['*', '?', '[', '\\']).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Whether `text` matches as a whole.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // The usual kind: a literal, or one with a star at its end.
        let prefix = self.literal_prefix();
        match &self.0[prefix.len()..] {
            "" => return text == prefix,
            "*" => {
                return text
                    .strip_prefix(prefix)
                    .is_some_and(|rest| !rest.contains('/'));
            }
            _ => {}
        }
        let (Some(tokens), text) = (tokens(&self.0), text.chars().collect::<Vec<_>>()) else {
            return false;
        };
        // On a mismatch only the last star needs to give way, so this is never exponential.
        let (mut t, mut i, mut back) = (0, 0, None);
        while i < text.len() {
            match tokens.get(t) {
                Some(Token::Star) => {
                    back = Some((t, i));
                    t += 1;
                }
                Some(token) if token.takes(text[i]) => {
                    t += 1;
                    i += 1;
                }
                _ => match back {
                    Some((star, from)) if text[from] != '/' => {
                        back = Some((star, from + 1));
                        t = star + 1;
                        i = from + 1;
                    }
                    _ => return false,
                },
            }
        }
        tokens[t..].iter().all(|token| *token == Token::Star)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Star,
    Any,
    Literal(char),
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => c != '/',
            Self::Literal(l) => *l == c,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// The parts of a pattern; `None` if it is malformed.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut chars = pattern.chars().peekable();
    let mut out = Vec::new();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Literal(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let low = member(&mut chars)?;
                    let high = match chars.next_if_eq(&'-') {
                        Some(_) => member(&mut chars)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Token::Set { negated, ranges }
            }
            c => Token::Literal(c),
        });
    }
    Some(out)
}

/// One end of a range in a set.
fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_shell_does() {
        for (pattern, text, expect) in [
            ("web@*.service", "web@1.service", true),
            ("web@*.service", "web@.service", true),
            ("web@*.service", "api@1.service", false),
            ("*", "a/b", false),
            ("a*/b", "axx/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            (r"\*x", "*x", true),
            (r"\*x", "ax", false),
            ("[]", "]", false),
            ("[a", "a", false),
            ("a\\", "a", false),
            ("[a-]x", "ax", false),
            ("", "", true),
            ("", "a", false),
            ("**a**b", "xaxb", true),
            (
                "*a*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expect, "{pattern} {text}");
        }
    }

    #[test]
    fn every_match_begins_with_the_literal_prefix() {
        assert_eq!(Glob::new("web@*.service").literal_prefix(), "web@");
        assert_eq!(Glob::new("a.service").literal_prefix(), "a.service");
        assert_eq!(Glob::new(r"a\*b").literal_prefix(), "a");
    }
}
