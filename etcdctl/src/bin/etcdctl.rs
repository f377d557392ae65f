//! etcd's command line client. See `etcdctl_lib::ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcdctl_lib::ctl::main()
}
