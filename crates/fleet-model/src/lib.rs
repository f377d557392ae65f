//! fleet's units, machines, schedules, wire shapes and planners.
//!
//! Everything here is a value or a pure function: no I/O, no clock, no async. The daemon feeds
//! what it reads from etcd and from the service manager into these types and performs what the
//! planners answer.
//!
//! - [`UnitName`], [`UnitFile`]: names and texts, with fleet's rules and hashes.
//! - [`Requirements`]: the `[X-Fleet]` section of one unit, specifiers expanded, checked by
//!   [`validate_options`].
//! - [`engine`]: where units shall run. [`engine::Scheduler`] keeps an index that is updated change
//!   by change; [`engine::plan`] is the same for a whole cluster at once.
//! - [`agent`]: what one machine must do to run what it shall.
//! - [`wire`]: the JSON of the HTTP API v1, and of `/flotilla/v1`.
//! - [`BatchResult`]: what came of a unit that has run to its end.
//!
//! One rule is shared by engine and agents: a scheduled unit beats a global one, and global units
//! are accepted in name order ([`engine::accept_globals`]).

#![forbid(unsafe_code)]

pub mod agent;
mod amount;
pub mod engine;
mod glob;
mod machine;
mod name;
mod record;
mod requirements;
mod state;
mod text;
pub mod wire;

pub use amount::{Cpu, Offer, Reservation, format_bytes, parse_bytes};
pub use glob::Glob;
pub use machine::{Machine, MachineId, Metadata, merge_metadata, parse_metadata};
pub use name::{NameError, UNIT_TYPES, UnitName, mangle};
pub use record::{BatchResult, Outcome};
pub use requirements::{
    Announce, Batch, Comparison, MetadataDemand, MetadataRule, OptionsError, Partition, Proto,
    Requirements, unknown_options, validate_options, validate_unit,
};
pub use state::{Activity, ParseTargetError, Phase, TargetState, UnitState};
pub use text::{TextError, UnitFile, UnitOption};
