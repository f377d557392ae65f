//! What the original's fleetctl needs to see.
//!
//! Its `restart` wants a unit loaded, then waits until it *is launched*, then wants it launched
//! again. That works only where stopping takes longer than its first look, 250 ms later; here it is
//! done by then, and the client would wait for ever. So the first look after such a wish still finds
//! the unit launched. Its `stop` looks again 250 ms later and finds the truth.
//!
//! Only the client library that the original is built with is answered so.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_model::{UnitName, wire};
use hyper::header::{HeaderMap, USER_AGENT};

/// How long a wish is remembered for the first look after it.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Units that such a client has just wanted stopped.
#[derive(Debug, Default)]
pub struct Original(Mutex<BTreeMap<UnitName, Instant>>);

impl Original {
    /// Whether a request comes from a client like the original's.
    pub(super) fn is(headers: &HeaderMap) -> bool {
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        agent.is_some_and(|agent| agent.starts_with("google-api-go-client/"))
    }

    /// A launched unit is wanted loaded.
    pub(super) fn stopped(&self, name: &UnitName, now: Instant) {
        let mut stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.retain(|_, at| now.duration_since(*at) < FIRST_LOOK);
        stopped.insert(name.clone(), now);
    }

    /// A look at a unit: whether it is the first after a wish to stop it.
    fn first_look(&self, name: &str, now: Instant) -> bool {
        let mut stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = stopped.remove(name);
        at.is_some_and(|at| now.duration_since(at) < FIRST_LOOK)
    }

    /// What such a client is told of a unit.
    pub(super) fn show(&self, unit: &mut wire::Unit, now: Instant) {
        if self.first_look(&unit.name, now) && unit.current_state == "loaded" {
            "launched".clone_into(&mut unit.current_state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_look_soon_after_the_wish_finds_the_unit_launched() {
        let name = UnitName::parse("a.service").unwrap();
        let now = Instant::now();
        let original = Original::default();
        let look = |current: &str, now: Instant| {
            let mut unit = wire::Unit {
                name: "a.service".into(),
                current_state: current.into(),
                ..wire::Unit::default()
            };
            original.show(&mut unit, now);
            unit.current_state
        };
        assert_eq!(look("loaded", now), "loaded");
        original.stopped(&name, now);
        assert_eq!(look("loaded", now + FIRST_LOOK / 8), "launched");
        assert_eq!(look("loaded", now + FIRST_LOOK / 4), "loaded");
        original.stopped(&name, now);
        assert_eq!(look("loaded", now + FIRST_LOOK), "loaded");
        original.stopped(&name, now);
        assert_eq!(look("inactive", now), "inactive");
    }
}
