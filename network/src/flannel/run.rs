//! The program: find the link, read the network's description, claim a subnet, follow the others.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{Credentials, EtcdConfig, EtcdKv, KvError, Tls, TlsError, Watch};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::device::{self, Device, DeviceError, External};
use super::model::{Attributes, Config};
use super::news::{News, listen};
use super::options::{Command, HELP, Options, parse};
use super::output;
use super::plan::{Here, Unusable, plan, wanted};
use super::store::{Claim, Snapshot, Store, StoreError, TTL};
use crate::netlink::socket::groups;
use crate::netlink::{Handle, Monitor, NetlinkError};

const PROGRAM: &str = "flanneld";
/// Between attempts to do what could not be done: 1, 2, 4, then this many seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Until the next attempt to repair: a device that is on its way out refuses everything for a moment.
const REPAIR_AGAIN: Duration = Duration::from_secs(2);
/// Until the next attempt to renew.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("failed to start")]
    Start(#[source] std::io::Error),
    #[error("failed to reach etcd")]
    Endpoints(#[source] KvError),
    #[error("-etcd-cafile, -etcd-certfile, -etcd-keyfile")]
    Tls(#[source] TlsError),
    #[error("failed to talk to the kernel")]
    Netlink(#[source] NetlinkError),
    #[error("failed to set up the overlay")]
    Device(#[source] DeviceError),
    #[error("failed to write {path}")]
    Write {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "the subnet {subnet} was taken by {owner} while this machine was away; containers here keep addresses of it until they are started anew"
    )]
    Lost { subnet: String, owner: String },
}

/// Runs the program; `arguments` are those behind its name.
pub fn main(arguments: &[String]) -> ExitCode {
    let environment = std::env::vars_os().map(|(k, v)| {
        (
            k.to_string_lossy().into_owned(),
            v.to_string_lossy().into_owned(),
        )
    });
    let options = match parse(arguments, environment) {
        Ok(Command::Run(options)) => *options,
        Ok(Command::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            print!("{}", crate::version_line(PROGRAM));
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{PROGRAM}: {message}\nhint: {PROGRAM} --help");
            return ExitCode::from(2);
        }
    };
    telemetry::init(PROGRAM, telemetry::Sink::detect(), 0);
    for name in &options.ignored {
        tracing::warn!("{name} has no effect here");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(RunError::Start)
        .and_then(|r| r.block_on(run(options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::report(PROGRAM, &error, None),
    }
}

/// Serves until SIGTERM or SIGINT. Stopping takes nothing down.
async fn run(options: Options) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Start)?;
    let mut etcd = EtcdConfig::new(&options.endpoints).map_err(RunError::Endpoints)?;
    if !options.username.is_empty() {
        etcd.credentials = Some(Credentials {
            user: options.username.clone(),
            password: options.password.clone(),
        });
    }
    etcd.tls = Tls::for_endpoints(&etcd.endpoints, &options.tls).map_err(RunError::Tls)?;
    let store = Store::new(Arc::new(EtcdKv::new(etcd)), &options.prefix);
    tokio::select! {
        result = serve(options, store) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn serve(options: Options, store: Store) -> Result<(), RunError> {
    let mut handle = Handle::new().map_err(RunError::Netlink)?;
    let monitor = Monitor::new(groups::LINK | groups::IPV4_ADDRESS | groups::IPV4_ROUTE)
        .map_err(RunError::Netlink)?;
    let news = listen(monitor).map_err(RunError::Start)?;

    let external = patiently("the link to the other machines", async || {
        device::external(&mut handle, &options.interfaces)
    })
    .await;
    let public_ip = options.public_ip.unwrap_or(external.address);
    tracing::info!(
        "other machines are reached by {} and reach this one at {public_ip}",
        external.name
    );
    let config = patiently("the network's description in etcd", async || {
        store.config().await
    })
    .await;
    if config.backend_is_default {
        tracing::warn!(
            "the description names no Backend; the original would take udp, this one takes vxlan"
        );
    }
    let device =
        device::ensure_vxlan(&mut handle, config.backend, &external).map_err(RunError::Device)?;
    let own = Attributes::new(public_ip, config.backend, device.as_ref().map(|d| d.mac));
    let previous = output::previous_subnet(&options.subnet_file, config.network);
    let claim = patiently("a subnet from etcd", async || {
        store.acquire(&config, &own, previous, random).await
    })
    .await;

    let mut overlay = Overlay {
        options,
        store,
        handle,
        external,
        config,
        device,
        own,
        claim,
    };
    overlay.publish()?;
    let subnet = overlay.claim.subnet;
    tracing::info!("this machine has {subnet} of {}", overlay.config.network);
    notify(&[
        sd_daemon::State::Ready,
        sd_daemon::State::Status(&format!("subnet {subnet}")),
    ]);
    overlay.follow(news).await
}

/// Everything that is known once the machine has its subnet.
#[derive(Debug)]
struct Overlay {
    options: Options,
    store: Store,
    handle: Handle,
    external: External,
    config: Config,
    device: Option<Device>,
    own: Attributes,
    claim: Claim,
}

impl Overlay {
    /// Sets up the device, the packet filter, and the files that others read.
    fn publish(&mut self) -> Result<(), RunError> {
        let (network, subnet) = (self.config.network, self.claim.subnet);
        if let Some(device) = &self.device {
            device::configure(&mut self.handle, device, subnet).map_err(RunError::Device)?;
        }
        forward_packets();
        let masquerade = self.options.masquerade;
        if let Err(error) = crate::nft::load(&output::rules(network, subnet, masquerade)) {
            tracing::warn!(%error, "failed to set the masquerading rules");
        }
        let mtu = device::overlay_mtu(self.config.backend, &self.external);
        let files = [
            (
                &self.options.subnet_file,
                output::subnet_env(network, subnet, mtu, masquerade),
            ),
            (
                &self.options.docker_file,
                output::docker_options(subnet, mtu, masquerade),
            ),
        ];
        for (path, text) in files {
            output::write(path, &text).map_err(|source| RunError::Write {
                path: path.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Follows the other machines, renews our lease, and repairs what others break.
    async fn follow(&mut self, mut news: mpsc::Receiver<News>) -> Result<(), RunError> {
        let (mut snapshot, mut watch) = self.begin_watch().await;
        let mut unusable = Vec::new();
        self.sync(&snapshot, &mut unusable);
        self.check_claim(&snapshot).await?;
        let mut renewal = Instant::now() + self.renewal_after(TTL);
        let mut broken = false;
        loop {
            tokio::select! {
                batch = watch.next() => match batch {
                    Ok(batch) => {
                        self.store.apply(&mut snapshot, &batch.events);
                        self.sync(&snapshot, &mut unusable);
                        self.check_claim(&snapshot).await?;
                    }
                    Err(error) => {
                        // The data path stays as it is until the leases can be listed again.
                        tracing::warn!("lost sight of the other machines: {}", telemetry::chain(&error));
                        (snapshot, watch) = self.begin_watch().await;
                        self.sync(&snapshot, &mut unusable);
                        self.check_claim(&snapshot).await?;
                    }
                },
                () = sleep_until(renewal) => renewal = Instant::now() + self.renew().await?,
                Some(first) = news.recv() => if self.concerned(first, &mut news) {
                    broken = self.repair(&snapshot, &mut unusable).await?;
                },
                () = sleep(REPAIR_AGAIN), if broken => {
                    broken = self.repair(&snapshot, &mut unusable).await?;
                }
            }
        }
    }

    async fn begin_watch(&self) -> (Snapshot, Watch) {
        patiently("the other machines' subnets in etcd", async || {
            let snapshot = self.store.snapshot().await?;
            let watch = self.store.watch(&snapshot).await?;
            Ok::<_, StoreError>((snapshot, watch))
        })
        .await
    }

    /// Brings the kernel in line with the leases.
    fn sync(&mut self, snapshot: &Snapshot, unusable: &mut Vec<Unusable>) {
        let here = Here {
            backend: self.config.backend,
            subnet: self.claim.subnet,
            device: self.device.as_ref().map_or(0, |d| d.index),
            external: self.external.index,
            external_network: self.external.network,
        };
        let (objects, bad) = wanted(here, &snapshot.leases);
        for lease in bad.iter().filter(|b| !unusable.contains(b)) {
            tracing::warn!(
                "the lease of {} is not used: {}",
                lease.subnet,
                lease.reason
            );
        }
        *unusable = bad;
        let actual = match device::objects(&mut self.handle, self.device.as_ref()) {
            Ok(actual) => actual,
            Err(error) => {
                tracing::warn!("{}", telemetry::chain(&error));
                return;
            }
        };
        for step in plan(&actual, &objects) {
            tracing::debug!(?step, "overlay");
            if let Err(error) = device::perform(&mut self.handle, &step) {
                tracing::warn!("{}", telemetry::chain(&error));
            }
        }
    }

    /// Claims our subnet again if the lease ended while etcd was away, or somebody deleted it.
    async fn check_claim(&mut self, snapshot: &Snapshot) -> Result<(), RunError> {
        let holder = snapshot.leases.get(&self.claim.subnet);
        if holder.is_some_and(|h| *h == self.own) {
            return Ok(());
        }
        self.reclaim().await
    }

    async fn reclaim(&mut self) -> Result<(), RunError> {
        let subnet = self.claim.subnet;
        let (store, own, config, claim) = (&self.store, &self.own, &self.config, &self.claim);
        let again = patiently("our subnet again", async || {
            match store.owner(claim).await? {
                None => store.create(subnet, own).await,
                // The record is ours but not as we wrote it.
                Some(owner) if owner == own.public_ip => store
                    .acquire(config, own, Some(subnet), random)
                    .await
                    .map(Some),
                Some(_) => Ok(None),
            }
        })
        .await;
        match again {
            Some(claim) if claim.subnet == subnet => {
                tracing::warn!("the lease of {subnet} was gone, claimed it again");
                self.claim = claim;
                Ok(())
            }
            _ => {
                let owner = self.store.owner(&self.claim).await.ok().flatten();
                let owner = owner.map_or_else(|| "another machine".to_owned(), |o| o.to_string());
                Err(RunError::Lost {
                    subnet: subnet.to_string(),
                    owner,
                })
            }
        }
    }

    /// How long to wait before renewing a lease that has so much time.
    fn renewal_after(&self, left: Duration) -> Duration {
        left.checked_sub(self.options.renew_margin)
            .unwrap_or_default()
            .max(left / 2)
    }

    /// Renews; how long until the next time.
    async fn renew(&mut self) -> Result<Duration, RunError> {
        match self.store.renew(&self.claim).await {
            Ok(left) => {
                tracing::info!(
                    "lease of {} renewed, {} s",
                    self.claim.subnet,
                    left.as_secs()
                );
                Ok(self.renewal_after(left))
            }
            Err(KvError::LeaseNotFound { .. }) => {
                self.reclaim().await?;
                Ok(self.renewal_after(TTL))
            }
            Err(error) => {
                tracing::warn!(
                    "failed to renew the lease, again in a minute: {}",
                    telemetry::chain(&error)
                );
                Ok(RENEW_AGAIN)
            }
        }
    }

    /// Whether any of the waiting news is about the overlay. Our own changes give news too; the plan then is empty.
    fn concerned(&self, first: News, rest: &mut mpsc::Receiver<News>) -> bool {
        let device = self.device.as_ref().map_or(0, |d| d.index);
        let matters = |news: News| match news {
            News::Link(index) => index == device || index == self.external.index,
            News::RouteGone | News::SomeLost => true,
        };
        std::iter::once(first)
            .chain(std::iter::from_fn(|| rest.try_recv().ok()))
            .fold(false, |any, n| any | matters(n))
    }

    /// Puts right what others changed. Whether it must be tried again.
    async fn repair(
        &mut self,
        snapshot: &Snapshot,
        unusable: &mut Vec<Unusable>,
    ) -> Result<bool, RunError> {
        let repaired = self.repair_device();
        if let Err(error) = &repaired {
            tracing::warn!("{}", telemetry::chain(error));
        }
        self.tell_address().await?;
        self.sync(snapshot, unusable);
        Ok(repaired.is_err())
    }

    /// Makes the device anew if it is gone, and brings it up.
    fn repair_device(&mut self) -> Result<(), DeviceError> {
        match device::external(&mut self.handle, &self.options.interfaces) {
            Ok(external) => self.external = external,
            // Between two addresses there may be none: what is there goes on.
            Err(error) => tracing::warn!("{}", telemetry::chain(&error)),
        }
        self.device = device::ensure_vxlan(&mut self.handle, self.config.backend, &self.external)?;
        match &self.device {
            Some(device) => device::configure(&mut self.handle, device, self.claim.subnet),
            None => Ok(()),
        }
    }

    /// Where this machine's own address changed, the others are told, so that containers keep their subnet.
    async fn tell_address(&mut self) -> Result<(), RunError> {
        let public_ip = self.options.public_ip.unwrap_or(self.external.address);
        let mac = self.device.as_ref().map(|d| d.mac);
        let own = Attributes::new(public_ip, self.config.backend, mac);
        if own == self.own {
            return Ok(());
        }
        tracing::warn!("other machines now reach this one at {public_ip}");
        let (store, claim) = (&self.store, &self.claim);
        patiently("telling the other machines our address", async || {
            store.tell(claim, &own).await
        })
        .await;
        self.own = own;
        self.publish()
    }
}

/// Tries until it works. Says what is missing when that changes, not every time.
async fn patiently<T, E: std::error::Error + 'static>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut said = String::new();
    let mut pause = Duration::from_secs(1);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                let text = telemetry::chain(&error);
                if text != said {
                    tracing::warn!("waiting for {what}: {text}");
                    notify(&[sd_daemon::State::Status(&format!(
                        "waiting for {what}: {text}"
                    ))]);
                    said = text;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Containers' packets pass through this machine.
fn forward_packets() {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(PATH).is_ok_and(|v| v.trim() == "0")
        && let Err(error) = std::fs::write(PATH, "1")
    {
        tracing::warn!(%error, "failed to allow forwarding");
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without it the choice is the first free subnet, and races are run again.
    let _ = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(bytes)
}

/// The manager not hearing us is no reason to stop serving.
fn notify(states: &[sd_daemon::State<'_>]) {
    if let Err(error) = sd_daemon::notify(states) {
        tracing::warn!("{}", telemetry::chain(&error));
    }
}
