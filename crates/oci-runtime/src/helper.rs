//! The helper process that calls the engine: one short life per container or added process.
//!
//! The monitor starts its own program again as `PROGRAM engine FILE`; `FILE` holds the request, the answer goes
//! to `FILE.reply`, and the standard streams are already the container's. [`HelperEngine`] is the caller's side,
//! [`main`] the helper's.

use crate::engine::{Engine, EngineError, ExecRequest, Libcontainer, RunRequest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Run(Box<RunRequest>),
    Exec(Box<ExecRequest>),
    /// Joins a control group that forbids every device and reports whether `/dev/null` opens.
    ProbeDevices {
        cgroup: PathBuf,
    },
}

type Reply = Result<i32, EngineError>;

/// The three streams a container's process gets.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// Runs each request in a helper process. Needs the calling program to hand `engine FILE` to [`main`].
#[derive(Debug)]
pub struct HelperEngine {
    /// The program.
    pub program: PathBuf,
    /// Directory for requests.
    pub directory: PathBuf,
}

impl HelperEngine {
    /// Makes a container with these streams.
    pub fn run(&self, request: &RunRequest, streams: Streams) -> Reply {
        self.ask(&Request::Run(Box::new(request.clone())), streams)
    }

    /// Adds a process with these streams.
    pub fn exec(&self, request: &ExecRequest, streams: Streams) -> Reply {
        self.ask(&Request::Exec(Box::new(request.clone())), streams)
    }

    /// Whether device rules of this control group (all forbidden) hold.
    pub fn probe_devices(&self, cgroup: &Path) -> Result<bool, EngineError> {
        let null = || -> Result<OwnedFd, EngineError> {
            File::open("/dev/null")
                .map(OwnedFd::from)
                .map_err(|error| EngineError::other(format!("failed to open /dev/null: {error}")))
        };
        let streams = Streams {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        };
        self.ask(
            &Request::ProbeDevices {
                cgroup: cgroup.to_owned(),
            },
            streams,
        )
        .map(|opened| opened == 0)
    }

    fn ask(&self, request: &Request, streams: Streams) -> Reply {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            EngineError::other(format!("failed to {what}: {error}"))
        };
        let file = self
            .directory
            .join(format!("engine-{}.{}", std::process::id(), next_number()));
        let reply = file.with_extension("reply");
        let text = serde_json::to_vec(request)
            .map_err(|error| failed("write the engine's request", &error))?;
        std::fs::write(&file, text)
            .map_err(|error| failed("write the engine's request", &error))?;
        let status = Command::new(&self.program)
            .arg("engine")
            .arg(&file)
            .arg(&reply)
            .env_clear()
            .stdin(Stdio::from(streams.stdin))
            .stdout(Stdio::from(streams.stdout))
            .stderr(Stdio::from(streams.stderr))
            .status();
        let answer = std::fs::read(&reply);
        let _ = std::fs::remove_file(&file);
        let _ = std::fs::remove_file(&reply);
        let status = status.map_err(|error| failed("start the engine's helper", &error))?;
        match answer
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Reply>(&bytes).ok())
        {
            Some(reply) => reply,
            None => Err(EngineError::other(format!(
                "the engine's helper ended without an answer ({status})"
            ))),
        }
    }
}

fn next_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The helper: reads the request, does it, writes the answer. Never returns to a program with threads.
pub fn main(file: &Path, reply: &Path) -> i32 {
    // Rust ignores SIGPIPE, and what is ignored stays ignored over exec: a handler does not.
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGPIPE, flag);
    let complaints = crate::complaints::collect(&file.with_extension("log"));
    let answer = serve(file).map_err(|mut error| {
        // The engine's own error names the step that failed in another process, but not why.
        if error.kind == crate::ErrorKind::Other {
            error.message.push_str(&complaints.text());
        }
        error
    });
    let code = i32::from(answer.is_err());
    let written = serde_json::to_vec(&answer).map(|bytes| std::fs::write(reply, bytes));
    if matches!(written, Ok(Ok(()))) {
        code
    } else {
        2
    }
}

fn serve(file: &Path) -> Reply {
    let bytes = std::fs::read(file)
        .map_err(|error| EngineError::other(format!("failed to read the request: {error}")))?;
    let request: Request = serde_json::from_slice(&bytes)
        .map_err(|error| EngineError::other(format!("the request is damaged: {error}")))?;
    match request {
        Request::Run(request) => Libcontainer.run(&request),
        Request::Exec(request) => Libcontainer.exec(&request),
        Request::ProbeDevices { cgroup } => {
            std::fs::write(cgroup.join("cgroup.procs"), "0").map_err(|error| {
                EngineError::other(format!("failed to join the probe's control group: {error}"))
            })?;
            Ok(i32::from(File::open("/dev/null").is_ok()))
        }
    }
}

/// Copies a directory's content with owners, modes and times; an existing entry of the target stays.
pub(crate) fn copy_tree(source: &File, target: &Path) -> io::Result<()> {
    let metadata = rustix::fs::fstat(source)?;
    let target_fd = rustix::fs::open(
        target,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    copy_directory(&rustix::io::dup(source)?, &target_fd, 0)?;
    rustix::fs::fchown(
        &target_fd,
        Some(rustix::fs::Uid::from_raw(metadata.st_uid)),
        Some(rustix::fs::Gid::from_raw(metadata.st_gid)),
    )?;
    rustix::fs::fchmod(&target_fd, Mode::from_raw_mode(metadata.st_mode & 0o7777))?;
    Ok(())
}

fn copy_directory(source: &OwnedFd, target: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth > 512 {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    for item in rustix::fs::Dir::read_from(source)? {
        let item = item?;
        let name = std::ffi::OsStr::from_bytes(item.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let made = rustix::fs::mkdirat(target, name, Mode::from_raw_mode(0o700));
                if made.is_ok() {
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
                    let to = rustix::fs::openat(target, name, flags, Mode::empty())?;
                    copy_directory(&from, &to, depth + 1)?;
                }
                made
            }
            FileType::RegularFile => {
                let from = rustix::fs::openat(
                    source,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                match rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600)) {
                    Ok(to) => {
                        io::copy(&mut File::from(from), &mut File::from(to))?;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(link, target, name)
            }
            FileType::Socket => continue,
            kind => {
                rustix::fs::mknodat(target, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
            }
        };
        match made {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => continue,
            Err(error) => return Err(error.into()),
        }
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::chownat(
            target,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(
                target,
                name,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn trees_are_copied_with_modes_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        std::fs::set_permissions(from.join("sub/file"), PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("sub/file", from.join("link")).unwrap();
        std::fs::write(to.join("kept"), "1").unwrap();
        copy_tree(&File::open(&from).unwrap(), &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("link")).unwrap(), "text");
        assert_eq!(
            std::fs::metadata(to.join("sub/file"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o640
        );
        assert!(to.join("kept").exists());
    }
}
