//! Socket units: addresses, opening, accepting. What is opened is told by [`SocketSettings`]; who holds the
//! descriptors is the manager's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType};
use syscalls::socket::{option, set_option};
use unit_engine::api::PeerAddress;
use unit_file::settings::{BindIpv6Only, Listen, ListenKind, SocketSettings};

use crate::users;

/// Where a Listen* line listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket file.
    Path(String),
    /// An abstract name.
    Abstract(String),
    /// An IP address; `any` = the line was a port only.
    Inet { address: SocketAddr, any: bool },
    /// A FIFO.
    Fifo(String),
    /// A file or device.
    Special(String),
    /// A netlink family.
    Netlink { family: u32, group: u32 },
}

/// Understands the address of a line.
pub(crate) fn parse_address(listen: &Listen) -> Result<Address, String> {
    let text = listen.address.trim();
    match listen.kind {
        ListenKind::Fifo => return absolute(text).map(Address::Fifo),
        ListenKind::Special => return absolute(text).map(Address::Special),
        ListenKind::Netlink => return netlink(text),
        _ => {}
    }
    if text.starts_with('/') {
        return if text.len() < 108 {
            Ok(Address::Path(text.to_owned()))
        } else {
            Err(format!("{text}: path longer than 107 bytes"))
        };
    }
    if let Some(name) = text.strip_prefix('@') {
        return if name.len() < 107 {
            Ok(Address::Abstract(name.to_owned()))
        } else {
            Err(format!("{text}: name longer than 106 bytes"))
        };
    }
    if let Ok(port) = text.parse::<u16>() {
        return match port {
            0 => Err("port 0".to_owned()),
            port => Ok(Address::Inet {
                address: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
                any: true,
            }),
        };
    }
    let address = text
        .parse::<SocketAddr>()
        .map_err(|_| format!("{text} is no path, @name, port or address:port"))?;
    Ok(Address::Inet {
        address,
        any: false,
    })
}

fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is no absolute path"))
    }
}

fn netlink(text: &str) -> Result<Address, String> {
    let mut words = text.split_whitespace();
    let family = match words.next() {
        Some("route") => 0,
        Some("audit") => 9,
        Some("kobject-uevent") => 15,
        Some(number) => number
            .parse()
            .map_err(|_| format!("{number} is no netlink family"))?,
        None => return Err("no netlink family".to_owned()),
    };
    let group = words
        .next()
        .map_or(Ok(0), str::parse)
        .map_err(|_| format!("{text}: bad netlink group"))?;
    Ok(Address::Netlink { family, group })
}

/// Opens one line.
pub(crate) fn open(settings: &SocketSettings, listen: &Listen) -> Result<OwnedFd, String> {
    let address = parse_address(listen)?;
    let fail = |what: &str| {
        let text = format!("{}: {what}", listen.address);
        move |error: rustix::io::Errno| {
            format!(
                "{text}: {}",
                syscalls::system::errno_text(error.raw_os_error())
            )
        }
    };
    match &address {
        Address::Fifo(path) => open_fifo(settings, path),
        Address::Special(path) => {
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(settings.writable);
            options
                .open(path)
                .map(OwnedFd::from)
                .map_err(|e| format!("{path}: {e}"))
        }
        Address::Netlink { family, group } => {
            open_netlink(*family, *group).map_err(|e| format!("netlink {family}: {e}"))
        }
        Address::Inet { address, any } => {
            let socket = inet(settings, listen.kind, *address, *any).map_err(fail("socket"))?;
            Ok(socket)
        }
        Address::Path(path) => {
            make_parent(path, settings.directory_mode).map_err(|e| format!("{path}: {e}"))?;
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                socket_type(listen.kind),
                flags(),
                None,
            )
            .map_err(fail("socket"))?;
            options(settings, &socket, listen.kind, false)?;
            bind_path(&socket, path)?;
            own(settings, path)?;
            finish(settings, &socket, listen.kind).map_err(fail("listen"))?;
            for link in &settings.symlinks {
                let _ = std::fs::remove_file(link);
                std::os::unix::fs::symlink(path, link).map_err(|e| format!("{link}: {e}"))?;
            }
            Ok(socket)
        }
        Address::Abstract(name) => {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                socket_type(listen.kind),
                flags(),
                None,
            )
            .map_err(fail("socket"))?;
            options(settings, &socket, listen.kind, false)?;
            let address =
                SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(fail("name"))?;
            rustix::net::bind(&socket, &address).map_err(fail("bind"))?;
            finish(settings, &socket, listen.kind).map_err(fail("listen"))?;
            Ok(socket)
        }
    }
}

fn flags() -> SocketFlags {
    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
}

fn socket_type(kind: ListenKind) -> SocketType {
    match kind {
        ListenKind::Datagram => SocketType::DGRAM,
        ListenKind::SequentialPacket => SocketType::SEQPACKET,
        _ => SocketType::STREAM,
    }
}

fn inet(
    settings: &SocketSettings,
    kind: ListenKind,
    address: SocketAddr,
    any: bool,
) -> Result<OwnedFd, rustix::io::Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (socket, address) = match rustix::net::socket_with(family, socket_type(kind), flags(), None)
    {
        // A kernel without IPv6 still serves a bare port.
        Err(rustix::io::Errno::AFNOSUPPORT) if any => {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            (
                rustix::net::socket_with(AddressFamily::INET, socket_type(kind), flags(), None)?,
                address,
            )
        }
        result => (result?, address),
    };
    options(settings, &socket, kind, address.is_ipv6()).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::net::bind(&socket, &address)?;
    finish(settings, &socket, kind)?;
    Ok(socket)
}

fn finish(
    settings: &SocketSettings,
    socket: &OwnedFd,
    kind: ListenKind,
) -> Result<(), rustix::io::Errno> {
    if matches!(kind, ListenKind::Stream | ListenKind::SequentialPacket) {
        // The kernel caps it at net.core.somaxconn.
        rustix::net::listen(socket, i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    }
    Ok(())
}

fn options(
    settings: &SocketSettings,
    socket: &OwnedFd,
    kind: ListenKind,
    v6: bool,
) -> Result<(), String> {
    let inet = rustix::net::sockopt::socket_domain(socket)
        .is_ok_and(|d| d == AddressFamily::INET || d == AddressFamily::INET6);
    let set = |on: bool, level: i32, name: i32, value: i32, what: &str| {
        if !on {
            return Ok(());
        }
        set_option(socket, level, name, value).map_err(|e| format!("{what}: {e}"))
    };
    let size = |v: Option<u64>| i32::try_from(v.unwrap_or(0)).unwrap_or(i32::MAX);
    let tcp = inet && kind == ListenKind::Stream;
    set(
        inet,
        option::SOL_SOCKET,
        option::SO_REUSEADDR,
        1,
        "ReuseAddr",
    )?;
    set(
        settings.reuse_port,
        option::SOL_SOCKET,
        option::SO_REUSEPORT,
        1,
        "ReusePort=",
    )?;
    set(
        settings.keep_alive,
        option::SOL_SOCKET,
        option::SO_KEEPALIVE,
        1,
        "KeepAlive=",
    )?;
    set(
        settings.broadcast,
        option::SOL_SOCKET,
        option::SO_BROADCAST,
        1,
        "Broadcast=",
    )?;
    set(
        settings.pass_credentials,
        option::SOL_SOCKET,
        option::SO_PASSCRED,
        1,
        "PassCredentials=",
    )?;
    set(
        settings.pass_security,
        option::SOL_SOCKET,
        option::SO_PASSSEC,
        1,
        "PassSecurity=",
    )?;
    set(
        settings.receive_buffer.is_some(),
        option::SOL_SOCKET,
        option::SO_RCVBUFFORCE,
        size(settings.receive_buffer),
        "ReceiveBuffer=",
    )?;
    set(
        settings.send_buffer.is_some(),
        option::SOL_SOCKET,
        option::SO_SNDBUFFORCE,
        size(settings.send_buffer),
        "SendBuffer=",
    )?;
    set(
        settings.priority.is_some(),
        option::SOL_SOCKET,
        option::SO_PRIORITY,
        settings.priority.unwrap_or(0),
        "Priority=",
    )?;
    set(
        settings.mark.is_some(),
        option::SOL_SOCKET,
        option::SO_MARK,
        settings.mark.unwrap_or(0),
        "Mark=",
    )?;
    set(
        settings.free_bind && inet,
        option::IPPROTO_IP,
        option::IP_FREEBIND,
        1,
        "FreeBind=",
    )?;
    set(
        settings.transparent && inet,
        option::IPPROTO_IP,
        option::IP_TRANSPARENT,
        1,
        "Transparent=",
    )?;
    set(
        settings.no_delay && tcp,
        option::IPPROTO_TCP,
        option::TCP_NODELAY,
        1,
        "NoDelay=",
    )?;
    let only = match settings.bind_ipv6_only {
        BindIpv6Only::Default => None,
        BindIpv6Only::Both => Some(0),
        BindIpv6Only::Ipv6Only => Some(1),
    };
    set(
        v6 && only.is_some(),
        option::IPPROTO_IPV6,
        option::IPV6_V6ONLY,
        only.unwrap_or(0),
        "BindIPv6Only=",
    )
}

/// Binds a socket file; a stale one (nobody listens, as PID 1 owns the unit) is replaced.
fn bind_path(socket: &OwnedFd, path: &str) -> Result<(), String> {
    let text = |e: rustix::io::Errno| {
        format!(
            "{path}: bind: {}",
            syscalls::system::errno_text(e.raw_os_error())
        )
    };
    let address = SocketAddrUnix::new(path).map_err(text)?;
    match rustix::net::bind(socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            use std::os::unix::fs::FileTypeExt;
            if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
                std::fs::remove_file(path).map_err(|e| format!("{path}: {e}"))?;
            }
            rustix::net::bind(socket, &address).map_err(text)
        }
        result => result.map_err(text),
    }
}

fn own(settings: &SocketSettings, path: &str) -> Result<(), String> {
    let database = users::system();
    let user = settings
        .socket_user
        .as_deref()
        .map(|name| {
            database
                .user(name)
                .ok_or_else(|| format!("there is no user {name}"))
        })
        .transpose()?;
    let group = settings
        .socket_group
        .as_deref()
        .map(|name| {
            database
                .group(name)
                .ok_or_else(|| format!("there is no group {name}"))
        })
        .transpose()?;
    let gid = group.or(user.as_ref().map(|u| u.gid));
    std::os::unix::fs::chown(path, user.map(|u| u.uid), gid).map_err(|e| format!("{path}: {e}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.socket_mode))
        .map_err(|e| format!("{path}: {e}"))
}

fn open_fifo(settings: &SocketSettings, path: &str) -> Result<OwnedFd, String> {
    use std::os::unix::fs::OpenOptionsExt;
    let text = |e: std::io::Error| format!("{path}: {e}");
    make_parent(path, settings.directory_mode).map_err(text)?;
    let mode = rustix::fs::Mode::from_raw_mode(settings.socket_mode);
    match rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(text(error.into())),
    }
    own(settings, path)?;
    // Opened for writing too, so that a reader never sees the end when the last writer leaves.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map(OwnedFd::from)
        .map_err(text)
}

fn open_netlink(family: u32, group: u32) -> Result<OwnedFd, rustix::io::Errno> {
    let protocol = rustix::net::Protocol::from_raw(
        std::num::NonZeroU32::new(family).unwrap_or(std::num::NonZeroU32::MIN),
    );
    let protocol = (family != 0).then_some(protocol);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags(), protocol)?;
    let groups = if group == 0 { 0 } else { 1 << (group - 1) };
    rustix::net::bind(
        &socket,
        &rustix::net::netlink::SocketAddrNetlink::new(0, groups),
    )?;
    Ok(socket)
}

fn make_parent(path: &str, mode: u32) -> std::io::Result<()> {
    match Path::new(path).parent() {
        Some(parent) if !parent.exists() => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(parent),
        _ => Ok(()),
    }
}

/// Removes the files and links of a unit's sockets (RemoveOnStop=).
pub(crate) fn remove_files(settings: &SocketSettings) {
    for listen in &settings.listen {
        if let Ok(Address::Path(path) | Address::Fifo(path)) = parse_address(listen) {
            let _ = std::fs::remove_file(path);
        }
    }
    for link in &settings.symlinks {
        let _ = std::fs::remove_file(link);
    }
}

/// Accepts one connection and says who is there.
pub(crate) fn accept(
    listener: BorrowedFd<'_>,
) -> Result<(OwnedFd, PeerAddress), rustix::io::Errno> {
    let connection = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    let peer = peer(connection.as_fd());
    Ok((connection, peer))
}

fn peer(connection: BorrowedFd<'_>) -> PeerAddress {
    let inet = |address: Option<SocketAddrAny>| {
        let address = SocketAddr::try_from(address?).ok()?;
        let ip = match address.ip() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        };
        Some((ip.to_string(), address.port()))
    };
    let remote = rustix::net::getpeername(connection).ok().flatten();
    if let (Some(local), Some(remote)) = (
        inet(rustix::net::getsockname(connection).ok()),
        inet(remote),
    ) {
        return PeerAddress::Inet { local, remote };
    }
    match syscalls::socket::peer_credentials(connection) {
        Ok(c) if c.pid > 0 => PeerAddress::Unix {
            pid: c.pid as u32,
            uid: c.uid,
        },
        _ => PeerAddress::Other,
    }
}

/// Throws away what waits on a descriptor.
pub(crate) fn flush(fd: BorrowedFd<'_>) {
    let listening = rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    let mut buffer = [0; 65536];
    // Bounded: somebody may write as fast as we read.
    for _ in 0..1024 {
        let done = if listening {
            accept(fd).is_err()
        } else {
            !matches!(rustix::io::read(fd, &mut buffer), Ok(n) if n > 0)
        };
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn listen(kind: ListenKind, address: &str) -> Listen {
        Listen {
            kind,
            address: address.to_owned(),
        }
    }

    #[test]
    fn addresses_are_understood_or_refused_with_a_reason() {
        let get = |a: &str| parse_address(&listen(ListenKind::Stream, a));
        assert_eq!(
            get("/run/x.sock"),
            Ok(Address::Path("/run/x.sock".to_owned()))
        );
        assert_eq!(get("@abc"), Ok(Address::Abstract("abc".to_owned())));
        assert!(matches!(get("22"), Ok(Address::Inet { any: true, .. })));
        assert!(matches!(
            get("127.0.0.1:80"),
            Ok(Address::Inet { any: false, .. })
        ));
        assert!(matches!(get("[::1]:80"), Ok(Address::Inet { .. })));
        for bad in [
            "0",
            "x",
            "70000",
            "1.2.3.4",
            &format!("/{}", "a".repeat(120)),
        ] {
            assert!(get(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_address(&listen(ListenKind::Netlink, "kobject-uevent 1")),
            Ok(Address::Netlink {
                family: 15,
                group: 1
            })
        );
    }

    #[test]
    fn a_socket_file_gets_its_mode_and_serves_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.sock").display().to_string();
        let settings = SocketSettings {
            socket_mode: 0o600,
            ..SocketSettings::default()
        };
        let line = listen(ListenKind::Stream, &path);
        let first = open(&settings, &line).unwrap();
        drop(first);
        let listener = open(&settings, &line).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(accept(listener.as_fd()).is_err(), "nobody is there yet");
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        let (connection, peer) = accept(listener.as_fd()).unwrap();
        assert_eq!(
            peer,
            PeerAddress::Unix {
                pid: std::process::id(),
                uid: 0
            }
        );
        let mut buffer = [0; 5];
        std::fs::File::from(connection)
            .read_exact(&mut buffer)
            .unwrap();
        remove_files(&SocketSettings {
            listen: vec![line],
            ..settings
        });
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn a_tcp_connection_knows_both_ends() {
        let listener = open(
            &SocketSettings::default(),
            &listen(ListenKind::Stream, "127.0.0.1:0"),
        )
        .unwrap();
        let own = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let (_connection, peer) = accept(listener.as_fd()).unwrap();
        let PeerAddress::Inet { remote, .. } = peer else {
            panic!("{peer:?}");
        };
        assert_eq!(remote.1, client.local_addr().unwrap().port());
        assert_eq!(remote.0, "127.0.0.1");
    }

    #[test]
    fn flushing_empties_a_datagram_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d").display().to_string();
        let socket = open(
            &SocketSettings::default(),
            &listen(ListenKind::Datagram, &path),
        )
        .unwrap();
        std::os::unix::net::UnixDatagram::unbound()
            .unwrap()
            .send_to(b"x", &path)
            .unwrap();
        flush(socket.as_fd());
        assert!(rustix::io::read(&socket, &mut [0; 4]).is_err());
    }
}
