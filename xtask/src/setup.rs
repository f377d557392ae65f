//! Debian packages that the host needs, said before they are installed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// For `up`: building the image and running machines.
pub const UP: &[&str] = &[
    "apt",
    "ca-certificates",
    "debian-archive-keyring",
    "docker-registry",
    "dosfstools",
    "gcc",
    "git",
    "kmod",
    "libc6-dev",
    "libseccomp-dev",
    "mtools",
    "openssh-client",
    "ovmf",
    "pkg-config",
    "protobuf-compiler",
    "qemu-system-x86",
    "qemu-utils",
    "vde2",
];

/// For `test`, besides what `up` needs: the real programs that ours are held against.
pub const TEST: &[&str] = &[
    "bind9-dnsutils",
    "busybox-static",
    "chromium",
    "chromium-driver",
    "cpio",
    "cryptsetup-bin",
    "dbus-daemon",
    "dnsmasq-base",
    "e2fsprogs",
    "etcd-client",
    "etcd-server",
    "fdisk",
    "fonts-dejavu-core",
    "gdisk",
    "genisoimage",
    "iproute2",
    "iputils-ping",
    "nftables",
    "openssh-server",
    "systemd",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// What every command here needs.
pub fn all() -> Vec<&'static str> {
    [UP, TEST].concat()
}

/// Installs what is missing of `packages`, after saying what.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Installing Debian packages: {}", missing.join(" "));
    let root = rustix::process::geteuid().is_root();
    if !root && !program("sudo") {
        bail!(
            "these packages are missing and there is no sudo: apt-get install {}",
            missing.join(" ")
        );
    }
    let apt = |args: &[&str]| -> Result<()> {
        let mut c = if root {
            Command::new("apt-get")
        } else {
            Command::new("sudo")
        };
        if !root {
            c.arg("apt-get");
        }
        let status = c
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot run apt-get")?;
        if !status.success() {
            bail!(
                "apt-get {} failed; run it by hand to see why",
                args.join(" ")
            );
        }
        Ok(())
    };
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args)
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| o.stdout == b"installed")
}

fn program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(name).is_file()))
}
