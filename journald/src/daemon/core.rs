//! What every kind of input ends in: trusted fields, rate limit, storing, forwarding.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use journal::{Id128, Stamp, StoreError};
use syscalls::socket::Credentials;

use super::config::Config;
use super::context::Contexts;
use super::native::ClientEntry;
use super::rate::{RateLimit, Verdict};
use super::storage::Storage;

/// Failures of storing are told at most this often (microseconds).
const COMPLAIN_EVERY: u64 = 30_000_000;
/// Messages of this priority and worse are brought to disk at once.
const CRITICAL: u8 = 2;
/// Lines forwarded to the kernel's log that are remembered, so that reading it does not store them twice.
const FORWARDED_KEPT: usize = 64;

/// How an entry arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Journal,
    Syslog,
    Stdout,
    Kernel,
    Driver,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Syslog => "syslog",
            Self::Stdout => "stdout",
            Self::Kernel => "kernel",
            Self::Driver => "driver",
        }
    }
}

/// Who an entry is from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) transport: Transport,
    pub(crate) credentials: Option<Credentials>,
    /// The unit that the one who set up the connection named, used where the process is gone.
    pub(crate) unit: Option<&'a str>,
}

/// The part of journald that is not input.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) storage: Storage,
    contexts: Contexts,
    rate: RateLimit,
    max_level: u8,
    machine_id: Id128,
    boot_id: Id128,
    complained: Option<u64>,
    console: Option<File>,
    kmsg: Option<File>,
    forwarded: VecDeque<Vec<u8>>,
}

impl Core {
    pub(crate) fn new(root: &Path, config: Config) -> Result<Self, StoreError> {
        let id = |what, found: io::Result<Id128>| {
            found.unwrap_or_else(|err| {
                tracing::warn!("using zeros as {what}: {err}");
                Id128::default()
            })
        };
        let machine_id = id("machine identifier", Id128::machine());
        let rate = RateLimit::new(config.rate_interval, config.rate_burst);
        let max_level = config.max_level_store;
        Ok(Self {
            storage: Storage::open(root, config, machine_id)?,
            contexts: Contexts::default(),
            rate,
            max_level,
            machine_id,
            boot_id: id("boot identifier", Id128::boot()),
            complained: None,
            console: None,
            kmsg: None,
            forwarded: VecDeque::new(),
        })
    }

    /// The steady clock, microseconds.
    pub(crate) fn now(&self) -> u64 {
        Stamp::now(self.boot_id).monotonic
    }

    /// Stores one entry with what is known of its sender.
    pub(crate) fn log(&mut self, sender: Sender<'_>, entry: ClientEntry) {
        let stamp = Stamp::now(self.boot_id);
        let priority = entry.priority.unwrap_or(6);
        if priority > self.max_level {
            return;
        }
        let mut fields = entry.fields;
        let mut group = String::new();
        if let Some(credentials) = sender.credentials {
            let context = self.contexts.get(credentials, stamp.monotonic);
            fields.extend(context.fields.iter().cloned());
            group.clone_from(&context.group);
            if let (None, Some(unit)) = (&context.unit, sender.unit.filter(|u| !u.is_empty())) {
                fields.push(format!("_SYSTEMD_UNIT={unit}").into_bytes());
                unit.clone_into(&mut group);
            }
        }
        if !matches!(sender.transport, Transport::Kernel | Transport::Driver) {
            match self.rate.count(&group, stamp.monotonic) {
                Verdict::Drop => return,
                Verdict::Keep { suppressed: 0 } => {}
                Verdict::Keep { suppressed } => self.driver(
                    4,
                    "a596d6fe7bfa4994828e72309e95d61e",
                    &format!("Suppressed {suppressed} messages from {group}"),
                    &[format!("N_DROPPED={suppressed}"), format!("UNIT={group}")],
                ),
            }
        }
        self.store(stamp, sender.transport, fields);
        if priority <= CRITICAL
            && let Err(err) = self.storage.flush_now()
        {
            self.complain(&err);
        }
    }

    /// An entry of journald's own.
    pub(crate) fn driver(&mut self, priority: u8, message_id: &str, text: &str, more: &[String]) {
        let pid = std::process::id();
        let mut fields: Vec<Vec<u8>> = [
            format!("MESSAGE={text}"),
            format!("PRIORITY={priority}"),
            format!("MESSAGE_ID={message_id}"),
            "SYSLOG_IDENTIFIER=systemd-journald".to_owned(),
            "SYSLOG_FACILITY=3".to_owned(),
        ]
        .into_iter()
        .chain(more.iter().cloned())
        .map(String::into_bytes)
        .collect();
        let stamp = Stamp::now(self.boot_id);
        let own = Credentials {
            pid: pid as i32,
            uid: 0,
            gid: 0,
        };
        fields.extend(
            self.contexts
                .get(own, stamp.monotonic)
                .fields
                .iter()
                .cloned(),
        );
        self.store(stamp, Transport::Driver, fields);
    }

    fn store(&mut self, stamp: Stamp, transport: Transport, mut fields: Vec<Vec<u8>>) {
        let host = rustix::system::uname();
        fields.push([b"_HOSTNAME=", host.nodename().to_bytes()].concat());
        for field in [
            format!("_TRANSPORT={}", transport.name()),
            format!("_BOOT_ID={}", self.boot_id),
            format!("_MACHINE_ID={}", self.machine_id),
            "_RUNTIME_SCOPE=system".to_owned(),
        ] {
            fields.push(field.into_bytes());
        }
        if let Err(err) = self.storage.append(stamp, &fields) {
            self.complain(&err);
        }
    }

    /// Tells of a failure of storing, which the journal itself cannot be told: on standard error, not too often (the
    /// manager connects that to the kernel's log, which journald reads).
    pub(crate) fn complain(&mut self, err: &StoreError) {
        let now = self.now();
        if self
            .complained
            .is_none_or(|last| now.saturating_sub(last) >= COMPLAIN_EVERY)
        {
            self.complained = Some(now);
            tracing::error!("{}", telemetry::chain(err));
        }
    }

    /// Writes a line to the console, for units with `StandardOutput=journal+console`. A console that does not take it at once goes without.
    pub(crate) fn write_console(&mut self, identifier: &str, pid: i32, text: &[u8]) {
        if self.console.is_none() {
            use std::os::unix::fs::OpenOptionsExt as _;
            let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits() as i32;
            self.console = File::options()
                .write(true)
                .custom_flags(flags)
                .open("/dev/console")
                .ok();
        }
        if let Some(console) = &mut self.console {
            let line = [format!("{identifier}[{pid}]: ").as_bytes(), text, b"\r\n"].concat();
            if console.write_all(&line).is_err() {
                // A console that was hung up must be opened anew.
                self.console = None;
            }
        }
    }

    /// Writes a line to the kernel's log, for units with `StandardOutput=kmsg`.
    pub(crate) fn write_kmsg(&mut self, priority: u8, identifier: &str, pid: i32, text: &[u8]) {
        if self.kmsg.is_none() {
            self.kmsg = File::options().write(true).open("/dev/kmsg").ok();
        }
        let mut line = [format!("{identifier}[{pid}]: ").as_bytes(), text].concat();
        line.truncate(900);
        let record = [format!("<{}>", 3 << 3 | priority).as_bytes(), &line, b"\n"].concat();
        if let Some(kmsg) = &mut self.kmsg
            && kmsg.write_all(&record).is_ok()
        {
            if self.forwarded.len() >= FORWARDED_KEPT {
                self.forwarded.pop_front();
            }
            self.forwarded.push_back(line);
        }
    }

    /// Whether this kernel record is a line that [`Core::write_kmsg`] wrote.
    pub(crate) fn was_forwarded(&mut self, text: &[u8]) -> bool {
        match self.forwarded.iter().position(|line| line == text) {
            Some(at) => {
                self.forwarded.remove(at);
                true
            }
            None => false,
        }
    }
}
