//! Announcing what the units of this machine serve: `announce/SERVICE/UNIT/MACHINE` in the registry.
//!
//! A unit with `Announce=` is announced while it is active, from its text as it runs, under the
//! machine's lease. Decided in [`wanted`]; one task writes the difference to what stands in the
//! registry. What a daemon before this one has left there is read once and then treated as ours.
//!
//! The key's first part is the service's name; a port over UDP, or a further port of the same name,
//! has its own part behind a dot, so that a unit may announce several.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use etcd_kv::{Lease, Range, Txn};
use fleet_model::agent::AgentUnit;
use fleet_model::{Activity, MachineId, TargetState, UnitName, UnitState};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::presence::Standing;
use crate::registry::{Announcement, Key, Mirror, Registry, RegistryError};

/// Announcements in one write; etcd allows 128.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(500);
/// How often the machine's address is looked up again where none is configured.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(60);
const LONGEST_SERVICE: usize = 63;

/// First part of the key, and the unit.
type Place = (String, UnitName);

/// One unit's state, or that it is here no more.
pub type Change = (UnitName, Option<UnitState>);

/// What shall be announced of a unit, in the state it is in, at this address. `None`: as before.
#[must_use]
pub fn wanted(
    unit: Option<&AgentUnit>,
    state: Option<&UnitState>,
    address: Option<IpAddr>,
) -> Option<BTreeMap<String, Announcement>> {
    let (Some(unit), Some(state), Some(address)) = (unit, state, address) else {
        return Some(BTreeMap::new());
    };
    if unit.target != TargetState::Launched || state.activity() != Activity::Active {
        return Some(BTreeMap::new());
    }
    if *state.hash != *unit.hash {
        // It runs an older text, about to be replaced.
        return None;
    }
    let mut out = BTreeMap::new();
    for announce in &unit.requirements.announce {
        let announcement = Announcement {
            address,
            port: announce.port,
            proto: announce.proto.to_string(),
        };
        let mut segment = service_name(&announce.service);
        if announcement.proto != "tcp" {
            segment = format!("{segment}.{}", announcement.proto);
        }
        if out.contains_key(&segment) {
            segment = format!("{segment}.{}", announce.port);
        }
        out.insert(segment, announcement);
    }
    Some(out)
}

/// The name of a service as it is written into keys: what is no letter of such a name becomes `-`.
fn service_name(text: &str) -> String {
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "-_@".contains(c) => c,
        _ => '-',
    };
    text.chars().map(letter).take(LONGEST_SERVICE).collect()
}

/// The service's name in the first part of a key.
#[must_use]
pub fn service_of(segment: &str) -> &str {
    segment.split_once('.').map_or(segment, |(name, _)| name)
}

/// Where changes of the local units' states are told: to whoever publishes them, and here.
#[derive(Debug, Clone)]
pub struct Tell {
    publisher: mpsc::UnboundedSender<Change>,
    announcer: mpsc::UnboundedSender<Change>,
}

impl Tell {
    /// Tells both; the receiver is for [`Announcer::start`].
    #[must_use]
    pub fn new(
        publisher: mpsc::UnboundedSender<Change>,
    ) -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (announcer, receiver) = mpsc::unbounded_channel();
        let tell = Self {
            publisher,
            announcer,
        };
        (tell, receiver)
    }

    /// Passes a change on; false if nobody publishes any more.
    pub fn send(&self, change: Change) -> bool {
        // Without an announcer nothing is announced; that is no reason not to publish.
        let _ = self.announcer.send(change.clone());
        self.publisher.send(change).is_ok()
    }
}

/// The task that announces.
#[derive(Debug)]
pub struct Announcer {
    registry: Registry,
    me: MachineId,
    mirror: Mirror,
    standing: watch::Receiver<Standing>,
    rewinds: watch::Receiver<u64>,
    /// As configured; empty: looked up.
    address: String,
    changes: mpsc::UnboundedReceiver<Change>,
    states: BTreeMap<UnitName, UnitState>,
    /// What stands in the registry under `lease`; `None` until it was read.
    written: Option<BTreeMap<Place, Announcement>>,
    lease: Option<Lease>,
}

impl Announcer {
    /// Starts it, when all units that a daemon before this one left have been told of: what nobody
    /// has told of is no longer announced. `address` is the machine's, or empty to look it up.
    pub fn start(
        registry: Registry,
        me: MachineId,
        mirror: Mirror,
        standing: watch::Receiver<Standing>,
        address: String,
        changes: mpsc::UnboundedReceiver<Change>,
    ) {
        let announcer = Self {
            registry,
            me,
            rewinds: mirror.rewinds(),
            mirror,
            standing,
            address,
            changes,
            states: BTreeMap::new(),
            written: None,
            lease: None,
        };
        tokio::spawn(announcer.run());
    }

    async fn run(mut self) {
        let mut look = interval(ADDRESS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => self.note(change),
                    None => return,
                },
                () = self.mirror.changed() => {}
                changed = self.standing.changed() => if changed.is_err() {
                    return;
                },
                _ = look.tick() => {}
            }
            while let Err(error) = self.bring_up_to_date().await {
                tracing::debug!("announcing waits: {}", telemetry::chain(&error));
                sleep(PAUSE).await;
            }
        }
    }

    fn note(&mut self, (name, state): Change) {
        match state {
            Some(state) => drop(self.states.insert(name, state)),
            None => drop(self.states.remove(&name)),
        }
    }

    /// Writes what has changed, until nothing differs.
    async fn bring_up_to_date(&mut self) -> Result<(), RegistryError> {
        while let Ok(change) = self.changes.try_recv() {
            self.note(change);
        }
        let lease = self.standing.borrow_and_update().lease;
        if lease != self.lease {
            (self.lease, self.written) = (lease, None);
        }
        if self.rewinds.has_changed().unwrap_or(false) {
            self.rewinds.mark_unchanged();
            self.written = None;
        }
        let Some(lease) = lease else { return Ok(()) };
        // Before the wishes are known, nothing can be told from what shall go.
        if !self.mirror.is_ready() {
            return Ok(());
        }
        let written = match self.written.take() {
            Some(written) => written,
            None => self.read_own(lease).await?,
        };
        let wanted = self.wanted(&written);
        let written = self.written.insert(written);
        let gone = written.keys().filter(|place| !wanted.contains_key(*place));
        let new = wanted
            .iter()
            .filter(|(place, a)| written.get(*place) != Some(a));
        let changes: Vec<(Place, Option<Announcement>)> = gone
            .map(|place| (place.clone(), None))
            .chain(new.map(|(place, a)| (place.clone(), Some(a.clone()))))
            .collect();
        for batch in changes.chunks(BATCH) {
            let op = |((segment, unit), announcement): &(Place, Option<Announcement>)| {
                let announcement = announcement.as_ref().map(|a| (a, lease));
                self.registry
                    .announce(segment, unit, &self.me, announcement)
            };
            let txn = Txn {
                then: batch.iter().map(op).collect(),
                ..Txn::new()
            };
            if let Err(source) = self.registry.kv().txn(txn).await {
                // What has become of it is read again.
                self.written = None;
                return Err(RegistryError::Kv {
                    what: "announce services",
                    source,
                });
            }
            for (place, announcement) in batch {
                let (segment, unit) = place;
                match announcement {
                    Some(a) => {
                        tracing::info!(unit = %unit, "announced {segment} of {unit} at {}:{}/{}",
                            a.address, a.port, a.proto);
                        written.insert(place.clone(), a.clone());
                    }
                    None => {
                        tracing::info!(unit = %unit, "no longer announced: {segment} of {unit}");
                        written.remove(place);
                    }
                }
            }
        }
        Ok(())
    }

    fn wanted(&self, written: &BTreeMap<Place, Announcement>) -> BTreeMap<Place, Announcement> {
        let address = if self.address.is_empty() {
            crate::host::default_address().map(IpAddr::from)
        } else {
            self.address.parse().ok()
        };
        let desired = self.mirror.read();
        let mut out = BTreeMap::new();
        for (name, state) in &self.states {
            match wanted(desired.units.get(name), Some(state), address) {
                Some(list) => {
                    out.extend(list.into_iter().map(|(s, a)| ((s, name.clone()), a)));
                }
                None => out.extend(
                    written
                        .iter()
                        .filter(|((_, unit), _)| unit == name)
                        .map(|(place, a)| (place.clone(), a.clone())),
                ),
            }
        }
        out
    }

    /// What stands in the registry for this machine, under this lease.
    async fn read_own(&self, lease: Lease) -> Result<BTreeMap<Place, Announcement>, RegistryError> {
        let range = Range::new(self.registry.announcements());
        let reply = self.registry.kv().range(range).await;
        let reply = reply.map_err(|source| RegistryError::Kv {
            what: "read own announcements",
            source,
        })?;
        let own = reply.kvs.iter().filter(|kv| kv.lease == Some(lease));
        let own = own.filter_map(|kv| match self.registry.read_key(&kv.key) {
            Key::Announcement(segment, unit, machine) if machine == self.me => {
                // One that cannot be read is written anew or removed.
                let a = self.registry.read_announcement(&kv.key, &kv.value);
                let a = a.unwrap_or(Announcement {
                    address: IpAddr::from([0, 0, 0, 0]),
                    port: 0,
                    proto: String::new(),
                });
                Some(((segment, unit), a))
            }
            _ => None,
        });
        Ok(own.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_model::{Phase, Requirements, UnitFile};

    use super::*;

    fn unit(name: &str, text: &str, target: TargetState) -> AgentUnit {
        let file = UnitFile::parse(&format!("[X-Fleet]\n{text}")).unwrap();
        let name = UnitName::parse(name).unwrap();
        AgentUnit {
            hash: file.hash().into(),
            requirements: Arc::new(Requirements::of(&name, &file)),
            file: Arc::new(file),
            target,
            scheduled: None,
            restart: 0,
            result: None,
            answered: 0,
            turns: None,
        }
    }

    fn state(unit: &AgentUnit, active: &str) -> UnitState {
        UnitState {
            hash: unit.hash.to_string(),
            active: active.into(),
            phase: Phase::Launched,
            ..UnitState::claim("")
        }
    }

    fn look(unit: Option<&AgentUnit>, state: Option<&UnitState>, ip: &str) -> Option<String> {
        let wanted = wanted(unit, state, ip.parse().ok())?;
        let text = wanted
            .iter()
            .map(|(s, a)| format!("{s}={}:{}/{}", a.address, a.port, a.proto));
        Some(text.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_unit_is_announced_while_it_is_active_and_ready() {
        use TargetState::{Inactive, Launched, Loaded};
        let ip = "10.0.0.1";
        let web = unit("web@1.service", "Announce=web:80\nAnnounce=8080", Launched);
        let both = Some("web=10.0.0.1:80/tcp web@1=10.0.0.1:8080/tcp".to_owned());
        let none = Some(String::new());
        let active = state(&web, "active");
        let ready = |ready| UnitState {
            ready: Some(ready),
            ended: None,
            ..active.clone()
        };
        for (case, state, expect) in [
            ("active", active.clone(), &both),
            ("reloading", state(&web, "reloading"), &both),
            ("activating", state(&web, "activating"), &none),
            ("failed", state(&web, "failed"), &none),
            ("inactive", state(&web, "inactive"), &none),
            ("ready", ready(true), &both),
            ("not ready", ready(false), &none),
        ] {
            assert_eq!(look(Some(&web), Some(&state), ip), *expect, "{case}");
        }
        for target in [Inactive, Loaded] {
            let web = AgentUnit {
                target,
                ..web.clone()
            };
            assert_eq!(look(Some(&web), Some(&active), ip), none);
        }
        assert_eq!(look(None, Some(&active), ip), none, "destroyed");
        assert_eq!(look(Some(&web), None, ip), none, "not here");
        assert_eq!(look(Some(&web), Some(&active), ""), none, "no address");
        let newer = unit("web@1.service", "Announce=81", Launched);
        assert_eq!(look(Some(&newer), Some(&active), ip), None, "as before");
    }

    #[test]
    fn several_ports_of_a_service_have_keys_of_their_own() {
        let text = "Announce=dns:53/udp\nAnnounce=dns:53\nAnnounce=dns:54\nAnnounce=99/udp";
        let dns = unit("a:b.c.service", text, TargetState::Launched);
        let expect = "a-b-c.udp=::1:99/udp dns=::1:53/tcp dns.54=::1:54/tcp dns.udp=::1:53/udp";
        let active = state(&dns, "active");
        assert_eq!(
            look(Some(&dns), Some(&active), "::1").as_deref(),
            Some(expect)
        );
        let registry = Registry::new(Arc::new(etcd_kv::MemKv::new()), "/");
        let long = format!("Announce={}:1/udp\nAnnounce={0}:2/udp", "x".repeat(63));
        let long = unit("l.service", &long, TargetState::Launched);
        let active = state(&long, "active");
        let name = UnitName::parse("l.service").unwrap();
        let me = MachineId::parse("m").unwrap();
        let all = wanted(Some(&long), Some(&active), "::1".parse().ok()).unwrap();
        assert_eq!(all.len(), 2);
        for segment in all.keys() {
            let etcd_kv::Op::Delete { keys, .. } = registry.announce(segment, &name, &me, None)
            else {
                panic!("not a deletion");
            };
            let etcd_kv::Keys::One(key) = keys else {
                panic!("not one key");
            };
            let expect = Key::Announcement(segment.clone(), name.clone(), me.clone());
            assert_eq!(registry.read_key(&key), expect);
            assert_eq!(service_of(segment), "x".repeat(63));
        }
    }
}
