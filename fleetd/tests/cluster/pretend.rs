//! A pretended service manager. It reads the unit files it is given: `ExecStart=/bin/false` fails,
//! `ExecStart=/bin/true` ends at once, `ExecStart=refuse-link` cannot be linked, `ExecStart=slow-link` takes a second for that,
//! `WantedBy=refuse-enable` is not enabled, `TimeoutStopSec=N` takes N seconds to stop, `TimeoutStartSec=N` as long to
//! become active.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use etcd_kv::BoxFuture;
use fleet_model::{UnitFile, UnitName};
use fleetd::agent::{ActualState, ManagerError, News, RunEnd, ServiceManager};
use tokio::sync::mpsc;

#[derive(Debug, Clone, Default)]
pub(crate) struct Pretend {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    units: BTreeMap<UnitName, Unit>,
    log: Vec<String>,
    turns: Vec<(Instant, String, bool)>,
    listeners: Vec<mpsc::Sender<News>>,
    own_job: Option<String>,
    /// No unit can be stopped.
    refuses_stop: bool,
    next_pid: u32,
}

#[derive(Debug)]
struct Unit {
    file: UnitFile,
    active: &'static str,
    sub: &'static str,
    /// Number of the main process that was started last.
    main_pid: u32,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ManagerError>>;

impl Pretend {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// What was asked of it.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(crate) fn is_active(&self, name: &str) -> bool {
        self.lock()
            .units
            .get(name)
            .is_some_and(|u| u.active == "active")
    }

    /// Whether it knows the unit's file.
    pub(crate) fn is_linked(&self, name: &str) -> bool {
        self.lock().units.contains_key(name)
    }

    /// Main processes of the units that run.
    pub(crate) fn main_pids(&self) -> BTreeMap<String, u32> {
        let inner = self.lock();
        let active = inner.units.iter().filter(|(_, u)| u.active == "active");
        active.map(|(n, u)| (n.to_string(), u.main_pid)).collect()
    }

    /// Units that it knows.
    pub(crate) fn names(&self) -> Vec<UnitName> {
        self.lock().units.keys().cloned().collect()
    }

    pub(crate) fn set_own_job(&self, job: Option<&str>) {
        self.lock().own_job = job.map(str::to_owned);
    }

    /// When units became active and ceased to be.
    #[allow(dead_code, reason = "fleetctl's tests ask")]
    pub(crate) fn turns(&self) -> Vec<(Instant, String, bool)> {
        self.lock().turns.clone()
    }

    /// A unit fails by itself.
    #[allow(dead_code, reason = "fleetctl's tests ask")]
    pub(crate) fn fail(&self, name: &str) {
        self.set(&UnitName::parse(name).unwrap(), "failed", "failed");
    }

    pub(crate) fn refuse_stop(&self, refuses: bool) {
        self.lock().refuses_stop = refuses;
    }

    /// Somebody takes a unit's link away; it goes down.
    pub(crate) fn lose(&self, name: &str) {
        let mut inner = self.lock();
        inner.units.remove(name).unwrap();
        let news = News::Unit(name.to_owned());
        inner.listeners.retain(|l| l.try_send(news.clone()).is_ok());
    }

    fn set(&self, name: &UnitName, active: &'static str, sub: &'static str) {
        let mut inner = self.lock();
        let turn = (Instant::now(), name.to_string(), active == "active");
        inner.turns.push(turn);
        if let Some(unit) = inner.units.get_mut(name) {
            (unit.active, unit.sub) = (active, sub);
        }
        inner
            .listeners
            .retain(|l| l.try_send(News::Unit(name.to_string())).is_ok());
    }

    fn note(&self, what: &str, name: &UnitName) {
        self.lock().log.push(format!("{what} {name}"));
    }

    fn value(&self, name: &UnitName, key: &str) -> Option<String> {
        let inner = self.lock();
        let unit = inner.units.get(name)?;
        unit.file.values("Service", key).last().map(str::to_owned)
    }

    fn finish_stop(&self, name: &UnitName) {
        self.set(name, "inactive", "dead");
    }
}

impl ServiceManager for Pretend {
    fn link(&self, files: Vec<PathBuf>) -> Answer<'_, ()> {
        Box::pin(async move {
            for path in files {
                let name = UnitName::parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
                let file = UnitFile::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
                if file
                    .values("Service", "ExecStart")
                    .any(|v| v == "refuse-link")
                {
                    return Err(ManagerError::Job("refused".into()));
                }
                if file
                    .values("Service", "ExecStart")
                    .any(|v| v == "slow-link")
                {
                    self.note("linking", &name);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                if self.lock().units.contains_key(&name) {
                    // Linked again: its state stays.
                    continue;
                }
                self.note("link", &name);
                let unit = Unit {
                    file,
                    active: "inactive",
                    sub: "dead",
                    main_pid: 0,
                };
                self.lock().units.insert(name, unit);
            }
            Ok(())
        })
    }

    fn unlink(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.lock().units.remove(&name);
            Ok(())
        })
    }

    fn enable(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.note("enable", &name);
            let inner = self.lock();
            let file = inner.units.get(&name).map(|unit| &unit.file);
            let mut wanted_by = file
                .into_iter()
                .flat_map(|f| f.values("Install", "WantedBy"));
            if wanted_by.any(|target| target == "refuse-enable") {
                return Err(ManagerError::Job("refused".into()));
            }
            Ok(())
        })
    }

    fn reload(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.lock().log.push("reload".into());
            Ok(())
        })
    }

    fn start_run(&self, name: UnitName) -> Answer<'_, ()> {
        self.start(name)
    }

    fn run_end(&self, name: UnitName) -> Answer<'_, Option<RunEnd>> {
        Box::pin(async move {
            let inner = self.lock();
            Ok(inner
                .units
                .get(&name)
                .filter(|u| u.active != "active")
                .map(|u| {
                    let success = u.active != "failed";
                    let exit_status = Some(i32::from(!success));
                    RunEnd {
                        success,
                        exit_status,
                    }
                }))
        })
    }

    fn kill(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.note("kill", &name);
            self.finish_stop(&name);
            Ok(())
        })
    }

    fn start(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.note("start", &name);
            {
                let mut inner = self.lock();
                inner.next_pid += 1;
                let pid = inner.next_pid;
                if let Some(unit) = inner.units.get_mut(&name)
                    && unit.active != "active"
                {
                    unit.main_pid = pid;
                }
            }
            match self.value(&name, "ExecStart").as_deref() {
                Some("/bin/false") => self.set(&name, "failed", "failed"),
                program => {
                    let (active, sub) = match program {
                        Some("/bin/true") => ("inactive", "dead"),
                        _ => ("active", "running"),
                    };
                    match self.value(&name, "TimeoutStartSec") {
                        Some(seconds) => {
                            self.set(&name, "activating", "start");
                            let later = self.clone();
                            tokio::spawn(async move {
                                let seconds = seconds.parse().unwrap();
                                tokio::time::sleep(Duration::from_secs(seconds)).await;
                                later.set(&name, active, sub);
                            });
                        }
                        None => self.set(&name, active, sub),
                    }
                }
            }
            Ok(())
        })
    }

    fn stop(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.note("stop", &name);
            self.finish_stop(&name);
            Ok(())
        })
    }

    fn stop_and_wait(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            self.note("stop", &name);
            if self.lock().refuses_stop {
                return Err(ManagerError::Job("failed".into()));
            }
            if let Some(seconds) = self.value(&name, "TimeoutStopSec") {
                tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
            }
            self.finish_stop(&name);
            Ok(())
        })
    }

    fn reset_failed(&self, _: UnitName) -> Answer<'_, ()> {
        Box::pin(async move { Ok(()) })
    }

    fn states(&self, names: Vec<UnitName>) -> Answer<'_, Vec<(UnitName, ActualState)>> {
        Box::pin(async move {
            let inner = self.lock();
            let state = |name: UnitName| {
                let unit = inner.units.get(&name);
                let state = ActualState {
                    load: if unit.is_some() {
                        "loaded".into()
                    } else {
                        "not-found".into()
                    },
                    active: unit.map_or("inactive", |u| u.active).into(),
                    sub: unit.map_or("dead", |u| u.sub).into(),
                    job: false,
                };
                (name, state)
            };
            Ok(names.into_iter().map(state).collect())
        })
    }

    fn news(&self) -> mpsc::Receiver<News> {
        let (tx, rx) = mpsc::channel(256);
        self.lock().listeners.push(tx);
        rx
    }

    fn own_job(&self) -> Answer<'_, (Option<String>, String)> {
        Box::pin(async move { Ok((self.lock().own_job.clone(), "running".into())) })
    }
}
