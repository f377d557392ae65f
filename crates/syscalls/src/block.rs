//! Block devices: sizes, re-reading and resizing partitions, loop devices, online growth of ext4.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

const BLKRRPART: libc::c_ulong = 0x125F;
const BLKFLSBUF: libc::c_ulong = 0x1261;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPG: libc::c_ulong = 0x1269;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
const EXT4_IOC_SETFSUUID: libc::c_ulong = 0x4008_662C;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;

const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Size of a block device in bytes.
///
/// # Errors
/// `ENOTTY` if it is no block device.
pub fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: BLKGETSIZE64 stores one u64.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &mut bytes) })?;
    Ok(bytes)
}

/// Logical sector size of a block device in bytes.
///
/// # Errors
/// `ENOTTY` if it is no block device.
pub fn sector_size(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET stores one int.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET as _, &mut bytes) })?;
    u32::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Makes the kernel read the partition table anew.
///
/// # Errors
/// `EBUSY` while a partition is in use.
pub fn reread_partitions(disk: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART as _) }).map(|_| ())
}

/// Writes out and drops the device's buffers.
///
/// # Errors
/// As the ioctl.
pub fn flush_buffers(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF as _) }).map(|_| ())
}

/// Tells the kernel the new length of partition `number` (1-based), in use or not. Positions in bytes.
///
/// # Errors
/// `ENXIO` for an unknown partition, `EBUSY` if it would overlap another.
pub fn resize_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(invalid)?,
        length: i64::try_from(length).map_err(invalid)?,
        number: i32::try_from(number).map_err(invalid)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let mut argument = BlkpgArgument {
        op: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>() as libc::c_int,
        data: &mut partition,
    };
    // SAFETY: both structures are laid out as the kernel's, and live during the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &mut argument) }).map(|_| ())
}

/// Grows a mounted ext4 to this number of blocks (of the file system's own block size).
///
/// # Errors
/// As the file system says.
pub fn ext4_resize(mount_point: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads one u64.
    check(unsafe { libc::ioctl(mount_point.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &blocks) })
        .map(|_| ())
}

/// Gives a mounted ext4 another UUID (big-endian order, as it is printed).
///
/// # Errors
/// `EOPNOTSUPP` on old kernels or without the feature `metadata_csum_seed`.
pub fn ext4_set_uuid(mount_point: BorrowedFd<'_>, uuid: [u8; 16]) -> io::Result<()> {
    #[repr(C)]
    struct Argument {
        len: u32,
        flags: u32,
        uuid: [u8; 16],
    }
    let argument = Argument {
        len: 16,
        flags: 0,
        uuid,
    };
    // SAFETY: a `struct fsuuid` with as many bytes behind it as it says.
    check(unsafe { libc::ioctl(mount_point.as_raw_fd(), EXT4_IOC_SETFSUUID as _, &argument) })
        .map(|_| ())
}

/// Number of a free loop device, from an open `/dev/loop-control`.
///
/// # Errors
/// As the ioctl.
pub fn loop_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: takes no argument.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
    u32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Binds a loop device to a file, read-only if asked; it frees itself at its last close.
///
/// # Errors
/// `EBUSY` if the loop device was taken meanwhile.
pub fn loop_bind(device: BorrowedFd<'_>, file: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let mut config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        info: LoopInfo {
            head: [0; 5],
            numbers: [0; 3],
            flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the structure is laid out as the kernel's `struct loop_config`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &mut config) }).map(|_| ())
}

/// Detaches a loop device.
///
/// # Errors
/// `ENXIO` if nothing is attached.
pub fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _) }).map(|_| ())
}

#[repr(C)]
struct BlkpgArgument {
    op: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

#[repr(C)]
struct LoopInfo {
    head: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);
