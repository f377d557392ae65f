//! Exit codes that the executor leaves when a step before the program fails.

/// Name of the step behind an executor's exit code (200–245), as `systemctl status` prints it.
pub fn exit_step(code: i32) -> Option<&'static str> {
    Some(match code {
        200 => "CHDIR",
        201 => "NICE",
        202 => "FDS",
        203 => "EXEC",
        204 => "MEMORY",
        205 => "LIMITS",
        206 => "OOM_ADJUST",
        207 => "SIGNAL_MASK",
        208 => "STDIN",
        209 => "STDOUT",
        210 => "CHROOT",
        211 => "IOPRIO",
        212 => "TIMERSLACK",
        213 => "SECUREBITS",
        214 => "SETSCHEDULER",
        215 => "CPUAFFINITY",
        216 => "GROUP",
        217 => "USER",
        218 => "CAPABILITIES",
        219 => "CGROUP",
        220 => "SETSID",
        221 => "CONFIRM",
        222 => "STDERR",
        224 => "PAM",
        225 => "NETWORK",
        226 => "NAMESPACE",
        227 => "NO_NEW_PRIVILEGES",
        228 => "SECCOMP",
        229 => "SELINUX_CONTEXT",
        230 => "PERSONALITY",
        231 => "APPARMOR_PROFILE",
        232 => "ADDRESS_FAMILIES",
        233 => "RUNTIME_DIRECTORY",
        235 => "CHOWN",
        236 => "SMACK_PROCESS_LABEL",
        237 => "KEYRING",
        238 => "STATE_DIRECTORY",
        239 => "CACHE_DIRECTORY",
        240 => "LOGS_DIRECTORY",
        241 => "CONFIGURATION_DIRECTORY",
        242 => "NUMA_POLICY",
        243 => "CREDENTIALS",
        245 => "BPF",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::exit_step;

    #[test]
    fn the_codes_are_those_of_the_contract() {
        let named: Vec<i32> = (0..=255).filter(|c| exit_step(*c).is_some()).collect();
        let gaps = [223, 234, 244];
        let wanted: Vec<i32> = (200..=245).filter(|c| !gaps.contains(c)).collect();
        assert_eq!(named, wanted);
        assert_eq!(exit_step(203), Some("EXEC"));
        assert_eq!(exit_step(226), Some("NAMESPACE"));
    }
}
