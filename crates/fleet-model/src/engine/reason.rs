//! Why a unit is where it is, or nowhere.

use std::fmt;

use crate::machine::MachineId;
use crate::name::UnitName;

/// Why the schedule changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The machine passed all tests and had the fewest units.
    LeastLoaded {
        /// How many it had.
        load: usize,
    },
    /// Nobody wants the unit on a machine any more.
    NotWanted,
    /// The unit became global; each machine decides alone.
    BecameGlobal,
    /// The machine is gone.
    MachineGone,
    /// The machine no longer passes.
    NoLongerFits(Obstacle),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeastLoaded { load } => {
                write!(f, "least loaded machine that fits ({load} units)")
            }
            Self::NotWanted => f.write_str("target state is inactive"),
            Self::BecameGlobal => f.write_str("unit is global now"),
            Self::MachineGone => f.write_str("machine is gone"),
            Self::NoLongerFits(obstacle) => write!(f, "no longer fits: {obstacle}"),
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
        /// The key.
        key: String,
    },
    /// A unit named in MachineOf is not there.
    PeerAway {
        /// That unit.
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
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherMachine { wanted } => write!(f, "not machine {wanted}"),
            Self::Metadata { key } => write!(f, "no fitting metadata {key}"),
            Self::PeerAway { peer } => write!(f, "{peer} is not there"),
            Self::Conflict { unit } => write!(f, "conflicts with {unit}"),
            Self::ReplacedBy { unit } => write!(f, "replaced by {unit}"),
        }
    }
}

/// Why a wanted unit is on no machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// There are no machines.
    NoMachines,
    /// A unit named in MachineOf is scheduled nowhere.
    PeerUnscheduled {
        /// That unit.
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
        /// The first machines tried, by load, and what was in the way.
        obstacles: Vec<(MachineId, Obstacle)>,
        /// How many more there are.
        more: usize,
    },
    /// It was just taken off a machine; the schedule must settle first.
    Settling,
    /// Placing it takes away what it needs.
    Contradiction,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMachines => f.write_str("there are no machines"),
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
                if *more > 0 {
                    write!(f, "; and {more} more machines")?;
                }
                Ok(())
            }
            Self::Contradiction => {
                f.write_str("the rules of this unit and of others contradict each other")
            }
            Self::Settling => f.write_str("being taken off its last machine"),
        }
    }
}

/// An obstacle with the machine it is on, as people would say it.
struct AtMachine<'a>(&'a Obstacle, &'a MachineId);

impl fmt::Display for AtMachine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.1.short();
        match self.0 {
            Obstacle::OtherMachine { wanted } => write!(f, "{machine} is not {wanted}"),
            Obstacle::Metadata { key } => write!(f, "{machine} has no fitting metadata {key}"),
            Obstacle::PeerAway { peer } => write!(f, "{peer} is not on {machine}"),
            other => write!(f, "{other} on {machine}"),
        }
    }
}
