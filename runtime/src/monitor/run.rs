//! Starting, adopting and ending the container.

use super::clients::Client;
use super::streams::{self, Streams};
use super::{Init, Monitor, launch, pidfd_of, policy};
use crate::container::{Attached, State, Status};
use crate::host;
use crate::network::{self, Connection, Published};
use crate::place;
use crate::protocol::{self, Event};
use crate::time;
use oci_runtime::engine::{EngineError, ErrorKind, ExecRequest};
use oci_runtime::helper::Streams as ChildStreams;
use oci_runtime::plan::Plan;
use rustix::process::{Pid, PidfdFlags};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// A start that failed, with the exit status that says so.
struct Refused {
    code: i32,
    message: String,
}

impl Refused {
    fn new(error: &(dyn std::error::Error + 'static)) -> Refused {
        Refused {
            code: 125,
            message: telemetry::chain(error),
        }
    }
}

fn io_refused(what: &'static str) -> impl FnOnce(std::io::Error) -> Refused {
    move |error| Refused {
        code: 125,
        message: format!("failed to {what}: {error}"),
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Refused {
        let code = match error.kind {
            ErrorKind::CommandNotFound => 127,
            ErrorKind::CommandNotExecutable => 126,
            ErrorKind::Other => 125,
        };
        Refused {
            code,
            message: error.message,
        }
    }
}

impl Monitor {
    pub(super) fn first_start(&mut self, index: usize) {
        self.state = State {
            in_unit: self.state.in_unit,
            ..State::default()
        };
        match self.start() {
            Ok(pid) => {
                let event = Event::Started { pid };
                match &self.streams.master {
                    Some(master) => {
                        let master = master.as_fd();
                        self.clients[index].send_with(&event, master);
                    }
                    None => self.clients[index].send(&event),
                }
            }
            Err(Refused { code, message }) => {
                self.clean_up();
                self.state.status = Status::Created;
                self.state.exit_code = code;
                self.state.error.clone_from(&message);
                self.save();
                if self.config.remove {
                    let _ = self.host.remove_container(&self.config, true);
                }
                self.clients[index].send(&Event::Failed { code, message });
                self.leave();
            }
        }
    }

    pub(super) fn restart(&mut self) {
        self.state.restart_count += 1;
        if let Err(Refused { code, message }) = self.start() {
            self.state.error = message;
            self.ended(code);
        }
    }

    fn save(&self) {
        if let Err(error) = self.host.save_state(&self.config.id, &self.state) {
            tracing::error!(error = %telemetry::chain(&error), "the container's state is not on disk");
        }
    }

    fn start(&mut self) -> Result<i32, Refused> {
        self.state.stopped = false;
        self.state.boot_id = host::boot_id();
        let run = self.host.run_of(&self.config.id);
        let _ = fs::remove_dir_all(self.host.engine().join(&self.config.id));
        fs::create_dir_all(self.host.engine())
            .map_err(io_refused("make the engine's directory"))?;
        place::prove_device_rules(&self.base, &self.host.run, &self.engine)
            .map_err(|error| Refused::new(&error))?;
        let attached = self.bring_network_up()?;
        network::files::write(
            &self.host.container(&self.config.id),
            &self.config,
            &self.options,
            attached.as_ref(),
        )
        .map_err(io_refused("write the container's network files"))?;
        let rules = launch::rules(&self.config);
        // Known before it is made, so that a failure in between is cleaned up too.
        self.state.cgroup = place::payload_path(&self.base, self.config.short());
        let cgroup = place::payload(
            &self.base,
            self.config.short(),
            &rules,
            launch::needs_controllers(&self.config),
        )
        .map_err(|error| Refused::new(&error))?;
        self.state.cgroup.clone_from(&cgroup);
        let plan = launch::plan(
            &self.host,
            &self.options,
            &self.config,
            &cgroup,
            attached.as_ref(),
        )
        .map_err(|error| Refused::new(&error))?;
        let console = self.config.tty.then(|| run.join("console.sock"));
        let listener = match &console {
            Some(path) => {
                let _ = fs::remove_file(path);
                Some(UnixListener::bind(path).map_err(io_refused("make the terminal's socket"))?)
            }
            None => None,
        };
        let (ours, theirs) = match listener {
            Some(_) => (
                Streams::default(),
                streams::null().map_err(io_refused("open /dev/null"))?,
            ),
            None => Streams::pipes(&run, self.config.stdin)
                .map_err(io_refused("make the container's pipes"))?,
        };
        let store = self.host.store().map_err(|error| Refused::new(&error))?;
        let layers = store.lowers(&self.config.chain);
        let request = launch::request(&self.host, &self.config, plan, console.clone(), layers);
        let pid = self.engine.run(&request, theirs)?;
        self.streams = match &listener {
            Some(listener) => Streams::terminal(listener, self.size)
                .map_err(io_refused("take the container's terminal"))?,
            None => ours,
        };
        if let Some(path) = console {
            let _ = fs::remove_file(path);
        }
        self.note_running(pid, attached);
        Ok(pid)
    }

    fn note_running(&mut self, pid: i32, attached: Option<Attached>) {
        let pidfd = Pid::from_raw(pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        self.init = Some(Init { pid, pidfd });
        self.started = Instant::now();
        self.state.status = Status::Running;
        self.state.pid = pid;
        self.state.pid_started = host::start_time(pid).unwrap_or_default();
        self.state.error.clear();
        self.state.exit_code = 0;
        self.state.oom_killed = false;
        self.state.started_at = time::now();
        self.state.finished_at = String::new();
        self.state.network = attached;
        self.save();
    }

    /// The namespace stays over restarts; ports too.
    fn bring_network_up(&mut self) -> Result<Option<Attached>, Refused> {
        if let Some(network) = &self.network {
            return Ok(Some(network.attached.clone()));
        }
        let id = &self.config.id;
        match self.config.network.as_str() {
            "bridge" | "default" => {
                let connection =
                    network::connect(&self.host, &self.options, id, &self.config.ports, true)
                        .map_err(|error| Refused::new(&error))?;
                let attached = connection.attached.clone();
                self.network = Some(connection);
                Ok(Some(attached))
            }
            "none" => {
                let attached =
                    network::isolate(&self.host, id).map_err(|error| Refused::new(&error))?;
                self.network = Some(Connection {
                    attached: attached.clone(),
                    published: Published::reserve(&[]).map_err(|error| Refused::new(&error))?,
                });
                Ok(Some(attached))
            }
            _ => Ok(None),
        }
    }

    /// Takes over a container that runs without a monitor.
    pub(super) fn adopt(&mut self, master: Option<OwnedFd>) {
        let run = self.host.run_of(&self.config.id);
        self.base = self
            .state
            .cgroup
            .rsplit_once('/')
            .map(|(base, _)| base.to_owned())
            .unwrap_or_default();
        let groups = place::hierarchy();
        let supervisor = format!("{}/supervisor", self.base);
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let moved = groups
            .create(&supervisor)
            .and_then(|()| groups.attach(&supervisor, own));
        if let Err(error) = moved {
            tracing::debug!(error = %telemetry::chain(&error), "the monitor stays in its own group");
        }
        let streams = match master {
            Some(master) => Streams::adopt_terminal(master),
            None => Streams::reopen(&run, self.config.stdin),
        };
        self.streams = streams.unwrap_or_default();
        if let Some(attached) = self.state.network.clone() {
            // The old monitor's sockets died with it; another program may have been faster.
            let published = Published::reserve(&attached.ports).or_else(|error| {
                tracing::warn!(error = %telemetry::chain(&error), "a published port is not reserved any more");
                Published::reserve(&[])
            });
            if let Ok(published) = published {
                self.network = Some(Connection {
                    attached,
                    published,
                });
            }
        }
        let pidfd = pidfd_of(self.state.pid, self.state.pid_started);
        if pidfd.is_none() {
            self.verdict_at = Some(Instant::now() + Duration::from_secs(2));
        }
        self.init = Some(Init {
            pid: self.state.pid,
            pidfd,
        });
        self.state.status = Status::Running;
    }

    pub(super) fn exec(
        &mut self,
        index: usize,
        mut plan: Plan,
        console: Option<String>,
        fds: Vec<OwnedFd>,
    ) {
        let Some(init) = &self.init else {
            self.clients[index].send(&Event::Failed {
                code: 1,
                message: format!("Container {} is not running", self.config.id),
            });
            return;
        };
        self.exec_number += 1;
        let number = self.exec_number;
        plan.cgroup.clone_from(&self.state.cgroup);
        plan.oom_score_adj = Some(self.config.oom_score_adj.unwrap_or(0));
        let mut fds = fds.into_iter();
        let streams = match (fds.next(), fds.next(), fds.next()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok(ChildStreams {
                stdin,
                stdout,
                stderr,
            }),
            _ => streams::null(),
        };
        let request = ExecRequest {
            id: self.config.id.clone(),
            init: init.pid,
            plan,
            state: self.host.engine(),
            process: self
                .host
                .run_of(&self.config.id)
                .join(format!("exec-{number}.json")),
            console: console.map(Into::into),
        };
        let result = streams
            .map_err(io_refused("open /dev/null"))
            .and_then(|streams| self.engine.exec(&request, streams).map_err(Refused::from));
        let _ = fs::remove_file(&request.process);
        match result {
            Ok(pid) => {
                if let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(&self.clients[index].socket, 3)
                {
                    self.exec_clients.push((number, socket));
                }
                self.execs.push((pid, number));
                self.clients[index].send(&Event::ExecStarted { pid });
            }
            Err(Refused { code, message }) => {
                self.clients[index].send(&Event::Failed { code, message });
            }
        }
    }

    /// The first process ended.
    pub(super) fn ended(&mut self, code: i32) {
        let groups = place::hierarchy();
        self.state.oom_killed = groups
            .keyed(&self.state.cgroup, "memory.events", "oom_kill")
            .unwrap_or(0)
            > 0;
        self.init = None;
        self.kill_at = None;
        self.verdict_at = None;
        // Whatever it left behind (possible in the host's pid namespace) ends too.
        let _ = groups.kill(&self.state.cgroup);
        self.drain();
        self.streams = Streams::default();
        self.state.exit_code = code;
        self.state.finished_at = time::now();
        self.state.pid = 0;
        self.remove_group();
        let _ = fs::remove_dir_all(self.host.engine().join(&self.config.id));
        if policy::restarts(
            self.config.restart,
            self.state.stopped,
            code,
            self.state.restart_count,
        ) && !self.config.remove
        {
            self.state.status = Status::Restarting;
            self.save();
            self.restart_at = Some(Instant::now() + self.backoff.next(self.started.elapsed()));
            return;
        }
        self.finish();
    }

    fn drain(&mut self) {
        let mut pieces: Vec<(bool, Vec<u8>)> = Vec::new();
        let sources = [
            (false, &self.streams.stdout),
            (true, &self.streams.stderr),
            (false, &self.streams.master),
        ];
        for (error, fd) in sources {
            streams::drain(fd.as_ref(), |bytes| pieces.push((error, bytes.to_vec())));
        }
        for (error, bytes) in pieces {
            self.spread(error, &bytes);
        }
        self.log.finish();
    }

    fn remove_group(&self) {
        let groups = place::hierarchy();
        for _ in 0..50 {
            if groups.remove(&self.state.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::warn!(group = %self.state.cgroup, "the container's control group is left behind");
    }

    fn clean_up(&mut self) {
        if !self.state.cgroup.is_empty() {
            let _ = place::hierarchy().kill(&self.state.cgroup);
            self.remove_group();
        }
        if let Some(network) = self.network.take() {
            network::disconnect(&self.host, &self.config.id, &network.attached);
        }
        self.state.network = None;
        let _ = fs::remove_dir_all(self.host.engine().join(&self.config.id));
    }

    /// The end: nothing of the container is left but its record, which goes with `--rm`.
    pub(super) fn finish(&mut self) {
        if let Some(network) = self.network.take() {
            network::disconnect(&self.host, &self.config.id, &network.attached);
        }
        self.state.status = Status::Exited;
        self.state.network = None;
        self.save();
        let exit = serde_json::json!({"status": self.state.exit_code, "oom": self.state.oom_killed, "time": self.state.finished_at});
        let _ = oci_image::store::write_json(
            &self.host.container(&self.config.id).join("exit.json"),
            &exit,
        );
        if self.config.remove
            && let Err(error) = self.host.remove_container(&self.config, true)
        {
            tracing::error!(error = %telemetry::chain(&error), "the container is not removed");
        }
        let event = Event::Exited {
            code: self.state.exit_code,
        };
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.waits || client.supervises)
        {
            client.send(&event);
        }
        self.leave();
    }

    /// Nothing is left to do but to send what is queued.
    fn leave(&mut self) {
        self.clients.iter_mut().for_each(Client::flush);
        place::leave(&self.base);
        self.leaving = Some(Instant::now() + Duration::from_secs(30));
    }
}

/// Starts a monitor for a container; the connection to it and its pid.
pub fn spawn(host: &host::Host, id: &str) -> std::io::Result<(OwnedFd, u32)> {
    let (ours, theirs) = protocol::pair()?;
    let child = std::process::Command::new(host::monitor_program())
        .arg("run")
        .arg(&host.data)
        .arg(id)
        .current_dir("/")
        .env_clear()
        .stdin(std::process::Stdio::from(theirs))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    Ok((ours, child.id()))
}
