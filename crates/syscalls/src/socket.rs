//! Sockets beyond rustix: messages with credentials and descriptors, uevents, options by number,
//! bringing up the loopback interface.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// Who sent a message, as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id (of the sender, or of whom it may speak for).
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// Number of bytes stored into the caller's buffer.
    pub len: usize,
    /// True if the message was longer than the buffer.
    pub truncated: bool,
    /// The sender, if the socket has `SO_PASSCRED` set.
    pub credentials: Option<Credentials>,
    /// When it arrived, in microseconds since 1970, if the socket has `SO_TIMESTAMP` set.
    pub realtime_usec: Option<u64>,
    /// Descriptors that came along (close-on-exec).
    pub fds: Vec<OwnedFd>,
}

/// Receives one message with its credentials and descriptors, without waiting.
///
/// # Errors
/// As `recvmsg`; `WouldBlock` when nothing is there.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Message> {
    receive_with(socket, buffer, 0)
}

/// As [`receive`], but leaves the message (or the data of a stream) in the socket. Descriptors are duplicates.
///
/// # Errors
/// As `recvmsg`; `WouldBlock` when nothing is there.
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Message> {
    receive_with(socket, buffer, libc::MSG_PEEK)
}

fn receive_with(socket: impl AsFd, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Message> {
    #[repr(C, align(8))]
    struct Control([u8; 4096]);
    let mut control = Control([0; 4096]);
    let mut slice = IoSliceMut::new(buffer);
    // SAFETY: the header points to buffers that live during the call and gives their true sizes. The
    // control messages are walked with the CMSG macros inside the length the kernel stored, and each
    // payload is read unaligned.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = std::ptr::from_mut(&mut slice).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len() as _;
        let len = libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &mut header,
            libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | flags,
        );
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut message = Message {
            len: len as usize,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
            credentials: None,
            realtime_usec: None,
            fds: Vec::new(),
        };
        let mut part = libc::CMSG_FIRSTHDR(&header);
        while !part.is_null() {
            let head = part.read_unaligned();
            let data = libc::CMSG_DATA(part);
            let size = (head.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for i in 0..size / size_of::<libc::c_int>() {
                        let fd = data.cast::<libc::c_int>().add(i).read_unaligned();
                        message.fds.push(OwnedFd::from_raw_fd(fd));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= size_of::<libc::ucred>() => {
                    let cred = data.cast::<libc::ucred>().read_unaligned();
                    message.credentials = Some(Credentials {
                        pid: cred.pid,
                        uid: cred.uid,
                        gid: cred.gid,
                    });
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMP) if size >= size_of::<libc::timeval>() => {
                    let time = data.cast::<libc::timeval>().read_unaligned();
                    let usec = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_usec);
                    message.realtime_usec = u64::try_from(usec).ok();
                }
                _ => {}
            }
            part = libc::CMSG_NXTHDR(&header, part);
        }
        Ok(message)
    }
}

/// Sends one message with descriptors; never raises SIGPIPE.
///
/// # Errors
/// As `sendmsg`; more than 253 descriptors are refused by the kernel.
pub fn send_with_fds(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<libc::c_int> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let payload = size_of_val(raw.as_slice());
    // SAFETY: the control buffer is sized by CMSG_SPACE for the payload and is u64-aligned; the header
    // points to memory that lives during the call.
    unsafe {
        let mut control = vec![0u64; (libc::CMSG_SPACE(payload as u32) as usize).div_ceil(8)];
        let mut part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !raw.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(payload as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
            std::ptr::copy_nonoverlapping(
                raw.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(first),
                payload,
            );
        }
        let sent = libc::sendmsg(socket.as_fd().as_raw_fd(), &header, libc::MSG_NOSIGNAL);
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }
}

/// Has the kernel note when each message arrived ([`Message::realtime_usec`]).
///
/// # Errors
/// As `setsockopt`.
pub fn set_timestamp(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1)
}

/// The credentials of a connected unix socket's other end, taken when it connected.
///
/// # Errors
/// As `getsockopt`.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let mut cred = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel stores at most `len` bytes, the size of the structure.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut cred).cast(),
            &mut len,
        )
    })?;
    Ok(Credentials {
        pid: cred.pid,
        uid: cred.uid,
        gid: cred.gid,
    })
}

/// The supplementary groups of a connected unix socket's other end, taken when it connected.
///
/// # Errors
/// As `getsockopt`.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    // The kernel allows 65536 of them; it says how many there are when they do not fit.
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut len = libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        // SAFETY: the kernel stores at most `len` bytes, the size of the buffer.
        let result = check(unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut len,
            )
        });
        let count = len as usize / size_of::<u32>();
        match result {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sets a socket option that is an int, by its numbers.
///
/// # Errors
/// As `setsockopt`.
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: passes one int and its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(|_| ())
}

/// The option numbers that socket units need.
pub mod option {
    /// Level of generic options.
    pub const SOL_SOCKET: i32 = libc::SOL_SOCKET;
    /// Level of IPv4 options.
    pub const IPPROTO_IP: i32 = libc::IPPROTO_IP;
    /// Level of IPv6 options.
    pub const IPPROTO_IPV6: i32 = libc::IPPROTO_IPV6;
    /// Level of TCP options.
    pub const IPPROTO_TCP: i32 = libc::IPPROTO_TCP;
    /// Deliver senders' credentials.
    pub const SO_PASSCRED: i32 = libc::SO_PASSCRED;
    /// Deliver senders' security labels.
    pub const SO_PASSSEC: i32 = libc::SO_PASSSEC;
    /// Reuse local addresses.
    pub const SO_REUSEADDR: i32 = libc::SO_REUSEADDR;
    /// Share a port among sockets.
    pub const SO_REUSEPORT: i32 = libc::SO_REUSEPORT;
    /// Probe idle connections.
    pub const SO_KEEPALIVE: i32 = libc::SO_KEEPALIVE;
    /// Permit broadcasts.
    pub const SO_BROADCAST: i32 = libc::SO_BROADCAST;
    /// Receive buffer beyond the limit.
    pub const SO_RCVBUFFORCE: i32 = libc::SO_RCVBUFFORCE;
    /// Send buffer beyond the limit.
    pub const SO_SNDBUFFORCE: i32 = libc::SO_SNDBUFFORCE;
    /// Queueing priority.
    pub const SO_PRIORITY: i32 = libc::SO_PRIORITY;
    /// Netfilter mark.
    pub const SO_MARK: i32 = libc::SO_MARK;
    /// No IPv4 on an IPv6 socket.
    pub const IPV6_V6ONLY: i32 = libc::IPV6_V6ONLY;
    /// Bind addresses that are not there yet.
    pub const IP_FREEBIND: i32 = libc::IP_FREEBIND;
    /// Bind foreign addresses.
    pub const IP_TRANSPARENT: i32 = libc::IP_TRANSPARENT;
    /// Send small segments at once.
    pub const TCP_NODELAY: i32 = libc::TCP_NODELAY;
    /// Wake only when data came.
    pub const TCP_DEFER_ACCEPT: i32 = libc::TCP_DEFER_ACCEPT;
}

/// A non-blocking socket that receives the kernel's uevents.
///
/// # Errors
/// As `socket` and `bind`.
pub fn uevents() -> io::Result<OwnedFd> {
    // SAFETY: the address is a zeroed sockaddr_nl with family and group set; the descriptor is new.
    unsafe {
        let fd = check(libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            libc::NETLINK_KOBJECT_UEVENT,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd);
        // Coldplug answers come in one burst; a lost one would be a device unit that never appears.
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as _;
        address.nl_groups = 1;
        check(libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        ))?;
        Ok(fd)
    }
}

/// Brings up the loopback interface (the kernel then gives it 127.0.0.1 and ::1).
///
/// # Errors
/// As the ioctls.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is a zeroed ifreq with a short name; the ioctls read and write only it.
    unsafe {
        let fd = check(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(libc::ioctl(
            fd.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &mut request,
        ))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(
            fd.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &mut request,
        ))?;
    }
    Ok(())
}

/// Bytes waiting to be read (`FIONREAD`).
///
/// # Errors
/// As the ioctl.
pub fn pending(socket: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the ioctl stores one int.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD as _, &mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Device and inode of a descriptor: what `JOURNAL_STREAM=` carries for a socket to the journal.
///
/// # Errors
/// As `fstat`.
pub fn device_and_inode(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn credentials_and_descriptors_arrive_with_the_message() {
        let (a, b) = UnixDatagram::pair().unwrap();
        set_option(&b, option::SOL_SOCKET, option::SO_PASSCRED, 1).unwrap();
        let file = tempfile::tempfile().unwrap();
        send_with_fds(&a, b"READY=1", &[file.as_fd()]).unwrap();
        let mut buffer = [0; 64];
        let message = receive(&b, &mut buffer).unwrap();
        assert_eq!(&buffer[..message.len], b"READY=1");
        assert_eq!(message.fds.len(), 1);
        assert_eq!(message.credentials.unwrap().pid, std::process::id() as i32);
        assert_eq!(
            device_and_inode(&message.fds[0]).unwrap(),
            device_and_inode(&file).unwrap()
        );
        assert_eq!(
            receive(&b, &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn the_peers_groups_are_this_processes_own() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Groups:"))
            .unwrap();
        let own: Vec<u32> = line
            .split_whitespace()
            .map(|g| g.parse().unwrap())
            .collect();
        assert_eq!(peer_groups(&a).unwrap(), own);
    }

    #[test]
    fn a_long_message_is_marked_truncated() {
        let (a, b) = UnixDatagram::pair().unwrap();
        a.send(b"0123456789").unwrap();
        let mut buffer = [0; 4];
        let message = receive(&b, &mut buffer).unwrap();
        assert!(message.truncated);
        assert_eq!(message.len, 4);
    }
}
