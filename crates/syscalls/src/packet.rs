//! Raw sockets on one network link, for programs that talk before the link has an address (DHCP, ARP).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::check;

/// One instruction of a classic socket filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// Instructions to skip if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A non-blocking socket that sends and receives whole Ethernet frames of one protocol (host byte order) on the link
/// with this index. The filter is in force before the first frame can arrive.
///
/// # Errors
/// As `socket`, `setsockopt` and `bind`; `EINVAL` for a program that is too long.
pub fn ethernet(index: u32, protocol: u16, filter: &[Filter]) -> io::Result<OwnedFd> {
    // SAFETY: the address is a zeroed sockaddr_ll with its fields set; the descriptor is new. Protocol 0 receives
    // nothing until bind.
    unsafe {
        let fd = check(libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd);
        if !filter.is_empty() {
            attach_filter(&fd, filter)?;
        }
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as _;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index.cast_signed();
        check(libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        ))?;
        Ok(fd)
    }
}

fn attach_filter(fd: impl AsFd, filter: &[Filter]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|f| libc::sock_filter {
            code: f.code,
            jt: f.jt,
            jf: f.jf,
            k: f.k,
        })
        .collect();
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let header = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the header points to `len` instructions that live until the call has copied them.
    unsafe {
        check(libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&header).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        ))?;
    }
    Ok(())
}
