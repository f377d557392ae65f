//! `cargo xtask up` and `down`, as README promises them (issue 2, show 1).

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::ensure;

/// A cluster beside the developer's own, so that a test does not end it.
const NAME: &str = "up-test";

fn xtask(args: &[&str]) -> anyhow::Result<Output> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (verb, rest) = args.split_first().expect("a verb");
    Ok(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(top)
            .args(["xtask", verb, "--cluster", NAME])
            .args(rest)
            .stdin(Stdio::null())
            .output()?,
    )
}

fn text(o: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&o.stdout),
        String::from_utf8_lossy(&o.stderr)
    )
}

/// Ends the cluster also when the test fails.
struct Up;

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(o) = xtask(&["down"])
            && !o.status.success()
        {
            eprintln!("{}", text(&o));
        }
    }
}

#[test]
fn up_ends_with_a_cluster_and_down_with_nothing() -> anyhow::Result<()> {
    // A taken port is named with its holder before anything is started.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let base = (taken.local_addr()?.port() - 1).to_string();
    let refused = xtask(&["up", "--port-base", &base])?;
    ensure!(
        refused.status.code() == Some(1)
            && text(&refused).contains(&format!("(pid {})", std::process::id())),
        "{}",
        text(&refused)
    );
    drop(taken);

    let up = Up;
    let said = xtask(&["up", "--port-base", "23500"])?;
    let said_text = text(&said);
    ensure!(said.status.success(), "{said_text}");
    eprintln!("{said_text}");
    for n in 1..=3 {
        ensure!(
            said_text.contains(&format!("10.0.2.1{n}")),
            "machine {n} is not listed: {said_text}"
        );
        ensure!(
            said_text.contains(&format!("web@{n}.service")),
            "web@{n} is not listed: {said_text}"
        );
        let body = qemu_tests::world::http_get(23580 + n)?;
        ensure!(body.contains("flotilla-web"), "{body}");
    }
    for word in [
        "The cluster is up. Next:",
        "cargo xtask ssh --cluster up-test 1 -- fleetctl list-machines",
        "cargo xtask down --cluster up-test",
    ] {
        ensure!(said_text.contains(word), "{word:?} missing in {said_text}");
    }

    // ssh passes on output and exit status; words keep their edges.
    let ssh = xtask(&[
        "ssh",
        "2",
        "--",
        "sh",
        "-c",
        "echo \"$0 and $1\"; exit 7",
        "one word",
        "two",
    ])?;
    ensure!(
        ssh.status.code() == Some(7) && ssh.stdout == b"one word and two\n",
        "{}",
        text(&ssh)
    );
    let units = xtask(&["ssh", "1", "--", "fleetctl", "list-units", "--no-legend"])?;
    ensure!(
        String::from_utf8_lossy(&units.stdout)
            .matches("running")
            .count()
            == 3,
        "{}",
        text(&units)
    );
    let nobody = xtask(&["ssh", "4", "--", "true"])?;
    ensure!(
        nobody.status.code() == Some(1) && text(&nobody).contains("1 to 3"),
        "{}",
        text(&nobody)
    );

    // A second `up` touches nothing.
    let again = xtask(&["up", "--port-base", "23500"])?;
    ensure!(
        again.status.code() == Some(1) && text(&again).contains("a cluster is up already"),
        "{}",
        text(&again)
    );

    let state = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../build")
        .join(NAME)
        .join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state)?)?;
    let pids: Vec<u64> = state["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|p| p["pid"].as_u64())
        .collect();
    ensure!(
        pids.len() == 6,
        "registry, switch, gateway, three machines: {state}"
    );
    drop(up);
    for pid in pids {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ensure!(
            cmdline.is_empty(),
            "{pid} is left: {}",
            String::from_utf8_lossy(&cmdline)
        );
    }
    for port in [23501, 23581, 5000] {
        ensure!(
            std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(),
            "port {port} is still held"
        );
    }
    let down = xtask(&["down"])?;
    ensure!(
        down.status.success() && text(&down).contains("no cluster is up"),
        "{}",
        text(&down)
    );
    Ok(())
}
