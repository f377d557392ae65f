//! The engine: makes a container's first process, and further ones.

use crate::plan::{Plan, PlanError};
use crate::users::{self, Identity};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest `/etc/passwd` we read from an image.
const MAX_DATABASE: u64 = 1 << 20;

/// What kind of failure, as far as exit codes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Exit 127.
    CommandNotFound,
    /// Exit 126.
    CommandNotExecutable,
    /// Exit 125.
    Other,
}

/// Why no process was made. Crosses a process border, therefore text.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct EngineError {
    /// Which kind.
    pub kind: ErrorKind,
    /// What happened, with its causes.
    pub message: String,
}

impl EngineError {
    /// An error of the kind that is ours.
    pub fn other(message: impl Into<String>) -> Self {
        EngineError {
            kind: ErrorKind::Other,
            message: message.into(),
        }
    }
}

impl From<PlanError> for EngineError {
    fn from(error: PlanError) -> Self {
        EngineError::other(error.to_string())
    }
}

/// The layers of a container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Nearest first.
    pub lowers: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// overlayfs's own.
    pub work: PathBuf,
    /// Where it is mounted, in the engine's private mount namespace.
    pub merged: PathBuf,
}

/// A new volume to be filled with what the image has at its mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Populate {
    /// Path in the image.
    pub from: String,
    /// Directory of the volume.
    pub to: PathBuf,
}

/// Makes a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Its id.
    pub id: String,
    /// Its environment.
    pub plan: Plan,
    /// Its root.
    pub overlay: Overlay,
    /// Directory for the engine's state of all containers.
    pub state: PathBuf,
    /// Directory for the runtime configuration of this one.
    pub bundle: PathBuf,
    /// Socket that takes the terminal.
    pub console: Option<PathBuf>,
    /// Volumes to fill first.
    pub populate: Vec<Populate>,
}

/// Adds a process to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container.
    pub id: String,
    /// Its first process.
    pub init: i32,
    /// What to run; only the process's part counts.
    pub plan: Plan,
    /// As in [`RunRequest`].
    pub state: PathBuf,
    /// A file to be written for the engine.
    pub process: PathBuf,
    /// Socket that takes the terminal.
    pub console: Option<PathBuf>,
}

/// Makes processes in containers. Standard streams are those of the calling process.
pub trait Engine {
    /// Makes the container and lets its process go; its pid.
    fn run(&self, request: &RunRequest) -> Result<i32, EngineError>;
    /// Adds a process; its pid.
    fn exec(&self, request: &ExecRequest) -> Result<i32, EngineError>;
}

/// libcontainer, in this process. Only for a process with one thread that ends afterwards: see the crate's page.
#[derive(Debug, Clone, Copy, Default)]
pub struct Libcontainer;

impl Engine for Libcontainer {
    fn run(&self, request: &RunRequest) -> Result<i32, EngineError> {
        mount_root(&request.overlay)?;
        let who = identity(&request.overlay.merged, &request.plan)?;
        for volume in &request.populate {
            populate(&request.overlay.merged, volume)?;
        }
        let root = &request.overlay.merged;
        make_working_directory(root, &request.plan)?;
        let spec = request.plan.spec(root, &who)?;
        let spec: Spec = serde_json::from_value(spec).map_err(|error| {
            EngineError::other(format!(
                "the container's configuration is not valid: {error}"
            ))
        })?;
        spec.save(request.bundle.join("config.json"))
            .map_err(failed("write the container's configuration"))?;
        let mut container = ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_executor(Command)
            .with_root_path(&request.state)
            .map_err(failed("open the state directory"))?
            .with_console_socket(request.console.as_ref())
            .validate_id()
            .map_err(failed("use the container's id"))?
            .as_init(&request.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(failed("create the container"))?;
        let pid = container
            .pid()
            .ok_or_else(|| EngineError::other("the engine gave no process"))?
            .as_raw();
        if request.plan.wants_filter()
            && let Err(error) = confirm_filter(pid)
        {
            let _ = container.delete(true);
            return Err(error);
        }
        container.start().map_err(failed("start the container"))?;
        Ok(pid)
    }

    fn exec(&self, request: &ExecRequest) -> Result<i32, EngineError> {
        let root = PathBuf::from(format!("/proc/{}/root", request.init));
        let who = identity(&root, &request.plan)?;
        find_working_directory(&root, &request.plan.cwd)?;
        let process = request.plan.process(&who)?;
        std::fs::write(&request.process, process.to_string())
            .map_err(failed("write the process's configuration"))?;
        let pid = ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_executor(Command)
            .with_root_path(&request.state)
            .map_err(failed("open the state directory"))?
            .with_console_socket(request.console.as_ref())
            .as_tenant()
            .with_process(Some(&request.process))
            .with_detach(true)
            .build()
            .map_err(failed("start the process"))?;
        Ok(pid.as_raw())
    }
}

/// Mounts the layers in a mount namespace of our own, so that the mount lives exactly as long as the container
/// that inherits it, and no crash leaves one behind.
fn mount_root(overlay: &Overlay) -> Result<(), EngineError> {
    syscalls::namespace::unshare_mounts().map_err(failed("leave the host's mounts"))?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(failed("keep mounts from the host"))?;
    let layers = overlay
        .lowers
        .first()
        .and_then(|path| path.parent())
        .and_then(Path::parent);
    // Relative names keep 127 layers within the one page that mount options may have.
    let base = layers.ok_or_else(|| EngineError::other("the image has no layers"))?;
    let mut lowers = String::new();
    for path in &overlay.lowers {
        let short = path.strip_prefix(base).unwrap_or(path);
        if !lowers.is_empty() {
            lowers.push(':');
        }
        lowers.push_str(&short.to_string_lossy());
    }
    std::env::set_current_dir(base).map_err(failed("enter the layers' directory"))?;
    let options = format!(
        "lowerdir={lowers},upperdir={},workdir={},metacopy=off,redirect_dir=off,index=off",
        overlay.upper.display(),
        overlay.work.display()
    );
    let target = &overlay.merged;
    let options_text =
        std::ffi::CString::new(options.clone()).map_err(failed("name the layers"))?;
    let mounted = if options.len() < 4000 {
        rustix::mount::mount(
            "overlay",
            target,
            "overlay",
            MountFlags::empty(),
            options_text.as_c_str(),
        )
        .map_err(std::io::Error::from)
    } else {
        mount_many(overlay, base)
    };
    let left = std::env::set_current_dir("/");
    mounted.map_err(failed("mount the container's root"))?;
    left.map_err(failed("return to the root"))
}

/// More layers than one page of options holds: one option after the other (Linux 6.5 and later).
fn mount_many(overlay: &Overlay, base: &Path) -> std::io::Result<()> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for path in &overlay.lowers {
        fsconfig_set_string(&context, "lowerdir+", base.join(path))?;
    }
    fsconfig_set_string(&context, "upperdir", &overlay.upper)?;
    fsconfig_set_string(&context, "workdir", &overlay.work)?;
    for option in ["metacopy", "redirect_dir", "index"] {
        fsconfig_set_string(&context, option, "off")?;
    }
    fsconfig_create(&context)?;
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    move_mount(
        &mount,
        "",
        rustix::fs::CWD,
        &overlay.merged,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

fn failed<E: std::error::Error + 'static>(what: &'static str) -> impl FnOnce(E) -> EngineError {
    move |error| {
        let mut message = format!("failed to {what}: {error}");
        let mut source = error.source();
        let mut kind = ErrorKind::Other;
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        // Our executor's words come back through two processes as text only.
        if let Some(at) = message.find(NOT_FOUND) {
            kind = ErrorKind::CommandNotFound;
            message = tidy(
                &message[at + NOT_FOUND.len()..],
                "executable file not found in $PATH",
            );
        } else if let Some(at) = message.find(NOT_EXECUTABLE) {
            kind = ErrorKind::CommandNotExecutable;
            message = tidy(&message[at + NOT_EXECUTABLE.len()..], "permission denied");
        }
        EngineError { kind, message }
    }
}

/// `name>` and what follows, as docker says it.
fn tidy(rest: &str, why: &str) -> String {
    let name = rest.split('>').next().unwrap_or_default();
    format!("failed to create task for container: exec: \"{name}\": {why}: unknown")
}

const NOT_FOUND: &str = "<command not found ";
const NOT_EXECUTABLE: &str = "<command not executable ";

/// Checks the command as the kernel will find it, and runs it as libcontainer does.
#[derive(Clone)]
struct Command;

impl Executor for Command {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        DefaultExecutor {}.exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let name = process
            .and_then(|process| process.args().as_ref())
            .and_then(|args| args.first())
            .cloned()
            .unwrap_or_default();
        let path = process
            .and_then(|process| process.env().as_ref())
            .and_then(|env| env.iter().find_map(|entry| entry.strip_prefix("PATH=")))
            .unwrap_or_default();
        match look_up(&name, path) {
            Found::Yes => Ok(()),
            Found::NotExecutable => Err(ExecutorValidationError::ArgValidationError(format!(
                "{NOT_EXECUTABLE}{name}>"
            ))),
            Found::No => Err(ExecutorValidationError::ArgValidationError(format!(
                "{NOT_FOUND}{name}>"
            ))),
        }
    }
}

enum Found {
    Yes,
    NotExecutable,
    No,
}

fn look_up(name: &str, path: &str) -> Found {
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        path.split(':')
            .map(|directory| Path::new(directory).join(name))
            .collect()
    };
    let mut result = Found::No;
    for candidate in candidates {
        match candidate.metadata() {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Found::Yes;
            }
            Ok(_) => result = Found::NotExecutable,
            Err(_) => {}
        }
    }
    result
}

/// The kernel's word that a filter is active, before anything of the container's ran.
fn confirm_filter(pid: i32) -> Result<(), EngineError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(failed("read the process's status"))?;
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .map(str::trim);
    if mode == Some("2") {
        return Ok(());
    }
    Err(EngineError::other(
        "the system call filter is not active in the new container; refusing to run it without (--security-opt seccomp=unconfined runs it anyway)",
    ))
}

fn in_root(root: &Path, path: &str) -> std::io::Result<std::fs::File> {
    let directory = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let file = rustix::fs::openat2(
        &directory,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    Ok(file.into())
}

fn database(root: &Path, path: &str) -> String {
    let mut text = Vec::new();
    // Absent in images of a single program; something else than a file counts as absent.
    if let Ok(file) = in_root(root, path)
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        let _ = file.take(MAX_DATABASE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn identity(root: &Path, plan: &Plan) -> Result<Identity, EngineError> {
    let (passwd, group) = (database(root, "etc/passwd"), database(root, "etc/group"));
    users::resolve(&plan.user, &passwd, &group, &plan.groups)
        .map_err(|error| EngineError::other(error.to_string()))
}

/// A process that is added makes no directory; libcontainer would say only "ENOENT", four times.
fn find_working_directory(root: &Path, cwd: &str) -> Result<(), EngineError> {
    let why = match in_root(root, cwd).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "not a directory".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "no such file or directory".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(EngineError {
        kind: ErrorKind::CommandNotExecutable,
        message: format!("chdir to cwd ({cwd:?}) in the container failed: {why}"),
    })
}

/// Docker makes a missing working directory.
fn make_working_directory(root: &Path, plan: &Plan) -> Result<(), EngineError> {
    if plan.cwd.is_empty() || plan.cwd == "/" || in_root(root, &plan.cwd).is_ok() {
        return Ok(());
    }
    let mut here = String::new();
    for part in plan
        .cwd
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            return Err(EngineError::other(format!(
                "the working directory {:?} has a part \"..\"",
                plan.cwd
            )));
        }
        let parent = in_root(root, &here).map_err(failed("make the working directory"))?;
        match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed("make the working directory")(error)),
        }
        here.push('/');
        here.push_str(part);
    }
    Ok(())
}

fn populate(root: &Path, volume: &Populate) -> Result<(), EngineError> {
    let source = match in_root(root, &volume.from) {
        Ok(source) if source.metadata().is_ok_and(|metadata| metadata.is_dir()) => source,
        _ => return Ok(()),
    };
    crate::helper::copy_tree(&source, &volume.to).map_err(failed("fill a volume from the image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_executor_become_kinds() {
        #[derive(Debug, thiserror::Error)]
        #[error("exec process failed with error {0}")]
        struct Outer(String);
        let error =
            failed("create the container")(Outer(format!("in init: {NOT_FOUND}nope> more")));
        assert_eq!(error.kind, ErrorKind::CommandNotFound);
        assert!(
            error
                .message
                .contains("exec: \"nope\": executable file not found in $PATH")
        );
        assert_eq!(failed("x")(Outer("y".into())).kind, ErrorKind::Other);
    }

    #[test]
    fn a_working_directory_is_looked_for_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        std::os::unix::fs::symlink("/d", dir.path().join("l")).unwrap();
        for (cwd, why) in [
            ("", ""),
            ("/", ""),
            ("/d", ""),
            ("/l", ""),
            ("/f", "not a directory"),
            ("/usr", "no such file or directory"),
        ] {
            let found = find_working_directory(dir.path(), cwd);
            match found {
                Ok(()) => assert_eq!(why, "", "{cwd}"),
                Err(error) => {
                    assert!(
                        !why.is_empty() && error.message.ends_with(why),
                        "{cwd}: {error}"
                    );
                    assert_eq!(error.kind, ErrorKind::CommandNotExecutable);
                }
            }
        }
    }

    #[test]
    fn databases_resolve_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/passwd", dir.path().join("etc/passwd"))
            .unwrap();
        assert_eq!(database(dir.path(), "etc/passwd"), "");
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "a:x:1:2::/:\n").unwrap();
        assert_eq!(database(dir.path(), "etc/passwd"), "a:x:1:2::/:\n");
    }
}
