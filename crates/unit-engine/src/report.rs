//! What is told about jobs, and what limits lead to.

use init_control::{JobMode, PowerAction};
use unit_file::settings::EmergencyAction;

use crate::api::{Action, LogLevel, StatusKind, UnitLog};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{JobResult, JobType};
use crate::state::is_inactive_or_failed;
use crate::unit::Kind;

impl Engine {
    /// Evaluates Condition*= (or Assert*=) and remembers the answers.
    pub(crate) fn check_conditions(&mut self, cx: &mut Cx<'_>, id: UnitId, asserts: bool) -> bool {
        let unit = self.unit(id);
        let list = if asserts {
            &unit.settings.asserts
        } else {
            &unit.settings.conditions
        };
        let mut states = Vec::with_capacity(list.len());
        let mut plain = true;
        let mut triggered = None;
        let mut failed = None;
        for condition in list {
            let holds = cx
                .host
                .check_condition(condition.kind, &condition.parameter)
                != condition.negate;
            states.push(if holds { 1 } else { -1 });
            if condition.trigger {
                triggered = Some(triggered.unwrap_or(false) || holds);
            } else if !holds {
                plain = false;
                failed.get_or_insert_with(|| {
                    let not = if condition.negate { "!" } else { "" };
                    format!("{}={not}{}", condition.kind.word(), condition.parameter)
                });
            }
        }
        let result = plain && triggered != Some(false);
        let stamp = cx.stamp();
        let name = unit.name.clone();
        let title = self.title(id);
        let run = &mut self.unit_mut(id).run;
        if asserts {
            run.assert_states = states;
            run.assert_result = result;
            run.assert_time = stamp;
        } else {
            run.condition_states = states;
            run.condition_result = result;
            run.condition_time = stamp;
            if !result {
                let which =
                    failed.unwrap_or_else(|| "none of the triggering conditions held".to_owned());
                let text = format!(
                    "{title} was skipped because of an unmet condition check (Condition{which})."
                );
                self.log(cx, LogLevel::Info, Some(name), text);
                self.changed.insert(id);
            }
        }
        result
    }

    pub(crate) fn report_job(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        job_type: JobType,
        result: JobResult,
        already: bool,
    ) {
        let unit = self.unit(id);
        if already && result == JobResult::Done {
            return;
        }
        let title = self.title(id);
        let mount = matches!(unit.run.kind, Kind::Mount(_));
        let stopped = is_inactive_or_failed(unit.active());
        let (level, message_id, text, status) = match (job_type, result) {
            (JobType::Start, JobResult::Done) if stopped => return,
            (JobType::Start, JobResult::Done) => {
                let verb = match &unit.run.kind {
                    Kind::Target(_) => "Reached target",
                    Kind::Socket(_) => "Listening on",
                    Kind::Mount(_) => "Mounted",
                    Kind::Slice(_) => "Created slice",
                    Kind::Device(_) => "Found device",
                    Kind::Service(s)
                        if s.settings.service_type == unit_file::settings::ServiceType::Oneshot =>
                    {
                        "Finished"
                    }
                    _ => "Started",
                };
                let id = "39f53479d3a045ac8e11786248231fbf";
                (
                    LogLevel::Info,
                    Some(id),
                    format!("{verb} {title}."),
                    Some(StatusKind::Ok),
                )
            }
            (JobType::Stop | JobType::Restart, JobResult::Done) => {
                let verb = match &unit.run.kind {
                    Kind::Target(_) => "Stopped target",
                    Kind::Socket(_) => "Closed",
                    Kind::Slice(_) => "Removed slice",
                    _ if mount => "Unmounted",
                    _ => "Stopped",
                };
                let id = "9d1aaa27d60140bd96365438aad20286";
                (
                    LogLevel::Info,
                    Some(id),
                    format!("{verb} {title}."),
                    Some(StatusKind::Ok),
                )
            }
            (JobType::Reload, JobResult::Done) => (
                LogLevel::Info,
                Some("7b05ebc668384222baa8881179cfda54"),
                format!("Reloaded {title}."),
                None,
            ),
            (JobType::Start, JobResult::Failed) => {
                let id = "be02cf6855d2428ba40df7e9d022f03d";
                (
                    LogLevel::Error,
                    Some(id),
                    format!("Failed to start {title}."),
                    Some(StatusKind::Failed),
                )
            }
            (JobType::Start, JobResult::Dependency) => {
                let id = "be02cf6855d2428ba40df7e9d022f03d";
                let text = format!("Dependency failed for {title}.");
                (LogLevel::Error, Some(id), text, Some(StatusKind::Depend))
            }
            (_, JobResult::Timeout) => {
                let text = format!(
                    "Timed out waiting for the {} job of {title}.",
                    job_type.word()
                );
                (LogLevel::Error, None, text, Some(StatusKind::Failed))
            }
            (_, JobResult::Done | JobResult::Canceled | JobResult::Skipped) => return,
            (_, other) => {
                let text = format!(
                    "Job {}/{} finished with result '{}'.",
                    unit.name,
                    job_type.word(),
                    other.word()
                );
                (LogLevel::Warning, None, text, None)
            }
        };
        let fields = vec![
            ("JOB_TYPE", job_type.word().to_owned()),
            ("JOB_RESULT", result.word().to_owned()),
        ];
        let log = UnitLog {
            level,
            unit: Some(unit.name.clone()),
            message_id,
            invocation_id: unit.run.invocation_id,
            text: text.clone(),
            fields,
        };
        cx.out.push(Action::Log(Box::new(log)));
        if let Some(kind) = status.filter(|_| self.config.status_lines) {
            cx.out.push(Action::Status { kind, text });
        }
    }

    /// Carries out StartLimitAction= and its kin.
    pub(crate) fn emergency(
        &mut self,
        cx: &mut Cx<'_>,
        unit: UnitId,
        action: EmergencyAction,
        reason: &str,
    ) {
        use EmergencyAction as A;
        let (target, power, force) = match action {
            A::None => return,
            A::Reboot => ("reboot.target", PowerAction::Reboot, 0),
            A::RebootForce => ("", PowerAction::Reboot, 1),
            A::RebootImmediate => ("", PowerAction::Reboot, 2),
            A::Poweroff | A::Exit => ("poweroff.target", PowerAction::PowerOff, 0),
            A::PoweroffForce | A::ExitForce => ("", PowerAction::PowerOff, 1),
            A::PoweroffImmediate => ("", PowerAction::PowerOff, 2),
            A::Halt => ("halt.target", PowerAction::Halt, 0),
            A::HaltForce => ("", PowerAction::Halt, 1),
            A::HaltImmediate => ("", PowerAction::Halt, 2),
            A::Kexec => ("kexec.target", PowerAction::Kexec, 0),
            A::KexecForce => ("", PowerAction::Kexec, 1),
            A::SoftReboot => ("soft-reboot.target", PowerAction::SoftReboot, 0),
            A::SoftRebootForce => ("", PowerAction::SoftReboot, 1),
        };
        let name = self.unit(unit).name.clone();
        let text = format!("{name}: {reason}, {power} follows");
        self.log(cx, LogLevel::Notice, Some(name), text);
        if force > 0 {
            let argument = self.power_argument.take();
            cx.out.push(Action::Power {
                action: power,
                immediate: force == 2,
                argument,
            });
        } else {
            self.start_by_name(cx, target, JobMode::ReplaceIrreversibly);
        }
    }
}
