//! `fleet.conf` and `FLEET_*`: what may be set, its defaults, and how it is read.
//!
//! Unknown keys and values that cannot be understood are reported with file and line and otherwise
//! ignored, so that a file written for the original works and a typing error does not take a
//! machine out of the cluster; what is certainly not meant so (bad etcd addresses) is an error, and
//! so is every slip in a key that says who may do what: there a default could open a door.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_kv::{Credentials, Endpoint, KvError, Tls, TlsError, TlsFiles};
use fleet_model::{Cpu, Metadata, Offer, parse_bytes, parse_metadata};

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
    /// Pause after a failed pass of the engine.
    pub engine_reconcile_interval: Duration,
    /// Address to publish; found out when empty.
    pub public_ip: String,
    /// Metadata to publish.
    pub metadata: Metadata,
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
const NOT_SUPPORTED: [(&str, &str); 5] = [
    ("enable_grpc", "not needed with etcd v3"),
    ("disable_watches", "not needed with etcd v3"),
    ("verify_units", "no longer supported"),
    ("authorized_keys_file", "no longer supported"),
    ("etcd_key", "no such key"),
];

impl Settings {
    /// Reads `file` (or the default one if it exists), then the environment. Returns also what was
    /// not understood, one line each.
    pub fn load(
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
        Self::from_text(&path.display().to_string(), &text, environment)
    }

    /// Reads a file's text, then the environment, which wins.
    pub fn from_text(
        path: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut values = BTreeMap::new();
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
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix("FLEET_") {
                values.insert(key.to_lowercase(), (value, name));
            }
        }
        Self::from_values(values)
    }

    fn from_values(
        values: BTreeMap<String, (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
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
        if tls.is_set() || settings.etcd_servers.iter().any(Endpoint::is_tls) {
            let loaded = Tls::load(&tls).map_err(ConfigError::EtcdTls)?;
            settings.etcd_tls = Some(loaded);
        }
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
            offer: Offer::default(),
            agent_ttl: Duration::from_secs(10),
            token_limit: 100,
            dns_listen: Vec::new(),
            disable_engine: false,
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

/// `ADDRESS` or `ADDRESS:PORT`, an IPv6 address with port in brackets; port 53 if none is given.
fn dns_address(text: &str) -> Option<SocketAddr> {
    let bare = || {
        let ip = text.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, 53))
    };
    text.parse().ok().or_else(bare)
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

/// `NAME:ROLE,…`; the last colon separates, so a name may have some.
fn roles(value: &str) -> Result<BTreeMap<String, Role>, String> {
    let mut out = BTreeMap::new();
    for item in list(value) {
        let (name, role) = item
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{item}\" is not NAME:ROLE"))?;
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("\"{item}\" names nobody"));
        }
        let role = role
            .trim()
            .parse()
            .map_err(|e: crate::api::ParseRoleError| e.to_string())?;
        if out.insert(name.to_owned(), role).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(out)
}

fn unquote(value: &str) -> &str {
    let inner = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// A comma list; brackets, quotes and blanks around the whole and its items are stripped.
fn list(value: &str) -> Vec<String> {
    let value = value.trim().trim_start_matches('[').trim_end_matches(']');
    let items = value
        .split(',')
        .map(|item| item.trim().trim_matches(['"', '\'']).trim());
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A prefix that begins and ends with a slash.
fn prefix(value: &str) -> String {
    let inner = value.trim_matches('/');
    if inner.is_empty() {
        "/".into()
    } else {
        format!("/{inner}/")
    }
}

fn seconds(value: &str) -> Option<Duration> {
    value
        .parse()
        .ok()
        .filter(|s: &f64| *s > 0.0)
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
}

/// Go's notation: `30s`, `1m30s`, `500ms`.
fn duration(value: &str) -> Option<Duration> {
    let mut rest = value.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_the_environment_are_read_and_complaints_say_where() {
        let text = "# c\nmetadata=\"role=core,disk=ssd\"\netcd_servers=[\"http://10.0.2.11:2379\", 'http://10.0.2.12:2379']\n\
                    agent_ttl=30s\npublic_ip=10.0.2.11\nverbosity=x\nfoo=1\netcd_cafile=\nenable_grpc=true\n";
        let environment = [
            ("FLEET_PUBLIC_IP".to_owned(), "10.0.2.99".to_owned()),
            ("FLEET_ETCD_KEY_PREFIX".to_owned(), "x/y".to_owned()),
            ("HOME".to_owned(), "/".to_owned()),
        ];
        let (s, warnings) = Settings::from_text("f", text, environment.into_iter()).unwrap();
        assert_eq!(s.metadata["role"], "core");
        assert_eq!(s.etcd_servers.len(), 2);
        assert_eq!(s.agent_ttl, Duration::from_secs(30));
        assert_eq!(
            (s.public_ip.as_str(), s.etcd_key_prefix.as_str()),
            ("10.0.2.99", "/x/y/")
        );
        assert_eq!(
            warnings,
            [
                "f:9: enable_grpc: not needed with etcd v3",
                "f:7: unknown key foo",
                "f:6: verbosity: not a number; the default stays",
            ]
        );
        let error = Settings::from_text("f", "a=b\nnonsense", std::iter::empty()).unwrap_err();
        assert_eq!(error.to_string(), "f:2: neither a comment nor KEY=VALUE");
        assert!(Settings::from_text("f", "etcd_servers=ftp://x", std::iter::empty()).is_err());
    }

    fn read(text: &str) -> Result<(Settings, Vec<String>), ConfigError> {
        Settings::from_text("f", text, std::iter::empty())
    }

    #[test]
    fn every_key_of_the_contract_is_understood() {
        let text = "verbosity=1\netcd_servers=http://h:1\netcd_username=u\netcd_password=p\n\
                    etcd_cafile=\netcd_certfile=\netcd_keyfile=\netcd_key_prefix=/p\n\
                    etcd_request_timeout=2.5\nengine_reconcile_interval=0.5\npublic_ip=1.2.3.4\n\
                    metadata=a=b\nagent_ttl=1m\ntoken_limit=7\ndisable_engine=true\n\
                    units_directory=/u\nsystemd_user=yes\n\
                    api_certfile=/ac\napi_keyfile=/ak\napi_cafile=/aca\n\
                    api_roles=ops:admin, ci:operate\nplain_role=read\naudit=no\n\
                    enable_grpc=false\ndisable_watches=false\nverify_units=\nauthorized_keys_file=\n";
        let (s, warnings) = read(text).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!((s.verbosity, s.token_limit, s.disable_engine), (1, 7, true));
        assert_eq!(s.etcd_request_timeout, Duration::from_millis(2500));
        assert_eq!(s.engine_reconcile_interval, Duration::from_millis(500));
        assert_eq!(s.etcd_credentials.unwrap().user, "u");
        assert_eq!((s.systemd_user, s.audit), (true, false));
        assert_eq!(s.api_tls.unwrap().ca, PathBuf::from("/aca"));
        assert_eq!(
            (s.api_roles["ops"], s.api_roles["ci"]),
            (Role::Admin, Role::Operate)
        );
        assert_eq!(s.plain_role, Role::Read);
    }

    #[test]
    fn a_slip_in_a_key_of_access_is_an_error() {
        for (text, expect) in [
            (
                "\napi_roles=ops",
                "f:2: api_roles: \"ops\" is not NAME:ROLE",
            ),
            (
                "api_roles=ops:king",
                "f:1: api_roles: \"king\" is none of read, operate, admin",
            ),
            (
                "api_roles=a:read,a:admin",
                "f:1: api_roles: a is there twice",
            ),
            (
                "plain_role=none",
                "f:1: plain_role: \"none\" is none of read, operate, admin",
            ),
            ("audit=perhaps", "f:1: audit: neither yes nor no"),
            (
                "api_certfile=/c",
                "api_certfile is set, api_keyfile is not: TLS needs both",
            ),
            (
                "api_cafile=/c",
                "api_cafile is set, api_certfile is not: TLS needs both",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn files_for_tls_are_read_at_once_and_named_when_bad() {
        let load = |text: &str| {
            Settings::from_text("f", text, std::iter::empty()).map(|(s, _)| s.etcd_tls.is_some())
        };
        assert!(!load("etcd_cafile=\netcd_certfile=\n").unwrap());
        for (text, expect) in [
            ("etcd_cafile=/nowhere/ca.pem", "/nowhere/ca.pem: "),
            (
                "etcd_certfile=/nowhere/a.pem",
                "a.pem is of no use without a key",
            ),
            (
                "etcd_servers=https://a:1\netcd_cafile=/dev/null",
                "/dev/null: holds no certificate",
            ),
        ] {
            let chain = telemetry::chain(&load(text).unwrap_err());
            assert!(chain.contains(expect), "{text}: {chain}");
        }
    }

    #[test]
    fn addresses_for_dns_may_have_ports() {
        for (text, expect) in [
            ("127.0.0.54", Some("127.0.0.54:53")),
            ("127.0.0.54:5353", Some("127.0.0.54:5353")),
            ("::1", Some("[::1]:53")),
            ("[::1]:5353", Some("[::1]:5353")),
            ("localhost", None),
            ("127.0.0.54:x", None),
            ("", None),
        ] {
            let read = dns_address(text).map(|a| a.to_string());
            assert_eq!(read.as_deref(), expect, "{text}");
        }
        let text = "dns_listen=127.0.0.54, 172.17.0.1";
        let (settings, warnings) = Settings::from_text("f", text, std::iter::empty()).unwrap();
        assert_eq!((settings.dns_listen.len(), warnings.len()), (2, 0));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("30"), None);
        assert_eq!(duration(""), None);
        assert_eq!(duration("1x"), None);
    }
}
