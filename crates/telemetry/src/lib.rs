//! Logging set-up and error chains for all programs.
