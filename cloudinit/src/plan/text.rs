//! Texts of the small files: edits of KEY=value files, oem-release, drop-ins, certificates.

use crate::config::Oem;
use crate::metadata::{Addresses, environment_name};

/// Sets keys in a KEY=value text: each existing line of exactly that key is replaced once, keys not
/// found are appended in sorted order. Values get `quote` on both sides.
pub(crate) fn edit_settings(text: &str, settings: &[(&str, String)], quote: &str) -> String {
    let mut left: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let mut out = String::with_capacity(text.len() + 128);
    let line_of = |key: &str, value: &str| {
        format!("{key}={quote}{}{quote}\n", value.replace(['\n', '\r'], " "))
    };
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        let key = line.split_once('=').map(|(key, _)| key);
        match key.and_then(|key| left.iter().position(|(k, _)| *k == key)) {
            Some(at) => {
                let (key, value) = left.remove(at);
                out.push_str(&line_of(key, value));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    left.sort_unstable();
    for (key, value) in left {
        out.push_str(&line_of(key, value));
    }
    out
}

/// `/etc/environment` with the known addresses; the same text if there is nothing to say.
pub fn environment(text: &str, addresses: &Addresses) -> String {
    let known: Vec<(String, String)> = addresses
        .pairs()
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (environment_name(name), (*value).to_owned()))
        .collect();
    if known.is_empty() {
        return text.to_owned();
    }
    let known: Vec<(&str, String)> = known.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    edit_settings(text, &known, "")
}

/// Reads `COREOS_*` addresses out of an environment file.
pub fn addresses_of_environment(text: &str) -> Addresses {
    let mut addresses = Addresses::default();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else {
            continue;
        };
        let Some(name) = key.strip_prefix("COREOS_") else {
            continue;
        };
        if let Some(slot) = addresses.slot(&name.to_ascii_lowercase()) {
            value.trim().trim_matches(['"', '\'']).clone_into(slot);
        }
    }
    addresses
}

/// `/etc/oem-release`: all five fields, always, in this order.
pub(crate) fn oem_release(oem: &Oem) -> String {
    let quoted = |text: &str| {
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' | '$' | '`' => {
                    out.push('\\');
                    out.push(c);
                }
                '\n' | '\r' => out.push(' '),
                c => out.push(c),
            }
        }
        out.push('"');
        out
    };
    let bare = |text: &str| text.replace(['\n', '\r'], " ");
    format!(
        "ID={}\nVERSION_ID={}\nNAME={}\nHOME_URL={}\nBUG_REPORT_URL={}\n",
        bare(&oem.id),
        bare(&oem.version_id),
        quoted(&oem.name),
        quoted(&oem.home_url),
        quoted(&oem.bug_report_url)
    )
}

/// A drop-in that sets variables. Percent signs stay: documents use specifiers in values. A quote or
/// a newline in a value must not end the assignment.
pub(crate) fn environment_drop_in(options: &[(String, String)]) -> String {
    let mut text = String::from("[Service]\n");
    for (key, value) in options {
        let value = value
            .replace('"', "\\\"")
            .replace('\n', "\\n")
            .replace('\r', "");
        text.push_str(&format!("Environment=\"{key}={value}\"\n"));
    }
    text
}

/// The image's certificates and those of the document, each once.
pub(crate) fn certificates(base: &str, trusted: &[String]) -> String {
    let mut text = base.to_owned();
    for pem in trusted {
        let pem = pem.trim();
        if pem.is_empty() || text.contains(pem) {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(pem);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_match_whole_keys_and_are_replaced_once() {
        let text = "GROUP_NOTE=x\nGROUP=alpha\n# c\nGROUP=second";
        let got = edit_settings(
            text,
            &[
                ("REBOOT_STRATEGY", "off".into()),
                ("GROUP", "beta".into()),
                ("A", "1".into()),
            ],
            "",
        );
        assert_eq!(
            got,
            "GROUP_NOTE=x\nGROUP=beta\n# c\nGROUP=second\nA=1\nREBOOT_STRATEGY=off\n"
        );
    }

    #[test]
    fn environment_keeps_order_and_adds_what_is_new() {
        let addresses = Addresses {
            private_ipv4: "10.0.0.1".into(),
            public_ipv4: "8.8.4.4".into(),
            ..Addresses::default()
        };
        let got = environment("A=b\r\nCOREOS_PUBLIC_IPV4=old\nZ=1", &addresses);
        assert_eq!(
            got,
            "A=b\nCOREOS_PUBLIC_IPV4=8.8.4.4\nZ=1\nCOREOS_PRIVATE_IPV4=10.0.0.1\n"
        );
        assert_eq!(environment(&got, &addresses), got);
        assert_eq!(environment("A=b", &Addresses::default()), "A=b");
        assert_eq!(addresses_of_environment(&got), addresses);
    }

    #[test]
    fn values_cannot_leave_their_place() {
        let oem = Oem {
            id: "x".into(),
            name: "a\"b$c\\".into(),
            ..Oem::default()
        };
        assert_eq!(
            oem_release(&oem),
            "ID=x\nVERSION_ID=\nNAME=\"a\\\"b\\$c\\\\\"\nHOME_URL=\"\"\nBUG_REPORT_URL=\"\"\n"
        );
        let text = environment_drop_in(&[("K".into(), "a\"b\nExecStart=/x %m".into())]);
        assert_eq!(
            text,
            "[Service]\nEnvironment=\"K=a\\\"b\\nExecStart=/x %m\"\n"
        );
    }

    #[test]
    fn certificates_are_added_once() {
        assert_eq!(certificates("A", &["B\n".into(), "B".into()]), "A\nB\n");
    }
}
