//! Against Debian's docker-registry on an ephemeral port: push, pull, wrong bytes, missing names, mirrors.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use oci_image::build::{Item, single_layer};
use oci_image::manifest::RunConfig;
use oci_image::pull::{Options, Step, pull};
use oci_image::push::push_built;
use oci_image::registry::RegistryConfig;
use oci_image::{Reference, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Registry {
    home: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Registry {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = home.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
            home.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Registry {
            home,
            port,
            process,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    fn name(&self, rest: &str) -> Reference {
        format!("127.0.0.1:{}/{rest}", self.port).parse().unwrap()
    }

    /// Every blob's file whose content is longer than `least`.
    fn damage(&self, least: usize) {
        let mut stack = vec![self.home.path().join("data")];
        while let Some(directory) = stack.pop() {
            for item in fs::read_dir(directory).unwrap().flatten() {
                let path = item.path();
                if path.is_dir() {
                    stack.push(path);
                } else if path.ends_with("data")
                    && fs::metadata(&path).unwrap().len() > least as u64
                {
                    let mut bytes = fs::read(&path).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn image() -> oci_image::build::Built {
    let mut noise = 1u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(200_000)
    .collect();
    let files = BTreeMap::from([
        ("/bin".to_owned(), Item::Directory),
        ("/bin/server".to_owned(), Item::File { bytes, mode: 0o755 }),
        ("/bin/alias".to_owned(), Item::Symlink("server".into())),
    ]);
    let run = RunConfig {
        cmd: vec!["/bin/server".into()],
        ..RunConfig::default()
    };
    single_layer(&files, run).unwrap()
}

#[test]
fn what_is_pushed_is_pulled_once_and_reused() {
    let registry = Registry::start();
    let (name, built, config) = (
        registry.name("team/web:1"),
        image(),
        RegistryConfig::default(),
    );
    let digest = push_built(&config, &name, &built).unwrap();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("store")).unwrap();
    let pulled = pull(&store, &config, &name, Options::default(), &()).unwrap();
    assert_eq!(
        (pulled.digest, &pulled.image.id, pulled.new),
        (digest.clone(), &built.id(), true)
    );
    let files = store.lowers(&pulled.image.chain);
    assert_eq!(fs::read(files[0].join("bin/alias")).unwrap().len(), 200_000);
    assert!(
        !pull(&store, &config, &name, Options::default(), &())
            .unwrap()
            .new
    );
    assert_eq!(
        store.find(&pulled.image.id.hex()[..8]).unwrap(),
        pulled.image
    );
    let by_digest: Reference = format!(
        "{}@{digest}",
        registry.name("team/web").familiar_repository()
    )
    .parse()
    .unwrap();
    pull(&store, &config, &by_digest, Options::default(), &()).unwrap();
    assert_eq!(
        fs::read_dir(home.path().join("store/tmp")).unwrap().count(),
        0
    );
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let registry = Registry::start();
    let (name, config) = (registry.name("web"), RegistryConfig::default());
    push_built(&config, &name, &image()).unwrap();
    registry.damage(100_000);
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let error = pull(&store, &config, &name, Options::default(), &())
        .unwrap_err()
        .to_string();
    assert!(error.contains("wrong digest"), "{error}");
    assert!(store.images().unwrap().is_empty() && store.references().unwrap().is_empty());
    assert_eq!(fs::read_dir(home.path().join("layers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_missing_tag_and_a_dead_registry_are_named() {
    let registry = Registry::start();
    let config = RegistryConfig::default();
    push_built(&config, &registry.name("web:1"), &image()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let fail = |name: &Reference| {
        pull(&store, &config, name, Options::default(), &())
            .unwrap_err()
            .to_string()
    };
    assert!(fail(&registry.name("web:2")).contains("manifest unknown"));
    let none = fail(&registry.name("nothing"));
    assert!(
        none.contains("repository does not exist") || none.contains("manifest unknown"),
        "{none}"
    );
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let dead = fail(&format!("127.0.0.1:{free}/web").parse().unwrap());
    assert!(dead.contains(&free.to_string()), "{dead}");
}

#[test]
fn a_mirror_serves_names_of_docker_io_with_its_path_unchanged() {
    let registry = Registry::start();
    let plain = RegistryConfig::default();
    push_built(&plain, &registry.name("dockerfile/elasticsearch"), &image()).unwrap();
    let config = RegistryConfig {
        mirrors: vec![format!("http://127.0.0.1:{}", registry.port)],
        ..RegistryConfig::default()
    };
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let name: Reference = "dockerfile/elasticsearch".parse().unwrap();
    pull(&store, &config, &name, Options::default(), &()).unwrap();
    assert_eq!(
        store.references().unwrap()[0].0.to_string(),
        "dockerfile/elasticsearch:latest"
    );
}

/// Passes requests on, but breaks each blob's body after `piece` bytes.
fn breaking_proxy(target: u16, piece: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut client = client;
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") {
                    match client.read(&mut byte) {
                        Ok(1) => request.push(byte[0]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&request)
                    .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                if !text.starts_with("GET") {
                    return;
                }
                let mut server = TcpStream::connect(("127.0.0.1", target)).unwrap();
                server.write_all(text.as_bytes()).unwrap();
                let mut answer = Vec::new();
                let _ = server.read_to_end(&mut answer);
                let head = answer
                    .windows(4)
                    .position(|window| window == b"\r\n\r\n")
                    .map_or(answer.len(), |at| at + 4);
                let end = if text.contains("/blobs/") {
                    answer.len().min(head + piece)
                } else {
                    answer.len()
                };
                let _ = client.write_all(&answer[..end]);
            });
        }
    });
    port
}

#[test]
fn a_breaking_connection_is_resumed() {
    struct Count(std::sync::Mutex<Vec<u64>>);
    impl oci_image::pull::Progress for Count {
        fn layer(&self, _: &oci_image::manifest::Descriptor, step: Step) {
            if let Step::Downloading(bytes) = step {
                self.0.lock().unwrap().push(bytes);
            }
        }
    }
    let registry = Registry::start();
    push_built(&RegistryConfig::default(), &registry.name("web"), &image()).unwrap();
    let port = breaking_proxy(registry.port, 60_000);
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let name: Reference = format!("127.0.0.1:{port}/web").parse().unwrap();
    let count = Count(std::sync::Mutex::default());
    pull(
        &store,
        &RegistryConfig::default(),
        &name,
        Options::default(),
        &count,
    )
    .unwrap();
    let seen = count.0.into_inner().unwrap();
    assert!(
        seen.windows(2).all(|pair| pair[0] < pair[1]),
        "never starts again: {seen:?}"
    );
}
