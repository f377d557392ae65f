//! fleet needs nothing of Flotilla: a stock Debian with real systemd and Debian's etcd, set up as
//! `docs/fleet/stock-debian.md` says, by the words of that page (issue 3, *Shows*).
//!
//! One machine and one boot for all of it. The user who types `fleetctl` is not root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::debian::{self, Running};
use qemu_tests::{Debian, World};

const MINUTE: Duration = Duration::from_secs(60);
const DOCUMENT: &str = include_str!("../../docs/fleet/stock-debian.md");
/// YOU of the document.
const USER: &str = "ann";
/// The lease, in seconds: long enough for an emulated etcd, short enough to wait for its end.
const TTL: f64 = 30.0;

const HELLO: &str = "[Unit]\nDescription=Says hello\n\n[Service]\nExecStart=/bin/sh -c 'echo hello from fleet; exec sleep 1000000'\n";
/// Ready when the test says so.
const NOTIFY: &str = "[Service]\nType=notify\nNotifyAccess=all\nTimeoutStartSec=infinity\nExecStart=/bin/sh -c 'until test -e /run/go; do sleep 0.2; done; systemd-notify --ready; exec sleep 1000000'\n";
const FAILS: &str = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 3'\n";
const LIMITED: &str = "[Unit]\nDescription=Instance %i of %p\n\n[Service]\nExecStart=/bin/sleep 100000%i\nMemoryMax=64M\nCPUQuota=20%\n";
const ONCE: &str = "[Service]\nExecStart=/bin/sleep 1000000\n\n[X-Fleet]\nPartition=stop\n";

/// A job as users of a cluster have them: as one of them, and with what it must not change read-only. Its second half
/// fails where the directory, which is the user's own, can be written.
fn job_of_user() -> String {
    let home = format!("/home/{USER}");
    format!(
        "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nUser={USER}\nReadOnlyPaths={home}/shut\n\
         ExecStart=/bin/sh -c 'id -un >{home}/open/who && ! touch {home}/shut/x'\n\n[X-Fleet]\nBatch=yes\n"
    )
}

fn job(command: &str, more: &str) -> String {
    format!(
        "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={command}\n\n[X-Fleet]\nBatch=yes\n{more}"
    )
}

/// The files that the document shows, by the path that its text names just before: `` `/PATH`: ``.
fn files() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    let mut rest = DOCUMENT;
    while let Some((before, block)) = rest.split_once("\n```") {
        let (Some((_, block)), Some(end)) = (block.split_once('\n'), block.find("\n```")) else {
            break;
        };
        let name = before.trim_end().strip_suffix("`:");
        if let Some((_, path)) = name.and_then(|n| n.rsplit_once('`')) {
            found.push((path, block.split("```").next().unwrap_or_default()));
        }
        rest = &rest[before.len() + 4 + end + 4..];
    }
    found
}

/// The lines of the document's first chapter that are to be typed, by root and by the user.
fn commands() -> impl Iterator<Item = (bool, &'static str)> {
    let chapter = DOCUMENT.split("\n## Several").next().unwrap_or_default();
    chapter
        .split("```console\n")
        .skip(1)
        .flat_map(|b| b.split("```").next().unwrap_or_default().lines())
        .filter_map(|line| match line.split_once(' ')? {
            ("#", command) => Some((true, command)),
            ("$", command) => Some((false, command)),
            _ => None,
        })
}

/// Directory of our release programs, beside that of the static ones.
fn release() -> PathBuf {
    let statics = std::env::var_os("FLOTILLA_STATIC").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/static"),
        PathBuf::from,
    );
    statics.join("../../release")
}

/// `script` as the user, in a shell.
fn as_user(script: &str) -> String {
    let script = script.replace('\'', r"'\''");
    format!(
        "cd /home/{USER} && exec setpriv --reuid {USER} --regid {USER} --init-groups env HOME=/home/{USER} sh -c '{script}'"
    )
}

type Step = fn(&Site) -> Result<()>;

/// The machine, and what is done on it.
struct Site {
    m: Running,
}

impl Site {
    /// Runs fleetctl as the user; it must succeed.
    fn fleetctl(&self, arguments: &str) -> Result<String> {
        // It waits without an end for what does not come.
        self.m
            .ssh(&as_user(&format!("timeout 240 fleetctl {arguments}")))
    }

    /// Runs fleetctl as the user; it must end with `status`. What it has said, on both streams.
    fn fleetctl_fails(&self, arguments: &str, status: i32) -> Result<String> {
        let script = as_user(&format!("timeout 240 fleetctl {arguments} 2>&1"));
        let out = self.m.try_ssh(&script)?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.code() == Some(status),
            "fleetctl {arguments}: {}, not {status}: {said}",
            out.status
        );
        Ok(said)
    }

    /// Puts a unit's file into the user's home.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        self.m
            .upload(&format!("/home/{USER}/{name}"), text.as_bytes())
    }

    /// `load active sub` of a unit, by fleet.
    fn state(&self, unit: &str) -> Result<String> {
        let all = self.fleetctl("list-units --no-legend --fields unit,load,active,sub")?;
        Ok(all
            .lines()
            .filter_map(|l| l.split_once(char::is_whitespace))
            .find(|(name, _)| *name == unit)
            .map(|(_, state)| state.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default())
    }

    /// Waits until fleet shows `state`.
    fn wait_state(&self, unit: &str, state: &str) -> Result<()> {
        self.wait(&format!("{unit} {state}"), || {
            Ok((self.state(unit)? == state).then_some(()))
        })
    }

    fn wait<T>(&self, what: &str, ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        qemu_tests::process::wait_for(what, self.m.scale(3 * MINUTE), ready)
    }

    fn property(&self, unit: &str, property: &str) -> Result<String> {
        let script = format!("systemctl show -p {property} --value '{unit}'");
        Ok(self.m.ssh(&script)?.trim().to_string())
    }

    /// What systemd lists of `pattern`, whatever its state: nothing of what fleet has taken away.
    fn known(&self, pattern: &str) -> Result<String> {
        self.m.ssh(&format!(
            "systemctl list-units --all --plain --no-legend --no-pager {pattern}"
        ))
    }

    /// Waits until systemd knows nothing of `pattern`.
    fn wait_unknown(&self, pattern: &str) -> Result<()> {
        let mut seen = String::new();
        self.wait(&format!("systemd to forget {pattern}"), || {
            seen = self.known(pattern)?;
            Ok(seen.is_empty().then_some(()))
        })
        .with_context(|| seen)
    }
}

#[test]
fn a_stock_debian_runs_fleet() -> Result<()> {
    let w = World::new("deb")?;
    let m = Debian::prepare(&debian::peer()?, &w)?.boot(&w)?;
    let site = Site { m };
    let steps: [(&str, Step); 9] = [
        ("set up as documented", set_up),
        ("the life of a unit", life),
        ("ready, and failed", ready_and_failed),
        ("instances and limits", instances_and_limits),
        ("jobs that end", jobs),
        ("a new daemon adopts", adopted),
        ("no lease", no_lease),
        ("leaving and coming back", leaving),
        ("nothing odd in the log", log),
    ];
    for (what, step) in steps {
        let start = std::time::Instant::now();
        step(&site).with_context(|| {
            let log = "journalctl --no-pager -o short-monotonic -n 60 -u fleet -u fleet-guard -u once; uptime";
            format!("{what}\n{}", site.m.ssh(log).unwrap_or_default())
        })?;
        eprintln!("{what}: {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// What the document says, word by word; but packages are unpacked already, and what their scripts would have done is
/// done here.
fn set_up(site: &Site) -> Result<()> {
    let m = &site.m;
    m.ssh(&format!(
        "useradd --system --user-group --no-create-home --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd && \
         install -d -m 700 -o etcd -g etcd /var/lib/etcd && useradd --create-home --shell /bin/bash --password '*' {USER} && mkdir -p /etc/fleet"
    ))?;
    for program in ["fleetd", "fleetctl"] {
        let bytes = std::fs::read(release().join(program))
            .with_context(|| format!("no release {program}; `cargo xtask image` builds it"))?;
        m.upload(&format!("/root/{program}"), &bytes)?;
    }
    let mut paths = Vec::new();
    for (path, text) in files() {
        let text: String = match path {
            // One machine with etcd of its own, emulated.
            "/etc/fleet/fleet.conf" => {
                text.lines()
                    .filter(|line| !line.starts_with("etcd_servers="))
                    .map(|line| format!("{line}\n"))
                    .collect::<String>()
                    + &format!("etcd_request_timeout=10\nagent_ttl={TTL}s\n")
            }
            _ => text.into(),
        };
        m.upload(path, text.as_bytes())?;
        paths.push(path);
    }
    ensure!(
        paths
            == [
                "/etc/systemd/system/fleet.socket",
                "/etc/systemd/system/fleet.service",
                "/etc/fleet/fleet.conf"
            ],
        "the document shows {paths:?}"
    );
    let mut typed = 0;
    for (root, command) in commands() {
        typed += 1;
        let command = command.replace("YOU", USER);
        if let Some(packages) = command.strip_prefix("apt-get install ") {
            for package in packages.split_whitespace() {
                m.ssh(&format!("test -d /usr/share/doc/{package}"))
                    .with_context(|| format!("{package} is not in the peer"))?;
            }
        } else if root {
            m.ssh(&command)?;
        } else {
            // It answers at once; the machine registers when etcd answers.
            site.wait(&command, || {
                let said = m.ssh(&as_user(&command))?;
                Ok(said
                    .contains(debian::ADDRESS)
                    .then_some(said)
                    .filter(|s| s.contains("disk=ssd") && s.contains("zone=a")))
            })?;
        }
    }
    ensure!(typed >= 6, "only {typed} commands in the document");
    Ok(())
}

/// Each verb and each list, on a unit that runs.
fn life(site: &Site) -> Result<()> {
    site.write("hello.service", HELLO)?;
    site.fleetctl("start --wait-active hello.service")?;
    ensure!(site.state("hello.service")? == "loaded active running");
    let lists = site.fleetctl("list-units --no-legend --full")?;
    let id = site.m.ssh("cat /etc/machine-id")?;
    ensure!(
        lists.contains(&format!("{}/{}", id.trim(), debian::ADDRESS)),
        "{lists}"
    );
    let file =
        |fields: &str| site.fleetctl(&format!("list-unit-files --no-legend --fields {fields}"));
    ensure!(file("unit,dstate,state")?.split_whitespace().eq([
        "hello.service",
        "launched",
        "launched"
    ]));
    let status = site.fleetctl("status hello.service")?;
    ensure!(status.contains("Active: active (running)"), "{status}");
    ensure!(status.contains("Says hello"), "{status}");
    site.wait("the journal", || {
        let journal = site.fleetctl("journal hello.service")?;
        Ok(journal.contains("hello from fleet").then_some(()))
    })?;
    // Always by ssh, also to this machine: as the user that the document says to set.
    site.m.ssh(&as_user(
        "mkdir -p .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 && cp .ssh/id_ed25519.pub .ssh/authorized_keys",
    ))?;
    let said = site.fleetctl(&format!(
        "--ssh-username={USER} --strict-host-key-checking=false ssh hello.service whoami"
    ))?;
    ensure!(said.trim() == USER, "{said}");

    let first = site.property("hello.service", "MainPID")?;
    site.fleetctl("restart --wait-active hello.service")?;
    let second = site.property("hello.service", "MainPID")?;
    ensure!(first != second, "restart did not restart");

    // What somebody does without fleet is seen, and is not undone.
    site.m.ssh("systemctl stop hello.service")?;
    site.wait_state("hello.service", "loaded inactive dead")?;
    site.fleetctl("restart --wait-active hello.service")?;

    site.fleetctl("stop hello.service")?;
    site.wait_state("hello.service", "loaded inactive dead")?;
    ensure!(site.property("hello.service", "LoadState")? == "loaded");
    site.fleetctl("start --wait-active hello.service")?;
    site.fleetctl("unload hello.service")?;
    ensure!(file("unit,dstate,state")?.split_whitespace().eq([
        "hello.service",
        "inactive",
        "inactive"
    ]));
    site.wait_unknown("hello.service")?;
    site.fleetctl("start --wait-active hello.service")?;
    site.fleetctl("destroy hello.service")?;
    ensure!(file("unit")?.is_empty());
    site.wait_unknown("hello.service")?;
    ensure!(site.property("hello.service", "LoadState")? == "not-found");
    let left = site
        .m
        .ssh("ls /run/fleet/units /run/fleet/launched /run/systemd/system")?;
    ensure!(!left.contains("hello"), "{left}");
    // For the steps below.
    site.fleetctl("start --wait-active hello.service")?;
    Ok(())
}

/// `launched` is not `active`, and failed is neither.
fn ready_and_failed(site: &Site) -> Result<()> {
    site.write("notify.service", NOTIFY)?;
    site.fleetctl("start --no-block notify.service")?;
    site.wait_state("notify.service", "loaded activating start")?;
    let files = site.fleetctl("list-unit-files --no-legend --fields unit,state")?;
    ensure!(
        files
            .lines()
            .any(|l| l.split_whitespace().eq(["notify.service", "launched"])),
        "{files}"
    );
    site.m.ssh("touch /run/go")?;
    site.fleetctl("start --wait-active notify.service")?;
    ensure!(site.state("notify.service")? == "loaded active running");

    site.write("fails.service", FAILS)?;
    let said = site.fleetctl_fails("start --wait-active fails.service", 1)?;
    ensure!(said.contains("it is failed"), "{said}");
    ensure!(site.state("fails.service")? == "loaded failed failed");
    // systemctl's own status for what does not run.
    let said = site.fleetctl_fails("status fails.service", 3)?;
    ensure!(said.contains("status=3"), "{said}");
    site.fleetctl("destroy fails.service")?;
    site.wait_unknown("fails.service")
}

/// Instances take text and specifiers from their template; systemd enforces what the unit says, fleet counts it.
fn instances_and_limits(site: &Site) -> Result<()> {
    site.write("limited@.service", LIMITED)?;
    site.fleetctl("submit limited@.service")?;
    site.fleetctl("scale limited@ 2 --wait-active")?;
    for n in ["1", "2"] {
        let unit = format!("limited@{n}.service");
        ensure!(site.property(&unit, "Description")? == format!("Instance {n} of limited"));
        let cgroup = site.property(&unit, "ControlGroup")?;
        let limits = site.m.ssh(&format!(
            "cd /sys/fs/cgroup{cgroup} && cat memory.max cpu.max"
        ))?;
        ensure!(
            limits == "67108864\n20000 100000\n",
            "{unit} at {cgroup}: {limits}"
        );
    }
    let reserved = site.fleetctl("list-machines --no-legend --fields memory,cpus")?;
    ensure!(
        reserved.contains("128M/") && reserved.contains("0.4/1"),
        "{reserved}"
    );
    site.fleetctl("scale limited@ 1")?;
    site.wait_unknown("limited@2.service")?;
    Ok(())
}

/// Results of batch units, and a run that is cut short.
fn jobs(site: &Site) -> Result<()> {
    site.write("good.service", &job("/bin/sh -c 'echo done'", ""))?;
    site.write("bad.service", &job("/bin/sh -c 'exit 7'", ""))?;
    site.write("again.service", &job("/bin/sh -c 'exit 8'", "Retries=2\n"))?;
    site.write("long.service", &job("/bin/sleep 1000000", ""))?;
    site.fleetctl("start --no-block good.service bad.service again.service long.service")?;
    let said = site.fleetctl("result --wait good.service")?;
    ensure!(
        said.contains("success: exit status 0 after 1 attempt"),
        "{said}"
    );
    let said = site.fleetctl_fails("result --wait bad.service", 1)?;
    ensure!(
        said.contains("exit status 7 after 1 attempt"),
        "no result of the failure: {said}"
    );
    site.m.ssh(&format!(
        "cd /home/{USER} && install -d -o {USER} -g {USER} open shut"
    ))?;
    site.write("user.service", &job_of_user())?;
    site.fleetctl("start --no-block user.service")?;
    let said = site.fleetctl("result --wait user.service")?;
    ensure!(
        said.contains("success: exit status 0 after 1 attempt"),
        "as a user, read-only: {said}"
    );
    let who = site.m.ssh(&format!(
        "cd /home/{USER} && cat open/who && stat -c %U open/who && ls -A shut"
    ))?;
    ensure!(who == format!("{USER}\n{USER}\n"), "{who}");
    // There is no other machine to try it on, and it says that it waits for one.
    site.wait("again.service to wait", || {
        let why = site.fleetctl("explain again.service")?;
        Ok(why.contains("has failed there").then_some(()))
    })?;
    // Done, kept, and no longer in systemd's memory.
    site.wait_unknown("good.service bad.service user.service again.service")?;
    site.wait_state("long.service", "loaded activating start")?;
    // Started anew while it runs: still one reference, which the end gives back.
    site.fleetctl("restart long.service --no-block")?;
    site.wait_state("long.service", "loaded activating start")?;
    let all = "good.service bad.service user.service again.service long.service";
    site.fleetctl(&format!("destroy {all}"))?;
    site.wait_unknown(all)
}

const RUNNING: [&str; 4] = [
    "hello.service",
    "limited@1.service",
    "notify.service",
    "once.service",
];

/// Main process and start of each, by systemd: what a daemon that adopts does not change.
fn processes(site: &Site) -> Result<String> {
    site.m.ssh(&format!(
        "systemctl show -p Id -p MainPID -p ActiveState -p ActiveEnterTimestampMonotonic {}",
        RUNNING.join(" ")
    ))
}

/// Waits until fleet shows all of them as running, and they are still the same processes.
fn same(site: &Site, before: &str, after: &str) -> Result<()> {
    for unit in RUNNING {
        site.wait_state(unit, "loaded active running")?;
    }
    let now = processes(site)?;
    ensure!(
        now == before,
        "after {after}:\n{now}\nthey were\n\n{before}"
    );
    Ok(())
}

/// A daemon that is restarted, killed, or told to read its configuration bounces nothing; nor does systemd's reload.
fn adopted(site: &Site) -> Result<()> {
    site.write("once.service", ONCE)?;
    site.fleetctl("start --wait-active once.service")?;
    ensure!(site.property("fleet-guard.service", "ActiveState")? == "active");
    let before = processes(site)?;
    let daemon = || site.property("fleet.service", "MainPID");
    let first = daemon()?;
    site.m.ssh("systemctl restart fleet")?;
    same(site, &before, "systemctl restart fleet")?;
    let second = daemon()?;
    ensure!(first != second);
    // The rule for a daemon that is dead: back before its units must stop.
    site.m.ssh(&format!("kill -9 {second}"))?;
    site.wait("the next daemon", || {
        let now = daemon()?;
        let up = site.property("fleet.service", "ActiveState")? == "active";
        Ok((up && now != second && now != "0").then_some(()))
    })?;
    same(site, &before, "kill -9 of fleetd")?;
    site.m.ssh("systemctl reload fleet")?;
    site.m.ssh("systemctl daemon-reload")?;
    same(site, &before, "reloads")
}

/// `Partition=stop`: without a lease the unit stops in time, whoever is to blame, and comes back with the lease. The
/// others run on.
fn no_lease(site: &Site) -> Result<()> {
    // The daemon hangs: the guard acts. The clock is the one that the journal's stamps are of.
    let cut = "cut -d' ' -f1 /proc/uptime; systemctl kill -s STOP --kill-whom=main fleet";
    stopped_in_time(site, cut)?;
    let guard = site
        .m
        .ssh("journalctl --no-pager -u fleet-guard | tail -n 20")?;
    ensure!(
        guard.contains("once.service must not run while the lease is not renewed"),
        "{guard}"
    );
    site.m
        .ssh("systemctl kill -s CONT --kill-whom=main fleet")?;
    for unit in RUNNING {
        site.wait_state(unit, "loaded active running")?;
    }
    // etcd hangs: daemon and guard act.
    let cut = "cut -d' ' -f1 /proc/uptime; systemctl kill -s STOP --kill-whom=main etcd";
    stopped_in_time(site, cut)?;
    site.m.ssh("systemctl kill -s CONT --kill-whom=main etcd")?;
    for unit in RUNNING {
        site.wait_state(unit, "loaded active running")?;
    }
    Ok(())
}

fn stopped_in_time(site: &Site, cut: &str) -> Result<()> {
    let others = |all: &str| {
        all.split("\n\n")
            .filter(|unit| !unit.contains("Id=once.service"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let before = others(&processes(site)?);
    let from: f64 = site.m.ssh(cut)?.trim().parse()?;
    // Not its property: systemd forgets what is down.
    let stopped = site.wait("once.service to be stopped", || {
        let log = site
            .m
            .ssh("journalctl --no-pager -o short-monotonic -u once.service")?;
        let line = log.lines().rfind(|line| line.contains("Stopped"));
        let stamp = line.and_then(|l| l.trim_start_matches(['[', ' ']).split(']').next());
        let stamp = stamp.and_then(|s| s.parse::<f64>().ok());
        Ok(stamp.filter(|at| *at > from))
    })?;
    let took = stopped - from;
    eprintln!("once.service stopped {took:.1} s after the cut; the lease lasts {TTL} s");
    // The lease was renewed before the cut, if only just.
    ensure!(took <= TTL, "it outlived its lease");
    let after = others(&processes(site)?);
    ensure!(before == after, "others did not run on: {after}");
    Ok(())
}

/// `systemctl stop fleet` takes everything along; a start brings everything back.
fn leaving(site: &Site) -> Result<()> {
    let presence = || {
        site.m
            .ssh("ETCDCTL_API=3 etcdctl get --prefix --keys-only /_coreos.com/fleet/v3/presence/")
    };
    let id = site.m.ssh("cat /etc/machine-id")?;
    ensure!(presence()?.contains(id.trim()));
    site.m.ssh("systemctl stop fleet.service")?;
    ensure!(presence()?.trim().is_empty(), "the machine has not left");
    let all = format!("{} fleet-guard.service", RUNNING.join(" "));
    let known = site.known(&all)?;
    ensure!(
        known.lines().all(|l| l.starts_with("fleet-guard.service")),
        "units that fleet left behind: {known}"
    );
    ensure!(site.property("fleet-guard.service", "ActiveState")? == "inactive");
    site.m.ssh("systemctl start fleet.service")?;
    for unit in RUNNING {
        site.wait_state(unit, "loaded active running")?;
    }
    Ok(())
}

fn log(site: &Site) -> Result<()> {
    let log = site.m.ssh("journalctl --no-pager -u fleet")?;
    // The second: what it says of lines that it does not understand.
    for word in ["panicked", "/etc/fleet/fleet.conf:"] {
        ensure!(!log.contains(word), "{log}");
    }
    let failed = site
        .m
        .ssh("systemctl --failed --plain --no-legend --no-pager")?;
    ensure!(
        // The peer has no ldconfig.
        failed.lines().all(|l| l.starts_with("ldconfig.service")),
        "{failed}"
    );
    Ok(())
}

#[test]
fn the_document_is_read() {
    let paths: Vec<&str> = files().iter().map(|(path, _)| *path).collect();
    assert_eq!(
        paths,
        [
            "/etc/systemd/system/fleet.socket",
            "/etc/systemd/system/fleet.service",
            "/etc/fleet/fleet.conf"
        ]
    );
    assert!(files()[0].1.starts_with("[Unit]\n"));
    assert!(files()[1].1.ends_with("WantedBy=multi-user.target\n"));
    let first: Vec<bool> = commands().map(|(root, _)| root).collect();
    assert_eq!(first.iter().filter(|root| !**root).count(), 1);
}
