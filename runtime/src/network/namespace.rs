//! Network namespaces of containers.
//!
//! `container-monitor netns FILE` is the helper: it leaves the host's namespace, makes the link with its other end
//! in the host's, and keeps the namespace by a bind mount.

use super::{Bridge, NetworkError, feed, io};
use crate::host::{self, Host};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) struct Link<'a> {
    pub(super) bridge: &'a Bridge,
    pub(super) address: Ipv4Addr,
    pub(super) mac: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Job {
    path: PathBuf,
    batch: String,
    sysctls: bool,
}

fn path_of(host: &Host, id: &str) -> PathBuf {
    host.run.join("netns").join(id)
}

/// Name of the host's end.
fn link_name(id: &str) -> String {
    format!("veth{}", &id[..9.min(id.len())])
}

pub(super) fn make(
    host: &Host,
    id: &str,
    link: Option<&Link<'_>>,
    sysctls: bool,
) -> Result<PathBuf, NetworkError> {
    let path = path_of(host, id);
    release(host, id);
    let directory = host.run.join("netns");
    fs::create_dir_all(&directory).map_err(io("make the namespace directory"))?;
    fs::write(&path, "").map_err(io("make the namespace file"))?;
    let name = link_name(id);
    let batch = link.map_or_else(
        || "link set lo up\n".to_owned(),
        |link| {
            format!(
                "link add eth0 mtu {mtu} address {mac} type veth peer name {name} mtu {mtu} netns {host}\nlink set lo up\naddr add {address}/{prefix} broadcast + dev eth0\nlink set eth0 up\nroute add default via {gateway}\n",
                mtu = link.bridge.mtu,
                mac = link.mac,
                host = std::process::id(),
                address = link.address,
                prefix = link.bridge.network.prefix,
                gateway = link.bridge.network.address,
            )
        },
    );
    let job = Job {
        path: path.clone(),
        batch,
        sysctls,
    };
    let file = directory.join(format!("{id}.job"));
    let text = serde_json::to_vec(&job).map_err(|error| NetworkError::Io {
        what: "write the namespace job".into(),
        source: error.into(),
    })?;
    fs::write(&file, text).map_err(io("write the namespace job"))?;
    let output = Command::new(host::monitor_program())
        .arg("netns")
        .arg(&file)
        .output();
    let _ = fs::remove_file(&file);
    let output = output.map_err(io("start the namespace helper"))?;
    if !output.status.success() {
        release(host, id);
        return Err(NetworkError::Program {
            program: "container-monitor",
            what: "make the network namespace",
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    if let Some(link) = link {
        feed(
            "ip",
            &["link", "set", &name, "master", &link.bridge.name, "up"],
            "",
            "join the bridge",
        )
        .inspect_err(|_| release(host, id))?;
    }
    Ok(path)
}

/// Gives a namespace up; the kernel removes it with its last process.
pub fn release(host: &Host, id: &str) {
    let path = path_of(host, id);
    while rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).is_ok() {}
    let _ = fs::remove_file(path);
}

/// The helper process.
pub fn helper_main(file: &Path) -> i32 {
    match make_here(file) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", telemetry::chain(&error));
            1
        }
    }
}

fn make_here(file: &Path) -> Result<(), NetworkError> {
    let bytes = fs::read(file).map_err(io("read the namespace job"))?;
    let job: Job = serde_json::from_slice(&bytes).map_err(|error| NetworkError::Io {
        what: "read the namespace job".into(),
        source: error.into(),
    })?;
    syscalls::namespace::unshare_network().map_err(io("leave the host's network namespace"))?;
    rustix::mount::mount_bind("/proc/self/ns/net", &job.path)
        .map_err(|error| io("keep the network namespace")(error.into()))?;
    if job.sysctls {
        // As docker: a namespace of its own makes these harmless, and unprivileged servers work.
        for (key, value) in [
            ("ip_unprivileged_port_start", "0"),
            ("ping_group_range", "0 2147483647"),
        ] {
            let _ = fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
        }
    }
    feed(
        "ip",
        &["-batch", "-"],
        &job.batch,
        "set up the container's link",
    )
    .map(|_| ())
}
