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
    let end = |view: &mut ClusterView, outcome, attempts, id: &str| {
        view.units.get_mut(&name("job")).unwrap().result = Some(Arc::new(BatchResult {
            outcome,
            exit_status: 1,
            attempts,
            machine: id.into(),
            finished: String::new(),
        }));
    };
    end(&mut view, Outcome::Failure, 1, "m1");
    check(
        &mut view,
        &[
            "job x m1: failed (attempt 1); is tried on another machine",
            "job waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["job > m2"]);
    check(&mut view, &[]);
    let mut alone = view.clone();
    alone.machines.remove(&machine("m2"));
    check(
        &mut alone,
        &["job x m2: machine is gone", "job waits: has failed on m1"],
    );
    end(&mut view, Outcome::Failure, 2, "m2");
    check(
        &mut view,
        &[
            "job x m2: has failed for good",
            "job waits: has failed for good (2 attempts)",
        ],
    );
    check(&mut view, &["job waits: has failed for good (2 attempts)"]);
    // Started anew.
    view.units.get_mut(&name("job")).unwrap().result = None;
    check(&mut view, &["job > m1"]);
    end(&mut view, Outcome::Success, 1, "m1");
    check(
        &mut view,
        &[
            "job x m1: has run to its end",
            "job waits: has run to its end (1 attempt)",
        ],
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
