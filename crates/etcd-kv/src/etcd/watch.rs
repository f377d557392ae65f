//! A watch that outlives connections.
//!
//! One task per watch reads a stream of the server and hands batches over. When the stream breaks,
//! it begins a new one, on whatever endpoint answers, at the revision after the last one handed
//! over. It asks for streams that end when their member has lost the leader, so a member cut off
//! from the cluster is left for another one. Only what cannot be resumed ends the watch: compacted
//! history, refused access, and a store that has lost its history. The last is looked for whenever
//! a stream is resumed: the server would wait without a word until its revisions reach ours again.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::grpc::{CallError, Streaming};
use super::{EtcdKv, convert, proto};
use crate::error::KvError;
use crate::kv::{Kv as _, Watch, WatchBatch};
use crate::model::{Keys, Range, WatchRequest};

/// Pause before the first new attempt, doubled up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Begins a watch and returns when the server has confirmed it.
pub(super) async fn start(kv: EtcdKv, request: WatchRequest) -> Result<Watch, KvError> {
    let deadline = kv.inner.config.request_timeout;
    // Each endpoint in turn, and once more: the first failure may only cost the connection.
    let mut tries = kv.inner.config.endpoints.len() + 1;
    let opened = loop {
        let attempt = timeout(deadline, open(&kv, &request, request.from));
        let error = match attempt.await {
            Ok(Ok(opened)) => break opened,
            Ok(Err(Broken::Final(error))) => return Err(error),
            Ok(Err(Broken::Resumable(reason))) => KvError::Unavailable {
                what: "watch",
                endpoints: kv.endpoint_list(),
                reason,
                sent: false,
            },
            Err(_) => KvError::Timeout {
                what: "watch",
                after: deadline,
                sent: false,
            },
        };
        tries -= 1;
        if tries == 0 {
            return Err(error);
        }
    };
    let (tx, watch) = Watch::channel();
    tokio::spawn(run(kv, request, opened, tx));
    Ok(watch)
}

/// Why a stream ended.
enum Broken {
    /// Another stream can go on where it stopped.
    Resumable(String),
    /// Nothing can.
    Final(KvError),
}

/// A stream, confirmed by the server.
struct Opened {
    stream: Streaming,
    /// The revision it begins at.
    from: i64,
    /// The server's revision.
    now: i64,
    cluster: u64,
}

async fn run(
    kv: EtcdKv,
    request: WatchRequest,
    opened: Opened,
    tx: Sender<Result<WatchBatch, KvError>>,
) {
    let Opened {
        mut stream,
        mut from,
        cluster,
        now: mut seen,
    } = opened;
    // It may be in the future, which is no sign of lost history.
    let start = from;
    loop {
        let broken = tokio::select! {
            broken = forward(&mut stream, &mut from, &tx) => broken,
            () = tx.closed() => return,
        };
        if from > start {
            seen = seen.max(from - 1);
        }
        drop(stream);
        let Some(mut reason) = settle(broken, &tx).await else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        stream = loop {
            tracing::debug!(reason, from, "watch interrupted, resuming");
            tokio::select! {
                () = sleep(pause) => {}
                () = tx.closed() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let limit = kv.inner.config.request_timeout;
            let resumed = async {
                let opened = open(&kv, &request, Some(from)).await?;
                same_history(&kv, &opened, cluster, seen).await?;
                Ok(opened.stream)
            };
            match timeout(limit, resumed).await {
                Ok(Ok(stream)) => break stream,
                Ok(Err(broken)) => match settle(Some(broken), &tx).await {
                    Some(text) => reason = text,
                    None => return,
                },
                Err(_) => reason = "no answer in time".into(),
            }
        };
    }
}

/// Whether a resumed stream goes on where the last one stopped. A member may lag behind; only the
/// cluster as a whole tells whether revisions that were seen are gone.
async fn same_history(kv: &EtcdKv, opened: &Opened, cluster: u64, seen: i64) -> Result<(), Broken> {
    let rewound = |now| Err(Broken::Final(KvError::Rewound { seen, now }));
    if opened.cluster != cluster {
        return rewound(opened.now);
    }
    if opened.now >= seen {
        return Ok(());
    }
    let newest = Range {
        count_only: true,
        ..Range::new(Keys::one("0"))
    };
    match kv.range(newest).await {
        Ok(reply) if reply.revision < seen => rewound(reply.revision),
        Ok(_) => Ok(()),
        Err(error) => Err(Broken::Resumable(error.to_string())),
    }
}

/// Reports a final error, or gives back the reason why to resume. `None` ends the watch.
async fn settle(
    broken: Option<Broken>,
    tx: &Sender<Result<WatchBatch, KvError>>,
) -> Option<String> {
    match broken? {
        Broken::Resumable(reason) => Some(reason),
        Broken::Final(error) => {
            // Nobody may be listening any more; then there is nobody to tell.
            let _ = tx.send(Err(error)).await;
            None
        }
    }
}

/// Opens a stream and waits for the confirmation.
///
/// etcd refuses a watch with an outdated token in the same words as one without permission, so a
/// refusal counts only when it is repeated with a fresh token.
async fn open(kv: &EtcdKv, request: &WatchRequest, from: Option<i64>) -> Result<Opened, Broken> {
    let before = kv.generation().await;
    match open_once(kv, request, from).await {
        Err((Broken::Final(KvError::Denied { .. }), used))
            if kv.inner.config.credentials.is_some() && used == before =>
        {
            kv.drop_connection(used).await;
            open_once(kv, request, from).await
        }
        other => other,
    }
    .map_err(|(broken, _)| broken)
}

/// One attempt; a failure comes with the generation of the connection that was used.
async fn open_once(
    kv: &EtcdKv,
    request: &WatchRequest,
    from: Option<i64>,
) -> Result<Opened, (Broken, u64)> {
    let connection = kv.connection().await.map_err(|error| match error {
        KvError::Denied { .. } => (Broken::Final(error), 0),
        other => (Broken::Resumable(other.to_string()), 0),
    })?;
    let (key, range_end) = request.keys.to_wire();
    let create = proto::WatchCreateRequest {
        key,
        range_end,
        start_revision: from.unwrap_or(0),
        progress_notify: true,
        prev_kv: request.previous,
    };
    let mut metadata = connection.metadata.clone();
    metadata.push((super::REQUIRE_LEADER, "true".to_owned()));
    let message = proto::WatchRequest {
        create: Some(create),
    };
    let opened = async {
        let mut stream = connection
            .channel
            .streaming("/etcdserverpb.Watch/Watch", &message, &metadata)
            .await?;
        let first = stream.next::<proto::WatchResponse>().await?;
        Ok::<_, CallError>((stream, first))
    };
    let broken = match opened.await {
        Ok((stream, Some(first))) if first.created && !first.canceled => {
            let header = first.header.unwrap_or_default();
            return Ok(Opened {
                stream,
                from: from.unwrap_or(header.revision + 1),
                now: header.revision,
                cluster: header.cluster_id,
            });
        }
        Ok((_, Some(first))) => cancelled(&first),
        Ok((_, None)) => Broken::Resumable("the server ended the stream".into()),
        Err(error) => {
            kv.drop_connection(connection.generation).await;
            broken(error)
        }
    };
    Err((broken, connection.generation))
}

/// Hands over batches until the stream breaks (`Some`) or nobody listens (`None`).
async fn forward(
    stream: &mut Streaming,
    from: &mut i64,
    tx: &Sender<Result<WatchBatch, KvError>>,
) -> Option<Broken> {
    loop {
        let message = match stream.next::<proto::WatchResponse>().await {
            Ok(Some(message)) => message,
            Ok(None) => return Some(Broken::Resumable("the server ended the stream".into())),
            Err(error) => return Some(broken(error)),
        };
        if message.canceled {
            return Some(cancelled(&message));
        }
        if message.events.is_empty() {
            // A progress note: nothing up to here concerns us, so resume after it.
            if let Some(header) = message.header {
                *from = (*from).max(header.revision + 1);
            }
            continue;
        }
        let events: Vec<_> = message.events.into_iter().map(convert::event).collect();
        let revision = events.last().map_or(0, crate::model::Event::revision);
        *from = revision + 1;
        if tx.send(Ok(WatchBatch { revision, events })).await.is_err() {
            return None;
        }
    }
}

fn cancelled(message: &proto::WatchResponse) -> Broken {
    if message.compact_revision > 0 {
        Broken::Final(KvError::Compacted {
            oldest: message.compact_revision,
        })
    } else if ["permission", "auth", "user name is empty"]
        .iter()
        .any(|word| message.cancel_reason.contains(word))
    {
        let message = message.cancel_reason.clone();
        Broken::Final(KvError::Denied {
            what: "watch",
            message,
        })
    } else {
        Broken::Resumable(format!(
            "cancelled by the server: {}",
            message.cancel_reason
        ))
    }
}

fn broken(error: CallError) -> Broken {
    match error {
        CallError::Transport { reason, .. } => Broken::Resumable(reason),
        CallError::Status { code, message } if super::outdated_token(code, &message) => {
            Broken::Resumable(message)
        }
        CallError::Status {
            code: 3 | 7,
            message,
        } => Broken::Final(convert::status_error("watch", 7, message)),
        CallError::Status { message, .. } => Broken::Resumable(message),
        CallError::Malformed(reason) => Broken::Resumable(reason),
    }
}
