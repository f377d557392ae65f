//! The kernel's mount table.

use unit_engine::api::MountEntry;

/// Parses the text of `/proc/self/mountinfo`; later mounts on the same point come later.
pub(crate) fn parse(text: &str) -> Vec<MountEntry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountEntry> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ');
    let id = fields.next()?.parse().ok()?;
    let where_ = unescape(fields.nth(3)?);
    let own = fields.next()?;
    let mut behind = right.split(' ');
    let fs_type = behind.next()?.to_owned();
    let what = unescape(behind.next()?);
    let options = join_options(own, behind.next().unwrap_or_default());
    Some(MountEntry {
        id,
        what,
        where_,
        fs_type,
        options,
    })
}

/// Mount options, then those of the super block that are not said yet.
fn join_options(own: &str, superblock: &str) -> String {
    let mut all: Vec<&str> = own.split(',').collect();
    for option in superblock.split(',').filter(|o| !o.is_empty()) {
        // A mount may be read-only on a writable super block; the mount's word counts.
        if !matches!(option, "rw" | "ro") && !all.contains(&option) {
            all.push(option);
        }
    }
    all.join(",")
}

/// Undoes the kernel's `\040` escapes.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let digits = bytes
            .get(i + 1..i + 4)
            .filter(|d| bytes[i] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |v, c| v * 8 + u32::from(c - b'0'));
                out.push(value as u8);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_parsed_with_escapes_and_both_kinds_of_options() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext4 /dev/root rw,errors=continue\nbroken\n";
        let want = MountEntry {
            id: 36,
            what: "/dev/root".to_owned(),
            where_: "/mnt 2".to_owned(),
            fs_type: "ext4".to_owned(),
            options: "rw,noatime,errors=continue".to_owned(),
        };
        assert_eq!(parse(text), [want]);
    }

    #[test]
    fn the_table_of_this_system_has_a_root() {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let all = parse(&text);
        assert_eq!(all.len(), text.lines().count());
        assert!(all.iter().any(|m| m.where_ == "/"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(text in "[ -~\n]*") {
            let _ = parse(&text);
        }
    }
}
