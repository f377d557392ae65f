//! What operators ask for beyond target states (cordons, restarts, rebalancing), what came of batch
//! units, and announced services: the values, and reading and writing them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use etcd_kv::{Compare, Keys, Lease, Op, Txn};
use fleet_model::{BatchResult, MachineId, UnitName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Key, Registry, RegistryError};

/// Longest text inside a record.
const LONGEST_TEXT: usize = 256;

/// A machine that gets no new units.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cordon {
    /// Those it has shall go elsewhere, too.
    #[serde(default)]
    pub drain: bool,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// Who said so.
    #[serde(default)]
    pub by: String,
}

/// A request to spread units anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// How many units may move.
    pub budget: u32,
    /// When it was asked for, RFC 3339.
    #[serde(default)]
    pub requested: String,
}

/// What the leader did about the last request to spread units anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moves {
    /// How many units move.
    pub moved: u32,
    /// Those that move and the machine that each leaves; not all, if there are very many.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
}

impl Moves {
    /// As many of them as a record holds.
    #[must_use]
    pub fn new<'a>(moves: impl IntoIterator<Item = (&'a UnitName, &'a MachineId)>) -> Self {
        let mut record = Self::default();
        let mut left = Self::LONGEST / 2;
        for (unit, from) in moves {
            record.moved = record.moved.saturating_add(1);
            let size = unit.as_str().len() + from.as_str().len() + r#""":"","#.len();
            if let Some(rest) = left.checked_sub(size) {
                left = rest;
                record.units.insert(unit.to_string(), from.to_string());
            }
        }
        record
    }
}

/// The machines whose turn it is, or has been, to take a global unit's new text over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Turns {
    /// Their IDs.
    pub machines: BTreeSet<String>,
}

impl Turns {
    /// Their IDs, as far as they are some.
    #[must_use]
    pub fn machines(&self) -> BTreeSet<MachineId> {
        let ids = self.machines.iter();
        ids.filter_map(|id| MachineId::parse(id)).collect()
    }
}

/// Where an announced service can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Address of the machine.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub proto: String,
}

/// A record that may be written by others, checked beyond its shape.
pub(crate) trait Record: DeserializeOwned {
    /// Longest value in bytes.
    const LONGEST: usize = 4096;
    /// Its texts.
    fn texts(&self) -> Vec<&str>;
}

impl Record for Cordon {
    fn texts(&self) -> Vec<&str> {
        vec![&self.since, &self.by]
    }
}

impl Record for Rebalance {
    fn texts(&self) -> Vec<&str> {
        vec![&self.requested]
    }
}

impl Record for Moves {
    const LONGEST: usize = 1 << 18;

    fn texts(&self) -> Vec<&str> {
        let moves = self.units.iter();
        moves.flat_map(|(unit, from)| [&**unit, &**from]).collect()
    }
}

impl Record for Turns {
    /// A thousand machines and more.
    const LONGEST: usize = 1 << 18;

    fn texts(&self) -> Vec<&str> {
        self.machines.iter().map(String::as_str).collect()
    }
}

impl Record for BatchResult {
    /// There may be as many machines in it as there are retries: 1000.
    const LONGEST: usize = 1 << 17;

    fn texts(&self) -> Vec<&str> {
        let machines = self.failures.keys().map(String::as_str);
        machines.chain([&*self.machine, &*self.finished]).collect()
    }
}

impl Record for Announcement {
    fn texts(&self) -> Vec<&str> {
        vec![&self.proto]
    }
}

impl Record for fleet_model::UnitState {
    fn texts(&self) -> Vec<&str> {
        vec![&self.hash, &self.load, &self.active, &self.sub]
    }
}

impl Record for fleet_model::Machine {
    /// Metadata has no limit of its own.
    const LONGEST: usize = 1 << 18;

    fn texts(&self) -> Vec<&str> {
        vec![&self.public_ip, &self.version]
    }
}

/// Reads a record; what no daemon can have written is ignored with a warning that names `what`.
pub(crate) fn read_record<T: Record>(what: impl std::fmt::Display, value: &[u8]) -> Option<T> {
    let complain = |why: &str| {
        tracing::warn!("the registry's record of {what} is ignored: {why}");
        None
    };
    if value.len() > T::LONGEST {
        return complain("it is too long");
    }
    let record: T = match serde_json::from_slice(value) {
        Ok(record) => record,
        Err(error) => return complain(&error.to_string()),
    };
    let fair = |text: &&str| text.len() <= LONGEST_TEXT && !text.contains(char::is_control);
    if record.texts().iter().all(fair) {
        Some(record)
    } else {
        complain("a text in it is too long or not printable")
    }
}

/// Reads a positive number; `what` of the unit it is.
pub(super) fn read_number<T: FromStr + Default + PartialOrd>(
    what: &str,
    unit: &UnitName,
    value: &[u8],
) -> Option<T> {
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|t| t.parse().ok());
    let number = number.filter(|n| *n > T::default());
    if number.is_none() {
        tracing::warn!(unit = %unit, "the registry's {what} of {unit} is ignored: no number");
    }
    number
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records of plain texts and numbers always serialise")
}

/// A text cut to what readers accept.
pub(super) fn cut(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > LONGEST_TEXT {
            break;
        }
        out.push(c);
    }
    out
}

impl Registry {
    /// Cordons a machine (or says it anew), or with `None` lifts the cordon. The machine need not
    /// be present.
    pub async fn set_cordon(
        &self,
        machine: &MachineId,
        cordon: Option<&Cordon>,
    ) -> Result<i64, RegistryError> {
        let key = self.layout.cordon(machine);
        let op = match cordon {
            Some(cordon) => Op::put(
                key,
                json(&Cordon {
                    drain: cordon.drain,
                    since: cut(&cordon.since),
                    by: cut(&cordon.by),
                }),
            ),
            None => Op::delete(key),
        };
        Ok(self
            .txn("cordon a machine", Txn::new().then(op))
            .await?
            .revision)
    }

    /// Asks for a restart wherever the unit runs; a batch unit runs anew. `None` if there is no
    /// such unit. A nonce differs from the one before; the time in milliseconds does.
    pub async fn ask_restart(
        &self,
        name: &UnitName,
        nonce: u64,
    ) -> Result<Option<i64>, RegistryError> {
        let txn = Txn::new()
            .when(Compare::exists(self.layout.job(name, "unit")))
            .then(Op::put(
                self.layout.job(name, "restart"),
                nonce.max(1).to_string(),
            ));
        let txn = self.without_result(txn, name);
        let reply = self.txn("ask for a restart", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Forgets what came of a batch unit, so that it starts anew.
    pub(super) fn without_result(&self, txn: Txn, name: &UnitName) -> Txn {
        txn.then(Op::delete(self.layout.job(name, "result")))
            .then(Op::delete(self.layout.job(name, "answered")))
    }

    /// Gives more machines their turn at a unit's new text. `None` if it is not being rolled out.
    pub async fn give_turns(
        &self,
        name: &UnitName,
        machines: &BTreeSet<MachineId>,
    ) -> Result<Option<i64>, RegistryError> {
        let key = self.layout.job(name, "turns");
        loop {
            let what = "read the turns of a unit";
            let there = self.kv.get(key.as_str()).await;
            let Some(there) = there.map_err(RegistryError::kv(what))? else {
                return Ok(None);
            };
            let mut turns: Turns = read_record(name, &there.value).unwrap_or_default();
            let more = machines.iter().map(ToString::to_string);
            turns.machines.extend(more);
            let txn = Txn::new()
                .when(Compare::value(key.as_str(), there.value))
                .then(Op::put(key.as_str(), json(&turns)));
            let reply = self.txn("give machines their turn", txn).await?;
            if reply.succeeded {
                return Ok(Some(reply.revision));
            }
        }
    }

    /// Ends a roll-out: every machine takes the text over that has not yet. `None` if there is none.
    pub async fn end_turns(&self, name: &UnitName) -> Result<Option<i64>, RegistryError> {
        let key = self.layout.job(name, "turns");
        let txn = Txn::new()
            .when(Compare::exists(key.as_str()))
            .then(Op::delete(key));
        let reply = self.txn("end a unit's roll-out", txn).await?;
        Ok(reply.succeeded.then_some(reply.revision))
    }

    /// Asks the leader to spread units anew; replaces a request that waits.
    pub async fn ask_rebalance(&self, request: &Rebalance) -> Result<i64, RegistryError> {
        let request = Rebalance {
            budget: request.budget,
            requested: cut(&request.requested),
        };
        let put = Op::put(self.layout.key("rebalance"), json(&request));
        Ok(self
            .txn("ask for rebalancing", Txn::new().then(put))
            .await?
            .revision)
    }

    /// The request that waits, if any, and what was done about the last one that was dealt with;
    /// mirrors show it once they have seen the revision.
    pub async fn rebalancing(&self) -> Result<(Option<Rebalance>, Moves, i64), RegistryError> {
        let txn = Txn::new()
            .then(Op::get(self.layout.key("rebalance")))
            .then(Op::get(self.layout.key("moves")));
        let reply = self.txn("read the request to rebalance", txn).await?;
        let request = reply.kvs(0).first();
        let moves = reply.kvs(1).first();
        Ok((
            request.and_then(|kv| read_record("rebalancing", &kv.value)),
            moves
                .and_then(|kv| read_record("moves", &kv.value))
                .unwrap_or_default(),
            moves.map_or(0, |kv| kv.mod_revision),
        ))
    }

    /// What takes a request away that has been dealt with, unless it was made anew meanwhile, and
    /// keeps what was done.
    pub(crate) fn rebalance_done(&self, value: &[u8], moves: &Moves) -> (Compare, [Op; 2]) {
        let key = self.layout.key("rebalance");
        (
            Compare::value(key.as_str(), value),
            [
                Op::delete(key),
                Op::put(self.layout.key("moves"), json(moves)),
            ],
        )
    }

    /// Keeps what came of a batch unit, if it exists and is (still) scheduled on `machine`.
    pub async fn record_result(
        &self,
        name: &UnitName,
        machine: &MachineId,
        result: &BatchResult,
    ) -> Result<bool, RegistryError> {
        let txn = Txn::new()
            .when(Compare::exists(self.layout.job(name, "unit")))
            .when(Compare::value(
                self.layout.job(name, "schedule"),
                machine.as_str(),
            ))
            .then(Op::put(self.layout.job(name, "result"), json(result)));
        Ok(self.txn("record a result", txn).await?.succeeded)
    }

    /// All announcements.
    #[must_use]
    pub fn announcements(&self) -> Keys {
        Keys::prefix(self.layout.key("announce/"))
    }

    /// Announces a service of a unit on a machine under its lease, or with `None` ends that. To be
    /// put into a transaction. `service` must be a name that [`Registry::read_key`] understands.
    #[must_use]
    pub fn announce(
        &self,
        service: &str,
        unit: &UnitName,
        machine: &MachineId,
        announcement: Option<(&Announcement, Lease)>,
    ) -> Op {
        let key = self.layout.announcement(service, unit, machine);
        match announcement {
            Some((announcement, lease)) => Op::put_leased(key, json(announcement), lease),
            None => Op::delete(key),
        }
    }

    /// Reads an announcement's value.
    #[must_use]
    pub fn read_announcement(&self, key: &[u8], value: &[u8]) -> Option<Announcement> {
        match self.read_key(key) {
            Key::Announcement(service, unit, _) => {
                read_record(format_args!("service {service} of {unit}"), value)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pace;
    use super::*;

    #[test]
    fn hostile_records_are_ignored() {
        let cordon = |text: &str| read_record::<Cordon>("m", text.as_bytes());
        assert_eq!(cordon("{}"), Some(Cordon::default()));
        assert!(
            cordon(r#"{"drain":true,"since":"x","by":"me","more":1}"#).is_some_and(|c| c.drain)
        );
        for text in [
            "",
            "x",
            r#"{"drain":"yes"}"#,
            r#"{"by":"a\nb"}"#,
            &format!(r#"{{"by":"{}"}}"#, "x".repeat(300)),
            &format!(r#"{{"more":"{}"}}"#, "x".repeat(5000)),
        ] {
            assert_eq!(cordon(text), None, "{text}");
        }
        let rebalance = |text: &str| read_record::<Rebalance>("r", text.as_bytes());
        assert_eq!(rebalance(r#"{"budget":3}"#).map(|r| r.budget), Some(3));
        assert_eq!(rebalance(r#"{"budget":-3}"#), None);
        let unit = UnitName::parse("a.service").unwrap();
        // However many move, the record of it can be read.
        let machine = MachineId::parse(&"m".repeat(32)).unwrap();
        let long = "u".repeat(200);
        let named = |n: usize| UnitName::parse(&format!("{long}{n}.service")).unwrap();
        let units: Vec<UnitName> = (0..5000).map(named).collect();
        let moves = Moves::new(units.iter().map(|unit| (unit, &machine)));
        assert!(
            moves.moved == 5000 && moves.units.len() > 400,
            "{}",
            moves.units.len()
        );
        assert_eq!(read_record::<Moves>("r", &json(&moves)), Some(moves));
        for (value, expect) in [
            (&b"7"[..], Some(7)),
            (b"0", None),
            (b"-1", None),
            (b"99999999999999999999999", None),
            (b"\xff", None),
            (b"", None),
        ] {
            assert_eq!(
                read_number::<u64>("restart", &unit, value),
                expect,
                "{value:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_units_orders_go_with_it_and_results_end_with_a_new_start() {
        use fleet_model::{Outcome, TargetState, UnitFile};

        let kv = std::sync::Arc::new(etcd_kv::MemKv::new());
        let registry = Registry::new(kv, "/");
        let unit = UnitName::parse("a.service").unwrap();
        let machine = MachineId::parse("m1").unwrap();
        let file = UnitFile::parse("[Service]\nExecStart=/x\n").unwrap();
        let result = BatchResult {
            outcome: Outcome::Failure,
            exit_status: 3,
            attempts: 2,
            machine: "m1".into(),
            finished: String::new(),
            failures: BTreeMap::new(),
        };
        let keys = async || {
            let reply = registry.kv().list("/v3/job/").await.unwrap();
            let names = reply.kvs.iter().map(|kv| kv.key_str().into_owned());
            names
                .map(|k| k.rsplit('/').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        // Nothing is known of a unit that does not exist.
        assert_eq!(registry.ask_restart(&unit, 1).await.unwrap(), None);
        let recorded = registry.record_result(&unit, &machine, &result).await;
        assert!(!recorded.unwrap());
        assert_eq!(keys().await, Vec::<String>::new());

        let launched = TargetState::Launched;
        registry.create(&unit, &file, launched).await.unwrap();
        // Not scheduled there: the result would be another one's.
        let recorded = registry.record_result(&unit, &machine, &result).await;
        assert!(!recorded.unwrap());
        let finish = async || {
            let kv = registry.kv();
            kv.put("/v3/job/a.service/schedule", "m1", None)
                .await
                .unwrap();
            let recorded = registry.record_result(&unit, &machine, &result).await;
            assert!(recorded.unwrap());
        };
        finish().await;
        assert_eq!(keys().await, ["result", "schedule", "target", "unit"]);
        let loaded = TargetState::Loaded;
        registry.set_target(&unit, loaded).await.unwrap();
        assert!(keys().await.contains(&"result".to_owned()));
        registry.set_target(&unit, launched).await.unwrap();
        assert!(!keys().await.contains(&"result".to_owned()));
        finish().await;
        assert!(registry.ask_restart(&unit, 7).await.unwrap().is_some());
        assert_eq!(keys().await, ["restart", "schedule", "target", "unit"]);
        finish().await;
        registry
            .replace(&unit, &file, launched, Pace::AtOnce)
            .await
            .unwrap();
        assert!(!keys().await.contains(&"result".to_owned()));
        finish().await;
        registry.destroy(&unit).await.unwrap();
        assert_eq!(keys().await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn orders_are_read_as_written() {
        let kv = std::sync::Arc::new(etcd_kv::MemKv::new());
        let registry = Registry::new(kv, "/");
        let machine = MachineId::parse("m1").unwrap();
        let cordon = Cordon {
            drain: true,
            since: "2026-01-01T00:00:00Z".into(),
            by: "me".into(),
        };
        let set = |cordon| registry.set_cordon(&machine, cordon);
        set(Some(&cordon)).await.unwrap();
        let kv = registry.kv().get("/v3/cordon/m1").await.unwrap().unwrap();
        assert_eq!(read_record("m1", &kv.value).as_ref(), Some(&cordon));
        set(None).await.unwrap();
        assert_eq!(registry.kv().get("/v3/cordon/m1").await.unwrap(), None);

        let request = Rebalance {
            budget: 3,
            requested: "now".into(),
        };
        assert_eq!(registry.rebalancing().await.unwrap().0, None);
        registry.ask_rebalance(&request).await.unwrap();
        assert_eq!(registry.rebalancing().await.unwrap().0, Some(request));

        let unit = UnitName::parse("a.service").unwrap();
        let announcement = Announcement {
            address: "10.0.0.1".parse().unwrap(),
            port: 80,
            proto: "tcp".into(),
        };
        let (lease, _) = registry
            .kv()
            .lease_grant(std::time::Duration::from_secs(9), None)
            .await
            .unwrap();
        let op = registry.announce("web", &unit, &machine, Some((&announcement, lease)));
        registry.kv().txn(Txn::new().then(op)).await.unwrap();
        let range = etcd_kv::Range::new(registry.announcements());
        let kv = registry.kv().range(range).await.unwrap().kvs.remove(0);
        assert_eq!(kv.lease, Some(lease));
        let read = registry.read_announcement(&kv.key, &kv.value);
        assert_eq!(read, Some(announcement));
    }

    #[test]
    fn own_texts_are_cut_to_what_is_read_again() {
        assert_eq!(cut("a\nb\u{7}"), "ab");
        assert_eq!(cut(&"é".repeat(200)).len(), 256);
    }
}
