//! The disk image: GPT, boot loader, ESP, /usr slots, OEM and STATE (boot-and-update.md §4.3).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use boot_slots::BootState;
use gpt::{Guid, Partition, SECTOR, TYPE_BIOS, TYPE_ESP, TYPE_LINUX, TYPE_STATE, TYPE_USR};

use crate::tool::{Run, Tools};

const MIB: u64 = 1 << 20;
/// GRUB modules of both images.
const MODULES: &[&str] = &[
    "part_gpt",
    "fat",
    "normal",
    "echo",
    "linux",
    "test",
    "loadenv",
    "serial",
    "terminal",
    "minicmd",
    "reboot",
    "halt",
    "sleep",
    "true",
    "boot",
    "cat",
    "read",
    "configfile",
];
/// The selector script on the ESP.
pub const GRUB_CFG: &str = include_str!("grub.cfg");

/// What goes on the disk.
#[derive(Debug)]
pub struct Parts<'a> {
    /// erofs with its verity tree.
    pub usr: &'a Path,
    /// Kernel.
    pub vmlinuz: &'a Path,
    /// Initramfs.
    pub initrd: &'a Path,
    /// `usrhash` and friends for the kernel command line.
    pub usr_args: &'a str,
    /// Version text.
    pub version: &'a str,
    /// Seconds since 1970 for every stored time.
    pub epoch: u64,
}

/// The partition table; sizes are for ever.
fn layout() -> Vec<(u32, &'static str, Guid, u64)> {
    vec![
        (1, "BIOS-BOOT", TYPE_BIOS, MIB),
        (2, "ESP", TYPE_ESP, 1024 * MIB),
        (3, "USR-A", TYPE_USR, 2048 * MIB),
        (4, "USR-B", TYPE_USR, 2048 * MIB),
        (5, "OEM", TYPE_LINUX, 256 * MIB),
        (9, "STATE", TYPE_STATE, 128 * MIB),
    ]
}

/// Writes the raw, sparse image to `out`. `work` is scratch space.
pub fn build(tools: &Tools, parts: &Parts<'_>, work: &Path, out: &Path) -> Result<()> {
    let mut at = MIB;
    let mut table = Vec::new();
    for (i, (number, label, kind, len)) in layout().into_iter().enumerate() {
        table.push(Partition {
            number,
            label: label.to_owned(),
            kind,
            guid: format!("f1071111-0000-4000-8000-{:012x}", i + 1).parse()?,
            first: at / SECTOR,
            last: (at + len) / SECTOR - 1,
        });
        at += len;
    }
    let bytes = at + MIB;
    let _ = fs::remove_file(out);
    let mut disk = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(out)
        .with_context(|| format!("cannot create {}", out.display()))?;
    disk.set_len(bytes)?;
    let own = "f1071111-0000-4000-8000-000000000000".parse()?;
    for write in gpt::create(bytes / SECTOR, own, &table)? {
        disk.write_all_at(&write.bytes, write.offset)?;
    }
    let find = |label: &str| {
        table
            .iter()
            .find(|p| p.label == label)
            .expect("label of the layout")
    };

    embed_bios_grub(tools, work, &mut disk, find("BIOS-BOOT"))?;
    let esp = work.join("esp.img");
    make_esp(tools, parts, work, &esp, find("ESP").sectors() * SECTOR)?;
    copy_sparse(&esp, &mut disk, find("ESP").first * SECTOR)?;
    if fs::metadata(parts.usr)?.len() > find("USR-A").sectors() * SECTOR {
        bail!(
            "/usr is larger than its slot of {} MiB",
            find("USR-A").sectors() * SECTOR / MIB
        );
    }
    copy_sparse(parts.usr, &mut disk, find("USR-A").first * SECTOR)?;
    for label in ["OEM", "STATE"] {
        let img = work.join(format!("{label}.img"));
        make_ext4(
            tools,
            &img,
            label,
            find(label).sectors() * SECTOR,
            parts.epoch,
        )?;
        copy_sparse(&img, &mut disk, find(label).first * SECTOR)?;
        fs::remove_file(&img)?;
    }
    fs::remove_file(&esp)?;
    disk.sync_all()?;
    Ok(())
}

fn make_ext4(tools: &Tools, img: &Path, label: &str, bytes: u64, epoch: u64) -> Result<()> {
    let _ = fs::remove_file(img);
    File::create(img)?.set_len(bytes)?;
    let id = if label == "OEM" {
        "f1071111-0000-4000-8000-0000000000e5"
    } else {
        "f1071111-0000-4000-8000-0000000000e9"
    };
    tools
        .command("mke2fs")?
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .env("MKE2FS_CONFIG", tools.file("etc/mke2fs.conf"))
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", label, "-U", id,
        ])
        .args([
            "-O",
            "metadata_csum_seed,^orphan_file",
            "-E",
            &format!("hash_seed={id},root_owner=0:0,lazy_itable_init=0,resize=8388608"),
        ])
        .arg(img)
        .run()
        .with_context(|| format!("cannot make the {label} file system"))
}

fn make_esp(tools: &Tools, parts: &Parts<'_>, work: &Path, img: &Path, bytes: u64) -> Result<()> {
    let _ = fs::remove_file(img);
    File::create(img)?.set_len(bytes)?;
    tools
        .command("mkfs.fat")?
        .args(["-F", "32", "-n", "FLOTESP", "-i", "F1071111", "--invariant"])
        .arg(img)
        .run()?;
    let efi = work.join("BOOTX64.EFI");
    mkimage(
        tools,
        "x86_64-efi",
        "/flotilla/grub",
        &["efi_gop", "all_video"],
        &efi,
    )?;
    let stage = work.join("esp");
    let _ = fs::remove_dir_all(&stage);
    for d in ["EFI/BOOT", "flotilla/grub", "flotilla/A", "flotilla/B"] {
        fs::create_dir_all(stage.join(d))?;
    }
    fs::copy(&efi, stage.join("EFI/BOOT/BOOTX64.EFI"))?;
    fs::write(stage.join("flotilla/grub/grub.cfg"), GRUB_CFG)?;
    fs::write(
        stage.join("flotilla/grubenv"),
        BootState::shipped(parts.version).serialise()?,
    )?;
    fs::copy(parts.vmlinuz, stage.join("flotilla/A/vmlinuz"))?;
    fs::copy(parts.initrd, stage.join("flotilla/A/initrd"))?;
    fs::write(stage.join("flotilla/A/slot.cfg"), slot_cfg(parts.usr_args))?;
    for name in [
        "EFI",
        "EFI/BOOT",
        "EFI/BOOT/BOOTX64.EFI",
        "flotilla",
        "flotilla/A",
        "flotilla/A/initrd",
        "flotilla/A/slot.cfg",
        "flotilla/A/vmlinuz",
        "flotilla/B",
        "flotilla/grub",
        "flotilla/grub/grub.cfg",
        "flotilla/grubenv",
    ] {
        let path = stage.join(name);
        filetime(&path, parts.epoch)?;
        let program = if path.is_dir() { "mmd" } else { "mcopy" };
        let mut c = tools.command("mtools")?;
        c.env("SOURCE_DATE_EPOCH", parts.epoch.to_string())
            .args(["-c", program, "-i"])
            .arg(img);
        if program == "mcopy" {
            c.arg("-m").arg(&path);
        }
        c.arg(format!("::/{name}"))
            .run()
            .with_context(|| format!("cannot put {name} on the ESP"))?;
    }
    fs::remove_dir_all(&stage)?;
    Ok(())
}

/// The variable that the selector reads from a slot's directory.
pub fn slot_cfg(usr_args: &str) -> String {
    format!("set usr_args=\"{usr_args}\"\n")
}

fn filetime(path: &Path, epoch: u64) -> Result<()> {
    let t = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    File::open(path)?.set_times(fs::FileTimes::new().set_modified(t).set_accessed(t))?;
    Ok(())
}

fn mkimage(tools: &Tools, format: &str, prefix: &str, extra: &[&str], out: &Path) -> Result<()> {
    tools
        .command("grub-mkimage")?
        .args(["-O", format, "-d"])
        .arg(tools.file(&format!("usr/lib/grub/{format}")))
        .arg("-p")
        .arg(prefix)
        .arg("-o")
        .arg(out)
        .args(MODULES)
        .args(extra)
        .run()
        .with_context(|| format!("cannot make the boot loader for {format}"))
}

/// What grub-bios-setup does, on a table of our own: boot.img into the MBR, core.img into its partition.
fn embed_bios_grub(tools: &Tools, work: &Path, disk: &mut File, part: &Partition) -> Result<()> {
    let core_path = work.join("core.img");
    mkimage(
        tools,
        "i386-pc",
        "(,gpt2)/flotilla/grub",
        &["biosdisk"],
        &core_path,
    )?;
    let mut core = fs::read(&core_path)?;
    let sectors = core.len().div_ceil(512);
    if sectors as u64 > part.sectors() {
        bail!("core.img does not fit the BIOS boot partition");
    }
    core.resize(sectors * 512, 0);
    core[0x1f4..0x1fc].copy_from_slice(&(part.first + 1).to_le_bytes());
    core[0x1fc..0x1fe].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
    core[0x1fe..0x200].copy_from_slice(&0x0820u16.to_le_bytes());
    let mut mbr = [0; 512];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut mbr)?;
    let boot = fs::read(tools.file("usr/lib/grub/i386-pc/boot.img"))?;
    mbr[..0x1b8].copy_from_slice(&boot[..0x1b8]);
    mbr[0x5c..0x64].copy_from_slice(&part.first.to_le_bytes());
    mbr[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&mbr)?;
    disk.seek(SeekFrom::Start(part.first * SECTOR))?;
    disk.write_all(&core)?;
    Ok(())
}

/// Copies `from` to `offset`, leaving holes where it is zero.
fn copy_sparse(from: &Path, disk: &mut File, offset: u64) -> Result<()> {
    let mut f = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut buf = vec![0; 1 << 20];
    let mut at = offset;
    loop {
        let n = f.read(&mut buf)?;
        if n == 0 {
            return Ok(());
        }
        if buf[..n].iter().any(|b| *b != 0) {
            disk.seek(SeekFrom::Start(at))?;
            disk.write_all(&buf[..n])?;
        }
        at += n as u64;
    }
}

/// Converts to a compressed-by-omission qcow2 next to the raw image.
pub fn qcow2(raw: &Path, out: &Path) -> Result<()> {
    crate::tool::need("qemu-img", "qemu-utils")?;
    let tmp: PathBuf = out.with_extension("qcow2.new");
    Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(raw)
        .arg(&tmp)
        .run()?;
    fs::rename(&tmp, out)?;
    Ok(())
}
