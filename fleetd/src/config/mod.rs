//! `fleet.conf` and `FLEET_*`: what may be set, its defaults, and how it is read.
//!
//! Unknown keys and values that cannot be understood are reported with file and line and otherwise
//! ignored, so that a file written for the original works and a typing error does not take a
//! machine out of the cluster; what is certainly not meant so (bad etcd addresses) is an error, and
//! so is every slip in a key that says who may do what: there a default could open a door.

mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_kv::{Credentials, Endpoint, KvError, Tls, TlsError, TlsFiles};
use fleet_model::{Cpu, Metadata, Offer, parse_bytes, parse_metadata};

use self::value::{boolean, dns_address, duration, list, prefix, roles, seconds, unquote};
use crate::api::Role;

/// Where the configuration is by default.
pub const DEFAULT_FILE: &str = "/etc/fleet/fleet.conf";

/// Settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// 0 is normal, above is more.
    pub verbosity: i32,
    /// The cluster.
    pub etcd_servers: Vec<Endpoint>,
    /// User and password at etcd.
    pub etcd_credentials: Option<Credentials>,
    /// Authorities, certificate and key for etcd over TLS, read and checked.
    pub etcd_tls: Option<Tls>,
    /// Prefix of all keys; `v3/` is added.
    pub etcd_key_prefix: String,
    /// Deadline of one request.
    pub etcd_request_timeout: Duration,
    /// Pause after a failed pass of the engine, and between looks at etcd without watches.
    pub engine_reconcile_interval: Duration,
    /// Address to publish; found out when empty.
    pub public_ip: String,
    /// Metadata to publish.
    pub metadata: Metadata,
    /// How many units the leader may move to a machine that joins.
    pub rebalance_on_join: u32,
    /// What to offer to units, where that is not all there is.
    pub offer: Offer,
    /// How long the machine counts as present without a sign of life.
    pub agent_ttl: Duration,
    /// Page size of the API.
    pub token_limit: u16,
    /// Where DNS is served; nowhere if empty.
    pub dns_listen: Vec<SocketAddr>,
    /// Never lead.
    pub disable_engine: bool,
    /// Look at etcd at each interval instead of watching it.
    pub disable_watches: bool,
    /// Where unit files go.
    pub units_directory: PathBuf,
    /// Where the daemon keeps what its successor needs: lease and launched units.
    pub run_directory: PathBuf,
    /// Where the machine ID is.
    pub machine_id_file: PathBuf,
    /// Where metrics are served beside the API.
    pub metrics_socket: PathBuf,
    /// Talk to the manager of the user's session instead of the system's.
    pub systemd_user: bool,
    /// Certificates of the API on TCP; with them mutual TLS is demanded.
    pub api_tls: Option<ApiTls>,
    /// Roles by the name in a client's certificate. Others may read.
    pub api_roles: BTreeMap<String, Role>,
    /// Role of everybody who reaches a TCP listener without TLS.
    pub plain_role: Role,
    /// Write a line for every write through the API.
    pub audit: bool,
}

/// Files for mutual TLS on the API. All three or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// Our certificate, with the chain that clients need.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities that clients' certificates must come from.
    pub ca: PathBuf,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file given is not readable.
    #[error("failed to read configuration {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file has a line that is no assignment.
    #[error("{path}:{line}: neither a comment nor KEY=VALUE")]
    Syntax {
        /// The file.
        path: String,
        /// The line.
        line: usize,
    },
    /// An etcd server cannot be used.
    #[error("{origin}: etcd_servers")]
    Servers {
        /// The file and line, or the variable.
        origin: String,
        /// Why.
        source: KvError,
    },
    /// The files for TLS cannot be used.
    #[error("etcd_cafile, etcd_certfile, etcd_keyfile")]
    EtcdTls(#[source] TlsError),
    /// A value of a key where guessing would be dangerous.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// The file and line, or the variable.
        origin: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Some of the files for TLS are named, others not.
    #[error("{set} is set, {missing} is not: TLS needs both")]
    HalfTls {
        /// The key that is there.
        set: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
}

/// Keys of the original that need saying something about.
const NOT_SUPPORTED: [(&str, &str); 4] = [
    ("enable_grpc", "not needed with etcd v3"),
    ("verify_units", "no longer supported"),
    ("authorized_keys_file", "no longer supported"),
    ("etcd_key", "no such key"),
];

impl Settings {
    /// Reads `defaults`, each as a line of a file would be, then `file` (or the default one if it
    /// exists), then the environment; what comes later wins. Returns also what was not understood,
    /// one line each.
    pub fn load(
        defaults: &[String],
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if file.is_none() && e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.display().to_string(),
                    source,
                });
            }
        };
        let mut values = Values::new();
        assign("--default", &defaults.join("\n"), &mut values)?;
        assign(&path.display().to_string(), &text, &mut values)?;
        Self::from_layers(values, environment)
    }

    /// Reads a file's text, then the environment, which wins.
    pub fn from_text(
        path: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut values = Values::new();
        assign(path, text, &mut values)?;
        Self::from_layers(values, environment)
    }

    fn from_layers(
        mut values: Values,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix("FLEET_") {
                values.insert(key.to_lowercase(), (value, name));
            }
        }
        Self::from_values(values)
    }

    fn from_values(values: Values) -> Result<(Self, Vec<String>), ConfigError> {
        let mut settings = Self::default();
        let mut warnings = Vec::new();
        let (mut user, mut password) = (String::new(), String::new());
        let mut tls = TlsFiles::default();
        let file = |value: String| (!value.is_empty()).then(|| PathBuf::from(value));
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (key, (value, origin)) in values {
            let mut bad = |what: &str| {
                warnings.push(format!("{origin}: {key}: {what}; the default stays"));
            };
            match key.as_str() {
                "verbosity" => match value.parse() {
                    Ok(n) => settings.verbosity = n,
                    Err(_) => bad("not a number"),
                },
                "etcd_servers" => {
                    let servers = list(&value);
                    let servers: Result<Vec<_>, _> =
                        servers.iter().map(|s| Endpoint::parse(s)).collect();
                    settings.etcd_servers =
                        servers.map_err(|source| ConfigError::Servers { origin, source })?;
                }
                "etcd_username" => user = value,
                "etcd_password" => password = value,
                "etcd_cafile" => tls.ca = file(value),
                "etcd_certfile" => tls.cert = file(value),
                "etcd_keyfile" => tls.key = file(value),
                "etcd_key_prefix" => settings.etcd_key_prefix = prefix(&value),
                "etcd_request_timeout" => match seconds(&value) {
                    Some(time) => settings.etcd_request_timeout = time,
                    None => bad("not a number of seconds"),
                },
                "engine_reconcile_interval" => match seconds(&value) {
                    Some(time) => settings.engine_reconcile_interval = time,
                    None => bad("not a number of seconds"),
                },
                "public_ip" => settings.public_ip = value,
                "metadata" => settings.metadata = parse_metadata(&value),
                "rebalance_on_join" => match value.parse() {
                    Ok(n) => settings.rebalance_on_join = n,
                    Err(_) => bad("not a number of units"),
                },
                "offer_memory" => match parse_bytes(&value) {
                    Ok(bytes) => settings.offer.memory = Some(bytes),
                    Err(what) => bad(what),
                },
                "offer_cpus" => match Cpu::parse(&value) {
                    Ok(cpu) => settings.offer.cpu = Some(cpu),
                    Err(what) => bad(what),
                },
                "agent_ttl" => match duration(&value) {
                    Some(time) if time >= Duration::from_secs(2) => settings.agent_ttl = time,
                    _ => bad("not a duration with a unit, of 2s or more"),
                },
                "token_limit" => match value.parse() {
                    Ok(n) if n > 0 => settings.token_limit = n,
                    _ => bad("not a number from 1 to 65535"),
                },
                "dns_listen" => match list(&value).iter().map(|a| dns_address(a)).collect() {
                    Some(addresses) => settings.dns_listen = addresses,
                    None => bad("not a list of ADDRESS or ADDRESS:PORT"),
                },
                "disable_watches" => match boolean(&value) {
                    Some(b) => settings.disable_watches = b,
                    None => bad("neither true nor false"),
                },
                "disable_engine" => match boolean(&value) {
                    Some(b) => settings.disable_engine = b,
                    None => bad("neither true nor false"),
                },
                "units_directory" => settings.units_directory = PathBuf::from(value),
                // These three are for several daemons on one machine.
                "run_directory" => settings.run_directory = PathBuf::from(value),
                "machine_id_file" => settings.machine_id_file = PathBuf::from(value),
                "metrics_socket" => settings.metrics_socket = PathBuf::from(value),
                "systemd_user" => match boolean(&value) {
                    Some(b) => settings.systemd_user = b,
                    None => bad("neither true nor false"),
                },
                "api_certfile" | "api_keyfile" | "api_cafile" => {
                    if !value.is_empty() {
                        files.insert(key, value.into());
                    }
                }
                "api_roles" => {
                    settings.api_roles = roles(&value).map_err(|reason| ConfigError::Value {
                        origin,
                        key: "api_roles",
                        reason,
                    })?;
                }
                "plain_role" => {
                    settings.plain_role =
                        value.parse().map_err(|e: crate::api::ParseRoleError| {
                            ConfigError::Value {
                                origin,
                                key: "plain_role",
                                reason: e.to_string(),
                            }
                        })?;
                }
                "audit" => {
                    settings.audit = boolean(&value).ok_or_else(|| ConfigError::Value {
                        origin,
                        key: "audit",
                        reason: "neither yes nor no".into(),
                    })?;
                }
                other => match NOT_SUPPORTED.iter().find(|(k, _)| *k == other) {
                    // A value that changes nothing needs no word.
                    Some(_) if value.is_empty() || boolean(&value) == Some(false) => {}
                    Some((_, why)) => warnings.push(format!("{origin}: {key}: {why}")),
                    None => warnings.push(format!("{origin}: unknown key {key}")),
                },
            }
        }
        if !user.is_empty() {
            settings.etcd_credentials = Some(Credentials { user, password });
        }
        if settings.etcd_servers.is_empty() {
            settings.etcd_servers = Self::default().etcd_servers;
        }
        // Read here, so that a bad file is found while the old settings can stay in force.
        settings.etcd_tls =
            Tls::for_endpoints(&settings.etcd_servers, &tls).map_err(ConfigError::EtcdTls)?;
        let identity = both(&mut files, "api_certfile", "api_keyfile")?;
        settings.api_tls = match (identity, files.remove("api_cafile")) {
            (Some((certificate, key)), Some(ca)) => Some(ApiTls {
                certificate,
                key,
                ca,
            }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(ConfigError::HalfTls {
                    set: "api_certfile",
                    missing: "api_cafile",
                });
            }
            (None, Some(_)) => {
                return Err(ConfigError::HalfTls {
                    set: "api_cafile",
                    missing: "api_certfile",
                });
            }
        };
        Ok((settings, warnings))
    }
}

impl Default for Settings {
    fn default() -> Self {
        let server = |text| Endpoint::parse(text).expect("a literal that parses");
        Self {
            verbosity: 0,
            etcd_servers: vec![
                server("http://127.0.0.1:2379"),
                server("http://127.0.0.1:4001"),
            ],
            etcd_credentials: None,
            etcd_tls: None,
            etcd_key_prefix: "/_coreos.com/fleet/".into(),
            etcd_request_timeout: Duration::from_secs(1),
            engine_reconcile_interval: Duration::from_secs(2),
            public_ip: String::new(),
            metadata: Metadata::new(),
            rebalance_on_join: 0,
            offer: Offer::default(),
            agent_ttl: Duration::from_secs(10),
            token_limit: 100,
            dns_listen: Vec::new(),
            disable_engine: false,
            disable_watches: false,
            units_directory: "/run/fleet/units".into(),
            run_directory: "/run/fleet".into(),
            machine_id_file: "/etc/machine-id".into(),
            metrics_socket: "/run/flotilla/metrics/fleetd.sock".into(),
            systemd_user: false,
            api_tls: None,
            api_roles: BTreeMap::new(),
            plain_role: Role::Admin,
            audit: true,
        }
    }
}

/// Values of keys, and where each is from.
type Values = BTreeMap<String, (String, String)>;

/// Reads the lines of a text.
fn assign(path: &str, text: &str, values: &mut Values) -> Result<(), ConfigError> {
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(ConfigError::Syntax {
                path: path.to_owned(),
                line: i + 1,
            });
        };
        let value = unquote(value.trim());
        values.insert(
            key.trim().to_owned(),
            (value.to_owned(), format!("{path}:{}", i + 1)),
        );
    }
    Ok(())
}

/// Two files of which neither is of use alone.
fn both(
    files: &mut BTreeMap<String, PathBuf>,
    one: &'static str,
    other: &'static str,
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (files.remove(one), files.remove(other)) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::HalfTls {
            set: one,
            missing: other,
        }),
        (None, Some(_)) => Err(ConfigError::HalfTls {
            set: other,
            missing: one,
        }),
    }
}

#[cfg(test)]
mod tests;
