//! Command lines as docker reads them: `-d`, `-it`, `--name x`, `--name=x`, `-p80:80`, and the single-dash long
//! forms of 2014 (`-name x`, `-rm`) with one warning. Flags may end at the first plain word (run, exec).

use std::collections::BTreeMap;

/// A flag a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `detach`.
    pub long: &'static str,
    /// `d`, or `\0`.
    pub short: char,
    /// Whether it takes a value.
    pub value: bool,
    /// For `--help`.
    pub help: &'static str,
}

/// A flag with a value.
pub const fn value(long: &'static str, short: char, help: &'static str) -> Flag {
    Flag {
        long,
        short,
        value: true,
        help,
    }
}

/// A switch.
pub const fn switch(long: &'static str, short: char, help: &'static str) -> Flag {
    Flag {
        long,
        short,
        value: false,
        help,
    }
}

/// Why a command line is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    /// `--frob`.
    #[error("unknown flag: {0}")]
    Unknown(String),
    /// `-x`.
    #[error("unknown shorthand flag: '{short}' in {word}")]
    UnknownShort {
        /// The letter.
        short: char,
        /// The word it stands in.
        word: String,
    },
    /// A value is missing.
    #[error("flag needs an argument: {0}")]
    NeedsValue(String),
    /// A switch with something that is neither true nor false.
    #[error("invalid argument {value:?} for \"{flag}\" flag: must be true or false")]
    Switch {
        /// Which.
        flag: String,
        /// What was given.
        value: String,
    },
    /// Too few or too many words.
    #[error("\"docker {command}\" requires {wanted}.")]
    Count {
        /// The command.
        command: String,
        /// `at least 1 argument`.
        wanted: &'static str,
    },
    /// A value that makes no sense.
    #[error("invalid argument {value:?} for \"--{flag}\" flag: {why}")]
    Value {
        /// Which.
        flag: String,
        /// What was given.
        value: String,
        /// Why.
        why: String,
    },
}

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    values: BTreeMap<&'static str, Vec<String>>,
    /// Plain words.
    pub words: Vec<String>,
    /// Words about old spellings.
    pub warnings: Vec<String>,
    /// `--help` was there.
    pub help: bool,
}

impl Args {
    /// Reads words. `interspersed`: flags may follow plain words.
    pub fn parse(flags: &[Flag], words: &[String], interspersed: bool) -> Result<Args, ArgsError> {
        let mut args = Args::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                args.words.extend(rest.cloned());
                break;
            }
            if !word.starts_with('-') || word == "-" {
                args.words.push(word.clone());
                if !interspersed {
                    args.words.extend(rest.cloned());
                    break;
                }
                continue;
            }
            if word == "--help" || (word == "-h" && !flags.iter().any(|flag| flag.short == 'h')) {
                args.help = true;
                continue;
            }
            if let Some(name) = word.strip_prefix("--") {
                args.long(flags, name, word, &mut rest)?;
            } else {
                args.short(flags, word, &mut rest)?;
            }
        }
        Ok(args)
    }

    fn long<'a>(
        &mut self,
        flags: &[Flag],
        name: &str,
        word: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), ArgsError> {
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let flag = flags
            .iter()
            .find(|flag| flag.long == name)
            .ok_or_else(|| ArgsError::Unknown(format!("--{name}")))?;
        self.set(flag, word, inline, rest)
    }

    fn set<'a>(
        &mut self,
        flag: &Flag,
        word: &str,
        inline: Option<String>,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), ArgsError> {
        let value = match (flag.value, inline) {
            (true, Some(value)) => value,
            (true, None) => rest
                .next()
                .cloned()
                .ok_or_else(|| ArgsError::NeedsValue(word.to_owned()))?,
            (false, None) => "true".to_owned(),
            (false, Some(value)) => match value.as_str() {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => "true".to_owned(),
                "false" | "0" | "f" | "F" | "FALSE" | "False" => "false".to_owned(),
                _ => {
                    return Err(ArgsError::Switch {
                        flag: format!("--{}", flag.long),
                        value,
                    });
                }
            },
        };
        self.values.entry(flag.long).or_default().push(value);
        Ok(())
    }

    fn short<'a>(
        &mut self,
        flags: &[Flag],
        word: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), ArgsError> {
        let body = &word[1..];
        // `-name x`, `-rm`: the whole word is a long flag, and not a bundle of short ones.
        let name = body.split('=').next().unwrap_or(body);
        if name.chars().count() > 1
            && flags.iter().any(|flag| flag.long == name)
            && !is_bundle(flags, body)
        {
            self.warnings.push(format!("Warning: '-{name}' is deprecated, it will be replaced by '--{name}' soon. See usage."));
            return self.long(flags, body, word, rest);
        }
        for (at, letter) in body.char_indices() {
            let unknown = || ArgsError::UnknownShort {
                short: letter,
                word: word.to_owned(),
            };
            let flag = flags
                .iter()
                .find(|flag| flag.short == letter && letter != '\0')
                .ok_or_else(unknown)?;
            let after = &body[at + letter.len_utf8()..];
            if flag.value {
                let inline = (!after.is_empty())
                    .then(|| after.strip_prefix('=').unwrap_or(after).to_owned());
                return self.set(flag, word, inline, rest);
            }
            if let Some(value) = after.strip_prefix('=') {
                return self.set(flag, word, Some(value.to_owned()), rest);
            }
            self.set(flag, word, None, rest)?;
        }
        Ok(())
    }

    /// The last value of a flag.
    pub fn get(&self, long: &str) -> Option<&str> {
        self.values.get(long)?.last().map(String::as_str)
    }

    /// All values of a flag.
    pub fn all(&self, long: &str) -> &[String] {
        self.values.get(long).map_or(&[], Vec::as_slice)
    }

    /// Whether a switch is on.
    pub fn on(&self, long: &str) -> bool {
        self.get(long) == Some("true")
    }

    /// The last value, read.
    pub fn read<T: std::str::FromStr>(&self, long: &str) -> Result<Option<T>, ArgsError> {
        let Some(text) = self.get(long) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| ArgsError::Value {
            flag: long.to_owned(),
            value: text.to_owned(),
            why: "not a number".into(),
        })
    }
}

/// Whether every letter is a short switch (the last one may take a value).
fn is_bundle(flags: &[Flag], body: &str) -> bool {
    let letters: Vec<char> = body.split('=').next().unwrap_or(body).chars().collect();
    letters.iter().enumerate().all(|(index, letter)| {
        flags
            .iter()
            .any(|flag| flag.short == *letter && (!flag.value || index + 1 == letters.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLAGS: &[Flag] = &[
        switch("detach", 'd', ""),
        switch("interactive", 'i', ""),
        switch("tty", 't', ""),
        switch("rm", '\0', ""),
        value("name", '\0', ""),
        value("publish", 'p', ""),
        value("env", 'e', ""),
    ];

    fn parse(text: &str) -> Result<Args, ArgsError> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Args::parse(FLAGS, &words, false)
    }

    #[test]
    fn all_spellings_mean_the_same() {
        for text in [
            "-d --name x -p 80:80 img a -b",
            "--detach=true --name=x --publish=80:80 img a -b",
            "-d=true -name x -p80:80 img a -b",
            "-dp 80:80 --name x -- img a -b",
        ] {
            let args = parse(text).unwrap();
            assert_eq!(
                (args.on("detach"), args.get("name"), args.get("publish")),
                (true, Some("x"), Some("80:80")),
                "{text}"
            );
            assert_eq!(args.words, ["img", "a", "-b"], "{text}");
        }
        let args = parse("-itd -rm -e A=b -e C=d img").unwrap();
        assert!(args.on("interactive") && args.on("tty") && args.on("rm"));
        assert_eq!(args.all("env"), ["A=b", "C=d"]);
        assert_eq!(args.warnings.len(), 1);
        assert!(!parse("--rm=false img").unwrap().on("rm"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            parse("--frob img"),
            Err(ArgsError::Unknown("--frob".into()))
        );
        assert_eq!(
            parse("-dx img"),
            Err(ArgsError::UnknownShort {
                short: 'x',
                word: "-dx".into()
            })
        );
        assert_eq!(parse("--name"), Err(ArgsError::NeedsValue("--name".into())));
        assert!(matches!(parse("--rm=maybe"), Err(ArgsError::Switch { .. })));
    }

    proptest! {
        #[test]
        fn any_words_are_survived(words in proptest::collection::vec("-{0,2}[a-z=é]{0,6}", 0..6), interspersed: bool) {
            let _ = Args::parse(FLAGS, &words, interspersed);
        }
    }
}
