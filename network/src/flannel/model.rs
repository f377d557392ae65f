//! Flannel's contract: the configuration, the leases, and how a machine chooses its subnet.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::config::values::mask_v4;
use crate::netlink::Mac;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// First address.
    pub base: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Subnet {
    /// Parses `10.1.0.0/16`; host bits are cleared.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.trim().split_once('/')?;
        Self::new(base.parse().ok()?, prefix.parse().ok()?)
    }

    /// Reads the last part of a lease's key: `10.1.5.0-24`, with or without an IPv6 part behind `&`.
    pub fn from_key(text: &str) -> Option<Self> {
        let v4 = text.split('&').next().unwrap_or(text);
        let (base, prefix) = v4.split_once('-')?;
        let subnet = Self::new(base.parse().ok()?, prefix.parse().ok()?)?;
        (subnet.key() == v4).then_some(subnet)
    }

    fn new(base: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self {
            base: mask_v4(base, prefix),
            prefix,
        })
    }

    /// The last part of the lease's key.
    pub fn key(self) -> String {
        format!("{}-{}", self.base, self.prefix)
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        mask_v4(address, self.prefix) == self.base
    }

    fn overlaps(self, other: Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        mask_v4(self.base, shorter) == mask_v4(other.base, shorter)
    }

    fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The second address: that of the machine's bridge.
    pub fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base).saturating_add(1))
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// How machines reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Packets in UDP, by the kernel.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Machines in the same network are reached without wrapping.
        direct: bool,
        /// Largest packet, where the configuration says it.
        mtu: Option<u32>,
    },
    /// Plain routes: all machines are in one network.
    HostGw,
}

impl Backend {
    /// Its name in leases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan { .. } => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// The value of `PREFIX/config`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The whole overlay.
    pub network: Subnet,
    /// Prefix length of a machine's part.
    pub subnet_len: u8,
    /// First part that may be given out.
    pub min: Ipv4Addr,
    /// Last part that may be given out.
    pub max: Ipv4Addr,
    /// How machines reach each other.
    pub backend: Backend,
    /// No back end is named, so the original would take `udp`.
    pub backend_is_default: bool,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a value of the wrong type.
    #[error("the network configuration is not what flannel's JSON should be")]
    Json(#[source] serde_json::Error),
    /// A network or address cannot be read.
    #[error("{key} {value:?} is not {want}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        want: &'static str,
    },
    /// The parts do not fit into the whole.
    #[error("{0}")]
    Range(String),
    /// A back end that this version does not have.
    #[error("backend type {0:?} is not supported; use vxlan or host-gw")]
    Backend(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    network: Option<String>,
    #[serde(default)]
    subnet_len: u8,
    subnet_min: Option<String>,
    subnet_max: Option<String>,
    #[serde(rename = "EnableIPv4", default = "yes")]
    enable_ipv4: bool,
    backend: Option<RawBackend>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct RawBackend {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    #[serde(rename = "Port", default)]
    port: u16,
    #[serde(rename = "DirectRouting", default)]
    direct: bool,
    #[serde(rename = "MTU", default)]
    mtu: u32,
}

impl Config {
    /// Reads and checks the configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_str(text).map_err(ConfigError::Json)?;
        if !raw.enable_ipv4 {
            return Err(ConfigError::Range(
                "EnableIPv4 is false, and IPv6 overlays are not supported".into(),
            ));
        }
        let value = raw.network.unwrap_or_default();
        let network = Subnet::parse(&value).ok_or(ConfigError::Value {
            key: "Network",
            value,
            want: "a network like 10.1.0.0/16",
        })?;
        let subnet_len = subnet_len(network, raw.subnet_len)?;
        let size = u32::try_from(
            (Subnet {
                base: network.base,
                prefix: subnet_len,
            })
            .size(),
        )
        .unwrap_or(4);
        let base = u32::from(network.base);
        let last =
            u32::try_from(u64::from(base) + network.size() - u64::from(size)).unwrap_or(base);
        let bound = |key, text: Option<String>, default: u32| match text {
            None => Ok(Ipv4Addr::from(default)),
            Some(value) => parse_bound(key, value, network, subnet_len),
        };
        // The first part is left out: its base would be the network's own address.
        let min = bound("SubnetMin", raw.subnet_min, base.saturating_add(size))?;
        let max = bound("SubnetMax", raw.subnet_max, last)?;
        if min > max {
            return Err(ConfigError::Range(format!(
                "SubnetMin {min} is behind SubnetMax {max}"
            )));
        }
        let backend_is_default = raw.backend.is_none();
        let backend = raw.backend.map_or(Ok(DEFAULT_BACKEND), parse_backend)?;
        Ok(Self {
            network,
            subnet_len,
            min,
            max,
            backend,
            backend_is_default,
        })
    }

    /// Whether a subnet could have been given out under this configuration.
    pub fn allows(&self, subnet: Subnet) -> bool {
        subnet.prefix == self.subnet_len && (self.min..=self.max).contains(&subnet.base)
    }
}

const DEFAULT_BACKEND: Backend = Backend::Vxlan {
    vni: 1,
    port: 8472,
    direct: false,
    mtu: None,
};

fn subnet_len(network: Subnet, wanted: u8) -> Result<u8, ConfigError> {
    match wanted {
        0 if network.prefix > 28 => Err(ConfigError::Range(format!(
            "Network {network} is too small, /28 is the least"
        ))),
        0 if network.prefix <= 22 => Ok(24),
        0 => Ok(network.prefix + 2),
        31.. => Err(ConfigError::Range(format!(
            "SubnetLen {wanted} leaves no addresses, 30 is the most"
        ))),
        _ if wanted < network.prefix + 2 => Err(ConfigError::Range(format!(
            "Network {network} must hold at least four subnets, SubnetLen {wanted} is too short"
        ))),
        _ => Ok(wanted),
    }
}

fn parse_bound(
    key: &'static str,
    value: String,
    network: Subnet,
    subnet_len: u8,
) -> Result<Ipv4Addr, ConfigError> {
    let good = |a: &Ipv4Addr| network.contains(*a) && mask_v4(*a, subnet_len) == *a;
    let want = "an address of Network on a boundary of SubnetLen";
    value
        .parse()
        .ok()
        .filter(good)
        .ok_or(ConfigError::Value { key, value, want })
}

fn parse_backend(raw: RawBackend) -> Result<Backend, ConfigError> {
    match raw.kind.to_ascii_lowercase().as_str() {
        "vxlan" => {
            let vni = raw.vni.unwrap_or(1);
            if vni >= 1 << 24 {
                return Err(ConfigError::Range(format!(
                    "VNI {vni} has more than 24 bits"
                )));
            }
            let port = if raw.port == 0 { 8472 } else { raw.port };
            Ok(Backend::Vxlan {
                vni,
                port,
                direct: raw.direct,
                mtu: (raw.mtu > 0).then_some(raw.mtu),
            })
        }
        "host-gw" => Ok(Backend::HostGw),
        _ => Err(ConfigError::Backend(raw.kind)),
    }
}

/// The value of a lease: where a machine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Address for the other machines.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// Always absent here; the original writes it as null.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<String>,
    /// `vxlan`, …
    #[serde(rename = "BackendType", default)]
    pub backend: String,
    /// What the back end needs.
    #[serde(rename = "BackendData", default)]
    pub data: Option<serde_json::Value>,
}

impl Attributes {
    /// What this machine says of itself.
    pub fn new(public_ip: Ipv4Addr, backend: Backend, mac: Option<Mac>) -> Self {
        let data = match (backend, mac) {
            (Backend::Vxlan { vni, .. }, Some(mac)) => {
                Some(serde_json::json!({ "VNI": vni, "VtepMAC": mac.to_string() }))
            }
            _ => None,
        };
        Self {
            public_ip,
            public_ipv6: None,
            backend: backend.name().to_owned(),
            data,
        }
    }

    /// The hardware address of a machine's VXLAN device.
    pub fn vtep_mac(&self) -> Option<Mac> {
        Mac::parse(self.data.as_ref()?.get("VtepMAC")?.as_str()?)
    }
}

/// A lease of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The subnet.
    pub subnet: Subnet,
    /// The key's last part, as it stands.
    pub name: String,
    /// Whose it is; `None` if the value cannot be read.
    pub attributes: Option<Attributes>,
    /// The key has no time limit: the operator reserved it.
    pub reserved: bool,
    /// Revision of the last write.
    pub revision: i64,
}

/// What to do to get a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The machine's own lease from before: write it anew.
    Renew(Record),
    /// The machine's own lease does not fit the configuration any more: delete it and choose again.
    Discard(Record),
    /// Claim this one.
    Claim(Subnet),
    /// All are taken.
    Full,
}

/// How many free subnets are looked at; the choice among them is random so that machines that start together do not race.
const CANDIDATES: usize = 100;

/// Chooses: the lease with our address, else the subnet we had, else a free one.
pub fn choose(
    config: &Config,
    leases: &[Record],
    public_ip: Ipv4Addr,
    previous: Option<Subnet>,
    random: u64,
) -> Choice {
    let ours = |r: &&Record| {
        r.attributes
            .as_ref()
            .is_some_and(|a| a.public_ip == public_ip)
    };
    if let Some(own) = leases.iter().find(ours) {
        let fits = config.allows(own.subnet);
        return if fits {
            Choice::Renew(own.clone())
        } else {
            Choice::Discard(own.clone())
        };
    }
    let free = |subnet: Subnet| !leases.iter().any(|l| l.subnet.overlaps(subnet));
    if let Some(previous) = previous.filter(|p| config.allows(*p) && free(*p)) {
        return Choice::Claim(previous);
    }
    let step = (Subnet {
        base: config.min,
        prefix: config.subnet_len,
    })
    .size();
    let range = u64::from(u32::from(config.min))..=u64::from(u32::from(config.max));
    let candidates: Vec<Subnet> = range
        .step_by(usize::try_from(step).unwrap_or(usize::MAX))
        .filter_map(|base| {
            Subnet::new(Ipv4Addr::from(u32::try_from(base).ok()?), config.subnet_len)
        })
        .filter(|subnet| free(*subnet))
        .take(CANDIDATES)
        .collect();
    let Some(len) = u64::try_from(candidates.len()).ok().filter(|n| *n > 0) else {
        return Choice::Full;
    };
    let index = usize::try_from(random % len).unwrap_or(0);
    Choice::Claim(candidates[index])
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
