//! From texts to a typed unit: fragment and drop-ins in order, keys dispatched by section.

mod cgroup;
mod exec;
mod line;
mod sandbox;
mod types;
mod unit;

use crate::diagnostic::{Diagnostic, Level};
use crate::document;
use crate::name::{UnitName, UnitType};
use crate::settings::{
    CgroupSettings, ExecSettings, InstallSettings, ListenKind, MountSettings, OomPolicy,
    PathSettings, Restart, ScopeSettings, ServiceSettings, ServiceType, SocketSettings,
    TimerSettings, UnitSettings,
};
use crate::specifier::{MachineInfo, Specifiers};
use line::Line;

/// One file of a unit, in the order of application.
#[derive(Debug, Clone, Copy)]
pub struct SourceText<'a> {
    /// Its path, for diagnostics and `%y`.
    pub path: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// An effective assignment: specifiers expanded, resets applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSetting {
    /// Section.
    pub section: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// The section of the unit's own type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "one variant per unit type")]
pub enum TypeSettings {
    Service(Box<ServiceSettings>),
    Socket(Box<SocketSettings>),
    Timer(Box<TimerSettings>),
    Mount(Box<MountSettings>),
    Path(Box<PathSettings>),
    Scope(Box<ScopeSettings>),
    /// Types without settings of their own (target, slice, device) or that this manager does not run.
    None,
}

/// A unit as its files describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitConfig {
    /// [Unit].
    pub unit: UnitSettings,
    /// [Install].
    pub install: InstallSettings,
    /// The section of the type.
    pub kind: TypeSettings,
    /// Execution context (service, socket, mount).
    pub exec: ExecSettings,
    /// Resource control (service, socket, mount, slice, scope).
    pub cgroup: CgroupSettings,
    /// All assignments, for properties.
    pub raw: Vec<RawSetting>,
    /// Sections starting with `X-`, as written: (section, key, value).
    pub extensions: Vec<RawSetting>,
}

impl UnitConfig {
    /// The defaults of a type.
    pub fn new(unit_type: UnitType) -> UnitConfig {
        let kind = match unit_type {
            UnitType::Service => TypeSettings::Service(Box::default()),
            UnitType::Socket => TypeSettings::Socket(Box::default()),
            UnitType::Timer => TypeSettings::Timer(Box::default()),
            UnitType::Mount => TypeSettings::Mount(Box::default()),
            UnitType::Path => TypeSettings::Path(Box::default()),
            UnitType::Scope => TypeSettings::Scope(Box::default()),
            _ => TypeSettings::None,
        };
        UnitConfig {
            unit: UnitSettings::default(),
            install: InstallSettings::default(),
            kind,
            exec: ExecSettings::default(),
            cgroup: CgroupSettings::default(),
            raw: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

/// Reads a unit from its files. Diagnostics of level Error mean: `bad-setting`.
pub fn load(
    name: &UnitName,
    sources: &[SourceText<'_>],
    machine: &MachineInfo,
) -> (UnitConfig, Vec<Diagnostic>) {
    let mut config = UnitConfig::new(name.unit_type());
    let mut remarks = Vec::new();
    let fragment_path = sources.first().map_or("", |s| s.path);
    let specifiers = Specifiers {
        unit: name,
        machine,
        fragment_path,
    };
    for source in sources {
        let (entries, syntax) = document::parse(source.text);
        let path = source.path;
        remarks.extend(syntax.into_iter().map(|d| Diagnostic {
            path: path.to_owned(),
            ..d
        }));
        for entry in entries {
            let line = Line {
                value: &entry.value,
                specifiers: &specifiers,
            };
            let mut note = |level, message| {
                remarks.push(Diagnostic {
                    path: path.to_owned(),
                    line: entry.line,
                    level,
                    message,
                });
            };
            match apply(
                &mut config,
                name.unit_type(),
                entry.section,
                entry.key,
                line,
            ) {
                Ok(true) => remember(&mut config.raw, entry.section, entry.key, line),
                Ok(false) if entry.section.starts_with("X-") => {
                    config.extensions.push(RawSetting {
                        section: entry.section.to_owned(),
                        key: entry.key.to_owned(),
                        value: entry.value.to_string(),
                    });
                }
                Ok(false) if entry.key.starts_with("X-") => {}
                Ok(false) => note(
                    Level::Warning,
                    format!(
                        "unknown key {:?} in section [{}], ignored",
                        entry.key, entry.section
                    ),
                ),
                Err(message) => match message.strip_prefix(types::FATAL) {
                    Some(message) => {
                        note(Level::Error, format!("{}= {message}", entry.key));
                    }
                    None => note(
                        Level::Warning,
                        format!("{}= {message}, line ignored", entry.key),
                    ),
                },
            }
        }
    }
    finish(&mut config);
    if let Err(message) = check(name, &config) {
        remarks.push(Diagnostic {
            path: fragment_path.to_owned(),
            line: 0,
            level: Level::Error,
            message,
        });
    }
    (config, remarks)
}

fn apply(
    config: &mut UnitConfig,
    unit_type: UnitType,
    section: &str,
    key: &str,
    l: Line<'_>,
) -> line::Taken {
    match section {
        "Unit" => return unit::apply(&mut config.unit, key, l),
        "Install" => return unit::apply_install(&mut config.install, key, l),
        _ => {}
    }
    if unit_type.section() != Some(section) {
        return Ok(false);
    }
    let taken = match &mut config.kind {
        TypeSettings::Service(s) => types::service(s, &mut config.unit, key, l)?,
        TypeSettings::Socket(s) => types::socket(s, key, l)?,
        TypeSettings::Timer(t) => return types::timer(t, key, l),
        TypeSettings::Mount(m) => types::mount(m, key, l)?,
        TypeSettings::Path(p) => return types::path(p, key, l),
        TypeSettings::Scope(s) => types::scope(s, key, l)?,
        TypeSettings::None => false,
    };
    if taken || cgroup::apply(&mut config.cgroup, key, l)? {
        return Ok(true);
    }
    match unit_type {
        UnitType::Service | UnitType::Socket | UnitType::Mount | UnitType::Swap => {
            exec::apply(&mut config.exec, key, l)
        }
        _ => Ok(false),
    }
}

/// Remembers an assignment; an empty one forgets the earlier ones.
fn remember(raw: &mut Vec<RawSetting>, section: &str, key: &str, l: Line<'_>) {
    if l.is_empty() {
        raw.retain(|r| r.section != section || r.key != key);
        return;
    }
    let value = l.expand(l.value).unwrap_or_else(|_| l.value.to_owned());
    raw.push(RawSetting {
        section: section.to_owned(),
        key: key.to_owned(),
        value,
    });
}

/// Defaults that depend on other settings.
fn finish(config: &mut UnitConfig) {
    if let TypeSettings::Service(s) = &mut config.kind {
        if s.service_type == ServiceType::Oneshot && !s.timeout_start_set {
            s.timeout_start_usec = crate::settings::INFINITY;
        }
        let notifies = matches!(
            s.service_type,
            ServiceType::Notify | ServiceType::NotifyReload
        );
        if s.notify_access == crate::settings::NotifyAccess::None
            && (notifies || s.watchdog_usec > 0 || s.file_descriptor_store_max > 0)
        {
            s.notify_access = crate::settings::NotifyAccess::Main;
        }
        config.cgroup.memory_oom_group = s.oom_policy == Some(OomPolicy::Kill);
    }
    if let TypeSettings::Socket(s) = &mut config.kind
        && s.trigger_limit_burst == u32::MAX
    {
        s.trigger_limit_burst = if s.accept { 200 } else { 20 };
    }
    if config.exec.dynamic_user {
        config.exec.private_tmp = true;
        config.exec.remove_ipc = true;
        config.exec.no_new_privileges = true;
        config.exec.restrict_suid_sgid = true;
        if config.exec.protect_system == crate::settings::ProtectSystem::No {
            config.exec.protect_system = crate::settings::ProtectSystem::Strict;
        }
        if config.exec.protect_home == crate::settings::ProtectHome::No {
            config.exec.protect_home = crate::settings::ProtectHome::ReadOnly;
        }
    }
}

/// What makes a unit unusable although every line reads well.
fn check(name: &UnitName, config: &UnitConfig) -> Result<(), String> {
    let fail = |text: &str| Err(format!("{name}: {text}"));
    match &config.kind {
        TypeSettings::Service(s) => {
            let oneshot = s.service_type == ServiceType::Oneshot;
            if s.exec_start.is_empty() && !oneshot {
                return fail("has no ExecStart=, which only Type=oneshot may lack");
            }
            if s.exec_start.is_empty() && s.exec_stop.is_empty() && !s.remain_after_exit {
                // systemd refuses a oneshot without any command unless something else acts.
                if config.unit.success_action == crate::settings::EmergencyAction::None {
                    return fail("has neither ExecStart= nor ExecStop=");
                }
            }
            if s.exec_start.len() > 1 && !oneshot {
                return fail("has more than one ExecStart=, which only Type=oneshot may have");
            }
            if oneshot && matches!(s.restart, Restart::Always | Restart::OnSuccess) {
                return fail("has Restart=always or on-success, which Type=oneshot may not have");
            }
            if s.service_type == ServiceType::Dbus && s.bus_name.is_none() {
                return fail("is of Type=dbus but has no BusName=");
            }
        }
        TypeSettings::Socket(s) => {
            if s.listen.is_empty() {
                return fail("has no Listen setting");
            }
            let streams = s
                .listen
                .iter()
                .all(|l| matches!(l.kind, ListenKind::Stream | ListenKind::SequentialPacket));
            if s.accept && !streams {
                return fail("has Accept=yes for a socket that takes no connections");
            }
            if s.accept && s.service.is_some() {
                return fail("has both Accept=yes and Service=");
            }
        }
        TypeSettings::Timer(t) => {
            if t.monotonic.is_empty() && t.calendar.is_empty() && !t.on_clock_change {
                return fail("has no On… setting");
            }
        }
        TypeSettings::Mount(m) => {
            if m.what.is_empty() {
                return fail("has no What=");
            }
            let expected = UnitName::from_path(&m.where_, UnitType::Mount).ok();
            if !m.where_.is_empty() && expected.as_ref() != Some(name) {
                return fail("has a Where= that does not match its name");
            }
        }
        TypeSettings::Path(p) => {
            if p.specs.is_empty() {
                return fail("has no path setting");
            }
        }
        TypeSettings::Scope(_) | TypeSettings::None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
