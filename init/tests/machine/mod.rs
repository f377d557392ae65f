//! The built `init` as process 1 of namespaces of its own: pid, mount, UTS, IPC, network and cgroup. Needs root, cgroup v2
//! somewhere, `unshare` and the programs of a small Debian; the machine around it is not touched.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use init_control::frame::{self, Assembler};
use init_control::{
    ClientFrame, ControlError, JobMode, Reply, Request, ServerFrame, UnitSnapshot, Verb,
};
use rustix::fs::{CWD, FileType, Mode};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Everything is there within this time, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(60);

/// Puts the root together and becomes process 1 in it. `$1` is the directory of the test.
const SET_UP: &str = r#"
set -e
R=$1/root; mkdir -p $R; mount -t tmpfs none $R; cd $R
mkdir -p usr/bin usr/sbin usr/lib/flotilla usr/lib/systemd usr/lib64 etc var run proc sys dev root tmp home
ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; ln -s usr/sbin sbin
mount --bind /usr/bin usr/bin; mount --bind /lib64 usr/lib64
for d in /usr/lib/*-linux-gnu; do mkdir -p .$d; mount --bind $d .$d; done
cp $1/init usr/lib/flotilla/init
mkdir usr/lib/systemd/system; cp -a $1/units/. usr/lib/systemd/system/
mount -t tmpfs none dev; mkdir dev/pts dev/shm
for d in null zero urandom random full tty; do : > dev/$d; mount --bind /dev/$d dev/$d; done
: > dev/kmsg; mount --bind $1/kmsg dev/kmsg; : > dev/console
mount -t proc proc proc; echo quiet > tmp/cmdline; mount --bind tmp/cmdline proc/cmdline
echo 0123456789abcdef0123456789abcdef > etc/machine-id; echo root:x:0:0::/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group
mkdir old; pivot_root . old; cd /; umount -l /old
exec /usr/lib/flotilla/init
"#;

/// A running machine; it ends with the test.
pub struct Machine {
    unshare: Child,
    /// Process 1, as the test sees it.
    pub pid: u32,
    log: Arc<Mutex<String>>,
    group: PathBuf,
    directory: tempfile::TempDir,
}

impl Machine {
    /// Boots these unit files, given as (name, text), with what every machine has.
    pub fn boot(units: &[(&str, &[u8])]) -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::copy(env!("CARGO_BIN_EXE_init"), at("init")).unwrap();
        fs::create_dir(at("units")).unwrap();
        let target = b"[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n";
        for name in ["sysinit", "basic", "shutdown", "umount"] {
            fs::write(at("units").join(format!("{name}.target")), target).unwrap();
        }
        for (name, text) in units {
            let path = at("units").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        rustix::fs::mknodat(CWD, at("kmsg"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Both ends: process 1 closes and opens its own at will.
        let mut pipe = fs::File::options()
            .read(true)
            .write(true)
            .open(at("kmsg"))
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let writer = log.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count) = pipe.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..count]);
                writer.lock().unwrap().push_str(&text);
            }
        });
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = cgroup_mount().join(format!("flotilla-init-{}-{number}", std::process::id()));
        fs::create_dir(&group).expect("a cgroup v2 hierarchy that root may write");
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup \
             sh -c '{SET_UP}' sh {}",
            group.display(),
            directory.path().display()
        );
        let unshare = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut machine = Machine {
            pid: 0,
            unshare,
            log,
            group,
            directory,
        };
        let children = format!("/proc/{0}/task/{0}/children", machine.unshare.id());
        machine.eventually("process 1 is there", |m| {
            let text = fs::read_to_string(&children).unwrap_or_default();
            m.pid = text.trim().parse().unwrap_or(0);
            m.pid != 0 && m.file("run/flotilla/init.sock").exists()
        });
        machine
    }

    /// A file as process 1 sees it.
    pub fn file(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(path)
    }

    /// What process 1 has said.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until something holds; fails with what process 1 said.
    #[track_caller]
    pub fn eventually(&mut self, what: &str, mut holds: impl FnMut(&mut Machine) -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            if let Some(status) = self.unshare.try_wait().unwrap() {
                panic!("process 1 ended ({status}) before: {what}\n{}", self.log());
            }
            assert!(Instant::now() < end, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends process 1 a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGRTMIN + `number`.
    pub fn realtime_signal(&self, number: i32) {
        let signal = (syscalls::signal::RTMIN + number).to_string();
        let pid = self.pid.to_string();
        let status = Command::new("kill").args(["-s", &signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// How process 1 ended: the signal that the kernel makes of a restart or power-off.
    pub fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.unshare.try_wait().unwrap() {
                return status.signal().or(status.code().map(|c| c - 128));
            }
            assert!(Instant::now() < end, "it goes on\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let path = self.file("run/flotilla/init.sock");
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok()?;
        Some(socket)
    }

    /// Sends a request and does not wait for its answer.
    pub fn tell(&self, request: Request) -> OwnedFd {
        let socket = self.connect().expect("the control socket is always bound");
        for packet in frame::encode(&ClientFrame { id: 1, request }).unwrap() {
            rustix::net::send(&socket, &packet, SendFlags::empty()).unwrap();
        }
        socket
    }

    /// The answer to a request; none where process 1 was exchanged meanwhile.
    pub fn ask(&self, request: Request) -> Option<Result<Reply, ControlError>> {
        let socket = self.tell(request);
        let mut buffer = vec![0; frame::MAX_PACKET];
        let mut assembler = Assembler::new();
        loop {
            let (count, _) =
                rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).ok()?;
            if count == 0 {
                return None;
            }
            if let Some(ServerFrame::Reply { result, .. }) =
                assembler.push(&buffer[..count]).unwrap()
            {
                return Some(result);
            }
        }
    }

    /// A unit as process 1 has it.
    pub fn unit(&self, name: &str) -> Option<UnitSnapshot> {
        let name = name.to_owned();
        match self.ask(Request::UnitSnapshot { name })? {
            Ok(Reply::Unit(unit)) => Some(*unit),
            other => panic!("{other:?}"),
        }
    }

    /// Its state.
    pub fn state(&self, unit: &str) -> String {
        let state = |u: UnitSnapshot| format!("{}/{}", u.active, u.sub);
        self.unit(unit).map(state).unwrap_or_default()
    }

    /// The main process of a service that runs, by its number in there.
    pub fn main_pid(&self, service: &str) -> u32 {
        match self.unit(service).map(|u| u.kind) {
            Some(init_control::TypeSnapshot::Service(s)) => s.main_pid,
            _ => 0,
        }
    }

    /// Queues a job.
    pub fn job(&self, verb: Verb, name: &str) -> Option<Result<Reply, ControlError>> {
        self.ask(Request::StartUnit {
            name: name.to_owned(),
            verb,
            mode: JobMode::Replace,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        remove_groups(&self.group);
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // The last processes may still be on their way out.
    let end = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(group).is_err() && group.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cgroup_mount() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|w| w.get(2) == Some(&"cgroup2"))
        .map(|w| PathBuf::from(w[1]))
        .expect("cgroup v2 is mounted")
}
