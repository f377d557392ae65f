//! The executor: the short-lived process between `clone3` and the unit's program.
//!
//! PID 1 starts itself anew with `--executor`: descriptor 3 holds the [`Order`], descriptor 4 the report pipe,
//! from 5 on come the unit's descriptors. Here everything may allocate and fail: each failing step is
//! reported as `(step, errno)` with a few words, and is the exit code (init.md §6). Nothing of PID 1's
//! memory is shared, so nothing can harm it.
//!
//! The order of the steps is the contract: session, standard streams, limits, directories, namespaces,
//! groups, capabilities, user, working directory, filters, descriptors, `execve`.

mod directories;
mod files;
pub(crate) mod mounting;
mod privileges;
mod sandbox;
mod stdio;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use syscalls::spawn::Report;
use unit_engine::api::{MountOperation, Program, SpawnSpec};
use unit_file::settings::{ExecSettings, LimitKind, Privilege};

use crate::users;

pub(crate) use directories::private_tmp_directories;

/// Descriptor that holds the order.
pub(crate) const ORDER_FD: i32 = 3;
/// Write end of the report pipe.
pub(crate) const REPORT_FD: i32 = 4;
/// Where the executor keeps it.
const REPORT_MOVED_TO: i32 = 512;
/// First of the unit's descriptors.
pub(crate) const FIRST_FD: i32 = 5;

/// What is run, in a form that travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Run {
    Exec {
        path: String,
        argv: Vec<String>,
    },
    Mount {
        what: String,
        where_: String,
        fs_type: Option<String>,
        options: String,
        directory_mode: u32,
        read_write_only: bool,
    },
    Remount {
        where_: String,
        options: String,
    },
    Unmount {
        where_: String,
        lazy: bool,
        force: bool,
    },
}

/// Everything the executor needs, encoded by PID 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    unit: String,
    run: Run,
    environment: Vec<String>,
    exec: ExecSettings,
    full_privilege: bool,
    keep_user: bool,
    fd_names: Vec<String>,
    has_stdio_socket: bool,
    non_blocking: bool,
    namespace_of: String,
    apply_root: bool,
    private_tmp_key: String,
}

impl Order {
    /// The order for one spawn.
    pub(crate) fn new(spec: &SpawnSpec, private_tmp_key: &str) -> Order {
        Order {
            unit: spec.unit.as_str().to_owned(),
            run: match &spec.program {
                Program::Exec { path, argv } => Run::Exec {
                    path: path.clone(),
                    argv: argv.clone(),
                },
                Program::Mount(operation) => Run::from(operation),
            },
            environment: spec.environment.clone(),
            exec: (*spec.exec).clone(),
            full_privilege: spec.privilege == Privilege::Full,
            keep_user: matches!(spec.privilege, Privilege::Full | Privilege::KeepUser),
            fd_names: spec.fds.iter().map(|f| f.name.clone()).collect(),
            has_stdio_socket: spec.stdio_socket.is_some(),
            non_blocking: spec.non_blocking,
            namespace_of: spec.namespace_of.as_str().to_owned(),
            apply_root: spec.apply_root,
            private_tmp_key: private_tmp_key.to_owned(),
        }
    }

    /// As bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }
}

impl From<&MountOperation> for Run {
    fn from(operation: &MountOperation) -> Run {
        match operation.clone() {
            MountOperation::Mount {
                what,
                where_,
                fs_type,
                options,
                directory_mode,
                read_write_only,
            } => Run::Mount {
                what,
                where_,
                fs_type,
                options,
                directory_mode,
                read_write_only,
            },
            MountOperation::Remount { where_, options } => Run::Remount { where_, options },
            MountOperation::Unmount {
                where_,
                lazy,
                force,
            } => Run::Unmount {
                where_,
                lazy,
                force,
            },
        }
    }
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    step: u32,
    errno: i32,
    what: String,
}

impl Failure {
    fn new(step: u32, what: impl Into<String>, error: &std::io::Error) -> Failure {
        Failure {
            step,
            errno: error.raw_os_error().unwrap_or(0),
            what: what.into(),
        }
    }

    fn text(step: u32, what: impl Into<String>) -> Failure {
        Failure {
            step,
            errno: 0,
            what: what.into(),
        }
    }
}

/// For `map_err`: the failure of a step.
fn at<E: Into<std::io::Error>>(step: u32, what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let what = what.into();
    move |error| Failure::new(step, what, &error.into())
}

/// Numbers of the steps, which are also the exit codes.
mod step {
    pub(super) const CHDIR: u32 = 200;
    pub(super) const NICE: u32 = 201;
    pub(super) const FDS: u32 = 202;
    pub(super) const EXEC: u32 = 203;
    pub(super) const LIMITS: u32 = 205;
    pub(super) const OOM_ADJUST: u32 = 206;
    pub(super) const STDIN: u32 = 208;
    pub(super) const STDOUT: u32 = 209;
    pub(super) const CHROOT: u32 = 210;
    pub(super) const IOPRIO: u32 = 211;
    pub(super) const TIMERSLACK: u32 = 212;
    pub(super) const SECUREBITS: u32 = 213;
    pub(super) const SETSCHEDULER: u32 = 214;
    pub(super) const CPUAFFINITY: u32 = 215;
    pub(super) const GROUP: u32 = 216;
    pub(super) const USER: u32 = 217;
    pub(super) const CAPABILITIES: u32 = 218;
    pub(super) const SETSID: u32 = 220;
    pub(super) const STDERR: u32 = 222;
    pub(super) const NETWORK: u32 = 225;
    pub(super) const NAMESPACE: u32 = 226;
    pub(super) const NO_NEW_PRIVILEGES: u32 = 227;
    pub(super) const SECCOMP: u32 = 228;
    pub(super) const RUNTIME_DIRECTORY: u32 = 233;
    pub(super) const STATE_DIRECTORY: u32 = 238;
    pub(super) const CACHE_DIRECTORY: u32 = 239;
    pub(super) const LOGS_DIRECTORY: u32 = 240;
    pub(super) const CONFIGURATION_DIRECTORY: u32 = 241;
}

/// Entry of `init --executor`. Does not return.
pub(crate) fn main() -> ! {
    // Out of the way of the descriptors that the program gets from 3 on.
    let report = syscalls::spawn::take_passed_fd(REPORT_FD)
        .and_then(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, REPORT_MOVED_TO).ok());
    let Err(failure) = read_order().and_then(run);
    if let Some(report) = report {
        let mut message = Report {
            step: failure.step,
            errno: failure.errno,
        }
        .encode()
        .to_vec();
        message.extend(failure.what.bytes().take(400));
        let _ = rustix::io::write(report, &message);
    }
    syscalls::system::exit_now(i32::try_from(failure.step).unwrap_or(203));
}

fn read_order() -> Result<Order, Failure> {
    let missing = || Failure::text(step::FDS, "read the order");
    let fd = syscalls::spawn::take_passed_fd(ORDER_FD).ok_or_else(missing)?;
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).map_err(at(step::FDS, "read the order"))?;
    std::io::Read::read_to_end(&mut file, &mut bytes).map_err(at(step::FDS, "read the order"))?;
    postcard::from_bytes(&bytes).map_err(|_| missing())
}

/// The user and groups a process runs as.
#[derive(Debug, Default)]
struct Identity {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Vec<u32>,
    home: Option<String>,
}

fn run(order: Order) -> Result<std::convert::Infallible, Failure> {
    let exec = &order.exec;
    let mut fds = take_fds(&order)?;
    let stdio_socket = if order.has_stdio_socket {
        fds.pop()
    } else {
        None
    };
    rustix::process::setsid()
        .map(|_| ())
        .or_else(|e| {
            if e == rustix::io::Errno::PERM {
                Ok(())
            } else {
                Err(e)
            }
        })
        .map_err(at(step::SETSID, "begin a session"))?;
    let identity = identity(&order)?;
    let journal = stdio::arrange(&order, stdio_socket, &fds, &identity)?;
    if let Run::Mount { .. } | Run::Remount { .. } | Run::Unmount { .. } = &order.run {
        syscalls::system::exit_now(mounting::perform(&order.run));
    }
    scheduling(exec)?;
    limits(exec)?;
    let writable = directories::make(&order, &identity)?;
    let root = exec
        .root_directory
        .as_deref()
        .filter(|_| order.apply_root && !order.full_privilege);
    if !order.full_privilege {
        sandbox::enter(&order, root, &writable)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(exec.umask));
    if let Some(root) = root {
        rustix::process::chroot(root)
            .map_err(at(step::CHROOT, format!("change the root to {root}")))?;
        rustix::process::chdir("/").map_err(at(step::CHROOT, "enter the root"))?;
    }
    privileges::drop(&order, &identity)?;
    working_directory(&order, &identity)?;
    if !order.full_privilege {
        privileges::lock(exec)?;
    }
    let environment = environment(&order, journal);
    execute(&order, fds, &environment)
}

fn take_fds(order: &Order) -> Result<Vec<OwnedFd>, Failure> {
    let count = order.fd_names.len() + usize::from(order.has_stdio_socket);
    (FIRST_FD..)
        .take(count)
        .map(|n| {
            let fd = syscalls::spawn::take_passed_fd(n).ok_or_else(|| {
                Failure::text(step::FDS, format!("descriptor {n} was not passed"))
            })?;
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
                .map_err(at(step::FDS, "mark a descriptor"))?;
            Ok(fd)
        })
        .collect()
}

/// Looks user and groups up in the files; a static program has no name service modules.
fn identity(order: &Order) -> Result<Identity, Failure> {
    let exec = &order.exec;
    let mut found = Identity::default();
    if exec.dynamic_user
        && exec
            .user
            .as_deref()
            .is_none_or(|u| users::system().user(u).is_none())
    {
        return Err(Failure::text(
            step::USER,
            "DynamicUser= needs a user that exists on this system",
        ));
    }
    let database = users::system();
    if let Some(name) = exec.user.as_deref() {
        let user = database
            .user(name)
            .ok_or_else(|| Failure::text(step::USER, format!("there is no user {name}")))?;
        found.uid = Some(user.uid);
        found.gid = Some(user.gid);
        found.groups = database.groups_of(&user.name, user.gid);
        found.home = Some(user.home.clone());
    }
    if let Some(name) = exec.group.as_deref() {
        let gid = database
            .group(name)
            .ok_or_else(|| Failure::text(step::GROUP, format!("there is no group {name}")))?;
        found.gid = Some(gid);
        if exec.user.is_none() {
            found.groups = vec![gid];
        }
    }
    for name in &exec.supplementary_groups {
        let gid = database
            .group(name)
            .ok_or_else(|| Failure::text(step::GROUP, format!("there is no group {name}")))?;
        if !found.groups.contains(&gid) {
            found.groups.push(gid);
        }
    }
    Ok(found)
}

fn scheduling(exec: &ExecSettings) -> Result<(), Failure> {
    if let Some(adjust) = exec.oom_score_adjust {
        std::fs::write("/proc/self/oom_score_adj", adjust.to_string())
            .map_err(at(step::OOM_ADJUST, "set OOMScoreAdjust="))?;
    }
    if let Some(nice) = exec.nice {
        rustix::process::setpriority_process(None, nice).map_err(at(step::NICE, "set Nice="))?;
    }
    if exec.cpu_scheduling_policy.is_some() || exec.cpu_scheduling_priority.is_some() {
        let number = |v: Option<u32>| i32::try_from(v.unwrap_or(0)).unwrap_or(0);
        syscalls::system::set_scheduler(
            number(exec.cpu_scheduling_policy),
            number(exec.cpu_scheduling_priority),
            false,
        )
        .map_err(at(step::SETSCHEDULER, "set CPUSchedulingPolicy="))?;
    }
    if !exec.cpu_affinity.is_empty() {
        let mut set = rustix::thread::CpuSet::new();
        exec.cpu_affinity
            .iter()
            .filter(|c| **c < 1024)
            .for_each(|c| set.set(*c as usize));
        rustix::thread::sched_setaffinity(None, &set)
            .map_err(at(step::CPUAFFINITY, "set CPUAffinity="))?;
    }
    if let Some(class) = exec
        .io_scheduling_class
        .or(exec.io_scheduling_priority.map(|_| 2))
    {
        let level = exec.io_scheduling_priority.unwrap_or(4);
        syscalls::system::set_io_priority(class as i32, level as i32)
            .map_err(at(step::IOPRIO, "set IOScheduling*="))?;
    }
    if let Some(slack) = exec.timer_slack_nsec {
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(slack))
            .map_err(at(step::TIMERSLACK, "set TimerSlackNSec="))?;
    }
    Ok(())
}

fn limits(exec: &ExecSettings) -> Result<(), Failure> {
    use rustix::process::Resource;
    // Programs that use select() break above 1024, so more is for those who ask.
    if !exec.limits.iter().any(|l| l.kind == LimitKind::Nofile) {
        let mut files = rustix::process::getrlimit(Resource::Nofile);
        files.current = files.maximum.map_or(Some(1024), |m| Some(m.min(1024)));
        rustix::process::setrlimit(Resource::Nofile, files)
            .map_err(at(step::LIMITS, "set the limit Nofile"))?;
    }
    for limit in &exec.limits {
        let resource = match limit.kind {
            LimitKind::Cpu => Resource::Cpu,
            LimitKind::Fsize => Resource::Fsize,
            LimitKind::Data => Resource::Data,
            LimitKind::Stack => Resource::Stack,
            LimitKind::Core => Resource::Core,
            LimitKind::Rss => Resource::Rss,
            LimitKind::Nofile => Resource::Nofile,
            LimitKind::As => Resource::As,
            LimitKind::Nproc => Resource::Nproc,
            LimitKind::Memlock => Resource::Memlock,
            LimitKind::Locks => Resource::Locks,
            LimitKind::Sigpending => Resource::Sigpending,
            LimitKind::Msgqueue => Resource::Msgqueue,
            LimitKind::Nice => Resource::Nice,
            LimitKind::Rtprio => Resource::Rtprio,
            LimitKind::Rttime => Resource::Rttime,
        };
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let mut new = rustix::process::Rlimit {
            current: bound(limit.soft),
            maximum: bound(limit.hard),
        };
        if limit.kind == LimitKind::Nofile {
            // The kernel's own ceiling: infinity is refused there.
            let ceiling = std::fs::read_to_string("/proc/sys/fs/nr_open")
                .ok()
                .and_then(|t| t.trim().parse().ok());
            let ceiling: u64 = ceiling.unwrap_or(1 << 20);
            new.current = Some(new.current.unwrap_or(ceiling).min(ceiling));
            new.maximum = Some(new.maximum.unwrap_or(ceiling).min(ceiling));
        }
        rustix::process::setrlimit(resource, new)
            .map_err(at(step::LIMITS, format!("set the limit {:?}", limit.kind)))?;
    }
    Ok(())
}

fn working_directory(order: &Order, identity: &Identity) -> Result<(), Failure> {
    let wanted = order.exec.working_directory.as_ref();
    let home = identity.home.clone().unwrap_or_else(|| "/root".to_owned());
    let path = wanted.map_or_else(|| "/".to_owned(), |w| w.path.clone().unwrap_or(home));
    match rustix::process::chdir(path.as_str()) {
        Err(_) if wanted.is_some_and(|w| w.optional) => {
            rustix::process::chdir("/").map_err(at(step::CHDIR, "enter /"))
        }
        result => result.map_err(at(step::CHDIR, format!("enter {path}"))),
    }
}

/// The environment with what only this process knows.
fn environment(order: &Order, journal: Option<(u64, u64)>) -> Vec<String> {
    let mut all = order.environment.clone();
    let pid = std::process::id();
    let mut set = |name: &str, value: String| {
        all.retain(|v| v.split_once('=').is_none_or(|(n, _)| n != name));
        all.push(format!("{name}={value}"));
    };
    set("SYSTEMD_EXEC_PID", pid.to_string());
    if let Some((device, inode)) = journal {
        set("JOURNAL_STREAM", format!("{device}:{inode}"));
    }
    if !order.fd_names.is_empty() {
        set("LISTEN_PID", pid.to_string());
    }
    if order
        .environment
        .iter()
        .any(|v| v.starts_with("WATCHDOG_USEC="))
    {
        set("WATCHDOG_PID", pid.to_string());
    }
    all
}

fn execute(
    order: &Order,
    fds: Vec<OwnedFd>,
    environment: &[String],
) -> Result<std::convert::Infallible, Failure> {
    let Run::Exec { path, argv } = &order.run else {
        return Err(Failure::text(step::EXEC, "nothing to execute"));
    };
    let program = find_program(path, environment).ok_or_else(|| Failure {
        step: step::EXEC,
        errno: rustix::io::Errno::NOENT.raw_os_error(),
        what: format!("find {path}"),
    })?;
    let c = |text: &str| {
        CString::new(text)
            .map_err(|_| Failure::text(step::EXEC, "a NUL byte in the command line or environment"))
    };
    let exe = CString::new(program.as_os_str().as_encoded_bytes())
        .map_err(|_| Failure::text(step::EXEC, "a NUL byte in the path"))?;
    let argv = argv.iter().map(|a| c(a)).collect::<Result<Vec<_>, _>>()?;
    let envp = environment
        .iter()
        .map(|e| c(e))
        .collect::<Result<Vec<_>, _>>()?;
    syscalls::spawn::cloexec_from(3).map_err(at(step::FDS, "close descriptors at exec"))?;
    for fd in &fds {
        let flags = rustix::fs::fcntl_getfl(fd).map_err(at(step::FDS, "prepare a descriptor"))?;
        let mut new = flags;
        new.set(rustix::fs::OFlags::NONBLOCK, order.non_blocking);
        if new != flags && order.non_blocking {
            rustix::fs::fcntl_setfl(fd, new).map_err(at(step::FDS, "prepare a descriptor"))?;
        }
    }
    stdio::place_passed(fds)?;
    let ignored: &[i32] = if order.exec.ignore_sigpipe {
        &[13]
    } else {
        &[]
    };
    syscalls::signal::reset(ignored).map_err(at(207, "reset signals"))?;
    let error = syscalls::spawn::execve(&exe, &argv, &envp);
    Err(Failure::new(
        step::EXEC,
        format!("execute {}", program.display()),
        &error,
    ))
}

/// The program by path, or by name in the PATH of its own environment.
fn find_program(path: &str, environment: &[String]) -> Option<PathBuf> {
    if path.contains('/') {
        return Some(PathBuf::from(path));
    }
    let search = environment.iter().find_map(|v| v.strip_prefix("PATH="));
    let search = search.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let usable =
        |p: &Path| rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok() && p.is_file();
    search
        .split(':')
        .map(|dir| Path::new(dir).join(path))
        .find(|p| usable(p))
}
