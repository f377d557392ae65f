//! One step of a plan: doing it, and saying how it went.

use std::path::Path;

use rustix::io::Errno;

use super::manager::ManagedLink;
use crate::netlink::Handle;
use crate::netlink::link::{add_altname, set_mac, set_mtu, set_up};
use crate::plan::Step;

/// Notes how a step went: refusals are told once and make the link "failed".
pub(super) fn conclude(
    managed: &mut ManagedLink,
    step: &Step,
    count: u32,
    result: Result<(), String>,
) {
    let name = &managed.facts.name;
    match (result, step) {
        (Ok(()), _) => tracing::debug!(link = name, ?step, "done"),
        // A name that is taken is not worth failing for.
        (Err(error), Step::AltName(_, altname)) => {
            tracing::debug!(link = name, altname, error, "name not added");
        }
        (Err(error), _) => {
            let text = format!("{}: {error}", describe(step));
            if count == 1 {
                tracing::warn!(link = name, "{name}: {text}");
            }
            managed.failure = Some(text);
        }
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Sysctl(path, value) => format!("failed to set {path} to {value}"),
        Step::AltName(_, name) => format!("failed to add the name {name}"),
        Step::Mac(_, mac) => format!("failed to set the hardware address {mac}"),
        Step::Mtu(_, mtu) => format!("failed to set an MTU of {mtu}"),
        Step::Up(_, up) => format!(
            "failed to take the link {}",
            if *up { "up" } else { "down" }
        ),
        Step::PutAddress(a) => format!("failed to set the address {}/{}", a.local, a.prefix),
        Step::DropAddress(a) => format!("failed to remove the address {}/{}", a.local, a.prefix),
        Step::PutRoute(r, _) => {
            let via = r.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
            format!(
                "failed to set the route to {}/{}{via}",
                r.destination, r.prefix
            )
        }
        Step::DropRoute(r) => format!(
            "failed to remove the route to {}/{}",
            r.destination, r.prefix
        ),
    }
}

pub(super) fn perform_step(handle: &mut Handle, step: &Step) -> Result<(), String> {
    let result = match step {
        Step::Sysctl(path, value) => {
            return std::fs::write(Path::new("/proc/sys").join(path), value)
                .map_err(|e| e.to_string());
        }
        Step::AltName(index, name) => handle.request(add_altname(*index, name)),
        Step::Mac(index, mac) => handle.request(set_mac(*index, *mac)).or_else(|error| {
            // Some drivers take a new address only while the link is down; the plan brings it up again.
            if !error.is(Errno::BUSY) {
                return Err(error);
            }
            handle.request(set_up(*index, false))?;
            handle.request(set_mac(*index, *mac))?;
            handle.request(set_up(*index, true))
        }),
        Step::Mtu(index, mtu) => handle.request(set_mtu(*index, *mtu)),
        Step::Up(index, up) => handle.request(set_up(*index, *up)),
        Step::PutAddress(address) => handle.request(address.replace()),
        Step::DropAddress(address) => handle.request(address.remove()),
        Step::PutRoute(route, true) => handle.request(route.replace()),
        Step::PutRoute(route, false) => handle.request(route.add()),
        Step::DropRoute(route) => handle.request(route.remove()),
    };
    match (result, step) {
        (Ok(()), _) => Ok(()),
        // Already gone: the kernel drops routes with their addresses.
        (Err(e), Step::DropRoute(_)) if e.is(Errno::SRCH) => Ok(()),
        (Err(e), Step::DropAddress(_)) if e.is(Errno::ADDRNOTAVAIL) => Ok(()),
        // Somebody else's route says the same; it is not ours to replace.
        (Err(e), Step::PutRoute(..)) if e.is(Errno::EXIST) => Ok(()),
        (Err(e), _) => Err(telemetry::chain(&e)),
    }
}

pub(super) fn read_sysctl(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/proc/sys").join(path))
        .ok()
        .map(|v| v.trim().to_owned())
}
