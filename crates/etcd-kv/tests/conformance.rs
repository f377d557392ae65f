//! The suite on both stores.

use std::sync::Arc;

use etcd_kv::MemKv;
use etcd_kv::testing::{EtcdServer, conformance};

#[tokio::test]
async fn memory_conforms() {
    conformance(Arc::new(MemKv::new())).await;
}

#[tokio::test]
async fn etcd_conforms() {
    let server = EtcdServer::start().await;
    conformance(Arc::new(server.client())).await;
}
