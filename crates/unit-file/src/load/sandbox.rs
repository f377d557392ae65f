//! Keys of sandboxing: capabilities, namespaces, file system views, system call filters, credentials.

use super::line::{Line, Taken, list, path_list, set};
use crate::capability;
use crate::settings::{
    BindPath, Credential, ExecSettings, NameFilter, ProtectHome, ProtectProc, ProtectSystem,
};
use crate::value::parse_bool;

pub(super) fn apply(e: &mut ExecSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "NoNewPrivileges" => set(&mut e.no_new_privileges, l.boolean()),
        "CapabilityBoundingSet" => {
            let before = e.capability_bounding_set.unwrap_or(capability::ALL);
            let first = e.capability_bounding_set.is_none();
            let after = capabilities(l, if first { None } else { Some(before) }, capability::ALL)?;
            set(&mut e.capability_bounding_set, Ok(Some(after)))
        }
        "AmbientCapabilities" => {
            let before = (e.ambient_capabilities != 0).then_some(e.ambient_capabilities);
            set(
                &mut e.ambient_capabilities,
                capabilities(l, before, capability::ALL),
            )
        }
        "SecureBits" => {
            let mut bits = 0;
            for word in l.words()? {
                bits |= match word.as_str() {
                    "noroot" => 1,
                    "noroot-locked" => 2,
                    "no-setuid-fixup" => 4,
                    "no-setuid-fixup-locked" => 8,
                    "keep-caps" => 16,
                    "keep-caps-locked" => 32,
                    other => return Err(format!("{other:?} is not a secure bit")),
                };
            }
            set(&mut e.secure_bits, Ok(bits))
        }
        "PrivateTmp" => set(
            &mut e.private_tmp,
            l.boolean().or(Ok(l.value == "disconnected")),
        ),
        "PrivateDevices" => set(&mut e.private_devices, l.boolean()),
        "PrivateNetwork" => set(&mut e.private_network, l.boolean()),
        "PrivateUsers" => set(&mut e.private_users, l.boolean()),
        "PrivateMounts" => set(&mut e.private_mounts, l.boolean()),
        "PrivateIPC" => set(&mut e.private_ipc, l.boolean()),
        "MountFlags" => set(&mut e.mount_flags, l.text()),
        "ProtectSystem" => set(
            &mut e.protect_system,
            match l.value {
                "full" => Ok(ProtectSystem::Full),
                "strict" => Ok(ProtectSystem::Strict),
                _ => l.boolean().map(|b| {
                    if b {
                        ProtectSystem::Yes
                    } else {
                        ProtectSystem::No
                    }
                }),
            },
        ),
        "ProtectHome" => set(
            &mut e.protect_home,
            match l.value {
                "read-only" => Ok(ProtectHome::ReadOnly),
                "tmpfs" => Ok(ProtectHome::Tmpfs),
                _ => l
                    .boolean()
                    .map(|b| if b { ProtectHome::Yes } else { ProtectHome::No }),
            },
        ),
        "ProtectKernelTunables" => set(&mut e.protect_kernel_tunables, l.boolean()),
        "ProtectKernelModules" => set(&mut e.protect_kernel_modules, l.boolean()),
        "ProtectKernelLogs" => set(&mut e.protect_kernel_logs, l.boolean()),
        "ProtectControlGroups" => set(&mut e.protect_control_groups, l.boolean()),
        "ProtectClock" => set(&mut e.protect_clock, l.boolean()),
        "ProtectHostname" => set(&mut e.protect_hostname, l.boolean()),
        "ProtectProc" => set(
            &mut e.protect_proc,
            l.word(&[
                ("default", ProtectProc::Default),
                ("noaccess", ProtectProc::NoAccess),
                ("invisible", ProtectProc::Invisible),
                ("ptraceable", ProtectProc::Ptraceable),
            ]),
        ),
        "ProcSubset" => set(
            &mut e.proc_subset_pid,
            l.word(&[("all", false), ("pid", true)]),
        ),
        "ReadOnlyPaths" | "ReadOnlyDirectories" => path_list(&mut e.read_only_paths, l),
        "ReadWritePaths" | "ReadWriteDirectories" => path_list(&mut e.read_write_paths, l),
        "InaccessiblePaths" | "InaccessibleDirectories" => path_list(&mut e.inaccessible_paths, l),
        "ExecPaths" => path_list(&mut e.exec_paths, l),
        "NoExecPaths" => path_list(&mut e.no_exec_paths, l),
        "BindPaths" => bind_paths(e, l, false),
        "BindReadOnlyPaths" => bind_paths(e, l, true),
        "TemporaryFileSystem" => {
            if l.is_empty() {
                e.temporary_file_systems.clear();
            }
            for word in l.words()? {
                let (path, options) = word.split_once(':').unwrap_or((&word, ""));
                e.temporary_file_systems
                    .push((path.to_owned(), options.to_owned()));
            }
            Ok(true)
        }
        "RestrictNamespaces" => set(&mut e.restrict_namespaces, namespaces(l)),
        "RestrictAddressFamilies" => filter(&mut e.restrict_address_families, l),
        "RestrictRealtime" => set(&mut e.restrict_realtime, l.boolean()),
        "RestrictSUIDSGID" => set(&mut e.restrict_suid_sgid, l.boolean()),
        "LockPersonality" => set(&mut e.lock_personality, l.boolean()),
        "MemoryDenyWriteExecute" => set(&mut e.memory_deny_write_execute, l.boolean()),
        "SystemCallFilter" => filter(&mut e.system_call_filter, l),
        "SystemCallErrorNumber" => {
            let number = match l.value {
                "" | "kill" => Ok(None),
                text => errno(text)
                    .map(Some)
                    .ok_or_else(|| format!("{text:?} is not an errno")),
            };
            set(&mut e.system_call_error_number, number)
        }
        "SystemCallArchitectures" => list(&mut e.system_call_architectures, l),
        "NetworkNamespacePath" => set(&mut e.network_namespace_path, l.path()),
        "LoadCredential" => credential(e, l, true),
        "SetCredential" => credential(e, l, false),
        _ => Ok(false),
    }
}

fn capabilities(l: Line<'_>, before: Option<u64>, all: u64) -> Result<u64, String> {
    if l.is_empty() {
        return Ok(0);
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let mut bits = 0;
    for word in text.split_whitespace() {
        bits |=
            1 << capability::number(word).ok_or_else(|| format!("{word:?} is not a capability"))?;
    }
    Ok(match (invert, before) {
        (false, None) => bits,
        (false, Some(b)) => b | bits,
        (true, None) => all & !bits,
        (true, Some(b)) => b & !bits,
    })
}

/// CLONE_NEW* bits by name.
fn namespaces(l: Line<'_>) -> Result<Option<u64>, String> {
    const NAMES: [(&str, u64); 7] = [
        ("cgroup", 0x0200_0000),
        ("uts", 0x0400_0000),
        ("ipc", 0x0800_0000),
        ("user", 0x1000_0000),
        ("pid", 0x2000_0000),
        ("net", 0x4000_0000),
        ("mnt", 0x0002_0000),
    ];
    let all = NAMES.iter().fold(0, |a, (_, b)| a | b);
    if let Some(b) = parse_bool(l.value) {
        return Ok(if b { Some(0) } else { None });
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let mut bits = 0;
    for word in text.split_whitespace() {
        bits |= NAMES
            .iter()
            .find(|(n, _)| *n == word)
            .ok_or_else(|| format!("{word:?} is not a namespace type"))?
            .1;
    }
    Ok(Some(if invert { all & !bits } else { bits }))
}

/// Allow and deny lists: the first line decides which kind it is; later lines add or take away.
fn filter(slot: &mut Option<NameFilter>, l: Line<'_>) -> Taken {
    if l.is_empty() {
        *slot = None;
        return Ok(true);
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let filter = slot.get_or_insert_with(|| NameFilter {
        allow: !invert,
        names: Vec::new(),
    });
    if text == "none" && filter.names.is_empty() {
        filter.allow = true;
        return Ok(true);
    }
    for word in text.split_whitespace() {
        if filter.allow != invert {
            filter.names.push(word.to_owned());
        } else {
            // Taking a group out of a list by name needs the tables of the executor: kept as a mark.
            let known = filter.names.len();
            filter.names.retain(|n| n != word);
            if filter.names.len() == known {
                filter.names.push(format!("~{word}"));
            }
        }
    }
    Ok(true)
}

fn bind_paths(e: &mut ExecSettings, l: Line<'_>, read_only: bool) -> Taken {
    if l.is_empty() {
        e.bind_paths.retain(|b| b.read_only != read_only);
        return Ok(true);
    }
    for word in l.words()? {
        let (rest, optional) = match word.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        let mut parts = rest.split(':');
        let source = parts.next().unwrap_or("").to_owned();
        let destination = parts.next().unwrap_or(&source).to_owned();
        let recursive = parts.next() != Some("norbind");
        if !source.starts_with('/') || !destination.starts_with('/') {
            return Err(format!("{word:?}: both paths must be absolute"));
        }
        e.bind_paths.push(BindPath {
            source,
            destination,
            optional,
            recursive,
            read_only,
        });
    }
    Ok(true)
}

fn credential(e: &mut ExecSettings, l: Line<'_>, load: bool) -> Taken {
    if l.is_empty() {
        e.credentials.retain(|c| c.path.is_some() != load);
        return Ok(true);
    }
    let (id, rest) = l.value.split_once(':').unwrap_or((l.value, ""));
    if !load && !l.value.contains(':') {
        return Err(format!("{:?} is not ID:VALUE", l.value));
    }
    let rest = l.expand(rest)?;
    let id = l.expand(id)?;
    if id.is_empty() || id.contains('/') {
        return Err(format!("{id:?} is not a credential name"));
    }
    let path = load.then(|| {
        if rest.is_empty() {
            id.clone()
        } else {
            rest.clone()
        }
    });
    let data = (!load).then_some(rest);
    e.credentials.retain(|c| c.id != id);
    e.credentials.push(Credential { id, path, data });
    Ok(true)
}

fn errno(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 17] = [
        ("EPERM", 1),
        ("ENOENT", 2),
        ("ESRCH", 3),
        ("EINTR", 4),
        ("EIO", 5),
        ("ENXIO", 6),
        ("EAGAIN", 11),
        ("ENOMEM", 12),
        ("EACCES", 13),
        ("EFAULT", 14),
        ("EBUSY", 16),
        ("EEXIST", 17),
        ("EINVAL", 22),
        ("ENOSYS", 38),
        ("EUCLEAN", 117),
        ("EOPNOTSUPP", 95),
        ("EAFNOSUPPORT", 97),
    ];
    NAMES
        .iter()
        .find(|(n, _)| *n == text)
        .map(|(_, v)| *v)
        .or_else(|| text.parse().ok().filter(|n| (1..=4095).contains(n)))
}
