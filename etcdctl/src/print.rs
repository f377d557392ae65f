//! Answers as v2's etcdctl prints them. No I/O.

use etcd_kv::KeyValue;
use serde_json::{Value, json};

use crate::tree::Node;
use crate::v2::Reply;

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The value.
    Simple,
    /// Key, indexes and value.
    Extended,
    /// The API's answer.
    Json,
}

impl Format {
    /// By name; v2 took everything else for `simple`'s error.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("simple") => Some(Self::Simple),
            Some("extended") => Some(Self::Extended),
            Some("json") => Some(Self::Json),
            Some(_) => None,
        }
    }
}

/// The answer to a verb about one key. `ttl` gives what a key has left.
pub fn key(reply: &Reply, format: Format, ttl: &dyn Fn(&KeyValue) -> Option<i64>) -> String {
    match format {
        Format::Simple => match (reply.action, &reply.previous) {
            ("delete" | "compareAndDelete", Some(previous)) => {
                format!("PrevNode.Value: {}\n", previous.value_str())
            }
            // A directory was removed: nothing to say.
            ("delete" | "compareAndDelete", None) => String::new(),
            _ => format!("{}\n", value(&reply.node)),
        },
        Format::Extended => {
            let kv = reply.node.kv.as_ref().or(reply.previous.as_ref());
            let number = |f: fn(&KeyValue) -> i64| kv.map_or(0, f);
            let mut text = format!(
                "Key: {}\nCreated-Index: {}\nModified-Index: {}\n",
                reply.node.path,
                number(|kv| kv.create_revision),
                number(|kv| kv.mod_revision)
            );
            if let Some(previous) = &reply.previous {
                text += &format!("PrevNode.Value: {}\n", previous.value_str());
            }
            text += &format!(
                "TTL: {}\nIndex: {}\n",
                kv.and_then(ttl).unwrap_or(0),
                reply.index
            );
            if reply.action != "delete" && !reply.node.dir {
                text += &format!("\n{}\n", value(&reply.node));
            }
            text
        }
        Format::Json => {
            let previous = reply.previous.as_ref().map(|kv| {
                let node = Node {
                    path: reply.node.path.clone(),
                    kv: Some(kv.clone()),
                    ..Node::default()
                };
                json_node(&node, &|_| None, false)
            });
            let answer = json!({
                "action": reply.action,
                "node": json_node(&reply.node, ttl, true),
                "prevNode": previous,
            });
            format!("{answer}\n")
        }
    }
}

fn value(node: &Node) -> String {
    node.kv
        .as_ref()
        .map_or_else(String::new, |kv| kv.value_str().into_owned())
}

fn json_node(node: &Node, ttl: &dyn Fn(&KeyValue) -> Option<i64>, children: bool) -> Value {
    let number = |f: fn(&KeyValue) -> i64| node.kv.as_ref().map_or(0, f);
    let nodes: Value = match children && !node.children.is_empty() {
        true => node
            .children
            .values()
            .map(|child| json_node(child, ttl, false))
            .collect(),
        false => Value::Null,
    };
    let mut out = json!({
        "key": node.path,
        "value": if node.dir { String::new() } else { value(node) },
        "nodes": nodes,
        "createdIndex": number(|kv| kv.create_revision),
        "modifiedIndex": number(|kv| kv.mod_revision),
    });
    if node.dir {
        out["dir"] = json!(true);
    }
    if let Some(left) = node.kv.as_ref().and_then(ttl) {
        out["ttl"] = json!(left);
    }
    out
}

/// The answer to `ls`: a path a line, with `-p` a slash behind directories.
pub fn list(reply: &Reply, recursive: bool, slash: bool) -> String {
    if !reply.node.dir {
        return format!("{}\n", reply.node.path);
    }
    let mut text = String::new();
    reply.node.walk(recursive, &mut |node| {
        text += &node.path;
        if node.dir && slash {
            text.push('/');
        }
        text.push('\n');
    });
    text
}
