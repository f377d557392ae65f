//! Entries that come as datagrams, of the native and of the syslog socket.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use syscalls::socket::Message;

use super::core::{Core, Sender, Transport};
use super::native::ClientEntry;
use super::{ENTRY_MAX, native, syslog};

pub(super) fn log_native(core: &mut Core, message: &Message, data: &[u8]) {
    let sender = Sender {
        transport: Transport::Journal,
        credentials: message.credentials,
        unit: None,
    };
    let from_file;
    let data = match &message.fds[..] {
        [] => data,
        // An empty datagram with one file: the entry is in there.
        [fd] if data.is_empty() => match read_file(fd) {
            Ok(bytes) => {
                from_file = bytes;
                &from_file
            }
            Err(what) => {
                tracing::warn!("ignored an entry in a file: {what}");
                return;
            }
        },
        _ => {
            tracing::warn!("ignored a datagram with {} descriptors", message.fds.len());
            return;
        }
    };
    for mut entry in native::parse(data) {
        entry.fields.extend(sent_at(message));
        core.log(sender, entry);
    }
}

/// When the kernel took the message from its sender, as a field.
fn sent_at(message: &Message) -> Option<Vec<u8>> {
    let usec = message.realtime_usec?;
    Some(format!("_SOURCE_REALTIME_TIMESTAMP={usec}").into_bytes())
}

/// Reads an entry that was sent as a file: memory or a local disk, where reading cannot be made to wait.
fn read_file(fd: &OwnedFd) -> Result<Vec<u8>, String> {
    const LOCAL: [i64; 4] = [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e];
    let stat = rustix::fs::fstat(fd).map_err(|err| err.to_string())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err("it is not a regular file".to_owned());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > ENTRY_MAX {
        return Err(format!("it has {size} bytes"));
    }
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let kind = rustix::fs::fstatfs(fd)
        .map_err(|err| err.to_string())?
        .f_type as i64;
    if !LOCAL.contains(&kind) {
        return Err(format!("it is on a file system of kind {kind:#x}"));
    }
    let copy = fd.try_clone().map_err(|err| err.to_string())?;
    let mut file = File::from(copy);
    let mut bytes = Vec::with_capacity(size as usize);
    io::Seek::rewind(&mut file).map_err(|err| err.to_string())?;
    file.take(ENTRY_MAX)
        .read_to_end(&mut bytes)
        .map_err(|err| err.to_string())?;
    Ok(bytes)
}

pub(super) fn log_syslog(core: &mut Core, message: &Message, data: &[u8]) {
    // Some senders end a message with a NUL.
    let data = data.strip_suffix(&[0]).unwrap_or(data);
    let parts = syslog::parse(data);
    if parts.text.is_empty() {
        return;
    }
    let mut entry = ClientEntry {
        priority: Some(parts.priority),
        ..ClientEntry::default()
    };
    let mut add = |name: &str, value: &[u8]| {
        entry.fields.push([name.as_bytes(), b"=", value].concat());
    };
    add("PRIORITY", parts.priority.to_string().as_bytes());
    if let Some(facility) = parts.facility {
        add("SYSLOG_FACILITY", facility.to_string().as_bytes());
    }
    for (name, value) in [
        ("SYSLOG_IDENTIFIER", parts.identifier),
        ("SYSLOG_PID", parts.pid),
        ("SYSLOG_TIMESTAMP", parts.timestamp),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    add("MESSAGE", parts.text);
    entry.fields.extend(sent_at(message));
    let sender = Sender {
        transport: Transport::Syslog,
        credentials: message.credentials,
        unit: None,
    };
    core.log(sender, entry);
}
