//! Following a range of keys: first everything, then every change, for ever.

use std::time::Duration;

use etcd_kv::{Event, KeyValue, Keys, Kv, KvError, Range, Watch, WatchRequest};
use tokio::time::sleep;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What has become of the range.
#[derive(Debug)]
pub enum Update {
    /// All keys as they are; whatever was known before is void.
    All(Vec<KeyValue>, i64),
    /// Changes since then, in order.
    Changes(Vec<Event>, i64),
}

/// A range being followed. Without etcd it waits; after a compaction, or when an older copy of the
/// store was restored, it begins afresh.
#[derive(Debug)]
pub struct Follow {
    keys: Keys,
    watch: Option<Watch>,
    pause: Duration,
    /// Newest revision seen.
    seen: i64,
    rewinds: u64,
}

impl Follow {
    /// Begins; nothing is read yet.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            watch: None,
            pause: FIRST_PAUSE,
            seen: 0,
            rewinds: 0,
        }
    }

    /// How often the store turned out to be an older copy of itself, as of the last update. What was
    /// written before is then no longer certain to be there.
    #[must_use]
    pub fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// The next update. Safe to cancel.
    pub async fn next(&mut self, kv: &dyn Kv) -> Update {
        loop {
            if let Some(watch) = &mut self.watch {
                match watch.next().await {
                    Ok(first) => {
                        let (mut events, mut revision) = (first.events, first.revision);
                        // Whatever has piled up is dealt with at once.
                        while let Some(more) = watch.try_next() {
                            match more {
                                Ok(more) => {
                                    events.extend(more.events);
                                    revision = more.revision;
                                }
                                Err(error) => {
                                    self.begin_afresh(&error);
                                    break;
                                }
                            }
                        }
                        self.seen = self.seen.max(revision);
                        return Update::Changes(events, revision);
                    }
                    Err(error) => self.begin_afresh(&error),
                }
            }
            match self.read(kv).await {
                Ok(update) => {
                    self.pause = FIRST_PAUSE;
                    return update;
                }
                Err(error) => {
                    tracing::debug!(%error, "the registry cannot be read");
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn begin_afresh(&mut self, error: &KvError) {
        tracing::info!(%error, "reading the registry afresh");
        self.watch = None;
        if matches!(error, KvError::Rewound { .. }) {
            // Whatever is read now counts as older.
            self.seen = i64::MAX;
        }
    }

    async fn read(&mut self, kv: &dyn Kv) -> Result<Update, KvError> {
        let all = kv.range(Range::new(self.keys.clone())).await?;
        if all.revision < self.seen {
            tracing::warn!("the registry is an older copy of itself; publishing everything anew");
            self.rewinds += 1;
        }
        self.seen = all.revision;
        let request = WatchRequest::from(self.keys.clone(), all.revision + 1);
        self.watch = Some(kv.watch(request).await?);
        Ok(Update::All(all.kvs, all.revision))
    }
}
