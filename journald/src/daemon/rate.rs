//! How many messages a service may log. No I/O, the clock is an argument.

use std::collections::HashMap;

/// So many services are remembered; when there are more, those whose time has run out are forgotten.
const MAX_GROUPS: usize = 2048;

/// At most `burst` messages per `interval` (microseconds) and service.
#[derive(Debug)]
pub struct RateLimit {
    interval: u64,
    burst: u32,
    groups: HashMap<String, Group>,
}

#[derive(Debug, Default)]
struct Group {
    begin: u64,
    count: u32,
    suppressed: u32,
}

/// Whether a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is; before it so many of the service were dropped that nobody was told about.
    Keep {
        /// Number of them.
        suppressed: u32,
    },
    /// It is not.
    Drop,
}

impl RateLimit {
    /// A limit; zero for either number switches it off.
    pub fn new(interval: u64, burst: u32) -> Self {
        Self {
            interval,
            burst,
            groups: HashMap::new(),
        }
    }

    /// Counts a message of `group` at `now` (microseconds of any steady clock).
    pub fn count(&mut self, group: &str, now: u64) -> Verdict {
        if self.interval == 0 || self.burst == 0 {
            return Verdict::Keep { suppressed: 0 };
        }
        if !self.groups.contains_key(group) {
            if self.groups.len() >= MAX_GROUPS {
                let interval = self.interval;
                self.groups
                    .retain(|_, g| g.suppressed > 0 || now < g.begin.saturating_add(interval));
            }
            self.groups.insert(
                group.to_owned(),
                Group {
                    begin: now,
                    ..Group::default()
                },
            );
        }
        // The line above has made it.
        let Some(state) = self.groups.get_mut(group) else {
            return Verdict::Keep { suppressed: 0 };
        };
        let mut suppressed = 0;
        if now >= state.begin.saturating_add(self.interval) || now < state.begin {
            suppressed = state.suppressed;
            *state = Group {
                begin: now,
                ..Group::default()
            };
        }
        if state.count >= self.burst {
            state.suppressed = state.suppressed.saturating_add(1);
            return Verdict::Drop;
        }
        state.count += 1;
        Verdict::Keep { suppressed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let mut limit = RateLimit::new(100, 3);
        let keep = |suppressed| Verdict::Keep { suppressed };
        for _ in 0..3 {
            assert_eq!(limit.count("a", 10), keep(0));
        }
        assert_eq!(limit.count("a", 20), Verdict::Drop);
        assert_eq!(limit.count("b", 20), keep(0), "each service has its own");
        assert_eq!(limit.count("a", 109), Verdict::Drop);
        assert_eq!(limit.count("a", 110), keep(2));
        assert_eq!(limit.count("a", 111), keep(0));
    }

    #[test]
    fn zero_means_no_limit() {
        let mut limit = RateLimit::new(0, 0);
        assert!((0..100).all(|_| limit.count("a", 0) == Verdict::Keep { suppressed: 0 }));
    }
}
