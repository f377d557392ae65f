//! The [Socket] section.

use serde::{Deserialize, Serialize};

use super::types::{ExecCommand, Usec};

/// What kind of socket a Listen* line opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenKind {
    /// ListenStream=.
    Stream,
    /// ListenDatagram=.
    Datagram,
    /// ListenSequentialPacket=.
    SequentialPacket,
    /// ListenFIFO=.
    Fifo,
    /// ListenNetlink=: family and optional group.
    Netlink,
    /// ListenSpecial=.
    Special,
}

/// One Listen* line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Its kind.
    pub kind: ListenKind,
    /// As written after specifiers: `/path`, `@abstract`, `port`, `addr:port`, `[v6]:port`, `vsock:cid:port`.
    pub address: String,
}

/// BindIPv6Only=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BindIpv6Only {
    /// The kernel's sysctl.
    #[default]
    Default,
    /// Both families.
    Both,
    /// IPv6 only.
    Ipv6Only,
}

/// [Socket].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct SocketSettings {
    pub listen: Vec<Listen>,
    pub accept: bool,
    pub service: Option<String>,
    pub socket_user: Option<String>,
    pub socket_group: Option<String>,
    pub socket_mode: u32,
    pub directory_mode: u32,
    pub backlog: u32,
    pub bind_ipv6_only: BindIpv6Only,
    pub bind_to_device: Option<String>,
    pub free_bind: bool,
    pub reuse_port: bool,
    pub transparent: bool,
    pub broadcast: bool,
    pub keep_alive: bool,
    pub no_delay: bool,
    pub pass_credentials: bool,
    pub pass_security: bool,
    pub timestamping: bool,
    pub priority: Option<i32>,
    pub receive_buffer: Option<u64>,
    pub send_buffer: Option<u64>,
    pub mark: Option<i32>,
    pub pipe_size: Option<u64>,
    pub symlinks: Vec<String>,
    pub remove_on_stop: bool,
    pub writable: bool,
    pub flush_pending: bool,
    pub file_descriptor_name: Option<String>,
    pub max_connections: u32,
    pub max_connections_per_source: u32,
    pub trigger_limit_interval_usec: Usec,
    pub trigger_limit_burst: u32,
    pub timeout_usec: Usec,
    pub exec_start_pre: Vec<ExecCommand>,
    pub exec_start_post: Vec<ExecCommand>,
    pub exec_stop_pre: Vec<ExecCommand>,
    pub exec_stop_post: Vec<ExecCommand>,
}

impl Default for SocketSettings {
    fn default() -> Self {
        SocketSettings {
            listen: Vec::new(),
            accept: false,
            service: None,
            socket_user: None,
            socket_group: None,
            socket_mode: 0o666,
            directory_mode: 0o755,
            backlog: u32::MAX,
            bind_ipv6_only: BindIpv6Only::Default,
            bind_to_device: None,
            free_bind: false,
            reuse_port: false,
            transparent: false,
            broadcast: false,
            keep_alive: false,
            no_delay: false,
            pass_credentials: false,
            pass_security: false,
            timestamping: false,
            priority: None,
            receive_buffer: None,
            send_buffer: None,
            mark: None,
            pipe_size: None,
            symlinks: Vec::new(),
            remove_on_stop: false,
            writable: false,
            flush_pending: false,
            file_descriptor_name: None,
            max_connections: 64,
            max_connections_per_source: 0,
            trigger_limit_interval_usec: 2_000_000,
            trigger_limit_burst: u32::MAX,
            timeout_usec: 90_000_000,
            exec_start_pre: Vec::new(),
            exec_start_post: Vec::new(),
            exec_stop_pre: Vec::new(),
            exec_stop_post: Vec::new(),
        }
    }
}
