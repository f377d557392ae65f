//! Loading: tables of settings, drop-ins, and any text.

use proptest::prelude::proptest;

use super::{SourceText, TypeSettings, UnitConfig, load};
use crate::diagnostic::{Diagnostic, Level};
use crate::name::UnitName;
use crate::settings::{Amount, ConditionKind, ExecSettings, ServiceSettings, StdOutput};
use crate::specifier::MachineInfo;

fn read(name: &str, texts: &[&str]) -> (UnitConfig, Vec<Diagnostic>) {
    let name = UnitName::parse(name).unwrap();
    let sources: Vec<_> = texts
        .iter()
        .map(|text| SourceText { path: "/t", text })
        .collect();
    load(&name, &sources, &MachineInfo::default())
}

fn service(texts: &[&str]) -> (ServiceSettings, ExecSettings, Vec<Diagnostic>) {
    let (config, remarks) = read("a@x.service", texts);
    match config.kind {
        TypeSettings::Service(s) => (*s, config.exec, remarks),
        _ => panic!("not a service"),
    }
}

fn is_bad(name: &str, text: &str) -> bool {
    read(name, &[text])
        .1
        .iter()
        .any(|d| d.level == Level::Error)
}

#[test]
fn drop_ins_reset_lists_and_override_scalars() {
    let (s, e, remarks) = service(&[
        "[Service]\nExecStart=/bin/a %i\nEnvironment=A=1 \"B=2 3\"\nRestart=always\nTimeoutSec=5min\n",
        "[Service]\nExecStart=\nExecStart=/bin/b $X\nEnvironment=C=%i\nTimeoutStopSec=0\n",
    ]);
    assert!(remarks.is_empty(), "{remarks:?}");
    assert_eq!(s.exec_start.len(), 1);
    assert_eq!(s.exec_start[0].argv, ["/bin/b", "$X"]);
    assert_eq!(s.timeout_start_usec, 300_000_000);
    assert_eq!(s.timeout_stop_usec, u64::MAX);
    let pairs: Vec<_> = e
        .environment
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!(pairs, [("A", "1"), ("B", "2 3"), ("C", "x")]);
}

#[test]
fn unknown_keys_warn_and_extensions_are_silent() {
    let (config, remarks) = read(
        "a.service",
        &[
            "[Unit]\nNope=1\nX-Mine=2\n[Service]\nExecStart=/bin/a\nType=wrong\n[X-Fleet]\nGlobal=true\n[Foo]\nA=1\n",
        ],
    );
    assert_eq!(
        remarks.iter().map(|r| r.line).collect::<Vec<_>>(),
        [2, 6, 10]
    );
    assert!(remarks.iter().all(|r| r.level == Level::Warning));
    assert_eq!(config.extensions[0].key, "Global");
}

#[test]
fn bad_settings() {
    for (name, text) in [
        ("a.service", "[Service]\nType=simple\n"),
        (
            "a.service",
            "[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n",
        ),
        ("a.service", "[Service]\nExecStart=/bin/a 'x\n"),
        ("a.service", "[Service]\nType=dbus\nExecStart=/bin/a\n"),
        (
            "a.service",
            "[Service]\nType=oneshot\nExecStart=/bin/a\nRestart=always\n",
        ),
        ("a.mount", "[Mount]\nWhat=/dev/x\nWhere=/b\n"),
        ("a.socket", "[Socket]\nListenDatagram=53\nAccept=yes\n"),
        ("a.timer", "[Timer]\n"),
        ("a.path", "[Path]\n"),
    ] {
        assert!(is_bad(name, text), "{text}");
    }
    for (name, text) in [
        (
            "a.service",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/a\nExecStart=-b\n",
        ),
        ("a.mount", "[Mount]\nWhat=/dev/x\nWhere=/a\nType=ext4\n"),
        (
            "a.socket",
            "[Socket]\nListenStream=[::]:22\nListenStream=127.0.0.1:2375\nAccept=yes\n",
        ),
        ("a.timer", "[Timer]\nOnCalendar=daily\nPersistent=true\n"),
        ("a.target", "[Unit]\nAllowIsolate=yes\n"),
        ("a.slice", "[Slice]\nMemoryMin=96M\nCPUWeight=500\n"),
    ] {
        let (_, remarks) = read(name, &[text]);
        assert!(remarks.is_empty(), "{text}: {remarks:?}");
    }
}

#[test]
fn old_spellings() {
    let (config, remarks) = read(
        "a.service",
        &[
            "[Unit]\nBindTo=b.service\n[Service]\nExecStart=/bin/a\nStartLimitInterval=0\nMemoryLimit=1G\nReadOnlyDirectories=/a\nStandardOutput=syslog+console\n",
        ],
    );
    assert!(remarks.is_empty(), "{remarks:?}");
    assert_eq!(config.unit.binds_to, ["b.service"]);
    assert_eq!(config.unit.start_limit_interval_usec, 0);
    assert_eq!(config.cgroup.memory_max, Some(Amount::Absolute(1 << 30)));
    assert_eq!(config.exec.standard_output, StdOutput::JournalConsole);
}

#[test]
fn conditions() {
    let (config, _) = read(
        "a.target",
        &[
            "[Unit]\nConditionPathExists=/x\nConditionPathExists=\nConditionPathExists=|!/a\nAssertVirtualization=no\n",
        ],
    );
    assert_eq!(config.unit.conditions.len(), 1);
    let c = &config.unit.conditions[0];
    assert!(c.trigger && c.negate && c.kind == ConditionKind::PathExists);
    assert_eq!(config.unit.asserts.len(), 1);
}

#[test]
fn example_units_load_clean() {
    let text = "[Unit]\nAfter=docker.service\nRequires=docker.service\n[Service]\nTimeoutStartSec=0\nEnvironmentFile=/etc/environment\nExecStartPre=-/usr/bin/docker kill web-%i\nExecStart=/usr/bin/docker run --name web-%i -p 80:8080 r/web\nRestart=always\nRestartSec=5\n[X-Fleet]\nConflicts=web@*.service\n";
    let (s, _, remarks) = service(&[text]);
    assert!(remarks.is_empty());
    assert_eq!(s.timeout_start_usec, u64::MAX);
    assert!(s.exec_start_pre[0].ignore_failure);
}

proptest! {
    #[test]
    fn never_panics(
        key in "(ExecStart|Environment|CPUQuota|IODeviceWeight|OnCalendar|ListenStream|LimitNOFILE|SystemCallFilter|CapabilityBoundingSet|StateDirectory|BindPaths|LoadCredential|PIDFile|MemoryMax|Where|PathExists|ConditionPathExists|Type)",
        value in ".{0,40}",
        kind in "(service|socket|timer|mount|path|scope|slice)",
    ) {
        let section = kind[..1].to_uppercase() + &kind[1..];
        let text = format!("[{section}]\n{key}={value}\n[Unit]\n{key}={value}\n");
        let _ = read(&format!("a.{kind}"), &[&text]);
    }
}
