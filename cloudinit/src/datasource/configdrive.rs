//! The OpenStack layout on a drive or in a directory.

use std::path::Path;

use serde_json::Value;

use super::{Fetched, SourceError, read_optional, safe_join};
use crate::metadata::MetaData;

/// Reads a mounted drive. Missing files are fine, broken JSON is not.
pub fn fetch(dir: &Path) -> Result<Fetched, SourceError> {
    let latest = dir.join("openstack/latest");
    let user_data = read_optional(&latest.join("user_data"))?.unwrap_or_default();
    let meta = match read_optional(&latest.join("meta_data.json"))? {
        Some(bytes) => metadata(dir, &bytes)?,
        None => MetaData::default(),
    };
    let vendor_data = match read_optional(&latest.join("vendor_data.json"))? {
        Some(bytes) => vendor(&bytes),
        None => Vec::new(),
    };
    Ok(Fetched {
        user_data,
        vendor_data,
        meta,
    })
}

fn metadata(dir: &Path, bytes: &[u8]) -> Result<MetaData, SourceError> {
    let path = dir
        .join("openstack/latest/meta_data.json")
        .display()
        .to_string();
    let bad = |why: String| SourceError::BadMetaData {
        path: path.clone(),
        why,
    };
    let json: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let mut meta = basic_metadata(&json);
    let content = json
        .get("network_config")
        .and_then(|n| n.get("content_path"));
    if let Some(path) = content.and_then(Value::as_str) {
        let file = safe_join(&dir.join("openstack"), path);
        let bytes = read_optional(&file)?.ok_or_else(|| {
            bad(format!(
                "network_config names {path}, which is not on the drive"
            ))
        })?;
        meta.debian_network = Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(meta)
}

/// The fields that a drive and the metadata service have in common.
pub(super) fn basic_metadata(json: &Value) -> MetaData {
    let text = |key: &str| {
        json.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut meta = MetaData {
        instance_id: text("uuid"),
        hostname: text("hostname"),
        ..MetaData::default()
    };
    if let Some(keys) = json.get("public_keys").and_then(Value::as_object) {
        for (name, key) in keys {
            if let Some(key) = key.as_str() {
                meta.public_keys.insert(name.clone(), key.to_owned());
            }
        }
    }
    meta
}

/// The vendor's document: the file is a JSON text, or an object with `cloud-init`.
pub(super) fn vendor(bytes: &[u8]) -> Vec<u8> {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return Vec::new();
    };
    let text = json
        .as_str()
        .or_else(|| json.get("cloud-init").and_then(Value::as_str));
    text.unwrap_or_default().as_bytes().to_vec()
}
