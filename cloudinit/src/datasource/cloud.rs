//! Metadata services over HTTP: EC2 (with session tokens), OpenStack, DigitalOcean.
//!
//! [`detect`] names the service from what the firmware says about the machine; [`fetch`] reads it. Keys,
//! names and addresses that a service does not have stay empty; only an answer that cannot be
//! understood is an error.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::{Client, HttpError};
use super::{Fetched, SourceError, configdrive};
use crate::metadata::MetaData;

/// The address that all of them share.
pub const LINK_LOCAL: &str = "http://169.254.169.254/";

/// A kind of metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Amazon's, and those that copy it.
    Ec2,
    /// OpenStack's own form.
    OpenStack,
    /// DigitalOcean.
    DigitalOcean,
}

/// What SMBIOS says, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firmware {
    /// System vendor.
    pub vendor: String,
    /// Product name.
    pub product: String,
    /// Chassis asset tag.
    pub asset_tag: String,
    /// System UUID, lower case.
    pub uuid: String,
}

impl Firmware {
    /// Reads `/sys/class/dmi/id`.
    pub fn read() -> Self {
        let text = |name: &str| {
            let path = format!("/sys/class/dmi/id/{name}");
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        Self {
            vendor: text("sys_vendor"),
            product: text("product_name"),
            asset_tag: text("chassis_asset_tag"),
            uuid: text("product_uuid").to_ascii_lowercase(),
        }
    }
}

/// The service of this machine: `oem` (from the command line) first, else the firmware.
pub fn detect(oem: Option<&str>, firmware: &Firmware) -> Option<Kind> {
    match oem {
        Some("ec2" | "ami" | "ec2-compat" | "brightbox") => return Some(Kind::Ec2),
        Some("openstack") => return Some(Kind::OpenStack),
        Some("digitalocean") => return Some(Kind::DigitalOcean),
        _ => {}
    }
    let openstack = ["OpenStack Nova", "OpenStack Compute"];
    if firmware.vendor == "DigitalOcean" {
        Some(Kind::DigitalOcean)
    } else if openstack.contains(&firmware.product.as_str())
        || openstack.contains(&firmware.asset_tag.as_str())
    {
        Some(Kind::OpenStack)
    } else if firmware.vendor == "Amazon EC2" || firmware.uuid.starts_with("ec2") {
        Some(Kind::Ec2)
    } else {
        None
    }
}

/// Whether the service answers now, in one attempt.
pub fn is_available(kind: Kind, base: &str) -> bool {
    let probe = match kind {
        Kind::Ec2 => format!("{base}latest/api/token"),
        Kind::OpenStack => format!("{base}openstack"),
        Kind::DigitalOcean => format!("{base}metadata/v1.json"),
    };
    match Client::new().once().get(&probe) {
        Ok(_) => true,
        // A token is not handed out for a GET, and an older service has none: both are answers.
        Err(error) => kind == Kind::Ec2 && error.is_refused(),
    }
}

/// Reads everything that a service has. `base` ends in a slash.
pub fn fetch(kind: Kind, base: &str, client: &Client) -> Result<Fetched, SourceError> {
    match kind {
        Kind::Ec2 => ec2(base, client),
        Kind::OpenStack => openstack(base, client),
        Kind::DigitalOcean => digitalocean(base, client),
    }
}

fn optional_text(client: &Client, url: &str) -> Result<String, SourceError> {
    let body = client.get_optional(url).map_err(SourceError::Http)?;
    Ok(String::from_utf8_lossy(&body.unwrap_or_default())
        .trim()
        .to_owned())
}

fn ec2(base: &str, client: &Client) -> Result<Fetched, SourceError> {
    let token = client.put(
        &format!("{base}latest/api/token"),
        &[("X-aws-ec2-metadata-token-ttl-seconds", "21600")],
    );
    let client = match token {
        Ok(token) => {
            let token = String::from_utf8_lossy(&token).trim().to_owned();
            client.clone().header("X-aws-ec2-metadata-token", &token)
        }
        // An older service, or one of those that copy it, knows no tokens.
        Err(HttpError::Refused { .. }) => client.clone(),
        Err(error) => return Err(SourceError::Http(error)),
    };
    let version = format!("{base}latest/");
    let meta_text = |name: &str| optional_text(&client, &format!("{version}meta-data/{name}"));
    let user_data = client
        .get_optional(&format!("{version}user-data"))
        .map_err(SourceError::Http)?
        .unwrap_or_default();
    let mut meta = MetaData {
        instance_id: meta_text("instance-id")?,
        ..MetaData::default()
    };
    // Some networks give several names with blanks between them.
    let hostname = meta_text("hostname")?;
    hostname
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .clone_into(&mut meta.hostname);
    meta.addresses.private_ipv4 = meta_text("local-ipv4")?;
    meta.addresses.public_ipv4 = meta_text("public-ipv4")?;
    meta.addresses.public_ipv6 = meta_text("ipv6")?;
    for line in meta_text("public-keys/")?.lines() {
        let (number, name) = line
            .split_once('=')
            .ok_or_else(|| SourceError::BadMetaData {
                path: format!("{version}meta-data/public-keys/"),
                why: format!("\"{line}\" is not NUMBER=NAME"),
            })?;
        let key = meta_text(&format!("public-keys/{number}/openssh-key"))?;
        if !key.is_empty() {
            meta.public_keys.insert(format!("{number:0>4}-{name}"), key);
        }
    }
    Ok(Fetched {
        user_data,
        vendor_data: Vec::new(),
        meta,
    })
}

fn openstack(base: &str, client: &Client) -> Result<Fetched, SourceError> {
    let latest = format!("{base}openstack/latest/");
    let get = |name: &str| {
        client
            .get_optional(&format!("{latest}{name}"))
            .map_err(SourceError::Http)
    };
    let mut fetched = Fetched {
        user_data: get("user_data")?.unwrap_or_default(),
        vendor_data: get("vendor_data.json")?
            .map(|b| configdrive::vendor(&b))
            .unwrap_or_default(),
        meta: MetaData::default(),
    };
    if let Some(bytes) = get("meta_data.json")? {
        let path = format!("{latest}meta_data.json");
        fetched.meta = configdrive::basic_metadata(&json(&path, &bytes)?);
    }
    // The EC2 form beside it knows the addresses.
    let meta_text = |name: &str| optional_text(client, &format!("{base}latest/meta-data/{name}"));
    fetched.meta.addresses.private_ipv4 = meta_text("local-ipv4")?;
    fetched.meta.addresses.public_ipv4 = meta_text("public-ipv4")?;
    Ok(fetched)
}

fn json(path: &str, bytes: &[u8]) -> Result<Value, SourceError> {
    serde_json::from_slice(bytes).map_err(|e| SourceError::BadMetaData {
        path: path.to_owned(),
        why: e.to_string(),
    })
}

fn digitalocean(base: &str, client: &Client) -> Result<Fetched, SourceError> {
    let url = format!("{base}metadata/v1.json");
    let body = client.get(&url).map_err(SourceError::Http)?;
    let root = json(&url, &body)?;
    let text = |pointer: &str| {
        root.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut meta = MetaData {
        instance_id: root
            .get("droplet_id")
            .map(ToString::to_string)
            .unwrap_or_default(),
        hostname: text("/hostname"),
        ..MetaData::default()
    };
    let keys = root.get("public_keys").and_then(Value::as_array);
    for (index, key) in keys.into_iter().flatten().enumerate() {
        if let Some(key) = key.as_str() {
            meta.public_keys
                .insert(format!("{index:04}"), key.to_owned());
        }
    }
    meta.addresses.public_ipv4 = text("/interfaces/public/0/ipv4/ip_address");
    meta.addresses.private_ipv4 = text("/interfaces/private/0/ipv4/ip_address");
    meta.addresses.public_ipv6 = text("/interfaces/public/0/ipv6/ip_address");
    meta.addresses.private_ipv6 = text("/interfaces/private/0/ipv6/ip_address");
    let user_data = client
        .get_optional(&format!("{base}metadata/v1/user-data"))
        .map_err(SourceError::Http)?
        .unwrap_or_default();
    Ok(Fetched {
        user_data,
        vendor_data: text("/vendor_data").into_bytes(),
        meta,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firmware(vendor: &str, product: &str, uuid: &str) -> Firmware {
        Firmware {
            vendor: vendor.into(),
            product: product.into(),
            uuid: uuid.into(),
            ..Firmware::default()
        }
    }

    #[test]
    fn the_firmware_names_the_service() {
        let cases = [
            (
                None,
                firmware("Amazon EC2", "t3.micro", "x"),
                Some(Kind::Ec2),
            ),
            (None, firmware("Xen", "HVM domU", "ec2f00"), Some(Kind::Ec2)),
            (
                None,
                firmware("OpenStack Foundation", "OpenStack Nova", ""),
                Some(Kind::OpenStack),
            ),
            (
                None,
                firmware("DigitalOcean", "Droplet", ""),
                Some(Kind::DigitalOcean),
            ),
            (None, firmware("QEMU", "Standard PC", "1"), None),
            (
                Some("openstack"),
                firmware("QEMU", "", ""),
                Some(Kind::OpenStack),
            ),
            (Some("qemu"), firmware("QEMU", "", ""), None),
        ];
        for (oem, firmware, want) in cases {
            assert_eq!(detect(oem, &firmware), want, "{firmware:?}");
        }
    }
}
