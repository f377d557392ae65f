//! The vocabulary of the store: etcd v3's data model without its wire format.

use std::fmt;

/// One key with its value and history counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key was created last.
    pub create_revision: i64,
    /// Revision of the last write.
    pub mod_revision: i64,
    /// Number of writes since creation, from 1.
    pub version: i64,
    /// The lease the key dies with.
    pub lease: Option<Lease>,
}

impl KeyValue {
    /// The key as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn key_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// The value as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn value_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
}

/// Number of a lease; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub i64);

impl Lease {
    /// The lease in a wire field, where 0 means none.
    pub(crate) fn from_wire(id: i64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Which keys an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Exactly one.
    One(Vec<u8>),
    /// All that begin with these bytes; empty bytes mean all keys.
    Prefix(Vec<u8>),
    /// From the first (inclusive) to the second (exclusive).
    Between(Vec<u8>, Vec<u8>),
    /// From this one (inclusive) to the end.
    From(Vec<u8>),
}

impl Keys {
    /// Exactly one key.
    pub fn one(key: impl Into<Vec<u8>>) -> Self {
        Self::One(key.into())
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        Self::Prefix(prefix.into())
    }

    /// etcd's (key, range_end) pair.
    pub(crate) fn to_wire(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::One(k) => (k.clone(), Vec::new()),
            Self::Prefix(p) if p.is_empty() => (vec![0], vec![0]),
            Self::Prefix(p) => (p.clone(), prefix_end(p)),
            Self::Between(a, b) => (a.clone(), b.clone()),
            Self::From(k) if k.is_empty() => (vec![0], vec![0]),
            Self::From(k) => (k.clone(), vec![0]),
        }
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(k) => k == key,
            Self::Prefix(p) => key.starts_with(p),
            Self::Between(a, b) => a.as_slice() <= key && key < b.as_slice(),
            Self::From(k) => k.as_slice() <= key,
        }
    }
}

/// The smallest key greater than all keys with this prefix; `[0]` (etcd: no end) if there is none.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Order of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By key, ascending.
    #[default]
    Key,
    /// By revision of creation, ascending: what lock queues need.
    Created,
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: Keys,
    /// At which revision; `None` is now.
    pub revision: Option<i64>,
    /// At most so many; `None` is all.
    pub limit: Option<i64>,
    /// Order of the answer; the limit applies after it.
    pub order: Order,
    /// Leave out the values.
    pub keys_only: bool,
    /// Leave out the keys too and only count.
    pub count_only: bool,
    /// Allow a member to answer from its own, perhaps stale, state without asking the leader.
    pub serializable: bool,
}

impl Range {
    /// Reads `keys` as they are now.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            revision: None,
            limit: None,
            order: Order::Key,
            keys_only: false,
            count_only: false,
            serializable: false,
        }
    }
}

/// Answer to a [`Range`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeReply {
    /// Revision of the store when it answered; watching from the next one misses nothing.
    pub revision: i64,
    /// The keys found.
    pub kvs: Vec<KeyValue>,
    /// There are more than the limit let through.
    pub more: bool,
    /// How many keys match in all.
    pub count: i64,
}

/// Answer to a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReply {
    /// Revision of the store after the write.
    pub revision: i64,
    /// What the key was before, where asked for.
    pub previous: Option<KeyValue>,
}

/// Answer to a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteReply {
    /// Revision of the store after the write.
    pub revision: i64,
    /// How many keys were deleted.
    pub deleted: i64,
    /// What they were before, where asked for.
    pub previous: Vec<KeyValue>,
}

/// What a transaction tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Vec<u8>,
    /// What must hold for it.
    pub condition: Condition,
}

/// Test of one key. A missing key has version, revisions and lease 0 and an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Version equals.
    Version(i64),
    /// Version is greater.
    VersionAbove(i64),
    /// Revision of creation equals.
    Created(i64),
    /// Revision of the last write equals.
    Modified(i64),
    /// Revision of the last write is less.
    ModifiedBefore(i64),
    /// Value equals.
    Value(Vec<u8>),
    /// Value differs (a missing key has no value to compare: false).
    ValueNot(Vec<u8>),
    /// Lease equals.
    Lease(Option<Lease>),
}

impl Compare {
    /// The key does not exist.
    pub fn missing(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            condition: Condition::Version(0),
        }
    }

    /// The key exists.
    pub fn exists(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            condition: Condition::VersionAbove(0),
        }
    }

    /// The key was last written at `revision` (0: does not exist).
    pub fn unchanged(key: impl Into<Vec<u8>>, revision: i64) -> Self {
        Self {
            key: key.into(),
            condition: Condition::Modified(revision),
        }
    }

    /// The key has this value.
    pub fn value(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            condition: Condition::Value(value.into()),
        }
    }
}

/// One operation inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(Range),
    /// Write.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease the key shall die with.
        lease: Option<Lease>,
        /// Return what the key was before.
        previous: bool,
    },
    /// Delete.
    Delete {
        /// Which keys.
        keys: Keys,
        /// Return what they were before.
        previous: bool,
    },
}

impl Op {
    /// Reads one key.
    pub fn get(key: impl Into<Vec<u8>>) -> Self {
        Self::Range(Range::new(Keys::one(key)))
    }

    /// Writes one key.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
            previous: false,
        }
    }

    /// Writes one key that dies with `lease`.
    pub fn put_leased(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: Lease) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
            previous: false,
        }
    }

    /// Deletes one key.
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Self::Delete {
            keys: Keys::one(key),
            previous: false,
        }
    }
}

/// A transaction: if all of `when` hold, `then` happens, else `otherwise`; all at one revision.
///
/// etcd allows 128 operations in each list and one write per key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// The tests.
    pub when: Vec<Compare>,
    /// Operations if all tests hold.
    pub then: Vec<Op>,
    /// Operations if one fails.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction without tests or operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.when.push(compare);
        self
    }

    /// Adds an operation for the case that all tests hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds an operation for the case that a test fails.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }
}

/// Answer to one [`Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    /// To a read.
    Range(RangeReply),
    /// To a write.
    Put(PutReply),
    /// To a delete.
    Delete(DeleteReply),
}

/// Answer to a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnReply {
    /// All tests held.
    pub succeeded: bool,
    /// Revision of the store afterwards.
    pub revision: i64,
    /// One answer per operation of the list that ran.
    pub replies: Vec<OpReply>,
}

impl TxnReply {
    /// The keys read by the operation at `index`; nothing if it was not a read.
    #[must_use]
    pub fn kvs(&self, index: usize) -> &[KeyValue] {
        match self.replies.get(index) {
            Some(OpReply::Range(r)) => &r.kvs,
            _ => &[],
        }
    }
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its number.
    pub lease: Lease,
    /// Seconds until it expires.
    pub ttl: i64,
    /// Seconds it was granted for.
    pub granted: i64,
    /// Keys attached to it, where asked for.
    pub keys: Vec<Vec<u8>>,
}

/// Begin of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which keys.
    pub keys: Keys,
    /// First revision of interest; `None` is whatever comes next.
    pub from: Option<i64>,
    /// Deliver also what a key was before each change.
    pub previous: bool,
}

impl WatchRequest {
    /// Watches `keys` from `revision` on (inclusive).
    #[must_use]
    pub fn from(keys: Keys, revision: i64) -> Self {
        Self {
            keys,
            from: Some(revision),
            previous: false,
        }
    }

    /// Watches `keys` from now on.
    #[must_use]
    pub fn now(keys: Keys) -> Self {
        Self {
            keys,
            from: None,
            previous: false,
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put {
        /// As it is now.
        kv: KeyValue,
        /// As it was before, where asked for and it existed.
        previous: Option<KeyValue>,
    },
    /// The key was deleted, or its lease ended.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// Revision of the deletion.
        revision: i64,
        /// As it was before, where asked for and still kept.
        previous: Option<KeyValue>,
    },
}

impl Event {
    /// The key concerned.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Revision of the change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put { kv, .. } => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Its name; empty while it has not started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// It does not vote yet.
    pub learner: bool,
}

/// How one server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Number of the member that answered.
    pub member: u64,
    /// Number of the member that it believes to lead; 0 for none.
    pub leader: u64,
    /// Version of the program.
    pub version: String,
    /// Size of the data base in bytes.
    pub db_size: i64,
    /// Its raft term.
    pub raft_term: u64,
    /// Its raft index.
    pub raft_index: u64,
}
