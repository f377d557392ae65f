//! What goes wrong outside: each says what, where and what to do, with docker's exit status, and what runs stays as it
//! is. Real containers, a real registry: see [`sandbox`].

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod sandbox;

use oci_image::Digest;
use oci_image::build::{Built, Item, single_layer};
use oci_image::manifest::{ImageConfig, Manifest, RunConfig};
use sandbox::{IMAGE, REGISTRY, Sandbox};
use std::collections::BTreeMap;
use std::io::Write;

/// `built` with another layer; digests fit, so only the content is wrong.
fn with_layer(built: &Built, archive: &[u8]) -> Built {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(archive).unwrap();
    let layer = packer.finish().unwrap();
    let mut config: ImageConfig = serde_json::from_slice(&built.config).unwrap();
    config.rootfs.diff_ids = vec![Digest::of(archive)];
    let config = serde_json::to_vec(&config).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&built.manifest).unwrap();
    for (descriptor, bytes) in [
        (&mut manifest.config, &config),
        (&mut manifest.layers[0], &layer),
    ] {
        descriptor.digest = Digest::of(bytes);
        descriptor.size = bytes.len() as u64;
    }
    Built {
        manifest: serde_json::to_vec(&manifest).unwrap(),
        config,
        layer,
    }
}

/// One file whose name leaves the layer, behind a good one.
fn hostile() -> Built {
    let file = |path: &str| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let archive = [file("good"), file("../../../../etc/passwd"), vec![0; 1024]].concat();
    with_layer(&small(), &archive)
}

fn small() -> Built {
    let files = BTreeMap::from([(
        "a".to_owned(),
        Item::File {
            bytes: b"a".to_vec(),
            mode: 0o644,
        },
    )]);
    single_layer(&files, RunConfig::default()).unwrap()
}

#[test]
fn each_failure_says_what_where_and_what_to_do() {
    let s = Sandbox::new(&[("hostile:1", &hostile())]);
    s.ok(&[
        "run", "-d", "--name", "web", "-p", "8080:80", IMAGE, "sleep", "1000",
    ]);
    let mut other = s
        .command("bash")
        .args(["-c", "exec busybox nc -l -p 9090 0<&1"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sandbox::wait_for("another program's port", || {
        s.host(&["ss", "-ltn"]).out.contains(":9090")
    });
    let before = state(&s);
    let dead = "127.0.0.1:5999/box:1";
    let missing_tag = format!("{REGISTRY}/box:9");
    let hostile = format!("{REGISTRY}/hostile:1");
    let wrong = format!("{REGISTRY}/box@sha256:{}", "0".repeat(64));
    #[rustfmt::skip]
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["pull", dead], 1, &["failed to pull: https://127.0.0.1:5999", "refused", "hint: is the registry up"]),
        (&["run", "--rm", dead, "true"], 125, &["Unable to find image '127.0.0.1:5999/box:1' locally", "docker: Error response from daemon: failed to pull", "hint:"]),
        (&["pull", &missing_tag], 1, &["manifest for 127.0.0.1:5000/box:9 not found: manifest unknown", "hint: the registry answers but has no such tag"]),
        (&["pull", &wrong], 1, &["manifest unknown"]),
        (&["pull", &hostile], 1, &["layer sha256:", "is refused", "../../../../etc/passwd", "leaves the layer", "hint: the image is damaged or hostile"]),
        (&["run", "--rm", &hostile, "x"], 125, &["is refused"]),
        (&["run", "--rm", "-p", "8080:80", IMAGE, "true"], 125, &["Bind for 0.0.0.0:8080 failed: port is already allocated", "hint: docker ps shows the container"]),
        (&["run", "--rm", "-p", "127.0.0.1:9090:80", IMAGE, "true"], 125, &["Bind for 127.0.0.1:9090 failed: port is already allocated"]),
        (&["run", "--rm", "-p", "80:80", "-p", "80:81", IMAGE, "true"], 125, &["port is already allocated"]),
        (&["run", "--rm", "--name", "web", IMAGE, "true"], 125, &["The container name \"/web\" is already in use by container", "hint: docker start"]),
        (&["create", "--name", "web", IMAGE], 125, &["is already in use by container"]),
        (&["run", "--frob", IMAGE], 125, &["docker: unknown flag: --frob", "See 'docker run --help'."]),
        (&["ps", "--frob"], 1, &["unknown flag: --frob", "Usage:  docker ps [OPTIONS]"]),
        (&["run", "--rm", "Bad/Name", "true"], 125, &["repository name \"Bad/Name\" must be lowercase"]),
        (&["run", "--rm", "--name", "a b", IMAGE, "true"], 125, &["Invalid container name (a b)"]),
        (&["run", "--rm", "-w", "rel", IMAGE, "true"], 125, &["the working directory 'rel' is invalid"]),
        (&["run", "--rm", "-u", "nobody-here", IMAGE, "true"], 125, &["unable to find user nobody-here"]),
        (&["run", "--rm", "--net", "nosuch", IMAGE, "true"], 125, &["network nosuch not found"]),
        (&["run", "--rm", "--net", "container:nosuch", IMAGE, "true"], 125, &["non running container: nosuch"]),
        (&["run", "--rm", "-v", "rel/x:/y", IMAGE, "true"], 125, &["use absolute path"]),
        (&["run", "--rm", "-p", "99999:1", IMAGE, "true"], 125, &["invalid publish opts format", "99999:1"]),
        (&["run", "--rm", "-m", "1q", IMAGE, "true"], 125, &["invalid argument \"1q\" for \"--memory\" flag"]),
        (&["run", "--rm", "--env-file", "/no/such", IMAGE, "true"], 125, &["open /no/such"]),
        (&["run", "--rm", "--pull", "never", "nosuch", "true"], 125, &["No such image: nosuch"]),
        (&["run", "--rm", IMAGE, "nosuch"], 127, &["exec: \"nosuch\": executable file not found in $PATH"]),
        (&["run", "--rm", IMAGE, "/etc"], 126, &["exec: \"/etc\": permission denied"]),
        (&["exec", "web", "nosuch"], 127, &["executable file not found in $PATH"]),
        (&["exec", "web", "/etc"], 126, &["permission denied"]),
        (&["exec", "-w", "/nowhere", "web", "true"], 126, &["chdir to cwd (\"/nowhere\")", "no such file or directory"]),
        (&["exec", "-u", "nobody-here", "web", "true"], 1, &["unable to find user nobody-here"]),
        (&["exec", "nosuch", "true"], 1, &["No such container: nosuch"]),
        (&["rmi", IMAGE], 1, &["image is being used by running container"]),
        (&["rm", "web"], 1, &["container is running: stop the container before removing or force remove"]),
        (&["logs", "nosuch"], 1, &["No such container: nosuch"]),
        (&["inspect", "nosuch"], 1, &["Error: No such object: nosuch"]),
        (&["inspect", "--type", "frob", "web"], 1, &["\"frob\" is not a valid value for --type"]),
        (&["kill", "-s", "NOPE", "web"], 1, &["NOPE"]),
        (&["frob"], 1, &["'frob' is not a docker command"]),
        (&["login"], 1, &["'login' is a command of docker that Flotilla does not have yet"]),
    ];
    for (words, code, says) in cases {
        let done = s.docker(words);
        assert_eq!(done.code, *code, "docker {}: {done:?}", words.join(" "));
        for words_of_it in *says {
            assert!(
                done.err.contains(words_of_it),
                "docker {}: {words_of_it:?} not in {done:?}",
                words.join(" ")
            );
        }
        assert_eq!(state(&s), before, "docker {}", words.join(" "));
    }

    let _ = other.kill();
    let _ = other.wait();
}

/// What must not change: containers with their processes, images, and what lies in the store.
fn state(s: &Sandbox) -> String {
    let mut text = s.ok(&[
        "ps",
        "-a",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Names}} {{.State}} {{.Ports}}",
    ]);
    text += &s.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]);
    text += &s.ok(&["images", "-a", "--no-trunc"]);
    for directory in ["layers", "tmp", "containers", "images"] {
        let mut names: Vec<_> = std::fs::read_dir(s.store().join(directory))
            .unwrap()
            .flatten()
            .map(|item| item.file_name())
            .collect();
        names.sort();
        text += &format!("{directory} {names:?}\n");
    }
    text
}

#[test]
fn wrong_bytes_from_the_registry_are_refused() {
    let s = Sandbox::new(&[]);
    s.damage_registry(100_000);
    let done = s.docker(&["pull", IMAGE]);
    assert_eq!(done.code, 1);
    for words in [
        "failed to fetch layer sha256:",
        "http://127.0.0.1:5000",
        "wrong digest: wanted sha256:",
        "hint: the registry, or something on the way to it",
    ] {
        assert!(done.err.contains(words), "{words}: {done:?}");
    }
    assert_eq!(s.ok(&["images", "-q"]), "");
    assert_eq!(s.docker(&["run", "--rm", IMAGE, "true"]).code, 125);
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let s = Sandbox::new(&[("small:1", &small())]);
    let store = s.store().display().to_string();
    let small = format!("{REGISTRY}/small:1");
    assert_eq!(
        s.host(&["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", &store])
            .code,
        0
    );
    s.ok(&["pull", &small]);
    let images = s.ok(&["images", "--no-trunc"]);
    let full = s.docker(&["pull", IMAGE]);
    assert_eq!(full.code, 1, "{full:?}");
    for words in [
        "No space left on device",
        "layer sha256:",
        "hint: free some space",
    ] {
        assert!(full.err.contains(words), "{words}: {full:?}");
    }
    assert_eq!(s.ok(&["images", "--no-trunc"]), images);
    assert_eq!(s.host(&["ls", &format!("{store}/tmp")]).out, "");
    // The packed layer fits, what is in it does not.
    s.host(&["mount", "-o", "remount,size=1700k", &store]);
    let full = s.docker(&["pull", IMAGE]);
    assert_eq!(full.code, 1, "{full:?}");
    assert!(
        full.err.contains("No space left on device") && full.err.contains("hint: free some space"),
        "{full:?}"
    );
    assert_eq!(s.ok(&["images", "--no-trunc"]), images);
    s.host(&["mount", "-o", "remount,size=64m", &store]);
    s.ok(&["pull", IMAGE]);

    // Without a byte left no container is made, no name taken, and the one that runs goes on.
    s.ok(&["run", "-d", "--name", "web", IMAGE, "sleep", "1000"]);
    s.host(&[
        "sh",
        "-c",
        &format!("cat /dev/zero >{store}/filler 2>/dev/null"),
    ]);
    let full = s.docker(&["run", "--name", "second", IMAGE, "true"]);
    assert_eq!(full.code, 125, "{full:?}");
    assert!(
        full.err.contains("No space left on device") && full.err.contains("hint: free some space"),
        "{full:?}"
    );
    assert_eq!(
        s.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]),
        "web running\n"
    );
    assert_eq!(s.ok(&["exec", "web", "echo", "alive"]), "alive\n");
    s.host(&["rm", &format!("{store}/filler")]);
    s.ok(&["run", "--rm", "--name", "second", IMAGE, "true"]);
    s.ok(&["rm", "-f", "web"]);
}

#[test]
fn a_store_of_another_program_or_version_is_left_alone() {
    let s = Sandbox::new(&[]);
    let file = s.store().join("overlay2");
    std::fs::create_dir(&file).unwrap();
    let done = s.docker(&["pull", IMAGE]);
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("holds files of another program") && done.err.contains("data-root"),
        "{done:?}"
    );
    assert_eq!(
        std::fs::read_dir(s.store()).unwrap().count(),
        1,
        "nothing is added"
    );
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(s.store().join("format"), "9\n").unwrap();
    for words in [
        &["pull", IMAGE][..],
        &["images"],
        &["run", "--rm", IMAGE, "true"],
    ] {
        let done = s.docker(words);
        assert!(done.code == 1 || done.code == 125);
        assert!(
            done.err.contains("has format 9, this version knows 1")
                && done.err.contains("hint: a newer version wrote it"),
            "{done:?}"
        );
    }
}

#[test]
fn without_root_one_may_look_and_is_told_so() {
    let s = Sandbox::new(&[]);
    s.ok(&["run", "-d", "--name", "web", IMAGE, "sleep", "1000"]);
    std::fs::set_permissions(
        s.home.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    // The store belongs to the group docker where there is one; here the tests' own group stands for it.
    std::os::unix::fs::chown(s.store(), None, Some(4242)).unwrap();
    let program = std::env::temp_dir().join(format!("docker-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_docker"), &program).unwrap();
    let as_user = |group: &str, words: &[&str]| -> sandbox::Done {
        let output = s
            .command("setpriv")
            .args(["--reuid", "4242", "--regid", group, "--clear-groups", "--"])
            .arg(&program)
            .args(words)
            .output()
            .unwrap();
        output.into()
    };
    let ps = as_user("4242", &["ps"]);
    assert!(ps.code == 0 && ps.out.contains("web"), "{ps:?}");
    assert!(
        as_user("4242", &["images"])
            .out
            .contains("127.0.0.1:5000/box")
    );
    assert_eq!(
        as_user("4242", &["inspect", "-f", "{{.State.Status}}", "web"]).out,
        "running\n"
    );
    assert_eq!(as_user("4242", &["logs", "web"]).code, 0);
    for words in [
        &["run", "--rm", IMAGE][..],
        &["stop", "web"],
        &["rm", "-f", "web"],
        &["pull", IMAGE],
        &["exec", "web", "true"],
    ] {
        let done = as_user("4242", words);
        assert_eq!(
            done.code,
            if words[0] == "run" { 125 } else { 1 },
            "{done:?}"
        );
        assert!(
            done.err
                .contains(&format!("docker {} is for root", words[0]))
                && done
                    .err
                    .contains("sudo systemctl start docker.socket, or sudo docker"),
            "{done:?}"
        );
    }
    // Nobody of the group: refused with the way out.
    for words in [&["ps"][..], &["images"], &["inspect", "web"]] {
        let done = as_user("77", words);
        assert_eq!(done.code, 1, "{done:?}");
        assert!(
            done.err.contains("Permission denied") && done.err.contains("hint: use sudo"),
            "{done:?}"
        );
    }
    // A store that nobody used yet is an empty one.
    s.ok(&["rm", "-f", "web"]);
    for item in std::fs::read_dir(s.store()).unwrap().flatten() {
        let path = item.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(as_user("4242", &["ps", "-q"]).out, "");
    let images = as_user("4242", &["images"]);
    assert!(
        images.code == 0 && images.out.starts_with("REPOSITORY"),
        "{images:?}"
    );
    assert_eq!(as_user("4242", &["info", "-f", "{{.Images}}"]).out, "0\n");
    std::fs::remove_file(program).unwrap();
}
