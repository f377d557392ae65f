//! The daemon as a whole: what is started in which order, and what happens at the end.
//!
//! At the end the service manager is asked what is going on. When the daemon's own unit is being
//! restarted, or nobody asked for anything (a signal by hand, an upgrade), all units keep running
//! and the lease stays, for the successor to take over. When its unit is being stopped, or the
//! machine goes down, every unit is unloaded and the machine leaves the cluster at once; but if one
//! does not stop in time, only when the lease runs out, by when the guard has killed what must not
//! run twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{EtcdConfig, EtcdKv, Kv};
use fleet_model::Machine;
use sd_daemon::{State, notify};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::agent::fence::{Fence, watch_over};
use crate::agent::{Context, FileError, Files, ServiceManager, run as run_agent};
use crate::api::{
    Access, Api, EXPLAIN_TURNS, Hub, Listener, Listings, Original, Tls, serve_metrics,
};
use crate::audit::Audit;
use crate::clock::{Clock, MachineClock};
use crate::config::Settings;
use crate::engine::Engine;
use crate::host::{MachineIdError, cpus, default_address, machine_id, memory};
use crate::logs::{Answerer, JournalReader, Logs};
use crate::metrics::{MeteredKv, Metrics};
use crate::polling::PollingKv;
use crate::presence::{Presence, Standing};
use crate::registry::{Mirror, Registry};

/// How long leaving the cluster may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No machine ID.
    #[error(transparent)]
    MachineId(#[from] MachineIdError),
    /// No place for files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// A passed socket is of no use.
    #[error("failed to take over the socket {name}")]
    Socket {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A part without which the daemon must not go on has panicked.
    #[error("the {0} has broken off; units keep running, and the next daemon takes over")]
    Broken(&'static str),
    /// Signals cannot be received.
    #[error("failed to receive signals")]
    Signals(#[source] std::io::Error),
}

/// What ended the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Asked to read its configuration again: be started anew with the same sockets.
    Reload,
    /// Asked to end.
    Exit,
    /// Asked to end and leave nothing behind, whatever the service manager is about to do.
    Leave,
}

/// What lasts over a reload.
#[derive(Debug)]
pub struct Io {
    /// Descriptors passed by the service manager, with their names.
    pub sockets: Vec<(String, std::os::fd::OwnedFd)>,
    /// The service manager.
    pub manager: Arc<dyn ServiceManager>,
    /// Another store than etcd.
    pub kv: Option<Arc<dyn Kv>>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// What the API needs beyond its sockets.
    pub api: ApiIo,
}

/// What the API needs beyond its sockets.
#[derive(Debug, Default)]
pub struct ApiIo {
    /// With it, TCP listeners demand mutual TLS.
    pub tls: Option<Tls>,
    /// Where metrics are served beside the API.
    pub metrics_socket: Option<PathBuf>,
    /// Where logs are read.
    pub journal: JournalReader,
    /// There is no service manager, and this is what callers are told: no unit can be loaded.
    pub no_manager: Option<String>,
}

/// What the end of the daemon means for its units.
#[must_use]
pub fn unloads(job: Option<&str>, system: &str) -> bool {
    match job {
        Some("restart" | "try-restart" | "start") => false,
        Some("stop") => true,
        _ => system == "stopping",
    }
}

/// Waits for a signal that ends the daemon or makes it reload.
pub async fn signalled() -> Result<End, DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    Ok(tokio::select! {
        _ = terminate.recv() => End::Exit,
        _ = interrupt.recv() => End::Exit,
        _ = hang_up.recv() => End::Reload,
    })
}

/// Runs until `end` says so; see [`signalled`].
pub async fn run(
    settings: &Settings,
    io: &Io,
    end: impl Future<Output = Result<End, DaemonError>>,
) -> Result<End, DaemonError> {
    let me = machine_id(&settings.machine_id_file)?;
    let files = Files::open(&settings.units_directory, &settings.run_directory)?;
    let kv = io.kv.clone().unwrap_or_else(|| {
        Arc::new(EtcdKv::new(EtcdConfig {
            endpoints: settings.etcd_servers.clone(),
            request_timeout: settings.etcd_request_timeout,
            credentials: settings.etcd_credentials.clone(),
            tls: settings.etcd_tls.clone(),
        }))
    });
    let metrics = Arc::new(Metrics::default());
    let mut kv: Arc<dyn Kv> = Arc::new(MeteredKv::new(kv, metrics.clone()));
    if settings.disable_watches {
        kv = Arc::new(PollingKv::new(kv, settings.engine_reconcile_interval));
    }
    let registry = Registry::new(kv, &settings.etcd_key_prefix);
    let machine = describe(settings);
    let offer = machine.offer();
    let lease_file = lease_file(settings);
    let (standing_tx, standing) = watch::channel(Standing::default());
    let (validity_tx, validity) = watch::channel(None);
    let presence = Presence {
        registry: registry.clone(),
        id: me.clone(),
        machine,
        detect_address: settings.public_ip.is_empty(),
        ttl: settings.agent_ttl,
        lease_file: lease_file.clone(),
        clock: io.clock.clone(),
        standing: standing_tx,
        validity: validity_tx,
    };
    presence.start();
    let fence = Fence::start(
        &settings.run_directory,
        &guard_command(settings),
        files.clone(),
        io.clock.clone(),
        io.manager.clone(),
        validity,
    );
    let mirror = Mirror::start(registry.clone());
    let engine = Engine {
        registry: registry.clone(),
        me: me.clone(),
        standing: standing.clone(),
        pause: settings.engine_reconcile_interval,
        join_budget: settings.rebalance_on_join,
        metrics: metrics.clone(),
    };
    let mut engine = if settings.disable_engine {
        tokio::spawn(engine.stand_aside())
    } else {
        tokio::spawn(engine.run())
    };
    if !settings.dns_listen.is_empty() {
        let directory = crate::dns::Directory::start(registry.clone());
        for address in &settings.dns_listen {
            crate::dns::Server::start(*address, directory.clone());
        }
    }
    tokio::spawn(crate::dump::answer_signal(
        registry.clone(),
        mirror.clone(),
        standing.clone(),
        me.clone(),
    ));
    let (stop, stopped) = oneshot::channel();
    let context = Context {
        registry: registry.clone(),
        mirror: mirror.clone(),
        me: me.clone(),
        metadata: settings.metadata.clone(),
        public_ip: settings.public_ip.clone(),
        offer,
        standing: standing.clone(),
        manager: io.manager.clone(),
        files,
        fence,
        clock: io.clock.clone(),
    };
    let runs_units = io.api.no_manager.is_none();
    let mut agent = runs_units.then(|| tokio::spawn(run_agent(context, stopped)));
    let (mut present, followed) = (standing.clone(), mirror.clone());
    // None of these ends by itself, and half a daemon would keep the lease, and the lead with it.
    let broken = async {
        tokio::select! {
            biased;
            () = async { while present.changed().await.is_ok() {} } => "presence",
            () = followed.ended() => "mirror",
            _ = &mut engine => "engine",
            () = async {
                match agent.as_mut() {
                    Some(agent) => drop(agent.await),
                    None => std::future::pending().await,
                }
            } => "agent",
        }
    };
    let journal = JournalReader {
        user: settings.systemd_user,
        ..io.api.journal.clone()
    };
    if runs_units {
        let answerer = Answerer {
            registry: registry.clone(),
            mirror: mirror.clone(),
            me: me.clone(),
            journal: journal.clone(),
        };
        tokio::spawn(answerer.run());
    }
    let api = Api {
        hub: Hub::new(registry.clone()),
        explaining: Semaphore::new(EXPLAIN_TURNS),
        original: Original::default(),
        listings: Listings::default(),
        registry: registry.clone(),
        mirror,
        standing: standing.clone(),
        me,
        page_limit: settings.token_limit,
        access: Access {
            own_uid: rustix::process::geteuid().as_raw(),
            roles: settings.api_roles.clone(),
            plain: settings.plain_role,
        },
        audit: Audit {
            enabled: settings.audit,
        },
        metrics,
        logs: Logs::new(journal),
        no_manager: io.api.no_manager.clone(),
    };
    let status = serve(io, Arc::new(api))?;
    announce(&[State::Ready, State::Status(&status)]);

    let end = tokio::select! {
        biased;
        end = end => end?,
        what = broken => return Err(DaemonError::Broken(what)),
    };
    let mut unload = false;
    if end != End::Reload && runs_units {
        announce(&[State::Stopping]);
        unload = match end {
            End::Leave => true,
            _ => match io.manager.own_job().await {
                Ok((job, system)) => unloads(job.as_deref(), &system),
                Err(error) => {
                    tracing::warn!("units keep running: {}", telemetry::chain(&error));
                    false
                }
            },
        };
        tracing::info!(
            unload,
            "ending; units {}",
            if unload {
                "are unloaded"
            } else {
                "keep running"
            }
        );
    }
    // An agent that has ended by itself needs no telling.
    let _ = stop.send(unload);
    let empty = match agent {
        Some(agent) => agent.await.unwrap_or(false),
        None => true,
    };
    if unload && empty {
        let standing = standing.borrow().clone();
        leave(&registry, &standing, &lease_file).await;
    } else if unload {
        // Started elsewhere now, they would run twice. The guard has until the end of the lease.
        tracing::warn!("units are left; the machine leaves when its lease runs out");
    }
    Ok(end)
}

/// What the machine says of itself.
fn describe(settings: &Settings) -> Machine {
    let address = default_address().filter(|_| settings.public_ip.is_empty());
    Machine {
        public_ip: address.map_or_else(|| settings.public_ip.clone(), |a| a.to_string()),
        metadata: settings.metadata.clone(),
        version: crate::VERSION.to_owned(),
        memory_bytes: settings.offer.memory.or_else(memory),
        cpus: settings.offer.cpu.or_else(cpus),
    }
}

/// What the guard of the fence runs.
fn guard_command(settings: &Settings) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/fleetd".into());
    format!(
        "{} guard {} {}",
        program.display(),
        settings.run_directory.display(),
        settings.units_directory.display()
    )
}

/// The guard of the fence: `fleetd guard RUN_DIRECTORY UNITS_DIRECTORY`. Never returns unless it
/// cannot begin.
pub async fn guard(run: PathBuf, units: PathBuf, manager: Arc<dyn ServiceManager>) -> FileError {
    match Files::open(&units, &run) {
        Ok(files) => {
            watch_over(run, files, Arc::new(MachineClock), manager).await;
            // Not reached: it watches for ever.
            std::future::pending().await
        }
        Err(error) => error,
    }
}

fn lease_file(settings: &Settings) -> PathBuf {
    settings.run_directory.join("lease")
}

/// Serves the API on all sockets, which stay ours for the next round. Returns the daemon's status
/// for people.
fn serve(io: &Io, api: Arc<Api>) -> Result<String, DaemonError> {
    if io.sockets.is_empty() {
        tracing::info!("no sockets were passed: the API is not served");
    }
    let mut plain = Vec::new();
    for (name, fd) in &io.sockets {
        let failed = |source| DaemonError::Socket {
            name: name.clone(),
            source,
        };
        let fd = fd.try_clone().map_err(failed)?;
        let listener = Listener::from_fd(fd, name, io.api.tls.as_ref()).map_err(failed)?;
        plain.extend(listener.plain_address());
        tokio::spawn(listener.serve(api.clone()));
    }
    api.metrics.plain_listeners(plain.len() as u64);
    if let Some(path) = io.api.metrics_socket.clone() {
        let metrics = api.metrics.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_metrics(&path, metrics).await {
                tracing::warn!("failed to serve metrics at {}: {error}", path.display());
            }
        });
    }
    Ok(match &plain[..] {
        [] => "running".into(),
        addresses => format!("running; the API on {} has no TLS", addresses.join(", ")),
    })
}

/// Ends presence, states and leadership in one stroke.
async fn leave(registry: &Registry, standing: &crate::presence::Standing, lease_file: &PathBuf) {
    if let Some(lease) = standing.lease {
        let revoked = tokio::time::timeout(LEAVE_TIMEOUT, registry.kv().lease_revoke(lease)).await;
        if !matches!(revoked, Ok(Ok(()))) {
            tracing::warn!("failed to leave the cluster: it will notice within the time to live");
        }
    }
    // A successor has nothing to take over.
    let _ = std::fs::remove_file(lease_file);
}

fn announce(states: &[State<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!(
            "failed to notify the service manager: {}",
            telemetry::chain(&error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::unloads;

    #[test]
    fn only_a_stop_unloads() {
        for (job, system, expect) in [
            (Some("restart"), "running", false),
            (Some("restart"), "stopping", false),
            (Some("try-restart"), "running", false),
            (Some("stop"), "running", true),
            (Some("stop"), "stopping", true),
            (None, "running", false),
            (None, "degraded", false),
            (None, "stopping", true),
        ] {
            assert_eq!(unloads(job, system), expect, "{job:?} {system}");
        }
    }
}
