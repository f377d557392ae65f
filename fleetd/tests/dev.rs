//! The daemon as a process: `fleetd dev`, the command line, SIGHUP.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn fleetd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetd"));
    // No bus here, whatever the machine has.
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    command
}

fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let length = body.len();
    let head = "Host: x\r\nConnection: close\r\nContent-Type: application/json";
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Ends the process that it holds, whatever happens.
struct Running(Child);

impl Running {
    fn terminate(&mut self) -> Output {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.0.wait().unwrap();
        let mut stderr = Vec::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_end(&mut stderr)
            .unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dev_serves_one_machine_and_says_that_nothing_can_start_units() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("fleet.sock");
    // One that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let address = format!("unix://{}", socket.display());
    let start = || {
        fleetd()
            .args(["dev", "--listen", &address])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut running = Running(start().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    let machines = loop {
        match ask(&socket, "GET", "/fleet/v1/machines", "") {
            Some((200, body)) if body != "{}" => break body,
            other => assert!(Instant::now() < deadline, "it does not answer: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(
        machines.contains("\"primaryIP\":\"127.0.0.1\""),
        "{machines}"
    );
    // The place is taken.
    let second = start().unwrap().wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains("in use by a running process") && said.contains("hint: "),
        "{said}"
    );

    let unit = |state: &str| {
        format!(
            r#"{{"options":[{{"section":"Service","name":"ExecStart","value":"/x"}}],"desiredState":"{state}"}}"#
        )
    };
    let path = "/fleet/v1/units/a.service";
    let (status, body) = ask(&socket, "PUT", path, &unit("launched")).unwrap();
    assert!(
        status == 409 && body.contains("no service manager answers"),
        "{body}"
    );
    assert_eq!(ask(&socket, "PUT", path, &unit("inactive")).unwrap().0, 201);
    let (_, list) = ask(&socket, "GET", "/fleet/v1/units", "").unwrap();
    assert!(list.contains("a.service"), "{list}");
    let (_, cat) = ask(&socket, "GET", path, "").unwrap();
    assert!(cat.contains("ExecStart"), "{cat}");
    assert_eq!(ask(&socket, "DELETE", path, "").unwrap().0, 204);
    let (status, page) = ask(&socket, "GET", "/ui", "").unwrap();
    assert!(status == 200 && page.contains("<html"), "{page}");

    // What it knows, on one line, for whoever asks with a signal.
    assert_eq!(ask(&socket, "PUT", path, &unit("inactive")).unwrap().0, 201);
    let text = r#"{"options":[{"section":"X-Fleet","name":"Global","value":"true"}],"desiredState":"inactive"}"#;
    assert_eq!(
        ask(&socket, "PUT", "/fleet/v1/units/g.service", text)
            .unwrap()
            .0,
        201
    );
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(running.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let dump: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(dump["healthy"], true, "{line}");
    assert_eq!(dump["agent"]["g.service"]["target"], "inactive", "{line}");
    assert!(
        dump["agent"].get("a.service").is_none(),
        "it is not this machine's: {line}"
    );
    assert_eq!(dump["publisher"], serde_json::json!({}), "{line}");

    let ended = running.terminate();
    assert_eq!(ended.status.code(), Some(0));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("no service manager answers"), "{said}");
    assert!(
        said.contains(&format!("fleetctl --endpoint {address}")),
        "{said}"
    );
    assert!(!socket.exists(), "the socket is gone");
}

#[test]
fn wrong_usage_and_failures_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.conf");
    std::fs::write(&bad, "verbosity=0\n\nnonsense\n").unwrap();
    let roles = dir.path().join("roles.conf");
    std::fs::write(&roles, "api_roles=ops:king\n").unwrap();
    let tls = dir.path().join("tls.conf");
    std::fs::write(&tls, "api_certfile=/no\napi_keyfile=/no\napi_cafile=/no\n").unwrap();
    let path = |p: &Path| p.display().to_string();
    for (args, code, expect) in [
        (
            vec!["--nosuch".to_owned()],
            1,
            "unknown argument \"--nosuch\"",
        ),
        (vec!["--config".into()], 1, "--config needs a file"),
        (
            vec!["dev".into(), "--listen=tcp://x".into()],
            1,
            "invalid address",
        ),
        (
            vec!["dev".into(), "--listen=http://0.0.0.0:1".into()],
            1,
            "not a loopback address",
        ),
        (
            vec!["--config".into(), path(&dir.path().join("gone"))],
            1,
            "failed to read configuration",
        ),
        (
            vec!["--config".into(), path(dir.path())],
            1,
            "failed to read configuration",
        ),
        (
            vec![format!("--config={}", path(&bad))],
            1,
            "bad.conf:3: neither a comment nor KEY=VALUE",
        ),
        (
            vec![format!("--config={}", path(&roles))],
            1,
            "roles.conf:1: api_roles: \"king\" is none of",
        ),
        (
            vec![format!("--config={}", path(&tls))],
            1,
            "failed to read authorities from /no",
        ),
        (vec!["--version".into()], 0, ""),
        (vec!["--help".into()], 0, ""),
    ] {
        let output = fleetd().args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(
            said.contains(expect) && said.is_empty() == expect.is_empty(),
            "{args:?}: {said}"
        );
        if code == 0 {
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(printed.contains("fleetd"), "{printed}");
        }
    }
}

/// Writes a configuration, as an editor would: whole.
fn write_config(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

#[test]
fn sighup_reads_the_configuration_again_and_keeps_sockets_and_what_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    // Nobody is at that address: who calls, and the dashboard, are answered all the same.
    let base = format!(
        "etcd_servers=http://127.0.0.1:1\npublic_ip=10.0.0.1\nunits_directory={0}/units\n\
         run_directory={0}/run\nmachine_id_file={0}/machine-id\nmetrics_socket={0}/metrics.sock\n",
        dir.path().display()
    );
    write_config(&path("fleet.conf"), &format!("{base}plain_role=read\n"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = Command::new("/bin/sh");
    // As the service manager passes sockets.
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_fleetd"), "--config"]);
    command.arg(path("fleet.conf"));
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let notify = std::os::unix::net::UnixDatagram::bind(path("notify")).unwrap();
    notify
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    command.env("NOTIFY_SOCKET", path("notify"));
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let log = std::fs::File::create(path("log")).unwrap();
    let mut running = Running(command.stderr(log).spawn().unwrap());

    let ask = |target: &str| {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        let timeout = Some(Duration::from_secs(5));
        stream.set_read_timeout(timeout).ok()?;
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let until = |what: &str, so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !so() {
            let log = std::fs::read_to_string(path("log")).unwrap();
            assert!(
                Instant::now() < deadline,
                "it never came to this: {what}\n{log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let role = |role: &str| {
        let expect = format!("\"role\":\"{role}\"");
        ask("/flotilla/v1/whoami").is_some_and(|a| a.contains(&expect))
    };
    let logged = |text: &str| std::fs::read_to_string(path("log")).unwrap().contains(text);
    let pid = rustix::process::Pid::from_child(&running.0);
    let hang_up = || rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();

    until("it answers", &|| role("read"));
    assert!(
        logged("has neither TLS nor authentication"),
        "the warning at the start"
    );
    let mut said = vec![0; 4096];
    let length = notify.recv(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    let status = format!("STATUS=running; the API on {address} has no TLS");
    assert!(said.contains("READY=1") && said.contains(&status), "{said}");
    assert!(ask("/fleet/v1/units").unwrap().starts_with("HTTP/1.1 503"));
    let text = format!("{base}plain_role=operate\nverbosity=1\n");
    write_config(&path("fleet.conf"), &text);
    hang_up();
    until("the new role", &|| role("operate"));
    // The level of the log follows, too, up and down.
    assert!(logged("the configuration is read verbosity=1"));
    write_config(
        &path("fleet.conf"),
        &text.replace("verbosity=1", "verbosity=0"),
    );
    hang_up();
    until("the second reading", &|| {
        let log = std::fs::read_to_string(path("log")).unwrap();
        log.matches("reading the configuration again").count() == 2 && role("operate")
    });
    write_config(&path("fleet.conf"), &format!("{base}plain_role=king\n"));
    hang_up();
    until("the complaint", &|| {
        logged("the old settings stay") && logged("fleet.conf:7: plain_role")
    });
    until("it answers as before", &|| role("operate"));
    assert!(!logged("the configuration is read verbosity=0"));
    // Metrics, at the socket of their own, tell of the open door.
    let mut stream = UnixStream::connect(path("metrics.sock")).unwrap();
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("fleet_api_plain_listeners 1"), "{metrics}");

    let ended = {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        running.0.wait().unwrap()
    };
    assert_eq!(ended.code(), Some(0));
}
