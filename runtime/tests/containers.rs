//! The commands and flags that unit files use, on real containers: see [`sandbox`].

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod sandbox;

use sandbox::{IMAGE, Sandbox, wait_for};

/// What stands between `run --rm` and the image, the command, standard input, status, output.
type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a str, i32, &'a str);

#[test]
fn flags_of_run_do_what_they_say() {
    let s = Sandbox::new(&[]);
    let shared = s.home.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    let shared = shared.display().to_string();
    let read_only = format!("{shared}:/data:ro");
    let writable = format!("{shared}:/data");
    let env = [("CALLER", "known")];
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        (&[], &["echo", "hi"], "", 0, "hi\n"),
        (&["-i"], &["cat"], "typed", 0, "typed"),
        (&["-it=false"], &["echo", "both"], "", 0, "both\n"),
        (&["-e", "A=b c", "--env=FROM=flag"], &["sh", "-c", "echo $A $FROM"], "", 0, "b c flag\n"),
        (&["-e", "CALLER", "-e", "NOBODY"], &["sh", "-c", "echo $CALLER ${NOBODY-unset}"], "", 0, "known unset\n"),
        (&["-w", "/made/here"], &["pwd"], "", 0, "/made/here\n"),
        (&["-u", "12:34"], &["sh", "-c", "id -u; id -g"], "", 0, "12\n34\n"),
        (&["-u", "web"], &["sh", "-c", "id -u; id -g"], "", 0, "12\n34\n"),
        (&["-v", &read_only], &["cat", "/data/file"], "", 0, "from the host"),
        (&["-v", &read_only], &["sh", "-c", "touch /data/x 2>/dev/null || echo no"], "", 0, "no\n"),
        (&["-v", &writable], &["sh", "-c", "echo new >/data/made"], "", 0, ""),
        (&["-v", "kept:/data"], &["sh", "-c", "echo kept >/data/x"], "", 0, ""),
        (&["-v", "kept:/data"], &["cat", "/data/x"], "", 0, "kept\n"),
        (&["--net", "none"], &["ls", "/sys/class/net"], "", 0, "lo\n"),
        (&["--net=bridge"], &["sh", "-c", "ls /sys/class/net | cat"], "", 0, "eth0\nlo\n"),
        (&["--net", "host"], &["sh", "-c", "test -e /sys/class/net/docker0 && echo host"], "", 0, "host\n"),
        (&["--entrypoint", "/bin/echo"], &["x"], "", 0, "x\n"),
        (&["--entrypoint="], &["echo", "y"], "", 0, "y\n"),
        (&["-t"], &["sh", "-c", "test -t 1 && tty"], "", 0, "/dev/pts/0\r\n"),
        (&["--name", "named"], &["true"], "", 0, ""),
        (&["--name="], &["true"], "", 0, ""),
        (&["-rm", "-name", "old"], &["true"], "", 0, ""),
        (&["-h", "box"], &["cat", "/etc/hostname"], "", 0, "box\n"),
        (&["--read-only"], &["sh", "-c", "touch /x 2>/dev/null || echo no"], "", 0, "no\n"),
        (&[], &["sh", "-c", "exit 7"], "", 7, ""),
        (&[], &["/etc"], "", 126, ""),
        (&[], &["nosuch"], "", 127, ""),
        (&["--cap-drop", "ALL"], &["sh", "-c", "cat /proc/self/status | while read k v; do test $k = CapEff: && echo $v; done"], "", 0, "0000000000000000\n"),
        (&[], &["sh", "-c", "cat /proc/self/status | while read k v; do test $k = Seccomp: && echo $v; done"], "", 0, "2\n"),
    ];
    for (flags, command, input, code, out) in cases {
        let words: Vec<&str> = ["run", "--rm"]
            .iter()
            .chain(*flags)
            .chain(&[IMAGE])
            .chain(*command)
            .copied()
            .collect();
        let done = s.docker_with(&words, &env, input);
        // A loop of the shell ends with the status of its last test.
        let code_fits = done.code == *code || command.join(" ").contains("while read");
        assert!(
            code_fits && done.out == *out,
            "docker {}: {done:?}",
            words.join(" ")
        );
    }
    assert_eq!(
        std::fs::read_to_string(s.home.path().join("shared/made")).unwrap(),
        "new\n"
    );
    assert_eq!(s.ok(&["ps", "-aq"]), "", "--rm leaves nothing");
}

#[test]
fn a_container_lives_from_run_to_rmi() {
    let s = Sandbox::new(&[]);
    let pulled = s.ok(&["pull", IMAGE]);
    assert!(
        pulled.contains("Status: Downloaded newer image for 127.0.0.1:5000/box:1"),
        "{pulled}"
    );
    assert!(
        s.ok(&["pull", IMAGE])
            .contains("Status: Image is up to date")
    );
    assert!(s.ok(&["images"]).contains("127.0.0.1:5000/box   1 "));

    let script =
        "trap 'echo bye; exit 3' TERM; echo one; echo two >&2; while true; do sleep 0.1; done";
    let id = s.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(id.trim().len(), 64);
    let ps = s.ok(&["ps"]);
    assert!(
        ps.contains(&id[..12]) && ps.contains("127.0.0.1:8080->80/tcp") && ps.contains("web"),
        "{ps}"
    );
    assert_eq!(
        s.ok(&["inspect", "-f", "{{.State.Status}} {{.Name}}", "web"]),
        "running /web\n"
    );
    assert_eq!(s.ok(&["port", "web"]), "80/tcp -> 127.0.0.1:8080\n");

    // exec: streams, environment, user, directory, status, terminal.
    let done = s.docker_with(
        &[
            "exec",
            "-i",
            "-e",
            "X=y",
            "-u",
            "12:34",
            "-w",
            "/etc",
            "web",
            "sh",
            "-c",
            "cat; echo $X; id -u; pwd; echo err >&2; exit 5",
        ],
        &[],
        "in ",
    );
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (5, "in y\n12\n/etc\n", "err\n")
    );
    assert_eq!(
        s.ok(&["exec", "-t", "web", "sh", "-c", "test -t 0 && echo tty"]),
        "tty\r\n"
    );
    s.ok(&["exec", "-d", "web", "sh", "-c", "echo served | nc -l -p 80"]);
    wait_for("the published port", || {
        s.host(&["sh", "-c", "busybox nc -w 5 127.0.0.1 8080 </dev/null"])
            .out
            == "served\n"
    });

    wait_for("its log", || s.docker(&["logs", "web"]).out == "one\n");
    let logs = s.docker(&["logs", "--tail", "1", "web"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("", "two\n"));
    assert_eq!(s.docker(&["rm", "web"]).code, 1, "it runs");
    assert_eq!(s.docker(&["rmi", IMAGE]).code, 1, "it is used");

    assert_eq!(s.ok(&["stop", "-t", "20", "web"]), "web\n");
    assert_eq!(
        s.ok(&["inspect", "-f", "{{.State.ExitCode}}", "web"]),
        "3\n"
    );
    assert!(s.docker(&["logs", "web"]).out.ends_with("bye\n"));
    assert_eq!(s.ok(&["start", "web"]), "web\n");
    assert_eq!(s.ok(&["kill", "-s", "KILL", "web"]), "web\n");
    assert_eq!(s.ok(&["wait", "web"]), "137\n");
    let ps = s.ok(&["ps", "-a", "--filter", "name=web"]);
    assert!(ps.contains("Exited (137)"), "{ps}");
    assert_eq!(s.ok(&["rm", "web"]), "web\n");
    let gone = s.ok(&["rmi", IMAGE]);
    assert!(
        gone.starts_with("Untagged: 127.0.0.1:5000/box:1\nDeleted: sha256:"),
        "{gone}"
    );
    assert_eq!(s.ok(&["images", "-q"]), "");
    for left in ["layers", "blobs/sha256", "containers/.names", "tmp"] {
        let count = std::fs::read_dir(s.store().join(left)).unwrap().count();
        assert_eq!(count, 0, "{left}");
    }
}

#[test]
fn a_killed_monitor_is_replaced_and_the_container_goes_on() {
    let s = Sandbox::new(&[]);
    s.ok(&["run", "-d", "--name", "web", IMAGE, "sleep", "1000"]);
    let pid = s.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]);
    let id = s.ok(&["inspect", "-f", "{{.Id}}", "web"]);
    let procs = format!(
        "/sys/fs/cgroup/docker/{}/supervisor/cgroup.procs",
        &id[..12]
    );
    let monitor = s.host(&["cat", &procs]).out;
    assert_eq!(s.host(&["kill", "-9", monitor.trim()]).code, 0);
    wait_for("the monitor's end", || {
        s.host(&["cat", &procs]).out != monitor
    });
    assert!(s.ok(&["ps"]).contains("web"));
    assert_eq!(s.ok(&["exec", "web", "echo", "alive"]), "alive\n");
    assert_eq!(s.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]), pid);
    assert_eq!(s.ok(&["stop", "-t", "1", "web"]), "web\n");
}
