//! Connections: output streams of services, and callers of the control socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::event::epoll;
use syscalls::socket::peer_credentials;

use super::core::{Core, Sender, Transport};
use super::native::ClientEntry;
use super::outbox::Message as Note;
use super::stream::{Look, Stream};
use super::varlink::{Call, Connection};
use super::{BATCH, Connected, Daemon, MAX_CONNECTIONS, lines, syslog, varlink};

impl Daemon {
    pub(super) fn accept_streams(&mut self) {
        for _ in 0..BATCH {
            match self.sockets.stdout.accept() {
                Ok((stream, _)) => self.add_stream(stream.into(), false),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    pub(super) fn add_stream(&mut self, fd: OwnedFd, from_store: bool) {
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::warn!("refused a stream, there are {MAX_CONNECTIONS} already");
            return;
        }
        match Stream::new(&self.root, fd, from_store) {
            Ok(stream) => {
                // Before anything is read: from here on the connection outlives us.
                if !from_store && let Ok(copy) = stream.fd.try_clone() {
                    self.outbox
                        .push(Note::Store(stream.stored_as.clone(), copy));
                }
                self.watch(Connected::Stream(stream));
            }
            Err(err) => tracing::warn!("failed to take a stream: {err}"),
        }
    }

    fn watch(&mut self, connected: Connected) {
        use epoll::EventFlags;
        let (fd, flags) = match &connected {
            // Edge-triggered: a line without its end stays in the socket and must not wake us again and again.
            Connected::Stream(stream) => (
                stream.fd.as_fd(),
                EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            ),
            Connected::Caller(caller) => (caller.stream.as_fd(), EventFlags::IN),
        };
        let token = self.next_token;
        match epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags) {
            Ok(()) => {
                self.next_token += 1;
                self.connections.insert(token, connected);
            }
            Err(err) => tracing::warn!("failed to wait for a connection: {err}"),
        }
    }

    /// Reads a stream for one turn.
    pub(super) fn stream_turn(&mut self, token: u64) {
        for _ in 0..BATCH {
            let Some(Connected::Stream(stream)) = self.connections.get_mut(&token) else {
                return;
            };
            match stream.look(&mut self.buffer) {
                Look::Idle => return,
                Look::Closed => return self.drop_stream(token),
                Look::Data(len, sender, rest) => {
                    let data = &self.buffer[..len];
                    let used = match &stream.header {
                        None => match stream.read_header(data, rest) {
                            Ok(used) => used,
                            Err(what) => {
                                tracing::warn!("closed a stream whose header {what}");
                                return self.drop_stream(token);
                            }
                        },
                        Some(_) => {
                            let core = &mut self.core;
                            let outcome = catch_unwind(AssertUnwindSafe(|| {
                                log_lines(core, stream, sender, data, rest)
                            }));
                            outcome.unwrap_or_else(|_| {
                                tracing::error!(
                                    length = len,
                                    "dropped lines that could not be handled"
                                );
                                len
                            })
                        }
                    };
                    if used == 0 {
                        return;
                    }
                    stream.take(used, &mut self.scratch);
                }
            }
        }
        self.ready.push_back(token);
    }

    fn drop_stream(&mut self, token: u64) {
        if let Some(Connected::Stream(stream)) = self.connections.remove(&token) {
            stream.forget();
            self.outbox.push(Note::Remove(stream.stored_as));
        }
    }

    pub(super) fn accept_callers(&mut self) {
        let Some(varlink) = &self.sockets.varlink else {
            return;
        };
        if let Ok((stream, _)) = varlink.accept()
            && let Ok(caller) = Connection::new(stream)
        {
            self.watch(Connected::Caller(caller));
        }
    }

    pub(super) fn caller_turn(&mut self, token: u64) {
        let Some(Connected::Caller(mut caller)) = self.connections.remove(&token) else {
            return;
        };
        let open = caller.fill();
        let root = peer_credentials(&caller.stream).is_ok_and(|c| c.uid == 0);
        let mut answered = true;
        while let Some(request) = caller.next_request() {
            let (reply, oneway) = match varlink::parse(&request) {
                Err(reply) => (reply, false),
                Ok((_, oneway)) if !root => (varlink::denied(), oneway),
                Ok((call, oneway)) => match self.call(call) {
                    Ok(()) => (varlink::done(call), oneway),
                    Err(err) => (varlink::failed(&telemetry::chain(&err)), oneway),
                },
            };
            answered &= oneway || caller.reply(&reply).is_ok();
        }
        if open && answered {
            self.connections.insert(token, Connected::Caller(caller));
        }
    }

    /// Does what a caller or a signal asks for.
    pub(super) fn call(&mut self, call: Call) -> Result<(), journal::StoreError> {
        let outcome = match call {
            Call::GetInfo => Ok(()),
            Call::FlushToVar => self.core.storage.flush_to_var().map(|on_disk| {
                let place = self.core.storage.place();
                let text = match on_disk {
                    true => format!("Journal is written to {place}"),
                    false => format!("Journal stays in memory, {place}: there is no disk for it"),
                };
                self.core
                    .driver(6, "ec387f577b844b8fa948f33cad9a75e6", &text, &[]);
                self.outbox.push(Note::Status(text));
            }),
            Call::RelinquishVar => self.core.storage.relinquish_var(),
            Call::Rotate => self.core.storage.rotate(),
            Call::Synchronize => {
                self.drain();
                self.core.storage.sync()
            }
        };
        outcome.inspect_err(|err| self.core.complain(err))
    }
}

/// Stores the lines in `data`; gives the bytes used.
fn log_lines(
    core: &mut Core,
    stream: &Stream,
    credentials: syscalls::socket::Credentials,
    data: &[u8],
    rest: Option<lines::Break>,
) -> usize {
    let Some(header) = &stream.header else {
        return 0;
    };
    let (lines, used) = lines::split(data, rest);
    let unit = (stream.trusted && !header.unit.is_empty()).then_some(header.unit.as_str());
    let sender = Sender {
        transport: Transport::Stdout,
        credentials: Some(credentials),
        unit,
    };
    for (line, how) in lines {
        let (priority, line) = match syslog::priority(line).filter(|_| header.level_prefix) {
            // A level without a facility keeps the stream's.
            Some((value, rest)) if value < 8 => (header.priority & !7 | value, rest),
            Some((value, rest)) => (value, rest),
            None => (header.priority, line),
        };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let level = (priority & 7) as u8;
        let mut entry = ClientEntry {
            priority: Some(level),
            ..ClientEntry::default()
        };
        let mut add = |name: &str, value: &[u8]| {
            entry.fields.push([name.as_bytes(), b"=", value].concat());
        };
        add("PRIORITY", level.to_string().as_bytes());
        add("SYSLOG_FACILITY", (priority >> 3).to_string().as_bytes());
        if !header.identifier.is_empty() {
            add("SYSLOG_IDENTIFIER", header.identifier.as_bytes());
        }
        add("_STREAM_ID", stream.id.as_bytes());
        if let Some(how) = how.field() {
            add("_LINE_BREAK", how.as_bytes());
        }
        add("MESSAGE", line);
        core.log(sender, entry);
        if header.to_console {
            core.write_console(&header.identifier, credentials.pid, line);
        }
        if header.to_kmsg {
            core.write_kmsg(level, &header.identifier, credentials.pid, line);
        }
    }
    used
}
