//! From a document and facts to the list of changes, in the one order that the format promises.
//!
//! Pure: reads nothing, changes nothing. `--dry-run` prints the list, [`crate::apply`] performs it.
//! The order is: bootcmd, host name, groups, users, keys of `core`, `write_files`, oem-release,
//! update.conf, hosts, flannel's file, `/etc/environment`, extensions, units in document order,
//! generated units, converted network files, reload, networkd, unit commands, runcmd.
//!
//! The texts that may be refused (strategy, hosts) are computed before the first file is written: a
//! bad one ends the list behind users and keys, so that the operator can still log in.

mod show;
pub use show::render;
pub mod text;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{CloudConfig, RunItem, User};
use crate::metadata::Addresses;

/// What a plan needs to know of the machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The kernel's host name.
    pub hostname: String,
    /// Accounts that exist.
    pub accounts: BTreeSet<String>,
    /// Text of the update.conf in force.
    pub update_conf: Option<String>,
    /// Text of `/etc/environment`.
    pub environment: Option<String>,
    /// The image's list of trusted certificates.
    pub ca_bundle: Option<String>,
    /// Addresses known, to be kept in `/etc/environment`.
    pub addresses: Addresses,
    /// Name of the key sets that a document's keys go to.
    pub key_set: String,
    /// Keys that were fetched, by the address they came from; or why not.
    pub imported_keys: BTreeMap<String, Result<Vec<String>, String>>,
    /// Network files made from meta-data: name and text.
    pub network_files: Vec<(String, String)>,
}

/// One change of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// `/etc/hostname` and the kernel's name.
    SetHostname {
        /// The name.
        name: String,
    },
    /// A group, made if missing, and who is in it.
    CreateGroup {
        /// Name.
        name: String,
        /// Accounts to put into it.
        members: Vec<String>,
    },
    /// A new account.
    CreateUser(NewUser),
    /// A new password of an account that exists.
    SetPassword {
        /// Account.
        user: String,
        /// Hash; never printed.
        hash: String,
    },
    /// One set of keys of an account.
    SetKeys {
        /// Account.
        user: String,
        /// Name of the set.
        set: String,
        /// Keys.
        keys: Vec<String>,
    },
    /// A file, whole or at the end of what is there.
    WriteFile {
        /// Where.
        path: PathBuf,
        /// The bytes.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner as for chown; empty: root.
        owner: String,
        /// Add to the end.
        append: bool,
    },
    /// A symbolic link, in place of what was there.
    Link {
        /// Where.
        path: PathBuf,
        /// What it points at.
        target: PathBuf,
    },
    /// Removes a unit file that is empty or a link to /dev/null.
    Unmask {
        /// The unit file.
        path: PathBuf,
    },
    /// Enables a unit over the bus.
    EnableUnit {
        /// Unit.
        unit: String,
        /// Until the next boot only.
        runtime: bool,
    },
    /// Makes the init system read unit files again.
    Reload,
    /// Restarts networkd, so that it reads its files again.
    RestartNetworkd,
    /// A command to a unit.
    UnitCommand {
        /// Unit.
        unit: String,
        /// One of the seven commands, as written.
        command: String,
        /// Made by us, not asked for by name: the unit may be missing.
        generated: bool,
    },
    /// A program of `bootcmd` or `runcmd`.
    Run {
        /// Program and arguments.
        args: Vec<String>,
        /// Belongs to the stage of commands, once per instance.
        late: bool,
    },
    /// A script of the user, run by bash in a unit of its own.
    RunScript {
        /// The text.
        script: String,
    },
    /// Something that cannot be done.
    Problem {
        /// What and why.
        message: String,
        /// What follows from it.
        weight: Weight,
    },
}

/// What a problem means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// A line in the log.
    Skipped,
    /// The run goes on and fails in the end.
    Error,
    /// Nothing after it is done.
    Fatal,
}

/// Fields of a new account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    /// Login name.
    pub name: String,
    /// Password field; `*` without a password.
    pub passwd: String,
    /// Comment.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Make it.
    pub create_home: bool,
    /// Primary group, by name or number; empty: see `user_group`.
    pub primary_group: String,
    /// Make a group of the same name.
    pub user_group: bool,
    /// Further groups.
    pub groups: Vec<String>,
    /// Take ids of the system range.
    pub system: bool,
    /// Login shell.
    pub shell: String,
    /// Wanted id.
    pub uid: Option<u32>,
    /// shadow's field of days after expiry.
    pub inactive: String,
    /// Date of the end, `YYYY-MM-DD`.
    pub expiredate: String,
}

impl Change {
    /// Whether the change belongs to the stage of commands and not to the stage before.
    pub fn is_command(&self) -> bool {
        matches!(
            self,
            Change::UnitCommand { .. } | Change::RunScript { .. } | Change::Run { late: true, .. }
        )
    }

    /// A root-owned file.
    pub(crate) fn file(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        Change::WriteFile {
            path: path.into(),
            content: content.into(),
            mode,
            owner: String::new(),
            append: false,
        }
    }

    pub(crate) fn problem(message: impl Into<String>, weight: Weight) -> Self {
        Change::Problem {
            message: message.into(),
            weight,
        }
    }
}

/// Makes the list of changes for one document.
pub fn plan(config: &CloudConfig, facts: &Facts) -> Vec<Change> {
    let mut changes = Vec::new();
    for item in &config.extensions.bootcmd {
        changes.push(Change::Run {
            args: run_args(item),
            late: false,
        });
    }
    if !config.hostname.is_empty() {
        changes.push(Change::SetHostname {
            name: config.hostname.clone(),
        });
    }
    for group in &config.extensions.groups {
        changes.push(Change::CreateGroup {
            name: group.name.clone(),
            members: group.members.clone(),
        });
    }
    for user in &config.users {
        plan_user(user, facts, &mut changes);
    }
    push_keys(
        &mut changes,
        "core",
        &facts.key_set,
        &config.ssh_authorized_keys,
    );

    let files = match generated_files(config, facts) {
        Ok(files) => files,
        Err(message) => {
            changes.push(Change::problem(message, Weight::Fatal));
            return changes;
        }
    };
    for file in &config.write_files {
        changes.push(Change::WriteFile {
            path: file.path.clone(),
            content: file.content.clone(),
            mode: file.mode,
            owner: file.owner.clone(),
            append: file.append,
        });
    }
    changes.extend(files);
    units::plan(config, facts, &mut changes);
    for item in &config.extensions.runcmd {
        changes.push(Change::Run {
            args: run_args(item),
            late: true,
        });
    }
    changes
}

/// The change that runs a user's script.
pub fn plan_script(script: String) -> Vec<Change> {
    vec![Change::RunScript { script }]
}

fn run_args(item: &RunItem) -> Vec<String> {
    match item {
        RunItem::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        RunItem::Args(args) => args.clone(),
    }
}

fn push_keys(changes: &mut Vec<Change>, user: &str, set: &str, keys: &[String]) {
    let keys: Vec<String> = keys
        .iter()
        .map(|k| k.trim().to_owned())
        .filter(|k| !k.is_empty())
        .collect();
    if !keys.is_empty() {
        changes.push(Change::SetKeys {
            user: user.to_owned(),
            set: set.to_owned(),
            keys,
        });
    }
}

/// Addresses that a user's keys come from, with the set they go to.
pub fn key_imports(user: &User) -> Vec<(String, String)> {
    let mut imports: Vec<(String, String)> = user
        .import_github
        .iter()
        .map(|name| {
            (
                format!("https://api.github.com/users/{name}/keys"),
                format!("github-{name}"),
            )
        })
        .collect();
    if !user.import_url.is_empty() {
        imports.push((
            user.import_url.clone(),
            format!("coreos-cloudinit-{}", user.name),
        ));
    }
    imports
}

fn plan_user(user: &User, facts: &Facts, changes: &mut Vec<Change>) {
    if user.name.is_empty() {
        let message = format!("line {}: user without a name skipped", user.line);
        changes.push(Change::problem(message, Weight::Skipped));
        return;
    }
    if !valid_account_name(&user.name) {
        let message = format!(
            "line {}: \"{}\" is not a valid user name",
            user.line, user.name
        );
        changes.push(Change::problem(message, Weight::Error));
        return;
    }
    if !facts.accounts.contains(&user.name) {
        changes.push(Change::CreateUser(new_user(user)));
    } else if !user.passwd.is_empty() {
        let hash = if user.lock_passwd {
            "*".to_owned()
        } else {
            user.passwd.clone()
        };
        changes.push(Change::SetPassword {
            user: user.name.clone(),
            hash,
        });
    }
    if !user.sudo.is_empty() {
        let mut text = String::from("# written by flotilla-cloudinit\n");
        for rule in &user.sudo {
            text.push_str(&format!("{} {}\n", user.name, rule.replace('\n', " ")));
        }
        // sudo ignores names with a dot.
        let name = user.name.replace('.', "_");
        changes.push(Change::file(
            format!("/etc/sudoers.d/90-cloudinit-{name}"),
            text,
            0o440,
        ));
    }
    push_keys(
        changes,
        &user.name,
        &facts.key_set,
        &user.ssh_authorized_keys,
    );
    for (address, set) in key_imports(user) {
        match facts.imported_keys.get(&address) {
            Some(Ok(keys)) => push_keys(changes, &user.name, &set, keys),
            Some(Err(why)) => {
                let message = format!(
                    "line {}: keys of user {} not fetched from {address}: {why}",
                    user.line, user.name
                );
                changes.push(Change::problem(message, Weight::Error));
            }
            None => {}
        }
    }
}

/// useradd's rule, a little wider: no character with a meaning in the account files or in paths.
pub(crate) fn valid_account_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(['-', '.'])
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-$".contains(c))
}

fn new_user(user: &User) -> NewUser {
    let or = |text: &str, default: String| {
        if text.is_empty() {
            default
        } else {
            text.to_owned()
        }
    };
    NewUser {
        name: user.name.clone(),
        // A leading `!` would make sshd refuse keys too.
        passwd: if user.lock_passwd {
            "*".to_owned()
        } else {
            or(&user.passwd, "*".to_owned())
        },
        gecos: user.gecos.clone(),
        home: or(&user.homedir, format!("/home/{}", user.name)),
        create_home: !user.no_create_home,
        primary_group: user.primary_group.clone(),
        user_group: !user.no_user_group && user.primary_group.is_empty(),
        groups: user.groups.clone(),
        system: user.system,
        shell: or(&user.shell, "/bin/bash".to_owned()),
        uid: user.uid,
        inactive: user.inactive.clone(),
        expiredate: user.expiredate.clone(),
    }
}

/// The files that other keys stand for. An error is a value that must not be written.
fn generated_files(config: &CloudConfig, facts: &Facts) -> Result<Vec<Change>, String> {
    let mut files = Vec::new();
    let coreos = &config.coreos;
    if !coreos.oem.id.is_empty() {
        files.push(Change::file(
            "/etc/oem-release",
            text::oem_release(&coreos.oem),
            0o644,
        ));
    }
    if let Some(settings) = update_settings(config)? {
        let current = facts.update_conf.as_deref().unwrap_or_default();
        let text = text::edit_settings(current, &settings, "");
        files.push(Change::file("/etc/coreos/update.conf", text, 0o644));
    }
    if let Some(value) = &config.manage_etc_hosts
        && let Some(text) = hosts(&value.value, config, facts)?
    {
        files.push(Change::file("/etc/hosts", text, 0o644));
    }
    if !coreos.flannel.is_empty() {
        let lines: Vec<String> = coreos.flannel.iter().map(|(k, v)| one_line(k, v)).collect();
        files.push(Change::file(
            "/run/flannel/options.env",
            lines.join("\n"),
            0o644,
        ));
    }
    let environment = PathBuf::from("/etc/environment");
    if !config.write_files.iter().any(|f| f.path == environment) {
        let current = facts.environment.as_deref().unwrap_or_default();
        let text = text::environment(current, &facts.addresses);
        if text != current {
            files.push(Change::file(environment, text, 0o644));
        }
    }
    extension_files(config, facts, &mut files);
    Ok(files)
}

fn one_line(key: &str, value: &str) -> String {
    format!("{key}={}", value.replace('\n', " "))
}

fn update_settings(config: &CloudConfig) -> Result<Option<Vec<(&'static str, String)>>, String> {
    let update = &config.coreos.update;
    let mut settings = Vec::new();
    if let Some(at) = &update.reboot_strategy {
        let value = match at.value.as_str() {
            "etcd-lock" | "reboot" | "off" => at.value.clone(),
            "false" => "off".to_owned(),
            "best-effort" if uses_cluster(config) => "etcd-lock".to_owned(),
            "best-effort" => "reboot".to_owned(),
            other => {
                return Err(format!(
                    "line {}: invalid reboot strategy \"{other}\" (use etcd-lock, reboot or off)",
                    at.mark.line
                ));
            }
        };
        settings.push(("REBOOT_STRATEGY", value));
    }
    if !update.group.is_empty() {
        settings.push(("GROUP", update.group.clone()));
    }
    if !update.server.is_empty() {
        settings.push(("SERVER", update.server.clone()));
    }
    Ok(Some(settings).filter(|s| !s.is_empty()))
}

/// Whether the document sets up etcd or fleet.
fn uses_cluster(config: &CloudConfig) -> bool {
    let names = [
        "etcd.service",
        "etcd2.service",
        "etcd-member.service",
        "fleet.service",
    ];
    let coreos = &config.coreos;
    !coreos.etcd.is_empty()
        || !coreos.etcd2.is_empty()
        || !coreos.fleet.is_empty()
        || coreos
            .units
            .iter()
            .any(|u| names.contains(&u.name.as_str()) && !u.mask)
}

fn hosts(value: &str, config: &CloudConfig, facts: &Facts) -> Result<Option<String>, String> {
    match value.to_ascii_lowercase().as_str() {
        "localhost" | "true" | "yes" | "on" => {
            let name = if config.hostname.is_empty() {
                &facts.hostname
            } else {
                &config.hostname
            };
            Ok(Some(format!("127.0.0.1 {name}\n")))
        }
        "false" | "no" | "off" => Ok(None),
        other => Err(format!(
            "invalid value \"{other}\" of manage_etc_hosts (use localhost)"
        )),
    }
}

fn extension_files(config: &CloudConfig, facts: &Facts, files: &mut Vec<Change>) {
    let extensions = &config.extensions;
    if !extensions.timezone.is_empty() {
        let zone = crate::config::clean(&extensions.timezone);
        let target = PathBuf::from(format!("../usr/share/zoneinfo{}", zone.display()));
        files.push(Change::Link {
            path: "/etc/localtime".into(),
            target,
        });
    }
    let ntp = &extensions.ntp;
    if !ntp.servers.is_empty() || !ntp.pools.is_empty() {
        let mut text = String::new();
        for (word, names) in [("pool", &ntp.pools), ("server", &ntp.servers)] {
            for name in names {
                text.push_str(&one_word_line(word, name));
            }
        }
        files.push(Change::file(
            "/etc/chrony/sources.d/50-cloudinit.sources",
            text,
            0o644,
        ));
    }
    if !extensions.ca_certs.trusted.is_empty() {
        let base = facts.ca_bundle.as_deref().unwrap_or_default();
        let text = text::certificates(base, &extensions.ca_certs.trusted);
        files.push(Change::file(
            "/etc/ssl/certs/ca-certificates.crt",
            text,
            0o644,
        ));
    }
}

fn one_word_line(word: &str, name: &str) -> String {
    let name: String = name.split_whitespace().take(1).collect();
    format!("{word} {name} iburst\n")
}

/// Bytes as text where they are text, else as base64 behind a mark.
mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Text(String),
        Base64 { base64: String },
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Shape::Text(text.to_owned()).serialize(out),
            Err(_) => Shape::Base64 {
                base64: STANDARD.encode(bytes),
            }
            .serialize(out),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        match Shape::deserialize(input)? {
            Shape::Text(text) => Ok(text.into_bytes()),
            Shape::Base64 { base64 } => STANDARD
                .decode(base64)
                .map_err(<D::Error as serde::de::Error>::custom),
        }
    }
}
