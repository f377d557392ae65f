//! Stage 1: from the kernel's hand-over to the real root.
//!
//! The stages are a list ([`STAGES`]); each either succeeds or ends the boot with a reason on the kernel log
//! and every console, and a restart after ten seconds, so that the boot loader's counter can choose the
//! other slot. Nothing is ever formatted but a blank STATE, and nothing is mounted from /usr that does not
//! hang on the root hash of the command line.

pub(crate) mod blockdev;
mod modules;
mod state;
mod switch_root;
mod verity;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use crate::cmdline::CommandLine;
use crate::handover::Handover;
use crate::log::{self, Level};

/// Where the real root is put together.
pub(crate) const SYSROOT: &str = "/sysroot";
/// Where /usr is mounted until the real root is there.
pub(crate) const EARLY_USR: &str = "/run/usr";

const WATCHDOG_SECONDS: i32 = 120;
const RESTART_DELAY: Duration = Duration::from_secs(10);

/// What the stages know and find out.
#[derive(Debug, Default)]
pub(crate) struct Boot {
    cmdline: CommandLine,
    facts: Handover,
    watchdog: Option<OwnedFd>,
    /// Disk that holds the /usr partition, absent for a /usr in the initramfs.
    boot_disk: Option<blockdev::Disk>,
}

/// A stage that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// A system call failed.
    #[error("failed to {what}")]
    Io {
        /// What was attempted, with its object.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Something is missing or wrong.
    #[error("{0}")]
    Refused(String),
}

impl StageError {
    /// For `map_err`: an I/O failure of this attempt.
    pub(crate) fn io<E: Into<std::io::Error>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> StageError {
        let what = what.into();
        move |source| StageError::Io {
            what,
            source: source.into(),
        }
    }
}

/// One step of stage 1.
struct Stage {
    name: &'static str,
    run: fn(&mut Boot) -> Result<(), StageError>,
}

const STAGES: &[Stage] = &[
    Stage {
        name: "kernel file systems",
        run: kernel_file_systems,
    },
    Stage {
        name: "modules",
        run: |_| modules::load(),
    },
    Stage {
        name: "watchdog",
        run: arm_watchdog,
    },
    Stage {
        name: "verified /usr",
        run: verity::mount_usr,
    },
    Stage {
        name: "root",
        run: state::mount_root,
    },
    Stage {
        name: "/etc",
        run: state::mount_etc,
    },
];

/// Runs stage 1. Does not return.
pub(crate) fn run() -> ! {
    let mut boot = Boot::default();
    boot.facts.initrd_usec = crate::clock::monotonic_usec();
    for stage in STAGES {
        if let Err(error) = (stage.run)(&mut boot) {
            give_up(stage.name, &error);
        }
    }
    boot.facts.initrd_end_usec = crate::clock::monotonic_usec();
    let error = switch_root::enter(boot);
    give_up("switch root", &error);
}

/// Whether this process is PID 1 of an initramfs: its root is kept in memory and has no /usr.
pub(crate) fn is_here() -> bool {
    const RAMFS: u64 = 0x8584_58f6;
    const TMPFS: u64 = 0x0102_1994;
    let in_memory = rustix::fs::statfs("/").is_ok_and(|s| matches!(s.f_type as u64, RAMFS | TMPFS));
    in_memory && !Path::new("/usr").exists()
}

fn kernel_file_systems(boot: &mut Boot) -> Result<(), StageError> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (source, target, kind, flags, data) in [
        ("devtmpfs", "/dev", c"devtmpfs", quiet, c"mode=0755"),
        ("proc", "/proc", c"proc", quiet | MountFlags::NODEV, c""),
        ("sysfs", "/sys", c"sysfs", quiet | MountFlags::NODEV, c""),
        (
            "tmpfs",
            "/run",
            c"tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755,size=20%",
        ),
    ] {
        std::fs::create_dir_all(target).map_err(StageError::io(format!("make {target}")))?;
        mount(source, target, kind, flags, Some(data))
            .map_err(StageError::io(format!("mount {target}")))?;
    }
    log::open_kmsg();
    crate::console::standard_streams();
    boot.cmdline = CommandLine::of_kernel();
    let value = |key: &str| boot.cmdline.value(key).map(str::to_owned);
    boot.facts.slot = value("flotilla.slot");
    boot.facts.fallback = value("flotilla.fallback");
    if boot.cmdline.flag("flotilla.recovery") {
        boot.facts.recovery = Some("asked for by the boot loader".to_owned());
    }
    Ok(())
}

/// Arms the watchdog before anything that can hang. A machine without one boots all the same.
fn arm_watchdog(boot: &mut Boot) -> Result<(), StageError> {
    let Ok(device) = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/watchdog0")
    else {
        return Ok(());
    };
    match syscalls::watchdog::set_timeout(device.as_fd(), WATCHDOG_SECONDS) {
        Ok(seconds) => log::say(Level::Info, format_args!("watchdog armed, {seconds} s")),
        Err(error) => log::say(
            Level::Warning,
            format_args!("watchdog keeps its own timeout: {error}"),
        ),
    }
    boot.watchdog = Some(device.into());
    Ok(())
}

/// Tells everyone the reason and restarts, so that the boot loader counts this attempt as failed.
fn give_up(stage: &str, error: &StageError) -> ! {
    let text = format!("boot failed at stage \"{stage}\": {}", log::chain(error));
    log::say(Level::Error, format_args!("{text}"));
    let _ = crate::console::broadcast(&format!(
        "\r\n*** {text}\r\n*** restarting in {} s\r\n",
        RESTART_DELAY.as_secs()
    ));
    std::thread::sleep(RESTART_DELAY);
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    // Leaving would only make the kernel panic without the reason on the screen.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
