//! Which events are kept: a level, and levels for single modules.

use std::str::FromStr;

use tracing::Level;
use tracing::level_filters::LevelFilter;

/// A default level and exceptions for modules: `info`, `warn,fleetd::engine=trace`, `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    default: LevelFilter,
    /// Longest module path first, so that the first match is the closest one.
    modules: Vec<(String, LevelFilter)>,
}

/// The text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError(String);

impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is not a log level (off error warn info debug trace)",
            self.0
        )
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// Everything up to `level`.
    pub fn level(level: LevelFilter) -> Self {
        Self {
            default: level,
            modules: Vec::new(),
        }
    }

    /// One step more talkative per `-v`, one less per `-q` (negative).
    pub fn louder(mut self, steps: i32) -> Self {
        const ORDER: [LevelFilter; 6] = [
            LevelFilter::OFF,
            LevelFilter::ERROR,
            LevelFilter::WARN,
            LevelFilter::INFO,
            LevelFilter::DEBUG,
            LevelFilter::TRACE,
        ];
        let at = ORDER.iter().position(|l| *l == self.default).unwrap_or(3) as i32;
        let at = at.saturating_add(steps).clamp(0, ORDER.len() as i32 - 1);
        self.default = ORDER[at as usize];
        self
    }

    /// Whether an event of `target` at `level` is kept.
    pub fn keeps(&self, target: &str, level: &Level) -> bool {
        let under = |module: &str| {
            target
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let limit = self
            .modules
            .iter()
            .find(|(module, _)| under(module))
            .map_or(self.default, |(_, level)| *level);
        *level <= limit
    }

    /// The most talkative level any target may have.
    pub fn max_level(&self) -> LevelFilter {
        self.modules
            .iter()
            .map(|(_, level)| *level)
            .fold(self.default, LevelFilter::max)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let level = |text: &str| {
            LevelFilter::from_str(text.trim()).map_err(|_| FilterError(text.trim().to_owned()))
        };
        let mut filter = Self::level(LevelFilter::INFO);
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('=') {
                Some((module, text)) => {
                    filter
                        .modules
                        .push((module.trim().replace('-', "_"), level(text)?));
                }
                None => filter.default = level(part)?,
            }
        }
        filter
            .modules
            .sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(filter: &str, target: &str, level: Level, want: bool) {
        let parsed: Filter = filter.parse().expect("valid filter");
        assert_eq!(
            parsed.keeps(target, &level),
            want,
            "{filter}: {target} {level}"
        );
    }

    #[test]
    fn the_closest_module_decides() {
        check("info", "fleetd", Level::INFO, true);
        check("info", "fleetd", Level::DEBUG, false);
        check(
            "warn,fleetd::engine=trace",
            "fleetd::engine::plan",
            Level::TRACE,
            true,
        );
        check(
            "warn,fleetd::engine=trace",
            "fleetd::engineer",
            Level::INFO,
            false,
        );
        check("a=error,a::b=debug", "a::b", Level::DEBUG, true);
        check("a=error,a::b=debug", "a::c", Level::WARN, false);
        check("off", "x", Level::ERROR, false);
        check("unit-busd=debug", "unit_busd", Level::DEBUG, true);
    }

    #[test]
    fn verbosity_moves_the_default_level() {
        let filter = Filter::level(LevelFilter::INFO);
        assert_eq!(filter.clone().louder(1).max_level(), LevelFilter::DEBUG);
        assert_eq!(filter.clone().louder(9).max_level(), LevelFilter::TRACE);
        assert_eq!(filter.louder(-9).max_level(), LevelFilter::OFF);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Filter>();
        }
    }
}
