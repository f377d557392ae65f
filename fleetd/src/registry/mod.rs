//! The registry: what the cluster shall do and what it does, in etcd.
//!
//! Keys below `<etcd_key_prefix>v3/`:
//!
//! | key | value | life |
//! |---|---|---|
//! | `format` | `1` | permanent |
//! | `engine/version` | `1` | permanent; a daemon that knows less does not lead |
//! | `engine/leader` | JSON: machine, version | the leader's lease |
//! | `job/NAME/unit` | the unit's text | until destroyed |
//! | `job/NAME/target` | `inactive`, `loaded`, `launched` | until destroyed |
//! | `job/NAME/schedule` | machine ID | written by the leader only |
//! | `job/NAME/restart` | decimal nonce; a new one asks for a restart | until destroyed |
//! | `job/NAME/result` | JSON: [`fleet_model::BatchResult`] of a batch unit | until started anew or destroyed |
//! | `job/NAME/answered` | decimal: the last failed attempt after which the leader changed the schedule | as `result` |
//! | `job/NAME/turns` | JSON: [`Turns`], which machines may take the text over already | while a global unit's new text is rolled out |
//! | `cordon/MACHINE` | JSON: [`Cordon`] | until lifted |
//! | `metadata/MACHINE/KEY` | text; empty hides the key | permanent |
//! | `rebalance` | JSON: [`Rebalance`] | until the leader has done it |
//! | `moves` | JSON: [`Moves`], what the leader did about the last `rebalance` | permanent |
//! | `presence/MACHINE` | JSON: address, metadata, version | the machine's lease |
//! | `state/NAME/MACHINE` | JSON: [`UnitState`] | the machine's lease |
//! | `announce/SERVICE/UNIT/MACHINE` | JSON: [`Announcement`] | the machine's lease |
//!
//! Wishes (`cordon/`, `job/`, `metadata/`, and `moves`) are one range, so one watch follows them. All that is
//! known of a unit is below its name: nothing is left behind when it is destroyed. Nothing is
//! written that does not change. Beside all this lie the logs that machines ask of each other
//! (`tails`). Values that no daemon can have written are ignored with a warning.

mod follow;
mod keys;
mod mirror;
mod orders;
mod tails;
mod view;

use std::sync::Arc;

use etcd_kv::{Compare, Keys, Kv, KvError, Lease, Op, Range, Txn, TxnReply};
use fleet_model::{Machine, MachineId, TargetState, UnitFile, UnitName, UnitState};

pub use follow::{Follow, Update};
pub use keys::Key;
use keys::Layout;
pub use mirror::{Desired, Mirror};
pub(crate) use orders::read_record;
pub use orders::{Announcement, Cordon, Moves, Rebalance, Turns};
pub use tails::{Asked, Tail};

/// Format of the keys that this daemon knows.
const FORMAT: u32 = 1;
/// States read in one transaction; etcd allows 128.
const READ_AT_ONCE: usize = 100;
/// Version of the engine's rules that this daemon knows.
pub const ENGINE_VERSION: u32 = 1;

/// Failure of the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error("{what}")]
    Kv {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: KvError,
    },
    /// A newer daemon has written here.
    #[error(
        "the registry below {prefix} has format {found}, this daemon knows {FORMAT}; it was written by a newer version"
    )]
    Format {
        /// Where.
        prefix: String,
        /// The format found.
        found: String,
    },
}

impl RegistryError {
    fn kv(what: &'static str) -> impl FnOnce(KvError) -> Self {
        move |source| Self::Kv { what, source }
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Kv { source, .. } if source.is_unavailable())
    }
}

/// How the machines that run a global unit take its new text over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All at once.
    AtOnce,
    /// Each when it is given its turn: see [`Registry::give_turns`].
    InTurns,
}

/// Access to one cluster's registry. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Registry {
    kv: Arc<dyn Kv>,
    layout: Layout,
}

impl Registry {
    /// The registry below `prefix` (with slashes at both ends).
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, prefix: &str) -> Self {
        Self {
            kv,
            layout: Layout::new(prefix),
        }
    }

    /// The store below.
    #[must_use]
    pub fn kv(&self) -> &dyn Kv {
        &*self.kv
    }

    /// Runs a transaction; `what` is said when it fails.
    async fn txn(&self, what: &'static str, txn: Txn) -> Result<TxnReply, RegistryError> {
        self.kv.txn(txn).await.map_err(RegistryError::kv(what))
    }

    /// What all its keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.layout.prefix()
    }

    /// Key of a machine's presence.
    #[must_use]
    pub fn presence_key(&self, machine: &MachineId) -> String {
        self.layout.presence(machine)
    }

    /// Key of the engine's leader.
    #[must_use]
    pub fn leader_key(&self) -> String {
        self.layout.key("engine/leader")
    }

    /// Key of the engine version that the cluster demands.
    #[must_use]
    pub fn engine_version_key(&self) -> String {
        self.layout.key("engine/version")
    }

    /// The wishes: cordons, units and metadata overlays.
    #[must_use]
    pub fn wishes(&self) -> Keys {
        self.layout.wishes()
    }

    /// Everything.
    #[must_use]
    pub fn everything(&self) -> Keys {
        Keys::prefix(self.layout.prefix())
    }

    /// Understands a key.
    #[must_use]
    pub fn read_key(&self, key: &[u8]) -> Key {
        self.layout.read(key)
    }

    /// Writes the format if there is none, and refuses a newer one.
    pub async fn check_format(&self) -> Result<(), RegistryError> {
        let key = self.layout.key("format");
        let version = self.engine_version_key();
        let txn = Txn::new()
            .when(Compare::missing(key.as_str()))
            .then(Op::put(key.as_str(), FORMAT.to_string()))
            .then(Op::put(version, ENGINE_VERSION.to_string()))
            .otherwise(Op::get(key));
        let reply = self.txn("check the format", txn).await?;
        let found = reply
            .kvs(0)
            .first()
            .filter(|_| !reply.succeeded)
            .map(|kv| kv.value_str());
        match found {
            Some(found) if !found.parse::<u32>().is_ok_and(|f| f <= FORMAT) => {
                Err(RegistryError::Format {
                    prefix: self.layout.prefix().to_owned(),
                    found: found.into(),
                })
            }
            _ => Ok(()),
        }
    }

    /// The engine version that the cluster demands.
    pub async fn engine_version(&self) -> Result<u32, RegistryError> {
        let kv = self.kv.get(self.engine_version_key()).await;
        let kv = kv.map_err(RegistryError::kv("read the engine version"))?;
        Ok(kv
            .and_then(|kv| kv.value_str().parse().ok())
            .unwrap_or(ENGINE_VERSION))
    }

    /// Stores a new unit; `None` if there is one of that name already, else the revision.
    pub async fn create(
        &self,
        name: &UnitName,
        file: &UnitFile,
        target: TargetState,
    ) -> Result<Option<i64>, RegistryError> {
        let txn = Txn::new()
            .when(Compare::missing(self.layout.job(name, "unit")))
            .then(Op::put(self.layout.job(name, "unit"), file.to_string()))
            .then(Op::put(self.layout.job(name, "target"), target.as_str()));
        let reply = self.txn("create a unit", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Gives a unit another text and target; `None` if there is no such unit. A result of the old
    /// text goes, and so do its turns.
    pub async fn replace(
        &self,
        name: &UnitName,
        file: &UnitFile,
        target: TargetState,
        pace: Pace,
    ) -> Result<Option<i64>, RegistryError> {
        let turns = self.layout.job(name, "turns");
        let turns = match pace {
            Pace::AtOnce => Op::delete(turns),
            Pace::InTurns => Op::put(turns, orders::json(&Turns::default())),
        };
        let txn = Txn::new()
            .when(Compare::exists(self.layout.job(name, "unit")))
            .then(Op::put(self.layout.job(name, "unit"), file.to_string()))
            .then(Op::put(self.layout.job(name, "target"), target.as_str()))
            .then(turns);
        let txn = self.without_result(txn, name);
        let reply = self.txn("replace a unit", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Sets what is wanted of a unit; `None` if there is no such unit. Launching one that has run to
    /// completion starts it anew, so its result goes.
    pub async fn set_target(
        &self,
        name: &UnitName,
        target: TargetState,
    ) -> Result<Option<i64>, RegistryError> {
        let mut txn = Txn::new()
            .when(Compare::exists(self.layout.job(name, "unit")))
            .then(Op::put(self.layout.job(name, "target"), target.as_str()));
        if target == TargetState::Launched {
            txn = self.without_result(txn, name);
        }
        let reply = self.txn("set a target state", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Removes a unit; `None` if there is no such unit.
    pub async fn destroy(&self, name: &UnitName) -> Result<Option<i64>, RegistryError> {
        let keys = Keys::prefix(self.layout.job(name, ""));
        let txn = Txn::new()
            .when(Compare::exists(self.layout.job(name, "unit")))
            .then(Op::Delete {
                keys,
                previous: false,
            });
        let reply = self.txn("destroy a unit", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Guards and operations of one change of the schedule, to be put into a transaction.
    #[must_use]
    pub fn schedule_change(
        &self,
        task: &fleet_model::engine::EngineTask,
    ) -> (Vec<Compare>, Vec<Op>) {
        use fleet_model::engine::Step;
        let key = self.layout.job(&task.unit, "schedule");
        let was = |from: Option<&MachineId>| match from {
            Some(machine) => Compare::value(key.as_str(), machine.as_str()),
            None => Compare::missing(key.as_str()),
        };
        let (mut guards, op) = match &task.step {
            Step::Schedule { to, from } => {
                let mut guards = vec![
                    was(from.as_ref()),
                    Compare::exists(self.layout.job(&task.unit, "unit")),
                ];
                if let Some(gone) = from {
                    // It may have come back and taken the unit, and we have not heard of it yet.
                    guards.push(Compare::missing(self.layout.state(&task.unit, gone)));
                }
                (guards, Op::put(key.as_str(), to.as_str()))
            }
            Step::Unschedule { from } => (vec![was(Some(from))], Op::delete(key.as_str())),
        };
        let mut ops = vec![op];
        if let Some(attempt) = task.answers {
            // Started anew meanwhile: attempts are counted from the beginning then.
            guards.push(Compare::exists(self.layout.job(&task.unit, "result")));
            let answered = self.layout.job(&task.unit, "answered");
            ops.push(Op::put(answered, attempt.to_string()));
        }
        (guards, ops)
    }

    /// Records that this machine takes a unit, if the schedule still says so: from now on no other
    /// machine gets it before the record is gone.
    pub async fn claim(
        &self,
        name: &UnitName,
        machine: &MachineId,
        global: bool,
        hash: &str,
        lease: Lease,
    ) -> Result<bool, RegistryError> {
        let claim = self.put_state(name, machine, &UnitState::claim(hash), lease);
        let txn = Txn::new()
            .when(self.given_to(name, machine, global))
            .then(claim);
        let reply = self.txn("claim a unit", txn).await?;
        Ok(reply.succeeded)
    }

    /// Whether this machine has a record of a unit under this lease, and the schedule gives the
    /// unit to it: then no other machine gets it before the record is gone.
    pub async fn holds(
        &self,
        name: &UnitName,
        machine: &MachineId,
        global: bool,
        lease: Lease,
    ) -> Result<bool, RegistryError> {
        let record = Compare {
            key: self.layout.state(name, machine).into(),
            condition: etcd_kv::Condition::Lease(Some(lease)),
        };
        let given = self.given_to(name, machine, global);
        let txn = Txn::new().when(given).when(record);
        Ok(self.txn("check a claim", txn).await?.succeeded)
    }

    /// That a machine may have a unit: the schedule says so, or it is global and exists.
    fn given_to(&self, name: &UnitName, machine: &MachineId, global: bool) -> Compare {
        if global {
            Compare::exists(self.layout.job(name, "unit"))
        } else {
            Compare::value(self.layout.job(name, "schedule"), machine.as_str())
        }
    }

    fn put_state(
        &self,
        name: &UnitName,
        machine: &MachineId,
        state: &UnitState,
        lease: Lease,
    ) -> Op {
        let value = serde_json::to_vec(state).expect("plain strings always serialise");
        Op::put_leased(self.layout.state(name, machine), value, lease)
    }

    /// Writes and removes states of this machine, a limited number at once.
    pub async fn publish(
        &self,
        machine: &MachineId,
        changes: &[(UnitName, Option<UnitState>)],
        lease: Lease,
    ) -> Result<(), RegistryError> {
        let op = |(name, state): &(UnitName, Option<UnitState>)| match state {
            Some(state) => self.put_state(name, machine, state, lease),
            None => Op::delete(self.layout.state(name, machine)),
        };
        let txn = Txn {
            then: changes.iter().map(op).collect(),
            ..Txn::new()
        };
        self.txn("publish unit states", txn).await?;
        Ok(())
    }

    /// States of the units with names from `first` to `last`, or of all; with their machines.
    pub async fn states(
        &self,
        names: Option<(&UnitName, &UnitName)>,
    ) -> Result<Vec<(UnitName, MachineId, UnitState)>, RegistryError> {
        let keys = match names {
            None => Keys::prefix(self.layout.key("state/")),
            // '0' follows '/'.
            Some((first, last)) => Keys::Between(
                self.layout.key(&format!("state/{first}/")).into(),
                self.layout.key(&format!("state/{last}0")).into(),
            ),
        };
        let reply = self.kv.range(Range::new(keys)).await;
        let reply = reply.map_err(RegistryError::kv("read unit states"))?;
        let mut out: Vec<_> = reply
            .kvs
            .iter()
            .filter_map(|kv| match self.read_key(&kv.key) {
                Key::State(name, machine) => {
                    let state = read_record(format_args!("{name} on {machine}"), &kv.value)?;
                    Some((name, machine, state))
                }
                _ => None,
            })
            .collect();
        out.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        Ok(out)
    }

    /// Which machines have records of which units, in this order: by unit, then machine.
    pub async fn recorded(&self) -> Result<Vec<(UnitName, MachineId)>, RegistryError> {
        let range = Range {
            keys_only: true,
            ..Range::new(Keys::prefix(self.layout.key("state/")))
        };
        let reply = self.kv.range(range).await;
        let reply = reply.map_err(RegistryError::kv("read which units have states"))?;
        let mut found: Vec<_> = reply
            .kvs
            .iter()
            .filter_map(|kv| match self.read_key(&kv.key) {
                Key::State(name, machine) => Some((name, machine)),
                _ => None,
            })
            .collect();
        // Names of which one begins with the other are in another order among keys.
        found.sort();
        Ok(found)
    }

    /// The states of these units on these machines, in this order; what is gone is left out.
    pub async fn states_of(
        &self,
        records: &[(UnitName, MachineId)],
    ) -> Result<Vec<(UnitName, MachineId, UnitState)>, RegistryError> {
        let mut out = Vec::with_capacity(records.len());
        for batch in records.chunks(READ_AT_ONCE) {
            let get = |(name, machine): &_| Op::get(self.layout.state(name, machine));
            let txn = Txn {
                then: batch.iter().map(get).collect(),
                ..Txn::new()
            };
            let reply = self.txn("read unit states", txn).await?;
            for (i, (name, machine)) in batch.iter().enumerate() {
                if let Some(kv) = reply.kvs(i).first()
                    && let Some(state) = read_record(format_args!("{name} on {machine}"), &kv.value)
                {
                    out.push((name.clone(), machine.clone(), state));
                }
            }
        }
        Ok(out)
    }

    /// Names of the units of which `machine` has a record.
    pub async fn recorded_on(&self, machine: &MachineId) -> Result<Vec<UnitName>, RegistryError> {
        let own = self.recorded().await?.into_iter();
        Ok(own
            .filter(|(_, on)| on == machine)
            .map(|(n, _)| n)
            .collect())
    }

    /// The machines present, by ID.
    pub async fn machines(&self) -> Result<Vec<(MachineId, Machine)>, RegistryError> {
        let reply = self.kv.list(self.layout.key("presence/")).await;
        let reply = reply.map_err(RegistryError::kv("read machines"))?;
        let machines = reply
            .kvs
            .iter()
            .filter_map(|kv| match self.read_key(&kv.key) {
                Key::Presence(id) => {
                    let machine = read_record(format_args!("machine {id}"), &kv.value)?;
                    Some((id, machine))
                }
                _ => None,
            });
        Ok(machines.collect())
    }

    /// Sets (`Some`) or hides (`None`) metadata of machines, in order.
    pub async fn patch_metadata(
        &self,
        changes: &[(MachineId, String, Option<String>)],
    ) -> Result<i64, RegistryError> {
        let mut revision = 0;
        // One write per key and transaction is allowed, and order matters: so one by one.
        for (machine, key, value) in changes {
            let key = self.layout.key(&format!("metadata/{machine}/{key}"));
            let reply = self.kv.put(key, value.as_deref().unwrap_or(""), None).await;
            revision = reply.map_err(RegistryError::kv("write metadata"))?.revision;
        }
        Ok(revision)
    }
}
