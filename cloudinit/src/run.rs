//! One document from bytes to a plan, and the plain run that the original's command line asks for.
//!
//! [`Session::prepare`] is the way that every document takes, at boot too: recognise, validate, fill
//! in, read, merge meta-data, gather facts, plan. Errors on the way are remembered and the rest goes
//! on: a document that cannot be read still leaves the meta-data to be applied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::apply::{Applier, NetworkRestart, Patience, Root, Summary, Units, accounts};
use crate::config::{self, CloudConfig};
use crate::datasource::http::Client;
use crate::finding::{Check, Level, Report};
use crate::input::{self, Input};
use crate::metadata::{self, Addresses, MetaData};
use crate::plan::{self, Change, Facts};
use crate::subst::{self, Missing, Variables};

/// How deep documents may include documents.
const MAX_INCLUDE: usize = 3;

/// What all documents of one run share.
#[derive(Debug)]
pub struct Session<'a> {
    /// The root directory.
    pub root: &'a Root,
    /// Addresses known.
    pub addresses: Addresses,
    /// Name of this life of the machine; may be empty.
    pub instance: String,
    /// For keys and included documents.
    pub client: Client,
    /// Nothing is fetched, and only what is safe before the network is planned.
    pub offline: bool,
}

/// A planned document.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The changes.
    pub changes: Vec<Change>,
    /// What went wrong on the way.
    pub errors: Vec<String>,
}

/// What belongs to one document beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct Companion {
    /// What messages call the document; empty: user-data.
    pub name: String,
    /// Meta-data to be merged.
    pub meta: MetaData,
    /// Name of the key sets.
    pub key_set: String,
    /// Files made from network settings.
    pub network_files: Vec<(String, String)>,
}

impl Companion {
    fn say(&self, message: impl std::fmt::Display) -> String {
        let name = if self.name.is_empty() {
            "user-data"
        } else {
            &self.name
        };
        format!("{name}: {message}")
    }
}

impl Session<'_> {
    /// Makes the plan of one document.
    pub fn prepare(&self, bytes: &[u8], with: &Companion) -> Prepared {
        let mut prepared = Prepared::default();
        let input = match input::classify(bytes) {
            Ok(input) => input,
            Err(error) => {
                let message = with.say(telemetry::chain(&error));
                self.remember(&mut prepared.errors, message);
                Input::Empty
            }
        };
        self.prepare_input(input, with, 0, &mut prepared);
        prepared
    }

    /// Offline, the next stage reads the same document and says the same.
    fn remember(&self, errors: &mut Vec<String>, message: String) {
        if self.offline {
            errors.push(message);
        } else {
            remember(errors, message);
        }
    }

    fn prepare_input(&self, input: Input, with: &Companion, depth: usize, out: &mut Prepared) {
        match input {
            Input::Empty => self.prepare_config(CloudConfig::default(), with, out),
            Input::Ignition => {
                tracing::info!("user-data is an Ignition config, which is not for this program");
                self.prepare_config(CloudConfig::default(), with, out);
            }
            Input::Unknown => {
                let report = input::validate(b"x");
                let finding = &report.findings[0];
                let message = with.say(format!("line {}: {}", finding.line, finding.message));
                self.remember(&mut out.errors, message);
                self.prepare_config(CloudConfig::default(), with, out);
            }
            Input::Document(text) => match self.document(&text, with) {
                Ok(config) => self.prepare_config(config, with, out),
                Err(error) => {
                    let message = with.say(telemetry::chain(&error));
                    self.remember(&mut out.errors, message);
                    self.prepare_config(CloudConfig::default(), with, out);
                }
            },
            Input::Script(text) => {
                self.prepare_config(CloudConfig::default(), with, out);
                let (script, missing) = subst::substitute_script(&text, &self.variables(""));
                warn_missing(&missing, with);
                out.changes.extend(plan::plan_script(script));
            }
            Input::Parts(parts, notes) => {
                for note in notes {
                    tracing::warn!("{}", with.say(note));
                }
                self.prepare_parts(parts, with, depth, out);
            }
            Input::Include(urls) => {
                let parts = self.included(&urls, with, depth, out);
                self.prepare_parts(parts, with, depth + 1, out);
            }
        }
    }

    /// Parts are documents of their own, in order; the meta-data goes with the first, and each has key
    /// sets of its own, so that none takes another's keys away.
    fn prepare_parts(&self, parts: Vec<Input>, with: &Companion, depth: usize, out: &mut Prepared) {
        if parts.is_empty() {
            self.prepare_config(CloudConfig::default(), with, out);
        }
        for (index, part) in parts.into_iter().enumerate() {
            let companion = if index == 0 {
                with.clone()
            } else {
                Companion {
                    name: with.say(format!("part {}", index + 1)),
                    key_set: format!("{}-part{}", with.key_set, index + 1),
                    ..Companion::default()
                }
            };
            self.prepare_input(part, &companion, depth, out);
        }
    }

    fn included(
        &self,
        urls: &[String],
        with: &Companion,
        depth: usize,
        out: &mut Prepared,
    ) -> Vec<Input> {
        if depth >= MAX_INCLUDE {
            let message = with.say("documents include each other too deeply");
            self.remember(&mut out.errors, message);
            return Vec::new();
        }
        if self.offline {
            return Vec::new();
        }
        let mut parts = Vec::new();
        for url in urls {
            let fetched = self.client.get(url).map_err(|e| telemetry::chain(&e));
            let input =
                fetched.and_then(|bytes| input::classify(&bytes).map_err(|e| telemetry::chain(&e)));
            match input {
                Ok(input) => parts.push(input),
                Err(error) => {
                    let message = with.say(format!("#include {url}: {error}"));
                    self.remember(&mut out.errors, message);
                }
            }
        }
        parts
    }

    fn document(&self, text: &str, with: &Companion) -> Result<CloudConfig, config::ConfigError> {
        if !self.offline {
            log_report(&config::validate(text), with);
        }
        let Some(mut root) = config::tree(text)? else {
            return Ok(CloudConfig::default());
        };
        let hostname = root.get_text("hostname").unwrap_or_default().to_owned();
        if !self.offline {
            let missing = subst::substitute_tree(&mut root, &self.variables(&hostname));
            warn_missing(&missing, with);
        }
        config::from_tree(&root)
    }

    fn variables(&self, hostname: &str) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in self.addresses.pairs() {
            variables.set(name, value);
        }
        let hostname = Some(hostname).filter(|h| !h.is_empty() && !h.contains('$'));
        variables.set(
            "hostname",
            &hostname.map_or_else(kernel_hostname, str::to_owned),
        );
        variables.set("instance_id", &self.instance);
        let machine_id = self.root.read_text(Path::new("/etc/machine-id"));
        variables.set(
            "machine_id",
            machine_id.ok().flatten().unwrap_or_default().trim(),
        );
        variables
    }

    fn prepare_config(&self, mut config: CloudConfig, with: &Companion, out: &mut Prepared) {
        if let Some(note) = metadata::merge(&mut config, &with.meta) {
            tracing::warn!("{}", with.say(note));
        }
        match self.facts(&config, with) {
            Ok(facts) => out.changes.extend(plan::plan(&config, &facts)),
            Err(error) => {
                let message = with.say(telemetry::chain(&error));
                self.remember(&mut out.errors, message);
            }
        }
    }

    fn facts(
        &self,
        config: &CloudConfig,
        with: &Companion,
    ) -> Result<Facts, crate::apply::root::FsError> {
        let first = |paths: [&str; 2]| -> Result<Option<String>, crate::apply::root::FsError> {
            match self.root.read_text(Path::new(paths[0]))? {
                Some(text) => Ok(Some(text)),
                None => self.root.read_text(Path::new(paths[1])),
            }
        };
        let mut facts = Facts {
            hostname: kernel_hostname(),
            accounts: accounts::read(self.root)?.names(),
            environment: self.root.read_text(Path::new("/etc/environment"))?,
            addresses: self.addresses.clone(),
            key_set: with.key_set.clone(),
            network_files: with.network_files.clone(),
            ..Facts::default()
        };
        let update = &config.coreos.update;
        if update.reboot_strategy.is_some() || !update.group.is_empty() || !update.server.is_empty()
        {
            facts.update_conf =
                first(["/etc/coreos/update.conf", "/usr/share/coreos/update.conf"])?;
        }
        if !config.extensions.ca_certs.trusted.is_empty() {
            let bundle = "/etc/ssl/certs/ca-certificates.crt";
            facts.ca_bundle = first([&format!("/usr/share/flotilla{bundle}"), bundle])?;
        }
        if !self.offline {
            facts.imported_keys = self.import_keys(config);
        }
        Ok(facts)
    }

    fn import_keys(&self, config: &CloudConfig) -> BTreeMap<String, Result<Vec<String>, String>> {
        let mut imported = BTreeMap::new();
        for user in &config.users {
            for (address, _) in plan::key_imports(user) {
                if imported.contains_key(&address) {
                    continue;
                }
                let keys = self
                    .client
                    .get(&address)
                    .map_err(|e| telemetry::chain(&e))
                    .and_then(|body| keys_of_json(&body));
                imported.insert(address, keys);
            }
        }
        imported
    }
}

/// Logs an error when it happens and keeps it for the exit code.
pub(crate) fn remember(errors: &mut Vec<String>, message: String) {
    tracing::error!("{message}");
    errors.push(message);
}

/// A JSON list of objects with `key`.
fn keys_of_json(body: &[u8]) -> Result<Vec<String>, String> {
    let json: serde_json::Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let list = json.as_array().ok_or("the answer is not a list")?;
    let key = |item: &serde_json::Value| {
        item.get("key")
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned)
    };
    Ok(list.iter().filter_map(key).collect())
}

fn warn_missing(missing: &[Missing], with: &Companion) {
    for Missing { name, line } in missing {
        let message = with.say(format!(
            "line {line}: ${name} has no value; it is replaced by nothing"
        ));
        tracing::warn!("{message}");
    }
}

/// Writes findings to the log. What is no YAML at all is said as the error that it is.
fn log_report(report: &Report, with: &Companion) {
    for finding in &report.findings {
        let message = with.say(format!("line {}: {}", finding.line, finding.message));
        match finding.level {
            _ if finding.check == Check::Yaml => {}
            Level::Error => tracing::error!("{message}"),
            Level::Warning => tracing::warn!("{message}"),
            Level::Info => tracing::info!("{message}"),
        }
    }
}

/// The kernel's host name.
pub(crate) fn kernel_hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// How a plain run applies its plan.
#[derive(Debug)]
pub struct ApplyOptions {
    /// Workspace for scripts.
    pub workspace: PathBuf,
    /// Instance of once-only commands.
    pub instance: String,
}

/// Applies a plan as the plain command line does: everything, commands included.
pub fn apply_all(
    root: &Root,
    units: &mut dyn Units,
    changes: &[Change],
    options: ApplyOptions,
) -> (Summary, Option<crate::apply::ApplyError>) {
    let mut applier = Applier {
        root,
        manager: root.is_live(),
        units,
        patience: Patience::UnlessBlocked,
        network_restart: NetworkRestart::Always,
        workspace: options.workspace,
        instance: options.instance,
    };
    applier.apply(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imported_keys_come_from_a_list_of_objects() {
        let body = br#"[{"id": 1, "key": "ssh-rsa A"}, {"key": "ssh-rsa B"}, {}]"#;
        assert_eq!(keys_of_json(body).unwrap(), ["ssh-rsa A", "ssh-rsa B"]);
        assert!(keys_of_json(b"{}").is_err());
        assert!(keys_of_json(b"<html>").is_err());
    }
}
