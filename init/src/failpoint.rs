//! Places where a test build fails on purpose. Without the feature `failpoints` they are nothing; no image has it.
//!
//! | signal | what happens |
//! |---|---|
//! | SIGRTMIN+29 | a panic while the engine handles the next event |
//! | SIGRTMIN+30 | a panic in this turn of the loop |

#[cfg(feature = "failpoints")]
mod armed {
    use std::cell::Cell;

    thread_local! {
        static EVENT: Cell<bool> = const { Cell::new(false) };
    }

    /// A real-time signal, counted from the first.
    pub(crate) fn signal(number: i32) {
        match number {
            29 => EVENT.set(true),
            30 => panic!("failpoint in a turn"),
            _ => {}
        }
    }

    /// The engine is about to handle an event.
    pub(crate) fn event() {
        assert!(!EVENT.replace(false), "failpoint in the engine");
    }
}

#[cfg(not(feature = "failpoints"))]
mod armed {
    pub(crate) fn signal(_: i32) {}

    pub(crate) fn event() {}
}

pub(crate) use armed::{event, signal};
