//! The validator, row by row: which text at which line.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use cloudinit::input::validate;

#[track_caller]
fn check(text: &str, want: &[&str]) {
    let report = validate(text.as_bytes());
    let got: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(got, want, "{text}");
}

#[test]
fn good_documents_have_no_findings() {
    check("", &[]);
    check("#!/bin/sh\nexit 0\n", &[]);
    check("#cloud-config\n", &[]);
    check(
        "#cloud-config\ncoreos:\n  update:\n    reboot-strategy: off\n",
        &[],
    );
    check(
        "#cloud-config\nwrite_files:\n- path: /a\n  permissions: 0644\n  content: yes\n",
        &[],
    );
    check(
        "#cloud-config\ncoreos:\n  etcd2:\n    proxy: on\n    name: 123\n    debug: yes\n",
        &[],
    );
    check(
        "#cloud-config\ncoreos:\n  fleet:\n    engine-reconcile-interval: 2\n",
        &[],
    );
    check(
        "#cloud-config\nwrite_files:\n- path: /usr/share/oem/x\n- path: /usrfoo/x\n",
        &[],
    );
    check(
        "#cloud-config\nusers:\n- default\n- name: a\n  groups: a,b\n",
        &[],
    );
}

#[test]
fn the_header_comes_first() {
    let header = "line 1: error: must be \"#cloud-config\" or begin with \"#!\"";
    for text in [
        "hostname: a\n",
        "\n#cloud-config\n",
        "\u{feff}#cloud-config\n",
        "#cloud-config-archive\n",
    ] {
        check(text, &[header]);
    }
}

#[test]
fn yaml_errors_have_exact_lines() {
    check(
        "#cloud-config\nhostname: a\n\tb: c\n",
        &["line 3: error: while scanning a plain scalar, found a tab"],
    );
    check(
        "#cloud-config\na: b: c\n",
        &["line 2: error: mapping values are not allowed in this context"],
    );
    check(
        "#cloud-config\na: \u{1}\n",
        &["line 2: error: control character U+0001 is not allowed"],
    );
    check(
        "#cloud-config\n- a\n",
        &["line 2: error: the document must be a mapping of keys to values"],
    );
    let report = validate(b"#cloud-config\na: b\nc: \xff\n");
    assert_eq!(
        report.findings[0].to_string(),
        "line 3: error: the text is not valid UTF-8"
    );
}

#[test]
fn unknown_keys_are_warnings_at_every_level() {
    check(
        "#cloud-config\nhostnam: a\n",
        &["line 2: warning: unrecognized key \"hostnam\""],
    );
    check(
        "#cloud-config\ncoreos:\n  etcd2:\n    nam-e: a\n  units:\n  - name: a.service\n    drop-ins:\n    - nam: x\n",
        &[
            "line 4: warning: unrecognized key \"nam_e\"",
            "line 8: warning: unrecognized key \"nam\"",
        ],
    );
    check(
        "#cloud-config\nusers:\n- name: a\n  selinux-user: b\n",
        &["line 4: warning: unrecognized key \"selinux_user\""],
    );
    check(
        "#cloud-config\npackages: [a]\nphone_home: {}\n",
        &[
            "line 2: warning: unrecognized key \"packages\"",
            "line 3: warning: unrecognized key \"phone_home\"",
        ],
    );
}

#[test]
fn wrong_types_are_named() {
    let cases = [
        ("hostname: [a]", "hostname", "string"),
        ("ssh_authorized_keys: a", "ssh_authorized_keys", "[]string"),
        (
            "ssh_authorized_keys: [{a: b}]",
            "ssh_authorized_keys[0]",
            "string",
        ),
        ("users: a", "users", "[]struct"),
        ("users: [a]", "users[0]", "struct"),
        ("coreos: a", "coreos", "struct"),
        ("coreos: {units: {a: b}}", "units", "[]struct"),
        (
            "coreos: {units: [{name: a.service, enable: \"yes\"}]}",
            "enable",
            "bool",
        ),
        ("coreos: {etcd2: {max-wals: x}}", "max_wals", "int"),
        ("coreos: {etcd2: {max-wals: 1.5}}", "max_wals", "int"),
        (
            "coreos: {fleet: {etcd_request_timeout: x}}",
            "etcd_request_timeout",
            "float64",
        ),
    ];
    for (text, key, want) in cases {
        let line = format!("line 2: warning: incorrect type for \"{key}\" (want {want})");
        check(&format!("#cloud-config\n{text}\n"), &[&line]);
    }
}

#[test]
fn values_with_a_form_are_checked() {
    let cases = [
        (
            "write_files: [{path: /a, permissions: rw}]",
            "invalid value rw",
        ),
        (
            "coreos: {units: [{name: a.service, command: go}]}",
            "invalid value go",
        ),
        ("coreos: {etcd2: {proxy: maybe}}", "invalid value maybe"),
        (
            "coreos: {update: {reboot-strategy: always}}",
            "invalid value always",
        ),
        (
            "coreos: {locksmith: {window-start: noon}}",
            "invalid value noon",
        ),
        (
            "coreos: {locksmith: {window-length: \"3 h\"}}",
            "invalid value 3 h",
        ),
        ("manage_etc_hosts: everything", "invalid value everything"),
    ];
    for (text, message) in cases {
        check(
            &format!("#cloud-config\n{text}\n"),
            &[&format!("line 2: error: {message}")],
        );
    }
}

#[test]
fn contents_are_decoded() {
    check(
        "#cloud-config\nwrite_files:\n- path: /a\n  encoding: b64\n  content: \"***\"\n",
        &["line 5: error: content cannot be decoded as \"b64\""],
    );
    check(
        "#cloud-config\nwrite_files:\n- path: /a\n  encoding: gzip+base64\n  content: aGVsbG8=\n",
        &["line 5: error: content cannot be decoded as \"gzip+base64\""],
    );
    check(
        "#cloud-config\nwrite_files:\n- path: /a\n  encoding: rot13\n  content: x\n",
        &[
            "line 4: error: invalid value rot13",
            "line 5: error: content cannot be decoded as \"rot13\"",
        ],
    );
}

#[test]
fn old_and_misplaced_things() {
    check(
        "#cloud-config\ncoreos:\n  etcd2:\n    ca-file: x\n  write_files: []\n",
        &[
            "line 4: warning: deprecated key \"ca_file\" (use trusted_ca_file and client_cert_auth instead)",
            "line 5: warning: unrecognized key \"write_files\"",
            "line 5: info: write_files does not belong under coreos",
        ],
    );
    check(
        "#cloud-config\ncoreos:\n  etcd:\n    discovery: \"http://a b\"\n",
        &["line 4: warning: discovery URL is not valid"],
    );
    check(
        "#cloud-config\nwrite_files:\n- path: /usr/bin/x\n- path: /var/../usr/lib/x\n",
        &[
            "line 3: error: file cannot be written to a read-only filesystem",
            "line 4: error: file cannot be written to a read-only filesystem",
        ],
    );
    check(
        "#cloud-config\ncoreos:\n  update:\n    reboot-strategy: best-effort\n",
        &[
            "line 4: warning: reboot strategy best-effort is old: it means etcd-lock where etcd or fleet is set up, else reboot",
        ],
    );
}

#[test]
fn bad_units_are_named_with_the_line_of_their_text() {
    let unit = |rest: &str| format!("#cloud-config\ncoreos:\n  units:\n  - name: {rest}");
    let text = unit(
        "a.service\n    content: |\n      [Service]\n      ExecStart=/bin/true\n      Restart=maybe\n      Colour=red\n      nonsense\n",
    );
    let report = validate(text.as_bytes());
    let got: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(got.len(), 3, "{got:?}");
    for (got, line, words) in [
        (&got[0], 8, "Restart="),
        (
            &got[1],
            9,
            "unknown key \"Colour\" in section [Service], ignored",
        ),
        (&got[2], 10, ""),
    ] {
        let start = format!("line {line}: warning: a.service: ");
        assert!(got.starts_with(&start) && got.contains(words), "{got}");
    }
    check(
        &unit("a.service\n    content: \"[Unit]\\nDescription=x\"\n"),
        &["line 5: error: a.service: has no ExecStart=, which only Type=oneshot may lack"],
    );
    check(
        &unit("a.servic\n    command: start\n"),
        &["line 4: warning: unit name \"a.servic\" does not end in a unit type such as .service"],
    );
    // A drop-in needs no ExecStart=, an address is anything, and other files are not units.
    check(
        &unit(
            "a.service\n    drop-ins:\n    - name: 1.conf\n      content: |\n        [Service]\n        Nice=5\n  - name: b.socket\n    content: |\n      [Socket]\n      ListenStream=$private_ipv4:80\n      ListenStream=/run/x\n  - name: eth.network\n    content: '[Match]'\n  - name: c.service\n    command: start\n",
        ),
        &[],
    );
    check(
        &unit(
            "a.service\n    drop-ins:\n    - name: 1.conf\n      content: |\n        [Service]\n\n        Nice=many\n",
        ),
        &["line 10: warning: a.service: Nice= \"many\" is not a number in range, line ignored"],
    );
}

#[test]
fn the_examples_have_no_findings() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples");
    for name in ["elasticsearch", "etcd-member", "worker-bare-metal"] {
        let bytes = std::fs::read(dir.join(format!("{name}.yml"))).unwrap();
        let report = validate(&bytes);
        assert!(report.findings.is_empty(), "{name}: {report:?}");
    }
}

#[test]
fn findings_point_at_keys_and_not_at_look_alikes_in_text() {
    check(
        "#cloud-config\nwrite_files:\n- path: /a\n  content: |\n    comand: x\ncomand: y\n",
        &["line 6: warning: unrecognized key \"comand\""],
    );
}

#[test]
fn exit_codes() {
    let code = |text: &str, json, strict| validate(text.as_bytes()).exit_code(json, strict);
    assert_eq!(code("#cloud-config\n", false, false), 0);
    assert_eq!(code("#cloud-config\nx: 1\n", false, false), 1);
    assert_eq!(code("#cloud-config\nx: 1\n", true, false), 0);
    assert_eq!(code("#cloud-config\nx: 1\n", true, true), 1);
    assert_eq!(code("x: 1\n", true, false), 1);
}
