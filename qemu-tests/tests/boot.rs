//! Boot paths: SeaBIOS and OVMF ten times on one disk, verity, what a reboot keeps, boots with things missing
//! (issue 2, shows 5 and 9).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use qemu_tests::{Firmware, Machine, World};

/// Shorter health check, so that ten boots fit a test: the rule stays, only its patience changes.
const QUICK: &str = "#cloud-config\nwrite_files:\n  - path: /etc/flotilla/update.conf\n    content: |\n      HEALTH_STABLE=2\n      HEALTH_TIMEOUT=120\n";

fn ten_boots(name: &str, firmware: Firmware) -> anyhow::Result<()> {
    let w = World::new(name)?;
    let mut spec = w.spec(1)?;
    spec.firmware = firmware;
    spec.seed = Some(w.seed(1, QUICK));
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    m.ssh("sudo sh -c 'echo kept > /etc/kept; echo kept > /var/lib/kept'")?;
    let id = m.ssh("cat /etc/machine-id")?;
    for n in 2..=10 {
        m.wait_good()?;
        reboot(&mut m)?;
        assert_eq!(
            m.ssh("cat /etc/kept /var/lib/kept")?,
            "kept\nkept\n",
            "boot {n}"
        );
        assert_eq!(m.ssh("cat /etc/machine-id")?, id, "boot {n}");
    }
    m.wait_good()?;
    let status = m.ssh("sudo updatectl status --json")?;
    let v: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(v["slots"][0]["good"], true, "{status}");
    assert_eq!(
        v["slots"][0]["tries"], 6,
        "the tenth boot is like the first: {status}"
    );
    assert_eq!(v["slots"][1]["version"], "", "{status}");
    let console = m.console();
    assert!(
        console.contains("starting slot A") && !console.contains("recovery"),
        "{}",
        m.console_tail()
    );
    Ok(())
}

/// Asks for a reboot and waits for the next boot's ssh.
fn reboot(m: &mut Machine) -> anyhow::Result<()> {
    let before = m.ssh("cat /proc/sys/kernel/random/boot_id")?;
    let _ = m.try_ssh("sudo systemctl reboot");
    m.wait_until(
        "the next boot",
        Duration::from_secs(240),
        &format!(
            "test \"$(cat /proc/sys/kernel/random/boot_id)\" != '{}'",
            before.trim()
        ),
    )?;
    Ok(())
}

#[test]
fn seabios_boots_ten_times_on_one_disk() -> anyhow::Result<()> {
    ten_boots("bios", Firmware::Bios)
}

#[test]
fn ovmf_boots_ten_times_on_one_disk() -> anyhow::Result<()> {
    ten_boots("uefi", Firmware::Uefi)
}

/// A flipped byte in /usr: verity catches it and the machine does not run what was changed.
#[test]
fn a_flipped_byte_in_usr_is_not_run() -> anyhow::Result<()> {
    let w = World::new("verity")?;
    let mut spec = w.spec(1)?;
    spec.seed = Some(w.seed(1, QUICK));
    spec.reboots = false; // a detected corruption restarts the machine: QEMU then ends
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    m.ssh("sudo systemctl poweroff || true")?;
    m.wait_ended(Duration::from_secs(120))?;

    // The disk is an overlay on the shared image: flatten it, then flip one byte in USR-A's first data block.
    let (qcow, raw) = (m.dir().join("disk.qcow2"), m.dir().join("disk.raw"));
    let ok = std::process::Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(&qcow)
        .arg(&raw)
        .status()?
        .success();
    assert!(ok, "qemu-img convert");
    let usr_a = (1 + 1 + 1024) << 20; // BIOS-BOOT at 1 MiB, ESP of 1 GiB behind it
    let f = OpenOptions::new().read(true).write(true).open(&raw)?;
    let mut b = [0];
    let at = usr_a + 1024 + 5; // inside the erofs superblock
    f.read_exact_at(&mut b, at)?;
    f.write_all_at(&[b[0] ^ 1], at)?;
    f.sync_all()?;
    let ok = std::process::Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .arg(&raw)
        .arg(&qcow)
        .status()?
        .success();
    assert!(ok, "qemu-img convert back");

    m.boot()?;
    m.wait_ended(Duration::from_secs(120))?;
    let console = m.console();
    assert!(
        !console.contains("login:"),
        "it ran a changed /usr:\n{}",
        m.console_tail()
    );
    Ok(())
}

/// No metadata at all and no DHCP answer: a login on the console all the same, and the journal says what is missing.
#[test]
fn without_metadata_and_dhcp_there_is_a_login_and_a_reason() -> anyhow::Result<()> {
    let w = World::new("nometa")?;
    let mut spec = w.spec(1)?;
    spec.append = "flotilla.autologin".into();
    // A LAN of its own: nobody answers DHCP there.
    let empty = w.dir.join("empty");
    std::fs::create_dir_all(&empty)?;
    let mut switch = std::process::Command::new("vde_switch")
        .arg("-s")
        .arg(empty.join("s"))
        .stdin(std::process::Stdio::piped())
        .spawn()?;
    qemu_tests::process::wait_for("switch", Duration::from_secs(10), || {
        Ok(empty.join("s/ctl").exists().then_some(()))
    })?;
    let m = Machine::start(
        spec,
        &w.image,
        w.accel,
        &w.dir,
        &empty.join("s"),
        &w.dir.join("id_ed25519"),
        false,
    )?;
    let result = (|| {
        m.wait_console("core@", Duration::from_secs(180))?;
        m.type_console("sudo journalctl -b -u systemd-networkd -u flotilla-cloudinit -u flotilla-cloudinit-local --no-pager | cat; echo END-OF-JOURNAL\n")?;
        m.wait_console("END-OF-JOURNAL\r\n", Duration::from_secs(60))?;
        let text = m.console();
        anyhow::ensure!(
            text.to_lowercase().contains("dhcp"),
            "the journal says nothing of DHCP:\n{text}"
        );
        anyhow::ensure!(
            text.to_lowercase().contains("no user data")
                || text.to_lowercase().contains("no source"),
            "the journal says nothing of user data:\n{text}"
        );
        Ok(())
    })();
    let _ = switch.kill();
    let _ = switch.wait();
    result
}

/// etcd of a cluster whose other members never come: ssh is there, and the journal names what etcd waits for.
#[test]
fn etcd_without_quorum_does_not_hold_up_login() -> anyhow::Result<()> {
    let w = World::new("quorum")?;
    let m = w.boot(1, &qemu_tests::examples::etcd_member(1, 3))?;
    let state = m.ssh("systemctl is-active etcd2.service; true")?;
    assert!(["activating", "active"].contains(&state.trim()), "{state}");
    m.wait_until(
        "etcd's complaint",
        Duration::from_secs(120),
        "sudo journalctl -u etcd.service --no-pager | grep -E '10.0.2.1[23]'",
    )?;
    Ok(())
}
