//! The file systems of the kernel that everything else needs.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::Boot;
use crate::cmdline::CommandLine;

/// Mounts what is not mounted yet, and makes the directories in /run that PID 1 itself needs.
pub(super) fn kernel_file_systems(boot: &mut Boot) -> std::io::Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let table = [
        ("proc", "/proc", c"proc", quiet, c"", true),
        ("sysfs", "/sys", c"sysfs", quiet, c"", true),
        (
            "devtmpfs",
            "/dev",
            c"devtmpfs",
            MountFlags::NOSUID,
            c"mode=0755",
            true,
        ),
        (
            "tmpfs",
            "/run",
            c"tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755,size=20%",
            true,
        ),
        (
            "devpts",
            "/dev/pts",
            c"devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"mode=0620,gid=5,ptmxmode=0666",
            true,
        ),
        (
            "tmpfs",
            "/dev/shm",
            c"tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=1777",
            true,
        ),
        (
            "cgroup2",
            "/sys/fs/cgroup",
            c"cgroup2",
            quiet,
            c"nsdelegate,memory_recursiveprot",
            true,
        ),
        (
            "securityfs",
            "/sys/kernel/security",
            c"securityfs",
            quiet,
            c"",
            false,
        ),
        (
            "efivarfs",
            "/sys/firmware/efi/efivars",
            c"efivarfs",
            quiet,
            c"",
            false,
        ),
        ("bpf", "/sys/fs/bpf", c"bpf", quiet, c"mode=0700", false),
        ("pstore", "/sys/fs/pstore", c"pstore", quiet, c"", false),
        ("mqueue", "/dev/mqueue", c"mqueue", quiet, c"", false),
        (
            "configfs",
            "/sys/kernel/config",
            c"configfs",
            quiet,
            c"",
            false,
        ),
        (
            "debugfs",
            "/sys/kernel/debug",
            c"debugfs",
            quiet,
            c"",
            false,
        ),
        (
            "tracefs",
            "/sys/kernel/tracing",
            c"tracefs",
            quiet,
            c"",
            false,
        ),
    ];
    let mut result = Ok(());
    for (source, target, kind, flags, data, needed) in table {
        if is_mount_point(target) {
            continue;
        }
        let made = target.starts_with("/sys/") || std::fs::create_dir_all(target).is_ok();
        match mount(source, target, kind, flags, Some(data)) {
            Err(error) if needed && made => {
                result = Err(std::io::Error::other(format!("mount {target}: {error}")));
            }
            _ => {}
        }
    }
    // Containers expect that mounts of the host reach them; systemd shares its root, too.
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )?;
    for dir in [
        "/run/systemd/system",
        "/run/systemd/journal",
        "/run/flotilla",
        "/run/lock",
        "/run/credentials",
        "/run/dbus",
    ] {
        std::fs::create_dir_all(dir)?;
    }
    boot.cmdline = CommandLine::of_kernel();
    result
}

fn is_mount_point(path: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    let path = Path::new(path);
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}
