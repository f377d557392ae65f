//! The A/B slot state kept in grubenv, as a value.
