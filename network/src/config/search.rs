//! The search path of `.network` files: which file of which directory counts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use unit_file::{Diagnostic, Level};

use super::model::NetworkFile;
use super::parse::parse_network;

/// Directories, highest precedence first, below `/etc`, `/run`, `/usr/local/lib`, `/usr/lib`.
pub fn directories(root: &Path) -> Vec<PathBuf> {
    ["etc", "run", "usr/local/lib", "usr/lib"]
        .iter()
        .map(|base| root.join(base).join("systemd/network"))
        .collect()
}

/// Reads all files in effect, sorted by name over all directories, and what is wrong with them.
pub fn load(directories: &[PathBuf]) -> (Vec<NetworkFile>, Vec<Diagnostic>) {
    let mut files = Vec::new();
    let mut remarks = Vec::new();
    for (name, path) in winners(directories, OsStr::new("network"), &mut remarks) {
        if is_masked(&path) {
            continue;
        }
        let mut sources = Vec::new();
        read(&path, &mut sources, &mut remarks);
        if sources.is_empty() {
            continue;
        }
        let drop_ins: Vec<PathBuf> = directories
            .iter()
            .map(|dir| dir.join(format!("{name}.d")))
            .collect();
        for (_, drop_in) in winners(&drop_ins, OsStr::new("conf"), &mut remarks) {
            if !is_masked(&drop_in) {
                read(&drop_in, &mut sources, &mut remarks);
            }
        }
        let (file, more) = parse_network(&name, &sources);
        remarks.extend(more);
        files.push(file);
    }
    (files, remarks)
}

/// The path that counts for each file name: that of the first directory that has it.
fn winners(
    directories: &[PathBuf],
    extension: &OsStr,
    remarks: &mut Vec<Diagnostic>,
) -> BTreeMap<String, PathBuf> {
    let mut out = BTreeMap::new();
    for directory in directories {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => {
                remarks.push(unreadable(directory, &e));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension() == Some(extension)
                && let Some(name) = path.file_name().and_then(OsStr::to_str)
            {
                out.entry(name.to_owned()).or_insert_with(|| path.clone());
            }
        }
    }
    out
}

/// A link to `/dev/null`, or an empty file, hides all files of its name.
fn is_masked(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
        || fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0)
}

fn read(path: &Path, sources: &mut Vec<(String, String)>, remarks: &mut Vec<Diagnostic>) {
    match fs::read(path) {
        Ok(bytes) => sources.push((
            path.display().to_string(),
            String::from_utf8_lossy(&bytes).into_owned(),
        )),
        Err(e) => remarks.push(unreadable(path, &e)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic {
        path: path.display().to_string(),
        line: 1,
        level: Level::Warning,
        message: format!("cannot be read: {error}, ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn order_hiding_masking_and_drop_ins() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "usr/lib/systemd/network/zz-default.network",
            "[Match]\nType=ether\n",
        );
        write(
            "usr/lib/systemd/network/20-b.network",
            "[Match]\nName=usr\n",
        );
        write(
            "usr/lib/systemd/network/30-masked.network",
            "[Match]\nName=m\n",
        );
        write("run/systemd/network/10-a.network", "[Match]\nName=run\n");
        write("etc/systemd/network/20-b.network", "[Match]\nName=etc\n");
        write(
            "usr/lib/systemd/network/zz-default.network.d/50-x.conf",
            "[Network]\nDNS=1.1.1.1\n",
        );
        write(
            "run/systemd/network/zz-default.network.d/50-x.conf",
            "[Network]\nDNS=2.2.2.2\n",
        );
        write("etc/systemd/network/notes.txt", "no\n");
        symlink(
            "/dev/null",
            root.path().join("etc/systemd/network/30-masked.network"),
        )
        .unwrap();
        let (files, remarks) = load(&directories(root.path()));
        assert_eq!(remarks, []);
        let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(
            names,
            ["10-a.network", "20-b.network", "zz-default.network"]
        );
        assert_eq!(files[1].rule.name.as_ref().unwrap().patterns, ["etc"]);
        assert_eq!(
            files[2].settings.dns,
            ["2.2.2.2".parse::<std::net::IpAddr>().unwrap()]
        );
    }
}
