//! What the kernel says about a control group: counters and processes. Read here, so that PID 1 need not.

use std::fs;
use std::path::{Path, PathBuf};

use init_control::UnitSnapshot;

use crate::systemd1::Process;

/// How deep and how many processes are looked at, so that a fork bomb does not hang the reader.
const MAX_PROCESSES: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// Counters of a control group; none = not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// `memory.current`
    pub memory_current: Option<u64>,
    /// `memory.peak`
    pub memory_peak: Option<u64>,
    /// `cpu.stat`, `usage_usec`, in nanoseconds.
    pub cpu_usage_nsec: Option<u64>,
    /// `pids.current`
    pub tasks_current: Option<u64>,
    /// `pids.max`
    pub tasks_max: Option<u64>,
    /// `io.stat`, all devices.
    pub io_read_bytes: Option<u64>,
    /// `io.stat`, all devices.
    pub io_write_bytes: Option<u64>,
}

impl Usage {
    /// Read the counters of a unit's control group below the hierarchy's mount point.
    pub fn read(root: &Path, unit: &UnitSnapshot) -> Self {
        let Some(directory) = unit
            .cgroup
            .as_ref()
            .and_then(|group| directory(root, &group.path))
        else {
            return Self::default();
        };
        let text = |file: &str| fs::read_to_string(directory.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse().ok();
        let cpu = text("cpu.stat").and_then(|stat| field(&stat, "usage_usec"));
        let io = text("io.stat");
        let sum = |key: &str| io.as_deref().map(|stat| sum(stat, key));
        Self {
            memory_current: number("memory.current"),
            memory_peak: number("memory.peak"),
            cpu_usage_nsec: cpu.map(|usec| usec.saturating_mul(1000)),
            tasks_current: number("pids.current"),
            tasks_max: number("pids.max"),
            io_read_bytes: sum("rbytes="),
            io_write_bytes: sum("wbytes="),
        }
    }
}

/// The group's directory; none where there is no group.
fn directory(root: &Path, group: &str) -> Option<PathBuf> {
    let relative = group.strip_prefix('/')?;
    // PID 1 gives clean paths; this keeps a wrong one from leaving the hierarchy.
    if relative.split('/').any(|part| part == "..") {
        return None;
    }
    Some(root.join(relative))
}

fn field(stat: &str, key: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

fn sum(stat: &str, key: &str) -> u64 {
    stat.split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// Processes of a control group and of those below, each with its group and command line.
pub fn processes(root: &Path, group: &str) -> Vec<Process> {
    let mut out = Vec::new();
    if let Some(directory) = directory(root, group) {
        walk(&directory, group.trim_end_matches('/'), 0, &mut out);
    }
    out
}

fn walk(directory: &Path, group: &str, depth: usize, out: &mut Vec<Process>) {
    let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse::<u32>().ok()) {
        if out.len() >= MAX_PROCESSES {
            return;
        }
        // 0 = a process of another pid namespace.
        if let Some(command_line) = (pid != 0).then(|| command_line(pid)).flatten() {
            out.push(Process {
                control_group: if group.is_empty() {
                    "/".to_owned()
                } else {
                    group.to_owned()
                },
                pid,
                command_line,
            });
        }
    }
    if depth == MAX_DEPTH {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut children: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect();
    children.sort();
    for child in children {
        walk(
            &directory.join(&child),
            &format!("{group}/{}", child.to_string_lossy()),
            depth + 1,
            out,
        );
    }
}

/// The command line, words with blanks quoted; a process without one (a zombie, a kernel thread) by its name in
/// brackets. None when it is gone.
fn command_line(pid: u32) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = raw.strip_suffix(b"\0").unwrap_or(&raw);
    if text.is_empty() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        return Some(format!("[{}]", name.trim_end()));
    }
    let words = text.split(|byte| *byte == 0).map(|word| {
        let word = String::from_utf8_lossy(word).replace(|c: char| c.is_control(), "?");
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "\"'\\$`".contains(c)) {
            format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            word
        }
    });
    Some(words.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use init_control::CgroupSnapshot;

    use super::*;

    #[test]
    fn counters_and_processes_of_a_tree() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/a.service");
        fs::create_dir_all(group.join("payload-1")).unwrap();
        fs::write(group.join("memory.current"), "4096\n").unwrap();
        fs::write(group.join("pids.max"), "max\n").unwrap();
        fs::write(group.join("cpu.stat"), "usage_usec 25\nuser_usec 5\n").unwrap();
        fs::write(
            group.join("io.stat"),
            "8:0 rbytes=10 wbytes=2 rios=1\n8:16 rbytes=5 wbytes=0\n",
        )
        .unwrap();
        fs::write(group.join("cgroup.procs"), "").unwrap();
        fs::write(
            group.join("payload-1/cgroup.procs"),
            format!("{}\n0\n", std::process::id()),
        )
        .unwrap();
        let mut unit = UnitSnapshot::not_found("a.service");
        unit.cgroup = Some(CgroupSnapshot {
            path: "/system.slice/a.service".into(),
            ..CgroupSnapshot::default()
        });
        let usage = Usage::read(root.path(), &unit);
        assert_eq!(usage.memory_current, Some(4096));
        assert_eq!(usage.cpu_usage_nsec, Some(25_000));
        assert_eq!(
            (usage.io_read_bytes, usage.io_write_bytes),
            (Some(15), Some(2))
        );
        assert_eq!((usage.tasks_current, usage.tasks_max), (None, None));
        let list = processes(root.path(), "/system.slice/a.service");
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].control_group, "/system.slice/a.service/payload-1");
        assert!(list[0].command_line.contains("dbus_api"));
        assert!(processes(root.path(), "/../etc").is_empty());
    }
}
