//! The kernel command line: words, quotes, and the equal prefixes `coreos.`, `flatcar.`, `flotilla.`.
//!
//! Pure; who reads which argument is in the contract (system.md §7).

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    words: Vec<(String, Option<String>)>,
}

impl CommandLine {
    /// Splits at blanks outside double quotes; a quoted value keeps its blanks and loses the quotes.
    pub(crate) fn parse(text: &str) -> CommandLine {
        let mut words = Vec::new();
        let mut word = String::new();
        let (mut quoted, mut any) = (false, false);
        for c in text.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    any = true;
                }
                c if c.is_whitespace() && !quoted => {
                    if any {
                        words.push(split(std::mem::take(&mut word)));
                        any = false;
                    }
                }
                c => {
                    word.push(c);
                    any = true;
                }
            }
        }
        if any {
            words.push(split(word));
        }
        CommandLine { words }
    }

    /// Reads `/proc/cmdline`; an unreadable one counts as empty.
    pub(crate) fn of_kernel() -> CommandLine {
        CommandLine::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// The last value of `key` (`key=value`).
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.words
            .iter()
            .rev()
            .filter(|(k, _)| k == key)
            .find_map(|(_, v)| v.as_deref())
    }

    /// All values of `key`, in order.
    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.words
            .iter()
            .filter(move |(k, _)| k == key)
            .filter_map(|(_, v)| v.as_deref())
    }

    /// The last value under any of the three equal prefixes.
    pub(crate) fn ours(&self, key: &str) -> Option<&str> {
        let matches = |k: &str| {
            ["coreos.", "flatcar.", "flotilla."]
                .iter()
                .any(|p| k.strip_prefix(p) == Some(key))
        };
        self.words
            .iter()
            .rev()
            .find(|(k, _)| matches(k))
            .and_then(|(_, v)| v.as_deref())
    }

    /// Whether the word stands there, alone or with a value that means yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.words
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .is_some_and(|(_, v)| {
                v.as_deref()
                    .is_none_or(|v| matches!(v, "1" | "yes" | "y" | "true" | "t" | "on"))
            })
    }

    /// All words with their values, in order.
    pub(crate) fn words(&self) -> &[(String, Option<String>)] {
        &self.words
    }
}

fn split(word: String) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_blanks_and_the_last_value_wins() {
        let line = CommandLine::parse(
            "quiet console=tty0 sshkey=\"ssh-rsa AAA me@x\" console=ttyS0 \"a b\"=c\n",
        );
        assert_eq!(line.value("sshkey"), Some("ssh-rsa AAA me@x"));
        assert_eq!(line.value("console"), Some("ttyS0"));
        assert_eq!(
            line.values("console").collect::<Vec<_>>(),
            ["tty0", "ttyS0"]
        );
        assert!(line.flag("quiet"));
        assert_eq!(line.value("a b"), Some("c"));
    }

    #[test]
    fn flags_may_be_switched_off_again() {
        let line = CommandLine::parse("flotilla.recovery=1 x x=0");
        assert!(line.flag("flotilla.recovery"));
        assert!(!line.flag("x"));
        assert!(!line.flag("absent"));
    }

    #[test]
    fn the_three_prefixes_are_equal() {
        let line = CommandLine::parse(
            "coreos.oem.id=ec2 flotilla.oem.id=qemu flatcar.oem.id=vmware other.oem.id=x",
        );
        assert_eq!(line.ours("oem.id"), Some("vmware"));
    }
}
