//! Sockets to the kernel's routing netlink: one that asks and waits for the answer, one that listens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with, sockopt,
};

use super::wire::{self, Message, Request, messages};

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made.
    #[error("failed to open a netlink socket")]
    Open(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("failed to talk to the kernel over netlink")]
    Transport(#[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
}

impl NetlinkError {
    /// Whether the kernel refused with this error.
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(e) if e.raw_os_error() == Some(errno.raw_os_error()))
    }
}

fn open(groups: u32, flags: SocketFlags) -> Result<OwnedFd, NetlinkError> {
    let fail = |e: Errno| NetlinkError::Open(e.into());
    let fd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | flags,
        // NETLINK_ROUTE is 0.
        None,
    )
    .map_err(fail)?;
    bind(&fd, &netlink::SocketAddrNetlink::new(0, groups)).map_err(fail)?;
    Ok(fd)
}

/// Sends requests and waits for their answers.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Handle {
    /// Opens the socket in the caller's network namespace.
    pub fn new() -> Result<Self, NetlinkError> {
        Ok(Self {
            fd: open(0, SocketFlags::empty())?,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Performs one change.
    pub fn request(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.exchange(request, |_| {})
    }

    /// Lists objects: `take` sees every message of the list.
    pub fn dump(
        &mut self,
        request: &Request,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        self.exchange(request.clone(), &mut take)
    }

    fn exchange(
        &mut self,
        request: Request,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let transport = |e: Errno| NetlinkError::Transport(e.into());
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let sequence = self.sequence;
        rustix::io::retry_on_intr(|| {
            send(
                &self.fd,
                &request.clone().finish(sequence),
                SendFlags::empty(),
            )
        })
        .map_err(transport)?;
        loop {
            let (_, len) = rustix::io::retry_on_intr(|| {
                recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC)
            })
            .map_err(transport)?;
            if len > self.buffer.len() {
                return Err(NetlinkError::Transport(io::Error::other(
                    "answer longer than the buffer",
                )));
            }
            for message in messages(&self.buffer[..len]).filter(|m| m.sequence == sequence) {
                match message.kind {
                    wire::NLMSG_DONE => return Ok(()),
                    wire::NLMSG_ERROR => {
                        let code = wire::read_u32(message.body, 0).map_or(0, u32::cast_signed);
                        return match code {
                            0 => Ok(()),
                            code => Err(NetlinkError::Refused(io::Error::from_raw_os_error(-code))),
                        };
                    }
                    _ => take(message),
                }
            }
        }
    }
}

/// Listens to what changes.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// Multicast groups as bits of the socket's address.
pub mod groups {
    /// Links.
    pub const LINK: u32 = 0x1;
    /// IPv4 addresses.
    pub const IPV4_ADDRESS: u32 = 0x10;
    /// IPv4 routes.
    pub const IPV4_ROUTE: u32 = 0x40;
    /// IPv6 addresses.
    pub const IPV6_ADDRESS: u32 = 0x100;
    /// IPv6 routes.
    pub const IPV6_ROUTE: u32 = 0x400;
}

impl Monitor {
    /// Opens the socket and subscribes to `groups`.
    pub fn new(groups: u32) -> Result<Self, NetlinkError> {
        let fd = open(groups, SocketFlags::NONBLOCK)?;
        // A burst of new container devices must not make us lose events; failing is harmless, losing is noticed.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, 4 * 1024 * 1024);
        Ok(Self {
            fd,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Hands out all waiting messages. `false` means that some were lost and the caller must list everything anew.
    pub fn drain(&mut self, mut take: impl FnMut(Message<'_>)) -> Result<bool, NetlinkError> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, len)) if len > self.buffer.len() => return Ok(false),
                Ok((_, len)) => messages(&self.buffer[..len]).for_each(&mut take),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(false),
                Err(e) => return Err(NetlinkError::Transport(e.into())),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
