//! Timers: monotonic and calendar lines; the next elapse is one deadline.

use std::sync::Arc;

use unit_file::settings::{TimerBase, TimerSettings};

use crate::api::Action;
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{Begun, JobResult};
use crate::state::{TimerState as S, UnitResult, is_inactive_or_failed};
use crate::unit::{Kind, Timer, TimerKind};

impl Engine {
    fn timer(&self, id: UnitId) -> &Timer {
        match &self.unit(id).run.kind {
            Kind::Timer(t) => t,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn timer_mut(&mut self, id: UnitId) -> &mut Timer {
        match &mut self.unit_mut(id).run.kind {
            Kind::Timer(t) => t,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn timer_settings(&self, id: UnitId) -> Arc<TimerSettings> {
        self.timer(id).settings.clone()
    }

    fn timer_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = std::mem::replace(&mut self.timer_mut(id).state, state);
        if state != S::Waiting {
            self.disarm(id, TimerKind::Elapse);
        }
        if before != state {
            self.state_changed(cx, id, old, true);
        }
    }

    pub(super) fn timer_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        if !matches!(self.timer(id).state, S::Dead | S::Failed) {
            return Begun::Already;
        }
        if !self.trigger_is_loaded(cx, id) {
            return Begun::Ends(JobResult::Failed);
        }
        if !self.allow_start(cx, id) {
            self.timer_mut(id).result = UnitResult::StartLimitHit;
            self.timer_set(cx, id, S::Failed);
            return Begun::Ends(JobResult::Failed);
        }
        self.new_invocation(cx, id);
        let name = self.unit(id).name.clone();
        let settings = self.timer_settings(id);
        self.timer_mut(id).result = UnitResult::Success;
        if settings.persistent && !settings.calendar.is_empty() {
            match cx.host.timer_stamp(&name) {
                Some(at) => self.timer_mut(id).last_trigger.realtime = at.min(cx.now.realtime),
                None => {
                    let realtime = cx.now.realtime;
                    cx.out.push(Action::WriteTimerStamp {
                        unit: name,
                        realtime,
                    });
                }
            }
        }
        self.timer_set(cx, id, S::Waiting);
        self.timer_schedule(cx, id, true);
        Begun::Running
    }

    pub(super) fn timer_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        self.timer_set(cx, id, S::Dead);
        Begun::Running
    }

    /// Computes the next elapse and arms it. `fresh`: lines that count from a fixed moment may fire late.
    fn timer_schedule(&mut self, cx: &mut Cx<'_>, id: UnitId, fresh: bool) {
        let settings = self.timer_settings(id);
        let now = cx.now;
        let active_since = match self.unit(id).run.inactive_exit.monotonic {
            0 => now.monotonic,
            at => at,
        };
        let target = self.triggered_unit(id).and_then(|t| self.get(t));
        let (target_up, target_down) = target.map_or((0, 0), |t| {
            (
                t.run.inactive_exit.monotonic,
                t.run.inactive_enter.monotonic,
            )
        });
        let last = self.timer(id).last_trigger;
        let triggered = last.monotonic != 0;
        let jitter = self.timer_jitter(cx, id, &settings);
        let mut monotonic_next = Vec::with_capacity(settings.monotonic.len());
        for (base, span) in &settings.monotonic {
            let (from, once) = match base {
                TimerBase::OnActive => (active_since, true),
                TimerBase::OnBoot => (0, true),
                TimerBase::OnStartup => (self.boot.userspace.monotonic, true),
                TimerBase::OnUnitActive => (target_up.max(last.monotonic), false),
                // Also counted from the last trigger: a start that is refused changes no stamp.
                TimerBase::OnUnitInactive => (target_down.max(last.monotonic), false),
            };
            if from == 0 && !once {
                monotonic_next.push(0);
                continue;
            }
            let at = from.saturating_add(*span).saturating_add(jitter).max(1);
            let over = once && at <= now.monotonic && (triggered || !fresh);
            monotonic_next.push(if over { 0 } else { at });
        }
        let base = if last.realtime != 0 {
            last.realtime
        } else {
            now.realtime
        };
        let calendar_next: Vec<u64> = settings
            .calendar
            .iter()
            .map(|c| c.next_after(base).map_or(0, |at| at.saturating_add(jitter)))
            .collect();
        let next_monotonic = monotonic_next
            .iter()
            .copied()
            .filter(|n| *n > 0)
            .min()
            .unwrap_or(0);
        let next_realtime = calendar_next
            .iter()
            .copied()
            .filter(|n| *n > 0)
            .min()
            .unwrap_or(0);
        let t = self.timer_mut(id);
        t.monotonic_next = monotonic_next;
        t.calendar_next = calendar_next;
        t.next_monotonic = next_monotonic;
        t.next_realtime = next_realtime;
        let real_as_monotonic = (next_realtime > 0).then(|| {
            now.monotonic
                .saturating_add(next_realtime.saturating_sub(now.realtime))
        });
        let at = [
            (next_monotonic > 0).then_some(next_monotonic),
            real_as_monotonic,
        ];
        match at.into_iter().flatten().min() {
            Some(at) => {
                self.timer_set(cx, id, S::Waiting);
                self.arm_at(id, TimerKind::Elapse, at.max(now.monotonic));
                self.changed.insert(id);
            }
            None if settings.remain_after_elapse || settings.on_clock_change => {
                self.timer_set(cx, id, S::Elapsed);
            }
            None => self.timer_set(cx, id, S::Dead),
        }
    }

    /// RandomizedDelaySec=, the same for one timer on one machine when FixedRandomDelay=.
    fn timer_jitter(&mut self, cx: &Cx<'_>, id: UnitId, settings: &TimerSettings) -> u64 {
        if settings.randomized_delay_usec == 0 {
            return 0;
        }
        let bits = if settings.fixed_random_delay {
            let machine = self.machine(cx);
            let name = self.unit(id).name.to_string();
            let bytes = machine.machine_id.bytes().chain(name.bytes());
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            })
        } else {
            let random = cx.host.random_id();
            random[..8].iter().fold(0, |a, b| (a << 8) | u64::from(*b))
        };
        bits % settings.randomized_delay_usec.saturating_add(1).max(1)
    }

    pub(crate) fn timer_elapsed(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if !self
            .get(id)
            .is_some_and(|u| matches!(&u.run.kind, Kind::Timer(t) if t.state == S::Waiting))
        {
            return;
        }
        let next = self.timer(id).next_realtime;
        let monotonic = self.timer(id).next_monotonic;
        let due = (monotonic > 0 && monotonic <= cx.now.monotonic)
            || (next > 0 && next <= cx.now.realtime);
        if !due {
            // The clock was set back since the deadline was computed.
            self.timer_schedule(cx, id, false);
            return;
        }
        let Some(target) = self.triggered_unit(id) else {
            return;
        };
        match self.pull_trigger(cx, id, target) {
            Ok(()) => {
                let stamp = cx.stamp();
                self.timer_mut(id).last_trigger = stamp;
                let settings = self.timer_settings(id);
                if settings.persistent {
                    let unit = self.unit(id).name.clone();
                    cx.out.push(Action::WriteTimerStamp {
                        unit,
                        realtime: stamp.realtime,
                    });
                }
                self.timer_set(cx, id, S::Running);
            }
            Err(result) => {
                self.timer_mut(id).result = result;
                self.timer_set(cx, id, S::Failed);
            }
        }
    }

    pub(crate) fn timer_triggered_changed(&mut self, cx: &mut Cx<'_>, id: UnitId, target: UnitId) {
        let unit = self.unit(target);
        let idle = unit.job.is_none() && is_inactive_or_failed(unit.active());
        match self.timer(id).state {
            S::Running if idle => self.timer_schedule(cx, id, false),
            S::Waiting | S::Elapsed => {
                let relative = self.timer(id).settings.monotonic.iter().any(|(base, _)| {
                    matches!(base, TimerBase::OnUnitActive | TimerBase::OnUnitInactive)
                });
                if relative {
                    self.timer_schedule(cx, id, false);
                }
            }
            _ => {}
        }
    }

    /// After daemon-reload, or with state of a manager before.
    pub(super) fn timer_rearm(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if matches!(self.timer(id).state, S::Waiting | S::Elapsed) {
            self.timer_schedule(cx, id, false);
        }
    }

    /// The real-time clock was set: calendar lines are computed anew.
    pub(crate) fn clock_changed(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<UnitId> = self
            .ids()
            .filter(
                |id| matches!(&self.unit(*id).run.kind, Kind::Timer(t) if t.state == S::Waiting),
            )
            .collect();
        for id in ids {
            if self.timer(id).last_trigger.realtime > cx.now.realtime {
                self.timer_mut(id).last_trigger.realtime = cx.now.realtime;
            }
            self.timer_schedule(cx, id, false);
        }
    }
}
