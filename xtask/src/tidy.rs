//! Rules that matter, checked by a test: layers, ARCHITECTURE.md, module headers, sorted manifests, no machine paths, and
//! fleet's table of conformance.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::conformance;
use crate::layers::{self, LAYERS};

/// Runs every check and reports all failures at once.
pub fn run() -> Result<()> {
    let mut bad = Vec::new();
    layering(&mut bad)?;
    architecture(&mut bad)?;
    sources(&mut bad)?;
    let counts = conformance::check(&mut bad)?;
    if bad.is_empty() {
        conformance::print(&counts);
        return Ok(());
    }
    for b in &bad {
        eprintln!("tidy: {b}");
    }
    bail!("{} things to tidy", bad.len());
}

fn layering(bad: &mut Vec<String>) -> Result<()> {
    let meta = cargo_metadata::MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let names: Vec<String> = meta.packages.iter().map(|p| p.name.to_string()).collect();
    for p in &meta.packages {
        if !LAYERS.iter().any(|(n, _)| *n == p.name.as_str()) {
            bad.push(format!("{} is not in xtask/src/layers.rs", p.name));
        }
        for d in p
            .dependencies
            .iter()
            .filter(|d| names.contains(&d.name) && d.kind == cargo_metadata::DependencyKind::Normal)
        {
            bad.extend(layers::judge(&p.name, &d.name));
        }
    }
    for (name, _) in LAYERS {
        if !names.iter().any(|n| n == name) {
            bad.push(format!(
                "xtask/src/layers.rs lists {name}, which the workspace does not have"
            ));
        }
    }
    Ok(())
}

fn architecture(bad: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string("ARCHITECTURE.md").context("ARCHITECTURE.md")?;
    for (name, _) in LAYERS {
        if !text.contains(&format!("`{name}`")) {
            bad.push(format!("ARCHITECTURE.md does not name `{name}`"));
        }
    }
    Ok(())
}

fn sources(bad: &mut Vec<String>) -> Result<()> {
    let out = Command::new("git")
        .args(["ls-files"])
        .output()
        .context("git ls-files")?;
    for name in String::from_utf8_lossy(&out.stdout).lines() {
        let path = PathBuf::from(name);
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if path.extension().is_some_and(|x| x == "rs") {
            rust(&path, &text, bad);
        }
        if path.file_name().is_some_and(|n| n == "Cargo.toml") {
            sorted(&path, &text, bad);
        }
    }
    Ok(())
}

fn rust(path: &Path, text: &str, bad: &mut Vec<String>) {
    if text.lines().count() > 40 && !text.starts_with("//!") && !text.starts_with("#![") {
        bad.push(format!(
            "{}: a file of more than 40 lines starts with a `//!` that says what it owns",
            path.display()
        ));
    }
    for word in ["todo!(", "unimplemented!(", "#[ignore"] {
        // Split so that this file passes its own check.
        if text.contains(word) && !path.ends_with("tidy.rs") {
            bad.push(format!("{}: {word} is not for this tree", path.display()));
        }
    }
}

/// Entries of each dependency table in alphabetical order; blank lines and comments start a new group.
fn sorted(path: &Path, text: &str, bad: &mut Vec<String>) {
    let mut table = false;
    let mut last = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            table = line.contains("dependencies");
            last.clear();
        } else if line.trim().is_empty() || line.starts_with('#') {
            last.clear();
        } else if table
            && let Some(name) = line
                .split(['=', '.', ' '])
                .next()
                .filter(|_| !line.starts_with(' '))
        {
            if name < last.as_str() {
                bad.push(format!("{}: {name} comes before {last}", path.display()));
            }
            last = name.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsorted_dependencies_are_named() {
        let mut bad = Vec::new();
        sorted(
            Path::new("x"),
            "[dependencies]\na = 1\nc = 1\nb.workspace = true\n\n[package]\nz = 1\na = 1\n",
            &mut bad,
        );
        assert_eq!(bad, ["x: b comes before c"]);
    }
}
