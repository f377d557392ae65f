//! What every store must do. Each case uses keys of its own, so a store may be used before.

#![allow(clippy::unwrap_used, reason = "a violation should stop the suite")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    Compare, Condition, Event, Keys, Kv, KvError, Lease, Op, OpReply, Order, Range, Txn, Watch,
    WatchRequest,
};

/// Runs all cases on `kv`; panics at the first violation.
pub async fn conformance(kv: Arc<dyn Kv>) {
    readings(&*kv).await;
    writes_count_versions_and_revisions(&*kv).await;
    old_revisions_are_readable_until_compacted(&*kv).await;
    transactions(&*kv).await;
    transactions_are_limited(&*kv).await;
    leases(&*kv).await;
    expired_leases_take_their_keys(&*kv).await;
    watches(&*kv).await;
    watches_from_the_past_and_future(&*kv).await;
    watch_of_a_compacted_revision_says_so(&*kv).await;
    racing_transactions_have_one_winner(kv.clone()).await;
    assert!(!kv.members().await.unwrap().is_empty());
}

async fn readings(kv: &dyn Kv) {
    for (key, value) in [
        ("r/b", "2"),
        ("r/a", "1"),
        ("r/c", "3"),
        ("r0", "x"),
        ("q", "y"),
    ] {
        kv.put(key, value, None).await.unwrap();
    }
    let keys = |r: &crate::RangeReply| -> Vec<String> {
        r.kvs.iter().map(|kv| kv.key_str().into_owned()).collect()
    };
    assert_eq!(kv.get("r/a").await.unwrap().unwrap().value, b"1");
    assert_eq!(kv.get("r/none").await.unwrap(), None);
    let all = kv.list("r/").await.unwrap();
    assert_eq!(keys(&all), ["r/a", "r/b", "r/c"]);
    assert_eq!((all.count, all.more), (3, false));

    let two = kv
        .range(Range {
            limit: Some(2),
            ..Range::new(Keys::prefix("r/"))
        })
        .await
        .unwrap();
    assert_eq!((keys(&two).len(), two.count, two.more), (2, 3, true));
    let count = kv
        .range(Range {
            count_only: true,
            ..Range::new(Keys::prefix("r/"))
        })
        .await
        .unwrap();
    assert_eq!((count.kvs.len(), count.count), (0, 3));
    let bare = kv
        .range(Range {
            keys_only: true,
            ..Range::new(Keys::prefix("r/"))
        })
        .await
        .unwrap();
    assert!(bare.kvs.iter().all(|kv| kv.value.is_empty()) && bare.kvs.len() == 3);
    let created = kv
        .range(Range {
            order: Order::Created,
            ..Range::new(Keys::prefix("r/"))
        })
        .await
        .unwrap();
    assert_eq!(keys(&created), ["r/b", "r/a", "r/c"]);
    let between = Keys::Between(b"r/b".to_vec(), b"r0".to_vec());
    assert_eq!(
        keys(&kv.range(Range::new(between)).await.unwrap()),
        ["r/b", "r/c"]
    );
    let from = kv
        .range(Range::new(Keys::From(b"r/c".to_vec())))
        .await
        .unwrap();
    assert_eq!(keys(&from)[..2], ["r/c", "r0"]);
    let stale = kv
        .range(Range {
            serializable: true,
            ..Range::new(Keys::one("r/a"))
        })
        .await
        .unwrap();
    assert_eq!(stale.kvs.len(), 1);
    let everything = kv.range(Range::new(Keys::prefix(""))).await.unwrap();
    assert!(everything.count >= 5);
    assert!(matches!(kv.get("").await, Err(KvError::Rejected { .. })));
    assert!(matches!(
        kv.put("", "x", None).await,
        Err(KvError::Rejected { .. })
    ));
}

async fn writes_count_versions_and_revisions(kv: &dyn Kv) {
    let first = kv.put("w/k", "1", None).await.unwrap();
    assert_eq!(first.previous, None);
    let second = kv.put("w/k", "2", None).await.unwrap();
    assert_eq!(second.revision, first.revision + 1);
    assert_eq!(second.previous.unwrap().value, b"1");
    let now = kv.get("w/k").await.unwrap().unwrap();
    assert_eq!(
        (now.create_revision, now.mod_revision),
        (first.revision, second.revision)
    );
    assert_eq!((now.version, now.lease), (2, None));

    let gone = kv.delete(Keys::prefix("w/")).await.unwrap();
    assert_eq!((gone.deleted, gone.revision), (1, second.revision + 1));
    assert_eq!(gone.previous[0].value, b"2");
    let nothing = kv.delete(Keys::prefix("w/")).await.unwrap();
    assert_eq!((nothing.deleted, nothing.revision), (0, gone.revision));
    kv.put("w/k", "3", None).await.unwrap();
    assert_eq!(kv.get("w/k").await.unwrap().unwrap().version, 1);
}

async fn old_revisions_are_readable_until_compacted(kv: &dyn Kv) {
    let one = kv.put("old/k", "1", None).await.unwrap().revision;
    let two = kv.put("old/k", "2", None).await.unwrap().revision;
    let three = kv.delete(Keys::one("old/k")).await.unwrap().revision;
    let at = async |r| {
        kv.range(Range {
            revision: Some(r),
            ..Range::new(Keys::one("old/k"))
        })
        .await
    };
    assert_eq!(at(one).await.unwrap().kvs[0].value, b"1");
    assert_eq!(at(two).await.unwrap().kvs[0].value, b"2");
    assert!(at(three).await.unwrap().kvs.is_empty());
    assert_eq!(at(three + 100_000).await, Err(KvError::FutureRevision));
    kv.compact(two).await.unwrap();
    assert!(matches!(at(one).await, Err(KvError::Compacted { .. })));
    assert_eq!(at(two).await.unwrap().kvs[0].value, b"2");
    assert!(matches!(
        kv.compact(one).await,
        Err(KvError::Compacted { .. })
    ));
    assert_eq!(
        kv.compact(three + 100_000).await,
        Err(KvError::FutureRevision)
    );
}

async fn transactions(kv: &dyn Kv) {
    let create = |value: &'static str| {
        Txn::new()
            .when(Compare::missing("t/k"))
            .then(Op::put("t/k", value))
            .otherwise(Op::get("t/k"))
    };
    let made = kv.txn(create("1")).await.unwrap();
    assert!(made.succeeded && matches!(made.replies[..], [OpReply::Put(_)]));
    let there = kv.txn(create("2")).await.unwrap();
    assert!(!there.succeeded);
    assert_eq!(there.kvs(0)[0].value, b"1");
    assert_eq!(there.revision, made.revision);

    let k = kv.get("t/k").await.unwrap().unwrap();
    let check = |key: &str, condition: Condition| Compare {
        key: key.into(),
        condition,
    };
    for (condition, expect) in [
        (Condition::Version(1), true),
        (Condition::Version(2), false),
        (Condition::VersionAbove(0), true),
        (Condition::VersionAbove(1), false),
        (Condition::Created(k.create_revision), true),
        (Condition::Modified(k.mod_revision), true),
        (Condition::Modified(k.mod_revision + 1), false),
        (Condition::ModifiedBefore(k.mod_revision + 1), true),
        (Condition::ModifiedBefore(k.mod_revision), false),
        (Condition::Value(b"1".to_vec()), true),
        (Condition::Value(b"2".to_vec()), false),
        (Condition::ValueNot(b"2".to_vec()), true),
        (Condition::Lease(None), true),
        (Condition::Lease(Some(Lease(5))), false),
    ] {
        let reply = kv
            .txn(Txn::new().when(check("t/k", condition.clone())))
            .await
            .unwrap();
        assert_eq!(reply.succeeded, expect, "{condition:?}");
    }
    for (condition, expect) in [
        (Condition::Version(0), true),
        (Condition::Modified(0), true),
        (Condition::Value(Vec::new()), false),
        (Condition::ValueNot(b"1".to_vec()), false),
        (Condition::Lease(None), true),
    ] {
        let reply = kv
            .txn(Txn::new().when(check("t/none", condition.clone())))
            .await
            .unwrap();
        assert_eq!(reply.succeeded, expect, "missing key, {condition:?}");
    }

    // Several operations happen at one revision, and readings see what came before them.
    let many = Txn::new()
        .when(Compare::unchanged("t/k", k.mod_revision))
        .when(Compare::exists("t/k"))
        .then(Op::put("t/a", "a"))
        .then(Op::get("t/a"))
        .then(Op::delete("t/k"));
    let many = kv.txn(many).await.unwrap();
    assert!(many.succeeded);
    assert_eq!(many.kvs(1)[0].value, b"a");
    assert_eq!(
        kv.get("t/a").await.unwrap().unwrap().mod_revision,
        many.revision
    );
    assert_eq!(kv.get("t/k").await.unwrap(), None);
}

async fn transactions_are_limited(kv: &dyn Kv) {
    let puts = |n: usize| {
        (0..n).fold(Txn::new(), |t, i| {
            t.then(Op::put(format!("limit/{i}"), "x"))
        })
    };
    assert!(kv.txn(puts(128)).await.unwrap().succeeded);
    assert!(matches!(
        kv.txn(puts(129)).await,
        Err(KvError::Rejected { .. })
    ));
    let twice = Txn::new()
        .then(Op::put("limit/a", "1"))
        .then(Op::put("limit/a", "2"));
    assert!(matches!(kv.txn(twice).await, Err(KvError::Rejected { .. })));
    let both = Txn::new()
        .then(Op::put("limit/a", "1"))
        .then(Op::delete("limit/a"));
    assert!(matches!(kv.txn(both).await, Err(KvError::Rejected { .. })));
    assert_eq!(kv.get("limit/a").await.unwrap(), None);
}

async fn leases(kv: &dyn Kv) {
    let minute = Duration::from_secs(60);
    let (lease, ttl) = kv.lease_grant(minute, None).await.unwrap();
    assert!(ttl >= minute);
    kv.put("l/a", "1", Some(lease)).await.unwrap();
    kv.put("l/b", "1", Some(lease)).await.unwrap();
    kv.put("l/b", "2", None).await.unwrap();
    assert_eq!(kv.get("l/a").await.unwrap().unwrap().lease, Some(lease));
    let info = kv.lease_info(lease, true).await.unwrap();
    assert_eq!((info.granted, info.keys), (60, vec![b"l/a".to_vec()]));
    assert!((1..=60).contains(&info.ttl));
    assert!(kv.lease_keep_alive(lease).await.unwrap() >= minute);
    assert_eq!(
        kv.lease_grant(minute, Some(lease)).await,
        Err(KvError::LeaseExists { lease })
    );
    kv.lease_revoke(lease).await.unwrap();
    assert_eq!(kv.get("l/a").await.unwrap(), None);
    assert!(kv.get("l/b").await.unwrap().is_some());

    let gone = KvError::LeaseNotFound { lease };
    assert_eq!(kv.lease_revoke(lease).await, Err(gone.clone()));
    assert_eq!(kv.lease_keep_alive(lease).await, Err(gone.clone()));
    assert_eq!(kv.lease_info(lease, false).await, Err(gone));
    let put = kv.put("l/c", "1", Some(lease)).await;
    assert!(matches!(put, Err(KvError::LeaseNotFound { .. })), "{put:?}");
    let chosen = Lease(0x0007_f107);
    assert_eq!(
        kv.lease_grant(minute, Some(chosen)).await.unwrap().0,
        chosen
    );
    kv.lease_revoke(chosen).await.unwrap();
}

async fn expired_leases_take_their_keys(kv: &dyn Kv) {
    let second = Duration::from_secs(1);
    let (dying, ttl) = kv.lease_grant(second, None).await.unwrap();
    let (kept, _) = kv.lease_grant(second, None).await.unwrap();
    kv.put("e/dying", "1", Some(dying)).await.unwrap();
    kv.put("e/kept", "1", Some(kept)).await.unwrap();
    let mut watch = kv
        .watch(WatchRequest::now(Keys::prefix("e/")))
        .await
        .unwrap();
    let started = Instant::now();
    let event = loop {
        kv.lease_keep_alive(kept).await.unwrap();
        if let Ok(batch) = timeout(second / 4, watch.next()).await {
            break batch.unwrap().events.remove(0);
        }
        assert!(
            started.elapsed() < ttl + Duration::from_secs(10),
            "the lease never expired"
        );
    };
    assert!(
        matches!(&event, Event::Delete { key, .. } if key == b"e/dying"),
        "{event:?}"
    );
    assert!(kv.get("e/kept").await.unwrap().is_some());
    kv.lease_revoke(kept).await.unwrap();
}

async fn next(watch: &mut Watch) -> Vec<Event> {
    let batch = timeout(Duration::from_secs(5), watch.next())
        .await
        .expect("a change in time");
    batch.unwrap().events
}

async fn watches(kv: &dyn Kv) {
    kv.put("x/k", "0", None).await.unwrap();
    let mut bare = kv
        .watch(WatchRequest::now(Keys::prefix("x/")))
        .await
        .unwrap();
    let mut with_previous = kv
        .watch(WatchRequest {
            previous: true,
            ..WatchRequest::now(Keys::one("x/k"))
        })
        .await
        .unwrap();
    kv.put("other", "0", None).await.unwrap();
    let put = kv.put("x/k", "1", None).await.unwrap();
    let both = kv
        .txn(Txn::new().then(Op::delete("x/k")).then(Op::put("x/l", "2")))
        .await
        .unwrap();

    let events = next(&mut bare).await;
    assert!(
        matches!(&events[..], [Event::Put { kv, previous: None }] if kv.value == b"1"
            && kv.mod_revision == put.revision),
        "{events:?}"
    );
    let events = next(&mut bare).await;
    assert_eq!(events.len(), 2, "one revision is one batch: {events:?}");
    assert!(events.iter().all(|e| e.revision() == both.revision));
    assert_eq!(events[0].key(), b"x/k");
    assert!(matches!(&events[0], Event::Delete { previous: None, .. }));

    let events = next(&mut with_previous).await;
    assert!(
        matches!(&events[..], [Event::Put { previous: Some(p), .. }] if p.value == b"0"),
        "{events:?}"
    );
    let events = next(&mut with_previous).await;
    assert!(
        matches!(&events[..], [Event::Delete { previous: Some(p), .. }] if p.value == b"1"),
        "{events:?}"
    );
    assert!(bare.try_next().is_none());
}

async fn watches_from_the_past_and_future(kv: &dyn Kv) {
    let first = kv.put("p/k", "1", None).await.unwrap().revision;
    kv.put("p/k", "2", None).await.unwrap();
    let third = kv.delete(Keys::one("p/k")).await.unwrap().revision;
    let mut past = kv
        .watch(WatchRequest::from(Keys::prefix("p/"), first))
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut past).await);
    }
    assert_eq!(
        seen.iter().map(Event::revision).collect::<Vec<_>>(),
        [first, first + 1, third]
    );
    let mut future = kv
        .watch(WatchRequest::from(Keys::prefix("p/"), third + 2))
        .await
        .unwrap();
    kv.put("p/k", "skipped", None).await.unwrap();
    let wanted = kv.put("p/k", "wanted", None).await.unwrap().revision;
    assert_eq!(next(&mut future).await[0].revision(), wanted);
}

async fn watch_of_a_compacted_revision_says_so(kv: &dyn Kv) {
    let old = kv.put("c/k", "1", None).await.unwrap().revision;
    let now = kv.put("c/k", "2", None).await.unwrap().revision;
    kv.compact(now).await.unwrap();
    // Either the beginning or the first reading may fail.
    let error = match kv.watch(WatchRequest::from(Keys::prefix("c/"), old)).await {
        Ok(mut watch) => timeout(Duration::from_secs(5), watch.next())
            .await
            .unwrap()
            .unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error, KvError::Compacted { oldest: now });
    let mut fresh = kv
        .watch(WatchRequest::from(Keys::prefix("c/"), now))
        .await
        .unwrap();
    assert_eq!(next(&mut fresh).await[0].revision(), now);
}

async fn racing_transactions_have_one_winner(kv: Arc<dyn Kv>) {
    let mut racers = tokio::task::JoinSet::new();
    for i in 0..16 {
        let kv = kv.clone();
        racers.spawn(async move {
            sleep(Duration::from_millis(1)).await;
            let txn = Txn::new()
                .when(Compare::missing("race"))
                .then(Op::put("race", [i]));
            kv.txn(txn).await.unwrap().succeeded
        });
    }
    let won = racers
        .join_all()
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(won, 1);
}
