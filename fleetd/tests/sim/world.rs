//! A cluster of machines on one store, and what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_kv::{Keys, Kv, MemKv, Op, Txn};
use fleet_model::agent::wanted;
use fleet_model::{
    Activity, Machine as MachineRecord, MachineId, Metadata, TargetState, UnitFile, UnitName,
    UnitState, merge_metadata,
};
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};
use fleetd::registry::{Cordon, Desired, Key, Pace, Rebalance, Registry};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::machine::{Handle, Machine, SkewedClock, Truth};
use crate::rng::Rng;
use crate::wire::{Port, Weather, Wire};

const PREFIX: &str = "/fleet/";
const TTL: Duration = Duration::from_secs(6);
/// How long faults go on.
const STORM: Duration = Duration::from_secs(50);
/// How long the cluster may take to recover: leases end, work that failed is tried again.
const RECOVERY: Duration = Duration::from_secs(40);
/// How long it must then be quiet.
const QUIET: Duration = Duration::from_secs(10);

/// A daemon's life.
struct Life {
    end: Option<oneshot::Sender<End>>,
    task: JoinHandle<()>,
}

pub(crate) struct World {
    rng: Rng,
    store: MemKv,
    registry: Registry,
    machines: Vec<Arc<Machine>>,
    lives: Vec<Option<Life>>,
    settings: Vec<Settings>,
    pub(crate) truth: Arc<Mutex<Truth>>,
    _dir: TempDir,
}

fn id(index: usize) -> MachineId {
    MachineId::parse(&format!("{index:08}{index:024}")).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let store = MemKv::new();
        let truth = Truth::begin(traced);
        // In memory, where there is such a place: it is quicker.
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        }
        .unwrap();
        let count = 2 + usize::try_from(rng.below(3)).unwrap();
        let mut machines = Vec::new();
        let mut settings = Vec::new();
        for index in 0..count {
            let own = dir.path().join(index.to_string());
            std::fs::create_dir(&own).unwrap();
            std::fs::write(own.join("machine-id"), id(index).as_str()).unwrap();
            let clock = SkewedClock {
                begin: Instant::now(),
                offset: Duration::from_millis(1000 + rng.below(1_000_000)),
                rate: 930 + u32::try_from(rng.below(140)).unwrap(),
            };
            let port = Port::new(rng.next());
            machines.push(Machine::new(index, port, clock, truth.clone(), &own));
            settings.push(Settings {
                etcd_key_prefix: PREFIX.into(),
                agent_ttl: TTL,
                public_ip: format!("10.0.0.{index}"),
                metadata: Metadata::from([("zone".into(), format!("z{}", index % 2))]),
                units_directory: own.join("units"),
                run_directory: own.join("run"),
                machine_id_file: own.join("machine-id"),
                ..Settings::default()
            });
        }
        let registry = Registry::new(Arc::new(store.clone()), PREFIX);
        Self {
            rng,
            store,
            registry,
            lives: machines.iter().map(|_| None).collect(),
            machines,
            settings,
            truth,
            _dir: dir,
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.truth.lock().unwrap().note(what);
    }

    fn start(&mut self, index: usize) {
        if self.lives[index].is_some() {
            return;
        }
        let machine = self.machines[index].clone();
        if machine.port.below(b"ttl", 4) == 0 {
            let ttl = &mut self.settings[index].agent_ttl;
            *ttl = if *ttl == TTL { TTL * 2 / 3 } else { TTL };
            machine.note(|| format!("the time to live is {ttl:?} from now on"));
        }
        let life = machine.port.reborn();
        machine.set_own_job(None);
        machine.note(|| format!("daemon starts, life {life}"));
        let (end, asked) = oneshot::channel();
        let settings = self.settings[index].clone();
        let io = Io {
            sockets: Vec::new(),
            manager: Arc::new(Handle {
                machine: machine.clone(),
                life: Some(life),
            }),
            kv: Some(Arc::new(Wire {
                store: self.store.clone(),
                port: machine.port.clone(),
                life,
            })),
            clock: Arc::new(machine.clock),
            api: ApiIo::default(),
        };
        let task = tokio::spawn(async move {
            let asked = async { Ok(asked.await.unwrap_or(End::Exit)) };
            run(&settings, &io, asked).await.unwrap();
        });
        self.lives[index] = Some(Life {
            end: Some(end),
            task,
        });
    }

    /// As with SIGKILL.
    fn kill(&mut self, index: usize) {
        let Some(life) = self.lives[index].take() else {
            return;
        };
        self.machines[index].note(|| "daemon is killed".into());
        // What it has spawned stands still for ever: its number is no longer the present one.
        self.machines[index].port.reborn();
        life.task.abort();
        std::mem::forget(life.end);
    }

    /// As with SIGTERM.
    async fn end(&mut self, index: usize, job: &str) {
        let Some(life) = self.lives[index].as_mut() else {
            return;
        };
        self.machines[index].note(|| format!("daemon ends, {job}"));
        self.machines[index].set_own_job(Some(job));
        if let Some(end) = life.end.take() {
            let _ = end.send(End::Exit);
        }
        // It may be cut off, and then takes its time; the service manager loses patience, sooner or
        // later.
        let patience = match self.machines[index].port.below(b"patience", 3) {
            0 => Duration::from_secs(90),
            _ => Duration::from_secs(3),
        };
        let _ = tokio::time::timeout(patience, &mut life.task).await;
        self.kill(index);
    }

    fn weather(&self, index: usize, change: impl FnOnce(&mut Weather)) {
        let weather = self.machines[index].port.change(change);
        self.machines[index].note(|| format!("{weather:?}"));
    }

    fn some_machine(&mut self) -> usize {
        usize::try_from(self.rng.below(self.machines.len() as u64)).unwrap()
    }

    fn some_unit(&mut self) -> UnitName {
        let text = match self.rng.below(12) {
            n @ 0..8 => format!("u{n}.service"),
            n @ 8..10 => format!("g{}.service", n - 8),
            n => format!("b{}.service", n - 10),
        };
        UnitName::parse(&text).unwrap()
    }

    fn some_text(&mut self, name: &UnitName) -> UnitFile {
        let mut text = format!(
            "[Service]\nExecStart=/bin/{}\nTimeoutStopSec={}\n",
            self.rng.below(1000),
            [0, 30, 800, 9000][usize::try_from(self.rng.below(4)).unwrap()]
        );
        let rules = match name.as_str().as_bytes()[0] {
            b'g' => {
                let rules = ["", "Conflicts=u1.service\n", "MachineMetadata=zone=z1\n"];
                format!("Global=true\n{}", self.rng.pick(&rules).unwrap())
            }
            b'b' => {
                text.push_str("Type=oneshot\n");
                if self.rng.percent(50) {
                    text.push_str("ExecStart=/bin/false\n");
                }
                format!("Batch=yes\nRetries={}\n", self.rng.below(3))
            }
            _ => {
                let rules = [
                    "",
                    "",
                    "Conflicts=u*.service\n",
                    "Conflicts=u3.service\n",
                    "MachineOf=u0.service\n",
                    "MachineMetadata=zone=z0\n",
                    "MachineMetadata=zone=z1\n",
                    "Replaces=u2.service\n",
                ];
                let stop = if self.rng.percent(60) {
                    "Partition=stop\n"
                } else {
                    ""
                };
                format!("{}{stop}", self.rng.pick(&rules).unwrap())
            }
        };
        text.push_str("[X-Fleet]\n");
        text.push_str(&rules);
        UnitFile::parse(&text).unwrap()
    }

    async fn submit(&mut self) {
        let name = self.some_unit();
        let file = self.some_text(&name);
        if fleet_model::validate_options(&file).is_err() {
            return;
        }
        let target = if self.rng.percent(85) {
            TargetState::Launched
        } else {
            TargetState::Loaded
        };
        self.note(|| {
            format!(
                "submit {name} {target}: {}",
                file.to_string().replace('\n', " ")
            )
        });
        let made = self.registry.create(&name, &file, target).await.unwrap();
        if made.is_none() && self.rng.percent(50) {
            self.registry
                .replace(&name, &file, target, Pace::AtOnce)
                .await
                .unwrap();
        }
    }

    async fn happen(&mut self) {
        let machine = self.some_machine();
        let unit = self.some_unit();
        match self.rng.below(100) {
            0..25 => self.submit().await,
            25..33 => {
                self.note(|| format!("destroy {unit}"));
                self.registry.destroy(&unit).await.unwrap();
            }
            33..45 => {
                let targets = [
                    TargetState::Inactive,
                    TargetState::Loaded,
                    TargetState::Launched,
                ];
                let target = *self.rng.pick(&targets).unwrap();
                self.note(|| format!("target {unit} {target}"));
                self.registry.set_target(&unit, target).await.unwrap();
            }
            45..50 => {
                let nonce = self.rng.below(1000);
                self.note(|| format!("restart {unit}"));
                self.registry.ask_restart(&unit, nonce).await.unwrap();
            }
            50..52 => {
                let cordon = self.rng.percent(60).then(|| Cordon {
                    drain: true,
                    ..Cordon::default()
                });
                self.note(|| format!("m{machine} {cordon:?}"));
                let id = id(machine);
                self.registry
                    .set_cordon(&id, cordon.as_ref())
                    .await
                    .unwrap();
            }
            52 => {
                self.note(|| "rebalance".into());
                let request = Rebalance {
                    budget: 3,
                    requested: String::new(),
                };
                self.registry.ask_rebalance(&request).await.unwrap();
            }
            53..55 => {
                let value = self.rng.pick(&["z0", "z1"]).map(|v| (*v).to_owned());
                let patch = (id(machine), "zone".to_owned(), value);
                self.registry.patch_metadata(&[patch]).await.unwrap();
            }
            55..63 => self.kill(machine),
            63..66 => self.end(machine, "restart").await,
            66..68 => self.end(machine, "stop").await,
            68..71 => {
                self.kill(machine);
                self.machines[machine].note(|| "power fails".into());
                self.machines[machine].reset();
            }
            71..80 => self.weather(machine, |w| w.cut = true),
            80..83 => {
                for machine in 0..self.machines.len() {
                    self.weather(machine, |w| w.cut = true);
                }
            }
            83..87 => self.weather(machine, |w| w.loss = 25),
            87..91 => self.weather(machine, |w| w.lag = 2500),
            91..94 => self.weather(machine, |w| w.broken += 1),
            94..97 => {
                let revision = self.store_revision().await;
                // Nobody watches from before it for long.
                let _ = self.store.compact(revision).await;
            }
            _ => {
                self.note(|| "the leader is deposed".into());
                let delete = Op::Delete {
                    keys: Keys::one(self.registry.leader_key()),
                    previous: false,
                };
                self.store.txn(Txn::new().then(delete)).await.unwrap();
            }
        }
        // Things get better, too.
        for machine in 0..self.machines.len() {
            if self.lives[machine].is_none() && self.rng.percent(25) {
                self.start(machine);
            }
            let fair = self.machines[machine].port.weather();
            if fair
                != (Weather {
                    broken: fair.broken,
                    ..Weather::default()
                })
                && self.rng.percent(20)
            {
                self.clear(machine);
            }
        }
    }

    fn clear(&self, machine: usize) {
        self.weather(machine, |w| {
            *w = Weather {
                broken: w.broken,
                ..Weather::default()
            };
        });
    }

    async fn store_revision(&self) -> i64 {
        let kv: &dyn Kv = &self.store;
        kv.list("/nothing/").await.unwrap().revision
    }

    /// Everything from the storm to the end. What went wrong, if anything did.
    pub(crate) async fn live(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        for machine in 0..self.machines.len() {
            self.start(machine);
        }
        sleep(Duration::from_millis(300)).await;
        for _ in 0..6 {
            self.submit().await;
        }
        while begin.elapsed() < STORM {
            sleep(Duration::from_millis(50 + self.rng.below(1500))).await;
            self.happen().await;
            self.violations()?;
        }
        self.note(|| "the storm is over".into());
        for machine in 0..self.machines.len() {
            self.clear(machine);
            self.start(machine);
        }
        // Until then the records of a machine that lost its memory look like it.
        sleep(TTL + Duration::from_secs(2)).await;
        let calm = Instant::now();
        loop {
            sleep(Duration::from_millis(500)).await;
            self.violations()?;
            match self.unsettled().await {
                None => break,
                Some(why) if calm.elapsed() > RECOVERY => {
                    return Err(format!("not settled after {RECOVERY:?}: {why}"));
                }
                Some(_) => {}
            }
        }
        // States are published a moment later.
        sleep(Duration::from_secs(2)).await;
        let (revision, starts) = (
            self.store_revision().await,
            self.truth.lock().unwrap().starts,
        );
        sleep(QUIET).await;
        self.violations()?;
        if let Some(why) = self.unsettled().await {
            return Err(format!("settled, and then not: {why}"));
        }
        if self.truth.lock().unwrap().starts != starts {
            return Err("units are started in a settled cluster".into());
        }
        let after = self.store_revision().await;
        if after != revision {
            return Err(format!("{} writes in a settled cluster", after - revision));
        }
        self.left_over().await
    }

    /// `systemctl stop fleet` on the machine of a unit that must not run twice and takes longer to
    /// stop than the daemon waits. Where it runs in the end is another machine.
    pub(crate) async fn stop_under_a_slow_unit(&mut self) -> Result<(), String> {
        for machine in 0..self.machines.len() {
            self.start(machine);
        }
        let name = UnitName::parse("slow.service").unwrap();
        let text = "[Service]\nExecStart=/x\nTimeoutStopSec=200000\n[X-Fleet]\nPartition=stop\n";
        let file = UnitFile::parse(text).unwrap();
        let launched = TargetState::Launched;
        self.registry.create(&name, &file, launched).await.unwrap();
        let first = self.runs_on(&name, None).await?;
        let begin = Instant::now();
        let mut life = self.lives[first].take().unwrap();
        self.machines[first].set_own_job(Some("stop"));
        let _ = life.end.take().unwrap().send(End::Exit);
        life.task.await.unwrap();
        // The process is gone, with all that it has spawned.
        self.machines[first].port.reborn();
        self.note(|| format!("the daemon has ended after {:?}", begin.elapsed()));
        if begin.elapsed() < Duration::from_secs(60) {
            return Err("it did not wait for the unit".into());
        }
        self.runs_on(&name, Some(first)).await?;
        self.violations()
    }

    /// Somebody removes the file of a unit that runs, of which the service manager tells nothing.
    pub(crate) async fn lose_a_file(&mut self) -> Result<(), String> {
        self.start(0);
        let name = UnitName::parse("a.service").unwrap();
        let file = UnitFile::parse("[Service]\nExecStart=/x\n").unwrap();
        let launched = TargetState::Launched;
        self.registry.create(&name, &file, launched).await.unwrap();
        let place = self.runs_on(&name, None).await?;
        let path = self.machines[place].units.join(name.as_str());
        std::fs::remove_file(&path).unwrap();
        let deadline = Instant::now() + Duration::from_secs(70);
        while !path.exists() {
            if Instant::now() > deadline {
                return Err("the file does not come back".into());
            }
            sleep(Duration::from_secs(1)).await;
        }
        match self.truth.lock().unwrap().starts {
            1 => Ok(()),
            starts => Err(format!("{starts} starts")),
        }
    }

    /// Waits until a unit is active on one machine, another than this.
    async fn runs_on(&self, name: &UnitName, but: Option<usize>) -> Result<usize, String> {
        let deadline = Instant::now() + RECOVERY;
        while Instant::now() < deadline {
            sleep(Duration::from_millis(100)).await;
            self.violations()?;
            let place = self.machines.iter().find(|machine| {
                Some(machine.index) != but && machine.states().get(name) == Some(&"active")
            });
            if let Some(machine) = place {
                return Ok(machine.index);
            }
        }
        Err(format!("{name} does not run"))
    }

    fn violations(&self) -> Result<(), String> {
        match self.truth.lock().unwrap().violations.first() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    async fn read(
        &self,
    ) -> (
        Desired,
        BTreeMap<MachineId, MachineRecord>,
        BTreeMap<(UnitName, MachineId), Activity>,
    ) {
        let kv: &dyn Kv = &self.store;
        let all = kv.list(PREFIX).await.unwrap().kvs;
        let mut desired = Desired::default();
        let (mut machines, mut states) = (BTreeMap::new(), BTreeMap::new());
        for kv in all {
            match self.registry.read_key(&kv.key) {
                Key::Presence(id) => {
                    machines.insert(id, serde_json::from_slice(&kv.value).unwrap());
                }
                Key::State(unit, machine) => {
                    let state: UnitState = serde_json::from_slice(&kv.value).unwrap();
                    states.insert((unit, machine), state.activity());
                }
                key => desired.set(key, Some(&kv.value)),
            }
        }
        (desired, machines, states)
    }

    /// What is not as the wishes say, by the same rules as everybody's.
    async fn unsettled(&self) -> Option<String> {
        let (desired, machines, states) = self.read().await;
        if machines.len() != self.machines.len() {
            return Some(format!("{} machines are present", machines.len()));
        }
        let plan = crate::view::plan(&desired, &machines, &states);
        if let Some(task) = plan.tasks.first() {
            return Some(format!("the leader has to {:?} {}", task.step, task.unit));
        }
        let none = Metadata::new();
        for machine in &self.machines {
            let me = id(machine.index);
            let record = &machines[&me];
            let overlay = desired.overlays.get(&me).unwrap_or(&none);
            let metadata = merge_metadata(&record.metadata, overlay);
            let wanted = wanted(&me, &metadata, &record.offer(), &desired.units);
            let here = machine.states();
            for (name, wanted) in &wanted {
                let state = here.get(name).copied();
                let batch = desired.units[name].requirements.batch.is_some();
                let right = match (wanted.target, state) {
                    (_, None) => false,
                    (TargetState::Launched, _) if wanted.ended => true,
                    (TargetState::Launched, _) if batch => false,
                    (TargetState::Launched, Some(state)) => state == "active",
                    (_, Some(state)) => matches!(state, "inactive" | "failed"),
                };
                if !right {
                    return Some(format!("{name} on m{} is {state:?}", machine.index));
                }
            }
            if let Some(name) = here.keys().find(|name| !wanted.contains_key(*name)) {
                return Some(format!("{name} is still on m{}", machine.index));
            }
        }
        None
    }

    /// Records of units that are not there.
    async fn left_over(&self) -> Result<(), String> {
        let (desired, _, states) = self.read().await;
        for (unit, machine) in states.into_keys() {
            let here = self.machines.iter().find(|m| id(m.index) == machine);
            if !desired.units.contains_key(&unit)
                || !here.is_some_and(|m| m.states().contains_key(&unit))
            {
                return Err(format!("a record of {unit} on {} is left", machine.short()));
            }
        }
        Ok(())
    }
}
