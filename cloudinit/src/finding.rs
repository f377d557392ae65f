//! What validation has to say about a document: findings with a place, and a report in line order.
//!
//! Owns the printed shape (`line N: LEVEL: TEXT`) and the exit rule. Does not decide what is wrong;
//! the reader ([`crate::config`]) does.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; the document does what it says.
    Info,
    /// A part of the document is ignored or will surprise.
    Warning,
    /// The document, or a part of it, cannot be applied.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// Which check spoke; findings of one line are ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    Header,
    Yaml,
    Discovery,
    Encoding,
    Structure,
    Pattern,
    ReadOnly,
    Misplaced,
    Unit,
}

/// One finding at one place of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The level.
    #[serde(rename = "kind")]
    pub level: Level,
    /// One sentence, without place and level.
    pub message: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
    #[serde(skip)]
    pub(crate) check: Check,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.level, self.message)
    }
}

/// All findings of one input, in line order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sorts findings by line; those of one line stay in the order of the checks.
    pub(crate) fn from_unsorted(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|f| (f.line, f.check, f.column));
        Self { findings }
    }

    /// Whether anything of level error was found.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.level == Level::Error)
    }

    /// The exit code of `-validate`: the plain form fails on any finding, as the original does; the
    /// JSON form only on errors, or also on warnings when `strict`.
    pub fn exit_code(&self, json: bool, strict: bool) -> u8 {
        let worst = self.findings.iter().map(|f| f.level).max();
        let fails = match (json, worst) {
            (_, None) => false,
            (false, Some(_)) => true,
            (true, Some(level)) => level == Level::Error || (strict && level == Level::Warning),
        };
        u8::from(fails)
    }
}
