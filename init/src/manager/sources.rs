//! Sources read: what became ready is turned into events for the engine.

use init_control::{JobMode, PowerAction};
use rustix::process::{WaitOptions, wait};
use unit_engine::api::{ExecFailure, ExitStatus};
use unit_engine::{Event, SpawnId};

use super::Manager;
use super::poll::Source;
use super::watch::CgroupNews;
use crate::devices::{self, Uevent};
use crate::log::{self, Level};
use crate::{clock, mounts};

pub(super) const SIGINT: i32 = 2;
pub(super) const SIGHUP: i32 = 1;
pub(super) const SIGUSR1: i32 = 10;
pub(super) const SIGUSR2: i32 = 12;
pub(super) const SIGTERM: i32 = 15;
pub(super) const SIGCHLD: i32 = 17;
pub(super) const SIGWINCH: i32 = 28;
pub(super) const SIGPWR: i32 = 30;

impl Manager {
    pub(super) fn read_notifications(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        // Bounded, so that a talkative service cannot keep the loop for itself.
        for _ in 0..256 {
            let Ok(message) = syscalls::socket::receive(&self.inherited_notify, &mut buffer) else {
                return;
            };
            let Some(sender) = message
                .credentials
                .filter(|c| c.pid > 0 && !message.truncated)
            else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..message.len])
                .trim_end_matches(['\0', '\n'])
                .to_owned();
            let fds = message
                .fds
                .into_iter()
                .map(|fd| self.hold(fd, None))
                .collect();
            let cgroup = cgroup2::group_of(sender.pid);
            self.queue.push_back(Event::Notify {
                pid: sender.pid as u32,
                uid: sender.uid,
                cgroup,
                text,
                fds,
            });
        }
    }

    pub(super) fn read_report(&mut self, id: SpawnId) {
        let Some(fd) = self.reports.get(&id) else {
            return;
        };
        let mut buffer = [0; 512];
        let event = match rustix::io::read(fd, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Ok(len) if len >= syscalls::spawn::REPORT_LEN => {
                let (head, text) = buffer[..len].split_at(syscalls::spawn::REPORT_LEN);
                let report = syscalls::spawn::Report::decode(head);
                let (step, errno) = report.map_or((203, 0), |r| (r.step as i32, r.errno));
                let failure = ExecFailure {
                    step,
                    errno,
                    what: String::from_utf8_lossy(text).into_owned(),
                };
                Event::ExecFailed { id, failure }
            }
            Ok(_) | Err(_) => Event::ExecDone { id },
        };
        if let Some(fd) = self.reports.remove(&id) {
            self.poll.remove(&fd, &Source::Report(id));
        }
        self.queue.push_back(event);
    }

    pub(super) fn read_mounts(&mut self) {
        if let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") {
            self.queue
                .push_back(Event::MountTable(mounts::parse(&text)));
        }
    }

    pub(super) fn read_uevents(&mut self) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(message) = syscalls::socket::receive(&self.uevents, &mut buffer) {
            // Only the kernel (pid 0) is believed.
            let from_kernel = message
                .credentials
                .is_some_and(|c| c.pid == 0 && c.uid == 0);
            if let Some(event) = Uevent::parse(&buffer[..message.len]).filter(|_| from_kernel) {
                self.uevent(event);
            }
        }
    }

    pub(super) fn uevent(&mut self, event: Uevent) {
        let sysfs_path = format!("/sys{}", event.path);
        match event.action.as_str() {
            "remove" => {
                if let Some(name) = event.name.as_deref().filter(|_| event.subsystem == "block") {
                    self.links.remove(&sysfs_path, name);
                }
                if event.needs_probe() || event.plain_device().is_some() {
                    self.queue.push_back(Event::DeviceGone { sysfs_path });
                }
            }
            "add" | "change" | "online" => {
                if event.needs_probe() {
                    self.probe(event);
                    return;
                }
                if let Some(info) = event.plain_device() {
                    self.queue.push_back(Event::DeviceAppeared(Box::new(info)));
                }
                if let Some(alias) = event.modalias.filter(|_| event.action == "add") {
                    self.load_driver(&alias);
                }
            }
            _ => {}
        }
    }

    /// A written block device may hold something else now.
    pub(super) fn probe_again(&mut self, name: &str) {
        let path = std::path::Path::new("/sys/class/block").join(name);
        if let Some(event) = devices::of_sysfs(&path, "block").filter(Uevent::needs_probe) {
            self.probe(event);
        }
    }

    pub(super) fn read_helper(&mut self, id: u64) {
        let Some(helper) = self.helpers.get_mut(&id) else {
            return;
        };
        let mut buffer = [0; 4096];
        match rustix::io::read(&helper.pipe, &mut buffer) {
            Ok(0) => {}
            Ok(len) => return helper.text.extend_from_slice(&buffer[..len]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => {}
        }
        let Some(helper) = self.helpers.remove(&id) else {
            return;
        };
        self.poll.remove(&helper.pipe, &Source::Helper(id));
        let found = crate::probe::Found::decode(&String::from_utf8_lossy(&helper.text));
        let sysfs_path = format!("/sys{}", helper.event.path);
        if let Some(name) = helper
            .event
            .name
            .as_deref()
            .filter(|_| std::path::Path::new(&sysfs_path).exists())
        {
            let info = self.links.update(&sysfs_path, name, &found);
            self.queue.push_back(Event::DeviceAppeared(Box::new(info)));
        }
    }

    pub(super) fn read_signals(&mut self) {
        while let Ok(Some(received)) = syscalls::signal::read(&self.signals) {
            self.signal(received.signal);
        }
        self.reap();
    }

    pub(super) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let raw = status.as_raw();
                    let status = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => ExitStatus::Exited(code),
                        (_, Some(signal)) if raw & 0x80 != 0 => ExitStatus::Dumped(signal),
                        (_, Some(signal)) => ExitStatus::Killed(signal),
                        _ => ExitStatus::Unknown,
                    };
                    let pid = pid.as_raw_nonzero().get() as u32;
                    self.queue.push_back(Event::ChildExited { pid, status });
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) fn signal(&mut self, signal: i32) {
        crate::failpoint::signal(signal - syscalls::signal::RTMIN);
        let start = |unit: &str, mode| Event::StartByManager {
            unit: unit.to_owned(),
            mode,
        };
        let down = JobMode::ReplaceIrreversibly;
        let event = match signal - syscalls::signal::RTMIN {
            0 => start("default.target", JobMode::Isolate),
            1 => start("rescue.target", JobMode::Isolate),
            2 => start("emergency.target", JobMode::Isolate),
            3 => start("halt.target", down),
            4 => start("poweroff.target", down),
            5 => start("reboot.target", down),
            6 => start("kexec.target", down),
            13 => self.power(PowerAction::Halt, true, None),
            14 => self.power(PowerAction::PowerOff, true, None),
            15 => self.power(PowerAction::Reboot, true, None),
            16 => self.power(PowerAction::Kexec, true, None),
            20 => return self.status_lines = true,
            21 => return self.status_lines = false,
            22 => return log::set_threshold(Level::Debug),
            23 => return log::set_threshold(Level::Info),
            _ => match signal {
                SIGINT => return self.ctrl_alt_del(),
                SIGTERM => return self.reexecute(),
                SIGHUP => Event::Reload,
                SIGPWR => start("sigpwr.target", JobMode::Replace),
                SIGWINCH => start("kbrequest.target", JobMode::Replace),
                SIGUSR1 => start("dbus.service", JobMode::Replace),
                SIGUSR2 => return log::say(Level::Info, format_args!("{:?}", self.engine)),
                _ => return,
            },
        };
        self.queue.push_back(event);
    }

    /// Ctrl-Alt-Del: an orderly restart; seven times within two seconds: at once.
    pub(super) fn ctrl_alt_del(&mut self) {
        let now = clock::monotonic_usec();
        self.ctrl_alt_del.retain(|t| now - t < 2_000_000);
        self.ctrl_alt_del.push(now);
        if self.ctrl_alt_del.len() > 6 {
            log::say(
                Level::Notice,
                format_args!("ctrl-alt-del seven times within 2 s: restarting at once"),
            );
            self.power(PowerAction::Reboot, true, None);
        }
        let unit = "ctrl-alt-del.target".to_owned();
        self.queue.push_back(Event::StartByManager {
            unit,
            mode: JobMode::ReplaceIrreversibly,
        });
    }

    pub(super) fn power(
        &mut self,
        action: PowerAction,
        immediate: bool,
        argument: Option<&str>,
    ) -> ! {
        self.control.flush_all(&mut self.poll);
        crate::shutdown::finish(
            action,
            immediate,
            argument,
            self.watchdog.as_ref().map(|(fd, _)| fd),
        )
    }

    pub(super) fn read_cgroups(&mut self) {
        for news in self.cgroup_watch.news() {
            match news {
                CgroupNews::Events(cgroup) => {
                    if !self.system.cgroups.events(&cgroup).populated {
                        self.queue.push_back(Event::CgroupEmpty { cgroup });
                    }
                }
                CgroupNews::Memory(cgroup) => {
                    let kills = self
                        .system
                        .cgroups
                        .keyed(&cgroup, "memory.events", "oom_kill")
                        .unwrap_or(0);
                    let before = self.oom_kills.insert(cgroup.clone(), kills).unwrap_or(0);
                    if kills > before {
                        self.queue.push_back(Event::OomKill { cgroup });
                    }
                }
            }
        }
    }
}
