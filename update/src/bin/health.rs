//! `flotilla-health.service`: ends with success once this boot has been healthy for a while.
//!
//! A slot that was never good and does not become healthy in time is rebooted, so that the loader's counter works; a
//! good one stays up and only says what is wrong.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use update::units::Units;
use update::{boot, health};

fn main() -> ExitCode {
    let info = match boot::read(Path::new(boot::PATH)) {
        Ok(i) => i,
        Err(e) => {
            eprintln!("health: {}", telemetry::chain(&e));
            return ExitCode::FAILURE;
        }
    };
    let confs: Vec<String> = ["/usr/share/coreos/update.conf", "/etc/coreos/update.conf"]
        .iter()
        .filter_map(|p| std::fs::read_to_string(p).ok())
        .collect();
    let (stable, timeout) = health::times(&confs);
    let started = Instant::now();
    let mut units = Units::default();
    let mut healthy_since: Option<Instant> = None;
    let mut said = Vec::new();
    loop {
        let settled = healthy_since.is_some_and(|t| t.elapsed() >= stable);
        let checks = settled || healthy_since.is_none();
        let bad = health::judge(&health::observe(&info, units.states(), checks));
        let left = if bad.is_empty() {
            let since = *healthy_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= stable {
                println!("healthy for {} s", stable.as_secs());
                return ExitCode::SUCCESS;
            }
            stable.saturating_sub(since.elapsed())
        } else {
            healthy_since = None;
            if started.elapsed() >= timeout {
                return give_up(&info);
            }
            timeout.saturating_sub(started.elapsed())
        };
        if bad != said {
            for b in &bad {
                println!("not healthy yet: {b}");
            }
        }
        let stumbled = units.wait(health::pause(&bad, left));
        if stumbled {
            healthy_since = None;
        }
        said = bad;
    }
}

fn give_up(info: &boot::BootInfo) -> ExitCode {
    // Exit status 3 of `updatectl is-good`: the slot was never good.
    let unproven = info.slot.is_some()
        && Command::new("/usr/bin/updatectl")
            .arg("is-good")
            .status()
            .is_ok_and(|s| s.code() == Some(3));
    if unproven {
        eprintln!(
            "health: this slot was never good and is not healthy in time; rebooting, the boot loader counts"
        );
        let _ = Command::new("/usr/bin/systemctl").arg("reboot").status();
    } else {
        eprintln!("health: this boot is not healthy; the slot stays as it is");
    }
    ExitCode::FAILURE
}
