//! Who this machine is: machine-id, host name, and a clock that is not before the image was made.

use std::fs;
use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_settime};
use sha2::{Digest, Sha256};

use super::Boot;
use crate::clock;
use crate::host::virtualization::{self, Kind};
use crate::log::{self, Level};

const MACHINE_ID: &str = "/etc/machine-id";

/// Decides machine-id and host name. The id is written later, by [`remember`]: until then a power cut leaves
/// a machine that boots for the first time once more.
pub(super) fn decide(boot: &mut Boot) -> std::io::Result<()> {
    let known = fs::read_to_string(MACHINE_ID)
        .ok()
        .and_then(|t| parse_id(&t));
    boot.first_boot = known.is_none();
    boot.machine_id = known.unwrap_or_else(|| {
        let dmi = fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
        let diskless = boot.facts.state_device.is_none();
        let vm = virtualization::detect() != Kind::None;
        new_id(
            boot.cmdline.value("systemd.machine_id"),
            &dmi,
            vm,
            diskless,
            random(),
        )
    });
    let named = boot.cmdline.value("systemd.hostname").map(str::to_owned);
    let name = host_name(
        named.as_deref(),
        &fs::read_to_string("/etc/hostname").unwrap_or_default(),
        &boot.machine_id,
    );
    rustix::system::sethostname(name.as_bytes())?;
    Ok(())
}

/// Writes the machine-id: from now on this is no first boot any more.
pub(super) fn remember(boot: &mut Boot) -> std::io::Result<()> {
    if !boot.first_boot {
        return Ok(());
    }
    log::say(
        Level::Info,
        format_args!("machine-id is {}", boot.machine_id),
    );
    crate::atomic::write(
        Path::new(MACHINE_ID),
        format!("{}\n", boot.machine_id).as_bytes(),
        0o444,
    )
}

/// A valid id: 32 hexadecimal digits, not all zero.
fn parse_id(text: &str) -> Option<String> {
    let id = text.trim().replace('-', "").to_lowercase();
    let valid = id.len() == 32
        && id.bytes().all(|b| b.is_ascii_hexdigit())
        && id.bytes().any(|b| b != b'0');
    valid.then_some(id)
}

/// The id of a machine that has none yet.
fn new_id(named: Option<&str>, dmi: &str, vm: bool, diskless: bool, random: [u8; 16]) -> String {
    if let Some(id) = named.and_then(parse_id) {
        return id;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // Boards that were never given one say all ones.
    let dmi = parse_id(dmi).filter(|id| id.bytes().any(|b| b != b'f'));
    match dmi {
        // Without a disk it must come out the same at each boot, and must not show the board's own number.
        Some(dmi) if diskless => {
            let hash = Sha256::new()
                .chain_update("flotilla machine-id")
                .chain_update(dmi)
                .finalize();
            hex(&version_4(&hash[..16]))
        }
        Some(dmi) if vm => dmi,
        _ => hex(&version_4(&random)),
    }
}

fn version_4(bytes: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Waits for the kernel's generator: an id that repeats on other machines would be worse.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
}

/// `systemd.hostname=`, else /etc/hostname, else `flotilla-` and the first digits of the machine-id. What DHCP
/// says comes later, from networkd.
fn host_name(named: Option<&str>, file: &str, id: &str) -> String {
    let from_file = file
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty() && !l.starts_with('#'));
    let chosen = named
        .into_iter()
        .chain(from_file)
        .find(|n| valid_host_name(n));
    chosen.map_or_else(
        || format!("flotilla-{}", &id[..id.len().min(8)]),
        str::to_owned,
    )
}

fn valid_host_name(name: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 64 && name.split('.').all(label)
}

/// Sets a clock that lies before the image's date, or before the last time this machine knew, to that.
pub(super) fn advance_clock() -> std::io::Result<()> {
    let sources = [
        "/usr/lib/clock-epoch",
        "/usr/lib/os-release",
        "/var/lib/flotilla/clock",
    ];
    let newest = sources
        .iter()
        .filter_map(|p| {
            fs::metadata(p)
                .ok()?
                .modified()
                .ok()?
                .duration_since(std::time::UNIX_EPOCH)
                .ok()
        })
        .max();
    let Some(epoch) = newest else {
        return Ok(());
    };
    if u128::from(clock::realtime_usec()) >= epoch.as_micros() {
        return Ok(());
    }
    let seconds = i64::try_from(epoch.as_secs()).unwrap_or(0);
    clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    )?;
    log::say(
        Level::Notice,
        format_args!("the clock was before the image's date, set to {seconds} s since 1970"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DMI: &str = "8F2C1E00-1111-2222-3333-444455556666\n";

    #[test]
    fn ids_are_taken_in_the_order_of_the_contract() {
        let random = [7; 16];
        let named = "0123456789abcdef0123456789abcdef";
        assert_eq!(new_id(Some(named), DMI, true, false, random), named);
        assert_eq!(
            new_id(None, DMI, true, false, random),
            "8f2c1e00111122223333444455556666"
        );
        let metal = new_id(None, DMI, false, false, random);
        assert_eq!(metal, "07070707070747078707070707070707");
        assert_eq!(
            new_id(
                None,
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                true,
                false,
                random
            ),
            metal
        );
        let diskless = new_id(None, DMI, true, true, random);
        assert_eq!(
            diskless,
            new_id(None, DMI, false, true, [9; 16]),
            "the same at each boot"
        );
        assert_ne!(diskless, "8f2c1e00111122223333444455556666");
    }

    #[test]
    fn uninitialized_and_empty_are_no_id() {
        for text in ["", "uninitialized\n", "0000", &"0".repeat(32), "xyz"] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }

    #[test]
    fn the_host_name_has_a_fallback_from_the_machine_id() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(host_name(Some("a.b"), "c\n", id), "a.b");
        assert_eq!(host_name(None, "# x\n\nc\n", id), "c");
        assert_eq!(host_name(Some("-bad"), "b ad", id), "flotilla-01234567");
    }
}
