//! The end: everything that still runs is killed, everything that can be unmounted is, then reboot(2).
//!
//! By then the engine has stopped all units (or was told not to). Nothing here returns, and nothing here can
//! wait for ever: the hardware watchdog stays armed behind it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use init_control::PowerAction;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::log::{self, Level};
use crate::mounts;

/// How long processes have to end after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);
const UNMOUNT_TRIES: usize = 50;
const HOOKS: &str = "/usr/lib/systemd/system-shutdown";
/// File systems that go with the kernel.
const KERNEL_TYPES: [&str; 14] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup2",
    "securityfs",
    "efivarfs",
    "bpf",
    "pstore",
    "debugfs",
    "tracefs",
    "configfs",
    "mqueue",
    "hugetlbfs",
];

/// Ends the machine.
pub(crate) fn finish(
    action: PowerAction,
    immediate: bool,
    argument: Option<&str>,
    watchdog: Option<&OwnedFd>,
) -> ! {
    log::use_journal(false);
    log::say(Level::Notice, format_args!("system goes down: {action}"));
    if !immediate {
        pet(watchdog);
        kill_all(watchdog);
        pet(watchdog);
        unmount_all(watchdog);
        run_hooks(action);
    }
    rustix::fs::sync();
    let _ = crate::console::broadcast(&format!("[  OK  ] {action}: sync done\r\n"));
    end(action, argument);
    // Leaving would be a kernel panic; the watchdog or a person ends this.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn end(action: PowerAction, argument: Option<&str>) {
    let result = match action {
        PowerAction::PowerOff => reboot(RebootCommand::PowerOff).map_err(std::io::Error::from),
        PowerAction::Halt => reboot(RebootCommand::Halt).map_err(std::io::Error::from),
        PowerAction::Kexec => reboot(RebootCommand::Kexec).map_err(std::io::Error::from),
        PowerAction::Reboot | PowerAction::SoftReboot => {
            match argument.and_then(|a| CString::new(a).ok()) {
                Some(argument) => syscalls::system::restart_with(&argument),
                None => reboot(RebootCommand::Restart).map_err(std::io::Error::from),
            }
        }
    };
    if let Err(error) = result {
        log::say(
            Level::Error,
            format_args!("{action} failed: {error}; restarting instead"),
        );
        let _ = reboot(RebootCommand::Restart);
    }
}

fn pet(watchdog: Option<&OwnedFd>) {
    if let Some(watchdog) = watchdog {
        let _ = syscalls::watchdog::pet(watchdog.as_fd());
    }
}

/// SIGTERM to everything, then SIGKILL to what is left.
fn kill_all(watchdog: Option<&OwnedFd>) {
    for (signal, limit) in [(15, TERM_LIMIT), (9, KILL_LIMIT)] {
        if syscalls::signal::kill(-1, signal).is_err() {
            // Nobody left.
            return;
        }
        if signal == 15 {
            let _ = syscalls::signal::kill(-1, 18);
        }
        let start = Instant::now();
        while start.elapsed() < limit {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    std::thread::sleep(Duration::from_millis(10));
                    pet(watchdog);
                }
                Err(_) if only_kernel_left() => return,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// Whether only PID 1 and kernel threads (without command line) exist.
fn only_kernel_left() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return true;
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    !pids
        .filter(|pid| *pid != 1)
        .any(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()))
}

/// Unmounts from the top of the table down, again while something changes, then makes the rest read-only.
fn unmount_all(watchdog: Option<&OwnedFd>) {
    let _ = rustix::process::chdir("/");
    for _ in 0..UNMOUNT_TRIES {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut changed = false;
        for entry in mounts::parse(&table)
            .iter()
            .rev()
            .filter(|m| may_unmount(m))
        {
            changed |= unmount(entry.where_.as_str(), UnmountFlags::NOFOLLOW).is_ok();
        }
        pet(watchdog);
        if !changed {
            break;
        }
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for entry in mounts::parse(&table).iter().rev() {
        let writable = !entry.options.split(',').any(|o| o == "ro");
        if !writable
            || KERNEL_TYPES.contains(&entry.fs_type.as_str())
            || matches!(entry.fs_type.as_str(), "tmpfs" | "ramfs" | "rootfs")
        {
            continue;
        }
        if let Err(error) = mount_remount(entry.where_.as_str(), MountFlags::RDONLY, c"") {
            log::say(
                Level::Warning,
                format_args!("{} stays writable: {error}", entry.where_),
            );
        }
    }
}

fn may_unmount(entry: &unit_engine::api::MountEntry) -> bool {
    let needed = matches!(
        entry.where_.as_str(),
        "/" | "/usr" | "/dev" | "/proc" | "/sys" | "/run"
    );
    !needed && !KERNEL_TYPES.contains(&entry.fs_type.as_str())
}

/// Programs of `system-shutdown`, each with the action's word.
fn run_hooks(action: PowerAction) {
    let Ok(entries) = std::fs::read_dir(HOOKS) else {
        return;
    };
    let mut programs: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    programs.sort();
    for program in programs.iter().filter(|p| Path::new(p).is_file()) {
        let result = Command::new(program)
            .arg(action.as_str())
            .stdin(Stdio::null())
            .status();
        if let Err(error) = result {
            log::say(
                Level::Warning,
                format_args!("{}: {error}", program.display()),
            );
        }
    }
}
