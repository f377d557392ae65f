//! When units start and how they end: order, batch units, units that must run at most once.

use std::time::Duration;

use super::super::*;
use super::{apply, check, cluster, hold, machine, name, text, unit};
use crate::record::Outcome;

#[test]
fn a_unit_starts_after_those_it_names() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[
            ("db", "", None),
            (
                "app",
                "[Unit]\nAfter=db.service local.target\nRequires=db.service",
                None,
            ),
            ("log", "", None),
            ("web", "[Unit]\nAfter=log.service off.service", None),
            ("off", "", None),
        ],
    );
    view.units.get_mut(&name("off")).unwrap().target = TargetState::Inactive;
    check(
        &mut view,
        &[
            "db > m1",
            "log > m2",
            "app waits: starts after db.service, which it requires and which is not active",
            "web waits: starts after log.service, which is not active yet",
        ],
    );
    hold(&mut view, "db", "m1", Activity::Failed);
    hold(&mut view, "log", "m2", Activity::Failed);
    check(
        &mut view,
        &[
            "web > m1",
            "app waits: starts after db.service, which it requires and which is not active",
        ],
    );
    hold(&mut view, "db", "m1", Activity::Active);
    check(&mut view, &["app > m2"]);
    // What runs goes on.
    hold(&mut view, "db", "m1", Activity::Failed);
    check(&mut view, &[]);
}

#[test]
fn a_oneshot_that_has_run_to_its_end_is_far_enough() {
    let mut view = cluster(
        &[("m1", "")],
        &[
            ("migrate", "[Service]\nType=oneshot", Some("m1")),
            (
                "app",
                "[Unit]\nAfter=migrate.service\nRequires=migrate.service",
                None,
            ),
        ],
    );
    let waits =
        "app waits: starts after migrate.service, which it requires and which is not active";
    for activity in [Activity::Pending, Activity::Idle, Activity::Failed] {
        hold(&mut view, "migrate", "m1", activity);
        check(&mut view, &[waits]);
    }
    hold(&mut view, "migrate", "m1", Activity::Done);
    check(&mut view, &["app > m1"]);
}

#[test]
fn units_that_wait_for_each_other_start_in_name_order() {
    let mut view = cluster(
        &[("m1", "")],
        &[
            ("a", "[Unit]\nAfter=c.service\nRequires=c.service", None),
            ("b", "[Unit]\nAfter=a.service", None),
            ("c", "[Unit]\nAfter=b.service", None),
            ("d", "[Unit]\nAfter=c.service e.service", None),
            ("e", "[Unit]\nAfter=e.service", None),
        ],
    );
    let first = plan(&view);
    assert_eq!(
        first.tasks[0].why.to_string(),
        "least loaded machine that fits (0 units); starts first of units that wait for each other"
    );
    check(
        &mut view,
        &[
            "a > m1",
            "e > m1",
            "b waits: starts after a.service, which is not active yet",
            "c waits: starts after b.service, which is not active yet",
            "d waits: starts after c.service, which is not active yet",
        ],
    );
    for (unit, next) in [("a", "b > m1"), ("b", "c > m1")] {
        hold(&mut view, unit, "m1", Activity::Active);
        assert_eq!(text(&plan(&view))[0], next);
        let next = plan(&view);
        apply(&mut view, &next);
    }
    hold(&mut view, "c", "m1", Activity::Active);
    hold(&mut view, "e", "m1", Activity::Active);
    check(&mut view, &["d > m1"]);
}

#[test]
fn batch_units_are_tried_elsewhere_and_not_again_when_they_have_ended() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[("job", "Batch=yes\nRetries=1", None)],
    );
    check(&mut view, &["job > m1"]);
    end(&mut view, Outcome::Failure, "m1");
    check(
        &mut view,
        &[
            "job x m1: failed (attempt 1); is tried again, elsewhere if it fits",
            "job waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["job > m2"]);
    check(&mut view, &[]);
    let mut alone = view.clone();
    alone.machines.remove(&machine("m2"));
    check(&mut alone, &["job > m1"]);
    end(&mut view, Outcome::Failure, "m2");
    check(
        &mut view,
        &[
            "job x m2: has failed for good",
            "job waits: has failed for good (2 attempts)",
        ],
    );
    check(&mut view, &["job waits: has failed for good (2 attempts)"]);
    // Started anew.
    let job = view.units.get_mut(&name("job")).unwrap();
    (job.result, job.answered) = (None, 0);
    check(&mut view, &["job > m1"]);
    end(&mut view, Outcome::Success, "m1");
    check(
        &mut view,
        &[
            "job x m1: has run to its end",
            "job waits: has run to its end (1 attempt)",
        ],
    );
}

/// The attempt that `job` makes on a machine ends.
fn end(view: &mut ClusterView, outcome: Outcome, id: &str) {
    let job = view.units.get_mut(&name("job")).unwrap();
    let before = job.result.take();
    let mut failures = before
        .as_ref()
        .map_or(BTreeMap::new(), |b| b.failures.clone());
    if outcome == Outcome::Failure {
        *failures.entry(id.to_owned()).or_default() += 1;
    }
    job.result = Some(Arc::new(BatchResult {
        outcome,
        exit_status: 1,
        attempts: before.map_or(0, |b| b.attempts) + 1,
        machine: id.into(),
        finished: String::new(),
        failures,
    }));
}

#[test]
fn a_batch_unit_is_tried_where_it_has_failed_least_often() {
    // Machines, the first loaded most; where the attempts are made.
    let cases: [(&[&str], &[&str]); 4] = [
        (&["m1"], &["m1", "m1", "m1"]),
        (&["m1", "m2"], &["m1", "m2", "m1", "m2", "m1"]),
        (&["m1", "m2", "m3"], &["m1", "m2", "m3", "m1"]),
        (&["m1", "m2", "m3-cordoned"], &["m1", "m2", "m1", "m2"]),
    ];
    for (machines, attempts) in cases {
        let ids: Vec<_> = machines.iter().map(|m| (&m[..2], "")).collect();
        let options = format!("Batch=yes\nRetries={}", attempts.len() - 1);
        // What is preferred weighs less.
        let mut view = cluster(&ids, &[("job", &options, None)]);
        for text in machines.iter().filter(|m| m.ends_with("-cordoned")) {
            view.machines.get_mut(&machine(&text[..2])).unwrap().access = Access::Cordoned;
        }
        for (i, id) in attempts.iter().enumerate() {
            check(&mut view, &[&format!("job > {id}")]);
            hold(&mut view, "job", id, Activity::Active);
            check(&mut view, &[]);
            hold(&mut view, "job", id, Activity::Failed);
            end(&mut view, Outcome::Failure, id);
            let (taken_off, waits) = if i + 1 < attempts.len() {
                let n = i + 1;
                let text = format!("failed (attempt {n}); is tried again, elsewhere if it fits");
                (text, "being taken off its last machine".to_owned())
            } else {
                let tries = attempts.len();
                let waits = format!("has failed for good ({tries} attempts)");
                ("has failed for good".to_owned(), waits)
            };
            let taken_off = format!("job x {id}: {taken_off}");
            check(&mut view, &[&taken_off, &format!("job waits: {waits}")]);
            // As long as the agent has it, it is not started again: not even there.
            if i + 1 < attempts.len() {
                let waits = format!("job waits: still being stopped on {id}");
                check(&mut view, &[&waits]);
            }
            let job = view.units.get_mut(&name("job")).unwrap();
            job.held_by.clear();
        }
    }
}

#[test]
fn where_a_batch_unit_has_failed_weighs_more_than_preferences_and_is_explained() {
    let options = "Batch=yes\nRetries=9\nPreferMetadata=disk=ssd";
    let machines = [("m1", "disk=ssd"), ("m2", "")];
    let mut view = cluster(&machines, &[("job", options, None)]);
    check(&mut view, &["job > m1"]);
    end(&mut view, Outcome::Failure, "m1");
    let first = plan(&view);
    apply(&mut view, &first);
    let second = plan(&view);
    assert_eq!(text(&second), ["job > m2"]);
    assert_eq!(second.tasks[0].answers, Some(1));
    let why = second.tasks[0].why.to_string();
    assert_eq!(
        why,
        "best machine that fits (0 units, 1 preference not met)"
    );
    apply(&mut view, &second);
    for id in ["m2", "m1"] {
        end(&mut view, Outcome::Failure, id);
        let off = plan(&view);
        apply(&mut view, &off);
        let on = plan(&view);
        apply(&mut view, &on);
    }
    let explanation = explain(&view, &name("job")).unwrap();
    let wire = explanation.to_wire(|_| String::new());
    let machines: Vec<_> = wire
        .machines
        .iter()
        .map(|m| (m.id.as_str(), m.fits, m.failures))
        .collect();
    assert_eq!(machines, [("m2", true, 1), ("m1", true, 2)]);
    view.machines.remove(&machine("m2"));
    let off = plan(&view);
    assert_eq!(text(&off), ["job > m1"]);
    assert_eq!(
        off.tasks[0].why.to_string(),
        "least loaded machine that fits (0 units); has failed there twice"
    );
}

#[test]
fn a_unit_that_must_run_at_most_once_waits_for_its_old_machine() {
    let seconds = Duration::from_secs;
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[
            ("free", "Partition=stop", Some("m1")),
            ("keep", "", Some("m1")),
            ("once", "Partition=stop", Some("m1")),
        ],
    );
    hold(&mut view, "keep", "m1", Activity::Active);
    hold(&mut view, "once", "m1", Activity::Active);
    let mut scheduler = Scheduler::new();
    scheduler.set_stop_margin(seconds(15));
    scheduler.set_clock(seconds(100));
    let feed = |scheduler: &mut Scheduler, view: &ClusterView| {
        for (id, m) in &view.machines {
            scheduler.set_machine(id, m.metadata.clone());
        }
        for (n, u) in &view.units {
            scheduler.set_unit(n, u.requirements.clone(), u.target);
            scheduler.set_schedule(n, u.scheduled.clone());
            for (id, activity) in &u.held_by {
                scheduler.set_state(n, id, Some(*activity));
            }
        }
    };
    feed(&mut scheduler, &view);
    assert_eq!(scheduler.plan(), Plan::default());
    scheduler.set_clock(seconds(200));
    scheduler.remove_machine(&machine("m1"));
    // What m1 had not taken cannot be running there.
    let waits = "once waits: Partition=stop: m1 is gone and may still be stopping it";
    assert_eq!(text(&scheduler.plan()), ["free > m2", "keep > m2", waits]);
    assert_eq!(scheduler.wake_at(), Some(seconds(215)));
    scheduler.set_clock(seconds(214));
    assert_eq!(scheduler.plan(), Plan::default());
    scheduler.set_clock(seconds(215));
    assert_eq!(text(&scheduler.plan()), ["once > m2"]);
    assert_eq!(scheduler.wake_at(), None);

    // A machine that comes back in time keeps it.
    let mut scheduler = Scheduler::new();
    scheduler.set_stop_margin(seconds(15));
    feed(&mut scheduler, &view);
    scheduler.plan();
    scheduler.remove_machine(&machine("m1"));
    scheduler.plan();
    scheduler.set_machine(&machine("m1"), crate::Metadata::new());
    scheduler.set_clock(seconds(100));
    assert!(
        scheduler
            .plan()
            .tasks
            .iter()
            .all(|t| t.unit != name("once"))
    );
    assert_eq!(scheduler.scheduled(&name("once")), Some(&machine("m1")));

    // A new leader does not know since when the machine is gone.
    view.machines.remove(&machine("m1"));
    let (n, mut unit) = unit("moving", "Partition=stop", None);
    view.units.values_mut().for_each(|u| u.held_by.clear());
    unit.held_by.clear();
    view.units.insert(n, unit);
    let mut scheduler = Scheduler::new();
    scheduler.set_stop_margin(seconds(15));
    scheduler.set_clock(seconds(300));
    feed(&mut scheduler, &view);
    let moving = "moving waits: Partition=stop: a machine that is gone may still be stopping it";
    let free = "free waits: Partition=stop: m1 is gone and may still be stopping it";
    assert_eq!(text(&scheduler.plan()), ["keep > m2", free, moving, waits]);
    // A unit that is made later has never run.
    let (n, unit) = super::unit("newer", "Partition=stop", None);
    scheduler.set_unit(&n, unit.requirements, unit.target);
    assert_eq!(text(&scheduler.plan()), ["newer > m2"]);
    // Its wish is gone and back: it is still fenced.
    scheduler.set_clock(seconds(315));
    assert_eq!(
        text(&scheduler.plan()),
        ["free > m2", "moving > m2", "once > m2"]
    );
}
