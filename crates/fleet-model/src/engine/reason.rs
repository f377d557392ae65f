//! Why a unit is where it is, or nowhere.

use std::fmt;

use super::slot::Load;
use crate::amount::{Cpu, format_bytes};
use crate::machine::MachineId;
use crate::name::UnitName;
use crate::record::Outcome;
use crate::requirements::OptionsError;

/// What is said of a `MachineID=` without a value.
const NAMES_NONE: &str = "MachineID is empty, which is the ID of no machine";

/// Why the schedule changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The machine passed all tests and was the best of those that did.
    Chosen {
        /// How much it carried before.
        load: Load,
        /// How often the batch unit has failed there.
        failures: u64,
        /// How many preferences of the unit it does not meet.
        unmet: u64,
        /// The unit starts first of a circle of units that wait for each other.
        circle: bool,
    },
    /// Nobody wants the unit on a machine any more.
    NotWanted,
    /// The unit became global; each machine decides alone.
    BecameGlobal,
    /// The machine is gone.
    MachineGone,
    /// The machine no longer passes.
    NoLongerFits(Obstacle),
    /// The machine is being drained, and another one passes.
    Draining,
    /// Another machine passes and carries less.
    Rebalanced,
    /// The unit has run to its end.
    Ended(Outcome),
    /// It failed and is tried again, on another machine if one fits.
    Retry {
        /// How often it was tried.
        attempts: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen {
                load,
                failures,
                unmet,
                circle,
            } => {
                match unmet {
                    0 => write!(f, "least loaded machine that fits ({load})")?,
                    1 => write!(f, "best machine that fits ({load}, 1 preference not met)")?,
                    n => write!(
                        f,
                        "best machine that fits ({load}, {n} preferences not met)"
                    )?,
                }
                if *failures > 0 {
                    write!(f, "; has failed there {}", Times(*failures))?;
                }
                if *circle {
                    f.write_str("; starts first of units that wait for each other")?;
                }
                Ok(())
            }
            Self::NotWanted => f.write_str("target state is inactive"),
            Self::BecameGlobal => f.write_str("unit is global now"),
            Self::MachineGone => f.write_str("machine is gone"),
            Self::NoLongerFits(obstacle) => write!(f, "no longer fits: {obstacle}"),
            Self::Draining => f.write_str("machine is being drained"),
            Self::Rebalanced => f.write_str("rebalanced to a less loaded machine"),
            Self::Ended(Outcome::Success) => f.write_str("has run to its end"),
            Self::Ended(Outcome::Failure) => f.write_str("has failed for good"),
            Self::Retry { attempts } => {
                write!(
                    f,
                    "failed (attempt {attempts}); is tried again, elsewhere if it fits"
                )
            }
        }
    }
}

/// Why one machine cannot run a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It is not the machine that MachineID names.
    OtherMachine {
        /// The value.
        wanted: String,
    },
    /// Its metadata lacks a value asked for.
    Metadata {
        /// The key, or the rule.
        key: String,
    },
    /// A unit named in MachineOf is not there.
    PeerAway {
        /// That unit, or the pattern.
        peer: String,
    },
    /// A unit is there that this one cannot be with.
    Conflict {
        /// That unit.
        unit: UnitName,
    },
    /// A unit is there that replaces this one.
    ReplacedBy {
        /// That unit.
        unit: UnitName,
    },
    /// It has not enough memory left.
    Memory {
        /// What the unit reserves.
        need: u64,
        /// What is left.
        free: u64,
    },
    /// It has not enough of its processors left.
    Cpu {
        /// What the unit reserves.
        need: Cpu,
        /// What is left.
        free: Cpu,
    },
    /// It takes no new units.
    Cordoned,
    /// An option of the unit cannot be read.
    Invalid(Box<OptionsError>),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherMachine { wanted } if wanted.is_empty() => f.write_str(NAMES_NONE),
            Self::OtherMachine { wanted } => write!(f, "not machine {wanted}"),
            Self::Metadata { key } => write!(f, "no fitting metadata {key}"),
            Self::PeerAway { peer } => write!(f, "{peer} is not there"),
            Self::Conflict { unit } => write!(f, "conflicts with {unit}"),
            Self::ReplacedBy { unit } => write!(f, "replaced by {unit}"),
            Self::Memory { need, free } => {
                let (need, free) = (format_bytes(*need), format_bytes(*free));
                write!(f, "memory: {need} needed, {free} left")
            }
            Self::Cpu { need, free } => write!(f, "processors: {need} needed, {free} left"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Invalid(error) => write!(f, "{error}"),
        }
    }
}

/// Why a wanted unit is on no machine, or still on one that it should leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// There are no machines.
    NoMachines,
    /// The machine named in MachineID is not present.
    MachineAbsent {
        /// The value.
        wanted: String,
    },
    /// MachineID names the machine that it should leave.
    Pinned {
        /// The value.
        wanted: String,
    },
    /// A unit named in MachineOf is scheduled nowhere.
    PeerUnscheduled {
        /// That unit, or the pattern.
        peer: String,
    },
    /// Units named in MachineOf are on different machines.
    PeersApart {
        /// One of them.
        one: String,
        /// Another one.
        other: String,
    },
    /// Its last machine has not let go of it yet.
    StillOn {
        /// That machine.
        machine: MachineId,
    },
    /// No machine passes.
    NoFit {
        /// The first machines, by ID, and what was in the way when it was last looked at.
        obstacles: Vec<(MachineId, Obstacle)>,
        /// How many more there are.
        more: usize,
    },
    /// It was just taken off a machine; the schedule must settle first.
    Settling,
    /// Placing it takes away what it needs.
    Contradiction,
    /// It starts after another unit.
    Order {
        /// That unit.
        unit: String,
        /// It requires that unit, too.
        required: bool,
    },
    /// Its machine is gone and may still be stopping it; it must run at most once.
    Fenced {
        /// That machine, if it is known.
        machine: Option<MachineId>,
    },
    /// The batch unit has run to its end.
    Ended {
        /// How.
        outcome: Outcome,
        /// How often it was tried.
        attempts: u32,
    },
    /// It is on a machine that is being drained, and no other one passes.
    CannotLeave {
        /// That machine.
        machine: MachineId,
        /// Why it cannot go elsewhere.
        why: Box<Waiting>,
    },
    /// One of its options cannot be read.
    Invalid(Box<OptionsError>),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMachines => f.write_str("there are no machines"),
            Self::MachineAbsent { wanted } | Self::Pinned { wanted } if wanted.is_empty() => {
                f.write_str(NAMES_NONE)
            }
            Self::MachineAbsent { wanted } => write!(f, "MachineID {wanted}, which is not present"),
            Self::Pinned { wanted } => write!(f, "MachineID is {wanted}"),
            Self::PeerUnscheduled { peer } => write!(f, "MachineOf {peer}, which is not scheduled"),
            Self::PeersApart { one, other } => {
                write!(
                    f,
                    "MachineOf {one} and {other}, which are on different machines"
                )
            }
            Self::StillOn { machine } => write!(f, "still being stopped on {}", machine.short()),
            Self::NoFit { obstacles, more } => {
                for (i, (machine, obstacle)) in obstacles.iter().enumerate() {
                    let comma = if i > 0 { "; " } else { "" };
                    write!(f, "{comma}{}", AtMachine(obstacle, machine))?;
                }
                if obstacles.is_empty() {
                    f.write_str("no machine fits")?;
                }
                if *more > 0 {
                    write!(f, "; and {more} more machines")?;
                }
                Ok(())
            }
            Self::Contradiction => {
                f.write_str("the rules of this unit and of others contradict each other")
            }
            Self::Settling => f.write_str("being taken off its last machine"),
            Self::Order {
                unit,
                required: true,
            } => write!(
                f,
                "starts after {unit}, which it requires and which is not active"
            ),
            Self::Order { unit, .. } => write!(f, "starts after {unit}, which is not active yet"),
            Self::Fenced {
                machine: Some(machine),
            } => write!(
                f,
                "Partition=stop: {} is gone and may still be stopping it",
                machine.short()
            ),
            Self::Fenced { machine: None } => {
                f.write_str("Partition=stop: a machine that is gone may still be stopping it")
            }
            Self::Ended { outcome, attempts } => {
                let word = match outcome {
                    Outcome::Success => "has run to its end",
                    Outcome::Failure => "has failed for good",
                };
                let tries = if *attempts == 1 {
                    "attempt"
                } else {
                    "attempts"
                };
                write!(f, "{word} ({attempts} {tries})")
            }
            Self::CannotLeave { machine, why } => {
                write!(
                    f,
                    "cannot leave {}, which is being drained: {why}",
                    machine.short()
                )
            }
            Self::Invalid(error) => write!(f, "{error}"),
        }
    }
}

/// A number of times, as people would say it.
struct Times(u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            2 => f.write_str("twice"),
            n => write!(f, "{n} times"),
        }
    }
}

/// An obstacle with the machine it is on, as people would say it.
struct AtMachine<'a>(&'a Obstacle, &'a MachineId);

impl fmt::Display for AtMachine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.1.short();
        match self.0 {
            Obstacle::OtherMachine { wanted } if wanted.is_empty() => f.write_str(NAMES_NONE),
            Obstacle::OtherMachine { wanted } => write!(f, "{machine} is not {wanted}"),
            Obstacle::Metadata { key } => write!(f, "{machine} has no fitting metadata {key}"),
            Obstacle::PeerAway { peer } => write!(f, "{peer} is not on {machine}"),
            Obstacle::Cordoned => write!(f, "{machine} is cordoned"),
            Obstacle::Memory { .. } | Obstacle::Cpu { .. } => write!(f, "{machine}: {}", self.0),
            other => write!(f, "{other} on {machine}"),
        }
    }
}
