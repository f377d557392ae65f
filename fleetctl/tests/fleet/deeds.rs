//! What commands do, beyond what they print.

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

#[test]
fn a_rolling_replacement_never_has_more_down_than_allowed() {
    let cluster = Cluster::start(2);
    cluster.write("web@.service", A);
    cluster.well(&["scale", "web@", "4"]);
    cluster.write("web@.service", "[Service]\nExecStart=/bin/b\n");
    let out = cluster.well(&["replace", "--max-unavailable", "2", "web@.service"]);
    assert_eq!(out.lines().count(), 5, "{out}");
    for n in 1..=4 {
        assert_eq!(
            cluster.starts(&format!("web@{n}.service")),
            2,
            "each was started once more"
        );
    }
    // A text that fails leaves the rest as it was.
    cluster.write("web@.service", "[Service]\nExecStart=/bin/false\n");
    let ran = cluster.fleetctl(&["replace", "web@.service"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(cluster.starts("web@1.service"), 3);
    for n in 2..=4 {
        assert_eq!(cluster.starts(&format!("web@{n}.service")), 2, "untouched");
    }
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
