//! Finding the /usr image by its root hash, and mounting it through dm-verity.
//!
//! The command line is the only authority: `flotilla.usrhash=` (root hash), `flotilla.usrdata=` (number of
//! 4096-byte data blocks) and `flotilla.usrsalt=`. The image is erofs, then one superblock of veritysetup
//! (skipped, not believed), then the hash tree, top block first. A partition is taken only if the hash of
//! its top block *is* the root hash, so a half-written slot can never be mounted.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpt::{ReadAt, TYPE_USR};
use rustix::mount::{MountFlags, mount};
use sha2::{Digest, Sha256};

use super::{Boot, EARLY_USR, StageError, blockdev};
use crate::cmdline::CommandLine;
use crate::log::{self, Level};

const BLOCK: u64 = 4096;
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// /usr of a network boot, inside the initramfs.
const PXE_IMAGE: &str = "/usr.img";

/// What the command line says about /usr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    root: Vec<u8>,
    salt: Vec<u8>,
    data_blocks: u64,
}

impl Expected {
    /// Reads the three arguments.
    pub(super) fn from(cmdline: &CommandLine) -> Result<Expected, StageError> {
        let need = |key: &str| {
            cmdline.value(key).ok_or_else(|| {
                StageError::Refused(format!("the kernel command line has no {key}="))
            })
        };
        let hex = |key: &str| {
            unhex(need(key)?)
                .ok_or_else(|| StageError::Refused(format!("{key}= is not hexadecimal")))
        };
        let root = hex("flotilla.usrhash")?;
        if root.len() != 32 {
            return Err(StageError::Refused(
                "flotilla.usrhash= is not a SHA-256 hash (64 digits)".to_owned(),
            ));
        }
        let data_blocks = need("flotilla.usrdata")?
            .parse()
            .ok()
            .filter(|n| *n > 0 && *n < 1 << 40);
        let data_blocks = data_blocks.ok_or_else(|| {
            StageError::Refused("flotilla.usrdata= is not a number of blocks".to_owned())
        })?;
        Ok(Expected {
            root,
            salt: hex("flotilla.usrsalt")?,
            data_blocks,
        })
    }

    /// Whether this device or image carries the tree with our root hash.
    fn matches(&self, image: &impl ReadAt) -> bool {
        let mut block = [0; BLOCK as usize];
        if image
            .read_at((self.data_blocks + 1) * BLOCK, &mut block)
            .is_err()
        {
            return false;
        }
        Sha256::new()
            .chain_update(&self.salt)
            .chain_update(block)
            .finalize()[..]
            == self.root[..]
    }

    /// Parameters of the dm-verity target over this device.
    fn table(&self, device: &str) -> String {
        let salt = if self.salt.is_empty() {
            "-".to_owned()
        } else {
            hex(&self.salt)
        };
        format!(
            "1 {device} {device} {BLOCK} {BLOCK} {} {} sha256 {} {salt} 2 restart_on_corruption ignore_zero_blocks",
            self.data_blocks,
            self.data_blocks + 1,
            hex(&self.root),
        )
    }
}

/// Mounts the verified /usr at [`EARLY_USR`].
pub(super) fn mount_usr(boot: &mut Boot) -> Result<(), StageError> {
    let expected = Expected::from(&boot.cmdline)?;
    let device = if Path::new(PXE_IMAGE).exists() {
        attach_image(&expected)?
    } else {
        let slot = boot.facts.slot.clone().unwrap_or_default();
        let found = blockdev::wait_for(DEVICE_LIMIT, || find(&expected, &slot));
        let (disk, node, label) = found.ok_or_else(|| not_found(&expected))?;
        log::say(
            Level::Info,
            format_args!("/usr is {} ({label})", node.display()),
        );
        boot.boot_disk = Some(disk);
        node
    };
    let mapped = map(&expected, &device)?;
    std::fs::create_dir_all(EARLY_USR).map_err(StageError::io(format!("make {EARLY_USR}")))?;
    mount(
        &mapped,
        EARLY_USR,
        c"erofs",
        MountFlags::RDONLY | MountFlags::NODEV,
        None,
    )
    .map_err(StageError::io(format!(
        "mount {} as erofs",
        mapped.display()
    )))?;
    boot.facts.usrhash = Some(hex(&expected.root));
    Ok(())
}

/// The partition with our tree: the named slot's first, on any disk, in the order of names.
fn find(expected: &Expected, slot: &str) -> Option<(blockdev::Disk, PathBuf, String)> {
    let wanted = format!("USR-{}", slot.to_uppercase());
    let mut candidates = Vec::new();
    for disk in blockdev::disks() {
        for partition in disk.gpt.partitions() {
            if partition.kind == TYPE_USR && matches!(partition.label.as_str(), "USR-A" | "USR-B") {
                let later = partition.label != wanted;
                candidates.push((later, disk.clone(), partition));
            }
        }
    }
    candidates.sort_by_key(|(later, _, _)| *later);
    candidates.into_iter().find_map(|(_, disk, partition)| {
        let node = disk.partition_node(&partition)?;
        let file = File::open(&node).ok()?;
        expected
            .matches(&blockdev::Image(&file))
            .then_some((disk, node, partition.label))
    })
}

/// The reason why no partition was taken, with what was seen.
fn not_found(expected: &Expected) -> StageError {
    let mut seen: Vec<String> = Vec::new();
    for disk in blockdev::disks() {
        let usr = disk
            .gpt
            .partitions()
            .into_iter()
            .filter(|p| p.kind == TYPE_USR)
            .map(|p| p.label);
        seen.push(format!(
            "{}: {}",
            disk.name,
            usr.collect::<Vec<_>>().join(" ")
        ));
    }
    let seen = if seen.is_empty() {
        format!(
            "no disk with a partition table (disks: {})",
            blockdev::disk_names().join(" ")
        )
    } else {
        format!("looked at {}", seen.join("; "))
    };
    StageError::Refused(format!(
        "no partition holds the /usr with root hash {}: {seen}",
        hex(&expected.root)
    ))
}

/// Binds the image inside the initramfs to a loop device.
fn attach_image(expected: &Expected) -> Result<PathBuf, StageError> {
    let image = File::open(PXE_IMAGE).map_err(StageError::io(format!("open {PXE_IMAGE}")))?;
    if !expected.matches(&blockdev::Image(&image)) {
        return Err(StageError::Refused(format!(
            "{PXE_IMAGE} does not have root hash {}",
            hex(&expected.root)
        )));
    }
    let control =
        File::open("/dev/loop-control").map_err(StageError::io("open /dev/loop-control"))?;
    let number = syscalls::block::loop_free(control.as_fd())
        .map_err(StageError::io("find a free loop device"))?;
    let node = PathBuf::from(format!("/dev/loop{number}"));
    let device = blockdev::wait_for(DEVICE_LIMIT, || File::open(&node).ok())
        .ok_or_else(|| StageError::Refused(format!("{} does not appear", node.display())))?;
    syscalls::block::loop_bind(device.as_fd(), image.as_fd(), true).map_err(StageError::io(
        format!("bind {} to {PXE_IMAGE}", node.display()),
    ))?;
    // The loop frees itself at its last close: keep it open until the mapping holds it.
    std::mem::forget(device);
    Ok(node)
}

/// Makes the dm-verity device and waits for its node.
fn map(expected: &Expected, device: &Path) -> Result<PathBuf, StageError> {
    let control = blockdev::wait_for(Duration::from_secs(5), || {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mapper/control")
            .ok()
    })
    .ok_or_else(|| {
        StageError::Refused(
            "/dev/mapper/control does not appear: is dm-mod in the initramfs?".to_owned(),
        )
    })?;
    let target = syscalls::dm::Target {
        start: 0,
        length: expected.data_blocks * (BLOCK / gpt::SECTOR),
        kind: "verity",
        params: &expected.table(&device.display().to_string()),
    };
    let number =
        syscalls::dm::create_read_only(control.as_fd(), "usr", "flotilla-usr", &target).map_err(
            StageError::io(format!("map {} through dm-verity", device.display())),
        )?;
    let minor = rustix::fs::minor(number);
    let node = PathBuf::from(format!("/dev/dm-{minor}"));
    blockdev::wait_for(Duration::from_secs(5), || node.exists().then_some(()))
        .ok_or_else(|| StageError::Refused(format!("{} does not appear", node.display())))?;
    Ok(node)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn cmdline(extra: &str) -> CommandLine {
        CommandLine::parse(&format!(
            "flotilla.usrhash={} flotilla.usrsalt=00ff {extra}",
            "ab".repeat(32)
        ))
    }

    #[test]
    fn missing_or_bad_arguments_are_named() {
        let text = |c: &CommandLine| Expected::from(c).unwrap_err().to_string();
        assert_eq!(
            text(&CommandLine::default()),
            "the kernel command line has no flotilla.usrhash="
        );
        assert_eq!(
            text(&cmdline("flotilla.usrdata=x")),
            "flotilla.usrdata= is not a number of blocks"
        );
        assert!(
            text(&cmdline("flotilla.usrdata=1 flotilla.usrhash=abc")).contains("not hexadecimal")
        );
        assert!(Expected::from(&cmdline("flotilla.usrdata=9")).is_ok());
    }

    #[test]
    fn an_image_of_veritysetup_is_recognised_and_a_changed_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let blocks = 300u64;
        std::fs::write(file.path(), vec![7u8; (blocks * BLOCK) as usize]).unwrap();
        let salt = "aa".repeat(32);
        let out = Command::new("veritysetup")
            .args(["format", "--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--salt={salt}"))
            .arg(format!("--hash-offset={}", blocks * BLOCK))
            .arg(format!("--data-blocks={blocks}"))
            .args([file.path(), file.path()])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let root = text
            .lines()
            .find_map(|l| l.strip_prefix("Root hash:"))
            .unwrap()
            .trim()
            .to_owned();
        let line =
            format!("flotilla.usrhash={root} flotilla.usrdata={blocks} flotilla.usrsalt={salt}");
        let expected = Expected::from(&CommandLine::parse(&line)).unwrap();
        assert!(expected.matches(&blockdev::Image(&File::open(file.path()).unwrap())));
        assert!(
            expected
                .table("/dev/vda3")
                .starts_with("1 /dev/vda3 /dev/vda3 4096 4096 300 301 sha256 ")
        );
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[((blocks + 1) * BLOCK) as usize] ^= 1;
        std::fs::write(file.path(), &bytes).unwrap();
        assert!(!expected.matches(&blockdev::Image(&File::open(file.path()).unwrap())));
    }
}
