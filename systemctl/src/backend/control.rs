//! PID 1's control socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use dbus_api::snapshot::{self, Usage};
use dbus_api::systemd1::Process;
use init_control::frame::{self, Assembler};
use init_control::{
    ClientFrame, Reply, Request, ServerFrame, Signal, SubscribeLevel, UnitSnapshot,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Backend, Failure, Ordered};

const CGROUPS: &str = "/sys/fs/cgroup";

/// A connection to PID 1.
#[derive(Debug)]
pub(super) struct ControlBackend {
    socket: OwnedFd,
    assembler: Assembler,
    buffer: Vec<u8>,
    signals: VecDeque<Signal>,
    next_id: u32,
    watches: bool,
}

fn open() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(init_control::SOCKET_PATH)?)?;
    Ok(socket)
}

fn lost(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Unreachable(format!("failed to {what} PID 1: {error}"))
}

impl ControlBackend {
    pub(super) fn connect() -> Result<Self, Failure> {
        let socket = open().map_err(|error| lost("connect to", &error))?;
        Ok(Self {
            socket,
            assembler: Assembler::new(),
            buffer: vec![0; frame::MAX_PACKET],
            signals: VecDeque::new(),
            next_id: 0,
            watches: false,
        })
    }

    fn send(&mut self, request: Request) -> Result<u32, Failure> {
        self.next_id += 1;
        let frame = ClientFrame {
            id: self.next_id,
            request,
        };
        for packet in frame::encode(&frame).map_err(|error| lost("ask", &error))? {
            loop {
                match rustix::net::send(&self.socket, &packet, SendFlags::NOSIGNAL) {
                    Ok(_) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(lost("ask", &error)),
                }
            }
        }
        Ok(self.next_id)
    }

    /// The next frame; none when PID 1 closes the connection.
    fn receive(&mut self) -> Result<Option<ServerFrame>, Failure> {
        loop {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
                Ok((count, _)) => {
                    let frame = self
                        .assembler
                        .push(&self.buffer[..count])
                        .map_err(|error| lost("understand", &error))?;
                    if frame.is_some() {
                        return Ok(frame);
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(lost("hear", &error)),
            }
        }
    }

    fn snapshot(&mut self, unit: &str) -> Result<UnitSnapshot, Failure> {
        match self.ask(Request::UnitSnapshot {
            name: unit.to_owned(),
        })? {
            Reply::Unit(unit) => Ok(*unit),
            _ => Err(Failure::unexpected()),
        }
    }

    /// PID 1 was executed anew while we waited: its jobs are kept. True when the job is still there.
    fn resume(&mut self, job: u32) -> Result<bool, Failure> {
        let fresh = Self::connect()?;
        *self = Self {
            next_id: self.next_id,
            ..fresh
        };
        self.watch_jobs()?;
        match self.ask(Request::ListJobs)? {
            Reply::Jobs(jobs) => Ok(jobs.iter().any(|entry| entry.id == job)),
            _ => Err(Failure::unexpected()),
        }
    }
}

impl Backend for ControlBackend {
    fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let may_close = matches!(request, Request::Reexec | Request::Power { .. });
        let asked = self.send(request)?;
        loop {
            match self.receive()? {
                Some(ServerFrame::Reply { id, result }) if id == asked => return Ok(result?),
                Some(ServerFrame::Reply { .. }) => {}
                Some(ServerFrame::Signal(signal)) => self.signals.push_back(signal),
                None if may_close => return Ok(Reply::Done),
                None => {
                    return Err(Failure::Unreachable(
                        "PID 1 closed the connection".to_owned(),
                    ));
                }
            }
        }
    }

    fn properties(&mut self, unit: &str) -> Result<Ordered, Failure> {
        let unit = self.snapshot(unit)?;
        let usage = Usage::read(Path::new(CGROUPS), &unit);
        let interfaces = snapshot::unit_interfaces(&unit, &usage);
        Ok(interfaces
            .into_iter()
            .flat_map(|i| i.properties)
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    fn manager(&mut self) -> Result<Ordered, Failure> {
        match self.ask(Request::ManagerSnapshot)? {
            Reply::Manager(manager) => Ok(snapshot::manager_properties(&manager)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
            _ => Err(Failure::unexpected()),
        }
    }

    fn processes(&mut self, unit: &str) -> Result<Vec<Process>, Failure> {
        let unit = self.snapshot(unit)?;
        let group = unit.cgroup.map(|group| group.path).unwrap_or_default();
        Ok(snapshot::processes(Path::new(CGROUPS), &group))
    }

    fn watch_jobs(&mut self) -> Result<(), Failure> {
        if !self.watches {
            self.ask(Request::Subscribe {
                level: SubscribeLevel::Jobs,
            })?;
            self.watches = true;
        }
        Ok(())
    }

    fn wait_job(&mut self, job: u32, _unit: &str) -> Result<String, Failure> {
        loop {
            while let Some(signal) = self.signals.pop_front() {
                match signal {
                    Signal::JobRemoved { id, result, .. } if id == job => return Ok(result),
                    _ => {}
                }
            }
            match self.receive()? {
                Some(ServerFrame::Signal(signal)) => self.signals.push_back(signal),
                Some(ServerFrame::Reply { .. }) => {}
                None => {
                    if !self.resume(job)? {
                        return Ok("done".to_owned());
                    }
                }
            }
        }
    }
}
