//! `RuntimeDirectory=` and its kin, and the directories behind `PrivateTmp=`.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use unit_file::settings::DirectoryKind;

use super::{Failure, Identity, Order, at, files, step};

/// Makes the directories; returns them, because they stay writable under `ProtectSystem=strict`.
pub(super) fn make(order: &Order, identity: &Identity) -> Result<Vec<String>, Failure> {
    let mut made = Vec::new();
    for group in &order.exec.directories {
        let step = match group.kind {
            DirectoryKind::Runtime => step::RUNTIME_DIRECTORY,
            DirectoryKind::State => step::STATE_DIRECTORY,
            DirectoryKind::Cache => step::CACHE_DIRECTORY,
            DirectoryKind::Logs => step::LOGS_DIRECTORY,
            DirectoryKind::Configuration => step::CONFIGURATION_DIRECTORY,
        };
        // The configuration is not the service's to own.
        let owner = match group.kind {
            DirectoryKind::Configuration => (0, 0),
            _ => (identity.uid.unwrap_or(0), identity.gid.unwrap_or(0)),
        };
        for name in &group.names {
            // `NAME:LINK` makes a link as well; only the directory itself is ours to make here.
            let name = name.split(':').next().unwrap_or(name);
            let path = Path::new(group.kind.base()).join(name);
            files::make_directory(&path, group.mode, owner)
                .map_err(at(step, format!("make {}", path.display())))?;
            made.push(path.display().to_string());
        }
    }
    Ok(made)
}

/// The directories that a unit with `PrivateTmp=` sees as `/tmp` and `/var/tmp`: outer directory (0700), to be
/// removed with the unit. The key keeps the names unguessable.
pub(crate) fn private_tmp_directories(unit: &str, key: &str) -> [PathBuf; 2] {
    let hash = Sha256::new()
        .chain_update(key)
        .chain_update([0])
        .chain_update(unit)
        .finalize();
    let suffix: String = hash.iter().take(3).map(|b| format!("{b:02x}")).collect();
    let boot: String = key.chars().take(32).collect();
    ["/tmp", "/var/tmp"]
        .map(|base| Path::new(base).join(format!("systemd-private-{boot}-{unit}-{suffix}")))
}

/// Makes one of them with the `tmp` inside, refusing what somebody else put there.
pub(super) fn make_private_tmp(outer: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::MetadataExt;
    let what = || format!("make {}", outer.display());
    files::make_directory(outer, 0o700, (0, 0)).map_err(at(step::NAMESPACE, what()))?;
    let meta = std::fs::symlink_metadata(outer).map_err(at(step::NAMESPACE, what()))?;
    if !meta.is_dir() || meta.uid() != 0 {
        return Err(Failure::text(
            step::NAMESPACE,
            format!("{} is not ours", outer.display()),
        ));
    }
    let inner = outer.join("tmp");
    files::make_directory(&inner, 0o1777, (0, 0)).map_err(at(step::NAMESPACE, what()))?;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_directories_differ_by_unit_and_key() {
        let a = private_tmp_directories("a.service", "key");
        assert!(
            a[0].to_str()
                .unwrap()
                .starts_with("/tmp/systemd-private-key-a.service-")
        );
        assert!(
            a[1].to_str()
                .unwrap()
                .starts_with("/var/tmp/systemd-private-key-a.service-")
        );
        assert_ne!(a[0], private_tmp_directories("a.service", "other")[0]);
    }
}
