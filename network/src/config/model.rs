//! What a `.network` file means, as a value.

use std::net::IpAddr;

use super::values::Cidr;
use crate::netlink::{Mac, RouteKind, Scope};

/// One `.network` file with its drop-ins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkFile {
    /// File name, which decides the order.
    pub name: String,
    /// Where it was read.
    pub path: String,
    /// Which links it is for.
    pub rule: Match,
    /// What they get.
    pub settings: Settings,
}

/// A list of patterns of which one must hold, or, behind a `!`, none may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns {
    /// The patterns.
    pub patterns: Vec<String>,
    /// The whole list is negated.
    pub negated: bool,
}

/// A condition on the machine with its negation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is asked for.
    pub text: String,
    /// It must not hold.
    pub negated: bool,
}

/// The `[Match]` section. Everything in it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// `Name=`
    pub name: Option<Patterns>,
    /// `MACAddress=`
    pub mac: Option<Vec<Mac>>,
    /// `PermanentMACAddress=`
    pub permanent_mac: Option<Vec<Mac>>,
    /// `Type=`
    pub kind: Option<Patterns>,
    /// `Driver=`
    pub driver: Option<Patterns>,
    /// `Path=`
    pub path: Option<Patterns>,
    /// `Virtualization=`
    pub virtualization: Option<Condition>,
    /// `KernelCommandLine=`
    pub kernel_command_line: Option<Condition>,
    /// `Host=`
    pub host: Option<Condition>,
}

/// Whether a link is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Brought up once.
    #[default]
    Up,
    /// Brought up whenever it is down.
    AlwaysUp,
    /// Left as it is.
    Manual,
    /// Taken down once.
    Down,
    /// Taken down whenever it is up.
    AlwaysDown,
}

/// `KeepConfiguration=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// A DHCP address stays when its lease ends.
    pub expired_lease: bool,
    /// Static addresses and routes stay when the file no longer names them.
    pub statics: bool,
}

/// Everything a link gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `MTUBytes=` of `[Link]`
    pub mtu: Option<u32>,
    /// `MACAddress=` of `[Link]`
    pub mac: Option<Mac>,
    /// `RequiredForOnline=`
    pub required_for_online: bool,
    /// `Unmanaged=`
    pub unmanaged: bool,
    /// `ActivationPolicy=`
    pub activation: Activation,
    /// DHCP over IPv4.
    pub dhcp4: bool,
    /// `Address=` and `[Address]`
    pub addresses: Vec<AddressSpec>,
    /// `Gateway=` and `[Route]`
    pub routes: Vec<RouteSpec>,
    /// `DNS=`
    pub dns: Vec<IpAddr>,
    /// `Domains=`, routing-only ones with their `~`
    pub domains: Vec<String>,
    /// `NTP=`
    pub ntp: Vec<String>,
    /// IPv4 link-local address wanted.
    pub link_local_v4: bool,
    /// IPv6 link-local address wanted.
    pub link_local_v6: bool,
    /// `IPv6AcceptRA=`; unset leaves the kernel's own choice
    pub accept_ra: Option<bool>,
    /// `IPForward=` for IPv4
    pub forward_v4: bool,
    /// `IPForward=` for IPv6
    pub forward_v6: bool,
    /// `IPMasquerade=` for IPv4
    pub masquerade_v4: bool,
    /// `IPMasquerade=` for IPv6
    pub masquerade_v6: bool,
    /// `ConfigureWithoutCarrier=`
    pub without_carrier: bool,
    /// `KeepConfiguration=`
    pub keep: Keep,
    /// `[DHCPv4]`
    pub dhcp: DhcpSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: None,
            mac: None,
            required_for_online: true,
            unmanaged: false,
            activation: Activation::Up,
            dhcp4: false,
            addresses: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            domains: Vec::new(),
            ntp: Vec::new(),
            link_local_v4: false,
            link_local_v6: true,
            accept_ra: None,
            forward_v4: false,
            forward_v6: false,
            masquerade_v4: false,
            masquerade_v6: false,
            without_carrier: false,
            keep: Keep::default(),
            dhcp: DhcpSettings::default(),
        }
    }
}

/// A static address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSpec {
    /// Address and prefix.
    pub address: Cidr,
    /// `Label=`
    pub label: Option<String>,
    /// `Peer=`
    pub peer: Option<IpAddr>,
    /// `Broadcast=`
    pub broadcast: Option<std::net::Ipv4Addr>,
}

/// A static route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// `Destination=`; unset is the default route of the gateway's family
    pub destination: Option<Cidr>,
    /// `Gateway=`
    pub gateway: Option<IpAddr>,
    /// `Source=`
    pub source: Option<Cidr>,
    /// `PreferredSource=`
    pub preferred_source: Option<IpAddr>,
    /// `Metric=`
    pub metric: Option<u32>,
    /// `Scope=`
    pub scope: Option<Scope>,
    /// `GatewayOnLink=`
    pub onlink: bool,
    /// `Table=`
    pub table: Option<u32>,
    /// `MTUBytes=`
    pub mtu: Option<u32>,
    /// `Type=`
    pub kind: RouteKind,
}

/// What a DHCP client calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientId {
    /// The hardware address.
    #[default]
    Mac,
    /// An identifier made from the machine-id.
    Duid,
}

/// The `[DHCPv4]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpSettings {
    /// `UseDNS=`
    pub use_dns: bool,
    /// `UseRoutes=`
    pub use_routes: bool,
    /// `UseGateway=`; unset is the value of `UseRoutes=`
    pub use_gateway: Option<bool>,
    /// `UseHostname=`
    pub use_hostname: bool,
    /// `UseDomains=`
    pub use_domains: bool,
    /// `UseNTP=`
    pub use_ntp: bool,
    /// `UseMTU=`
    pub use_mtu: bool,
    /// `RouteMetric=`
    pub route_metric: u32,
    /// `ClientIdentifier=`
    pub client_id: ClientId,
    /// `SendHostname=`
    pub send_hostname: bool,
    /// `Hostname=`
    pub hostname: Option<String>,
    /// `RequestBroadcast=`
    pub broadcast: bool,
    /// `MaxAttempts=`; unset is for ever
    pub max_attempts: Option<u32>,
    /// `VendorClassIdentifier=`
    pub vendor_class: Option<String>,
}

impl Default for DhcpSettings {
    fn default() -> Self {
        Self {
            use_dns: true,
            use_routes: true,
            use_gateway: None,
            use_hostname: true,
            use_domains: false,
            use_ntp: true,
            use_mtu: false,
            route_metric: 1024,
            client_id: ClientId::Mac,
            send_hostname: true,
            hostname: None,
            broadcast: false,
            max_attempts: None,
            vendor_class: None,
        }
    }
}
