//! States of unit files, as `systemctl is-enabled` and `list-unit-files` print them.

use std::path::{Path, PathBuf};

use init_control::{ControlError, ErrorKind, Reply, UnitFileEntry, UnitFileState};
use unit_file::UnitName;
use unit_file::install::carries_install_info;

use super::links::links_below;
use super::{Installer, base_name, parse};
use crate::glob;
use crate::host::Effective;

impl Installer<'_> {
    /// State of the unit's file and what the presets say: `enabled`, `disabled`, or nothing.
    pub(crate) fn state_and_preset(&self, name: &UnitName) -> (Option<UnitFileState>, String) {
        let state = self.state(name, &self.existing_links());
        let preset = match state {
            Some(
                UnitFileState::Enabled
                | UnitFileState::Disabled
                | UnitFileState::EnabledRuntime
                | UnitFileState::Static,
            ) => self.preset_word(name),
            _ => String::new(),
        };
        (state, preset)
    }

    pub(super) fn list(&self, states: &[String], patterns: &[String]) -> Vec<UnitFileEntry> {
        let links = self.existing_links();
        let names = self.directories.borrow_mut().names();
        let mut found = Vec::new();
        for name in names.iter().filter_map(|n| UnitName::parse(n).ok()) {
            if !patterns.is_empty() && !patterns.iter().any(|p| glob::matches(p, name.as_str())) {
                continue;
            }
            let Some(state) = self
                .state(&name, &links)
                .filter(|s| states.is_empty() || states.iter().any(|w| w == s.as_str()))
            else {
                continue;
            };
            let dir = self
                .directories
                .borrow_mut()
                .effective(name.as_str())
                .map(|(d, _)| d)
                .unwrap_or_default();
            let preset = if matches!(state, UnitFileState::Enabled | UnitFileState::Disabled) {
                self.preset_word(&name)
            } else {
                String::new()
            };
            found.push(UnitFileEntry {
                path: format!("{dir}/{name}"),
                state,
                preset,
            });
        }
        found
    }

    pub(super) fn state_reply(&self, file: &str) -> Result<Reply, ControlError> {
        let name = parse(base_name(file))?;
        let missing = || {
            ControlError::new(
                ErrorKind::FileNotFound,
                format!("No such file or directory: {name}"),
            )
        };
        self.state(&name, &self.existing_links())
            .map(Reply::UnitFileState)
            .ok_or_else(missing)
    }

    /// Links of both configuration directories: (of /run, path, target).
    fn existing_links(&self) -> Vec<(bool, PathBuf, PathBuf)> {
        let of = |runtime: bool| {
            links_below(self.config(runtime))
                .into_iter()
                .map(move |(p, t)| (runtime, p, t))
        };
        of(false).chain(of(true)).collect()
    }

    fn state(&self, name: &UnitName, links: &[(bool, PathBuf, PathBuf)]) -> Option<UnitFileState> {
        let own = self.directories.borrow_mut().effective(name.as_str());
        let template = name.template().filter(|_| name.is_instance());
        let by_template = || {
            self.directories
                .borrow_mut()
                .effective(template.as_ref()?.as_str())
        };
        let (dir, kind) = own.or_else(by_template)?;
        let runtime = dir.starts_with("/run/");
        match kind {
            Effective::Mask if runtime => return Some(UnitFileState::MaskedRuntime),
            Effective::Mask => return Some(UnitFileState::Masked),
            Effective::Alias => return Some(UnitFileState::Alias),
            Effective::File => {}
        }
        if dir.contains("/systemd/generator") {
            return Some(UnitFileState::Generated);
        }
        if dir == "/run/systemd/transient" {
            return Some(UnitFileState::Transient);
        }
        let base = |p: &Path| {
            p.file_name()
                .and_then(|n| n.to_str())
                .map(str::to_owned)
                .unwrap_or_default()
        };
        let is_instance_of_us = |n: &str| {
            name.is_template()
                && UnitName::parse(n).is_ok_and(|u| u.template().as_ref() == Some(name))
        };
        let (mut in_etc, mut in_run, mut instance) = (false, false, false);
        for (of_run, path, target) in links {
            let top = path.parent() == Some(&self.etc) || path.parent() == Some(&self.run);
            let file = base(path);
            let counts = if top {
                file != name.as_str() && base(target) == name.as_str()
            } else {
                file == name.as_str()
            };
            instance |= !top && is_instance_of_us(&file);
            in_run |= counts && *of_run;
            in_etc |= counts && !*of_run;
        }
        let install = self.install_section(name);
        let default = install
            .default_instance
            .as_ref()
            .and_then(|i| name.with_instance(i).ok());
        if instance && default.is_some_and(|d| links.iter().any(|(_, p, _)| base(p) == d.as_str()))
        {
            in_etc = true;
        }
        let linked = links.iter().any(|(_, p, t)| {
            base(p) == name.as_str()
                && base(t) == name.as_str()
                && (p.parent() == Some(&self.etc) || p.parent() == Some(&self.run))
        });
        Some(match () {
            () if in_etc => UnitFileState::Enabled,
            () if in_run => UnitFileState::EnabledRuntime,
            () if linked && runtime => UnitFileState::LinkedRuntime,
            () if linked => UnitFileState::Linked,
            () if instance => UnitFileState::Indirect,
            () if !carries_install_info(&install) => UnitFileState::Static,
            () if install.wanted_by.is_empty()
                && install.required_by.is_empty()
                && install.upheld_by.is_empty()
                && install.alias.is_empty() =>
            {
                UnitFileState::Indirect
            }
            () => UnitFileState::Disabled,
        })
    }
}
