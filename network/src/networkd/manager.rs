//! The daemon's state and its loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::claim::Claim;
use super::kernel::{Change, Kernel};
use super::port::{Outcome, Port};
use super::publish::Places;
use super::steps::{conclude, perform_step, read_sysctl};
use super::{facts, hostname, identity};
use crate::config::{HostFacts, LinkFacts, NetworkFile, choose, search};
use crate::dhcp::{Client, Event, Lease};
use crate::files::Writer;
use crate::netlink::socket::groups;
use crate::netlink::{Handle, Link, Monitor, NetlinkError};
use crate::plan::{Actual, Step, Wanted, kernel_settings, plan};

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The kernel cannot be talked to.
    #[error("failed to watch the kernel's links")]
    Netlink(#[source] NetlinkError),
    /// Signals cannot be received.
    #[error("failed to receive signals")]
    Signals(#[source] std::io::Error),
    /// Waiting failed.
    #[error("failed to wait for events")]
    Poll(#[source] std::io::Error),
}

/// A link the kernel has, with what we decided about it.
#[derive(Debug)]
pub(super) struct ManagedLink {
    pub(super) facts: LinkFacts,
    /// The file it got, also when that says "unmanaged".
    pub(super) file: Option<NetworkFile>,
    altnames: Vec<String>,
    activated: bool,
    pub(super) port: Option<Port>,
    pub(super) claim: Option<Claim>,
    /// The last plan was empty.
    pub(super) settled: bool,
    /// What the kernel refused.
    pub(super) failure: Option<String>,
    /// Gateways of the default routes we set.
    pub(super) gateways: Vec<IpAddr>,
    /// Steps done lately, so that a kernel that undoes them is not fought for ever.
    repeated: BTreeMap<Step, u32>,
    repeated_since: u64,
}

impl ManagedLink {
    /// The lease in force.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.port.as_ref()?.client.lease()
    }

    /// The file, unless it says "unmanaged".
    pub(super) fn managing_file(&self) -> Option<&NetworkFile> {
        self.file.as_ref().filter(|f| !f.settings.unmanaged)
    }
}

/// Steps of one kind in one minute after which we stop repeating them.
const MOST_REPEATS: u32 = 5;
const REPEAT_WINDOW: u64 = 60_000;
/// Milliseconds until refused steps are tried again.
const RETRY_REFUSED: u64 = 10_000;

/// The daemon.
#[derive(Debug)]
pub struct Manager {
    pub(super) root: PathBuf,
    pub(super) places: Places,
    pub(super) handle: Handle,
    pub(super) monitor: Monitor,
    pub(super) signals: OwnedFd,
    pub(super) kernel: Kernel,
    pub(super) host: HostFacts,
    pub(super) files: Vec<NetworkFile>,
    pub(super) links: BTreeMap<u32, ManagedLink>,
    pub(super) writer: Writer,
    pub(super) masquerading: Option<String>,
    pub(super) stop: bool,
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Milliseconds of the boot clock.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}

impl Manager {
    /// Reads files below `root` and lists the kernel's links.
    pub fn new(root: &Path) -> Result<Self, ManagerError> {
        let signals = syscalls::signal::signalfd(&[SIGHUP, SIGINT, SIGTERM])
            .map_err(ManagerError::Signals)?;
        let wanted = groups::LINK
            | groups::IPV4_ADDRESS
            | groups::IPV4_ROUTE
            | groups::IPV6_ADDRESS
            | groups::IPV6_ROUTE;
        // Listening begins before listing, so that no change falls between them.
        let monitor = Monitor::new(wanted).map_err(ManagerError::Netlink)?;
        let mut manager = Self {
            root: root.to_owned(),
            places: Places::new(root),
            handle: Handle::new().map_err(ManagerError::Netlink)?,
            monitor,
            signals,
            kernel: Kernel::default(),
            host: facts::host(root),
            files: Vec::new(),
            links: BTreeMap::new(),
            writer: Writer::default(),
            masquerading: None,
            stop: false,
        };
        manager.load_files();
        manager
            .kernel
            .list(&mut manager.handle, now())
            .map_err(ManagerError::Netlink)?;
        Ok(manager)
    }

    /// Runs until SIGTERM. Stopping takes nothing down.
    pub fn run(&mut self) -> Result<(), ManagerError> {
        self.reconcile();
        notify(&[
            sd_daemon::State::Ready,
            sd_daemon::State::Status("links are being managed"),
        ]);
        while !self.stop {
            self.wait()?;
            let time = now();
            self.handle_signals();
            self.handle_kernel(time)?;
            self.handle_ports(time);
            self.reconcile();
        }
        notify(&[sd_daemon::State::Stopping]);
        Ok(())
    }

    fn wait(&self) -> Result<(), ManagerError> {
        let mut fds = vec![
            PollFd::new(&self.monitor, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let ports = self.links.values().filter_map(|l| l.port.as_ref());
        let claims = self.links.values().filter_map(|l| l.claim.as_ref());
        fds.extend(
            ports
                .clone()
                .filter_map(Port::fd)
                .chain(claims.clone().filter_map(Claim::fd))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        // What the kernel refused is tried again, because not every obstacle that goes away is announced.
        let refused = self.links.values().any(|l| l.failure.is_some());
        let again = refused.then(|| now() + RETRY_REFUSED);
        let claiming = claims.filter_map(|c| c.claimer.deadline());
        let serving = ports.filter_map(|p| p.client.deadline());
        let due = serving.chain(claiming).chain(again).min();
        // One millisecond more, or rounding would wake us just before the deadline.
        let timeout = due.map(|due| Duration::from_millis(due.saturating_sub(now()) + 1));
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(ManagerError::Poll(e.into())),
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = syscalls::signal::read(self.signals.as_fd()) {
            if signal.signal == SIGHUP {
                notify(&[sd_daemon::State::Reloading]);
                self.load_files();
                for link in self.links.values_mut() {
                    link.repeated.clear();
                }
                let indexes: Vec<u32> = self.links.keys().copied().collect();
                indexes
                    .into_iter()
                    .for_each(|index| self.choose_file(index));
                notify(&[sd_daemon::State::Ready]);
            } else {
                self.stop = true;
            }
        }
    }

    fn handle_kernel(&mut self, time: u64) -> Result<(), ManagerError> {
        let kernel = &mut self.kernel;
        let mut relist = false;
        let complete = self
            .monitor
            .drain(|message| relist |= kernel.apply(message, time) == Change::Relist)
            .map_err(ManagerError::Netlink)?;
        if relist || !complete {
            self.kernel
                .list(&mut self.handle, time)
                .map_err(ManagerError::Netlink)?;
        }
        Ok(())
    }

    fn handle_ports(&mut self, time: u64) {
        let mut outcomes = Vec::new();
        for (index, link) in &mut self.links {
            if let Some(claim) = &mut link.claim {
                claim.serve(time);
            }
            if let Some(port) = &mut link.port {
                let mut news = port.receive(time);
                if port.client.deadline().is_some_and(|due| due <= time) {
                    news.extend(port.handle(time, Event::Tick));
                }
                outcomes.extend(news.into_iter().map(|n| (*index, n)));
            }
        }
        outcomes
            .into_iter()
            .for_each(|(index, outcome)| self.lease_changed(index, outcome));
    }

    fn load_files(&mut self) {
        let (files, remarks) = search::load(&search::directories(&self.root));
        for remark in remarks {
            tracing::warn!("{remark}");
        }
        self.host = facts::host(&self.root);
        self.files = files;
    }

    /// Brings everything in line with what is known now.
    fn reconcile(&mut self) {
        self.follow_links();
        let time = now();
        let indexes: Vec<u32> = self.links.keys().copied().collect();
        for index in indexes {
            self.follow_carrier(index, time);
            // A second round does what the first made possible: addresses after "up".
            for _ in 0..3 {
                if !self.perform(index, time) || self.handle_kernel(time).is_err() {
                    break;
                }
                self.follow_carrier(index, time);
            }
        }
        self.publish();
    }

    /// Notices new, gone and renamed links.
    fn follow_links(&mut self) {
        let gone: Vec<u32> = self
            .links
            .keys()
            .filter(|i| !self.kernel.links.contains_key(i))
            .copied()
            .collect();
        for index in gone {
            self.links.remove(&index);
            for path in [self.places.link(index), self.places.lease(index)] {
                report(self.writer.remove(&path), "failed to remove a state file");
            }
        }
        let new_or_changed: Vec<Link> = self
            .kernel
            .links
            .values()
            .filter(|link| {
                !link.is_loopback()
                    && self.links.get(&link.index).is_none_or(|known| {
                        (&known.facts.name, &known.facts.altnames, known.facts.mac)
                            != (&link.name, &link.altnames, link.mac)
                    })
            })
            .cloned()
            .collect();
        for link in new_or_changed {
            let facts = facts::link(&link);
            match self.links.get_mut(&link.index) {
                Some(known) => known.facts = facts,
                None => {
                    let managed = ManagedLink {
                        facts,
                        file: None,
                        altnames: Vec::new(),
                        activated: false,
                        port: None,
                        claim: None,
                        settled: false,
                        failure: None,
                        gateways: Vec::new(),
                        repeated: BTreeMap::new(),
                        repeated_since: now(),
                    };
                    self.links.insert(link.index, managed);
                }
            }
            self.choose_file(link.index);
        }
    }

    /// Finds the file for a link, and starts or ends what differs from the one before.
    fn choose_file(&mut self, index: u32) {
        let (Some(managed), Some(link)) =
            (self.links.get_mut(&index), self.kernel.links.get(&index))
        else {
            return;
        };
        let file = choose(&self.files, &managed.facts, &self.host);
        let unchanged = match (&managed.file, file) {
            (Some(a), Some(b)) => a == b,
            (None, None) => true,
            _ => false,
        };
        let speaks = managed.port.as_ref().map(|p| p.client.params().mac);
        let claims = managed.claim.as_ref().map(|c| c.claimer.mac());
        let mac_changed = speaks.or(claims).is_some_and(|mac| Some(mac) != link.mac);
        if unchanged && !mac_changed {
            return;
        }
        match file.filter(|f| !f.settings.unmanaged) {
            Some(file) => tracing::info!(
                link = link.name,
                file = file.path,
                "{} gets {}",
                link.name,
                file.path
            ),
            None if managed.managing_file().is_some() => {
                tracing::info!(
                    link = link.name,
                    "{} is not managed any more, left as it is",
                    link.name
                );
                let gone = self.writer.remove(&self.places.link(index));
                report(gone, "failed to remove a state file");
            }
            None => {}
        }
        let dhcp_changed = managed
            .managing_file()
            .map(|f| (f.settings.dhcp4, &f.settings.dhcp, f.settings.keep))
            != file
                .filter(|f| !f.settings.unmanaged)
                .map(|f| (f.settings.dhcp4, &f.settings.dhcp, f.settings.keep));
        managed.file = file.cloned();
        managed.failure = None;
        managed.repeated.clear();
        managed.activated &= managed.file.is_some();
        managed.altnames = if managed.managing_file().is_some() {
            facts::stable_names(link)
        } else {
            Vec::new()
        };
        let claims = managed
            .managing_file()
            .is_some_and(|f| f.settings.link_local_v4);
        let mac = link.mac.filter(|_| claims && link.hardware == 1);
        if managed.claim.as_ref().map(|c| c.claimer.mac()) != mac {
            let held = self.kernel.claimed_address(index);
            managed.claim = mac.map(|mac| Claim::new(index, &link.name, mac, held));
        }
        if dhcp_changed || mac_changed {
            self.replace_port(index, mac_changed);
        }
    }

    /// Makes, changes or ends a link's DHCP client. A lease is kept where the client goes on.
    fn replace_port(&mut self, index: u32, mac_changed: bool) {
        let (Some(managed), Some(link)) =
            (self.links.get_mut(&index), self.kernel.links.get(&index))
        else {
            return;
        };
        managed.port = None;
        let Some(file) = managed.managing_file() else {
            return;
        };
        if !file.settings.dhcp4 {
            report(
                self.writer.remove(&self.places.lease(index)),
                "failed to remove a lease",
            );
            return;
        }
        let Some(mac) = link.mac.filter(|_| link.hardware == 1) else {
            tracing::warn!(
                link = link.name,
                "{}: DHCP is only for Ethernet links",
                link.name
            );
            return;
        };
        if mac_changed {
            report(
                self.writer.remove(&self.places.lease(index)),
                "failed to remove a lease",
            );
        }
        let params = identity::params(
            mac,
            &file.settings.dhcp,
            file.settings.keep.expired_lease,
            &self.host,
        );
        managed.port = Some(Port::new(
            index,
            &link.name,
            Client::new(params, identity::seed(mac, now())),
        ));
    }

    /// Starts and pauses the DHCP client with the carrier.
    fn follow_carrier(&mut self, index: u32, time: u64) {
        let (Some(managed), Some(link)) =
            (self.links.get_mut(&index), self.kernel.links.get(&index))
        else {
            return;
        };
        let ready = link.is_up() && link.has_carrier();
        if let Some(claim) = &mut managed.claim {
            claim.follow(time, ready);
        }
        let Some(port) = &mut managed.port else {
            return;
        };
        let outcomes = match (ready, port.client.is_stopped()) {
            (true, true) => {
                let kept = std::fs::read_to_string(self.places.lease(index)).ok();
                let kept = kept.and_then(|text| Lease::parse(&text));
                port.handle(time, Event::Start(kept.as_ref()))
            }
            (false, false) => {
                tracing::info!(link = link.name, "{}: no carrier", link.name);
                port.handle(time, Event::CarrierLost)
            }
            _ => Vec::new(),
        };
        outcomes
            .into_iter()
            .for_each(|outcome| self.lease_changed(index, outcome));
    }

    fn lease_changed(&mut self, index: u32, outcome: Outcome) {
        let Some(managed) = self.links.get_mut(&index) else {
            return;
        };
        let name = managed.facts.name.clone();
        managed.repeated.clear();
        match outcome {
            Outcome::Acquired(lease) => {
                tracing::info!(
                    link = name,
                    "{name}: DHCP lease of {} from {}, {} s",
                    lease.cidr(),
                    lease.server,
                    lease.lifetime
                );
                let written = self.writer.put(self.places.lease(index), lease.to_text());
                report(written, "failed to write a lease");
                let wanted = managed
                    .managing_file()
                    .is_some_and(|f| f.settings.dhcp.use_hostname);
                if let Some(given) = lease.hostname.filter(|_| wanted)
                    && !hostname::is_configured(&self.root, &self.host.command_line)
                {
                    report(hostname::set(&given), "failed to set the host name");
                }
            }
            Outcome::Lost(lease) => {
                tracing::warn!(
                    link = name,
                    "{name}: DHCP lease of {} is gone",
                    lease.cidr()
                );
                report(
                    self.writer.remove(&self.places.lease(index)),
                    "failed to remove a lease",
                );
            }
        }
    }

    /// Plans for a link and does the steps; whether there were any that are worth another look.
    fn perform(&mut self, index: u32, time: u64) -> bool {
        let (Some(managed), Some(link)) =
            (self.links.get_mut(&index), self.kernel.links.get(&index))
        else {
            return false;
        };
        let Some(file) = managed.file.as_ref().filter(|f| !f.settings.unmanaged) else {
            return false;
        };
        let sysctl = kernel_settings(&link.name, &file.settings).into_iter();
        let actual = Actual {
            link: link.clone(),
            addresses: self.kernel.addresses(index),
            routes: self.kernel.routes(index),
            sysctl: sysctl
                .filter_map(|(path, _)| read_sysctl(&path).map(|v| (path, v)))
                .collect(),
        };
        let lease = managed.port.as_ref().and_then(|p| p.client.lease());
        let wanted = Wanted {
            settings: &file.settings,
            lease,
            link_local: managed.claim.as_ref().and_then(|c| c.claimer.address()),
            altnames: &managed.altnames,
            activated: managed.activated,
        };
        let steps = plan(&actual, wanted, time);
        managed.activated = true;
        let defaults = actual.routes.iter().filter(|r| r.prefix == 0);
        managed.gateways = defaults
            .filter_map(|r| r.gateway)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        managed.settled = steps.is_empty();
        if managed.settled {
            managed.failure = None;
        }
        if time.saturating_sub(managed.repeated_since) > REPEAT_WINDOW {
            managed.repeated.clear();
            managed.repeated_since = time;
        }
        let mut done = false;
        for step in steps {
            let count = managed.repeated.entry(step.clone()).or_insert(0);
            *count += 1;
            if *count <= MOST_REPEATS {
                done = true;
                let result = perform_step(&mut self.handle, &step);
                conclude(
                    managed,
                    &step,
                    *managed.repeated.get(&step).unwrap_or(&1),
                    result,
                );
            } else if matches!(step, Step::AltName(..) | Step::PutRoute(..)) {
                // Somebody else has the name, or a route that says the same: not worth failing the link.
                managed.settled = true;
            }
        }
        done
    }
}

/// The manager not hearing us is no reason to stop serving.
fn notify(states: &[sd_daemon::State<'_>]) {
    if let Err(error) = sd_daemon::notify(states) {
        tracing::warn!("{}", telemetry::chain(&error));
    }
}

pub(super) fn report<T>(result: std::io::Result<T>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}
