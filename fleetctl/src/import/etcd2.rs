//! Reading an original fleet's registry through etcd's v2 API.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::Failure;
use crate::net::Transport;

/// etcd's "key not found".
const NOT_FOUND: u64 = 100;

/// A unit as the old registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldUnit {
    /// Its text, or why there is none.
    pub(super) text: Result<String, String>,
    /// What was wanted of it; empty if nothing was said.
    pub(super) target: String,
}

/// What the old registry holds and is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OldRegistry {
    pub(super) units: BTreeMap<String, OldUnit>,
    /// Names under which only remains of a unit are left.
    pub(super) stale: Vec<String>,
    /// Metadata set through the API, by machine; an empty value hides the machine's own.
    pub(super) metadata: BTreeMap<String, BTreeMap<String, String>>,
}

/// A node of etcd's v2 tree.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    key: String,
    value: String,
    nodes: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reply {
    node: Node,
    error_code: u64,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Text {
    raw: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    unit_hash: Vec<u8>,
}

impl Node {
    fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or("")
    }

    fn child(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name)
    }
}

/// Reads the registry below `prefix`.
pub(super) fn read(transport: &Transport, prefix: &str) -> Result<OldRegistry, Failure> {
    let texts = directory(transport, prefix, "unit")?;
    let jobs = directory(transport, prefix, "job")?;
    let machines = directory(transport, prefix, "machines")?;
    Ok(assemble(&texts, &jobs, &machines))
}

/// Reads a directory with all that is in it; one that is not there is empty.
fn directory(transport: &Transport, prefix: &str, name: &str) -> Result<Node, Failure> {
    let failed = |reason: String| Failure::Registry {
        url: transport.endpoint.to_string(),
        reason,
    };
    let prefix = prefix.trim_matches('/');
    let path = format!("/v2/keys/{prefix}/{name}?recursive=true&sorted=true&quorum=true");
    let what = format!("read {prefix}/{name}");
    let answer = transport.request(&what, "GET", &path, None)?;
    if answer.status == 401 {
        return Err(Failure::RegistryUser {
            url: transport.endpoint.to_string(),
        });
    }
    let reply: Reply = match serde_json::from_slice(&answer.body) {
        Ok(reply) => reply,
        Err(_) if answer.status == 404 => return Err(failed("the v2 API is off".into())),
        Err(error) => return Err(failed(format!("status {}: {error}", answer.status))),
    };
    match (answer.status, reply.error_code) {
        (200, 0) => Ok(reply.node),
        (_, NOT_FOUND) => Ok(Node::default()),
        (status, 0) => Err(failed(format!("status {status}"))),
        (_, code) => Err(failed(format!("{} ({code})", reply.message))),
    }
}

/// Puts the parts together.
fn assemble(texts: &Node, jobs: &Node, machines: &Node) -> OldRegistry {
    let mut old = OldRegistry::default();
    let texts: BTreeMap<&str, &str> = texts.nodes.iter().map(|n| (n.name(), &*n.value)).collect();
    for job in &jobs.nodes {
        let name = job.name().to_owned();
        let Some(object) = job.child("object") else {
            old.stale.push(name);
            continue;
        };
        let target = job
            .child("target-state")
            .map(|n| n.value.clone())
            .unwrap_or_default();
        let text = text_of(&object.value, &texts);
        old.units.insert(name, OldUnit { text, target });
    }
    for machine in &machines.nodes {
        let Some(metadata) = machine.child("metadata") else {
            continue;
        };
        let pairs = metadata
            .nodes
            .iter()
            .map(|n| (n.name().to_owned(), n.value.clone()));
        old.metadata
            .insert(machine.name().to_owned(), pairs.collect());
    }
    old
}

fn text_of(object: &str, texts: &BTreeMap<&str, &str>) -> Result<String, String> {
    let object: Object = serde_json::from_str(object).map_err(|e| format!("bad record: {e}"))?;
    let hash: String = object
        .unit_hash
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let text = texts
        .get(hash.as_str())
        .ok_or_else(|| format!("its text {hash} is missing"))?;
    let text: Text = serde_json::from_str(text).map_err(|e| format!("bad text {hash}: {e}"))?;
    Ok(text.raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: serde_json::Value) -> Node {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_parts_are_put_together() {
        let hash: Vec<u8> = (0..20).collect();
        let hex = "000102030405060708090a0b0c0d0e0f10111213";
        let texts = node(serde_json::json!({"key": "/p/unit", "nodes": [
            {"key": format!("/p/unit/{hex}"), "value": r#"{"Raw":"[Service]\nExecStart=/a\n"}"#}]}));
        let object = |hash: &[u8]| serde_json::json!({"Name": "x", "UnitHash": hash}).to_string();
        let jobs = node(serde_json::json!({"key": "/p/job", "nodes": [
            {"key": "/p/job/a.service", "nodes": [
                {"key": "/p/job/a.service/object", "value": object(&hash)},
                {"key": "/p/job/a.service/target", "value": "m1"},
                {"key": "/p/job/a.service/target-state", "value": "launched"}]},
            {"key": "/p/job/gone.service", "nodes": [
                {"key": "/p/job/gone.service/target", "value": "m1"}]},
            {"key": "/p/job/lost.service", "nodes": [
                {"key": "/p/job/lost.service/object", "value": object(&[1; 20])}]},
            {"key": "/p/job/odd.service", "nodes": [
                {"key": "/p/job/odd.service/object", "value": "nonsense"}]}]}));
        let machines = node(serde_json::json!({"key": "/p/machines", "nodes": [
            {"key": "/p/machines/m1", "nodes": [
                {"key": "/p/machines/m1/object", "value": "{}"},
                {"key": "/p/machines/m1/metadata", "nodes": [
                    {"key": "/p/machines/m1/metadata/zone", "value": "a"}]}]},
            {"key": "/p/machines/m2", "nodes": []}]}));
        let old = assemble(&texts, &jobs, &machines);
        assert_eq!(old.stale, ["gone.service"]);
        let a = &old.units["a.service"];
        assert_eq!(a.text.as_deref(), Ok("[Service]\nExecStart=/a\n"));
        assert_eq!(a.target, "launched");
        assert!(
            old.units["lost.service"]
                .text
                .as_ref()
                .unwrap_err()
                .contains("is missing")
        );
        assert!(
            old.units["odd.service"]
                .text
                .as_ref()
                .unwrap_err()
                .contains("bad record")
        );
        assert_eq!(old.metadata["m1"]["zone"], "a");
        assert_eq!(old.metadata.len(), 1);
    }
}
