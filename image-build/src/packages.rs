//! Debian packages through apt's own signed indexes.
//!
//! Owns: a private apt root below the build directory (the host's apt configuration is read, never touched), the
//! package lock and its update, the download cache. Does not unpack anything: [`crate::tree`] does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::tool::{self, Run};

/// The Debian release that the image is made of.
pub const SUITE: &str = "trixie";

/// `packages.toml`: what is wanted, by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Packages whose files go into /usr.
    pub image: Vec<String>,
    /// Packages that the build itself runs.
    pub tools: Vec<String>,
    /// A minimal Debian with systemd: the peer of the benchmarks, and the source of the clients that tests drive us with.
    pub peer: Vec<String>,
    /// Names never unpacked for the image and the tools, even where something depends on them.
    pub exclude: Vec<String>,
}

/// One line of the lock: a package, bound to its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// `image`, `tools` or `peer`.
    pub set: String,
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the .deb, lower-case hex.
    pub sha256: String,
}

/// Versions that the lock names and no index has any more: Debian keeps the newest ones only.
#[derive(Debug, thiserror::Error)]
#[error(
    "the mirror does not have all of: {0}\nhint: a locked version is gone; run `cargo xtask image update-lock`, or give a \
     snapshot that still has it with --mirror URL"
)]
pub struct Gone(pub String);

/// Reads `packages.toml`.
pub fn wanted(file: &Path) -> Result<Wanted> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a package list", file.display()))
}

/// Reads the lock file.
pub fn read_lock(file: &Path) -> Result<Vec<Locked>> {
    let text = fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read {} (make it with `update-lock`)",
            file.display()
        )
    })?;
    parse_lock(&text).with_context(|| format!("{} is damaged", file.display()))
}

fn parse_lock(text: &str) -> Result<Vec<Locked>> {
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let f: Vec<&str> = line.split(' ').collect();
        let [set, name, version, sha256] = f[..] else {
            bail!("line {}: want `set name version sha256`", n + 1);
        };
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            bail!("line {}: not a sha256: {sha256}", n + 1);
        }
        out.push(Locked {
            set: set.into(),
            name: name.into(),
            version: version.into(),
            sha256: sha256.into(),
        });
    }
    Ok(out)
}

fn print_lock(locked: &[Locked]) -> String {
    let mut s = String::from(
        "# Written by `image-build update-lock`; do not edit. set name version sha256\n",
    );
    for l in locked {
        s += &format!("{} {} {} {}\n", l.set, l.name, l.version, l.sha256);
    }
    s
}

/// An apt root of our own: configuration, indexes and cache below one directory.
#[derive(Debug)]
pub struct Apt {
    config: PathBuf,
    cache: PathBuf,
}

impl Apt {
    /// Makes the private root in `dir`, with the mirror that the host's apt uses, or `mirror`.
    pub fn open(dir: &Path, mirror: Option<&str>) -> Result<Apt> {
        tool::need("apt-get", "apt")?;
        for d in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/apt.conf.d",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(dir.join(d))?;
        }
        let dir = dir.canonicalize()?;
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("etc/debian.sources"), sources(mirror)?)?;
        let config = dir.join("apt.conf");
        fs::write(
            &config,
            format!(
                "Dir::State \"{d}/state\";\nDir::State::status \"{d}/status\";\nDir::Cache \"{d}/cache\";\n\
                 Dir::Etc \"{d}/etc\";\nDir::Etc::sourcelist \"{d}/etc/debian.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"{d}/etc/preferences.d\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
                 APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\nAcquire::Retries \"3\";\n",
                d = dir.display()
            ),
        )?;
        Ok(Apt {
            config,
            cache: dir.join("debs"),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut c = Command::new(program);
        c.env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        c
    }

    /// Fetches the signed indexes. An unreachable mirror is an error here, not later.
    pub fn update(&self) -> Result<()> {
        self.command("apt-get")
            .args(["update", "-q", "-o", "APT::Update::Error-Mode=any"])
            .run()
            .context("cannot fetch the package indexes; is the mirror reachable?")
    }

    /// Resolves `wanted` to exact packages.
    pub fn resolve(&self, wanted: &Wanted) -> Result<Vec<Locked>> {
        let mut out = Vec::new();
        for (set, names) in [
            ("image", &wanted.image),
            ("tools", &wanted.tools),
            ("peer", &wanted.peer),
        ] {
            let plan = self
                .command("apt-get")
                .args(["install", "--simulate", "-q"])
                .args(names)
                .text()
                .context("apt cannot resolve the package list")?;
            let mut picked = BTreeMap::new();
            for line in plan.lines() {
                if let Some((name, version)) = parse_inst(line)
                    && (set == "peer" || !wanted.exclude.iter().any(|e| e == name))
                {
                    picked.insert(name.to_string(), version.to_string());
                }
            }
            let specs: Vec<String> = picked.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let shown = self
                .command("apt-cache")
                .args(["show"])
                .args(&specs)
                .text()?;
            let sums = parse_show(&shown);
            for (name, version) in picked {
                let sha256 = sums
                    .get(&(name.clone(), version.clone()))
                    .with_context(|| format!("the index has no SHA256 for {name} {version}"))?
                    .clone();
                out.push(Locked {
                    set: set.into(),
                    name,
                    version,
                    sha256,
                });
            }
        }
        Ok(out)
    }

    /// The .deb of each locked package, from the cache or the mirror, checked against the lock.
    pub fn fetch(
        &self,
        locked: &[Locked],
        tell: &dyn Fn(usize, usize, &str),
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(&self.cache)?;
        let missing: Vec<&Locked> = locked.iter().filter(|l| !self.deb(l).exists()).collect();
        if !missing.is_empty() {
            if !fs::read_dir(self.config.with_file_name("state").join("lists"))?
                .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().ends_with("_Packages")))
            {
                self.update()?;
            }
            let tmp = self.cache.join("partial");
            for (i, chunk) in missing.chunks(16).enumerate() {
                tell(i * 16, missing.len(), &chunk[0].name);
                let _ = fs::remove_dir_all(&tmp);
                fs::create_dir_all(&tmp)?;
                self.download(chunk, &tmp)?;
                for l in chunk {
                    self.keep(l, &tmp)?;
                }
            }
            let _ = fs::remove_dir_all(&tmp);
        }
        Ok(locked.iter().map(|l| self.deb(l)).collect())
    }

    fn deb(&self, l: &Locked) -> PathBuf {
        self.cache.join(format!("{}.deb", l.sha256))
    }

    fn download(&self, chunk: &[&Locked], into: &Path) -> Result<()> {
        let specs: Vec<String> = chunk
            .iter()
            .map(|l| format!("{}={}", l.name, l.version))
            .collect();
        let first = self
            .command("apt-get")
            .current_dir(into)
            .args(["download", "-q"])
            .args(&specs)
            .run();
        if first.is_ok() {
            return Ok(());
        }
        // Old indexes do not know new versions, and the other way round: look once more.
        self.update()?;
        let again = self
            .command("apt-get")
            .current_dir(into)
            .args(["download", "-q"])
            .args(&specs)
            .run();
        match again {
            Err(e) if format!("{e:#}").contains("was not found") => {
                Err(e).context(Gone(specs.join(" ")))
            }
            other => other.context("cannot download the packages"),
        }
    }

    fn keep(&self, l: &Locked, dir: &Path) -> Result<()> {
        for e in fs::read_dir(dir)? {
            let path = e?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.split('_').next() != Some(&l.name) {
                continue;
            }
            let got = hex(&Sha256::digest(fs::read(&path)?));
            if got != l.sha256 {
                bail!(
                    "{} {} has sha256 {got}, the lock says {}; nothing was used",
                    l.name,
                    l.version,
                    l.sha256
                );
            }
            fs::rename(&path, self.deb(l))?;
            return Ok(());
        }
        bail!("apt brought no file for {} {}", l.name, l.version)
    }
}

/// Writes the lock file anew from the mirror's newest versions; returns what changed, a line each.
pub fn update_lock(apt: &Apt, wanted: &Wanted, file: &Path) -> Result<Vec<String>> {
    apt.update()?;
    let new = apt.resolve(wanted)?;
    let old = fs::read_to_string(file)
        .ok()
        .and_then(|t| parse_lock(&t).ok())
        .unwrap_or_default();
    let key = |l: &Locked| (l.set.clone(), l.name.clone());
    let before: BTreeMap<_, _> = old.iter().map(|l| (key(l), l.version.clone())).collect();
    let after: BTreeMap<_, _> = new.iter().map(|l| (key(l), l.version.clone())).collect();
    let mut changes = Vec::new();
    for (k, v) in &after {
        match before.get(k) {
            Some(o) if o == v => {}
            Some(o) => changes.push(format!("{} {}: {o} -> {v}", k.0, k.1)),
            None => changes.push(format!("{} {}: new, {v}", k.0, k.1)),
        }
    }
    for (k, v) in before.iter().filter(|(k, _)| !after.contains_key(*k)) {
        changes.push(format!("{} {}: gone, was {v}", k.0, k.1));
    }
    let tmp = file.with_extension("lock.new");
    fs::write(&tmp, print_lock(&new))?;
    fs::rename(&tmp, file)?;
    Ok(changes)
}

/// `Inst name (version origin [arch])` of `apt-get --simulate`.
fn parse_inst(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let open = rest.find('(')?;
    let version = rest[open + 1..].split(' ').next()?;
    Some((name.split(':').next()?, version))
}

fn parse_show(text: &str) -> BTreeMap<(String, String), String> {
    let mut out = BTreeMap::new();
    for para in text.split("\n\n") {
        let field = |k: &str| {
            para.lines()
                .find_map(|l| l.strip_prefix(k)?.strip_prefix(": "))
                .map(str::to_string)
        };
        if let (Some(n), Some(v), Some(s)) = (field("Package"), field("Version"), field("SHA256")) {
            out.insert((n, v), s);
        }
    }
    out
}

/// Where packages come from: `mirror`, or the Debian mirrors of the host's own apt with the suite put to [`SUITE`].
fn sources(mirror: Option<&str>) -> Result<String> {
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    if !Path::new(keyring).exists() {
        bail!("no {keyring}: install the package debian-archive-keyring");
    }
    let stanza = |uri: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n\n"
        )
    };
    if let Some(uri) = mirror {
        return Ok(stanza(uri, SUITE));
    }
    let mut hosts = Vec::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(|e| Some(e.ok()?.path())));
    }
    files.sort();
    for f in files {
        if let Ok(text) = fs::read_to_string(&f) {
            hosts.extend(debian_sources(&text));
        }
    }
    let mut s = String::new();
    for (uri, suite) in hosts {
        let suite = if suite.ends_with("-security") {
            format!("{SUITE}-security")
        } else if suite.ends_with("-updates") {
            format!("{SUITE}-updates")
        } else {
            SUITE.to_string()
        };
        let one = stanza(&uri, &suite);
        if !s.contains(&one) {
            s += &one;
        }
    }
    if s.is_empty() {
        bail!("the host's apt names no Debian mirror; give one with --mirror URL");
    }
    Ok(s)
}

/// (URI, suite) pairs of Debian's own releases in a one-line or deb822 sources file.
fn debian_sources(text: &str) -> Vec<(String, String)> {
    const RELEASES: [&str; 5] = ["bookworm", "trixie", "stable", "testing", "sid"];
    let known = |s: &str| {
        RELEASES.iter().any(|r| {
            s == *r
                || s.strip_prefix(r)
                    .is_some_and(|x| matches!(x, "-security" | "-updates"))
        })
    };
    let mut out = Vec::new();
    for line in text.lines() {
        let mut w = line.split_whitespace().skip_while(|t| t.starts_with('['));
        if w.next() == Some("deb") {
            let w: Vec<&str> = w
                .skip_while(|t| t.starts_with('[') || t.ends_with(']'))
                .collect();
            if let [uri, suite, ..] = w[..]
                && known(suite)
            {
                out.push((uri.to_string(), suite.to_string()));
            }
        }
    }
    for para in text.split("\n\n") {
        let field = |k: &str| {
            para.lines()
                .find_map(|l| l.strip_prefix(k))
                .map(str::trim)
                .unwrap_or("")
        };
        if !field("Types:").split_whitespace().any(|t| t == "deb") {
            continue;
        }
        for uri in field("URIs:").split_whitespace() {
            for suite in field("Suites:").split_whitespace().filter(|s| known(s)) {
                out.push((uri.to_string(), suite.to_string()));
            }
        }
    }
    out
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_round_trips_and_names_the_bad_line() {
        let l = vec![Locked {
            set: "image".into(),
            name: "bash".into(),
            version: "1:5-2".into(),
            sha256: "a".repeat(64),
        }];
        assert_eq!(parse_lock(&print_lock(&l)).expect("own print"), l);
        let e = parse_lock("# x\nimage bash 1").expect_err("short line");
        assert!(e.to_string().contains("line 2"), "{e}");
    }

    #[test]
    fn both_forms_of_apt_sources_are_read() {
        let deb822 = "Types: deb\n# c\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: https://other\nSuites: nodistro\n";
        assert_eq!(
            debian_sources(deb822),
            [
                ("http://m/debian".into(), "bookworm".into()),
                (
                    "http://m/debian".to_string(),
                    "bookworm-updates".to_string()
                )
            ]
        );
        let one = "deb [signed-by=/x] http://m/debian bookworm main\n# deb http://no bookworm main\ndeb http://s/x bookworm-security main\n";
        assert_eq!(
            debian_sources(one),
            [
                ("http://m/debian".into(), "bookworm".into()),
                ("http://s/x".to_string(), "bookworm-security".to_string())
            ]
        );
    }

    #[test]
    fn apt_simulation_lines_are_read() {
        assert_eq!(
            parse_inst("Inst bash (5.2.37-2+b10 Debian:13.1/stable [amd64])"),
            Some(("bash", "5.2.37-2+b10"))
        );
        assert_eq!(
            parse_inst("Inst libc6:amd64 [2] (2.41 x [amd64]) []"),
            Some(("libc6", "2.41"))
        );
        assert_eq!(parse_inst("Conf bash (5)"), None);
    }
}
