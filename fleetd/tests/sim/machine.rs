//! A machine: its clock, and a service manager that outlives the daemon. It reads the unit files:
//! `TimeoutStopSec=N` takes N milliseconds to stop; `Type=oneshot` ends by itself, and well unless
//! `ExecStart=/bin/false`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use etcd_kv::BoxFuture;
use fleet_model::{Partition, Requirements, UnitFile, UnitName};
use fleetd::agent::fence::{GUARD_UNIT, watch_over};
use fleetd::agent::{ActualState, Files, ManagerError, News, RunEnd, ServiceManager};
use fleetd::clock::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::wire::Port;

/// A clock that is early or late, and runs fast or slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SkewedClock {
    pub(crate) begin: Instant,
    pub(crate) offset: Duration,
    /// In thousandths.
    pub(crate) rate: u32,
}

impl Clock for SkewedClock {
    fn now(&self) -> Duration {
        self.offset + self.begin.elapsed() * self.rate / 1000
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }
}

/// What runs anywhere, and what was seen that must not be.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Machines on which a unit runs, and whether by a text that says it must not run twice.
    pub(crate) active: BTreeMap<UnitName, BTreeMap<usize, bool>>,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) traced: bool,
    pub(crate) starts: usize,
    begin: Option<Instant>,
}

impl Truth {
    pub(crate) fn begin(traced: bool) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            traced,
            begin: Some(Instant::now()),
            ..Self::default()
        }))
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.traced {
            let at = self.begin.unwrap().elapsed().as_millis();
            let line = format!("{at:7} {}", what());
            tracing::info!("{line}");
            self.trace.push(line);
        }
    }
}

#[derive(Debug)]
struct Unit {
    file: UnitFile,
    requirements: Requirements,
    active: &'static str,
    end: Option<RunEnd>,
    /// Grows with each start and stop, so that what was to happen later is void.
    epoch: u64,
    /// A start waits for the stop that is under way.
    queued: bool,
}

#[derive(Debug, Default)]
struct Inner {
    units: BTreeMap<UnitName, Unit>,
    listeners: Vec<(u64, mpsc::Sender<News>)>,
    own_job: Option<String>,
    guard: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) index: usize,
    pub(crate) port: Arc<Port>,
    pub(crate) clock: SkewedClock,
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) run: PathBuf,
    pub(crate) units: PathBuf,
    inner: Mutex<Inner>,
}

impl Machine {
    pub(crate) fn new(
        index: usize,
        port: Arc<Port>,
        clock: SkewedClock,
        truth: Arc<Mutex<Truth>>,
        dir: &std::path::Path,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            port,
            clock,
            truth,
            run: dir.join("run"),
            units: dir.join("units"),
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let index = self.index;
        self.truth
            .lock()
            .unwrap()
            .note(|| format!("m{index} {}", what()));
    }

    pub(crate) fn set_own_job(&self, job: Option<&str>) {
        self.lock().own_job = job.map(str::to_owned);
    }

    /// Names and states, without the guard.
    pub(crate) fn states(&self) -> BTreeMap<UnitName, &'static str> {
        let inner = self.lock();
        let units = inner.units.iter().filter(|(n, _)| n.as_str() != GUARD_UNIT);
        units.map(|(n, u)| (n.clone(), u.active)).collect()
    }

    /// Everything ends at once, and what is in memory is gone.
    pub(crate) fn reset(&self) {
        let names: Vec<UnitName> = self.lock().units.keys().cloned().collect();
        for name in names {
            self.set(&name, "inactive", None);
        }
        let mut inner = self.lock();
        if let Some(guard) = inner.guard.take() {
            guard.abort();
        }
        *inner = Inner::default();
        let _ = std::fs::remove_dir_all(&self.run);
        let _ = std::fs::remove_dir_all(&self.units);
    }

    /// A unit enters a state. This is where the rules are watched over.
    fn set(&self, name: &UnitName, active: &'static str, end: Option<RunEnd>) -> u64 {
        let mut inner = self.lock();
        let Some(unit) = inner.units.get_mut(name) else {
            return 0;
        };
        unit.epoch += 1;
        unit.end = end;
        let epoch = unit.epoch;
        if std::mem::replace(&mut unit.active, active) == active {
            return epoch;
        }
        if name.as_str() != GUARD_UNIT {
            let mut truth = self.truth.lock().unwrap();
            let index = self.index;
            truth.note(|| format!("m{index} {name} is {active}"));
            let runs = matches!(active, "active" | "deactivating");
            let requirements = &inner.units[name].requirements;
            let mut bad = Vec::new();
            let places = truth.active.entry(name.clone()).or_default();
            if runs {
                let once = requirements.partition == Partition::Stop && !requirements.global;
                places.insert(index, once);
                if once && places.values().filter(|once| **once).count() > 1 {
                    bad.push(format!("{name} runs on {:?}", places.keys()));
                }
            } else {
                places.remove(&index);
            }
            if active == "active" {
                truth.starts += 1;
                for (other, unit) in &inner.units {
                    let clash = requirements.conflicts_with(other.as_str())
                        || unit.requirements.conflicts_with(name.as_str());
                    if other != name && clash && matches!(unit.active, "active" | "deactivating") {
                        bad.push(format!("{name} was started beside {other} on m{index}"));
                    }
                }
            }
            for bad in bad {
                truth.note(|| format!("!! {bad}"));
                truth.violations.push(bad);
            }
        }
        let news = News::Unit(name.to_string());
        inner
            .listeners
            .retain(|(_, l)| l.try_send(news.clone()).is_ok());
        epoch
    }

    fn is(&self, name: &UnitName, epoch: u64) -> bool {
        self.lock()
            .units
            .get(name)
            .is_some_and(|u| u.epoch == epoch)
    }

    fn millis(&self, name: &UnitName, key: &str) -> Duration {
        let inner = self.lock();
        let value = inner.units.get(name).and_then(|u| {
            let value = u.file.values("Service", key).last()?;
            value.parse().ok()
        });
        Duration::from_millis(value.unwrap_or(0))
    }

    fn begin_stop(self: &Arc<Self>, name: &UnitName) {
        let runs = {
            let mut inner = self.lock();
            let Some(unit) = inner.units.get_mut(name) else {
                return;
            };
            unit.queued = false;
            unit.active == "active"
        };
        if !runs {
            return;
        }
        let epoch = self.set(name, "deactivating", None);
        let (machine, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            sleep(machine.millis(&name, "TimeoutStopSec")).await;
            if machine.is(&name, epoch) {
                machine.down(&name);
            }
        });
    }

    /// Its processes are gone; a start may have waited for that.
    fn down(self: &Arc<Self>, name: &UnitName) {
        self.set(name, "inactive", None);
        let queued = {
            let mut inner = self.lock();
            let unit = inner.units.get_mut(name);
            unit.is_some_and(|unit| std::mem::take(&mut unit.queued))
        };
        if queued {
            self.begin(name);
        }
    }

    fn begin(self: &Arc<Self>, name: &UnitName) {
        if name.as_str() == GUARD_UNIT {
            self.begin_guard();
        }
        {
            let mut inner = self.lock();
            match inner.units.get_mut(name) {
                Some(unit) if unit.active == "deactivating" => {
                    unit.queued = true;
                    return;
                }
                None => return,
                Some(unit) if unit.active == "active" => return,
                Some(_) => {}
            }
        }
        let epoch = self.set(name, "active", None);
        let oneshot = {
            let inner = self.lock();
            let unit = &inner.units[name];
            let oneshot = unit.file.values("Service", "Type").any(|v| v == "oneshot");
            let fails = unit
                .file
                .values("Service", "ExecStart")
                .any(|v| v == "/bin/false");
            oneshot.then_some(!fails)
        };
        if let Some(success) = oneshot {
            let (machine, name) = (self.clone(), name.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(700)).await;
                if machine.is(&name, epoch) {
                    let exit_status = Some(i32::from(!success));
                    let end = RunEnd {
                        success,
                        exit_status,
                    };
                    let state = if success { "inactive" } else { "failed" };
                    machine.set(&name, state, Some(end));
                }
            });
        }
    }

    fn begin_guard(self: &Arc<Self>) {
        let Ok(files) = Files::open(&self.units, &self.run) else {
            return;
        };
        let manager = Arc::new(Handle {
            machine: self.clone(),
            life: None,
        });
        let guard = watch_over(self.run.clone(), files, Arc::new(self.clock), manager);
        if let Some(old) = self.lock().guard.replace(tokio::spawn(guard)) {
            old.abort();
        }
    }
}

/// The service manager, as one life of a daemon (or the guard) sees it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) machine: Arc<Machine>,
    pub(crate) life: Option<u64>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ManagerError>>;

impl Handle {
    async fn live(&self) {
        if self
            .life
            .is_some_and(|life| self.machine.port.life() != life)
        {
            std::future::pending::<()>().await;
        }
    }

    /// There and back takes its time.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        label: &str,
        act: impl FnOnce(&Arc<Machine>) -> Result<T, ManagerError> + Send + 'a,
    ) -> Answer<'a, T> {
        let label = label.as_bytes().to_vec();
        Box::pin(async move {
            self.live().await;
            sleep(Duration::from_millis(
                1 + self.machine.port.below(&label, 3),
            ))
            .await;
            self.live().await;
            let answer = act(&self.machine);
            sleep(Duration::from_millis(self.machine.port.below(&label, 3))).await;
            self.live().await;
            answer
        })
    }
}

impl ServiceManager for Handle {
    fn link(&self, files: Vec<PathBuf>) -> Answer<'_, ()> {
        self.ask("link", move |machine| {
            for path in files {
                let name = UnitName::parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue;
                };
                machine.note(|| format!("link {name}"));
                let file = UnitFile::parse(&text).unwrap();
                let requirements = Requirements::of(&name, &file);
                machine.lock().units.entry(name).or_insert(Unit {
                    file,
                    requirements,
                    active: "inactive",
                    end: None,
                    epoch: 0,
                    queued: false,
                });
            }
            Ok(())
        })
    }

    fn unlink(&self, name: UnitName) -> Answer<'_, ()> {
        self.ask(&name.to_string(), move |machine| {
            let state = machine.states().get(&name).copied();
            if matches!(state, Some("active" | "deactivating")) {
                let bad = format!("{name} was taken away on m{} while it ran", machine.index);
                machine.truth.lock().unwrap().violations.push(bad);
            }
            machine.note(|| format!("unlink {name}"));
            machine.lock().units.remove(&name);
            Ok(())
        })
    }

    fn enable(&self, _: UnitName) -> Answer<'_, ()> {
        self.ask("", |_| Ok(()))
    }

    fn reload(&self) -> Answer<'_, ()> {
        self.ask("", |_| Ok(()))
    }

    fn start(&self, name: UnitName) -> Answer<'_, ()> {
        self.ask(&name.to_string(), move |machine| {
            machine.note(|| format!("start {name}"));
            machine.begin(&name);
            Ok(())
        })
    }

    fn start_run(&self, name: UnitName) -> Answer<'_, ()> {
        self.start(name)
    }

    fn run_end(&self, name: UnitName) -> Answer<'_, Option<RunEnd>> {
        self.ask(&name.to_string(), move |machine| {
            Ok(machine.lock().units.get(&name).and_then(|u| u.end))
        })
    }

    fn stop(&self, name: UnitName) -> Answer<'_, ()> {
        self.ask(&name.to_string(), move |machine| {
            if name.as_str() == GUARD_UNIT {
                if let Some(guard) = machine.lock().guard.take() {
                    guard.abort();
                }
                machine.set(&name, "inactive", None);
                return Ok(());
            }
            machine.note(|| format!("stop {name}"));
            machine.begin_stop(&name);
            Ok(())
        })
    }

    fn kill(&self, name: UnitName) -> Answer<'_, ()> {
        self.ask(&name.to_string(), move |machine| {
            machine.note(|| format!("kill {name}"));
            let state = machine.states().get(&name).copied();
            if matches!(state, Some("active" | "deactivating")) {
                machine.down(&name);
            }
            Ok(())
        })
    }

    fn stop_and_wait(&self, name: UnitName) -> Answer<'_, ()> {
        Box::pin(async move {
            let unit = name.clone();
            self.ask(name.as_str(), move |machine| {
                machine.note(|| format!("stop {unit} and wait"));
                machine.begin_stop(&unit);
                Ok(())
            })
            .await?;
            let runs = || {
                let inner = self.machine.lock();
                inner
                    .units
                    .get(&name)
                    .is_some_and(|u| u.active == "deactivating")
            };
            while runs() {
                sleep(Duration::from_millis(10)).await;
            }
            self.live().await;
            Ok(())
        })
    }

    fn reset_failed(&self, name: UnitName) -> Answer<'_, ()> {
        self.ask(&name.to_string(), move |machine| {
            if machine.states().get(&name) == Some(&"failed") {
                machine.set(&name, "inactive", None);
            }
            Ok(())
        })
    }

    fn states(&self, names: Vec<UnitName>) -> Answer<'_, Vec<(UnitName, ActualState)>> {
        self.ask("states", move |machine| {
            let inner = machine.lock();
            let state = |name: UnitName| {
                let unit = inner.units.get(&name);
                let load = if unit.is_some() {
                    "loaded"
                } else {
                    "not-found"
                };
                let active = unit.map_or("inactive", |u| u.active);
                let sub = if active == "active" {
                    "running"
                } else {
                    "dead"
                };
                let state = ActualState {
                    load: load.into(),
                    active: active.into(),
                    sub: sub.into(),
                    job: false,
                };
                (name, state)
            };
            Ok(names.into_iter().map(state).collect())
        })
    }

    fn news(&self) -> mpsc::Receiver<News> {
        let (tx, rx) = mpsc::channel(256);
        let life = self.life.unwrap_or(0);
        let mut inner = self.machine.lock();
        inner.listeners.retain(|(l, _)| *l == life);
        inner.listeners.push((life, tx));
        rx
    }

    fn own_job(&self) -> Answer<'_, (Option<String>, String)> {
        self.ask("own", |machine| {
            Ok((machine.lock().own_job.clone(), "running".into()))
        })
    }
}
