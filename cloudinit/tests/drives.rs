//! Layouts of drives as directories. The host's kernel may know neither vfat nor ISO 9660, so mounting
//! for real is a matter of the whole-system tests, whose machines get such drives; labels of real
//! images are read in the library's own tests.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use std::path::Path;

use cloudinit::datasource::drive::Mounted;
use cloudinit::datasource::{Fetched, configdrive, nocloud};

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_config_drive_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "openstack/latest/user_data",
        "#cloud-config\nhostname: a\n",
    );
    write(
        dir.path(),
        "openstack/latest/meta_data.json",
        r#"{"uuid": "i-9", "hostname": "meta", "public_keys": {"b": "ssh-rsa B", "a": "ssh-rsa A"},
            "network_config": {"content_path": "/content/0000"}}"#,
    );
    write(
        dir.path(),
        "openstack/content/0000",
        "auto eth0\niface eth0 inet dhcp\n",
    );
    write(
        dir.path(),
        "openstack/latest/vendor_data.json",
        r##"{"cloud-init": "#cloud-config\n"}"##,
    );
    let got = configdrive::fetch(dir.path()).unwrap();
    assert_eq!(got.user_data, b"#cloud-config\nhostname: a\n");
    assert_eq!(got.vendor_data, b"#cloud-config\n");
    assert_eq!(
        (got.meta.instance_id.as_str(), got.meta.hostname.as_str()),
        ("i-9", "meta")
    );
    assert_eq!(
        got.meta.public_keys.values().collect::<Vec<_>>(),
        ["ssh-rsa A", "ssh-rsa B"]
    );
    assert!(got.meta.debian_network.unwrap().contains("dhcp"));
}

#[test]
fn a_content_path_cannot_leave_the_drive() {
    let dir = tempfile::tempdir().unwrap();
    let drive = dir.path().join("drive");
    write(dir.path(), "secret", "x");
    write(
        &drive,
        "openstack/latest/meta_data.json",
        r#"{"network_config": {"content_path": "../../secret"}}"#,
    );
    let error = configdrive::fetch(&drive).unwrap_err();
    assert!(error.to_string().contains("not on the drive"), "{error}");
}

#[test]
fn a_nocloud_seed_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "meta-data",
            "instance-id: i-1\nlocal-hostname: seeded\npublic-keys: |\n  k1\n  k2\n",
        ),
        ("user-data", "#!/bin/sh\n"),
        ("vendor-data", "#cloud-config\n"),
        ("network-config", "version: 2\n"),
    ] {
        write(dir.path(), name, text);
    }
    assert!(nocloud::is_seed(dir.path()));
    let got = nocloud::fetch_dir(dir.path()).unwrap();
    assert_eq!(got.user_data, b"#!/bin/sh\n");
    assert_eq!(got.vendor_data, b"#cloud-config\n");
    assert_eq!(got.meta.hostname, "seeded");
    assert_eq!(
        got.meta.public_keys.values().collect::<Vec<_>>(),
        ["k1", "k2"]
    );
    assert_eq!(got.meta.network_config.as_deref(), Some("version: 2\n"));
}

#[test]
fn what_is_no_drive_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = Mounted::new(Path::new("/dev/no-such-drive"), &dir.path().join("m")).unwrap_err();
    assert!(error.to_string().contains("/dev/no-such-drive"));
}

#[test]
fn broken_meta_data_is_an_error_and_missing_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(configdrive::fetch(dir.path()).unwrap(), Fetched::default());
    write(dir.path(), "openstack/latest/meta_data.json", "{");
    assert!(configdrive::fetch(dir.path()).is_err());
    write(dir.path(), "meta-data", "a: [\n");
    assert!(nocloud::fetch_dir(dir.path()).is_err());
}
