//! Which source a boot uses.
//!
//! In this order, the first that is there: `ds=nocloud` on the kernel command line with a place, a drive
//! labelled `config-2`, a drive labelled `cidata`, the seed directory, `ds=nocloud` in the SMBIOS
//! serial number, QEMU's fw_cfg files, and the metadata service of the platform that the firmware (or
//! `*.oem.id=`) names. Nothing on the network is probed without being named: a machine without any of
//! these has no source, which is fine.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cloud::{self, Firmware, Kind};
use super::cmdline::{self, Seed};
use super::drive::{self, Mounted};
use super::http::Client;
use super::{Fetched, SourceError, configdrive, nocloud, read_optional};

const DRIVE_PLACE: &str = "run/flotilla/cloudinit/drive";
const SEED_DIRECTORIES: [&str; 2] = [
    "var/lib/cloud/seed/nocloud",
    "var/lib/cloud/seed/nocloud-net",
];
const SERIAL: &str = "/sys/class/dmi/id/product_serial";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/flotilla";

/// A source that needs the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pending {
    /// NoCloud files below an address.
    Seed(PendingSeed),
    /// The metadata service of the platform, at its usual address.
    Cloud(Kind),
}

/// Where NoCloud files are, and what was said with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSeed {
    /// Host name given with it.
    pub hostname: String,
    /// Instance id given with it.
    pub instance_id: String,
    /// Where the files are.
    pub from: String,
}

/// What was found without the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Name of the source, for the journal; empty: none.
    pub source: String,
    /// What it gave.
    pub fetched: Fetched,
    /// What is still to be fetched.
    pub pending: Option<Pending>,
}

/// Looks for a source below `root`; hardware is looked at only on the running system.
pub fn local(root: &Path, words: &[String]) -> Result<Choice, SourceError> {
    let live = root == Path::new("/");
    let seed = cmdline::value(words, "ds").and_then(|text| cmdline::seed(&text));
    if let Some(seed) = seed.as_ref().filter(|s| !s.from.is_empty()) {
        return from_seed("kernel command line ds=nocloud", seed);
    }
    let mut choice = without_seed(root, words, live)?;
    if let Some(seed) = seed {
        // `ds=nocloud;h=…;i=…` without a place speaks about whatever source there is.
        if !seed.hostname.is_empty() {
            choice.fetched.meta.hostname = seed.hostname;
        }
        if !seed.instance_id.is_empty() {
            choice.fetched.meta.instance_id = seed.instance_id;
        }
    }
    Ok(choice)
}

fn without_seed(root: &Path, words: &[String], live: bool) -> Result<Choice, SourceError> {
    if live && cmdline::drives_allowed(words) {
        if let Some(device) = drive::find(&["config-2", "CONFIG-2"]) {
            return on_drive(root, &device, "config drive", configdrive::fetch);
        }
        if let Some(device) = drive::find(&["cidata", "CIDATA"]) {
            return on_drive(root, &device, "NoCloud drive", nocloud::fetch_dir);
        }
    }
    for dir in SEED_DIRECTORIES {
        let dir = root.join(dir);
        if nocloud::is_seed(&dir) {
            let fetched = nocloud::fetch_dir(&dir)?;
            let source = format!("NoCloud directory {}", dir.display());
            return Ok(Choice {
                source,
                fetched,
                pending: None,
            });
        }
    }
    if live {
        let serial = std::fs::read_to_string(SERIAL).unwrap_or_default();
        let seed = serial.trim().strip_prefix("ds=").and_then(cmdline::seed);
        if let Some(seed) = seed {
            return from_seed("SMBIOS serial number ds=nocloud", &seed);
        }
        if let Some(fetched) = firmware_files()? {
            return Ok(Choice {
                source: "QEMU fw_cfg".to_owned(),
                fetched,
                pending: None,
            });
        }
    }
    let oem = cmdline::prefixed_value(words, "oem.id");
    let kind = live.then(|| cloud::detect(oem.as_deref(), &Firmware::read()));
    if let Some(kind) = kind.flatten() {
        return Ok(Choice {
            source: format!("{kind:?} metadata service"),
            pending: Some(Pending::Cloud(kind)),
            ..Choice::default()
        });
    }
    Ok(Choice::default())
}

fn from_seed(source: &str, seed: &Seed) -> Result<Choice, SourceError> {
    let source = source.to_owned();
    if seed.from.starts_with("http://") || seed.from.starts_with("https://") {
        let Seed {
            hostname,
            instance_id,
            from,
        } = seed.clone();
        let pending = Some(Pending::Seed(PendingSeed {
            hostname,
            instance_id,
            from,
        }));
        let mut choice = Choice {
            source,
            pending,
            ..Choice::default()
        };
        choice.fetched.meta.hostname.clone_from(&seed.hostname);
        choice
            .fetched
            .meta
            .instance_id
            .clone_from(&seed.instance_id);
        return Ok(choice);
    }
    let fetched = nocloud::fetch_seed(seed, &Client::new())?;
    Ok(Choice {
        source,
        fetched,
        pending: None,
    })
}

fn on_drive(
    root: &Path,
    device: &Path,
    kind: &str,
    fetch: impl Fn(&Path) -> Result<Fetched, SourceError>,
) -> Result<Choice, SourceError> {
    let place: PathBuf = root.join(DRIVE_PLACE);
    let mounted = Mounted::new(device, &place).map_err(SourceError::Drive)?;
    let fetched = fetch(mounted.path())?;
    let source = format!("{kind} {}", device.display());
    Ok(Choice {
        source,
        fetched,
        pending: None,
    })
}

/// `-fw_cfg name=opt/flotilla/user-data,file=…` and its like.
fn firmware_files() -> Result<Option<Fetched>, SourceError> {
    let dir = Path::new(FW_CFG);
    let file = |name: &str| read_optional(&dir.join(name).join("raw"));
    let user_data = file("user-data")?;
    let vendor_data = file("vendor-data")?;
    if user_data.is_none() && vendor_data.is_none() {
        return Ok(None);
    }
    Ok(Some(Fetched {
        user_data: user_data.unwrap_or_default(),
        vendor_data: vendor_data.unwrap_or_default(),
        ..Fetched::default()
    }))
}

/// Fetches what was pending.
pub fn fetch_pending(pending: &Pending, client: &Client) -> Result<Fetched, SourceError> {
    match pending.clone() {
        Pending::Cloud(kind) => cloud::fetch(kind, cloud::LINK_LOCAL, client),
        Pending::Seed(PendingSeed {
            hostname,
            instance_id,
            from,
        }) => {
            let seed = Seed {
                hostname,
                instance_id,
                from,
            };
            nocloud::fetch_seed(&seed, client)
        }
    }
}
