//! Faults of a real three-member etcd, and what a daemon's registry, mirror and presence make of
//! them: nothing is lost, nothing is seen twice, and writes go on within a bound.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod load;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use etcd_kv::{Keys, KvError, WatchRequest};
use fleetd::registry::{Follow, Registry, Update};
use tokio::time::{sleep, timeout};

use load::{Load, TTL, eventually};
use world::{World, inside};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillFollower,
    KillLeader,
    /// Link down to peers and clients.
    CutFollower,
    /// Link down to peers only: clients still reach a member that knows nothing new.
    CutFollowersPeers,
    CutLeader,
    CutLeadersPeers,
    /// The majority; no write can happen until it is back.
    KillTwo,
    KillAll,
}

/// What must be so, for each fault.
struct Row {
    fault: Fault,
    /// Clients connect to the member that is hit.
    at_its_victim: bool,
    /// Writes happen while the fault lasts.
    goes_on: bool,
    /// Longest pause of acknowledged writes, counted from the return of a majority where that is
    /// what was missing.
    bound: Duration,
}

const fn row(fault: Fault, at_its_victim: bool, goes_on: bool, seconds: u64) -> Row {
    Row {
        fault,
        at_its_victim,
        goes_on,
        bound: Duration::from_secs(seconds),
    }
}

/// An election takes 1 to 2 s with the members' settings (the defaults), a request at most 1 s for
/// each of up to three members. In every row the machine's lease (10 s) stays the same.
const TABLE: &[Row] = &[
    //  fault                     at victim  goes on  bound, s
    row(Fault::KillFollower, false, true, 2),
    row(Fault::KillFollower, true, true, 4),
    row(Fault::KillLeader, false, true, 6),
    row(Fault::KillLeader, true, true, 6),
    row(Fault::CutFollower, true, true, 4),
    row(Fault::CutFollowersPeers, true, true, 6),
    row(Fault::CutLeader, true, true, 6),
    row(Fault::CutLeadersPeers, true, true, 8),
    row(Fault::KillTwo, true, false, 6),
    row(Fault::KillAll, true, false, 6),
];

#[test]
fn members_and_links_fail_as_the_table_says() {
    inside("members_and_links_fail_as_the_table_says", async {
        let mut world = World::start(&[]).await;
        for row in TABLE {
            check(&mut world, row).await;
        }
    });
}

async fn check(world: &mut World, row: &Row) {
    let (leader, follower) = world.leader_and_follower().await;
    let victim = match row.fault {
        Fault::KillFollower | Fault::CutFollower | Fault::CutFollowersPeers => follower,
        _ => leader,
    };
    let first = if row.at_its_victim {
        victim
    } else {
        victim % 3 + 1
    };
    let mut load = Load::start(world.client(first)).await;
    let lease = load.lease();
    assert!(lease.is_some());
    let others = [victim % 3 + 1, (victim + 1) % 3 + 1];

    let mut since = Instant::now();
    let killed: Vec<usize> = match row.fault {
        Fault::KillFollower | Fault::KillLeader => vec![victim],
        Fault::KillTwo => vec![victim, others[0]],
        Fault::KillAll => vec![victim, others[0], others[1]],
        _ => Vec::new(),
    };
    killed.iter().for_each(|number| world.kill(*number));
    match row.fault {
        Fault::CutFollower | Fault::CutLeader => world.cut(victim, true),
        Fault::CutFollowersPeers | Fault::CutLeadersPeers => world.cut(victim, false),
        _ => {}
    }
    if row.goes_on {
        load.goes_on(row.bound).await;
        // So do those who look on, while the fault lasts.
        let so_far = load.acknowledged();
        eventually("the mirror goes on", row.bound, async || {
            load.mirror.read().units.len() >= so_far
        })
        .await;
    } else {
        // One write may have been on its way.
        let at_fault = load.acknowledged();
        sleep(3 * SECOND).await;
        assert!(
            load.acknowledged() <= at_fault + 1,
            "a write without a majority"
        );
        since = Instant::now();
    }
    killed.iter().for_each(|number| world.resume(*number));
    if killed.is_empty() {
        world.join(victim);
    }
    let again = load.goes_on(row.bound).await;
    let gap = if row.goes_on {
        load.longest_gap(since)
    } else {
        again
    };
    world.wait_healthy().await;
    // The member that was hit takes part again, to the end of it.
    load.goes_on(row.bound).await;
    load.nothing_lost().await;
    eventually("the machine is healthy", 5 * SECOND, async || {
        load.standing.borrow().healthy
    })
    .await;
    assert_eq!(load.lease(), lease, "{:?}: the lease was lost", row.fault);
    assert!(gap <= row.bound, "{:?}: {gap:?} without a write", row.fault);
    let (fault, at_victim) = (row.fault, row.at_its_victim);
    println!(
        "{fault:?} at victim: {at_victim}: {gap:.1?} without a write, bound {:?}",
        row.bound
    );
}

#[test]
fn a_full_disk_takes_one_member_and_no_data() {
    inside("a_full_disk_takes_one_member_and_no_data", async {
        // Room for the log files, which etcd reserves, and little more for data.
        let victim = 2;
        let mut world = World::start_with(&[], &[(victim, "192m")]).await;
        let place = world.data(victim).to_owned();
        let mut load = Load::start(world.client(victim)).await;
        let lease = load.lease();
        let since = Instant::now();
        let filler = place.join("filler");
        fill(&filler);
        // Everything written from now on needs room in the data base.
        let kv = world.client(victim % 3 + 1);
        let block = vec![b'x'; 500_000];
        let deadline = Instant::now() + 60 * SECOND;
        let mut i = 0;
        while !world.has_ended(victim) {
            assert!(
                Instant::now() < deadline,
                "a full disk does not stop the member"
            );
            i += 1;
            // Some of these may fail while the member dies.
            let _ = kv
                .put(format!("block/{}", i % 50), block.clone(), None)
                .await;
        }
        let log = world.log(victim);
        assert!(log.contains("no space left on device"), "{log}");
        load.goes_on(6 * SECOND).await;
        std::fs::remove_file(&filler).unwrap();
        world.resume(victim);
        world.wait_healthy().await;
        load.goes_on(6 * SECOND).await;
        load.nothing_lost().await;
        assert_eq!(load.lease(), lease);
        let gap = load.longest_gap(since);
        assert!(gap <= 6 * SECOND, "{gap:?} without a write");
        println!("disk full: {gap:.1?} without a write");
    });
}

/// Leaves no room in the file system of `path`.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    let block = vec![0; 1 << 16];
    while file.write_all(&block).is_ok() {}
}

#[test]
fn a_full_data_base_refuses_writes_and_says_so_until_there_is_room() {
    inside(
        "a_full_data_base_refuses_writes_and_says_so_until_there_is_room",
        async {
            let world = World::start(&["--quota-backend-bytes=4194304"]).await;
            let mut load = Load::start(world.client(1)).await;
            let lease = load.lease();
            let kv = world.client(2);
            let block = vec![b'x'; 500_000];
            let error = loop {
                match kv.put("block", block.clone(), None).await {
                    Ok(_) => {}
                    Err(error) if error.is_unavailable() => {}
                    Err(error) => break error,
                }
            };
            assert!(
                error.to_string().contains("database space exceeded"),
                "{error}"
            );
            assert!(!error.outcome_unknown(), "{error:?}");
            eventually("the writer is refused", 10 * SECOND, async || {
                load.errors()
                    .iter()
                    .any(|e| e.contains("database space exceeded"))
            })
            .await;
            let before = load.acknowledged();
            // Reading, the mirror and the lease do not mind.
            assert!(load.units().await.len() >= before);
            let full = Instant::now();
            while full.elapsed() < TTL / 2 {
                assert!(load.standing.borrow().healthy);
                sleep(SECOND / 10).await;
            }
            assert_eq!((load.acknowledged(), load.lease()), (before, lease));
            // What an operator does about it.
            let revision = kv.list("block").await.unwrap().revision;
            kv.compact(revision).await.unwrap();
            world.etcdctl(&["defrag", "--command-timeout=30s"]);
            world.etcdctl(&["alarm", "disarm"]);
            let again = load.goes_on(5 * SECOND).await;
            load.nothing_lost().await;
            assert_eq!(load.lease(), lease);
            println!("data base full: writes again {again:.1?} after it had room");
        },
    );
}

#[test]
fn compaction_under_a_slow_watcher_is_noticed_and_mended() {
    inside(
        "compaction_under_a_slow_watcher_is_noticed_and_mended",
        async {
            let mut world = World::start(&[]).await;
            let registry = Registry::new(world.client(1), "/f/");
            let writer = world.client(2);
            let keys = Keys::prefix("slow/");
            let mut follow = Follow::new(keys.clone());
            let first = follow.next(registry.kv()).await;
            assert!(
                matches!(first, Update::All(ref kvs, _) if kvs.is_empty()),
                "{first:?}"
            );
            let mut raw = registry.kv().watch(WatchRequest::now(keys)).await.unwrap();

            // More than all buffers between the store and a reader that does not read.
            let block = vec![b'x'; 20_000];
            let mut last = 0;
            for i in 0..2500 {
                let put = writer.put(format!("slow/{}", i % 100), block.clone(), None);
                last = put.await.unwrap().revision;
            }
            writer.compact(last).await.unwrap();
            // The server itself would go on from what it has buffered; its end makes us come again.
            for number in 1..=3 {
                world.kill(number);
            }
            for number in 1..=3 {
                world.resume(number);
            }
            world.wait_healthy().await;
            let newest = writer.put("slow/newest", "1", None).await.unwrap().revision;

            // The raw watch delivers what it had, in order, and then says that it cannot go on.
            let mut at = 0;
            let error = loop {
                match timeout(20 * SECOND, raw.next()).await.unwrap() {
                    Ok(batch) => {
                        for event in &batch.events {
                            assert!(event.revision() > at, "once and in order");
                            at = event.revision();
                        }
                        assert!(at < last, "nothing was compacted away");
                    }
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(error, KvError::Compacted { oldest } if oldest == last),
                "{error:?}"
            );

            // Whoever follows reads afresh by itself and ends with what there is.
            let mut state = std::collections::BTreeMap::new();
            let mut fresh = 0;
            loop {
                let update = timeout(20 * SECOND, follow.next(registry.kv()))
                    .await
                    .unwrap();
                let revision = match update {
                    Update::All(kvs, revision) => {
                        fresh += 1;
                        state = kvs
                            .into_iter()
                            .map(|kv| (kv.key, kv.mod_revision))
                            .collect();
                        revision
                    }
                    Update::Changes(events, revision) => {
                        for event in events {
                            state.insert(event.key().to_vec(), event.revision());
                        }
                        revision
                    }
                };
                if revision >= newest {
                    break;
                }
            }
            assert_eq!(fresh, 1);
            let kvs = writer.list("slow/").await.unwrap().kvs;
            let expect = kvs
                .into_iter()
                .map(|kv| (kv.key, kv.mod_revision))
                .collect();
            assert_eq!(state, expect);
            assert_eq!(state.len(), 101);
        },
    );
}

#[test]
fn an_older_copy_of_the_data_is_noticed_and_what_it_holds_counts() {
    inside(
        "an_older_copy_of_the_data_is_noticed_and_what_it_holds_counts",
        async {
            let mut world = World::start(&[]).await;
            let mut load = Load::start(world.client(1)).await;
            let lease = load.lease();
            // All members stop for the copy, as a backup of a machine's disk would be made.
            for number in 1..=3 {
                world.kill(number);
            }
            for number in 1..=3 {
                let data = world.data(number);
                copy(&data.join("d"), &data.join("copy"));
            }
            let kept = load.acknowledged();
            for number in 1..=3 {
                world.resume(number);
            }
            world.wait_healthy().await;
            load.goes_on(6 * SECOND).await;
            eventually("much is written", 20 * SECOND, async || {
                load.acknowledged() > kept + 50
            })
            .await;
            load.nothing_lost().await;
            let mut raw = load
                .registry
                .kv()
                .watch(WatchRequest::now(Keys::prefix(load.prefix.as_str())))
                .await
                .unwrap();
            let newest = load.units().await.len();
            let revision = load.registry.kv().list("0").await.unwrap().revision;

            for number in 1..=3 {
                world.kill(number);
                let data = world.data(number);
                std::fs::remove_dir_all(data.join("d")).unwrap();
                std::fs::rename(data.join("copy"), data.join("d")).unwrap();
            }
            for number in 1..=3 {
                world.resume(number);
            }
            world.wait_healthy().await;
            // A watch would wait for revisions that come a second time; it says so instead.
            let error = loop {
                match timeout(20 * SECOND, raw.next()).await.unwrap() {
                    // A sign of life of the machine may still have come before the end.
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            let KvError::Rewound { seen, now } = error else {
                panic!("{error:?}");
            };
            assert!(seen >= revision && now < seen, "{seen} {now}");
            let held = load.units().await;
            assert!(held.len() < newest, "the copy is older");
            assert!(
                held.len() >= kept,
                "and holds what was acknowledged before it was made"
            );
            eventually("the mirror is the same again", 20 * SECOND, async || {
                let mirror = load.mirror.read();
                let names: Vec<_> = mirror.units.keys().map(ToString::to_string).collect();
                names
                    == held
                        .iter()
                        .map(|(name, _)| name.clone())
                        .collect::<Vec<_>>()
            })
            .await;
            // The lease was in the copy; had it not been, the machine would have registered anew.
            eventually("the machine is healthy", 20 * SECOND, async || {
                load.standing.borrow().healthy
                    && !load.registry.machines().await.unwrap().is_empty()
            })
            .await;
            assert_eq!(load.lease(), lease);
        },
    );
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}
