//! Starting processes: the executor for units, helpers for devices.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use syscalls::spawn::ExecPlan;
use unit_engine::Event;
use unit_engine::api::SpawnSpec;

use super::poll::Source;
use super::{Helper, Manager};
use crate::devices::Uevent;
use crate::executor::{FIRST_FD, ORDER_FD, Order, REPORT_FD};
use crate::log::{self, Level};

const SELF: &std::ffi::CStr = c"/proc/self/exe";
/// The unit that gets the listening sockets of the buses, and the names they have there.
const BUS_UNIT: &str = "unit-busd.service";
pub(crate) const BUS_SOCKETS: [(&str, &str); 2] = [
    ("/run/systemd/private", "private"),
    ("/run/dbus/system_bus_socket", "system_bus"),
];

impl Manager {
    /// Starts a process of a unit; what came of it is queued for the engine.
    pub(super) fn launch(&mut self, spec: &SpawnSpec) {
        let event = match self.try_launch(spec) {
            Ok(pid) => Event::Spawned { id: spec.id, pid },
            Err(error) => Event::SpawnFailed {
                id: spec.id,
                message: log::chain(&error),
            },
        };
        self.queue.push_back(event);
    }

    fn try_launch(&mut self, spec: &SpawnSpec) -> Result<u32, LaunchError> {
        let mut spec = std::borrow::Cow::Borrowed(spec);
        let mut fds = Vec::new();
        for passed in &spec.fds {
            let held = self
                .fds
                .get(&passed.token)
                .ok_or(LaunchError::NoDescriptor)?;
            fds.push(
                held.fd
                    .try_clone()
                    .map_err(LaunchError::step("copy a descriptor"))?,
            );
        }
        if spec.unit.as_str() == BUS_UNIT {
            self.add_bus_sockets(spec.to_mut(), &mut fds)?;
        }
        if let Some(token) = &spec.stdio_socket {
            let held = self.fds.get(token).ok_or(LaunchError::NoDescriptor)?;
            fds.push(
                held.fd
                    .try_clone()
                    .map_err(LaunchError::step("copy a descriptor"))?,
            );
        }
        let order = Order::new(&spec, &self.private_tmp_key)
            .encode()
            .map_err(|_| LaunchError::NoDescriptor)?;
        let memory = order_file(&order).map_err(LaunchError::step("write the order"))?;
        let cgroup = self.birth_cgroup(&spec)?;
        // The name that `ps` shows until the program itself runs.
        let title = CString::new(format!("({})", spec.unit.stem())).unwrap_or_default();
        let mut plan = ExecPlan::new(SELF, vec![title, c"--executor".to_owned()], Vec::new())
            .fd(memory, ORDER_FD)
            .report_at(REPORT_FD)
            .cgroup(cgroup);
        for (fd, number) in fds.into_iter().zip(FIRST_FD..) {
            plan = plan.fd(fd, number);
        }
        let child = plan.spawn().map_err(LaunchError::step("start a process"))?;
        self.poll
            .add_read(&child.report, Source::Report(spec.id))
            .map_err(|e| LaunchError::step("watch the report")(e.into()))?;
        self.reports.insert(spec.id, child.report);
        Ok(child.pid as u32)
    }

    fn birth_cgroup(&self, spec: &SpawnSpec) -> Result<OwnedFd, LaunchError> {
        let group = match &spec.subgroup {
            Some(sub) => format!(
                "{}/{}",
                spec.cgroup.trim_end_matches('/'),
                sub.trim_matches('/')
            ),
            None => spec.cgroup.clone(),
        };
        let tree = &self.system.cgroups;
        if !tree.exists(&group) {
            tree.create(&group)?;
        }
        Ok(tree.open(&group)?)
    }

    /// The bus sockets are bound by PID 1 before any unit, so that unit-busd can restart unnoticed.
    fn add_bus_sockets(
        &self,
        spec: &mut SpawnSpec,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), LaunchError> {
        let mut names: Vec<String> = spec.fds.iter().map(|f| f.name.clone()).collect();
        for (path, name) in BUS_SOCKETS {
            if let Some(fd) = self
                .held
                .get(path)
                .filter(|_| !names.iter().any(|n| n == name))
            {
                fds.push(
                    fd.try_clone()
                        .map_err(LaunchError::step("copy a descriptor"))?,
                );
                names.push(name.to_owned());
                spec.fds.push(unit_engine::api::PassedFd {
                    name: name.to_owned(),
                    token: unit_engine::FdToken(0),
                });
            }
        }
        spec.environment
            .retain(|v| !v.starts_with("LISTEN_FDS=") && !v.starts_with("LISTEN_FDNAMES="));
        spec.environment.push(format!("LISTEN_FDS={}", names.len()));
        spec.environment
            .push(format!("LISTEN_FDNAMES={}", names.join(":")));
        Ok(())
    }

    /// Has a block device looked at by a helper.
    pub(super) fn probe(&mut self, event: Uevent) {
        let node = format!("/dev/{}", event.name.as_deref().unwrap_or_default());
        match self.start_helper(&node) {
            Ok(pipe) => {
                let id = self.next_helper;
                self.next_helper += 1;
                if self.poll.add_read(&pipe, Source::Helper(id)).is_ok() {
                    self.helpers.insert(
                        id,
                        Helper {
                            event,
                            pipe,
                            text: Vec::new(),
                        },
                    );
                }
            }
            Err(error) => log::say(
                Level::Warning,
                format_args!("{node} was not probed: {error}"),
            ),
        }
    }

    fn start_helper(&self, node: &str) -> std::io::Result<OwnedFd> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        let arguments = vec![
            c"(probe)".to_owned(),
            c"--probe".to_owned(),
            CString::new(node)?,
        ];
        let null: OwnedFd = std::fs::File::open("/dev/null")?.into();
        ExecPlan::new(SELF, arguments, Vec::new())
            .fd(null, 0)
            .fd(write, 1)
            .spawn()?;
        Ok(read)
    }

    /// Loads the driver of a device that was plugged in.
    pub(super) fn load_driver(&mut self, alias: &str) {
        let program = c"/usr/sbin/modprobe";
        let (Ok(alias), Ok(null)) = (CString::new(alias), std::fs::File::open("/dev/null")) else {
            return;
        };
        let arguments = ["modprobe", "-b", "-q", "--"]
            .iter()
            .filter_map(|a| CString::new(*a).ok())
            .chain([alias])
            .collect();
        // Without modprobe, or without such a driver, the device stays as it is.
        let _ = ExecPlan::new(
            program,
            arguments,
            vec![c"PATH=/usr/sbin:/usr/bin".to_owned()],
        )
        .fd(null.into(), 0)
        .spawn();
    }
}

fn order_file(order: &[u8]) -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("order", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(order)?;
    Ok(file.into())
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    /// A token the shell does not know.
    #[error("a descriptor to be passed is closed")]
    NoDescriptor,
    /// A system call.
    #[error("failed to {what}")]
    Step {
        what: &'static str,
        source: std::io::Error,
    },
    /// The group.
    #[error(transparent)]
    Cgroup(#[from] cgroup2::CgroupError),
}

impl LaunchError {
    fn step(what: &'static str) -> impl FnOnce(std::io::Error) -> LaunchError {
        move |source| LaunchError::Step { what, source }
    }
}
