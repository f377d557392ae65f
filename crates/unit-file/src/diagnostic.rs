//! What is wrong with a unit file, and where.

use std::fmt;

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The line is ignored, the rest applies.
    Warning,
    /// The unit cannot be used (`bad-setting`).
    Error,
}

/// One remark about one line of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file; empty where the caller knows it.
    pub path: String,
    /// Line number from 1; 0 for the unit as a whole.
    pub line: usize,
    /// How bad.
    pub level: Level,
    /// What is wrong and what happens now.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        };
        match (self.path.is_empty(), self.line) {
            (true, 0) => write!(f, "{level}: {}", self.message),
            (true, line) => write!(f, "{line}: {level}: {}", self.message),
            (false, 0) => write!(f, "{}: {level}: {}", self.path, self.message),
            (false, line) => write!(f, "{}:{line}: {level}: {}", self.path, self.message),
        }
    }
}
