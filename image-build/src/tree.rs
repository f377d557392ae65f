//! The file tree that becomes /usr: unpacked packages, pruned, with our programs and `rootfs/` on top.
//!
//! Invariant: the result depends on the lock, the prune list, the programs and `rootfs/` only, never on the host.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool::{self, Run};

/// Unpacks `debs` into a new directory `to`; links of merged /usr (`bin` → `usr/bin` …) are made first.
pub fn unpack(debs: &[PathBuf], to: &Path, tell: &dyn Fn(usize, usize)) -> Result<()> {
    tool::need("dpkg-deb", "dpkg")?;
    let _ = fs::remove_dir_all(to);
    for d in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
        fs::create_dir_all(to.join(d))?;
    }
    for d in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{d}"), to.join(d))?;
    }
    for (i, deb) in debs.iter().enumerate() {
        tell(i, debs.len());
        // tar's own extraction keeps the directory links; dpkg-deb -x does too.
        Command::new("dpkg-deb").arg("-x").arg(deb).arg(to).run()?;
    }
    Ok(())
}

/// Removes what `list` names below `root`. A glob that matches nothing is fine: package contents change.
pub fn prune(root: &Path, list: &str) -> Result<()> {
    for line in list
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        for path in expand(root, line) {
            remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)?;
    } else {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn expand(root: &Path, glob: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    for part in glob.split('/') {
        let mut next = Vec::new();
        for dir in found {
            if !part.contains('*') {
                let p = dir.join(part);
                if p.symlink_metadata().is_ok() {
                    next.push(p);
                }
                continue;
            }
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for e in entries.flatten() {
                if matches(part, &e.file_name().to_string_lossy()) {
                    next.push(e.path());
                }
            }
        }
        found = next;
    }
    found.sort();
    found
}

fn matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(tail, &rest[i..]))
        }),
    }
}

/// Where a program of ours goes. Links point to it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name in the cargo output directory.
    pub bin: &'static str,
    /// Path below the root.
    pub dest: &'static str,
    /// Further names, absolute in the image.
    pub links: &'static [&'static str],
}

/// Our programs on the image (system.md §1). `init` is the static build.
pub const PROGRAMS: &[Program] = &[
    Program {
        bin: "init",
        dest: "usr/lib/flotilla/init",
        links: &["/usr/sbin/init", "/usr/lib/systemd/systemd"],
    },
    Program {
        bin: "unit-busd",
        dest: "usr/lib/flotilla/unit-busd",
        links: &[],
    },
    Program {
        bin: "journald",
        dest: "usr/lib/flotilla/journald",
        links: &[],
    },
    Program {
        bin: "networkd",
        dest: "usr/lib/flotilla/networkd",
        links: &[
            "/usr/lib/flotilla/networkd-wait-online",
            "/usr/bin/networkctl",
        ],
    },
    Program {
        bin: "dockerd",
        dest: "usr/lib/flotilla/dockerd",
        links: &["/usr/bin/dockerd"],
    },
    Program {
        bin: "container-monitor",
        dest: "usr/lib/flotilla/container-monitor",
        links: &[],
    },
    Program {
        bin: "etcd-launch",
        dest: "usr/lib/flotilla/etcd-launch",
        links: &[],
    },
    Program {
        bin: "health",
        dest: "usr/lib/flotilla/health",
        links: &[],
    },
    Program {
        bin: "docker",
        dest: "usr/bin/docker",
        links: &[],
    },
    Program {
        bin: "fleetctl",
        dest: "usr/bin/fleetctl",
        links: &[],
    },
    Program {
        bin: "fleetd",
        dest: "usr/bin/fleetd",
        links: &[],
    },
    Program {
        bin: "systemctl",
        dest: "usr/bin/systemctl",
        links: &[
            "/usr/bin/hostnamectl",
            "/usr/bin/timedatectl",
            "/usr/bin/loginctl",
            "/usr/bin/systemd-notify",
            "/usr/bin/systemd-cat",
            "/usr/bin/systemd-run",
            "/usr/bin/systemd-escape",
            "/usr/bin/systemd-analyze",
            "/usr/sbin/reboot",
            "/usr/sbin/poweroff",
            "/usr/sbin/halt",
            "/usr/sbin/shutdown",
        ],
    },
    Program {
        bin: "journalctl",
        dest: "usr/bin/journalctl",
        links: &[],
    },
    Program {
        bin: "etcdctl",
        dest: "usr/bin/etcdctl",
        links: &[],
    },
    Program {
        bin: "flotilla-cloudinit",
        dest: "usr/bin/flotilla-cloudinit",
        links: &["/usr/bin/coreos-cloudinit", "/usr/bin/update-ssh-keys"],
    },
    Program {
        bin: "flanneld",
        dest: "usr/bin/flanneld",
        links: &[],
    },
    Program {
        bin: "updatectl",
        dest: "usr/bin/updatectl",
        links: &[],
    },
];

/// Copies our programs from `dir` (and `init` from `init_dir`) into the tree.
pub fn install_programs(root: &Path, dir: &Path, init_dir: &Path) -> Result<()> {
    for p in PROGRAMS {
        let from = if p.bin == "init" {
            init_dir.join(p.bin)
        } else {
            dir.join(p.bin)
        };
        if !from.exists() {
            bail!(
                "no {}: build the programs first (`cargo xtask image` does)",
                from.display()
            );
        }
        put(&from, &root.join(p.dest), 0o755)?;
        for l in p.links {
            link(&format!("/{}", p.dest), &root.join(&l[1..]))?;
        }
    }
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(d) = to.parent() {
        fs::create_dir_all(d)?;
    }
    let _ = fs::remove_file(to); // never write through a hard link of the cached tree
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn link(target: &str, at: &Path) -> Result<()> {
    if let Some(d) = at.parent() {
        fs::create_dir_all(d)?;
    }
    let _ = fs::remove_file(at);
    symlink(target, at).with_context(|| format!("cannot link {}", at.display()))
}

/// Copies `rootfs/` over the tree: files 0644, 0755 where the source is executable; links as they are.
pub fn overlay(rootfs: &Path, root: &Path) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(rootfs)
        .with_context(|| format!("cannot read {}", rootfs.display()))?
        .collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for e in entries {
        let (from, to) = (e.path(), root.join(e.file_name()));
        let kind = e.file_type()?;
        if kind.is_symlink() {
            link(&fs::read_link(&from)?.to_string_lossy(), &to)?;
        } else if kind.is_dir() {
            fs::create_dir_all(&to)?;
            overlay(&from, &to)?;
        } else {
            let x = from.metadata()?.permissions().mode() & 0o100 != 0;
            put(&from, &to, if x { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// What the maintainer scripts would have done: CA bundle, module index, awk and sh links, mode bits.
pub fn finish(root: &Path, ca_source: &Path, kernel: &str) -> Result<()> {
    ca_bundle(root, ca_source)?;
    let sudo = root.join("usr/lib/cargo/bin/sudo");
    if sudo.exists() {
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o4755))?;
    }
    tool::need("depmod", "kmod")?;
    Command::new("depmod")
        .arg("-b")
        .arg(root)
        .arg(kernel)
        .run()?;
    for f in [
        "modules.alias",
        "modules.dep",
        "modules.symbols",
        "modules.builtin.alias",
    ] {
        let _ = fs::remove_file(root.join("usr/lib/modules").join(kernel).join(f)); // the .bin files are read
    }
    link("/usr/bin/bash", &root.join("usr/bin/sh"))?;
    for (name, target) in [
        ("usr/bin/awk", "mawk"),
        ("usr/bin/vi", "vim.tiny"),
        ("usr/bin/vim", "vim.tiny"),
        ("usr/bin/nc", "nc.openbsd"),
        ("usr/bin/pager", "less"),
        ("usr/sbin/iptables", "iptables-nft"),
        ("usr/sbin/ip6tables", "ip6tables-nft"),
        ("usr/sbin/iptables-save", "iptables-nft-save"),
        ("usr/sbin/iptables-restore", "iptables-nft-restore"),
        ("usr/sbin/ip6tables-save", "ip6tables-nft-save"),
        ("usr/sbin/ip6tables-restore", "ip6tables-nft-restore"),
        ("usr/bin/sudo", "../lib/cargo/bin/sudo"),
        ("usr/sbin/visudo", "../lib/cargo/bin/visudo"),
    ] {
        if root
            .join(name)
            .parent()
            .is_some_and(|d| d.join(target).exists())
        {
            link(target, &root.join(name))?;
        }
    }
    for (name, to) in [
        ("usr/bin/etcdctl", "usr/lib/flotilla/etcdctl3"),
        (
            "usr/bin/systemd-tmpfiles.standalone",
            "usr/bin/systemd-tmpfiles",
        ),
        (
            "usr/bin/systemd-sysusers.standalone",
            "usr/bin/systemd-sysusers",
        ),
    ] {
        let from = root.join(name);
        if from.exists() {
            if let Some(d) = root.join(to).parent() {
                fs::create_dir_all(d)?;
            }
            fs::rename(&from, root.join(to))?;
        }
    }
    Ok(())
}

fn ca_bundle(root: &Path, source: &Path) -> Result<()> {
    let mut certs: Vec<PathBuf> = fs::read_dir(source)
        .with_context(|| format!("no CA certificates in {}", source.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "crt"))
        .collect();
    certs.sort();
    if certs.is_empty() {
        bail!("no CA certificates in {}", source.display());
    }
    let mut all = Vec::new();
    for c in certs {
        let text = fs::read(&c)?;
        all.extend_from_slice(&text);
        if !text.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    let dir = root.join("usr/share/flotilla/etc/ssl/certs");
    fs::create_dir_all(&dir)?;
    fs::File::create(dir.join("ca-certificates.crt"))?.write_all(&all)?;
    let _ = link("/etc/ssl/certs", &root.join("usr/lib/ssl/certs"));
    Ok(())
}

/// Takes the packages' own /etc files that the image keeps into the lower layer of /etc.
pub fn keep_etc(root: &Path) -> Result<()> {
    const KEEP: &[&str] = &[
        "protocols",
        "services",
        "rpc",
        "login.defs",
        "pam.d",
        "security",
        "ssh/moduli",
        "inputrc",
        "wgetrc",
        "mke2fs.conf",
        "ethertypes",
        "terminfo",
        "default/useradd",
    ];
    let lower = root.join("usr/share/flotilla/etc");
    for k in KEEP {
        let from = root.join("etc").join(k);
        if from.symlink_metadata().is_ok() && lower.join(k).symlink_metadata().is_err() {
            let to = lower.join(k);
            if let Some(d) = to.parent() {
                fs::create_dir_all(d)?;
            }
            fs::rename(&from, &to)?;
        }
    }
    Ok(())
}

/// Bytes and files below `root`.
pub fn size(root: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    for e in fs::read_dir(root)? {
        let e = e?;
        let m = e.path().symlink_metadata()?;
        if m.is_dir() {
            let (b, f) = size(&e.path())?;
            bytes += b;
            files += f;
        } else {
            bytes += m.len();
            files += 1;
        }
    }
    Ok((bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stop_at_slashes_and_missing_paths_are_fine() {
        let d = tempfile::tempdir().expect("temp dir");
        for p in ["a/x1/k", "a/x2/k", "a/y/k", "b"] {
            fs::create_dir_all(d.path().join(p)).expect("mkdir");
        }
        prune(d.path(), "# c\n\na/x*/k\nnot/there\nb\n").expect("prune");
        assert!(!d.path().join("a/x1/k").exists() && !d.path().join("b").exists());
        assert!(d.path().join("a/y/k").exists());
        assert!(matches("lib*.so*", "libx.so.1") && !matches("lib*.so", "libx.so.1"));
    }

    #[test]
    fn overlay_replaces_and_never_writes_through_hard_links() {
        let d = tempfile::tempdir().expect("temp dir");
        let (src, dst, cache) = (d.path().join("s"), d.path().join("d"), d.path().join("c"));
        fs::create_dir_all(&src).expect("mkdir");
        fs::create_dir_all(&dst).expect("mkdir");
        fs::write(&cache, "old").expect("write");
        fs::hard_link(&cache, dst.join("f")).expect("link");
        fs::write(src.join("f"), "new").expect("write");
        overlay(&src, &dst).expect("overlay");
        assert_eq!(fs::read_to_string(&cache).expect("cache"), "old");
        assert_eq!(fs::read_to_string(dst.join("f")).expect("new"), "new");
    }
}
