//! The program on bad input: what it says, where, what to do, how it exits, and that the rest stays as it is.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

mod common;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::Machine;

const PROGRAM: &str = env!("CARGO_BIN_EXE_flotilla-cloudinit");

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Applies a document below a root and looks at the status and at words of what was said.
#[track_caller]
fn apply(document: &str, code: i32, words: &[&str]) -> Machine {
    let machine = Machine::new();
    machine.write("/user-data", document);
    let output = Command::new(PROGRAM)
        .args(["-from-file", machine.path("/user-data").to_str().unwrap()])
        .args(["-root", machine.dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{document}\n{said}");
    for word in words {
        assert!(
            said.contains(word),
            "{document}\n{word:?} is not in\n{said}"
        );
    }
    machine
}

const KEY: &str = "ssh_authorized_keys: [ssh-ed25519 AAAA me]\n";
const HINT: &str = "hint: flotilla-cloudinit -validate -from-file FILE checks user data";

#[test]
fn what_cannot_be_read_is_named_and_nothing_of_it_is_applied() {
    for (rest, words) in [
        (
            "hostname: a\n\tb: c\n",
            "user-data: cannot read the document: line 4: while scanning a plain scalar, found a tab",
        ),
        (
            "a: b: c\n",
            "user-data: cannot read the document: line 3: mapping values are not allowed",
        ),
        ("a: [b\n", "user-data: cannot read the document: line "),
        (
            "a: &x [*x]\n",
            "user-data: cannot read the document: line 3: ",
        ),
        (
            "write_files: [{path: /a, encoding: b64, content: \"***\"}]\n",
            "user-data: line 3: content of /a cannot be decoded as \"b64\"",
        ),
        (
            "write_files: [{path: /a, permissions: rw}]\n",
            "user-data: line 3: permissions of /a are not an octal mode: \"rw\"",
        ),
    ] {
        let machine = apply(&format!("#cloud-config\n{KEY}{rest}"), 1, &[words, HINT]);
        assert!(!machine.exists("/home/core/.ssh"), "{rest}");
        assert!(!machine.exists("/a"), "{rest}");
    }
    apply(
        "- a\n",
        1,
        &[
            "user-data: line 1: must be \"#cloud-config\" or begin with \"#!\"",
            HINT,
        ],
    );
    apply(
        "#cloud-config\n- a\n",
        1,
        &[
            "user-data: line 2: the document must be a mapping of keys to values",
            HINT,
        ],
    );
}

#[test]
fn what_is_wrong_in_a_part_leaves_the_rest() {
    for (rest, code, words) in [
        (
            "hostnam: a\n",
            0,
            "warning: user-data: line 3: unrecognized key \"hostnam\"",
        ),
        (
            "users: [{name: x, shel: y}]\n",
            0,
            "user-data: line 3: unrecognized key \"shel\"",
        ),
        (
            "hostname: [a]\n",
            0,
            "user-data: line 3: incorrect type for \"hostname\" (want string)",
        ),
        (
            "users: [{name: a, uid: 4294967295}]\n",
            0,
            "line 3: invalid value 4294967295",
        ),
        (
            "users: [{name: a b}]\n",
            1,
            "line 3: \"a b\" is not a valid user name",
        ),
        (
            "coreos:\n  units:\n  - name: ../x.service\n    content: x\n",
            1,
            "line 5: \"../x.service\" is not a unit name",
        ),
        (
            "coreos:\n  units:\n  - name: a.servic\n    command: start\n",
            0,
            "user-data: line 5: unit name \"a.servic\" does not end in a unit type",
        ),
        (
            "coreos:\n  units:\n  - name: a.service\n    content: |\n      [Service]\n      Restart=maybe\n      ExecStart=/bin/x\n",
            0,
            "user-data: line 8: a.service: Restart=",
        ),
        (
            "coreos:\n  units:\n  - name: a.service\n    content: |\n      [Servce]\n      ExecStart=/bin/x\n",
            0,
            "warning: user-data: line 8: a.service: unknown key \"ExecStart\" in section [Servce]",
        ),
        (
            "write_files:\n- path: /x\n  content: $private_ipv4\n",
            0,
            "user-data: line 5: $private_ipv4 has no value",
        ),
    ] {
        let machine = apply(&format!("#cloud-config\n{KEY}{rest}"), code, &[words]);
        assert!(
            machine
                .text("/home/core/.ssh/authorized_keys")
                .contains("AAAA me"),
            "{rest}"
        );
    }
}

#[test]
fn a_refused_value_stops_before_the_first_file() {
    for (rest, words) in [
        (
            "coreos: {update: {reboot-strategy: sometimes}}\n",
            "line 6: invalid reboot strategy \"sometimes\" (use etcd-lock, reboot or off)",
        ),
        (
            "manage_etc_hosts: everything\n",
            "invalid value \"everything\" of manage_etc_hosts (use localhost)",
        ),
        ("hostname: \"-bad-\"\n", "\"-bad-\" is not a host name"),
    ] {
        let document =
            format!("#cloud-config\n{KEY}write_files:\n- path: /a\n  content: x\n{rest}");
        let machine = apply(&document, 1, &[words]);
        assert!(!machine.exists("/a"), "{rest}");
    }
}

#[test]
fn an_owner_that_does_not_exist_is_named() {
    for (owner, words) in [
        ("nobody-here", "failed to write /a (0644 nobody-here"),
        ("core:nothing", "nothing"),
        ("4294967295", "4294967295"),
        ("1:4294967295", "4294967295"),
    ] {
        let document = format!(
            "#cloud-config\n{KEY}write_files:\n- path: /a\n  owner: \"{owner}\"\n  content: x\n"
        );
        let machine = apply(&document, 1, &[words]);
        assert!(!machine.exists("/a"), "{owner}");
        assert!(machine.exists("/home/core/.ssh/authorized_keys"), "{owner}");
    }
}

#[test]
fn an_absent_source_is_named_with_the_reason_and_looking_does_not_wait() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}/user-data");
    for (args, words) in [
        (
            vec!["-validate", "-from-file", "/no/such"],
            "no source of user data is available: file /no/such: No such file",
        ),
        (
            vec!["-dry-run", "-from-configdrive", "/no/such"],
            "config drive /no/such: No such file",
        ),
        (
            vec!["-dry-run", "-from-nocloud", "/dev/null"],
            "NoCloud directory /dev/null: not a directory",
        ),
        (vec!["-validate", "-from-url", &url], &url),
        (
            vec!["-from-file", "/no/such", "-timeout", "0"],
            "file /no/such: No such file",
        ),
        (
            vec!["-from-proc-cmdline"],
            "kernel command line: it has no cloud-config-url=",
        ),
    ] {
        let start = Instant::now();
        let output = Command::new(PROGRAM).args(&args).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}\n{said}");
        assert!(said.contains(words), "{args:?}\n{said}");
        assert!(start.elapsed() < Duration::from_secs(20), "{args:?}");
    }
    for args in [
        &["-frob"][..],
        &[],
        &["-stage", "x"],
        &["-oem", "x"],
        &["-convert-netconf=x", "-from-file=/dev/null"],
    ] {
        let output = Command::new(PROGRAM).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            said(&output).contains("hint: flotilla-cloudinit --help"),
            "{args:?}"
        );
    }
}

/// In a mount namespace of its own, on a file system with little room.
#[test]
fn a_full_disk_keeps_the_old_file_and_says_so() {
    let machine = Machine::new();
    let big = "x".repeat(300_000);
    machine.write("/user-data", &format!("#cloud-config\n{KEY}write_files:\n- path: /old\n  content: {big}\n- path: /never\n  content: x\n"));
    let script = "small=$1/small; mkdir $small; mount -t tmpfs -o size=200k tmpfs $small; cp -a $1/etc $small/
echo kept >$small/old; \"$2\" -from-file $1/user-data -root $small; echo status $?; cat $small/old; ls -A $small";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .args(["sh", machine.dir.path().to_str().unwrap(), PROGRAM])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(out, "status 1\nkept\netc\nhome\nold\n", "{err}");
    for words in ["write /old", "No space left on device"] {
        assert!(err.contains(words), "{words}: {err}");
    }
}
