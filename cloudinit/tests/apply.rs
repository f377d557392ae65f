//! Plans performed below a root directory, whole documents and whole boots.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

mod common;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use cloudinit::apply::{Applier, NetworkRestart, Patience, Summary};
use cloudinit::datasource::cmdline;
use cloudinit::datasource::http::Client;
use cloudinit::metadata::{Addresses, MetaData};
use cloudinit::plan::Change;
use cloudinit::run::{Companion, Session};
use cloudinit::stages::{self, Options, Report, Stage};
use common::{Machine, Recorder};

fn companion() -> Companion {
    Companion {
        key_set: "coreos-cloudinit".into(),
        ..Companion::default()
    }
}

fn plan(machine: &Machine, document: &str) -> Vec<Change> {
    let session = Session {
        root: &machine.root,
        addresses: Addresses::default(),
        instance: "i-1".into(),
        client: Client::new(),
        offline: false,
    };
    let prepared = session.prepare(document.as_bytes(), &companion());
    assert_eq!(prepared.errors, Vec::<String>::new());
    prepared.changes
}

fn apply(machine: &Machine, changes: &[Change]) -> (Summary, Option<String>, Vec<String>) {
    let mut units = Recorder::default();
    let mut applier = Applier {
        root: &machine.root,
        manager: true,
        units: &mut units,
        patience: Patience::UnlessBlocked,
        network_restart: NetworkRestart::Always,
        workspace: "/var/lib/coreos-cloudinit".into(),
        instance: "i-1".into(),
    };
    let (summary, error) = applier.apply(changes);
    (summary, error.map(|e| telemetry::chain(&e)), units.calls)
}

const DOCUMENT: &str = "#cloud-config
hostname: box
ssh_authorized_keys: [ssh-ed25519 AAAA me]
users:
- name: ops
  groups: [sudo, docker]
  ssh-authorized-keys: [ssh-ed25519 BBBB ops]
write_files:
- path: /home/ops/notes
  owner: ops:docker
  permissions: 0640
  content: hello
coreos:
  fleet:
    metadata: role=core
  update:
    reboot-strategy: off
  units:
  - name: 10-a.network
    content: '[Match]'
  - name: a.service
    command: start
    enable: true
    content: '[Service]'
  - name: missing.service
    command: restart
  - name: odd.service
    command: start
";

#[test]
fn a_document_is_applied_and_a_second_time_changes_nothing() {
    let machine = Machine::new();
    machine.write("/usr/share/coreos/update.conf", "GROUP=stable\n");
    machine.write("/etc/skel/.bashrc", "# skel\n");
    let (summary, error, calls) = apply(&machine, &plan(&machine, DOCUMENT));
    assert_eq!(error, None);
    assert_eq!(
        summary.problems,
        ["restart missing.service: unit missing.service does not exist"]
    );
    assert_eq!(
        calls,
        [
            "enable a.service runtime=false",
            "reload",
            "restart systemd-networkd.service UnlessBlocked",
            "start a.service UnlessBlocked",
            "restart missing.service UnlessBlocked",
            "start odd.service UnlessBlocked",
            "stop locksmithd.service UnlessBlocked",
        ]
    );
    assert_eq!(machine.text("/etc/hostname"), "box\n");
    assert!(
        machine
            .text("/etc/passwd")
            .contains("ops:x:1000:1000::/home/ops:/bin/bash\n")
    );
    assert!(
        machine
            .text("/etc/group")
            .contains("docker:x:233:core,ops\n")
    );
    assert_eq!(
        machine.text("/etc/coreos/update.conf"),
        "GROUP=stable\nREBOOT_STRATEGY=off\n"
    );
    assert_eq!(machine.text("/home/ops/.bashrc"), "# skel\n");
    let notes = std::fs::metadata(machine.path("/home/ops/notes")).unwrap();
    assert_eq!(
        (notes.uid(), notes.gid(), notes.mode() & 0o7777),
        (1000, 233, 0o640)
    );
    for user in ["core", "ops"] {
        let keys = machine.text(&format!("/home/{user}/.ssh/authorized_keys"));
        assert_eq!(keys.lines().count(), 2, "{keys}");
    }
    let masked = machine.path("/run/systemd/system/locksmithd.service");
    assert_eq!(
        std::fs::read_link(masked).unwrap().to_str(),
        Some("/dev/null")
    );
    assert_eq!(
        machine.text("/run/systemd/system/fleet.service.d/20-cloudinit.conf"),
        "[Service]\nEnvironment=\"FLEET_METADATA=role=core\"\n"
    );

    let before = tree(&machine);
    let (again, error, _) = apply(&machine, &plan(&machine, DOCUMENT));
    assert_eq!(error, None);
    assert_eq!(tree(&machine), before);
    // What is asked of the service manager is asked again: enable, reload, networkd, four commands.
    assert_eq!(again.changed, 6);
}

/// Every file with its bytes, mode, owner and inode: a rewritten file would show.
fn tree(machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![machine.dir.path().to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                todo.push(entry.path());
            }
            found.push(format!(
                "{:?} {:o} {}:{} {} {:?}",
                entry.path(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.ino(),
                std::fs::read(entry.path()).ok()
            ));
        }
    }
    found.sort();
    found
}

#[test]
fn the_first_failing_file_stops_the_rest_but_not_what_came_before() {
    let machine = Machine::new();
    machine.write("/file", "");
    let document = "#cloud-config\nssh_authorized_keys: [ssh-ed25519 AAAA me]\nwrite_files:\n\
                    - path: /good\n- path: /file/under\n- path: /never\n";
    let (_, error, calls) = apply(&machine, &plan(&machine, document));
    let error = error.unwrap();
    assert!(error.contains("/file/under"), "{error}");
    assert!(machine.exists("/good") && !machine.exists("/never"));
    assert!(machine.exists("/home/core/.ssh/authorized_keys"));
    assert!(calls.is_empty());
}

#[test]
fn a_bad_strategy_writes_no_file_but_lets_the_operator_in() {
    let machine = Machine::new();
    let document = "#cloud-config\nssh_authorized_keys: [ssh-ed25519 AAAA me]\nwrite_files:\n\
                    - path: /good\ncoreos:\n  update:\n    reboot-strategy: sometimes\n";
    let (_, error, _) = apply(&machine, &plan(&machine, document));
    assert_eq!(
        error.unwrap(),
        "line 7: invalid reboot strategy \"sometimes\" (use etcd-lock, reboot or off)"
    );
    assert!(!machine.exists("/good"));
    assert!(machine.exists("/home/core/.ssh/authorized_keys"));
}

#[test]
fn one_undecodable_content_rejects_the_document() {
    let machine = Machine::new();
    let session = Session {
        root: &machine.root,
        addresses: Addresses::default(),
        instance: "i-1".into(),
        client: Client::new(),
        offline: false,
    };
    let with = Companion {
        meta: MetaData {
            hostname: "meta".into(),
            ..MetaData::default()
        },
        ..companion()
    };
    let document =
        "#cloud-config\nhostname: doc\nwrite_files:\n- path: /a\n  encoding: b64\n  content: '!'\n";
    let prepared = session.prepare(document.as_bytes(), &with);
    assert_eq!(prepared.errors.len(), 1);
    assert!(prepared.errors[0].starts_with("user-data: line 6: content of /a cannot be decoded"));
    // The meta-data is applied nevertheless.
    assert!(prepared.changes.contains(&Change::SetHostname {
        name: "meta".into()
    }));
}

#[test]
fn scripts_are_stored_and_run_in_a_unit() {
    let machine = Machine::new();
    let (summary, error, calls) = apply(&machine, &plan(&machine, "#!/bin/sh\necho hi\n"));
    assert_eq!((error, summary.problems.len()), (None, 0));
    let unit = machine.text("/var/lib/coreos-cloudinit/scripts/unit-name");
    let number = unit
        .strip_prefix("coreos-cloudinit-")
        .unwrap()
        .strip_suffix(".service")
        .unwrap();
    let path = format!("/var/lib/coreos-cloudinit/scripts/{number}");
    assert_eq!(machine.text(&path), "#!/bin/sh\necho hi\n");
    assert_eq!(
        std::fs::metadata(machine.path(&path)).unwrap().mode() & 0o777,
        0o744
    );
    assert_eq!(
        calls.last().unwrap(),
        &format!("run {unit} [\"/bin/bash\", \"{path}\"]")
    );
}

#[test]
fn once_only_commands_run_once() {
    let machine = Machine::new();
    let mark = machine.path("/ran");
    let document = format!(
        "#cloud-config\nbootcmd:\n- echo boot >> {0}\nruncmd:\n- [sh, -c, 'echo run >> {0}']\n- [\"false\"]\n",
        mark.display()
    );
    let changes = plan(&machine, &document);
    let (first, ..) = apply(&machine, &changes);
    assert_eq!(first.problems, ["false: exit status: 1"]);
    let (second, ..) = apply(&machine, &changes);
    assert_eq!(second.problems, Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "boot\nrun\nboot\n");
}

fn options(line: &str) -> Options {
    Options {
        words: cmdline::words(line),
        timeout: Duration::from_secs(5),
        workspace: "/var/lib/coreos-cloudinit".into(),
        key_set: "coreos-cloudinit".into(),
        dry_run: false,
        manager: true,
    }
}

#[track_caller]
fn stage(machine: &Machine, stage: Stage, line: &str) -> (Report, Vec<String>) {
    let mut units = Recorder::default();
    let report = stages::run(stage, &machine.root, &mut units, &options(line)).unwrap();
    (report, units.calls)
}

#[test]
fn a_boot_goes_through_three_stages() {
    let machine = Machine::new();
    let seed = "/var/lib/cloud/seed/nocloud";
    machine.write(
        &format!("{seed}/meta-data"),
        "instance-id: i-7\nlocal-hostname: seeded\npublic-keys: [ssh-ed25519 META m]\n",
    );
    machine.write(
        &format!("{seed}/network-config"),
        "version: 2\nethernets:\n  e:\n    match: {macaddress: '52:54:00:f1:07:11'}\n    addresses: [10.0.2.11/24]\n",
    );
    machine.write(
        &format!("{seed}/vendor-data"),
        "#cloud-config\nssh_authorized_keys: [ssh-ed25519 VENDOR v]\nwrite_files:\n- path: /etc/docker/daemon.json\n  content: '{}'\n- path: /both\n  content: vendor\n",
    );
    machine.write(
        &format!("{seed}/user-data"),
        "#cloud-config\nssh_authorized_keys: [ssh-ed25519 USER u]\nwrite_files:\n- path: /both\n  content: user\ncoreos:\n  units:\n  - name: 10-own.network\n    content: '[Match]'\n  - name: a.service\n    command: start\n  - name: b.service\n    command: start\n",
    );
    machine.write("/usr/share/oem/cloud-config.yml", "#cloud-config\ncoreos:\n  oem: {id: qemu}\n  units:\n  - name: oem.service\n    command: start\n");

    let (report, calls) = stage(&machine, Stage::Local, "");
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(calls.is_empty());
    assert_eq!(machine.text("/etc/hostname"), "seeded\n");
    assert!(
        machine
            .text("/run/systemd/network/50-cloudinit-e.network")
            .contains("10.0.2.11/24")
    );
    assert!(machine.exists("/etc/systemd/network/10-own.network"));
    assert!(!machine.exists("/both") && !machine.exists("/home/core/.ssh"));
    let state = std::fs::metadata(machine.path("/run/flotilla/cloudinit")).unwrap();
    assert_eq!(state.mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(machine.path("/run/flotilla/cloudinit"))
        .unwrap()
        .flatten()
    {
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600);
    }

    let (report, calls) = stage(&machine, Stage::Config, "");
    assert_eq!(report.errors, Vec::<String>::new());
    // networkd read the files when it started: nothing changed since.
    assert!(calls.iter().all(|c| c == "reload"), "{calls:?}");
    assert_eq!(machine.text("/both"), "user");
    assert_eq!(machine.text("/etc/docker/daemon.json"), "{}");
    assert!(machine.text("/etc/oem-release").starts_with("ID=qemu\n"));
    let keys = machine.text("/home/core/.ssh/authorized_keys");
    for key in ["VENDOR", "USER", "META"] {
        assert!(keys.contains(key), "{keys}");
    }

    let (report, calls) = stage(&machine, Stage::Commands, "");
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(
        calls,
        [
            "start oem.service Forever",
            "start a.service Forever",
            "start b.service Forever"
        ]
    );
    let (_, calls) = stage(&machine, Stage::Commands, "");
    assert!(calls.is_empty(), "commands are given once");
    let (report, _) = stage(&machine, Stage::Config, "");
    assert_eq!(report.errors, Vec::<String>::new());
}

#[test]
fn vendor_data_can_be_switched_off() {
    let machine = Machine::new();
    let seed = "/var/lib/cloud/seed/nocloud";
    machine.write(&format!("{seed}/meta-data"), "");
    machine.write(
        &format!("{seed}/vendor-data"),
        "#cloud-config\nwrite_files: [{path: /vendor}]\n",
    );
    machine.write(
        &format!("{seed}/user-data"),
        "#cloud-config\nvendor_data: {enabled: false}\n",
    );
    stage(&machine, Stage::Local, "");
    stage(&machine, Stage::Config, "");
    assert!(!machine.exists("/vendor"));
}

#[test]
fn a_broken_document_does_not_stop_the_others() {
    let machine = Machine::new();
    machine.write(
        "/var/lib/coreos-install/user_data",
        "#cloud-config\nwrite_files: [{path: /installed}]\n",
    );
    machine.write("/usr/share/oem/cloud-config.yml", "#cloud-config\na: [\n");
    stage(&machine, Stage::Local, "");
    let (report, _) = stage(&machine, Stage::Config, "");
    assert_eq!(report.errors.len(), 1);
    assert!(
        report.errors[0]
            .starts_with("/usr/share/oem/cloud-config.yml: cannot read the document: line 2"),
        "{:?}",
        report.errors
    );
    assert!(machine.exists("/installed"));
}

#[test]
fn documents_come_over_http_and_an_absent_server_is_an_error_in_time() {
    let machine = Machine::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let worker = std::thread::spawn(move || {
        use std::io::{Read, Write};
        // The first answer is a failure that must be tried again.
        for answer in [
            "500 Busy\r\nContent-Length: 0",
            "200 OK\r\nContent-Length: 45",
        ] {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /user-data "));
            let body = if answer.starts_with("200") {
                "#cloud-config\nwrite_files: [{path: /by-http}]\n"
            } else {
                ""
            };
            let head = answer.replace("45", &body.len().to_string());
            write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}").unwrap();
        }
    });
    let line = format!("quiet cloud-config-url=http://127.0.0.1:{port}/user-data");
    stage(&machine, Stage::Local, &line);
    let (report, _) = stage(&machine, Stage::Config, &line);
    worker.join().unwrap();
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(machine.exists("/by-http"));

    let machine = Machine::new();
    let line = format!("ds=nocloud;h=named;s=http://127.0.0.1:{port}/seed/");
    let begin = std::time::Instant::now();
    stage(&machine, Stage::Local, &line);
    let (report, _) = stage(&machine, Stage::Config, &line);
    assert!(
        report.errors[0].contains("/seed/meta-data"),
        "{:?}",
        report.errors
    );
    assert!(begin.elapsed() < Duration::from_secs(8));
    assert_eq!(machine.text("/etc/hostname"), "named\n");
}
