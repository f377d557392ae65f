//! Reading the kernel's log, each record once per boot.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::core::{Core, Sender, Transport};
use super::kmsg;
use super::native::ClientEntry;
use super::sockets::DIR;
use super::syslog;

/// Records taken at a time before other input gets its turn.
const BATCH: usize = 64;

/// `/dev/kmsg` and the number of the last record that was stored.
#[derive(Debug)]
pub(crate) struct KernelLog {
    device: File,
    last: Option<File>,
    /// The next number to store.
    next: u64,
}

impl KernelLog {
    /// Opens the log; `None` where there is none (in a container).
    pub(crate) fn open(root: &Path) -> Option<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let device = File::options()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg")
            .ok()?;
        let path = root.join(DIR).join("kernel-seqnum");
        let last = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .ok();
        let mut bytes = [0; 8];
        let known = last
            .as_ref()
            .is_some_and(|f| f.read_exact_at(&mut bytes, 0).is_ok());
        Some(Self {
            device,
            last,
            next: if known { u64::from_le_bytes(bytes) } else { 0 },
        })
    }

    /// Stores what is there. `false` when the log cannot be read any more.
    pub(crate) fn read(&mut self, core: &mut Core) -> bool {
        let mut buffer = [0u8; 8192];
        for _ in 0..BATCH {
            match self.device.read(&mut buffer) {
                Ok(0) => return true,
                Ok(len) => self.record(core, &buffer[..len]),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return true,
                // Records were overwritten before they were read; the numbers show how many.
                Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn record(&mut self, core: &mut Core, data: &[u8]) {
        let Some(record) = kmsg::parse(data) else {
            return;
        };
        if record.seqnum < self.next {
            return;
        }
        if self.next > 0 && record.seqnum > self.next {
            let missed = record.seqnum - self.next;
            core.driver(
                4,
                "e9bf28e6e834481bb6f48f548ad13606",
                &format!("Missed {missed} kernel messages"),
                &[format!("N_MISSED={missed}")],
            );
        }
        self.next = record.seqnum + 1;
        if !core.was_forwarded(&record.text) {
            let sender = Sender {
                transport: Transport::Kernel,
                credentials: None,
                unit: None,
            };
            core.log(sender, entry(&record));
        }
        if let Some(file) = &self.last {
            // Losing the number means storing records twice after a restart, nothing worse.
            let _ = file.write_all_at(&self.next.to_le_bytes(), 0);
        }
    }
}

/// The fields of a record. What a program wrote there is taken apart as a syslog message is.
fn entry(record: &kmsg::Record) -> ClientEntry {
    let mut fields: Vec<Vec<u8>> = vec![
        format!("PRIORITY={}", record.priority).into_bytes(),
        format!("SYSLOG_FACILITY={}", record.facility).into_bytes(),
        format!("_SOURCE_MONOTONIC_TIMESTAMP={}", record.usec).into_bytes(),
    ];
    let mut add = |name: &str, value: &[u8]| fields.push([name.as_bytes(), b"=", value].concat());
    if record.facility == 0 {
        add("SYSLOG_IDENTIFIER", b"kernel");
        add("MESSAGE", &record.text);
    } else {
        let (identifier, pid, text) = syslog::tag(&record.text);
        if let Some(identifier) = identifier {
            add("SYSLOG_IDENTIFIER", identifier);
        }
        if let Some(pid) = pid {
            add("SYSLOG_PID", pid);
        }
        add("MESSAGE", text);
    }
    for (key, value) in &record.fields {
        match key.as_str() {
            "SUBSYSTEM" => add("_KERNEL_SUBSYSTEM", value.as_bytes()),
            "DEVICE" => add("_KERNEL_DEVICE", value.as_bytes()),
            _ => {}
        }
    }
    ClientEntry {
        fields,
        priority: Some(record.priority),
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
