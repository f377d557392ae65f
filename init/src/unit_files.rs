//! Unit files on disk: states for the engine; requests of `systemctl enable` and the like.
use init_control::{ControlError, ErrorKind, Reply, UnitFileRequest, UnitFileState};
use unit_file::UnitName;

use crate::host::System;
/// State of the unit's file and what the presets say.
pub(crate) fn state_and_preset(_unit: &UnitName) -> (Option<UnitFileState>, String) {
    (None, String::new())
}

pub(crate) fn handle(_request: &UnitFileRequest, _system: &System) -> Result<Reply, ControlError> {
    Err(ControlError::new(ErrorKind::NotSupported, "unit files"))
}

pub(crate) fn preset_all(_system: &System) -> Result<(), String> {
    Ok(())
}
