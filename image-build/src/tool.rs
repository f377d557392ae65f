//! Running other programs: on the host, or from the build's own tool tree.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Fails with the package to install where `program` is not on the host.
pub fn need(program: &str, package: &str) -> Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).is_file()));
    if !found {
        bail!("{program} is not installed; `apt-get install {package}` brings it");
    }
    Ok(())
}

/// Runs to the end; failure carries what the program said.
pub trait Run {
    /// Runs, discarding the output of a success.
    fn run(&mut self) -> Result<()>;
    /// Runs and returns its standard output.
    fn text(&mut self) -> Result<String>;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        self.text().map(drop)
    }

    fn text(&mut self) -> Result<String> {
        let what = format!("{:?}", self.get_program());
        let out = self
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {what}"))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            let tail: Vec<&str> = said.lines().rev().take(12).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{what} ended with {}: {}", out.status, tail.join("\n"));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// Programs from the locked tool packages, run with their own C library.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tool tree at `root`.
    pub fn at(root: &Path) -> Tools {
        Tools {
            root: root.to_path_buf(),
        }
    }

    /// A file of the tree, for data that the tools read.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A command that runs `program` (`bin/NAME` or `sbin/NAME` below usr).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let name = program.as_ref();
        let path = ["usr/bin", "usr/sbin", "sbin", "bin"]
            .iter()
            .map(|d| self.root.join(d).join(name))
            .find(|p| p.exists())
            .with_context(|| format!("the tool packages have no {}", name.display()))?;
        let mut c = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        c.arg("--library-path")
            .arg(self.root.join("usr/lib/x86_64-linux-gnu"))
            .arg(path);
        c.env("LC_ALL", "C").env("TZ", "UTC");
        Ok(c)
    }
}
