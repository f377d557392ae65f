//! Options of the container service: `daemon.json` in three places, then `DOCKER_OPTS`.
//!
//! dockerd writes the result to `/run/docker/options.json`; a command that finds no such file resolves the same
//! way, so that it works without the service. Unknown keys and flags warn and are passed over.

use oci_image::registry::{RegistryConfig, read_credentials};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// daemon.json files, lowest precedence first.
pub const FILES: [&str; 3] = [
    "/usr/share/flotilla/docker/daemon.json",
    "/usr/share/oem/docker/daemon.json",
    "/etc/docker/daemon.json",
];

/// What the service was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Container store.
    pub data_root: PathBuf,
    /// Hosts that may be spoken to without verified TLS.
    pub insecure_registries: Vec<String>,
    /// Asked first for names of docker.io.
    pub registry_mirrors: Vec<String>,
    /// Never asked.
    pub blocked_registries: Vec<String>,
    /// Address and prefix of docker0.
    pub bip: Option<String>,
    /// Another bridge, or `none`.
    pub bridge: Option<String>,
    /// MTU of the bridge.
    pub mtu: Option<u32>,
    /// Name servers of containers.
    pub dns: Vec<String>,
    /// Search domains of containers.
    pub dns_search: Vec<String>,
    /// Where container output goes.
    pub log_driver: String,
    /// Its options.
    pub log_opts: BTreeMap<String, String>,
    /// `name=soft:hard`.
    pub default_ulimits: Vec<String>,
    /// Whether our firewall table is written.
    pub iptables: bool,
    /// Whether containers' packets to the outside get the host's address.
    pub ip_masq: bool,
    /// Whether containers of the bridge may talk to each other.
    pub icc: bool,
    /// `supervise` or `classic`.
    pub detach_in_unit: String,
    /// Packed layers are kept.
    pub keep_blobs: bool,
    /// More log lines.
    pub debug: bool,
    /// `no_new_privs` for every container.
    pub no_new_privileges: bool,
    /// Sockets named with `-H`.
    pub hosts: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            data_root: PathBuf::from("/var/lib/docker"),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            blocked_registries: Vec::new(),
            bip: None,
            bridge: None,
            mtu: None,
            dns: Vec::new(),
            dns_search: Vec::new(),
            log_driver: "journald".into(),
            log_opts: BTreeMap::new(),
            default_ulimits: Vec::new(),
            iptables: true,
            ip_masq: true,
            icc: true,
            detach_in_unit: "supervise".into(),
            keep_blobs: true,
            debug: false,
            no_new_privileges: false,
            hosts: Vec::new(),
        }
    }
}

impl Options {
    /// What holds for a command: the service's result, else the files.
    pub fn current() -> (Self, Vec<String>) {
        let resolved = std::fs::read(crate::host::OPTIONS)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match resolved {
            Some(options) => (options, Vec::new()),
            None => Self::from_files(&FILES.map(Path::new)),
        }
    }

    /// Built-in values changed by the files; missing ones are passed over, damaged ones warn.
    pub fn from_files(files: &[&Path]) -> (Self, Vec<String>) {
        let (mut options, mut warnings) = (Options::default(), Vec::new());
        for file in files {
            let Ok(text) = std::fs::read_to_string(file) else {
                continue;
            };
            let shown = file.display().to_string();
            warnings.extend(
                options
                    .apply_json(&text)
                    .into_iter()
                    .map(|warning| format!("{shown}:{warning}")),
            );
        }
        (options, warnings)
    }

    /// Applies one daemon.json; warnings start with the line.
    pub fn apply_json(&mut self, text: &str) -> Vec<String> {
        let document: serde_json::Map<String, Value> = match serde_json::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                return vec![format!(
                    "{}: error: the file is ignored: {error}",
                    error.line()
                )];
            }
        };
        let mut warnings = Vec::new();
        let line = |key: &str| {
            let quoted = format!("\"{key}\"");
            text.lines()
                .position(|line| line.contains(&quoted))
                .map_or(1, |index| index + 1)
        };
        for (key, value) in &document {
            let problem = if key == "flotilla" {
                value.as_object().map_or_else(
                    || Some("must be an object".to_owned()),
                    |ours| {
                        for (key, value) in ours {
                            if let Err(problem) = self.set_ours(key, value) {
                                warnings.push(format!(
                                    "{}: warning: flotilla.{key}: {problem}",
                                    line(key)
                                ));
                            }
                        }
                        None
                    },
                )
            } else {
                self.set(key, value).err()
            };
            if let Some(problem) = problem {
                warnings.push(format!("{}: warning: {key}: {problem}", line(key)));
            }
        }
        warnings
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "data-root" | "graph" => self.data_root = text(value)?.into(),
            "insecure-registries" => self.insecure_registries.extend(texts(value)?),
            "registry-mirrors" => self.registry_mirrors.extend(texts(value)?),
            "bip" => self.bip = Some(checked_network(&text(value)?)?),
            "bridge" => self.bridge = Some(text(value)?),
            "mtu" => {
                self.mtu = Some(
                    value
                        .as_u64()
                        .and_then(|mtu| u32::try_from(mtu).ok())
                        .ok_or("must be a number")?,
                );
            }
            "dns" => self.dns = texts(value)?,
            "dns-search" => self.dns_search = texts(value)?,
            "log-driver" => self.log_driver = text(value)?,
            "log-opts" => {
                let options = value.as_object().ok_or("must be an object")?;
                for (key, value) in options {
                    self.log_opts.insert(key.clone(), text(value)?);
                }
            }
            "iptables" => self.iptables = boolean(value)?,
            "ip-masq" => self.ip_masq = boolean(value)?,
            "icc" => self.icc = boolean(value)?,
            "debug" => self.debug = boolean(value)?,
            "no-new-privileges" => self.no_new_privileges = boolean(value)?,
            "hosts" => self.hosts = texts(value)?,
            "default-ulimits" => {
                for (name, limit) in value.as_object().ok_or("must be an object")? {
                    let number = |field: &str| limit.get(field).and_then(Value::as_i64);
                    let (Some(soft), Some(hard)) = (number("Soft"), number("Hard")) else {
                        return Err(format!("{name} needs Soft and Hard"));
                    };
                    self.default_ulimits.push(format!("{name}={soft}:{hard}"));
                }
            }
            "storage-driver" if value == "overlay2" || value == "overlay" => {}
            "storage-driver" => {
                return Err("ignored, layers are always stacked by overlayfs".into());
            }
            "live-restore" | "userland-proxy" | "exec-opts" => {
                return Err("ignored, not needed here".into());
            }
            _ => return Err("unknown key".into()),
        }
        Ok(())
    }

    fn set_ours(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "detach-in-unit" => self.detach_in_unit = text(value)?,
            "keep-blobs" => {
                self.keep_blobs = match value {
                    Value::Bool(keep) => *keep,
                    Value::String(word) => word == "yes",
                    _ => return Err("must be true or false".into()),
                }
            }
            "blocked-registries" => self.blocked_registries = texts(value)?,
            "gc-high" | "gc-low" => return Err("not supported yet, ignored".into()),
            _ => return Err("unknown key".into()),
        }
        Ok(())
    }

    /// Applies the words of `DOCKER_OPTS`; quotes around or inside a word are taken off.
    pub fn apply_arguments(&mut self, arguments: &[String]) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut words = arguments
            .iter()
            .map(|word| word.replace(['"', '\''], ""))
            .filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            };
            let name = flag.trim_start_matches('-');
            if flag == "-d" || name == "daemon" {
                continue;
            }
            if !flag.starts_with('-') {
                warnings.push(format!("unexpected word {word:?} ignored"));
                continue;
            }
            if matches!(flag.as_str(), "-D")
                || matches!(name, "debug" | "icc" | "iptables" | "ip-masq")
            {
                let on = inline
                    .as_deref()
                    .is_none_or(|value| value != "false" && value != "0");
                match name {
                    "icc" => self.icc = on,
                    "iptables" => self.iptables = on,
                    "ip-masq" => self.ip_masq = on,
                    _ => self.debug = on,
                }
                continue;
            }
            let Some(key) = long_name(name) else {
                warnings.push(format!("unknown option {flag:?} ignored"));
                continue;
            };
            let Some(value) = inline.or_else(|| words.next()) else {
                warnings.push(format!("option {flag:?} needs a value, ignored"));
                continue;
            };
            if let Err(problem) = self.argument(key, value) {
                warnings.push(format!("option {flag:?}: {problem}"));
            }
        }
        warnings
    }

    fn argument(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "insecure-registry" => self.insecure_registries.push(value),
            "registry-mirror" => self.registry_mirrors.push(value),
            "bip" => self.bip = Some(checked_network(&value)?),
            "bridge" => self.bridge = Some(value),
            "mtu" => self.mtu = Some(value.parse().map_err(|_| "must be a number".to_owned())?),
            "dns" => self.dns.push(value),
            "dns-search" => self.dns_search.push(value),
            "log-driver" => self.log_driver = value,
            "log-opt" => {
                let (key, value) = value.split_once('=').ok_or("must be KEY=VALUE")?;
                self.log_opts.insert(key.to_owned(), value.to_owned());
            }
            "data-root" => self.data_root = value.into(),
            "host" => self.hosts.push(value),
            "default-ulimit" => self.default_ulimits.push(value),
            _ => {
                return Err(format!(
                    "{value} ignored, layers are always stacked by overlayfs"
                ));
            }
        }
        Ok(())
    }

    /// How registries are to be spoken to.
    pub fn registry(&self) -> RegistryConfig {
        let home = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
        RegistryConfig {
            mirrors: self.registry_mirrors.clone(),
            insecure: self.insecure_registries.clone(),
            blocked: self.blocked_registries.clone(),
            credentials: home
                .map(|home| read_credentials(&home.join("config.json")))
                .unwrap_or_default(),
            ..RegistryConfig::default()
        }
    }
}

fn long_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "insecure-registry" => "insecure-registry",
        "registry-mirror" => "registry-mirror",
        "bip" => "bip",
        "b" | "bridge" => "bridge",
        "mtu" => "mtu",
        "dns" => "dns",
        "dns-search" => "dns-search",
        "log-driver" => "log-driver",
        "log-opt" => "log-opt",
        "g" | "graph" | "data-root" => "data-root",
        "H" | "host" => "host",
        "default-ulimit" => "default-ulimit",
        "s" | "storage-driver" => "storage-driver",
        _ => return None,
    })
}

fn checked_network(value: &str) -> Result<String, String> {
    crate::network::Network::parse(value)
        .map(|_| value.to_owned())
        .ok_or_else(|| format!("{value:?} is not an address with a prefix, as 172.18.0.1/16"))
}

fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| "must be a string".to_owned())
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let items = value.as_array().ok_or("must be a list of strings")?;
    items.iter().map(text).collect()
}

fn boolean(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| "must be true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn daemon_json_is_applied_and_unknown_keys_warn_with_their_line() {
        let mut options = Options::default();
        let text = "{\n \"registry-mirrors\": [\"http://10.0.2.2:5000\"],\n \"insecure-registries\": [\"10.0.2.2:5000\"],\n \"colour\": 1,\n \"flotilla\": {\"keep-blobs\": \"no\", \"x\": 1}\n}";
        let warnings = options.apply_json(text);
        assert_eq!(options.registry_mirrors, ["http://10.0.2.2:5000"]);
        assert!(!options.keep_blobs);
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0].starts_with("4: warning: colour")
                || warnings[1].starts_with("4: warning: colour")
        );
        assert_eq!(options.apply_json("{").len(), 1);
    }

    #[test]
    fn docker_opts_are_words_with_quotes() {
        let mut options = Options::default();
        let words = [
            "--insecure-registry=\"10.0.2.2:5000\"",
            "-g",
            "/data",
            "--bip=10.1.5.1/24",
            "--mtu=1450",
            "--icc=false",
            "-s",
            "btrfs",
            "--frob",
        ];
        let warnings = options.apply_arguments(&words.map(str::to_owned));
        assert_eq!(options.insecure_registries, ["10.0.2.2:5000"]);
        assert_eq!(
            (options.data_root.to_str(), options.mtu, options.icc),
            (Some("/data"), Some(1450), false)
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    proptest! {
        #[test]
        fn any_words_are_survived(words in proptest::collection::vec("\\PC{0,20}", 0..6), text in "\\PC{0,60}") {
            Options::default().apply_arguments(&words);
            Options::default().apply_json(&text);
        }
    }
}
