//! What to run, from environment and facts. No I/O.

use std::collections::BTreeMap;

/// The environment, as far as etcd is concerned.
pub type Env = BTreeMap<String, String>;

/// What was found on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The machine's identifier, 32 digits.
    pub machine_id: String,
    /// `/var/lib/etcd2` is a mount point or holds data.
    pub etcd2_in_use: bool,
}

/// How etcd is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Variables that are set; everything else named in `unset` goes.
    pub set: Env,
    /// Variables that etcd must not see.
    pub unset: Vec<String>,
    /// A line for each thing that was changed or left out.
    pub notes: Vec<String>,
    /// Member or proxy.
    pub role: Role,
}

/// Member or proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// etcd itself, with its data here.
    Member {
        /// Its directory.
        data_dir: String,
    },
    /// Connections are passed on to the cluster.
    Proxy {
        /// `HOST:PORT` to listen on.
        listen: Vec<String>,
        /// Peer URLs that know the members.
        peers: Vec<String>,
    },
}

/// The environment cannot be turned into a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A proxy must know somebody to ask.
    #[error(
        "ETCD_PROXY={0} needs ETCD_INITIAL_CLUSTER (or ETCD_PEERS): the peers that know the members"
    )]
    NoPeers(String),
    /// An URL that is not one.
    #[error("{name}: {value:?} is not an URL with host and port")]
    Url {
        /// The variable.
        name: &'static str,
        /// The text.
        value: String,
    },
    /// Another value than on, readonly, off.
    #[error("ETCD_PROXY={0}: one of on, readonly, off")]
    Proxy(String),
}

/// Names of 0.4 that only changed.
const RENAMED: &[(&str, &str)] = &[
    ("ETCD_PEER_ELECTION_TIMEOUT", "ETCD_ELECTION_TIMEOUT"),
    ("ETCD_PEER_HEARTBEAT_INTERVAL", "ETCD_HEARTBEAT_INTERVAL"),
    ("ETCD_SNAPSHOTCOUNT", "ETCD_SNAPSHOT_COUNT"),
    ("ETCD_CA_FILE", "ETCD_TRUSTED_CA_FILE"),
    ("ETCD_PEER_CA_FILE", "ETCD_PEER_TRUSTED_CA_FILE"),
];

/// Addresses of 0.4 that became URLs.
const ADDRESSES: &[(&str, &str, bool)] = &[
    ("ETCD_ADDR", "ETCD_ADVERTISE_CLIENT_URLS", false),
    ("ETCD_BIND_ADDR", "ETCD_LISTEN_CLIENT_URLS", false),
    ("ETCD_PEER_ADDR", "ETCD_INITIAL_ADVERTISE_PEER_URLS", true),
    ("ETCD_PEER_BIND_ADDR", "ETCD_LISTEN_PEER_URLS", true),
];

/// What etcd 3 has no use for.
const DROPPED: &[&str] = &[
    "ETCD_CLUSTER_ACTIVE_SIZE",
    "ETCD_CLUSTER_REMOVE_DELAY",
    "ETCD_CLUSTER_SYNC_INTERVAL",
    "ETCD_CPU_PROFILE_FILE",
    "ETCD_MAX_CLUSTER_SIZE",
    "ETCD_MAX_RESULT_BUFFER",
    "ETCD_MAX_RETRY_ATTEMPTS",
    "ETCD_RETRY_INTERVAL",
    "ETCD_SNAPSHOT",
    "ETCD_TRACE",
    "ETCD_VERY_VERBOSE",
    "ETCD_VERY_VERY_VERBOSE",
    "ETCD_HTTP_READ_TIMEOUT",
    "ETCD_HTTP_WRITE_TIMEOUT",
    "ETCD_PEERS_FILE",
    "ETCD_GRAPHITE_HOST",
    "ETCD_LOG_PACKAGE_LEVELS",
    "ETCD_ENABLE_V2",
    "ETCD_DISCOVERY_FALLBACK",
    "ETCD_PROXY_FAILURE_WAIT",
    "ETCD_PROXY_REFRESH_INTERVAL",
    "ETCD_PROXY_DIAL_TIMEOUT",
    "ETCD_PROXY_WRITE_TIMEOUT",
    "ETCD_PROXY_READ_TIMEOUT",
    "ETCD_CONFIG",
    "ETCD_FORCE",
];

/// How much history is kept where nobody says. Without a limit it grows until, after some weeks of a few writes a
/// second, etcd takes no more.
const HISTORY: &str = "1h";

/// Decides how etcd is run.
pub fn plan(env: &Env, facts: &Facts) -> Result<Plan, PlanError> {
    let mut work = Work {
        env: env.clone(),
        unset: Vec::new(),
        notes: Vec::new(),
    };
    // An empty value is what a template leaves when it has nothing to say.
    let empty: Vec<String> = work
        .env
        .iter()
        .filter(|(_, v)| v.is_empty())
        .map(|(k, _)| k.clone())
        .collect();
    for name in empty {
        work.take(&name);
    }
    let proxy = work.take("ETCD_PROXY").filter(|v| v != "off");
    if let Some(value) = &proxy
        && !matches!(value.as_str(), "on" | "readonly")
    {
        return Err(PlanError::Proxy(value.clone()));
    }
    work.rename();
    let peers = work.take("ETCD_PEERS");
    if let Some(value) = proxy {
        return work.proxy(&value, peers.as_deref());
    }
    work.member(facts, peers.as_deref())
}

struct Work {
    env: Env,
    unset: Vec<String>,
    notes: Vec<String>,
}

impl Work {
    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.env.remove(name)?;
        self.unset.push(name.to_owned());
        Some(value).filter(|v| !v.is_empty())
    }

    fn put(&mut self, name: &str, value: String) {
        self.unset.retain(|n| n != name);
        self.env.insert(name.to_owned(), value);
    }

    /// Sets a variable unless the new name is in use already.
    fn put_from(&mut self, old: &str, new: &str, value: String) {
        if self.env.contains_key(new) {
            self.notes
                .push(format!("{old} is left out: {new} is set as well"));
        } else {
            self.notes.push(format!("{old} is taken as {new}={value}"));
            self.put(new, value);
        }
    }

    fn rename(&mut self) {
        for (old, new) in RENAMED {
            if let Some(value) = self.take(old) {
                self.put_from(old, new, value);
                let auth = match *new {
                    "ETCD_TRUSTED_CA_FILE" => "ETCD_CLIENT_CERT_AUTH",
                    "ETCD_PEER_TRUSTED_CA_FILE" => "ETCD_PEER_CLIENT_CERT_AUTH",
                    _ => continue,
                };
                self.put(auth, "true".to_owned());
            }
        }
        // In 0.4 a server listened where it was to be reached, unless it was told otherwise.
        for (reach, bind) in [
            ("ETCD_ADDR", "ETCD_BIND_ADDR"),
            ("ETCD_PEER_ADDR", "ETCD_PEER_BIND_ADDR"),
        ] {
            let listens = if bind == "ETCD_BIND_ADDR" {
                "ETCD_LISTEN_CLIENT_URLS"
            } else {
                "ETCD_LISTEN_PEER_URLS"
            };
            if let (Some(address), false, false) = (
                self.env.get(reach).cloned(),
                self.env.contains_key(bind),
                self.env.contains_key(listens),
            ) {
                self.put(bind, address);
            }
        }
        for (old, new, peer) in ADDRESSES {
            if let Some(value) = self.take(old) {
                let tls = if *peer {
                    "ETCD_PEER_CERT_FILE"
                } else {
                    "ETCD_CERT_FILE"
                };
                let scheme = if self.env.contains_key(tls) {
                    "https"
                } else {
                    "http"
                };
                self.put_from(old, new, url(scheme, &value));
            }
        }
        for name in ["ETCD_VERBOSE", "ETCD_DEBUG"] {
            if let Some(value) = self.take(name)
                && matches!(value.as_str(), "1" | "true")
            {
                self.put_from(name, "ETCD_LOG_LEVEL", "debug".to_owned());
            }
        }
        for name in DROPPED {
            if self.take(name).is_some() {
                self.notes
                    .push(format!("{name} is left out: etcd 3 has nothing like it"));
            }
        }
    }

    fn proxy(mut self, value: &str, peers: Option<&str>) -> Result<Plan, PlanError> {
        if value == "readonly" {
            self.notes.push(
                "ETCD_PROXY=readonly passes writes on too: v3's connections are not looked into"
                    .to_owned(),
            );
        }
        let mut urls: Vec<String> =
            self.env
                .get("ETCD_INITIAL_CLUSTER")
                .map_or_else(Vec::new, |text| {
                    text.split(',')
                        .filter_map(|m| m.split_once('='))
                        .map(|(_, url)| url.trim().to_owned())
                        .collect()
                });
        urls.extend(addresses(peers).into_iter().map(|p| url("http", p)));
        if urls.is_empty() {
            return Err(PlanError::NoPeers(value.to_owned()));
        }
        for peer in &urls {
            host_port("ETCD_INITIAL_CLUSTER", peer)?;
        }
        let listen = self
            .env
            .get("ETCD_LISTEN_CLIENT_URLS")
            .map_or(
                "http://127.0.0.1:2379,http://127.0.0.1:4001",
                String::as_str,
            )
            .split(',')
            .map(|url| host_port("ETCD_LISTEN_CLIENT_URLS", url.trim()))
            .collect::<Result<_, _>>()?;
        let role = Role::Proxy {
            listen,
            peers: urls,
        };
        Ok(Plan {
            set: Env::new(),
            unset: self.unset,
            notes: self.notes,
            role,
        })
    }

    fn member(mut self, facts: &Facts, peers: Option<&str>) -> Result<Plan, PlanError> {
        let default = if facts.etcd2_in_use {
            "/var/lib/etcd2"
        } else {
            "/var/lib/etcd"
        };
        let data_dir = self.default("ETCD_DATA_DIR", default);
        let name = self.default("ETCD_NAME", &facts.machine_id);
        if !self.env.contains_key("ETCD_AUTO_COMPACTION_MODE") {
            self.default("ETCD_AUTO_COMPACTION_RETENTION", HISTORY);
        }
        let local = "http://127.0.0.1:2379,http://127.0.0.1:4001";
        let listen = self.default("ETCD_LISTEN_CLIENT_URLS", local);
        // etcd demands it where the other is set; 2.x advertised the local ports.
        let anywhere = listen.contains("0.0.0.0") || listen.contains("[::]");
        let reachable = if anywhere { local.to_owned() } else { listen };
        self.default("ETCD_ADVERTISE_CLIENT_URLS", &reachable);
        if let Some(advertised) = self.env.get("ETCD_INITIAL_ADVERTISE_PEER_URLS").cloned() {
            // A server that tells others an address listens there, if it was not told where.
            self.default("ETCD_LISTEN_PEER_URLS", &advertised);
        }
        let others = addresses(peers);
        if !others.is_empty() {
            self.initial_cluster(&name, &others);
        }
        for name in URL_NAMES {
            for url in self
                .env
                .get(*name)
                .into_iter()
                .flat_map(|list| list.split(','))
            {
                host_port(name, url.trim())?;
            }
        }
        let set = self
            .env
            .into_iter()
            .filter(|(name, _)| name.starts_with("ETCD_"))
            .collect();
        Ok(Plan {
            set,
            unset: self.unset,
            notes: self.notes,
            role: Role::Member { data_dir },
        })
    }

    /// 0.4 listed the others by address. A member's name is only its own affair, so others get made-up ones; what must agree
    /// on all machines are the addresses.
    fn initial_cluster(&mut self, name: &str, others: &[&str]) {
        let own = self
            .env
            .get("ETCD_INITIAL_ADVERTISE_PEER_URLS")
            .cloned()
            .unwrap_or_else(|| "http://localhost:2380".to_owned());
        let mut members: Vec<String> = own.split(',').map(|url| format!("{name}={url}")).collect();
        for other in others {
            let url = url("http", other);
            if !own.split(',').any(|o| o == url) {
                let made_up: String = other
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                    .collect();
                members.push(format!("{made_up}={url}"));
            }
        }
        self.put_from("ETCD_PEERS", "ETCD_INITIAL_CLUSTER", members.join(","));
    }

    fn default(&mut self, name: &str, value: &str) -> String {
        if !self.env.contains_key(name) {
            self.put(name, value.to_owned());
        }
        self.env[name].clone()
    }
}

const URL_NAMES: &[&str] = &[
    "ETCD_LISTEN_CLIENT_URLS",
    "ETCD_ADVERTISE_CLIENT_URLS",
    "ETCD_LISTEN_PEER_URLS",
    "ETCD_INITIAL_ADVERTISE_PEER_URLS",
    "ETCD_LISTEN_METRICS_URLS",
];

fn addresses(list: Option<&str>) -> Vec<&str> {
    list.map_or_else(Vec::new, |l| {
        l.split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .collect()
    })
}

fn url(scheme: &str, address: &str) -> String {
    match address.contains("://") {
        true => address.to_owned(),
        false => format!("{scheme}://{address}"),
    }
}

/// `HOST:PORT` of an URL.
pub fn host_port(name: &'static str, url: &str) -> Result<String, PlanError> {
    let wrong = || PlanError::Url {
        name,
        value: url.to_owned(),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let address = rest.split('/').next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let valid = matches!(scheme, "http" | "https" | "unix" | "unixs")
        && !host.is_empty()
        && port.parse::<u16>().is_ok();
    if valid {
        Ok(address.to_owned())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            machine_id: "0123".into(),
            etcd2_in_use: false,
        }
    }

    fn env(text: &str) -> Env {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (format!("ETCD_{k}"), v.to_owned()))
            .collect()
    }

    #[track_caller]
    fn check(given: &str, want: &str) {
        let mut plan = plan(&env(given), &facts()).expect("a plan");
        let history = plan.set.remove("ETCD_AUTO_COMPACTION_RETENTION");
        assert_eq!(history.as_deref(), Some(HISTORY), "{given}");
        assert_eq!(plan.set, env(want), "{given}");
        assert!(matches!(plan.role, Role::Member { .. }));
    }

    const LOCAL: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";

    #[test]
    fn nothing_set_is_one_member_on_this_machine() {
        check(
            "",
            &format!(
                "DATA_DIR=/var/lib/etcd NAME=0123 LISTEN_CLIENT_URLS={LOCAL} ADVERTISE_CLIENT_URLS={LOCAL}"
            ),
        );
    }

    #[test]
    fn what_is_set_stays() {
        let all = "NAME=node1 DATA_DIR=/d INITIAL_CLUSTER=node1=http://10.0.2.11:2380 INITIAL_CLUSTER_STATE=new \
                   INITIAL_ADVERTISE_PEER_URLS=http://10.0.2.11:2380 ADVERTISE_CLIENT_URLS=http://10.0.2.11:2379 \
                   LISTEN_CLIENT_URLS=http://0.0.0.0:2379 LISTEN_PEER_URLS=http://10.0.2.11:2380";
        check(all, all);
    }

    #[test]
    fn history_is_kept_as_long_as_the_operator_says() {
        let history = |given: &str| {
            let plan = plan(&env(given), &facts()).expect("a plan");
            plan.set.get("ETCD_AUTO_COMPACTION_RETENTION").cloned()
        };
        assert_eq!(history("AUTO_COMPACTION_RETENTION=0").as_deref(), Some("0"));
        // Another unit of measure; etcd's own default for it holds.
        assert_eq!(history("AUTO_COMPACTION_MODE=revision"), None);
    }

    #[test]
    fn names_of_the_past_are_taken_over() {
        check(
            "NAME=a ADDR=10.0.0.1:4001 PEER_ADDR=10.0.0.1:7001 PEERS=10.0.0.1:7001,10.0.0.2:7001 SNAPSHOTCOUNT=5 VERBOSE=1 TRACE=x",
            "NAME=a DATA_DIR=/var/lib/etcd ADVERTISE_CLIENT_URLS=http://10.0.0.1:4001 LISTEN_CLIENT_URLS=http://10.0.0.1:4001 \
             INITIAL_ADVERTISE_PEER_URLS=http://10.0.0.1:7001 LISTEN_PEER_URLS=http://10.0.0.1:7001 SNAPSHOT_COUNT=5 \
             LOG_LEVEL=debug INITIAL_CLUSTER=a=http://10.0.0.1:7001,10-0-0-2-7001=http://10.0.0.2:7001",
        );
        let plan = plan(&env("TRACE=x MAX_RESULT_BUFFER=1 ADDR="), &facts()).expect("a plan");
        assert_eq!(plan.notes.len(), 2, "a line each: {:?}", plan.notes);
        assert!(
            plan.unset.contains(&"ETCD_TRACE".to_owned())
                && plan.unset.contains(&"ETCD_ADDR".to_owned())
        );
    }

    #[test]
    fn the_old_directory_is_kept_where_it_is_in_use() {
        let plan = plan(
            &Env::new(),
            &Facts {
                etcd2_in_use: true,
                ..facts()
            },
        )
        .expect("a plan");
        assert_eq!(
            plan.role,
            Role::Member {
                data_dir: "/var/lib/etcd2".into()
            }
        );
    }

    #[test]
    fn a_proxy_asks_the_peers() {
        let given = env("PROXY=on INITIAL_CLUSTER=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380");
        let got = plan(&given, &facts()).expect("a plan");
        let want = Role::Proxy {
            listen: vec!["127.0.0.1:2379".into(), "127.0.0.1:4001".into()],
            peers: vec!["http://10.0.0.1:2380".into(), "http://10.0.0.2:2380".into()],
        };
        assert_eq!(got.role, want);
        assert_eq!(
            plan(&env("PROXY=on"), &facts()),
            Err(PlanError::NoPeers("on".into()))
        );
        assert_eq!(
            plan(&env("PROXY=maybe"), &facts()),
            Err(PlanError::Proxy("maybe".into()))
        );
        let off = plan(&env("PROXY=off"), &facts()).expect("a plan");
        assert!(matches!(off.role, Role::Member { .. }));
    }

    #[test]
    fn a_bad_url_is_named() {
        let err = plan(&env("LISTEN_CLIENT_URLS=http://:2379"), &facts()).expect_err("refused");
        assert_eq!(
            err.to_string(),
            "ETCD_LISTEN_CLIENT_URLS: \"http://:2379\" is not an URL with host and port"
        );
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_panic(
            pairs in proptest::collection::btree_map("ETCD_(PROXY|PEERS|ADDR|INITIAL_CLUSTER|LISTEN_CLIENT_URLS|NAME)", "\\PC{0,12}", 0..5)
        ) {
            let _ = plan(&pairs, &facts());
        }

        #[test]
        fn planning_again_changes_nothing(name in "[a-z]{1,5}", port in 1u16..) {
            let first = plan(&env(&format!("NAME={name} ADDR=10.0.0.1:{port} PEERS=10.0.0.2:7001")), &facts()).expect("a plan");
            let second = plan(&first.set, &facts()).expect("a plan");
            prop_assert_eq!(second.set, first.set);
            prop_assert!(second.notes.is_empty());
        }
    }
}
