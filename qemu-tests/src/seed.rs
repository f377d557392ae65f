//! NoCloud seed drives: a FAT file system labelled `cidata` with meta-data, user-data, vendor-data, network-config.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The documents of one machine.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// YAML with instance-id and local-hostname.
    pub meta_data: String,
    /// The user's document, untouched.
    pub user_data: String,
    /// Below the user's: keys, registry mirror.
    pub vendor_data: String,
    /// Netplan-like version 2; none = DHCP by the image's default.
    pub network_config: Option<String>,
}

/// Writes the drive to `out`.
pub fn write(seed: &Seed, out: &Path) -> Result<()> {
    let dir = out.with_extension("d");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let mut files = vec![
        ("meta-data", &seed.meta_data),
        ("user-data", &seed.user_data),
        ("vendor-data", &seed.vendor_data),
    ];
    if let Some(n) = &seed.network_config {
        files.push(("network-config", n));
    }
    let _ = fs::remove_file(out);
    fs::File::create(out)?.set_len(4 << 20)?;
    run(
        Command::new("mkfs.fat").args(["-n", "cidata"]).arg(out),
        "dosfstools",
    )?;
    for (name, text) in files {
        let path: PathBuf = dir.join(name);
        fs::write(&path, text)?;
        run(
            Command::new("mcopy")
                .arg("-i")
                .arg(out)
                .arg(&path)
                .arg(format!("::/{name}")),
            "mtools",
        )?;
    }
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn run(c: &mut Command, package: &str) -> Result<()> {
    // mkfs.fat is in /usr/sbin, which a user's PATH may lack.
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let out = c
        .env("PATH", path)
        .output()
        .with_context(|| format!("cannot run {:?} (package {package})", c.get_program()))?;
    if !out.status.success() {
        bail!(
            "{:?}: {}",
            c.get_program(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}
