//! What one whole-system test stands on: image, accelerator, a LAN, a registry with the test images, machines.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accel::{self, Accel};
use crate::examples;
use crate::image::Image;
use crate::machine::{Machine, MachineSpec, ssh_key};
use crate::registry::Registry;
use crate::seed::Seed;
use crate::segment::Segment;

/// Port of the registry: the examples name it.
pub const REGISTRY_PORT: u16 = 5000;

/// One test's surroundings; all of it ends with the value.
#[derive(Debug)]
pub struct World {
    /// The built image.
    pub image: Image,
    /// How guests run.
    pub accel: Accel,
    /// Files of this test.
    pub dir: PathBuf,
    /// The LAN.
    pub lan: Segment,
    key: PathBuf,
    public_key: String,
    registry: Option<Registry>,
}

impl World {
    /// A LAN and a key, in a new directory named for `test`.
    pub fn new(test: &str) -> Result<World> {
        let image = Image::find()?;
        let accel = accel::probe(
            &image.file("vmlinuz"),
            &std::env::temp_dir().join("flotilla-accel"),
        )?;
        // Short: unix socket paths end at 107 bytes.
        let dir = std::env::temp_dir().join(format!("fl-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let (key, public_key) = ssh_key(&dir)?;
        let lan = Segment::start(&dir, false)?;
        Ok(World {
            image,
            accel,
            dir,
            lan,
            key,
            public_key,
            registry: None,
        })
    }

    /// Starts the registry with `web` (port 8080), `dockerfile/elasticsearch` (port 9200) and `busybox`.
    pub fn with_registry(mut self) -> Result<World> {
        let registry = Registry::start(&self.dir.join("registry"), REGISTRY_PORT, false)?;
        let web = web_program()?;
        registry.publish_web("web", &web, &[8080])?;
        registry.publish_web("dockerfile/elasticsearch", &web, &[9200, 9300])?;
        registry.publish_busybox(&["sh", "cat", "id", "sleep", "tty"])?;
        self.registry = Some(registry);
        Ok(self)
    }

    /// The documents of machine `number` with this `user_data`; its fixed address, the test's key, the mirror.
    #[must_use]
    pub fn seed(&self, number: u8, user_data: &str) -> Seed {
        Seed {
            meta_data: format!("instance-id: test-{number}\nlocal-hostname: node{number}\n"),
            user_data: user_data.into(),
            vendor_data: examples::vendor_data(&self.public_key, REGISTRY_PORT),
            network_config: Some(MachineSpec::new(number, 0).static_network()),
        }
    }

    /// The private key of this test; its public half is beside it.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// A machine with a forwarded ssh port, not started.
    pub fn spec(&self, number: u8) -> Result<MachineSpec> {
        let spec = MachineSpec::new(number, free_port()?);
        self.lan.forward(spec.ssh_port, &spec.address, 22)?;
        Ok(spec)
    }

    /// Forwards a free port of this host to `address`:`port` and returns it.
    pub fn forward(&self, address: &str, port: u16) -> Result<u16> {
        let host = free_port()?;
        self.lan.forward(host, address, port)?;
        Ok(host)
    }

    /// Starts a machine.
    pub fn start(&self, spec: MachineSpec) -> Result<Machine> {
        Machine::start(
            spec,
            &self.image,
            self.accel,
            &self.dir,
            &self.lan.switch(),
            &self.key,
            false,
        )
    }

    /// Starts machine `number` with `user_data` and waits for its ssh.
    pub fn boot(&self, number: u8, user_data: &str) -> Result<Machine> {
        let mut spec = self.spec(number)?;
        spec.seed = Some(self.seed(number, user_data));
        let mut m = self.start(spec)?;
        m.wait_ssh(Duration::from_secs(180))?;
        Ok(m)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("FLOTILLA_KEEP").is_some() {
            eprintln!("files of the failed test: {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The static web server that the test images carry.
pub fn web_program() -> Result<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("FLOTILLA_STATIC")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    places.push(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/static"),
    );
    places
        .iter()
        .map(|d| d.join("web"))
        .find(|p| p.exists())
        .context("no static web server; `cargo xtask image` builds it")
}

/// A port of this host that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// GET / of a port of this host; the body.
pub fn http_get(port: u16) -> Result<String> {
    use std::io::Read;
    let mut s = std::net::TcpStream::connect(("127.0.0.1", port))?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    s.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.contains("200") {
        bail!("{head}");
    }
    Ok(body.to_string())
}

impl Machine {
    /// Writes `text` to the file `name` in core's home.
    pub fn upload(&self, name: &str, text: &[u8]) -> Result<()> {
        for _ in 0..4 {
            let mut child = self
                .ssh_command()
                .arg(format!("cat > '{name}'"))
                .stdin(Stdio::piped())
                .spawn()?;
            let sent = child
                .stdin
                .take()
                .context("no pipe to ssh")?
                .write_all(text);
            if child.wait()?.success() && sent.is_ok() {
                return Ok(());
            }
        }
        bail!("cannot write {name} on {}", self.spec.name)
    }

    /// Waits until the machine counts this boot as done and its slot as good.
    pub fn wait_good(&self) -> Result<()> {
        self.wait_until(
            "mark-good",
            Duration::from_secs(240),
            // Waited for on the machine: a new ssh connection for each look costs more than the boot itself.
            "n=0; until systemctl is-active -q update-mark-good.service; do n=$((n+1)); test $n -lt 100 || exit 1; sleep 0.3; done",
        )?;
        Ok(())
    }
}

impl Machine {
    /// Waits until the console shows `text`.
    pub fn wait_console(&self, text: &str, limit: Duration) -> Result<()> {
        crate::process::wait_for(
            &format!("{text:?} on the console of {}", self.spec.name),
            limit,
            || Ok(self.console().contains(text).then_some(())),
        )
        .with_context(|| self.console_tail())
    }

    /// Types on the console, no faster than a serial port's few bytes of buffer take it.
    pub fn type_console(&self, text: &str) -> Result<()> {
        let mut s = std::os::unix::net::UnixStream::connect(self.dir().join("console.sock"))?;
        for b in text.as_bytes() {
            s.write_all(&[*b])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Debian's own `program`s with the libraries they need, as a tar archive to unpack on a machine: run them through
/// `./run PROGRAM ARGS`. Taken from the peer tree that `image-build peer` unpacks ([`crate::debian::peer`]).
pub fn debian_programs(programs: &[&str]) -> Result<Vec<u8>> {
    let root = crate::debian::peer()?;
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    let path = format!("{}:{}", lib.display(), lib.join("systemd").display());
    let mut tar = tar::Builder::new(Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    for p in programs {
        let file = root.join("usr/bin").join(p);
        tar.append_path_with_name(&file, format!("bin/{p}"))?;
        let out = std::process::Command::new(&loader)
            .args(["--library-path", &path, "--list"])
            .arg(&file)
            .output()?;
        for word in String::from_utf8_lossy(&out.stdout)
            .split_whitespace()
            .filter(|w| w.starts_with(&*root.to_string_lossy()))
        {
            let from = Path::new(word);
            if let Some(name) = from.file_name().filter(|n| seen.insert(n.to_os_string())) {
                tar.append_path_with_name(from.canonicalize()?, Path::new("lib").join(name))?;
            }
        }
    }
    let run = b"#!/bin/sh\nhere=$(dirname \"$0\")\nprogram=$1\nshift\nexec \"$here/lib/ld-linux-x86-64.so.2\" --library-path \"$here/lib\" --argv0 \"$program\" \"$here/bin/$program\" \"$@\"\n";
    let mut h = tar::Header::new_ustar();
    h.set_mode(0o755);
    h.set_size(run.len() as u64);
    tar.append_data(&mut h, "run", &run[..])?;
    tar.append_path_with_name(loader.canonicalize()?, "lib/ld-linux-x86-64.so.2")?;
    Ok(tar.into_inner()?)
}
