//! The option tables of `coreos.etcd`, `etcd2`, `fleet`, `locksmith` and `flannel`: one row per key,
//! in the order in which the values are written out.

use super::pattern::Pattern;

/// The type an option wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    Int,
    Float,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionRow {
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    /// Full variable name where it is not prefix + upper-cased key.
    pub(crate) env: Option<&'static str>,
    /// Reason of a deprecation.
    pub(crate) deprecated: Option<&'static str>,
    pub(crate) pattern: Option<Pattern>,
}

impl OptionRow {
    const fn new(key: &'static str, kind: Kind) -> Self {
        Self {
            key,
            kind,
            env: None,
            deprecated: None,
            pattern: None,
        }
    }
    const fn env(self, env: &'static str) -> Self {
        Self {
            env: Some(env),
            ..self
        }
    }
    const fn old(self, reason: &'static str) -> Self {
        Self {
            deprecated: Some(reason),
            ..self
        }
    }
    const fn matches(self, pattern: Pattern) -> Self {
        Self {
            pattern: Some(pattern),
            ..self
        }
    }
}

/// One section with its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) key: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) rows: &'static [OptionRow],
}

const fn s(key: &'static str) -> OptionRow {
    OptionRow::new(key, Kind::Text)
}
const fn b(key: &'static str) -> OptionRow {
    OptionRow::new(key, Kind::Bool)
}
const fn i(key: &'static str) -> OptionRow {
    OptionRow::new(key, Kind::Int)
}
const fn f(key: &'static str) -> OptionRow {
    OptionRow::new(key, Kind::Float)
}

const ETCD2_ONLY: &str = "etcd2 options no longer work for etcd";
const CA_FILE: &str = "use trusted_ca_file and client_cert_auth instead";
const PEER_CA_FILE: &str = "use peer_trusted_ca_file and peer_client_cert_auth instead";

pub(crate) const ETCD: Section = Section {
    key: "etcd",
    prefix: "ETCD_",
    rows: &[
        s("addr"),
        s("advertise_client_urls").old(ETCD2_ONLY),
        s("bind_addr"),
        s("ca_file"),
        s("cert_file"),
        i("cluster_active_size"),
        f("cluster_remove_delay"),
        f("cluster_sync_interval"),
        s("cors"),
        s("data_dir"),
        s("discovery"),
        s("discovery_fallback").old(ETCD2_ONLY),
        s("discovery_srv").old(ETCD2_ONLY),
        s("discovery_proxy").old(ETCD2_ONLY),
        i("election_timeout").old(ETCD2_ONLY),
        b("force_new_cluster").old(ETCD2_ONLY),
        s("graphite_host"),
        i("heartbeat_interval").old(ETCD2_ONLY),
        f("http_read_timeout"),
        f("http_write_timeout"),
        s("initial_advertise_peer_urls").old(ETCD2_ONLY),
        s("initial_cluster").old(ETCD2_ONLY),
        s("initial_cluster_state").old(ETCD2_ONLY),
        s("initial_cluster_token").old(ETCD2_ONLY),
        s("key_file"),
        s("listen_client_urls").old(ETCD2_ONLY),
        s("listen_peer_urls").old(ETCD2_ONLY),
        i("max_result_buffer"),
        i("max_retry_attempts"),
        i("max_snapshots").old(ETCD2_ONLY),
        i("max_wals").old(ETCD2_ONLY),
        s("name"),
        s("peer_addr"),
        s("peer_bind_addr"),
        s("peer_ca_file"),
        s("peer_cert_file"),
        i("peer_election_timeout"),
        i("peer_heartbeat_interval"),
        s("peer_key_file"),
        s("peers"),
        s("peers_file"),
        s("proxy").old(ETCD2_ONLY),
        f("retry_interval"),
        b("snapshot"),
        i("snapshot_count").env("ETCD_SNAPSHOTCOUNT"),
        s("trace"),
        b("verbose"),
        b("very_verbose"),
        b("very_very_verbose"),
    ],
};

pub(crate) const ETCD2: Section = Section {
    key: "etcd2",
    prefix: "ETCD_",
    rows: &[
        s("advertise_client_urls"),
        s("ca_file").old(CA_FILE),
        s("cert_file"),
        b("client_cert_auth"),
        s("cors"),
        s("data_dir"),
        b("debug"),
        s("discovery"),
        s("discovery_fallback"),
        s("discovery_srv"),
        s("discovery_proxy"),
        i("election_timeout"),
        b("enable_pprof"),
        b("force_new_cluster"),
        i("heartbeat_interval"),
        s("initial_advertise_peer_urls"),
        s("initial_cluster"),
        s("initial_cluster_state"),
        s("initial_cluster_token"),
        s("key_file"),
        s("listen_client_urls"),
        s("listen_peer_urls"),
        s("log_package_levels"),
        i("max_snapshots"),
        i("max_wals"),
        s("name"),
        s("peer_ca_file").old(PEER_CA_FILE),
        s("peer_cert_file"),
        s("peer_key_file"),
        b("peer_client_cert_auth"),
        s("peer_trusted_ca_file"),
        s("proxy").matches(Pattern::Proxy),
        i("proxy_dial_timeout"),
        i("proxy_failure_wait"),
        i("proxy_read_timeout"),
        i("proxy_refresh_interval"),
        i("proxy_write_timeout"),
        i("snapshot_count"),
        b("strict_reconfig_check"),
        s("trusted_ca_file"),
        s("wal_dir"),
    ],
};

pub(crate) const FLEET: Section = Section {
    key: "fleet",
    prefix: "FLEET_",
    rows: &[
        s("agent_ttl"),
        s("authorized_keys_file"),
        b("disable_engine"),
        f("engine_reconcile_interval"),
        s("etcd_cafile"),
        s("etcd_certfile"),
        s("etcd_keyfile"),
        s("etcd_key_prefix"),
        f("etcd_request_timeout"),
        s("etcd_servers"),
        s("etcd_username"),
        s("etcd_password"),
        s("metadata"),
        s("public_ip"),
        i("token_limit"),
        i("verbosity"),
        b("verify_units"),
    ],
};

pub(crate) const LOCKSMITH: Section = Section {
    key: "locksmith",
    prefix: "LOCKSMITHD_",
    rows: &[
        s("endpoint"),
        s("etcd_cafile"),
        s("etcd_certfile"),
        s("etcd_keyfile"),
        s("etcd_username"),
        s("etcd_password"),
        s("group"),
        s("window_start")
            .env("REBOOT_WINDOW_START")
            .matches(Pattern::WindowStart),
        s("window_length")
            .env("REBOOT_WINDOW_LENGTH")
            .matches(Pattern::WindowLength),
    ],
};

pub(crate) const FLANNEL: Section = Section {
    key: "flannel",
    prefix: "FLANNELD_",
    rows: &[
        s("etcd_endpoints"),
        // The only spelling of the releases of 2014.
        s("etcd_endpoint"),
        s("etcd_cafile"),
        s("etcd_certfile"),
        s("etcd_keyfile"),
        s("etcd_prefix"),
        s("etcd_username"),
        s("etcd_password"),
        s("ip_masq"),
        s("subnet_file"),
        s("interface").env("FLANNELD_IFACE"),
        s("public_ip"),
    ],
};
