//! What image-build says when a package, a tool, a mirror or space is missing, or the lock is damaged: real apt, and
//! nothing of the state before is lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A data directory like image-build's own, with this lock.
fn data(dir: &Path, lock: &str) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for f in ["packages.toml", "prune.txt"] {
        fs::copy(own.join(f), dir.join(f)).expect("our own data");
    }
    fs::write(dir.join("packages.lock"), lock).expect("a temporary directory");
}

fn image_build(dir: &Path, wrap: &[&str], args: &[&str]) -> (Output, String) {
    let program = env!("CARGO_BIN_EXE_image-build");
    let mut c = match wrap.split_first() {
        Some((first, rest)) => {
            let mut c = Command::new(first);
            c.args(rest).arg(program);
            c
        }
        None => Command::new(program),
    };
    let out = c
        .arg("--data")
        .arg(dir)
        .arg("--cache")
        .arg(dir.join("cache"))
        .args(args)
        .output()
        .expect("image-build runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    (out, said)
}

const BUILD: [&str; 7] = [
    "build",
    "--programs",
    "/nonexistent",
    "--init",
    "/nonexistent",
    "--out",
    "/nonexistent",
];

#[test]
fn a_locked_version_that_is_gone_is_named_with_both_ways_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let lock = format!("tools bash 0.0-gone {ZEROS}\nimage bash 0.0-gone {ZEROS}\n");
    data(dir.path(), &lock);
    let out = dir.path().join("out").display().to_string();
    let mut args = BUILD;
    args[6] = &out;
    let (o, said) = image_build(dir.path(), &[], &args);
    assert_eq!(o.status.code(), Some(3), "{said}");
    for word in ["bash=0.0-gone", "update-lock", "--mirror URL"] {
        assert!(said.contains(word), "{word:?} missing in {said}");
    }
}

#[test]
fn what_is_missing_is_said_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = format!("tools bash 1 {ZEROS}\nimage bash 1 {ZEROS}\n");
    let small = format!(
        "mkdir -p {0}/cache && mount -t tmpfs -o size=64m none {0}/cache && exec \"$0\" \"$@\"",
        dir.path().display()
    );
    let out = dir.path().join("out").display().to_string();
    let mut build = BUILD;
    build[6] = &out;
    type Words<'a> = &'a [&'a str];
    // The lock, what image-build is wrapped in, its arguments, what it must say.
    let cases: &[(&str, Words, Words, Words)] = &[
        (
            "image bash 1\n",
            &[],
            &build,
            &[
                "packages.lock is damaged",
                "line 1",
                "set name version sha256",
            ],
        ),
        (
            "image bash 1 zz\n",
            &[],
            &build,
            &["packages.lock is damaged", "line 1", "not a sha256"],
        ),
        ("", &[], &build, &["no packages for tools", "update-lock"]),
        (
            &good,
            &["env", "PATH=/nonexistent"],
            &build,
            &["apt-get is not installed", "apt-get install apt"],
        ),
        (
            &good,
            &["unshare", "-rm", "sh", "-c", &small],
            &build,
            &["MB free at", "3072 MB needed", "--cache"],
        ),
        (
            &good,
            &[],
            &["--mirror", "http://127.0.0.1:9/debian", "update-lock"],
            &["cannot fetch the package indexes", "127.0.0.1:9"],
        ),
    ];
    for (lock, wrap, args, words) in cases {
        data(dir.path(), lock);
        let (o, said) = image_build(dir.path(), wrap, args);
        assert_eq!(o.status.code(), Some(1), "{said}");
        for word in *words {
            assert!(said.contains(word), "{word:?} missing in {said}");
        }
        assert_eq!(
            fs::read_to_string(dir.path().join("packages.lock")).expect("still there"),
            *lock,
            "the lock was touched"
        );
    }
}
