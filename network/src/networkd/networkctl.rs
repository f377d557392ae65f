//! `networkctl`: the links as the daemon sees them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::wait_online::{WaitError, read_links};
use crate::config::values::glob;
use crate::dhcp::Lease;
use crate::status::{LinkStatus, Operation, Setup, online};

/// The table of `networkctl list`.
pub(super) fn list(root: &Path) -> Result<String, WaitError> {
    let links = read_links(&root.join("run/systemd/netif"))?;
    let mut out = format!(
        "{:>3} {:<16} {:<10} {:<12} SETUP\n",
        "IDX", "LINK", "TYPE", "OPERATIONAL"
    );
    for link in &links {
        let LinkStatus {
            index,
            name,
            kind,
            operation,
            setup,
            ..
        } = link;
        let (operation, setup) = (operation.to_string(), setup.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{index:>3} {name:<16} {kind:<10} {operation:<12} {setup}"
        );
    }
    let _ = writeln!(out, "\n{} links listed.", links.len());
    Ok(out)
}

/// The details of `networkctl status [PATTERN…]`.
pub(super) fn status(root: &Path, patterns: &[String]) -> Result<String, WaitError> {
    let directory = root.join("run/systemd/netif");
    let links = read_links(&directory)?;
    let mut out = String::new();
    if patterns.is_empty() {
        let state = match online(&links) {
            Ok(()) => "online".to_owned(),
            Err(missing) => format!("not online ({})", missing.join("; ")),
        };
        let _ = writeln!(out, "State: {state}\n");
    }
    for link in links.iter().filter(|l| selected(l, patterns)) {
        let mut field = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(out, "{name:>14}: {value}");
            }
        };
        field("Link", &format!("{} ({})", link.name, link.index));
        field("Type", &link.kind);
        field("State", &format!("{} ({})", link.operation, link.setup));
        field("Waits for", link.reason.as_deref().unwrap_or_default());
        field("Network File", link.file.as_deref().unwrap_or_default());
        field("Address", &join(&link.addresses));
        field("Gateway", &join(&link.gateways));
        field("DNS", &join(&link.dns));
        field("Search", &link.domains.join(" "));
        field("NTP", &link.ntp.join(" "));
        field("DHCP", link.dhcp.as_deref().unwrap_or_default());
        if let Some(lease) = lease(&directory, link.index) {
            field("DHCP server", &lease.server.to_string());
        }
        out.push('\n');
    }
    Ok(out)
}

/// The same as one JSON document.
pub(super) fn json(root: &Path, patterns: &[String]) -> Result<String, WaitError> {
    let directory = root.join("run/systemd/netif");
    let links = read_links(&directory)?;
    let shown: Vec<String> = links
        .iter()
        .filter(|l| selected(l, patterns))
        .map(|l| link_json(l, lease(&directory, l.index)))
        .collect();
    Ok(format!(
        "{{\"online\":{},\"links\":[{}]}}\n",
        online(&links).is_ok(),
        shown.join(",")
    ))
}

fn link_json(link: &LinkStatus, lease: Option<Lease>) -> String {
    let mut fields = vec![
        format!("\"index\":{}", link.index),
        format!("\"name\":{}", quote(&link.name)),
        format!("\"type\":{}", quote(&link.kind)),
        format!(
            "\"operational_state\":{}",
            quote(&link.operation.to_string())
        ),
        format!("\"setup_state\":{}", quote(&link.setup.to_string())),
        format!("\"carrier\":{}", link.operation >= Operation::Carrier),
        format!("\"managed\":{}", link.setup != Setup::Unmanaged),
        format!("\"required_for_online\":{}", link.required),
    ];
    let mut text = |key: &str, value: &Option<String>| {
        fields.extend(value.as_ref().map(|v| format!("\"{key}\":{}", quote(v))));
    };
    text("network_file", &link.file);
    text("dhcp4_state", &link.dhcp);
    text("reason", &link.reason);
    let mut list = |key: &str, values: Vec<String>| {
        let values: Vec<String> = values.iter().map(|v| quote(v)).collect();
        fields.push(format!("\"{key}\":[{}]", values.join(",")));
    };
    list("addresses", strings(&link.addresses));
    list("gateways", strings(&link.gateways));
    list("dns", strings(&link.dns));
    list("ntp", link.ntp.clone());
    list("search_domains", link.domains.clone());
    if let Some(lease) = lease {
        let Lease {
            address,
            prefix,
            server,
            lifetime,
            ..
        } = lease;
        fields.push(format!(
            "\"lease\":{{\"address\":\"{address}/{prefix}\",\"server\":\"{server}\",\"lifetime_seconds\":{lifetime}}}"
        ));
    }
    format!("{{{}}}", fields.join(","))
}

fn lease(directory: &Path, index: u32) -> Option<Lease> {
    Lease::parse(&fs::read_to_string(directory.join("leases").join(index.to_string())).ok()?)
}

fn selected(link: &LinkStatus, patterns: &[String]) -> bool {
    patterns.is_empty() || patterns.iter().any(|p| glob(p, &link.name))
}

fn strings<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn join<T: ToString>(list: &[T]) -> String {
    strings(list).join(" ")
}

/// A JSON string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_quotes() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
