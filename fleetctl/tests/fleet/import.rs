//! Taking over an original cluster's registry, from a real etcd with its v2 API on.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Cluster, eventually};

/// Debian's etcd 3.4 as an old cluster's, and its own client to fill it.
struct OldEtcd {
    url: String,
    child: Child,
    _dir: TempDir,
}

impl OldEtcd {
    fn start(v2: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = ports.map(|l| format!("http://{}", l.local_addr().unwrap()));
        let child = Command::new("etcd")
            .args(["--name", "old", "--log-level", "error", "--unsafe-no-fsync"])
            .arg(format!("--enable-v2={v2}"))
            .arg("--data-dir")
            .arg(dir.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("old={peer}")])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed (Debian: etcd-server)");
        let old = Self {
            url: client,
            child,
            _dir: dir,
        };
        eventually("the old etcd is healthy", || {
            let out = old.etcdctl("3", &["endpoint", "health"]);
            out.is_some()
        });
        old
    }

    fn etcdctl(&self, api: &str, args: &[&str]) -> Option<String> {
        let out = Command::new("etcdctl")
            .env("ETCDCTL_API", api)
            .args(["--endpoints", &self.url])
            .args(args)
            .output()
            .expect("etcdctl is installed (Debian: etcd-client)");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status.success().then_some(text)
    }

    fn set(&self, key: &str, value: &str) {
        let key = format!("/_coreos.com/fleet/{key}");
        self.etcdctl("2", &["set", "--", &key, value]).unwrap();
    }

    /// Stores a unit as the original does.
    fn unit(&self, name: &str, text: &str, target: &str) {
        let file = fleet_model::UnitFile::parse(text).unwrap();
        let hash = file.hash();
        let raw = serde_json::json!({"Raw": file.to_string()}).to_string();
        self.set(&format!("unit/{hash}"), &raw);
        let bytes: Vec<u8> = (0..20)
            .map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let object = serde_json::json!({"Name": name, "UnitHash": bytes}).to_string();
        self.set(&format!("job/{name}/object"), &object);
        self.set(&format!("job/{name}/target-state"), target);
    }

    /// All keys in it, with the number of its last change.
    fn dump(&self) -> Vec<String> {
        let keys = self
            .etcdctl("2", &["ls", "--recursive", "/_coreos.com"])
            .unwrap();
        let mut lines: Vec<String> = keys.lines().map(str::to_owned).collect();
        lines.sort();
        let stats = self.etcdctl(
            "2",
            &[
                "-o",
                "extended",
                "get",
                "/_coreos.com/fleet/job/a.service/object",
            ],
        );
        lines.extend(
            stats
                .unwrap()
                .lines()
                .filter(|l| l.starts_with("Etcd-Index"))
                .map(str::to_owned),
        );
        lines
    }
}

impl Drop for OldEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const A: &str = "[Service]\nExecStart=/bin/a\n";
const B: &str = "[Service]\nExecStart=/bin/b\n";

fn filled() -> OldEtcd {
    let old = OldEtcd::start(true);
    old.unit("a.service", A, "launched");
    old.unit("b.service", B, "loaded");
    old.unit("kept.service", A, "launched");
    old.unit("same.service", A, "inactive");
    old.unit("web@.service", A, "inactive");
    old.set("job/stale.service/target", "m1");
    old.set(
        "job/lost.service/object",
        r#"{"Name":"lost.service","UnitHash":[1,2,3]}"#,
    );
    old.set(
        "machines/00000000000000000000000000000000/metadata/disk",
        "ssd",
    );
    old.set(
        "machines/00000000000000000000000000000000/metadata/zone",
        "other",
    );
    old
}

fn cluster() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.write("kept.service", B);
    cluster.write("same.service", A);
    cluster.well(&["submit", "kept", "same"]);
    cluster
}

#[test]
fn an_original_clusters_units_are_taken_over() {
    let old = filled();
    let before = old.dump();
    let cluster = cluster();
    let url = old.url.as_str();
    let listing = ["list-unit-files", "--no-legend", "--fields", "unit,dstate"];
    let untouched = "kept.service\tinactive\nsame.service\tinactive\n";

    let ran = cluster.fleetctl(&["import", "--from-etcd2", url, "--dry-run", "--metadata"]);
    assert_eq!(ran.code, 1, "one unit cannot be taken over: {ran:?}");
    let action = |name: &str| {
        let line = ran.out.lines().find(|l| l.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {}", ran.out));
        line.split('\t')
            .filter(|cell| !cell.is_empty())
            .nth(1)
            .unwrap()
            .to_owned()
    };
    for (name, expect) in [
        ("a.service", "create"),
        ("b.service", "create"),
        ("kept.service", "keep"),
        ("lost.service", "refuse"),
        ("same.service", "same"),
        ("stale.service", "skip"),
        ("web@.service", "create"),
    ] {
        assert_eq!(action(name), expect, "{name}");
    }
    assert!(
        ran.out
            .ends_with("3 create, 1 keep, 1 refuse, 1 same, 1 skip; nothing was written\n"),
        "{}",
        ran.out
    );
    assert_eq!(
        cluster.well(&listing),
        untouched,
        "a dry run changes nothing"
    );

    let ran = cluster.fleetctl(&["import", "--from-etcd2", url, "--metadata"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(
        cluster.well(&listing),
        "a.service\tlaunched\nb.service\tloaded\nkept.service\tinactive\n\
         same.service\tinactive\nweb@.service\tinactive\n"
    );
    assert_eq!(cluster.well(&["cat", "kept"]), B, "what is here stays");
    assert_eq!(cluster.well(&["cat", "a"]), A);
    assert_eq!(
        cluster.well(&["list-machines", "--no-legend", "--fields=metadata"]),
        "disk=ssd,index=1,zone=z1\n",
        "metadata is added, not overwritten"
    );
    eventually("what was launched is launched here", || {
        cluster.starts("a.service") == 1
    });

    // Once more there is nothing left to do; asked to, it takes the old texts.
    let ran = cluster.fleetctl(&["import", "--from-etcd2", url]);
    assert!(
        ran.out.ends_with("1 keep, 1 refuse, 4 same, 1 skip\n"),
        "{}",
        ran.out
    );
    let ran = cluster.fleetctl(&[
        "--json",
        "import",
        "--from-etcd2",
        url,
        "--replace",
        "--metadata",
    ]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let replaced: Vec<_> = document["units"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|u| u["action"] == "replace")
        .map(|u| u["unit"].clone())
        .collect();
    assert_eq!(replaced, ["kept.service"]);
    assert_eq!(cluster.well(&["cat", "kept"]), A);
    let metadata = cluster.well(&["list-machines", "--no-legend", "--fields=metadata"]);
    assert_eq!(metadata, "disk=ssd,index=1,zone=other\n");
    assert_eq!(old.dump(), before, "the old cluster is only read");
}

#[test]
fn units_can_be_taken_over_without_starting_them() {
    let old = OldEtcd::start(true);
    old.unit("a.service", A, "launched");
    let cluster = Cluster::start(1);
    let out = cluster.well(&["import", "--from-etcd2", &old.url, "--inactive"]);
    assert!(out.contains("\n1 create\n"), "{out}");
    let out = cluster.well(&["list-unit-files", "--no-legend", "--fields", "unit,dstate"]);
    assert_eq!(out, "a.service\tinactive\n");
}

#[test]
fn an_old_etcd_with_users_is_read_by_one_who_may() {
    let old = OldEtcd::start(true);
    old.unit("a.service", A, "launched");
    let root = |args: &[&str]| {
        let args = [&["--username", "root:s3cret"][..], args].concat();
        old.etcdctl("2", &args).unwrap();
    };
    old.etcdctl("2", &["user", "add", "root:s3cret"]).unwrap();
    old.etcdctl("2", &["auth", "enable"]).unwrap();
    // At first everybody may still do everything.
    root(&["role", "revoke", "guest", "--path", "/*", "--readwrite"]);
    let cluster = Cluster::start(1);
    cluster.write("good", "s3cret\n");
    cluster.write("bad", "secret\n");
    let import = |args: &[&str]| {
        let url = old.url.as_str();
        let all = [
            &["--debug", "import", "--from-etcd2", url, "--inactive"],
            args,
        ]
        .concat();
        cluster.fleetctl(&all)
    };
    let with = |file| import(&["--etcd2-username", "root", "--etcd2-password-file", file]);
    for ran in [import(&[]), with("bad")] {
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        let hint = "hint: --etcd2-username and --etcd2-password-file\n";
        assert!(
            ran.err.contains("it wants a user who may read it") && ran.err.ends_with(hint),
            "{ran:?}"
        );
    }
    let ran = with("gone");
    assert!(
        ran.code == 1 && ran.err.contains("failed to read gone"),
        "{ran:?}"
    );
    assert_eq!(import(&["--etcd2-username", "root"]).code, 2);
    let ran = with("good");
    assert!(ran.code == 0 && ran.out.contains("\n1 create\n"), "{ran:?}");
    for word in ["s3cret", "Basic", "cm9vd"] {
        assert!(!ran.err.contains(word), "{ran:?}");
    }
}

#[test]
fn what_is_no_old_cluster_is_said_to_be_none() {
    let cluster = Cluster::start(1);
    let without = OldEtcd::start(false);
    let empty = OldEtcd::start(true);
    for (url, code, out, err) in [
        (
            without.url.as_str(),
            1,
            "",
            "failed to read the registry in etcd",
        ),
        (
            empty.url.as_str(),
            0,
            "UNIT\tACTION\tTARGET\tNOTE\n\nno units found\n",
            "",
        ),
        ("unix:///run/etcd.sock", 1, "", "etcd is reached by"),
        ("http://127.0.0.1:1", 1, "", "failed to connect"),
    ] {
        let ran = cluster.fleetctl(&["import", "--from-etcd2", url]);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (code, out),
            "{url}: {}",
            ran.err
        );
        assert!(ran.err.contains(err), "{url}: {ran:?}");
    }
}
