//! .network files with a drop-in, and the state files beside them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::config::parse::parse_network;
use network::dhcp::Lease;
use network::status::LinkStatus;

fuzz_target!(|text: &str| {
    let (file, drop_in) = text.split_once('\x0c').unwrap_or((text, ""));
    let sources = [
        ("/etc/systemd/network/a.network".to_owned(), file.to_owned()),
        (
            "/etc/systemd/network/a.network.d/1.conf".to_owned(),
            drop_in.to_owned(),
        ),
    ];
    let _ = parse_network("a.network", &sources);
    let _ = Lease::parse(text);
    let _ = LinkStatus::parse(1, text);
});
