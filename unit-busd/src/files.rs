//! Calls about unit files.

use dbus_api::wire::Value;
use init_control::{EnableFlags, ErrorKind, PresetMode, Reply, Request, UnitFileRequest};

use crate::dispatch::Call;
use crate::step::Step;

fn flags(call: &Call, runtime: usize, force: usize) -> EnableFlags {
    EnableFlags {
        runtime: call.flag(runtime),
        force: call.flag(force),
    }
}

/// Bit 0 runtime, bit 1 force; bit 2 (portable services) means nothing here.
fn flag_bits(call: &Call) -> EnableFlags {
    let bits = call.number(1);
    EnableFlags {
        runtime: bits & 1 != 0,
        force: bits & 2 != 0,
    }
}

/// Changes as `a(sss)`, with a boolean in front where the method has one.
fn change(request: UnitFileRequest, with_info: bool) -> Step {
    Step::ask(Request::UnitFiles(request), move |reply| match reply {
        Reply::UnitFileChanges {
            carries_install_info,
            changes,
        } => {
            let items = changes
                .into_iter()
                .map(|c| {
                    Value::Struct(vec![
                        Value::str(c.kind),
                        Value::str(c.path),
                        Value::str(c.source),
                    ])
                })
                .collect();
            let list = Value::array("(sss)", items);
            Step::Reply(if with_info {
                vec![Value::Bool(carries_install_info), list]
            } else {
                vec![list]
            })
        }
        _ => Step::mismatch(),
    })
}

pub(crate) fn enable(call: &Call) -> Step {
    change(
        UnitFileRequest::Enable {
            files: call.texts(0),
            flags: flags(call, 1, 2),
        },
        true,
    )
}

pub(crate) fn enable_with_flags(call: &Call) -> Step {
    change(
        UnitFileRequest::Enable {
            files: call.texts(0),
            flags: flag_bits(call),
        },
        true,
    )
}

pub(crate) fn disable(call: &Call) -> Step {
    let flags = EnableFlags {
        runtime: call.flag(1),
        force: false,
    };
    change(
        UnitFileRequest::Disable {
            files: call.texts(0),
            flags,
        },
        false,
    )
}

pub(crate) fn disable_with_flags(call: &Call) -> Step {
    change(
        UnitFileRequest::Disable {
            files: call.texts(0),
            flags: flag_bits(call),
        },
        false,
    )
}

pub(crate) fn disable_with_info(call: &Call) -> Step {
    change(
        UnitFileRequest::Disable {
            files: call.texts(0),
            flags: flag_bits(call),
        },
        true,
    )
}

pub(crate) fn reenable(call: &Call) -> Step {
    change(
        UnitFileRequest::Reenable {
            files: call.texts(0),
            flags: flags(call, 1, 2),
        },
        true,
    )
}

pub(crate) fn link(call: &Call) -> Step {
    change(
        UnitFileRequest::Link {
            files: call.texts(0),
            flags: flags(call, 1, 2),
        },
        false,
    )
}

pub(crate) fn preset(call: &Call) -> Step {
    let request = UnitFileRequest::Preset {
        files: call.texts(0),
        mode: PresetMode::Full,
        flags: flags(call, 1, 2),
    };
    change(request, true)
}

/// The mode by its word; empty = full.
fn preset_mode(word: &str) -> Option<PresetMode> {
    if word.is_empty() {
        Some(PresetMode::Full)
    } else {
        PresetMode::from_word(word)
    }
}

fn bad_mode(word: &str) -> Step {
    Step::refuse(
        ErrorKind::InvalidArgs,
        format!("Preset mode {word} invalid"),
    )
}

pub(crate) fn preset_with_mode(call: &Call) -> Step {
    let word = call.text(1);
    let Some(mode) = preset_mode(&word) else {
        return bad_mode(&word);
    };
    change(
        UnitFileRequest::Preset {
            files: call.texts(0),
            mode,
            flags: flags(call, 2, 3),
        },
        true,
    )
}

pub(crate) fn preset_all(call: &Call) -> Step {
    let word = call.text(0);
    let Some(mode) = preset_mode(&word) else {
        return bad_mode(&word);
    };
    change(
        UnitFileRequest::PresetAll {
            mode,
            flags: flags(call, 1, 2),
        },
        false,
    )
}

pub(crate) fn mask(call: &Call) -> Step {
    change(
        UnitFileRequest::Mask {
            files: call.texts(0),
            flags: flags(call, 1, 2),
        },
        false,
    )
}

pub(crate) fn unmask(call: &Call) -> Step {
    let flags = EnableFlags {
        runtime: call.flag(1),
        force: false,
    };
    change(
        UnitFileRequest::Unmask {
            files: call.texts(0),
            flags,
        },
        false,
    )
}

pub(crate) fn revert(call: &Call) -> Step {
    change(
        UnitFileRequest::Revert {
            files: call.texts(0),
        },
        false,
    )
}

pub(crate) fn add_dependency(call: &Call) -> Step {
    let requires = match call.text(2).as_str() {
        "Wants" => false,
        "Requires" => true,
        other => {
            return Step::refuse(
                ErrorKind::InvalidArgs,
                format!("Dependency type {other} invalid"),
            );
        }
    };
    let request = UnitFileRequest::AddDependency {
        files: call.texts(0),
        target: call.text(1),
        requires,
        flags: flags(call, 3, 4),
    };
    change(request, false)
}

pub(crate) fn set_default(call: &Call) -> Step {
    change(
        UnitFileRequest::SetDefaultTarget {
            name: call.text(0),
            force: call.flag(1),
        },
        false,
    )
}

pub(crate) fn default(_: &Call) -> Step {
    text(UnitFileRequest::GetDefaultTarget)
}

fn text(request: UnitFileRequest) -> Step {
    Step::ask(Request::UnitFiles(request), |reply| match reply {
        Reply::Text(text) => Step::Reply(vec![Value::str(text)]),
        _ => Step::mismatch(),
    })
}

pub(crate) fn state(call: &Call) -> Step {
    let request = UnitFileRequest::State { file: call.text(0) };
    Step::ask(Request::UnitFiles(request), |reply| match reply {
        Reply::UnitFileState(state) => Step::Reply(vec![Value::str(state.as_str())]),
        _ => Step::mismatch(),
    })
}

pub(crate) fn list(states: Vec<String>, patterns: Vec<String>) -> Step {
    let request = UnitFileRequest::List { states, patterns };
    Step::ask(Request::UnitFiles(request), |reply| match reply {
        Reply::UnitFiles(list) => {
            let items = list
                .into_iter()
                .map(|entry| {
                    Value::Struct(vec![
                        Value::str(entry.path),
                        Value::str(entry.state.as_str()),
                    ])
                })
                .collect();
            Step::Reply(vec![Value::array("(ss)", items)])
        }
        _ => Step::mismatch(),
    })
}
