//! NoCloud: `meta-data`, `user-data`, `vendor-data` and `network-config` in a directory, on a drive, or
//! below an address.

use std::path::Path;

use super::cmdline::Seed;
use super::http::Client;
use super::{Fetched, SourceError, read_optional};
use crate::metadata::MetaData;
use crate::yaml::{self, Node, Value};

/// Whether a directory is a seed: cloud-init asks for both of these files, the first may be empty.
pub fn is_seed(dir: &Path) -> bool {
    dir.join("meta-data").exists() || dir.join("user-data").exists()
}

/// Reads a directory.
pub fn fetch_dir(dir: &Path) -> Result<Fetched, SourceError> {
    let read = |name: &str| read_optional(&dir.join(name));
    assemble(
        &dir.display().to_string(),
        read("meta-data")?,
        read("user-data")?,
        read("vendor-data")?,
        read("network-config")?,
    )
}

/// Reads what a `seedfrom=` names, and puts the seed's own words over it.
pub fn fetch_seed(seed: &Seed, client: &Client) -> Result<Fetched, SourceError> {
    let mut fetched = if seed.from.is_empty() {
        Fetched::default()
    } else if let Some(path) = seed.from.strip_prefix("file://") {
        fetch_dir(Path::new(path))?
    } else if seed.from.starts_with('/') {
        fetch_dir(Path::new(&seed.from))?
    } else {
        let get = |name: &str| {
            client
                .get_optional(&format!("{}{name}", seed.from))
                .map_err(SourceError::Http)
        };
        assemble(
            &seed.from,
            get("meta-data")?,
            get("user-data")?,
            get("vendor-data")?,
            get("network-config")?,
        )?
    };
    if !seed.hostname.is_empty() {
        fetched.meta.hostname.clone_from(&seed.hostname);
    }
    if !seed.instance_id.is_empty() {
        fetched.meta.instance_id.clone_from(&seed.instance_id);
    }
    Ok(fetched)
}

fn assemble(
    place: &str,
    meta: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    vendor: Option<Vec<u8>>,
    network: Option<Vec<u8>>,
) -> Result<Fetched, SourceError> {
    let mut meta = metadata(place, &meta.unwrap_or_default())?;
    meta.network_config = network
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .filter(|text| !text.trim().is_empty());
    Ok(Fetched {
        user_data: user.unwrap_or_default(),
        vendor_data: vendor.unwrap_or_default(),
        meta,
    })
}

/// YAML with `instance-id`, `local-hostname`, `public-keys`; JSON is YAML too.
fn metadata(place: &str, bytes: &[u8]) -> Result<MetaData, SourceError> {
    let bad = |why: String| SourceError::BadMetaData {
        path: format!("{place} meta-data"),
        why,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8 text".to_owned()))?;
    let Some(root) = yaml::parse(text).map_err(|e| bad(e.to_string()))? else {
        return Ok(MetaData::default());
    };
    if root.as_map().is_none() {
        return Err(bad("not a mapping of keys to values".to_owned()));
    }
    let text = |key: &str| root.get_text(key).unwrap_or_default().to_owned();
    let mut hostname = text("local_hostname");
    if hostname.is_empty() {
        hostname = text("hostname");
    }
    let mut meta = MetaData {
        instance_id: text("instance_id"),
        hostname,
        ..MetaData::default()
    };
    let keys = root.get("public_keys").map(public_keys).unwrap_or_default();
    for (index, key) in keys.into_iter().enumerate() {
        meta.public_keys.insert(format!("{index:04}"), key);
    }
    Ok(meta)
}

/// A list of keys, a text with a key a line, or a mapping to keys.
fn public_keys(node: &Node) -> Vec<String> {
    let texts: Vec<&Node> = match &node.value {
        Value::Scalar(_) => vec![node],
        Value::List(items) => items.iter().collect(),
        Value::Map(entries) => entries.iter().map(|e| &e.node).collect(),
    };
    texts
        .iter()
        .filter_map(|n| n.as_scalar())
        .flat_map(|s| s.text.lines())
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}
