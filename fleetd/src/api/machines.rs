//! `machines`: who is there, and the operator's overlay of their metadata.

use fleet_model::wire;
use fleet_model::{Machine, MachineId, Metadata, merge_metadata};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::paging::Page;
use super::request::read_json;
use super::{Api, Reply};
use crate::registry::Registry;

/// Changes in one request.
const MAX_PATCHES: usize = 256;
/// Bytes of one value.
const MAX_VALUE: usize = 1024;

impl Api {
    pub(super) async fn list_machines(&self, query: &str) -> Reply {
        let page = match Page::from_query(query, self.page_limit) {
            Ok(page) => page,
            Err(reply) => return reply,
        };
        let machines = match self.registry.machines().await {
            Ok(machines) => machines,
            Err(error) => return Reply::failed(&error),
        };
        let desired = self.mirror.read();
        let none = Metadata::new();
        let machines = machines
            .into_iter()
            .map(|(id, machine)| {
                let overlay = desired.overlays.get(&id).unwrap_or(&none);
                to_wire(&id, &machine, merge_metadata(&machine.metadata, overlay))
            })
            .collect();
        let (machines, next_page_token) = page.cut(machines);
        Reply::json(&wire::MachinePage {
            machines,
            next_page_token,
        })
    }

    pub(super) async fn patch_machines(&self, request: Request<Incoming>) -> Reply {
        let patches: Vec<wire::MetadataPatch> = match read_json(request.into_body()).await {
            Ok(patches) => patches,
            Err(reply) => return reply,
        };
        if patches.len() > MAX_PATCHES {
            return Reply::bad_request(format!("more than {MAX_PATCHES} changes at once"));
        }
        // All are checked before the first is applied.
        let changes: Result<Vec<_>, _> = patches.iter().map(check).collect();
        let changes = match changes {
            Ok(changes) => changes,
            Err(reason) => return Reply::bad_request(reason),
        };
        match self.registry.patch_metadata(&changes).await {
            Ok(revision) => {
                self.mirror.caught_up(revision).await;
                Reply::Empty(StatusCode::NO_CONTENT)
            }
            Err(error) => Reply::failed(&error),
        }
    }
}

pub(super) fn to_wire(id: &MachineId, machine: &Machine, metadata: Metadata) -> wire::Machine {
    wire::Machine {
        id: id.to_string(),
        primary_ip: machine.public_ip.clone(),
        metadata,
    }
}

/// ` (ADDRESS)` of a machine, if it is present and has one.
pub(super) async fn address_of(registry: &Registry, id: &MachineId) -> String {
    let machines = registry.machines().await.unwrap_or_default();
    machines
        .into_iter()
        .find(|(there, machine)| there == id && !machine.public_ip.is_empty())
        .map(|(_, machine)| format!(" ({})", machine.public_ip))
        .unwrap_or_default()
}

fn check(patch: &wire::MetadataPatch) -> Result<(MachineId, String, Option<String>), String> {
    let parts: Vec<&str> = patch.path.split('/').collect();
    let ["", machine, "metadata", key] = parts[..] else {
        return Err(format!("invalid path \"{}\"", patch.path));
    };
    let machine =
        MachineId::parse(machine).ok_or_else(|| format!("invalid path \"{}\"", patch.path))?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if key.is_empty() || key.len() > 256 || !key.bytes().all(legal) {
        return Err(format!("invalid path \"{}\"", patch.path));
    }
    let value = patch
        .value
        .as_ref()
        .map(wire::PatchValue::as_str)
        .filter(|v| !v.is_empty());
    let value = match (patch.op.as_str(), value) {
        ("add" | "replace", Some(value)) if value.len() > MAX_VALUE => {
            return Err(format!("invalid value: longer than {MAX_VALUE} bytes"));
        }
        ("add" | "replace", Some(value)) if value.chars().any(char::is_control) => {
            return Err("invalid value: it has a control character".into());
        }
        ("add" | "replace", Some(value)) => Some(value.to_owned()),
        ("add" | "replace", None) => {
            return Err(format!(
                "invalid value for operation \"{}\": it is empty",
                patch.op
            ));
        }
        ("remove", _) => None,
        (other, _) => {
            return Err(format!(
                "invalid op \"{other}\": expected add, remove or replace"
            ));
        }
    };
    Ok((machine, key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_checked() {
        let patch = |op: &str, path: &str, value: &str| {
            let value = (!value.is_empty()).then(|| wire::PatchValue::Bare(value.into()));
            check(&wire::MetadataPatch {
                op: op.into(),
                path: path.into(),
                value,
            })
        };
        let m = MachineId::parse("m").unwrap();
        assert_eq!(
            patch("add", "/m/metadata/k.1", "v"),
            Ok((m.clone(), "k.1".into(), Some("v".into())))
        );
        assert_eq!(
            patch("remove", "/m/metadata/k", ""),
            Ok((m, "k".into(), None))
        );
        for (op, path, value) in [
            ("add", "/m/metadata/k", ""),
            ("add", "/m/metadata/k k", "v"),
            ("add", "/m/metadata/k/l", "v"),
            ("add", "m/metadata/k", "v"),
            ("add", "/m/other/k", "v"),
            ("add", "//metadata/k", "v"),
            ("move", "/m/metadata/k", "v"),
        ] {
            assert!(patch(op, path, value).is_err(), "{op} {path} {value}");
        }
    }
}
