//! Starts etcd from the environment. See `etcdctl_lib::launch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcdctl_lib::launch::main()
}
