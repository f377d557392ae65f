//! Debian's docker-registry on the host's loopback, for containers without the Internet.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oci_image::build::{Item, single_layer};
use oci_image::manifest::RunConfig;
use oci_image::push::push_built;
use oci_image::registry::RegistryConfig;

use crate::process::{Owned, port_holder, wait_for};

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Owned,
    /// Port on 127.0.0.1; machines see it at 10.0.2.2.
    pub port: u16,
}

impl Registry {
    /// Starts it with its data in `dir`.
    ///
    /// # Errors
    /// Where the port is taken, with a word on who may hold it.
    pub fn start(dir: &Path, port: u16, detach: bool) -> Result<Registry> {
        fs::create_dir_all(dir)?;
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            bail!(
                "port {port} of this host, which the machines' registry needs, is taken{}; end that first",
                port_holder(port)
            );
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
        Ok(Registry { process, port })
    }

    /// Pid, for the cluster's record.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Pushes an image `name` whose only content is the static `program`, at `/web`, run as `/web PORT`.
    ///
    /// # Errors
    /// Where the program cannot be read, or the registry refuses it.
    pub fn publish_web(&self, name: &str, program: &Path, ports: &[u16]) -> Result<()> {
        let first = ports.first().context("an image needs a port")?;
        let run = RunConfig {
            cmd: vec!["/web".into(), first.to_string()],
            env: vec!["PATH=/".into()],
            exposed_ports: ports
                .iter()
                .map(|p| (format!("{p}/tcp"), serde_json::json!({})))
                .collect(),
            ..RunConfig::default()
        };
        self.publish(name, program, "/web", &[], run)
    }

    /// Pushes an image `busybox` of Debian's static busybox, with the applets `applets` in /bin.
    ///
    /// # Errors
    /// As [`Registry::publish_web`].
    pub fn publish_busybox(&self, applets: &[&str]) -> Result<()> {
        let run = RunConfig {
            cmd: vec!["/bin/sh".into()],
            env: vec!["PATH=/bin".into()],
            ..RunConfig::default()
        };
        let program = Path::new("/bin/busybox");
        self.publish("busybox", program, "/bin/busybox", applets, run)
            .context("package busybox-static")
    }

    /// Pushes an image of one static `program`, at `place`, with `links` to it beside it.
    fn publish(
        &self,
        name: &str,
        program: &Path,
        place: &str,
        links: &[&str],
        run: RunConfig,
    ) -> Result<()> {
        let bytes =
            fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let mut files = BTreeMap::from([(place.to_string(), Item::File { bytes, mode: 0o755 })]);
        for dir in ["/bin", "/tmp", "/etc", "/proc", "/sys", "/dev"] {
            files.insert(dir.to_string(), Item::Directory);
        }
        for link in links {
            files.insert(format!("/bin/{link}"), Item::Symlink(place.to_string()));
        }
        let built = single_layer(&files, run)?;
        let name = format!("127.0.0.1:{}/{name}", self.port).parse()?;
        push_built(&RegistryConfig::default(), &name, &built)?;
        Ok(())
    }
}
