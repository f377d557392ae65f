//! A key-value store with leases and watches: etcd v3, and an in-memory twin under one conformance suite.
