//! Namespaces: what the unit's processes see of the file system, the network and the host name.
//!
//! [`plan`] turns the settings into a sorted list of mounts, purely; [`enter`] makes the namespaces and
//! performs the list. More specific paths come later and so win.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::thread::UnshareFlags;
use syscalls::mount::{Attributes, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use unit_file::settings::{ExecSettings, ProtectHome, ProtectProc, ProtectSystem};

use super::{Failure, Order, at, directories, step};

/// What happens at one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// Something else appears here.
    Bind {
        source: String,
        recursive: bool,
        read_only: bool,
    },
    /// An empty tmpfs.
    Tmpfs { options: String },
    /// A /dev with the pseudo devices only.
    Devices,
    /// A /proc with other options.
    Proc { options: String },
    /// Read-only from here down.
    ReadOnly,
    /// Writable from here down.
    Writable,
    /// Executable files do not execute.
    NoExec,
    /// Executable again.
    Exec,
    /// Nothing to see.
    Inaccessible,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: String,
    change: Change,
    optional: bool,
}

/// Makes the namespaces and mounts of the unit.
pub(super) fn enter(order: &Order, root: Option<&str>, writable: &[String]) -> Result<(), Failure> {
    let exec = &order.exec;
    network(exec)?;
    if exec.protect_hostname {
        syscalls::system::unshare(UnshareFlags::NEWUTS)
            .map_err(at(step::NAMESPACE, "make a host name namespace"))?;
    }
    if exec.private_ipc {
        syscalls::system::unshare(UnshareFlags::NEWIPC)
            .map_err(at(step::NAMESPACE, "make an IPC namespace"))?;
    }
    let mut entries = plan(exec, writable);
    if exec.private_tmp {
        for (outer, at) in
            directories::private_tmp_directories(&order.namespace_of, &order.private_tmp_key)
                .iter()
                .zip(["/tmp", "/var/tmp"])
        {
            let inner = directories::make_private_tmp(outer)?;
            let change = Change::Bind {
                source: inner.display().to_string(),
                recursive: false,
                read_only: false,
            };
            entries.push(Entry {
                path: at.to_owned(),
                change,
                optional: false,
            });
        }
    }
    let own_mounts = exec.private_mounts || exec.mount_flags.is_some() || root.is_some();
    if entries.is_empty() && !own_mounts {
        return Ok(());
    }
    let entries = in_order(entries);
    syscalls::system::unshare(UnshareFlags::NEWNS)
        .map_err(at(step::NAMESPACE, "make a mount namespace"))?;
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", propagation)
        .map_err(at(step::NAMESPACE, "detach the mounts from the host's"))?;
    let root = root.unwrap_or("");
    if !root.is_empty() {
        mount_bind_recursive(root, root)
            .map_err(at(step::NAMESPACE, format!("make {root} a mount point")))?;
    }
    for entry in &entries {
        let path = format!("{root}{}", entry.path);
        match apply(&path, &entry.change) {
            Err(error) if entry.optional && error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(at(step::NAMESPACE, format!("set up {path}")))?,
        }
    }
    if exec.mount_flags.as_deref() == Some("shared") {
        mount_change(
            "/",
            MountPropagationFlags::SHARED | MountPropagationFlags::REC,
        )
        .map_err(at(step::NAMESPACE, "share mounts"))?;
    }
    Ok(())
}

/// First everything that appears anew, then the flags, each sorted by path: a mount cannot be made where its
/// parent is read-only already, and what appears anew stays writable below a read-only parent unless it is
/// read-only itself.
fn in_order(entries: Vec<Entry>) -> Vec<Entry> {
    let (mut new, mut flags): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| {
        matches!(
            e.change,
            Change::Bind { .. } | Change::Tmpfs { .. } | Change::Devices | Change::Proc { .. }
        )
    });
    let locks = flags.iter().any(|e| e.change == Change::ReadOnly);
    for entry in new.iter().filter(|_| locks) {
        let read_only = match &entry.change {
            Change::Bind { read_only, .. } => *read_only,
            Change::Tmpfs { options } => options.split(',').any(|o| o == "ro"),
            _ => false,
        };
        let explicit = flags.iter().any(|f| f.path == entry.path);
        if !read_only && !explicit {
            flags.push(Entry {
                path: entry.path.clone(),
                change: Change::Writable,
                optional: entry.optional,
            });
        }
    }
    new.sort();
    flags.sort();
    new.extend(flags);
    new
}

fn network(exec: &ExecSettings) -> Result<(), Failure> {
    if let Some(path) = &exec.network_namespace_path {
        let fd = rustix::fs::open(
            path.as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(at(step::NETWORK, format!("open {path}")))?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&fd),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .map_err(at(step::NETWORK, format!("enter {path}")))?;
    } else if exec.private_network {
        syscalls::system::unshare(UnshareFlags::NEWNET)
            .map_err(at(step::NETWORK, "make a network namespace"))?;
        syscalls::socket::loopback_up()
            .map_err(at(step::NETWORK, "bring up the loopback interface"))?;
    }
    Ok(())
}

/// The mounts that the settings ask for.
fn plan(exec: &ExecSettings, writable: &[String]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |path: &str, change: Change, optional: bool| {
        entries.push(Entry {
            path: path.to_owned(),
            change,
            optional,
        });
    };
    let read_only: &[&str] = match exec.protect_system {
        ProtectSystem::No => &[],
        ProtectSystem::Yes => &["/usr", "/boot", "/efi"],
        ProtectSystem::Full => &["/usr", "/boot", "/efi", "/etc"],
        ProtectSystem::Strict => &["/"],
    };
    read_only
        .iter()
        .for_each(|p| add(p, Change::ReadOnly, true));
    if exec.protect_system == ProtectSystem::Strict {
        ["/dev", "/proc", "/sys"]
            .iter()
            .for_each(|p| add(p, Change::Writable, true));
        writable
            .iter()
            .for_each(|p| add(p, Change::Writable, false));
    }
    let home = match exec.protect_home {
        ProtectHome::No => None,
        ProtectHome::Yes => Some(Change::Inaccessible),
        ProtectHome::ReadOnly => Some(Change::ReadOnly),
        ProtectHome::Tmpfs => Some(Change::Tmpfs {
            options: "mode=0755,ro".to_owned(),
        }),
    };
    if let Some(change) = home {
        ["/home", "/root", "/run/user"]
            .iter()
            .for_each(|p| add(p, change.clone(), true));
    }
    if exec.private_devices {
        add("/dev", Change::Devices, false);
    }
    if exec.protect_kernel_tunables {
        for path in [
            "/proc/sys",
            "/proc/sysrq-trigger",
            "/proc/latency_stats",
            "/proc/acpi",
            "/proc/timer_stats",
            "/proc/fs",
            "/proc/irq",
            "/sys",
        ] {
            add(path, Change::ReadOnly, true);
        }
        ["/proc/kallsyms", "/proc/kcore"]
            .iter()
            .for_each(|p| add(p, Change::Inaccessible, true));
        if !exec.protect_control_groups {
            add("/sys/fs/cgroup", Change::Writable, true);
        }
    }
    if exec.protect_control_groups {
        add("/sys/fs/cgroup", Change::ReadOnly, true);
    }
    if exec.protect_kernel_modules {
        add("/usr/lib/modules", Change::Inaccessible, true);
    }
    if exec.protect_kernel_logs {
        ["/dev/kmsg", "/proc/kmsg"]
            .iter()
            .for_each(|p| add(p, Change::Inaccessible, true));
    }
    if let Some(options) = proc_options(exec) {
        add("/proc", Change::Proc { options }, false);
    }
    for (list, change) in [
        (&exec.read_only_paths, Change::ReadOnly),
        (&exec.read_write_paths, Change::Writable),
        (&exec.inaccessible_paths, Change::Inaccessible),
        (&exec.no_exec_paths, Change::NoExec),
        (&exec.exec_paths, Change::Exec),
    ] {
        list.iter()
            .for_each(|entry| add(&entry.path, change.clone(), entry.optional));
    }
    for bind in &exec.bind_paths {
        let change = Change::Bind {
            source: bind.source.clone(),
            recursive: bind.recursive,
            read_only: bind.read_only,
        };
        add(&bind.destination, change, bind.optional);
    }
    for (path, options) in &exec.temporary_file_systems {
        add(
            path,
            Change::Tmpfs {
                options: options.clone(),
            },
            false,
        );
    }
    entries
}

fn proc_options(exec: &ExecSettings) -> Option<String> {
    let hide = match exec.protect_proc {
        ProtectProc::Default => None,
        ProtectProc::NoAccess => Some("hidepid=1"),
        ProtectProc::Invisible => Some("hidepid=2"),
        ProtectProc::Ptraceable => Some("hidepid=4"),
    };
    let parts: Vec<&str> = hide
        .into_iter()
        .chain(exec.proc_subset_pid.then_some("subset=pid"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

fn apply(path: &str, change: &Change) -> std::io::Result<()> {
    match change {
        Change::Bind {
            source,
            recursive,
            read_only,
        } => {
            let is_dir = std::fs::metadata(source)?.is_dir();
            make_target(Path::new(path), is_dir)?;
            if *recursive {
                mount_bind_recursive(source, path)?;
            } else {
                mount_bind(source, path)?;
            }
            if *read_only {
                set(path, READ_ONLY, 0)
            } else {
                Ok(())
            }
        }
        Change::Tmpfs { options } => tmpfs(path, options),
        Change::Devices => private_devices(path),
        Change::Proc { options } => {
            let options = std::ffi::CString::new(options.as_str()).unwrap_or_default();
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            Ok(mount(
                "proc",
                path,
                c"proc",
                flags,
                Some(options.as_c_str()),
            )?)
        }
        Change::ReadOnly => over(path, READ_ONLY, 0),
        Change::Writable => over(path, 0, READ_ONLY),
        Change::NoExec => over(path, NO_EXEC, 0),
        Change::Exec => over(path, 0, NO_EXEC),
        Change::Inaccessible => inaccessible(path),
    }
}

/// Makes the path a mount point of its own and changes its flags, with everything below.
fn over(path: &str, on: u64, off: u64) -> std::io::Result<()> {
    if path != "/" {
        mount_bind_recursive(path, path)?;
    }
    set(path, on, off)
}

fn set(path: &str, on: u64, off: u64) -> std::io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    syscalls::mount::set_attributes(
        fd,
        true,
        Attributes {
            set: on,
            clear: off,
        },
    )
}

fn tmpfs(path: &str, options: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mut data: Vec<&str> = Vec::new();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => {}
            "noexec" => flags |= MountFlags::NOEXEC,
            "nosuid" | "nodev" => {}
            other => data.push(other),
        }
    }
    if !data.iter().any(|d| d.starts_with("mode=")) {
        data.push("mode=0755");
    }
    let data = std::ffi::CString::new(data.join(",")).unwrap_or_default();
    Ok(mount(
        "tmpfs",
        path,
        c"tmpfs",
        flags,
        Some(data.as_c_str()),
    )?)
}

fn inaccessible(path: &str) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        mount(
            "tmpfs",
            path,
            c"tmpfs",
            flags,
            Some(c"mode=0000,nr_inodes=1"),
        )?;
    } else {
        mount_bind("/dev/null", path)?;
    }
    Ok(())
}

fn make_target(path: &Path, is_dir: bool) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if is_dir {
        return std::fs::create_dir_all(path);
    }
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::File::create(path).map(|_| ())
}

/// A tmpfs with the pseudo devices, the terminals and shared memory of the host.
fn private_devices(path: &str) -> std::io::Result<()> {
    use std::os::unix::fs::symlink;
    let staging = "/run/systemd/private-dev";
    std::fs::create_dir_all(staging)?;
    mount(
        "tmpfs",
        staging,
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        Some(c"mode=0755,size=64k"),
    )?;
    for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        let (source, target) = (format!("/dev/{name}"), format!("{staging}/{name}"));
        if Path::new(&source).exists() {
            std::fs::File::create(&target)?;
            mount_bind(&source, &target)?;
        }
    }
    for name in ["pts", "shm", "mqueue", "hugepages"] {
        let (source, target) = (format!("/dev/{name}"), format!("{staging}/{name}"));
        if Path::new(&source).is_dir() {
            std::fs::create_dir(&target)?;
            mount_bind_recursive(&source, &target)?;
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("log", "/run/systemd/journal/dev-log"),
    ] {
        symlink(target, format!("{staging}/{name}"))?;
    }
    rustix::mount::mount_move(staging, path)?;
    // The devices themselves must work, so the flag goes on the directory's own mount only.
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    syscalls::mount::set_attributes(
        fd,
        false,
        Attributes {
            set: NO_SUID | NO_EXEC | READ_ONLY,
            clear: NO_DEV,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(exec: &ExecSettings, writable: &[String]) -> Vec<(String, Change)> {
        let mut entries = plan(exec, writable);
        entries.sort();
        entries.into_iter().map(|e| (e.path, e.change)).collect()
    }

    #[test]
    fn nothing_asked_for_needs_no_namespace() {
        assert!(plan(&ExecSettings::default(), &["/run/x".to_owned()]).is_empty());
    }

    #[test]
    fn strict_is_read_only_but_for_the_units_own_directories() {
        let exec = ExecSettings {
            protect_system: ProtectSystem::Strict,
            ..ExecSettings::default()
        };
        let planned = paths(&exec, &["/run/x".to_owned()]);
        assert_eq!(planned[0], ("/".to_owned(), Change::ReadOnly));
        assert!(planned.contains(&("/run/x".to_owned(), Change::Writable)));
        assert!(planned.contains(&("/dev".to_owned(), Change::Writable)));
    }

    #[test]
    fn what_appears_anew_comes_first_and_stays_writable_under_strict() {
        let exec = ExecSettings {
            protect_system: ProtectSystem::Strict,
            private_devices: true,
            temporary_file_systems: vec![("/var".to_owned(), "ro".to_owned())],
            ..ExecSettings::default()
        };
        let mut entries = plan(&exec, &[]);
        let bind = Change::Bind {
            source: "/x".to_owned(),
            recursive: false,
            read_only: false,
        };
        entries.push(Entry {
            path: "/tmp".to_owned(),
            change: bind.clone(),
            optional: false,
        });
        let order: Vec<(String, Change)> = in_order(entries)
            .into_iter()
            .map(|e| (e.path, e.change))
            .collect();
        let position = |path: &str, change: &Change| {
            order
                .iter()
                .position(|(p, c)| p == path && c == change)
                .expect("planned")
        };
        let root = position("/", &Change::ReadOnly);
        assert!(position("/dev", &Change::Devices) < root && position("/tmp", &bind) < root);
        assert!(position("/tmp", &Change::Writable) > root);
        assert!(!order.contains(&("/var".to_owned(), Change::Writable)));
    }

    #[test]
    fn more_specific_paths_come_later() {
        let entry = |path: &str| unit_file::settings::PathEntry {
            path: path.to_owned(),
            optional: false,
            below_root: false,
        };
        let exec = ExecSettings {
            protect_home: ProtectHome::Yes,
            read_only_paths: vec![entry("/var")],
            read_write_paths: vec![entry("/var/lib/x")],
            ..ExecSettings::default()
        };
        let order: Vec<String> = paths(&exec, &[]).into_iter().map(|(p, _)| p).collect();
        assert_eq!(order, ["/home", "/root", "/run/user", "/var", "/var/lib/x"]);
    }

    #[test]
    fn proc_is_mounted_anew_only_where_asked() {
        assert_eq!(proc_options(&ExecSettings::default()), None);
        let exec = ExecSettings {
            protect_proc: ProtectProc::Invisible,
            proc_subset_pid: true,
            ..ExecSettings::default()
        };
        assert_eq!(proc_options(&exec).as_deref(), Some("hidepid=2,subset=pid"));
    }
}
