//! Loading units: files to settings, settings and implicit rules to dependency edges.
//!
//! Everything a unit mentions is loaded too, so that orders written on either side are known. Re-reading
//! (daemon-reload) clears all edges and runs the same code for every loaded unit, keeping its runtime.

use std::sync::Arc;

use init_control::{ErrorKind, LoadState};
use unit_file::load::{SourceText, TypeSettings, UnitConfig};
use unit_file::settings::{CgroupSettings, ExecSettings};
use unit_file::{Level, UnitName, UnitType};

use crate::api::{LogLevel, MaskState, UnitFiles};
use crate::engine::{Cx, Engine};
use crate::graph::{Deps, REFERENCES, UnitId, inverse};
use crate::unit::{Assignments, Kind, Unit};

impl Engine {
    /// The unit of this name, as a stub if it is new.
    pub(crate) fn unit_or_stub(&mut self, name: &UnitName) -> UnitId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let unit = Box::new(Unit::new(name.clone()));
        let id = match self.free.pop() {
            Some(id) => {
                self.units[id.0 as usize] = Some(unit);
                id
            }
            None => {
                self.units.push(Some(unit));
                UnitId(self.units.len() as u32 - 1)
            }
        };
        self.names.insert(name.clone(), id);
        self.load_queue.push(id);
        self.gc_queue.insert(id);
        id
    }

    /// Loads a unit and all it mentions; a unit that was not found, and that nothing holds, is tried again.
    pub(crate) fn load_unit(&mut self, cx: &mut Cx<'_>, name: &UnitName) -> UnitId {
        let id = self.unit_or_stub(name);
        let unit = self.unit(id);
        let retry = matches!(
            unit.load,
            LoadState::NotFound | LoadState::BadSetting | LoadState::Error | LoadState::Masked
        ) && unit.job.is_none()
            && crate::state::is_inactive_or_failed(unit.active());
        if retry {
            self.unit_mut(id).load = LoadState::Stub;
            self.load_queue.push(id);
        }
        self.drain_load_queue(cx);
        self.names.get(name).copied().unwrap_or(id)
    }

    /// Loads everything that was mentioned so far.
    pub(crate) fn drain_load_queue(&mut self, cx: &mut Cx<'_>) {
        while let Some(id) = self.load_queue.pop() {
            if self.get(id).is_some_and(|u| u.load == LoadState::Stub) {
                self.load_one(cx, id);
            }
        }
        for id in std::mem::take(&mut self.target_queue) {
            self.order_target(id);
        }
    }

    fn load_one(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let name = self.unit(id).name.clone();
        if name.is_template() {
            let text = format!("Unit name {name} is missing the instance name.");
            self.set_load_error(id, LoadState::BadSetting, ErrorKind::InvalidArgs, text);
            return;
        }
        let files = cx.host.unit_files(&name);
        if let Some(real) = files.id.clone().filter(|r| *r != name && !r.is_template()) {
            if real.unit_type() == name.unit_type() {
                self.merge(cx, id, &real);
                return;
            }
            let text = format!("Unit {name} is an alias of {real}, which is of another type.");
            self.set_load_error(id, LoadState::BadSetting, ErrorKind::BadUnitSetting, text);
            return;
        }
        let transient_text = self.transient_texts.get(&name).cloned();
        if transient_text.is_none() && files.mask == MaskState::Masked {
            let text = format!("Unit {name} is masked.");
            self.unit_mut(id).fragment = files.fragment.clone();
            self.set_load_error(id, LoadState::Masked, ErrorKind::UnitMasked, text);
            return;
        }
        for alias in &files.aliases {
            if alias.unit_type() == name.unit_type() && !self.names.contains_key(alias) {
                self.names.insert(alias.clone(), id);
                self.unit_mut(id).aliases.push(alias.clone());
            }
        }
        let needs_file = match name.unit_type() {
            UnitType::Device | UnitType::Slice => false,
            UnitType::Mount => !self.is_mounted(id),
            UnitType::Scope => name.as_str() != "init.scope",
            _ => true,
        };
        if needs_file && files.fragment.is_none() && transient_text.is_none() {
            let text = format!("Unit {name} not found.");
            self.set_load_error(id, LoadState::NotFound, ErrorKind::NoSuchUnit, text);
            return;
        }
        match self.read_config(cx, &name, &files, transient_text) {
            Ok((config, error)) => self.adopt(cx, id, files, config, error),
            Err(text) => self.set_load_error(id, LoadState::Error, ErrorKind::LoadFailed, text),
        }
    }

    fn set_load_error(&mut self, id: UnitId, load: LoadState, kind: ErrorKind, text: String) {
        let unit = self.unit_mut(id);
        unit.load = load;
        unit.load_error = Some((kind, text));
        unit.raw = Assignments::default();
        self.tell_loaded(id);
    }

    /// To be loaded is no change of a unit that nobody knows yet: it is announced at the end of the turn, if it is still
    /// there then. So a look at a forgotten unit, which loads it for a moment, makes no news.
    fn tell_loaded(&mut self, id: UnitId) {
        if self.unit(id).announced {
            self.changed.insert(id);
        } else {
            self.new_units.push(id);
        }
    }

    /// Reads and parses; the second part is the first error that spoils the unit.
    fn read_config(
        &mut self,
        cx: &mut Cx<'_>,
        name: &UnitName,
        files: &UnitFiles,
        transient_text: Option<String>,
    ) -> Result<(UnitConfig, Option<String>), String> {
        let mut texts: Vec<(String, String)> = Vec::new();
        if let Some(text) = transient_text {
            texts.push((format!("/run/systemd/transient/{name}"), text));
        } else if let Some(file) = &files.fragment {
            let text = cx
                .host
                .read_unit_file(&file.path)
                .map_err(|e| e.to_string())?;
            texts.push((file.path.clone(), text));
        } else {
            texts.push((String::new(), String::new()));
        }
        for file in &files.drop_ins {
            match cx.host.read_unit_file(&file.path) {
                Ok(text) => texts.push((file.path.clone(), text)),
                Err(e) if e.missing => {}
                Err(e) => self.log(
                    cx,
                    LogLevel::Warning,
                    None,
                    format!("drop-in not read: {e}"),
                ),
            }
        }
        let sources: Vec<SourceText<'_>> = texts
            .iter()
            .map(|(path, text)| SourceText { path, text })
            .collect();
        let machine = self.machine(cx);
        let (config, remarks) = unit_file::load::load(name, &sources, &machine);
        let mut error = None;
        for remark in remarks {
            // A mount that the kernel shows needs no What=.
            let forgiven = files.fragment.is_none() && name.unit_type() == UnitType::Mount;
            if remark.level == Level::Error && !forgiven && error.is_none() {
                error = Some(remark.to_string());
            }
            if remark.level == Level::Warning || !forgiven {
                let level = match remark.level {
                    Level::Warning => LogLevel::Warning,
                    Level::Error => LogLevel::Error,
                };
                self.log(cx, level, Some(name.clone()), remark.to_string());
            }
        }
        Ok((config, error))
    }

    fn adopt(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        files: UnitFiles,
        mut config: UnitConfig,
        error: Option<String>,
    ) {
        let exec = self.intern_exec(std::mem::take(&mut config.exec));
        let cgroup = self.intern_cgroup(std::mem::take(&mut config.cgroup));
        let made = self.transient_texts.contains_key(&self.unit(id).name);
        let unit = self.unit_mut(id);
        unit.fragment.clone_from(&files.fragment);
        unit.drop_ins.clone_from(&files.drop_ins);
        unit.transient = files.transient || made;
        let unit = self.unit_mut(id);
        unit.exec = exec;
        unit.cgroup = cgroup;
        unit.raw = Assignments::new(&config.raw);
        let mut settings = config.unit;
        let description = settings.description.take().map(String::into_boxed_str);
        let kept = files.fragment.is_none() && !unit.transient;
        unit.description = description.or(unit.description.take().filter(|_| kept));
        // It is told from the assignments.
        settings.documentation = Vec::new();
        unit.settings = Arc::new(settings);
        match (&mut unit.run.kind, config.kind) {
            (Kind::Service(s), TypeSettings::Service(new)) => s.settings = Arc::from(new),
            (Kind::Socket(s), TypeSettings::Socket(new)) => s.settings = Arc::from(new),
            (Kind::Mount(m), TypeSettings::Mount(mut new)) => {
                if new.where_.is_empty() {
                    new.where_ = unit.name.to_path().unwrap_or_default();
                }
                m.settings = Arc::from(new);
            }
            (Kind::Timer(t), TypeSettings::Timer(new)) => t.settings = Arc::from(new),
            (Kind::Path(p), TypeSettings::Path(new)) => p.settings = Arc::from(new),
            (Kind::Scope(s), TypeSettings::Scope(new)) => s.settings = Arc::from(new),
            _ => {}
        }
        if let Some(text) = error {
            self.set_load_error(id, LoadState::BadSetting, ErrorKind::BadUnitSetting, text);
            return;
        }
        unit.load = LoadState::Loaded;
        unit.load_error = None;
        self.tell_loaded(id);
        self.place_in_slice(id);
        self.add_dependencies(cx, id, &files);
    }

    /// Makes `id` another name of `real`.
    fn merge(&mut self, cx: &mut Cx<'_>, id: UnitId, real: &UnitName) {
        let target = self.unit_or_stub(real);
        if target == id {
            return;
        }
        if self.unit(target).load == LoadState::Stub {
            self.load_one(cx, target);
        }
        let target = self.names.get(real).copied().unwrap_or(target);
        if target == id {
            return;
        }
        let unit = self.units[id.0 as usize]
            .take()
            .expect("the unit was just looked at");
        for edge in unit.edges.all() {
            if edge.other == target {
                continue;
            }
            if let Some(other) = self.get_mut(edge.other) {
                other.edges.remove_unit(id);
                other.edges.add(target, inverse(edge.deps));
            }
            self.unit_mut(target).edges.add(edge.other, edge.deps);
        }
        self.unit_mut(target).edges.remove_unit(id);
        for name in unit.aliases.iter().chain([&unit.name]) {
            self.names.insert(name.clone(), target);
            let main = self.unit_mut(target);
            if main.name != *name && !main.aliases.contains(name) {
                main.aliases.push(name.clone());
            }
        }
        self.forget_id(id);
    }

    /// Adds an edge and its inverse; every mention keeps the other loaded.
    pub(crate) fn link(&mut self, id: UnitId, other: UnitId, deps: Deps) {
        self.link_weakly(id, other, deps.or(REFERENCES));
    }

    /// As [`Engine::link`], without keeping the other loaded.
    pub(crate) fn link_weakly(&mut self, id: UnitId, other: UnitId, deps: Deps) {
        if id == other {
            return;
        }
        self.unit_mut(id).edges.add(other, deps);
        self.unit_mut(other).edges.add(id, inverse(deps));
    }

    /// Links to a unit by name; a bad name is a warning.
    pub(crate) fn link_name(&mut self, cx: &mut Cx<'_>, id: UnitId, name: &str, deps: Deps) {
        match UnitName::parse(name) {
            Ok(name) if !name.is_template() => {
                let other = self.unit_or_stub(&name);
                self.link(id, other, deps);
            }
            Ok(_) | Err(_) => {
                let unit = self.unit(id).name.clone();
                let text =
                    format!("{unit}: dependency on {name:?}, which is no unit name, ignored");
                self.log(cx, LogLevel::Warning, Some(unit), text);
            }
        }
    }

    pub(crate) fn link_known(&mut self, id: UnitId, name: &str, deps: Deps) {
        if let Ok(name) = UnitName::parse(name) {
            let other = self.unit_or_stub(&name);
            self.link(id, other, deps);
        }
    }

    /// Reads everything again, keeping runtime state (daemon-reload).
    pub(crate) fn reload_all(&mut self, cx: &mut Cx<'_>) {
        self.machine = None;
        self.mount_files.clear();
        let ids: Vec<UnitId> = self.ids().collect();
        for id in &ids {
            let unit = self.unit_mut(*id);
            unit.edges.clear();
            unit.load = LoadState::Stub;
            unit.load_error = None;
            unit.settings = Arc::default();
            unit.description = None;
            let aliases = std::mem::take(&mut unit.aliases);
            for alias in aliases {
                self.names.remove(&alias);
            }
        }
        self.load_queue = ids.clone();
        self.drain_load_queue(cx);
        self.gc_queue.extend(ids);
    }

    /// Have the unit's files changed since they were read?
    pub(crate) fn needs_reload(&self, cx: &Cx<'_>, id: UnitId) -> bool {
        let unit = self.unit(id);
        // A transient unit has no file that could have changed.
        if unit.transient || !matches!(unit.load, LoadState::Loaded | LoadState::Masked) {
            return false;
        }
        let files = cx.host.unit_files(&unit.name);
        if files.id.as_ref().is_some_and(|i| *i != unit.name) {
            return true;
        }
        files.fragment != unit.fragment
            || (unit.load == LoadState::Loaded
                && (files.drop_ins != unit.drop_ins || files.mask == MaskState::Masked))
    }

    fn intern_exec(&mut self, exec: ExecSettings) -> Arc<ExecSettings> {
        intern(&mut self.exec_cache, exec)
    }

    fn intern_cgroup(&mut self, cgroup: CgroupSettings) -> Arc<CgroupSettings> {
        intern(&mut self.cgroup_cache, cgroup)
    }
}

/// Shares equal values: most units have one of a few execution contexts.
pub(crate) fn intern<T: PartialEq>(cache: &mut Vec<Arc<T>>, value: impl Into<Arc<T>>) -> Arc<T> {
    const KEPT: usize = 16;
    let value = value.into();
    if let Some(known) = cache.iter().find(|c| **c == value) {
        return known.clone();
    }
    if cache.len() == KEPT {
        cache.retain(|c| Arc::strong_count(c) > 1);
        cache.truncate(KEPT - 1);
    }
    cache.push(value.clone());
    value
}
