//! The A/B slot state that GRUB counts with, as a value.
//!
//! Owns: the keys of `/flotilla/grubenv` on the ESP, their meaning, and the model of the selector script in
//! `image-build` (both are held against each other by a test there). Does not read or write any disk.
//!
//! Invariant: a serialised block is exactly 1024 bytes and every key lies in its first 512, so that one sector write
//! changes the state, or nothing does.

#![forbid(unsafe_code)]

use std::fmt;

/// Attempts an unproven slot gets.
pub const TRIES_NEW: u8 = 3;
/// Attempts a slot marked good gets, refreshed by each healthy boot.
pub const TRIES_GOOD: u8 = 6;
/// Size of a GRUB environment block in bytes.
pub const BLOCK_LEN: usize = 1024;
const HEADER: &str = "# GRUB Environment Block\n";

/// One of the two places a system can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Slot A.
    A,
    /// Slot B.
    B,
}

impl Slot {
    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// Reads `A`, `B`, `a` or `b`.
    #[must_use]
    pub fn parse(s: &str) -> Option<Slot> {
        match s {
            "A" | "a" => Some(Slot::A),
            "B" | "b" => Some(Slot::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::A => "A",
            Slot::B => "B",
        })
    }
}

/// What is known of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotState {
    /// Boot attempts left, 0 to 6.
    pub tries: u8,
    /// A boot of what is in it was healthy.
    pub good: bool,
    /// Version text, for people only.
    pub version: String,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// Tried first.
    pub first: Slot,
    /// Slot A.
    pub a: SlotState,
    /// Slot B.
    pub b: SlotState,
}

/// What the selector does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The slot to start.
    pub slot: Slot,
    /// The attempt was counted in the state.
    pub counted: bool,
    /// Nothing bootable was left by the rules: started all the same, with `flotilla.recovery=1`.
    pub recovery: bool,
    /// The slot before it was good and has no attempts left: `flotilla.fallback=rot`.
    pub fallback: bool,
}

/// A state that does not fit the block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the slot state needs {len} bytes, 512 is the limit; shorten the version text")]
pub struct TooLong {
    /// Bytes needed.
    pub len: usize,
}

impl BootState {
    /// The state of a freshly written disk: A holds `version`, unproven; B is empty.
    #[must_use]
    pub fn shipped(version: &str) -> BootState {
        BootState {
            first: Slot::A,
            a: SlotState {
                tries: TRIES_NEW,
                good: false,
                version: version.into(),
            },
            b: SlotState::default(),
        }
    }

    /// A slot's part.
    #[must_use]
    pub fn slot(&self, s: Slot) -> &SlotState {
        match s {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// A slot's part, to change.
    pub fn slot_mut(&mut self, s: Slot) -> &mut SlotState {
        match s {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// Reads a block. Missing, damaged or foreign values are as if absent: no attempts, not good, A first.
    #[must_use]
    pub fn parse(block: &[u8]) -> BootState {
        let mut state = BootState {
            first: Slot::A,
            a: SlotState::default(),
            b: SlotState::default(),
        };
        let text = String::from_utf8_lossy(block);
        let Some(body) = text.strip_prefix(HEADER) else {
            return state;
        };
        for line in body.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key {
                "first" => state.first = Slot::parse(value).unwrap_or(Slot::A),
                "tries_A" => state.a.tries = tries(value),
                "tries_B" => state.b.tries = tries(value),
                "good_A" => state.a.good = value == "1",
                "good_B" => state.b.good = value == "1",
                "ver_A" => state.a.version = clean(value),
                "ver_B" => state.b.version = clean(value),
                _ => {}
            }
        }
        state
    }

    /// The 1024 bytes of the file.
    ///
    /// # Errors
    /// [`TooLong`] where the keys would leave the first sector.
    pub fn serialise(&self) -> Result<Vec<u8>, TooLong> {
        let mut s = String::from(HEADER);
        s += &format!("first={}\n", self.first);
        for slot in [Slot::A, Slot::B] {
            let st = self.slot(slot);
            s += &format!("tries_{slot}={}\n", st.tries.min(TRIES_GOOD));
            s += &format!("good_{slot}={}\n", u8::from(st.good));
            s += &format!("ver_{slot}={}\n", clean(&st.version));
        }
        if s.len() > 512 {
            return Err(TooLong { len: s.len() });
        }
        let mut bytes = s.into_bytes();
        bytes.resize(BLOCK_LEN, b'#');
        Ok(bytes)
    }

    /// A healthy boot of `slot`: it is good, is tried first, and has all its attempts again.
    pub fn mark_good(&mut self, slot: Slot) {
        self.first = slot;
        let s = self.slot_mut(slot);
        s.good = true;
        s.tries = TRIES_GOOD;
    }

    /// An orderly shutdown of a good slot gives its attempts back, a new one's stay counted.
    pub fn refresh(&mut self, slot: Slot) {
        let s = self.slot_mut(slot);
        if s.good {
            s.tries = TRIES_GOOD;
        }
    }

    /// Before `slot` is written to: it cannot be chosen until [`BootState::arm`].
    pub fn disarm(&mut self, slot: Slot) {
        self.first = slot.other();
        *self.slot_mut(slot) = SlotState::default();
    }

    /// `slot` holds a complete, verified system: tried next, not yet good.
    pub fn arm(&mut self, slot: Slot, version: &str) {
        self.first = slot;
        *self.slot_mut(slot) = SlotState {
            tries: TRIES_NEW,
            good: false,
            version: clean(version),
        };
    }

    /// What the selector starts, and the state it leaves. `can_save` and `starts` are the disk's and the image's
    /// behaviour: whether the environment block can be written, and whether a slot's files load.
    pub fn select(&mut self, can_save: bool, starts: impl Fn(Slot) -> bool) -> Option<Choice> {
        let order = [self.first, self.first.other()];
        let mut fallback = false;
        for slot in order {
            let st = self.slot(slot).clone();
            if st.tries > 0 && (can_save || st.good) {
                if can_save {
                    self.slot_mut(slot).tries -= 1;
                }
                if starts(slot) {
                    return Some(Choice {
                        slot,
                        counted: can_save,
                        recovery: false,
                        fallback,
                    });
                }
            }
            fallback |= st.good;
        }
        let good = order.into_iter().filter(|s| self.slot(*s).good);
        good.chain(order).find(|s| starts(*s)).map(|slot| Choice {
            slot,
            counted: false,
            recovery: true,
            fallback: false,
        })
    }
}

fn tries(value: &str) -> u8 {
    match value.as_bytes() {
        [d @ b'0'..=b'6'] => d - b'0',
        _ => 0,
    }
}

fn clean(version: &str) -> String {
    version
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-+_".contains(*c))
        .take(32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot_state() -> impl Strategy<Value = SlotState> {
        (0u8..=6, any::<bool>(), "[a-z0-9.+-]{0,32}").prop_map(|(tries, good, version)| SlotState {
            tries,
            good,
            version,
        })
    }

    fn state() -> impl Strategy<Value = BootState> {
        (any::<bool>(), slot_state(), slot_state()).prop_map(|(b, a, bb)| BootState {
            first: if b { Slot::B } else { Slot::A },
            a,
            b: bb,
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_state(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = BootState::parse(&bytes);
        }

        #[test]
        fn serialised_states_read_back(s in state()) {
            let bytes = s.serialise().expect("fits");
            prop_assert_eq!(bytes.len(), BLOCK_LEN);
            prop_assert!(bytes[512..].iter().all(|b| *b == b'#'));
            prop_assert_eq!(BootState::parse(&bytes), s);
        }

        /// Whatever was counted or damaged, a slot whose files load is started.
        #[test]
        fn a_loadable_slot_is_always_started(mut s in state(), save in any::<bool>(), a in any::<bool>(), b in any::<bool>()) {
            let choice = s.select(save, |slot| if slot == Slot::A { a } else { b });
            prop_assert_eq!(choice.is_some(), a || b);
        }

        /// An armed slot that never becomes good is left after its attempts, for the good one.
        #[test]
        fn rollback_needs_exactly_the_attempts(version in "[a-z0-9.]{0,20}") {
            let mut s = BootState::shipped("1");
            s.mark_good(Slot::A);
            s.disarm(Slot::B);
            s.arm(Slot::B, &version);
            for _ in 0..TRIES_NEW {
                prop_assert_eq!(s.select(true, |_| true).map(|c| c.slot), Some(Slot::B));
            }
            let back = s.select(true, |_| true).expect("A is there");
            prop_assert_eq!((back.slot, back.recovery, back.fallback), (Slot::A, false, false));
        }
    }

    #[test]
    fn the_hundredth_boot_is_like_the_first() {
        let mut s = BootState::shipped("1");
        for _ in 0..100 {
            let c = s.select(true, |_| true).expect("A is there");
            assert_eq!((c.slot, c.counted, c.recovery), (Slot::A, true, false));
            s.mark_good(Slot::A);
        }
    }

    #[test]
    fn a_good_slot_that_rots_is_left_and_reported() {
        let mut s = BootState::shipped("1");
        s.mark_good(Slot::A);
        s.arm(Slot::B, "2");
        s.mark_good(Slot::B);
        for _ in 0..TRIES_GOOD {
            assert_eq!(s.select(true, |_| true).map(|c| c.slot), Some(Slot::B));
        }
        let c = s.select(true, |_| true).expect("A is there");
        assert_eq!((c.slot, c.fallback), (Slot::A, true));
    }
}
