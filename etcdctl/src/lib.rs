//! etcd for people and units: `etcdctl` with etcd's v2 verbs on the v3 keyspace, and `etcd-launch`, which starts etcd (or
//! a proxy to one) from the environment that CoreOS's user data sets.
//!
//! There is one keyspace, v3: what a unit sets with `etcdctl set` is what flanneld, locksmith and fleet see. A v2 path is
//! a v3 key beginning with `/`; a directory is a prefix, or the marker key `PATH/` where `mkdir` made it.
//!
//! Module [`v2`] holds the verbs as operations on any store, so they are tested against the in-memory one and against
//! etcd alike; [`tree`] turns flat keys into directories; [`args`] and [`print`](mod@print) are the command line as it was
//! measured on etcd 3.4's v2 mode. [`launch`] decides from environment and directories what to run.

#![forbid(unsafe_code)]

pub mod args;
mod cluster;
pub mod ctl;
pub mod launch;
pub mod print;
pub mod tree;
pub mod v2;
mod watch;
