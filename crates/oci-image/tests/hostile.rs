//! Archives that try to harm the host: each is refused with nothing outside touched, or unpacked harmlessly.
//! Runs as root, as image unpacking does.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use oci_image::unpack::{Limits, UnpackError, unpack};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
struct Item {
    kind: u8,
    path: String,
    link: String,
    data: Vec<u8>,
    mode: u32,
    device: (u32, u32),
    xattr: Option<(String, String)>,
}

fn item(kind: u8, path: &str, link: &str, data: &str) -> Item {
    Item {
        kind,
        path: path.into(),
        link: link.into(),
        data: data.into(),
        mode: 0o755,
        device: (1, 3),
        xattr: None,
    }
}

fn file(path: &str, data: &str) -> Item {
    item(b'0', path, "", data)
}

fn dir(path: &str) -> Item {
    item(b'5', path, "", "")
}

fn symlink(path: &str, to: &str) -> Item {
    item(b'2', path, to, "")
}

fn hard(path: &str, to: &str) -> Item {
    item(b'1', path, to, "")
}

/// Names are written as they are: the tar crate would refuse most of these.
fn pack(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        if let Some((key, value)) = &item.xattr {
            let record = |length: usize| format!("{length} SCHILY.xattr.{key}={value}\n");
            let mut length = record(0).len();
            while record(length).len() != length {
                length = record(length).len();
            }
            entry(
                &mut out,
                b'x',
                "pax",
                "",
                record(length).as_bytes(),
                0o644,
                (0, 0),
            );
        }
        entry(
            &mut out,
            item.kind,
            &item.path,
            &item.link,
            &item.data,
            item.mode,
            item.device,
        );
    }
    out.extend([0; 1024]);
    out
}

fn entry(
    out: &mut Vec<u8>,
    kind: u8,
    path: &str,
    link: &str,
    data: &[u8],
    mode: u32,
    device: (u32, u32),
) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path.as_bytes()[..path.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", data.len()).as_bytes());
    put(136, b"00000000007");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link.as_bytes()[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", device.0).as_bytes());
    put(337, format!("{:07o}", device.1).as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend(header);
    out.extend(data);
    out.extend(vec![0; data.len().wrapping_neg() % 512]);
}

struct Box_ {
    home: tempfile::TempDir,
}

impl Box_ {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("layer")).unwrap();
        fs::write(home.path().join("victim"), "untouched").unwrap();
        Box_ { home }
    }

    fn layer(&self) -> PathBuf {
        self.home.path().join("layer")
    }

    fn unpack(&self, items: &[Item], lowers: &[PathBuf]) -> Result<(), UnpackError> {
        let bytes = pack(items);
        unpack(
            &bytes[..],
            bytes.len() as u64,
            &self.layer(),
            lowers,
            Limits::default(),
        )
        .map(|_| ())
    }

    #[track_caller]
    fn intact(&self) {
        assert_eq!(
            fs::read_to_string(self.home.path().join("victim")).unwrap(),
            "untouched"
        );
        let names: Vec<_> = fs::read_dir(self.home.path())
            .unwrap()
            .flatten()
            .map(|item| item.file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[track_caller]
fn refused(items: &[Item]) {
    let place = Box_::new();
    let result = place.unpack(items, &[]);
    assert!(
        matches!(
            result,
            Err(UnpackError::Refused { .. } | UnpackError::Entry { .. } | UnpackError::Archive(_))
        ),
        "{items:?}: {result:?}"
    );
    place.intact();
}

#[test]
fn names_that_leave_the_layer_are_refused() {
    refused(&[file("../victim", "x")]);
    refused(&[file("a/../../victim", "x")]);
    refused(&[file("/../victim", "x")]);
    refused(&[dir("..")]);
    refused(&[hard("x", "../victim")]);
    refused(&[hard("x", "nowhere")]);
    refused(&[file(".", "x")]);
    refused(&[
        item(b'3', "null0", "", "").clone(),
        Item {
            device: (0, 0),
            ..item(b'3', "white", "", "")
        },
    ]);
    refused(&[file(".wh.", "")]);
    refused(&[file(".wh..", "")]);
    refused(&[file("a/.wh...", "")]);
    refused(&[file("x", "1"), file("x/y", "2")]);
    refused(&[symlink("l", "l"), file("l/x", "2")]);
    refused(&[item(b'V', "volume", "", "")]);
    refused(&[symlink("empty", "")]);
}

#[test]
fn links_resolve_inside_the_layer() {
    let place = Box_::new();
    let outside = place.home.path().to_str().unwrap().to_owned();
    place
        .unpack(
            &[
                symlink("abs", &outside),
                file("abs/victim", "inside"),
                symlink("up", "../../../../../../"),
                file("up/deep/file", "inside"),
                symlink("name", "/etc/passwd"),
                file("name", "a file now"),
            ],
            &[],
        )
        .unwrap();
    place.intact();
    assert_eq!(
        fs::read_to_string(place.layer().join("deep/file")).unwrap(),
        "inside"
    );
    assert_eq!(
        fs::read_to_string(
            place
                .layer()
                .join(outside.trim_start_matches('/'))
                .join("victim")
        )
        .unwrap(),
        "inside"
    );
    assert!(
        !fs::symlink_metadata(place.layer().join("name"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let place = Box_::new();
    place
        .unpack(
            &[
                dir("a"),
                file("a/b/c", "1"),
                symlink("a", "victim"),
                file("d", "1"),
                dir("d"),
                file("d/e", "2"),
                file("same", "first"),
                hard("linked", "same"),
                file("same", "second"),
            ],
            &[],
        )
        .unwrap();
    place.intact();
    assert!(
        fs::symlink_metadata(place.layer().join("a"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(fs::read_to_string(place.layer().join("d/e")).unwrap(), "2");
    assert_eq!(
        fs::read_to_string(place.layer().join("linked")).unwrap(),
        "first"
    );
    assert_eq!(
        fs::read_to_string(place.layer().join("same")).unwrap(),
        "second"
    );
}

#[test]
fn whiteouts_specials_modes_and_attributes_are_as_overlayfs_wants_them() {
    let place = Box_::new();
    let with = |key: &str, path: &str| Item {
        xattr: Some((key.into(), "1".into())),
        ..file(path, "x")
    };
    place
        .unpack(
            &[
                file("d/.wh.gone", ""),
                file("d/.wh..wh..opq", ""),
                file("d/.wh..wh.plnk", ""),
                item(b'3', "null", "", ""),
                item(b'6', "pipe", "", ""),
                Item {
                    mode: 0o4755,
                    ..file("suid", "x")
                },
                with("trusted.overlay.redirect", "bad"),
                with("trusted.overlay.opaque", "bad2"),
            ],
            &[],
        )
        .unwrap();
    let layer = place.layer();
    let gone = fs::symlink_metadata(layer.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read_dir(layer.join("d")).unwrap().count(), 1);
    let mut value = [0; 4];
    assert_eq!(
        rustix::fs::getxattr(layer.join("d"), "trusted.overlay.opaque", &mut value).unwrap(),
        1
    );
    assert!(
        fs::symlink_metadata(layer.join("null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(
        fs::symlink_metadata(layer.join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(
        fs::metadata(layer.join("suid"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o4755
    );
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque"] {
        assert!(rustix::fs::getxattr(layer.join("bad"), name, &mut value).is_err());
        assert!(rustix::fs::getxattr(layer.join("bad2"), name, &mut value).is_err());
    }
}

#[test]
fn parents_and_hard_links_come_from_the_layers_below() {
    let place = Box_::new();
    let lower = tempfile::tempdir().unwrap();
    fs::create_dir_all(lower.path().join("home/me")).unwrap();
    fs::set_permissions(
        lower.path().join("home/me"),
        PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    fs::write(lower.path().join("home/me/old"), "below").unwrap();
    let lowers = [lower.path().to_owned()];
    place
        .unpack(
            &[
                file("home/me/new", "x"),
                hard("home/me/copy", "home/me/old"),
            ],
            &lowers,
        )
        .unwrap();
    let me = place.layer().join("home/me");
    assert_eq!(
        fs::metadata(&me).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(fs::read_to_string(me.join("copy")).unwrap(), "below");
}

#[test]
fn limits_hold() {
    let place = Box_::new();
    let items: Vec<Item> = (0..20)
        .map(|index| file(&format!("f{index}"), "data"))
        .collect();
    let bytes = pack(&items);
    let small = |limits| {
        unpack(&bytes[..], bytes.len() as u64, &place.layer(), &[], limits)
            .unwrap_err()
            .to_string()
    };
    assert!(
        small(Limits {
            entries: 5,
            ..Limits::default()
        })
        .contains("5 entries")
    );
    assert!(
        small(Limits {
            bytes: 10,
            ..Limits::default()
        })
        .contains("10 bytes")
    );
}

#[test]
fn truncated_and_foreign_streams_are_errors() {
    let bytes = pack(&[file("a", &"x".repeat(2000))]);
    for cut in [1, 511, 513, 1000, 2000] {
        let place = Box_::new();
        assert!(
            unpack(
                &bytes[..cut],
                cut as u64,
                &place.layer(),
                &[],
                Limits::default()
            )
            .is_err(),
            "{cut}"
        );
    }
    let place = Box_::new();
    assert!(
        unpack(
            &[7u8; 4096][..],
            4096,
            &place.layer(),
            &[],
            Limits::default()
        )
        .is_err()
    );
    assert!(
        unpack(
            &b"\x1f\x8b broken"[..],
            9,
            &place.layer(),
            &[],
            Limits::default()
        )
        .is_err()
    );
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just("a"),
            Just("b"),
            Just("c"),
            Just(".."),
            Just("."),
            Just("l"),
            Just(".wh.a"),
            Just(".wh..wh..opq"),
            Just("")
        ],
        1..5,
    )
    .prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_archive_reaches_outside(items in proptest::collection::vec((prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'6')], name(), name(), any::<bool>()), 1..12)) {
        let place = Box_::new();
        let items: Vec<Item> = items.into_iter().map(|(kind, path, link, absolute)| {
            let link = if absolute { format!("/{link}") } else { link };
            item(kind, &path, &link, if kind == b'0' { "data" } else { "" })
        }).collect();
        let _ = place.unpack(&items, &[]);
        place.intact();
        prop_assert!(Path::new(&place.layer()).is_dir());
    }
}
