//! Tables and properties of the engine.

mod facts;
mod life;
mod options;
mod properties;
mod rules;
mod tables;

use super::*;
use crate::text::UnitFile;

pub(super) fn name(text: &str) -> UnitName {
    let dot = if text.contains('.') { "" } else { ".service" };
    UnitName::parse(&format!("{text}{dot}")).unwrap()
}

pub(super) fn machine(text: &str) -> MachineId {
    MachineId::parse(text).unwrap()
}

/// A unit from its `[X-Fleet]` section, or from whole sections.
pub(super) fn unit(unit: &str, section: &str, scheduled: Option<&str>) -> (UnitName, UnitView) {
    let head = if section.starts_with('[') {
        ""
    } else {
        "[X-Fleet]\n"
    };
    let file = UnitFile::parse(&format!("{head}{section}")).unwrap();
    let n = name(unit);
    let view = UnitView {
        requirements: Arc::new(Requirements::of(&n, &file)),
        target: TargetState::Launched,
        scheduled: scheduled.map(machine),
        held_by: BTreeMap::new(),
        result: None,
        answered: 0,
    };
    (n, view)
}

pub(super) fn cluster(
    machines: &[(&str, &str)],
    units: &[(&str, &str, Option<&str>)],
) -> ClusterView {
    let view = |text| MachineView {
        metadata: crate::parse_metadata(text),
        ..MachineView::default()
    };
    ClusterView {
        machines: machines
            .iter()
            .map(|(id, m)| (machine(id), view(m)))
            .collect(),
        units: units.iter().map(|(n, s, m)| unit(n, s, *m)).collect(),
    }
}

pub(super) fn apply(view: &mut ClusterView, plan: &Plan) {
    for task in &plan.tasks {
        let unit = view.units.get_mut(&task.unit).unwrap();
        unit.answered = task.answers.unwrap_or(unit.answered);
        match &task.step {
            Step::Schedule { to, from } => {
                assert_eq!(&unit.scheduled, from);
                unit.scheduled = Some(to.clone());
            }
            Step::Unschedule { from } => {
                assert_eq!(unit.scheduled.as_ref(), Some(from));
                unit.scheduled = None;
            }
        }
    }
}

/// A plan as text: changes, then reasons to wait.
pub(super) fn text(plan: &Plan) -> Vec<String> {
    let tasks = plan.tasks.iter().map(|t| match &t.step {
        Step::Schedule { to, .. } => format!("{} > {to}", t.unit.stem()),
        Step::Unschedule { from } => format!("{} x {from}: {}", t.unit.stem(), t.why),
    });
    let waits = plan.waits.iter();
    tasks
        .chain(waits.map(|(n, w)| format!("{} waits: {w}", n.stem())))
        .collect()
}

/// Plans once, compares, and applies.
#[track_caller]
pub(super) fn check(view: &mut ClusterView, expect: &[&str]) {
    let first = plan(view);
    assert_eq!(text(&first), expect);
    apply(view, &first);
}

pub(super) fn hold(view: &mut ClusterView, unit: &str, id: &str, activity: Activity) {
    let unit = view.units.get_mut(&name(unit)).unwrap();
    unit.held_by.insert(machine(id), activity);
}
