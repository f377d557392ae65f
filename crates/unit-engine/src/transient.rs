//! Units and settings that clients make: StartTransient, SetUnitProperties.

use init_control::{ControlError, ErrorKind, JobMode, LoadState, Reply, Setting, TransientUnit};
use unit_file::UnitType;
use unit_file::document::{EntryList, OwnedEntry};

use crate::api::{Action, ReplyResult};
use crate::engine::{Cx, Engine};
use crate::job::JobType;
use crate::request::parse;
use crate::unit::Kind;

impl Engine {
    pub(crate) fn start_transient(
        &mut self,
        cx: &mut Cx<'_>,
        unit: &TransientUnit,
        mode: JobMode,
        aux: &[TransientUnit],
    ) -> ReplyResult {
        for part in aux.iter().chain([unit]) {
            self.check_transient(part)?;
        }
        for part in aux.iter().chain([unit]) {
            self.make_transient(cx, part)?;
        }
        let name = parse(&unit.name)?;
        let id = self.load_unit(cx, &name);
        let job = self.add_job(cx, id, JobType::Start, mode)?;
        Ok(Reply::Job {
            id: job,
            unit: self.unit(id).name.to_string(),
        })
    }

    fn check_transient(&self, unit: &TransientUnit) -> Result<(), ControlError> {
        let name = parse(&unit.name)?;
        if !matches!(
            name.unit_type(),
            UnitType::Service
                | UnitType::Scope
                | UnitType::Slice
                | UnitType::Timer
                | UnitType::Socket
                | UnitType::Path
                | UnitType::Mount
        ) {
            let text = format!(
                "Unit type {} does not support transient units.",
                name.unit_type()
            );
            return Err(ControlError::invalid(text));
        }
        if name.unit_type() == UnitType::Scope && unit.pids.is_empty() {
            return Err(ControlError::invalid("A scope needs at least one process."));
        }
        if let Some(id) = self.names.get(&name) {
            let old = self.unit(*id);
            let free = matches!(old.load, LoadState::NotFound | LoadState::Stub)
                || (old.transient
                    && old.active() == init_control::ActiveState::Inactive
                    && old.job.is_none());
            if !free {
                let text = format!("Unit {name} was already loaded or has a fragment file.");
                return Err(ControlError::new(ErrorKind::UnitExists, text));
            }
        }
        Ok(())
    }

    fn make_transient(
        &mut self,
        cx: &mut Cx<'_>,
        unit: &TransientUnit,
    ) -> Result<(), ControlError> {
        let name = parse(&unit.name)?;
        let list = unit
            .settings
            .iter()
            .map(|s| OwnedEntry {
                section: s.section.clone(),
                key: s.key.clone(),
                value: s.value.clone(),
            })
            .collect();
        let body = EntryList(list).to_string();
        let text =
            format!("# This is a transient unit file, created by a client of the manager.\n{body}");
        let path = format!("/run/systemd/transient/{name}");
        cx.out.push(Action::WriteUnitFile {
            path,
            text: text.clone(),
        });
        self.transient_texts.insert(name.clone(), text);
        let id = self.unit_or_stub(&name);
        let old = self.unit_mut(id);
        old.load = LoadState::Stub;
        old.transient = true;
        self.load_queue.push(id);
        self.drain_load_queue(cx);
        let unit_now = self.unit_mut(id);
        if let Kind::Scope(s) = &mut unit_now.run.kind {
            s.pids.clone_from(&unit.pids);
            s.controller = unit.controller.clone().unwrap_or_default();
        }
        if unit_now.load != LoadState::Loaded {
            let text = match &unit_now.load_error {
                Some((_, text)) => text.clone(),
                None => format!("Unit {name} cannot be made."),
            };
            return Err(ControlError::new(ErrorKind::BadUnitSetting, text));
        }
        Ok(())
    }

    pub(crate) fn set_properties(
        &mut self,
        cx: &mut Cx<'_>,
        name: &str,
        runtime: bool,
        settings: &[Setting],
    ) -> ReplyResult {
        let id = self.loaded(name)?;
        let base = if runtime {
            "/run/systemd/system.control"
        } else {
            "/etc/systemd/system.control"
        };
        let unit = self.unit(id);
        for setting in settings {
            let name = &unit.name;
            let path = format!("{base}/{name}.d/50-{}.conf", setting.key);
            let text = format!("[{}]\n{}={}\n", setting.section, setting.key, setting.value);
            cx.out.push(Action::WriteUnitFile { path, text });
        }
        // What concerns the control group takes effect at once; the rest with the next start or reload.
        let mut text = String::new();
        for (section, key, value) in unit.raw.iter() {
            text.push_str(&format!(
                "[{}]\n{}={}\n",
                section,
                key,
                value.replace('%', "%%")
            ));
        }
        for setting in settings {
            text.push_str(&format!(
                "[{}]\n{}={}\n",
                setting.section, setting.key, setting.value
            ));
        }
        let machine = self.machine(cx);
        let name = self.unit(id).name.clone();
        let source = unit_file::load::SourceText {
            path: "",
            text: &text,
        };
        let (config, _) = unit_file::load::load(&name, &[source], &machine);
        let unit = self.unit_mut(id);
        unit.cgroup = std::sync::Arc::new(config.cgroup);
        unit.raw = crate::unit::Assignments::new(&config.raw);
        if unit.run.cgroup_realised && !unit.perpetual {
            unit.run.cgroup_realised = false;
            self.realise_cgroup(cx, id);
        }
        self.changed.insert(id);
        Ok(Reply::Done)
    }
}
