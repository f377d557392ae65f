//! Consoles: the standard streams of PID 1, and messages to every console.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Points the standard streams at `/dev/null`: nobody reads from PID 1's terminal, and a console that hangs
/// must not stop it.
pub(crate) fn standard_streams() {
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else {
        return;
    };
    for number in 0..3 {
        if let Ok(copy) = null.try_clone() {
            let _ = syscalls::spawn::place_fd(copy.into(), number);
        }
    }
}

/// Names of the active consoles, e.g. `tty0`, `ttyS0`, the preferred one last.
pub(crate) fn active() -> Vec<String> {
    let text = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Writes a text to every console, without waiting for one that does not take it.
pub(crate) fn broadcast(text: &str) -> std::io::Result<()> {
    for name in active() {
        write_to(&format!("/dev/{name}"), text)?;
    }
    Ok(())
}

/// Writes a text to one terminal, without waiting.
pub(crate) fn write_to(path: &str, text: &str) -> std::io::Result<()> {
    let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits();
    let mut console = OpenOptions::new()
        .write(true)
        .custom_flags(flags as i32)
        .open(path)?;
    console.write_all(text.as_bytes())
}
