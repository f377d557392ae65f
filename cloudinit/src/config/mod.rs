//! A cloud-config document as a value: typed fields out of the YAML tree, with findings beside them.
//!
//! [`validate`] and [`parse`] are pure and never fail on content: what cannot be used is a finding,
//! the rest is read. File contents are decoded here, because one bad content rejects the document.
//! What the values do to a machine is decided in [`crate::plan`].

pub(crate) mod content;
mod extensions;
pub(crate) mod options;
pub(crate) mod pattern;
pub(crate) mod reader;
mod unit_text;
mod users;

use std::path::{Component, Path, PathBuf};

pub use content::ContentError;
pub use extensions::{CaCerts, Extensions, GroupSpec, Mount, Ntp, RunItem};
pub use reader::At;
pub use users::User;

use crate::finding::{Check, Level, Report};
use crate::subst;
use crate::yaml::{self, Mark, Node, YamlError};
use options::Section;
use pattern::Pattern;
use reader::{Fields, Findings};

/// A whole document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloudConfig {
    /// Host name; empty if not given.
    pub hostname: String,
    /// Keys of the user `core`.
    pub ssh_authorized_keys: Vec<String>,
    /// Accounts, in order.
    pub users: Vec<User>,
    /// Files, in order, contents decoded.
    pub write_files: Vec<File>,
    /// What to do with `/etc/hosts`.
    pub manage_etc_hosts: Option<At<String>>,
    /// The section `coreos`.
    pub coreos: Coreos,
    /// Keys of cloud-init that the original did not have.
    pub extensions: Extensions,
    /// `vendor_data: {enabled: false}`: the document of the vendor is not wanted.
    pub vendor_data_disabled: bool,
}

/// One entry of `write_files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Absolute, cleaned path.
    pub path: PathBuf,
    /// The decoded bytes.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner as for chown; empty means root.
    pub owner: String,
    /// Add to the end instead of replacing.
    pub append: bool,
    /// Line of the entry.
    pub line: u32,
}

/// The section `coreos`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coreos {
    /// Options of each daemon.
    pub etcd: OptionSet,
    /// As `etcd`, with the names of etcd 2.
    pub etcd2: OptionSet,
    /// fleet.
    pub fleet: OptionSet,
    /// flannel.
    pub flannel: OptionSet,
    /// locksmith.
    pub locksmith: OptionSet,
    /// Updates.
    pub update: Update,
    /// The OEM's own description.
    pub oem: Oem,
    /// Units, in order.
    pub units: Vec<Unit>,
}

/// Options of one daemon that were set, as variables in table order.
pub type OptionSet = Vec<(String, String)>;

/// `coreos.update`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Reboot strategy.
    pub reboot_strategy: Option<At<String>>,
    /// Update group.
    pub group: String,
    /// Update server.
    pub server: String,
}

/// `coreos.oem`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Oem {
    /// Stable name of the platform.
    pub id: String,
    /// Readable name.
    pub name: String,
    /// Version of the OEM part.
    pub version_id: String,
    /// Web page.
    pub home_url: String,
    /// Where to report bugs.
    pub bug_report_url: String,
}

/// One entry of `coreos.units`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Unit name, or the shape `X.service.d/Y.conf`.
    pub name: String,
    /// Files below `/run` instead of `/etc`.
    pub runtime: bool,
    /// The unit file; empty if not given.
    pub content: String,
    /// Drop-ins.
    pub drop_ins: Vec<DropIn>,
    /// Link to /dev/null.
    pub mask: bool,
    /// Enable.
    pub enable: bool,
    /// Command; empty if not given.
    pub command: String,
    /// Line of the entry.
    pub line: u32,
}

/// One drop-in file of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropIn {
    /// File name.
    pub name: String,
    /// Text.
    pub content: String,
}

/// Why a document cannot be applied at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not YAML.
    #[error("cannot read the document")]
    Yaml(#[source] YamlError),
    /// The top level is a list or a single value.
    #[error("line {line}: the document must be a mapping of keys to values")]
    NotAMapping {
        /// Where it starts.
        line: u32,
    },
    /// The content of a file cannot be decoded.
    #[error("line {line}: content of {path} cannot be decoded as \"{encoding}\"")]
    Content {
        /// Line of the entry.
        line: u32,
        /// Path of the file.
        path: String,
        /// What it claims to be.
        encoding: String,
        /// Why not.
        #[source]
        source: ContentError,
    },
    /// A file mode is not octal.
    #[error("line {line}: permissions of {path} are not an octal mode: \"{value}\"")]
    Mode {
        /// Line of the value.
        line: u32,
        /// Path of the file.
        path: String,
        /// The value.
        value: String,
    },
}

/// Reads the text of a document into its tree. `None`: nothing in it.
pub fn tree(text: &str) -> Result<Option<Node>, ConfigError> {
    let root = yaml::parse(&subst::protect(text)).map_err(ConfigError::Yaml)?;
    match root {
        Some(node) if node.as_map().is_none() => Err(ConfigError::NotAMapping {
            line: node.mark.line,
        }),
        other => Ok(other),
    }
}

/// Takes the fields out of a finished tree. Unknown keys and wrong types are not errors here
/// ([`validate`] reports them); undecodable contents and bad modes are.
pub fn from_tree(root: &Node) -> Result<CloudConfig, ConfigError> {
    let mut findings = Findings::default();
    let mut problems = Vec::new();
    let config = decode(root, &mut findings, &mut problems);
    match problems.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(config),
    }
}

/// All findings about the text of a document (marker line included).
pub fn validate(text: &str) -> Report {
    let mut findings = Findings::default();
    let root = match yaml::parse(&subst::protect(text)) {
        Ok(root) => root,
        Err(error) => {
            findings.add(Check::Yaml, Level::Error, error.mark, error.message);
            return Report::from_unsorted(findings.list);
        }
    };
    if let Some(root) = root {
        if root.as_map().is_none() {
            let message = "the document must be a mapping of keys to values".to_owned();
            findings.add(Check::Yaml, Level::Error, root.mark, message);
        } else {
            decode(&root, &mut findings, &mut Vec::new());
        }
    }
    Report::from_unsorted(findings.list)
}

fn decode(root: &Node, findings: &mut Findings, problems: &mut Vec<ConfigError>) -> CloudConfig {
    let mut top = Fields::open(root, "", findings);
    let hostname = top.plain_text("hostname");
    let ssh_authorized_keys = top.texts("ssh_authorized_keys");
    let users = users::decode(&mut top);
    let write_files = files(&mut top, problems);
    let manage_etc_hosts = top.checked_text("manage_etc_hosts", Pattern::EtcHosts);
    let coreos = match top.take("coreos") {
        Some(entry) => coreos(&entry.node, top.findings),
        None => Coreos::default(),
    };
    let vendor_data_disabled = match top.take("vendor_data") {
        Some(entry) => {
            let mut fields = Fields::open(&entry.node, "vendor_data", top.findings);
            let enabled = fields.maybe_bool("enabled");
            fields.take("prefix");
            fields.finish();
            enabled == Some(false)
        }
        None => false,
    };
    let extensions = extensions::decode(&mut top);
    top.finish();
    CloudConfig {
        hostname,
        ssh_authorized_keys,
        users,
        write_files,
        manage_etc_hosts,
        coreos,
        extensions,
        vendor_data_disabled,
    }
}

fn files(top: &mut Fields<'_, '_>, problems: &mut Vec<ConfigError>) -> Vec<File> {
    let items = top.items("write_files");
    let mut files = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut fields = Fields::open(item, &format!("write_files[{index}]"), top.findings);
        let path = fields.text("path");
        let permissions = fields.checked_text("permissions", Pattern::Mode);
        let owner = fields.plain_text("owner");
        let append = fields.bool("append");
        let encoding = fields.text("encoding");
        let raw = raw_content(&mut fields);
        fields.finish();

        let path_text = path.as_ref().map(|p| p.value.clone()).unwrap_or_default();
        let content = decoded(top.findings, problems, item, &path_text, encoding, raw);
        if let Some(path) = path.as_ref() {
            check_read_only(top.findings, path);
        }
        let mode = match permissions {
            None => Some(0o644),
            Some(text) => {
                let mode = pattern::mode(&text.value);
                if mode.is_none() {
                    problems.push(ConfigError::Mode {
                        line: text.mark.line,
                        path: path_text.clone(),
                        value: text.value,
                    });
                }
                mode
            }
        };
        // An entry without a path comes from a list item that is no mapping, or from a typing error.
        if let (Some(content), Some(mode), false) = (content, mode, path_text.is_empty()) {
            let path = clean(&path_text);
            files.push(File {
                path,
                content,
                mode,
                owner,
                append,
                line: item.mark.line,
            });
        }
    }
    files
}

/// The bytes of `content` before decoding, with the place of the key.
fn raw_content(fields: &mut Fields<'_, '_>) -> Option<At<Result<Vec<u8>, ContentError>>> {
    let entry = fields.take("content")?;
    match entry.node.as_scalar() {
        Some(scalar) if scalar.binary => {
            let value = content::base64_decode(scalar.text.as_bytes());
            Some(At {
                value,
                mark: entry.mark,
            })
        }
        Some(scalar) => Some(At {
            value: Ok(scalar.text.clone().into_bytes()),
            mark: entry.mark,
        }),
        None => {
            fields.findings.wrong_type(entry.mark, "content", "string");
            None
        }
    }
}

fn decoded(
    findings: &mut Findings,
    problems: &mut Vec<ConfigError>,
    item: &Node,
    path: &str,
    encoding: Option<At<String>>,
    raw: Option<At<Result<Vec<u8>, ContentError>>>,
) -> Option<Vec<u8>> {
    let name = encoding
        .as_ref()
        .map(|e| e.value.clone())
        .unwrap_or_default();
    let mark = raw
        .as_ref()
        .map(|r| r.mark)
        .or(encoding.as_ref().map(|e| e.mark));
    let mark = mark.unwrap_or(item.mark);
    let result = match raw {
        None => content::decode(b"", if known(&name) { "" } else { &name }),
        Some(At {
            value: Ok(bytes), ..
        }) => content::decode(&bytes, &name),
        Some(At {
            value: Err(error), ..
        }) => Err(error),
    };
    match result {
        Ok(bytes) => Some(bytes),
        Err(source) => {
            if let (ContentError::Unknown(_), Some(at)) = (&source, &encoding) {
                findings.invalid(at.mark, &at.value);
            }
            let shown = if name.is_empty() {
                "!!binary"
            } else {
                name.as_str()
            };
            findings.add(
                Check::Encoding,
                Level::Error,
                mark,
                format!("content cannot be decoded as \"{shown}\""),
            );
            problems.push(ConfigError::Content {
                line: mark.line,
                path: path.to_owned(),
                encoding: shown.to_owned(),
                source,
            });
            None
        }
    }
}

fn known(encoding: &str) -> bool {
    pattern::ENCODINGS.contains(&encoding)
}

fn check_read_only(findings: &mut Findings, path: &At<String>) {
    let clean = clean(&path.value);
    let inside = clean.starts_with("/usr") && !clean.starts_with("/usr/share/oem");
    if inside && clean != Path::new("/usr") {
        let message = "file cannot be written to a read-only filesystem".to_owned();
        findings.add(Check::ReadOnly, Level::Error, path.mark, message);
    }
}

/// Joins `path` under `/` and cleans it by its text alone.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn coreos(node: &Node, findings: &mut Findings) -> Coreos {
    let mut fields = Fields::open(node, "coreos", findings);
    let etcd = section(&mut fields, &options::ETCD);
    let etcd2 = section(&mut fields, &options::ETCD2);
    let fleet = section(&mut fields, &options::FLEET);
    let flannel = section(&mut fields, &options::FLANNEL);
    let locksmith = section(&mut fields, &options::LOCKSMITH);
    let update = update(&mut fields);
    let oem = oem(&mut fields);
    let units = units(&mut fields);
    if let Some(mark) = fields.mark_of("write_files") {
        let message = "write_files does not belong under coreos".to_owned();
        fields
            .findings
            .add(Check::Misplaced, Level::Info, mark, message);
    }
    fields.finish();
    Coreos {
        etcd,
        etcd2,
        fleet,
        flannel,
        locksmith,
        update,
        oem,
        units,
    }
}

fn section(parent: &mut Fields<'_, '_>, section: &Section) -> OptionSet {
    let Some(entry) = parent.take(section.key) else {
        return Vec::new();
    };
    let mut fields = Fields::open(&entry.node, section.key, parent.findings);
    let mut set = Vec::new();
    for row in section.rows {
        let Some(at) = fields.option(row) else {
            continue;
        };
        if section.key == "etcd" && row.key == "discovery" && !is_url(&at.value) {
            let message = "discovery URL is not valid".to_owned();
            fields
                .findings
                .add(Check::Discovery, Level::Warning, at.mark, message);
        }
        let name = match row.env {
            Some(env) => env.to_owned(),
            None => format!("{}{}", section.prefix, row.key.to_uppercase()),
        };
        set.push((name, at.value));
    }
    fields.finish();
    set
}

/// A loose check: no control characters or blanks, a scheme before any colon, whole percent escapes.
fn is_url(text: &str) -> bool {
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    let escapes = text.match_indices('%').all(|(at, _)| {
        text.get(at + 1..at + 3)
            .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let scheme = match text.split('/').next().unwrap_or_default().split_once(':') {
        None => true,
        Some((scheme, _)) => {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        }
    };
    escapes && scheme
}

fn update(parent: &mut Fields<'_, '_>) -> Update {
    let Some(entry) = parent.take("update") else {
        return Update::default();
    };
    let mut fields = Fields::open(&entry.node, "update", parent.findings);
    let reboot_strategy = fields.checked_text("reboot_strategy", Pattern::Strategy);
    if let Some(at) = reboot_strategy
        .as_ref()
        .filter(|at| at.value == "best-effort")
    {
        fields.findings.add(
            Check::Pattern,
            Level::Warning,
            at.mark,
            "reboot strategy best-effort is old: it means etcd-lock where etcd or fleet is set up, \
             else reboot"
                .to_owned(),
        );
    }
    let update = Update {
        reboot_strategy,
        group: fields.plain_text("group"),
        server: fields.plain_text("server"),
    };
    fields.finish();
    update
}

fn oem(parent: &mut Fields<'_, '_>) -> Oem {
    let Some(entry) = parent.take("oem") else {
        return Oem::default();
    };
    let mut fields = Fields::open(&entry.node, "oem", parent.findings);
    let oem = Oem {
        id: fields.plain_text("id"),
        name: fields.plain_text("name"),
        version_id: fields.plain_text("version_id"),
        home_url: fields.plain_text("home_url"),
        bug_report_url: fields.plain_text("bug_report_url"),
    };
    fields.finish();
    oem
}

fn units(parent: &mut Fields<'_, '_>) -> Vec<Unit> {
    let mut units = Vec::new();
    for (index, item) in parent.items("units").iter().enumerate() {
        let mut fields = Fields::open(item, &format!("units[{index}]"), parent.findings);
        let mut unit = Unit {
            name: fields.plain_text("name"),
            runtime: fields.bool("runtime"),
            content: fields.plain_text("content"),
            drop_ins: Vec::new(),
            mask: fields.bool("mask"),
            enable: fields.bool("enable"),
            command: String::new(),
            line: item.mark.line,
        };
        if let Some(command) = fields.checked_text("command", Pattern::Command) {
            unit.command = command.value;
        }
        for (index, item) in fields.items("drop_ins").iter().enumerate() {
            let mut inner = Fields::open(item, &format!("drop_ins[{index}]"), fields.findings);
            let drop_in = DropIn {
                name: inner.plain_text("name"),
                content: inner.plain_text("content"),
            };
            inner.finish();
            if !drop_in.name.is_empty() && !drop_in.content.is_empty() {
                unit.drop_ins.push(drop_in);
            }
        }
        fields.finish();
        unit_text::check(&unit, item, parent.findings);
        units.push(unit);
    }
    units
}

/// The first finding of an input that is neither document nor script.
pub(crate) fn header_finding(mark: Mark) -> Report {
    let mut findings = Findings::default();
    findings.add(
        Check::Header,
        Level::Error,
        mark,
        "must be \"#cloud-config\" or begin with \"#!\"".to_owned(),
    );
    Report::from_unsorted(findings.list)
}
