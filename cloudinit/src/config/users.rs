//! `users[]`: accounts to make or update.

use super::reader::Fields;
use crate::yaml::{Node, Value};

/// One account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Login name; an entry without one is skipped.
    pub name: String,
    /// Password hash.
    pub passwd: String,
    /// Comment.
    pub gecos: String,
    /// Home directory; empty: `/home/NAME`.
    pub homedir: String,
    /// Do not make the home directory.
    pub no_create_home: bool,
    /// Primary group, a name or a number.
    pub primary_group: String,
    /// Further groups.
    pub groups: Vec<String>,
    /// Do not make a group of the same name.
    pub no_user_group: bool,
    /// Take an id of the system range.
    pub system: bool,
    /// Login shell.
    pub shell: String,
    /// Keys.
    pub ssh_authorized_keys: Vec<String>,
    /// GitHub names to take keys from.
    pub import_github: Vec<String>,
    /// URL to take keys from.
    pub import_url: String,
    /// No login by password (ours).
    pub lock_passwd: bool,
    /// Lines for sudoers, after the name (ours).
    pub sudo: Vec<String>,
    /// Numeric id (ours).
    pub uid: Option<u32>,
    /// Days after which an expired password locks the account (ours).
    pub inactive: String,
    /// Date `YYYY-MM-DD` on which the account ends (ours).
    pub expiredate: String,
    /// Line of the entry.
    pub line: u32,
}

pub(super) fn decode(top: &mut Fields<'_, '_>) -> Vec<User> {
    let mut users = Vec::new();
    for (index, item) in top.items("users").iter().enumerate() {
        if is_word_default(item) {
            // The account `core`, which every machine has.
            continue;
        }
        users.push(user(top, item, index));
    }
    users
}

fn is_word_default(item: &Node) -> bool {
    item.as_scalar().is_some_and(|s| s.text == "default")
}

fn user(top: &mut Fields<'_, '_>, item: &Node, index: usize) -> User {
    let mut fields = Fields::open(item, &format!("users[{index}]"), top.findings);
    let mut user = User {
        name: fields.plain_text("name"),
        passwd: fields.plain_text("passwd"),
        gecos: fields.plain_text("gecos"),
        homedir: fields.plain_text("homedir"),
        no_create_home: fields.bool("no_create_home"),
        primary_group: fields.plain_text("primary_group"),
        groups: groups(&mut fields),
        no_user_group: fields.bool("no_user_group"),
        system: fields.bool("system"),
        shell: fields.plain_text("shell"),
        ssh_authorized_keys: fields.texts("ssh_authorized_keys"),
        lock_passwd: fields.bool("lock_passwd"),
        sudo: sudo(&mut fields),
        inactive: fields.plain_text("inactive"),
        expiredate: fields.plain_text("expiredate"),
        line: item.mark.line,
        ..User::default()
    };
    // Accepted without effect: there is no login record to keep out of.
    fields.bool("no_log_init");
    if let Some(uid) = fields.int("uid") {
        match u32::try_from(uid.value) {
            Ok(value) if value != u32::MAX => user.uid = Some(value),
            _ => fields.findings.invalid(uid.mark, &uid.value.to_string()),
        }
    }
    let reason = "trying to fetch from a remote endpoint introduces too many intermittent errors";
    for key in [
        "coreos_ssh_import_github",
        "coreos_ssh_import_github_users",
        "coreos_ssh_import_url",
    ] {
        if let Some(mark) = fields.mark_of(key) {
            fields.deprecated(mark, key, reason);
        }
    }
    let single = fields.plain_text("coreos_ssh_import_github");
    user.import_github
        .extend(Some(single).filter(|name| !name.is_empty()));
    user.import_github
        .extend(fields.texts("coreos_ssh_import_github_users"));
    user.import_url = fields.plain_text("coreos_ssh_import_url");
    fields.finish();
    user
}

/// A list, or words with commas between them.
fn groups(fields: &mut Fields<'_, '_>) -> Vec<String> {
    match fields.take("groups") {
        Some(entry) => match &entry.node.value {
            Value::Scalar(scalar) => scalar
                .text
                .split(',')
                .map(|g| g.trim().to_owned())
                .filter(|g| !g.is_empty())
                .collect(),
            Value::List(items) => fields.text_items(items, "groups"),
            Value::Map(_) => {
                fields.findings.wrong_type(entry.mark, "groups", "[]string");
                Vec::new()
            }
        },
        None => Vec::new(),
    }
}

/// One rule, a list of rules, or false.
fn sudo(fields: &mut Fields<'_, '_>) -> Vec<String> {
    match fields.take("sudo") {
        Some(entry) => match &entry.node.value {
            Value::Scalar(scalar) if scalar.as_bool() == Some(false) => Vec::new(),
            Value::Scalar(scalar) => vec![scalar.text.clone()],
            Value::List(items) => fields.text_items(items, "sudo"),
            Value::Map(_) => {
                fields.findings.wrong_type(entry.mark, "sudo", "[]string");
                Vec::new()
            }
        },
        None => Vec::new(),
    }
}
