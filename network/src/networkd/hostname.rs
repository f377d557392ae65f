//! The host name from DHCP, which counts only where nothing else names the machine.

use std::fs;
use std::path::Path;

/// The name the kernel has.
pub(super) fn current() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Whether the command line or `/etc/hostname` names the machine.
pub(super) fn is_configured(root: &Path, command_line: &str) -> bool {
    let by_kernel = crate::config::values::words(command_line).iter().any(|w| {
        w.strip_prefix("systemd.hostname=")
            .is_some_and(|name| !name.is_empty())
    });
    by_kernel
        || fs::read_to_string(root.join("etc/hostname")).is_ok_and(|text| {
            text.lines()
                .any(|l| !l.trim().is_empty() && !l.trim().starts_with('#'))
        })
}

/// The name to tell DHCP servers: none where it says nothing.
pub(super) fn to_send(name: &str) -> Option<String> {
    let usable = crate::config::values::is_host_name(name)
        && !matches!(name, "localhost" | "(none)" | "linux");
    usable.then(|| name.to_owned())
}

/// Takes the name, without its domain.
pub(super) fn set(name: &str) -> std::io::Result<()> {
    let short = name.split('.').next().unwrap_or(name);
    if short.len() > 64 || short == current() {
        return Ok(());
    }
    rustix::system::sethostname(short.as_bytes())?;
    tracing::info!(hostname = short, "took the host name that DHCP gives");
    Ok(())
}
