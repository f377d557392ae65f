//! Child processes that end with their owner, and waiting with a deadline.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child that is killed, by its own pid, when this value goes.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    keep: bool,
}

impl Owned {
    /// Starts `command` with its output in `log`. `detach`: it outlives us (for `up`), so it gets a session of its own.
    pub fn start(command: &mut Command, log: &Path, detach: bool) -> Result<Owned> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let name = command.get_program().display().to_string();
        command.stdout(out.try_clone()?).stderr(out);
        if detach {
            command.stdin(Stdio::null());
        } else {
            command.stdin(Stdio::piped());
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}; is it installed?"))?;
        Ok(Owned {
            child,
            keep: detach,
        })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL and reap: a power cut.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}

/// Calls `ready` until it gives a value or `limit` is over; `what` names it in the error.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut last = None;
    loop {
        match ready() {
            Ok(Some(v)) => return Ok(v),
            Ok(None) => {}
            Err(e) => last = Some(e),
        }
        if start.elapsed() >= limit {
            match last {
                Some(e) => {
                    return Err(e)
                        .with_context(|| format!("waited {} s for {what}", limit.as_secs()));
                }
                None => bail!("waited {} s for {what}", limit.as_secs()),
            }
        }
        sleep(Duration::from_millis(250));
    }
}
