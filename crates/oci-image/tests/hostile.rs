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

/// One entry as bytes, with what `change` makes of its header.
fn raw(
    kind: tar::EntryType,
    path: &str,
    data: &[u8],
    change: impl FnOnce(&mut tar::Header),
) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..path.len().min(100)]
        .copy_from_slice(&path.as_bytes()[..path.len().min(100)]);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    change(&mut header);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(data);
    out.extend(vec![0; data.len().wrapping_neg() % 512]);
    out
}

/// A pax header for the entry that follows.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        data.extend(format!("{length} {key}=").bytes());
        data.extend(*value);
        data.push(b'\n');
    }
    raw(tar::EntryType::XHeader, "pax", &data, |_| {})
}

fn long_name(name: &[u8]) -> Vec<u8> {
    raw(tar::EntryType::GNULongName, "././@LongLink", name, |_| {})
}

fn end(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}

impl Box_ {
    fn bytes(
        &self,
        bytes: &[u8],
        lowers: &[PathBuf],
    ) -> Result<oci_image::unpack::Unpacked, UnpackError> {
        unpack(
            bytes,
            bytes.len() as u64,
            &self.layer(),
            lowers,
            Limits::default(),
        )
    }

    fn links_of_victim(&self) -> u64 {
        fs::metadata(self.home.path().join("victim"))
            .unwrap()
            .nlink()
    }
}

#[test]
fn hard_links_never_reach_a_file_of_the_host() {
    let place = Box_::new();
    let outside = place.home.path().to_str().unwrap().to_owned();
    let lower = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&outside, lower.path().join("way")).unwrap();
    std::os::unix::fs::symlink(format!("{outside}/victim"), lower.path().join("direct")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        lower.path().join("white"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    fs::create_dir(lower.path().join("dir")).unwrap();
    let lowers = [lower.path().to_owned()];
    for items in [
        vec![symlink("way", &outside), hard("x", "way/victim")],
        vec![hard("x", "way/victim")],
        vec![hard("x", "direct")],
        vec![hard("x", "white")],
        vec![hard("x", "dir")],
        vec![dir("d"), hard("x", "d")],
        vec![hard("x", &format!("{outside}/victim"))],
        vec![hard("x", "/")],
    ] {
        let place = Box_ {
            home: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.layer()).unwrap();
        let result = place.unpack(&items, &lowers);
        assert!(
            matches!(
                result,
                Err(UnpackError::Refused { .. } | UnpackError::Entry { .. })
            ),
            "{items:?}: {result:?}"
        );
    }
    // To a link: the link itself, wherever it points.
    place
        .unpack(
            &[symlink("l", &format!("{outside}/victim")), hard("x", "l")],
            &[],
        )
        .unwrap();
    assert!(
        fs::symlink_metadata(place.layer().join("x"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(place.links_of_victim(), 1);
    place.intact();
}

#[test]
fn absolute_names_land_inside_and_what_an_image_says_of_files_is_kept() {
    let place = Box_::new();
    // A capability set as the kernel stores it (version 2, effective, one bit).
    let capability: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let bytes = end(&[
        raw(tar::EntryType::Directory, "/", b"", |h| h.set_mode(0o755)),
        raw(tar::EntryType::Regular, "/etc/passwd", b"mine", |h| {
            h.set_uid(1234);
            h.set_gid(5678);
            h.set_mode(0o4640);
        }),
        pax(&[
            ("mtime", b"1234.000000567"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.security.ima", b"dropped"),
            ("SCHILY.xattr.system.posix_acl_access", b"dropped"),
            ("SCHILY.xattr.trusted.x", b"dropped"),
        ]),
        raw(tar::EntryType::Regular, "server", b"x", |h| {
            h.set_mode(0o755);
        }),
        raw(tar::EntryType::Directory, "tmp", b"", |h| {
            h.set_mode(0o1777);
        }),
        raw(tar::EntryType::Block, "disk", b"", |h| {
            h.set_device_major(8).unwrap();
            h.set_device_minor(1).unwrap();
        }),
        pax(&[("uid", b"100000"), ("gid", b"100001"), ("size", b"4")]),
        // The header's own size is not true: pax's is.
        {
            let mut entry = raw(tar::EntryType::Regular, "big", b"four", |h| h.set_size(0));
            entry.truncate(1024);
            entry
        },
        raw(tar::EntryType::Regular, "last", b"ok", |_| {}),
    ]);
    place.bytes(&bytes, &[]).unwrap();
    let meta = |name: &str| fs::symlink_metadata(place.layer().join(name)).unwrap();
    let passwd = meta("etc/passwd");
    assert_eq!(
        (passwd.uid(), passwd.gid(), passwd.mode() & 0o7777),
        (1234, 5678, 0o4640)
    );
    assert_eq!(
        (meta("server").mtime(), meta("server").mtime_nsec()),
        (1234, 567)
    );
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
    assert!(
        meta("disk").file_type().is_block_device()
            && meta("disk").rdev() == rustix::fs::makedev(8, 1)
    );
    assert_eq!(
        (meta("big").uid(), meta("big").gid(), meta("big").size()),
        (100_000, 100_001, 4)
    );
    assert_eq!(fs::read(place.layer().join("last")).unwrap(), b"ok");
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::listxattr(place.layer().join("server"), &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let mut names: Vec<&str> = names.split_terminator('\0').collect();
    names.sort_unstable();
    assert_eq!(names, ["security.capability", "user.note"]);
    place.intact();
}

#[test]
fn every_packing_of_a_layer_gives_the_same_files_and_the_same_digest() {
    let plain = pack(&[
        dir("d"),
        file("d/a", &"text ".repeat(1000)),
        symlink("l", "d/a"),
    ]);
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let members = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut digests = Vec::new();
    for packed in [plain.clone(), gzip(&plain), members, zstd] {
        let place = Box_::new();
        digests.push(place.bytes(&packed, &[]).unwrap().diff_id);
        assert_eq!(fs::read(place.layer().join("d/a")).unwrap().len(), 5000);
        // Half of it is an error, whatever the packing.
        let place = Box_::new();
        assert!(place.bytes(&packed[..packed.len() / 2], &[]).is_err());
    }
    digests.dedup();
    assert_eq!(digests, [oci_image::Digest::of(&plain)]);
}

#[test]
fn sparse_files_have_their_holes_and_bad_maps_are_refused() {
    // The map of an old GNU sparse file: pairs of 12 octal digits from byte 386 on, the whole size at 483.
    let sparse = |pairs: &[(u64, u64)], whole: u64, data: &[u8]| {
        end(&[raw(tar::EntryType::GNUSparse, "sparse", data, |h| {
            let bytes = h.as_mut_bytes();
            for (index, (offset, count)) in pairs.iter().enumerate() {
                let at = 386 + index * 24;
                bytes[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
                bytes[at + 12..at + 23].copy_from_slice(format!("{count:011o}").as_bytes());
            }
            bytes[483..494].copy_from_slice(format!("{whole:011o}").as_bytes());
        })])
    };
    let place = Box_::new();
    place
        .bytes(
            &sparse(&[(1 << 20, 4), (1 << 30, 0)], 1 << 30, b"data"),
            &[],
        )
        .unwrap();
    let meta = fs::metadata(place.layer().join("sparse")).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() < 64, "the holes take no room");
    let mut file = fs::File::open(place.layer().join("sparse")).unwrap();
    let mut four = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut four, 1 << 20).unwrap();
    assert_eq!(&four, b"data");
    std::io::Read::read_exact(&mut file, &mut four).unwrap();
    assert_eq!(four, [0; 4]);
    for (pairs, whole, data) in [
        (&[(0, 8)][..], 8, &b"data"[..]),
        (&[(10, 4)], 8, b"data"),
        (&[(4, 2), (0, 2)], 8, b"data"),
        (&[(0, 3), (2, 1)], 8, b"data"),
    ] {
        let place = Box_::new();
        let result = place.bytes(&sparse(pairs, whole, data), &[]);
        assert!(
            matches!(result, Err(UnpackError::Archive(_))),
            "{pairs:?}: {result:?}"
        );
    }
}

#[test]
fn names_and_sizes_beyond_the_limits_are_refused() {
    let regular = || raw(tar::EntryType::Regular, "x", b"", |_| {});
    for (name, why) in [
        (vec![b'a'; 300], "255 bytes"),
        (b"a/".repeat(2100), "4096 bytes"),
        (b"a/../../x".to_vec(), "leaves the layer"),
    ] {
        let place = Box_::new();
        let error = place
            .bytes(&end(&[long_name(&name), regular()]), &[])
            .unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        place.intact();
    }
    let place = Box_::new();
    let error = place
        .bytes(&end(&[pax(&[("path", b"a\0b")]), regular()]), &[])
        .unwrap_err();
    assert!(error.to_string().contains("zero byte"), "{error}");
    // As deep as a name can be, and away again by a later entry.
    let place = Box_::new();
    let deep = [&b"d/".repeat(2000)[..], b"x"].concat();
    place
        .bytes(
            &end(&[
                long_name(&deep),
                regular(),
                raw(tar::EntryType::Regular, "d", b"", |_| {}),
            ]),
            &[],
        )
        .unwrap();
    assert!(place.layer().join("d").is_file());
    // A bomb says its size before its bytes: nothing of it is written.
    for (size, why) in [
        (2u64 << 30, "bytes for its packed size"),
        (65 << 30, "bytes"),
    ] {
        let place = Box_::new();
        let error = place
            .bytes(
                &end(&[raw(tar::EntryType::Regular, "bomb", b"", |h| {
                    h.set_size(size);
                })]),
                &[],
            )
            .unwrap_err();
        assert!(
            matches!(error, UnpackError::Limit { what, .. } if what == why),
            "{error}"
        );
        assert_eq!(fs::read_dir(place.layer()).unwrap().count(), 0);
    }
    // Ids that mean "leave as it is" to chown.
    let place = Box_::new();
    let error = place
        .bytes(&end(&[pax(&[("uid", b"4294967295")]), regular()]), &[])
        .unwrap_err();
    assert!(error.to_string().contains("owner"), "{error}");
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
