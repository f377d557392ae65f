//! Keys of today's cloud-init that the original never had: groups, bootcmd, runcmd, timezone, ntp,
//! ca_certs, mounts.

use super::reader::Fields;
use crate::yaml::{Node, Value};

/// All extension keys of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Groups to make.
    pub groups: Vec<GroupSpec>,
    /// Commands before everything else that the document does.
    pub bootcmd: Vec<RunItem>,
    /// Commands after everything else, once per instance.
    pub runcmd: Vec<RunItem>,
    /// Zone name.
    pub timezone: String,
    /// Time servers.
    pub ntp: Ntp,
    /// Certificates to trust.
    pub ca_certs: CaCerts,
    /// File systems to mount.
    pub mounts: Vec<Mount>,
}

/// A group with members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// Name.
    pub name: String,
    /// Accounts that are put into it.
    pub members: Vec<String>,
}

/// One command of `bootcmd` or `runcmd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunItem {
    /// A line for the shell.
    Shell(String),
    /// A program with its arguments.
    Args(Vec<String>),
}

/// Time servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ntp {
    /// Single servers.
    pub servers: Vec<String>,
    /// Names that stand for many servers.
    pub pools: Vec<String>,
}

/// Certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaCerts {
    /// PEM texts to add.
    pub trusted: Vec<String>,
}

/// One line of `mounts`, in the order of fstab's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Device, `LABEL=`, `UUID=`, or a network path.
    pub what: String,
    /// Directory.
    pub place: String,
    /// File system type; empty: found out by the kernel.
    pub kind: String,
    /// Options; empty: defaults.
    pub options: String,
    /// Line of the entry.
    pub line: u32,
}

pub(super) fn decode(top: &mut Fields<'_, '_>) -> Extensions {
    Extensions {
        groups: groups(top),
        bootcmd: commands(top, "bootcmd"),
        runcmd: commands(top, "runcmd"),
        timezone: top.plain_text("timezone"),
        ntp: ntp(top),
        ca_certs: ca_certs(top),
        mounts: mounts(top),
    }
}

fn groups(top: &mut Fields<'_, '_>) -> Vec<GroupSpec> {
    let Some(entry) = top.take("groups") else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    let Some(items) = entry.node.as_list() else {
        top.findings.wrong_type(entry.mark, "groups", "[]string");
        return groups;
    };
    for (index, item) in items.iter().enumerate() {
        match &item.value {
            Value::Scalar(scalar) => {
                groups.push(GroupSpec {
                    name: scalar.text.clone(),
                    members: Vec::new(),
                });
            }
            Value::Map(entries) => {
                for group in entries {
                    let members = match &group.node.value {
                        Value::List(names) => top.text_items(names, &group.raw_key),
                        Value::Scalar(_) if group.node.is_null() => Vec::new(),
                        Value::Scalar(name) => vec![name.text.clone()],
                        Value::Map(_) => {
                            top.findings
                                .wrong_type(group.mark, &group.raw_key, "[]string");
                            continue;
                        }
                    };
                    groups.push(GroupSpec {
                        name: group.raw_key.clone(),
                        members,
                    });
                }
            }
            Value::List(_) => {
                top.findings
                    .wrong_type(item.mark, &format!("groups[{index}]"), "string");
            }
        }
    }
    groups
}

fn commands(top: &mut Fields<'_, '_>, key: &str) -> Vec<RunItem> {
    let Some(entry) = top.take(key) else {
        return Vec::new();
    };
    let Some(items) = entry.node.as_list() else {
        top.findings.wrong_type(entry.mark, key, "[]string");
        return Vec::new();
    };
    let mut commands = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match &item.value {
            Value::Scalar(scalar) if !scalar.is_null() => {
                commands.push(RunItem::Shell(scalar.text.clone()));
            }
            Value::List(args) => {
                let args = top.text_items(args, &format!("{key}[{index}]"));
                if !args.is_empty() {
                    commands.push(RunItem::Args(args));
                }
            }
            Value::Scalar(_) => {}
            Value::Map(_) => {
                top.findings
                    .wrong_type(item.mark, &format!("{key}[{index}]"), "string");
            }
        }
    }
    commands
}

fn ntp(top: &mut Fields<'_, '_>) -> Ntp {
    let Some(entry) = top.take("ntp") else {
        return Ntp::default();
    };
    let mut fields = Fields::open(&entry.node, "ntp", top.findings);
    let enabled = fields.maybe_bool("enabled") != Some(false);
    let ntp = Ntp {
        servers: fields.texts("servers"),
        pools: fields.texts("pools"),
    };
    fields.finish();
    if enabled { ntp } else { Ntp::default() }
}

fn ca_certs(top: &mut Fields<'_, '_>) -> CaCerts {
    let Some(entry) = top.take("ca_certs") else {
        return CaCerts::default();
    };
    let mut fields = Fields::open(&entry.node, "ca_certs", top.findings);
    let certs = CaCerts {
        trusted: fields.texts("trusted"),
    };
    fields.finish();
    certs
}

fn mounts(top: &mut Fields<'_, '_>) -> Vec<Mount> {
    let Some(entry) = top.take("mounts") else {
        return Vec::new();
    };
    let mut mounts = Vec::new();
    let Some(items) = entry.node.as_list() else {
        top.findings.wrong_type(entry.mark, "mounts", "[][]string");
        return mounts;
    };
    for (index, item) in items.iter().enumerate() {
        let name = format!("mounts[{index}]");
        let Some(parts) = item.as_list() else {
            top.findings.wrong_type(item.mark, &name, "[]string");
            continue;
        };
        let text = |at: usize| part(parts, at);
        let (what, place) = (text(0), text(1));
        if what.is_empty() || !place.starts_with('/') {
            top.findings.invalid(item.mark, &name);
            continue;
        }
        let kind = Some(text(2)).filter(|k| k != "auto").unwrap_or_default();
        mounts.push(Mount {
            what,
            place,
            kind,
            options: text(3),
            line: item.mark.line,
        });
    }
    mounts
}

fn part(parts: &[Node], at: usize) -> String {
    parts
        .get(at)
        .and_then(Node::as_scalar)
        .map(|s| s.text.clone())
        .unwrap_or_default()
}
