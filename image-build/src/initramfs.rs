//! The initramfs: `init` and the modules that stage 1 loads, in load order, as a newc cpio archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Modules that a boot may need before /usr is mounted; what they depend on is added. Names that are built into the
/// kernel are skipped. Hardware that is absent costs nothing but the load.
pub const WANTED: &[&str] = &[
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ahci",
    "nvme",
    "erofs",
    "dm-mod",
    "dm-bufio",
    "dm-verity",
    "sha256_ssse3",
    "loop",
    "overlay",
    "i6300esb",
    "softdog",
    "virtio_rng",
    "qemu_fw_cfg",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
];

/// Builds the archive. `modules` is `usr/lib/modules/RELEASE` with a text `modules.dep`.
pub fn build(init: &Path, modules: &Path, release: &str) -> Result<Vec<u8>> {
    let order = load_order(
        &fs::read_to_string(modules.join("modules.dep"))
            .context("no modules.dep in the module tree")?,
        &fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default(),
        WANTED,
    )?;
    let mut cpio = Cpio::default();
    for dir in ["dev", "etc", "proc", "run", "sys", "sysroot", "lib"] {
        cpio.dir(dir);
    }
    cpio.dir("lib/modules");
    let base = format!("lib/modules/{release}");
    cpio.dir(&base);
    cpio.file(
        "init",
        0o755,
        &fs::read(init).with_context(|| format!("cannot read {}", init.display()))?,
    );
    let list: String = order.iter().map(|m| format!("{m}\n")).collect();
    cpio.file("etc/modules.list", 0o644, list.as_bytes());
    let mut dirs = BTreeSet::new();
    for m in &order {
        let mut at = base.clone();
        let parts: Vec<&str> = m.split('/').collect();
        for p in &parts[..parts.len() - 1] {
            at = format!("{at}/{p}");
            if dirs.insert(at.clone()) {
                cpio.dir(&at);
            }
        }
        let bytes = fs::read(modules.join(m)).with_context(|| format!("cannot read module {m}"))?;
        cpio.file(&format!("{base}/{m}"), 0o644, &bytes);
    }
    cpio.node("dev/console", 0o020_600, 5, 1);
    Ok(cpio.finish())
}

/// Paths of `wanted` and all they need, dependencies first.
fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let name_of = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split(".ko").next().unwrap_or(file).replace('-', "_")
    };
    let mut deps: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for line in dep.lines() {
        let Some((path, rest)) = line.split_once(':') else {
            continue;
        };
        let needs = rest.split_whitespace().map(name_of).collect();
        deps.insert(name_of(path), (path.to_string(), needs));
    }
    let builtin: BTreeSet<String> = builtin.lines().map(name_of).collect();
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for w in wanted {
        let name = w.replace('-', "_");
        if builtin.contains(&name) {
            continue;
        }
        if !deps.contains_key(&name) {
            bail!("the kernel package has no module {w}");
        }
        visit(&name, &deps, &mut seen, &mut out);
    }
    Ok(out)
}

fn visit(
    name: &str,
    deps: &BTreeMap<String, (String, Vec<String>)>,
    seen: &mut BTreeSet<String>,
    out: &mut Vec<String>,
) {
    let Some((path, needs)) = deps.get(name) else {
        return;
    };
    if seen.insert(name.to_string()) {
        // modules.dep lists the nearest dependency first.
        for n in needs.iter().rev() {
            visit(n, deps, seen, out);
        }
        out.push(path.clone());
    }
}

/// A newc archive with fixed owners and times: same input, same bytes.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    /// Adds a directory, 0755.
    pub fn dir(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    /// Adds a regular file.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), data);
    }

    /// Adds a device node; `mode` carries the type.
    pub fn node(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.entry(name, mode, (major, minor), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, rdev: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let head = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len()).expect("initramfs members are far below 4 GiB"),
            0,
            0,
            rdev.0,
            rdev.1,
            u32::try_from(name.len() + 1).expect("names are short"),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for h in head {
            self.bytes.extend_from_slice(format!("{h:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_builtins_are_left_out() {
        let dep = "kernel/a/dm-verity.ko.xz: kernel/a/dm-bufio.ko.xz kernel/a/dm-mod.ko.xz\nkernel/a/dm-bufio.ko.xz: kernel/a/dm-mod.ko.xz\nkernel/a/dm-mod.ko.xz:\n";
        let got = load_order(dep, "kernel/fs/ext4.ko\n", &["ext4", "dm_verity"]).expect("order");
        assert_eq!(
            got,
            [
                "kernel/a/dm-mod.ko.xz",
                "kernel/a/dm-bufio.ko.xz",
                "kernel/a/dm-verity.ko.xz"
            ]
        );
        assert!(load_order(dep, "", &["nosuch"]).is_err());
    }

    #[test]
    fn cpio_is_read_back_by_cpio() {
        let mut c = Cpio::default();
        c.dir("d");
        c.file("d/f", 0o644, b"hello");
        let d = tempfile::tempdir().expect("temp dir");
        let p = d.path().join("a.cpio");
        fs::write(&p, c.finish()).expect("write");
        let out = std::process::Command::new("cpio")
            .arg("-itv")
            .stdin(fs::File::open(&p).expect("open"))
            .output()
            .expect("cpio runs");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("d/f") && text.contains("drwxr-xr-x"),
            "{text}"
        );
    }
}
