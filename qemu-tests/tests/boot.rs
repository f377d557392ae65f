//! Boot paths: SeaBIOS and OVMF ten times on one disk, verity, what a reboot keeps, boots with things missing
//! (issue 2, shows 4, 5 and 9).

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use boot_slots::BootState;
use qemu_tests::{Firmware, Machine, MachineSpec, World};

/// Shorter health check, so that ten boots fit a test: the rule stays, only its patience changes.
const QUICK: &str = "#cloud-config\nwrite_files:\n  - path: /etc/flotilla/update.conf\n    content: |\n      HEALTH_STABLE=2\n      HEALTH_TIMEOUT=120\n";

/// Where USR-A begins on the disk: BIOS-BOOT at 1 MiB, the ESP of 1 GiB behind it.
const USR_A: u64 = (1 + 1 + 1024) << 20;
/// Where STATE begins, behind both slots and OEM.
const STATE: u64 = USR_A + ((2 * 2048 + 256) << 20);
/// STATE as the image ships it.
const STATE_SHIPPED: u64 = 128 << 20;

/// What one boot is asked, in one connection, after its slot was marked good; then it is rebooted.
const VISIT: &str = "n=0; until systemctl is-active -q update-mark-good.service; do n=$((n+1)); test $n -lt 300 || exit 1; sleep 0.3; done
echo boot=$(cat /proc/sys/kernel/random/boot_id) id=$(cat /etc/machine-id) kept=$(cat /etc/kept /var/lib/kept | tr -d '\\n') journal=$(sudo dmesg | grep -c 'recovery complete')";

fn ten_boots(name: &str, firmware: Firmware) -> anyhow::Result<()> {
    let w = World::new(name)?;
    let mut spec = w.spec(1)?;
    spec.firmware = firmware;
    spec.reboots = false;
    spec.seed = Some(w.seed(1, QUICK));
    let started = Instant::now();
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    first_boot_made_it_its_own(&m)?;
    m.ssh("sudo sh -c 'echo kept > /etc/kept; echo kept > /var/lib/kept'")?;
    let mut seen: Vec<String> = Vec::new();
    for n in 1..=10 {
        let said = m.ssh(VISIT)?;
        eprintln!(
            "{name}: boot {n} good after {} s: {}",
            started.elapsed().as_secs(),
            said.trim()
        );
        let (boot, rest) = said.trim().split_once(' ').unwrap_or_default();
        assert!(
            !seen.iter().any(|s| s.starts_with(boot)),
            "boot {n} is not a new one: {said}"
        );
        assert!(
            rest.ends_with("kept=keptkept journal=0"),
            "boot {n}: {said}"
        );
        if let Some(first) = seen.first() {
            assert!(
                first.ends_with(rest),
                "boot {n} is another machine: {said} and {first}"
            );
        }
        seen.push(said.trim().to_string());
        if n < 10 {
            reboot(&mut m)?;
        }
    }
    let status = m.ssh("sudo updatectl status --json")?;
    let v: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(v["slots"][0]["good"], true, "{status}");
    assert_eq!(
        v["slots"][0]["tries"], 6,
        "the tenth boot is like the first: {status}"
    );
    assert_eq!(v["slots"][1]["version"], "", "{status}");
    let table = m.ssh("sudo updatectl status")?;
    assert!(table.contains("running"), "{table}");
    is_slot_a(&m);
    Ok(())
}

/// STATE fills the disk, and nothing by which the image's machines could be mistaken for each other is left.
fn first_boot_made_it_its_own(m: &Machine) -> anyhow::Result<()> {
    let said = m.ssh("df --output=size -B1M / | tail -n 1; ls /dev/disk/by-partuuid; sudo blkid -p -o value -s PTUUID /dev/vda; sudo blkid -p -o value -s UUID /dev/disk/by-partlabel/STATE; cat /etc/machine-id")?;
    let size: u64 = said.lines().next().unwrap_or("").trim().parse()?;
    assert!(size > 2300, "STATE was not grown: {said}");
    let ids: Vec<&str> = said
        .lines()
        .skip(1)
        .filter(|l| !l.trim().is_empty())
        .collect();
    assert!(
        ids.len() >= 9 && ids.iter().all(|i| i.len() >= 32),
        "six partitions, disk, file system, machine: {said}"
    );
    assert!(
        !said.contains("f1071111"),
        "an identifier of the image is left: {said}"
    );
    Ok(())
}

/// Asks for a reboot, which ends QEMU, and boots the same disk again. A new process each time: under emulation a QEMU
/// that was reset takes two to three times as long for the same boot as a fresh one.
fn reboot(m: &mut Machine) -> anyhow::Result<()> {
    let _ = m.try_ssh("sudo systemctl reboot");
    m.wait_ended(Duration::from_secs(60))
        .with_context(|| m.console_tail())?;
    is_slot_a(m);
    m.boot()?;
    m.wait_ssh(Duration::from_secs(180))
}

/// The loader started slot A in the ordinary way.
fn is_slot_a(m: &Machine) {
    let console = m.console();
    assert!(
        console.contains("starting slot A") && !console.contains("recovery"),
        "{}",
        m.console_tail()
    );
}

/// A disk image as QEMU's tools see it.
fn qemu_tool(program: &str, args: &[&str], files: &[&Path]) -> anyhow::Result<()> {
    let out = Command::new(program).args(args).args(files).output()?;
    anyhow::ensure!(
        out.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// The overlay of a stopped machine as one raw file.
fn flat(m: &Machine) -> anyhow::Result<PathBuf> {
    let raw = m.dir().join("disk.raw");
    qemu_tool(
        "qemu-img",
        &["convert", "-O", "raw"],
        &[&m.dir().join("disk.qcow2"), &raw],
    )?;
    Ok(raw)
}

/// The raw file as the machine's disk again.
fn unflat(m: &Machine, raw: &Path) -> anyhow::Result<()> {
    qemu_tool(
        "qemu-img",
        &["convert", "-O", "qcow2"],
        &[raw, &m.dir().join("disk.qcow2")],
    )
}

/// Where the loader's environment block lies, and what it says.
fn grubenv(raw: &Path) -> anyhow::Result<(u64, BootState)> {
    let f = std::fs::File::open(raw)?;
    let mut buf = vec![0; 1 << 20];
    for mib in 2..256u64 {
        f.read_exact_at(&mut buf, mib << 20)?;
        let found = buf
            .chunks(512)
            .position(|c| c.starts_with(b"# GRUB Environment Block\nfirst="));
        if let Some(sector) = found {
            let at = (mib << 20) + sector as u64 * 512;
            let mut block = vec![0; boot_slots::BLOCK_LEN];
            f.read_exact_at(&mut block, at)?;
            return Ok((at, BootState::parse(&block)));
        }
    }
    anyhow::bail!("no environment block on the ESP")
}

/// e2fsck finds STATE as an orderly shutdown leaves it: no journal to replay, nothing to repair.
fn state_is_clean(raw: &Path) -> anyhow::Result<()> {
    let part = raw.with_extension("state");
    let mut from = std::fs::File::open(raw)?;
    let mut magic = [0; 128];
    from.read_exact_at(&mut magic, STATE + 1024)?;
    // s_feature_incompat: 4 = the journal needs recovery. s_state: 1 = cleanly unmounted.
    let (incompat, state) = (
        u32::from_le_bytes([magic[96], magic[97], magic[98], magic[99]]),
        magic[58],
    );
    anyhow::ensure!(
        incompat & 4 == 0 && state == 1,
        "STATE was not unmounted: incompat {incompat:#x}, state {state}"
    );
    from.seek(SeekFrom::Start(STATE))?;
    let to = std::fs::File::create(&part)?;
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let n = from.read(&mut buf)?;
        if n == 0 {
            break;
        }
        if buf[..n].iter().any(|b| *b != 0) {
            to.write_all_at(&buf[..n], at)?;
        }
        at += n as u64;
    }
    to.set_len(at)?;
    drop(to);
    let out = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(&part)
        .output()?;
    std::fs::remove_file(&part)?;
    anyhow::ensure!(
        out.status.success(),
        "e2fsck of STATE: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
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

/// A flipped byte in /usr: verity catches it, the machine does not run it, and the loader counts each attempt. With the
/// byte put right it is a good machine again, with all its attempts. On the way: an orderly shutdown leaves STATE clean.
#[test]
fn a_flipped_byte_in_usr_is_not_run() -> anyhow::Result<()> {
    let w = World::new("verity")?;
    let mut spec = w.spec(1)?;
    spec.firmware = Firmware::Bios;
    spec.seed = Some(w.seed(1, QUICK));
    spec.reboots = false; // a detected corruption restarts the machine: QEMU then ends
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    m.wait_good()?;
    let _ = m.try_ssh("sudo systemctl poweroff");
    m.wait_ended(Duration::from_secs(120))?;

    // The disk is an overlay on the shared image: flatten it, then flip one byte in USR-A's first data block.
    let raw = flat(&m)?;
    state_is_clean(&raw)?;
    let (at, before) = grubenv(&raw)?;
    assert!(before.a.good && before.a.tries == 6, "{before:?}");
    flip(&raw, USR_A + 1024 + 5)?; // inside the erofs superblock
    unflat(&m, &raw)?;
    for tries in [5, 4] {
        not_run(&mut m)?;
        let (_, state) = grubenv(&flat(&m)?)?;
        assert!(
            state.a.good && state.a.tries == tries,
            "the loader counts: {state:?}"
        );
    }

    // The last attempt, and what comes after it: a start for recovery, uncounted, of the same /usr, which is not run either.
    let raw = flat(&m)?;
    let mut state = grubenv(&raw)?.1;
    state.a.tries = 0;
    OpenOptions::new()
        .write(true)
        .open(&raw)?
        .write_all_at(&state.serialise()?, at)?;
    unflat(&m, &raw)?;
    not_run(&mut m)?;
    assert!(
        m.console().contains("flotilla.recovery=1"),
        "not said to be a recovery:\n{}",
        m.console_tail()
    );

    let raw = flat(&m)?;
    flip(&raw, USR_A + 1024 + 5)?;
    unflat(&m, &raw)?;
    m.boot()?;
    m.wait_ssh(Duration::from_secs(180))?;
    m.wait_good()?;
    let status = m.ssh("sudo updatectl status --json")?;
    let v: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(v["slots"][0]["tries"], 6, "{status}");
    Ok(())
}

fn flip(raw: &Path, at: u64) -> anyhow::Result<()> {
    let f = OpenOptions::new().read(true).write(true).open(raw)?;
    let mut b = [0];
    f.read_exact_at(&mut b, at)?;
    f.write_all_at(&[b[0] ^ 1], at)?;
    f.sync_all()?;
    Ok(())
}

/// Boots a machine whose /usr is rotten: it ends by itself, and nothing of /usr has spoken.
fn not_run(m: &mut Machine) -> anyhow::Result<()> {
    m.boot()?;
    m.wait_ended(Duration::from_secs(120))
        .with_context(|| m.console_tail())?;
    let console = m.console();
    for sign in ["login:", "Listening on", "Reached target", "Welcome"] {
        assert!(
            !console.contains(sign),
            "it ran a changed /usr:\n{}",
            m.console_tail()
        );
    }
    assert!(console.contains("starting slot A"), "{}", m.console_tail());
    Ok(())
}

/// A STATE with nothing on it is formatted by the tools of the verified /usr, at the disk's size.
#[test]
fn a_blank_state_is_formatted() -> anyhow::Result<()> {
    let w = World::new("blank")?;
    let mut spec = w.spec(1)?;
    spec.seed = Some(w.seed(1, QUICK));
    let disk = overlay(&w, &spec)?;
    qemu_tool(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            &format!("write -z {STATE} {STATE_SHIPPED}"),
        ],
        &[&disk],
    )?;
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    let said = m.ssh("sudo dmesg | grep -c 'STATE is blank'; findmnt -no FSTYPE /; sudo blkid -p -o value -s LABEL /dev/disk/by-partlabel/STATE")?;
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["1", "ext4", "STATE"],
        "{said}"
    );
    first_boot_made_it_its_own(&m)
}

/// Power cuts at many moments of the first boot: the disk boots all the same, and the first boot is made whole.
#[test]
fn power_cuts_in_the_first_boot_leave_a_disk_that_boots() -> anyhow::Result<()> {
    let w = World::new("cut")?;
    let mut spec = w.spec(1)?;
    spec.seed = Some(w.seed(1, QUICK));
    spec.cache = "writethrough";
    overlay(&w, &spec)?;
    let mut m = w.start(spec)?;
    // Console marks of the first boot, and how long after them the power goes.
    let cuts = [
        ("Starting", 0),
        ("Starting systemd-sysusers", 300),
        ("Starting flotilla-cloudinit-local", 500),
        ("Starting sshd-keygen", 300),
    ];
    for (mark, millis) in cuts {
        m.wait_console(mark, Duration::from_secs(120))?;
        std::thread::sleep(Duration::from_millis(millis));
        m.kill();
        m.boot()?;
    }
    // Growth is over before the first unit: cut there by the clock, on a fresh disk each time.
    let started = Instant::now();
    m.wait_console("Starting", Duration::from_secs(120))?;
    let to_units = started.elapsed();
    for part in [85, 90, 95] {
        m.kill();
        std::fs::remove_file(m.dir().join("disk.qcow2"))?;
        overlay(&w, &m.spec)?;
        m.boot()?;
        std::thread::sleep(to_units * part / 100);
        m.kill();
        let raw = flat(&m)?;
        assert!(
            gpt_is_whole(&raw)?,
            "neither table is valid after a cut at {part} % of stage 1"
        );
        m.boot()?;
        m.wait_console("Starting", Duration::from_secs(120))?;
    }
    m.wait_ssh(Duration::from_secs(180))?;
    first_boot_made_it_its_own(&m)?;
    let said = m.ssh("sudo sh -c 'for k in /etc/ssh/ssh_host_*_key; do test -s $k && ssh-keygen -y -f $k >/dev/null && echo key; done; wc -c < /etc/machine-id'")?;
    assert_eq!(said, "key\nkey\n33\n", "{said}");
    m.wait_good()
}

/// Whether the primary or the backup header of the partition table is in its place.
fn gpt_is_whole(raw: &Path) -> anyhow::Result<bool> {
    let f = std::fs::File::open(raw)?;
    let len = f.metadata()?.len();
    let mut found = false;
    for at in [512, len - 512] {
        let mut h = [0; 512];
        f.read_exact_at(&mut h, at)?;
        found |= h.starts_with(b"EFI PART");
    }
    Ok(found)
}

/// The machine's disk before its first boot.
fn overlay(w: &World, spec: &MachineSpec) -> anyhow::Result<PathBuf> {
    let dir = w.dir.join(&spec.name);
    std::fs::create_dir_all(&dir)?;
    let disk = dir.join("disk.qcow2");
    let base = w.image.file("flotilla.qcow2");
    qemu_tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"],
        &[&base, &disk, Path::new(&spec.disk)],
    )?;
    Ok(disk)
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
        // Split in the command, so that its echo is not taken for its end.
        m.type_console("sudo journalctl -b -u systemd-networkd -u flotilla-cloudinit -u flotilla-cloudinit-local --no-pager | cat; echo END-''OF-JOURNAL\n")?;
        m.wait_console("END-OF-JOURNAL", Duration::from_secs(60))?;
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

/// The worker without its cluster still boots to ssh, with its address and its disk.
#[test]
fn the_worker_without_its_cluster_boots_to_ssh() -> anyhow::Result<()> {
    let w = World::new("worker")?;
    let m = qemu_tests::members::worker(&w)?;
    m.wait_until(
        "the data disk",
        Duration::from_secs(120),
        qemu_tests::members::DATA_DISK,
    )?;
    Ok(())
}
