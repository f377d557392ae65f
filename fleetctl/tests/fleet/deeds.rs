//! What commands do, beyond what they print.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::harness::{Cluster, eventually};

const A: &str = "[Service]\nExecStart=/bin/a\n";
const GLOBAL: &str = "[Service]\nExecStart=/bin/g\n[X-Fleet]\nGlobal=true\n";

#[test]
fn a_restart_starts_the_process_anew_where_it_is() {
    let cluster = Cluster::start(2);
    cluster.write("a.service", A);
    cluster.write("g.service", GLOBAL);
    cluster.well(&["start", "--wait-active", "a", "g"]);
    assert_eq!(
        (cluster.starts("a.service"), cluster.starts("g.service")),
        (1, 2)
    );
    cluster.well(&["restart", "--wait-active", "a", "g"]);
    assert_eq!(
        (cluster.starts("a.service"), cluster.starts("g.service")),
        (2, 4)
    );
    cluster.well(&["restart", "g"]);
    eventually("the global unit is restarted on both machines", || {
        cluster.starts("g.service") == 6
    });
    assert_eq!(cluster.starts("a.service"), 2);
}

/// How many units were down at once, at most, since a time when all were active; all are again.
fn most_down(cluster: &Cluster, since: Instant) -> usize {
    let all = cluster.machines.iter().flat_map(|m| m.manager.turns());
    let mut turns: Vec<_> = all.filter(|(when, ..)| *when >= since).collect();
    turns.sort();
    let mut down = BTreeSet::new();
    let mut most = 0;
    for (_, name, active) in turns {
        if active {
            down.remove(&name);
        } else {
            down.insert(name);
        }
        most = most.max(down.len());
    }
    assert_eq!(down, BTreeSet::new(), "still down");
    most
}

#[test]
fn a_rolling_replacement_never_has_more_down_than_allowed() {
    let cluster = Cluster::start(2);
    let text = |program: &str| format!("[Service]\nTimeoutStartSec=1\nExecStart={program}\n");
    cluster.write("web@.service", &text("/bin/a"));
    cluster.well(&["scale", "--wait-active", "web@", "4"]);
    cluster.write("web@.service", &text("/bin/b"));
    let since = Instant::now();
    let out = cluster.well(&["replace", "--max-unavailable", "2", "web@.service"]);
    assert_eq!(out.lines().count(), 5, "{out}");
    assert_eq!(most_down(&cluster, since), 2);
    for n in 1..=4 {
        assert_eq!(
            cluster.starts(&format!("web@{n}.service")),
            2,
            "each was started once more"
        );
    }
    // What is down already counts, and has its turn first.
    let since = Instant::now();
    for machine in &cluster.machines {
        if machine.manager.is_active("web@3.service") {
            machine.manager.fail("web@3.service");
        }
    }
    eventually("the failure is known", || {
        let list = cluster.well(&["list-units", "--no-legend", "--fields", "unit,active"]);
        list.contains("web@3.service\tfailed")
    });
    cluster.write("web@.service", &text("/bin/c"));
    let out = cluster.well(&["replace", "web@.service"]);
    let order: Vec<&str> = out.lines().skip(1).filter_map(|l| l.get(9..10)).collect();
    assert_eq!(order, ["3", "1", "2", "4"], "{out}");
    assert_eq!(most_down(&cluster, since), 1);
    // A text that fails leaves the rest as it was.
    cluster.write("web@.service", "[Service]\nExecStart=/bin/false\n");
    let ran = cluster.fleetctl(&["replace", "web@.service"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(cluster.starts("web@1.service"), 4);
    for n in 2..=4 {
        assert_eq!(cluster.starts(&format!("web@{n}.service")), 3, "untouched");
    }
}

#[test]
fn a_rolling_replacement_ends_when_what_it_has_replaced_fails() {
    let cluster = Cluster::start(1);
    cluster.write(
        "web@.service",
        "[Service]\nTimeoutStartSec=2\nExecStart=/bin/a\n",
    );
    cluster.well(&["scale", "--wait-active", "web@", "3"]);
    cluster.write(
        "web@.service",
        "[Service]\nTimeoutStartSec=2\nExecStart=/bin/b\n",
    );
    let ran = std::thread::scope(|scope| {
        let replace = scope.spawn(|| cluster.fleetctl(&["replace", "web@.service"]));
        eventually("the second has its turn", || {
            cluster.starts("web@2.service") == 2
        });
        cluster.machines[0].manager.fail("web@1.service");
        replace.join().unwrap()
    });
    assert_eq!(ran.code, 1, "{ran:?}");
    let said = "stopped replacing at unit web@1.service; \
                replaced: [web@1.service web@2.service], begun: [], untouched: [web@3.service]";
    assert!(ran.err.contains(said), "{ran:?}");
    assert_eq!(cluster.starts("web@3.service"), 1);
}

#[test]
fn a_long_wait_hears_of_changes_and_does_not_ask_all_the_time() {
    let cluster = Cluster::start(1);
    let slow = "[Service]\nTimeoutStopSec=4\nExecStart=";
    cluster.write("a.service", &format!("{slow}/bin/a\n"));
    cluster.well(&["start", "--wait-active", "a"]);
    cluster.write("a.service", &format!("{slow}/bin/b\n"));
    let ran = cluster.fleetctl(&["--debug", "replace", "a"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(cluster.starts("a.service"), 2);
    let asked = |path: &str| ran.err.lines().filter(|line| line.contains(path)).count();
    assert_eq!(asked("/flotilla/v1/events"), 1, "{}", ran.err);
    // By the clock it would be every quarter of a second.
    let looks = asked("/fleet/v1/state");
    assert!((1..=16).contains(&looks), "{looks}: {}", ran.err);
}

#[test]
fn a_cluster_without_watches_does_the_same() {
    let settings = "disable_watches=true\nengine_reconcile_interval=0.2\n";
    let cluster = Cluster::configured(2, settings);
    cluster.write("a.service", A);
    cluster.write("b.service", A);
    cluster.well(&["start", "--wait-active", "a", "b"]);
    cluster.well(&["restart", "a"]);
    assert_eq!(cluster.starts("a.service"), 2);
    cluster.well(&["drain", &crate::harness::id(0)]);
    let second = &cluster.machines[1].manager;
    eventually("both run on the other machine", || {
        second.is_active("a.service") && second.is_active("b.service")
    });
    cluster.well(&["uncordon", &crate::harness::id(0)]);
    let out = cluster.well(&["rebalance"]);
    assert!(out.ends_with("Rebalanced: 1 unit moved\n"), "{out}");
    cluster.well(&["destroy", "a", "b"]);
    assert_eq!(cluster.well(&["list-units", "--no-legend"]), "");
}

#[test]
fn a_rebalance_that_nobody_deals_with_ends_in_time() {
    let cluster = Cluster::configured(1, "disable_engine=true\n");
    let ran = cluster.fleetctl(&["rebalance", "--block-attempts", "1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let said = "fleetctl: timed out waiting for the leader to begin with rebalancing\n";
    assert!(ran.err.starts_with(said), "{ran:?}");
}

#[test]
fn a_rebalance_waits_until_the_units_are_where_they_shall_be() {
    let cluster = Cluster::start(2);
    let second = crate::harness::id(1);
    cluster.well(&["cordon", &second]);
    let slow = "[Service]\nTimeoutStopSec=4\nExecStart=/bin/a\n";
    for n in 0..4 {
        cluster.write(&format!("u{n}.service"), slow);
    }
    cluster.well(&["start", "--wait-active", "u0", "u1", "u2", "u3"]);
    cluster.well(&["uncordon", &second]);
    let there = || cluster.machines[1].manager.main_pids().len();
    // Too little time: its end is waited for in vain, and said so.
    let ran = cluster.fleetctl(&["rebalance", "--budget", "1", "--block-attempts", "1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("timed out waiting for unit"), "{ran:?}");
    let out = cluster.well(&["rebalance"]);
    assert!(out.ends_with("Rebalanced: 1 unit moved\n"), "{out}");
    assert_eq!(there(), 2);
}

#[test]
fn a_drain_ends_when_the_units_are_stopped_here_and_up_elsewhere() {
    let cluster = Cluster::start(2);
    let (first, second) = (crate::harness::id(0), crate::harness::id(1));
    cluster.well(&["cordon", &second]);
    cluster.write(
        "a.service",
        "[Service]\nTimeoutStopSec=4\nExecStart=/bin/a\n",
    );
    cluster.write("g.service", GLOBAL);
    cluster.well(&["start", "--wait-active", "a", "g"]);
    let runs = |n: usize| cluster.machines[n].manager.is_active("a.service");
    assert!(runs(0));
    // Nowhere to go: it says so, and goes on running.
    let ran = cluster.fleetctl(&["drain", "--block-attempts", "1", &first]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("a.service: cannot leave"), "{ran:?}");
    assert!(runs(0));
    cluster.well(&["uncordon", &second]);
    // Off the schedule, and still being stopped.
    let ran = cluster.fleetctl(&["drain", "--block-attempts", "1", &first]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("still has units: a.service"), "{ran:?}");
    let out = cluster.well(&["drain", &first]);
    assert!(!runs(0) && runs(1), "drained before it was so: {out}");
    assert!(
        out.ends_with("Machine 00000000.../10.0.0.1 drained\n"),
        "{out}"
    );
    // The global unit is not waited for; nothing is left to do.
    assert!(cluster.machines[0].manager.is_active("g.service"));
    let out = cluster.well(&["--json", "drain", &first]);
    let expect = format!(
        "{{\"machines\":[{{\"machine\":\"{first}\",\"state\":\"drained\"}}],\"units\":{{}}}}\n"
    );
    assert_eq!(out, expect);
}

#[test]
fn status_and_journal_run_here_where_this_is_the_machine() {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap();
    let cluster = Cluster::with(&[(id.trim().to_owned(), "10.0.0.1".to_owned())]);
    cluster.script(
        "systemctl",
        "echo systemctl \"$@\"; [ \"$3\" != b.service ] || exit 4",
    );
    cluster.script("journalctl", "echo journalctl \"$@\"");
    cluster.script("sudo", "echo sudo \"$@\"");
    cluster.write("a.service", A);
    cluster.write("b.service", A);
    cluster.write("g.service", GLOBAL);
    cluster.well(&["start", "--wait-active", "a", "b", "g"]);
    for (args, code, out) in [
        (&["status", "a"][..], 0, "systemctl status -l a.service\n"),
        (
            &["status", "a", "g"],
            0,
            "systemctl status -l a.service\n\nsystemctl status -l g.service\n",
        ),
        (
            &["status", "a", "b", "g"],
            4,
            "systemctl status -l a.service\n\nsystemctl status -l b.service\n",
        ),
        (
            &["journal", "a"],
            0,
            "journalctl --unit a.service --no-pager -n 10 --output short\n",
        ),
        (
            &["journal", "g"],
            0,
            "journalctl --unit g.service --no-pager -n 10 --output short\n",
        ),
        (
            &[
                "journal",
                "--lines=3",
                "-f",
                "--output",
                "cat",
                "--sudo",
                "a",
            ],
            0,
            "sudo journalctl --unit a.service --no-pager -n 3 --output cat -f\n",
        ),
    ] {
        let ran = cluster.fleetctl(args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (code, out),
            "{args:?} {}",
            ran.err
        );
    }
}

#[test]
fn empty_variables_are_none_and_the_command_line_wins() {
    let cluster = Cluster::start(1);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_fleetctl"));
    let endpoint = format!("unix://{}", cluster.machines[0].socket.display());
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = cluster.command(program);
        command.envs(variables.iter().copied()).args(args);
        crate::harness::Ran::from(command.output().unwrap())
    };
    let list = ["list-machines", "--no-legend", "--fields=ip"];
    let mut empty: Vec<(&str, &str)> = [
        "FLEETCTL_DRIVER",
        "FLEETCTL_CA_FILE",
        "FLEETCTL_CERT_FILE",
        "FLEETCTL_KEY_FILE",
        "FLEETCTL_REQUEST_TIMEOUT",
        "FLEETCTL_TUNNEL",
        "FLEETCTL_SSH_USERNAME",
        "FLEETCTL_SSH_TIMEOUT",
        "FLEETCTL_STRICT_HOST_KEY_CHECKING",
        "FLEETCTL_KNOWN_HOSTS_FILE",
        "FLEETCTL_ETCD_KEY_PREFIX",
        "FLEETCTL_DEBUG",
        "FLEETCTL_JSON",
        "FLEETCTL_EXPERIMENTAL_API",
        "FLEETCTL_ETCD_CAFILE",
    ]
    .map(|name| (name, ""))
    .into();
    empty.push(("FLEETCTL_ENDPOINT", &endpoint));
    let ran = run(&empty, &list);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "10.0.0.1\n", "")
    );
    let wrong = [("FLEETCTL_ENDPOINT", "unix:///nonexistent")];
    assert_eq!(run(&wrong, &list).code, 1);
    let flag = format!("--endpoint={endpoint}");
    assert_eq!(run(&wrong, &[&[flag.as_str()][..], &list].concat()).code, 0);
    let debug = [
        ("FLEETCTL_ENDPOINT", endpoint.as_str()),
        ("FLEETCTL_DEBUG", "true"),
    ];
    assert!(run(&debug, &list).err.contains("debug: GET unix://"));
    let json = [
        ("FLEETCTL_ENDPOINT", endpoint.as_str()),
        ("FLEETCTL_JSON", "true"),
    ];
    assert!(run(&json, &list).out.starts_with("{\"machines\":["));
    let plain = run(&json, &[&["--json=false"][..], &list].concat());
    assert_eq!(plain.out, "10.0.0.1\n");
    let bad = [("FLEETCTL_SSH_TIMEOUT", "soon")];
    assert_eq!(run(&bad, &list).code, 2);
}

#[test]
fn completions_know_every_command() {
    let cluster = Cluster::start(1);
    for shell in ["bash", "zsh", "fish"] {
        let out = cluster.well(&["completion", shell]);
        for command in ["list-unit-files", "uncordon", "fd-forward", "replace"] {
            assert!(out.contains(command), "{shell}: {command}");
        }
    }
}
