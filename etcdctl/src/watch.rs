//! `watch` and `exec-watch`.

use std::process::Stdio;

use etcd_kv::{Event, Keys, Kv, KvError, WatchRequest};
use tokio::process::Command;

use crate::print::{self, Format};
use crate::tree::{Node, clean};
use crate::v2::Reply;

/// What to watch.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    pub(crate) key: &'a str,
    pub(crate) recursive: bool,
    pub(crate) forever: bool,
    /// `--after-index`: the first index of interest; 0 is "from now on".
    pub(crate) after: i64,
}

/// The change as v2's answer.
fn reply(event: Event) -> Reply {
    let index = event.revision();
    let path = String::from_utf8_lossy(event.key()).into_owned();
    match event {
        Event::Put { kv, previous } => Reply {
            action: "set",
            node: Node {
                path,
                kv: Some(kv),
                ..Node::default()
            },
            previous,
            index,
        },
        Event::Delete { previous, .. } => Reply {
            action: "delete",
            node: Node {
                path,
                ..Node::default()
            },
            previous,
            index,
        },
    }
}

/// Calls `handle` for each change of a file, until it says that it is enough.
async fn each<F>(kv: &dyn Kv, what: &Watching<'_>, mut handle: F) -> Result<(), KvError>
where
    F: AsyncFnMut(Reply) -> bool,
{
    let path = clean(what.key);
    // One watch for the key and what is below it; keys that merely begin alike are left out afterwards.
    let keys = if what.recursive {
        Keys::prefix(path.clone())
    } else {
        Keys::one(path.clone())
    };
    let from = (what.after > 0).then_some(what.after);
    let mut watch = kv
        .watch(WatchRequest {
            keys,
            from,
            previous: true,
        })
        .await?;
    loop {
        for event in watch.next().await?.events {
            let reply = reply(event);
            let rest = reply.node.path.strip_prefix(&path).unwrap_or_default();
            if !rest.is_empty() && !rest.starts_with('/') {
                continue;
            }
            if reply.node.path.ends_with('/') {
                eprintln!("Ignored dir {} change", clean(&reply.node.path));
                continue;
            }
            if !handle(reply).await {
                return Ok(());
            }
        }
    }
}

/// `watch`: prints changes.
pub(crate) async fn print(kv: &dyn Kv, what: &Watching<'_>, format: Format) -> Result<(), KvError> {
    each(kv, what, async |reply: Reply| {
        if what.recursive {
            println!("[{}] {}", reply.action, reply.node.path);
        }
        print!("{}", print::key(&reply, format, &|_| None));
        what.forever
    })
    .await
}

/// `exec-watch`: runs a command for every change, one after the other's start.
pub(crate) async fn exec(
    kv: &dyn Kv,
    what: &Watching<'_>,
    command: &[String],
) -> Result<(), KvError> {
    each(kv, what, async |reply: Reply| {
        let Some((program, args)) = command.split_first() else {
            return false;
        };
        let value = reply
            .node
            .kv
            .as_ref()
            .map_or_else(String::new, |kv| kv.value_str().into_owned());
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .env("ETCD_WATCH_ACTION", reply.action)
            .env("ETCD_WATCH_MODIFIED_INDEX", reply.index.to_string())
            .env("ETCD_WATCH_KEY", &reply.node.path)
            .env("ETCD_WATCH_VALUE", value)
            .spawn();
        match child {
            Ok(mut child) => {
                tokio::spawn(async move { child.wait().await });
            }
            Err(err) => eprintln!("etcdctl: failed to run {program}: {err}"),
        }
        true
    })
    .await
}
