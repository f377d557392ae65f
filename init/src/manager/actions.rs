//! What the engine decided, done.

use std::os::fd::AsFd;
use std::path::Path;

use init_control::Signal;
use rustix::event::epoll::EventFlags;
use unit_engine::api::{CgroupSignal, LogLevel, SocketOpenError, StatusKind, UnitLog};
use unit_engine::{Action, Event, FdToken};
use unit_file::UnitName;
use unit_file::settings::{
    CgroupSettings, Delegate, ExecDirectories, PathKind, PathSettings, SocketSettings,
};

use super::Manager;
use super::poll::Source;
use crate::log::{self, Level};
use crate::{cgroups, executor, sockets};

impl Manager {
    /// Performs actions in order.
    pub(super) fn perform_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn(spec) => self.launch(&spec),
            Action::Signal {
                pid,
                signal,
                then_continue,
            } => {
                send(pid, signal);
                if then_continue {
                    send(pid, 18);
                }
            }
            Action::SignalCgroup(order) => self.signal_cgroup(&order),
            Action::RealiseCgroup {
                unit,
                cgroup,
                settings,
                owner,
                invocation_id,
                watch,
            } => {
                self.realise(
                    &unit,
                    &cgroup,
                    &settings,
                    owner.as_deref(),
                    invocation_id,
                    watch,
                );
            }
            Action::AttachProcesses { cgroup, pids } => {
                for pid in pids {
                    if let Err(error) = self.system.cgroups.attach(&cgroup, pid as i32) {
                        log::say(
                            Level::Warning,
                            format_args!("process {pid}: {}", log::chain(&error)),
                        );
                    }
                }
            }
            Action::DelegateCgroup { cgroup } => {
                let _ = self
                    .system
                    .cgroups
                    .set_xattr(&cgroup, "trusted.delegate", b"1");
            }
            Action::RemoveCgroup { cgroup } => {
                // Busy or gone are both fine: a busy one is removed with its slice.
                let _ = self.system.cgroups.remove(&cgroup);
                self.oom_kills.remove(&cgroup);
            }
            Action::OpenSockets { unit, settings } => self.open_sockets(unit, &settings),
            Action::WatchSockets {
                unit,
                tokens,
                accept,
            } => self.watch_sockets(&unit, &tokens, accept),
            Action::UnwatchSockets { unit } => self.unwatch_sockets(&unit),
            Action::FlushSockets { tokens } => {
                for held in tokens.iter().filter_map(|t| self.fds.get(t)) {
                    sockets::flush(held.fd.as_fd());
                }
            }
            Action::CloseSockets {
                unit,
                settings,
                tokens,
            } => {
                self.unwatch_sockets(&unit);
                tokens.into_iter().for_each(|t| self.forget(t));
                if settings.remove_on_stop {
                    sockets::remove_files(&settings);
                }
            }
            Action::CloseFds(tokens) => tokens.into_iter().for_each(|t| self.forget(t)),
            Action::StoreFd { token, poll } => {
                if let Some(held) = self.fds.get(&token).filter(|_| poll) {
                    // Files and memory files cannot hang up, and cannot be polled either.
                    let _ = self.poll.add(
                        &held.fd,
                        Source::Stored(token),
                        EventFlags::HUP | EventFlags::ERR,
                    );
                }
            }
            Action::WatchPaths { unit, settings } => self.watch_paths(&unit, &settings),
            Action::UnwatchPaths { unit } => self.path_watch.remove(&unit),
            other => self.perform_quiet(other),
        }
    }

    /// Actions on files, clients and the manager itself.
    fn perform_quiet(&mut self, action: Action) {
        match action {
            Action::WriteTimerStamp { unit, realtime } => warn(
                &format!("timer stamp of {unit}"),
                write_stamp(unit.as_str(), realtime),
            ),
            Action::CleanUp {
                unit, directories, ..
            } => self.clean_up(&unit, &directories),
            Action::RemoveFile { path } => {
                let _ = std::fs::remove_file(path);
            }
            Action::WriteUnitFile { path, text } => warn(
                &path,
                crate::atomic::write(Path::new(&path), text.as_bytes(), 0o644),
            ),
            Action::Reply { id, result } => self.control.reply(id, *result, &mut self.poll),
            Action::UnitFiles { id, request } => {
                let result = self.system.installer().handle(&request);
                let changed = matches!(&result, Ok(init_control::Reply::UnitFileChanges { changes, .. }) if !changes.is_empty());
                self.control.reply(id, result, &mut self.poll);
                if changed {
                    self.system.new_turn();
                    self.control
                        .broadcast(&Signal::UnitFilesChanged, &mut self.poll);
                }
            }
            Action::Forward { id, request } => self.answer(id, *request),
            Action::Broadcast(signal) => {
                self.control.broadcast(&signal, &mut self.poll);
                if matches!(signal, Signal::Reloading { active: false }) {
                    syscalls::system::trim_heap();
                }
            }
            Action::Log(entry) => write_log(&entry),
            Action::Status { kind, text } => self.status(kind, &text),
            Action::Power {
                action,
                immediate,
                argument,
            } => self.power(action, immediate, argument.as_deref()),
            Action::ReloadBegun => {
                warn("generators", crate::generators::run(&self.system.cmdline));
                self.system.new_turn();
            }
            Action::Reexec => self.reexecute(),
            Action::StartupFinished => self.startup_finished(),
            _ => {}
        }
    }

    fn signal_cgroup(&mut self, order: &CgroupSignal) {
        let tree = &self.system.cgroups;
        if order.signal == 9 && order.except.is_empty() && !order.spare_payloads {
            // A group that is gone has nobody left to kill.
            if tree.kill(&order.cgroup).is_ok() {
                return;
            }
        }
        for pid in self.members(&order.cgroup, order.spare_payloads) {
            if order.except.contains(&pid) {
                continue;
            }
            send(pid, order.signal);
            if order.also_hangup {
                send(pid, 1);
            }
            if order.then_continue {
                send(pid, 18);
            }
        }
    }

    fn members(&self, cgroup: &str, spare_payloads: bool) -> Vec<u32> {
        let tree = &self.system.cgroups;
        let mut found: Vec<u32> = tree
            .processes(cgroup)
            .into_iter()
            .filter_map(|p| u32::try_from(p).ok())
            .filter(|p| *p > 1)
            .collect();
        for child in tree.children(cgroup) {
            let payload = child
                .rsplit('/')
                .next()
                .is_some_and(|n| n.starts_with("payload-"));
            if !(payload && spare_payloads) {
                found.extend(self.members(&child, spare_payloads));
            }
        }
        found
    }

    fn realise(
        &mut self,
        unit: &UnitName,
        cgroup: &str,
        settings: &CgroupSettings,
        owner: Option<&str>,
        invocation: Option<[u8; 16]>,
        watch: bool,
    ) {
        let tree = &self.system.cgroups;
        let complain = |error: cgroup2::CgroupError| {
            log::unit(
                Level::Warning,
                unit.as_str(),
                None,
                format_args!("{}", log::chain(&error)),
            );
        };
        if let Err(error) = tree.create(cgroup) {
            return complain(error);
        }
        if let Err(error) = tree.enable(cgroup, &cgroups::controllers(settings)) {
            complain(error);
        }
        for (file, value) in cgroups::writes(settings, self.machine) {
            match tree.write(cgroup, file, &value) {
                // A kernel without the controller or the file: the limit does not hold, the unit still runs.
                Err(error) if error.errno() == Some(2) => log::unit(
                    Level::Debug,
                    unit.as_str(),
                    None,
                    format_args!("{}", log::chain(&error)),
                ),
                Err(error) => complain(error),
                Ok(()) => {}
            }
        }
        if let Some(id) = invocation {
            let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
            let _ = tree.set_xattr(cgroup, "trusted.invocation_id", hex.as_bytes());
        }
        if settings.delegate != Delegate::No {
            let _ = tree.set_xattr(cgroup, "trusted.delegate", b"1");
            let database = crate::users::system();
            if let Some(user) = owner.and_then(|o| database.user(o))
                && let Err(error) = tree.delegate(cgroup, user.uid, user.gid)
            {
                complain(error);
            }
        }
        if watch {
            let dir = tree.path(cgroup);
            if let Err(error) = self.cgroup_watch.add(&dir, cgroup) {
                log::unit(
                    Level::Warning,
                    unit.as_str(),
                    None,
                    format_args!("{cgroup} is not watched: {error}"),
                );
            }
        }
    }

    fn open_sockets(&mut self, unit: UnitName, settings: &SocketSettings) {
        let mut tokens = Vec::new();
        let mut opened = Vec::new();
        for (index, listen) in settings.listen.iter().enumerate() {
            let known = |h: &super::Held| {
                h.listen
                    .as_ref()
                    .is_some_and(|(u, l)| *u == unit && l == listen)
            };
            if let Some(token) = self.fds.iter().find(|(_, h)| known(h)).map(|(t, _)| *t) {
                tokens.push(token);
                continue;
            }
            let fd = match self.held.get(&listen.address) {
                Some(fd) => fd.try_clone().map_err(|e| e.to_string()),
                None => sockets::open(settings, listen),
            };
            match fd {
                Ok(fd) => {
                    let token = self.hold(fd, Some((unit.clone(), listen.clone())));
                    opened.push(token);
                    tokens.push(token);
                }
                Err(message) => {
                    opened.into_iter().for_each(|t| self.forget(t));
                    let result = Err(SocketOpenError { index, message });
                    self.queue.push_back(Event::SocketsOpened { unit, result });
                    return;
                }
            }
        }
        self.queue.push_back(Event::SocketsOpened {
            unit,
            result: Ok(tokens),
        });
    }

    fn watch_sockets(&mut self, unit: &UnitName, tokens: &[FdToken], accept: bool) {
        for token in tokens {
            let Some(held) = self.fds.get(token) else {
                continue;
            };
            self.listeners.insert(*token, (unit.clone(), accept));
            let source = Source::Listener(*token);
            if !self.poll.contains(&source)
                && let Err(error) = self.poll.add_read(&held.fd, source)
            {
                log::unit(
                    Level::Warning,
                    unit.as_str(),
                    None,
                    format_args!("a socket cannot be watched: {error}"),
                );
            }
        }
    }

    fn watch_paths(&mut self, unit: &UnitName, settings: &PathSettings) {
        if settings.make_directory {
            use std::os::unix::fs::DirBuilderExt;
            for spec in settings
                .specs
                .iter()
                .filter(|s| s.kind != PathKind::PathExistsGlob && s.kind != PathKind::PathExists)
            {
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(settings.directory_mode)
                    .create(&spec.path);
                warn(&spec.path, made);
            }
        }
        self.path_watch.add(unit, settings);
    }

    fn clean_up(&self, unit: &UnitName, directories: &[ExecDirectories]) {
        for group in directories {
            for name in &group.names {
                let name = name.split(':').next().unwrap_or(name);
                let path = Path::new(group.kind.base()).join(name);
                if path.is_dir() {
                    warn(&path.display().to_string(), std::fs::remove_dir_all(&path));
                }
            }
        }
        for path in executor::private_tmp_directories(unit.as_str(), &self.private_tmp_key) {
            if path.is_dir() {
                warn(&path.display().to_string(), std::fs::remove_dir_all(&path));
            }
        }
    }

    fn status(&self, kind: StatusKind, text: &str) {
        if !self.status_lines {
            return;
        }
        let line = match kind {
            StatusKind::Ok => format!("[\x1b[0;32m  OK  \x1b[0m] {text}\r\n"),
            StatusKind::Failed => format!("[\x1b[0;1;31mFAILED\x1b[0m] {text}\r\n"),
            StatusKind::Depend => format!("[\x1b[0;1;33mDEPEND\x1b[0m] {text}\r\n"),
            StatusKind::Plain => format!("         {text}\r\n"),
        };
        let _ = crate::console::write_to("/dev/console", &line);
    }

    fn startup_finished(&mut self) {
        self.times.finish = init_control::Stamp {
            realtime: crate::clock::realtime_usec(),
            monotonic: crate::clock::monotonic_usec(),
        };
        self.give_back_later();
    }
}

fn send(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // Only a process that is gone already cannot be signalled by PID 1.
        let _ = syscalls::signal::kill(pid, signal);
    }
}

fn warn<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        log::say(Level::Warning, format_args!("{what}: {error}"));
    }
}

fn write_stamp(unit: &str, realtime: u64) -> std::io::Result<()> {
    let path = crate::host::timer_stamp_path(unit);
    std::fs::create_dir_all("/var/lib/systemd/timers")?;
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)?;
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_micros(realtime))
}

fn write_log(entry: &UnitLog) {
    let level = match entry.level {
        LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Notice => Level::Notice,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    };
    let mut fields: Vec<(&str, String)> =
        entry.fields.iter().map(|(n, v)| (*n, v.clone())).collect();
    if let Some(id) = entry.invocation_id {
        fields.push((
            "INVOCATION_ID",
            id.iter().map(|b| format!("{b:02x}")).collect(),
        ));
    }
    log::with_fields(
        level,
        entry.unit.as_ref().map(UnitName::as_str),
        entry.message_id,
        &fields,
        &entry.text,
    );
}
