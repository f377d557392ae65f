//! journald as the service manager runs it: sockets passed, descriptors kept in a store, killed and restarted. The logs are
//! read with Debian's journalctl. Needs root (mount namespace) and the package systemd.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const HEADER: &str = "web\nweb@1.service\n30\n1\n0\n0\n0\n";
/// Descriptors without close-on-exec exist only while this is held, so that no other test's child gets them.
static SPAWN: Mutex<()> = Mutex::new(());

/// The manager's part.
struct Manager {
    dir: tempfile::TempDir,
    native: OwnedFd,
    syslog: OwnedFd,
    stdout: OwnedFd,
    notify: UnixDatagram,
    store: Vec<(String, OwnedFd)>,
    journald: Option<Child>,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("journald-")
            .tempdir_in("/var/tmp")
            .expect("temp dir");
        let sockets = dir.path().join("run/systemd/journal");
        fs::create_dir_all(&sockets).expect("mkdir");
        fs::create_dir(dir.path().join("log")).expect("mkdir");
        let datagram = |name: &str| {
            let socket = UnixDatagram::bind(sockets.join(name)).expect("bind");
            fs::set_permissions(sockets.join(name), fs::Permissions::from_mode(0o666))
                .expect("chmod");
            socket.into()
        };
        let notify = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
        rustix::net::sockopt::set_socket_passcred(&notify, true).expect("passcred");
        let native = datagram("socket");
        let syslog = datagram("dev-log");
        let stdout = UnixListener::bind(sockets.join("stdout"))
            .expect("bind")
            .into();
        Self {
            dir,
            native,
            syslog,
            stdout,
            notify,
            store: Vec::new(),
            journald: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts journald in a mount namespace where /run and /var/log are ours, and waits until it is ready.
    fn start(&mut self) {
        let guard = SPAWN.lock().expect("no test has panicked while spawning");
        let passed: Vec<OwnedFd> = [&self.stdout, &self.native, &self.syslog]
            .into_iter()
            .chain(self.store.iter().map(|(_, fd)| fd))
            // Numbers that the moves to 3, 4, … cannot hit.
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 100).expect("dup"))
            .collect();
        let mut script = format!(
            "mount --make-rprivate / && mount --bind {0}/run /run && mount --bind {0}/log /var/log && exec",
            self.dir.path().display()
        );
        for (at, fd) in passed.iter().enumerate() {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("inherit");
            let number = fd.as_raw_fd();
            script += &format!(" {}<&{number} {number}<&-", 3 + at);
        }
        script += &format!(
            "; export LISTEN_FDS={} LISTEN_PID=$$ NOTIFY_SOCKET={}; exec {}",
            passed.len(),
            self.path("notify").display(),
            env!("CARGO_BIN_EXE_journald")
        );
        let child = Command::new("unshare")
            .args(["-m", "bash", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare and bash");
        drop(passed);
        drop(guard);
        self.journald = Some(child);
        self.wait_for(|text| text.contains("READY=1"));
    }

    /// Handles notifications until one satisfies the condition.
    fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut buffer = [0; 4096];
            match syscalls::socket::receive(&self.notify, &mut buffer) {
                Ok(message) => {
                    let text = String::from_utf8_lossy(&buffer[..message.len]).into_owned();
                    let name = text
                        .lines()
                        .find_map(|l| l.strip_prefix("FDNAME="))
                        .unwrap_or_default();
                    if text.contains("FDSTOREREMOVE=1") {
                        self.store.retain(|(stored, _)| stored != name);
                    } else if text.contains("FDSTORE=1") {
                        self.store
                            .extend(message.fds.into_iter().map(|fd| (name.to_owned(), fd)));
                    }
                    if wanted(&text) {
                        return;
                    }
                }
                Err(_) => {
                    assert!(Instant::now() < deadline, "no such notification");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn signal(&self, signal: i32) {
        let pid = self.journald.as_ref().expect("running").id();
        syscalls::signal::kill(pid as i32, signal).expect("kill");
    }

    fn stop(&mut self, signal: i32) -> std::process::ExitStatus {
        self.signal(signal);
        self.journald.take().expect("running").wait().expect("wait")
    }

    fn send(&self, socket: &str, data: &[u8]) {
        let to = self.path("run/systemd/journal").join(socket);
        UnixDatagram::unbound()
            .expect("socket")
            .send_to(data, to)
            .expect("sent");
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("run/systemd/journal/stdout")).expect("connect")
    }

    /// Debian's journalctl inside journald's namespace.
    fn journalctl(&self, args: &[&str]) -> String {
        let pid = self.journald.as_ref().expect("running").id().to_string();
        let output = Command::new("nsenter")
            .args(["-t", &pid, "-m", "/usr/bin/journalctl", "-q", "--no-pager"])
            .args(args)
            .output()
            .expect("nsenter");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "journalctl {args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the matching messages are these.
    #[track_caller]
    fn expect(&self, args: &[&str], want: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = self.journalctl(&[args, &["-o", "cat"]].concat());
            let got: Vec<&str> = text.lines().collect();
            if got == want {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{args:?}: got {got:#?}, not {want:#?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut journald) = self.journald.take() {
            let _ = journald.kill();
            let _ = journald.wait();
        }
    }
}

fn machine_dir(base: &Path) -> PathBuf {
    let id = fs::read_to_string("/etc/machine-id").expect("machine-id");
    base.join(id.trim())
}

#[test]
fn every_kind_of_input_is_stored_with_trusted_fields() {
    let mut manager = Manager::new();
    manager.start();
    manager.send(
        "socket",
        b"MESSAGE=native\nPRIORITY=4\nKIND=a\n_PID=1\nBLOB\n\x03\0\0\0\0\0\0\0a\nb\n",
    );
    manager.send("dev-log", b"<11>Jan  2 15:04:05 su[42]: by syslog\n");
    let mut stream = manager.connect();
    write!(stream, "{HEADER}<3>bad\nplain\n\nlast without end").expect("write");
    manager.expect(&["KIND=a"], &["native"]);
    manager.expect(&["_TRANSPORT=syslog"], &["by syslog"]);
    manager.expect(&["_TRANSPORT=stdout"], &["bad", "plain"]);
    drop(stream);
    manager.expect(
        &["_TRANSPORT=stdout", "_LINE_BREAK=eof"],
        &["last without end"],
    );
    manager.expect(&["-p", "err", "_TRANSPORT=stdout"], &["bad"]);
    manager.expect(
        &["SYSLOG_PID=42", "SYSLOG_FACILITY=1", "PRIORITY=3"],
        &["by syslog"],
    );

    let own = std::process::id();
    let json = manager.journalctl(&["-o", "json", "KIND=a"]);
    for want in [
        format!("\"_PID\":\"{own}\""),
        "\"_UID\":\"0\"".to_owned(),
        "\"_COMM\":\"".to_owned(),
        "\"_EXE\":\"/".to_owned(),
        "\"_CMDLINE\":".to_owned(),
        "\"_CAP_EFFECTIVE\":".to_owned(),
        "\"_SYSTEMD_CGROUP\":\"/".to_owned(),
        "\"_HOSTNAME\":".to_owned(),
        "\"_BOOT_ID\":".to_owned(),
        "\"_MACHINE_ID\":".to_owned(),
        "\"_TRANSPORT\":\"journal\"".to_owned(),
        "\"_SOURCE_REALTIME_TIMESTAMP\":".to_owned(),
        "\"BLOB\":\"a\\nb\"".to_owned(),
    ] {
        assert!(json.contains(&want), "{want} in {json}");
    }
    assert!(
        !json.contains("\"_PID\":\"1\""),
        "a sender cannot forge a trusted field: {json}"
    );
}

#[test]
fn a_large_entry_arrives_as_a_memory_file_and_as_a_large_datagram() {
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::os::fd::AsFd as _;
    let mut manager = Manager::new();
    manager.start();
    let big = "x".repeat(300_000);
    let memfd = rustix::fs::memfd_create("entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("memfd");
    let mut file = fs::File::from(memfd);
    write!(file, "MESSAGE=in a file\nKIND=file\nBIG={big}\n").expect("write");
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )
    .expect("seal");
    let socket = UnixDatagram::unbound().expect("socket");
    socket
        .connect(manager.path("run/systemd/journal/socket"))
        .expect("connect");
    syscalls::socket::send_with_fds(&socket, b"", &[file.as_fd()]).expect("sent");
    manager.send(
        "socket",
        format!(
            "MESSAGE=in a datagram\nKIND=datagram\nBIG={}\n",
            &big[..150_000]
        )
        .as_bytes(),
    );
    manager.expect(&["KIND=file"], &["in a file"]);
    manager.expect(&["KIND=datagram"], &["in a datagram"]);
    let export = manager.journalctl(&["-o", "export", "KIND=file"]);
    assert!(export.contains(&big), "all of it is there");
}

#[test]
fn a_killed_journald_loses_nothing_and_streams_go_on() {
    let mut manager = Manager::new();
    manager.start();
    let mut stream = manager.connect();
    write!(stream, "{HEADER}one\ntwo\nhalf a ").expect("write");
    manager.wait_for(|text| text.contains("FDSTORE=1"));
    assert_eq!(manager.store.len(), 1);
    manager.send("socket", b"MESSAGE=before\nKIND=n\n");
    manager.expect(&["_TRANSPORT=stdout"], &["one", "two"]);
    manager.expect(&["KIND=n"], &["before"]);

    manager.stop(9);
    stream
        .write_all(b"line\nthree\n")
        .expect("the socket is still there");
    manager.send("socket", b"MESSAGE=meanwhile\nKIND=n\n");
    manager.send("dev-log", b"<14>app: meanwhile");
    // A service that starts meanwhile waits in the queue.
    let mut second = manager.connect();
    writeln!(second, "{}from the second", HEADER.replace("web", "db")).expect("write");

    manager.start();
    stream.write_all(b"four\n").expect("write");
    manager.expect(
        &["SYSLOG_IDENTIFIER=web"],
        &["one", "two", "half a line", "three", "four"],
    );
    manager.expect(&["SYSLOG_IDENTIFIER=db"], &["from the second"]);
    manager.expect(&["KIND=n"], &["before", "meanwhile"]);
    manager.expect(&["_TRANSPORT=syslog"], &["meanwhile"]);
    let ids = manager.journalctl(&["-o", "export", "SYSLOG_IDENTIFIER=web"]);
    let ids: std::collections::BTreeSet<_> = ids
        .lines()
        .filter(|l| l.starts_with("_STREAM_ID="))
        .collect();
    assert_eq!(ids.len(), 1, "it is the same stream: {ids:?}");

    // At its end a stream leaves nothing behind.
    drop((stream, second));
    manager.wait_for(|text| text.contains("FDSTOREREMOVE=1"));
    manager.wait_for(|text| text.contains("FDSTOREREMOVE=1"));
    assert!(manager.store.is_empty());
    let left = fs::read_dir(manager.path("run/systemd/journal/streams"))
        .expect("read dir")
        .count();
    assert_eq!(left, 0);
}

#[test]
fn flush_rotate_and_sync_work_for_the_real_journalctl() {
    let mut manager = Manager::new();
    manager.start();
    manager.send("socket", b"MESSAGE=early\nKIND=n\n");
    manager.journalctl(&["--sync"]);
    manager.expect(&["KIND=n"], &["early"]);
    let (memory, disk) = (manager.path("run/log/journal"), manager.path("log/journal"));
    assert!(!disk.exists());
    manager.journalctl(&["--flush"]);
    assert_eq!(
        journal::journal_files(&machine_dir(&memory))
            .expect("list")
            .len(),
        0
    );
    manager.send("socket", b"MESSAGE=late\nKIND=n\n");
    manager.expect(&["KIND=n"], &["early", "late"]);
    manager.journalctl(&["--rotate"]);
    manager.send("socket", b"MESSAGE=rotated\nKIND=n\n");
    manager.expect(&["KIND=n"], &["early", "late", "rotated"]);
    let files = journal::journal_files(&machine_dir(&disk)).expect("list");
    assert_eq!(files.len(), 2, "{files:?}");

    let status = manager.stop(15);
    assert!(status.success());
    // Only now: the kernel's messages go on arriving, and a file that grows is not verified in one moment.
    let verify = Command::new("/usr/bin/journalctl")
        .args(["-q", "--verify", "-D"])
        .arg(machine_dir(&disk))
        .output()
        .expect("journalctl");
    let error = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success(), "journalctl --verify: {error}");
    for file in files {
        let header = journal::FileReader::open(&file.path)
            .expect("open")
            .header()
            .clone();
        assert_ne!(header.state, journal::State::Online, "{:?}", file.path);
    }
    // After a restart it goes on where it was, in the same file.
    manager.start();
    manager.send("socket", b"MESSAGE=again\nKIND=n\n");
    manager.expect(&["KIND=n"], &["early", "late", "rotated", "again"]);
    assert_eq!(
        journal::journal_files(&machine_dir(&disk))
            .expect("list")
            .len(),
        2
    );
}

#[test]
fn one_loud_service_is_limited() {
    let mut manager = Manager::new();
    fs::create_dir_all(manager.path("run/systemd/journald.conf.d")).expect("mkdir");
    fs::write(
        manager.path("run/systemd/journald.conf.d/limit.conf"),
        "[Journal]\nRateLimitBurst=50\nRateLimitIntervalSec=1h\n",
    )
    .expect("write");
    manager.start();
    for n in 0..200 {
        manager.send("socket", format!("MESSAGE={n}\nKIND=n\n").as_bytes());
    }
    manager.journalctl(&["--sync"]);
    assert_eq!(
        manager.journalctl(&["-o", "cat", "KIND=n"]).lines().count(),
        50
    );
}

#[test]
fn hostile_input_does_not_stop_it() {
    let mut manager = Manager::new();
    manager.start();
    let mut stream = manager.connect();
    stream.write_all(&[0xff; 20_000]).expect("write");
    let mut endless = manager.connect();
    write!(endless, "{HEADER}{}", "y".repeat(200_000)).expect("write");
    manager.send("socket", &[0; 1000]);
    manager.send("socket", b"X\n\xff\xff\xff\xff\xff\xff\xff\x7f");
    manager.send("dev-log", &[b'<'; 5000]);
    manager.send("socket", b"MESSAGE=still here\nKIND=n\n");
    manager.expect(&["KIND=n"], &["still here"]);
    drop(endless);
    manager.expect(
        &["_LINE_BREAK=eof"],
        &["y".repeat(200_000 % (48 * 1024)).as_str()],
    );
}

#[test]
fn memory_stays_small() {
    let mut manager = Manager::new();
    manager.start();
    let streams: Vec<_> = (0..100)
        .map(|n| {
            let mut stream = manager.connect();
            writeln!(stream, "{HEADER}stream {n}").expect("write");
            stream
        })
        .collect();
    for n in 0..5000 {
        manager.send(
            "socket",
            format!("MESSAGE=number {n}\nKIND=n\nN={n}\n").as_bytes(),
        );
    }
    manager.journalctl(&["--sync"]);
    let pid = manager.journald.as_ref().expect("running").id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let anonymous: u64 = status
        .lines()
        .find_map(|l| {
            l.strip_prefix("RssAnon:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse()
                .ok()
        })
        .expect("RssAnon");
    assert!(anonymous < 3 << 10, "{anonymous} KiB");
    drop(streams);
}
