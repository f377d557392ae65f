//! Links on disk: listed, made, removed, each change told.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use init_control::{ControlError, ErrorKind, UnitFileChange};

/// What was changed, in order.
pub(super) type Changes = Vec<UnitFileChange>;

pub(super) fn change(kind: &str, path: &Path, source: &str) -> UnitFileChange {
    UnitFileChange {
        kind: kind.to_owned(),
        path: path.display().to_string(),
        source: source.to_owned(),
    }
}

/// All links right in `dir` and in its `.wants`, `.requires` and `.upholds` directories.
pub(super) fn links_below(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_list = [".wants", ".requires", ".upholds"]
            .iter()
            .any(|s| name.ends_with(s));
        if let Ok(target) = fs::read_link(&path) {
            found.push((path, target));
        } else if is_list && let Ok(inner) = fs::read_dir(&path) {
            found.extend(
                inner
                    .flatten()
                    .filter_map(|e| Some((e.path(), fs::read_link(e.path()).ok()?))),
            );
        }
    }
    found.sort();
    found
}

pub(super) fn make_link(
    link: &Path,
    target: &Path,
    force: bool,
    changes: &mut Changes,
) -> Result<(), ControlError> {
    let failed = |e: std::io::Error| {
        let kind = if e.raw_os_error() == Some(28) {
            ErrorKind::DiskFull
        } else {
            ErrorKind::Failed
        };
        ControlError::new(kind, format!("{}: {e}", link.display()))
    };
    match fs::read_link(link) {
        Ok(found)
            if found == target
                || fs::canonicalize(link)
                    .ok()
                    .is_some_and(|a| fs::canonicalize(target).is_ok_and(|b| a == b)) =>
        {
            return Ok(());
        }
        Ok(_) if force => remove(link, changes)?,
        Ok(found) => {
            let text = format!(
                "File {} already exists and is a symlink to {}.",
                link.display(),
                found.display()
            );
            return Err(ControlError::new(ErrorKind::FileExists, text));
        }
        Err(_) if link.symlink_metadata().is_ok() => {
            return Err(ControlError::new(
                ErrorKind::FileExists,
                format!("File {} already exists.", link.display()),
            ));
        }
        Err(_) => {}
    }
    link.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .map_err(failed)?;
    symlink(target, link).map_err(failed)?;
    changes.push(change("symlink", link, &target.display().to_string()));
    Ok(())
}

pub(super) fn remove(link: &Path, changes: &mut Changes) -> Result<(), ControlError> {
    fs::remove_file(link)
        .map_err(|e| ControlError::new(ErrorKind::Failed, format!("{}: {e}", link.display())))?;
    changes.push(change("unlink", link, ""));
    Ok(())
}
