//! Debian's docker-registry on the host's loopback, for containers without the Internet.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::oci;
use crate::process::{Owned, wait_for};

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Owned,
    /// Port on 127.0.0.1; machines see it at 10.0.2.2.
    pub port: u16,
    dir: PathBuf,
}

impl Registry {
    /// Starts it with its data in `dir`.
    ///
    /// # Errors
    /// Where the port is taken, with a word on who may hold it.
    pub fn start(dir: &Path, port: u16, detach: bool) -> Result<Registry> {
        fs::create_dir_all(dir)?;
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            bail!("port {port} of this host is taken; `ss -tlnp sport = :{port}` shows by whom");
        }
        let config = dir.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
                dir.join("data").display()
            ),
        )?;
        let mut c = Command::new("docker-registry");
        c.arg("serve").arg(&config);
        let process = Owned::start(&mut c, &dir.join("log"), detach)?;
        wait_for("the registry", Duration::from_secs(20), || {
            Ok(TcpStream::connect(("127.0.0.1", port))
                .is_ok()
                .then_some(()))
        })?;
        Ok(Registry {
            process,
            port,
            dir: dir.into(),
        })
    }

    /// Pid, for the cluster's record.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Builds an image of one static program and pushes it.
    pub fn publish(&self, name: &str, spec: oci::Spec<'_>) -> Result<()> {
        let dir = self.dir.join("layout");
        oci::layout(spec, &dir)?;
        oci::push(&dir, self.port, name)?;
        fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
