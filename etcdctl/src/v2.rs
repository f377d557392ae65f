//! The verbs of v2 as operations on a v3 store.
//!
//! Each reads what it needs in one transaction, decides, and writes in a transaction that holds only if what it decided on
//! still stands; when it does not, it decides again.

use std::time::Duration;

use etcd_kv::{Compare, Condition, KeyValue, Keys, Kv, KvError, Lease, Op, OpReply, Range, Txn};

use crate::tree::{Node, clean, parents};

/// How often a verb decides again before it gives up.
const ATTEMPTS: usize = 8;

/// Why a verb did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server's answer, with v2's number for it.
    #[error("{code}: {what} ({cause}) [{index}]")]
    Server {
        /// 100, 101, 102, 104, 105, 108.
        code: u16,
        /// What that number means.
        what: &'static str,
        /// The path, or what was compared.
        cause: String,
        /// The store's revision.
        index: i64,
    },
    /// `get` of a directory.
    #[error("{0}: is a directory")]
    IsDirectory(String),
    /// The store itself.
    #[error("{0}")]
    Store(KvError),
    /// Others changed the key faster than we could.
    #[error("{0} changes too fast")]
    Busy(String),
}

impl From<KvError> for Failure {
    fn from(err: KvError) -> Self {
        Self::Store(err)
    }
}

fn server(code: u16, cause: impl Into<String>, index: i64) -> Failure {
    let what = match code {
        100 => "Key not found",
        101 => "Compare failed",
        102 => "Not a file",
        104 => "Not a directory",
        105 => "Key already exists",
        _ => "Directory not empty",
    };
    let cause = match cause.into() {
        cause if cause.is_empty() => "/".to_owned(),
        cause => cause,
    };
    Failure::Server {
        code,
        what,
        cause,
        index,
    }
}

/// What was done, for printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `set`, `create`, `update`, `compareAndSwap`, `get`, `delete`, `compareAndDelete`.
    pub action: &'static str,
    /// The key as it is now; with nothing in it after a deletion.
    pub node: Node,
    /// As it was before.
    pub previous: Option<KeyValue>,
    /// The store's revision.
    pub index: i64,
}

/// A condition of `set` and `rm`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// `--swap-with-value`, `--with-value`.
    pub value: Option<String>,
    /// `--swap-with-index`, `--with-index`.
    pub index: Option<i64>,
}

/// What stands at a path.
#[derive(Debug)]
struct Place {
    path: String,
    file: Option<KeyValue>,
    /// Its marker, if it was made by `mkdir`.
    marker: Option<KeyValue>,
    /// Whether anything but the marker is below it.
    filled: bool,
    /// A directory above it that is a file.
    blocked: Option<String>,
    index: i64,
}

impl Place {
    fn is_dir(&self) -> bool {
        self.marker.is_some() || self.filled || self.path.is_empty()
    }

    async fn look(kv: &dyn Kv, key: &str) -> Result<Self, Failure> {
        let path = clean(key);
        let below = Range {
            limit: Some(2),
            keys_only: true,
            ..Range::new(Keys::prefix(format!("{path}/")))
        };
        let mut txn = Txn::new()
            .then(Op::get(if path.is_empty() {
                "/".to_owned()
            } else {
                path.clone()
            }))
            .then(Op::Range(below))
            .then(Op::get(format!("{path}/")));
        let above = parents(&path);
        for parent in &above {
            txn = txn.then(Op::get(parent.clone()));
        }
        let reply = kv.txn(txn).await?;
        let marker_key = format!("{path}/").into_bytes();
        let filled = reply.kvs(1).iter().any(|kv| kv.key != marker_key);
        let blocked = above
            .into_iter()
            .zip(3..)
            .find(|(_, at)| !reply.kvs(*at).is_empty());
        Ok(Self {
            file: reply.kvs(0).first().cloned().filter(|_| !path.is_empty()),
            marker: reply.kvs(2).first().cloned(),
            filled,
            blocked: blocked.map(|(path, _)| path),
            index: reply.revision,
            path,
        })
    }

    fn fail(&self, code: u16) -> Failure {
        server(code, &self.path, self.index)
    }

    /// A file may be written here.
    fn check_writable(&self) -> Result<(), Failure> {
        if let Some(file) = &self.blocked {
            return Err(server(104, file, self.index));
        }
        if self.is_dir() {
            Err(self.fail(102))
        } else {
            Ok(())
        }
    }
}

async fn lease_for(kv: &dyn Kv, ttl: Option<u64>) -> Result<Option<Lease>, Failure> {
    match ttl {
        None | Some(0) => Ok(None),
        Some(ttl) => Ok(Some(
            kv.lease_grant(Duration::from_secs(ttl), None).await?.0,
        )),
    }
}

/// Revokes a lease that no key uses any more.
async fn drop_lease(kv: &dyn Kv, lease: Option<Lease>) {
    let Some(lease) = lease else { return };
    // It would run out by itself; nothing depends on this.
    if let Ok(info) = kv.lease_info(lease, true).await
        && info.keys.is_empty()
    {
        let _ = kv.lease_revoke(lease).await;
    }
}

/// What must hold for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// `set`.
    Set(Previous),
    /// `mk`.
    Create,
    /// `update`.
    Update,
}

/// `set`, `mk`, `update`: writes a file.
pub async fn write(
    kv: &dyn Kv,
    key: &str,
    value: &str,
    ttl: Option<u64>,
    how: &Write,
) -> Result<Reply, Failure> {
    for _ in 0..ATTEMPTS {
        let place = Place::look(kv, key).await?;
        let action = match (how, &place.file) {
            (Write::Create, Some(_)) => return Err(place.fail(105)),
            (Write::Create, None) if place.is_dir() => return Err(place.fail(105)),
            (Write::Update, None) if !place.is_dir() => return Err(place.fail(100)),
            (Write::Create, None) => "create",
            (Write::Update, _) => "update",
            (Write::Set(previous), found) if *previous != Previous::default() => {
                check_previous(&place, previous, found.as_ref())?;
                "compareAndSwap"
            }
            (Write::Set(_), _) => "set",
        };
        place.check_writable()?;
        let unchanged = place.file.as_ref().map_or(0, |file| file.mod_revision);
        let guard = Compare {
            key: place.path.clone().into_bytes(),
            condition: Condition::Modified(unchanged),
        };
        let lease = lease_for(kv, ttl).await?;
        let put = Op::Put {
            key: place.path.clone().into_bytes(),
            value: value.as_bytes().to_vec(),
            lease,
            previous: false,
        };
        let outcome = kv
            .txn(
                Txn::new()
                    .when(guard)
                    .then(put)
                    .then(Op::get(place.path.clone())),
            )
            .await;
        match outcome {
            Ok(reply) if reply.succeeded => {
                drop_lease(kv, place.file.as_ref().and_then(|f| f.lease)).await;
                let now = reply.kvs(1).first().cloned();
                let node = Node {
                    path: place.path,
                    kv: now,
                    ..Node::default()
                };
                return Ok(Reply {
                    action,
                    node,
                    previous: place.file,
                    index: reply.revision,
                });
            }
            Ok(_) => drop_lease(kv, lease).await,
            Err(err) => {
                drop_lease(kv, lease).await;
                return Err(err.into());
            }
        }
    }
    Err(Failure::Busy(clean(key)))
}

fn check_previous(
    place: &Place,
    previous: &Previous,
    found: Option<&KeyValue>,
) -> Result<(), Failure> {
    let Some(found) = found else {
        return Err(place.fail(if place.is_dir() { 102 } else { 100 }));
    };
    let mut differs = Vec::new();
    if let Some(value) = &previous.value
        && found.value != value.as_bytes()
    {
        differs.push(format!("[{value} != {}]", found.value_str()));
    }
    if let Some(index) = previous.index
        && found.mod_revision != index
    {
        differs.push(format!("[{index} != {}]", found.mod_revision));
    }
    match differs.is_empty() {
        true => Ok(()),
        false => Err(server(101, differs.join(" "), place.index)),
    }
}

/// `mk --in-order`: a file with the next number as name.
pub async fn create_in_order(
    kv: &dyn Kv,
    dir: &str,
    value: &str,
    ttl: Option<u64>,
) -> Result<Reply, Failure> {
    let mut number = Place::look(kv, dir).await?.index;
    for _ in 0..ATTEMPTS {
        number += 1;
        let key = format!("{}/{number:020}", clean(dir));
        match write(kv, &key, value, ttl, &Write::Create).await {
            Err(Failure::Server { code: 105, .. }) => {}
            other => return other,
        }
    }
    Err(Failure::Busy(clean(dir)))
}

/// `get`: a file, or with `directory` whatever is there.
pub async fn get(kv: &dyn Kv, key: &str) -> Result<Reply, Failure> {
    let place = Place::look(kv, key).await?;
    match place.file {
        Some(file) if !place.filled && place.marker.is_none() => Ok(Reply {
            action: "get",
            node: Node {
                path: place.path,
                kv: Some(file),
                ..Node::default()
            },
            previous: None,
            index: place.index,
        }),
        _ if place.is_dir() => Err(Failure::IsDirectory(match place.path.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        })),
        _ => Err(place.fail(100)),
    }
}

/// `ls`: a directory with everything below it, or a file.
pub async fn list(kv: &dyn Kv, key: &str) -> Result<Reply, Failure> {
    let path = clean(key);
    let txn = Txn::new()
        .then(Op::get(if path.is_empty() {
            "/".to_owned()
        } else {
            path.clone()
        }))
        .then(Op::Range(Range::new(Keys::prefix(format!("{path}/")))));
    let reply = kv.txn(txn).await?;
    let below = match reply.replies.get(1) {
        Some(OpReply::Range(range)) => range.kvs.clone(),
        _ => Vec::new(),
    };
    let file = reply.kvs(0).first().cloned().filter(|_| !path.is_empty());
    let node = match (file, below.is_empty()) {
        (Some(file), true) => Node {
            path,
            kv: Some(file),
            ..Node::default()
        },
        (None, true) if !path.is_empty() => return Err(server(100, path, reply.revision)),
        _ => Node::directory(&path, below),
    };
    Ok(Reply {
        action: "get",
        node,
        previous: None,
        index: reply.revision,
    })
}

/// What `rm` and `rmdir` may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remove {
    /// A file.
    File,
    /// A file or an empty directory.
    EmptyDirectory,
    /// Anything with everything below it.
    Recursive,
}

/// `rm`, `rmdir`.
pub async fn remove(
    kv: &dyn Kv,
    key: &str,
    how: Remove,
    previous: &Previous,
) -> Result<Reply, Failure> {
    for _ in 0..ATTEMPTS {
        let place = Place::look(kv, key).await?;
        let dir = place.is_dir();
        if place.file.is_none() && !dir || place.path.is_empty() {
            return Err(place.fail(100));
        }
        match how {
            Remove::File if dir => return Err(place.fail(102)),
            Remove::EmptyDirectory if place.filled => return Err(place.fail(108)),
            _ => {}
        }
        let action = match *previous == Previous::default() {
            true => "delete",
            false => {
                check_previous(&place, previous, place.file.as_ref())?;
                "compareAndDelete"
            }
        };
        let revision = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let guard = |key: String, revision| Compare {
            key: key.into_bytes(),
            condition: Condition::Modified(revision),
        };
        let mut txn = Txn::new().when(guard(place.path.clone(), revision(&place.file)));
        txn = txn.then(Op::Delete {
            keys: Keys::one(place.path.clone()),
            previous: true,
        });
        if dir {
            let marker = format!("{}/", place.path);
            let keys = match how {
                Remove::Recursive => Keys::prefix(marker),
                _ => {
                    txn = txn.when(guard(marker.clone(), revision(&place.marker)));
                    Keys::one(marker)
                }
            };
            txn = txn.then(Op::Delete {
                keys,
                previous: false,
            });
        }
        let reply = kv.txn(txn).await?;
        if reply.succeeded {
            drop_lease(kv, place.file.as_ref().and_then(|f| f.lease)).await;
            let node = Node {
                path: place.path,
                dir,
                ..Node::default()
            };
            return Ok(Reply {
                action,
                node,
                previous: place.file.filter(|_| !dir),
                index: reply.revision,
            });
        }
    }
    Err(Failure::Busy(clean(key)))
}

/// What must hold for a directory to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteDir {
    /// `mkdir`: nothing is there.
    Create,
    /// `setdir`: no directory is there; a file is replaced.
    Set,
    /// `updatedir`: a directory is there.
    Update,
}

/// `mkdir`, `setdir`, `updatedir`: writes a directory's marker. A TTL is the marker's, not that of what is below.
pub async fn write_dir(
    kv: &dyn Kv,
    key: &str,
    ttl: Option<u64>,
    how: WriteDir,
) -> Result<Reply, Failure> {
    let place = Place::look(kv, key).await?;
    if let Some(file) = &place.blocked {
        return Err(server(104, file, place.index));
    }
    let action = match how {
        WriteDir::Create if place.is_dir() || place.file.is_some() => return Err(place.fail(105)),
        WriteDir::Set if place.is_dir() => return Err(place.fail(102)),
        WriteDir::Update if place.file.is_some() => return Err(place.fail(104)),
        WriteDir::Update if !place.is_dir() => return Err(place.fail(100)),
        WriteDir::Create => "create",
        WriteDir::Set => "set",
        WriteDir::Update => "update",
    };
    let marker = format!("{}/", place.path);
    let lease = lease_for(kv, ttl).await?;
    let put = Op::Put {
        key: marker.clone().into_bytes(),
        value: Vec::new(),
        lease,
        previous: false,
    };
    let mut txn = Txn::new().then(put).then(Op::get(marker));
    if place.file.is_some() {
        txn = txn.then(Op::delete(place.path.clone()));
    }
    let reply = kv.txn(txn).await?;
    drop_lease(kv, place.marker.as_ref().and_then(|m| m.lease)).await;
    let node = Node {
        path: place.path,
        kv: reply.kvs(1).first().cloned(),
        dir: true,
        ..Node::default()
    };
    Ok(Reply {
        action,
        node,
        previous: place.marker,
        index: reply.revision,
    })
}
