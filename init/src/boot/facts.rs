//! `boot.json`: facts about this boot for everybody.

use std::path::Path;

use super::Boot;

/// `/run/flotilla/boot.json`, which others read instead of the command line.
pub(super) fn write(boot: &mut Boot) -> std::io::Result<()> {
    let text = facts_json(boot, &image_version());
    crate::atomic::write(Path::new("/run/flotilla/boot.json"), text.as_bytes(), 0o644)
}

fn image_version() -> String {
    let text = std::fs::read_to_string("/usr/lib/os-release")
        .or_else(|_| std::fs::read_to_string("/etc/os-release"));
    let all = unit_file::environment::parse_environment_file(&text.unwrap_or_default());
    all.into_iter()
        .find(|(n, _)| n == "IMAGE_VERSION")
        .map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |(_, v)| v)
}

fn facts_json(boot: &Boot, version: &str) -> String {
    let text = |value: Option<&str>| value.map_or_else(|| "null".to_owned(), json_string);
    let facts = &boot.facts;
    let oem = boot.cmdline.ours("oem.id").filter(|id| !id.is_empty());
    let pairs = [
        ("slot", text(facts.slot.as_deref())),
        ("version", json_string(version)),
        ("usrhash", text(facts.usrhash.as_deref())),
        ("first_boot", boot.first_boot.to_string()),
        ("oem_id", text(oem)),
        ("recovery", text(facts.recovery.as_deref())),
        ("fallback", text(facts.fallback.as_deref())),
        ("state_device", text(facts.state_device.as_deref())),
        ("machine_id", json_string(&boot.machine_id)),
        ("initrd_usec", facts.initrd_usec.to_string()),
        ("initrd_end_usec", facts.initrd_end_usec.to_string()),
        ("userspace_usec", boot.times.userspace.monotonic.to_string()),
    ];
    let body: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("  \"{k}\": {v}"))
        .collect();
    format!("{{\n{}\n}}\n", body.join(",\n"))
}

fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::CommandLine;

    #[test]
    fn facts_are_valid_json_with_null_for_the_unknown() {
        let mut boot = Boot {
            cmdline: CommandLine::parse("coreos.oem.id=qemu"),
            ..Boot::default()
        };
        boot.facts.slot = Some("a".to_owned());
        boot.facts.recovery = Some("say \"x\"\n".to_owned());
        let text = facts_json(&boot, "0.1.0");
        assert!(
            text.contains("\"slot\": \"a\"")
                && text.contains("\"usrhash\": null")
                && text.contains("\"oem_id\": \"qemu\"")
        );
        assert!(text.contains("\"recovery\": \"say \\\"x\\\"\\u000a\""));
    }
}
