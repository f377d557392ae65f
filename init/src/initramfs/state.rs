//! The root: STATE on a disk or a tmpfs, made, checked and grown as the first boot needs, with /usr and the
//! /etc overlay in place.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpt::{Guid, SECTOR, TYPE_LINUX, TYPE_STATE};
use rustix::mount::{MountFlags, mount, mount_move};

use super::{Boot, EARLY_USR, SYSROOT, StageError, blockdev};
use crate::log::{self, Level, chain};

const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];
const DIRECTORIES: [(&str, u32); 13] = [
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("usr", 0o755),
    ("etc", 0o755),
    ("var", 0o755),
    ("home", 0o755),
    ("opt", 0o755),
    ("srv", 0o755),
    ("mnt", 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
];

/// Those of Debian's mke2fs.conf, which the initramfs does not have, and a seed that lets the UUID change.
const FEATURES: &str = "has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file,huge_file,\
    extent,flex_bg,64bit,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed";

/// Where the root is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    /// A tmpfs.
    Memory,
    /// The STATE partition of the boot disk.
    State,
    /// A device named on the command line.
    Device(PathBuf),
    /// The partition with this label.
    Label(String),
}

/// Mounts the root at [`SYSROOT`] and moves /usr into it.
pub(super) fn mount_root(boot: &mut Boot) -> Result<(), StageError> {
    std::fs::create_dir_all(SYSROOT).map_err(StageError::io(format!("make {SYSROOT}")))?;
    let wanted = wanted_root(
        boot.cmdline.value("root"),
        boot.cmdline.value("rootfstype"),
        boot.boot_disk.is_some(),
    );
    let mounted = match &wanted {
        Root::Memory => Ok(None),
        other => mount_disk(boot, other).map(Some),
    };
    match mounted {
        Ok(Some(device)) => boot.facts.state_device = Some(device),
        Ok(None) => memory_root(&boot.cmdline)?,
        Err(error) => {
            let reason = chain(&error);
            recovery(&reason);
            boot.facts.recovery = Some(reason);
            memory_root(&boot.cmdline)?;
        }
    }
    skeleton().map_err(StageError::io("make the directories of the root"))?;
    let usr = format!("{SYSROOT}/usr");
    mount_move(EARLY_USR, &usr).map_err(StageError::io(format!("move {EARLY_USR} to {usr}")))
}

fn wanted_root(root: Option<&str>, kind: Option<&str>, have_disk: bool) -> Root {
    match (root, kind) {
        (Some("tmpfs"), _) | (_, Some("tmpfs")) => Root::Memory,
        (None | Some("LABEL=STATE" | "LABEL=ROOT" | "PARTLABEL=STATE"), _) if have_disk => {
            Root::State
        }
        (None, _) => Root::Memory,
        (Some(text), _) => match text.split_once('=') {
            Some(("LABEL" | "PARTLABEL", "ROOT")) => Root::Label("STATE".to_owned()),
            Some(("LABEL" | "PARTLABEL", label)) => Root::Label(label.to_owned()),
            Some((key, value)) => Root::Device(
                Path::new("/dev/disk")
                    .join(format!("by-{}", key.to_lowercase()))
                    .join(value),
            ),
            None => Root::Device(PathBuf::from(text)),
        },
    }
}

fn memory_root(cmdline: &crate::cmdline::CommandLine) -> Result<(), StageError> {
    let data = cmdline
        .value("rootflags")
        .filter(|_| cmdline.value("rootfstype") == Some("tmpfs"));
    let data = std::ffi::CString::new(data.unwrap_or("mode=0755")).unwrap_or_default();
    mount(
        "tmpfs",
        SYSROOT,
        c"tmpfs",
        MountFlags::empty(),
        Some(data.as_c_str()),
    )
    .map_err(StageError::io(format!("mount a tmpfs at {SYSROOT}")))
}

/// Mounts a root on disk. Returns its device.
fn mount_disk(boot: &Boot, wanted: &Root) -> Result<String, StageError> {
    let limit = Duration::from_secs(10);
    let (disk, node) = match wanted {
        Root::Memory => return Err(StageError::Refused("no disk wanted".to_owned())),
        Root::State => {
            let disk = boot.boot_disk.as_ref();
            let found = disk.and_then(|d| state_of(d, "STATE"));
            let (node, number) = found.ok_or_else(|| {
                StageError::Refused("the boot disk has no STATE partition".to_owned())
            })?;
            (disk.map(|d| (d.name.clone(), number)), node)
        }
        Root::Label(label) => {
            let found = blockdev::wait_for(limit, || {
                blockdev::disks()
                    .into_iter()
                    .find_map(|d| state_of(&d, label).map(|(n, p)| (Some((d.name, p)), n)))
            });
            found.ok_or_else(|| StageError::Refused(format!("no partition is labelled {label}")))?
        }
        Root::Device(path) => {
            blockdev::wait_for(limit, || path.exists().then_some(())).ok_or_else(|| {
                StageError::Refused(format!("{} does not appear", path.display()))
            })?;
            (None, path.clone())
        }
    };
    let kind = boot.cmdline.value("rootfstype").unwrap_or("ext4");
    // Only the partition that is ours by type and label may be formatted; one that fills the disk at once
    // gets a journal of the right size.
    let blank = matches!(wanted, Root::State | Root::Label(_)) && is_blank(&node)?;
    if blank {
        warn(
            "the partition of STATE",
            grow_partition(disk.as_ref(), true),
        );
        format(&node)?;
    }
    if mount_state(&node, kind).is_err() {
        check(&node)?;
        mount_state(&node, kind)?;
    }
    if disk.is_some() && kind == "ext4" {
        let first_boot = !Path::new(SYSROOT).join("etc/machine-id").exists();
        warn(
            "the partition of STATE",
            grow_partition(disk.as_ref(), first_boot && !blank),
        );
        warn("STATE", grow_file_system(&node));
        if first_boot {
            fresh_uuid();
        }
    }
    Ok(node.display().to_string())
}

fn state_of(disk: &blockdev::Disk, label: &str) -> Option<(PathBuf, u32)> {
    let fits =
        |p: &gpt::Partition| p.label == label && (p.kind == TYPE_STATE || p.kind == TYPE_LINUX);
    let partition = disk.gpt.partitions().into_iter().find(fits)?;
    Some((disk.partition_node(&partition)?, partition.number))
}

fn mount_state(node: &Path, kind: &str) -> Result<(), StageError> {
    let kind_c = std::ffi::CString::new(kind).unwrap_or_default();
    mount(node, SYSROOT, kind_c.as_c_str(), MountFlags::NOATIME, None).map_err(StageError::io(
        format!("mount {} as {kind}", node.display()),
    ))
}

/// Whether neither the first nor the last MiB holds anything.
fn is_blank(node: &Path) -> Result<bool, StageError> {
    let what = || format!("read {}", node.display());
    let mut file = File::open(node).map_err(StageError::io(what()))?;
    let mut buffer = vec![0; 1 << 20];
    for from in [SeekFrom::Start(0), SeekFrom::End(-(1 << 20))] {
        file.seek(from)
            .and_then(|_| file.read_exact(&mut buffer))
            .map_err(StageError::io(what()))?;
        if buffer.iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn format(node: &Path) -> Result<(), StageError> {
    log::say(
        Level::Info,
        format_args!("STATE is blank: formatting {}", node.display()),
    );
    let status = tool(
        "mke2fs",
        &[
            "-q", "-F", "-t", "ext4", "-L", "STATE", "-b", "4096", "-I", "256", "-O", FEATURES,
            "-m", "1",
        ],
        node,
    )?;
    if status == 0 {
        Ok(())
    } else {
        Err(StageError::Refused(format!(
            "mke2fs of {} failed with {status}",
            node.display()
        )))
    }
}

fn check(node: &Path) -> Result<(), StageError> {
    log::say(
        Level::Warning,
        format_args!("STATE does not mount: checking {}", node.display()),
    );
    let status = tool("e2fsck", &["-p"], node)?;
    if status <= 1 {
        Ok(())
    } else {
        Err(StageError::Refused(format!(
            "e2fsck -p of {} failed with {status}",
            node.display()
        )))
    }
}

/// Runs a program of the verified /usr, found under its usual paths by two links in the initramfs.
fn tool(name: &str, arguments: &[&str], node: &Path) -> Result<i32, StageError> {
    let links = [
        (EARLY_USR.to_owned(), "/usr"),
        (format!("{EARLY_USR}/lib64"), "/lib64"),
    ];
    for (target, link) in &links {
        symlink(target, link).map_err(StageError::io(format!("link {link}")))?;
    }
    let status = Command::new(format!("/usr/sbin/{name}"))
        .args(arguments)
        .arg(node)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .env(
            "LD_LIBRARY_PATH",
            "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu",
        )
        .env("MKE2FS_CONFIG", "/dev/null")
        .status();
    for (_, link) in &links {
        // They must go again: a /usr in the initramfs is how the manager knows the real root.
        std::fs::remove_file(link).map_err(StageError::io(format!("remove the link {link}")))?;
    }
    let status = status.map_err(StageError::io(format!("run {name} of /usr")))?;
    Ok(status.code().unwrap_or(255))
}

/// The machine runs with the size it has; the next boot tries again.
fn warn(what: &str, result: Result<(), StageError>) {
    if let Err(error) = result {
        log::say(
            Level::Warning,
            format_args!("{what} was not grown: {}", chain(&error)),
        );
    }
}

/// Grows the partition table and STATE in it to the disk's end, and tells the kernel.
fn grow_partition(place: Option<&(String, u32)>, first_boot: bool) -> Result<(), StageError> {
    let disk = place.and_then(|(name, number)| Some((blockdev::read_disk(name)?, *number)));
    let Some((disk, number)) = disk else {
        return Ok(());
    };
    let mut random = random_guid;
    let fresh: Option<&mut dyn FnMut() -> [u8; 16]> =
        if first_boot { Some(&mut random) } else { None };
    let Some(growth) = disk.gpt.grow(number, disk.bytes, fresh) else {
        return Ok(());
    };
    let what = || format!("write the partition table of {}", disk.name);
    let file = File::options()
        .read(true)
        .write(true)
        .open(disk.node())
        .map_err(StageError::io(what()))?;
    for write in &growth.writes {
        file.write_all_at(&write.bytes, write.offset)
            .and_then(|()| file.sync_all())
            .map_err(StageError::io(what()))?;
    }
    let mut mbr = [0; SECTOR as usize];
    if file.read_exact_at(&mut mbr, 0).is_ok()
        && let Some(new) = gpt::protective_mbr(&mbr, disk.bytes)
    {
        file.write_all_at(&new, 0)
            .and_then(|()| file.sync_all())
            .map_err(StageError::io(what()))?;
    }
    let (first, sectors) = growth.partition;
    let what = format!("resize partition {number} of {}", disk.name);
    syscalls::block::resize_partition(file.as_fd(), number, first * SECTOR, sectors * SECTOR)
        .map_err(StageError::io(what))
}

/// Grows the mounted file system to its device, if it is smaller; a cut between the two growths is made up
/// for at the next boot.
fn grow_file_system(node: &Path) -> Result<(), StageError> {
    let what = || format!("read {}", node.display());
    let device = File::open(node).map_err(StageError::io(what()))?;
    let bytes = syscalls::block::size(device.as_fd()).map_err(StageError::io(what()))?;
    let mut superblock = [0; 1024];
    device
        .read_exact_at(&mut superblock, 1024)
        .map_err(StageError::io(what()))?;
    let (blocks, size) = ext4_size(&superblock);
    if bytes / size <= blocks {
        return Ok(());
    }
    let root = File::open(SYSROOT).map_err(StageError::io(format!("open {SYSROOT}")))?;
    syscalls::block::ext4_resize(root.as_fd(), bytes / size)
        .map_err(StageError::io("grow the file system"))?;
    log::say(
        Level::Info,
        format_args!("STATE grown to {} MiB", bytes >> 20),
    );
    Ok(())
}

/// Number and size of the blocks of an ext4 file system.
fn ext4_size(superblock: &[u8; 1024]) -> (u64, u64) {
    const WIDE: u32 = 0x80;
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&superblock[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let high = if number(0x60) & WIDE != 0 {
        number(0x150)
    } else {
        0
    };
    let size = 1024u64 << number(24).min(6);
    (u64::from(high) << 32 | u64::from(number(4)), size)
}

/// A new UUID for the mounted file system: all machines of one image began with the same.
fn fresh_uuid() {
    let result = File::open(SYSROOT)
        .and_then(|root| syscalls::block::ext4_set_uuid(root.as_fd(), swapped(random_guid())));
    if let Err(error) = result {
        log::say(
            Level::Info,
            format_args!("STATE keeps the image's UUID: {error}"),
        );
    }
}

/// A GUID in the byte order in which UUIDs are printed.
fn swapped(guid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid;
    let mut out = [0; 16];
    out[..8].copy_from_slice(&[d, c, b, a, f, e, h, g]);
    out[8..].copy_from_slice(&rest);
    out
}

/// A random GUID (version 4) in on-disk order.
fn random_guid() -> [u8; 16] {
    let mut bytes = Guid::default().0;
    // An interrupted or short read leaves zeros, which are still unlike the image's GUIDs.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes[7] = bytes[7] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    bytes
}

fn recovery(reason: &str) {
    log::say(
        Level::Error,
        format_args!("recovery: {reason}; the root is in memory, nothing on the disk was changed"),
    );
    let _ = crate::console::broadcast(&format!(
        "\r\n*** RECOVERY: the STATE partition cannot be used: {reason}\r\n\
         *** The machine runs from memory. Nothing was formatted. Repair STATE (e2fsck), then reboot.\r\n"
    ));
}

/// Directories and links that must be there before anything of /usr runs.
fn skeleton() -> std::io::Result<()> {
    let root = Path::new(SYSROOT);
    for (name, mode) in DIRECTORIES {
        let path = root.join(name);
        if !path.exists() {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
    }
    for (name, target) in LINKS
        .into_iter()
        .chain([("var/run", "/run"), ("var/lock", "/run/lock")])
    {
        let path = root.join(name);
        match std::fs::read_link(&path) {
            Ok(found) if found == Path::new(target) => continue,
            Ok(_) => std::fs::remove_file(&path)?,
            // A directory of the operator's stays; programs then show what is missing.
            Err(_) if path.exists() => continue,
            Err(_) => {}
        }
        symlink(target, &path)?;
    }
    Ok(())
}

/// Mounts the overlay of the machine's changes over the image's defaults.
pub(super) fn mount_etc(_boot: &mut Boot) -> Result<(), StageError> {
    let lower = format!("{SYSROOT}/usr/share/flotilla/etc");
    if !Path::new(&lower).is_dir() {
        log::say(
            Level::Warning,
            format_args!("/usr has no share/flotilla/etc: /etc holds only the machine's own files"),
        );
        return Ok(());
    }
    let work = format!("{SYSROOT}/.etc-work");
    std::fs::create_dir_all(&work).map_err(StageError::io(format!("make {work}")))?;
    std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o700))
        .map_err(StageError::io(format!("protect {work}")))?;
    let etc = format!("{SYSROOT}/etc");
    let options = format!(
        "lowerdir={lower},upperdir={etc},workdir={work},redirect_dir=off,metacopy=off,index=off,xino=off"
    );
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount(
        "overlay",
        &etc,
        c"overlay",
        MountFlags::NOATIME,
        Some(options.as_c_str()),
    )
    .map_err(StageError::io("mount the overlay at /etc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_chosen_as_the_contract_says() {
        let device = |p: &str| Root::Device(PathBuf::from(p));
        for (root, kind, disk, want) in [
            (None, None, true, Root::State),
            (None, None, false, Root::Memory),
            (Some("LABEL=ROOT"), None, true, Root::State),
            (
                Some("LABEL=ROOT"),
                None,
                false,
                Root::Label("STATE".to_owned()),
            ),
            (Some("tmpfs"), None, true, Root::Memory),
            (Some("LABEL=STATE"), Some("tmpfs"), true, Root::Memory),
            (
                Some("PARTLABEL=data"),
                None,
                true,
                Root::Label("data".to_owned()),
            ),
            (Some("/dev/vdb1"), Some("ext4"), true, device("/dev/vdb1")),
        ] {
            assert_eq!(
                wanted_root(root, kind, disk),
                want,
                "{root:?} {kind:?} {disk}"
            );
        }
    }

    #[test]
    fn only_a_device_without_anything_in_both_ends_is_blank() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        assert!(is_blank(file.path()).unwrap());
        file.as_file().write_all_at(b"x", (4 << 20) - 1).unwrap();
        assert!(!is_blank(file.path()).unwrap());
        file.as_file().set_len(10).unwrap();
        assert!(is_blank(file.path()).is_err());
    }

    #[test]
    fn the_size_of_a_file_system_is_read_from_its_superblock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        let out = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", FEATURES])
            .arg(file.path())
            .arg("16M")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let mut superblock = [0; 1024];
        file.as_file().read_exact_at(&mut superblock, 1024).unwrap();
        assert_eq!(ext4_size(&superblock), (4096, 4096));
    }

    #[test]
    fn random_guids_differ_and_are_version_4() {
        let (a, b) = (random_guid(), random_guid());
        assert_ne!(a, b);
        assert_eq!((a[7] >> 4, a[8] >> 6), (4, 2));
        assert_eq!(swapped(a)[6] >> 4, 4);
    }
}
