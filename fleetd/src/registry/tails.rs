//! Log tails that one machine asks of another: the question and the answer, both under the asker's
//! lease, which ends within seconds.
//!
//! They lie beside the registry, below `<etcd_key_prefix>v3-tail/`: who follows the registry does
//! not get other people's logs.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `asked/MACHINE/LEASE` | JSON: [`Tail`] | the asker |
//! | `given/LEASE` | a line `ok` and the log, or a line `failed` and why | the machine, in exchange for the question |

use std::time::Duration;

use etcd_kv::{Compare, Event, KeyValue, Keys, KvError, Lease, Op, Txn, WatchRequest};
use fleet_model::{MachineId, UnitName};
use serde::{Deserialize, Serialize};

use super::orders::Record;
use super::{Registry, RegistryError, read_record};

/// How long a question stands: longer than anyone waits for its answer.
const TTL: Duration = Duration::from_secs(30);

/// Which log, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// The unit.
    pub unit: String,
    /// Lines, counted from the newest.
    pub lines: u32,
}

impl Record for Tail {
    fn texts(&self) -> Vec<&str> {
        vec![&self.unit]
    }
}

/// A question put to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which log.
    pub tail: Tail,
    /// The unit's name, checked.
    pub unit: UnitName,
    lease: Lease,
}

impl Registry {
    fn tail_key(&self, rest: &str) -> String {
        let prefix = self.layout.prefix().trim_end_matches('/');
        format!("{prefix}-tail/{rest}")
    }

    fn given_key(&self, lease: Lease) -> String {
        self.tail_key(&format!("given/{lease}"))
    }

    /// The questions put to a machine.
    #[must_use]
    pub fn tails_asked(&self, machine: &MachineId) -> Keys {
        Keys::prefix(self.tail_key(&format!("asked/{machine}/")))
    }

    /// Understands a question; `None` if it is none that a daemon asks.
    #[must_use]
    pub fn read_asked(&self, kv: &KeyValue) -> Option<Asked> {
        let tail: Tail = read_record("a log that is asked for", &kv.value)?;
        let unit = UnitName::parse(&tail.unit).ok()?;
        // What has no lease would stay for ever.
        let lease = kv.lease?;
        Some(Asked { tail, unit, lease })
    }

    /// Asks a machine for a log and waits for the answer, as long as `patience` says. The inner error
    /// is the machine's own; `None` is silence.
    pub async fn ask_tail(
        &self,
        machine: &MachineId,
        tail: &Tail,
        patience: Duration,
    ) -> Result<Option<Result<Vec<u8>, String>>, RegistryError> {
        let failed = RegistryError::kv("ask for a log");
        let (lease, _) = self.kv.lease_grant(TTL, None).await.map_err(failed)?;
        let answer = tokio::time::timeout(patience, self.exchange(machine, tail, lease)).await;
        // Question and answer go at once; if that fails, or nobody waits any more, with the lease.
        let _ = self.kv.lease_revoke(lease).await;
        match answer {
            Ok(answer) => answer.map(Some).map_err(RegistryError::kv("ask for a log")),
            Err(_) => Ok(None),
        }
    }

    async fn exchange(
        &self,
        machine: &MachineId,
        tail: &Tail,
        lease: Lease,
    ) -> Result<Result<Vec<u8>, String>, KvError> {
        let key = self.tail_key(&format!("asked/{machine}/{lease}"));
        let question = serde_json::to_vec(tail).expect("a text and a number always serialise");
        let asked = Txn::new().then(Op::put_leased(key, question, lease));
        let revision = self.kv.txn(asked).await?.revision;
        let given = Keys::one(self.given_key(lease));
        let mut watch = self.kv.watch(WatchRequest::from(given, revision)).await?;
        loop {
            for event in watch.next().await?.events {
                if let Event::Put { kv, .. } = event {
                    return Ok(read_given(&kv.value));
                }
            }
        }
    }

    /// Answers a question, unless nobody waits for it any more.
    pub async fn give_tail(
        &self,
        machine: &MachineId,
        asked: &Asked,
        answer: &Result<Vec<u8>, String>,
    ) -> Result<(), RegistryError> {
        let lease = asked.lease;
        let question = self.tail_key(&format!("asked/{machine}/{lease}"));
        let value = match answer {
            Ok(text) => [b"ok\n", &text[..]].concat(),
            Err(why) => format!("failed\n{why}").into_bytes(),
        };
        let txn = Txn::new()
            .when(Compare::exists(question.as_str()))
            .then(Op::delete(question))
            .then(Op::put_leased(self.given_key(lease), value, lease));
        self.txn("give a log", txn).await?;
        Ok(())
    }
}

fn read_given(value: &[u8]) -> Result<Vec<u8>, String> {
    match value
        .iter()
        .position(|b| *b == b'\n')
        .map(|at| value.split_at(at + 1))
    {
        Some((b"ok\n", text)) => Ok(text.to_vec()),
        Some((b"failed\n", why)) => Err(super::orders::cut(&String::from_utf8_lossy(why))),
        _ => Err("its answer was not understood".into()),
    }
}
