//! Dependency edges of a loaded unit: those its files name, and those that follow from its type.

use std::sync::Arc;

use unit_file::settings::{ExecSettings, MountSettings, ServiceType, StdOutput};
use unit_file::{UnitName, UnitType};

use crate::api::{MaskState, UnitFiles};
use crate::engine::{Cx, Engine};
use crate::graph::{
    AFTER, BEFORE, BINDS_TO, CONFLICTS, Deps, IN_SLICE, JOINS_NAMESPACE_OF, ON_FAILURE, ON_SUCCESS,
    PART_OF, PROPAGATES_RELOAD_TO, PROPAGATES_STOP_TO, RELOAD_PROPAGATED_FROM, REQUIRES, REQUISITE,
    STOP_PROPAGATED_FROM, TRIGGERS, UPHOLDS, UnitId, WANTS,
};
use crate::unit::Kind;

/// File systems that need the network.
const NETWORK_TYPES: [&str; 12] = [
    "afs",
    "ceph",
    "cifs",
    "gfs",
    "gfs2",
    "glusterfs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "sshfs",
];

impl Engine {
    pub(crate) fn place_in_slice(&mut self, id: UnitId) {
        let unit = self.unit(id);
        let name = unit.name.clone();
        let slice = match name.unit_type() {
            UnitType::Slice => parent_slice(&name),
            UnitType::Service | UnitType::Socket | UnitType::Mount | UnitType::Scope => {
                Some(match (name.as_str(), unit.cgroup.slice.as_deref()) {
                    ("init.scope", _) => "-.slice".to_owned(),
                    (_, Some(s)) if s.ends_with(".slice") => s.to_owned(),
                    _ => default_slice(&name),
                })
            }
            _ => return,
        };
        let slice = slice.and_then(|s| UnitName::parse(&s).ok());
        let path = match (&slice, name.as_str()) {
            (_, "-.slice") => "/".to_owned(),
            (_, "init.scope") => "/init.scope".to_owned(),
            (_, n) if name.unit_type() == UnitType::Slice => slice_path(n),
            (Some(s), n) => format!("{}/{n}", slice_path(s.as_str()).trim_end_matches('/')),
            (None, n) => format!("/{n}"),
        };
        if let Some(slice) = &slice {
            let other = self.unit_or_stub(slice);
            self.link(id, other, REQUIRES.or(AFTER).or(IN_SLICE));
        }
        self.cgroups.insert(path.clone(), id);
        let unit = self.unit_mut(id);
        unit.slice = slice;
        // The group that runs keeps its path until the unit stops.
        if !unit.run.cgroup_realised || unit.cgroup_path.is_none() {
            unit.cgroup_path = Some(path);
        }
    }

    pub(crate) fn add_dependencies(&mut self, cx: &mut Cx<'_>, id: UnitId, files: &UnitFiles) {
        let mut shared = std::mem::take(&mut self.unit_mut(id).settings);
        let settings = Arc::make_mut(&mut shared);
        let lists: [(&mut Vec<String>, Deps); 16] = [
            (&mut settings.wants, WANTS),
            (&mut settings.requires, REQUIRES),
            (&mut settings.requisite, REQUISITE),
            (&mut settings.binds_to, BINDS_TO),
            (&mut settings.part_of, PART_OF),
            (&mut settings.upholds, UPHOLDS),
            (&mut settings.conflicts, CONFLICTS),
            (&mut settings.before, BEFORE),
            (&mut settings.after, AFTER),
            (&mut settings.on_failure, ON_FAILURE),
            (&mut settings.on_success, ON_SUCCESS),
            (&mut settings.propagates_reload_to, PROPAGATES_RELOAD_TO),
            (&mut settings.reload_propagated_from, RELOAD_PROPAGATED_FROM),
            (&mut settings.propagates_stop_to, PROPAGATES_STOP_TO),
            (&mut settings.stop_propagated_from, STOP_PROPAGATED_FROM),
            (&mut settings.joins_namespace_of, JOINS_NAMESPACE_OF),
        ];
        for (list, deps) in lists {
            // The edges hold the names from here on.
            for name in std::mem::take(list) {
                self.link_name(cx, id, &name, deps);
            }
        }
        for (list, deps) in [
            (&files.wants, WANTS),
            (&files.requires, REQUIRES),
            (&files.upholds, UPHOLDS),
        ] {
            for name in list {
                self.link_name(cx, id, name, deps);
            }
        }
        let unit_type = self.unit(id).name.unit_type();
        let mut mounts = std::mem::take(&mut settings.requires_mounts_for);
        if unit_type == UnitType::Service {
            let exec = self.unit(id).exec.clone();
            exec_mounts(&exec, &mut mounts);
            self.exec_dependencies(id, &exec);
        }
        settings.requires_mounts_for = mounts;
        self.unit_mut(id).settings = shared;
        self.type_dependencies(cx, id);
        self.default_dependencies(id);
        let mut shared = std::mem::take(&mut self.unit_mut(id).settings);
        for path in std::mem::take(&mut Arc::make_mut(&mut shared).requires_mounts_for) {
            self.require_mounts(cx, id, &path);
        }
        self.unit_mut(id).settings = crate::load::intern(&mut self.unit_cache, shared);
    }

    /// Requires and After on every mount unit along a path.
    fn require_mounts(&mut self, cx: &mut Cx<'_>, id: UnitId, path: &str) {
        let mut end = path.len();
        loop {
            let prefix = if end == 0 { "/" } else { &path[..end] };
            if let Ok(name) = UnitName::from_path(prefix, UnitType::Mount) {
                let exists = match self.names.get(&name).copied() {
                    Some(other) => {
                        let unit = self.unit(other);
                        unit.fragment.is_some()
                            || self.is_mounted(other)
                            || self.has_mount_file(cx, &name)
                    }
                    None => self.has_mount_file(cx, &name),
                };
                if exists && self.names.get(&name) != Some(&id) {
                    let other = self.unit_or_stub(&name);
                    self.link(id, other, REQUIRES.or(AFTER));
                }
            }
            match path[..end].rfind('/') {
                Some(at) if end > 0 => end = at,
                _ => break,
            }
        }
    }

    fn has_mount_file(&mut self, cx: &mut Cx<'_>, name: &UnitName) -> bool {
        if let Some(known) = self.mount_files.get(name) {
            return *known;
        }
        let files = cx.host.unit_files(name);
        let found = files.fragment.is_some() && files.mask == MaskState::No;
        self.mount_files.insert(name.clone(), found);
        found
    }

    /// A mount came into being: units that need a path below it now depend on it.
    pub(crate) fn mount_appeared(&mut self, id: UnitId) {
        let Kind::Mount(m) = &self.unit(id).run.kind else {
            return;
        };
        let place = m.settings.where_.clone();
        let below = |path: &str| {
            place == "/"
                || path == place
                || path
                    .strip_prefix(&place)
                    .is_some_and(|r| r.starts_with('/'))
        };
        let users: Vec<UnitId> = self
            .ids()
            .filter(|other| {
                *other != id
                    && self
                        .unit(*other)
                        .settings
                        .requires_mounts_for
                        .iter()
                        .any(|p| below(p))
            })
            .collect();
        for user in users {
            self.link(user, id, REQUIRES.or(AFTER));
        }
    }

    fn exec_dependencies(&mut self, id: UnitId, exec: &ExecSettings) {
        let name = self.unit(id).name.clone();
        let to_journal = |o: &StdOutput| {
            matches!(
                o,
                StdOutput::Journal | StdOutput::JournalConsole | StdOutput::Inherit
            )
        };
        let journal_itself = name.as_str().starts_with("systemd-journald");
        let own_stdio = exec.standard_input != unit_file::settings::StdInput::Null
            && exec.standard_output == StdOutput::Inherit;
        if !journal_itself
            && !own_stdio
            && (to_journal(&exec.standard_output) || to_journal(&exec.standard_error))
        {
            self.link_known(id, "systemd-journald.socket", AFTER);
        }
        if exec.private_tmp {
            self.link_known(id, "systemd-tmpfiles-setup.service", AFTER);
        }
    }

    /// Edges that follow from the type's own section.
    fn type_dependencies(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let unit = self.unit(id);
        let name = unit.name.clone();
        let defaults = unit.settings.default_dependencies;
        match &unit.run.kind {
            Kind::Service(s) => {
                let settings = s.settings.clone();
                for socket in &settings.sockets {
                    self.link_name(
                        cx,
                        id,
                        socket,
                        WANTS.or(AFTER).or(crate::graph::TRIGGERED_BY),
                    );
                }
                if settings.service_type == ServiceType::Dbus {
                    self.link_known(id, "dbus.socket", REQUIRES.or(AFTER));
                }
            }
            Kind::Socket(s) if !s.settings.accept => {
                let service = s.settings.service.clone();
                self.trigger(cx, id, &name, service.as_deref());
            }
            Kind::Socket(_) => {}
            Kind::Timer(t) => {
                let (target, calendar) = (t.settings.unit.clone(), !t.settings.calendar.is_empty());
                self.trigger(cx, id, &name, target.as_deref());
                if defaults && calendar {
                    self.link_known(id, "time-sync.target", AFTER);
                    self.link_known(id, "time-set.target", AFTER);
                }
            }
            Kind::Path(p) => {
                let settings = p.settings.clone();
                self.trigger(cx, id, &name, settings.unit.as_deref());
                let unit = self.unit_mut(id);
                Arc::make_mut(&mut unit.settings)
                    .requires_mounts_for
                    .extend(settings.specs.iter().map(|s| s.path.clone()));
            }
            Kind::Mount(m) => {
                let settings = m.settings.clone();
                self.mount_dependencies(cx, id, &settings);
            }
            _ => {}
        }
    }

    fn trigger(&mut self, cx: &mut Cx<'_>, id: UnitId, name: &UnitName, other: Option<&str>) {
        let other = match other {
            Some(other) => other.to_owned(),
            None => format!("{}.service", name.stem()),
        };
        self.link_name(cx, id, &other, BEFORE.or(TRIGGERS));
    }

    fn mount_dependencies(&mut self, cx: &mut Cx<'_>, id: UnitId, settings: &MountSettings) {
        let parent = settings
            .where_
            .rsplit_once('/')
            .map_or("", |(p, _)| p)
            .to_owned();
        if settings.where_ != "/" && !settings.where_.is_empty() {
            let parent = if parent.is_empty() {
                "/".to_owned()
            } else {
                parent
            };
            Arc::make_mut(&mut self.unit_mut(id).settings)
                .requires_mounts_for
                .push(parent);
        }
        let from_file = self.unit(id).fragment.is_some();
        let options = settings.options.as_deref().unwrap_or("");
        let has = |option: &str| options.split(',').any(|o| o == option);
        if from_file {
            if let Some(device) = device_of(&settings.what) {
                let deps = if has("x-systemd.device-bound") {
                    BINDS_TO
                } else {
                    REQUIRES
                };
                self.link_name(cx, id, &device, deps.or(AFTER).or(STOP_PROPAGATED_FROM));
                let wait = options
                    .split(',')
                    .find_map(|o| o.strip_prefix("x-systemd.device-timeout="));
                if let Some(span) = wait.and_then(unit_file::value::parse_span)
                    && let Ok(name) = UnitName::parse(&device)
                {
                    let span = if span == 0 { u64::MAX } else { span };
                    self.device_timeouts.insert(name, span);
                }
            } else if settings.what.starts_with('/') && (has("bind") || has("rbind")) {
                Arc::make_mut(&mut self.unit_mut(id).settings)
                    .requires_mounts_for
                    .push(settings.what.clone());
            }
        }
        let name = self.unit(id).name.clone();
        if !self.unit(id).settings.default_dependencies || is_api_mount(&settings.where_) {
            return;
        }
        let kind = settings.fs_type.as_deref().unwrap_or("");
        let network =
            NETWORK_TYPES.contains(&kind) || kind.starts_with("fuse.ssh") || has("_netdev");
        let (before, after) = if network {
            ("remote-fs.target", "remote-fs-pre.target")
        } else {
            ("local-fs.target", "local-fs-pre.target")
        };
        if network {
            self.link_known(id, "network-online.target", WANTS.or(AFTER));
            self.link_known(id, "network.target", AFTER);
        }
        if name.as_str() != "-.mount" && name.as_str() != "usr.mount" {
            self.link_known(id, after, AFTER);
            if !has("nofail") {
                self.link_known(id, before, BEFORE);
            }
            self.link_known(id, "umount.target", BEFORE.or(CONFLICTS));
        }
        self.mount_appeared(id);
    }

    /// The dependencies of DefaultDependencies=yes.
    fn default_dependencies(&mut self, id: UnitId) {
        let unit = self.unit(id);
        if !unit.settings.default_dependencies || unit.perpetual {
            return;
        }
        let unit_type = unit.name.unit_type();
        let special_target =
            unit_type == UnitType::Target && unit.name.as_str() == "shutdown.target";
        let down = |engine: &mut Engine| {
            engine.link_known(id, "shutdown.target", BEFORE.or(CONFLICTS));
        };
        match unit_type {
            UnitType::Service => {
                self.link_known(id, "sysinit.target", REQUIRES.or(AFTER));
                self.link_known(id, "basic.target", AFTER);
                down(self);
            }
            UnitType::Socket | UnitType::Timer | UnitType::Path => {
                let set = match unit_type {
                    UnitType::Socket => "sockets.target",
                    UnitType::Timer => "timers.target",
                    _ => "paths.target",
                };
                self.link_known(id, set, BEFORE);
                self.link_known(id, "sysinit.target", REQUIRES.or(AFTER));
                down(self);
            }
            UnitType::Target if !special_target => {
                down(self);
                self.target_queue.push(id);
            }
            UnitType::Slice | UnitType::Scope => down(self),
            _ => {}
        }
    }

    /// A target comes after what it pulls in, unless that says otherwise.
    pub(crate) fn order_target(&mut self, id: UnitId) {
        let Some(unit) = self.get(id) else { return };
        let pulled = WANTS.or(REQUIRES).or(REQUISITE).or(BINDS_TO).or(UPHOLDS);
        let later: Vec<UnitId> = unit
            .edges
            .all()
            .iter()
            .filter(|e| e.deps.has(pulled) && !e.deps.has(BEFORE) && !e.deps.has(AFTER))
            .map(|e| e.other)
            .filter(|o| {
                self.get(*o)
                    .is_some_and(|u| u.settings.default_dependencies)
            })
            .collect();
        for other in later {
            self.link(id, other, AFTER);
        }
    }
}

/// Paths that the execution context needs mounted.
fn exec_mounts(exec: &ExecSettings, out: &mut Vec<String>) {
    let mut add = |path: String| {
        if path.starts_with('/') && !out.contains(&path) {
            out.push(path);
        }
    };
    if let Some(path) = exec.working_directory.as_ref().and_then(|w| w.path.clone()) {
        add(path);
    }
    if let Some(path) = &exec.root_directory {
        add(path.clone());
    }
    if exec.private_tmp {
        add("/tmp".to_owned());
        add("/var/tmp".to_owned());
    }
    for directory in &exec.directories {
        for name in &directory.names {
            add(format!("{}/{name}", directory.kind.base()));
        }
    }
}

/// The slice a slice is in; `None` for the root.
fn parent_slice(name: &UnitName) -> Option<String> {
    let stem = name.stem();
    if stem == "-" {
        return None;
    }
    Some(match stem.rsplit_once('-') {
        Some((parent, _)) if !parent.is_empty() => format!("{parent}.slice"),
        _ => "-.slice".to_owned(),
    })
}

/// `a-b.slice` → `/a.slice/a-b.slice`.
pub(crate) fn slice_path(name: &str) -> String {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    if stem == "-" {
        return "/".to_owned();
    }
    let mut out = String::new();
    for (at, _) in stem.match_indices('-') {
        if at > 0 {
            out.push_str(&format!("/{}.slice", &stem[..at]));
        }
    }
    out.push_str(&format!("/{stem}.slice"));
    out
}

fn default_slice(name: &UnitName) -> String {
    if name.is_instance() && name.unit_type() == UnitType::Service {
        let prefix = name.prefix().replace('-', "\\x2d");
        return format!("system-{prefix}.slice");
    }
    "system.slice".to_owned()
}

/// The device unit that a mount source names.
pub(crate) fn device_of(what: &str) -> Option<String> {
    let path = match what.split_once('=') {
        Some((tag, value)) => {
            let kind = match tag {
                "LABEL" => "by-label",
                "UUID" => "by-uuid",
                "PARTLABEL" => "by-partlabel",
                "PARTUUID" => "by-partuuid",
                _ => return None,
            };
            format!("/dev/disk/{kind}/{}", encode_label(value.trim_matches('"')))
        }
        None if what.starts_with("/dev/") => what.to_owned(),
        None => return None,
    };
    UnitName::from_path(&path, UnitType::Device)
        .ok()
        .map(|n| n.to_string())
}

/// Label bytes as they stand in /dev/disk/by-label.
fn encode_label(label: &str) -> String {
    let mut out = String::new();
    for c in label.chars() {
        if c.is_alphanumeric() || "#+-.:=@_".contains(c) {
            out.push(c);
        } else {
            for b in c.to_string().bytes() {
                out.push_str(&format!("\\x{b:02x}"));
            }
        }
    }
    out
}

/// Mounts that PID 1 makes itself and that stay until the end.
pub(crate) fn is_api_mount(place: &str) -> bool {
    const API: [&str; 8] = [
        "/proc", "/sys", "/dev", "/run", "/dev/shm", "/dev/pts", "/", "/usr",
    ];
    API.contains(&place)
        || place.starts_with("/sys/")
        || place.starts_with("/proc/")
        || place == "/etc"
}

#[cfg(test)]
mod tests {
    use super::{device_of, slice_path};

    #[test]
    fn slices() {
        for (name, path) in [
            ("-.slice", "/"),
            ("system.slice", "/system.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(slice_path(name), path);
        }
    }

    #[test]
    fn devices() {
        assert_eq!(device_of("/dev/vdb").as_deref(), Some("dev-vdb.device"));
        assert_eq!(
            device_of("LABEL=a b").as_deref(),
            Some("dev-disk-by\\x2dlabel-a\\x5cx20b.device")
        );
        assert_eq!(device_of("tmpfs"), None);
    }
}
