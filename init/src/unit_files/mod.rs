//! Unit files on disk: their states, and the requests of `systemctl enable`, `mask`, `preset` and the like.
//!
//! What links a unit wants is decided by [`unit_file::install`]; this module reads files, makes and removes
//! links, and reports each as a change. Links point at the unit's file, by full path.

mod links;
mod state;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use init_control::{
    ControlError, EnableFlags, ErrorKind, PresetMode, Reply, UnitFileChange, UnitFileRequest,
};
use unit_file::UnitName;
use unit_file::install::{Preset, Presets, can_be_preset, carries_install_info, links};
use unit_file::load::SourceText;
use unit_file::settings::InstallSettings;
use unit_file::specifier::MachineInfo;

use crate::glob;
use crate::host::{Effective, UnitDirectories};
use links::{Changes, change, links_below, make_link, remove};

const ETC: &str = "/etc/systemd/system";
const RUN: &str = "/run/systemd/system";
const PRESET_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system-preset",
    "/run/systemd/system-preset",
    "/usr/local/lib/systemd/system-preset",
    "/usr/lib/systemd/system-preset",
];

/// Reads and changes the links of unit files.
#[derive(Debug)]
pub(crate) struct Installer<'a> {
    directories: &'a RefCell<UnitDirectories>,
    machine: MachineInfo,
    etc: PathBuf,
    run: PathBuf,
    presets: Vec<PathBuf>,
}

impl<'a> Installer<'a> {
    /// For the running system.
    pub(crate) fn new(
        directories: &'a RefCell<UnitDirectories>,
        machine: MachineInfo,
    ) -> Installer<'a> {
        let presets = PRESET_DIRECTORIES.iter().map(PathBuf::from).collect();
        Installer {
            directories,
            machine,
            etc: ETC.into(),
            run: RUN.into(),
            presets,
        }
    }

    /// Carries out a request.
    pub(crate) fn handle(&self, request: &UnitFileRequest) -> Result<Reply, ControlError> {
        self.directories.borrow_mut().doubt();
        let mut changes = Changes::new();
        let mut carries = false;
        match request {
            UnitFileRequest::Enable { files, flags } => {
                carries = self.enable(files, *flags, &mut changes)?;
            }
            UnitFileRequest::Disable { files, flags } => {
                self.disable(files, *flags, &mut changes)?;
                // Newer clients explain a unit that cannot be enabled also when it is disabled.
                for file in files {
                    carries |=
                        carries_install_info(&self.install_section(&parse(base_name(file))?));
                }
            }
            UnitFileRequest::Reenable { files, flags } => {
                let names: Vec<String> = files.iter().map(|f| base_name(f).to_owned()).collect();
                self.disable(&names, *flags, &mut changes)?;
                self.directories.borrow_mut().doubt();
                carries = self.enable(files, *flags, &mut changes)?;
            }
            UnitFileRequest::Mask { files, flags } => {
                for file in files {
                    let name = parse(file)?;
                    let link = self.config(flags.runtime).join(name.as_str());
                    make_link(&link, Path::new("/dev/null"), flags.force, &mut changes)?;
                }
            }
            UnitFileRequest::Unmask { files, flags } => {
                for file in files {
                    let link = self.config(flags.runtime).join(parse(file)?.as_str());
                    if fs::read_link(&link).is_ok_and(|t| t == Path::new("/dev/null")) {
                        remove(&link, &mut changes)?;
                    }
                }
            }
            UnitFileRequest::Link { files, flags } => {
                for file in files {
                    self.link(file, *flags, &mut changes)?;
                }
            }
            UnitFileRequest::Preset { files, mode, flags } => {
                for file in files {
                    carries |= self.preset(&parse(file)?, *mode, *flags, &mut changes)?;
                }
            }
            UnitFileRequest::PresetAll { mode, flags } => {
                self.preset_all(*mode, *flags, &mut changes)?;
            }
            UnitFileRequest::Revert { files } => {
                for file in files {
                    self.revert(&parse(file)?, &mut changes)?;
                }
            }
            UnitFileRequest::AddDependency {
                files,
                target,
                requires,
                flags,
            } => {
                let target = parse(target)?;
                for file in files {
                    let name = parse(file)?;
                    let (_, fragment) = self.fragment(&name)?;
                    let kind = if *requires { "requires" } else { "wants" };
                    let link = self
                        .config(flags.runtime)
                        .join(format!("{target}.{kind}/{name}"));
                    make_link(&link, Path::new(&fragment), flags.force, &mut changes)?;
                }
            }
            UnitFileRequest::List { states, patterns } => {
                return Ok(Reply::UnitFiles(self.list(states, patterns)));
            }
            UnitFileRequest::State { file } => return self.state_reply(file),
            UnitFileRequest::GetDefaultTarget => return self.default_target(),
            UnitFileRequest::SetDefaultTarget { name, force } => {
                let name = parse(name)?;
                let (_, fragment) = self.fragment(&name)?;
                make_link(
                    &self.etc.join("default.target"),
                    Path::new(&fragment),
                    *force,
                    &mut changes,
                )?;
            }
        }
        Ok(Reply::UnitFileChanges {
            carries_install_info: carries,
            changes,
        })
    }

    /// First boot: everything as the presets say; a unit that cannot be is passed over.
    pub(crate) fn preset_everything(&self) -> Result<(), ControlError> {
        let flags = EnableFlags {
            runtime: false,
            force: true,
        };
        self.preset_all(PresetMode::Full, flags, &mut Changes::new())
    }

    fn config(&self, runtime: bool) -> &Path {
        if runtime { &self.run } else { &self.etc }
    }

    /// The file a name stands for: its real name and path.
    fn fragment(&self, name: &UnitName) -> Result<(UnitName, String), ControlError> {
        let files = self.directories.borrow_mut().unit_files(name);
        if files.mask != unit_engine::api::MaskState::No {
            return Err(ControlError::new(
                ErrorKind::UnitMasked,
                format!("Unit {name} is masked."),
            ));
        }
        let id = files.id.unwrap_or_else(|| name.clone());
        match files.fragment {
            Some(file) => Ok((id, file.path)),
            None => Err(ControlError::new(
                ErrorKind::NoSuchUnit,
                format!("Unit file {name} does not exist."),
            )),
        }
    }

    fn install_section(&self, name: &UnitName) -> InstallSettings {
        let files = self.directories.borrow_mut().unit_files(name);
        let paths = files
            .fragment
            .iter()
            .chain(&files.drop_ins)
            .map(|f| f.path.clone());
        let texts: Vec<(String, String)> = paths
            .filter_map(|p| crate::text::read_string(&p).ok().map(|t| (p, t)))
            .collect();
        let sources: Vec<SourceText<'_>> = texts
            .iter()
            .map(|(path, text)| SourceText { path, text })
            .collect();
        unit_file::load::load(name, &sources, &self.machine)
            .0
            .install
    }

    /// Makes the links of units, and of those that they name with Also=. True if any has an [Install] section.
    fn enable(
        &self,
        files: &[String],
        flags: EnableFlags,
        changes: &mut Changes,
    ) -> Result<bool, ControlError> {
        let mut waiting: Vec<String> = files.to_vec();
        let mut seen = BTreeSet::new();
        let mut carries = false;
        while let Some(file) = waiting.pop() {
            if file.starts_with('/') {
                self.link(&file, flags, changes)?;
                self.directories.borrow_mut().doubt();
            }
            let name = parse(base_name(&file))?;
            let (id, fragment) = self.fragment(&name)?;
            if !seen.insert(id.clone()) {
                continue;
            }
            let install = self.install_section(&id);
            carries |= carries_install_info(&install);
            let wanted = links(&id, &install)
                .map_err(|e| ControlError::new(ErrorKind::BadUnitSetting, e.to_string()))?;
            for link in wanted {
                let path = self.config(flags.runtime).join(&link.path);
                let in_place = link.alias && self.is_alias_of(&link.path, &id);
                if !in_place {
                    make_link(&path, Path::new(&fragment), flags.force, changes)?;
                }
            }
            waiting.extend(install.also);
        }
        Ok(carries)
    }

    /// Whether the name already stands for the unit, by a link of the image.
    fn is_alias_of(&self, alias: &str, id: &UnitName) -> bool {
        let Ok(alias) = UnitName::parse(alias) else {
            return false;
        };
        self.directories.borrow_mut().unit_files(&alias).id.as_ref() == Some(id)
    }

    /// Removes every link to the units from the configuration directory.
    fn disable(
        &self,
        files: &[String],
        flags: EnableFlags,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let mut waiting: Vec<UnitName> = files
            .iter()
            .map(|f| parse(base_name(f)))
            .collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        while let Some(name) = waiting.pop() {
            let exists = self.fragment(&name);
            if names.is_empty() && exists.is_err() && self.links_to(&name, flags.runtime).is_empty()
            {
                return exists.map(|_| ());
            }
            if names.insert(name.clone()) {
                waiting.extend(
                    self.install_section(&name)
                        .also
                        .iter()
                        .filter_map(|a| UnitName::parse(a).ok()),
                );
            }
        }
        for link in names
            .iter()
            .flat_map(|n| self.links_to(n, flags.runtime))
            .collect::<BTreeSet<_>>()
        {
            remove(&link, changes)?;
            if let Some(dir) = link.parent().filter(|d| *d != self.etc && *d != self.run) {
                // It goes when it is empty.
                let _ = fs::remove_dir(dir);
            }
        }
        Ok(())
    }

    /// Links in a configuration directory that belong to the unit; for a template those of its instances, too.
    fn links_to(&self, name: &UnitName, runtime: bool) -> Vec<PathBuf> {
        let is_it = |candidate: &str| {
            candidate == name.as_str()
                || name.is_template()
                    && UnitName::parse(candidate).is_ok_and(|c| c.template().as_ref() == Some(name))
        };
        let mut found = Vec::new();
        for (path, target) in links_below(self.config(runtime)) {
            let file = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            let to = target
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if target != Path::new("/dev/null") && (is_it(file) || is_it(to)) {
                found.push(path);
            }
        }
        found
    }

    fn link(
        &self,
        file: &str,
        flags: EnableFlags,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let path = Path::new(file);
        let name = parse(base_name(file))?;
        if !path.is_absolute() {
            return Err(ControlError::invalid(format!(
                "{file} is not an absolute path."
            )));
        }
        if !path.is_file() {
            return Err(ControlError::new(
                ErrorKind::FileNotFound,
                format!("Unit file {file} does not exist."),
            ));
        }
        let known = self.directories.borrow_mut().effective(name.as_str());
        if known.is_some_and(|(dir, _)| Path::new(&dir) == path.parent().unwrap_or(path)) {
            return Ok(());
        }
        make_link(
            &self.config(flags.runtime).join(name.as_str()),
            path,
            flags.force,
            changes,
        )
    }

    fn preset_rules(&self) -> Presets {
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for entry in self
            .presets
            .iter()
            .filter_map(|d| fs::read_dir(d).ok())
            .flat_map(|d| d.flatten())
        {
            if let Some(name) = entry
                .file_name()
                .to_str()
                .filter(|n| n.ends_with(".preset"))
            {
                files.entry(name.to_owned()).or_insert_with(|| entry.path());
            }
        }
        let texts: Vec<String> = files
            .values()
            .filter_map(|p| crate::text::read_string(p).ok())
            .collect();
        Presets::parse(texts.iter().map(String::as_str))
    }

    fn preset_word(&self, name: &UnitName) -> String {
        match self.preset_rules().of(name, glob::matches) {
            Preset::Enable(_) => "enabled".to_owned(),
            Preset::Disable => "disabled".to_owned(),
            Preset::Ignore => String::new(),
        }
    }

    fn preset(
        &self,
        name: &UnitName,
        mode: PresetMode,
        flags: EnableFlags,
        changes: &mut Changes,
    ) -> Result<bool, ControlError> {
        match self.preset_rules().of(name, glob::matches) {
            Preset::Enable(instances) if mode != PresetMode::DisableOnly => {
                let instances: Vec<String> = instances
                    .iter()
                    .filter_map(|i| name.with_instance(i).ok())
                    .map(|n| n.as_str().to_owned())
                    .collect();
                let names = if name.is_template() && !instances.is_empty() {
                    instances
                } else {
                    vec![name.as_str().to_owned()]
                };
                self.enable(&names, flags, changes)
            }
            Preset::Disable if mode != PresetMode::EnableOnly => self
                .disable(&[name.as_str().to_owned()], flags, changes)
                .map(|()| false),
            _ => Ok(false),
        }
    }

    fn preset_all(
        &self,
        mode: PresetMode,
        flags: EnableFlags,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let names = self.directories.borrow_mut().names();
        for name in names
            .iter()
            .filter_map(|n| UnitName::parse(n).ok())
            .filter(|n| can_be_preset(n.unit_type()))
        {
            let kind = self.directories.borrow_mut().effective(name.as_str());
            let ours = kind
                .is_some_and(|(dir, kind)| kind == Effective::File && !dir.starts_with("/run/"));
            if !ours || !carries_install_info(&self.install_section(&name)) {
                continue;
            }
            if let Err(error) = self.preset(&name, mode, flags, changes) {
                changes.push(UnitFileChange {
                    kind: "error".to_owned(),
                    path: name.as_str().to_owned(),
                    source: error.message,
                });
            }
        }
        Ok(())
    }

    /// Drops the operator's version and drop-ins where the image has a version of its own.
    fn revert(&self, name: &UnitName, changes: &mut Changes) -> Result<(), ControlError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |e: std::io::Error| ControlError::new(ErrorKind::Failed, format!("{path}: {e}"))
        };
        let vendor = ["/usr/local/lib/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .any(|d| Path::new(d).join(name.as_str()).exists());
        for base in [&self.etc, &self.run] {
            let drop_ins = base.join(format!("{name}.d"));
            if drop_ins.is_dir() {
                fs::remove_dir_all(&drop_ins).map_err(failed(&drop_ins))?;
                changes.push(change("unlink", &drop_ins, ""));
            }
            let own = base.join(name.as_str());
            if vendor && own.symlink_metadata().is_ok() {
                remove(&own, changes)?;
            }
        }
        Ok(())
    }

    fn default_target(&self) -> Result<Reply, ControlError> {
        let name = parse("default.target")?;
        self.fragment(&name)
            .map(|(id, _)| Reply::Text(id.as_str().to_owned()))
    }
}

fn parse(name: &str) -> Result<UnitName, ControlError> {
    UnitName::parse(name)
        .map_err(|_| ControlError::invalid(format!("Invalid unit name \"{name}\".")))
}

fn base_name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use init_control::UnitFileState;

    use super::*;

    struct Tree {
        dir: tempfile::TempDir,
        units: RefCell<UnitDirectories>,
    }

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Tree {
            let dir = tempfile::tempdir().unwrap();
            let path = ["etc", "usr"].map(|d| {
                fs::create_dir(dir.path().join(d)).unwrap();
                dir.path().join(d).display().to_string()
            });
            for (name, text) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Tree {
                dir,
                units: RefCell::new(UnitDirectories::new(path.to_vec())),
            }
        }

        fn installer(&self) -> Installer<'_> {
            Installer {
                directories: &self.units,
                machine: MachineInfo::default(),
                etc: self.dir.path().join("etc"),
                run: self.dir.path().join("run"),
                presets: vec![self.dir.path().join("presets")],
            }
        }

        fn ask(&self, request: UnitFileRequest) -> Result<Vec<String>, ControlError> {
            match self.installer().handle(&request)? {
                Reply::UnitFileChanges { changes, .. } => {
                    let short = |p: &str| p.replace(self.dir.path().to_str().unwrap(), "");
                    Ok(changes
                        .iter()
                        .map(|c| {
                            format!("{} {} {}", c.kind, short(&c.path), short(&c.source))
                                .trim_end()
                                .to_owned()
                        })
                        .collect())
                }
                other => panic!("{other:?}"),
            }
        }

        fn state(&self, name: &str) -> Option<UnitFileState> {
            self.units.borrow_mut().doubt();
            self.installer()
                .state_and_preset(&UnitName::parse(name).unwrap())
                .0
        }
    }

    const WANTED: &str =
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=b.service\n";

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn enable(list: &[&str]) -> UnitFileRequest {
        UnitFileRequest::Enable {
            files: names(list),
            flags: EnableFlags::default(),
        }
    }

    #[test]
    fn enabling_twice_changes_nothing_the_second_time_and_disabling_undoes_it() {
        let tree = Tree::new(&[("usr/a.service", WANTED)]);
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Disabled));
        let made = tree.ask(enable(&["a.service"])).unwrap();
        assert_eq!(
            made,
            [
                "symlink /etc/b.service /usr/a.service",
                "symlink /etc/multi-user.target.wants/a.service /usr/a.service"
            ]
        );
        assert_eq!(
            tree.ask(enable(&["a.service"])).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Enabled));
        assert_eq!(tree.state("b.service"), Some(UnitFileState::Alias));
        let request = UnitFileRequest::Disable {
            files: names(&["a.service"]),
            flags: EnableFlags::default(),
        };
        assert_eq!(
            tree.ask(request).unwrap(),
            [
                "unlink /etc/b.service",
                "unlink /etc/multi-user.target.wants/a.service"
            ]
        );
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Disabled));
        assert!(!tree.dir.path().join("etc/multi-user.target.wants").exists());
    }

    #[test]
    fn masks_hide_and_come_off_again() {
        let tree = Tree::new(&[("usr/a.service", WANTED)]);
        let flags = EnableFlags::default();
        tree.ask(UnitFileRequest::Mask {
            files: names(&["a.service"]),
            flags,
        })
        .unwrap();
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Masked));
        assert_eq!(
            tree.ask(enable(&["a.service"])).unwrap_err().kind,
            ErrorKind::UnitMasked
        );
        tree.ask(UnitFileRequest::Unmask {
            files: names(&["a.service"]),
            flags,
        })
        .unwrap();
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Disabled));
    }

    #[test]
    fn units_without_install_section_are_static_and_missing_ones_are_told() {
        let tree = Tree::new(&[("usr/s.service", "[Service]\nExecStart=/bin/true\n")]);
        assert_eq!(tree.state("s.service"), Some(UnitFileState::Static));
        assert_eq!(tree.state("nosuch.service"), None);
        let error = tree.ask(enable(&["nosuch.service"])).unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (
                ErrorKind::NoSuchUnit,
                "Unit file nosuch.service does not exist."
            )
        );
    }

    #[test]
    fn presets_enable_instances_and_disable_the_rest() {
        let tree = Tree::new(&[
            ("usr/a.service", WANTED),
            (
                "usr/getty@.service",
                "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=getty.target\n",
            ),
            (
                "presets/90.preset",
                "enable getty@.service tty1\ndisable *\n",
            ),
        ]);
        let request = UnitFileRequest::PresetAll {
            mode: PresetMode::Full,
            flags: EnableFlags::default(),
        };
        assert_eq!(
            tree.ask(request.clone()).unwrap(),
            ["symlink /etc/getty.target.wants/getty@tty1.service /usr/getty@.service"]
        );
        assert_eq!(
            tree.ask(request).unwrap(),
            Vec::<String>::new(),
            "a second preset-all changes nothing"
        );
        assert_eq!(
            tree.state("getty@tty1.service"),
            Some(UnitFileState::Enabled)
        );
        assert_eq!(tree.state("a.service"), Some(UnitFileState::Disabled));
    }

    #[test]
    fn files_from_elsewhere_are_linked_and_the_default_target_follows() {
        let tree = Tree::new(&[
            ("opt/x.service", WANTED),
            ("usr/multi-user.target", "[Unit]\nDescription=m\n"),
        ]);
        let file = tree.dir.path().join("opt/x.service").display().to_string();
        let made = tree
            .ask(UnitFileRequest::Link {
                files: vec![file],
                flags: EnableFlags::default(),
            })
            .unwrap();
        assert_eq!(made, ["symlink /etc/x.service /opt/x.service"]);
        assert_eq!(tree.state("x.service"), Some(UnitFileState::Linked));
        tree.ask(UnitFileRequest::SetDefaultTarget {
            name: "multi-user.target".to_owned(),
            force: true,
        })
        .unwrap();
        let reply = tree
            .installer()
            .handle(&UnitFileRequest::GetDefaultTarget)
            .unwrap();
        assert_eq!(reply, Reply::Text("multi-user.target".to_owned()));
    }
}
