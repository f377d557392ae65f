//! flanneld: the multi-host overlay, with flannel's contract in etcd, so that the original can share the network.
//!
//! Each machine leases a subnet (`PREFIX/subnets/10.1.5.0-24`), says there where it is reached, and follows the leases of
//! the others. `model` is the contract as values and the choice of a subnet; `plan` turns leases into kernel objects;
//! `store` is etcd, `device` the kernel; `run` is the program. Losing etcd takes nothing down: the kernel keeps the data
//! path, and the lease is claimed again when etcd is back.

mod device;
pub mod model;
mod news;
pub mod options;
mod output;
pub mod plan;
mod run;
mod store;

pub use run::main;
