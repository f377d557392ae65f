//! Plans of whole documents, compared with files. `BLESS=1 cargo test -p cloudinit` writes them anew.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

mod common;

use cloudinit::datasource::http::Client;
use cloudinit::metadata::Addresses;
use cloudinit::plan::render;
use cloudinit::run::{Companion, Session};
use common::{Machine, fixture};

#[track_caller]
fn check(name: &str) {
    let bytes = std::fs::read(fixture(&format!("examples/{name}.yml"))).unwrap();
    let machine = Machine::new();
    let session = Session {
        root: &machine.root,
        addresses: Addresses {
            private_ipv4: "10.0.2.11".into(),
            public_ipv4: "192.0.2.11".into(),
            ..Addresses::default()
        },
        instance: "i-1".into(),
        client: Client::new(),
        offline: false,
    };
    let with = Companion {
        key_set: "coreos-cloudinit".into(),
        ..Companion::default()
    };
    let prepared = session.prepare(&bytes, &with);
    assert_eq!(prepared.errors, Vec::<String>::new());
    let got = render(&prepared.changes);
    let golden = fixture(&format!("golden/{name}.plan"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(got, want, "the plan of {name} changed; BLESS=1 accepts it");
}

#[test]
fn the_examples_keep_their_plans() {
    for name in ["elasticsearch", "etcd-member", "worker-bare-metal"] {
        check(name);
    }
}

#[test]
fn every_option_of_every_daemon_has_its_variable() {
    check("all-options");
}

#[test]
fn every_other_key_has_its_effect() {
    check("all-keys");
}
