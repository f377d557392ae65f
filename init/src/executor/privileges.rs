//! Users, groups, capabilities, and the filters that cannot be taken back.

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use syscalls::seccomp::Instruction;
use unit_file::settings::ExecSettings;

use super::{Failure, Identity, Order, at, step};

const LAST_CAPABILITY: u32 = 40;

/// Becomes the unit's user with the unit's capabilities.
pub(super) fn drop(order: &Order, identity: &Identity) -> Result<(), Failure> {
    let exec = &order.exec;
    let become_user = !order.keep_user;
    if become_user {
        groups(identity)?;
    }
    if order.full_privilege {
        return Ok(());
    }
    let bounding = bounding_set(exec);
    if let Some(keep) = bounding {
        for number in 0..=LAST_CAPABILITY {
            if keep & (1 << number) == 0
                && let Some(one) = single(number)
            {
                remove_capability_from_bounding_set(one)
                    .map_err(at(step::CAPABILITIES, "shrink the bounding set"))?;
            }
        }
    }
    let ambient = exec.ambient_capabilities;
    let user = identity.uid.filter(|_| become_user);
    if user.is_some() && ambient != 0 {
        set_keep_capabilities(true).map_err(at(step::CAPABILITIES, "keep capabilities"))?;
    }
    if exec.secure_bits != 0 {
        set_capabilities_secure_bits(CapabilitiesSecureBits::from_bits_retain(exec.secure_bits))
            .map_err(at(step::SECUREBITS, "set SecureBits="))?;
    }
    if let Some(uid) = user {
        let uid = Uid::from_raw(uid);
        set_thread_res_uid(uid, uid, uid)
            .map_err(at(step::USER, format!("become user {}", uid.as_raw())))?;
    }
    if ambient != 0 {
        raise_ambient(ambient, user.is_some())?;
    }
    if let Some(keep) = bounding
        && user.is_none_or(|u| u == 0)
    {
        restrict(keep | ambient)?;
    }
    Ok(())
}

fn groups(identity: &Identity) -> Result<(), Failure> {
    if identity.gid.is_none() && identity.groups.is_empty() {
        return Ok(());
    }
    let all: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    set_thread_groups(&all).map_err(at(step::GROUP, "set the groups"))?;
    if let Some(gid) = identity.gid {
        let gid = Gid::from_raw(gid);
        set_thread_res_gid(gid, gid, gid)
            .map_err(at(step::GROUP, format!("become group {}", gid.as_raw())))?;
    }
    Ok(())
}

/// What stays of the bounding set: CapabilityBoundingSet= less what the Protect*= settings take.
fn bounding_set(exec: &ExecSettings) -> Option<u64> {
    const SYS_MODULE: u64 = 1 << 16;
    const SYS_RAWIO: u64 = 1 << 17;
    const SYS_TIME: u64 = 1 << 25;
    const MKNOD: u64 = 1 << 27;
    const SYSLOG: u64 = 1 << 34;
    const WAKE_ALARM: u64 = 1 << 35;
    let taken = [
        (exec.protect_kernel_modules, SYS_MODULE),
        (exec.private_devices, MKNOD | SYS_RAWIO),
        (exec.protect_clock, SYS_TIME | WAKE_ALARM),
        (exec.protect_kernel_logs, SYSLOG),
    ];
    let taken = taken
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |all, (_, bits)| all | bits);
    match exec.capability_bounding_set {
        None if taken == 0 => None,
        set => Some(set.unwrap_or(u64::MAX) & !taken),
    }
}

fn raise_ambient(wanted: u64, changed_user: bool) -> Result<(), Failure> {
    let bits = CapabilitySet::from_bits_retain(wanted);
    let now = capabilities(None).map_err(at(step::CAPABILITIES, "read capabilities"))?;
    let permitted = if changed_user { bits } else { now.permitted };
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        inheritable: now.inheritable | bits,
    };
    set_capabilities(None, sets).map_err(at(step::CAPABILITIES, "set capabilities"))?;
    for number in (0..=LAST_CAPABILITY).filter(|n| wanted & (1 << n) != 0) {
        if let Some(one) = single(number) {
            configure_capability_in_ambient_set(one, true)
                .map_err(at(step::CAPABILITIES, "raise ambient capabilities"))?;
        }
    }
    Ok(())
}

/// Root with a smaller bounding set keeps no more than that.
fn restrict(keep: u64) -> Result<(), Failure> {
    let now = capabilities(None).map_err(at(step::CAPABILITIES, "read capabilities"))?;
    let keep = CapabilitySet::from_bits_retain(keep);
    let sets = CapabilitySets {
        effective: now.effective & keep,
        permitted: now.permitted & keep,
        inheritable: now.inheritable & keep,
    };
    set_capabilities(None, sets).map_err(at(step::CAPABILITIES, "set capabilities"))
}

fn single(number: u32) -> Option<CapabilitySet> {
    let one = CapabilitySet::from_bits_retain(1 << number);
    (!one.is_empty()).then_some(one)
}

/// Locks the doors: no new privileges, then the system call filters.
pub(super) fn lock(exec: &ExecSettings) -> Result<(), Failure> {
    let program = filter(exec);
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|c| c.effective.contains(CapabilitySet::SYS_ADMIN));
    if exec.no_new_privileges || (!program.is_empty() && !privileged) {
        set_no_new_privs(true).map_err(at(step::NO_NEW_PRIVILEGES, "set NoNewPrivileges="))?;
    }
    if !program.is_empty() {
        syscalls::seccomp::install(&program)
            .map_err(at(step::SECCOMP, "install the system call filter"))?;
    }
    Ok(())
}

/// One condition of a rule on an argument: `(argument & mask) == value`, or not equal.
struct Argument {
    index: u32,
    mask: u32,
    value: u32,
    equal: bool,
}

/// The filter for the settings that restrict single calls by their arguments. Other calls pass.
fn filter(exec: &ExecSettings) -> Vec<Instruction> {
    const EPERM: u32 = 1;
    let mut rules: Vec<(u32, Vec<Argument>, u32)> = Vec::new();
    let bits = |index, mask| Argument {
        index,
        mask,
        value: 0,
        equal: false,
    };
    if exec.memory_deny_write_execute {
        let both = |index| Argument {
            index,
            mask: 6,
            value: 6,
            equal: true,
        };
        rules.push((number::MMAP, vec![both(2)], EPERM));
        rules.push((number::MPROTECT, vec![bits(2, 4)], EPERM));
        rules.push((number::PKEY_MPROTECT, vec![bits(2, 4)], EPERM));
    }
    if exec.lock_personality {
        // 0xFFFFFFFF only asks.
        let differs = |value| Argument {
            index: 0,
            mask: u32::MAX,
            value,
            equal: false,
        };
        rules.push((
            number::PERSONALITY,
            vec![differs(u32::MAX), differs(0)],
            EPERM,
        ));
    }
    if exec.restrict_realtime {
        for policy in [1, 2, 6] {
            let is = Argument {
                index: 1,
                mask: 0xFF,
                value: policy,
                equal: true,
            };
            rules.push((number::SCHED_SETSCHEDULER, vec![is], EPERM));
        }
    }
    if exec.restrict_suid_sgid {
        for (call, index) in [
            (number::CHMOD, 1),
            (number::FCHMOD, 1),
            (number::FCHMODAT, 2),
            (number::MKNOD, 1),
            (number::MKDIR, 1),
            (number::MKDIRAT, 2),
        ] {
            rules.push((call, vec![bits(index, 0o6000)], EPERM));
        }
    }
    if exec.protect_clock {
        for call in [number::CLOCK_SETTIME, number::SETTIMEOFDAY] {
            rules.push((call, Vec::new(), EPERM));
        }
    }
    if exec.protect_hostname {
        for call in [number::SETHOSTNAME, number::SETDOMAINNAME] {
            rules.push((call, Vec::new(), EPERM));
        }
    }
    if let Some(allowed) = exec.restrict_namespaces {
        const ALL: u32 = 0x7E02_0000 | 0x0000_0080;
        let denied = ALL & !(allowed as u32);
        rules.push((number::UNSHARE, vec![bits(0, denied)], EPERM));
        rules.push((number::CLONE, vec![bits(0, denied)], EPERM));
        rules.push((number::SETNS, vec![bits(1, denied)], EPERM));
        // Its flags are behind a pointer; programs fall back to clone.
        rules.push((number::CLONE3, Vec::new(), 38));
    }
    if let Some(families) = &exec.restrict_address_families {
        let numbers: Vec<u32> = families.names.iter().filter_map(|n| family(n)).collect();
        if families.allow {
            let differs = |value| Argument {
                index: 0,
                mask: u32::MAX,
                value,
                equal: false,
            };
            rules.push((
                number::SOCKET,
                numbers.into_iter().map(differs).collect(),
                97,
            ));
        } else {
            for value in numbers {
                rules.push((
                    number::SOCKET,
                    vec![Argument {
                        index: 0,
                        mask: u32::MAX,
                        value,
                        equal: true,
                    }],
                    97,
                ));
            }
        }
    }
    if rules.is_empty() {
        Vec::new()
    } else {
        assemble(&rules)
    }
}

fn family(name: &str) -> Option<u32> {
    Some(match name {
        "AF_UNIX" | "AF_LOCAL" => 1,
        "AF_INET" => 2,
        "AF_INET6" => 10,
        "AF_NETLINK" => 16,
        "AF_PACKET" => 17,
        "AF_ALG" => 38,
        "AF_VSOCK" => 40,
        "AF_XDP" => 44,
        _ => return None,
    })
}

/// Rules to BPF: a foreign architecture is refused whole, because its numbers mean other calls.
fn assemble(rules: &[(u32, Vec<Argument>, u32)]) -> Vec<Instruction> {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_EQ: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const X32_BIT: u32 = 0x4000_0000;
    let op = |code, k| Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |jt, jf, k| Instruction {
        code: JUMP_EQ,
        jt,
        jf,
        k,
    };
    let mut program = vec![
        op(LOAD, 4),
        jump(1, 0, number::ARCHITECTURE),
        op(RETURN, ERRNO | 1),
    ];
    program.extend([
        op(LOAD, 0),
        Instruction {
            code: 0x35,
            jt: 0,
            jf: 1,
            k: X32_BIT,
        },
        op(RETURN, ERRNO | 1),
    ]);
    for (call, arguments, errno) in rules.iter().filter(|(call, _, _)| *call != number::ABSENT) {
        // Each test that does not hold jumps behind this rule's return.
        let mut body = Vec::new();
        for (i, argument) in arguments.iter().enumerate() {
            let left = u8::try_from((arguments.len() - i - 1) * 3 + 1).unwrap_or(u8::MAX);
            body.push(op(LOAD, 16 + 8 * argument.index));
            body.push(op(AND, argument.mask));
            body.push(if argument.equal {
                jump(0, left, argument.value)
            } else {
                jump(left, 0, argument.value)
            });
        }
        body.push(op(RETURN, ERRNO | errno));
        let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
        program.extend([op(LOAD, 0), jump(0, skip, *call)]);
        program.extend(body);
    }
    program.push(op(RETURN, ALLOW));
    program
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const ARCHITECTURE: u32 = 0xC000_003E;
    pub(super) const ABSENT: u32 = u32::MAX;
    pub(super) const MMAP: u32 = 9;
    pub(super) const MPROTECT: u32 = 10;
    pub(super) const SOCKET: u32 = 41;
    pub(super) const CLONE: u32 = 56;
    pub(super) const MKDIR: u32 = 83;
    pub(super) const CHMOD: u32 = 90;
    pub(super) const FCHMOD: u32 = 91;
    pub(super) const MKNOD: u32 = 133;
    pub(super) const PERSONALITY: u32 = 135;
    pub(super) const SCHED_SETSCHEDULER: u32 = 144;
    pub(super) const SETTIMEOFDAY: u32 = 164;
    pub(super) const SETHOSTNAME: u32 = 170;
    pub(super) const SETDOMAINNAME: u32 = 171;
    pub(super) const CLOCK_SETTIME: u32 = 227;
    pub(super) const MKDIRAT: u32 = 258;
    pub(super) const FCHMODAT: u32 = 268;
    pub(super) const UNSHARE: u32 = 272;
    pub(super) const SETNS: u32 = 308;
    pub(super) const PKEY_MPROTECT: u32 = 329;
    pub(super) const CLONE3: u32 = 435;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const ARCHITECTURE: u32 = 0xC000_00B7;
    pub(super) const ABSENT: u32 = u32::MAX;
    pub(super) const MMAP: u32 = 222;
    pub(super) const MPROTECT: u32 = 226;
    pub(super) const SOCKET: u32 = 198;
    pub(super) const CLONE: u32 = 220;
    pub(super) const MKDIR: u32 = ABSENT;
    pub(super) const CHMOD: u32 = ABSENT;
    pub(super) const FCHMOD: u32 = 52;
    pub(super) const MKNOD: u32 = ABSENT;
    pub(super) const PERSONALITY: u32 = 92;
    pub(super) const SCHED_SETSCHEDULER: u32 = 119;
    pub(super) const SETTIMEOFDAY: u32 = 170;
    pub(super) const SETHOSTNAME: u32 = 161;
    pub(super) const SETDOMAINNAME: u32 = 162;
    pub(super) const CLOCK_SETTIME: u32 = 112;
    pub(super) const MKDIRAT: u32 = 34;
    pub(super) const FCHMODAT: u32 = 53;
    pub(super) const UNSHARE: u32 = 97;
    pub(super) const SETNS: u32 = 268;
    pub(super) const PKEY_MPROTECT: u32 = 288;
    pub(super) const CLONE3: u32 = 435;
}

#[cfg(test)]
mod tests {
    use unit_file::settings::NameFilter;

    use super::*;

    /// Runs the filter on one call, as the kernel would.
    fn verdict(program: &[Instruction], call: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut acc) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                0x20 => {
                    acc = match i.k {
                        0 => call,
                        4 => number::ARCHITECTURE,
                        k => arguments[(k as usize - 16) / 8],
                    }
                }
                0x54 => acc &= i.k,
                0x15 => at += usize::from(if acc == i.k { i.jt } else { i.jf }),
                0x35 => at += usize::from(if acc >= i.k { i.jt } else { i.jf }),
                0x06 => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;

    #[test]
    fn only_listed_address_families_pass() {
        let names = vec!["AF_UNIX".to_owned(), "AF_INET".to_owned()];
        let exec = ExecSettings {
            restrict_address_families: Some(NameFilter { allow: true, names }),
            ..ExecSettings::default()
        };
        let program = filter(&exec);
        assert_eq!(verdict(&program, number::SOCKET, [1, 0, 0]), ALLOW);
        assert_eq!(verdict(&program, number::SOCKET, [2, 0, 0]), ALLOW);
        assert_eq!(
            verdict(&program, number::SOCKET, [17, 0, 0]),
            0x0005_0000 | 97
        );
        assert_eq!(verdict(&program, number::MMAP, [17, 0, 0]), ALLOW);
    }

    #[test]
    fn writable_code_and_set_user_id_bits_are_refused() {
        let exec = ExecSettings {
            memory_deny_write_execute: true,
            restrict_suid_sgid: true,
            ..ExecSettings::default()
        };
        let program = filter(&exec);
        assert_eq!(verdict(&program, number::MMAP, [0, 0, 7]), 0x0005_0001);
        assert_eq!(verdict(&program, number::MMAP, [0, 0, 3]), ALLOW);
        assert_eq!(
            verdict(&program, number::FCHMODAT, [0, 0, 0o4755]),
            0x0005_0001
        );
        assert_eq!(verdict(&program, number::FCHMODAT, [0, 0, 0o755]), ALLOW);
    }

    #[test]
    fn namespaces_are_refused_but_for_the_allowed_kinds() {
        let exec = ExecSettings {
            restrict_namespaces: Some(0x4000_0000),
            ..ExecSettings::default()
        };
        let program = filter(&exec);
        assert_eq!(
            verdict(&program, number::UNSHARE, [0x4000_0000, 0, 0]),
            ALLOW
        );
        assert_eq!(
            verdict(&program, number::UNSHARE, [0x1000_0000, 0, 0]),
            0x0005_0001
        );
        assert_eq!(verdict(&program, number::CLONE3, [0; 3]), 0x0005_0000 | 38);
    }

    #[test]
    fn protection_takes_capabilities_from_the_bounding_set() {
        let exec = ExecSettings {
            protect_clock: true,
            ..ExecSettings::default()
        };
        assert_eq!(bounding_set(&exec), Some(!(1 << 25 | 1 << 35)));
        assert_eq!(bounding_set(&ExecSettings::default()), None);
    }
}
