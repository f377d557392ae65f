//! `up`, `down`, `ssh`, `console`: a virtual cluster in build/NAME, `cluster` unless said otherwise.
//!
//! The cluster's processes outlive `up`; their pids and start times are in `state.json`, and `down` ends exactly those.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use qemu_tests::machine::{self, Firmware, Machine, MachineSpec};
use qemu_tests::process::{port_holder, wait_for};
use qemu_tests::registry::Registry;
use qemu_tests::seed::Seed;
use qemu_tests::{Segment, accel, examples, image::Image};
use serde::{Deserialize, Serialize};

use crate::{image, setup};

/// A cluster's directory: state, logs, sockets, disks, lock.
#[derive(Debug, Clone, Args)]
pub struct Name {
    /// Name of the cluster: its files are in build/NAME.
    #[arg(long = "cluster", value_name = "NAME", default_value = "cluster", value_parser = cluster_name)]
    name: String,
}

impl Name {
    fn dir(&self) -> PathBuf {
        Path::new("build").join(&self.name)
    }

    /// What a command to paste needs to reach this cluster.
    fn flag(&self) -> String {
        if self.name == "cluster" {
            String::new()
        } else {
            format!(" --cluster {}", self.name)
        }
    }
}

/// A short file name: unix sockets below it must stay under 108 bytes.
fn cluster_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 20 || !text.chars().all(plain) {
        return Err("1 to 20 letters, digits and dashes".into());
    }
    if ["cache", "image", "image-again"].contains(&text) {
        return Err(format!("build/{text} holds something else"));
    }
    Ok(text.into())
}

/// Options of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    cluster: Name,
    /// Number of machines (1 to 9).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    machines: u8,
    /// Memory of each, in MiB.
    #[arg(long, default_value_t = 768)]
    memory: u32,
    /// User data for every machine, in place of the built-in etcd + fleet + flannel one.
    #[arg(long)]
    cloud_config: Option<PathBuf>,
    /// Further port of a machine on this host: HOSTPORT:MACHINE:PORT (repeatable).
    #[arg(long, value_name = "HOST:N:PORT")]
    forward: Vec<String>,
    /// First host port: ssh of machine N is BASE+N, its port 80 is BASE+80+N.
    #[arg(long, default_value_t = 2200)]
    port_base: u16,
    /// Boot through SeaBIOS and GRUB.
    #[arg(long, conflicts_with = "uefi")]
    bios: bool,
    /// Boot through OVMF and GRUB.
    #[arg(long)]
    uefi: bool,
    /// Debian mirror to use in place of the host's own.
    #[arg(long)]
    mirror: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    port_base: u16,
    machines: u8,
    processes: Vec<Recorded>,
}

/// A process, told from a later one of the same pid by its start time.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    what: String,
    pid: u32,
    start: u64,
}

/// Builds the image and starts the cluster.
pub fn up(args: &UpArgs) -> Result<()> {
    setup::install(setup::UP)?;
    let forwards = args
        .forward
        .iter()
        .map(|f| parse_forward(f, args.machines))
        .collect::<Result<Vec<_>>>()?;
    let user_data = args
        .cloud_config
        .as_ref()
        .map(|p| fs::read_to_string(p).with_context(|| format!("cannot read {}", p.display())))
        .transpose()?;
    let dir = args.cluster.dir();
    let down = format!("cargo xtask down{}", args.cluster.flag());
    fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let _lock = lock(&dir)?;
    if let Some(state) = load(&dir)? {
        if state.processes.iter().any(alive) {
            bail!("a cluster is up already; `{down}` ends it");
        }
        forget(&dir)?;
    }
    ports_free(args)?;
    say("building programs and image");
    image::build(args.mirror.as_deref(), false)?;
    let image = Image::at(Path::new("build/image"))?;
    let accel = accel::probe(&image.file("vmlinuz"), Path::new("build/cache"))?;
    say(&format!(
        "starting {} {} under {}",
        args.machines,
        if args.machines == 1 {
            "machine"
        } else {
            "machines"
        },
        if accel == accel::Accel::Kvm {
            "KVM"
        } else {
            "emulation (KVM does not boot a guest here)"
        }
    ));

    let mut state = State {
        port_base: args.port_base,
        machines: args.machines,
        processes: Vec::new(),
    };
    let result = bring_up(
        args,
        &image,
        accel,
        &dir,
        user_data.as_deref(),
        &forwards,
        &mut state,
    );
    save(&dir, &state)?;
    if result.is_err() {
        eprintln!(
            "xtask: the machines stay up for a look (`cargo xtask console{} N`, {}); `{down}` ends them",
            args.cluster.flag(),
            dir.display()
        );
    }
    result
}

fn bring_up(
    args: &UpArgs,
    image: &Image,
    accel: accel::Accel,
    dir: &Path,
    user_data: Option<&str>,
    forwards: &[(u16, u8, u16)],
    state: &mut State,
) -> Result<()> {
    let (key, public) = machine::ssh_key(dir)?;
    let registry = Registry::start(&dir.join("registry"), 5000, true)?;
    state.record("registry", registry.pid());
    registry.publish_web("web", &image::static_dir().join("web"), &[8080])?;
    let lan = Segment::start(dir, true)?;
    for pid in lan.pids() {
        state.record("lan", pid);
    }
    save(dir, state)?;
    let firmware = if args.bios {
        Firmware::Bios
    } else if args.uefi {
        Firmware::Uefi
    } else {
        Firmware::Direct
    };
    let started = Instant::now();
    let mut machines = Vec::new();
    for n in 1..=args.machines {
        let mut spec = MachineSpec::new(n, args.port_base + u16::from(n));
        spec.memory = args.memory;
        spec.firmware = firmware;
        spec.seed = Some(Seed {
            meta_data: format!("instance-id: up-{n}\nlocal-hostname: node{n}\n"),
            user_data: user_data
                .map_or_else(|| examples::etcd_member(n, args.machines), str::to_string),
            vendor_data: examples::vendor_data(&public, 5000),
            network_config: Some(spec.static_network()),
        });
        lan.forward(spec.ssh_port, &spec.address, 22)?;
        lan.forward(args.port_base + 80 + u16::from(n), &spec.address, 80)?;
        let m = Machine::start(spec, image, accel, dir, &lan.switch(), &key, true)?;
        state.record(&m.spec.name, m.pid().unwrap_or(0));
        machines.push(m);
        save(dir, state)?;
    }
    for (host, n, port) in forwards {
        lan.forward(*host, &machines[usize::from(*n - 1)].spec.address, *port)?;
    }
    for m in &mut machines {
        m.wait_ssh(Duration::from_secs(240))?;
        say(&format!(
            "{} answers ssh after {} s",
            m.spec.name,
            started.elapsed().as_secs()
        ));
    }
    if user_data.is_none() {
        run_web(args, &machines)?;
    }
    next_steps(args, user_data.is_none());
    Ok(())
}

/// A container on each machine, through fleet, reached from this host.
fn run_web(args: &UpArgs, machines: &[Machine]) -> Result<()> {
    let first = &machines[0];
    let want = usize::from(args.machines);
    say("waiting for etcd and fleet");
    first.wait_until(
        "all machines in fleet",
        Duration::from_secs(300),
        &format!("test $(fleetctl list-machines --no-legend | wc -l) -eq {want}"),
    )?;
    println!("{}", first.ssh("fleetctl list-machines")?);
    first.upload("web@.service", examples::WEB.as_bytes())?;
    let units: Vec<String> = (1..=want).map(|n| format!("web@{n}")).collect();
    first.ssh(&format!(
        "fleetctl submit web@.service && fleetctl start --no-block {}",
        units.join(" ")
    ))?;
    for n in 1..=args.machines {
        let port = args.port_base + 80 + u16::from(n);
        let body = wait_for(
            &format!("the web container of node{n}"),
            Duration::from_secs(300),
            || Ok(qemu_tests::world::http_get(port).ok()),
        )?;
        say(&format!(
            "http://127.0.0.1:{port}/ answers: {}",
            body.trim()
        ));
    }
    println!("\n{}", first.ssh("fleetctl list-units")?);
    Ok(())
}

fn next_steps(args: &UpArgs, web: bool) {
    let base = args.port_base;
    let flag = args.cluster.flag();
    println!("The cluster is up. Next:");
    let say = |command: String, what: &str| println!("  {command:<56} {what}");
    let xtask = |verb: &str, rest: &str| format!("cargo xtask {verb}{flag}{rest}");
    say(xtask("ssh", " 1"), "a shell on node1 (user core)");
    say(
        xtask("ssh", " 1 -- fleetctl list-machines"),
        "the cluster's machines",
    );
    if web {
        say(
            xtask("ssh", " 1 -- fleetctl list-units"),
            "where the web containers run",
        );
        say(xtask("ssh", " 1 -- docker ps"), "node1's container");
        say(
            format!("curl http://127.0.0.1:{}/", base + 81),
            "the container on node1",
        );
    }
    say(xtask("console", " 1"), "its serial console");
    say(xtask("down", ""), "end all of it");
}

/// Ends the recorded processes.
pub fn down(cluster: &Name) -> Result<()> {
    let dir = cluster.dir();
    if !dir.exists() {
        println!("no cluster is up");
        return Ok(());
    }
    let _lock = lock(&dir)?;
    let Some(state) = load(&dir)? else {
        println!("no cluster is up");
        return Ok(());
    };
    let mut ended = 0;
    for p in state.processes.iter().rev().filter(|p| alive(p)) {
        if let Some(pid) = i32::try_from(p.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            if wait_for(&p.what, Duration::from_secs(3), || {
                Ok((!alive(p)).then_some(()))
            })
            .is_err()
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            ended += 1;
        }
    }
    wait_for("the processes to end", Duration::from_secs(10), || {
        Ok((!state.processes.iter().any(alive)).then_some(()))
    })?;
    forget(&dir)?;
    println!("ended {ended} processes");
    Ok(())
}

/// A command, or a shell, on machine `n`.
pub fn ssh(cluster: &Name, n: u8, command: &[String]) -> Result<ExitCode> {
    let dir = cluster.dir();
    let state = running(&dir, n)?;
    let mut c = machine::ssh_command(&dir.join("id_ed25519"), state.port_base + u16::from(n));
    if command.is_empty() {
        c.arg("-t");
    } else {
        c.arg("--").args(command.iter().map(|a| quote(a)));
    }
    let status = c.status().context("cannot run ssh")?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(255)).unwrap_or(255),
    ))
}

/// One word for the remote shell, unless it needs no quotes.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The serial console of machine `n`.
pub fn console(cluster: &Name, n: u8) -> Result<ExitCode> {
    let dir = cluster.dir();
    running(&dir, n)?;
    let mut socket = UnixStream::connect(dir.join(format!("node{n}/console.sock")))
        .context("the machine has no console; is it running?")?;
    eprintln!("console of node{n}; ctrl-] ends");
    let raw = rustix::termios::tcgetattr(io::stdin()).ok();
    if let Some(t) = &raw {
        let mut r = t.clone();
        r.make_raw();
        rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &r)?;
    }
    let mut from = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            let _ = io::stdout()
                .write_all(&buf[..n])
                .and_then(|()| io::stdout().flush());
        }
    });
    let mut buf = [0; 256];
    while let Ok(n @ 1..) = io::stdin().read(&mut buf) {
        if buf[..n].contains(&0x1d) || socket.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    if let Some(t) = raw {
        rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &t)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl State {
    fn record(&mut self, what: &str, pid: u32) {
        self.processes.push(Recorded {
            what: what.into(),
            pid,
            start: start_time(pid).unwrap_or(0),
        });
    }
}

/// Field 22 of /proc/PID/stat: start time in ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &stat[stat.rfind(')')? + 2..];
    if rest.starts_with('Z') {
        return None;
    }
    rest.split(' ').nth(19)?.parse().ok()
}

fn alive(p: &Recorded) -> bool {
    p.pid != 0 && start_time(p.pid) == Some(p.start)
}

fn lock(dir: &Path) -> Result<File> {
    let f = File::create(dir.join("lock"))?;
    rustix::fs::flock(&f, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("another `cargo xtask up` or `down` is at work")?;
    Ok(f)
}

fn load(dir: &Path) -> Result<Option<State>> {
    let file = dir.join("state.json");
    match fs::read(&file) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged; remove {}", file.display(), dir.display())
        })?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The state of a cluster that has a machine `n`.
fn running(dir: &Path, n: u8) -> Result<State> {
    let state = load(dir)?.context("no cluster is up; `cargo xtask up` starts one")?;
    if n == 0 || n > state.machines {
        bail!("there is no machine {n}; there are 1 to {}", state.machines);
    }
    Ok(state)
}

fn save(dir: &Path, state: &State) -> Result<()> {
    let tmp = dir.join("state.new");
    fs::write(&tmp, serde_json::to_vec_pretty(state)?)?;
    fs::rename(tmp, dir.join("state.json"))?;
    Ok(())
}

/// Removes the machines' files; the ssh key and the lock stay.
fn forget(dir: &Path) -> Result<()> {
    for e in fs::read_dir(dir)?.flatten() {
        let name = e.file_name();
        if name == "lock" || name.to_string_lossy().starts_with("id_ed25519") {
            continue;
        }
        let p = e.path();
        if e.file_type()?.is_dir() {
            fs::remove_dir_all(p)?;
        } else {
            fs::remove_file(p)?;
        }
    }
    Ok(())
}

fn ports_free(args: &UpArgs) -> Result<()> {
    for n in 1..=u16::from(args.machines) {
        for port in [args.port_base + n, args.port_base + 80 + n] {
            if TcpListener::bind(("127.0.0.1", port)).is_err() {
                bail!(
                    "port {port} of this host is taken{}; choose others with --port-base",
                    port_holder(port)
                );
            }
        }
    }
    Ok(())
}

fn parse_forward(text: &str, machines: u8) -> Result<(u16, u8, u16)> {
    let parts: Vec<&str> = text.split(':').collect();
    if let [h, n, p] = parts[..]
        && let (Ok(h), Ok(n), Ok(p)) = (h.parse(), n.parse(), p.parse())
        && (1..=machines).contains(&n)
    {
        return Ok((h, n, p));
    }
    bail!("--forward wants HOSTPORT:MACHINE:PORT with a machine from 1 to {machines}, not {text}")
}

fn say(text: &str) {
    eprintln!("xtask: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_checked() {
        assert_eq!(
            parse_forward("9200:2:9200", 3).expect("good"),
            (9200, 2, 9200)
        );
        for bad in ["9200", "1:4:2", "x:1:1", "1:0:1"] {
            assert!(parse_forward(bad, 3).is_err(), "{bad}");
        }
    }

    #[test]
    fn remote_words_survive_the_shell() {
        assert_eq!(quote("web@1.service"), "web@1.service");
        assert_eq!(quote("a b'c"), r"'a b'\''c'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn a_reused_pid_is_not_our_process() {
        let me = Recorded {
            what: "me".into(),
            pid: std::process::id(),
            start: start_time(std::process::id()).expect("own stat"),
        };
        assert!(alive(&me));
        assert!(!alive(&Recorded {
            start: me.start + 1,
            ..me
        }));
    }
}
