//! States, results and small counters shared by the unit types.

use init_control::ActiveState;
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            pub(crate) fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// `Result=` of services, sockets, mounts, timers, paths and scopes.
    UnitResult {
        Success = "success",
        Resources = "resources",
        Protocol = "protocol",
        Timeout = "timeout",
        ExitCode = "exit-code",
        Signal = "signal",
        CoreDump = "core-dump",
        Watchdog = "watchdog",
        StartLimitHit = "start-limit-hit",
        OomKill = "oom-kill",
        SkipCondition = "exec-condition",
        ServiceStartLimitHit = "service-start-limit-hit",
        TriggerLimitHit = "trigger-limit-hit",
        UnitStartLimitHit = "unit-start-limit-hit",
    }
}

words! {
    /// SubState of a service.
    ServiceState {
        Dead = "dead",
        Condition = "condition",
        StartPre = "start-pre",
        Start = "start",
        StartPost = "start-post",
        Running = "running",
        Exited = "exited",
        Reload = "reload",
        Stop = "stop",
        StopWatchdog = "stop-watchdog",
        StopSigterm = "stop-sigterm",
        StopSigkill = "stop-sigkill",
        StopPost = "stop-post",
        FinalSigterm = "final-sigterm",
        FinalSigkill = "final-sigkill",
        Failed = "failed",
        AutoRestart = "auto-restart",
    }
}

impl ServiceState {
    pub(crate) fn active(self) -> ActiveState {
        use ServiceState as S;
        match self {
            S::Dead => ActiveState::Inactive,
            S::Condition | S::StartPre | S::Start | S::StartPost | S::AutoRestart => {
                ActiveState::Activating
            }
            S::Running | S::Exited => ActiveState::Active,
            S::Reload => ActiveState::Reloading,
            S::Failed => ActiveState::Failed,
            _ => ActiveState::Deactivating,
        }
    }
}

words! {
    /// SubState of a socket.
    SocketState {
        Dead = "dead",
        StartPre = "start-pre",
        StartChown = "start-chown",
        StartPost = "start-post",
        Listening = "listening",
        Running = "running",
        StopPre = "stop-pre",
        StopPreSigterm = "stop-pre-sigterm",
        StopPreSigkill = "stop-pre-sigkill",
        StopPost = "stop-post",
        FinalSigterm = "final-sigterm",
        FinalSigkill = "final-sigkill",
        Failed = "failed",
    }
}

impl SocketState {
    pub(crate) fn active(self) -> ActiveState {
        use SocketState as S;
        match self {
            S::Dead => ActiveState::Inactive,
            S::StartPre | S::StartChown | S::StartPost => ActiveState::Activating,
            S::Listening | S::Running => ActiveState::Active,
            S::Failed => ActiveState::Failed,
            _ => ActiveState::Deactivating,
        }
    }
}

words! {
    /// SubState of a mount.
    MountState {
        Dead = "dead",
        Mounting = "mounting",
        MountingDone = "mounting-done",
        Mounted = "mounted",
        Remounting = "remounting",
        Unmounting = "unmounting",
        RemountingSigterm = "remounting-sigterm",
        RemountingSigkill = "remounting-sigkill",
        UnmountingSigterm = "unmounting-sigterm",
        UnmountingSigkill = "unmounting-sigkill",
        Failed = "failed",
    }
}

impl MountState {
    pub(crate) fn active(self) -> ActiveState {
        use MountState as S;
        match self {
            S::Dead => ActiveState::Inactive,
            S::Mounting | S::MountingDone => ActiveState::Activating,
            S::Mounted => ActiveState::Active,
            S::Remounting | S::RemountingSigterm | S::RemountingSigkill => ActiveState::Reloading,
            S::Unmounting | S::UnmountingSigterm | S::UnmountingSigkill => {
                ActiveState::Deactivating
            }
            S::Failed => ActiveState::Failed,
        }
    }
}

words! {
    /// SubState of a timer.
    TimerState {
        Dead = "dead",
        Waiting = "waiting",
        Running = "running",
        Elapsed = "elapsed",
        Failed = "failed",
    }
}

impl TimerState {
    pub(crate) fn active(self) -> ActiveState {
        match self {
            TimerState::Dead => ActiveState::Inactive,
            TimerState::Failed => ActiveState::Failed,
            _ => ActiveState::Active,
        }
    }
}

words! {
    /// SubState of a path unit.
    PathState {
        Dead = "dead",
        Waiting = "waiting",
        Running = "running",
        Failed = "failed",
    }
}

impl PathState {
    pub(crate) fn active(self) -> ActiveState {
        match self {
            PathState::Dead => ActiveState::Inactive,
            PathState::Failed => ActiveState::Failed,
            _ => ActiveState::Active,
        }
    }
}

words! {
    /// SubState of a scope.
    ScopeState {
        Dead = "dead",
        Running = "running",
        Abandoned = "abandoned",
        StopSigterm = "stop-sigterm",
        StopSigkill = "stop-sigkill",
        Failed = "failed",
    }
}

impl ScopeState {
    pub(crate) fn active(self) -> ActiveState {
        match self {
            ScopeState::Dead => ActiveState::Inactive,
            ScopeState::Running | ScopeState::Abandoned => ActiveState::Active,
            ScopeState::StopSigterm | ScopeState::StopSigkill => ActiveState::Deactivating,
            ScopeState::Failed => ActiveState::Failed,
        }
    }
}

words! {
    /// SubState of a device.
    DeviceState {
        Dead = "dead",
        Tentative = "tentative",
        Plugged = "plugged",
    }
}

/// True for active and reloading.
pub(crate) fn is_active_or_reloading(state: ActiveState) -> bool {
    matches!(state, ActiveState::Active | ActiveState::Reloading)
}

/// True for active, reloading, activating.
pub(crate) fn is_active_or_activating(state: ActiveState) -> bool {
    matches!(
        state,
        ActiveState::Active | ActiveState::Reloading | ActiveState::Activating
    )
}

/// True for inactive and failed.
pub(crate) fn is_inactive_or_failed(state: ActiveState) -> bool {
    matches!(state, ActiveState::Inactive | ActiveState::Failed)
}

/// True for inactive, failed, deactivating.
pub(crate) fn is_inactive_or_deactivating(state: ActiveState) -> bool {
    is_inactive_or_failed(state) || state == ActiveState::Deactivating
}

/// At most `burst` events per interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RateLimit {
    begin: u64,
    count: u32,
}

impl RateLimit {
    /// Counts one event; false when it is one too many. An interval or burst of 0 never limits.
    pub(crate) fn allow(&mut self, now: u64, interval: u64, burst: u32) -> bool {
        if interval == 0 || burst == 0 {
            return true;
        }
        if self.count == 0 || now >= self.begin.saturating_add(interval) {
            *self = RateLimit {
                begin: now,
                count: 1,
            };
            return true;
        }
        if self.count < burst {
            self.count += 1;
            return true;
        }
        false
    }

    pub(crate) fn reset(&mut self) {
        *self = RateLimit::default();
    }
}

#[cfg(test)]
mod tests {
    use super::RateLimit;

    #[test]
    fn rate_limit() {
        let mut limit = RateLimit::default();
        let allowed = |l: &mut RateLimit, at| l.allow(at, 10, 2);
        assert!(allowed(&mut limit, 1) && allowed(&mut limit, 2));
        assert!(!allowed(&mut limit, 3) && !allowed(&mut limit, 10));
        assert!(allowed(&mut limit, 11));
        assert!((0..100).all(|t| RateLimit::default().allow(t, 0, 1)));
    }
}
