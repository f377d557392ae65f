//! etcdctl with etcd's v2 verbs over v3, and etcd-launch.

fn main() {}
