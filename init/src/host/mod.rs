//! The shell's answers to the engine's questions ([`Host`]): unit files, conditions, facts, users, groups.
//!
//! Read-only. Directory listings are cached for one turn of the event loop ([`System::new_turn`]), and kept
//! beyond it as long as the directories' times do not change.

mod conditions;
mod facts;
mod files;
pub(crate) mod virtualization;

use std::cell::RefCell;

use cgroup2::Hierarchy;
use init_control::UnitFileState;
use unit_engine::api::{FileError, Host, UnitFiles, UserInfo};
use unit_file::UnitName;
use unit_file::settings::ConditionKind;
use unit_file::specifier::MachineInfo;

use crate::cmdline::CommandLine;
use crate::{glob, users};

pub(crate) use files::{Effective, UnitDirectories};

/// The running system.
#[derive(Debug)]
pub(crate) struct System {
    directories: RefCell<UnitDirectories>,
    pub(crate) cgroups: Hierarchy,
    pub(crate) cmdline: CommandLine,
    /// Whether this is the machine's first boot.
    pub(crate) first_boot: bool,
}

impl System {
    /// The system this process runs on.
    pub(crate) fn new(cmdline: CommandLine, first_boot: bool) -> System {
        System {
            directories: RefCell::new(UnitDirectories::new(
                unit_file::dropin::SEARCH_PATH.map(str::to_owned).to_vec(),
            )),
            cgroups: Hierarchy::default(),
            cmdline,
            first_boot,
        }
    }

    /// The same directories, for requests that change links.
    pub(crate) fn installer(&self) -> crate::unit_files::Installer<'_> {
        crate::unit_files::Installer::new(&self.directories, facts::machine())
    }

    /// Directories may have changed since the last turn of the loop.
    pub(crate) fn new_turn(&self) {
        self.directories.borrow_mut().doubt();
    }
}

impl Host for System {
    fn unit_files(&self, name: &UnitName) -> UnitFiles {
        self.directories.borrow_mut().unit_files(name)
    }

    fn read_unit_file(&self, path: &str) -> Result<String, FileError> {
        read_text(path)
    }

    fn read_environment_files(&self, pattern: &str) -> Result<Vec<String>, FileError> {
        let paths = glob::expand(pattern);
        if paths.is_empty() {
            return Err(FileError {
                path: pattern.to_owned(),
                message: "no such file".to_owned(),
                missing: true,
            });
        }
        paths
            .iter()
            .map(|p| read_text(&p.display().to_string()))
            .collect()
    }

    fn check_condition(&self, kind: ConditionKind, parameter: &str) -> bool {
        conditions::check(self, kind, parameter)
    }

    fn machine(&self) -> MachineInfo {
        facts::machine()
    }

    fn user(&self, name: &str) -> Option<UserInfo> {
        let database = users::system();
        let user = database.user(name)?;
        let group = database
            .group_name(user.gid)
            .map_or_else(|| user.gid.to_string(), str::to_owned);
        Some(UserInfo {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            group,
            home: user.home,
            shell: user.shell,
        })
    }

    fn cgroup_processes(&self, cgroup: &str) -> Vec<u32> {
        self.cgroups
            .processes_below(cgroup)
            .into_iter()
            .filter_map(|p| u32::try_from(p).ok())
            .collect()
    }

    fn cgroup_of_process(&self, pid: u32) -> Option<String> {
        cgroup2::group_of(i32::try_from(pid).ok()?)
    }

    fn read_pid_file(&self, path: &str) -> Option<u32> {
        crate::text::read_string(path)
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
            .filter(|pid| *pid > 1)
    }

    fn process_exists(&self, pid: u32) -> bool {
        // The state is the first word behind the last parenthesis of the name.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().next());
        state.is_some_and(|s| !matches!(s, "Z" | "X"))
    }

    fn timer_stamp(&self, unit: &UnitName) -> Option<u64> {
        let meta = std::fs::metadata(timer_stamp_path(unit.as_str())).ok()?;
        let since = meta
            .modified()
            .ok()?
            .duration_since(std::time::UNIX_EPOCH)
            .ok()?;
        u64::try_from(since.as_micros()).ok()
    }

    fn unit_file_state(&self, unit: &UnitName) -> (Option<UnitFileState>, String) {
        self.installer().state_and_preset(unit)
    }

    fn random_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        // Only a kernel without its random generator ready could give less; ids then repeat within nothing.
        let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::NONBLOCK);
        if id == [0; 16] {
            id[..8].copy_from_slice(&crate::clock::monotonic_usec().to_le_bytes());
            id[8..].copy_from_slice(&crate::clock::realtime_usec().to_le_bytes());
        }
        id
    }
}

/// Stamp file of a persistent timer.
pub(crate) fn timer_stamp_path(unit: &str) -> String {
    format!("/var/lib/systemd/timers/stamp-{unit}")
}

fn read_text(path: &str) -> Result<String, FileError> {
    let fail = |message: String, missing| FileError {
        path: path.to_owned(),
        message,
        missing,
    };
    crate::text::read_string(path)
        .map_err(|e| fail(e.to_string(), e.kind() == std::io::ErrorKind::NotFound))
}
