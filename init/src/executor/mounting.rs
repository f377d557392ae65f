//! Mount units: mount, remount and unmount in the manager's own namespace, in a child, because any of them
//! may hang. Exit status 0 done, 32 failed with one line on standard error.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};

use super::Run;
use crate::probe;

const FAILED: i32 = 32;

/// Performs the operation and returns the exit status.
pub(super) fn perform(run: &Run) -> i32 {
    let result = match run {
        Run::Mount {
            what,
            where_,
            fs_type,
            options,
            directory_mode,
            read_write_only,
        } => mount_unit(
            what,
            where_,
            fs_type.as_deref(),
            options,
            *directory_mode,
            *read_write_only,
        ),
        Run::Remount { where_, options } => {
            let parsed = Options::parse(options);
            mount_remount(where_.as_str(), parsed.flags, parsed.data().as_c_str())
                .map_err(|e| format!("remount {where_}: {e}"))
        }
        Run::Unmount {
            where_,
            lazy,
            force,
        } => {
            let mut flags = UnmountFlags::NOFOLLOW;
            flags.set(UnmountFlags::DETACH, *lazy);
            flags.set(UnmountFlags::FORCE, *force);
            match unmount(where_.as_str(), flags) {
                // Somebody was quicker; the result is the same.
                Err(rustix::io::Errno::INVAL) if !is_mount_point(where_) => Ok(()),
                result => result.map_err(|e| format!("unmount {where_}: {e}")),
            }
        }
        Run::Exec { .. } => Err("no mount operation".to_owned()),
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("{message}\n").as_bytes());
            FAILED
        }
    }
}

fn mount_unit(
    what: &str,
    where_: &str,
    fs_type: Option<&str>,
    options: &str,
    mode: u32,
    read_write_only: bool,
) -> Result<(), String> {
    let parsed = Options::parse(options);
    let source = resolve(what);
    make_mount_point(Path::new(where_), &source, mode, parsed.bind.is_some())
        .map_err(|e| format!("make {where_}: {e}"))?;
    if let Some(recursive) = parsed.bind {
        return bind(&source, where_, recursive, parsed.flags)
            .map_err(|e| format!("bind {} to {where_}: {e}", source.display()));
    }
    let found;
    let kind = match fs_type {
        Some(kind) if kind != "auto" => kind,
        _ => {
            found = probe::device(&source)
                .map_err(|e| format!("read {}: {e}", source.display()))?
                .fs_type;
            found
                .as_deref()
                .ok_or_else(|| format!("{} holds no known file system", source.display()))?
        }
    };
    helper(kind, &source, where_, options)?;
    let kind_c = CString::new(kind).unwrap_or_default();
    let attempt = |flags| {
        mount(
            &source,
            where_,
            kind_c.as_c_str(),
            flags,
            Some(parsed.data().as_c_str()),
        )
    };
    let result = match attempt(parsed.flags) {
        Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS)
            if !read_write_only && !parsed.flags.contains(MountFlags::RDONLY) =>
        {
            attempt(parsed.flags | MountFlags::RDONLY)
        }
        result => result,
    };
    result.map_err(|e| format!("mount {} at {where_} as {kind}: {e}", source.display()))?;
    match parsed.propagation {
        Some(propagation) => mount_change(where_, propagation)
            .map_err(|e| format!("set the propagation of {where_}: {e}")),
        None => Ok(()),
    }
}

fn bind(source: &Path, where_: &str, recursive: bool, flags: MountFlags) -> rustix::io::Result<()> {
    if recursive {
        mount_bind_recursive(source, where_)?;
    } else {
        mount_bind(source, where_)?;
    }
    if flags.is_empty() {
        return Ok(());
    }
    mount_remount(where_, flags | MountFlags::BIND, c"")
}

/// Hands over to `/sbin/mount.TYPE` where there is one (network file systems). Returns only if there is none.
fn helper(kind: &str, source: &Path, where_: &str, options: &str) -> Result<(), String> {
    let program = format!("/sbin/mount.{kind}");
    if !Path::new(&program).exists() {
        return Ok(());
    }
    let mut command = Command::new(&program);
    command.arg(source).arg(where_);
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    Err(format!("run {program}: {}", command.exec()))
}

/// The device behind `LABEL=` and its kin; other sources as they are.
fn resolve(what: &str) -> PathBuf {
    let Some((tag, value)) = what.split_once('=') else {
        return PathBuf::from(what);
    };
    match tag {
        "LABEL" | "UUID" | "PARTLABEL" | "PARTUUID" => {
            let value = value.trim_matches('"');
            Path::new("/dev/disk")
                .join(format!("by-{}", tag.to_lowercase()))
                .join(probe::encode_name(value))
        }
        _ => PathBuf::from(what),
    }
}

fn make_mount_point(path: &Path, source: &Path, mode: u32, is_bind: bool) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.exists() {
        return Ok(());
    }
    if is_bind && source.is_file() {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        return std::fs::File::create(path).map(|_| ());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
}

fn is_mount_point(path: &str) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|t| crate::mounts::parse(&t).iter().any(|m| m.where_ == path))
}

/// Mount options, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Those that the kernel knows as flags.
    pub(crate) flags: MountFlags,
    /// Those for the file system.
    pub(crate) rest: Vec<String>,
    /// `bind` or `rbind`.
    pub(crate) bind: Option<bool>,
    /// `shared`, `private` …
    pub(crate) propagation: Option<MountPropagationFlags>,
}

impl Options {
    /// Takes a comma-separated list apart and drops what is meant for user space.
    pub(crate) fn parse(text: &str) -> Options {
        let mut out = Options {
            flags: MountFlags::empty(),
            rest: Vec::new(),
            bind: None,
            propagation: None,
        };
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let (flag, on) = match option {
                "ro" => (MountFlags::RDONLY, true),
                "rw" => (MountFlags::RDONLY, false),
                "nosuid" => (MountFlags::NOSUID, true),
                "suid" => (MountFlags::NOSUID, false),
                "nodev" => (MountFlags::NODEV, true),
                "dev" => (MountFlags::NODEV, false),
                "noexec" => (MountFlags::NOEXEC, true),
                "exec" => (MountFlags::NOEXEC, false),
                "sync" => (MountFlags::SYNCHRONOUS, true),
                "async" => (MountFlags::SYNCHRONOUS, false),
                "dirsync" => (MountFlags::DIRSYNC, true),
                "noatime" => (MountFlags::NOATIME, true),
                "atime" => (MountFlags::NOATIME, false),
                "nodiratime" => (MountFlags::NODIRATIME, true),
                "relatime" => (MountFlags::RELATIME, true),
                "strictatime" => (MountFlags::STRICTATIME, true),
                "lazytime" => (MountFlags::LAZYTIME, true),
                "silent" => (MountFlags::SILENT, true),
                "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser"
                | "users" | "owner" | "group" | "loop" => continue,
                "bind" => {
                    out.bind = Some(false);
                    continue;
                }
                "rbind" => {
                    out.bind = Some(true);
                    continue;
                }
                other => {
                    out.other(other);
                    continue;
                }
            };
            out.flags.set(flag, on);
        }
        out
    }

    fn other(&mut self, option: &str) {
        let base = match option.trim_start_matches('r') {
            "shared" => Some(MountPropagationFlags::SHARED),
            "private" => Some(MountPropagationFlags::PRIVATE),
            "slave" => Some(MountPropagationFlags::DOWNSTREAM),
            "unbindable" => Some(MountPropagationFlags::UNBINDABLE),
            _ => None,
        };
        if let Some(mut flags) = base {
            flags.set(MountPropagationFlags::REC, option.starts_with('r'));
            self.propagation = Some(flags);
        } else if !option.starts_with("x-") && !option.starts_with("comment=") {
            self.rest.push(option.to_owned());
        }
    }

    fn data(&self) -> CString {
        CString::new(self.rest.join(",")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart() {
        let options = Options::parse(
            "defaults,noatime,ro,rw,nofail,x-systemd.device-timeout=5,size=10%,mode=0755",
        );
        assert_eq!(options.flags, MountFlags::NOATIME);
        assert_eq!(options.rest, ["size=10%", "mode=0755"]);
        assert_eq!(Options::parse("rbind,ro").bind, Some(true));
        assert_eq!(
            Options::parse("rshared").propagation,
            Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        );
        assert!(Options::parse("").rest.is_empty() && Options::parse("").flags.is_empty());
    }

    #[test]
    fn tags_become_links_below_dev_disk() {
        assert_eq!(
            resolve("LABEL=my data"),
            PathBuf::from("/dev/disk/by-label/my\\x20data")
        );
        assert_eq!(
            resolve("PARTUUID=ab-1"),
            PathBuf::from("/dev/disk/by-partuuid/ab-1")
        );
        assert_eq!(
            resolve("server:/export=x"),
            PathBuf::from("server:/export=x")
        );
        assert_eq!(resolve("tmpfs"), PathBuf::from("tmpfs"));
    }

    #[test]
    fn a_mount_unit_mounts_remounts_and_unmounts() {
        let dir = tempfile::tempdir().unwrap();
        let where_ = dir.path().join("new").display().to_string();
        let operation = Run::Mount {
            what: "tmpfs".to_owned(),
            where_: where_.clone(),
            fs_type: Some("tmpfs".to_owned()),
            options: "size=1m,nosuid,x-test".to_owned(),
            directory_mode: 0o750,
            read_write_only: false,
        };
        assert_eq!(perform(&operation), 0);
        assert!(is_mount_point(&where_));
        assert_eq!(
            perform(&Run::Remount {
                where_: where_.clone(),
                options: "ro".to_owned()
            }),
            0
        );
        assert!(std::fs::write(format!("{where_}/x"), "x").is_err());
        let off = Run::Unmount {
            where_: where_.clone(),
            lazy: false,
            force: false,
        };
        assert_eq!(perform(&off), 0);
        assert!(!is_mount_point(&where_));
        assert_eq!(
            perform(&off),
            0,
            "unmounting what is not mounted is no failure"
        );
    }
}
