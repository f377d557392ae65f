//! Leases in etcd: one key a machine, created by compare, dying with an etcd lease of a day.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{Compare, Event, KeyValue, Keys, Kv, KvError, Lease, Op, Txn, Watch, WatchRequest};

use super::model::{Attributes, Choice, Config, ConfigError, Record, Subnet, choose};

/// How long a lease lives without renewal.
pub(super) const TTL: Duration = Duration::from_secs(24 * 3600);
/// How often a race for a subnet is run again.
const RACES: u32 = 10;

/// Why the overlay's data cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// etcd failed.
    #[error("failed to {what}")]
    Etcd {
        /// What was attempted.
        what: &'static str,
        /// etcd's error.
        source: KvError,
    },
    /// Nobody has described the network.
    #[error("the key {key} does not exist")]
    NoConfig {
        /// The key.
        key: String,
    },
    /// The description is wrong.
    #[error("the key {key} cannot be used")]
    BadConfig {
        /// The key.
        key: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// All subnets are leased.
    #[error("all subnets of {network} are leased")]
    Full {
        /// The network.
        network: Subnet,
    },
    /// Others were faster again and again.
    #[error("lost {RACES} races for a subnet")]
    Races,
}

/// The overlay's part of etcd.
#[derive(Debug, Clone)]
pub(super) struct Store {
    kv: Arc<dyn Kv>,
    prefix: String,
}

/// A subnet that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) subnet: Subnet,
    pub(super) key: String,
    /// `None` for a reservation, which needs no renewal.
    pub(super) lease: Option<Lease>,
}

/// The leases of all machines at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) leases: BTreeMap<Subnet, Attributes>,
    pub(super) revision: i64,
}

impl Store {
    pub(super) fn new(kv: Arc<dyn Kv>, prefix: &str) -> Self {
        Self {
            kv,
            prefix: prefix.to_owned(),
        }
    }

    /// Key of the network's description.
    pub(super) fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    /// Reads the network's description.
    pub(super) async fn config(&self) -> Result<Config, StoreError> {
        let key = self.config_key();
        let read = self.kv.get(key.as_str()).await;
        let found = read.map_err(etcd("read the network's description"))?;
        let Some(found) = found else {
            return Err(StoreError::NoConfig { key });
        };
        Config::parse(&found.value_str()).map_err(|source| StoreError::BadConfig { key, source })
    }

    async fn records(&self) -> Result<(Vec<Record>, i64), StoreError> {
        let prefix = self.subnets();
        let reply = self
            .kv
            .list(prefix.as_str())
            .await
            .map_err(etcd("list the subnets"))?;
        let records = reply
            .kvs
            .iter()
            .filter_map(|kv| record(&prefix, kv))
            .collect();
        Ok((records, reply.revision))
    }

    /// Gets a subnet for the machine.
    pub(super) async fn acquire(
        &self,
        config: &Config,
        own: &Attributes,
        previous: Option<Subnet>,
        mut random: impl FnMut() -> u64,
    ) -> Result<Claim, StoreError> {
        for _ in 0..RACES {
            let (records, _) = self.records().await?;
            match choose(config, &records, own.public_ip, previous, random()) {
                Choice::Renew(record) => {
                    if let Some(claim) = self.rewrite(&record, own).await? {
                        return Ok(claim);
                    }
                }
                Choice::Discard(record) => {
                    let key = format!("{}{}", self.subnets(), record.name);
                    let txn = Txn::new()
                        .when(Compare::unchanged(key.as_str(), record.revision))
                        .then(Op::delete(key.as_str()));
                    self.kv
                        .txn(txn)
                        .await
                        .map_err(etcd("delete a subnet that no longer fits"))?;
                }
                Choice::Claim(subnet) => {
                    if let Some(claim) = self.create(subnet, own).await? {
                        return Ok(claim);
                    }
                }
                Choice::Full => {
                    return Err(StoreError::Full {
                        network: config.network,
                    });
                }
            }
        }
        Err(StoreError::Races)
    }

    /// Claims one subnet; `None` if somebody has it.
    pub(super) async fn create(
        &self,
        subnet: Subnet,
        own: &Attributes,
    ) -> Result<Option<Claim>, StoreError> {
        let key = format!("{}{}", self.subnets(), subnet.key());
        self.put(Compare::missing(key.as_str()), subnet, key, own, false)
            .await
    }

    /// Writes our own record of before anew; `None` if it changed meanwhile.
    async fn rewrite(
        &self,
        record: &Record,
        own: &Attributes,
    ) -> Result<Option<Claim>, StoreError> {
        let key = format!("{}{}", self.subnets(), record.name);
        let unchanged = Compare::unchanged(key.as_str(), record.revision);
        self.put(unchanged, record.subnet, key, own, record.reserved)
            .await
    }

    async fn put(
        &self,
        when: Compare,
        subnet: Subnet,
        key: String,
        own: &Attributes,
        reserved: bool,
    ) -> Result<Option<Claim>, StoreError> {
        const WHAT: &str = "claim a subnet";
        let lease = match reserved {
            true => None,
            false => Some(self.kv.lease_grant(TTL, None).await.map_err(etcd(WHAT))?.0),
        };
        // Addresses and strings always make JSON.
        let value = serde_json::to_string(own).unwrap_or_default();
        let op = match lease {
            Some(lease) => Op::put_leased(key.as_str(), value, lease),
            None => Op::put(key.as_str(), value),
        };
        let done = self.kv.txn(Txn::new().when(when).then(op)).await;
        if let (Some(lease), false) = (lease, done.as_ref().is_ok_and(|d| d.succeeded)) {
            // Only tidiness: it would end by itself in a day.
            let _ = self.kv.lease_revoke(lease).await;
        }
        let done = done.map_err(etcd(WHAT))?;
        Ok(done.succeeded.then_some(Claim { subnet, key, lease }))
    }

    /// Writes what the others must know now into our claim.
    pub(super) async fn tell(&self, claim: &Claim, own: &Attributes) -> Result<(), StoreError> {
        let value = serde_json::to_string(own).unwrap_or_default();
        let written = self.kv.put(claim.key.as_str(), value, claim.lease).await;
        written.map(drop).map_err(etcd("write our own subnet"))
    }

    /// Prolongs the claim; the time it now has.
    pub(super) async fn renew(&self, claim: &Claim) -> Result<Duration, KvError> {
        match claim.lease {
            Some(lease) => self.kv.lease_keep_alive(lease).await,
            None => Ok(TTL),
        }
    }

    /// Whose a claim's key is now, if it exists.
    pub(super) async fn owner(&self, claim: &Claim) -> Result<Option<Ipv4Addr>, StoreError> {
        let found = self
            .kv
            .get(claim.key.as_str())
            .await
            .map_err(etcd("look at our own subnet"))?;
        let read = found.and_then(|kv| serde_json::from_slice::<Attributes>(&kv.value).ok());
        Ok(read.map(|a| a.public_ip))
    }

    /// All leases now.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (records, revision) = self.records().await?;
        let leases = records
            .into_iter()
            .filter_map(|r| Some((r.subnet, r.attributes?)))
            .collect();
        Ok(Snapshot { leases, revision })
    }

    /// Follows the leases from a snapshot on.
    pub(super) async fn watch(&self, from: &Snapshot) -> Result<Watch, StoreError> {
        let keys = Keys::prefix(self.subnets());
        let request = WatchRequest::from(keys, from.revision + 1);
        self.kv
            .watch(request)
            .await
            .map_err(etcd("follow the subnets"))
    }

    /// Takes changes into a snapshot.
    pub(super) fn apply(&self, snapshot: &mut Snapshot, events: &[Event]) {
        let prefix = self.subnets();
        for event in events {
            let key = String::from_utf8_lossy(event.key()).into_owned();
            let Some(subnet) = key.strip_prefix(&prefix).and_then(Subnet::from_key) else {
                continue;
            };
            let written = match event {
                Event::Put { kv, .. } => record(&prefix, kv).and_then(|r| r.attributes),
                Event::Delete { .. } => None,
            };
            match written {
                Some(attributes) => drop(snapshot.leases.insert(subnet, attributes)),
                None => drop(snapshot.leases.remove(&subnet)),
            }
            snapshot.revision = snapshot.revision.max(event.revision());
        }
    }
}

fn etcd(what: &'static str) -> impl Fn(KvError) -> StoreError {
    move |source| StoreError::Etcd { what, source }
}

fn record(prefix: &str, kv: &KeyValue) -> Option<Record> {
    let key = kv.key_str();
    let name = key.strip_prefix(prefix)?;
    let subnet = Subnet::from_key(name)?;
    Some(Record {
        subnet,
        name: name.to_owned(),
        attributes: serde_json::from_slice(&kv.value).ok(),
        reserved: kv.lease.is_none(),
        revision: kv.mod_revision,
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::Backend;
    use super::*;
    use crate::netlink::Mac;
    use etcd_kv::MemKv;

    const CONFIG: &str = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;

    fn attributes(last: u8) -> Attributes {
        let backend = Backend::Vxlan {
            vni: 1,
            port: 8472,
            direct: false,
            mtu: None,
        };
        Attributes::new(
            Ipv4Addr::new(10, 0, 2, last),
            backend,
            Some(Mac([2, 0, 0, 0, 0, last])),
        )
    }

    async fn story(kv: Arc<dyn Kv>) {
        let store = Store::new(kv.clone(), "/coreos.com/network");
        assert!(matches!(
            store.config().await,
            Err(StoreError::NoConfig { .. })
        ));
        kv.put("/coreos.com/network/config", CONFIG, None)
            .await
            .unwrap();
        let config = store.config().await.unwrap();

        // Two machines that draw the same lot: the second goes on to another subnet.
        let one = store
            .acquire(&config, &attributes(11), None, || 5)
            .await
            .unwrap();
        assert_eq!(one.key, "/coreos.com/network/subnets/10.1.6.0-24");
        let mut snapshot = store.snapshot().await.unwrap();
        let mut watch = store.watch(&snapshot).await.unwrap();
        let two = store
            .acquire(&config, &attributes(12), Some(one.subnet), || 5)
            .await
            .unwrap();
        assert_ne!(one.subnet, two.subnet);
        assert!(
            store
                .create(one.subnet, &attributes(13))
                .await
                .unwrap()
                .is_none()
        );
        let batch = watch.next().await.unwrap();
        store.apply(&mut snapshot, &batch.events);
        assert_eq!(snapshot.leases.len(), 2);
        assert_eq!(
            store.owner(&two).await.unwrap(),
            Some(Ipv4Addr::new(10, 0, 2, 12))
        );

        // The same machine again gets its own subnet, and its new hardware address is told.
        let mut changed = attributes(11);
        changed.data = Some(serde_json::json!({"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}));
        let again = store.acquire(&config, &changed, None, || 77).await.unwrap();
        assert_eq!(again.subnet, one.subnet);
        assert!(store.renew(&again).await.unwrap() > Duration::from_secs(23 * 3600));
        let batch = watch.next().await.unwrap();
        store.apply(&mut snapshot, &batch.events);
        assert_eq!(
            snapshot.leases[&one.subnet].vtep_mac(),
            Mac::parse("02:00:00:00:00:99")
        );

        // A lost claim is seen.
        kv.lease_revoke(again.lease.unwrap()).await.unwrap();
        let batch = watch.next().await.unwrap();
        store.apply(&mut snapshot, &batch.events);
        assert_eq!(snapshot.leases.len(), 1);
        assert_eq!(store.owner(&again).await.unwrap(), None);

        // A reservation has no time limit and keeps none.
        let key = "/coreos.com/network/subnets/10.1.200.0-24";
        let reserved = serde_json::to_string(&attributes(14)).unwrap();
        kv.put(key, reserved, None).await.unwrap();
        let claim = store
            .acquire(&config, &attributes(14), None, || 0)
            .await
            .unwrap();
        assert_eq!((claim.key.as_str(), claim.lease), (key, None));
    }

    #[tokio::test]
    async fn claims_in_memory() {
        story(Arc::new(MemKv::new())).await;
    }

    #[tokio::test]
    async fn claims_in_etcd() {
        let server = etcd_kv::testing::EtcdServer::start().await;
        story(Arc::new(server.client())).await;
    }
}
