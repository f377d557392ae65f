//! Values of `fleet.conf`, read one by one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::api::{ParseRoleError, Role};

/// `ADDRESS` or `ADDRESS:PORT`, an IPv6 address with port in brackets; port 53 if none is given.
pub(super) fn dns_address(text: &str) -> Option<SocketAddr> {
    let bare = || {
        let ip = text.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, 53))
    };
    text.parse().ok().or_else(bare)
}

/// `NAME:ROLE,…`; the last colon separates, so a name may have some.
pub(super) fn roles(value: &str) -> Result<BTreeMap<String, Role>, String> {
    let mut out = BTreeMap::new();
    for item in list(value) {
        let (name, role) = item
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{item}\" is not NAME:ROLE"))?;
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("\"{item}\" names nobody"));
        }
        let role = role
            .trim()
            .parse()
            .map_err(|e: ParseRoleError| e.to_string())?;
        if out.insert(name.to_owned(), role).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(out)
}

pub(super) fn unquote(value: &str) -> &str {
    let inner = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// A comma list; brackets, quotes and blanks around the whole and its items are stripped.
pub(super) fn list(value: &str) -> Vec<String> {
    let value = value.trim().trim_start_matches('[').trim_end_matches(']');
    let items = value
        .split(',')
        .map(|item| item.trim().trim_matches(['"', '\'']).trim());
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A prefix that begins and ends with a slash.
pub(super) fn prefix(value: &str) -> String {
    let inner = value.trim_matches('/');
    if inner.is_empty() {
        "/".into()
    } else {
        format!("/{inner}/")
    }
}

pub(super) fn seconds(value: &str) -> Option<Duration> {
    value
        .parse()
        .ok()
        .filter(|s: &f64| *s > 0.0)
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
}

/// Go's notation: `30s`, `1m30s`, `500ms`.
pub(super) fn duration(value: &str) -> Option<Duration> {
    let mut rest = value.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

pub(super) fn boolean(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("30"), None);
        assert_eq!(duration(""), None);
        assert_eq!(duration("1x"), None);
    }
}
